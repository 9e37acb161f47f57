"""A function's graph with sizes that depend on the batch, found by tracing at several sizes.

MLX traces concrete shapes. Traced at a few batch sizes, the same primitives come with numbers
that differ only where they depend on the batch: each is then a polynomial in the sizes, which
the traces determine and one more trace confirms.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_entk.tracing.graph import Graph, Node, record
from mlx_entk.tracing.primitives import UntraceableError

# Batch sizes to trace at are primes from the first of these on; none is 1, which MLX would
# broadcast. Models may do otherwise for large inputs, as those of mlx-lm sort tokens by expert
# from 64 on: where they do so between the first sizes, the second ones are all beyond.
_SIZES_FROM = (5, 67)


@dataclass(frozen=True)
class Size:
    """A number that depends on batch sizes: Σ over subsets S of them of coefficient_S · Π S.

    Attributes
    ----------
    coefficients
        By the numbers of the inputs whose batch sizes are multiplied; () is the constant.
    """

    coefficients: tuple[tuple[tuple[int, ...], int], ...]


class FixedBatchError(ValueError):
    """No one graph will do for every batch size; the message says why."""


class _OtherPrimitivesError(FixedBatchError):
    """The primitives are others at another size."""


@dataclass(frozen=True)
class SymbolicGraph:
    """A traced function, with :class:`Size` in shapes and arguments where the batch enters.

    Attributes
    ----------
    graph
        At the batch sizes of the example inputs, or the first ones traced.
    shapes
        Of every value, by name, each entry an int or a :class:`Size`.
    nodes
        The primitives with their arguments.
    """

    graph: Graph
    shapes: dict[str, tuple[Any, ...]]
    nodes: list[Node]


def trace_fixed(function: Callable[..., Any], inputs: Sequence[mx.array]) -> SymbolicGraph:
    """Trace at the shapes of the inputs alone."""
    graph = record(function, *inputs)
    return SymbolicGraph(graph, dict(graph.shapes), graph.nodes)


def resized(
    inputs: Sequence[mx.array], batches: Sequence[Sequence[int]], sizes: Sequence[int]
) -> list[mx.array]:
    """Inputs of other batch sizes, with the rows that are there, over and over.

    Parameters
    ----------
    batches
        Numbers of the inputs that share a batch size, for each such size.
    sizes
        The sizes to have.
    """
    found = list(inputs)
    for numbers, size in zip(batches, sizes, strict=True):
        for number in numbers:
            rows = mx.array(np.arange(size) % inputs[number].shape[0])
            found[number] = inputs[number][rows]
    return found


def trace_dynamic(
    function: Callable[..., Any], inputs: Sequence[mx.array], batches: Sequence[Sequence[int]]
) -> SymbolicGraph:
    """Trace with the first axes of some inputs free.

    Parameters
    ----------
    batches
        Numbers of the inputs that share a batch size, for each such size; the first of them
        names it in every :class:`Size`.

    Raises
    ------
    FixedBatchError
        Where the primitives or constants of the graph depend on the batch.
    UntraceableError
        Where MLX cannot report a primitive.
    """
    # MLX merges equal parts of a graph, so no size may be that of another axis.
    taken = {size for shape in record(function, *inputs).shapes.values() for size in shape}
    for least in _SIZES_FROM:
        primes = (size for size in itertools.count(least) if _is_prime(size) and size not in taken)
        sizes = [list(itertools.islice(primes, 3)) for _ in batches]
        try:
            return _trace_at(function, inputs, batches, sizes)
        except _OtherPrimitivesError as error:
            refused = error
    raise refused


def _trace_at(
    function: Callable[..., Any],
    inputs: Sequence[mx.array],
    batches: Sequence[Sequence[int]],
    sizes: Sequence[Sequence[int]],
) -> SymbolicGraph:
    """Trace at three sizes of each batch: two determine, the third confirms."""

    def graph_at(at: Sequence[int]) -> Graph:
        try:
            return record(function, *resized(inputs, batches, at))
        except UntraceableError as error:
            raise FixedBatchError("the function takes no other size") from error

    batched = [numbers[0] for numbers in batches]
    corners = list(itertools.product(*(of_batch[:2] for of_batch in sizes)))
    check_sizes = [of_batch[2] for of_batch in sizes]
    graphs = [graph_at(at) for at in corners]
    check = graph_at(check_sizes)
    first = graphs[0]
    for other in (*graphs[1:], check):
        _require_same(first, other)

    def unify(values: Sequence[Any]) -> Any:
        """The value as a function of the sizes: at the corners, then at the check."""
        kind = values[0]
        if isinstance(kind, list | tuple):
            if len({len(value) for value in values}) > 1:
                raise FixedBatchError("its size changes the arguments of a primitive")
            return tuple(unify(parts) for parts in zip(*values, strict=True))
        if all(value == kind for value in values):
            return kind
        if not all(float(value).is_integer() for value in values):
            raise FixedBatchError("its size changes a number in the graph")
        size = _polynomial(corners, [int(value) for value in values[:-1]], batched)
        if evaluate(size, dict(zip(batched, check_sizes, strict=True))) != int(values[-1]):
            raise FixedBatchError("a size in the graph is no polynomial of its size")
        return size

    every = [*graphs, check]
    names = [_names(graph) for graph in every]
    shapes = {
        name: unify([g.shapes[n[i]] for g, n in zip(every, names, strict=True)])
        for i, name in enumerate(names[0])
    }
    nodes = [
        replace(node, arguments=unify([g.nodes[i].arguments for g in every]))
        for i, node in enumerate(first.nodes)
    ]
    return SymbolicGraph(first, shapes, nodes)


def _is_prime(number: int) -> bool:
    return all(number % divisor for divisor in range(2, math.isqrt(number) + 1))


def evaluate(size: Any, batch: dict[int, int]) -> int:
    """A size at given batch sizes, by number of input."""
    if not isinstance(size, Size):
        return int(size)
    return sum(
        coefficient * int(np.prod([batch[number] for number in factors], initial=1))
        for factors, coefficient in size.coefficients
    )


def combined(*terms: tuple[int, Any]) -> Any:
    """Σ factor · size over pairs of them; an int where nothing of the batch is left."""
    totals: dict[tuple[int, ...], int] = {}
    for factor, size in terms:
        for key, value in _coefficients(size):
            totals[key] = totals.get(key, 0) + factor * value
    return _as_size(totals)


def product_of(sizes: Sequence[Any]) -> Any:
    """The product of sizes; an int where none depends on the batch.

    Raises
    ------
    FixedBatchError
        Where one batch size would be multiplied by itself.
    """
    totals: dict[tuple[int, ...], int] = {(): 1}
    for size in sizes:
        grown: dict[tuple[int, ...], int] = {}
        for left, right in itertools.product(totals.items(), _coefficients(size)):
            if set(left[0]) & set(right[0]):
                raise FixedBatchError("a size in the graph is a power of its size")
            key = tuple(sorted(left[0] + right[0]))
            grown[key] = grown.get(key, 0) + left[1] * right[1]
        totals = grown
    return _as_size(totals)


def _coefficients(size: Any) -> tuple[tuple[tuple[int, ...], int], ...]:
    return size.coefficients if isinstance(size, Size) else (((), int(size)),)


def _as_size(totals: dict[tuple[int, ...], int]) -> Any:
    """Coefficients in the order that equal sizes share."""
    kept = {key: value for key, value in totals.items() if value}
    if not kept.keys() - {()}:
        return kept.get((), 0)
    return Size(tuple(sorted(kept.items(), key=lambda item: (len(item[0]), item[0]))))


def _polynomial(
    corners: Sequence[tuple[int, ...]], values: Sequence[int], batched: Sequence[int]
) -> Any:
    subsets = [
        subset
        for degree in range(len(batched) + 1)
        for subset in itertools.combinations(range(len(batched)), degree)
    ]
    system = [[np.prod([at[i] for i in subset], initial=1) for subset in subsets] for at in corners]
    solution = np.linalg.solve(np.array(system, dtype=np.float64), np.array(values, dtype=float))
    if np.abs(solution - np.round(solution)).max() > 1e-6:
        raise FixedBatchError("a size in the graph is no polynomial of its size")
    coefficients = zip(subsets, solution, strict=True)
    return _as_size({tuple(sorted(batched[i] for i in s)): round(c) for s, c in coefficients})


def _names(graph: Graph) -> list[str]:
    """Every value in the order of appearance, which is the same in every trace."""
    inner = [name for node in graph.nodes for name in node.outputs]
    return [*graph.inputs, *graph.constants, *inner]


def _require_same(first: Graph, other: Graph) -> None:
    number = {name: i for i, name in enumerate(_names(first))}
    number_of_other = {name: i for i, name in enumerate(_names(other))}

    def structure(graph: Graph, numbers: dict[str, int]) -> list[Any]:
        return [
            (node.primitive, *(numbers[name] for name in (*node.inputs, *node.outputs)))
            for node in graph.nodes
        ] + [numbers[name] for name in graph.outputs]

    if structure(first, number) != structure(other, number_of_other):
        raise _OtherPrimitivesError("its size changes the primitives of the graph")
    for a, b in zip(first.constants.values(), other.constants.values(), strict=True):
        if a.shape != b.shape or not bool(mx.array_equal(a, b, equal_nan=True)):
            raise FixedBatchError("its size changes a constant of the graph")
