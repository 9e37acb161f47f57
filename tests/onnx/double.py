"""Any ONNX file in double precision, as a function of every floating number that it stores.

The operators are those of ONNX's reference implementation and of ``double_operators``.
"""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from tests.onnx.double_operators import OPERATORS, ROUNDING

Array = NDArray[Any]

_FLOATING = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16)


class Double:
    """A model in double precision.

    Attributes
    ----------
    stored
        Every floating number that the file stores as an initializer or a Constant node, in the
        branches of an If as well, by name, as float64.

    Parameters
    ----------
    model
        With all data inside.
    apart
        Names that count as numbers of their own: outputs of Identity nodes, which otherwise are
        the numbers that they copy, and weights stored as whole numbers, which are the real numbers
        that these stand for.
    """

    def __init__(self, model: onnx.ModelProto, apart: Collection[str] = ()) -> None:
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        self.stored: dict[str, Array] = {}
        self._apart = apart
        self._steps = _steps_of(copy.graph, apart)
        self._lift(copy.graph, "")
        del copy.graph.value_info[:]
        given = {value.name for value in copy.graph.input}
        copy.graph.input.extend(
            helper.make_tensor_value_info(name, TensorProto.DOUBLE, value.shape)
            for name, value in self.stored.items()
            if name not in given
        )
        for value in (*copy.graph.input, *copy.graph.output):
            if value.type.tensor_type.elem_type in _FLOATING:
                value.type.tensor_type.elem_type = TensorProto.DOUBLE
        self._rounds = any(node.op_type.startswith("DynamicQuant") for node in _nodes(copy.graph))
        self._outputs = [value.name for value in copy.graph.output]
        self._session = ReferenceEvaluator(copy, new_ops=OPERATORS)

    def run(self, feed: Mapping[str, Array], changed: Mapping[str, Array]) -> dict[str, Array]:
        """Every output by name, with some of the stored numbers replaced."""
        doubled = {
            name: value.astype(np.float64) if value.dtype.kind == "f" else value
            for name, value in feed.items()
        }
        values = {**self.stored, **doubled}
        if changed and self._rounds:
            ROUNDING.forget()
            self._results(values)
            with ROUNDING.repeated():
                return self._results({**values, **changed})
        return self._results({**values, **changed})

    def _results(self, values: dict[str, Array]) -> dict[str, Array]:
        # Weights stored as whole numbers need not be whole here.
        whole = {name: values[name] / scale + zero for name, (scale, zero) in self._steps.items()}
        with np.errstate(all="ignore"):  # what is not chosen may divide by zero
            results: Any = self._session.run(None, values | whole)
        return dict(zip(self._outputs, results, strict=True))

    def _lift(self, graph: onnx.GraphProto, place: str) -> None:
        """Make the stored numbers of a graph inputs of the model, and the rest of it float64."""
        kept: list[onnx.NodeProto] = []
        renamed: dict[str, str] = {}
        for tensor in list(graph.initializer):
            if not place and tensor.name in self._steps:
                scale, zero = self._steps[tensor.name]
                self.stored[tensor.name] = scale * (numpy_helper.to_array(tensor) - zero)
                graph.initializer.remove(tensor)
            elif tensor.data_type in _FLOATING:
                renamed[tensor.name] = self._take(place, tensor.name, numpy_helper.to_array(tensor))
                graph.initializer.remove(tensor)
        for node in graph.node:
            for attribute in node.attribute:
                if node.op_type == "Cast" and attribute.name == "to" and attribute.i in _FLOATING:
                    attribute.i = TensorProto.DOUBLE
                elif node.op_type != "Constant" and attribute.t.data_type in _FLOATING:
                    value = numpy_helper.to_array(attribute.t).astype(np.float64)
                    attribute.t.CopyFrom(numpy_helper.from_array(value))
            number = _constant(node) if node.op_type == "Constant" else None
            if node.op_type == "Identity" and node.output[0] in self._apart:
                number = self.stored[renamed[node.input[0]]]
            if number is None:
                kept.append(node)
            else:
                renamed[node.output[0]] = self._take(place, node.output[0], number)
        del graph.node[:]
        graph.node.extend(kept)
        for node in _nodes(graph):
            for i, name in enumerate(node.input):
                node.input[i] = renamed.get(name, name)
        for name in (value.name for value in graph.output):
            if name in renamed:  # a branch that is nothing but a constant
                graph.node.append(helper.make_node("Identity", [renamed[name]], [name]))
        for at, node in enumerate(graph.node):
            for branch in (a.g for a in node.attribute if a.type == onnx.AttributeProto.GRAPH):
                self._lift(branch, f"{place}{node.name or at}/{branch.name}/")

    def _take(self, place: str, name: str, value: Array) -> str:
        self.stored[place + name] = value.astype(np.float64)
        return place + name


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """The nodes of a graph and of the graphs within it."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _nodes(attribute.g)


def _steps_of(graph: onnx.GraphProto, names: Collection[str]) -> dict[str, tuple[Array, Array]]:
    """Scale and zero point of weights that are stored as whole numbers, as exporters name them."""
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    read_by = {name: node for node in graph.node for name in node.input}
    steps = {}
    for name in names:
        if name not in tensors or tensors[name].data_type not in (
            TensorProto.INT8,
            TensorProto.UINT8,
        ):
            continue
        scale, zero = (
            f"{name.removesuffix('_quantized')}_{kind}" for kind in ("scale", "zero_point")
        )
        if scale not in tensors:  # a cast and a product
            product = read_by[read_by[name].output[0]]
            (scale,) = (one for one in product.input if one in tensors)
        one = [
            numpy_helper.to_array(tensors[kind]).astype(np.float64)
            if kind in tensors
            else np.zeros(1)
            for kind in (scale, zero)
        ]
        if one[0].ndim and len(tensors[name].dims) == 3:  # of a recurrent layer, by direction
            one = [number.reshape(len(number), 1, -1) for number in one]
        steps[name] = (one[0], one[1])
    return steps


def _constant(node: onnx.NodeProto) -> Array | None:
    """The value of a Constant node of floating type."""
    attribute = node.attribute[0]
    if attribute.name in ("value_float", "value_floats"):
        return np.array(helper.get_attribute_value(attribute))
    if attribute.name == "value" and attribute.t.data_type in _FLOATING:
        return numpy_helper.to_array(attribute.t)
    return None
