"""A graph in two stages: what stays the same from call to call, and what does not.

The second stage takes what the first one computed. Products with a kernel call a derivative many
times at the same point with different vectors: everything that does not depend on the vector is a
first stage, computed once.
"""

from collections.abc import Collection

import mlx.core as mx

from mlx_entk.tracing.graph import Graph, Node, dependents, needed

# Primitives whose output is a view of their input in memory, so that the input is kept instead.
_VIEWS = frozenset({"Broadcast", "ExpandDims", "Squeeze", "Transpose", "Unflatten"})
_VIEWS_IN_ORDER = frozenset({"Flatten", "Reshape"})


def split(graph: Graph, varying: Collection[str]) -> tuple[Graph, Graph]:
    """Split a graph into what does not depend on some values, and the rest.

    Parameters
    ----------
    graph
        The graph.
    varying
        Names of inputs or constants.

    Returns
    -------
    first, second
        The outputs of the first are the last inputs of the second; before them come those inputs
        of the graph that vary. The first takes the others. Its outputs are as small as views
        allow: the second broadcasts and transposes for itself.
    """
    changing = dependents(graph, varying)
    fixed = [node for node in graph.nodes if changing.isdisjoint(node.outputs)]
    second = [not changing.isdisjoint(node.outputs) for node in graph.nodes]
    made_by = {name: node for node in graph.nodes for name in node.outputs}
    kept = dict.fromkeys(  # in place of a set, for a fixed order
        name
        for node, later in zip(graph.nodes, second, strict=True)
        if later
        for name in node.inputs
        if name not in changing and name not in graph.constants
    )
    kept.update(dict.fromkeys(name for name in graph.outputs if name not in changing))
    for number in reversed(range(len(graph.nodes))):
        node = graph.nodes[number]
        if not second[number] and node.outputs[0] in kept and _is_view(node, made_by):
            second[number] = True
            del kept[node.outputs[0]]
            kept.update(dict.fromkeys(n for n in node.inputs if n not in graph.constants))

    rest = [node for node, is_second in zip(graph.nodes, second, strict=True) if is_second]
    later = [name for name in graph.inputs if name in changing]
    sooner = [name for name in graph.inputs if name not in changing]
    return (
        _part(graph, sooner, list(kept), fixed),
        _part(graph, [*later, *kept], graph.outputs, rest),
    )


def folded(graph: Graph, varying: Collection[str]) -> Graph:
    """A graph in which what does not depend on some values is computed, and a constant."""
    first, second = split(graph, varying)
    values = first.run([])
    second.constants.update({name: mx.contiguous(values[name]) for name in first.outputs})
    second.inputs = list(graph.inputs)
    mx.eval(second.constants)
    return second


def _is_view(node: Node, made_by: dict[str, Node]) -> bool:
    if node.primitive in _VIEWS:
        return True
    source = made_by.get(node.inputs[0]) if node.primitive in _VIEWS_IN_ORDER else None
    # What is transposed, or broadcast, is copied before it takes another shape.
    return source is not None and source.primitive not in ("Broadcast", "Transpose")


def _part(graph: Graph, inputs: list[str], outputs: list[str], nodes: list[Node]) -> Graph:
    """Some nodes of a graph, without those of no use to its outputs."""
    nodes = needed(nodes, outputs)
    read = {name for node in nodes for name in node.inputs}.union(outputs)
    constants = {name: value for name, value in graph.constants.items() if name in read}
    return Graph(inputs, list(outputs), constants, nodes, graph.shapes, graph.dtypes)
