"""Operators that read or write entries by index."""

from collections.abc import Sequence

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from mlx_entk.errors import InputError
from mlx_entk.onnx.operators.values import (
    Attributes,
    Indices,
    Inputs,
    Operator,
    Value,
    as_mlx,
    axis_of,
    choice,
    grids,
    ints,
    note_indices,
)


def _wrapped(index: Value, size: int) -> mx.array:
    """Indices of an axis counted from its beginning.

    MLX does not check indices: it would read and write whatever lies in memory there. Indices that
    are known beforehand are checked here. Of others, which depend on the inputs, those that the
    axis does not have become the first or the last one, and the graph is told (``note_indices``),
    which refuses them.

    Raises
    ------
    InputError
        For a known index that the axis does not have.
    """
    if isinstance(index, np.ndarray):
        if index.size and not (-size <= index.min() and index.max() < size):
            raise InputError(f"an index is outside an axis of {size} entries")
        return as_mlx(np.where(index < 0, index + size, index))
    array = as_mlx(index)
    array = mx.where(array < 0, array + size, array)
    note_indices(Indices(array, (array >= 0) & (array < size), size))
    return mx.clip(array, 0, max(0, size - 1))


def gather(x: Inputs, a: Attributes, n: int) -> mx.array:
    """Gather, of ONNX's own operators."""
    value = as_mlx(x[0])
    axis = axis_of(a.get("axis", 0), value.ndim)
    return mx.take(value, _wrapped(x[1], value.shape[axis]), axis=axis)


def _gather_elements(x: Inputs, a: Attributes, n: int) -> mx.array:
    value = as_mlx(x[0])
    axis = axis_of(a.get("axis", 0), value.ndim)
    index = _wrapped(x[1], value.shape[axis])
    _require_within(index.shape, value.shape, axis)
    at = grids(index.shape)
    at[axis] = index
    return value[tuple(at)]


def _gather_nd(x: Inputs, a: Attributes, n: int) -> mx.array:
    value, rank = as_mlx(x[0]), as_mlx(x[1]).ndim
    batch = a.get("batch_dims", 0)
    columns = _columns(x[1], value.shape[batch:])
    return value[(*grids(value.shape[:batch], rank - 1), *columns)]


def _columns(index: Value, sizes: Sequence[int]) -> list[mx.array]:
    """The indices of several axes."""
    assert index is not None
    return [_wrapped(index[..., i], sizes[i]) for i in range(index.shape[-1])]


def _require_within(shape: Sequence[int], sizes: Sequence[int], but: int) -> None:
    """Raise InputError if indices of elements are larger than what they index, but for an axis."""
    if len(shape) != len(sizes) or any(
        one > other for i, (one, other) in enumerate(zip(shape, sizes, strict=True)) if i != but
    ):
        raise InputError(f"indices of shape {tuple(shape)} do not fit {tuple(sizes)}")


def _update(value: mx.array, at: tuple[mx.array, ...], updates: mx.array, how: str) -> mx.array:
    """Return a copy with entries replaced by updates, or combined with them."""
    if how == "none":
        fresh = mx.array(value)
        fresh[at] = updates
        return fresh
    method = {"add": "add", "mul": "multiply", "max": "maximum", "min": "minimum"}[how]
    updated: mx.array = getattr(value.at[at], method)(updates)
    return updated


def _how(a: Attributes) -> str:
    return choice(a, "reduction", "none", "add", "mul", "max", "min")


def _scatter_nd(x: Inputs, a: Attributes, n: int) -> mx.array:
    value, updates = as_mlx(x[0]), as_mlx(x[2])
    return _update(value, tuple(_columns(x[1], value.shape)), updates, _how(a))


def _scatter_elements(x: Inputs, a: Attributes, n: int) -> mx.array:
    value, updates = as_mlx(x[0]), as_mlx(x[2])
    axis = axis_of(a.get("axis", 0), value.ndim)
    index = _wrapped(x[1], value.shape[axis])
    _require_within(index.shape, value.shape, axis)
    at = [mx.broadcast_to(grid, index.shape) for grid in grids(index.shape)]
    at[axis] = index
    return _update(value, tuple(at), updates, _how(a))


def _one_hot(x: Inputs, a: Attributes, n: int) -> mx.array:
    index, values = as_mlx(x[0]).astype(mx.int64), as_mlx(x[2])
    (depth,) = ints(x[1], "the depth of one-hot vectors")
    axis = a.get("axis", -1)
    index = mx.where(index < 0, index + depth, index)
    hot = mx.expand_dims(index, -1) == mx.arange(depth)
    filled = mx.where(hot, values[1], values[0])
    return mx.moveaxis(filled, -1, axis if axis >= 0 else filled.ndim + axis)


def _reverse_sequence(x: Inputs, a: Attributes, n: int) -> mx.array:
    value, lengths = as_mlx(x[0]), x[1]
    batch, time = a.get("batch_axis", 1), a.get("time_axis", 0)
    if value.ndim < 2 or {batch, time} != {0, 1}:
        raise InputError(f"axes {batch} and {time} of {value.shape} are no batch of sequences")
    steps = value.shape[time]
    if lengths is None or lengths.shape != (value.shape[batch],):
        raise InputError(f"{value.shape[batch]} sequences need as many lengths")
    if isinstance(lengths, np.ndarray) and not ((lengths >= 0) & (lengths <= steps)).all():
        raise InputError(f"sequences of {steps} steps have no lengths {lengths.tolist()[:8]}")
    each = as_mlx(lengths)
    if isinstance(lengths, mx.array):
        note_indices(Indices(each, (each >= 0) & (each <= steps), steps + 1))
    each = mx.stop_gradient(mx.clip(mx.expand_dims(each, time), 0, steps))
    at = grids(value.shape[:2])
    at[time] = mx.where(at[time] < each, each - 1 - at[time], at[time])
    return value[tuple(at)]


def _compress(x: Inputs, a: Attributes, n: int) -> mx.array:
    value = as_mlx(x[0])
    kept = [i for i, one in enumerate(ints(x[1], "which entries are kept")) if one]
    if "axis" not in a:
        value = value.reshape(-1)
    axis = axis_of(a.get("axis", 0), value.ndim)
    return mx.take(value, _wrapped(np.array(kept, dtype=np.int64), value.shape[axis]), axis=axis)


def _non_zero(x: Inputs, a: Attributes, n: int) -> NDArray[np.int64]:
    if not isinstance(x[0], np.ndarray):
        raise InputError("how many entries are not zero depends on the data")
    return np.stack(np.nonzero(np.atleast_1d(x[0]))).astype(np.int64)


INDEXING: dict[str, Operator] = {
    "Compress": _compress,
    "Gather": gather,
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
    "NonZero": _non_zero,
    "OneHot": _one_hot,
    "ReverseSequence": _reverse_sequence,
    "Scatter": _scatter_elements,
    "ScatterElements": _scatter_elements,
    "ScatterND": _scatter_nd,
}
