"""Shapes, and reading and writing at indices."""

from functools import partial
from typing import Any

import mlx.core as mx

from tests.kernel.cases import Shape
from tests.kernel.mlx_functions.registry import POSITIVE, Function, case, each, fixed_index


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


def add() -> None:
    """Register all of them."""
    add_shapes()
    add_indexing()
