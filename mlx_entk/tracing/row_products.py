"""A convolution on a CPU as matrix products, in slabs of the batch that fit into the caches.

Two ways, of which a cost model takes the cheaper:

- by *rows*: with the batch as the innermost axis in memory, what a column of a two-dimensional
  kernel meets along a row of the image is a matrix as it is, and the next one begins a little
  further on. There is a product for each column of the kernel, and nothing is copied but the input
  and the output.
- by *patches*: each entry is copied once for each tap that meets it, and there is one product.
  Cheaper for kernels that hardly overlap, and for those larger than the output, as in the
  derivative by a weight.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import mlx.core as mx

from mlx_entk.tracing.convolutions import Form, framed, spread

# What a copy of a float takes, a FLOP of a product, and a product besides, in nanoseconds, about.
_COPY, _FLOP, _CALL = 1.0, 0.02, 5000.0
# Floats of a slab. Beyond the caches everything slows down, and beyond 32 MB the C library returns
# memory to the system each time, whose clearing takes longer than a copy.
_SLAB = 2**21


@dataclass(frozen=True)
class _Axis:
    """A convolution along one axis, without zeros between the entries of its input."""

    taps: int = 1
    positions: int = 1
    stride: int = 1
    dilation: int = 1
    low: int = 0

    @property
    def length(self) -> int:
        """Entries of the padded input that are read."""
        return self.stride * (self.positions - 1) + self.dilation * (self.taps - 1) + 1

    @property
    def shift(self) -> int:
        """From the first tap to the last, in positions."""
        return self.dilation * (self.taps - 1) // self.stride


# Along z, y and x.
_Axes = tuple[_Axis, _Axis, _Axis]
# Which taps meet entries, not zeros between them, at every so many positions.
_Phase = tuple[slice, _Axis]


def convolved(x: mx.array, weight: mx.array, form: Form) -> mx.array:
    """The convolution of float32 arrays, by operations of which ``mx.vmap`` cannot map some.

    Parameters
    ----------
    x
        Shape (B, *space, channels), of one to three axes of space.
    weight
        Shape (outputs, *kernel, channels of a group).
    form
        The arguments.

    Returns
    -------
    mlx.array
        Shape (B, *positions, outputs).
    """
    ones = [1] * (5 - x.ndim)
    if form.flip:
        weight = weight[(slice(None), *[slice(None, None, -1)] * (x.ndim - 2))]
    sizes, kernel = x.shape[1:-1], weight.shape[1:-1]
    positions = form.positions(sizes, kernel)
    shape = (x.shape[0], *positions, weight.shape[0])
    x = x.reshape(x.shape[0], *ones, *x.shape[1:])
    weight = weight.reshape(weight.shape[0], *ones, *weight.shape[1:])
    phases = [[(slice(None), _Axis())] for _ in ones]
    for axis, (taps, count) in enumerate(zip(kernel, positions, strict=True)):
        phases.append(_phases(form, axis, taps, count))
    periods = [len(of_axis) for of_axis in phases]
    parts = []
    for combined in product(*phases):
        taps, (z, y, x_axis) = zip(*combined, strict=True)
        parts.append(_in_slabs(x, weight[:, *taps], (z, y, x_axis), form.groups))
    if len(parts) == 1:
        return parts[0].reshape(shape)
    whole = mx.stack(parts).reshape(*periods, *parts[0].shape)
    whole = whole.transpose(3, 4, 0, 5, 1, 6, 2, 7)
    whole = whole.flatten(1, 2).flatten(2, 3).flatten(3, 4)
    return whole[:, *(slice(0, n) for n in (*ones, *positions))].reshape(shape)


def patch_matrices(x: mx.array, kernel: Sequence[int], form: Form) -> mx.array:
    """What a convolution multiplies its weight with, for each group.

    Parameters
    ----------
    x
        Shape (B, *space, channels), of one to three axes of space.
    kernel
        Sizes of the kernel.
    form
        The arguments.

    Returns
    -------
    mlx.array
        Shape (groups, B, positions, taps · channels of a group), the last in the order of the
        weight's own axes. MLX cannot map it.
    """
    ones = [1] * (5 - x.ndim)
    positions = form.positions(x.shape[1:-1], kernel)
    x = spread(x, form.gaps)
    x = x.reshape(x.shape[0], *ones, *x.shape[1:])
    by_axis = zip(kernel, positions, form.stride, form.dilation, form.low, strict=True)
    z, y, last = (*(_Axis() for _ in ones), *(_Axis(*numbers) for numbers in by_axis))
    windows = _windows(x, (z, y, last), form.groups)
    if form.flip:
        windows = windows[..., ::-1, ::-1, ::-1, :]
    return windows.reshape(form.groups, x.shape[0], math.prod(positions), -1)


def _phases(form: Form, axis: int, taps: int, positions: int) -> list[_Phase]:
    """A convolution along an axis as one for each of several phases of its positions.

    Position p reads entry (s·p + d·t − low) / g of the input at tap t, where that is whole: for
    every so many positions it is at the same taps.
    """
    s, d, g = form.stride[axis], form.dilation[axis], form.gaps[axis]
    low = form.low[axis]
    period, apart = g // math.gcd(g, s), g // math.gcd(g, d)
    phases = []
    for phase in range(period):
        first = next((t for t in range(apart) if (s * phase + d * t - low) % g == 0), taps)
        along = _Axis(
            taps=len(range(first, taps, apart)),
            positions=-(-positions // period),
            stride=s * period // g,
            dilation=d * apart // g,
            low=(low - s * phase - d * first) // g,
        )
        phases.append((slice(first, None, apart), along))
    return phases


def _in_slabs(x: mx.array, weight: mx.array, axes: _Axes, groups: int) -> mx.array:
    """A convolution along z, y and x, slab by slab of the batch."""
    batch, channels, outputs = x.shape[0], x.shape[-1], weight.shape[0]
    positions, taps, padded = (
        math.prod(getattr(axis, name) for axis in axes) for name in ("positions", "taps", "length")
    )
    shape = (batch, *(axis.positions for axis in axes), outputs)
    if math.prod(shape) * taps * channels == 0:
        return mx.zeros(shape)
    z, y, last = axes
    flops = 2 * outputs * positions * taps * channels / groups
    made, copied = positions * outputs, positions * taps * channels
    wide = 1 + last.shift / last.positions
    products = z.taps * last.taps * (1 if y.dilation == 1 else y.taps)
    by_rows = batch * (_COPY * made + _FLOP * flops) * wide + _CALL * products
    if by_rows < batch * (_COPY * copied + _FLOP * flops):
        size = max(1, _SLAB // max(padded * channels, made))
        slabs = [_by_rows(x[at], weight, axes, groups) for at in _ranges(batch, size)]
        return slabs[0] if len(slabs) == 1 else mx.concatenate(slabs)
    if taps < positions:
        size = max(1, _SLAB // max(padded * channels, copied))
        slabs = [_by_patches(x[at], weight, axes, groups) for at in _ranges(batch, size)]
        return slabs[0] if len(slabs) == 1 else mx.concatenate(slabs)
    # The sum over channels is the one over a batch where this is the derivative by a weight.
    x = x.reshape(*x.shape[:-1], groups, -1).swapaxes(0, -1).flatten(-2)
    weight = weight.swapaxes(0, -1)
    size = max(1, _SLAB // (batch * groups * max(padded, positions * taps)))
    total: mx.array | None = None
    for at in _ranges(channels // groups, size):
        part = _by_sums(x[at], weight[at], axes, groups)
        total = part if total is None else total + part
    assert total is not None
    return total


def _ranges(count: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


def _by_rows(x: mx.array, weight: mx.array, axes: _Axes, groups: int) -> mx.array:
    z, y, last = axes
    batch, outputs, channels = x.shape[0], weight.shape[0], weight.shape[-1]
    # Columns of the padded image for each of its phases by the stride.
    columns, strides = last.positions + last.shift, last.stride
    # In memory: groups, z, y, channels, phases and columns of x, batch.
    image = x.reshape(*x.shape[:-1], groups, channels).transpose(4, 1, 2, 5, 3, 0)
    widths = [(1, z.low, z.length), (2, y.low, y.length), (4, last.low, columns * strides)]
    # A matrix at the last tap reaches beyond the image; what it reads there is of no use.
    behind = 3 if y.length == z.length == 1 else 2 if z.length == 1 else 1
    image = framed(image, widths, behind if last.shift else None)
    if strides > 1:
        image = image.reshape(*image.shape[:4], columns, strides, batch)
        image = image.transpose(5, 0, 1, 2, 3, 4, 6)
    else:
        image = image[None]
    image = mx.contiguous(image)
    of_phase, of_group, of_z, of_y, row, *_ = _strides(image.shape)
    joined = y.taps if y.dilation == 1 else 1
    kernels = weight.reshape(groups, -1, *weight.shape[1:])
    total: mx.array | None = None
    for at_z, at_y, at_x in product(range(z.taps), range(0, y.taps, joined), range(last.taps)):
        shift, phase = divmod(at_x * last.dilation, strides)
        met = mx.as_strided(
            image,
            (groups, z.positions, y.positions, joined * channels, row),
            (of_group, z.stride * of_z, y.stride * of_y, row, 1),
            phase * of_phase + at_z * z.dilation * of_z + at_y * y.dilation * of_y + shift * batch,
        )
        kernel = kernels[:, :, at_z, at_y : at_y + joined, at_x].reshape(
            groups, 1, 1, -1, met.shape[3]
        )
        kernel = mx.broadcast_to(kernel, (*met.shape[:3], *kernel.shape[3:]))
        total = kernel @ met if total is None else mx.addmm(total, kernel, met)
    assert total is not None
    made = total.reshape(*total.shape[:4], columns, batch)[..., : last.positions, :]
    made = made.transpose(5, 1, 2, 4, 0, 3)
    return mx.contiguous(made.reshape(*made.shape[:4], outputs))


def _by_patches(x: mx.array, weight: mx.array, axes: _Axes, groups: int) -> mx.array:
    z, y, last = axes
    batch, outputs = x.shape[0], weight.shape[0]
    kernels = weight.reshape(groups, outputs // groups, -1)
    made = _windows(x, axes, groups).reshape(groups, -1, kernels.shape[-1]) @ kernels.swapaxes(1, 2)
    made = made.reshape(groups, batch, z.positions, y.positions, last.positions, -1)
    return made.transpose(1, 2, 3, 4, 0, 5).reshape(*made.shape[1:5], outputs)


def _by_sums(x: mx.array, weight: mx.array, axes: _Axes, groups: int) -> mx.array:
    """Patches of shape (channels, *space, groups · B) times a weight (channels, *taps, outputs).

    Taps and positions change places: each tap meets an entry for every position.
    """
    z, y, last = (_Axis(a.positions, a.taps, a.dilation, a.stride, a.low) for a in axes)
    outputs, count = weight.shape[-1], x.shape[0] * math.prod(a.taps for a in axes)
    patches = _windows(x, (z, y, last), groups).reshape(groups, count, -1)
    kernels = weight.reshape(count, groups, -1).swapaxes(0, 1)
    made = patches.swapaxes(1, 2) @ kernels  # groups, positions · B, outputs of a group
    made = made.reshape(groups, *(a.positions for a in axes), -1, outputs // groups)
    return made.transpose(4, 1, 2, 3, 0, 5).flatten(-2)


def _windows(x: mx.array, axes: _Axes, groups: int) -> mx.array:
    """What each tap meets at each position: (groups, B, *positions, *taps, channels of a group)."""
    widths = [(number, axis.low, axis.length) for number, axis in enumerate(axes, start=1)]
    image = mx.contiguous(framed(x, widths))
    of_batch, *of_axes, _ = _strides(image.shape)
    channels = x.shape[-1] // groups
    return mx.as_strided(
        image,
        (groups, x.shape[0], *(a.positions for a in axes), *(a.taps for a in axes), channels),
        (
            channels,
            of_batch,
            *(a.stride * by for a, by in zip(axes, of_axes, strict=True)),
            *(a.dilation * by for a, by in zip(axes, of_axes, strict=True)),
            1,
        ),
    )


def _strides(shape: tuple[int, ...]) -> list[int]:
    return [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
