"""Graphs of a few nodes, and what onnxruntime makes of them."""

from collections.abc import Mapping, Sequence
from typing import Any

import mlx.core as mx
import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from mlx_entk.onnx.importer import from_model

Array = NDArray[Any]

node = helper.make_node


def graph_of(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Array],
    constants: Mapping[str, Any],
    outputs: Sequence[str] = ("y",),
    opset: int = 18,
) -> onnx.ModelProto:
    """Nodes, with inputs like those given but for the size of the first axis."""
    values = [
        helper.make_tensor_value_info(
            name, helper.np_dtype_to_tensor_dtype(value.dtype), [None, *value.shape[1:]]
        )
        for name, value in inputs.items()
    ]
    graph = helper.make_graph(
        list(nodes),
        "small",
        values,
        [onnx.ValueInfoProto(name=name) for name in outputs],
        [numpy_helper.from_array(np.asarray(v), name) for name, v in constants.items()],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("ai.onnx.ml", 3)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def session_of(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model.SerializeToString(), options)


def ours(model: onnx.ModelProto, *inputs: Array, outputs: Sequence[str] = ("y",)) -> list[Array]:
    function = from_model(model, parameters=[])
    results = function.run(function.params, [mx.array(x) for x in inputs], outputs)
    return [np.array(one) for one in results]


def require_equal(
    model: onnx.ModelProto, inputs: Mapping[str, Array], rtol: float = 1e-5, atol: float = 1e-6
) -> None:
    """Every output is onnxruntime's."""
    names = [value.name for value in model.graph.output]
    expected = session_of(model).run(names, inputs)
    for found, wanted in zip(ours(model, *inputs.values(), outputs=names), expected, strict=True):
        assert found.shape == wanted.shape
        np.testing.assert_allclose(found, wanted, rtol=rtol, atol=atol)
