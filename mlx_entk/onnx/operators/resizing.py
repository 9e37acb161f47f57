"""Resizing of axes: a small matrix for each axis, or indices, made on the host."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from mlx_entk._memory import default_limit
from mlx_entk.errors import InputError
from mlx_entk.onnx.limits import checked_shape, require_room
from mlx_entk.onnx.operators.values import (
    Attributes,
    Inputs,
    Operator,
    as_mlx,
    choice,
    distinct_axes,
    optional,
)

Numbers = NDArray[np.float32]

# Coordinates as close as this to the middle between two entries are there, as in onnxruntime.
_TIE = 1e-6
# Bytes that the coordinate of an entry takes while it is computed, and rounded.
_ROOM = 64


@dataclass(frozen=True)
class _Axis:
    """An axis that is resized.

    Attributes
    ----------
    axis
        Which one it is.
    size, length
        Entries before and after.
    scale
        Entries after for each entry before; a fraction of an entry may be missing in ``length``.
    start, end
        What is cropped before, if anything is: shares of the axis.
    """

    axis: int
    size: int
    length: int
    scale: np.float32
    start: np.float32
    end: np.float32

    def coordinates(self, transformation: str) -> Numbers:
        """Where each entry lies among those before, as onnxruntime rounds it."""
        at = np.arange(self.length, dtype=np.float32)
        last, half = np.float32(self.size - 1), np.float32(0.5)
        if transformation == "asymmetric":
            return at / self.scale
        if transformation == "align_corners":
            return at * last / np.float32(max(1, self.length - 1))
        if transformation == "tf_crop_and_resize":
            if self.length == 1:
                return np.full(1, half * (self.start + self.end) * last, np.float32)
            step = at * (self.end - self.start) * last / np.float32(self.length - 1)
            return self.start * last + step
        if transformation == "pytorch_half_pixel" and self.length == 1:
            return np.zeros(1, np.float32)
        offset = np.float32(0)
        if transformation == "half_pixel_symmetric":
            share = np.float32(self.length) / (self.scale * np.float32(self.size))
            offset = np.float32(self.size) / 2 * (1 - share)
        return offset + (at + half) / self.scale - half


def _resize(x: Inputs, a: Attributes, n: int) -> mx.array:
    value = as_mlx(x[0])
    transformation = choice(
        a, "coordinate_transformation_mode", "half_pixel", "half_pixel_symmetric",
        "pytorch_half_pixel", "align_corners", "asymmetric", "tf_crop_and_resize",
    )  # fmt: skip
    resized, outside = value, []
    for axis in _axes(value.shape, x, a, cropped=transformation == "tf_crop_and_resize"):
        at = axis.coordinates(transformation)
        if transformation == "tf_crop_and_resize":
            beyond = (at < 0) | (at > axis.size - 1)
            outside.append(beyond.reshape([-1, *[1] * (value.ndim - 1 - axis.axis)]))
        resized = _interpolated(resized, axis, at, a)
    if any(beyond.any() for beyond in outside):
        everywhere = mx.zeros((), dtype=mx.bool_)
        for beyond in outside:
            everywhere = everywhere | mx.array(beyond)
        fill = mx.array(a.get("extrapolation_value", 0.0), dtype=value.dtype)
        resized = mx.where(everywhere, fill, resized)
    return resized


def _upsample(x: Inputs, a: Attributes, n: int) -> mx.array:
    """What came before Resize: every coordinate is divided by its scale."""
    scales = optional(x, 1) if "scales" not in a else np.array(a["scales"], np.float32)
    how = {"coordinate_transformation_mode": b"asymmetric", "nearest_mode": b"floor"}
    return _resize([x[0], None, scales], {"mode": a.get("mode", b"nearest"), **how}, n)


def _axes(shape: Sequence[int], x: Inputs, a: Attributes, cropped: bool) -> list[_Axis]:
    """The axes that are resized, for the shape before.

    Raises
    ------
    InputError
        If the sizes are not known beforehand, or not possible.
    """
    axes = distinct_axes(a.get("axes", range(len(shape))), len(shape))
    before = np.array([shape[axis] for axis in axes], np.float32)
    scales = _numbers(x, 2, "scales", len(axes))
    sizes = _numbers(x, 3, "sizes", len(axes))
    roi = _numbers(x, 1, "the roi", 2 * len(axes)) if cropped else None
    if (scales is None) == (sizes is None):
        raise InputError("either scales or sizes have to be given")
    if cropped and roi is None:
        raise InputError("tf_crop_and_resize needs a roi")
    if scales is not None:
        scales = scales.astype(np.float32)
        lengths = np.floor(scales * before)
    else:
        assert sizes is not None
        scales, lengths = _of_sizes(sizes, before, a)
    if min(lengths) < 1 or min(before) < 1:
        raise InputError(f"axes of {before.tolist()} entries become {lengths.tolist()}")
    longest = max(checked_shape(map(int, lengths)))
    require_room(_ROOM * longest, default_limit(), "an axis that is resized")
    starts, ends = np.split(np.float32(roi), 2) if roi is not None else (0 * scales, 0 * scales + 1)
    return [
        _Axis(axis, shape[axis], int(length), *numbers)
        for axis, length, *numbers in zip(axes, lengths, scales, starts, ends, strict=True)
    ]


def _of_sizes(
    sizes: NDArray[np.int64], before: Numbers, a: Attributes
) -> tuple[Numbers, NDArray[Any]]:
    """Scales and lengths for sizes that are wanted."""
    policy = choice(a, "keep_aspect_ratio_policy", "stretch", "not_larger", "not_smaller")
    scales = sizes.astype(np.float32) / before
    if policy == "stretch":
        return scales, sizes
    scales = np.full_like(scales, scales.min() if policy == "not_larger" else scales.max())
    return scales, np.floor(scales * before + np.float32(0.5))


def _numbers(x: Inputs, at: int, what: str, count: int) -> NDArray[Any] | None:
    """Numbers of an input that has to be known before the model runs; None if there are none.

    Raises
    ------
    InputError
        If they depend on the model's inputs, or are not as many as they have to be, or not finite.
    """
    value = optional(x, at)
    if isinstance(value, mx.array):
        raise InputError(f"{what} would depend on the data, which a fixed graph cannot follow")
    if value is None or value.size == 0:
        return None
    if value.size != count or not np.isfinite(value).all():
        raise InputError(f"{what} {value.reshape(-1)[:8].tolist()} are not {count} numbers")
    return value.reshape(-1)


def _interpolated(value: mx.array, axis: _Axis, at: Numbers, a: Attributes) -> mx.array:
    """The values at coordinates along an axis.

    Raises
    ------
    InputError
        If whole numbers would become fractions, or onnxruntime does something else than ONNX says.
    """
    mode, same = choice(a, "mode", "nearest", "linear", "cubic"), axis.length == axis.size
    if same and np.allclose(at, np.arange(axis.size), rtol=0, atol=1e-3):
        return value
    if mode == "nearest":
        index = _nearest(axis, at, a)
        if same and (index == np.arange(axis.size)).all():
            return value
    if same:
        raise InputError(
            f"axis {axis.axis} keeps its {axis.size} entries but not their places, which "
            "onnxruntime does not follow"
        )
    if mode == "nearest":
        times = axis.length // axis.size
        if np.array_equal(index, np.repeat(np.arange(axis.size), times)):
            return mx.repeat(value, times, axis=axis.axis)  # with a sum as derivative, no scatter
        return mx.take(value, mx.array(index), axis=axis.axis)
    if not mx.issubdtype(value.dtype, mx.floating):
        raise InputError(f"whole numbers cannot be resized in mode {mode}")
    matrix = mx.array(_matrix(axis, at, mode, a), dtype=value.dtype)
    along = mx.moveaxis(value, axis.axis, -1) @ matrix
    return mx.moveaxis(along, -1, axis.axis)


def _nearest(axis: _Axis, at: Numbers, a: Attributes) -> NDArray[np.int32]:
    """Which entry is nearest to each coordinate."""
    mode = choice(a, "nearest_mode", "round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
    exact = at.astype(np.float64)
    symmetric = a.get("coordinate_transformation_mode") == b"half_pixel_symmetric"
    if symmetric and mode in ("floor", "ceil") and (np.abs(exact - exact.round()) < 1e-5).any():
        raise InputError(f"nearest_mode {mode} depends on how half_pixel_symmetric is rounded")
    rounded = {
        "round_prefer_floor": np.ceil(exact - 0.5 - _TIE),
        "round_prefer_ceil": np.floor(exact + 0.5 + _TIE),
        "floor": np.floor(exact),
        "ceil": np.ceil(exact),
    }[mode]
    return np.clip(rounded, 0, axis.size - 1).astype(np.int32)


def _matrix(axis: _Axis, at: Numbers, mode: str, a: Attributes) -> NDArray[np.float64]:
    """What each entry before, a row, gives to each entry after, a column.

    Entries beyond the ends are those at the ends. To smooth, windows are as much wider as the
    axis becomes shorter.
    """
    smooth = bool(a.get("antialias", 0))
    stretch = min(1.0, float(axis.scale)) if smooth else 1.0
    reach = math.ceil({"linear": 1, "cubic": 2}[mode] / stretch)
    room = 8 * axis.length * (axis.size + 8 * reach)
    require_room(room, default_limit(), "the weights of an axis")
    exact = np.clip(at.astype(np.float64), -reach - 1, axis.size + reach)
    index = np.floor(exact)[:, None] + np.arange(1 - reach, 1 + reach)
    distance = np.abs(index - exact[:, None]) * stretch
    if mode == "linear":
        weights = np.maximum(0, 1 - distance)
    else:
        weights = _cubic(distance, a.get("cubic_coeff_a", -0.75))
    if a.get("exclude_outside", 0):
        weights = np.where((index >= 0) & (index < axis.size), weights, 0)
    total = weights.sum(axis=1, keepdims=True)
    weights = weights / np.where(total == 0, 1, total)
    matrix = np.zeros((axis.size, axis.length))
    rows = np.clip(index, 0, axis.size - 1).astype(np.int64)
    np.add.at(matrix, (rows, np.arange(axis.length)[:, None]), weights)
    return matrix


def _cubic(distance: NDArray[np.float64], a: float) -> NDArray[np.float64]:
    """Keys's kernel of cubic convolution, equation 4 in doi 10.1109/TASSP.1981.1163711."""
    d = distance
    near = ((a + 2) * d - (a + 3)) * d**2 + 1
    far = ((d - 5) * d + 8) * d * a - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0))


RESIZING: dict[str, Operator] = {"Resize": _resize, "Upsample": _upsample}
