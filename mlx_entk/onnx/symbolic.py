"""Graphs whose sizes depend on the batch, from tracing a function at several batch sizes.

MLX traces concrete shapes. Traces at a few batch sizes have the same primitives, and the only
numbers that differ are those that depend on the batch. Each of these is a polynomial in the batch
sizes, which the traces determine and one more trace confirms.
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
# broadcast. Models may treat large inputs differently, as mlx-lm's sort tokens by expert from 64
# on. If the first sizes lie on both sides of such a limit, the second ones are all beyond it.
_SIZES_FROM = (5, 67)


@dataclass(frozen=True)
class Size:
    """A number that depends on batch sizes: Σ over subsets S of them of coefficient_S · Π S.

    Attributes
    ----------
    coefficients
        Pairs of the numbers of the inputs whose batch sizes are multiplied, () for the constant
        term, and the coefficient.
    """

    coefficients: tuple[tuple[tuple[int, ...], int], ...]


def is_free(value: Any) -> bool:
    """Return whether a number, or any in nested lists, depends on a batch size."""
    if isinstance(value, list | tuple):
        return any(is_free(part) for part in value)
    return isinstance(value, Size)


class FixedBatchError(ValueError):
    """Raised if no single graph works for every batch size; the message says why."""


class _OtherPrimitivesError(FixedBatchError):
    """Raised if the primitives depend on the batch size."""


@dataclass(frozen=True)
class SymbolicGraph:
    """A traced function; shapes and arguments that depend on the batch hold a ``Size``.

    Attributes
    ----------
    graph
        The graph at the batch sizes of the example inputs, or at the first ones traced.
    shapes
        Shape of every value by name; each entry is an int or a ``Size``.
    nodes
        The primitives with their arguments, which may hold a ``Size`` as well.
    """

    graph: Graph
    shapes: dict[str, tuple[Any, ...]]
    nodes: list[Node]


def trace_fixed(function: Callable[..., Any], inputs: Sequence[mx.array]) -> SymbolicGraph:
    """Trace a function at the shapes of its inputs only."""
    graph = record(function, *inputs)
    return SymbolicGraph(graph, dict(graph.shapes), graph.nodes)


def resized(
    inputs: Sequence[mx.array], batches: Sequence[Sequence[int]], sizes: Sequence[int]
) -> list[mx.array]:
    """Return inputs with other batch sizes, repeating the existing rows.

    Parameters
    ----------
    inputs
        The inputs.
    batches
        For each batch size, the numbers of the inputs that share it.
    sizes
        The new batch sizes.
    """
    arrays = list(inputs)
    for numbers, size in zip(batches, sizes, strict=True):
        for number in numbers:
            rows = mx.array(np.arange(size) % inputs[number].shape[0])
            arrays[number] = inputs[number][rows]
    return arrays


def trace_dynamic(
    function: Callable[..., Any], inputs: Sequence[mx.array], batches: Sequence[Sequence[int]]
) -> SymbolicGraph:
    """Trace a function while the first axes of some inputs stay free.

    Parameters
    ----------
    function
        The function.
    inputs
        Example inputs.
    batches
        For each batch size, the numbers of the inputs that share it; the first of them stands for
        it in every ``Size``.

    Raises
    ------
    FixedBatchError
        If the primitives or constants of the graph depend on the batch.
    UntraceableError
        If MLX cannot report a primitive.
    """
    # MLX merges equal parts of a graph, so a batch size must not equal the size of another axis.
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
    """Trace at three sizes of each batch: two determine the polynomials, the third confirms."""

    def graph_at(at: Sequence[int]) -> Graph:
        try:
            return record(function, *resized(inputs, batches, at))
        except UntraceableError as error:
            raise FixedBatchError("the function accepts no other batch size") from error

    batched = [numbers[0] for numbers in batches]
    corners = list(itertools.product(*(of_batch[:2] for of_batch in sizes)))
    check_sizes = [of_batch[2] for of_batch in sizes]
    graphs = [graph_at(at) for at in corners]
    check = graph_at(check_sizes)
    first = graphs[0]
    for other in (*graphs[1:], check):
        _require_same(first, other)

    def unify(values: Sequence[Any]) -> Any:
        """Return a value as a function of the sizes, from its values at the corners and check."""
        kind = values[0]
        if isinstance(kind, list | tuple):
            if len({len(value) for value in values}) > 1:
                raise FixedBatchError("the batch size changes the arguments of a primitive")
            return tuple(unify(parts) for parts in zip(*values, strict=True))
        if all(value == kind for value in values):
            return kind
        if not all(float(value).is_integer() for value in values):
            raise FixedBatchError("the batch size changes a number in the graph")
        size = _polynomial(corners, [int(value) for value in values[:-1]], batched)
        if evaluate(size, dict(zip(batched, check_sizes, strict=True))) != int(values[-1]):
            raise FixedBatchError("a size in the graph is not a polynomial in the batch size")
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
    """Return a size for given batch sizes, which are keyed by the number of an input."""
    if not isinstance(size, Size):
        return int(size)
    return sum(
        coefficient * int(np.prod([batch[number] for number in factors], initial=1))
        for factors, coefficient in size.coefficients
    )


def combined(*terms: tuple[int, Any]) -> Any:
    """Return Σ factor · size over pairs of the two; an int if no batch size is left in it."""
    totals: dict[tuple[int, ...], int] = {}
    for factor, size in terms:
        for key, value in _coefficients(size):
            totals[key] = totals.get(key, 0) + factor * value
    return _as_size(totals)


def product_of(sizes: Sequence[Any]) -> Any:
    """Return the product of sizes; an int if none depends on the batch.

    Raises
    ------
    FixedBatchError
        If a batch size would be multiplied by itself.
    """
    totals: dict[tuple[int, ...], int] = {(): 1}
    for size in sizes:
        grown: dict[tuple[int, ...], int] = {}
        for (factors, a), (more, b) in itertools.product(totals.items(), _coefficients(size)):
            if set(factors) & set(more):
                raise FixedBatchError("a size in the graph is a power of the batch size")
            key = tuple(sorted(factors + more))
            grown[key] = grown.get(key, 0) + a * b
        totals = grown
    return _as_size(totals)


def _coefficients(size: Any) -> tuple[tuple[tuple[int, ...], int], ...]:
    return size.coefficients if isinstance(size, Size) else (((), int(size)),)


def _as_size(totals: dict[tuple[int, ...], int]) -> Any:
    """Return the size, its coefficients in one order so that equal sizes are equal."""
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
        raise FixedBatchError("a size in the graph is not a polynomial in the batch size")
    coefficients = zip(subsets, solution, strict=True)
    return _as_size({tuple(sorted(batched[i] for i in s)): round(c) for s, c in coefficients})


def _names(graph: Graph) -> list[str]:
    """Return every value in order of appearance, which is the same in every trace."""
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
        raise _OtherPrimitivesError("the batch size changes the primitives of the graph")
    for a, b in zip(first.constants.values(), other.constants.values(), strict=True):
        if a.shape != b.shape or not bool(mx.array_equal(a, b, equal_nan=True)):
            raise FixedBatchError("the batch size changes a constant of the graph")
