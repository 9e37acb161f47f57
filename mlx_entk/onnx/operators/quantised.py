"""Operators on whole numbers that stand for real ones, as quantised networks have them.

Rounding has no derivative of use: it is zero almost everywhere. Here derivatives pass straight
through it, and are zero where a value is cut off at the end of its range, as in training that is
aware of quantisation (Bengio, Léonard and Courville 2013, arXiv 1308.3432, section 4). Whole
numbers are therefore float32 arrays here; their values are those that the file's own types give.
"""

from collections.abc import Sequence

import mlx.core as mx
from onnx import TensorProto

from mlx_entk.errors import InputError
from mlx_entk.onnx.operators.convolutions import convolution
from mlx_entk.onnx.operators.recurrent import lstm
from mlx_entk.onnx.operators.values import (
    Attributes,
    Inputs,
    Operator,
    Value,
    as_mlx,
    axis_of,
)

_RANGES = {
    "int8": (-128, 127), "uint8": (0, 255), "int16": (-32768, 32767), "uint16": (0, 65535),
}  # fmt: skip
_NUMBERED = {
    0: "uint8", TensorProto.UINT8: "uint8", TensorProto.INT8: "int8",
    TensorProto.UINT16: "uint16", TensorProto.INT16: "int16",
}  # fmt: skip


def _real(value: Value) -> mx.array:
    return as_mlx(value).astype(mx.float32)


def _given(x: Inputs, place: int) -> Value:
    return x[place] if len(x) > place else None


def _rounded(value: mx.array, zero: mx.array, low: int, high: int) -> mx.array:
    """Whole numbers of a range, with the derivative of what they are rounded from.

    That is zero for what is cut off, but not for what is rounded to the ends.
    """
    inside = mx.clip(value + zero, low - 0.5, high + 0.5)
    whole = mx.clip(mx.round(value) + zero, low, high)
    return mx.stop_gradient(whole) + (inside - mx.stop_gradient(inside))


def _range(zero: Value, a: Attributes) -> tuple[int, int]:
    """The smallest and the largest number of the type that a zero point or an attribute names."""
    if zero is not None:
        name = str(zero.dtype).removeprefix("mlx.core.")
    else:
        name = _NUMBERED.get(a.get("output_dtype", 0), "another type")
    if name not in _RANGES:
        raise InputError(f"whole numbers of {name} are not supported")
    return _RANGES[name]


