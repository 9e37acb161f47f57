"""Assembly of an ONNX model from the primitives of a traced function."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from mlx_entk._parameters import Params
from mlx_entk.errors import InputError
from mlx_entk.onnx.builders import BUILDERS, Primitive
from mlx_entk.onnx.emitter import PRODUCER, Emitter, as_onnx_array, is_value, onnx_type
from mlx_entk.onnx.symbolic import Size, SymbolicGraph

OPSET = 18
"""ONNX opset of all graphs: ReduceMax with its axes as an input needs it; all else is older."""
# Version of the file format: the first with opset 18.
IR_VERSION = 8


def assembled(
    traced: SymbolicGraph,
    input_names: list[str],
    output_names: list[str],
    weights: Params,
    free: Sequence[Sequence[int]],
) -> onnx.ModelProto:
    """Write the primitives of a function as an ONNX model.

    Parameters
    ----------
    traced
        The function: its inputs are the weights, then the others.
    input_names, output_names
        Names of all inputs and outputs, in order.
    weights
        Initializers by name.
    free
        For each free batch, the numbers of the inputs whose first axis it is.

    Raises
    ------
    InputError
        If a primitive has no builder, or a parameter has a name of the graph's own.
    FixedBatchError
        If a builder needs a size that depends on a free batch.
    """
    graph = traced.graph
    ends = {*input_names[len(weights) :], *output_names}
    if taken := [name for name in weights if name in ends or is_value(name)]:
        raise InputError(
            f"the graph has an input, an output or a value of its own called {taken[0]}: rename "
            "the parameter"
        )
    names = dict(zip(graph.inputs, input_names, strict=True))
    emitter = Emitter({numbers[0]: input_names[numbers[0]] for numbers in free})
    for name, value in weights.items():
        emitter.initializers[name] = as_onnx_array(value)
    for name, value in graph.constants.items():
        names[name] = emitter.fresh()
        emitter.initializers[names[name]] = as_onnx_array(value)
    for node in traced.nodes:
        if node.primitive not in BUILDERS:
            raise InputError(
                f"MLX primitive {node.primitive} has no ONNX builder: add a line "
                f'"{node.primitive}": … to the table of its family in mlx_entk/onnx/builders'
            )
        primitive = Primitive(
            name=node.primitive,
            inputs=[names[name] for name in node.inputs],
            arguments=node.arguments,
            shapes=[traced.shapes[name] for name in node.inputs],
            dtypes=[graph.dtypes[name] for name in node.inputs],
            output_shapes=[traced.shapes[name] for name in node.outputs],
            output_dtypes=[graph.dtypes[name] for name in node.outputs],
        )
        built = BUILDERS[node.primitive](emitter, primitive)
        names.update(zip(node.outputs, [built] if isinstance(built, str) else built, strict=True))
    for name, output in zip(graph.outputs, output_names, strict=True):
        emitter.op("Identity", [names[name]], output)

    labels = {numbers[0]: f"N{i}" if i else "N" for i, numbers in enumerate(free)}

    def described(name: str, value: str) -> onnx.ValueInfoProto:
        shape = [_label(size, labels) for size in traced.shapes[value]]
        return helper.make_tensor_value_info(name, onnx_type(graph.dtypes[value]), shape)

    inputs = list(zip(input_names, graph.inputs, strict=True))[len(weights) :]
    outputs = zip(output_names, graph.outputs, strict=True)
    return _model(
        emitter,
        [described(name, value) for name, value in inputs],
        [described(name, value) for name, value in outputs],
    )


def _model(
    emitter: Emitter, inputs: list[onnx.ValueInfoProto], outputs: list[onnx.ValueInfoProto]
) -> onnx.ModelProto:
    model = helper.make_model(
        helper.make_graph(emitter.nodes, "mlx_entk", inputs, outputs),
        producer_name=PRODUCER,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )
    used = {name for node in emitter.nodes for name in node.input}
    for name, array in emitter.initializers.items():  # one at a time: they may fill the memory
        if name in used:
            # Not ascontiguousarray, which gives a number without axes one.
            tensor = numpy_helper.from_array(np.asarray(array, order="C"), name)
            model.graph.initializer.add().CopyFrom(tensor)
    return model


def _label(size: Any, labels: dict[int, str]) -> int | str | None:
    """Return a size, the name of a free batch, or None for a size composed of batches."""
    if not isinstance(size, Size):
        return int(size)
    for number, label in labels.items():
        if size.coefficients == (((number,), 1),):
            return label
    return None
