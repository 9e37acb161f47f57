"""The public functions of MLX as small models f(w, x), and those that have no derivative.

A case puts the weight where one argument of a function is: as the argument itself where the
function shares it between rows, as w ⊙ x where it has a batch axis, and once more by itself where
it is the only argument. Behind the function come a sine, so that derivatives differ between
inputs, and a matrix, so that a cotangent reaches all of the function's outputs.
"""

import copy
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

Shape = tuple[int, ...]
Floats = NDArray[np.float32]
Model = Callable[[mx.array, mx.array], mx.array]
Function = Callable[..., Any]

N, C = 3, 2
# Ranges of w and x, and so of w ⊙ x. None is symmetric: zero, where some functions have a kink,
# is no middle of a grid.
ANY, UNIT, POSITIVE, LARGE = (-1.5, 1.3), (-0.9, 0.8), (0.5, 1.3), (1.1, 1.6)


@dataclass(frozen=True, eq=False)
class Case:
    """A model f(w, x), with the public functions that it is there for.

    Attributes
    ----------
    name
        Of the test.
    covers
        Public functions, as in ``fast.rope`` for ``mx.fast.rope``.
    function
        f(w, x) of shape (n, C) for n rows x.
    weight, rows
        w, and N rows.
    tolerance
        How far a kernel may be from the reference, over the largest entry.
    decreed
        Whether the derivative is one by decree (a straight-through estimator, say), which
        differences of the values do not show.
    """

    name: str
    covers: tuple[str, ...]
    function: Model
    weight: Floats
    rows: Floats
    tolerance: float
    decreed: bool


CASES: list[Case] = []


def words(text: str) -> list[str]:
    """The words of a text."""
    return text.split()


def seeded(text: str) -> np.random.Generator:
    """Random numbers that depend on a text alone."""
    # With 5, no case is within the step of a difference of a kink.
    return np.random.default_rng([5, zlib.crc32(text.encode())])


def numbers(seed: str, shape: Sequence[int], low: float, high: float) -> Floats:
    """Random numbers in a range, no two of them close."""
    generator = seeded(seed)
    size = int(np.prod(shape))
    steps = (np.arange(size) + generator.uniform(0.3, 0.7, size)) / size
    values = low + (high - low) * generator.permutation(steps)
    return np.asarray(values.reshape(shape), dtype=np.float32)


def matrix(seed: str, rows: int, columns: int) -> mx.array:
    """A fixed random matrix."""
    return mx.array(seeded(seed).uniform(-1, 1, (rows, columns)).astype(np.float32))


def derived(seed: str, x: mx.array, shape: Shape) -> mx.array:
    """Arguments of another shape made of rows x, within the range of x, shape (n, *shape)."""
    rows = x.reshape(x.shape[0], -1)
    weights = mx.abs(matrix(seed, rows.shape[1], int(np.prod(shape))))
    return (rows @ (weights / weights.sum(axis=0))).reshape(x.shape[0], *shape)


def flat(outputs: Any, n: int) -> mx.array:
    """Outputs of any shape, number and type as real rows, shape (n, size)."""
    parts = outputs if isinstance(outputs, list | tuple) else [outputs]
    rows = []
    for part in parts:
        row = part.reshape(n, -1)
        real = [mx.real(row), mx.imag(row)] if part.dtype == mx.complex64 else [row]
        rows += [values.astype(mx.float32) for values in real]
    return rows[0] if len(rows) == 1 else mx.concatenate(rows, axis=1)


def case(
    name: str,
    function: Function,
    *arguments: Shape,
    covers: str = "",
    values: tuple[float, float] = ANY,
    shared: Sequence[int] = (),
    fixed: Sequence[int] = (),
    rest: bool = False,
    alone: bool = False,
    tolerance: float = 1e-4,
    decreed: bool = False,
) -> None:
    """Register a function of arrays, once for each argument that a weight can stand for.

    Parameters
    ----------
    name, covers
        ``name`` is a public function, with what tells cases apart behind a colon; ``covers``
        has others, separated by spaces.
    function
        Takes the arguments, of shape (n, *shape), or ``shape`` for those in ``shared``.
    arguments
        Shapes.
    values
        Range of arguments.
    shared, fixed
        Numbers of arguments without a batch axis, and of those that no weight stands for.
    rest
        Whether the argument itself is added to what the function gives, for a function whose
        derivative is zero.
    alone
        Whether the only argument is also the weight by itself.
    """
    names = (name.partition(":")[0], *words(covers))
    batched = [number for number in range(len(arguments)) if number not in shared]

    def finish(outputs: Any, argument: mx.array, n: int) -> mx.array:
        rows = flat(outputs, n)
        return rows + argument.reshape(n, -1) if rest else rows

    def mix(rows: mx.array) -> mx.array:
        return mx.sin(rows) @ matrix(f"{name} out", rows.shape[1], C)

    def model(place: int, w: mx.array, x: mx.array) -> mx.array:
        given = []
        for number, shape in enumerate(arguments):
            if number in shared:
                value = mx.array(numbers(f"{name} {number}", shape, *values))
            elif number == batched[0]:
                value = x
            else:
                value = derived(f"{name} {number}", x, shape)
            if number == place:
                value = w if number in shared else w * value
            given.append(value)
        return mix(finish(function(*given), given[place], x.shape[0]))

    def weight_alone(w: mx.array, x: mx.array) -> mx.array:
        rows = finish(function(w[None]), w[None], 1)
        return mix(rows * derived(name, x, rows.shape[1:]))

    def register(label: str, place: int, function: Model) -> None:
        weight = numbers(label, arguments[place], *values)
        rows = numbers(f"{label} rows", (N, *arguments[batched[0]]), *values)
        CASES.append(Case(label, names, function, weight, rows, tolerance, decreed))

    for place in range(len(arguments)):
        if place not in fixed:
            label = name if len(arguments) == 1 else f"{name} [{place}]"
            register(label, place, partial(model, place))
    if len(arguments) == 1 and alone:
        register(f"{name} of the weight", 0, weight_alone)


