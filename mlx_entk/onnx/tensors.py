"""The tensors of an ONNX model, wherever they are, and data that a file keeps in other files."""

import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper
from onnx.external_data_helper import uses_external_data

from mlx_entk.errors import InputError
from mlx_entk.onnx.limits import checked_shape, require_room

# The types that MLX has, or has a wider one for.
NUMBERS = frozenset(
    {
        TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16,
        TensorProto.INT8, TensorProto.INT16, TensorProto.INT32, TensorProto.INT64,
        TensorProto.UINT8, TensorProto.UINT16, TensorProto.UINT32, TensorProto.UINT64,
        TensorProto.BOOL,
    }
)  # fmt: skip


# Those that have derivatives.
FLOATING = frozenset(
    {TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16}
)


def array_of(tensor: TensorProto) -> NDArray[Any]:
    """The array in a tensor.

    Raises
    ------
    InputError
        If its type is none of ``NUMBERS``; if its type, shape and bytes contradict each other; or
        if its data is in another file, from which only ``mlx_entk.onnx.files.read_model`` reads.
    """
    if tensor.data_type not in NUMBERS:
        raise InputError(f"{tensor.name} is of a type (number {tensor.data_type}) that MLX lacks")
    if uses_external_data(tensor):
        raise InputError(f"the data of {tensor.name} is in another file: read the model from disk")
    try:
        checked_shape(tensor.dims)  # or NumPy would find out what -1 stands for
        return np.asarray(numpy_helper.to_array(tensor))
    except Exception as error:
        raise InputError(f"the initializer {tensor.name} is damaged: {error}") from error


def all_tensors(model: onnx.ModelProto) -> Iterator[TensorProto]:
    """Every tensor: initializers and attributes, of subgraphs and functions too, sparse or not."""
    graphs = [model.graph]
    for information in model.training_info:
        graphs += [information.initialization, information.algorithm]
    nodes = [node for function in model.functions for node in function.node]
    attributes = [a for function in model.functions for a in function.attribute_proto]
    while graphs or nodes or attributes:
        while graphs:
            graph = graphs.pop()
            yield from graph.initializer
            yield from _dense(graph.sparse_initializer)
            nodes.extend(graph.node)
        while nodes:
            attributes.extend(nodes.pop().attribute)
        while attributes:
            attribute = attributes.pop()
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            if attribute.HasField("sparse_tensor"):
                yield from _dense([attribute.sparse_tensor])
            yield from _dense(attribute.sparse_tensors)
            if attribute.HasField("g"):
                graphs.append(attribute.g)
            graphs.extend(attribute.graphs)


def _dense(sparse: Any) -> Iterator[TensorProto]:
    for tensor in sparse:
        yield tensor.values
        yield tensor.indices


def load_external_data(path: Path, model: onnx.ModelProto, limit: int) -> None:
    """Put data that a model keeps in other files into its tensors.

    Parameters
    ----------
    path
        The model's file. The others have to be in its folder or below, once links are followed.
    limit
        The most bytes to read.

    Raises
    ------
    InputError
        If a file is somewhere else, not a regular one, missing or too short; if a place in it is
        no number; or if the data is larger than the limit. Nothing is read then.
    """
    places = []
    total = 0
    for tensor in all_tensors(model):
        if uses_external_data(tensor):
            file, start, length = _place(path, tensor)
            total += length
            require_room(total, limit, f"the data that {path} keeps in other files")
            places.append((tensor, file, start, length))
    for tensor, file, start, length in places:
        try:
            with file.open("rb") as opened:
                opened.seek(start)
                tensor.raw_data = opened.read(length)
        except OSError as error:
            raise InputError(f"cannot read {file}: {error.strerror or error}") from error
        tensor.data_location = TensorProto.DEFAULT
        del tensor.external_data[:]


def _place(path: Path, tensor: TensorProto) -> tuple[Path, int, int]:
    """The file that a tensor's data is in, where it begins, and the number of bytes."""
    entries: dict[Any, Any] = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    what = f"{path} keeps {tensor.name} in {location!r}"
    if not isinstance(location, str):  # protobuf returns bytes if it is not UTF-8
        raise InputError(f"{what}, which is not text: refused")
    try:
        folder = path.resolve().parent
        file = (folder / location).resolve()
        if not location or not file.is_relative_to(folder) or file == folder:
            raise InputError(f"{what}, outside its folder: refused")
        status = file.stat()
    except FileNotFoundError as error:
        raise InputError(f"{what}, which does not exist") from error
    except InputError:
        raise
    except (OSError, ValueError, RuntimeError) as error:  # too long, a null byte, a circle of links
        raise InputError(f"{what}, which is no name of a file: {error}") from error
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{what}, which is not a regular file: refused")
    start = _entry(entries, "offset", 0, what)
    length = _entry(entries, "length", max(0, status.st_size - start), what)
    if start + length > status.st_size:
        raise InputError(f"{what}, which is too short")
    return file, start, length


def _entry(entries: dict[Any, Any], key: str, otherwise: int, what: str) -> int:
    text = entries.get(key) or str(otherwise)
    if not (isinstance(text, str) and text.isascii() and text.isdigit() and len(text) < 20):
        raise InputError(f"{what}, at the {key} {text!r:.40}, which is not a number of bytes")
    return int(text)
