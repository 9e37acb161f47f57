"""Attention, and rotary embeddings of positions."""

import math

import mlx.core as mx

from mlx_entk.errors import InputError
from mlx_entk.onnx.operators.indexing import gather
from mlx_entk.onnx.operators.values import (
    Attributes,
    Inputs,
    Operator,
    as_mlx,
    mlx_dtype,
    optional,
)


def _attention(x: Inputs, a: Attributes, n: int) -> list[mx.array]:
    query, key, value = (as_mlx(v) for v in x[:3])
    flat = query.ndim == 3
    query = _by_head(query, a.get("q_num_heads", 0))
    key, value = (_by_head(v, a.get("kv_num_heads", 0)) for v in (key, value))
    past = [as_mlx(v) for v in (optional(x, 4), optional(x, 5)) if v is not None]
    if len(past) == 1:
        raise InputError("a past key and a past value have to be given together")
    if past:
        key, value = (
            mx.concatenate([old, new], axis=2) for old, new in zip(past, (key, value), strict=True)
        )
    groups, rest = divmod(query.shape[1], key.shape[1])
    if rest or key.shape[:3] != value.shape[:3]:
        raise InputError(
            f"queries, keys and values of {query.shape}, {key.shape} and {value.shape} do not fit"
        )
    scale = a.get("scale", 1 / math.sqrt(query.shape[-1]))
    mode = a.get("qk_matmul_output_mode", 0)
    if not scale > 0 or mode not in range(4):
        raise InputError(f"a scale of {scale} and output mode {mode} are not possible")
    share = math.sqrt(scale)
    products = (query * share) @ mx.swapaxes(_shared(key, groups) * share, -1, -2)
    capped, cap = products, a.get("softcap", 0.0)
    if cap > 0:
        capped = cap * mx.tanh(products / cap)
    bias = _bias(x, a, capped.shape, past[0].shape[2] if past else 0).astype(query.dtype)
    # A query that may not look anywhere gives zero, and has no derivative.
    nowhere = mx.max(bias, axis=-1, keepdims=True) == -math.inf
    zero = mx.zeros((), dtype=query.dtype)
    scores = capped + mx.where(nowhere, zero, bias)
    if "softmax_precision" in a:
        scores = scores.astype(mlx_dtype(a["softmax_precision"]))
    weights = mx.where(nowhere, zero, mx.softmax(scores, axis=-1).astype(query.dtype))
    output = weights @ _shared(value, groups)
    if flat:
        output = mx.swapaxes(output, 1, 2)
        output = output.reshape(*output.shape[:2], -1)
    return [output, key, value, [products, capped, capped + bias, weights][mode]]


def _by_head(value: mx.array, heads: int) -> mx.array:
    """An array of shape (N, heads, T, D), from one that may be of shape (N, T, heads · D).

    Raises
    ------
    InputError
        If it is neither.
    """
    if value.ndim == 4:
        return value
    if value.ndim != 3 or heads < 1 or value.shape[-1] % heads:
        raise InputError(f"an array of {value.shape} has not {heads} heads")
    return mx.swapaxes(value.reshape(*value.shape[:2], heads, -1), 1, 2)


def _shared(value: mx.array, groups: int) -> mx.array:
    """Keys or values for every query head, which may share them in groups."""
    return value if groups == 1 else mx.repeat(value, groups, axis=1)


def _bias(x: Inputs, a: Attributes, shape: tuple[int, ...], past: int) -> mx.array:
    """What is added to the products of queries and keys: -∞ where a query may not look.

    Parameters
    ----------
    shape
        That of the products, (N, heads, T, S).
    past
        How many keys come before those of the queries.
    """
    queries, keys = shape[-2:]
    bias = mx.zeros((queries, keys))
    mask, lengths = optional(x, 3), optional(x, 6)
    if mask is not None:
        given = as_mlx(mask)
        if given.dtype == mx.bool_:
            given = _where(given)
        missing = keys - given.shape[-1]
        widths = [(0, 0)] * (given.ndim - 1) + [(0, max(0, missing))]
        bias = bias + mx.pad(given, widths, constant_values=-math.inf)
    at, offset = mx.arange(keys), mx.array(past)
    if lengths is not None:
        given = as_mlx(lengths).reshape(-1, 1, 1, 1)
        bias = bias + _where(at < given)
        offset = given - queries
    ahead = at - (mx.arange(queries)[:, None] + offset)
    if a.get("is_causal", 0):
        bias = bias + _where(ahead <= 0)
    left, right = a.get("left_window_size", -1), a.get("right_window_size", -1)
    if left >= 0:
        bias = bias + _where(ahead >= -left)
    if right >= 0:
        bias = bias + _where(ahead <= right)
    return bias


def _where(allowed: mx.array) -> mx.array:
    return mx.where(allowed, 0.0, -math.inf)


def _rotary_embedding(x: Inputs, a: Attributes, n: int) -> mx.array:
    value = as_mlx(x[0])
    turned = mx.swapaxes(_by_head(value, a.get("num_heads", 0)), 1, 2)  # (N, T, heads, D)
    size = a.get("rotary_embedding_dim", 0) or turned.shape[-1]
    if not 0 < size <= turned.shape[-1] or size % 2:
        raise InputError(f"{size} of {turned.shape[-1]} features cannot be rotated")
    positions = optional(x, 3)
    cosine, sine = (
        as_mlx(table) if positions is None else gather([table, positions], {}, 1)
        for table in x[1:3]
    )
    if cosine.shape[-1] != size // 2 or sine.shape != cosine.shape:
        raise InputError(f"tables of {cosine.shape} and {sine.shape} do not fit {size} features")
    cosine, sine = (mx.expand_dims(table, 2) for table in (cosine, sine))
    rotated, *kept = mx.split(turned, [size], axis=-1) if size < turned.shape[-1] else [turned]
    if a.get("interleaved", 0):
        pairs = rotated.reshape(*rotated.shape[:-1], size // 2, 2)
        real, imaginary = (mx.squeeze(part, -1) for part in mx.split(pairs, 2, axis=-1))
    else:
        real, imaginary = mx.split(rotated, 2, axis=-1)
    parts = [cosine * real - sine * imaginary, sine * real + cosine * imaginary]
    if a.get("interleaved", 0):
        rotated = mx.stack(parts, axis=-1).reshape(rotated.shape)
    else:
        rotated = mx.concatenate(parts, axis=-1)
    whole = mx.concatenate([rotated, *kept], axis=-1)
    return whole.reshape(value.shape) if value.ndim == 3 else mx.swapaxes(whole, 1, 2)


ATTENTION: dict[str, Operator] = {
    "Attention": _attention,
    "RotaryEmbedding": _rotary_embedding,
}
