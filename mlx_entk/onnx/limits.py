"""What a file may take of the memory, said before it is taken."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import mlx.core as mx
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from numpy.typing import NDArray
from onnx import ModelProto, numpy_helper, shape_inference

from mlx_entk._memory import format_bytes
from mlx_entk.errors import InputError

# The most parts of a file: nodes, names, attributes, … The largest language models have a tenth.
# A part of two bytes takes about 150 bytes and 0.7 µs once it is parsed.
MOST_PARTS = 2_000_000

# The most nodes of a model once its functions are written out, and that a run of it may take with
# the rounds of its loops.
MOST_NODES = 200_000

# The longest chain of operators: MLX walks through graphs by recursion, and a chain of 30,000 ends
# the process. A language model of 100 layers has some thousands.
MOST_DEPTH = 5000

# The most entries of an array that may hold sizes, and the bytes of the largest type of number.
_SMALL, _LARGEST_ITEM = 64, 8

# Operators whose results may be much larger than their inputs together.
_ENLARGING = frozenset(
    {
        "AffineGrid",
        "CenterCropPad",
        "ConstantOfShape",
        "Expand",
        "EyeLike",
        "OneHot",
        "Pad",
        "Range",
        "Resize",
        "Tile",
    }
)

# Bytes that a number takes once it is parsed; in the file, it may be one.
_NUMBER = 8

_WHOLE_NUMBERS = frozenset(
    {
        FieldDescriptor.TYPE_INT32, FieldDescriptor.TYPE_INT64, FieldDescriptor.TYPE_UINT64,
    }
)  # fmt: skip


def require_room(size: int, limit: int, what: str) -> None:
    """Raise InputError for a size in bytes beyond the limit.

    Parameters
    ----------
    what
        What would take it, for the message.
    """
    if size > limit:
        raise InputError(
            f"{what} would take {format_bytes(size)}, more than the memory limit of "
            f"{format_bytes(limit)}"
        )


def size_of(value: mx.array | NDArray[Any] | None) -> int:
    """The bytes that a value takes once it is computed.

    Raises
    ------
    InputError
        If the sizes of its axes are beyond those of MLX, which has wrapped them around.
    """
    if value is None:
        return 0
    if not isinstance(value, mx.array):
        return int(value.nbytes)
    return math.prod(checked_shape(value.shape)) * value.dtype.size


def checked_shape(sizes: Iterable[int]) -> tuple[int, ...]:
    """The sizes of the axes of an array, which MLX keeps in 32 bits.

    Raises
    ------
    InputError
        If one is negative, or does not fit.
    """
    shape = tuple(sizes)
    wrong = [size for size in shape if not 0 <= size < 2**31]
    if wrong:
        raise InputError(f"an axis of {wrong[0]} entries is not possible")
    return shape


def inferred_size(model: ModelProto, values: Mapping[str, NDArray[Any]]) -> int:
    """The bytes of a graph's outputs, as far as ONNX's shape inference can tell beforehand.

    Parameters
    ----------
    model
        A small graph; how its outputs' sizes depend on its inputs is what the inference knows.
    values
        The inputs by name.

    Raises
    ------
    InputError
        If it cannot tell, and a result may be much larger than what it is made of.
    """
    known = ModelProto()
    known.CopyFrom(model)
    for name, value in values.items():
        if value.size <= _SMALL:  # sizes and lengths, on which the size of a result may depend
            known.graph.initializer.append(numpy_helper.from_array(value, name))
    inferred = shape_inference.infer_shapes(known, data_prop=True)
    total = 0
    for output in inferred.graph.output:
        dims = output.type.tensor_type.shape.dim
        told = output.type.tensor_type.HasField("shape")
        if not (told and all(axis.HasField("dim_value") for axis in dims)) and any(
            node.op_type in _ENLARGING for node in known.graph.node
        ):
            raise InputError("the size of its result cannot be known beforehand")
        sizes = checked_shape(axis.dim_value for axis in dims if axis.HasField("dim_value"))
        total += math.prod(sizes) * _LARGEST_ITEM
    return total


def require_parsable(data: bytes, limit: int) -> None:
    """Raise InputError for a file that would fill the memory when it is parsed.

    Parsing makes objects of what is two bytes in the file, and eight bytes of a number that is one.
    This counts both without making anything. What is not ONNX at all is left to the parser.
    """
    parts, size = 0, len(data)
    waiting: list[tuple[int, int, Descriptor]] = [(0, len(data), ModelProto.DESCRIPTOR)]
    while waiting:
        at, end, descriptor = waiting.pop()
        fields = descriptor.fields_by_number
        while at < end:
            parts += 1
            if parts > MOST_PARTS:
                raise InputError(f"it has more than {MOST_PARTS:,} parts")
            key, at = _number(data, at, end)
            kind = key & 7
            if kind == 2:
                length, at = _number(data, at, end)
                field = fields.get(key >> 3)
                if field is not None and field.type == FieldDescriptor.TYPE_MESSAGE:
                    waiting.append((at, min(at + length, end), field.message_type))
                elif field is not None and field.type in _WHOLE_NUMBERS:
                    size += _NUMBER * min(length, end - at)
                    require_room(size, limit, "it")
                at += length
            elif kind == 0:
                _, at = _number(data, at, end)
            else:
                at += {1: 8, 5: 4}.get(kind, 0)


def _number(data: bytes, at: int, end: int) -> tuple[int, int]:
    """A number of the encoding, and where it ends."""
    number = shift = 0
    while at < end:
        byte = data[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
        shift += 7
        if shift > 63:  # damaged, as the parser will say
            return number, end
    return number, at
