"""Values of an image between its entries, at places that a grid gives."""

import math
from collections.abc import Sequence

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
    choice,
    ints,
)

# Entries that each place is interpolated between along an axis, counted from the one before it.
_TAPS = {"nearest": (0,), "linear": (0, 1), "cubic": (-1, 0, 1, 2)}
# So many entries beyond an end, all that is around a place is outside.
_BEYOND = 3


def _grid_sample(x: Inputs, a: Attributes, n: int) -> mx.array:
    value, grid = as_mlx(x[0]), as_mlx(x[1])
    # Names of the modes before opset 20 begin with "bi".
    mode = choice(a, "mode", "linear", "nearest", "cubic", "bilinear", "bicubic").removeprefix("bi")
    padding = choice(a, "padding_mode", "zeros", "border", "reflection")
    rank = value.ndim - 2
    if (
        not 1 <= rank <= 3
        or grid.ndim != value.ndim
        or grid.shape[-1] != rank
        or len(grid) != len(value)
    ):
        raise InputError(f"a grid of {grid.shape} does not fit an array of {value.shape}")
    if 0 in value.shape:
        raise InputError(f"an array of {value.shape} has no entries to sample")
    batch, channels, *sizes = value.shape
    taps = _TAPS[mode]
    places = math.prod(grid.shape[1:-1])
    entries = len(taps) ** rank * (channels + 3 * rank) + sum(sizes)
    require_room(4 * batch * places * entries, default_limit(), "the entries around every place")
    aligned = bool(a.get("align_corners", 0))
    ends = [(0.0, size - 1.0) if aligned else (-0.5, size - 0.5) for size in sizes]
    at = _places(grid, sizes, aligned)
    if mode == "nearest":
        at = [mx.round(one) for one in at]
    if padding == "reflection":
        at = [_reflected(one, *end) for one, end in zip(at, ends, strict=True)]
    at = [mx.clip(a, -_BEYOND, n + _BEYOND - 1) for a, n in zip(at, sizes, strict=True)]
    before = [_entry_before(one, size) for one, size in zip(at, sizes, strict=True)]
    flat = value.reshape(batch, channels, -1)
    rows, planes = mx.arange(batch)[:, None, None], mx.arange(channels)[:, None]
    total = mx.zeros((batch, channels, places), dtype=value.dtype)
    for offsets in np.ndindex(*[len(taps)] * rank):
        weight = mx.ones((batch, places), dtype=value.dtype)
        index = mx.zeros((batch, places), dtype=mx.int32)
        for i, offset in enumerate(offsets):
            entry = before[i] + taps[offset]
            if mode != "nearest":
                weight = weight * _weight(mx.abs(at[i] - entry), mode)
            if padding == "zeros":
                weight = weight * ((entry >= 0) & (entry < sizes[i]))
            elif padding == "reflection":
                around = mx.arange(-1 - _BEYOND, sizes[i] + _BEYOND + 2)
                inside = _reflected(around, *ends[i]).astype(mx.int32)
                entry = mx.take(inside, entry + _BEYOND + 1)
            index = index * sizes[i] + mx.clip(entry, 0, sizes[i] - 1)
        total = total + weight[:, None] * flat[rows, planes, index[:, None]]
    return total.reshape(batch, channels, *grid.shape[1:-1])


def _entry_before(at: mx.array, size: int) -> mx.array:
    """The entry before each place, as a whole number from -3 to size + 2.

    It is counted: MLX's derivative of a conversion to whole numbers is wrong.
    """
    reached = at[..., None] >= mx.arange(1 - _BEYOND, size + _BEYOND)
    return mx.stop_gradient(mx.sum(reached, axis=-1) - _BEYOND)


def _places(grid: mx.array, sizes: Sequence[int], aligned: bool) -> list[mx.array]:
    """Where the places are among the entries along each axis, (N, P) each; the last comes first."""
    flat = grid.reshape(grid.shape[0], -1, len(sizes))
    parts = [mx.squeeze(part, -1) for part in mx.split(flat, len(sizes), axis=-1)][::-1]
    if aligned:
        return [(part + 1) / 2 * (size - 1) for part, size in zip(parts, sizes, strict=True)]
    return [((part + 1) * size - 1) / 2 for part, size in zip(parts, sizes, strict=True)]


def _reflected(at: mx.array, low: float, high: float) -> mx.array:
    """Places reflected between two ends, as often as it takes."""
    if low == high:
        return mx.full(at.shape, low, dtype=at.dtype)
    beyond = mx.remainder(at - low, 2 * (high - low))
    return low + mx.minimum(beyond, 2 * (high - low) - beyond)


def _weight(distance: mx.array, mode: str) -> mx.array:
    """The weight of an entry at a distance; for cubic, of Keys's kernel."""
    if mode == "linear":
        return mx.maximum(1 - distance, 0)
    d, a = distance, -0.75
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = (((d - 5) * d + 8) * d - 4) * a
    return mx.where(d <= 1, near, far)


def _affine_grid(x: Inputs, a: Attributes, n: int) -> mx.array:
    theta, sizes = as_mlx(x[0]), checked_shape(ints(x[1], "the size of a grid"))
    rank = len(sizes) - 2
    if rank < 1 or theta.shape != (sizes[0], rank, rank + 1):
        raise InputError(f"matrices of {theta.shape} do not fit a grid of {sizes}")
    places = math.prod(sizes[2:])
    require_room(16 * (rank + 1) * places, default_limit(), "the grid")
    axes = [np.linspace(-1, 1, size) if a.get("align_corners", 0) else
            (2 * np.arange(size) + 1) / size - 1 for size in sizes[2:]]  # fmt: skip
    columns = [one.ravel() for one in np.meshgrid(*axes, indexing="ij")][::-1]
    homogeneous = np.stack([*columns, np.ones(places)], axis=-1)
    grid = mx.array(homogeneous, dtype=theta.dtype) @ mx.swapaxes(theta, 1, 2)
    return grid.reshape(sizes[0], *sizes[2:], rank)


SAMPLING: dict[str, Operator] = {"AffineGrid": _affine_grid, "GridSample": _grid_sample}
