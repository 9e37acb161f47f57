"""Pooling: reductions of windows of the spatial axes."""

import math
from collections.abc import Callable

import mlx.core as mx
import numpy as np

from mlx_entk._memory import default_limit
from mlx_entk.errors import InputError
from mlx_entk.onnx.limits import require_room
from mlx_entk.onnx.operators.values import Attributes, Inputs, Operator, as_mlx
from mlx_entk.onnx.operators.windows import counts, windows

# Offsets in a pooling window at most.
_OFFSETS = 2**16


def _pooled(
    value: mx.array, a: Attributes, fill: float, reduce: Callable[..., mx.array]
) -> mx.array:
    """Reduce windows of the spatial axes, gathering one offset inside the window at a time."""
    kernel = list(a["kernel_shape"])
    spatial = value.shape[2:]
    strides, padding, dilations = windows(a, spatial, kernel)
    if math.prod(kernel) > _OFFSETS:
        raise InputError(f"windows of {math.prod(kernel)} entries are too large")
    sizes, fitting = [], counts(spatial, kernel, strides, padding, dilations)
    for i, (low, high) in enumerate(padding):
        if max(low, high) >= dilations[i] * (kernel[i] - 1) + 1:
            raise InputError(f"pads {(low, high)} are as long as the window: it would be empty")
        size, behind = fitting[i]
        # Another one counts unless it has nothing but padding.
        if a.get("ceil_mode", 0) and behind and size * strides[i] < spatial[i] + low:
            size += 1
        reach = (size - 1) * strides[i] + dilations[i] * (kernel[i] - 1) + 1
        padding[i] = (low, max(high, reach - spatial[i] - low))
        sizes.append(size)
    entries = math.prod(kernel) * math.prod(value.shape[:2]) * math.prod(map(abs, sizes))
    require_room(entries * value.dtype.size, default_limit(), "the windows together")
    padded = mx.pad(value, [(0, 0), (0, 0), *padding], constant_values=fill)
    parts = []
    for offset in np.ndindex(*kernel):
        part = padded
        for i, at in enumerate(offset):
            index = at * dilations[i] + strides[i] * np.arange(sizes[i])
            part = mx.take(part, mx.array(index), axis=2 + i)
        parts.append(part)
    return reduce(mx.stack(parts), axis=0)


def _max_pool(x: Inputs, a: Attributes, n: int) -> mx.array:
    if n > 1:
        raise InputError("the indices of the largest entries are not supported")
    value = as_mlx(x[0])
    least = -math.inf if mx.issubdtype(value.dtype, mx.inexact) else mx.iinfo(value.dtype).min
    return _pooled(value, a, least, mx.max)


def _average_pool(x: Inputs, a: Attributes, n: int) -> mx.array:
    value = as_mlx(x[0])
    total = _pooled(value, a, 0.0, mx.sum)
    if a.get("count_include_pad", 0):
        # Rounding up may reach beyond the padding; entries there do not count.
        _, padding, _ = windows(a, value.shape[2:], a["kernel_shape"])
        inside = mx.ones(
            (1, 1, *(s + lo + hi for s, (lo, hi) in zip(value.shape[2:], padding, strict=True)))
        )
        bare = {k: v for k, v in a.items() if k not in ("pads", "auto_pad")}
        count = _pooled(inside, bare, 0.0, mx.sum)
        return total / count[(..., *(slice(size) for size in total.shape[2:]))]
    return total / _pooled(mx.ones((1, 1, *value.shape[2:])), a, 0.0, mx.sum)


def _lp_norm(powers_of: mx.array, order: int, reduce: Callable[[mx.array], mx.array]) -> mx.array:
    """The norms of what is reduced; at zero, their derivative is zero."""
    if order < 1:
        raise InputError(f"a norm of order {order} is not possible")
    if order == 1:
        return reduce(mx.abs(powers_of))
    total = reduce(mx.power(mx.abs(powers_of), order))
    positive = total > 0
    safe = mx.where(positive, total, mx.ones((), dtype=total.dtype))
    return mx.where(positive, mx.power(safe, 1 / order), mx.zeros((), dtype=total.dtype))


def _lp_pool(x: Inputs, a: Attributes, n: int) -> mx.array:
    return _lp_norm(as_mlx(x[0]), a.get("p", 2), lambda powers: _pooled(powers, a, 0.0, mx.sum))


def _global_lp_pool(x: Inputs, a: Attributes, n: int) -> mx.array:
    value = as_mlx(x[0])
    axes = list(range(2, value.ndim))
    return _lp_norm(value, a.get("p", 2), lambda powers: mx.sum(powers, axis=axes, keepdims=True))


def _global_pool(function: Callable[..., mx.array]) -> Operator:
    def apply(x: Inputs, a: Attributes, n: int) -> mx.array:
        value = as_mlx(x[0])
        return function(value, axis=list(range(2, value.ndim)), keepdims=True)

    return apply


POOLING: dict[str, Operator] = {
    "AveragePool": _average_pool,
    "GlobalLpPool": _global_lp_pool,
    "GlobalAveragePool": _global_pool(mx.mean),
    "GlobalMaxPool": _global_pool(mx.max),
    "LpPool": _lp_pool,
    "MaxPool": _max_pool,
}
