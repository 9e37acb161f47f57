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

# Some need more, or something else. A vision-language model holds the text model of another.
_DEEPSEEK: dict[str, Any] = {
    "n_shared_experts": 1, "n_routed_experts": 4, "routed_scaling_factor": 1.0, "kv_lora_rank": 8,
    "q_lora_rank": 8, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8,
    "n_group": 1, "topk_group": 1, "moe_layer_freq": 1, "first_k_dense_replace": 1,
    "num_key_value_heads": 4, "topk_method": "noaux_tc", "scoring_func": "sigmoid",
}  # fmt: skip
_SLIDING = {"layer_types": ["sliding_attention", "full_attention", "full_attention"]}

# The architectures whose layers can be cut, with what their configurations add.
SUPPORTED: dict[str, dict[str, Any]] = {
    "Klear": {"n_shared_experts": 1},
    "afmoe": {},
    "apertus": {"post_norm": True, "qk_norm": True},
    "bailing_moe": {"num_shared_experts": 1, "first_k_dense_replace": 1},
    "cohere": {},
    "cohere2": {},
    "dbrx": {
        "d_model": WIDTH, "n_layers": LAYERS, "n_heads": 4,
        "ffn_config": {"ffn_hidden_size": 48, "moe_num_experts": 4, "moe_top_k": 2},
        "attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 10000.0},
    },
    "deepseek": {},
    "deepseek_v2": {**_DEEPSEEK, "topk_method": "greedy", "rope_scaling": {
        "type": "yarn", "factor": 2.0, "original_max_position_embeddings": 32,
        "mscale": 1.0, "mscale_all_dim": 1.0, "beta_fast": 32, "beta_slow": 1,
    }},
    "deepseek_v3": _DEEPSEEK,
    "dots1": {**_DEEPSEEK, "num_key_value_heads": 2},
    "ernie4_5": {},
    "ernie4_5_moe": {"moe_num_experts": 4},
    "exaone": {"num_layers": LAYERS},
    "exaone4": {"sliding_window_pattern": "LLG"},
    "falcon_h1": {},
    "gear": {},
    "gemma": {},
    "gemma2": {},
    "gemma3": {"text_config": {}},
    "gemma3_text": {},
    "glm": {},
    "glm4": {},
    "glm4_moe": {**_DEEPSEEK, "num_key_value_heads": 2},
    "glm4_moe_lite": _DEEPSEEK,
    "gpt2": {},
    "gpt_bigcode": {},
    "gpt_neox": {},
    "gpt_oss": _SLIDING,
    "gptj": {},
    "granite": {},
    "granitemoe": {},
    "helium": {},
    "hunyuan_v1_dense": {},
    "internlm2": {},
    "internlm3": {},
    "kimi_vl": {"text_config": _DEEPSEEK},
    "laguna": {},
    "lfm2": {
        "conv_bias": False, "conv_L_cache": 3, "block_dim": WIDTH, "block_ff_dim": 48,
        "block_multiple_of": 4, "block_ffn_dim_multiplier": 2, "block_auto_adjust_ff_dim": False,
        "layer_types": ["full_attention", "conv", "full_attention"],
    },
    "lille-130m": {"block_size": 64, "n_kv_heads": 2, "n_embd": 128},
    "llama": {},
    "mimo": {},
    "minicpm": {},
    "ministral3": {"rope_parameters": {
        "rope_theta": 10000.0, "llama_4_scaling_beta": 0.1, "rope_type": "default",
        "original_max_position_embeddings": 64,
    }},
    "mistral3": {"text_config": {"model_type": "llama"}},
    "mixtral": {},
    "muse_glimmer": {},
    "nanbeige": {},
    "nanochat": {},
    "nemotron": {},
    "olmo2": {},
    "olmo3": _SLIDING,
    "olmoe": {},
    "openelm": {
        "num_transformer_layers": LAYERS, "model_dim": WIDTH, "ffn_dim_divisor": 8,
        "num_query_heads": [4] * LAYERS, "num_kv_heads": [2] * LAYERS,
        "ffn_multipliers": [1.0] * LAYERS,
    },
    "phi": {},
    "phi3": {},
    "phimoe": {},
    "pixtral": {"text_config": {"model_type": "llama"}},
    "plamo": {"n_shared_head": 2},
    "qwen": {"kv_channels": 8, "no_bias": True},
    "qwen2": {},
    "qwen2_moe": {},
    "qwen2_vl": {"text_config": {"model_type": "qwen2"}},
    "qwen3": {},
    "qwen3_moe": {},
    "qwen3_vl": {"text_config": {"model_type": "qwen3"}},
    "qwen3_vl_moe": {"text_config": {"model_type": "qwen3_moe"}},
    "seed_oss": {},
    "smollm3": {},
    "stablelm": {},
    "starcoder2": {},
    "youtu_llm": _DEEPSEEK,
}  # fmt: skip


def tiny_module(name: str, **changes: Any) -> nn.Module:
    """A module of mlx-lm with few random parameters."""
    architecture = importlib.import_module(f"mlx_lm.models.{name}")
    configuration = {**_COMMON, "model_type": name, **changes}
    if "text_config" in changes:
        configuration["text_config"] = {**_COMMON, "model_type": name, **changes["text_config"]}
    mx.random.seed(0)
    module: nn.Module = architecture.Model(architecture.ModelArgs.from_dict(configuration))
    return module


# Refused by name, and why: later layers read tokens or values of earlier ones again.
REFUSED: dict[str, dict[str, Any]] = {
    "rwkv7": {"a_low_rank_dim": 4, "v_low_rank_dim": 4, "gate_low_rank_dim": 4,
              "decay_low_rank_dim": 4},
    "talkie": {},
}  # fmt: skip


def tiny_models() -> dict[str, Callable[[], LanguageModel]]:
    """How to make a tiny model of each supported architecture, by its name."""
    return {name: partial(_tiny_model, name) for name in SUPPORTED}


def _tiny_model(name: str) -> LanguageModel:
    return prepared(tiny_module(name, **SUPPORTED[name]))
