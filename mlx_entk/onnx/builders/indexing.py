"""Primitives that read or write entries by index."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from mlx_entk.onnx.builders.primitive import Builder, Primitive, as_int64
from mlx_entk.onnx.emitter import Emitter
from mlx_entk.onnx.symbolic import Size


def _slice_update(e: Emitter, p: Primitive) -> str:
    reduction, starts, _, strides = p.arguments
    data, updates = p.inputs
    shape, counts = p.shapes
    if len(counts) != p.rank:
        raise p.refuse("if its updates have another rank")
    if 0 in counts:
        return data
    parts = list(zip(starts, strides, counts, strict=True))
    partial = [axis for axis in range(p.rank) if parts[axis] != (0, 1, shape[axis])]
    if not partial:
        return _combine(e, reduction, data, updates, p)
    order = [*partial, *(axis for axis in range(p.rank) if axis not in partial)]
    front = e.op("Transpose", [data], perm=order)
    moved = e.op("Transpose", [updates], perm=order)
    grid = _grid(e, [parts[axis] for axis in partial])
    scattered = e.op("ScatterND", [front, grid, moved], reduction=_reduction(reduction))
    return e.op("Transpose", [scattered], perm=np.argsort(order).tolist())


def _grid(e: Emitter, parts: Sequence[tuple[Any, int, Any]]) -> str:
    """Write the coordinates of a slice's entries, as ScatterND takes them.

    Parameters
    ----------
    parts
        Start, stride and count along each axis.

    Returns
    -------
    str
        Name of an int64 value of shape (*counts*, number of axes).
    """
    counts = [count for _, _, count in parts]
    columns = []
    for axis, (start, stride, count) in enumerate(parts):
        along = [count if other == axis else 1 for other in range(len(parts))]
        positions = e.reshape(e.range(start, stride, count), along)
        columns.append(e.reshape(e.op("Expand", [positions, e.sizes(counts)]), [*counts, 1]))
    return e.op("Concat", columns, axis=-1) if len(columns) > 1 else columns[0]


def _combine(e: Emitter, reduction: int, data: str, updates: str, p: Primitive) -> str:
    updates = e.op("Expand", [updates, e.sizes(p.shapes[0])])
    kind = {"none": "", "add": "Add", "mul": "Mul", "max": "Max", "min": "Min"}
    name = kind[_reduction(reduction)]
    return e.op(name, [data, updates]) if name else updates


def _reduction(kind: int) -> str:
    return ("max", "min", "add", "mul", "none")[kind]


def _indices(e: Emitter, p: Primitive, names: Sequence[str], axes: Sequence[int]) -> str:
    """Stack index arrays along a new last axis, for GatherND and ScatterND."""
    columns = []
    for name, dtype, axis in zip(names, p.dtypes[1:], axes, strict=False):
        value = as_int64(e, name, dtype)
        if not isinstance(p.shapes[0][axis], Size):  # in MLX, negative indices count from the end
            length = e.constant(p.shapes[0][axis])
            negative = e.op("Less", [value, e.constant(0)])
            value = e.op("Where", [negative, e.op("Add", [value, length]), value])
        columns.append(e.op("Unsqueeze", [value, e.constant([-1])]))
    return e.op("Concat", columns, axis=-1) if len(columns) > 1 else columns[0]


def _gather(e: Emitter, p: Primitive) -> str:
    axes, sizes = p.arguments
    if not axes:
        return e.reshape(p.inputs[0], p.output_shapes[0])
    kept = [axis for axis in range(p.rank) if axis not in axes]
    if any(sizes[axis] != 1 for axis in axes):
        raise p.refuse("if it reads more than one entry per index")
    front = e.op("Transpose", [p.inputs[0]], perm=[*axes, *kept])
    for axis in kept:
        if sizes[axis] != p.shapes[0][axis]:
            if isinstance(sizes[axis], Size):
                raise p.refuse_free_batch("reads a part of the batch")
            at = e.constant([len(axes) + kept.index(axis)])
            front = e.op("Slice", [front, e.constant([0]), e.constant([sizes[axis]]), at])
    gathered = e.op("GatherND", [front, _indices(e, p, p.inputs[1:], axes)])
    return e.reshape(gathered, p.output_shapes[0])


def _scatter(e: Emitter, p: Primitive) -> str:
    reduction, axes = p.arguments
    data, *indices, updates = p.inputs
    if not axes:
        return _combine(e, reduction, data, e.reshape(updates, p.shapes[-1]), p)
    rank, shape = p.rank, p.shapes[-1]
    kept = [axis for axis in range(rank) if axis not in axes]
    ahead = len(shape) - rank  # the axes of the indices come before those of the slices
    for axis in range(rank):
        expected = 1 if axis in axes else p.shapes[0][axis]
        if shape[ahead + axis] != expected:
            raise p.refuse("if it writes slices of a part of an axis")
    order = [*axes, *kept]
    front = e.op("Transpose", [data], perm=order)
    target = [*shape[:ahead], *(shape[ahead + axis] for axis in kept)]
    moved = e.reshape(updates, target)
    inputs = [front, _indices(e, p, indices, axes), moved]
    scattered = e.op("ScatterND", inputs, reduction=_reduction(reduction))
    return e.op("Transpose", [scattered], perm=np.argsort(order).tolist())


def _gather_axis(e: Emitter, p: Primitive) -> str:
    return e.op(
        "GatherElements", [p.inputs[0], as_int64(e, p.inputs[1], p.dtypes[1])], axis=p.arguments[0]
    )


def _scatter_axis(e: Emitter, p: Primitive) -> str:
    kind, axis = p.arguments
    reduction = ("add", "none")[kind]
    data, _, updates = p.inputs
    moved = e.op("Expand", [updates, e.sizes(p.shapes[1])])
    inputs = [data, as_int64(e, p.inputs[1], p.dtypes[1]), moved]
    return e.op("ScatterElements", inputs, axis=axis, reduction=reduction)


INDEXING: dict[str, Builder] = {
    "Gather": _gather,
    "GatherAxis": _gather_axis,
    "Scatter": _scatter,
    "ScatterAxis": _scatter_axis,
    "SliceUpdate": _slice_update,
}