def each(function: Function) -> Function:
    """A function of the arguments of one row, applied row by row."""

    def apply(*arguments: mx.array) -> Any:
        results = [function(*row) for row in zip(*arguments, strict=True)]
        if isinstance(results[0], list | tuple):
            return [mx.stack(list(parts)) for parts in zip(*results, strict=True)]
        return mx.stack(results)

    return apply


def first_each(function: Function) -> Function:
    """The same where the rows share all arguments but the first."""
    return lambda a, *shared: mx.stack([function(row, *shared) for row in a])


def fixed_index(function: Function) -> Function:
    """An index of values, without the derivative that MLX would look for."""
    return lambda a, *rest: function(mx.stop_gradient(a), *rest)


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


def add_products() -> None:
    case("matmul", mx.matmul, (2, 3), (3, 2))
    case("matmul:shared right", mx.matmul, (2, 3), (3, 2), shared=[1])
    case("matmul:shared left", lambda b, a: mx.matmul(a, b), (3, 2), (2, 3), shared=[1])
    case("matmul:vector", mx.matmul, (3,), (3, 2), shared=[1])
    case("matmul:broadcast", lambda a, b: a[:, None] @ b, (2, 3), (4, 3, 2))
    case("addmm", mx.addmm, (2, 2), (2, 3), (3, 2))
    scaled = partial(mx.addmm, alpha=0.5, beta=-2.0)
    case("addmm:scaled", scaled, (2, 2), (2, 3), (3, 2))
    case("addmm:shared", scaled, (2, 2), (2, 3), (3, 2), shared=[0, 2])
    case("addmm:bias", scaled, (2,), (2, 3), (3, 2), shared=[0, 2])
    case("addmm:row", scaled, (2,), (3,), (3, 2), shared=[0, 2])
    case("inner", each(mx.inner), (2, 3), (4, 3))
    case("inner:shared", mx.inner, (2, 3), (4, 3), shared=[1])
    case("outer", each(mx.outer), (3,), (2,))
    case("outer:with itself", each(lambda a: mx.outer(a, a)), (3,))
    case("kron", each(mx.kron), (2, 2), (2, 1))
    contract = partial(mx.tensordot, axes=[[1, 2], [1, 0]])
    case("tensordot", contract, (3, 2), (2, 3, 2), shared=[1])
    case("vecdot", mx.vecdot, (2, 3), (2, 3))
    case("vecdot:shared", mx.vecdot, (2, 3), (1, 2, 3), shared=[1])
    case("einsum", partial(mx.einsum, "nij,njk->nik"), (2, 3), (3, 2))
    case("einsum:shared", partial(mx.einsum, "nij,jk->nik"), (2, 3), (3, 2), shared=[1])
    case("einsum:trace", partial(mx.einsum, "nii,nij->nj"), (3, 3), (3, 2))
    case("einsum:three", partial(mx.einsum, "ni,ij,nj->n"), (2,), (2, 3), (3,), shared=[1])
    case("linalg.cross", mx.linalg.cross, (3,), (3,))
    for mode in ("full", "same", "valid"):
        case(f"convolve:{mode}", each(partial(mx.convolve, mode=mode)), (5,), (3,))
    case("hadamard_transform", mx.hadamard_transform, (4,))
    case("hadamard_transform:scaled", partial(mx.hadamard_transform, scale=0.3), (12,))

    def experts(a: mx.array, b: mx.array) -> mx.array:
        """Experts chosen by the row itself, as in a mixture of experts."""
        chosen = mx.argmax(mx.stop_gradient(a[:, 0]), axis=-1, keepdims=True)
        return mx.gather_mm(a[:, None], b, rhs_indices=chosen)

    case("gather_mm", experts, (2, 3), (3, 3, 2), shared=[1])
    gather = partial(mx.gather_mm, lhs_indices=mx.array([1, 0, 1]), rhs_indices=mx.array([0, 1, 1]))
    case("gather_mm:both sides", first_each(gather), (2, 1, 3), (3, 3, 2), shared=[1])
    case("gather_mm:of the row", each(gather), (2, 1, 3), (2, 3, 2))
    mask = mx.array([[True, False], [True, True]])

    def blocks(a: mx.array, b: mx.array) -> mx.array:
        return mx.block_masked_mm(a, b, 32, mask, mask, mask)[:, ::21, ::21]

    case("block_masked_mm", blocks, (33, 33), (33, 33), shared=[1])
    segments = mx.array([[0, 1], [1, 4]], dtype=mx.uint32)
    segmented = partial(mx.segmented_mm, segments=segments)
    case("segmented_mm", first_each(segmented), (2, 4), (4, 3), shared=[1])


def add_quantized() -> None:
    wide = mx.array(numbers("quantized", (3, 4, 64), -0.3, 0.3))
    how: dict[str, Any] = {"group_size": 64, "bits": 8}
    packed, scales, biases = mx.quantize(wide, **how)

    def widen(a: mx.array) -> mx.array:
        """Rows as long as a group."""
        return mx.concatenate([a, a[..., ::-1]] * 8, axis=-1)

    def chosen(a: mx.array) -> mx.array:
        return mx.argmax(mx.stop_gradient(a[:, :3]), axis=-1)

    def multiply(a: mx.array, s: mx.array, b: mx.array) -> mx.array:
        return mx.quantized_matmul(widen(a), packed[0], s, b, **how)

    def gather(a: mx.array, s: mx.array, b: mx.array) -> mx.array:
        return mx.gather_qmm(widen(a)[:, None], packed, s, b, rhs_indices=chosen(a), **how)

    def dequantize(a: mx.array, s: mx.array, b: mx.array) -> mx.array:
        return a * mx.dequantize(packed[0], 0.01 * s, b, **how)[:, 0]

    def there_and_back(a: mx.array) -> mx.array:
        return mx.dequantize(*mx.quantize(widen(a), **how), **how)[..., :4]

    def transposed(a: mx.array) -> mx.array:
        return mx.quantized_matmul(a, packed[0], scales[0], biases[0], transpose=False, **how)

    def narrow(function: Function, scales: mx.array, biases: mx.array) -> Function:
        return lambda a: function(a, scales, biases)

    case("quantized_matmul", narrow(multiply, scales[0], biases[0]), (4,))
    case("quantized_matmul:not transposed", lambda a: transposed(a)[..., ::16], (4,))
    case(
        "quantized_matmul:scales",
        lambda a, s, b: multiply(a, 1e-3 * s, 0.1 * b),
        (4,),
        (4, 1),
        (4, 1),
        shared=[1, 2],
    )
    case("gather_qmm", narrow(gather, scales, biases), (4,))
    case(
        "gather_qmm:scales",
        lambda a, s, b: gather(a, 1e-3 * s, 0.1 * b),
        (4,),
        (3, 4, 1),
        (3, 4, 1),
        shared=[1, 2],
    )
    case("dequantize", dequantize, (4,), (4, 1), (4, 1), shared=[1, 2])
    case("quantize", there_and_back, (4,), rest=True, decreed=True)
    case(
        "to_fp8",
        lambda a: mx.from_fp8(mx.to_fp8(a), mx.float32),
        (4,),
        covers="from_fp8",
        rest=True,
        decreed=True,
    )


