"""Operators that rearrange entries: shapes, slices, padding; and arrays of a given shape."""

import math
from itertools import pairwise

import mlx.core as mx
import numpy as np

from mlx_entk._memory import default_limit
from mlx_entk.errors import InputError
from mlx_entk.onnx.limits import checked_shape, require_room
from mlx_entk.onnx.operators.values import (
    Attributes,
    Inputs,
    Operator,
    as_mlx,
    axes_of,
    axis_of,
    choice,
    cut,
    distinct_axes,
    ints,
    mlx_dtype,
)


def _reshape(x: Inputs, a: Attributes, n: int) -> mx.array:
    value, target = as_mlx(x[0]), ints(x[1], "the sizes of a reshape")
    if not a.get("allowzero", 0):
        target = [value.shape[i] if size == 0 else size for i, size in enumerate(target)]
    return mx.reshape(value, target)


def _flatten(x: Inputs, a: Attributes, n: int) -> mx.array:
    value, axis = as_mlx(x[0]), a.get("axis", 1)
    axis = axis if axis == value.ndim else axis_of(axis, value.ndim)
    return mx.reshape(value, (math.prod(value.shape[:axis]), math.prod(value.shape[axis:])))


def _transpose(x: Inputs, a: Attributes, n: int) -> mx.array:
    value = as_mlx(x[0])
    return mx.transpose(value, list(a.get("perm", range(value.ndim)[::-1])))


def _squeeze(x: Inputs, a: Attributes, n: int) -> mx.array:
    value = as_mlx(x[0])
    axes = axes_of(x, a, value.ndim)
    return mx.squeeze(value, axes) if axes is not None else mx.squeeze(value)


def _unsqueeze(x: Inputs, a: Attributes, n: int) -> mx.array:
    value = as_mlx(x[0])
    axes = list(a["axes"]) if "axes" in a else ints(x[1], "axes")
    return mx.expand_dims(value, sorted(distinct_axes(axes, value.ndim + len(axes))))


