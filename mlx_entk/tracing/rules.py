"""A model with MLX's derivative rules, or with right ones if MLX's own are wrong.

Reverse mode defines a kernel, and some of MLX's reverse rules are wrong (``docs/upstream``). A
model that uses one of those is replaced by its graph, run by operations whose rules are right. A
graph does not tell of derivatives that the model hides (``mx.stop_gradient``, custom ones), so the
derivative of the model and that of its graph are compared first, as graphs: whatever the inputs
are, nothing hidden goes unseen.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cached_property

import mlx.core as mx

from mlx_entk._precision import require_full
from mlx_entk.errors import InputError
from mlx_entk.tracing.convolutions import reverse_is_right
from mlx_entk.tracing.fingerprint import fingerprints
from mlx_entk.tracing.functions import ParametricFunction
from mlx_entk.tracing.graph import Graph, Node, dependents, record, require_known, trace
from mlx_entk.tracing.inputs import Inputs, part
from mlx_entk.tracing.primitives import (
    INDEXED,
    RIGHT,
    Operation,
    UntraceableError,
)
from mlx_entk.tracing.remembered import Remembered


@dataclass(frozen=True)
class Examined:
    """A function, and what its graph tells of it.

    Attributes
    ----------
    function
        With right reverse rules.
    graph
        On one input; its inputs are those of the function, then its parameters. None where there
        is none.
    untraceable
        Why there is none, or empty.
    derivative
        Fingerprints of the gradient by each parameter; empty if MLX cannot report it.
    hidden
        Names of the parameters whose gradient may not be that of the graph: a derivative is
        hidden, or the comparison of graphs could not tell.
    """

    function: ParametricFunction
    graph: Graph | None
    untraceable: str
    derivative: tuple[str, ...]
    hidden: frozenset[str]

    @cached_property
    def rows(self) -> ParametricFunction:
        """The function whose gradients can be mapped: its graph if nothing is hidden."""
        if self.graph is None or self.hidden:
            return self.function
        return by_graph(self.function)


def examine(function: ParametricFunction, x: Inputs, C: int) -> Examined:
    """Trace a function of C outputs on one input, and its derivative.

    Raises
    ------
    InputError
        For a function with a reverse rule that is wrong in MLX and, perhaps, with hidden
        derivatives: right gradients of it are not to be had. And for a device on which MLX rounds
        float32 products.
    """
    require_full()
    names = list(function.params)
    derivative = _derivative(function, x, C)
    try:
        graph = traced(function, x)
    except UntraceableError as error:
        return Examined(function, None, str(error), derivative, frozenset(names))
    of_graph = _derivative_of_graph(function, graph, x, C)
    if len(derivative) == len(of_graph) == len(names):
        hidden = {n for n, a, b in zip(names, derivative, of_graph, strict=True) if a != b}
    else:
        hidden = set(names)
    wrong = _wrong_rules(graph, len(names))
    if wrong and hidden:
        raise InputError(
            f"MLX's rule for {', '.join(wrong)}, as this model uses it, is wrong, and whether "
            "the model hides derivatives cannot be told: write it by other operations"
        )
    right = by_graph(function) if wrong else function
    return Examined(right, graph, "", derivative, frozenset(hidden))


def by_graph(
    function: ParametricFunction, instead: Mapping[str, Operation] = RIGHT
) -> ParametricFunction:
    """The same function by its graph, traced anew for inputs of other shapes, with right rules."""
    names = list(function.params)
    graphs: dict[tuple[object, ...], Graph] = {}

    def apply(values: dict[str, mx.array], *inputs: mx.array) -> mx.array:
        params = [values.get(name, function.params[name]) for name in names]
        key = tuple((array.shape, array.dtype) for array in (*inputs, *params))
        if key not in graphs:
            graphs[key] = _record(function, tuple(inputs), params)
        values_of_graph = graphs[key].run([*inputs, *params], instead=instead)
        return values_of_graph[graphs[key].outputs[0]]

    return ParametricFunction(function.params, apply)


def _record(function: ParametricFunction, x: Inputs, params: list[mx.array]) -> Graph:
    """The graph by placeholders, so that it can be made inside another transform."""
    graph = record(_of_all(function, len(x)), *(mx.zeros(a.shape, a.dtype) for a in (*x, *params)))
    require_known(graph)
    return graph


def traced(function: ParametricFunction, x: Inputs) -> Graph:
    """The graph on one input, then the parameters in order, both as its inputs.

    Raises
    ------
    UntraceableError
        If MLX cannot report it, or it has primitives that cannot be run again.
    """
    return trace(_of_all(function, len(x)), *part(x, slice(1)), *function.params.values())


def _of_all(function: ParametricFunction, number: int) -> Callable[..., mx.array]:
    """A function of inputs and parameters in order."""
    names = list(function.params)

    def of_all(*given: mx.array) -> mx.array:
        return function.apply(dict(zip(names, given[number:], strict=True)), *given[:number])

    return of_all


def _replayed(function: ParametricFunction, graph: Graph) -> ParametricFunction:
    """The same by its graph of one input, with MLX's own rules; indices have no derivative."""
    names = list(function.params)

    def apply(values: dict[str, mx.array], *inputs: mx.array) -> mx.array:
        given = [*inputs, *(values[name] for name in names)]
        return graph.run(given, instead=INDEXED)[graph.outputs[0]]

    return ParametricFunction(function.params, apply)


