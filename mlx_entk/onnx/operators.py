"""What each ONNX operator computes, in MLX: one table, :data:`OPERATORS`.

An operator gets its inputs (MLX arrays; NumPy arrays where they are known without the model's
inputs, as shapes are; None where left out), its attributes, and how many outputs are asked for.
"""

import math
import string
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from numpy.typing import NDArray
from onnx import helper

from mlx_entk.errors import InputError

Value = mx.array | NDArray[Any] | None
Inputs = list[Value]
Attributes = dict[str, Any]
Result = mx.array | NDArray[Any] | list[mx.array]
Operator = Callable[[Inputs, Attributes, int], Result]


def from_numpy(array: NDArray[Any]) -> mx.array:
    """As an MLX array, doubles in single precision: no GPU of Apple's has them."""
    if array.dtype == np.float64:
        array = array.astype(np.float32)
    if array.dtype.kind not in "fiub" and str(array.dtype) != "bfloat16":
        raise InputError(f"type {array.dtype} has no MLX counterpart")
    if str(array.dtype) == "bfloat16":
        return mx.array(array.astype(np.float32)).astype(mx.bfloat16)
    return mx.array(array)


def as_mlx(value: Value) -> mx.array:
    """An input as an MLX array."""
    if value is None:
        raise InputError("an input is missing")
    return from_numpy(value) if isinstance(value, np.ndarray) else value


def _ints(value: Value, what: str) -> list[int]:
    """An input that has to be known before the model runs."""
    if value is None:
        raise InputError(f"{what} would be needed")
    if isinstance(value, mx.array):
        raise InputError(f"{what} would depend on the data, which a fixed graph cannot follow")
    return [int(v) for v in np.asarray(value).reshape(-1)]


def _unary(function: Callable[..., mx.array]) -> Operator:
    return lambda x, a, n: function(as_mlx(x[0]))


def _binary(function: Any) -> Operator:
    return lambda x, a, n: function(as_mlx(x[0]), as_mlx(x[1]))


def _variadic(function: Callable[..., mx.array]) -> Operator:
    def apply(x: Inputs, a: Attributes, n: int) -> mx.array:
        total = as_mlx(x[0])
        for other in x[1:]:
            total = function(total, as_mlx(other))
        return total

    return apply


def _mean(x: Inputs, a: Attributes, n: int) -> mx.array:
    total = _variadic(mx.add)(x, a, n)
    assert isinstance(total, mx.array)
    return total / len(x)


def _divide(x: Inputs, a: Attributes, n: int) -> mx.array:
    left, right = as_mlx(x[0]), as_mlx(x[1])
    if mx.issubdtype(left.dtype, mx.integer):  # towards zero
        magnitude = mx.abs(left) // mx.abs(right)
        return mx.where((left < 0) == (right < 0), magnitude, -magnitude).astype(left.dtype)
    return left / right


def _modulo(x: Inputs, a: Attributes, n: int) -> mx.array:
    left, right = as_mlx(x[0]), as_mlx(x[1])
    if a.get("fmod", 0):
        rest = mx.remainder(mx.abs(left), mx.abs(right))
        return mx.where(left < 0, -rest, rest).astype(left.dtype)
    return mx.remainder(left, right)


def _power(x: Inputs, a: Attributes, n: int) -> mx.array:
    base = as_mlx(x[0])
    return mx.power(base, as_mlx(x[1])).astype(base.dtype)


def _gemm(x: Inputs, a: Attributes, n: int) -> mx.array:
    left, right = as_mlx(x[0]), as_mlx(x[1])
    left = left.T if a.get("transA", 0) else left
    right = right.T if a.get("transB", 0) else right
    product: mx.array = a.get("alpha", 1.0) * (left @ right)
    if len(x) > 2 and x[2] is not None:
        product = product + a.get("beta", 1.0) * as_mlx(x[2])
    return product


def _axes(x: Inputs, a: Attributes, rank: int) -> list[int] | None:
    """Axes from the second input or the attribute; None is all."""
    if "axes" in a:
        return [int(axis) % rank for axis in a["axes"]]
    if len(x) > 1 and x[1] is not None:
        found = _ints(x[1], "axes")
        if found:
            return [axis % rank for axis in found]
    return None


