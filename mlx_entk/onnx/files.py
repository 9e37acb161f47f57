"""ONNX files: written only after a trial, and read with care, since anyone may have made them."""

import errno
import os
import stat
import tempfile
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import onnx
from google.protobuf.message import DecodeError
from onnx.external_data_helper import (
    convert_model_to_external_data,
    uses_external_data,
    write_external_data_tensors,
)

from mlx_entk._files import write_atomically
from mlx_entk._memory import limit_in_bytes
from mlx_entk.errors import ConversionWarning, InputError, first_line
from mlx_entk.onnx.conversion import converted
from mlx_entk.onnx.graph import OWN_DOMAINS, opset_of
from mlx_entk.onnx.limits import require_parsable, require_room
from mlx_entk.onnx.tensors import all_tensors, load_external_data

# Opsets of the default domain whose operators the importer knows; older files are converted.
OPSETS = (13, 28)

# Metadata of a converted file, which says so.
CONVERTED = "converted"

# The most bytes of weights inside the file: protobuf ends at 2 GiB, and the nodes need room too.
WITHIN = 2**31 - 2**27


class Attempt(Protocol):
    """A trial that a model has to pass before its file is put in place."""

    def run(self, model: bytes | Path) -> str:
        """Try a serialised model or a file; returns a note for the metadata."""


def write_model(model: onnx.ModelProto, path: Path, attempt: Attempt) -> None:
    """Write a model once it passes ONNX's full check, with shape inference, and an attempt.

    Weights of more than ``WITHIN`` bytes go into a second file next to it, to which the model
    refers. The attempt's note becomes the metadata ``onnxruntime``.

    Raises
    ------
    InputError
        If the check or the attempt fails, or the path cannot be written. An existing file is left
        unchanged.
    """
    if sum(len(tensor.raw_data) for tensor in model.graph.initializer) > WITHIN:
        _write_with_data(model, path, attempt)
        return
    data = model.SerializeToString()
    _check(data)
    model.metadata_props.add(key="onnxruntime", value=attempt.run(data))
    write_atomically(path, lambda temporary: temporary.write_bytes(model.SerializeToString()))


def _write_with_data(model: onnx.ModelProto, path: Path, attempt: Attempt) -> None:
    name = f"{path.name}.data"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".", suffix=".tmp", dir=path.parent) as folder:
            draft = Path(folder) / path.name
            convert_model_to_external_data(model, location=name)
            write_external_data_tensors(model, folder)
            draft.write_bytes(model.SerializeToString())
            _check(draft)
            model.metadata_props.add(key="onnxruntime", value=attempt.run(draft))
            draft.write_bytes(model.SerializeToString())
            for written in (draft, draft.with_name(name)):
                with written.open("rb") as file:
                    os.fsync(file.fileno())
            path.unlink(missing_ok=True)  # or it would briefly refer to the wrong weights
            draft.with_name(name).replace(path.with_name(name))
            draft.replace(path)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error


def _check(model: bytes | Path) -> None:
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        message = " ".join(str(error).split())
        raise InputError(f"the graph is not valid ONNX: {message}; nothing was written") from error


def read_model(path: Path, memory_limit: int | str | None = None) -> onnx.ModelProto:
    """Load and check a model.

    Parameters
    ----------
    path
        The file.
    memory_limit
        Bytes that the file and its data may take, as a number or as ``"4GB"``; by default half of
        what is available.

    Raises
    ------
    InputError
        If the file is missing, truncated, not an ONNX model or of an opset that cannot be
        converted, refers to data outside its folder, defines a name twice or not at all, or would
        fill the memory.

    Warns
    -----
    ConversionWarning
        If the file is of an older opset, which was converted in memory.
    """
    limit = limit_in_bytes(memory_limit)
    model = _parsed(path, limit)
    if not model.HasField("graph") or not model.graph.output:
        raise InputError(
            f"{path} is not an ONNX model, or is damaged: it has no graph with outputs"
        )
    model.ir_version = min(model.ir_version, onnx.IR_VERSION)
    _check_opset(path, model)
    outside = any(uses_external_data(tensor) for tensor in all_tensors(model))
    load_external_data(path, model, limit)
    _check_names(path, model)
    try:  # as a file if it has external data, which may be too large for one message
        onnx.checker.check_model(str(path) if outside else model)
    except Exception as error:  # what the checker raises has many types
        raise InputError(f"{path} is not valid ONNX: {first_line(error).strip()}") from error
    return _converted(path, model)


