"""Normalisation layers, and dropout, in evaluation mode."""

import mlx.core as mx

from mlx_entk._memory import default_limit
from mlx_entk.errors import InputError
from mlx_entk.onnx.limits import require_room
from mlx_entk.onnx.operators.values import (
    Attributes,
    Inputs,
    Operator,
    as_mlx,
    axis_of,
    by_channel,
    distinct_axes,
    ints,
)


def _normalised(value: mx.array, axes: list[int], epsilon: float) -> mx.array:
    mean = mx.mean(value, axis=axes, keepdims=True)
    variance = mx.mean(mx.square(value - mean), axis=axes, keepdims=True)
    return (value - mean) * mx.rsqrt(variance + epsilon)


def _layer_norm(x: Inputs, a: Attributes, n: int) -> list[mx.array]:
    value = as_mlx(x[0])
    axes = list(range(axis_of(a.get("axis", -1), value.ndim), value.ndim))
    epsilon = a.get("epsilon", 1e-5)
    mean = mx.mean(value, axis=axes, keepdims=True)
    scale = mx.rsqrt(mx.mean(mx.square(value - mean), axis=axes, keepdims=True) + epsilon)
    normed = (value - mean) * scale * as_mlx(x[1])
    if len(x) > 2 and x[2] is not None:
        normed = normed + as_mlx(x[2])
    return [normed, mean, scale]


def _rms_norm(x: Inputs, a: Attributes, n: int) -> mx.array:
    value = as_mlx(x[0])
    axes = list(range(axis_of(a.get("axis", -1), value.ndim), value.ndim))
    square = mx.mean(mx.square(value), axis=axes, keepdims=True)
    return value * mx.rsqrt(square + a.get("epsilon", 1e-5)) * as_mlx(x[1])


def _batch_norm(x: Inputs, a: Attributes, n: int) -> mx.array:
    if a.get("training_mode", 0):
        raise InputError("in training mode each output depends on the whole batch")
    value = as_mlx(x[0])
    scale, bias, mean, variance = (by_channel(v, value.ndim) for v in x[1:5])
    return (value - mean) * mx.rsqrt(variance + a.get("epsilon", 1e-5)) * scale + bias


def _instance_norm(x: Inputs, a: Attributes, n: int) -> mx.array:
    value = as_mlx(x[0])
    normed = _normalised(value, list(range(2, value.ndim)), a.get("epsilon", 1e-5))
    return normed * by_channel(x[1], value.ndim) + by_channel(x[2], value.ndim)


def _group_norm(x: Inputs, a: Attributes, n: int) -> mx.array:
    value = as_mlx(x[0])
    groups = value.reshape(value.shape[0], a["num_groups"], -1)
    normed = _normalised(groups, [2], a.get("epsilon", 1e-5)).reshape(value.shape)
    scale, bias = as_mlx(x[1]), as_mlx(x[2])
    if scale.size == a["num_groups"]:  # one for each group, before opset 21
        each = value.shape[1] // a["num_groups"]
        scale, bias = mx.repeat(scale, each), mx.repeat(bias, each)
    return normed * by_channel(scale, value.ndim) + by_channel(bias, value.ndim)


def _lp_norm(x: Inputs, a: Attributes, n: int) -> mx.array:
    value, order = as_mlx(x[0]), a.get("p", 2)
    if order not in (1, 2):
        raise InputError(f"a norm of order {order} is not supported")
    axis = axis_of(a.get("axis", -1), value.ndim)
    powers = mx.abs(value) if order == 1 else mx.square(value)
    total = mx.sum(powers, axis=axis, keepdims=True)
    total = mx.where(total > 0, total, mx.ones((), dtype=value.dtype))  # zero stays zero
    return value / total if order == 1 else value * mx.rsqrt(total)


def _mean_variance_norm(x: Inputs, a: Attributes, n: int) -> mx.array:
    value = as_mlx(x[0])
    axes = distinct_axes(a.get("axes", [0, 2, 3]), value.ndim)
    if 0 in axes:
        raise InputError("over its first axis each output depends on the whole batch")
    mean = mx.mean(value, axis=axes, keepdims=True)
    deviation = mx.sqrt(mx.mean(mx.square(value - mean), axis=axes, keepdims=True))
    return (value - mean) / (deviation + 1e-9)


def _local_response_norm(x: Inputs, a: Attributes, n: int) -> mx.array:
    """Each entry over the squares in a window of ``size`` channels around it."""
    value, size = as_mlx(x[0]), a["size"]
    if size < 1:
        raise InputError(f"windows of {size} channels are not possible")
    channels = value.shape[1]
    require_room(4 * channels**2, default_limit(), "the windows of channels")
    ahead = mx.arange(channels)[:, None] - mx.arange(channels)
    inside = ((ahead >= -((size - 1) // 2)) & (ahead <= size // 2)).astype(value.dtype)
    squares = mx.moveaxis(mx.moveaxis(mx.square(value), 1, -1) @ inside, -1, 1)
    share = a.get("bias", 1.0) + a.get("alpha", 1e-4) / size * squares
    return value * mx.power(share, -a.get("beta", 0.75))


def _dropout(x: Inputs, a: Attributes, n: int) -> list[mx.array]:
    if len(x) > 2 and x[2] is not None and ints(x[2], "the training mode")[0]:
        raise InputError("in training mode outputs are random")
    value = as_mlx(x[0])
    return [value, mx.ones(value.shape, dtype=mx.bool_)][:n]


NORMALISATION: dict[str, Operator] = {
    "BatchNormalization": _batch_norm,
    "Dropout": _dropout,
    "GroupNormalization": _group_norm,
    "InstanceNormalization": _instance_norm,
    "LRN": _local_response_norm,
    "LayerNormalization": _layer_norm,
    "LpNormalization": _lp_norm,
    "MeanVarianceNormalization": _mean_variance_norm,
    "RMSNormalization": _rms_norm,
}