def _reduction(function: Callable[..., mx.array]) -> Operator:
    def apply(x: Inputs, a: Attributes, n: int) -> mx.array:
        value = as_mlx(x[0])
        axes = _axes(x, a, max(1, value.ndim))
        if axes is None and a.get("noop_with_empty_axes", 0):
            return value
        if value.size == 0:  # MLX 0.32 runs on and on where its strides are not those it expects
            raise InputError("an empty array has nothing to reduce")
        return function(value, axes, bool(a.get("keepdims", 1)))

    return apply


def _arg_extreme(function: Callable[..., mx.array]) -> Operator:
    def apply(x: Inputs, a: Attributes, n: int) -> mx.array:
        value, axis = as_mlx(x[0]), a.get("axis", 0)
        if a.get("select_last_index", 0):
            flipped = mx.take(value, mx.arange(value.shape[axis] - 1, -1, -1), axis=axis)
            last = function(flipped, axis=axis, keepdims=bool(a.get("keepdims", 1)))
            return (value.shape[axis] - 1 - last.astype(mx.int64)).astype(mx.int64)
        found = function(value, axis=axis, keepdims=bool(a.get("keepdims", 1)))
        return found.astype(mx.int64)

    return apply


def _reshape(x: Inputs, a: Attributes, n: int) -> mx.array:
    value, target = as_mlx(x[0]), _ints(x[1], "the sizes of a reshape")
    if not a.get("allowzero", 0):
        target = [value.shape[i] if size == 0 else size for i, size in enumerate(target)]
    return mx.reshape(value, target)


def _flatten(x: Inputs, a: Attributes, n: int) -> mx.array:
    value, axis = as_mlx(x[0]), a.get("axis", 1)
    axis = axis + value.ndim if axis < 0 else axis
    return mx.reshape(value, (math.prod(value.shape[:axis]), math.prod(value.shape[axis:])))


def _transpose(x: Inputs, a: Attributes, n: int) -> mx.array:
    value = as_mlx(x[0])
    return mx.transpose(value, list(a.get("perm", range(value.ndim)[::-1])))


def _squeeze(x: Inputs, a: Attributes, n: int) -> mx.array:
    value = as_mlx(x[0])
    axes = _axes(x, a, value.ndim)
    return mx.squeeze(value, axes) if axes is not None else mx.squeeze(value)


def _unsqueeze(x: Inputs, a: Attributes, n: int) -> mx.array:
    value = as_mlx(x[0])
    axes = list(a["axes"]) if "axes" in a else _ints(x[1], "axes")
    rank = value.ndim + len(axes)
    return mx.expand_dims(value, sorted(axis % rank for axis in axes))


