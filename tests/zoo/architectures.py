"""A tiny model of every architecture that the installed mlx-lm knows, in float32.

Nothing here lists architectures: the modules are found, and their configurations are filled from
the names and types of their fields. ``ODD`` holds the fields that no rule can guess.
"""

import ast
import dataclasses
import importlib
import importlib.util
import math
import re
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, get_args, get_type_hints

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_entk._parameters import flatten_tree, unflatten_tree

VOCABULARY = 32
TOKENS = 6
LAYERS = 2
LAYERS_OF_A_HYBRID = 4
MOST_PARAMETERS = 2_000_000
SEED = 7
# Packages that an architecture wants to be there, without a use for them.
PROBED = ["hf_olmo"]


class NotBuilt(Exception):  # noqa: N818 (an outcome, rather than an error of ours)
    """An architecture that has no tiny model here; the message says why."""


def names() -> list[str]:
    """The architectures of mlx-lm: modules with a ``Model`` and its ``ModelArgs``.

    They are found in the source, since importing all takes long, and one ends the process.
    """
    package = importlib.util.find_spec("mlx_lm")
    if package is None or package.origin is None:
        return []
    sources = (Path(package.origin).parent / "models").glob("*.py")
    return sorted(
        source.stem for source in sources if {"Model", "ModelArgs"} <= set(_top_level(source))
    )


def _top_level(source: Path) -> Iterator[str]:
    for node in ast.parse(source.read_text()).body:
        if isinstance(node, ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.ImportFrom):
            yield from (alias.asname or alias.name for alias in node.names)


def build(name: str) -> nn.Module:
    """The tiny model of an architecture, in eval mode, with parameters that a seed fixes.

    Its logits are of ``VOCABULARY`` tokens, at least.

    Raises
    ------
    NotBuilt
        Where the module cannot be imported, its configuration not be filled, or the model not be
        called on this machine.
    """
    for package in PROBED:
        sys.modules.setdefault(package, ModuleType(package))
    try:
        module = importlib.import_module(f"mlx_lm.models.{name}")
    except (Exception, SystemExit) as error:
        raise NotBuilt(f"cannot be imported: {_told(error)}") from error
    mx.random.seed(SEED)  # some start from values that are drawn
    try:
        args = module.ModelArgs.from_dict(_fields(module.ModelArgs, name, ODD.get(name, {})))
        model: nn.Module = module.Model(args)
    except Exception as error:
        raise NotBuilt(f"no configuration: {_told(error)}") from error
    if not hasattr(model, "_no_grad"):  # a Model that leaves out super().__init__()
        nn.Module.__init__(model)
    model.eval()
    count = sum(value.size for value in flatten_tree(model.parameters()).values())
    if count > MOST_PARAMETERS:  # before any of them takes memory
        raise NotBuilt(f"has {count} parameters: no rule sets the size of some field")
    set_parameters(model)
    try:
        logits: mx.array = model(mx.arange(2 * TOKENS).reshape(2, TOKENS))
        mx.eval(logits)
    except Exception as error:
        raise NotBuilt(f"cannot be called: {_told(error)}") from error
    if logits.shape[:2] != (2, TOKENS) or logits.shape[2] < VOCABULARY:
        raise NotBuilt(f"gives logits of shape {logits.shape}")
    if not mx.all(mx.isfinite(logits[..., :VOCABULARY])):
        raise NotBuilt("gives logits that are not finite")
    return model


