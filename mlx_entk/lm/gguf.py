"""Language models from GGUF files: weights dequantised, llama.cpp's conventions undone.

A file is data from outside: nothing in it is executed, and no path in it is followed. Its sizes are
compared with each other and with the memory there is before a weight is read.
"""

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_entk._memory import available_bytes, format_bytes
from mlx_entk._parameters import flatten_tree
from mlx_entk.errors import InputError

# What llama.cpp calls the weights of a block, and what the models of mlx-lm call them.
_BLOCK = {
    "attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm", "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}  # fmt: skip
# Gemma 3 normalises the outputs of a block's parts as well.
_GEMMA_BLOCK = {
    **_BLOCK, "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm", "post_ffw_norm": "post_feedforward_layernorm",
}  # fmt: skip
_OUTER = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}


@dataclass(frozen=True)
class _Architecture:
    """How llama.cpp writes a family of models."""

    model_type: str  # the module of mlx-lm
    block: Mapping[str, str]
    permuted: bool = False  # rows of q and k are in the order of llama.cpp's rotary embedding
    norms_plus_one: bool = False  # norms hold 1 + weight


_ARCHITECTURES = {
    "gemma3": _Architecture("gemma3_text", _GEMMA_BLOCK, norms_plus_one=True),
    "llama": _Architecture("llama", _BLOCK, permuted=True),
    "qwen2": _Architecture("qwen2", _BLOCK),
    "qwen3": _Architecture("qwen3", _BLOCK),
}


def read_gguf(path: Path) -> tuple[nn.Module, Any]:
    """Read a language model and its tokenizer from a GGUF file.

    Parameters
    ----------
    path
        The file. Its architecture is gemma3 (text), llama (also Mistral and SmolLM2), qwen2 or
        qwen3; its weights are in any format that the package ``gguf`` dequantises.

    Returns
    -------
    module
        The module of mlx-lm, float32.
    tokenizer
        A fast tokenizer of transformers, made of the vocabulary in the file.

    Raises
    ------
    InputError
        If a package is missing, the file is damaged, its architecture is another, tensors are
        missing or have other shapes than the configuration says, or the dequantised weights do not
        fit in memory.
    """
    try:
        import gguf
        from mlx_lm.utils import _get_classes
    except ImportError as error:
        raise InputError(
            f"a GGUF file needs the extra lm (without {error.name}): pip install 'mlx-entk[lm]'"
        ) from error
    try:
        reader = gguf.GGUFReader(path)
        fields = {
            name: field.contents()
            for name, field in reader.fields.items()
            if not name.startswith("tokenizer.")
        }
    except Exception as error:  # a damaged file fails in many ways inside the reader
        raise InputError(f"{path} is not a readable GGUF file: {error}") from error

    name = str(fields.get("general.architecture"))
    if name not in _ARCHITECTURES:
        raise InputError(
            f"{path} holds the architecture {name}; {', '.join(_ARCHITECTURES)} are supported"
        )
    architecture = _ARCHITECTURES[name]
    tensors = {_name(tensor.name, architecture): tensor for tensor in reader.tensors}
    needed = 4 * sum(int(tensor.n_elements) for tensor in reader.tensors)
    if needed > available_bytes():
        raise InputError(
            f"the weights of {path} need {format_bytes(needed)} in single precision, and "
            f"{format_bytes(available_bytes())} are available"
        )
    configuration = _configuration(path, name, fields, tensors)
    try:
        model_class, arguments = _get_classes(configuration)
        module: nn.Module = model_class(arguments.from_dict(configuration))
        module.sanitize({})  # an unembedding that is tied has no weight of its own
    except (ArithmeticError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"mlx-lm builds no model from the metadata of {path}: {error}") from error
    expected = {key: value.shape for key, value in flatten_tree(module.parameters()).items()}
    _compare(path, expected, {key: tuple(t.shape[::-1]) for key, t in tensors.items()})
    heads = {"q_proj": "num_attention_heads", "k_proj": "num_key_value_heads"}
    weights = []
    for key, tensor in tensors.items():
        try:
            values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        except NotImplementedError as error:
            raise InputError(
                f"{tensor.name} of {path} is stored as {tensor.tensor_type.name}, which the "
                "package gguf does not dequantise"
            ) from error
        values = np.asarray(values, dtype=np.float32)
        layer = key.split(".")[-2]
        if architecture.permuted and layer in heads:
            values = _unpermuted(values, configuration[heads[layer]])
        if architecture.norms_plus_one and layer.endswith("norm"):
            values = values - 1
        weights.append((key, mx.array(values)))
    module.load_weights(weights)
    return module, _tokenizer(path)