def _along(number: Value, shape: Sequence[int], a: Attributes, axis: int) -> mx.array:
    """A scale or zero point for every entry, along an axis, or for blocks of it."""
    array = _real(number)
    block = a.get("block_size", 0)
    if array.ndim == 0 or array.size == 1:
        return array.reshape(())
    axis = axis_of(axis, len(shape))
    if block:
        if block < 1 or array.ndim != len(shape):
            raise InputError(f"blocks of {block} do not fit numbers of {array.ndim} axes")
        places = mx.minimum(mx.arange(shape[axis]) // block, array.shape[axis] - 1)
        return mx.take(array, places, axis=axis)
    if array.ndim == 1:
        return array.reshape([-1 if k == axis else 1 for k in range(len(shape))])
    return array


def _quantize(x: Inputs, a: Attributes, n: int) -> mx.array:
    value, zero = _real(x[0]), _given(x, 2)
    low, high = _range(zero, a)
    axis = a.get("axis", 1)
    scale = _along(x[1], value.shape, a, axis)
    offset = mx.zeros(()) if zero is None else _along(zero, value.shape, a, axis)
    return _rounded(value / scale, offset, low, high)


def _dequantize(x: Inputs, a: Attributes, n: int) -> mx.array:
    value, zero, axis = _real(x[0]), _given(x, 2), a.get("axis", 1)
    if zero is not None:
        value = value - _along(zero, value.shape, a, axis)
    return value * _along(x[1], value.shape, a, axis)


def dynamically(value: mx.array) -> tuple[mx.array, mx.array, mx.array]:
    """An array as whole numbers from 0 to 255, with a scale and a zero point from its range."""
    low, high = mx.minimum(value.min(), 0), mx.maximum(value.max(), 0)
    scale = mx.stop_gradient((high - low) / 255)
    scale = mx.where(scale > 0, scale, mx.ones(()))
    zero = mx.stop_gradient(mx.round(mx.clip(-low / scale, 0, 255)))
    return _rounded(value / scale, zero, 0, 255), scale, zero


def _dynamic_quantize(x: Inputs, a: Attributes, n: int) -> list[mx.array]:
    return list(dynamically(_real(x[0])))


def _less_zero(value: Value, zero: Value, by_rows: bool) -> mx.array:
    """A matrix without its zero point, which may be one for each row or column."""
    array = _real(value)
    if zero is None:
        return array
    offset = _real(zero)
    if offset.size == 1:
        return array - offset.reshape(())
    return array - (offset[..., None] if by_rows and offset.ndim == 1 else offset)


def _matmul_integer(x: Inputs, a: Attributes, n: int) -> mx.array:
    return mx.matmul(_less_zero(x[0], _given(x, 2), True), _less_zero(x[1], _given(x, 3), False))


def _q_linear_matmul(x: Inputs, a: Attributes, n: int) -> mx.array:
    left, right = _less_zero(x[0], x[2], True), _less_zero(x[3], x[5], False)
    scale_left, scale = _real(x[1]), _real(x[6])
    if scale_left.ndim == 1 and scale_left.size > 1:
        scale_left = scale_left[:, None]
    product = mx.matmul(left, right) * (scale_left * _real(x[4]) / scale)
    return _rounded(product, _real(x[7]), *_range(x[7], a))


def _of_weights(number: Value, weight: mx.array) -> mx.array:
    """A scale or zero point of a convolution's weights, one or one for each output."""
    array = _real(number).reshape(-1)
    return array.reshape(()) if array.size == 1 else array.reshape([-1, *[1] * (weight.ndim - 1)])


def _conv_integer(x: Inputs, a: Attributes, n: int) -> mx.array:
    value, weight = _less_zero(x[0], _given(x, 2), False), _real(x[1])
    zero = _given(x, 3)
    weight = weight if zero is None else weight - _of_weights(zero, weight)
    return convolution([value, weight], a, n)


def _q_linear_conv(x: Inputs, a: Attributes, n: int) -> mx.array:
    weight = _real(x[3])
    weight = weight - _of_weights(x[5], weight)
    product = convolution([_less_zero(x[0], x[2], False), weight], a, n)
    each = [1, -1, *[1] * (product.ndim - 2)]
    bias = _given(x, 8)
    if bias is not None:
        product = product + _real(bias).reshape(each)
    scale = _real(x[4]).reshape(-1)
    scale = scale.reshape(()) if scale.size == 1 else scale.reshape(each)
    scaled = product * (_real(x[1]).reshape(()) * scale / _real(x[6]).reshape(()))
    return _rounded(scaled, _real(x[7]).reshape(()), *_range(x[7], a))


def _dynamic_lstm(x: Inputs, a: Attributes, n: int) -> list[mx.array]:
    """LSTM of onnxruntime's quantiser: weights, inputs and states are whole numbers in products."""
    weights = []
    for place, scale, zero in ((1, 8, 9), (2, 10, 11)):
        whole = _real(x[place])
        each = [_real(x[k]).reshape(whole.shape[0], 1, -1) for k in (scale, zero)]
        weights.append(mx.swapaxes((whole - each[1]) * each[0], 1, 2))
    return _rounded_lstm([_as_rounded(_real(x[0])), *weights, *x[3:8]], a, n)


def _as_rounded(value: mx.array) -> mx.array:
    """What an array is once it has been rounded to whole numbers and back."""
    whole, scale, zero = dynamically(value)
    return (whole - zero) * scale


_rounded_lstm = lstm(_as_rounded)


QUANTISED: dict[str, Operator] = {
    "ConvInteger": _conv_integer,
    "DequantizeLinear": _dequantize,
    "DynamicQuantizeLinear": _dynamic_quantize,
    "com.microsoft.DynamicQuantizeLSTM": _dynamic_lstm,
    "MatMulInteger": _matmul_integer,
    "QLinearConv": _q_linear_conv,
    "QLinearMatMul": _q_linear_matmul,
    "QuantizeLinear": _quantize,
}