def _split(x: Inputs, a: Attributes, n: int) -> list[mx.array]:
    value, axis = as_mlx(x[0]), a.get("axis", 0)
    if len(x) > 1 and x[1] is not None:
        lengths = _ints(x[1], "the lengths of a split")
    else:
        size, parts = value.shape[axis], a.get("num_outputs", n)
        each = -(-size // parts)
        lengths = [min(each, size - each * i) for i in range(parts)]
    bounds = np.cumsum([0, *lengths]).tolist()
    return [mx.take(value, mx.arange(start, stop), axis=axis) for start, stop in pairwise(bounds)]


def _slice(x: Inputs, a: Attributes, n: int) -> mx.array:
    value = as_mlx(x[0])
    starts, ends = _ints(x[1], "starts"), _ints(x[2], "ends")
    axes = _ints(x[3], "axes") if len(x) > 3 and x[3] is not None else list(range(len(starts)))
    steps = _ints(x[4], "steps") if len(x) > 4 and x[4] is not None else [1] * len(starts)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        size = value.shape[axis]
        # A far end of a slice that goes backwards is before the first entry, not one from last.
        stop = None if step < 0 and end < -size else end
        wanted = range(size)[start if start >= -size else 0 : stop : step]
        if list(wanted) != list(range(size)):
            value = mx.take(value, mx.array(list(wanted), dtype=mx.int32), axis=axis)
    return value


def _expand(x: Inputs, a: Attributes, n: int) -> mx.array:
    value = as_mlx(x[0])
    shape = np.broadcast_shapes(value.shape, tuple(_ints(x[1], "the sizes of an expansion")))
    return mx.broadcast_to(value, shape)


def _pad(x: Inputs, a: Attributes, n: int) -> mx.array:
    value, pads = as_mlx(x[0]), _ints(x[1], "pads")
    axes = _ints(x[3], "axes") if len(x) > 3 and x[3] is not None else list(range(value.ndim))
    mode = a.get("mode", b"constant").decode()
    widths = [(0, 0)] * value.ndim
    for i, axis in enumerate(axes):
        widths[axis] = (pads[i], pads[i + len(axes)])
    if mode == "edge":
        return mx.pad(value, widths, mode="edge")
    if mode in ("reflect", "wrap"):
        for axis, width in enumerate(widths):
            at = np.pad(np.arange(value.shape[axis]), width, mode=mode)
            value = mx.take(value, mx.array(at), axis=axis)
        return value
    for axis, (low, high) in enumerate(widths):  # negative widths cut
        if low < 0 or high < 0:
            size = value.shape[axis]
            kept = mx.arange(max(0, -low), size - max(0, -high))
            value = mx.take(value, kept, axis=axis)
    positive = [(max(0, low), max(0, high)) for low, high in widths]
    fill = as_mlx(x[2]) if len(x) > 2 and x[2] is not None else mx.array(0, dtype=value.dtype)
    return mx.pad(value, positive, constant_values=fill.reshape(()))


def _cast(x: Inputs, a: Attributes, n: int) -> mx.array:
    name = np.dtype(helper.tensor_dtype_to_np_dtype(a["to"])).name
    return as_mlx(x[0]).astype(_dtype(name))


def _dtype(name: str) -> mx.Dtype:
    known = {"bool": mx.bool_, "float64": mx.float32}
    found = known.get(name) or getattr(mx, name, None)
    if not isinstance(found, mx.Dtype):
        raise InputError(f"type {name} has no MLX counterpart")
    return found


def _clip(x: Inputs, a: Attributes, n: int) -> mx.array:
    value = as_mlx(x[0])
    if len(x) > 1 and x[1] is not None:
        value = mx.maximum(value, as_mlx(x[1]))
    if len(x) > 2 and x[2] is not None:
        value = mx.minimum(value, as_mlx(x[2]))
    return value


def _wrapped(index: Value, size: int) -> mx.array:
    found = as_mlx(index)
    return mx.where(found < 0, found + size, found)


def _gather(x: Inputs, a: Attributes, n: int) -> mx.array:
    value, axis = as_mlx(x[0]), a.get("axis", 0)
    return mx.take(value, _wrapped(x[1], value.shape[axis]), axis=axis)


def _gather_elements(x: Inputs, a: Attributes, n: int) -> mx.array:
    value, axis = as_mlx(x[0]), a.get("axis", 0)
    index = _wrapped(x[1], value.shape[axis])
    grids = _grids(index.shape)
    grids[axis % value.ndim] = index
    return value[tuple(grids)]


def _grids(shape: Sequence[int]) -> list[mx.array]:
    """The coordinates of every entry of a shape, broadcastable."""
    return [
        mx.arange(size).reshape([-1 if i == k else 1 for k in range(len(shape))])
        for i, size in enumerate(shape)
    ]


def _gather_nd(x: Inputs, a: Attributes, n: int) -> mx.array:
    value, index = as_mlx(x[0]), as_mlx(x[1])
    batch = a.get("batch_dims", 0)
    depth = index.shape[-1]
    columns = [_wrapped(index[..., i], value.shape[batch + i]) for i in range(depth)]
    ahead = [
        mx.arange(size).reshape([-1 if i == k else 1 for k in range(index.ndim - 1)])
        for i, size in enumerate(value.shape[:batch])
    ]
    return value[(*ahead, *columns)]


def _update(value: mx.array, at: tuple[mx.array, ...], updates: mx.array, how: str) -> mx.array:
    if how == "none":
        fresh = mx.array(value)
        fresh[at] = updates
        return fresh
    method = {"add": "add", "mul": "multiply", "max": "maximum", "min": "minimum"}[how]
    found: mx.array = getattr(value.at[at], method)(updates)
    return found


def _how(a: Attributes) -> str:
    return str(a.get("reduction", b"none").decode())


def _scatter_nd(x: Inputs, a: Attributes, n: int) -> mx.array:
    value, index, updates = as_mlx(x[0]), as_mlx(x[1]), as_mlx(x[2])
    columns = tuple(_wrapped(index[..., i], value.shape[i]) for i in range(index.shape[-1]))
    return _update(value, columns, updates, _how(a))


def _scatter_elements(x: Inputs, a: Attributes, n: int) -> mx.array:
    value, updates = as_mlx(x[0]), as_mlx(x[2])
    axis = a.get("axis", 0) % value.ndim
    index = _wrapped(x[1], value.shape[axis])
    grids = [mx.broadcast_to(grid, index.shape) for grid in _grids(index.shape)]
    grids[axis] = index
    return _update(value, tuple(grids), updates, _how(a))


def _one_hot(x: Inputs, a: Attributes, n: int) -> mx.array:
    index, values = as_mlx(x[0]).astype(mx.int64), as_mlx(x[2])
    (depth,) = _ints(x[1], "the depth of one-hot vectors")
    axis = a.get("axis", -1)
    index = mx.where(index < 0, index + depth, index)
    hot = mx.expand_dims(index, -1) == mx.arange(depth)
    filled = mx.where(hot, values[1], values[0])
    return mx.moveaxis(filled, -1, axis if axis >= 0 else filled.ndim + axis)


def _trilu(x: Inputs, a: Attributes, n: int) -> mx.array:
    value = as_mlx(x[0])
    k = _ints(x[1], "the diagonal")[0] if len(x) > 1 and x[1] is not None else 0
    rows, columns = mx.arange(value.shape[-2])[:, None], mx.arange(value.shape[-1])[None]
    kept = columns - rows >= k if a.get("upper", 1) else columns - rows <= k
    return mx.where(kept, value, mx.zeros((), dtype=value.dtype))


def _cumulative_sum(x: Inputs, a: Attributes, n: int) -> mx.array:
    (axis,) = _ints(x[1], "the axis")
    return mx.cumsum(
        as_mlx(x[0]), axis=axis, reverse=bool(a.get("reverse", 0)),
        inclusive=not a.get("exclusive", 0),
    )  # fmt: skip


def _top_k(x: Inputs, a: Attributes, n: int) -> list[mx.array]:
    value, (count,) = as_mlx(x[0]), _ints(x[1], "the number of largest entries")
    axis = a.get("axis", -1)
    order = mx.argsort(-value if a.get("largest", 1) else value, axis=axis)
    index = mx.take(order, mx.arange(count), axis=axis)
    return [mx.take_along_axis(value, index, axis=axis), index.astype(mx.int64)]


def _eye_like(x: Inputs, a: Attributes, n: int) -> mx.array:
    value = as_mlx(x[0])
    name = np.dtype(helper.tensor_dtype_to_np_dtype(a["dtype"])).name if "dtype" in a else None
    dtype = _dtype(name) if name else value.dtype
    rows, columns = value.shape
    return mx.eye(rows, columns, a.get("k", 0)).astype(dtype)


def _tile(x: Inputs, a: Attributes, n: int) -> mx.array:
    return mx.tile(as_mlx(x[0]), _ints(x[1], "repeats"))


def _softmax(x: Inputs, a: Attributes, n: int) -> mx.array:
    return mx.softmax(as_mlx(x[0]), axis=a.get("axis", -1))


def _log_softmax(x: Inputs, a: Attributes, n: int) -> mx.array:
    value, axis = as_mlx(x[0]), a.get("axis", -1)
    return value - mx.logsumexp(value, axis=axis, keepdims=True)


def _elu(x: Inputs, a: Attributes, n: int) -> mx.array:
    value = as_mlx(x[0])
    return mx.where(value > 0, value, a.get("alpha", 1.0) * mx.expm1(mx.minimum(value, 0)))


def _selu(x: Inputs, a: Attributes, n: int) -> mx.array:
    value = as_mlx(x[0])
    alpha, gamma = a.get("alpha", 1.67326319217681884765625), a.get("gamma", 1.05070102214813232421)
    found: mx.array = gamma * mx.where(value > 0, value, alpha * mx.expm1(mx.minimum(value, 0)))
    return found


def _celu(x: Inputs, a: Attributes, n: int) -> mx.array:
    value, alpha = as_mlx(x[0]), a.get("alpha", 1.0)
    return mx.maximum(value, 0) + mx.minimum(alpha * mx.expm1(value / alpha), 0)


def _leaky_relu(x: Inputs, a: Attributes, n: int) -> mx.array:
    value = as_mlx(x[0])
    return mx.where(value < 0, a.get("alpha", 0.01) * value, value)


def _p_relu(x: Inputs, a: Attributes, n: int) -> mx.array:
    value = as_mlx(x[0])
    return mx.where(value < 0, as_mlx(x[1]) * value, value)


def _hard_sigmoid(x: Inputs, a: Attributes, n: int) -> mx.array:
    return mx.clip(a.get("alpha", 0.2) * as_mlx(x[0]) + a.get("beta", 0.5), 0, 1)


def _hard_swish(x: Inputs, a: Attributes, n: int) -> mx.array:
    value = as_mlx(x[0])
    return value * mx.clip(value / 6 + 0.5, 0, 1)


def _gelu(x: Inputs, a: Attributes, n: int) -> mx.array:
    value = as_mlx(x[0])
    tanh = a.get("approximate", b"none") == b"tanh"
    return nn.gelu_approx(value) if tanh else value * (1 + mx.erf(value / math.sqrt(2))) / 2


def _thresholded_relu(x: Inputs, a: Attributes, n: int) -> mx.array:
    value = as_mlx(x[0])
    return mx.where(value > a.get("alpha", 1.0), value, mx.zeros((), dtype=value.dtype))


def _normalised(value: mx.array, axes: list[int], epsilon: float) -> mx.array:
    mean = mx.mean(value, axis=axes, keepdims=True)
    variance = mx.mean(mx.square(value - mean), axis=axes, keepdims=True)
    return (value - mean) * mx.rsqrt(variance + epsilon)


def _layer_norm(x: Inputs, a: Attributes, n: int) -> list[mx.array]:
    value = as_mlx(x[0])
    axes = list(range(a.get("axis", -1) % value.ndim, value.ndim))
    epsilon = a.get("epsilon", 1e-5)
    mean = mx.mean(value, axis=axes, keepdims=True)
    scale = mx.rsqrt(mx.mean(mx.square(value - mean), axis=axes, keepdims=True) + epsilon)
    found = (value - mean) * scale * as_mlx(x[1])
    if len(x) > 2 and x[2] is not None:
        found = found + as_mlx(x[2])
    return [found, mean, scale]


def _rms_norm(x: Inputs, a: Attributes, n: int) -> mx.array:
    value = as_mlx(x[0])
    axes = list(range(a.get("axis", -1) % value.ndim, value.ndim))
    square = mx.mean(mx.square(value), axis=axes, keepdims=True)
    return value * mx.rsqrt(square + a.get("epsilon", 1e-5)) * as_mlx(x[1])


def _by_channel(value: Value, rank: int) -> mx.array:
    return as_mlx(value).reshape([1, -1, *[1] * (rank - 2)])


def _batch_norm(x: Inputs, a: Attributes, n: int) -> mx.array:
    if a.get("training_mode", 0):
        raise InputError("in training mode an output depends on the whole batch")
    value = as_mlx(x[0])
    scale, bias, mean, variance = (_by_channel(v, value.ndim) for v in x[1:5])
    return (value - mean) * mx.rsqrt(variance + a.get("epsilon", 1e-5)) * scale + bias


def _instance_norm(x: Inputs, a: Attributes, n: int) -> mx.array:
    value = as_mlx(x[0])
    normed = _normalised(value, list(range(2, value.ndim)), a.get("epsilon", 1e-5))
    return normed * _by_channel(x[1], value.ndim) + _by_channel(x[2], value.ndim)


def _group_norm(x: Inputs, a: Attributes, n: int) -> mx.array:
    value = as_mlx(x[0])
    groups = value.reshape(value.shape[0], a["num_groups"], -1)
    normed = _normalised(groups, [2], a.get("epsilon", 1e-5)).reshape(value.shape)
    scale, bias = as_mlx(x[1]), as_mlx(x[2])
    if scale.size == a["num_groups"]:  # one a group, before opset 21
        each = value.shape[1] // a["num_groups"]
        scale, bias = mx.repeat(scale, each), mx.repeat(bias, each)
    return normed * _by_channel(scale, value.ndim) + _by_channel(bias, value.ndim)


def _windows(
    a: Attributes, spatial: Sequence[int], kernel: Sequence[int]
) -> tuple[list[int], list[tuple[int, int]], list[int]]:
    """Strides, padding and dilations of a convolution or pooling."""
    count = len(spatial)
    strides = list(a.get("strides", [1] * count))
    dilations = list(a.get("dilations", [1] * count))
    mode = a.get("auto_pad", b"NOTSET").decode()
    pads = list(a.get("pads", [0] * 2 * count))
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
    """A convolution of channels that come first, and its bias if there is one."""
    count = weight.ndim - 2
    last = [0, *range(2, count + 2), 1]
    found = mx.conv_general(
        mx.transpose(as_mlx(x[0]), last),
        mx.transpose(weight, last),
        padding=([low for low, _ in padding], [high for _, high in padding]),
        groups=a.get("group", 1),
        **windows,
    )
    found = mx.transpose(found, [0, count + 1, *range(1, count + 1)])
    if len(x) > 2 and x[2] is not None:
        found = found + _by_channel(x[2], found.ndim)
    return found


def _transposed_convolution(x: Inputs, a: Attributes, n: int) -> mx.array:
    value, weight = as_mlx(x[0]), as_mlx(x[1])
    spatial, kernel = value.shape[2:], weight.shape[2:]
    strides, padding, dilations = _windows({**a, "auto_pad": b"NOTSET"}, spatial, kernel)
    extra = a.get("output_padding", [0] * len(spatial))
    reach = [gap * (size - 1) + 1 for gap, size in zip(dilations, kernel, strict=True)]
    mode = a.get("auto_pad", b"NOTSET").decode()
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
    parts = weight.reshape(groups, -1, *weight.shape[1:])  # inputs before outputs, by group
    return _convolved(
        x,
        mx.swapaxes(parts, 1, 2).reshape(-1, parts.shape[1], *kernel),
        a,
        [
            (reach[i] - 1 - low, reach[i] - 1 - high + extra[i])
            for i, (low, high) in enumerate(padding)
        ],
        input_dilation=strides,
        kernel_dilation=dilations,
        flip=True,
    )


def _pooled(
    value: mx.array, a: Attributes, fill: float, reduce: Callable[..., mx.array]
) -> mx.array:
    """Reduce windows of the spatial axes, each gathered by its offset inside the window."""
    kernel = list(a["kernel_shape"])
    spatial = value.shape[2:]
    strides, padding, dilations = _windows(a, spatial, kernel)
    sizes = []
    for i, (low, high) in enumerate(padding):
        free = spatial[i] + low + high - dilations[i] * (kernel[i] - 1) - 1
        size = free // strides[i] + 1
        if a.get("ceil_mode", 0):
            size = -(-free // strides[i]) + 1
            if (size - 1) * strides[i] >= spatial[i] + low:  # a window of padding alone
                size -= 1
        reach = (size - 1) * strides[i] + dilations[i] * (kernel[i] - 1) + 1
        padding[i] = (low, max(high, reach - spatial[i] - low))
        sizes.append(size)
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
    return _pooled(as_mlx(x[0]), a, -math.inf, mx.max)


def _average_pool(x: Inputs, a: Attributes, n: int) -> mx.array:
    value = as_mlx(x[0])
    total = _pooled(value, a, 0.0, mx.sum)
    if a.get("count_include_pad", 0):
        # What lies beyond even the padding, as rounding up may reach, does not count.
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


def _einsum(x: Inputs, a: Attributes, n: int) -> mx.array:
    operands = [as_mlx(v) for v in x]
    left, arrow, right = a["equation"].decode().replace(" ", "").partition("->")
    terms = left.split(",")
    if "..." in left:  # mx.einsum knows no ellipsis: letters that nothing else uses
        free = [c for c in string.ascii_letters if c not in left]
        hidden = [
            "".join(free[: v.ndim - len(term) + 3][::-1]) if "..." in term else ""
            for term, v in zip(terms, operands, strict=True)
        ]
        terms = [t.replace("...", h) for t, h in zip(terms, hidden, strict=True)]
        longest = max(hidden, key=len)
        if not arrow:  # what is summed over is what appears twice
            once = sorted(c for c in set(left) - set(",.") if left.count(c) == 1)
            right = "..." + "".join(once)
        right = right.replace("...", longest)
        arrow = "->"
    return mx.einsum(",".join(terms) + arrow + right, *operands)


def _dropout(x: Inputs, a: Attributes, n: int) -> list[mx.array]:
    if len(x) > 2 and x[2] is not None and _ints(x[2], "the training mode")[0]:
        raise InputError("in training mode outputs are random")
    value = as_mlx(x[0])
    return [value, mx.ones(value.shape, dtype=mx.bool_)][:n]


def _is_infinite(x: Inputs, a: Attributes, n: int) -> mx.array:
    value = as_mlx(x[0])
    found = mx.zeros(value.shape, dtype=mx.bool_)
    if a.get("detect_positive", 1):
        found = found | (value == math.inf)
    if a.get("detect_negative", 1):
        found = found | (value == -math.inf)
    return found


def _shrink(x: Inputs, a: Attributes, n: int) -> mx.array:
    value, bias, edge = as_mlx(x[0]), a.get("bias", 0.0), a.get("lambd", 0.5)
    zero = mx.zeros((), dtype=value.dtype)
    return mx.where(value < -edge, value + bias, mx.where(value > edge, value - bias, zero)).astype(
        value.dtype
    )


def _hardmax(x: Inputs, a: Attributes, n: int) -> mx.array:
    value = as_mlx(x[0])
    axis = a.get("axis", -1) % value.ndim
    largest = mx.argmax(value, axis=axis, keepdims=True)
    return mx.equal(_grids(value.shape)[axis], largest).astype(value.dtype)


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


def _log_of_reduction(x: mx.array, axes: Any, keepdims: bool) -> mx.array:
    return mx.log(mx.sum(x, axis=axes, keepdims=keepdims))


def _of_data(x: Inputs, a: Attributes, n: int) -> mx.array:
    """Of known inputs this is found on the host; here some depend on the model's."""
    raise InputError("its size depends on the data, which a fixed graph cannot follow")


def _relu(value: mx.array) -> mx.array:
    return mx.maximum(value, mx.zeros((), dtype=value.dtype))


_BINARY: dict[str, Any] = {
    "Add": mx.add, "And": mx.logical_and, "BitwiseAnd": mx.bitwise_and,
    "BitwiseOr": mx.bitwise_or, "BitwiseXor": mx.bitwise_xor, "Equal": mx.equal,
    "Greater": mx.greater,
    "GreaterOrEqual": mx.greater_equal, "Less": mx.less, "LessOrEqual": mx.less_equal,
    "MatMul": mx.matmul, "Mul": mx.multiply, "Or": mx.logical_or, "Sub": mx.subtract,
    "Xor": mx.not_equal,
}  # fmt: skip

OPERATORS: dict[str, Operator] = {
    **{
        name: _unary(function)
        for name, function in {
            "Abs": mx.abs, "Acos": mx.arccos, "Acosh": mx.arccosh, "Asin": mx.arcsin,
            "Asinh": mx.arcsinh, "Atan": mx.arctan, "Atanh": mx.arctanh, "Ceil": mx.ceil,
            "Cos": mx.cos, "Cosh": mx.cosh, "Erf": mx.erf, "Exp": mx.exp, "Floor": mx.floor,
            "Identity": lambda v: v, "IsNaN": mx.isnan, "Log": mx.log,
            "Mish": lambda v: v * mx.tanh(mx.logaddexp(v, mx.zeros((), dtype=v.dtype))),
            "Neg": mx.negative, "Not": mx.logical_not, "Reciprocal": mx.reciprocal,
            "Relu": _relu, "Round": mx.round, "Sigmoid": mx.sigmoid, "Sign": mx.sign,
            "Sin": mx.sin, "Sinh": mx.sinh,
            "Softplus": lambda v: mx.logaddexp(v, mx.zeros((), dtype=v.dtype)),
            "Softsign": lambda v: v / (1 + mx.abs(v)), "Sqrt": mx.sqrt, "Tan": mx.tan,
            "Tanh": mx.tanh,
        }.items()
    },
    **{
        name: _binary(function)
        for name, function in _BINARY.items()
    },
    **{
        f"Reduce{name}": _reduction(function)
        for name, function in {
            "L1": lambda v, axes, keep: mx.sum(mx.abs(v), axis=axes, keepdims=keep),
            "L2": lambda v, axes, keep: mx.sqrt(mx.sum(mx.square(v), axis=axes, keepdims=keep)),
            "LogSum": _log_of_reduction,
            "LogSumExp": lambda v, axes, keep: mx.logsumexp(v, axis=axes, keepdims=keep),
            "Max": lambda v, axes, keep: mx.max(v, axis=axes, keepdims=keep),
            "Mean": lambda v, axes, keep: mx.mean(v, axis=axes, keepdims=keep),
            "Min": lambda v, axes, keep: mx.min(v, axis=axes, keepdims=keep),
            "Prod": lambda v, axes, keep: mx.prod(v, axis=axes, keepdims=keep),
            "Sum": lambda v, axes, keep: mx.sum(v, axis=axes, keepdims=keep),
            "SumSquare": lambda v, axes, keep: mx.sum(mx.square(v), axis=axes, keepdims=keep),
        }.items()
    },
    "ArgMax": _arg_extreme(mx.argmax),
    "ArgMin": _arg_extreme(mx.argmin),
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_norm,
    "Cast": _cast,
    "CastLike": lambda x, a, n: as_mlx(x[0]).astype(as_mlx(x[1]).dtype),
    "Celu": _celu,
    "Clip": _clip,
    "Concat": lambda x, a, n: mx.concatenate([as_mlx(v) for v in x], axis=a["axis"]),
    "Conv": _convolution,
    "ConvTranspose": _transposed_convolution,
    "ConstantOfShape": _of_data,
    "CumSum": _cumulative_sum,
    "DepthToSpace": _depth_to_space,
    "Div": _divide,
    "Dropout": _dropout,
    "Einsum": _einsum,
    "Elu": _elu,
    "Expand": _expand,
    "EyeLike": _eye_like,
    "Flatten": _flatten,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
    "Gelu": _gelu,
    "Gemm": _gemm,
    "GlobalAveragePool": _global_pool(mx.mean),
    "GlobalMaxPool": _global_pool(mx.max),
    "GroupNormalization": _group_norm,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _hard_swish,
    "Hardmax": _hardmax,
    "InstanceNormalization": _instance_norm,
    "IsInf": _is_infinite,
    "LayerNormalization": _layer_norm,
    "LeakyRelu": _leaky_relu,
    "LogSoftmax": _log_softmax,
    "Max": _variadic(mx.maximum),
    "MaxPool": _max_pool,
    "Mean": _mean,
    "Min": _variadic(mx.minimum),
    "Mod": _modulo,
    "OneHot": _one_hot,
    "PRelu": _p_relu,
    "Pad": _pad,
    "Pow": _power,
    "RMSNormalization": _rms_norm,
    "Range": _of_data,
    "Reshape": _reshape,
    "ScatterElements": _scatter_elements,
    "ScatterND": _scatter_nd,
    "Selu": _selu,
    "Shrink": _shrink,
    "Slice": _slice,
    "Softmax": _softmax,
    "SpaceToDepth": _space_to_depth,
    "Split": _split,
    "Squeeze": _squeeze,
    "Sum": _variadic(mx.add),
    "ThresholdedRelu": _thresholded_relu,
    "Tile": _tile,
    "TopK": _top_k,
    "Transpose": _transpose,
    "Trilu": _trilu,
    "Unsqueeze": _unsqueeze,
    "Where": lambda x, a, n: mx.where(as_mlx(x[0]), as_mlx(x[1]), as_mlx(x[2])),
}  # fmt: skip
