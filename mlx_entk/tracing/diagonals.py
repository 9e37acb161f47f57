"""Chains of elementwise factors in a linear graph, each as a single factor.

The derivative of an activation is a chain of products and sums, entry by entry, whose factors do
not depend on the vector that it is applied to. Their combination is computed once in its place: it
is less to keep than the factors, and less to do for each vector.
"""

import math
from collections.abc import Collection
from dataclasses import dataclass, field, replace

import mlx.core as mx

from mlx_entk.tracing.graph import Graph, Node, dependents, needed

# A factor made of so much less than its own entries, such as a broadcast one, costs nothing to
# keep.
_SMALL = 4
_VIEWS = frozenset({"Broadcast", "ExpandDims", "Flatten", "Reshape", "Squeeze", "Unflatten"})


@dataclass
class _Chain:
    """Values that are a source times factors, entry by entry, and what those are stored as."""

    members: dict[str, Node] = field(default_factory=dict)
    factors: set[str] = field(default_factory=set)


def with_single_factors(graph: Graph, varying: Collection[str]) -> Graph:
    """A graph with the same outputs, in which chains of factors are combined if that is less.

    Parameters
    ----------
    graph
        Linear in what varies.
    varying
        Names of inputs.
    """
    changing = dependents(graph, varying)
    made_by = {name: node for node in graph.nodes for name in node.outputs}
    source_of: dict[str, str] = {}
    chains: dict[str, _Chain] = {}
    for node in graph.nodes:
        source = _source(graph, node, changing, source_of)
        if source is None:
            continue
        (output,) = node.outputs
        source_of[output] = source
        chain = chains.setdefault(source, _Chain())
        chain.members[output] = node
        stored = (_stored(graph, made_by, name) for name in node.inputs if name not in changing)
        chain.factors.update(name for name in stored if name is not None)
    read = set(graph.outputs)
    for node in graph.nodes:
        of = source_of.get(node.outputs[0])
        read.update(name for name in node.inputs if source_of.get(name, name) != of)
    combined: dict[str, str] = {}
    for source, chain in chains.items():
        ends = [name for name in chain.members if name in read]
        if len(ends) < len(chain.factors):
            combined.update(dict.fromkeys(ends, source))

    result = replace(graph, nodes=[], constants=dict(graph.constants))
    result.shapes, result.dtypes = dict(graph.shapes), dict(graph.dtypes)
    factors = _Factors(result, chains)
    for node in graph.nodes:
        end = node.outputs[0]
        if end in combined:
            factor = factors.of(combined[end], end)
            node = Node("Multiply", (combined[end], factor), node.outputs, ())
        result.nodes.append(node)
    result.nodes = needed(result.nodes, result.outputs)
    return result


def _source(
    graph: Graph, node: Node, changing: Collection[str], source_of: dict[str, str]
) -> str | None:
    """What a node multiplies by a factor, entry by entry; None if it does something else."""
    touched = [name for name in node.inputs if name in changing]
    if len(node.outputs) != 1 or not touched:
        return None
    shapes = {graph.shapes[name] for name in (*node.inputs, *node.outputs)}
    sources = {source_of.get(name, name) for name in touched}
    if len(shapes) > 1 or len(sources) > 1:
        return None
    alone = len(touched) == 1
    fits = (
        (node.primitive == "Multiply" and alone)
        or (node.primitive == "Divide" and touched == [node.inputs[0]])
        or (node.primitive == "Negative")
        or (node.primitive in ("Add", "Subtract") and len(touched) == 2)
    )
    return sources.pop() if fits else None


def _stored(graph: Graph, made_by: dict[str, Node], name: str) -> str | None:
    """The value that a factor is a view of; None if it is small, or a constant."""
    size = math.prod(graph.shapes[name])
    while name in made_by and made_by[name].primitive in _VIEWS:
        name = made_by[name].inputs[0]
    small = math.prod(graph.shapes[name]) * _SMALL <= size
    return None if small or name in graph.constants else name


class _Factors:
    """The factors of chains, as nodes that are added to a graph."""

    def __init__(self, graph: Graph, chains: dict[str, _Chain]):
        self._graph, self._chains = graph, chains
        self._known: dict[str, str] = {}
        self._count = 0

    def of(self, source: str, member: str) -> str:
        """The name of what a source is multiplied by to give a member of its chain."""
        if member not in self._known:
            node = self._chains[source].members.get(member)
            self._known[member] = self._one(source) if node is None else self._made(source, node)
        return self._known[member]

    def _made(self, source: str, node: Node) -> str:
        members = self._chains[source].members
        inside = [name == source or name in members for name in node.inputs]
        if node.primitive == "Multiply" and source in node.inputs:
            return node.inputs[1 - inside.index(True)]
        inputs = tuple(
            self.of(source, name) if own else name
            for name, own in zip(node.inputs, inside, strict=True)
        )
        return self._add(Node(node.primitive, inputs, (), node.arguments), source)

    def _one(self, source: str) -> str:
        dtype = self._graph.dtypes[source]
        one = f"one of {dtype}"
        self._graph.constants[one] = mx.ones((), dtype)
        self._graph.shapes[one], self._graph.dtypes[one] = (), dtype
        shape = self._graph.shapes[source]
        return self._add(Node("Broadcast", (one,), (), (shape,)), source)

    def _add(self, node: Node, like: str) -> str:
        self._count += 1
        name = f"factor {self._count}"
        self._graph.nodes.append(replace(node, outputs=(name,)))
        self._graph.shapes[name] = self._graph.shapes[like]
        self._graph.dtypes[name] = self._graph.dtypes[like]
        return name
