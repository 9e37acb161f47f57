"""Convolutions on a CPU as large matrix products, forward and backward.

MLX's convolution on a CPU copies every entry of its input once for each tap of the kernel, or
loops entry by entry (dilated, transposed and grouped ones). Here the batch is the innermost axis
of memory: whatever a row of the kernel meets is then a matrix in memory already, and a
convolution is a matrix product for each column of the kernel. Of the many convolutions of a kernel
(all pairs of an input and a cotangent) this takes a third to a half of the time.

A convolution is linear in its input and in its weight, and its derivative by either is another
convolution. ``convolve`` tells MLX so, and how to map it: over inputs as a larger batch, over
weights as more output channels, over both as more groups.
"""

from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import replace
from functools import lru_cache
from typing import Any, TypeVar

import mlx.core as mx

from mlx_entk._linalg import matmul_backend, on_gpu
from mlx_entk.tracing.convolutions import Form, convolution_by_patches, right_convolution
from mlx_entk.tracing.row_products import convolved

Arrays = list[mx.array]
Returned = TypeVar("Returned")
# An array, and its axis along which it is mapped.
_Mapped = tuple[mx.array, int | None]

# How many ``mx.vmap`` are being traced: what is given is then no array that has values.
_mapped: ContextVar[int] = ContextVar("_mapped", default=0)


def inside_vmap(function: Callable[..., Returned]) -> Callable[..., Returned]:
    """A function for ``mx.vmap``, in which ``convolve`` knows that it is being mapped.

    MLX maps what a custom function consists of too, although nobody reads that, and some of what
    convolutions are made of here it cannot map.
    """

    def traced(*given: mx.array) -> Returned:
        token = _mapped.set(_mapped.get() + 1)
        try:
            return function(*given)
        finally:
            _mapped.reset(token)

    return traced


def convolve(inputs: Arrays, arguments: Sequence[Any]) -> mx.array:
    """A convolution with right derivatives of any order, for graphs that are run.

    It is not for graphs that are reported: MLX reports no custom function.

    Parameters
    ----------
    inputs
        The input of shape (B, *space, channels) and the weight.
    arguments
        As MLX reports a convolution's.
    """
    x, weight = inputs
    if not is_fast() or {x.dtype, weight.dtype} - {mx.float32, mx.float16, mx.bfloat16}:
        return right_convolution(inputs, arguments)
    dtype = mx.result_type(x, weight)
    form = Form.of(arguments)
    return _operation(form)(x.astype(mx.float32), weight.astype(mx.float32)).astype(dtype)


def is_fast() -> bool:
    """Whether convolutions are matrix products here: on a CPU whose BLAS MLX calls."""
    return matmul_backend() == "mlx" and not on_gpu()


@lru_cache(maxsize=256)
def _operation(form: Form) -> Callable[[mx.array, mx.array], mx.array]:
    """A convolution of float32 arrays, with its rules."""

    @mx.custom_function
    def operation(x: mx.array, weight: mx.array) -> mx.array:
        if not _mapped.get():
            return convolved(x, weight, form)
        # MLX has no groups in three dimensions, which its rule for vmap makes, and cuts what
        # padding below zero says before it puts zeros between entries.
        odd = x.ndim == 5 or min(*form.low, *form.high) < 0
        plain = convolution_by_patches if odd else right_convolution
        return plain([x, weight], form.arguments)

    @operation.vjp
    def _(primals: Arrays, cotangent: mx.array, _: mx.array) -> tuple[mx.array, mx.array]:
        x, weight = primals
        return _by_input(cotangent, x, weight, form), _by_weight(cotangent, x, weight, form)

    @operation.jvp
    def _(primals: Arrays, tangents: list[mx.array | None]) -> mx.array:
        (x, weight), (along_x, along_weight) = primals, tangents
        parts = []
        if along_x is not None:
            parts.append(_operation(form)(along_x, weight))
        if along_weight is not None:
            parts.append(_operation(form)(x, along_weight))
        return sum(parts[1:], parts[0])

    @operation.vmap
    def _(inputs: Arrays, axes: list[int | None]) -> tuple[mx.array, int]:
        return _of_many((inputs[0], axes[0]), (inputs[1], axes[1]), form)

    named: Callable[[mx.array, mx.array], mx.array] = operation  # type: ignore[assignment]
    return named