def _name(name: str, architecture: _Architecture) -> str:
    """The name of a tensor in mlx-lm; one that has none there keeps its own."""
    match name.split("."):
        case ["blk", number, part, kind] if part in architecture.block:
            return f"model.layers.{number}.{architecture.block[part]}.{kind}"
        case [part, kind] if part in _OUTER:
            return f"{_OUTER[part]}.{kind}"
    return name


def _configuration(
    path: Path, name: str, fields: Mapping[str, Any], tensors: Mapping[str, Any]
) -> dict[str, Any]:
    """The configuration by which mlx-lm builds the model, from the metadata of a file."""

    def number(key: str, kind: Callable[[Any], Any], default: Any = None) -> Any:
        value = fields.get(f"{name}.{key}", default)
        try:
            read = kind(value)
        except (TypeError, ValueError):
            read = None
        if read is None or not 0 < read < 2**31:
            raise InputError(f"{path} has no usable {name}.{key}")
        return read

    scaling = fields.get(f"{name}.rope.scaling.type", "none")
    # Llama 3 stores the factors of its long contexts as a tensor.
    if scaling not in ("none", "linear") or "rope_freqs.weight" in tensors:
        raise InputError(f"{path} scales rotary positions by a rule that is not supported")
    embedding = tensors.get("model.embed_tokens.weight")
    if embedding is None:
        raise InputError(f"{path} has no tensor token_embd.weight")
    heads = number("attention.head_count", int)
    blocks = number("block_count", int)
    if blocks > len(tensors):
        raise InputError(f"{path} says that it has {blocks} blocks, more than it has tensors")
    width = number("embedding_length", int)
    head_dim = number("attention.key_length", int, width // heads)
    if number("attention.value_length", int, head_dim) != head_dim:
        raise InputError(f"{path} has values of another width than keys, which is not supported")
    if number("rope.dimension_count", int, head_dim) != head_dim:
        raise InputError(f"{path} rotates a part of each head, which is not supported")
    configuration = {
        "model_type": _ARCHITECTURES[name].model_type,
        "hidden_size": width,
        "num_hidden_layers": blocks,
        "intermediate_size": number("feed_forward_length", int),
        "num_attention_heads": heads,
        "num_key_value_heads": number("attention.head_count_kv", int, heads),
        "head_dim": head_dim,
        "rms_norm_eps": number("attention.layer_norm_rms_epsilon", float),
        "max_position_embeddings": number("context_length", int),
        "rope_theta": number("rope.freq_base", float, 10000.0),
        "vocab_size": int(embedding.shape[-1]),
        "tie_word_embeddings": "lm_head.weight" not in tensors,
        "attention_bias": "model.layers.0.self_attn.q_proj.bias" in tensors,
    }
    if scaling == "linear":
        factor = number("rope.scaling.factor", float)
        configuration["rope_scaling"] = {"rope_type": "linear", "factor": factor}
    if name == "gemma3":
        configuration |= {
            "sliding_window": number("attention.sliding_window", int),
            "sliding_window_pattern": 6,
            "rope_local_base_freq": 10000.0,
            # The file does not say it; it is another in the largest model only, of 62 blocks.
            "query_pre_attn_scalar": width // heads if blocks == 62 else head_dim,
        }
    return configuration


def _compare(
    path: Path, expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]]
) -> None:
    """Refuse tensors that are not exactly those of the model."""
    for key in sorted(expected.keys() | found.keys()):
        if key not in found:
            raise InputError(f"{path} lacks a tensor for {key}")
        if key not in expected:
            raise InputError(f"{path} has a tensor {key}, which its architecture does not use")
        if tuple(expected[key]) != tuple(int(size) for size in found[key]):
            raise InputError(
                f"{key} of {path} has the shape {tuple(map(int, found[key]))} instead of "
                f"{tuple(expected[key])}"
            )


def _unpermuted(values: np.ndarray, heads: int) -> np.ndarray:
    """Undo the order in which llama.cpp stores rows: pairs to rotate next to each other."""
    rows = values.reshape(heads, -1, 2, *values.shape[1:])
    return rows.swapaxes(1, 2).reshape(values.shape)


def _tokenizer(path: Path) -> Any:
    """A fast tokenizer from the vocabulary in the file; nothing beside the file is read."""
    from transformers import PreTrainedTokenizerFast

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "model.gguf").symlink_to(path.resolve())
        try:
            return PreTrainedTokenizerFast.from_pretrained(
                folder, gguf_file="model.gguf", local_files_only=True
            )
        except Exception as error:  # of several libraries, whose errors have no common base
            raise InputError(f"{path} holds no tokenizer that can be read: {error}") from error
