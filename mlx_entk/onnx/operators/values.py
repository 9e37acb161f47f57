"""What an operator takes and returns, and helpers that several operators share."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray
from onnx import helper

from mlx_entk.errors import InputError
from mlx_entk.onnx.limits import MOST_DEPTH

Value = mx.array | NDArray[Any] | None
Inputs = list[Value]
Attributes = dict[str, Any]
Result = Value | list[mx.array] | list[mx.array | None]
Operator = Callable[[Inputs, Attributes, int], Result]


def from_numpy(array: NDArray[Any]) -> mx.array:
    """Convert to an MLX array, doubles to single precision, because Apple's GPUs have no doubles.

    Raises
    ------
    InputError
        If MLX has no such type.
    """
    if array.dtype == np.float64:
        array = array.astype(np.float32)
    if array.dtype.kind not in "fiub" and str(array.dtype) != "bfloat16":
        raise InputError(f"type {array.dtype} has no MLX counterpart")
    if str(array.dtype) == "bfloat16":
        return mx.array(array.astype(np.float32)).astype(mx.bfloat16)
    return mx.array(array)


def as_mlx(value: Value) -> mx.array:
    """Return an input as an MLX array.

    Raises
    ------
    InputError
        If the input was left out, or MLX has no such type.
    """
    if value is None:
        raise InputError("an input is missing")
    return from_numpy(value) if isinstance(value, np.ndarray) else value


def optional(x: Inputs, at: int) -> Value:
    """Return an input that may be left out, at the end or by an empty name."""
    return x[at] if at < len(x) else None


def ints(value: Value, what: str) -> list[int]:
    """Return the whole numbers of an input that has to be known before the model runs.

    Parameters
    ----------
    value
        The input.
    what
        What the input holds, for messages.

    Raises
    ------
    InputError
        If the input was left out, or depends on the model's inputs.
    """
    if value is None:
        raise InputError(f"the input with {what} is missing")
    if isinstance(value, mx.array):
        raise InputError(f"{what} would depend on the data, which a fixed graph cannot follow")
    return [int(v) for v in np.asarray(value).reshape(-1)]


def axis_of(axis: int, rank: int) -> int:
    """Return an axis counted from the first.

    Raises
    ------
    InputError
        If an array of that many axes does not have it.
    """
    if not -rank <= axis < rank:
        raise InputError(f"axis {axis} of an array of {rank} axes does not exist")
    return axis + rank if axis < 0 else axis


def distinct_axes(axes: Sequence[int], rank: int) -> list[int]:
    """Return axes counted from the first.

    Raises
    ------
    InputError
        If an array of that many axes lacks one, or one is named twice.
    """
    counted = [axis_of(int(axis), rank) for axis in axes]
    if len(set(counted)) < len(counted):
        raise InputError(f"axes {list(axes)} name one twice")
    return counted


def axes_of(x: Inputs, a: Attributes, rank: int) -> list[int] | None:
    """Return the axes from the attribute or the second input; None stands for all of them."""
    axes = a.get("axes") or (ints(x[1], "axes") if len(x) > 1 and x[1] is not None else [])
    return distinct_axes(axes, rank) if axes else None


def choice(a: Attributes, name: str, *known: str) -> str:
    """Return an attribute that is one of some words, by default the first.

    Raises
    ------
    InputError
        For any other word.
    """
    word = str(a.get(name, known[0].encode()).decode())
    if word not in known:
        raise InputError(f"{name} {word!r} is unknown: it may be {', '.join(known)}")
    return word


@dataclass(frozen=True)
class Indices:
    """Indices that depend on the inputs, and of what.

    Attributes
    ----------
    values
        Counted from the beginning of the axis.
    inside
        Where they count: those outside are then wrong.
    size
        Entries of the axis.
    """

    values: mx.array
    inside: mx.array
    size: int

    def within(self, taken: mx.array) -> "Indices":
        """The same where a branch is taken, all inside where it is not."""
        return replace(self, inside=self.inside | ~taken)

    def wrong(self) -> int:
        """One of those outside."""
        first = mx.argmin(self.inside.reshape(-1))
        return int(np.array(self.values.reshape(-1)[first]))


# Indices that depend on the inputs, while a graph runs.
_INDICES: ContextVar[list[Indices] | None] = ContextVar("indices", default=None)
# Operators in the chains of steps that it has been written out into.
_CHAINED: ContextVar[int] = ContextVar("chained", default=0)


@contextmanager
def noting_indices() -> Iterator[list[Indices]]:
    """Collect the indices that operators take by what depends on the inputs.

    The outermost context, which is a whole graph, begins to count steps anew (``note_chain``).
    """
    noted: list[Indices] = []
    if _INDICES.get() is None:
        _CHAINED.set(0)
    token = _INDICES.set(noted)
    try:
        yield noted
    finally:
        _INDICES.reset(token)


def note_indices(indices: Indices) -> None:
    """Tell the graph that runs what indexes; MLX itself does not check it."""
    noted = _INDICES.get()
    if noted is not None:
        noted.append(indices)


def note_chain(length: int) -> None:
    """Count operators that follow one another where the file has a single one, as for steps.

    Raises
    ------
    InputError
        If a graph becomes a longer chain than MLX's recursion survives.
    """
    total = _CHAINED.get() + length
    if total > MOST_DEPTH:
        raise InputError(
            f"its steps would make a chain of more than {MOST_DEPTH:,} operators: shorten the input"
        )
    _CHAINED.set(total)


def mlx_dtype(number: int) -> mx.Dtype:
    """Return the MLX type for the number of an ONNX type; doubles become single precision.

    Raises
    ------
    InputError
        If MLX has no such type.
    """
    name = np.dtype(helper.tensor_dtype_to_np_dtype(number)).name
    renamed = {"bool": mx.bool_, "float64": mx.float32}
    dtype = renamed.get(name) or getattr(mx, name, None)
    if not isinstance(dtype, mx.Dtype):
        raise InputError(f"type {name} has no MLX counterpart")
    return dtype


def grids(shape: Sequence[int], rank: int | None = None) -> list[mx.array]:
    """Return the coordinates of every entry along each axis, ready to broadcast.

    Parameters
    ----------
    shape
        Sizes of the axes.
    rank
        Number of axes that each result has, by default as many as ``shape``.
    """
    rank = len(shape) if rank is None else rank
    return [
        mx.arange(size).reshape([-1 if i == k else 1 for k in range(rank)])
        for i, size in enumerate(shape)
    ]


def cut(value: mx.array, axis: int, low: int, high: int) -> mx.array:
    """Take as many entries off both ends of an axis as negative widths say; others do nothing."""
    if low >= 0 and high >= 0:
        return value
    kept = mx.arange(max(0, -low), value.shape[axis] - max(0, -high))
    return mx.take(value, kept, axis=axis)


def by_channel(value: Value, rank: int) -> mx.array:
    """Reshape a number for each channel so that it broadcasts over arrays of that rank."""
    return as_mlx(value).reshape([1, -1, *[1] * (rank - 2)])