def _split(x: Inputs, a: Attributes, n: int) -> list[mx.array]:
    value = as_mlx(x[0])
    axis = axis_of(a.get("axis", 0), value.ndim)
    if a.get("num_outputs", n) != n:
        raise InputError(f"num_outputs is {a['num_outputs']}, but there are {n} outputs")
    if len(x) > 1 and x[1] is not None:
        lengths = ints(x[1], "the lengths of a split")
        if len(lengths) != n:
            raise InputError(f"{len(lengths)} lengths are given for {n} outputs")
        if min(lengths, default=0) < 0 or sum(lengths) != value.shape[axis]:
            raise InputError(f"parts of {lengths} do not make an axis of {value.shape[axis]}")
    else:
        size, parts = value.shape[axis], n
        each = -(-size // parts)
        lengths = [max(0, min(each, size - each * i)) for i in range(parts)]
    bounds = np.cumsum([0, *lengths]).tolist()
    return [mx.take(value, mx.arange(start, stop), axis=axis) for start, stop in pairwise(bounds)]


def _slice(x: Inputs, a: Attributes, n: int) -> mx.array:
    value = as_mlx(x[0])
    starts, ends = ints(x[1], "starts"), ints(x[2], "ends")
    axes = ints(x[3], "axes") if len(x) > 3 and x[3] is not None else list(range(len(starts)))
    steps = ints(x[4], "steps") if len(x) > 4 and x[4] is not None else [1] * len(starts)
    axes = distinct_axes(axes, value.ndim)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        size = value.shape[axis]
        # An end far below zero lets a backward slice reach the first entry.
        stop = None if step < 0 and end < -size else end
        kept = range(size)[start if start >= -size else 0 : stop : step]
        if kept != range(size):
            at = mx.arange(kept.start, kept.stop, kept.step, dtype=mx.int32)
            value = mx.take(value, at, axis=axis)
    return value


def _expand(x: Inputs, a: Attributes, n: int) -> mx.array:
    value = as_mlx(x[0])
    shape = np.broadcast_shapes(value.shape, tuple(ints(x[1], "the sizes of an expansion")))
    return mx.broadcast_to(value, shape)


def _pad(x: Inputs, a: Attributes, n: int) -> mx.array:
    value, pads = as_mlx(x[0]), ints(x[1], "pads")
    axes = ints(x[3], "axes") if len(x) > 3 and x[3] is not None else list(range(value.ndim))
    mode = choice(a, "mode", "constant", "edge", "reflect", "wrap")
    axes = distinct_axes(axes, value.ndim)
    if len(pads) != 2 * len(axes):
        raise InputError(f"{len(pads)} pads are given for {len(axes)} axes")
    widths = [(0, 0)] * value.ndim
    for i, axis in enumerate(axes):
        widths[axis] = (pads[i], pads[i + len(axes)])
    for (low, high), size in zip(widths, value.shape, strict=True):
        if -min(low, 0) - min(high, 0) > size:
            raise InputError(f"pads {(low, high)} cut more than an axis of {size} entries")
        require_room(
            4 * (size + max(low, 0) + max(high, 0)), default_limit(), "an axis that is padded"
        )
    if mode == "edge":
        return mx.pad(value, widths, mode="edge")
    if mode in ("reflect", "wrap"):
        for axis, width in enumerate(widths):
            at = np.pad(
                np.arange(value.shape[axis]), width, mode="wrap" if mode == "wrap" else "reflect"
            )
            value = mx.take(value, mx.array(at), axis=axis)
        return value
    for axis, (low, high) in enumerate(widths):
        value = cut(value, axis, low, high)
    positive = [(max(0, low), max(0, high)) for low, high in widths]
    fill = as_mlx(x[2]) if len(x) > 2 and x[2] is not None else mx.array(0, dtype=value.dtype)
    return mx.pad(value, positive, constant_values=fill.reshape(()))


def _tile(x: Inputs, a: Attributes, n: int) -> mx.array:
    return mx.tile(as_mlx(x[0]), ints(x[1], "repeats"))


def _trilu(x: Inputs, a: Attributes, n: int) -> mx.array:
    value = as_mlx(x[0])
    k = ints(x[1], "the diagonal")[0] if len(x) > 1 and x[1] is not None else 0
    rows, columns = mx.arange(value.shape[-2])[:, None], mx.arange(value.shape[-1])[None]
    kept = columns - rows >= k if a.get("upper", 1) else columns - rows <= k
    return mx.where(kept, value, mx.zeros((), dtype=value.dtype))


def _eye_like(x: Inputs, a: Attributes, n: int) -> mx.array:
    value = as_mlx(x[0])
    dtype = mlx_dtype(a["dtype"]) if "dtype" in a else value.dtype
    rows, columns = value.shape
    return mx.eye(rows, columns, a.get("k", 0)).astype(dtype)


def _depth_to_space(x: Inputs, a: Attributes, n: int) -> mx.array:
    value, b = as_mlx(x[0]), a["blocksize"]
    N, C, H, W = value.shape
    if a.get("mode", b"DCR") == b"DCR":
        parts = value.reshape(N, b, b, C // b**2, H, W).transpose(0, 3, 4, 1, 5, 2)
    else:
        parts = value.reshape(N, C // b**2, b, b, H, W).transpose(0, 1, 4, 2, 5, 3)
    return parts.reshape(N, C // b**2, H * b, W * b)


def _space_to_depth(x: Inputs, a: Attributes, n: int) -> mx.array:
    value, b = as_mlx(x[0]), a["blocksize"]
    N, C, H, W = value.shape
    parts = value.reshape(N, C, H // b, b, W // b, b)
    channel_last = a.get("mode", b"DCR") == b"DCR"
    parts = parts.transpose((0, 3, 5, 1, 2, 4) if channel_last else (0, 1, 3, 5, 2, 4))
    return parts.reshape(N, C * b**2, H // b, W // b)


def _center_crop_pad(x: Inputs, a: Attributes, n: int) -> mx.array:
    value, wanted = as_mlx(x[0]), checked_shape(ints(x[1], "the sizes of a crop"))
    axes = distinct_axes(a.get("axes", range(value.ndim)), value.ndim)
    if len(axes) != len(wanted):
        raise InputError(f"{len(wanted)} sizes are given for {len(axes)} axes")
    widths = [(0, 0)] * value.ndim
    for axis, size in zip(axes, wanted, strict=True):
        more = size - value.shape[axis]
        require_room(4 * size, default_limit(), "an axis that is padded")
        less = max(0, -more)
        value = cut(value, axis, -(less // 2), less // 2 - less)
        widths[axis] = (max(0, more) // 2, max(0, more) - max(0, more) // 2)
    return mx.pad(value, widths)


def _depends_on_data(x: Inputs, a: Attributes, n: int) -> mx.array:
    """Refuse an operator: with known inputs it runs on the host, so here they depend on data."""
    raise InputError("the output size depends on the data, which a fixed graph cannot follow")


SHAPES: dict[str, Operator] = {
    "BlackmanWindow": _depends_on_data,
    "CenterCropPad": _center_crop_pad,
    "Concat": lambda x, a, n: mx.concatenate([as_mlx(v) for v in x], axis=a["axis"]),
    "ConstantOfShape": _depends_on_data,
    "DepthToSpace": _depth_to_space,
    "Expand": _expand,
    "EyeLike": _eye_like,
    "Flatten": _flatten,
    "HammingWindow": _depends_on_data,
    "HannWindow": _depends_on_data,
    "MelWeightMatrix": _depends_on_data,
    "Pad": _pad,
    "Range": _depends_on_data,
    "Reshape": _reshape,
    "Slice": _slice,
    "SpaceToDepth": _space_to_depth,
    "Split": _split,
    "Squeeze": _squeeze,
    "Tile": _tile,
    "Transpose": _transpose,
    "Trilu": _trilu,
    "Unsqueeze": _unsqueeze,
}
