"""Files that tf2onnx writes: what the names that TensorFlow's operators left tell of each tensor.

Before tf2onnx sees a graph, TensorFlow's optimiser computes whatever depends on variables alone,
and names the result by the last operator; it takes out what changes nothing, such as a bias of
zeros. Then tf2onnx keeps equal tensors once.
"""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence

import onnx

from mlx_entk._text import visible
from mlx_entk.onnx.graph import Graph, Stored, every_node
from mlx_entk.onnx.parameters.roles import PRODUCTS, roles_of, unchanging
from mlx_entk.onnx.parameters.verdicts import Verdict

REMEDY = "Export it from Keras with the backend JAX (KERAS_BACKEND=jax)"

_VARIABLE = re.compile(
    r"(^|/)(ReadVariableOp(_\d+)?(/resource)?|read|\w*(kernel|weights?|embeddings?)|bias(es)?"
    r"|gamma|beta|alpha)(:\d+)?(__\d+)?$"
)
_MOVED = re.compile(r"(^|/)(Reshape|Squeeze|ExpandDims|[Tt]ranspose)(_\d+)?(:\d+)?$")
_LITERAL = re.compile(r"(^|/)([xy]|Const(_\d+)?)(:\d+)?$")
_STATISTIC = re.compile(r"(^|/)moving_(mean|variance)\b")
_RECURRENT = re.compile(r"^[WR]\d*__\d+$")
_SECOND_BIAS = re.compile(r"^B\d*__\d+$")


def evidence(name: str, stored: Stored) -> Verdict | None:
    """What the operator was that left a tensor."""
    lengths = [size for size in stored.array.shape if size > 1]
    if _STATISTIC.search(name):
        return "statistic", "has the name of a running statistic"
    if _VARIABLE.search(name):
        return "parameter", "has the name of a variable of TensorFlow"
    if _LITERAL.search(name) or (not stored.array.ndim and not stored.array):
        return "constant", "is a number of TensorFlow's graph, not of a variable"
    if _RECURRENT.search(name):
        return "parameter", "has the numbers of a kernel in another order, so the same kernel"
    if _SECOND_BIAS.search(name):
        return "changed", "has numbers for a second bias, which the layer may not have"
    if _MOVED.search(name) and len(lengths) < 2:
        return "parameter", "has the numbers of a variable in another shape"
    return "changed", "was computed by TensorFlow's optimiser, perhaps of several variables"


def doubts(graph: Graph) -> list[str]:
    """Signs that variables were merged, or taken out."""
    nodes = list(every_node(graph.nodes))
    roles = roles_of(graph.nodes)
    found = [
        f"{visible(name)} is used {len(roles[name])} times, perhaps for several that were equal"
        for name, stored in graph.stored.items()
        if stored.array.dtype.kind == "f" and stored.array.ndim and len(roles.get(name, ())) > 1
    ]
    return found + [
        f"{visible(node.name or node.output[0])} adds no bias, perhaps because it was zero"
        for node in _without_bias(nodes, graph.stored)
    ]


def _without_bias(
    nodes: Sequence[onnx.NodeProto], stored: Mapping[str, Stored]
) -> list[onnx.NodeProto]:
    """Products with a stored weight, to which nothing stored is added."""
    source, users = unchanging(nodes), defaultdict(list)
    for node in nodes:
        for name in node.input:
            users[source(name)].append(node)

    def adds(node: onnx.NodeProto) -> bool:
        return node.op_type == "Add" and any(source(name) in stored for name in node.input)

    return [
        node
        for node in nodes
        if node.op_type in PRODUCTS
        and any(source(name) in stored for name in node.input)
        and not (len(node.input) > 2 and source(node.input[2]) in stored)
        and not any(adds(user) for user in users[node.output[0]])
    ]
