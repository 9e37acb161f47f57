"""Operators in double precision that ONNX's reference implementation lacks.

It is slow in convolutions and pooling, wrong in batch norms before opset 14, in global pooling of
one axis and in what loops stack, and knows nothing of onnxruntime's own operators.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx.reference.op_run import OpRun
from onnx.reference.ops.op_loop import Loop as ReferenceLoop
from onnx.reference.ops.op_lstm import LSTM

from mlx_entk.onnx.reference import PRECISE

Array = NDArray[Any]
Sizes = list[int] | None


class Rounding:
    """What rounding to 256 steps adds to a number, which counts as constant in derivatives."""

    def __init__(self) -> None:
        self._scales: list[tuple[Array, Array, Array]] = []
        self._given: Iterator[tuple[Array, Array, Array]] | None = None

    def forget(self) -> None:
        """Begin to record."""
        self._scales.clear()

    @contextmanager
    def repeated(self) -> Iterator[None]:
        """Add what was added when it was recorded."""
        self._given = iter(self._scales)
        yield
        self._given = None

    def of(self, x: Array) -> tuple[Array, Array, Array]:
        """A number in steps, the scale and the zero point."""
        if self._given is not None:
            added, scale, zero = next(self._given)
            return x / scale + added, scale, zero
        low, high = min(x.min(), 0.0), max(x.max(), 0.0)
        scale = np.array((high - low) / 255 or 1.0)
        zero = np.round(np.clip(-low / scale, 0, 255))
        added = np.clip(np.round(x / scale) + zero, 0, 255) - x / scale
        self._scales.append((added, scale, zero))
        return x / scale + added, scale, zero

    def and_back(self, x: Array) -> Array:
        """What a number is once it has been rounded."""
        steps, scale, zero = self.of(x)
        return np.asarray((steps - zero) * scale)


ROUNDING = Rounding()


def _padded(
    x: Array, kernel: Sizes, strides: Sizes, pads: Sizes, dilations: Sizes, auto: str, fill: float
) -> torch.Tensor:
    """The input of a convolution or pooling, padded."""
    count = x.ndim - 2
    steps, spread = strides or [1] * count, dilations or [1] * count
    begin, end = (pads or [0] * 2 * count)[:count], (pads or [0] * 2 * count)[count:]
    if auto.startswith("SAME"):
        sizes = [
            max(0, (-(-n // s) - 1) * s + (k - 1) * d + 1 - n)
            for n, s, k, d in zip(x.shape[2:], steps, kernel or [], spread, strict=True)
        ]
        small, large = [n // 2 for n in sizes], [n - n // 2 for n in sizes]
        begin, end = (small, large) if auto == "SAME_UPPER" else (large, small)
    widths = [w for pair in zip(begin[::-1], end[::-1], strict=True) for w in pair]
    return torch.nn.functional.pad(torch.from_numpy(np.ascontiguousarray(x)), widths, value=fill)


def _functional(name: str, x: Array) -> Any:
    return getattr(torch.nn.functional, f"{name}{x.ndim - 2}d")


class Conv(OpRun):
    op_domain = ""

    def _run(
        self, x: Array, w: Array, b: Array | None = None, *, auto_pad: str, dilations: Sizes,
        group: int, kernel_shape: Sizes, pads: Sizes, strides: Sizes,
    ) -> tuple[Array]:  # fmt: skip
        count = x.ndim - 2
        padded = _padded(x, list(w.shape[2:]), strides, pads, dilations, auto_pad, 0)
        result = _functional("conv", x)(
            padded, torch.from_numpy(w), None if b is None else torch.from_numpy(b),
            stride=strides or [1] * count, dilation=dilations or [1] * count, groups=group,
        )  # fmt: skip
        return (result.numpy(),)


class MaxPool(OpRun):
    op_domain = ""

    def _run(
        self, x: Array, *, auto_pad: str, ceil_mode: int, dilations: Sizes, kernel_shape: Sizes,
        pads: Sizes, storage_order: int, strides: Sizes,
    ) -> tuple[Array]:  # fmt: skip
        if ceil_mode:
            raise NotImplementedError("ceil_mode")
        count = x.ndim - 2
        padded = _padded(x, kernel_shape, strides, pads, dilations, auto_pad, -np.inf)
        result = _functional("max_pool", x)(
            padded, kernel_shape, stride=strides or [1] * count, dilation=dilations or [1] * count
        )
        return (result.numpy(),)


class GlobalMaxPool(OpRun):
    op_domain = ""

    def _run(self, x: Array) -> tuple[Array]:
        return (x.max(axis=tuple(range(2, x.ndim)), keepdims=True),)


class BatchNormalization(OpRun):
    op_domain = ""

    def _run(
        self, x: Array, scale: Array, b: Array, mean: Array, variance: Array, *, epsilon: float,
        **_: Any,
    ) -> tuple[Array]:  # fmt: skip
        factor = scale / np.sqrt(variance + epsilon)
        shape = (-1, *[1] * (x.ndim - 2))
        return (x * factor.reshape(shape) + (b - mean * factor).reshape(shape),)


class Resize(OpRun):
    op_domain = ""

    def _run(
        self, x: Array, roi: Any = None, scales: Any = None, sizes: Any = None, *, mode: str,
        coordinate_transformation_mode: str, nearest_mode: str, **_: Any,
    ) -> tuple[Array]:  # fmt: skip
        if (mode, coordinate_transformation_mode, nearest_mode) != (
            "nearest", "asymmetric", "floor",
        ):  # fmt: skip
            raise NotImplementedError(f"{mode}, {coordinate_transformation_mode}, {nearest_mode}")
        given = scales is not None and scales.size
        for axis, size in enumerate(x.shape):
            scale = scales[axis] if given else sizes[axis] / size
            count = int(np.floor(size * scale)) if given else int(sizes[axis])
            x = np.take(x, np.floor(np.arange(count) / scale).astype(int), axis)
        return (x,)


class Loop(ReferenceLoop):
    """Loop, of which the reference implementation joins the results on an axis that they have."""

    op_domain = ""

    def _run(self, *inputs: Any, **how: Any) -> Any:
        *carried, joined = super()._run(*inputs, **how), self.K
        results = list(carried[0])
        for k in range(len(results) - joined, len(results)):
            results[k] = results[k].reshape(int(inputs[0]), -1, *results[k].shape[1:])
        return tuple(results)


class DynamicQuantizeLinear(OpRun):
    op_domain = ""

    def _run(self, x: Array) -> tuple[Array, Array, Array]:
        return ROUNDING.of(x)


class Add(OpRun):
    """Of whole numbers and of what stands for them."""

    op_domain = ""

    def _run(self, x: Array, y: Array) -> tuple[Array]:
        return (np.asarray(x + y),)


class DequantizeLinear(OpRun):
    op_domain = ""

    def _run(
        self, q: Array, scale: Array, zero: Any = None, *, axis: int, **_: Any
    ) -> tuple[Array]:
        if scale.ndim:
            scale = scale.reshape([-1 if a == axis % q.ndim else 1 for a in range(q.ndim)])
        return (_centred(q, zero, axis) * scale,)


class MatMulInteger(OpRun):
    op_domain = ""

    def _run(self, a: Array, b: Array, a_zero: Any = 0, b_zero: Any = 0) -> tuple[Array]:
        return ((a.astype(float) - (0 if a_zero is None else a_zero)) @ (b.astype(float) - b_zero),)


class ConvInteger(Conv):
    def _run(  # type: ignore[override]
        self, x: Array, w: Array, x_zero: Any = 0, w_zero: Any = 0, **how: Any
    ) -> tuple[Array]:
        return super()._run(x - (0 if x_zero is None else x_zero), _centred(w, w_zero, 0), **how)


class DynamicQuantizeLSTM(LSTM):
    """onnxruntime's LSTM with weights of 8 bits, shape (directions, inputs, 4 units)."""

    op_domain = "com.microsoft"
    op_schema = onnx.defs.get_schema("LSTM", 14)

    def _run(self, *inputs: Any, **how: Any) -> Any:
        x, w, r, *rest, w_scale, w_zero, r_scale, r_zero = inputs
        w, r = (
            (_centred(q, zero, 0) * scale.reshape(len(q), 1, -1)).swapaxes(1, 2)
            for q, scale, zero in ((w, w_scale, w_zero), (r, r_scale, r_zero))
        )
        return super()._run(ROUNDING.and_back(x), w, r, *rest, **how)

    def _run_forward(
        self, x: Array, w: Array, r: Array, b: Array, p: Array, h: Array, c: Array
    ) -> tuple[Array, Array, Array]:
        states = []
        for step in x:
            gates = step @ w.T + ROUNDING.and_back(h) @ r.T + sum(np.split(b, 2))
            i, o, f, g = np.split(gates, 4, -1)
            c = self.f(f) * c + self.f(i) * np.tanh(g)
            h = self.f(o) * np.tanh(c)
            states.append(h)
        return np.stack(states), h, c


def _centred(q: Array, zero: Any, axis: int) -> Array:
    """Quantised numbers less their zero point, which may differ along an axis."""
    if zero is None:
        return q.astype(float)
    zero = np.asarray(zero, dtype=float)
    shape = [1] * q.ndim
    if zero.ndim:
        shape[axis] = zero.shape[0]
    if zero.ndim == 2:  # of a recurrent layer, by direction
        shape = [len(q), 1, -1]
    return np.asarray(q.astype(float) - zero.reshape(shape))


# Classes of the onnx package have no types.
OPERATORS: list[Any] = [
    *PRECISE, Conv, MaxPool, GlobalMaxPool, BatchNormalization, Resize, Loop,
    Add, DynamicQuantizeLinear, DequantizeLinear, MatMulInteger, ConvInteger, DynamicQuantizeLSTM,
]  # fmt: skip