def add_convolutions() -> None:
    for d in (1, 2, 3):
        more, twos, threes = (1,) * (d - 1), (2,) * (d - 1), (3,) * (d - 1)
        plain: dict[str, tuple[Shape, Shape, dict[str, Any]]] = {
            "plain": ((4, *more, 2), (3, 2, *more, 2), {}),
            "stride": ((5, *more, 2), (2, 3, *more, 2), {"stride": 2}),
            "padding": ((3, *threes, 1), (2, 2, *twos, 1), {"padding": 1}),
            "dilation": ((5, *more, 2), (2, 2, *more, 2), {"dilation": 2}),
            "rows left over": ((9, *more, 1), (2, 4, *more, 1), {"stride": 4}),
            "1x1 stride 2": ((4, *twos, 2), (2, *[1] * d, 2), {"stride": 2}),
            "groups": ((3, *more, 4), (4, 2, *more, 2), {"groups": 2}),
            "depthwise": ((3, *more, 3), (3, 2, *more, 1), {"groups": 3}),
            "depthwise twice": ((3, *more, 2), (4, 2, *more, 1), {"groups": 2}),
            "groups and stride": (
                (5, *threes, 4), (2, 2, *more, 2), {"groups": 2, "stride": 2, "padding": 1}
            ),
        }  # fmt: skip
        transposed: dict[str, tuple[Shape, Shape, dict[str, Any]]] = {
            "plain": ((2, *more, 2), (2, 2, *more, 2), {}),
            "stride": ((2, *more, 2), (2, 3, *more, 2), {"stride": 2}),
            "padding": ((3, *twos, 1), (2, 2, *twos, 1), {"padding": 1}),
            "dilation": ((2, *more, 2), (2, 2, *more, 2), {"dilation": 2}),
            "output padding": (
                (2, *twos, 1), (2, *[2] * d, 1), {"stride": 2, "output_padding": 1}
            ),
            "groups": ((2, *more, 4), (2, 2, *more, 2), {"groups": 2}),
            "depthwise": ((2, *more, 3), (3, 2, *more, 1), {"groups": 3}),
            "groups and stride": (
                (3, *threes, 4), (2, 3, *more, 2), {"groups": 2, "stride": 2, "padding": 1}
            ),
        }  # fmt: skip
        for name, cases in ((f"conv{d}d", plain), (f"conv_transpose{d}d", transposed)):
            for label, (rows, weight, options) in cases.items():
                if d < 3 or "groups" not in options:  # MLX has no groups in three dimensions
                    convolve = partial(getattr(mx, name), **options)
                    case(f"{name}:{label}", convolve, rows, weight, shared=[1])
        convolve = getattr(mx, f"conv{d}d")
        of_the_row = each(lambda a, b, f=convolve: f(a[None], b)[0])
        case(f"conv{d}d:kernel of the row", of_the_row, (3, *more, 2), (2, 2, *more, 2))
    general: dict[str, tuple[Shape, Shape, dict[str, Any]]] = {
        "flip": ((4, 2), (2, 3, 2), {"flip": True}),
        "flip and groups": ((4, 4), (2, 3, 2), {"flip": True, "groups": 2}),
        "input dilation": ((3, 2), (2, 2, 2), {"input_dilation": 2}),
        "input dilation 2d": ((2, 3, 1), (2, 2, 2, 1), {"input_dilation": (2, 3)}),
        "one-sided padding": ((4, 2), (2, 2, 2), {"padding": ([2], [0])}),
        "negative padding": ((6, 2), (2, 2, 2), {"padding": ([-1], [-1])}),
        "kernel dilation": ((6, 2), (2, 2, 2), {"kernel_dilation": 3}),
        "rows left over": ((5, 4, 1), (2, 2, 3, 1), {"stride": (2, 2)}),
    }
    everything = {
        "stride": (2, 1), "padding": ([1, 0], [0, 2]), "kernel_dilation": (1, 2),
        "input_dilation": (2, 1), "flip": True,
    }  # fmt: skip
    general["everything"] = (5, 5, 2), (2, 2, 3, 2), everything
    general["everything and groups"] = (5, 5, 2), (2, 2, 3, 1), everything | {"groups": 2}
    for label, (rows, weight, options) in general.items():
        convolve = partial(mx.conv_general, **options)
        case(f"conv_general:{label}", convolve, rows, weight, shared=[1])


