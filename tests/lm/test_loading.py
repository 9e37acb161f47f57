"""Models from files: rotary fields, quantised weights and GGUF, against torch."""

import json
from pathlib import Path
from typing import Any

import gguf
import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
import torch
from mlx_lm.utils import save_config, save_model
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from mlx_entk import InputError
from mlx_entk.lm import load_model
from mlx_entk.lm.model import SELECTION, layer_function
from tests.lm.architectures import SIZES, VOCABULARY

pytestmark = pytest.mark.filterwarnings("ignore")  # of transformers, about itself

TOKENS = np.random.default_rng(0).integers(0, VOCABULARY, (2, 20))
HEADS: Any = {**SIZES, "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4,
              "num_key_value_heads": 2, "head_dim": 8}  # fmt: skip


def saved(model: Any, folder: Path) -> Path:
    """A folder with the model and a tokenizer."""
    model.save_pretrained(folder)
    words = Tokenizer(WordLevel({f"w{i}": i for i in range(VOCABULARY)}, unk_token="w0"))
    PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained(folder)
    return folder


def logits_of(model: Any) -> np.ndarray:
    with torch.no_grad():
        logits: np.ndarray = model.eval()(torch.from_numpy(TOKENS)).logits.numpy()
    return logits


def llama(**rope: Any) -> Any:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**HEADS, initializer_range=0.3, rope_parameters=rope))


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_type": "default", "rope_theta": 50.0},
        {"rope_type": "linear", "rope_theta": 50.0, "factor": 4.0},
        {"rope_type": "llama3", "rope_theta": 50.0, "factor": 8.0, "low_freq_factor": 1.0,
         "high_freq_factor": 4.0, "original_max_position_embeddings": 16},
    ],
    ids=["default", "linear", "llama3"],
)  # fmt: skip
def test_rotary_fields_of_transformers_5_count(rope: dict[str, Any], tmp_path: Path) -> None:
    reference = llama(**rope)
    folder = saved(reference, tmp_path)
    assert "rope_theta" not in json.loads((folder / "config.json").read_text())
    found = np.array(load_model(str(folder)).module(mx.array(TOKENS)))
    assert np.allclose(found, logits_of(reference), atol=1e-3)


def test_rotary_fields_that_disagree_are_refused(tmp_path: Path) -> None:
    folder = saved(llama(rope_type="default", rope_theta=50.0), tmp_path)
    path = folder / "config.json"
    written = json.loads(path.read_text())
    path.write_text(json.dumps({**written, "rope_theta": 10000.0}))
    with pytest.raises(InputError, match=r"two bases of rotary positions, 10000\.0 and 50\.0"):
        load_model(str(folder))


def test_quantised_weights_are_dequantised_on_request(tmp_path: Path) -> None:
    folder = saved(llama(rope_type="default", rope_theta=50.0), tmp_path / "full")
    module = load_model(str(folder)).module
    nn.quantize(module, group_size=32, bits=4)
    quantised = saved(llama(rope_type="default", rope_theta=50.0), tmp_path / "quantised")
    save_model(quantised, module)
    written = json.loads((quantised / "config.json").read_text())
    save_config(
        {**written, "quantization": {"group_size": 32, "bits": 4}}, quantised / "config.json"
    )

    with pytest.raises(InputError, match="dequantise=True"):
        load_model(str(quantised))
    model = load_model(str(quantised), dequantise=True)
    assert model.notes == ("quantised weights were dequantised to float32",)
    tokens = mx.array(TOKENS)
    expected = np.array(module(tokens))
    assert np.allclose(np.array(model.module(tokens)), expected, rtol=1e-3, atol=1e-3)
    function = layer_function(model, 1, SELECTION, None)
    assert function.params["layers.1.mlp.down_proj.weight"].shape == (32, 64)
    assert load_model(str(folder), dequantise=True).notes == ()


def permuted(values: np.ndarray, heads: int) -> np.ndarray:
    """The order in which llama.cpp stores the rows of q and k: its rotary pairs are neighbours."""
    halves = values.reshape(heads, 2, -1, values.shape[-1])
    return np.stack([halves[:, 0], halves[:, 1]], axis=2).reshape(values.shape)


