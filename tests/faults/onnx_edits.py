"""Small ONNX models of many operators, and edits of them that keep to the format of protobuf.

A byte that is flipped mostly breaks the encoding. These edits do not: they walk the messages of a
model by their descriptors, and delete, repeat, swap or replace what they find, so what reads the
model has to find out by itself that it makes no sense.
"""

import math
import os
import random
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from mlx_entk.onnx.operators import OPERATORS
from tests.faults import onnx_texts

Array = NDArray[Any]
Edit = Callable[[onnx.ModelProto, random.Random], None]

# Names of the files that ``write_companions`` puts next to a model.
DATA, PIPE, LINK, FOLDER = "weights.bin", "pipe", "link.bin", "folder"

INTEGERS = (
    0, 1, -1, 2, 3, 5, 7, 64, 1000, 2**16, 2**20, 1_500_000_000, 2**31 - 1, 2**31, -(2**31),
    2**32 + 1, 2**53 + 1, 2**62, 2**63 - 1, -(2**63),
)  # fmt: skip
FLOATS = (0.0, -1.0, 1.0, 1e-45, 3e38, -3e38, math.inf, -math.inf, math.nan)
NAMES = (
    "", " ", "x", "y", "h", "a\0b", "a\nb", "\x1b[31mred\x1b[0m", "[!]", "*", "?", "../../a",
    "/etc/passwd", "\u202e", "a" * 300, "kernel", "layers.0.weight", "NOTSET", "SAME_UPPER",
)  # fmt: skip
LOCATIONS = (
    DATA, PIPE, LINK, FOLDER, "", ".", "..", "../secret.bin", "/etc/hostname", "/dev/zero",
    "none.bin", "a\0b", "a" * 5000, f"./{DATA}", f"{FOLDER}/../{DATA}",
)  # fmt: skip
NUMBERS = ("", "0", "8", "48", "-1", "x", "1e3", "0x10", "9" * 30, "9" * 5000, str(2**62), "４")
ATTRIBUTES = (
    "allowzero", "alpha", "auto_pad", "axes", "axis", "batch_dims", "blocksize", "ceil_mode",
    "depth", "dilations", "dtype", "end", "epsilon", "equation", "group", "keepdims",
    "kernel_shape", "k", "mode", "num_groups", "num_outputs", "output_padding", "output_shape",
    "pads", "perm", "start", "strides", "to", "value", "value_float", "value_ints",
)  # fmt: skip
OTHER_OPERATORS = ("If", "Loop", "Scan", "NonZero", "Resize", "SequenceAt", "no such operator")