def add_reductions() -> None:
    for name in ("sum", "mean", "max", "min", "prod", "logsumexp", "var", "std", "median"):
        function = getattr(mx, name)
        case(name, partial(function, axis=-1), (2, 3), values=POSITIVE, alone=True)
        axes = partial(function, axis=(1, -1), keepdims=True)
        case(f"{name}:axes", axes, (2, 3, 2), values=POSITIVE)
        case(f"{name}:all", each(lambda a, f=function: f(a)[None]), (2, 3), values=POSITIVE)
    case("var:ddof", partial(mx.var, axis=-1, ddof=1), (2, 3))
    case("std:ddof", partial(mx.std, axis=-1, ddof=1), (2, 3))
    case("minmax", partial(mx.minmax, axis=-1), (2, 3), values=POSITIVE)
    case("softmax", partial(mx.softmax, axis=-1), (2, 3), alone=True)
    case("softmax:axes", partial(mx.softmax, axis=(1, 2)), (2, 3))
    case("softmax:precise", partial(mx.softmax, axis=1, precise=True), (2, 3))
    case("linalg.norm", partial(mx.linalg.norm, axis=-1), (2, 3))
    case("linalg.norm:all", each(lambda a: mx.linalg.norm(a)[None]), (2, 3))
    case("matrix_norm", each(lambda a: mx.matrix_norm(a)[None]), (2, 3))
    inf = float("inf")
    for order in (1, 2, 3, 0.5, inf, -inf):
        norm = partial(mx.linalg.norm, ord=order, axis=-1)
        case(f"linalg.norm:{order}", norm, (2, 3), values=POSITIVE)
    matrix_orders: tuple[str | float, ...] = ("fro", "nuc", 1, -1, inf, -inf, 2, -2)
    for kind in matrix_orders:
        norm = partial(mx.linalg.norm, ord=kind, axis=[-2, -1], stream=mx.cpu)
        case(f"linalg.norm:matrix {kind}", norm, (2, 3), values=POSITIVE)


def add_scans() -> None:
    def finite(a: mx.array) -> mx.array:
        """Without what an exclusive maximum or minimum begins with."""
        return mx.where(mx.isfinite(a), a, 0)

    for name in ("cumsum", "cumprod", "cummax", "cummin", "logcumsumexp"):
        scan = getattr(mx, name)
        case(name, partial(scan, axis=-1), (2, 3), values=POSITIVE, alone=True)
        case(f"{name}:reverse", partial(scan, axis=1, reverse=True), (3, 2), values=POSITIVE)
        for reverse in (False, True):
            exclusive = partial(scan, axis=-1, reverse=reverse, inclusive=False)
            label = f"{name}:exclusive{' reverse' * reverse}"
            case(label, lambda a, f=exclusive: finite(f(a)), (4,), values=POSITIVE)

    def with_zero(a: mx.array) -> mx.array:
        """The second number is zero where it is, and has a derivative."""
        return a - mx.stop_gradient(a) * mx.array([0.0, 1.0, 0.0, 0.0])

    for name in ("cumprod", "prod"):
        product = partial(getattr(mx, name), axis=-1)
        case(f"{name}:a zero", lambda a, f=product: f(with_zero(a)), (4,), decreed=True)


def add_sorting() -> None:
    case("sort", partial(mx.sort, axis=-1), (5,), alone=True)
    case("sort:axis 1", partial(mx.sort, axis=1), (4, 2))
    case("sort:all", each(partial(mx.sort, axis=None)), (2, 2))
    case("partition", lambda a: mx.partition(a, 2, axis=-1)[..., 2], (5,))
    case("topk", lambda a: mx.sort(mx.topk(a, 2, axis=-1)), (5,))
    case("topk:one", lambda a: mx.topk(a, 1, axis=1), (5, 2))
    case("unique", each(partial(mx.unique, size=4)), (4,))
    indices: dict[str, Function] = {
        "argsort": partial(mx.argsort, axis=-1),
        "argpartition": lambda a: mx.argpartition(a, 2, axis=-1)[..., 2:3],
        "argmax": partial(mx.argmax, axis=-1, keepdims=True),
        "argmin": partial(mx.argmin, axis=-1, keepdims=True),
    }
    for name, index in indices.items():
        constant = fixed_index(index)
        case(
            f"{name}:with its derivative",
            lambda a, f=index: mx.take_along_axis(a, f(a), axis=-1),
            (5,),
        )
        case(
            name,
            lambda a, f=constant: mx.take_along_axis(a, f(a), axis=-1),
            (5,),
            alone=True,
        )
    for name in ("all", "any", "count_nonzero"):
        function = partial(getattr(mx, name), axis=-1, keepdims=True)
        case(name, lambda a, f=function: f(a > -9) * a, (3,))
    steps = mx.array([0.51, 0.83, 1.27])
    case("searchsorted", lambda a: mx.searchsorted(steps, a), (3,), values=POSITIVE, rest=True)


