"""Operators that combine entries along axes: reductions, running sums, the largest entries."""

from collections.abc import Callable
from typing import Any

import mlx.core as mx

from mlx_entk.errors import InputError
from mlx_entk.onnx.operators.values import (
    Attributes,
    Inputs,
    Operator,
    as_mlx,
    axes_of,
    axis_of,
    ints,
)


def _reduction(function: Callable[..., mx.array]) -> Operator:
    def apply(x: Inputs, a: Attributes, n: int) -> mx.array:
        value = as_mlx(x[0])
        axes = axes_of(x, a, max(1, value.ndim))
        if axes is None and a.get("noop_with_empty_axes", 0):  # every entry by itself
            return _as_type_of(value, function(mx.expand_dims(value, -1), [-1], False))
        if value.size == 0:  # MLX 0.32 loops forever if the strides are not those it expects
            raise InputError("an empty array has nothing to reduce")
        return _as_type_of(value, function(value, axes, bool(a.get("keepdims", 1))))

    return apply


def _as_type_of(value: mx.array, reduced: mx.array) -> mx.array:
    """A reduction in the type of what it reduces: the mean of integers is cut to an integer."""
    return reduced.astype(value.dtype) if mx.issubdtype(value.dtype, mx.integer) else reduced


def _arg_extreme(function: Callable[..., mx.array]) -> Operator:
    def apply(x: Inputs, a: Attributes, n: int) -> mx.array:
        value = as_mlx(x[0])
        axis = axis_of(a.get("axis", 0), value.ndim)
        if a.get("select_last_index", 0):
            flipped = mx.take(value, mx.arange(value.shape[axis] - 1, -1, -1), axis=axis)
            last = function(flipped, axis=axis, keepdims=bool(a.get("keepdims", 1)))
            return (value.shape[axis] - 1 - last.astype(mx.int64)).astype(mx.int64)
        return function(value, axis=axis, keepdims=bool(a.get("keepdims", 1))).astype(mx.int64)

    return apply


def _cumulative_sum(x: Inputs, a: Attributes, n: int) -> mx.array:
    value, (axis,) = as_mlx(x[0]), ints(x[1], "the axis")
    return mx.cumsum(
        value, axis=axis_of(axis, value.ndim), reverse=bool(a.get("reverse", 0)),
        inclusive=not a.get("exclusive", 0),
    )  # fmt: skip


def _top_k(x: Inputs, a: Attributes, n: int) -> list[mx.array]:
    value, (count,) = as_mlx(x[0]), ints(x[1], "the number of largest entries")
    axis = axis_of(a.get("axis", -1), value.ndim)
    if not 0 <= count <= value.shape[axis]:
        raise InputError(f"there are not {count} entries along an axis of {value.shape[axis]}")
    key = value
    if a.get("largest", 1):  # the smallest integer has no negative, and unsigned ones have none
        key = ~value if mx.issubdtype(value.dtype, mx.integer) else -value
    order = mx.stop_gradient(mx.argsort(key, axis=axis))
    index = mx.take(order, mx.arange(count), axis=axis)
    return [mx.take_along_axis(value, index, axis=axis), index.astype(mx.int64)]


def _log_of_reduction(x: mx.array, axes: Any, keepdims: bool) -> mx.array:
    return mx.log(mx.sum(x, axis=axes, keepdims=keepdims))


REDUCTIONS: dict[str, Operator] = {
    **{
        f"Reduce{name}": _reduction(function)
        for name, function in {
            "L1": lambda v, axes, keep: mx.sum(mx.abs(v), axis=axes, keepdims=keep),
            "L2": lambda v, axes, keep: mx.sqrt(mx.sum(mx.square(v), axis=axes, keepdims=keep)),
            "LogSum": _log_of_reduction,
            "LogSumExp": lambda v, axes, keep: mx.logsumexp(v, axis=axes, keepdims=keep),
            "Max": lambda v, axes, keep: mx.max(v, axis=axes, keepdims=keep),
            "Mean": lambda v, axes, keep: mx.mean(v, axis=axes, keepdims=keep),
            "Min": lambda v, axes, keep: mx.min(v, axis=axes, keepdims=keep),
            "Prod": lambda v, axes, keep: mx.prod(v, axis=axes, keepdims=keep),
            "Sum": lambda v, axes, keep: mx.sum(v, axis=axes, keepdims=keep),
            "SumSquare": lambda v, axes, keep: mx.sum(mx.square(v), axis=axes, keepdims=keep),
        }.items()
    },
    "ArgMax": _arg_extreme(mx.argmax),
    "ArgMin": _arg_extreme(mx.argmin),
    "CumSum": _cumulative_sum,
    "TopK": _top_k,
}
