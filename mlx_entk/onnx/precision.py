"""Graphs in another floating type, optionally with their weights as inputs."""

from collections.abc import Mapping

import onnx
from onnx import TensorProto, helper, numpy_helper

from mlx_entk.onnx.emitter import is_value

_IN_DOUBLE: dict[int, int] = dict.fromkeys(
    (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16), TensorProto.DOUBLE
)
_FLOATING = {TensorProto.DOUBLE, *_IN_DOUBLE}


def retyped(model: onnx.ModelProto, types: Mapping[int, int]) -> onnx.ModelProto:
    """Return a copy of a model that computes in other types.

    Parameters
    ----------
    model
        The model, with its weights in it.
    types
        ONNX's numbers of types, and of those that take their place.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    for tensor in graph.initializer:
        if tensor.data_type in types:
            dtype = helper.tensor_dtype_to_np_dtype(types[tensor.data_type])
            array = numpy_helper.to_array(tensor).astype(dtype)
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    for value in (*graph.input, *graph.output, *graph.value_info):
        kind = value.type.tensor_type
        kind.elem_type = types.get(kind.elem_type, kind.elem_type)
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to":
                attribute.i = types.get(attribute.i, attribute.i)
    return copy


def types_of(model: onnx.ModelProto) -> set[int]:
    """Return ONNX's numbers of the types that inputs, weights, casts and outputs have."""
    graph = model.graph
    values = {value.type.tensor_type.elem_type for value in (*graph.input, *graph.output)}
    casts = {a.i for node in graph.node for a in node.attribute if node.op_type == "Cast"}
    return values | casts | {tensor.data_type for tensor in graph.initializer}


def in_double(model: onnx.ModelProto, weights_as_inputs: bool = False) -> onnx.ModelProto:
    """Return a copy of a model that computes in double precision.

    Parameters
    ----------
    model
        The model.
    weights_as_inputs
        Whether to turn the parameters into inputs.
    """
    double = retyped(model, _IN_DOUBLE)
    if weights_as_inputs:
        graph = double.graph
        tensors = list(graph.initializer)
        del graph.initializer[:]
        graph.initializer.extend(tensor for tensor in tensors if not is_weight(tensor))
        graph.input.extend(
            helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            for tensor in tensors
            if is_weight(tensor)
        )
    return double


def is_weight(tensor: onnx.TensorProto) -> bool:
    """Return whether an initializer of an exported graph is a parameter, not a constant."""
    return tensor.data_type in _FLOATING and not is_value(tensor.name)
