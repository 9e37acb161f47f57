"""Operators that act on each entry separately."""

import math
from collections.abc import Callable
from typing import Any

import mlx.core as mx

from mlx_entk.onnx.operators.values import Attributes, Inputs, Operator, as_mlx, choice, mlx_dtype


def _unary(function: Callable[..., mx.array]) -> Operator:
    return lambda x, a, n: function(as_mlx(x[0]))


def _binary(function: Any) -> Operator:
    return lambda x, a, n: function(as_mlx(x[0]), as_mlx(x[1]))


def _variadic(function: Callable[..., mx.array]) -> Operator:
    def apply(x: Inputs, a: Attributes, n: int) -> mx.array:
        total = as_mlx(x[0])
        for other in x[1:]:
            total = function(total, as_mlx(other))
        return total

    return apply


def _mean(x: Inputs, a: Attributes, n: int) -> mx.array:
    total = _variadic(mx.add)(x, a, n)
    assert isinstance(total, mx.array)
    return total / len(x)


def _divide(x: Inputs, a: Attributes, n: int) -> mx.array:
    dividend, divisor = as_mlx(x[0]), as_mlx(x[1])
    if mx.issubdtype(dividend.dtype, mx.integer):  # rounds towards zero
        magnitude = mx.abs(dividend) // mx.abs(divisor)
        same_sign = (dividend < 0) == (divisor < 0)
        return mx.where(same_sign, magnitude, -magnitude).astype(dividend.dtype)
    return dividend / divisor


def _modulo(x: Inputs, a: Attributes, n: int) -> mx.array:
    dividend, divisor = as_mlx(x[0]), as_mlx(x[1])
    if a.get("fmod", 0):
        remainder = mx.remainder(mx.abs(dividend), mx.abs(divisor))
        return mx.where(dividend < 0, -remainder, remainder).astype(dividend.dtype)
    return mx.remainder(dividend, divisor)


def _power(x: Inputs, a: Attributes, n: int) -> mx.array:
    base, exponent = as_mlx(x[0]), as_mlx(x[1])
    if not mx.issubdtype(base.dtype, mx.integer):
        return mx.power(base, exponent).astype(base.dtype)
    # MLX's power of integers knows no negative exponents.
    wide = mx.power(base.astype(mx.float32), exponent.astype(mx.float32)).astype(base.dtype)
    if not mx.issubdtype(exponent.dtype, mx.integer):
        return wide
    return mx.where(exponent < 0, wide, mx.power(base, mx.maximum(exponent, 0))).astype(base.dtype)


def _bit_shift(x: Inputs, a: Attributes, n: int) -> mx.array:
    value, count = as_mlx(x[0]), as_mlx(x[1])
    direction = choice(a, "direction", "LEFT", "RIGHT")
    possible = (count >= 0) & (count < 8 * value.dtype.size)
    count = mx.where(possible, count, mx.zeros((), dtype=count.dtype))
    zero = mx.zeros((), dtype=value.dtype)
    if direction == "LEFT":
        return mx.where(possible, mx.left_shift(value, count), zero)
    return mx.where(possible, mx.right_shift(value, count), mx.where(value < 0, ~zero, zero))


def _cast(x: Inputs, a: Attributes, n: int) -> mx.array:
    return as_mlx(x[0]).astype(mlx_dtype(a["to"]))


def _clip(x: Inputs, a: Attributes, n: int) -> mx.array:
    value = as_mlx(x[0])
    if len(x) > 1 and x[1] is not None:
        value = mx.maximum(value, as_mlx(x[1]))
    if len(x) > 2 and x[2] is not None:
        value = mx.minimum(value, as_mlx(x[2]))
    return value


def _is_infinite(x: Inputs, a: Attributes, n: int) -> mx.array:
    value = as_mlx(x[0])
    infinite = mx.zeros(value.shape, dtype=mx.bool_)
    if a.get("detect_positive", 1):
        infinite = infinite | (value == math.inf)
    if a.get("detect_negative", 1):
        infinite = infinite | (value == -math.inf)
    return infinite


_BINARY: dict[str, Any] = {
    "Add": mx.add, "And": mx.logical_and, "BitwiseAnd": mx.bitwise_and,
    "BitwiseOr": mx.bitwise_or, "BitwiseXor": mx.bitwise_xor, "Equal": mx.equal,
    "Greater": mx.greater, "GreaterOrEqual": mx.greater_equal, "Less": mx.less,
    "LessOrEqual": mx.less_equal, "Mul": mx.multiply, "Or": mx.logical_or, "Sub": mx.subtract,
    "Xor": mx.not_equal,
}  # fmt: skip

ELEMENTWISE: dict[str, Operator] = {
    **{
        name: _unary(function)
        for name, function in {
            "Abs": mx.abs, "Acos": mx.arccos, "Acosh": mx.arccosh, "Asin": mx.arcsin,
            "Asinh": mx.arcsinh, "Atan": mx.arctan, "Atanh": mx.arctanh,
            "BitwiseNot": mx.bitwise_invert, "Ceil": mx.ceil, "Cos": mx.cos, "Cosh": mx.cosh,
            "Erf": mx.erf, "Exp": mx.exp, "Floor": mx.floor,
            "Identity": lambda v: v, "IsNaN": mx.isnan, "Log": mx.log, "Neg": mx.negative,
            "Not": mx.logical_not, "Reciprocal": mx.reciprocal, "Round": mx.round,
            "Sign": mx.sign, "Sin": mx.sin, "Sinh": mx.sinh, "Sqrt": mx.sqrt, "Tan": mx.tan,
            "Tanh": mx.tanh,
        }.items()
    },
    **{name: _binary(function) for name, function in _BINARY.items()},
    "BitShift": _bit_shift,
    "Cast": _cast,
    "CastLike": lambda x, a, n: as_mlx(x[0]).astype(as_mlx(x[1]).dtype),
    "Clip": _clip,
    "Div": _divide,
    "IsInf": _is_infinite,
    "Max": _variadic(mx.maximum),
    "Mean": _mean,
    "Min": _variadic(mx.minimum),
    "Mod": _modulo,
    "Pow": _power,
    "Sum": _variadic(mx.add),
    "Where": lambda x, a, n: mx.where(as_mlx(x[0]), as_mlx(x[1]), as_mlx(x[2])),
}  # fmt: skip