def _converted(path: Path, model: onnx.ModelProto) -> onnx.ModelProto:
    """The model in a known opset."""
    oldest, _ = OPSETS
    version = opset_of(model)
    if version >= oldest:
        return model
    again = f"export it again with an opset of at least {oldest}"
    try:
        result = converted(model, oldest)
        onnx.checker.check_model(result)
        _check_names(path, result)
    except Exception as error:  # what the checker raises has many types
        raise InputError(
            f"{path} uses opset {version}, and converting it failed: {first_line(error).strip()}; "
            f"{again}"
        ) from error
    note = f"opset {version} was converted to {oldest} by onnx {onnx.__version__}"
    result.metadata_props.add(key=CONVERTED, value=note)
    warnings.warn(f"{path}: {note}", ConversionWarning, stacklevel=3)
    return result


def _parsed(path: Path, limit: int) -> onnx.ModelProto:
    """The model in a regular file, of the size of a protobuf message."""
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not stat.S_ISREG(status.st_mode):
            raise InputError(f"cannot read {path}: it is not a regular file")
        require_room(status.st_size, min(limit, 2**31), f"{path}")
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    model = onnx.ModelProto()
    try:
        require_parsable(data, limit)
        model.ParseFromString(data)
    except (DecodeError, ValueError, TypeError) as error:
        raise InputError(f"{path} is not an ONNX model, or is damaged: {error}") from error
    return model


def _check_opset(path: Path, model: onnx.ModelProto) -> None:
    versions = {o.version for o in model.opset_import if o.domain in OWN_DOMAINS}
    if not versions:
        raise InputError(f"{path} names no opset for ONNX's own operators")
    if len(versions) > 1:
        raise InputError(f"{path} names several opsets for ONNX's own operators")
    (version,), known = versions, onnx.defs.onnx_opset_version()
    if version > known:
        raise InputError(
            f"{path} uses opset {version}, and onnx {onnx.__version__} knows {known} at most: "
            "install a newer onnx, or export it again with an older opset"
        )
    newer = sorted({node.op_type for node in model.graph.node if _since(node, version) > OPSETS[1]})
    if newer:
        raise InputError(
            f"{path} uses opset {version}, in which {_some(newer)} differ from those that are "
            f"known: export it again with an opset up to {OPSETS[1]}"
        )


def _since(node: onnx.NodeProto, version: int) -> int:
    """The opset in which a node's operator was last changed; 0 for another domain's."""
    if node.domain not in OWN_DOMAINS or not onnx.defs.has(node.op_type):
        return 0
    try:
        return int(onnx.defs.get_schema(node.op_type, version, "").since_version)
    except onnx.defs.SchemaError:
        return 0


def _check_names(path: Path, model: onnx.ModelProto) -> None:
    """Refuse names that are not text, that nothing defines, or that are defined twice."""
    graph = model.graph
    stored = [tensor.name for tensor in graph.initializer]
    stored += [tensor.values.name for tensor in graph.sparse_initializer]
    inputs, outputs = ([value.name for value in part] for part in (graph.input, graph.output))
    names = [*stored, *inputs, *outputs]
    for node in graph.node:
        names += [node.name, node.op_type, node.domain, *node.input, *node.output]
        names += [attribute.name for attribute in node.attribute]
    if not all(
        isinstance(name, str) for name in names
    ):  # protobuf returns bytes if it is not UTF-8
        raise InputError(f"{path} is not an ONNX model, or is damaged: a name is not text")
    for what, of in {"initializer": stored, "input": inputs, "output": outputs}.items():
        if "" in of:
            raise InputError(f"{path} has an {what} without a name")
        twice = [name for name, count in Counter(of).items() if count > 1]
        if twice:
            raise InputError(f"{path} has two {what}s called {_some(twice)}")
    defined = {"", *stored, *inputs}  # an initializer may be the default of an input
    for node in graph.node:
        missing = [name for name in node.input if name not in defined]
        if missing:
            raise InputError(
                f"{path} uses {_some(missing)}, which no initializer, input or earlier node defines"
            )
        given = [name for name in node.output if name]
        for name in given:
            if name in defined:
                raise InputError(f"{path} defines {name} twice")
            defined.add(name)
    undefined = [name for name in outputs if name not in defined]
    if undefined:
        raise InputError(f"{path} promises {_some(undefined)}, which no node computes")


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
