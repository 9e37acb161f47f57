"""The trial of a graph: onnxruntime has to run it and agree with MLX before it is written."""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from mlx_entk.errors import InputError
from mlx_entk.onnx.emitter import as_onnx_array
from mlx_entk.onnx.runtime import Session, message_of

# How far an output may be from MLX's, relative to its largest entry. The trial looks for operators
# that compute something else; verification has tighter limits. Half precision has three digits,
# bfloat16 two.
TOLERANCE = 1e-3
TOLERANCES_IN_HALF = {mx.float16: 0.05, mx.bfloat16: 0.1}
# The same relative to the largest number that goes in or out, because an output that consists of
# rounding alone, such as a vanishing gradient, would otherwise never agree.
ROUNDING = 1e-6

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

        If its CPU lacks operators for bfloat16, or for another of the rare types, a copy of the
        model is run that has float32 instead.

        Returns
        -------
        str
            What the model was tried on, and how.

        Raises
        ------
        InputError
            If onnxruntime cannot run the model, or disagrees with MLX; the message is one line that
            names the operator or the output.
        """
        import onnxruntime

        try:
            session = Session(model)
        except Exception as error:  # its errors have no other common class
            raise _cannot("load", error) from error
        for inputs in self.inputs:
            self._require_agreement(session, inputs)
        sizes = (
            "the example inputs and on larger batches"
            if len(self.inputs) > 1
            else "the example inputs, whose size is the only one that it takes"
        )
        instead = f", with {session.instead}" if session.instead else ""
        return f"{onnxruntime.__version__} agrees with MLX on {sizes}{instead}"

    def _require_agreement(self, session: Session, inputs: dict[str, mx.array]) -> None:
        try:
            actual = session.run(self.outputs, inputs)
        except Exception as error:
            raise _cannot("run", error) from error
        given = [session.host(value) for value in inputs.values()]
        expected = [session.host(value) for value in self.function(list(inputs.values()))]
        floor = ROUNDING * max(map(_largest, (*given, *expected)), default=0.0)
        tolerance = _tolerance(self.dtypes)
        for name, a, b in zip(self.outputs, actual, expected, strict=True):
            if difference := disagreement(a, b, tolerance, floor):
                raise InputError(
                    f"onnxruntime and MLX disagree about {name}: {difference}; nothing was "
                    f"written{self._hint()}"
                )

    def _hint(self) -> str:
        if unordered := " and ".join(sorted(self.primitives & _UNORDERED)):
            return (
                f". The reason may be that MLX leaves the order of {unordered} open: sort instead"
            )
        if half := _named(self.dtypes & TOLERANCES_IN_HALF.keys()):
            return f". The reason may be rounding in {half}: use float32"
        return ""


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
    return max((TOLERANCES_IN_HALF.get(dtype, TOLERANCE) for dtype in dtypes), default=TOLERANCE)


def _named(dtypes: Iterable[mx.Dtype]) -> str:
    return " and ".join(sorted(str(dtype).rpartition(".")[2] for dtype in dtypes))


def _cannot(do: str, error: Exception) -> InputError:
    return InputError(f"onnxruntime cannot {do} the graph: {message_of(error)}")