def _derivative(function: ParametricFunction, x: Inputs, C: int) -> tuple[str, ...]:
    """Fingerprints of the gradient of one input, by each parameter."""
    of_all, number = _of_all(function, len(x)), len(x)

    def pull(cotangent: mx.array, *given: mx.array) -> list[mx.array]:
        row, params = given[:number], list(given[number:])
        pulled: list[mx.array] = mx.vjp(lambda *p: of_all(*row, *p), params, [cotangent])[1]
        return pulled

    given = (*part(x, slice(1)), *function.params.values())
    try:
        return tuple(fingerprints(record(pull, mx.zeros((1, C)), *given)))
    except UntraceableError:
        return ()


# Fingerprints of derivatives of graphs seen before, for callers that ask again at every step.
_KNOWN = Remembered[tuple[str, ...]]()


def _derivative_of_graph(
    function: ParametricFunction, graph: Graph, x: Inputs, C: int
) -> tuple[str, ...]:
    """``_derivative`` of a function's graph, which is the same for equal graphs."""
    kinds = [
        str((array.shape, array.dtype)) for array in (*part(x, slice(1)), *function.params.values())
    ]
    key = (*function.params, *kinds, str(C), *fingerprints(graph))
    return _KNOWN.get(key, lambda: _derivative(_replayed(function, graph), x, C))


def _wrong_rules(graph: Graph, parameters: int) -> list[str]:
    """Primitives of a graph whose rule in MLX is wrong for what they are given.

    Reverse rules, and rules for mapping over inputs that the plain gradients do not tell of.
    """
    number = len(graph.inputs) - parameters
    depends = set(graph.inputs[number:])
    mapped = dependents(graph, graph.inputs[:number])
    primitives = []
    for node in graph.nodes:
        if _is_wrongly_mapped(node, mapped) or _is_wrong(graph, node, depends):
            primitives.append(node.primitive)
        if depends.intersection(node.inputs):
            depends.update(node.outputs)
    return list(dict.fromkeys(primitives))


def _is_wrongly_mapped(node: Node, mapped: Collection[str]) -> bool:
    """Whether MLX's vmap over values ends the process, or gives a wrong axis."""
    which = [name in mapped for name in node.inputs]
    if node.primitive == "BitwiseBinary":
        return any(which) and not all(which)
    if node.primitive == "NotEqual":
        return which == [False, True]
    return node.primitive == "DivMod"  # of tokens too


def _is_wrong(graph: Graph, node: Node, depends: set[str]) -> bool:
    if not depends.intersection(node.inputs):
        return False
    output = node.outputs[0]
    if node.primitive == "Convolution":
        shapes = [graph.shapes[name] for name in (*node.inputs, output)]
        return not reverse_is_right(node.arguments, *shapes)
    if node.primitive == "Pad":
        return node.inputs[1] in depends
    if node.primitive == "Power":
        return graph.dtypes[output] == mx.complex64
    if node.primitive == "AsType":
        given = graph.dtypes[node.inputs[0]]
        return _is_inexact(given) and not _is_inexact(graph.dtypes[output])
    return node.primitive == "Full"


def _is_inexact(dtype: mx.Dtype) -> bool:
    return bool(mx.issubdtype(dtype, mx.inexact))
