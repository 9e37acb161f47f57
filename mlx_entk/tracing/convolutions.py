"""What a convolution computes, by MLX's own and by operations whose derivatives are right."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np

Arrays = list[mx.array]
_Sizes = tuple[int, ...]


@dataclass(frozen=True)
class Form:
    """The arguments of a convolution, a number for each axis of space.

    Attributes
    ----------
    stride
        Entries from one position of the kernel to the next.
    low, high
        Zeros before and after the input; if negative, entries that are cut off.
    dilation
        Entries from one tap of the kernel to the next.
    gaps
        Entries of the input and the zeros behind each, together: the input's dilation.
    groups
        Parts of the channels, each with a kernel of its own.
    flip
        Whether the kernel runs backward.
    """

    stride: _Sizes
    low: _Sizes
    high: _Sizes
    dilation: _Sizes
    gaps: _Sizes
    groups: int
    flip: bool

    @classmethod
    def of(cls, arguments: Sequence[Any]) -> "Form":
        """From the arguments as MLX reports them."""
        *sizes, groups, flip = arguments
        stride, low, high, dilation, gaps = (tuple(map(int, each)) for each in sizes)
        return cls(stride, low, high, dilation, gaps, int(groups), bool(flip))

    @property
    def arguments(self) -> tuple[Any, ...]:
        """As MLX reports them."""
        sizes = (self.stride, self.low, self.high, self.dilation, self.gaps)
        return (*map(list, sizes), self.groups, self.flip)

    def positions(self, sizes: Sequence[int], kernel: Sequence[int]) -> _Sizes:
        """Sizes of the output, of those of the input and of the kernel."""
        by_axis = zip(
            sizes, kernel, self.stride, self.low, self.high, self.dilation, self.gaps, strict=True
        )
        return tuple(
            (gap * (size - 1) + 1 + low + high - dilation * (taps - 1) - 1) // stride + 1
            for size, taps, stride, low, high, dilation, gap in by_axis
        )


def convolution(inputs: Arrays, arguments: Sequence[Any]) -> mx.array:
    """As MLX has it."""
    stride, low, high, kernel_dilation, input_dilation, groups, flip = arguments
    return mx.conv_general(
        inputs[0],
        inputs[1],
        stride=stride,
        padding=(low, high),
        kernel_dilation=kernel_dilation,
        input_dilation=input_dilation,
        groups=groups,
        flip=flip,
    )


def patches(x: mx.array, kernel: Sequence[int], arguments: Sequence[Any]) -> mx.array:
    """What a convolution multiplies its weight with.

    Parameters
    ----------
    x
        Shape (B, *space, channels).
    kernel
        Sizes of the kernel along the axes of space.
    arguments
        As MLX reports a convolution's.

    Returns
    -------
    mlx.array
        Shape (B, *positions, *kernel, channels), in the order of the weight's own axes.
    """
    stride, low, high, kernel_dilation, input_dilation, _, flip = arguments
    x = spread(x, input_dilation)
    widths = [
        (axis, before, before + x.shape[axis] + after)
        for axis, (before, after) in enumerate(zip(low, high, strict=True), start=1)
    ]
    x = framed(x, widths)
    dimensions = len(kernel)
    for number, size in enumerate(kernel):
        at = 1 + 2 * number  # each axis of space before this one is now (position, tap)
        reach = kernel_dilation[number] * (size - 1)
        starts = np.arange(0, x.shape[at] - reach, stride[number])
        taps = kernel_dilation[number] * np.arange(size)
        x = mx.take(x, mx.array(starts[:, None] + (taps[::-1] if flip else taps)), axis=at)
    order = [0, *range(1, 2 * dimensions, 2), *range(2, 2 * dimensions + 1, 2), 2 * dimensions + 1]
    return x.transpose(order)


def spread(x: mx.array, gaps: Sequence[int]) -> mx.array:
    """An input (B, *space, channels) with zeros between its entries."""
    for axis, gap in enumerate(gaps, start=1):
        if gap > 1:
            size = x.shape[axis]
            x = mx.expand_dims(x, axis + 1)
            x = mx.pad(x, [(0, gap - 1 if k == axis + 1 else 0) for k in range(x.ndim)])
            x = mx.flatten(x, axis, axis + 1)
            x = mx.take(x, mx.arange((size - 1) * gap + 1), axis=axis)
    return x


def framed(
    image: mx.array, widths: list[tuple[int, int, int]], behind: int | None = None
) -> mx.array:
    """An array cut and filled up with zeros.

    Parameters
    ----------
    image
        The array.
    widths
        Axes, how many entries before its first one each of them begins, and how long it is.
    behind
        An axis that gets one entry more.
    """
    kept, zeros = [slice(None)] * image.ndim, [(0, 0)] * image.ndim
    for axis, low, length in widths:
        size = image.shape[axis]
        start, stop = min(max(0, -low), size), max(0, min(size, length - low))
        kept[axis] = slice(start, max(start, stop))
        before = min(max(0, low), length)
        zeros[axis] = (before, length - before - (kept[axis].stop - start))
    if behind is not None:
        zeros[behind] = (zeros[behind][0], zeros[behind][1] + 1)
    return mx.pad(image[tuple(kept)], zeros)


def convolution_by_patches(inputs: Arrays, arguments: Sequence[Any]) -> mx.array:
    """As a product for each group: every rule of it is right, forward mode included."""
    x, weight = inputs
    groups = arguments[5]
    taken = patches(x, weight.shape[1:-1], arguments)
    positions = taken.shape[: weight.ndim - 1]
    by_group = taken.reshape(
        taken.shape[0], -1, math.prod(weight.shape[1:-1]), groups, weight.shape[-1]
    )
    by_group = by_group.transpose(3, 0, 1, 2, 4).reshape(
        groups, taken.shape[0], by_group.shape[1], -1
    )
    kernels = weight.reshape(groups, 1, weight.shape[0] // groups, -1).swapaxes(-1, -2)
    outputs = by_group @ kernels  # (groups, B, positions, outputs of a group)
    return outputs.transpose(1, 2, 0, 3).reshape(*positions, weight.shape[0])


def reverse_is_right(
    arguments: Sequence[Any], x: Sequence[int], weight: Sequence[int], outputs: Sequence[int]
) -> bool:
    """Whether MLX's reverse rule of a convolution is right for arguments and shapes.

    Of a transposed one (zeros between the entries of its input) it is not for padding beyond the
    kernel, such as output padding, nor for rows that the last stride leaves unused. Found by
    trying 5,000 forms against ``patches``.
    """
    stride, low, high, kernel_dilation, input_dilation, *_ = arguments
    for axis, size in enumerate(weight[1:-1]):
        reach = kernel_dilation[axis] * (size - 1)
        rows = (x[1 + axis] - 1) * input_dilation[axis] + 1
        used = (outputs[1 + axis] - 1) * stride[axis] + 1
        fits = low[axis] <= reach and high[axis] <= reach and rows - used <= reach - low[axis]
        if input_dilation[axis] > 1 and not fits:
            return False
    return True


def right_convolution(inputs: Arrays, arguments: Sequence[Any]) -> mx.array:
    """By patches if MLX's reverse rule is wrong, or its vmap over the weight, in groups."""
    if arguments[5] == 1:
        convolved = convolution(inputs, arguments)
        if reverse_is_right(arguments, inputs[0].shape, inputs[1].shape, convolved.shape):
            return convolved
    return convolution_by_patches(inputs, arguments)
