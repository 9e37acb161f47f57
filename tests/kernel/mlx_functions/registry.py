"""How a function of MLX becomes small models f(w, x), one for each argument."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from tests.kernel.cases import C, Case, N, Shape, seeded, words

Floats = NDArray[np.float32]
Model = Callable[[mx.array, mx.array], mx.array]
Function = Callable[..., Any]

# Ranges of w and x, and so of w ⊙ x. None is symmetric: zero, where some functions have a kink,
# is no middle of a grid.
ANY, UNIT, POSITIVE, LARGE = (-1.5, 1.3), (-0.9, 0.8), (0.5, 1.3), (1.1, 1.6)


@dataclass(frozen=True, eq=False)
class FunctionCase(Case):
    """A model f(w, x) of functions of MLX.

    Attributes
    ----------
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

    function: Model
    weight: Floats
    rows: Floats
    tolerance: float
    decreed: bool


CASES: list[FunctionCase] = []


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
        CASES.append(FunctionCase(label, names, function, weight, rows, tolerance, decreed))

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
