"""Small language models of three architectures in transformers, and the same in mlx-lm."""

from pathlib import Path
from typing import Any

import torch
from mlx_lm.utils import load_model
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
)

from mlx_entk.lm import LanguageModel, prepared

VOCABULARY, LENGTH = 31, 9

SIZES: dict[str, Any] = {
    "hidden_size": 16, "num_hidden_layers": 3, "intermediate_size": 24,
    "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": VOCABULARY,
    "max_position_embeddings": 32, "pad_token_id": 0,
}  # fmt: skip

# Each with what its layers call the weights that write into the residual stream.
ARCHITECTURES: dict[str, str] = {
    "llama": "mlp.down_proj.weight",
    "gemma3": "mlp.down_proj.weight",
    "gpt2": "mlp.c_proj.weight",
}


def make(name: str, trained: bool) -> Any:
    """A model of transformers, drawn anew or after some steps on sequences that repeat."""
    torch.manual_seed(0)
    model: Any
    if name == "llama":
        model = LlamaForCausalLM(LlamaConfig(**SIZES, tie_word_embeddings=False))
    elif name == "gemma3":  # with layers of a sliding window shorter than the sequences
        windows: Any = {"sliding_window": 4, "sliding_window_pattern": 2}
        heads: Any = {"head_dim": 8, "query_pre_attn_scalar": 8}
        model = Gemma3ForCausalLM(
            Gemma3TextConfig(**SIZES, **windows, **heads, tie_word_embeddings=True)
        )
    else:
        sizes: Any = {"n_embd": 16, "n_layer": 3, "n_head": 2, "n_positions": 32, "n_ctx": 32}
        model = GPT2LMHeadModel(GPT2Config(**sizes, vocab_size=VOCABULARY))
    if trained:
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        for _ in range(40):
            start = torch.randint(VOCABULARY, (16, 1))
            tokens = (start + 3 * torch.arange(LENGTH)) % VOCABULARY
            optimizer.zero_grad()
            model(tokens, labels=tokens).loss.backward()
            optimizer.step()
    return model.eval()


def in_mlx(model: Any, folder: Path) -> LanguageModel:
    """The same model by mlx-lm, through the files that both read."""
    # The files of GPT-2 that people have are of the model without its head.
    getattr(model, "transformer", model).save_pretrained(folder)
    return prepared(load_model(folder)[0])


def weight_in_torch(model: Any, name: str, layer: int) -> tuple[str, bool]:
    """The name of the layer's weight in transformers, and whether it is transposed there."""
    if isinstance(model, GPT2LMHeadModel):
        return f"transformer.h.{layer}.mlp.c_proj.weight", True
    return f"model.layers.{layer}.{name}", False


def last_hidden(model: Any, values: dict[str, torch.Tensor], tokens: torch.Tensor) -> torch.Tensor:
    """What the unembedding reads at the last position, with some parameters replaced."""
    inner = "transformer" if isinstance(model, GPT2LMHeadModel) else "model"
    own = {name.removeprefix(f"{inner}."): value for name, value in values.items()}
    hidden: torch.Tensor = torch.func.functional_call(
        getattr(model, inner), own, (tokens,), {"use_cache": False}
    ).last_hidden_state[:, -1]
    return hidden
