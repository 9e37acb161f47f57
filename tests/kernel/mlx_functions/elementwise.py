"""Functions of each entry, with complex numbers too, and the operators of arrays."""

import copy

import mlx.core as mx

from tests.kernel.cases import words
from tests.kernel.mlx_functions.registry import LARGE, POSITIVE, UNIT, Function, case


def add_elementwise() -> None:
    for name in words("""
        abs arctan arcsinh cos cosh erf exp expm1 negative positive sigmoid sin sinh square tanh
        nan_to_num degrees radians real
    """):
        case(name, getattr(mx, name), (3,), alone=True)
    for name in ("arccos", "arcsin", "arctanh", "erfinv", "tan"):
        case(name, getattr(mx, name), (3,), values=UNIT, alone=True)
    for name in ("log", "log10", "log1p", "log2", "reciprocal", "rsqrt", "sqrt"):
        case(name, getattr(mx, name), (3,), values=POSITIVE, alone=True)
    case("arccosh", mx.arccosh, (3,), values=LARGE, alone=True)
    for name in words("""
        ceil floor round sign trunc isfinite isinf isnan isneginf isposinf logical_not
    """):
        case(name, getattr(mx, name), (3,), values=POSITIVE, rest=True)
    for name in words("""
        add divide logaddexp maximum minimum multiply power remainder subtract
    """):
        case(name, getattr(mx, name), (3,), (3,), values=POSITIVE)
        case(f"{name}:shared", getattr(mx, name), (3,), (3,), values=POSITIVE, shared=[1])
    case("arctan2", mx.arctan2, (3,), (3,))
    case("divmod", mx.divmod, (3,), (3,), values=POSITIVE)
    for name in words("""
        equal floor_divide greater greater_equal less less_equal not_equal isclose logical_and
        logical_or logical_xor
    """):
        case(name, getattr(mx, name), (3,), (3,), values=POSITIVE, fixed=[1], rest=True)
    case("where", lambda a, b: mx.where(a > b, a, b * 2), (3,), (3,))
    constant = mx.array([True, False, True])
    case("where:constant mask", lambda a, b: mx.where(constant, a, b), (3,), (3,))
    case("where:mask of rows", lambda a, b: mx.where(a[:, :1] > 0, a, b), (3,), (3,))
    case("where:shared", lambda a, b: mx.where(a > 0, b, a), (3,), (3,), shared=[1])
    case("clip", lambda a: mx.clip(a, -0.5, 0.5), (4,))
    clip = lambda a, b, c: mx.clip(a, b - 0.2, c + 0.2)  # noqa: E731
    case("clip:arrays", clip, (4,), (4,), (4,), values=POSITIVE)
    for dtype in (mx.float16, mx.bfloat16):
        case(
            f"astype:{dtype}",
            lambda a, t=dtype: mx.astype(a, t),
            (3,),
            tolerance=3e-2,
            decreed=True,
        )
    case("astype:complex64", lambda a: mx.astype(a, mx.complex64) ** 2, (3,))
    case("view", lambda a: mx.view(a, mx.float32), (3,))
    case(
        "linalg.norm:weight norm",
        lambda a: a / mx.linalg.norm(a, axis=-1, keepdims=True),
        (3,),
        alone=True,
    )


def add_complex() -> None:
    def of(function: Function) -> Function:
        return lambda a, b: function(a + 1j * b, b + 2j * a)

    for name in ("exp", "log", "sin", "cos", "tanh", "sqrt", "square", "reciprocal", "abs"):
        function = getattr(mx, name)
        case(f"{name}:complex", lambda a, b, f=function: f(a + 1j * b), (3,), (3,), values=POSITIVE)
    case("conjugate", of(lambda a, b: mx.conjugate(a) * b), (3,), (3,), covers="conj imag real")
    case("multiply:complex", of(mx.multiply), (3,), (3,))
    case("divide:complex", of(mx.divide), (3,), (3,), values=POSITIVE)
    case("matmul:complex", of(mx.matmul), (2, 2), (2, 2))
    case("power:complex", of(mx.power), (3,), (3,), values=POSITIVE)
    case("sum:complex", of(lambda a, b: mx.sum(a * b, axis=-1)), (3,), (3,))
    case("prod:complex", of(lambda a, b: mx.prod(a, axis=-1)), (3,), (3,), values=POSITIVE)


def add_operators() -> None:
    """The operators of arrays; each is also tried with the array on its right or in place."""
    signs = {
        "add": "add", "sub": "subtract", "mul": "multiply", "truediv": "divide", "pow": "power",
        "mod": "remainder", "div": "divide",
    }  # fmt: skip
    for sign in signs:
        for place in ("", "r", "i"):
            method = f"__{place}{sign}__"
            if hasattr(mx.array, method):
                case(
                    f"array.{method}",
                    lambda a, b, m=method: getattr(a * 1, m)(b),
                    (3,),
                    (3,),
                    values=POSITIVE,
                    fixed=[1],
                )
    for method in ("__matmul__", "__imatmul__"):
        case(
            f"array.{method}",
            lambda a, b, m=method: getattr(a * 1, m)(b),
            (2, 2),
            (2, 2),
            fixed=[1],
        )
    for method in ("__abs__", "__neg__", "__pos__", "__copy__"):
        case(f"array.{method}", lambda a, m=method: getattr(a, m)(), (3,))
    case("array.__deepcopy__", copy.deepcopy, (3,))
    for method in ("__floordiv__", "__rfloordiv__", "__ifloordiv__"):
        case(
            f"array.{method}",
            lambda a, b, m=method: getattr(a * 1, m)(b),
            (3,),
            (3,),
            values=POSITIVE,
            fixed=[1],
            rest=True,
        )


def add() -> None:
    """Register all of them."""
    add_elementwise()
    add_complex()
    add_operators()
