"""The trial of a graph: onnxruntime has to run it and agree with MLX before it is written."""

import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from mlx_entk.errors import InputError, first_line
from mlx_entk.onnx.emitter import as_onnx_array

# How far an output may be from MLX's, relative to its largest entry. The trial looks for operators
# that compute something else; verification has tighter limits. Half precision has three digits.
TOLERANCE, TOLERANCE_IN_HALF = 1e-3, 0.05
# The same relative to the largest number that goes in or out, because an output that consists of
# rounding alone, such as a vanishing gradient, would otherwise never agree.
ROUNDING = 1e-6

_HALF = frozenset({mx.float16, mx.bfloat16})
# Types that onnxruntime supports on the CPU for some operators only.
_RARE = frozenset({mx.float16, mx.bfloat16, mx.float64, mx.int8, mx.int16})
# Primitives whose order each backend of MLX chooses for itself.
_UNORDERED = frozenset({"ArgPartition", "Partition"})


@dataclass(frozen=True)
class Trial:
    """What to try a graph on.

    Attributes
    ----------
    function
        The MLX function of the inputs, which returns the outputs.
    inputs
        Inputs by name, for each run.
    outputs
        Names of the outputs.
    dtypes
        Types of all values in the graph.
    primitives
        MLX primitives that the graph was written from.
    """

    function: Callable[[Sequence[mx.array]], list[mx.array]]
    inputs: Sequence[dict[str, mx.array]]
    outputs: Sequence[str]
    dtypes: frozenset[mx.Dtype]
    primitives: frozenset[str]

    def run(self, model: bytes | Path) -> str:
        """Run a serialised model, or one in a file, in one onnxruntime session.

        Returns
        -------
        str
            What the model was tried on, or why it was not tried: onnxruntime's CPU lacks operators
            for some types.

        Raises
        ------
        InputError
            If onnxruntime cannot run the model, or disagrees with MLX; the message is one line that
            names the operator or the output.
        """
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # problems arrive as exceptions anyway
        source = model if isinstance(model, bytes) else str(model)
        try:
            session = onnxruntime.InferenceSession(
                source, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # its errors have no other common class
            if self.dtypes & _RARE and type(error).__name__ == "NotImplemented":
                return (
                    f"not run: its CPU lacks operators for {_named(self.dtypes)}: {_message(error)}"
                )
            raise InputError(f"onnxruntime cannot load the graph: {_message(error)}") from error
        ends = {value.type for value in (*session.get_inputs(), *session.get_outputs())}
        if "tensor(bfloat16)" in ends:  # NumPy, through which arrays pass, has no such type
            return "not run: it takes and returns no bfloat16"
        for inputs in self.inputs:
            self._require_agreement(session, inputs)
        others = " and on larger batches" if len(self.inputs) > 1 else ""
        return f"{onnxruntime.__version__} agrees with MLX on the example inputs{others}"

    def _require_agreement(self, session: Any, inputs: dict[str, mx.array]) -> None:
        taken = {value.name for value in session.get_inputs()}
        feed = {name: as_onnx_array(value) for name, value in inputs.items() if name in taken}
        try:
            actual = session.run(list(self.outputs), feed)
        except Exception as error:
            raise InputError(f"onnxruntime cannot run the graph: {_message(error)}") from error
        expected = [as_onnx_array(value) for value in self.function(list(inputs.values()))]
        floor = ROUNDING * max(map(_largest, (*feed.values(), *expected)), default=0.0)
        tolerance = _tolerance(self.dtypes)
        for name, a, b in zip(self.outputs, actual, expected, strict=True):
            if difference := disagreement(np.asarray(a), b, tolerance, floor):
                raise InputError(
                    f"onnxruntime and MLX disagree about {name}: {difference}; nothing was "
                    f"written{self._hint()}"
                )

    def _hint(self) -> str:
        unordered = " and ".join(sorted(self.primitives & _UNORDERED))
        if not unordered:
            return ""
        return f". The reason may be that MLX leaves the order of {unordered} open: sort instead"


def agree(actual: Sequence[mx.array], expected: Sequence[mx.array]) -> bool:
    """Return whether MLX arrays are the same, within the limits of a trial."""
    a, b = ([as_onnx_array(value) for value in values] for values in (actual, expected))
    floor = ROUNDING * max(map(_largest, b), default=0.0)
    tolerance = _tolerance({value.dtype for value in expected})
    pairs = zip(a, b, strict=True)
    return all(disagreement(one, other, tolerance, floor) is None for one, other in pairs)


def disagreement(
    actual: NDArray[Any], expected: NDArray[Any], tolerance: float, floor: float = 0.0
) -> str | None:
    """Return how an output differs from the expected one; None if it does not.

    Whole numbers, truth values, NaN and infinities have to be equal.

    Parameters
    ----------
    actual, expected
        The arrays.
    tolerance
        The largest difference relative to the largest entry, for floating types.
    floor
        An absolute difference that is always allowed, for floating types.
    """
    if actual.shape != expected.shape or actual.dtype != expected.dtype:
        return (
            f"shape {actual.shape} and type {actual.dtype} instead of {expected.shape} and "
            f"{expected.dtype}"
        )
    if expected.dtype.kind in "biu":
        differing = int((actual != expected).sum())
        return f"{differing} of {expected.size} entries differ" if differing else None
    a, b = actual.astype(np.float64), expected.astype(np.float64)
    finite = np.isfinite(b)
    if (
        not np.array_equal(a[~finite], b[~finite], equal_nan=True)
        or not np.isfinite(a[finite]).all()
    ):
        return "NaN or infinity in other places"
    largest = _largest(b)
    error = float(np.abs(a[finite] - b[finite]).max(initial=0))
    if error <= max(tolerance * largest, floor):
        return None
    return (
        f"off by {error / largest:.1e} of the largest entry" if largest else f"off by {error:.1e}"
    )


def _largest(array: NDArray[Any]) -> float:
    """Return the largest finite magnitude of a floating array; 0 for any other type."""
    if array.dtype.kind in "biu":
        return 0.0
    return float(np.abs(array[np.isfinite(array)]).max(initial=0))


def _tolerance(dtypes: Collection[mx.Dtype]) -> float:
    return TOLERANCE if _HALF.isdisjoint(dtypes) else TOLERANCE_IN_HALF


def _named(dtypes: Iterable[mx.Dtype]) -> str:
    return ", ".join(sorted(str(dtype).rpartition(".")[2] for dtype in dtypes if dtype in _RARE))


def _message(error: Exception) -> str:
    """Return onnxruntime's message without the number and the name in front of it."""
    return re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", first_line(error))
