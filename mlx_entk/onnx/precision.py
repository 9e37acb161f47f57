"""Graphs in double precision, optionally with their weights as inputs."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from mlx_entk.onnx.emitter import is_value


def in_double(model: onnx.ModelProto, weights_as_inputs: bool = False) -> onnx.ModelProto:
    """Return a copy of a single-precision model that computes in double precision.

    Parameters
    ----------
    model
        The model.
    weights_as_inputs
        Whether to turn the parameters into inputs.
    """
    double = onnx.ModelProto()
    double.CopyFrom(model)
    graph = double.graph
    weights = []
    tensors = list(graph.initializer)
    del graph.initializer[:]
    for tensor in tensors:
        array = numpy_helper.to_array(tensor)
        if tensor.data_type == TensorProto.FLOAT:
            array = array.astype(np.float64)
            if weights_as_inputs and is_weight(tensor):
                weights.append(
                    helper.make_tensor_value_info(tensor.name, TensorProto.DOUBLE, array.shape)
                )
                continue
        graph.initializer.append(numpy_helper.from_array(array, tensor.name))
    graph.input.extend(weights)
    for value in (*graph.input, *graph.output, *graph.value_info):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            value.type.tensor_type.elem_type = TensorProto.DOUBLE
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.i == TensorProto.FLOAT:
                attribute.i = TensorProto.DOUBLE
    return double


def is_weight(tensor: onnx.TensorProto) -> bool:
    """Return whether an initializer of an exported graph is a parameter, not a constant."""
    floating = tensor.data_type in (TensorProto.FLOAT, TensorProto.DOUBLE)
    return floating and bool(tensor.dims) and not is_value(tensor.name)