def _told(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"


# --- parameters ---------------------------------------------------------------------------------


def set_parameters(model: nn.Module) -> None:
    """Give every parameter values in float32 where nothing is zero, constant or saturated.

    Matrices are drawn anew. What has an initial value with a meaning (norms around 1, decay
    rates, biases, gates) is moved a little from it.
    """
    values = {}
    for name, initial in flatten_tree(model.parameters()).items():
        rng = np.random.default_rng([SEED, zlib.crc32(name.encode())])
        if not mx.issubdtype(initial.dtype, mx.floating):  # packed weights: any bits will do
            bits = rng.bytes(4 * initial.size)
            packed = np.frombuffer(bits, np.uint32).reshape(initial.shape)
            values[name] = mx.array(packed).astype(initial.dtype)
            continue
        noise = rng.standard_normal(initial.shape)
        if initial.ndim >= 2 and name.endswith("weight"):
            value = _spread(name, initial.shape) * noise
        else:
            start = np.array(initial.astype(mx.float32))
            value = start + 0.1 * np.maximum(np.abs(start), 1) * noise
        values[name] = mx.array(np.asarray(value, dtype=np.float32))
    model.update(unflatten_tree(values))
    mx.eval(model.parameters())


def _spread(name: str, shape: tuple[int, ...]) -> float:
    if "emb" in name:
        return 0.5
    is_convolution = "conv" in name and len(shape) == 3
    return 0.7 / math.sqrt(math.prod(shape[1:]) if is_convolution else shape[-1])


# --- configurations -----------------------------------------------------------------------------

ROPE = {
    "rope_theta": 10000.0,
    "rope_type": "default",
    "partial_rotary_factor": 0.5,
    "llama_4_scaling_beta": 0.1,
    "original_max_position_embeddings": 4,
}
DELTA_ATTENTION = {
    "num_heads": 4,
    "head_dim": 8,
    "short_conv_kernel_size": 4,
    "kda_layers": [1, 3],
}

# What a field of that name holds, by the first pattern that fits the whole name. A field that
# fits none keeps its default, or gets a value of its type.
RULES: list[tuple[str, Any]] = [
    (r"vocab_size.*|num_vocab|embedding_size", VOCABULARY),
    (r"num_dense_layers|num_kv_reuse_layers|num_kv_shared_layers", 1),
    (r"hidden_size_per_layer_input|dim_model_base", 16),
    (r"(moe_|routed_expert_)?hidden_(size|dim)|n_embd|d_model|model_dim|block_dim", 32),
    (r"hidden_size_per_head|(\w+_)?head_dim|kv_channels|mamba_d_head|rotary_dim", 8),
    (r"(\w*_)?(key_value|kv)_heads|linear_num_key_heads|num_attention_groups|n_shared_head", 2),
    (r"(\w*_)?(num|n)_heads?|(num_)?(swa_)?(num_)?attention_heads|linear_num_value_heads", 4),
    (r"mamba_d_ssm", 32),
    (r"(\w*_)?lora_rank|\w+_low_rank_dim|laurel_rank|(mamba_dt|time_step)_rank", 8),
    (r"moe_intermediate_size|expert_ffn_hidden_size|share_expert_dim|moe_latent_size", 16),
    (r"(\w*_)?intermediate_size(_mlp)?|ffn_hidden_size|n_inner|block_ff_dim|mlp_hidden_size", 24),
    (r"(moe_)?num_experts|num_local_experts|n_routed_experts", 4),
    (r"num_experts_per_tok(en)?|top_k_experts|moe_top_?k|moe_k", 2),
    (r"(moe_)?(num|n)_shared_experts?|zero_expert_num", 1),
    (r"n_groups?|mamba_n_groups|num_expert_group|group_norm_size", 2),
    (r"topk_group|first_k_dense_replace|moe_layer_freq|decoder_sparse_step", 1),
    (r"(moe_)?routed_scaling_factor", 1.5),
    (r"topk_method", "noaux_tc"),
    (r"scoring_func|score_function|score_func", "sigmoid"),
    (r"index_(topk|topk_blocks|block_size)", 2),
    (r"(\w*_)?window_size|sliding_window(_size)?", 4),
    (r"sliding_window_pattern|full_attention_interval|layer_group_size|\w+_layer_period", 2),
    (r"\w+_layer_offset|interleave_moe_layer_step", 1),
    (r"layer_rope_theta", [10000.0, 0, 10000.0, 0]),
    (r"(\w*_)?(theta|local_base_freq|freq_constant|emb_base|embedding_base)", 10000.0),
    (r"\w*eps(ilon)?", 1e-5),
    (r"(\w*_)?max_position_embeddings|n_ctx|n_positions|block_size|model_max_length", 64),
    (r"(ssm_)?state_size|mamba_d_state", 8),
    (r"mamba_d_conv|conv_kernel|linear_conv_kernel_dim|short_conv_kernel_size|conv1d_width", 4),
    (r"conv_L_cache|conv_window", 3),
    (r"\w*chunk_size", 4),
    (r"(global_)?partial_rotary_factor|rotary_pct", 0.5),
    (r"query_pre_attn_scalar", 8.0),
    (r"\w*softcapping|\w*soft_cap", 30.0),
    (r"mlp_only_layers|sliding_window_layers", [0]),
    (r"full_attn_idxs|full_attention_idx", [1, 3]),
    (r"time_step_limit", (0.001, 100.0)),
    (r"rope_scaling", None),
    (r"rope_parameters", ROPE | {"full_attention": ROPE, "sliding_attention": ROPE}),
    (r"linear_attn_config", DELTA_ATTENTION),
]
NUMBER_OF_LAYERS = r"(num|n)_(hidden_|transformer_)?layers?"
# Fields of models whose layers differ.
HYBRID = (
    r"layer_types|block_type|pattern|interval|layer_group|_period|full_att|mlp_only|linear_att"
    r"|attention_chunk"
)
# Kinds of a layer as mlx-lm writes them, in the order in which layers take turns.
KINDS = {
    r"layer_types|layers_block_type|_?block_types": [
        "sliding_attention",
        "linear_attention",
        "mamba",
        "conv",
        "recurrent",
        "full_attention",
        "attention",
    ],
    r"mlp_layer_types": ["dense", "sparse"],
}
OF_TYPE = {bool: True, int: 2, float: 1.0, str: "silu"}

# Fields that no rule can guess: the code of the architecture checks them, or turns a part on.
# "layers" is how many.
ODD: dict[str, dict[str, Any]] = {
    "baichuan_m1": {"conv_window": 2},
    "dbrx": {
        "ffn_config": {"ffn_hidden_size": 24, "moe_num_experts": 4, "moe_top_k": 2},
        "attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 10000.0},
    },
    "deepseek_v2": {
        "topk_method": "group_limited_greedy",
        "rope_scaling": {"factor": 4.0, "original_max_position_embeddings": 16},
    },
    "deepseek_v41": {
        "compress_ratios": (0, 2),
        "kv_source_layer_ids": (1,),
        "index_source_layer_ids": (1,),
    },
    "exaone4": {"sliding_window_pattern": "LG"},
    "exaone_moe": {"is_moe_layer": [False, True, False, True]},
    "gemma3n": {
        "activation_sparsity_pattern": [0.5, 0.0, 0.0, 0.0],
        "altup_coef_clip": 120.0,
        "altup_num_inputs": 2,
        "altup_active_idx": 0,
    },
    "gemma4_text": {"enable_moe_block": True},
    "hunyuan": {
        "cla_share_factor": 2,
        "rope_scaling": {"type": "dynamic", "factor": 1.0, "alpha": 100.0},
    },
    "kimi_k3": {"attn_res_block_size": 2, "mla_use_output_gate": True},
    "lille-130m": {"n_embd": 64},  # its MLP has multiples of 256, and none where this is less
    "llama4": {"num_experts_per_tok": 1},
    "llama4_text": {"no_rope_layers": [1, 0]},
    "longcat_flash": {"zero_expert_type": "identity"},
    "mimo_v2_flash": {"hybrid_layer_pattern": [1, 0, 1, 0], "moe_layer_freq": [0, 1, 1, 0]},
    "minicpm3": {"rope_scaling": {"factor": 1.0}},
    "minimax_m3_vl": {"layer_types": ["sparse_attention", "full_attention"] * 2},
    "muse_spark": {"mlp_layer_types": None, "num_shared_experts": 0},
    "nanbeige": {"num_loops": 2},
    "nemotron-nas": {
        "layers": 3,
        "block_configs": [
            {"attention": {"n_heads_in_group": 2}, "ffn": {"ffn_mult": 1.0}},
            {"attention": {"replace_with_linear": True}, "ffn": {"no_op": True}},
            {"attention": {"no_op": True}, "ffn": {"replace_with_linear": True}},
        ],
    },
    "nemotron_h": {
        "layer_types": None,
        "layers_block_type": None,
        "hybrid_override_pattern": ["M", "*", "-", "E"],
    },
    "openelm": {
        "num_query_heads": [4, 4],
        "num_kv_heads": [2, 2],
        "ffn_multipliers": [1.0, 2.0],
        "ffn_dim_divisor": 8,
    },
    "phi3small": {"vocab_size": 100_352, "hidden_size": 16},  # it writes to tokens 100 256 …
    "prism_hadamard_qwen35": {
        "schema_version": 2,
        "tensor_namespace": "mlx-vlm-qwen3_5",
        "hidden_size": 128,
        "quantization": {"bits": 2, "group_size": 128, "mode": "affine"},
        "modules": [
            {
                "path": "model.layers.0.linear_attn.in_proj_qkv",
                "embedding": False,
                "dtype": "float16",
                "block": 0,
            }
        ],
    },
    "qwen3_5": {"num_experts": 0},
}


def _fields(args: type, name: str, odd: dict[str, Any]) -> dict[str, Any]:
    """Values for the fields of a dataclass of configuration, by name."""
    return {
        field.name: odd[field.name] if field.name in odd else _value(args, field, name, odd)
        for field in dataclasses.fields(args)
    }


def _value(args: type, field: "dataclasses.Field[Any]", name: str, odd: dict[str, Any]) -> Any:
    if field.name == "model_type":
        return name
    if field.name == "text_config":
        text = _text_args(args)
        return _fields(text, text.__module__.rpartition(".")[2], odd)
    if re.fullmatch(NUMBER_OF_LAYERS, field.name):
        hybrid = any(re.search(HYBRID, other.name) for other in dataclasses.fields(args))
        return odd.get("layers", LAYERS_OF_A_HYBRID if hybrid else LAYERS)
    for pattern, kinds in KINDS.items():
        if re.fullmatch(pattern, field.name):
            return _layer_kinds(args, kinds)
    for pattern, value in RULES:
        if re.fullmatch(pattern, field.name):
            return value
    if field.default is not dataclasses.MISSING:
        return field.default
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return OF_TYPE.get(get_type_hints(args)[field.name])


def _layer_kinds(args: type, kinds: list[str]) -> list[str] | None:
    """The kinds that the code of an architecture names, in turn."""
    source = Path(str(sys.modules[args.__module__].__file__)).read_text()
    known = [kind for kind in kinds if f'"{kind}"' in source]
    return [known[i % len(known)] for i in range(LAYERS_OF_A_HYBRID)] if known else None


def _text_args(args: type) -> type:
    """The configuration of the language model in a model of more than language.

    It is the type of the field, a class called Text…, or that of another architecture that the
    module imports as a whole or in part.
    """
    members = list(vars(sys.modules[args.__module__]).values())
    classes = [member for member in members if isinstance(member, type)]
    candidates: list[Any] = list(get_args(get_type_hints(args)["text_config"]))
    candidates += [member for member in classes if member.__name__.startswith("Text")]
    homes = [member for member in members if isinstance(member, ModuleType)]
    homes += [sys.modules[member.__module__] for member in classes]
    for home in homes:
        candidates += [getattr(home, "TextModelArgs", None), getattr(home, "ModelArgs", None)]
    for candidate in candidates:
        if candidate is args or not isinstance(candidate, type):
            continue
        if dataclasses.is_dataclass(candidate):
            nested = any(field.name == "text_config" for field in dataclasses.fields(candidate))
            return _text_args(candidate) if nested else candidate
    raise ValueError("the configuration of the text model is not found")