def _by_input(cotangent: mx.array, x: mx.array, weight: mx.array, form: Form) -> mx.array:
    """The derivative by the input: a convolution of the cotangent with the weight transposed."""
    space, kernel, positions = x.shape[1:-1], weight.shape[1:-1], cotangent.shape[1:-1]
    reach = [d * (k - 1) for d, k in zip(form.dilation, kernel, strict=True)]
    low = [r - before for r, before in zip(reach, form.low, strict=True)]
    high = [
        g * (size - 1) + 1 + r - (s * (p - 1) + 1) - before
        for g, size, r, s, p, before in zip(
            form.gaps, space, reach, form.stride, positions, low, strict=True
        )
    ]
    back = Form(
        stride=form.gaps,
        low=tuple(low),
        high=tuple(high),
        dilation=form.dilation,
        gaps=form.stride,
        groups=form.groups,
        flip=not form.flip,
    )
    by_group = weight.reshape(form.groups, -1, *weight.shape[1:])
    transposed = by_group.swapaxes(1, -1).reshape(x.shape[-1], *kernel, -1)
    return _operation(back)(cotangent, transposed)


def _by_weight(cotangent: mx.array, x: mx.array, weight: mx.array, form: Form) -> mx.array:
    """The derivative by the weight: a convolution of the input with the cotangent.

    The batch takes the place of the channels of a group, and these that of the batch.
    """
    kernel, positions = weight.shape[1:-1], cotangent.shape[1:-1]
    size = [(n - 1) * g + 1 for n, g in zip(x.shape[1:-1], form.gaps, strict=True)]
    high = [
        d * (k - 1) + s * (p - 1) + 1 - n - before
        for d, k, s, p, n, before in zip(
            form.dilation, kernel, form.stride, positions, size, form.low, strict=True
        )
    ]
    across = replace(form, stride=form.dilation, dilation=form.stride, high=tuple(high), flip=False)
    by_channel = x.reshape(*x.shape[:-1], form.groups, -1)  # (B, *space, groups, channels)
    order = [x.ndim, *range(1, x.ndim - 1), x.ndim - 1, 0]
    images = by_channel.transpose(order).reshape(weight.shape[-1], *x.shape[1:-1], -1)
    kernels = cotangent.transpose([x.ndim - 1, *range(1, x.ndim - 1), 0])
    found = _operation(across)(images, kernels)  # (channels, *kernel, outputs)
    found = found.swapaxes(0, -1)
    if form.flip:
        found = found[(slice(None), *[slice(None, None, -1)] * len(kernel))]
    return found


def _of_many(of_x: _Mapped, of_weight: _Mapped, form: Form) -> tuple[mx.array, int]:
    """Many convolutions as one, and the axis along which they lie."""
    (x, x_axis), (weight, weight_axis), groups = of_x, of_weight, form.groups
    if weight_axis is None:
        assert x_axis is not None
        x = mx.moveaxis(x, x_axis, 0)
        rows = _operation(form)(x.flatten(0, 1), weight)
        return mx.unflatten(rows, 0, x.shape[:2]), 0
    weight = mx.moveaxis(weight, weight_axis, 0)
    many = weight.shape[0]
    by_group = mx.unflatten(weight, 1, (groups, -1))  # many, groups, outputs, *kernel, channels
    if x_axis is None:
        outputs = _operation(form)(x, by_group.swapaxes(0, 1).flatten(0, 2))
        return mx.unflatten(outputs, -1, (groups, many, -1)).swapaxes(-3, -2).flatten(
            -2
        ), x.ndim - 1
    x = mx.moveaxis(x, x_axis, -2).flatten(-2)  # channels: many, groups, channels of a group
    outputs = _operation(replace(form, groups=many * groups))(x, by_group.flatten(0, 2))
    return mx.unflatten(outputs, -1, (many, -1)), x.ndim - 1