def add_shapes() -> None:
    case("reshape", lambda a: mx.reshape(a, (-1, 3, 2)), (2, 3), alone=True)
    case("flatten", lambda a: mx.flatten(a, 1), (2, 3))
    case("unflatten", lambda a: mx.unflatten(a, 1, (3, 2)), (6,))
    case("transpose", lambda a: mx.transpose(a, (0, 2, 1)), (2, 3))
    case("permute_dims", lambda a: mx.permute_dims(a, (0, 2, 1)), (2, 3))
    case("matrix_transpose", lambda a: mx.matrix_transpose(a) * a.mT, (2, 3), alone=True)
    case("swapaxes", lambda a: mx.swapaxes(a, 1, 2), (2, 3))
    case("moveaxis", lambda a: mx.moveaxis(a, 1, 2), (2, 3))
    case("squeeze", lambda a: mx.squeeze(a, 1), (1, 3))
    case("expand_dims", lambda a: mx.expand_dims(a, (1, 3)), (3,))
    case("atleast_1d", each(lambda a: mx.atleast_1d(a[0])), (3,))
    case("atleast_2d", each(mx.atleast_2d), (3,))
    case("atleast_3d", each(mx.atleast_3d), (3,))
    case("broadcast_to", lambda a: mx.broadcast_to(a[:, None], (a.shape[0], 2, 3)), (3,))
    case(
        "broadcast_arrays", lambda a, b: mx.broadcast_arrays(a[:, None], b[:, :, None]), (3,), (2,)
    )
    case("concatenate", lambda a, b: mx.concatenate([a, b, a], axis=1), (3,), (2,))
    case("concat", lambda a, b: mx.concat([a, b], axis=1), (3,), (3,))

    def with_shared(a: mx.array, b: mx.array) -> mx.array:
        """A class token before the rows, say."""
        return mx.concatenate([a, mx.broadcast_to(b, (a.shape[0], *b.shape))], axis=1)

    case("concatenate:shared", with_shared, (1, 3), (2, 3), shared=[1])
    case("stack", lambda a, b: mx.stack([a, b, b], axis=1), (3,), (3,))
    case("split", lambda a: mx.split(a, [1, 3], axis=1)[::-1], (4,))
    case("split:one part", lambda a: mx.split(a, 2, axis=-1)[1], (4,))
    case("unstack", lambda a: mx.unstack(a, axis=1)[::-1], (3, 2))
    case("tile", lambda a: mx.tile(a, (1, 2, 3)), (2, 1))
    case("repeat", partial(mx.repeat, repeats=2, axis=1), (3,))
    case("roll", lambda a: mx.roll(a, 1, 1), (4,))
    case("roll:axes", lambda a: mx.roll(mx.roll(a, 1, 1), -1, 2), (3, 3))
    case("flip", partial(mx.flip, axis=1), (3,))
    for mode in ("constant", "edge", "reflect", "symmetric"):
        case(f"pad:{mode}", partial(mx.pad, pad_width=[(0, 0), (1, 2)], mode=mode), (4,))
    case(
        "pad:value",
        lambda a, b: mx.pad(a, [(0, 0), (1, 2)], constant_values=b),
        (4,),
        (),
        shared=[1],
    )
    case("as_strided", each(lambda a: mx.as_strided(a, (3, 2), (1, 2))), (5,))
    whole = lambda a: mx.as_strided(a, (a.shape[0], 2, 2), (4, 1, 2), 0)  # noqa: E731
    case("as_strided:whole", whole, (4,))
    case("contiguous", lambda a: mx.contiguous(mx.swapaxes(a, 1, 2)), (2, 3))
    case("diag", each(mx.diag), (3,))
    case("diag:of a matrix", each(partial(mx.diag, k=1)), (3, 3))
    case("diagonal", lambda a: mx.diagonal(a, 0, 1, 2), (3, 3))
    case("diagonal:offset", lambda a: mx.diagonal(a, 1, 1, 2), (3, 3))
    case("trace", lambda a: mx.trace(a, 0, 1, 2)[:, None], (3, 3))
    case("tril", partial(mx.tril, k=-1), (3, 3), alone=True)
    case("triu", mx.triu, (3, 3))
    case("diff", partial(mx.diff, axis=1), (4,))
    case("meshgrid", each(mx.meshgrid), (2,), (3,))
    case("full", each(lambda a: mx.full((2, 3), a)), (3,), alone=True)
    case("full_like", each(lambda a: mx.full_like(mx.zeros((2, 3)), a)), (3,))
    case("asarray", each(mx.asarray), (3,))
    case("depends", lambda a, b: mx.depends(a, [b]) * b, (3,), (3,))


def add_indexing() -> None:
    at = mx.array([2, 0, 2])
    case("slice", lambda a: mx.slice(a, mx.array([1]), (1,), (a.shape[0], 2)), (4,))
    where = fixed_index(lambda a: mx.argmax(a[:2])[None])
    case("slice:place by value", each(lambda a: mx.slice(a, where(a), (0,), (2,))), (4,))
    case("slice_update", lambda a, b: mx.slice_update(a, b, mx.array([1]), (1,)), (4,), (2,))
    moving = each(lambda a, b: mx.slice_update(a, b, where(a), (0,)))
    case("slice_update:place by value", moving, (4,), (2,))
    into = each(lambda a: mx.slice_update(mx.zeros(5), a, mx.array([1]), (0,)))
    case("slice_update:into a constant", into, (3,))
    case("take", partial(mx.take, indices=at, axis=1), (3,), alone=True)
    case("take:flat", each(lambda a: mx.take(a, mx.array([3, 1]))), (2, 2))
    case("take:scalar", partial(mx.take, indices=1, axis=1), (2, 3))

    def tokens(a: mx.array) -> mx.array:
        return (mx.abs(a) * 2).astype(mx.int32)

    table: dict[str, Any] = {"shared": [1], "fixed": [0]}
    case("take:table", lambda a, b: mx.take(b, tokens(a), axis=0), (2,), (4, 3), **table)
    places = mx.array([[0, 1], [2, 0]])
    case("take_along_axis", lambda a: mx.take_along_axis(a, places[None], axis=1), (3, 2))
    most = partial(mx.argmax, axis=1, keepdims=True)
    for name, index in (
        ("put_along_axis:with its derivative", most),
        ("put_along_axis", fixed_index(most)),
        ("put_along_axis:constant", lambda a: mx.array([[2]])),
    ):
        case(name, lambda a, b, f=index: mx.put_along_axis(a, f(a), b, axis=1), (4,), (1,))

    gets: dict[str, tuple[Function, Shape]] = {
        "number": (lambda a: a[:, 1], (3, 2)),
        "slices": (lambda a: a[:, ::-1, 1:], (3, 2)),
        "negative step": (lambda a: a[:, 4:0:-2], (6,)),
        "one of a step": (lambda a: a[:, 0::2], (2, 3)),
        "array": (lambda a: a[:, at], (3, 2)),
        "two arrays": (lambda a: a[:, at, mx.array([1, 0, 1])], (3, 2)),
        "array of rows": (each(lambda a: a[at]), (3,)),
        "mixed": (each(lambda a: a[at, 1:, None, ..., mx.array(0)]), (3, 2, 2)),
        "by value": (
            lambda a: a[mx.arange(a.shape[0]), fixed_index(partial(mx.argmax, axis=1))(a)][:, None],
            (4,),
        ),
    }
    for label, (function, shape) in gets.items():
        case(f"array.__getitem__:{label}", function, shape)
    case("array.__getitem__:table", lambda a, b: b[tokens(a)], (2,), (4, 3), **table)
    case(
        "array.__getitem__:two-way table",
        lambda a, b: b[tokens(a), mx.array([0, 2])],
        (2,),
        (4, 3),
        **table,
    )
    case("array.__iter__", lambda a: list(mx.swapaxes(a, 0, 1)), (3, 2))

    def put_at(*place: Any) -> Function:
        def update(a: mx.array, b: mx.array) -> mx.array:
            a = a * 1
            a[place if len(place) > 1 else place[0]] = b
            return a

        return update

    every = slice(None)
    two = mx.array([2, 0])
    sets: dict[str, tuple[Function, Shape, Shape]] = {
        "slice": (put_at(every, slice(1, 3)), (4,), (2,)),
        "step": (put_at(every, slice(None, None, 2)), (4,), (2,)),
        "negative step": (put_at(every, slice(None, None, -2)), (4,), (2,)),
        "number": (put_at(every, 1), (3, 2), (2,)),
        "array": (put_at(every, two), (4,), (2,)),
        "two arrays": (put_at(every, two, mx.array([0, 1])), (4, 2), (2,)),
        "array of rows": (each(put_at(two)), (4,), (2,)),
    }
    for label, (function, *shapes) in sets.items():
        case(f"array.__setitem__:{label}", function, *shapes)
    between = put_at(every, slice(1, 3))
    case("array.__setitem__:broadcast", between, (4, 2), (2, 2), shared=[1])
    for label, place in (("slice", slice(1, 3)), ("array", two)):
        of_row = each(lambda a, p=place: put_at(p)(mx.zeros(4), a))
        case(f"array.__setitem__:{label} of a constant", of_row, (2,))
    case(
        "array.__setitem__:slice of constant rows",
        lambda a: between(mx.zeros((a.shape[0], 4)), a),
        (2,),
        alone=True,
    )
    case(
        "array.__setitem__:slice of shared rows",
        lambda a, b: between(mx.broadcast_to(b, (a.shape[0], 4)), a),
        (2,),
        (4,),
        shared=[1],
    )

    def masked(mask: Function) -> Function:
        def update(a: mx.array, b: mx.array) -> mx.array:
            c = a * 1
            c[mask(a)] = mx.array(0.5)
            return c + b

        return update

    def above(a: mx.array) -> mx.array:
        return a > 0.2

    case("array.__setitem__:mask with its derivative", masked(above), (4,), (4,))
    case("array.__setitem__:mask", masked(fixed_index(above)), (4,), (4,))
    odd = mx.array([True, False, True, False])
    case("array.__setitem__:constant mask", each(put_at(odd)), (4,), (2,))

    def update_at(name: str, *place: Any) -> Function:
        return lambda a, b: getattr(a.at[place], name)(b)

    for name in ("add", "subtract", "multiply", "divide", "maximum", "minimum"):
        ways: dict[str, tuple[Function, Shape, Shape]] = {
            "slice": (update_at(name, every, slice(1, 3)), (4,), (2,)),
            "array": (update_at(name, every, two), (4,), (2,)),
            "repeated": (each(update_at(name, at)), (4,), (3,)),
        }
        for label, (function, *shapes) in ways.items():
            case(f"ArrayAt.{name}:{label}", function, *shapes, values=POSITIVE)
        constant = partial(update_at(name, two), mx.ones(4))
        case(f"ArrayAt.{name}:of a constant", each(constant), (2,), values=POSITIVE)


