"""Primitives that rearrange entries: shapes, slices, padding; and ranges of numbers."""

from typing import Any

import numpy as np

from mlx_entk.onnx.builders.primitive import Builder, Primitive
from mlx_entk.onnx.emitter import Emitter
from mlx_entk.onnx.symbolic import Size, combined, is_free, product_of


def _arange(e: Emitter, p: Primitive) -> str:
    start, _, step, dtype = p.arguments
    if isinstance(start, Size) or isinstance(step, Size):
        raise p.refuse_free_batch("starts at a number that depends on the batch")
    (count,) = p.output_shapes[0]
    if not isinstance(count, Size):
        return e.number(start + step * np.arange(count), dtype)
    steps = e.cast(e.range(0, 1, count), dtype)
    return e.op("Add", [e.op("Mul", [steps, e.number(step, dtype)]), e.number(start, dtype)])


def _broadcast(e: Emitter, p: Primitive) -> str:
    if p.shapes[0] == p.output_shapes[0]:
        return p.inputs[0]
    return e.op("Expand", [p.inputs[0], e.sizes(p.output_shapes[0])])


def _reshape(e: Emitter, p: Primitive) -> str:
    return e.reshape(p.inputs[0], p.output_shapes[0])


def _transpose(e: Emitter, p: Primitive) -> str:
    return e.op("Transpose", p.inputs, perm=list(p.arguments[0]))


def _concatenate(e: Emitter, p: Primitive) -> str:
    return e.op("Concat", p.inputs, axis=p.arguments[0])


def _split(e: Emitter, p: Primitive) -> list[str]:
    axis = p.arguments[1]
    lengths = e.sizes([shape[axis] for shape in p.output_shapes])
    names = [e.fresh() for _ in p.output_shapes]
    return e.outputs("Split", [p.inputs[0], lengths], names, axis=axis)


def _slice(e: Emitter, p: Primitive) -> str:
    starts, _, strides = p.arguments
    ends = [
        _end(start, stride, count)
        for start, stride, count in zip(starts, strides, p.output_shapes[0], strict=True)
    ]
    axes = e.constant(list(range(p.rank)))
    return e.op(
        "Slice", [p.inputs[0], e.sizes(starts), e.sizes(ends), axes, e.constant(list(strides))]
    )


# A position before the first entry of any axis, where a backward slice may end. ONNX would count a
# plain −1 from the last entry.
_FAR = -(2**31)


def _end(start: Any, stride: int, count: Any) -> Any:
    """Return where a slice of ``count`` entries ends, however its stop was written."""
    end = combined((1, start), (stride, count))
    return end if isinstance(end, Size) or end >= 0 else _FAR


def _pad(e: Emitter, p: Primitive) -> str:
    axes, low, high = p.arguments
    widths = e.constant([*low, *high])
    return e.op("Pad", [p.inputs[0], widths, p.inputs[1], e.constant(list(axes))], mode="constant")


def _as_strided(e: Emitter, p: Primitive) -> str:
    (total,), (shape, strides, offset) = p.shapes[0], p.arguments
    free = [axis for axis, size in enumerate(shape) if isinstance(size, Size)]
    others = [axis for axis in range(len(shape)) if axis not in free]
    window = [total, offset, *(strides[axis] for axis in others)]
    layout, rows = [total], True
    if free:
        batch, stride = shape[free[0]], strides[free[0]]
        rows = stride != 1  # of one input after another, or else of one entry of all of them
        window = [stride, *window[1:]] if rows else [_share(size, batch) for size in window]
        layout = [batch, window[0]] if rows else [window[0], batch]
    if len(free) > 1 or is_free(window) or product_of(layout) != total:
        raise p.refuse_free_batch("has windows that depend on the batch")
    size, offset, *steps = window
    at = offset + sum(
        (np.arange(shape[axis]) * step).reshape([-1 if other == axis else 1 for other in others])
        for axis, step in zip(others, steps, strict=True)
    )
    if free and (at.min() < 0 or at.max() >= size):
        raise p.refuse_free_batch("has windows over several inputs")
    gathered = e.op(
        "Gather", [e.reshape(p.inputs[0], layout), e.constant(at)], axis=len(free) if rows else 0
    )
    order = [*free, *others] if rows else [*others, *free]
    if order == sorted(order):
        return gathered
    return e.op("Transpose", [gathered], perm=np.argsort(order).tolist())


def _share(size: Any, batch: Size) -> Any:
    """Return a size over a batch size, or a ``Size`` if it is no multiple of that."""
    if not isinstance(size, Size):
        return 0 if size == 0 else batch
    (_, least), (_, unit) = size.coefficients[0], batch.coefficients[0]
    return least // unit if product_of([least // unit, batch]) == size else size


def _identity(e: Emitter, p: Primitive) -> str:
    return p.inputs[0]


SHAPES: dict[str, Builder] = {
    "Arange": _arange,
    "AsStrided": _as_strided,
    "Broadcast": _broadcast,
    "BroadcastAxes": _broadcast,
    "Concatenate": _concatenate,
    "Contiguous": _identity,
    "Copy": _identity,
    "ExpandDims": _reshape,
    "Flatten": _reshape,
    "Full": _identity,
    "Pad": _pad,
    "Reshape": _reshape,
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _reshape,
    "StopGradient": _identity,
    "Transpose": _transpose,
    "Unflatten": _reshape,
}