NAMES = {
    "input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate",
    "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}  # fmt: skip


def written(name: str, model: Any, path: Path, leave_out: str = "", **metadata: float) -> Path:
    """A GGUF file of a model of transformers, Q8_0 for its matrices of the MLP."""
    config = model.config
    writer = gguf.GGUFWriter(path, name)
    numbers = {
        "context_length": 64, "embedding_length": 32, "block_count": config.num_hidden_layers,
        "feed_forward_length": 64, "attention.head_count": 4, "attention.head_count_kv": 2,
        "attention.key_length": 8, "attention.value_length": 8, "attention.sliding_window": 4,
        **metadata,
    }  # fmt: skip
    for key, value in numbers.items():
        writer.add_uint32(f"{name}.{key}", int(value))
    writer.add_float32(f"{name}.attention.layer_norm_rms_epsilon", config.rms_norm_eps)
    base = config.rope_parameters
    writer.add_float32(f"{name}.rope.freq_base", base.get("full_attention", base)["rope_theta"])
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([chr(ord("a") + i) if i < 26 else f"a{chr(71 + i)}" for i in range(31)])
    writer.add_token_merges([f"a {chr(71 + i)}" for i in range(26, 31)])
    for key, tensor in model.state_dict().items():
        values = tensor.numpy()
        part = key.removesuffix(".weight").removesuffix(".bias")
        outer = {"model.embed_tokens": "token_embd", "model.norm": "output_norm",
                 "lm_head": "output"}  # fmt: skip
        if part in outer:
            stored = outer[part]
            if part == "lm_head" and config.tie_word_embeddings:
                continue
        else:
            _, _, number, inner = part.split(".", 3)
            stored = f"blk.{number}." + {
                **NAMES,
                "post_attention_layernorm": (
                    "post_attention_norm" if name == "gemma3" else "ffn_norm"
                ),
                "pre_feedforward_layernorm": "ffn_norm",
                "post_feedforward_layernorm": "post_ffw_norm",
            }[inner]  # fmt: skip
        stored += ".bias" if key.endswith(".bias") else ".weight"
        if name == "llama" and ("q_proj" in key or "k_proj" in key):
            values = permuted(values, 4 if "q_proj" in key else 2)
        if name == "gemma3" and "norm" in key:
            values = values + 1
        if stored == leave_out:
            continue
        if ".ffn_" in stored and values.ndim == 2:
            kind = gguf.GGMLQuantizationType.Q8_0
            values = gguf.quants.quantize(values, kind)
            tensor.copy_(torch.from_numpy(gguf.quants.dequantize(values, kind).copy()))
            writer.add_tensor(stored, values, raw_dtype=kind)
        else:
            writer.add_tensor(stored, np.ascontiguousarray(values, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def gguf_models() -> dict[str, Any]:
    torch.manual_seed(0)
    wide: Any = {**HEADS, "initializer_range": 0.2}
    return {
        "llama": LlamaForCausalLM(LlamaConfig(**wide)),
        "qwen2": Qwen2ForCausalLM(Qwen2Config(**wide)),
        "qwen3": Qwen3ForCausalLM(Qwen3Config(**wide, tie_word_embeddings=True)),
        "gemma3": Gemma3ForCausalLM(
            Gemma3TextConfig(
                **{**wide, "num_hidden_layers": 6}, sliding_window=4, query_pre_attn_scalar=8
            )
        ),
    }


@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3", "gemma3"])
def test_a_gguf_file_gives_the_logits_of_torch(name: str, tmp_path: Path) -> None:
    reference = gguf_models()[name]
    with torch.no_grad():
        for key, value in reference.named_parameters():
            if "norm" in key or "bias" in key:
                value.add_(0.3 * torch.randn_like(value))
        path = written(name, reference, tmp_path / "model.gguf")
    model = load_model(str(path))
    found, expected = np.array(model.module(mx.array(TOKENS))), logits_of(reference)
    # mlx-lm rounds the scale of Gemma's embedding to bfloat16.
    tolerance = 2e-2 if name == "gemma3" else 1e-4
    assert np.abs(found - expected).max() < tolerance * np.abs(expected).max()
    assert model.tokenizer.decode(model.tokenizer.encode("abba")) == "abba"
    assert model.notes == ("weights of a GGUF file were dequantised to float32",)


@torch.no_grad()
def test_damaged_gguf_files_are_refused_in_one_line(tmp_path: Path) -> None:
    model, path = gguf_models()["llama"], tmp_path / "model.gguf"

    def refused(message: str) -> None:
        with pytest.raises(InputError, match=message) as caught:
            load_model(str(path))
        assert "\n" not in str(caught.value)

    written("llama", model, path, leave_out="blk.1.ffn_up.weight")
    refused(r"lacks a tensor for model\.layers\.1\.mlp\.up_proj\.weight")
    written("llama", model, path, block_count=2)
    refused(r"has a tensor model\.layers\.2\.\S+, which its architecture does not use")
    written("llama", model, path, block_count=2**31 - 1)
    refused("says that it has 2147483647 blocks")
    written("llama", model, path, feed_forward_length=96)
    refused(r"has the shape \(32, 64\) instead of \(32, 96\)")
    written("llama", model, path, embedding_length=0)
    refused(r"has no usable llama\.embedding_length")
    path.write_bytes(written("llama", model, path).read_bytes()[:3000])
    refused("is not a readable GGUF file")
    path.write_bytes(b"GGUF" + b"\xff" * 100)
    refused("is not a readable GGUF file")
    gguf.GGUFWriter(path, "bert").close()
    refused("GGUF")