def add_fourier() -> None:
    for name in ("fft", "ifft", "rfft"):
        function = getattr(mx.fft, name)
        case(f"fft.{name}", function, (4,))
        case(f"fft.{name}:longer", partial(function, n=5, axis=1), (4, 2))
        case(f"fft.{name}:shorter", partial(function, n=3, norm="ortho"), (5,))
        case(f"fft.{name}2", getattr(mx.fft, f"{name}2"), (2, 3))
        case(f"fft.{name}n", partial(getattr(mx.fft, f"{name}n"), axes=(1, 2)), (2, 3))
    for name in ("fft", "ifft", "irfft"):
        function = getattr(mx.fft, name)
        case(f"fft.{name}:complex", lambda a, b, f=function: f(a + 1j * b), (3,), (3,))
    filter_ = mx.array([1, 2j, 3 + 1j])
    case("fft.irfft", lambda a: mx.fft.irfft(mx.fft.rfft(a) * filter_), (4,))
    case("fft.irfft:odd", lambda a: mx.fft.irfft(mx.fft.rfft(a) * filter_, n=5), (5,), alone=True)
    case("fft.irfft2", lambda a: mx.fft.irfft2(mx.fft.rfft2(a) * filter_), (2, 4))
    there = partial(mx.fft.rfftn, axes=(1, 2))
    back = partial(mx.fft.irfftn, axes=(1, 2))
    case("fft.irfftn", lambda a: back(there(a) * filter_), (2, 4))
    case("fft.fftshift", partial(mx.fft.fftshift, axes=1), (5,))
    case("fft.ifftshift", partial(mx.fft.ifftshift, axes=1), (5,))
    case("fft.stft", partial(mx.fft.stft, n_fft=4), (8,), alone=True)
    window = partial(mx.fft.stft, n_fft=4, window=mx.hanning(4), pad_mode="constant")
    case("fft.stft:window", window, (8,))
    case("fft.istft", lambda a: mx.fft.istft(mx.fft.stft(a, n_fft=4) * (1 + 2j), n_fft=4), (8,))


