"""What lies between a value of the graph and the outputs, if that is simple.

From the last hidden layer to the outputs most networks are an elementwise function followed by
a linear map that is the same for every input. The derivative of output r by such a value h is
then s(x)·b[r], entry by entry: one elementwise derivative s for each input, one b for all, and
no backward pass for each output.
"""

import math
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from mlx_entk.tracing.graph import Graph, Node, dependents
from mlx_entk.tracing.mapping import map_inputs
from mlx_entk.tracing.primitives import ELEMENTWISE, FAST, REDUCE_SUM, REGROUPED, Arrays

# Primitives linear in every input of theirs together; those linear in any one input while the
# others stay what they are.
_LINEAR = frozenset(
    {"Add", "AsType", "Broadcast", "Concatenate", "ExpandDims", "Flatten", "Full", "Negative",
     "Reshape", "Slice", "Split", "Squeeze", "Subtract", "Transpose", "Unflatten"}
)  # fmt: skip
_BILINEAR = frozenset({"Matmul", "Multiply"})


@dataclass(frozen=True)
class Tail:
    """A value, the elementwise function behind it, and the linear map behind that.

    Attributes
    ----------
    value
        The value, by name.
    core
        What the elementwise function makes of it, the same entries in the same order; the value
        itself if everything behind it is linear.
    """

    value: str
    core: str


def find_tail(graph: Graph, value: str, of_input: Set[str]) -> Tail | None:
    """The tail of a value; None if what follows is not elementwise and then linear.

    ``of_input`` are the values that change from input to input.
    """
    same, elementwise, linear = {value}, {value}, set[str]()
    cores: set[str] = set()
    for node in graph.nodes:
        touched = {name for name in node.inputs if name in elementwise or name in linear}
        if not touched:
            continue
        if any(graph.dtypes[name] == mx.complex64 for name in (*touched, *node.outputs)):
            return None  # no real s(x)·b[r] stands for a derivative through it
        if touched <= elementwise and _acts_elementwise(graph, node, touched):
            elementwise.update(node.outputs)
            if node.primitive in REGROUPED and touched <= same:
                same.update(node.outputs)
        elif _acts_linearly(node, touched, of_input):
            cores |= touched & elementwise
            linear.update(node.outputs)
        else:
            return None
    (output,) = graph.outputs
    if output in elementwise:
        cores.add(output)
    elif output not in linear:
        return None
    cores = {value if core in same else core for core in cores}
    return Tail(value, cores.pop()) if len(cores) == 1 else None


def find_bottleneck(graph: Graph, values: Iterable[str], of_input: Set[str]) -> str | None:
    """The smallest value that all paths from some values to the outputs go through.

    What lies behind it is linear. None is returned if every such value is as large as the outputs.
    """
    (output,) = graph.outputs
    sources, reached = list(values), dependents(graph, values)
    best, smallest = None, math.prod(graph.shapes[output])
    for node in graph.nodes:
        for name in node.outputs:
            if name not in reached or math.prod(graph.shapes[name]) >= smallest:
                continue
            tail = find_tail(graph, name, of_input)
            around = dependents(graph, sources, without=name)
            if tail is not None and tail.core == name and output not in around:
                best, smallest = name, math.prod(graph.shapes[name])
    return best


def pull_back(
    graph: Graph, value: str, inputs: Sequence[mx.array], cotangents: mx.array
) -> mx.array:
    """Cotangents (R, C) of the outputs as those of a value, shape (R, *value)."""
    (output,) = graph.outputs
    zero = mx.zeros(graph.shapes[value], graph.dtypes[value])

    def outputs(perturbation: mx.array) -> mx.array:
        return graph.run(inputs, {value: perturbation}, FAST)[output].reshape(-1)

    def pull(row: mx.array) -> Arrays:
        pulled: Arrays = mx.vjp(outputs, [zero], [row])[1]
        return pulled

    (pulled,) = map_inputs(pull, (cotangents,))
    return pulled


def envelope(base: mx.array) -> mx.array | None:
    """One row e that stands for all: e[t, h]·e[u, h] = Σ_r b[r, t, h]·b[r, u, h].

    Parameters
    ----------
    base
        b, shape (R, …, T, H): positions T, entries H.

    Returns
    -------
    mlx.array or None
        Shape (…, T, H); None if positions differ by more than a positive factor, so that no
        such e exists.
    """
    b = np.array(base.astype(mx.float32), dtype=np.float64)
    by_entry = b.reshape(b.shape[0], -1, b.shape[-1])  # (R, T, H)
    norms = np.linalg.norm(by_entry, axis=0)
    longest = np.take_along_axis(by_entry, norms.argmax(axis=0)[None, None], axis=1)
    along = longest / np.maximum(norms.max(axis=0), np.finfo(np.float64).tiny)
    if np.abs(by_entry - norms * along).max() > 1e-6 * norms.max():
        return None
    return mx.array(norms.reshape(b.shape[1:]).astype(np.float32))


def _acts_elementwise(graph: Graph, node: Node, touched: set[str]) -> bool:
    """Whether each entry goes by the entry at the same place, counted row by row."""
    shape = graph.shapes[node.outputs[0]]
    if node.primitive in REGROUPED:
        return True
    return node.primitive in ELEMENTWISE and all(graph.shapes[name] == shape for name in touched)


def _acts_linearly(node: Node, touched: set[str], of_input: Set[str]) -> bool:
    """Whether it is linear in what is touched, by factors that are the same for every input."""
    slots = [slot for slot, name in enumerate(node.inputs) if name in touched]
    others = [name for name in node.inputs if name not in touched]
    fixed = not of_input & set(others)
    if node.primitive in _LINEAR:
        return True
    if node.primitive == "Reduce":
        return bool(node.arguments[0] == REDUCE_SUM)
    if node.primitive in _BILINEAR:
        return len(slots) == 1 and fixed
    if node.primitive in ("Divide", "Convolution", "Gather"):
        return slots == [0] and fixed
    if node.primitive == "AddMM":
        return slots in ([0], [1], [2]) and (slots == [2] or fixed)
    return False
