"""onnxruntime on the CPU, in single precision where it lacks operators for a type."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import onnx
from numpy.typing import NDArray

from mlx_entk.errors import first_line
from mlx_entk.onnx.emitter import TYPES, as_onnx_array
from mlx_entk.onnx.precision import retyped, types_of

# Types for which onnxruntime lacks many operators on the CPU.
_RARE = {TYPES[dtype]: dtype for dtype in (mx.float16, mx.bfloat16, mx.float64)}
_IN_SINGLE = dict.fromkeys(_RARE, TYPES[mx.float32])


class Session:
    """A model in onnxruntime.

    If its CPU lacks operators for bfloat16, or for another of the rare types, a copy of the model
    runs that has float32 instead.

    Parameters
    ----------
    model
        A serialised model, or a file, next to which the copy is written.

    Attributes
    ----------
    instead
        What was computed in place of what, and why; empty if the model runs as it is.

    Raises
    ------
    Exception
        Whatever onnxruntime raises if it cannot load the model.
    """

    def __init__(self, model: bytes | Path):
        self.instead = ""
        try:
            self._session = _opened(model)
            ends = (*self._session.get_inputs(), *self._session.get_outputs())
            if all(value.type != "tensor(bfloat16)" for value in ends):
                return
            lacking = "NumPy, which passes arrays to onnxruntime, has no such type"
        except Exception as error:  # its errors have no other common class
            if type(error).__name__ != "NotImplemented":
                raise
            lacking = f"onnxruntime's CPU lacks operators for that: {message_of(error)}"
        original = onnx.load_from_string(model) if isinstance(model, bytes) else onnx.load(model)
        rare = " and ".join(sorted(_name(_RARE[t]) for t in types_of(original) & _RARE.keys()))
        self._session = _opened(_in_single(original, model))
        self.instead = f"float32 in place of {rare}, since {lacking}"

    def run(self, outputs: Sequence[str], inputs: Mapping[str, mx.array]) -> list[NDArray[Any]]:
        """Return outputs by name, for inputs of which the model takes some."""
        taken = {value.name for value in self._session.get_inputs()}
        feed = {name: self.host(value) for name, value in inputs.items() if name in taken}
        return [np.asarray(array) for array in self._session.run(list(outputs), feed)]

    def host(self, value: mx.array) -> NDArray[Any]:
        """Return an array in the type that the model takes and gives instead of its own."""
        array = as_onnx_array(value)
        if not self.instead or array.dtype.kind in "biu":
            return array
        return array.astype(np.float32)


def message_of(error: Exception) -> str:
    """Return onnxruntime's message without the number and the name in front of it."""
    return re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", first_line(error))


def _opened(model: bytes | Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # problems arrive as exceptions anyway
    source = model if isinstance(model, bytes) else str(model)
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def _in_single(original: onnx.ModelProto, model: bytes | Path) -> bytes | Path:
    single = retyped(original, _IN_SINGLE)
    if isinstance(model, bytes):
        data: bytes = single.SerializeToString()
        return data
    path = model.with_name(f"single-{model.name}")
    onnx.save_model(single, path, save_as_external_data=True)
    return path


def _name(dtype: mx.Dtype) -> str:
    return str(dtype).rpartition(".")[2]
