"""Activation functions."""

import math

import mlx.core as mx
import mlx.nn as nn

from mlx_entk.errors import InputError
from mlx_entk.onnx.operators.values import (
    Attributes,
    Inputs,
    Operator,
    as_mlx,
    axis_of,
    choice,
    grids,
)


def _softmax(x: Inputs, a: Attributes, n: int) -> mx.array:
    value = as_mlx(x[0])
    return mx.softmax(value, axis=axis_of(a.get("axis", -1), value.ndim))


def _log_softmax(x: Inputs, a: Attributes, n: int) -> mx.array:
    value = as_mlx(x[0])
    axis = axis_of(a.get("axis", -1), value.ndim)
    return value - mx.logsumexp(value, axis=axis, keepdims=True)


def _hardmax(x: Inputs, a: Attributes, n: int) -> mx.array:
    value = as_mlx(x[0])
    axis = axis_of(a.get("axis", -1), value.ndim)
    largest = mx.argmax(value, axis=axis, keepdims=True)
    return mx.equal(grids(value.shape)[axis], largest).astype(value.dtype)


def _elu(x: Inputs, a: Attributes, n: int) -> mx.array:
    value = as_mlx(x[0])
    return mx.where(value > 0, value, a.get("alpha", 1.0) * mx.expm1(mx.minimum(value, 0)))


def _selu(x: Inputs, a: Attributes, n: int) -> mx.array:
    value = as_mlx(x[0])
    alpha, gamma = a.get("alpha", 1.67326319217681884765625), a.get("gamma", 1.05070102214813232421)
    elu = mx.where(value > 0, value, alpha * mx.expm1(mx.minimum(value, 0)))
    scaled: mx.array = gamma * elu
    return scaled


def _celu(x: Inputs, a: Attributes, n: int) -> mx.array:
    value, alpha = as_mlx(x[0]), a.get("alpha", 1.0)
    below = value / alpha
    below = mx.minimum(below, 0) if alpha > 0 else mx.maximum(below, 0)
    return mx.maximum(value, 0) + mx.minimum(alpha * mx.expm1(below), 0)


def _leaky_relu(x: Inputs, a: Attributes, n: int) -> mx.array:
    value = as_mlx(x[0])
    return mx.where(value < 0, a.get("alpha", 0.01) * value, value)


def _p_relu(x: Inputs, a: Attributes, n: int) -> mx.array:
    value, slope = as_mlx(x[0]), as_mlx(x[1])
    result = mx.where(value < 0, slope * value, value)
    if result.shape != value.shape:
        raise InputError(f"a slope of {slope.shape} is larger than an array of {value.shape}")
    return result


def _hard_sigmoid(x: Inputs, a: Attributes, n: int) -> mx.array:
    return mx.clip(a.get("alpha", 0.2) * as_mlx(x[0]) + a.get("beta", 0.5), 0, 1)


def _hard_swish(x: Inputs, a: Attributes, n: int) -> mx.array:
    value = as_mlx(x[0])
    return value * mx.clip(value / 6 + 0.5, 0, 1)


def _gelu(x: Inputs, a: Attributes, n: int) -> mx.array:
    value = as_mlx(x[0])
    tanh = choice(a, "approximate", "none", "tanh") == "tanh"
    return nn.gelu_approx(value) if tanh else value * (1 + mx.erf(value / math.sqrt(2))) / 2


def _thresholded_relu(x: Inputs, a: Attributes, n: int) -> mx.array:
    value = as_mlx(x[0])
    return mx.where(value > a.get("alpha", 1.0), value, mx.zeros((), dtype=value.dtype))


def _shrink(x: Inputs, a: Attributes, n: int) -> mx.array:
    value, bias, edge = as_mlx(x[0]), a.get("bias", 0.0), a.get("lambd", 0.5)
    zero = mx.zeros((), dtype=value.dtype)
    return mx.where(value < -edge, value + bias, mx.where(value > edge, value - bias, zero)).astype(
        value.dtype
    )


def _relu(x: Inputs, a: Attributes, n: int) -> mx.array:
    value = as_mlx(x[0])
    return mx.maximum(value, mx.zeros((), dtype=value.dtype))


def _softplus(x: Inputs, a: Attributes, n: int) -> mx.array:
    value = as_mlx(x[0])
    return mx.logaddexp(value, mx.zeros((), dtype=value.dtype))


def _mish(x: Inputs, a: Attributes, n: int) -> mx.array:
    return as_mlx(x[0]) * mx.tanh(_softplus(x, a, n))


def _softsign(x: Inputs, a: Attributes, n: int) -> mx.array:
    value = as_mlx(x[0])
    return value / (1 + mx.abs(value))


def _swish(x: Inputs, a: Attributes, n: int) -> mx.array:
    value = as_mlx(x[0])
    return value * mx.sigmoid(a.get("alpha", 1.0) * value)


ACTIVATIONS: dict[str, Operator] = {
    "Celu": _celu,
    "Elu": _elu,
    "Gelu": _gelu,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _hard_swish,
    "Hardmax": _hardmax,
    "LeakyRelu": _leaky_relu,
    "LogSoftmax": _log_softmax,
    "Mish": _mish,
    "PRelu": _p_relu,
    "Relu": _relu,
    "Selu": _selu,
    "Shrink": _shrink,
    "Sigmoid": lambda x, a, n: mx.sigmoid(as_mlx(x[0])),
    "Softmax": _softmax,
    "Softplus": _softplus,
    "Softsign": _softsign,
    "Swish": _swish,
    "ThresholdedRelu": _thresholded_relu,
}
