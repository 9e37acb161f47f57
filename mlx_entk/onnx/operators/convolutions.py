"""Convolutions, also transposed ones."""

from typing import Any

import mlx.core as mx

from mlx_entk.errors import InputError
from mlx_entk.onnx.operators.values import (
    Attributes,
    Inputs,
    Operator,
    as_mlx,
    by_channel,
    choice,
    cut,
)
from mlx_entk.onnx.operators.windows import counts, windows

# Groups of a convolution over three axes at most: each is a convolution by itself.
_GROUPS = 4096


def convolution(x: Inputs, a: Attributes, n: int) -> mx.array:
    """Conv, of ONNX's own operators."""
    value, weight = as_mlx(x[0]), as_mlx(x[1])
    spatial, kernel = value.shape[2:], weight.shape[2:]
    strides, padding, dilations = windows(a, spatial, kernel)
    counts(spatial, kernel, strides, padding, dilations)
    return _convolved(x, weight, a, padding, stride=strides, kernel_dilation=dilations)


def _convolved(
    x: Inputs, weight: mx.array, a: Attributes, padding: list[tuple[int, int]], **how: Any
) -> mx.array:
    """Convolve arrays whose channels come first, and add the bias if there is one."""
    count, groups = weight.ndim - 2, a.get("group", 1)
    last = [0, *range(2, count + 2), 1]
    value, weight = mx.transpose(as_mlx(x[0]), last), mx.transpose(weight, last)
    how["padding"] = ([low for low, _ in padding], [high for _, high in padding])
    if value.shape[-1] != groups * weight.shape[-1] or weight.shape[0] % groups:
        raise InputError(
            f"{groups} groups of {weight.shape[-1]} channels do not fit {value.shape[-1]} of the "
            f"input and {weight.shape[0]} of the output"
        )
    if count < 3 or groups == 1:
        convolved = mx.conv_general(value, weight, groups=groups, **how)
    elif groups > _GROUPS:
        raise InputError(f"{groups} groups are too many for a convolution over three axes")
    else:  # MLX has no groups there
        pairs = zip(mx.split(value, groups, axis=-1), mx.split(weight, groups), strict=True)
        convolved = mx.concatenate([mx.conv_general(v, w, **how) for v, w in pairs], axis=-1)
    convolved = mx.transpose(convolved, [0, count + 1, *range(1, count + 1)])
    return _with_bias(convolved, x)


def _transposed_convolution(x: Inputs, a: Attributes, n: int) -> mx.array:
    value, weight = as_mlx(x[0]), as_mlx(x[1])
    spatial, kernel = value.shape[2:], weight.shape[2:]
    strides, padding, dilations = windows({**a, "auto_pad": b"NOTSET"}, spatial, kernel)
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
        if total < 0 and (mode.startswith("SAME") or -total >= strides[i]):
            # onnxruntime makes fewer entries than ONNX says, or puts zeros elsewhere.
            raise InputError(f"an axis does not grow from {spatial[i]} entries to {size} by this")
        half = total // 2 if mode == "SAME_UPPER" else total - total // 2
        padding[i] = (half, total - half) if total >= 0 else (0, total)
    groups = a.get("group", 1)
    parts = weight.reshape(groups, -1, *weight.shape[1:])  # per group, inputs before outputs
    widths = [
        (reach[i] - 1 - low, reach[i] - 1 - high + extra[i])
        for i, (low, high) in enumerate(padding)
    ]
    # What negative widths take off, MLX would cut before it spreads the input by the strides. What
    # is beyond the reach of the kernel is zero, and MLX's derivative with it is wrong.
    convolved = _convolved(
        x[:2],
        mx.swapaxes(parts, 1, 2).reshape(-1, parts.shape[1], *kernel),
        a,
        [(max(0, w[0]), min(max(0, w[1]), r - 1)) for w, r in zip(widths, reach, strict=True)],
        input_dilation=strides,
        kernel_dilation=dilations,
        flip=True,
    )
    for i, (low, high) in enumerate(widths):
        convolved = cut(convolved, 2 + i, low, high)
    beyond = [(0, max(0, w[1] - r + 1)) for w, r in zip(widths, reach, strict=True)]
    convolved = mx.pad(convolved, [(0, 0), (0, 0), *beyond])
    return _with_bias(convolved, x)


def _with_bias(convolved: mx.array, x: Inputs) -> mx.array:
    if len(x) > 2 and x[2] is not None:
        return convolved + by_channel(x[2], convolved.ndim)
    return convolved


CONVOLUTIONS: dict[str, Operator] = {
    "Conv": convolution,
    "ConvTranspose": _transposed_convolution,
}