def add_linear_algebra() -> None:
    """On the CPU: MLX has these there alone."""

    def positive_definite(a: mx.array) -> mx.array:
        return a @ mx.swapaxes(a, -1, -2) + mx.eye(a.shape[-1])

    def regular(a: mx.array) -> mx.array:
        return a + 3 * mx.eye(a.shape[-1])

    def lower(a: mx.array) -> mx.array:
        return mx.tril(regular(a))

    of: dict[str, tuple[Function, Shape]] = {
        "cholesky": (positive_definite, (2, 2)),
        "cholesky_inv": (lower, (2, 2)),
        "det": (regular, (2, 2)),
        "inv": (regular, (2, 2)),
        "tri_inv": (lower, (2, 2)),
        "pinv": (lambda a: a, (3, 2)),
        "svd": (lambda a: a, (3, 2)),
        "slogdet": (regular, (2, 2)),
        "qr": (regular, (2, 2)),
        "eigh": (positive_definite, (2, 2)),
        "eigvalsh": (positive_definite, (2, 2)),
        "eigvals": (positive_definite, (2, 2)),
        "eig": (positive_definite, (2, 2)),
    }
    for name, (prepare, shape) in of.items():
        function = partial(getattr(mx.linalg, name), stream=mx.cpu)
        case(f"linalg.{name}", lambda a, f=function, p=prepare: f(p(a)), shape)
    values = partial(mx.linalg.svd, compute_uv=False, stream=mx.cpu)
    case("linalg.svd:values", values, (3, 2))
    case("linalg.lu", lambda a: mx.linalg.lu(regular(a), stream=mx.cpu)[1:], (2, 2))
    case("linalg.lu_factor", lambda a: mx.linalg.lu_factor(regular(a), stream=mx.cpu)[0], (2, 2))
    for name, prepare in (("solve", regular), ("solve_triangular", lower)):
        function = partial(getattr(mx.linalg, name), stream=mx.cpu)
        case(f"linalg.{name}", lambda a, b, f=function, p=prepare: f(p(a), b), (2, 2), (2, 1))


def add_fused() -> None:
    eps = 0.1
    layer_norm = partial(mx.fast.layer_norm, eps=eps)
    case("fast.layer_norm", layer_norm, (2, 3), (3,), (3,), shared=[1, 2])
    case("fast.layer_norm:plain", partial(layer_norm, weight=None, bias=None), (2, 3))
    case("fast.rms_norm", partial(mx.fast.rms_norm, eps=eps), (2, 3), (3,), shared=[1])
    case("fast.rms_norm:plain", partial(mx.fast.rms_norm, weight=None, eps=eps), (2, 3))
    rope = partial(mx.fast.rope, dims=4, base=100.0, scale=0.5)
    case("fast.rope", partial(rope, traditional=False, offset=1), (1, 2, 4))
    case("fast.rope:traditional", partial(rope, traditional=True, offset=1), (1, 2, 4))
    case("fast.rope:offset", partial(rope, traditional=False, offset=mx.array(2)), (2, 4))

    def by_frequencies(a: mx.array, freqs: mx.array) -> mx.array:
        return mx.fast.rope(
            a, 4, traditional=False, base=None, scale=0.5, offset=1, freqs=freqs
        )  # fmt: skip

    case("fast.rope:frequencies", by_frequencies, (2, 4), (2,), shared=[1], values=POSITIVE)

    attend = partial(mx.fast.scaled_dot_product_attention, scale=0.7)
    name = "fast.scaled_dot_product_attention"
    mask = mx.array([[True, False, True], [True, True, False]])
    case(name, attend, (1, 2, 2), (1, 3, 2), (1, 3, 2))
    case(f"{name}:causal", partial(attend, mask="causal"), (2, 2, 2), (2, 2, 2), (2, 2, 2))
    case(f"{name}:grouped", attend, (4, 2, 2), (2, 3, 2), (2, 3, 2))
    case(f"{name}:boolean mask", partial(attend, mask=mask), (1, 2, 2), (1, 3, 2), (1, 3, 2))

    def with_mask(q: mx.array, mask: mx.array) -> mx.array:
        return attend(q, q, q, mask=mask)

    case(f"{name}:mask", with_mask, (1, 3, 2), (1, 3, 3))
    case(f"{name}:shared mask", with_mask, (1, 3, 2), (3, 3), shared=[1])
    case(f"{name}:sinks", lambda q, s: attend(q, q, q, sinks=s), (2, 3, 2), (2,), shared=[1])

    def loss(a: mx.array) -> mx.array:
        return mx.fast.cross_entropy(a, mx.broadcast_to(mx.array([1, 2]), a.shape[:2]))

    case("fast.cross_entropy", loss, (2, 3))
    delta = mx.fast.gated_delta_update
    shapes = ((2, 1, 2), (2, 1, 2), (2, 1, 2), (2, 1), (2, 1))
    case("fast.gated_delta_update", delta, *shapes, values=POSITIVE)
    case(
        "fast.gated_delta_update:state",
        lambda q, s: delta(q, q, q, q[..., 0], q[..., 1], s),
        (2, 1, 2),
        (1, 2, 2),
        values=POSITIVE,
    )


def add_transforms() -> None:
    """Models that are differentiated, mapped or compiled inside, or bring their own rules."""

    @mx.custom_function
    def doubled(a: mx.array) -> mx.array:
        return mx.sin(a)

    @doubled.vjp
    def _(primal: mx.array, cotangent: mx.array, output: mx.array) -> mx.array:
        return 2 * cotangent * mx.cos(primal)

    @mx.custom_function
    def straight_through(a: mx.array) -> mx.array:
        return mx.round(a)

    @straight_through.vjp
    def _(primal: mx.array, cotangent: mx.array, output: mx.array) -> mx.array:
        return cotangent

    @mx.custom_function
    def with_rules(a: mx.array, b: mx.array) -> mx.array:
        return mx.sin(a) * b

    @with_rules.vjp
    def _(
        primals: list[mx.array], cotangent: mx.array, output: mx.array
    ) -> tuple[mx.array, mx.array]:
        a, b = primals
        return cotangent * mx.cos(a) * b, cotangent * mx.sin(a)

    @with_rules.jvp
    def _(primals: list[mx.array], tangents: list[mx.array | None]) -> mx.array:
        (a, b), (da, db) = primals, tangents
        along_a = mx.zeros_like(a) if da is None else da * mx.cos(a) * b
        return along_a if db is None else along_a + db * mx.sin(a)

    case("custom_function:doubled", doubled, (3,), decreed=True)
    case("custom_function:straight through", straight_through, (3,), decreed=True, alone=True)
    case("custom_function:both rules", with_rules, (3,), (3,))
    case("custom_function", mx.custom_function(lambda a, b: mx.sin(a) * b), (3,), (3,))
    case("stop_gradient", lambda a: mx.stop_gradient(a) * a + a, (3,), decreed=True, alone=True)
    inside = mx.checkpoint(lambda a, b: mx.sin(a @ b))
    case("checkpoint", inside, (2, 3), (3, 2), shared=[1])
    compiled = mx.compile(lambda a, b: mx.sin(a @ b) * 2 + 1)
    case("compile", compiled, (2, 3), (3, 2), shared=[1])
    shapeless = mx.compile(lambda a, b: mx.exp(mx.sin(a) * b), shapeless=True)
    case("compile:shapeless", shapeless, (3,), (3,))

    def row(a: mx.array, b: mx.array) -> mx.array:
        return mx.sin(a) * b.sum()

    def total(a: mx.array) -> mx.array:
        return mx.tanh(a).sum()

    case("vmap", mx.vmap(row), (3,), (2,))
    case(
        "vmap:shared",
        lambda a, b: mx.vmap(lambda row: mx.sin(row @ b))(a),
        (3,),
        (3, 2),
        shared=[1],
    )
    case("grad", mx.grad(total), (3,))
    case("value_and_grad", lambda a: mx.value_and_grad(total)(a)[1], (3,))
    case("vjp", lambda a, b: mx.vjp(mx.tanh, [a], [b])[1][0], (3,), (3,))
    case("jvp", lambda a, b: mx.jvp(mx.tanh, [a], [b])[1][0], (3,), (3,))


