"""Convolutions and pooling: operators on windows of the spatial axes."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_entk._memory import default_limit
from mlx_entk.errors import InputError
from mlx_entk.onnx.limits import require_room
from mlx_entk.onnx.operators.values import (
    Attributes,
    Inputs,
    Operator,
    as_mlx,
    by_channel,
    choice,
    cut,
)

# Entries of a padded axis, and of a window on it, at most: gradients add up a few of them, and MLX
# keeps sizes in 32 bits.
_LONGEST = 2**28
# Offsets in a pooling window at most.
_OFFSETS = 2**16


def _windows(
    a: Attributes, spatial: Sequence[int], kernel: Sequence[int]
) -> tuple[list[int], list[tuple[int, int]], list[int]]:
    """Return strides, (before, after) padding and dilations of a convolution or pooling.

    Raises
    ------
    InputError
        For numbers that a window cannot have: MLX divides by a stride of zero.
    """
    count = len(spatial)
    strides = list(a.get("strides", [1] * count))
    dilations = list(a.get("dilations", [1] * count))
    mode = choice(a, "auto_pad", "NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID")
    pads = list(a.get("pads", [0] * 2 * count))
    sizes = {"strides": strides, "dilations": dilations, "the kernel": list(kernel)}
    for name, values in sizes.items():
        if len(values) != count or min(values, default=1) < 1 or max(values, default=1) >= 2**31:
            raise InputError(f"{name} {values} are not possible for {count} axes")
    if len(pads) != 2 * count or min(pads, default=0) < 0 or max(pads, default=0) >= 2**31:
        raise InputError(f"pads {pads} are not possible for {count} axes")
    if a.get("group", 1) < 1:
        raise InputError(f"{a['group']} groups are not possible")
    if list(a.get("kernel_shape", kernel)) != list(kernel):
        raise InputError(f"kernel_shape {list(a['kernel_shape'])} is not that of the weight")
    for i in range(count):
        reach = dilations[i] * (kernel[i] - 1) + 1
        padded = spatial[i] + pads[i] + pads[i + count]
        if max(reach, padded) > _LONGEST:
            raise InputError(f"windows over {max(reach, padded)} entries are not possible")
    if mode in ("SAME_UPPER", "SAME_LOWER"):
        widths = []
        for i in range(count):
            reach = dilations[i] * (kernel[i] - 1) + 1
            total = max(0, (-(-spatial[i] // strides[i]) - 1) * strides[i] + reach - spatial[i])
            small = total // 2
            widths.append(
                (small, total - small) if mode == "SAME_UPPER" else (total - small, small)
            )
        return strides, widths, dilations
    if mode == "VALID":
        pads = [0] * 2 * count
    return strides, [(pads[i], pads[i + count]) for i in range(count)], dilations


def _convolution(x: Inputs, a: Attributes, n: int) -> mx.array:
    value, weight = as_mlx(x[0]), as_mlx(x[1])
    strides, padding, dilations = _windows(a, value.shape[2:], weight.shape[2:])
    return _convolved(x, weight, a, padding, stride=strides, kernel_dilation=dilations)


def _convolved(
    x: Inputs, weight: mx.array, a: Attributes, padding: list[tuple[int, int]], **windows: Any
) -> mx.array:
    """Convolve arrays whose channels come first, and add the bias if there is one."""
    count = weight.ndim - 2
    last = [0, *range(2, count + 2), 1]
    convolved = mx.conv_general(
        mx.transpose(as_mlx(x[0]), last),
        mx.transpose(weight, last),
        padding=([low for low, _ in padding], [high for _, high in padding]),
        groups=a.get("group", 1),
        **windows,
    )
    convolved = mx.transpose(convolved, [0, count + 1, *range(1, count + 1)])
    return _with_bias(convolved, x)


def _transposed_convolution(x: Inputs, a: Attributes, n: int) -> mx.array:
    value, weight = as_mlx(x[0]), as_mlx(x[1])
    spatial, kernel = value.shape[2:], weight.shape[2:]
    strides, padding, dilations = _windows({**a, "auto_pad": b"NOTSET"}, spatial, kernel)
    extra = list(a.get("output_padding", [0] * len(spatial)))
    if len(extra) != len(spatial) or any(
        not 0 <= one < max(stride, gap)
        for one, stride, gap in zip(extra, strides, dilations, strict=True)
    ):
        raise InputError(f"output_padding {extra} is not possible for strides {strides}")
    reach = [gap * (size - 1) + 1 for gap, size in zip(dilations, kernel, strict=True)]
    mode = choice(a, "auto_pad", "NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID")
    wanted = a.get("output_shape")
    if wanted is None and mode.startswith("SAME"):
        wanted = [size * stride for size, stride in zip(spatial, strides, strict=True)]
    if mode == "VALID":
        padding = [(0, 0)] * len(spatial)
    for i, size in enumerate(wanted or []):
        total = strides[i] * (spatial[i] - 1) + extra[i] + reach[i] - size
        half = total // 2 if mode == "SAME_UPPER" else total - total // 2
        padding[i] = (half, total - half)
    groups = a.get("group", 1)
    parts = weight.reshape(groups, -1, *weight.shape[1:])  # per group, inputs before outputs
    widths = [
        (reach[i] - 1 - low, reach[i] - 1 - high + extra[i])
        for i, (low, high) in enumerate(padding)
    ]
    convolved = _convolved(
        x[:2],
        mx.swapaxes(parts, 1, 2).reshape(-1, parts.shape[1], *kernel),
        a,
        [(max(0, low), max(0, high)) for low, high in widths],
        input_dilation=strides,
        kernel_dilation=dilations,
        flip=True,
    )
    # MLX cuts what a negative width takes off the input before it spreads it by the strides.
    for i, (low, high) in enumerate(widths):
        convolved = cut(convolved, 2 + i, low, high)
    return _with_bias(convolved, x)


def _with_bias(convolved: mx.array, x: Inputs) -> mx.array:
    if len(x) > 2 and x[2] is not None:
        return convolved + by_channel(x[2], convolved.ndim)
    return convolved


def _pooled(
    value: mx.array, a: Attributes, fill: float, reduce: Callable[..., mx.array]
) -> mx.array:
    """Reduce windows of the spatial axes, gathering one offset inside the window at a time."""
    kernel = list(a["kernel_shape"])
    spatial = value.shape[2:]
    strides, padding, dilations = _windows(a, spatial, kernel)
    if math.prod(kernel) > _OFFSETS:
        raise InputError(f"windows of {math.prod(kernel)} entries are too large")
    sizes = []
    for i, (low, high) in enumerate(padding):
        if max(low, high) >= dilations[i] * (kernel[i] - 1) + 1:
            raise InputError(f"pads {(low, high)} are as long as the window: it would be empty")
        free = spatial[i] + low + high - dilations[i] * (kernel[i] - 1) - 1
        size = free // strides[i] + 1
        if a.get("ceil_mode", 0):
            size = -(-free // strides[i]) + 1
            if (size - 1) * strides[i] >= spatial[i] + low:  # the last window is only padding
                size -= 1
        reach = (size - 1) * strides[i] + dilations[i] * (kernel[i] - 1) + 1
        padding[i] = (low, max(high, reach - spatial[i] - low))
        sizes.append(size)
    entries = math.prod(kernel) * math.prod(value.shape[:2]) * math.prod(map(abs, sizes))
    require_room(entries * value.dtype.size, default_limit(), "the windows together")
    padded = mx.pad(value, [(0, 0), (0, 0), *padding], constant_values=fill)
    parts = []
    for offset in np.ndindex(*kernel):
        part = padded
        for i, at in enumerate(offset):
            index = at * dilations[i] + strides[i] * np.arange(sizes[i])
            part = mx.take(part, mx.array(index), axis=2 + i)
        parts.append(part)
    return reduce(mx.stack(parts), axis=0)


def _max_pool(x: Inputs, a: Attributes, n: int) -> mx.array:
    if n > 1:
        raise InputError("the indices of the largest entries are not supported")
    value = as_mlx(x[0])
    least = -math.inf if mx.issubdtype(value.dtype, mx.inexact) else mx.iinfo(value.dtype).min
    return _pooled(value, a, least, mx.max)


def _average_pool(x: Inputs, a: Attributes, n: int) -> mx.array:
    value = as_mlx(x[0])
    total = _pooled(value, a, 0.0, mx.sum)
    if a.get("count_include_pad", 0):
        # Rounding up may reach beyond the padding; entries there do not count.
        _, padding, _ = _windows(a, value.shape[2:], a["kernel_shape"])
        inside = mx.ones(
            (1, 1, *(s + lo + hi for s, (lo, hi) in zip(value.shape[2:], padding, strict=True)))
        )
        bare = {k: v for k, v in a.items() if k not in ("pads", "auto_pad")}
        count = _pooled(inside, bare, 0.0, mx.sum)
        return total / count[(..., *(slice(size) for size in total.shape[2:]))]
    return total / _pooled(mx.ones((1, 1, *value.shape[2:])), a, 0.0, mx.sum)


def _global_pool(function: Callable[..., mx.array]) -> Operator:
    def apply(x: Inputs, a: Attributes, n: int) -> mx.array:
        value = as_mlx(x[0])
        return function(value, axis=list(range(2, value.ndim)), keepdims=True)

    return apply


CONVOLUTIONS: dict[str, Operator] = {
    "AveragePool": _average_pool,
    "Conv": _convolution,
    "ConvTranspose": _transposed_convolution,
    "GlobalAveragePool": _global_pool(mx.mean),
    "GlobalMaxPool": _global_pool(mx.max),
    "MaxPool": _max_pool,
}
