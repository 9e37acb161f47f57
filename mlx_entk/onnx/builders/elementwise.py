"""Primitives that act on each entry separately."""

import math

import mlx.core as mx

from mlx_entk.onnx.builders.primitive import (
    UNSIGNED,
    Builder,
    Primitive,
    as_int64,
    is_float,
    is_infinite,
)
from mlx_entk.onnx.emitter import Emitter


def _same(kind: str) -> Builder:
    """Return a builder for a primitive that ONNX has under another name."""
    return lambda e, p: e.op(kind, p.inputs)


def _rounded(kind: str) -> Builder:
    """Return a builder for a rounding, which ONNX does not define for whole numbers."""
    return lambda e, p: e.op(kind, p.inputs) if is_float(p.dtypes[0]) else p.inputs[0]


def _equal(e: Emitter, p: Primitive) -> str:
    equal = e.op("Equal", p.inputs)
    if not p.arguments[0] or not is_float(p.dtypes[0]):
        return equal
    both_nan = e.op("And", [e.op("IsNaN", [value]) for value in p.inputs])
    return e.op("Or", [equal, both_nan])


def _square(e: Emitter, p: Primitive) -> str:
    return e.op("Mul", [p.inputs[0], p.inputs[0]])


def _sqrt(e: Emitter, p: Primitive) -> str:
    root = e.op("Sqrt", p.inputs)
    return e.op("Reciprocal", [root]) if p.arguments[0] else root


def _log(e: Emitter, p: Primitive) -> str:
    natural = e.op("Log", p.inputs)
    base = (2.0, 10.0, math.e)[p.arguments[0]]
    if base == math.e:
        return natural
    return e.op("Mul", [natural, e.number(1 / math.log(base), p.dtypes[0])])


def _log1p(e: Emitter, p: Primitive) -> str:
    # log(1 + x)·x / ((1 + x) − 1) keeps the digits of a small x (Kahan); if 1 + x = 1 it is x.
    x, one = p.inputs[0], e.number(1, p.dtypes[0])
    shifted = e.op("Add", [x, one])
    back = e.op("Sub", [shifted, one])
    rounds = e.op("Equal", [back, e.number(0, p.dtypes[0])])
    infinite = is_infinite(e, x, p.dtypes[0])
    safe = e.op("Where", [rounds, one, back])
    log = e.op("Log", [shifted])
    value = e.op("Where", [rounds, x, e.op("Mul", [log, e.op("Div", [x, safe])])])
    return e.op("Where", [infinite, log, value])


def _expm1(e: Emitter, p: Primitive) -> str:
    # tanh(x/2)·(e^x + 1) keeps the digits of a small x; for a large x, e^x − 1 is exact enough.
    x, one = p.inputs[0], e.number(1, p.dtypes[0])
    exp = e.op("Exp", [x])
    half = e.op("Tanh", [e.op("Mul", [x, e.number(0.5, p.dtypes[0])])])
    small = e.op("Less", [e.op("Abs", [x]), one])
    bounded = e.op("Where", [small, exp, one])
    precise = e.op("Mul", [half, e.op("Add", [bounded, one])])
    return e.op("Where", [small, precise, e.op("Sub", [exp, one])])


def _log_add_exp(e: Emitter, p: Primitive) -> str:
    # max + log(1 + e^−|difference|); the difference of equal infinities would be NaN.
    a, b = p.inputs
    larger = e.op("Max", [a, b])
    zero = e.number(0, p.dtypes[0])
    difference = e.op("Where", [e.op("Equal", [a, b]), zero, e.op("Sub", [a, b])])
    small = e.op("Exp", [e.op("Neg", [e.op("Abs", [difference])])])
    log = e.op("Log", [e.op("Add", [small, e.number(1, p.dtypes[0])])])
    return e.op("Add", [larger, log])


def _arctan2(e: Emitter, p: Primitive) -> str:
    y, x = p.inputs
    dtype = p.dtypes[0]
    zero = e.number(0, dtype)
    x_is_zero = e.op("Equal", [x, zero])
    safe = e.op("Where", [x_is_zero, e.number(1, dtype), x])
    angle = e.op("Atan", [e.op("Div", [y, safe])])
    below = e.op("Less", [y, zero])
    half_turn = e.op("Where", [below, e.number(-math.pi, dtype), e.number(math.pi, dtype)])
    turned = e.op("Add", [angle, half_turn])
    angle = e.op("Where", [e.op("Less", [x, zero]), turned, angle])
    upright = e.op("Mul", [e.op("Sign", [y]), e.number(math.pi / 2, dtype)])
    return e.op("Where", [x_is_zero, upright, angle])


