"""ONNX files: written only after a trial, and read with care, since anyone may have made them."""

import os
import tempfile
from pathlib import Path
from typing import Protocol

import onnx
from google.protobuf.message import DecodeError
from onnx.external_data_helper import (
    convert_model_to_external_data,
    load_external_data_for_model,
    uses_external_data,
    write_external_data_tensors,
)

from mlx_entk._files import write_atomically
from mlx_entk.errors import InputError

# Opsets of the default domain that the importer reads.
OPSETS = (13, 23)

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


def read_model(path: Path) -> onnx.ModelProto:
    """Load and check a model.

    Raises
    ------
    InputError
        If the file is missing, truncated, not an ONNX model or of an unsupported opset, refers to
        data outside its folder, or uses values that nothing defines.
    """
    try:
        model = onnx.load_model(str(path), load_external_data=False)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except (DecodeError, ValueError, TypeError) as error:
        raise InputError(f"{path} is not an ONNX model, or is damaged: {error}") from error
    if not model.HasField("graph") or not model.graph.output:
        raise InputError(
            f"{path} is not an ONNX model, or is damaged: it has no graph with outputs"
        )
    _check_opset(path, model)
    outside = any(uses_external_data(tensor) for tensor in _tensors(model.graph))
    _load_external_data(path, model)
    _check_names(path, model)
    try:  # as a file if it has external data, which may be too large for one message
        onnx.checker.check_model(str(path) if outside else model)
    except (onnx.checker.ValidationError, ValueError, TypeError) as error:
        first_line = str(error).strip().splitlines()[0]
        raise InputError(f"{path} is not valid ONNX: {first_line}") from error
    return model


def _check_opset(path: Path, model: onnx.ModelProto) -> None:
    oldest, newest = OPSETS
    for opset in model.opset_import:
        if opset.domain in ("", "ai.onnx") and not oldest <= opset.version <= newest:
            raise InputError(
                f"{path} uses opset {opset.version}: export it again with an opset from "
                f"{oldest} to {newest}"
            )
    if not any(opset.domain in ("", "ai.onnx") for opset in model.opset_import):
        raise InputError(f"{path} names no opset for ONNX's own operators")


def _load_external_data(path: Path, model: onnx.ModelProto) -> None:
    folder = path.resolve().parent
    for tensor in _tensors(model.graph):
        if not uses_external_data(tensor):
            continue
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries.get("location", "")
        target = (folder / location).resolve()
        if not location or not target.is_relative_to(folder) or target == folder:
            raise InputError(
                f"{path} keeps {tensor.name} in {location!r}, outside its folder: refused"
            )
        if not target.is_file():
            raise InputError(f"{path} keeps {tensor.name} in {location}, which does not exist")
        end = int(entries.get("offset", 0) or 0) + int(entries.get("length", 0) or 0)
        if end > target.stat().st_size:
            raise InputError(f"{path} keeps {tensor.name} in {location}, which is too short")
    try:
        load_external_data_for_model(model, str(folder))
    except (OSError, ValueError, onnx.checker.ValidationError) as error:
        raise InputError(f"the external data of {path} cannot be read: {error}") from error


def _tensors(graph: onnx.GraphProto) -> list[onnx.TensorProto]:
    tensors = list(graph.initializer)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                tensors.append(attribute.t)
            tensors.extend(attribute.tensors)
    return tensors


def _check_names(path: Path, model: onnx.ModelProto) -> None:
    graph = model.graph
    names = [
        named.name for part in (graph.initializer, graph.input, graph.output) for named in part
    ]
    for node in graph.node:
        names += [node.name, node.op_type, *node.input, *node.output]
    if not all(
        isinstance(name, str) for name in names
    ):  # protobuf returns bytes if it is not UTF-8
        raise InputError(f"{path} is not an ONNX model, or is damaged: a name is not text")
    defined = {""} | {tensor.name for tensor in graph.initializer}
    defined |= {tensor.values.name for tensor in graph.sparse_initializer}
    defined |= {value.name for value in graph.input}
    for node in graph.node:
        missing = [name for name in node.input if name not in defined]
        if missing:
            raise InputError(
                f"{path} uses {', '.join(missing)}, which no initializer, input or earlier node "
                "defines"
            )
        defined |= set(node.output)
    undefined = [value.name for value in graph.output if value.name not in defined]
    if undefined:
        raise InputError(f"{path} promises {', '.join(undefined)}, which no node computes")
