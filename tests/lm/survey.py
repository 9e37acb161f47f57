"""Tiny random models of many architectures of mlx-lm, for the tests of what runs on all of them."""

import importlib
from collections.abc import Callable
from functools import partial
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlx_entk.lm import LanguageModel, prepared

VOCABULARY, WIDTH, LAYERS = 61, 32, 3

# Every architecture takes from this configuration what it knows.
_COMMON: dict[str, Any] = {
    "hidden_size": WIDTH, "num_hidden_layers": LAYERS, "intermediate_size": 48,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "vocab_size": VOCABULARY,
    "n_embd": WIDTH, "n_layer": LAYERS, "n_head": 4, "n_positions": 64, "n_ctx": 64, "n_inner": 48,
    "max_position_embeddings": 64, "original_max_position_embeddings": 64,
    "rms_norm_eps": 1e-5, "norm_eps": 1e-5, "layer_norm_eps": 1e-5, "layer_norm_epsilon": 1e-5,
    "layernorm_epsilon": 1e-5, "norm_epsilon": 1e-5,
    "rope_theta": 10000.0, "rope_scaling": None, "rope_traditional": False,
    "rope_local_base_freq": 10000.0, "rotary_pct": 0.5, "rotary_emb_base": 10000,
    "rotary_dim": 4, "partial_rotary_factor": 0.5, "no_rope_layer_interval": 4,
    "tie_word_embeddings": False, "hidden_act": "silu", "use_bias": False, "use_qk_norm": True,
    "attention_bias": False, "mlp_bias": False, "qkv_bias": False, "use_qkv_bias": False,
    "bias": False, "use_parallel_residual": True,
    "query_pre_attn_scalar": 8, "sliding_window": 4, "sliding_window_pattern": 2,
    "attn_logit_softcapping": 50.0, "final_logit_softcapping": 0.5,
    "logit_scale": 0.25, "logits_scaling": 2.0, "residual_multiplier": 0.5,
    "attention_multiplier": 0.3, "embedding_multiplier": 2.0, "scale_emb": 2.0,
    "dim_model_base": 16, "scale_depth": 1.4,
    "num_experts": 4, "num_experts_per_tok": 2, "num_local_experts": 4, "norm_topk_prob": True,
    "moe_intermediate_size": 24, "shared_expert_intermediate_size": 24, "decoder_sparse_step": 1,
    "mlp_only_layers": [], "layer_types": ["full_attention"] * LAYERS,
}  # fmt: skip

# Those whose layers can be cut; each builds from the configuration above with these changes.
SUPPORTED: dict[str, dict[str, Any]] = {
    "afmoe": {}, "deepseek": {}, "ernie4_5": {}, "gemma": {}, "gemma3_text": {}, "glm": {},
    "glm4": {}, "gpt2": {}, "helium": {}, "hunyuan_v1_dense": {}, "internlm3": {}, "llama": {},
    "mimo": {}, "mixtral": {}, "nemotron": {}, "olmo2": {}, "olmoe": {}, "phi3": {},
    "qwen2_moe": {}, "qwen3": {}, "smollm3": {}, "starcoder2": {},
}  # fmt: skip


def tiny_module(name: str, **changes: Any) -> nn.Module:
    """A module of mlx-lm with few random parameters."""
    architecture = importlib.import_module(f"mlx_lm.models.{name}")
    configuration = {**_COMMON, "model_type": name, **changes}
    mx.random.seed(0)
    module: nn.Module = architecture.Model(architecture.ModelArgs.from_dict(configuration))
    return module


def tiny_models() -> dict[str, Callable[[], LanguageModel]]:
    """How to make a tiny model of each supported architecture, by its name."""
    return {name: partial(_tiny_model, name) for name in SUPPORTED}


def _tiny_model(name: str) -> LanguageModel:
    return prepared(tiny_module(name, **SUPPORTED[name]))
