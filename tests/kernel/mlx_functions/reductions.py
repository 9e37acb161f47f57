"""Reductions, scans and sorting."""

from functools import partial

import mlx.core as mx

from tests.kernel.mlx_functions.registry import POSITIVE, Function, case, each, fixed_index


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


def add() -> None:
    """Register all of them."""
    add_reductions()
    add_scans()
    add_sorting()