def _logical(kind: str) -> Builder:
    def build(e: Emitter, p: Primitive) -> str:
        values = [
            name if dtype == mx.bool_ else e.cast(name, mx.bool_)
            for name, dtype in zip(p.inputs, p.dtypes, strict=True)
        ]
        return e.op(kind, values)

    return build


def _bitwise(e: Emitter, p: Primitive) -> str:
    kind = p.arguments[0]
    if kind > 2:
        return _shift(e, p, left=kind == 3)
    name = ("And", "Or", "Xor")[kind]
    return e.op(name if p.dtypes[0] == mx.bool_ else f"Bitwise{name}", p.inputs)


def _shift(e: Emitter, p: Primitive, left: bool) -> str:
    """Shift bits: a product with a power of two, or its quotient rounded down.

    ONNX's BitShift takes unsigned integers, for which negative ones have to be taken apart. Here
    they are shifted in int64, by half of the number and then by the rest, so that each power of
    two is itself an int64.
    """
    value, by = (as_int64(e, *given) for given in zip(p.inputs, p.dtypes, strict=True))
    half = e.op("Div", [by, e.constant(2)])
    for places in (half, e.op("Sub", [by, half])):
        power = e.op("Pow", [e.constant(2), places])
        value = e.op("Mul", [value, power]) if left else _divided_down(e, value, power)
    dtype = p.output_dtypes[0]
    return value if dtype in UNSIGNED or dtype == mx.int64 else e.cast(value, dtype)


def _divided_down(e: Emitter, a: str, b: str) -> str:
    """Divide whole numbers and round down, where Div alone rounds towards zero."""
    return e.op("Div", [e.op("Sub", [a, e.op("Mod", [a, b])]), b])


def _floor_divide(e: Emitter, p: Primitive) -> str:
    a, b = p.inputs
    if is_float(p.dtypes[0]):
        return e.op("Floor", [e.op("Div", [a, b])])
    return _divided_down(e, a, b)


def _remainder(e: Emitter, p: Primitive) -> str:
    if not is_float(p.dtypes[0]):
        return e.op("Mod", p.inputs)
    a, b = p.inputs
    whole = e.op("Floor", [e.op("Div", [a, b])])
    return e.op("Sub", [a, e.op("Mul", [whole, b])])


def _div_mod(e: Emitter, p: Primitive) -> list[str]:
    return [_floor_divide(e, p), _remainder(e, p)]


def _as_type(e: Emitter, p: Primitive) -> str:
    return e.cast(p.inputs[0], p.arguments[0])


_UNARY = {
    "Abs": "Abs", "ArcCos": "Acos", "ArcCosh": "Acosh", "ArcSin": "Asin", "ArcSinh": "Asinh",
    "ArcTan": "Atan", "ArcTanh": "Atanh", "Cos": "Cos", "Cosh": "Cosh", "Erf": "Erf",
    "Exp": "Exp", "Negative": "Neg", "Sigmoid": "Sigmoid", "Sign": "Sign", "Sin": "Sin",
    "Sinh": "Sinh", "Tan": "Tan", "Tanh": "Tanh",
}  # fmt: skip
_BINARY = {
    "Add": "Add", "Divide": "Div", "Greater": "Greater", "GreaterEqual": "GreaterOrEqual",
    "Less": "Less", "LessEqual": "LessOrEqual", "Maximum": "Max", "Minimum": "Min",
    "Multiply": "Mul", "Power": "Pow", "Subtract": "Sub",
}  # fmt: skip

ELEMENTWISE: dict[str, Builder] = {
    **{name: _same(kind) for name, kind in (_UNARY | _BINARY).items()},
    **{name: _rounded(name) for name in ("Ceil", "Floor", "Round")},
    "ArcTan2": _arctan2,
    "AsType": _as_type,
    "BitwiseBinary": _bitwise,
    "DivMod": _div_mod,
    "Equal": _equal,
    "Expm1": _expm1,
    "FloorDivide": _floor_divide,
    "Log": _log,
    "Log1p": _log1p,
    "LogAddExp": _log_add_exp,
    "LogicalAnd": _logical("And"),
    "LogicalNot": _logical("Not"),
    "LogicalOr": _logical("Or"),
    "NotEqual": lambda e, p: e.op("Not", [e.op("Equal", p.inputs)]),
    "Remainder": _remainder,
    "Select": lambda e, p: e.op("Where", p.inputs),
    "Sqrt": _sqrt,
    "Square": _square,
}