def edit(model: onnx.ModelProto, rng: random.Random) -> onnx.ModelProto:
    """A copy of a model with one edit, or a few."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for _ in range(rng.choice((1, 1, 1, 1, 2, 2, 4))):
        rng.choice(EDITS)(copy, rng)
    return copy


def write_companions(folder: Path) -> None:
    """Put files next to a model, for locations of external data: data, a pipe, a link, a folder."""
    (folder / DATA).write_bytes(np.linspace(-1, 1, 64, dtype=np.float32).tobytes())
    (folder / FOLDER).mkdir()
    os.mkfifo(folder / PIPE)
    (folder / LINK).symlink_to("/etc/hostname")


def inputs_of(model: onnx.ModelProto, count: int = 3) -> Array:
    """Inputs for a model of one input that was not edited."""
    (value,) = model.graph.input
    shape = (count, *(axis.dim_value for axis in value.type.tensor_type.shape.dim[1:]))
    generator = np.random.default_rng(0)
    if value.type.tensor_type.elem_type == TensorProto.INT64:
        return generator.integers(0, 5, shape, dtype=np.int32)
    return generator.standard_normal(shape, dtype=np.float32)


# Walking a model


def _messages(top: Message) -> dict[str, list[Message]]:
    """Every message below one, by its type."""
    found: dict[str, list[Message]] = {}
    waiting = [top]
    while waiting:
        message = waiting.pop()
        found.setdefault(message.DESCRIPTOR.name, []).append(message)
        for field, value in message.ListFields():
            if field.type == FieldDescriptor.TYPE_MESSAGE:
                waiting.extend(value if field.is_repeated else [value])
    return found


def _all(model: onnx.ModelProto, kind: str) -> list[Any]:
    return _messages(model).get(kind, [])


def _texts(model: onnx.ModelProto) -> Iterator[str]:
    for messages in _messages(model).values():
        for message in messages:
            for field, value in message.ListFields():
                if field.type == FieldDescriptor.TYPE_STRING:
                    yield from value if field.is_repeated else [value]


# Edits of any field


def _edit_field(model: onnx.ModelProto, rng: random.Random) -> None:
    """Delete, repeat, swap or replace what one field holds."""
    by_kind = _messages(model)
    message = rng.choice(by_kind[rng.choice(sorted(by_kind))])
    fields = [field for field, _ in message.ListFields()]
    if rng.random() < 0.3 or not fields:
        fields = list(message.DESCRIPTOR.fields)
    field = rng.choice(fields)
    if field.is_repeated:
        _edit_repeated(message, field, model, rng)
    elif rng.random() < 0.25:
        message.ClearField(field.name)
    elif field.type == FieldDescriptor.TYPE_MESSAGE:
        others = by_kind.get(field.message_type.name)
        if others:
            part = type(rng.choice(others))()
            part.CopyFrom(rng.choice(others))
            getattr(message, field.name).CopyFrom(part)
    else:
        setattr(message, field.name, _scalar(field, getattr(message, field.name), model, rng))


def _edit_repeated(
    message: Message, field: FieldDescriptor, model: onnx.ModelProto, rng: random.Random
) -> None:
    values = getattr(message, field.name)
    is_message = field.type == FieldDescriptor.TYPE_MESSAGE
    how = rng.choice(("delete", "repeat", "swap", "clear", "add", "replace"))
    if how == "clear" or not values:
        message.ClearField(field.name)
        if is_message:
            values.add()
        elif how == "add":
            values.append(_scalar(field, None, model, rng))
        return
    at, other = rng.randrange(len(values)), rng.randrange(len(values))
    if how == "delete":
        del values[at]
    elif is_message:
        first, second = type(values[0])(), type(values[0])()
        first.CopyFrom(values[at])
        second.CopyFrom(values[other])
        if how == "swap":
            values[at].CopyFrom(second)
            values[other].CopyFrom(first)
        else:
            values.add().CopyFrom(first)
    elif how == "swap":
        values[at], values[other] = values[other], values[at]
    elif how == "repeat":
        values.extend([values[at]] * rng.choice((1, 1, 2, 100)))
    else:
        values[at] = _scalar(field, values[at], model, rng)


def _scalar(field: FieldDescriptor, old: Any, model: onnx.ModelProto, rng: random.Random) -> Any:
    if field.type == FieldDescriptor.TYPE_STRING:
        texts = list(_texts(model))
        return rng.choice(texts) if texts and rng.random() < 0.5 else rng.choice(NAMES)
    if field.type == FieldDescriptor.TYPE_BYTES:
        old = bytes(old or b"")
        cut = rng.randrange(len(old) + 1)
        return rng.choice((b"", old[:cut], old + old, old + b"\xff" * 3, b"\xff" * len(old)))
    if field.type == FieldDescriptor.TYPE_ENUM:
        return rng.choice([value.number for value in field.enum_type.values])
    if field.cpp_type in (FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE):
        return rng.choice(FLOATS)
    bits = 31 if field.cpp_type == FieldDescriptor.CPPTYPE_INT32 else 63
    lowest = 0 if field.cpp_type == FieldDescriptor.CPPTYPE_UINT64 else -(2**bits)
    return min(max(rng.choice(INTEGERS), lowest), 2**bits - 1)


# Edits that know what they edit


def _edit_edge(model: onnx.ModelProto, rng: random.Random) -> None:
    """Let a node take, or give, another value."""
    nodes = _all(model, "NodeProto")
    if not nodes:
        return
    names = [name for node in nodes for name in (*node.input, *node.output)] + list(NAMES[:4])
    names += [value.name for value in (*model.graph.input, *model.graph.initializer)]
    node = rng.choice(nodes)
    ends = node.output if rng.random() < 0.25 else node.input
    if ends and rng.random() < 0.8:
        ends[rng.randrange(len(ends))] = rng.choice(names)
    else:
        ends.append(rng.choice(names))


def _edit_operator(model: onnx.ModelProto, rng: random.Random) -> None:
    nodes = _all(model, "NodeProto")
    if nodes:
        rng.choice(nodes).op_type = rng.choice((*OPERATORS, "Constant", "Shape", *OTHER_OPERATORS))


def _edit_shape(model: onnx.ModelProto, rng: random.Random) -> None:
    """Let a tensor claim other sizes or another type."""
    tensors = _all(model, "TensorProto")
    if not tensors:
        return
    tensor = rng.choice(tensors)
    how = rng.randrange(4)
    if how == 0:
        tensor.data_type = rng.choice((*range(30), 2**31 - 1, -1))
    elif how == 1 and tensor.dims:
        tensor.dims[rng.randrange(len(tensor.dims))] = rng.choice(INTEGERS)
    elif how == 2:
        tensor.dims.append(rng.choice((0, 1, -1, *INTEGERS)))
    else:
        size = math.prod(abs(size) for size in tensor.dims[:4])
        tensor.dims[:] = rng.choice(([], [size], [1, size], [-1], [size, 1, 1], [0], [2**31, 0]))


def _edit_numbers(model: onnx.ModelProto, rng: random.Random) -> None:
    """Put extreme whole numbers into a tensor of shapes, axes or indices."""
    tensors = [t for t in _all(model, "TensorProto") if t.data_type == TensorProto.INT64]
    if not tensors:
        return
    tensor = rng.choice(tensors)
    try:
        values = numpy_helper.to_array(tensor).copy()
    except Exception:  # edited before
        return
    for _ in range(rng.choice((1, 1, 2, 4)) if values.size else 0):
        values.reshape(-1)[rng.randrange(values.size)] = rng.choice(INTEGERS)
    if rng.random() < 0.2:
        values = np.resize(values, rng.choice((0, 1, 2, 3, 9)))
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def _edit_attribute(model: onnx.ModelProto, rng: random.Random) -> None:
    """Give a node an attribute of some name, some type and some value."""
    nodes = _all(model, "NodeProto")
    if not nodes:
        return
    node = rng.choice(nodes)
    own = [attribute.name for attribute in node.attribute]
    name = rng.choice(own) if own and rng.random() < 0.6 else rng.choice(ATTRIBUTES)
    values: list[Any] = [
        rng.choice(INTEGERS),
        [rng.choice(INTEGERS) for _ in range(rng.choice((1, 2, 3, 4, 8)))],
        rng.choice((0, 1, 2, 3, -1, -2)),
        [rng.choice((0, 1, 2, 3, -1, -2)) for _ in range(rng.choice((1, 2, 3, 4, 8)))],
        rng.choice(FLOATS),
        rng.choice(NAMES),
        rng.choice(("SAME_UPPER", "VALID", "wrap", "reflect", "edge", "add", "...ij->...", "a,b")),
        numpy_helper.from_array(np.array([rng.choice(INTEGERS)], dtype=np.int64)),
        helper.make_graph([], "", [], []),
    ]
    kept = [attribute for attribute in node.attribute if attribute.name != name]
    added = helper.make_attribute(name, rng.choice(values))
    del node.attribute[:]
    node.attribute.extend([*kept, added])


def _edit_external(model: onnx.ModelProto, rng: random.Random) -> None:
    """Let a tensor be in another file, or change where it is said to be."""
    tensors = _all(model, "TensorProto")
    if not tensors:
        return
    outside = [tensor for tensor in tensors if tensor.external_data]
    tensor = rng.choice(outside or tensors)
    if not tensor.external_data or rng.random() < 0.3:
        tensor.ClearField("raw_data")
        tensor.ClearField("external_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=rng.choice(LOCATIONS))
    else:
        key = rng.choice(("location", "offset", "length", "checksum", "basepath", "", "odd"))
        value = rng.choice(LOCATIONS if key == "location" else NUMBERS)
        for entry in [entry for entry in tensor.external_data if entry.key == key]:
            tensor.external_data.remove(entry)
        tensor.external_data.add(key=key, value=value)


def _edit_place(model: onnx.ModelProto, rng: random.Random) -> None:
    """Hide a tensor in a subgraph or a function, or make it a sparse one."""
    graph = model.graph
    if not graph.initializer or not graph.node:
        return
    at = rng.randrange(len(graph.initializer))
    tensor = TensorProto()
    tensor.CopyFrom(graph.initializer[at])
    how = rng.choice(("sparse", "subgraph", "function"))
    if how == "sparse":
        sparse = graph.sparse_initializer.add(dims=rng.choice(([3], [2**20, 2**20], [])))
        sparse.values.CopyFrom(tensor)
        sparse.indices.CopyFrom(numpy_helper.from_array(np.array([rng.choice(INTEGERS)])))
        del graph.initializer[at]
        return
    if rng.random() < 0.5:
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=rng.choice(LOCATIONS))
    if how == "subgraph":
        inner = helper.make_graph([], "inner", [], [], [tensor])
        for _ in range(rng.choice((1, 1, 5, 20))):
            branch = helper.make_node("If", [tensor.name], ["b"], then_branch=inner)
            inner = helper.make_graph([branch], "outer", [], [])
        rng.choice(graph.node).attribute.append(helper.make_attribute("then_branch", inner))
    else:
        function = model.functions.add(name=rng.choice(NAMES), domain="d", output=["y"])
        function.node.append(helper.make_node("Constant", [], ["y"], value=tensor))


EDITS: tuple[Edit, ...] = (
    _edit_field, _edit_field, _edit_field, _edit_edge, _edit_operator, _edit_shape, _edit_numbers,
    _edit_numbers, _edit_attribute, _edit_attribute, _edit_external, _edit_place,
)  # fmt: skip


# Models to begin from


def seeds() -> dict[str, onnx.ModelProto]:
    """Models that can be read, of many operators, by a name for each."""
    return {
        "mlp": _mlp(),
        "convolutions": _convolutions(),
        "attention": _attention(),
        "folding": _folding(),
        "indices": _indices(),
        "external": _external(),
        **onnx_texts.models(),
    }


def _model(
    nodes: list[onnx.NodeProto],
    weights: Mapping[str, Any],
    shape: list[Any],
    kind: int = TensorProto.FLOAT,
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "seed",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", None])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    return model


def _draw(*shape: int) -> Array:
    size = math.prod(shape)
    return (np.sin(np.arange(size) + size) / 2).reshape(shape).astype(np.float32)


def _whole(*values: int) -> Array:
    return np.array(values, dtype=np.int64)


def _mlp() -> onnx.ModelProto:
    node = helper.make_node
    return _model(
        [
            node("Gemm", ["x", "W", "b"], ["a"], transB=1),
            node("LayerNormalization", ["a", "scale", "shift"], ["n"]),
            node("Tanh", ["n"], ["h"]),
            node("MatMul", ["h", "V"], ["z"]),
            node("Softmax", ["z"], ["s"], axis=-1),
            node("Clip", ["s", "low", "high"], ["y"]),
        ],
        {
            "W": _draw(4, 3), "b": _draw(4), "scale": 1 + _draw(4), "shift": _draw(4),
            "V": _draw(4, 2), "low": np.float32(0).reshape(()), "high": np.float32(1).reshape(()),
        },
        ["N", 3],
    )  # fmt: skip


def _convolutions() -> onnx.ModelProto:
    node = helper.make_node
    return _model(
        [
            node("Pad", ["x", "pads"], ["p"]),
            node("Conv", ["p", "K", "k"], ["c"], strides=[1, 1], group=1),
            node("BatchNormalization", ["c", "g", "h", "m", "v"], ["n"]),
            node("Relu", ["n"], ["r"]),
            node("MaxPool", ["r"], ["q"], kernel_shape=[2, 2], strides=[2, 2]),
            node("ConvTranspose", ["q", "T"], ["t"], strides=[2, 2]),
            node("AveragePool", ["t"], ["o"], kernel_shape=[2, 2], pads=[1, 0, 1, 0]),
            node("GlobalAveragePool", ["o"], ["w"]),
            node("Flatten", ["w"], ["f"]),
            node("Gemm", ["f", "W"], ["y"], alpha=0.5),
        ],
        {
            "pads": _whole(0, 0, 1, 0, 0, 0, 1, 0), "K": _draw(4, 2, 3, 3), "k": _draw(4),
            "g": 1 + _draw(4), "h": _draw(4), "m": _draw(4), "v": 1 + _draw(4),
            "T": _draw(4, 2, 2, 2), "W": _draw(2, 3),
        },
        ["N", 2, 5, 5],
    )  # fmt: skip


def _attention() -> onnx.ModelProto:
    node = helper.make_node
    return _model(
        [
            node("Gather", ["E", "x"], ["e"]),
            node("Einsum", ["e", "Q"], ["q"], equation="nti,io->nto"),
            node("MatMul", ["e", "K"], ["k"]),
            node("MatMul", ["e", "V"], ["v"]),
            node("Transpose", ["k"], ["kt"], perm=[0, 2, 1]),
            node("MatMul", ["q", "kt"], ["s"]),
            node("ConstantOfShape", ["size"], ["ones"],
                 value=numpy_helper.from_array(np.ones(1, np.float32))),
            node("Trilu", ["ones"], ["tri"], upper=0),
            node("Cast", ["tri"], ["mask"], to=TensorProto.BOOL),
            node("Where", ["mask", "s", "never"], ["w"]),
            node("Softmax", ["w"], ["a"]),
            node("MatMul", ["a", "v"], ["h"]),
            node("ReduceMean", ["h", "axes"], ["p"], keepdims=0),
            node("Split", ["p", "halves"], ["l", "r"], axis=1),
            node("Concat", ["r", "l"], ["y"], axis=-1),
        ],
        {
            "E": _draw(5, 4), "Q": _draw(4, 4), "K": _draw(4, 4), "V": _draw(4, 4),
            "size": _whole(3, 3), "never": np.float32(-1e9).reshape(()), "axes": _whole(1),
            "halves": _whole(2, 2),
        },
        ["N", 3],
        TensorProto.INT64,
    )  # fmt: skip


def _folding() -> onnx.ModelProto:
    """Sizes that are computed from the shape of the input, as exporters write them."""
    node = helper.make_node
    return _model(
        [
            node("Shape", ["x"], ["shape"]),
            node("Constant", [], ["zero"], value=numpy_helper.from_array(_whole(0))),
            node("Gather", ["shape", "zero"], ["n"]),
            node("Constant", [], ["rest"], value_ints=[2, 3]),
            node("Concat", ["n", "rest"], ["target"], axis=0),
            node("Reshape", ["x", "target"], ["r"]),
            node("Range", ["start", "stop", "step"], ["range"]),
            node("Unsqueeze", ["range", "zero"], ["row"]),
            node("Expand", ["row", "wide"], ["grid"]),
            node("Tile", ["grid", "twice"], ["tiled"]),
            node("Slice", ["tiled", "zero", "end", "last"], ["cut"]),
            node("Cast", ["cut"], ["shift"], to=TensorProto.FLOAT),
            node("Add", ["r", "shift"], ["moved"]),
            node("Einsum", ["moved", "W"], ["h"], equation="nij,ijo->no"),
            node("Sin", ["h"], ["y"]),
        ],
        {
            "start": np.int64(0).reshape(()), "stop": np.int64(3).reshape(()),
            "step": np.int64(1).reshape(()), "wide": _whole(2, 3), "twice": _whole(1, 2),
            "end": _whole(3), "last": _whole(1), "W": _draw(2, 3, 2),
        },
        ["N", 6],
    )  # fmt: skip


def _indices() -> onnx.ModelProto:
    node = helper.make_node
    return _model(
        [
            node("OneHot", ["x", "depth", "values"], ["hot"], axis=-1),
            node("MatMul", ["hot", "W"], ["a"]),
            node("TopK", ["a", "most"], ["b", "where"], axis=2),
            node("ReduceL2", ["b", "both"], ["c"], keepdims=1),
            node("Div", ["b", "c"], ["d"]),
            node("GatherND", ["W", "pairs"], ["e"]),
            node("ScatterElements", ["e", "to", "add"], ["f"], axis=0, reduction="add"),
            node("CumSum", ["d", "along"], ["g"]),
            node("Mul", ["g", "f"], ["h"]),
            node("Sum", ["h", "d", "d"], ["i"]),
            node("Unsqueeze", ["i", "along_too"], ["u"]),
            node("Squeeze", ["u", "along_too"], ["j"]),
            node("ReduceSum", ["j", "along_too"], ["k"], keepdims=0),
            node("Pow", ["k", "two"], ["y"]),
        ],
        {
            "depth": np.int64(5).reshape(()), "values": np.array([0, 1], np.float32),
            "W": _draw(5, 4), "most": _whole(2), "pairs": np.array([[0, 1], [2, 3]], np.int64),
            "to": _whole(1), "add": _draw(1), "along": np.int64(1).reshape(()),
            "both": _whole(1, 2), "along_too": _whole(1),
            "two": np.float32(2).reshape(()),
        },
        ["N", 3],
        TensorProto.INT64,
    )  # fmt: skip


def _external() -> onnx.ModelProto:
    """With weights in the file that ``write_companions`` writes."""
    model = _mlp()
    for tensor, offset in zip(model.graph.initializer[:2], (0, 64), strict=True):
        length = len(tensor.raw_data)
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in {"location": DATA, "offset": offset, "length": length}.items():
            tensor.external_data.add(key=key, value=str(value))
    return model