def add_samples() -> None:
    """Samples with a key, moved and scaled by the model."""
    key = mx.random.key(3)
    sample = mx.random
    normal = each(lambda a, b: sample.normal(a.shape, loc=a, scale=b, key=key))
    case("random.normal", normal, (3,), (3,))
    uniform = each(lambda a, b: sample.uniform(a - 2, b + 2, a.shape, key=key))
    case("random.uniform", uniform, (3,), (3,))
    truncated = each(lambda a, b: sample.truncated_normal(a - 2, b + 2, a.shape, key=key))
    case("random.truncated_normal", truncated, (3,), (3,))

    def correlated(a: mx.array, b: mx.array) -> mx.array:
        covariance = b @ b.T + mx.eye(2)
        return sample.multivariate_normal(a, covariance, key=key, stream=mx.cpu)

    case("random.multivariate_normal", each(correlated), (2,), (2, 2))
    case("random.permutation", each(partial(sample.permutation, key=key)), (4,))
    for name in ("gumbel", "laplace"):
        draw = partial(getattr(sample, name), (3,), key=key)
        case(f"random.{name}", each(lambda a, f=draw: f() * a), (3,))


def add_distributed() -> None:
    """Reductions over a group of this one process."""
    for name in ("all_sum", "all_max", "all_min", "all_gather", "sum_scatter"):
        case(f"distributed.{name}", getattr(mx.distributed, name), (3,))


for add in (
    add_elementwise, add_complex, add_operators, add_products, add_quantized, add_convolutions,
    add_reductions, add_scans, add_sorting, add_shapes, add_indexing, add_fourier,
    add_linear_algebra, add_fused, add_transforms, add_samples, add_distributed,
):  # fmt: skip
    add()

# What no weight stands before, by the reason.
WITHOUT_DERIVATIVE = {
    "makes constants": "arange bartlett blackman eye hamming hanning identity linspace "
    "ones ones_like tri zeros zeros_like fft.fftfreq fft.rfftfreq random.bernoulli "
    "random.categorical random.key random.randint random.seed random.split",
    "of integers": "bitwise_and bitwise_invert bitwise_or bitwise_xor left_shift right_shift "
    "array.__and__ array.__iand__ array.__ior__ array.__ixor__ array.__invert__ array.__or__ "
    "array.__xor__ array.__lshift__ array.__rshift__ array.__ilshift__ array.__irshift__",
    "gives truth": "allclose array_equal",
    "of types and shapes": "broadcast_shapes can_cast einsum_path isdtype issubdtype "
    "result_type array.__len__",
    "not of arrays": "async_eval clear_cache clear_streams default_device default_stream "
    "device_count device_info disable_compile enable_compile eval export_function export_to_dot "
    "exporter get_active_memory get_array_buffer_size get_cache_memory get_memory_limit "
    "get_peak_memory get_printoptions import_function is_available new_stream "
    "new_thread_local_stream new_thread_unsafe_stream printoptions reset_peak_memory "
    "set_cache_limit set_default_device set_default_stream set_memory_limit set_printoptions "
    "set_wired_limit stream synchronize distributed.init distributed.is_available",
    "of files": "load save save_gguf save_safetensors savez savez_compressed",
    "leaves MLX": "from_dlpack array.__array__ array.__array_namespace__ array.__bool__ "
    "array.__bytes__ array.__complex__ array.__dlpack__ array.__dlpack_device__ array.__float__ "
    "array.__index__ array.__int__ array.item array.tolist array.__setstate__",
    "takes other ranks": "distributed.recv distributed.recv_like distributed.send",
    "takes a GPU's source": "fast.cuda_kernel fast.metal_kernel fast.precompiled_cuda_kernel",
    "not on a CPU": "gather_qqmm qqmm",
}


def public_functions() -> Iterator[str]:
    """Names of all public functions of MLX and methods of its arrays, without aliases."""
    spaces: list[tuple[str, Any]] = [
        ("", mx),
        ("fast.", mx.fast),
        ("linalg.", mx.linalg),
        ("fft.", mx.fft),
        ("random.", mx.random),
        ("distributed.", mx.distributed),
        ("ArrayAt.", mx.ArrayAt),
        ("array.", mx.array),
    ]
    for prefix, space in spaces:
        for name in dir(space):
            member = getattr(space, name)
            methods = space is mx.array
            if not callable(member) or (isinstance(member, type) and name != "custom_function"):
                continue
            if name.startswith("_") and not (methods and name not in dir(object)):
                continue
            if not (_is_alias(name, member, space) or (methods and hasattr(mx, name))):
                yield prefix + name


def _is_alias(name: str, member: Any, space: Any) -> bool:
    """Whether the documentation gives a function under the name of another, as of acos."""
    documented = (member.__doc__ or "").lstrip().partition("(")[0]
    return documented != name and hasattr(space, documented)
