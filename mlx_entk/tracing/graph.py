"""A function as a graph of MLX primitives that can be run again, with perturbations.

``mx.export_function`` reports every primitive of a function with its inputs, outputs and
arguments. ``mlx_entk.tracing.primitives`` says what each computes, so that the graph can be
run under any MLX transform, with a perturbation added to any value inside it.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx

from mlx_entk.tracing.module_state import restored_at_the_end
from mlx_entk.tracing.primitives import OPERATIONS, Arrays, Operation, UntraceableError
from mlx_entk.tracing.replacing import Replacing


def _as_it_is(function: Callable[..., mx.array]) -> Callable[..., mx.array]:
    return lambda a, *layout, **named: a


# MLX cannot report a copy that only lays an array out otherwise in memory.
_REPORTED = Replacing({"contiguous": _as_it_is})


@dataclass(frozen=True)
class Node:
    """One primitive: the names of what it takes and gives, and its arguments."""

    primitive: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    arguments: tuple[Any, ...]

    def run(self, inputs: Arrays, instead: Mapping[str, Operation] | None = None) -> Arrays:
        """What the primitive gives for its inputs, by another operation if there is one."""
        operation = (instead or {}).get(self.primitive, OPERATIONS[self.primitive])
        result = operation(inputs, self.arguments)
        return result if isinstance(result, list) else [result]


@dataclass
class Graph:
    """A function traced on inputs of certain shapes.

    Attributes
    ----------
    inputs, outputs
        Names of what the function takes and gives.
    constants
        Arrays that it closes over, by name.
    nodes
        The primitives, each after those it needs.
    shapes, dtypes
        Of every value, by name.
    """

    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    constants: dict[str, mx.array] = field(default_factory=dict)
    nodes: list[Node] = field(default_factory=list)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    dtypes: dict[str, mx.Dtype] = field(default_factory=dict)

    def run(
        self,
        inputs: Sequence[mx.array],
        perturbations: Mapping[str, mx.array] | None = None,
        instead: Mapping[str, Operation] | None = None,
        known: Mapping[str, mx.array] | None = None,
    ) -> dict[str, mx.array]:
        """Every value of the graph by name.

        Parameters
        ----------
        inputs
            Its inputs, in order.
        perturbations
            Added to values as they appear.
        instead
            Operations to compute primitives by, such as ``mlx_entk.tracing.primitives.RIGHT``.
        known
            What primitives of one output give. They are differentiated, but not computed again.
        """
        values = dict(self.constants)
        values.update(zip(self.inputs, inputs, strict=True))
        for node in self.nodes:
            given = [values[name] for name in node.inputs]
            if known and node.outputs[0] in known:
                results = [_recalled(node, given, instead, known[node.outputs[0]])]
            else:
                results = node.run(given, instead)
            for name, result in zip(node.outputs, results, strict=True):
                if perturbations and name in perturbations:
                    result = result + perturbations[name]
                values[name] = result
        return values


def _recalled(
    node: Node, inputs: Arrays, instead: Mapping[str, Operation] | None, value: mx.array
) -> mx.array:
    """A value that is known, with the derivative of the primitive that gives it."""

    @mx.custom_function
    def recall(*given: mx.array) -> mx.array:
        return given[-1]

    @recall.vjp
    def pull(given: Arrays, cotangent: mx.array, _: mx.array) -> Arrays:
        *primals, known = given
        pulled: Arrays = mx.vjp(lambda *a: node.run(list(a), instead), primals, [cotangent])[1]
        return [*pulled, mx.zeros_like(known)]

    recalled: Any = recall(*inputs, value)
    result: mx.array = recalled
    return result


def trace(function: Callable[..., mx.array], *inputs: mx.array) -> Graph:
    """Trace a function on inputs, of which the graph can be run again.

    Derivatives that a function hides (``mx.stop_gradient``, custom ones) are not part of what
    MLX reports: whoever differentiates a graph has to compare.

    Raises
    ------
    UntraceableError
        For a primitive that ``mlx_entk.tracing.primitives`` does not have or MLX cannot report.
    """
    graph = record(function, *inputs)
    require_known(graph)
    return graph


def require_known(graph: Graph) -> None:
    """Raise UntraceableError for a graph with primitives that cannot be run again."""
    unknown = sorted({node.primitive for node in graph.nodes} - OPERATIONS.keys())
    if unknown:
        raise UntraceableError(f"primitive {', '.join(unknown)}")


def record(function: Callable[..., Any], *inputs: mx.array) -> Graph:
    """What MLX reports of a function: its primitives, whether this module knows them or not.

    Raises
    ------
    UntraceableError
        For a primitive that MLX cannot report.
    """
    graph = Graph()

    def receive(event: Mapping[str, Any]) -> None:
        kind = event["type"]
        if kind in ("inputs", "outputs"):
            getattr(graph, kind).extend(name for name, *_ in event[kind])
            for name, shape, dtype in event[kind]:
                graph.shapes[name], graph.dtypes[name] = tuple(shape), dtype
        if kind == "constants":
            for name, value in event["constants"]:
                graph.constants[name] = value
                graph.shapes[name], graph.dtypes[name] = value.shape, value.dtype
        if kind == "primitive":
            for name, shape, dtype in (*event["inputs"], *event["outputs"]):
                graph.shapes[name], graph.dtypes[name] = tuple(shape), dtype
            arguments = list(event["arguments"])
            if event["name"] == "Arange":  # its type is that of its output
                arguments.append(event["outputs"][0][2])
            graph.nodes.append(
                Node(
                    event["name"],
                    tuple(name for name, *_ in event["inputs"]),
                    tuple(name for name, *_ in event["outputs"]),
                    tuple(arguments),
                )
            )

    try:
        # For a GPU MLX would report its fused kernels (layer norm, attention) as one primitive
        # each, for a CPU the operations that define them. Nothing is computed here.
        with restored_at_the_end(), _REPORTED, mx.stream(mx.cpu):
            mx.export_function(receive, function, *inputs)
    except Exception as error:  # of a model that asks for values, say: whatever its code raises
        raise UntraceableError(str(error) or type(error).__name__) from error
    return graph


def dependents(graph: Graph, values: Iterable[str], without: str | None = None) -> frozenset[str]:
    """The values, and all that are computed from them, other than by way of one."""
    reached = set(values)
    for node in graph.nodes:
        if not reached.isdisjoint(node.inputs):
            reached.update(name for name in node.outputs if name != without)
    return frozenset(reached)


def needed(nodes: Sequence[Node], outputs: Iterable[str]) -> list[Node]:
    """Return the nodes that some values are computed by."""
    names, kept = set(outputs), []
    for node in reversed(nodes):
        if not names.isdisjoint(node.outputs):
            kept.append(node)
            names.update(node.inputs)
    return kept[::-1]
