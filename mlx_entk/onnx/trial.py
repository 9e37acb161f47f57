"""A graph on trial: onnxruntime has to run it, and to find what MLX finds, before it is kept."""

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

# How far an output may be from MLX's, over its largest entry: what is looked for are operators
# that compute something else, which verification tells from roundings with limits of its own.
# Half precision has but three digits.
TOLERANCE, TOLERANCE_IN_HALF = 1e-3, 0.05
# ... and over the largest number that goes in or out: an output of nothing but roundings, such as
# a gradient that vanishes, agrees with no other.
ROUNDING = 1e-6

_HALF = frozenset({mx.float16, mx.bfloat16})
# Types that onnxruntime knows, but not on the CPU for every operator.
_RARE = frozenset({mx.float16, mx.bfloat16, mx.float64, mx.int8, mx.int16})
# Primitives of which each backend of MLX chooses an order for itself.
_UNORDERED = frozenset({"ArgPartition", "Partition"})


@dataclass(frozen=True)
class Trial:
    """What a graph is tried on.

    Attributes
    ----------
    function
        In MLX, of the inputs; gives the outputs.
    inputs
        By name, for each time that it runs.
    outputs
        Names of the outputs.
    dtypes
        Of every value in the graph.
    primitives
        What the graph was written from.
    """

    function: Callable[[Sequence[mx.array]], list[mx.array]]
    inputs: Sequence[dict[str, mx.array]]
    outputs: Sequence[str]
    dtypes: frozenset[mx.Dtype]
    primitives: frozenset[str]

    def run(self, model: bytes | Path) -> str:
        """Run a serialised model, or one in a file, on one onnxruntime session.

        Returns
        -------
        str
            What it was compared on, or why it was not: onnxruntime's CPU has not every type.

        Raises
        ------
        InputError
            Where onnxruntime cannot run it, or finds other outputs; one line that names the
            operator or the output.
        """
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # what it has to say comes as an error
        source = model if isinstance(model, bytes) else str(model)
        try:
            session = onnxruntime.InferenceSession(
                source, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # its errors share no other class
            if self.dtypes & _RARE and type(error).__name__ == "NotImplemented":
                return f"not run: its CPU lacks operators of {_named(self.dtypes)}: {_said(error)}"
            raise InputError(f"onnxruntime cannot load the graph: {_said(error)}") from error
        ends = {value.type for value in (*session.get_inputs(), *session.get_outputs())}
        if "tensor(bfloat16)" in ends:  # NumPy has no such arrays to pass
            return "not run: it takes and gives no bfloat16"
        for inputs in self.inputs:
            self._compare(session, inputs)
        others = " and on larger batches" if len(self.inputs) > 1 else ""
        return f"{onnxruntime.__version__} agrees with MLX on the example inputs{others}"

    def _compare(self, session: Any, inputs: dict[str, mx.array]) -> None:
        taken = {value.name for value in session.get_inputs()}
        feed = {name: as_onnx_array(value) for name, value in inputs.items() if name in taken}
        try:
            found = session.run(list(self.outputs), feed)
        except Exception as error:
            raise InputError(f"onnxruntime cannot run the graph: {_said(error)}") from error
        expected = [as_onnx_array(value) for value in self.function(list(inputs.values()))]
        floor = ROUNDING * max(map(_largest, (*feed.values(), *expected)), default=0.0)
        tolerance = _tolerance(self.dtypes)
        for name, a, b in zip(self.outputs, found, expected, strict=True):
            if said := disagreement(np.asarray(a), b, tolerance, floor):
                raise InputError(
                    f"onnxruntime finds another {name} than MLX, {said}; nothing was "
                    f"written{self._hint()}"
                )

    def _hint(self) -> str:
        unordered = " and ".join(sorted(self.primitives & _UNORDERED))
        if not unordered:
            return ""
        return f". MLX leaves the order of {unordered} open, which may be why: sort instead"


def agree(found: Sequence[mx.array], expected: Sequence[mx.array]) -> bool:
    """Whether arrays of MLX are the same, within the limits of a trial."""
    a, b = ([as_onnx_array(value) for value in values] for values in (found, expected))
    floor = ROUNDING * max(map(_largest, b), default=0.0)
    tolerance = _tolerance({value.dtype for value in expected})
    pairs = zip(a, b, strict=True)
    return all(disagreement(one, other, tolerance, floor) is None for one, other in pairs)


def disagreement(
    found: NDArray[Any], expected: NDArray[Any], tolerance: float, floor: float = 0.0
) -> str | None:
    """How an output differs from the expected one; None where it does not.

    Whole numbers and truth values have to be equal, and so have NaN and infinities.

    Parameters
    ----------
    tolerance
        Of the largest entry, for floating types.
    floor
        A difference that is always allowed to them.
    """
    if found.shape != expected.shape or found.dtype != expected.dtype:
        return (
            f"of shape {found.shape} and {found.dtype} instead of {expected.shape} and "
            f"{expected.dtype}"
        )
    if expected.dtype.kind in "biu":
        differing = int((found != expected).sum())
        return f"{differing} of {expected.size} entries" if differing else None
    a, b = found.astype(np.float64), expected.astype(np.float64)
    finite = np.isfinite(b)
    if (
        not np.array_equal(a[~finite], b[~finite], equal_nan=True)
        or not np.isfinite(a[finite]).all()
    ):
        return "with NaN or infinity elsewhere"
    largest = _largest(b)
    error = float(np.abs(a[finite] - b[finite]).max(initial=0))
    if error <= max(tolerance * largest, floor):
        return None
    return f"by {error / largest:.1e} of its largest entry" if largest else f"by {error:.1e}"


def _largest(array: NDArray[Any]) -> float:
    """The largest finite magnitude of a floating type; 0 for any other."""
    if array.dtype.kind in "biu":
        return 0.0
    return float(np.abs(array[np.isfinite(array)]).max(initial=0))


def _tolerance(dtypes: Collection[mx.Dtype]) -> float:
    return TOLERANCE if _HALF.isdisjoint(dtypes) else TOLERANCE_IN_HALF


def _named(dtypes: Iterable[mx.Dtype]) -> str:
    return ", ".join(sorted(str(dtype).rpartition(".")[2] for dtype in dtypes if dtype in _RARE))


def _said(error: Exception) -> str:
    """What onnxruntime says, without the number and the name that it puts before it."""
    return re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", first_line(error))
