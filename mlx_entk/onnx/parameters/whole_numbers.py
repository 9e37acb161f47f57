"""Weights that a file stores as whole numbers, and the real numbers that they stand for."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import mlx.core as mx
import numpy as np
import onnx
from numpy.typing import NDArray

from mlx_entk.onnx.graph import Graph, every_node
from mlx_entk.onnx.tensors import FLOATING

Real = NDArray[np.float32]

# Where operators take such weights, and their scale and zero point.
_WEIGHTS = {
    ("DequantizeLinear", 0): (1, 2),
    ("QLinearConv", 3): (4, 5),
    ("QLinearMatMul", 0): (1, 2),
    ("QLinearMatMul", 3): (4, 5),
    ("DynamicQuantizeLSTM", 1): (8, 9),
    ("DynamicQuantizeLSTM", 2): (10, 11),
}
# Operators that know only the zero point, and where: the scale has the name of the weight.
_UNSCALED = {("MatMulInteger", 0): 2, ("MatMulInteger", 1): 3, ("ConvInteger", 1): 3}
_BIAS = ("QLinearConv", 8)
# Operators that keep each number as it is, and those that keep its place too.
_SAME = frozenset({"Cast", "Gather", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})
_IN_PLACE = frozenset({"Cast", "Identity"})
_QUANTISED = "_quantized"


@dataclass(frozen=True)
class Steps:
    """Whole numbers as real ones: ``scale * (whole - zero)``, each of which may be broadcast."""

    scale: Real
    zero: Real

    def real(self, whole: NDArray[np.generic]) -> Real:
        """The real numbers that whole ones stand for."""
        number: Real = self.scale * (whole.astype(np.float32) - self.zero)
        return number

    def whole(self, real: mx.array) -> mx.array:
        """The whole numbers, as float32, with the derivative by the real ones."""
        steps = real / mx.array(self.scale) + mx.array(self.zero)
        return mx.stop_gradient(mx.round(steps)) + (steps - mx.stop_gradient(steps))


@dataclass
class WholeNumbers:
    """What a file stores as whole numbers and takes as weights.

    Attributes
    ----------
    steps
        What they stand for, by name.
    unknown
        Names of those of which that is not known.
    scales
        Names of the steps, which are no weights.
    """

    steps: dict[str, Steps] = field(default_factory=dict)
    unknown: set[str] = field(default_factory=set)
    scales: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class _Origin:
    """The stored tensor that a value has its numbers from.

    ``exact`` says that they are not rounded on the way, ``in_place`` that they keep their places.
    """

    name: str
    exact: bool = True
    in_place: bool = True


def whole_numbers(graph: Graph, nodes: Sequence[onnx.NodeProto]) -> WholeNumbers:
    """Find the weights that are stored as whole numbers."""
    found = WholeNumbers()
    origins: dict[str, _Origin] = {}
    for node in every_node(nodes):
        for place, name in enumerate(node.input):
            origin = origins.get(name, _Origin(name))
            stored = graph.stored.get(origin.name)
            if stored is None or stored.array.dtype.kind not in "iu" or stored.array.ndim == 0:
                continue
            shape = stored.array.shape
            scale = _scale(graph, node, place, origin.name, shape)
            if scale is None and not _is_weight(node, place, stored.array):
                continue
            steps = _fitting(graph, node, place, scale, shape) if origin.exact else None
            if steps is not None and (origin.in_place or steps.scale.size == 1):
                found.steps[origin.name] = steps
                found.scales |= set(_scales(node, place, origin.name))
            else:
                found.unknown.add(origin.name)
        if node.op_type in _SAME and node.input:
            before = origins.get(node.input[0], _Origin(node.input[0]))
            origins[node.output[0]] = _Origin(
                before.name,
                before.exact and (node.op_type != "Cast" or _is_to_floating(node)),
                before.in_place and node.op_type in _IN_PLACE,
            )
    found.unknown -= found.steps.keys()
    return found


def _is_to_floating(node: onnx.NodeProto) -> bool:
    return any(a.name == "to" and a.i in FLOATING for a in node.attribute)


def _is_weight(node: onnx.NodeProto, place: int, array: NDArray[np.generic]) -> bool:
    """Whether an operator takes whole numbers as weights, whatever they stand for."""
    key = (node.op_type, place)
    if key in _WEIGHTS or key in _UNSCALED or key == _BIAS:
        return True
    small = array.dtype.itemsize <= 2 and array.size > 1
    return node.op_type == "Cast" and small and _is_to_floating(node)


def _given(graph: Graph, node: onnx.NodeProto, place: int) -> Real | None:
    name = node.input[place] if place < len(node.input) else ""
    return graph.stored[name].array.astype(np.float32) if name in graph.stored else None


def _scale(
    graph: Graph, node: onnx.NodeProto, place: int, origin: str, shape: Sequence[int]
) -> Real | None:
    """The step of a weight as one operator takes it; None if it is not known."""
    key = (node.op_type, place)
    if key in _WEIGHTS:
        return _given(graph, node, _WEIGHTS[key][0])
    if key in _UNSCALED:
        named = graph.stored.get(f"{origin.removesuffix(_QUANTISED)}_scale")
        return None if named is None else named.array.astype(np.float32)
    if key == _BIAS:  # a bias has the step of the products
        factors = _given(graph, node, 1), _given(graph, node, 4)
        return None if factors[0] is None or factors[1] is None else factors[0] * factors[1]
    small = graph.stored[origin].array.dtype.itemsize == 1
    return _given(graph, node, 1 - place) if node.op_type == "Mul" and small else None


def _scales(node: onnx.NodeProto, place: int, origin: str) -> Iterator[str]:
    """Names of the step of a weight."""
    yield f"{origin.removesuffix(_QUANTISED)}_scale"
    if node.op_type == "Mul":
        yield node.input[1 - place]


def _fitting(
    graph: Graph, node: onnx.NodeProto, place: int, scale: Real | None, shape: tuple[int, ...]
) -> Steps | None:
    """Steps that broadcast over a weight; None if they do not fit it."""
    if scale is None or any(a.name == "block_size" and a.i for a in node.attribute):
        return None
    key = (node.op_type, place)
    at = _WEIGHTS[key][1] if key in _WEIGHTS else _UNSCALED.get(key)
    zero = None if at is None else _given(graph, node, at)
    if zero is None and at is not None and at < len(node.input) and node.input[at]:
        return None  # it is computed
    axis = _axis(node, len(shape))
    zero = np.zeros((), np.float32) if zero is None else zero
    steps = Steps(_spread(scale, node, shape, axis), _spread(zero, node, shape, axis))
    try:
        fits = steps.real(np.zeros(shape, np.int8)).shape == shape
    except ValueError:
        return None
    return steps if fits and np.all(steps.scale != 0) else None


def _axis(node: onnx.NodeProto, rank: int) -> int:
    """The axis along which an operator has a scale for each entry."""
    if node.op_type == "DequantizeLinear":
        axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
        return axis % rank if -rank <= axis < rank else 0
    if node.op_type in ("QLinearConv", "ConvInteger", "DynamicQuantizeLSTM"):
        return 0
    return rank - 1


def _spread(number: Real, node: onnx.NodeProto, shape: Sequence[int], axis: int) -> Real:
    """A scale or zero point that broadcasts over a weight."""
    if number.size == 1:
        return number.reshape(())
    if node.op_type == "Mul":
        return number
    if node.op_type == "DynamicQuantizeLSTM" and number.ndim == 2:
        return number[:, None]  # one for each direction and output
    if number.ndim != 1:
        return number
    return number.reshape([-1 if k == axis else 1 for k in range(len(shape))])
