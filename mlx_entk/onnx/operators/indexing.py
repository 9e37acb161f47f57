"""Operators that read or write entries by index."""

import mlx.core as mx

from mlx_entk.onnx.operators.values import Attributes, Inputs, Operator, Value, as_mlx, grids, ints


def _wrapped(index: Value, size: int) -> mx.array:
    """Count negative indices from the end of an axis."""
    array = as_mlx(index)
    return mx.where(array < 0, array + size, array)


def _gather(x: Inputs, a: Attributes, n: int) -> mx.array:
    value, axis = as_mlx(x[0]), a.get("axis", 0)
    return mx.take(value, _wrapped(x[1], value.shape[axis]), axis=axis)


def _gather_elements(x: Inputs, a: Attributes, n: int) -> mx.array:
    value, axis = as_mlx(x[0]), a.get("axis", 0)
    index = _wrapped(x[1], value.shape[axis])
    at = grids(index.shape)
    at[axis % value.ndim] = index
    return value[tuple(at)]


def _gather_nd(x: Inputs, a: Attributes, n: int) -> mx.array:
    value, index = as_mlx(x[0]), as_mlx(x[1])
    batch = a.get("batch_dims", 0)
    depth = index.shape[-1]
    columns = [_wrapped(index[..., i], value.shape[batch + i]) for i in range(depth)]
    return value[(*grids(value.shape[:batch], index.ndim - 1), *columns)]


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
    return str(a.get("reduction", b"none").decode())


def _scatter_nd(x: Inputs, a: Attributes, n: int) -> mx.array:
    value, index, updates = as_mlx(x[0]), as_mlx(x[1]), as_mlx(x[2])
    columns = tuple(_wrapped(index[..., i], value.shape[i]) for i in range(index.shape[-1]))
    return _update(value, columns, updates, _how(a))


def _scatter_elements(x: Inputs, a: Attributes, n: int) -> mx.array:
    value, updates = as_mlx(x[0]), as_mlx(x[2])
    axis = a.get("axis", 0) % value.ndim
    index = _wrapped(x[1], value.shape[axis])
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


INDEXING: dict[str, Operator] = {
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
    "OneHot": _one_hot,
    "ScatterElements": _scatter_elements,
    "ScatterND": _scatter_nd,
}
