"""What an operator takes and returns, and helpers that several operators share."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray
from onnx import helper

from mlx_entk.errors import InputError

Value = mx.array | NDArray[Any] | None
Inputs = list[Value]
Attributes = dict[str, Any]
Result = mx.array | NDArray[Any] | list[mx.array]
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


# Where indices that depend on the inputs were inside of what they index, while a graph runs.
_INSIDE: ContextVar[list[mx.array] | None] = ContextVar("inside", default=None)


@contextmanager
def noting_indices() -> Iterator[list[mx.array]]:
    """Collect, for every operator that indexes, a scalar: whether all of its indices exist."""
    noted: list[mx.array] = []
    token = _INSIDE.set(noted)
    try:
        yield noted
    finally:
        _INSIDE.reset(token)


def note_inside(inside: mx.array) -> None:
    """Tell the graph that runs where indices existed; MLX itself does not check them."""
    noted = _INSIDE.get()
    if noted is not None:
        noted.append(mx.all(inside))


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
