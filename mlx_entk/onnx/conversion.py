"""Older files in the operators of today: ONNX's own converter, in a process of its own."""

import subprocess
import sys

import onnx
from google.protobuf.message import EncodeError
from onnx import helper, numpy_helper

from mlx_entk.errors import InputError
from mlx_entk.onnx.graph import every_node, opset_of

# Seconds that a conversion may take. The largest published networks take a tenth.
_LONGEST = 300

# The converter is compiled code, which a damaged file can end; -P keeps the working folder out of
# what the process imports.
_SCRIPT = """
import sys, onnx
from onnx import version_converter
model = onnx.ModelProto()
model.ParseFromString(sys.stdin.buffer.read())
try:
    model = version_converter.convert_version(model, int(sys.argv[1]))
except Exception as error:
    sys.exit(" ".join(str(error).split()) or type(error).__name__)
sys.stdout.buffer.write(model.SerializeToString())
"""


def converted(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """A model with ONNX's own operators as an opset has them.

    Parameters
    ----------
    model
        Below 2 GiB, with all data inside.
    opset
        The version wanted.

    Raises
    ------
    InputError
        If ONNX's version converter fails, ends or takes minutes.
    """
    if any(node.op_type == "Hardmax" for node in every_node(model.graph.node)):
        raise InputError("Hardmax did something else before opset 13, which the converter forgets")
    if model.functions:
        raise InputError("it has functions, which the converter leaves out")
    command = [sys.executable, "-P", "-c", _SCRIPT, str(opset)]
    try:
        given = _by_channel(model).SerializeToString()
        child = subprocess.run(command, input=given, capture_output=True, timeout=_LONGEST)
    except subprocess.TimeoutExpired as error:
        raise InputError(f"the conversion took more than {_LONGEST} s") from error
    except (EncodeError, ValueError, MemoryError, OSError) as error:
        raise InputError(f"it cannot be passed to the converter: {error}") from error
    if child.returncode:
        said = child.stderr.decode(errors="replace").strip().splitlines()
        raise InputError(said[-1][:300] if said else f"it ended with code {child.returncode}")
    result = onnx.ModelProto()
    result.ParseFromString(child.stdout)
    _keep_places(result, opset_of(model))
    # Since version 4, weights need not be inputs as well, and the converter's own are not.
    result.ir_version = max(result.ir_version, 8)
    return result


def _keep_places(model: onnx.ModelProto, opset: int) -> None:
    """Let resized arrays be read at the places of opset 10 and before, which the converter forgets.

    onnxruntime took the entry before a place when it enlarged, and the one after it otherwise.
    """
    if opset > 10:
        return
    numbers = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    for node in every_node(model.graph.node):
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            numbers[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
    for node in every_node(model.graph.node):
        if node.op_type != "Resize":
            continue
        mode = next((a.s for a in node.attribute if a.name == "mode"), b"nearest")
        node.attribute.append(helper.make_attribute("coordinate_transformation_mode", "asymmetric"))
        if mode == b"nearest":
            scales = numbers.get(node.input[2] if len(node.input) > 2 else "")
            if scales is None or (scales.min() < 1 < scales.max()):
                raise InputError("it resizes by what is not known, or in both directions")
            which = "ceil" if scales.min() < 1 else "floor"
            node.attribute.append(helper.make_attribute("nearest_mode", which))


def _by_channel(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with slopes of PRelu that broadcast: before opset 7 they were one for each channel.

    The converter leaves them as they are, and their axis would then be the last one.
    """
    if opset_of(model) >= 7:
        return model
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = onnx.shape_inference.infer_shapes(copy).graph
    ranks = {
        value.name: len(value.type.tensor_type.shape.dim)
        for value in (*graph.value_info, *graph.input)
        if value.type.tensor_type.HasField("shape")
    }
    slopes = {
        node.input[1]: ranks.get(node.input[0], 0)
        for node in copy.graph.node
        if node.op_type == "PRelu"
    }
    for tensor in copy.graph.initializer:
        if tensor.name in slopes and len(tensor.dims) == 1 and tensor.dims[0] > 1:
            rank = slopes[tensor.name]
            if rank < 2:
                raise InputError(
                    f"what the slope {tensor.name} is multiplied by has no known shape"
                )
            tensor.dims.extend([1] * (rank - 2))
            for value in copy.graph.input:
                if value.name == tensor.name:
                    for _ in range(rank - 2):
                        value.type.tensor_type.shape.dim.add().dim_value = 1
    return copy
