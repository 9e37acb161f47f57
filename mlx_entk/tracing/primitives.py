"""What each MLX primitive computes, so that a traced graph can be run again: one row each.

A row has the operation as MLX has it, from which a graph's derivatives are the model's own, and,
for primitives with a wrong derivative or vmap rule in MLX, the same value by others whose rules
are right (see ``docs/upstream``).
"""

from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_entk.tracing.convolutions import (
    convolution,
    convolution_by_patches,
    right_convolution,
)
from mlx_entk.tracing.fast_convolutions import convolve

Arrays = list[mx.array]
Operation = Callable[[Arrays, Sequence[Any]], mx.array | Arrays]


class UntraceableError(ValueError):
    """The function cannot be described by known primitives; the message says which it needs."""


# The numbers by which MLX reports the kinds of Reduce, ArgReduce, Scan, Log, BitwiseBinary and
# of updates.
REDUCE_SUM = 2
_REDUCTIONS = (mx.all, mx.any, mx.sum, mx.prod, mx.min, mx.max)
_ARGUMENT_REDUCTIONS = (mx.argmin, mx.argmax)
_SCANS = (mx.cummax, mx.cummin, mx.cumsum, mx.cumprod)
_LOGARITHMS = (mx.log2, mx.log10, mx.log)
_BITWISE = (mx.bitwise_and, mx.bitwise_or, mx.bitwise_xor, mx.left_shift, mx.right_shift)
_UPDATES = ("maximum", "minimum", "add", "multiply", None)


def _elementwise(function: Callable[..., mx.array]) -> Operation:
    return lambda inputs, arguments: function(*inputs)


def _in_front(source: mx.array, axes: Sequence[int]) -> mx.array:
    """Some axes moved to the front, the others in their order."""
    order = [*axes, *(axis for axis in range(source.ndim) if axis not in axes)]
    return source if order == list(range(source.ndim)) else source.transpose(order)


def _gather(inputs: Arrays, arguments: Sequence[Any]) -> mx.array:
    axes, sizes = arguments
    source, *indices = inputs
    full = all(size == source.shape[k] for k, size in enumerate(sizes) if k not in axes)
    if not axes or not full or any(sizes[axis] != 1 for axis in axes):
        raise UntraceableError("primitive Gather of parts of an axis")
    taken = _in_front(source, axes)[tuple(indices) if len(axes) > 1 else indices[0]]
    ahead = indices[0].ndim
    return mx.expand_dims(taken, [ahead + axis for axis in axes])


def _scatter(inputs: Arrays, arguments: Sequence[Any]) -> mx.array:
    kind, axes = arguments
    target, *indices, updates = inputs
    ahead = updates.ndim - target.ndim
    kept = [axis for axis in range(target.ndim) if axis not in axes]
    full = all(updates.shape[ahead + axis] == target.shape[axis] for axis in kept)
    if not axes or not full or any(updates.shape[ahead + axis] != 1 for axis in axes):
        raise UntraceableError("primitive Scatter of parts of an axis")
    moved = _in_front(target, axes)
    updates = mx.squeeze(updates, [ahead + axis for axis in axes])
    at = tuple(indices) if len(axes) > 1 else indices[0]
    if _UPDATES[kind] is None:
        moved = moved[...]  # a handle of its own, since a write changes the one it is made by
        moved[at] = updates
    else:
        moved = getattr(moved.at[at], str(_UPDATES[kind]))(updates)
    order = [*axes, *kept]
    return moved if order == sorted(order) else moved.transpose(np.argsort(order).tolist())


def _scatter_axis(inputs: Arrays, arguments: Sequence[Any]) -> mx.array:
    kind, axis = arguments
    target, index, updates = inputs
    if kind == 1:
        return mx.put_along_axis(target, index, updates, axis=axis)

    # 0 adds, which MLX offers nobody but its own derivative of taking.
    def taken(source: mx.array) -> mx.array:
        return mx.take_along_axis(source, index, axis=axis)

    added: mx.array = mx.vjp(taken, [target], [updates])[1][0]
    return target + added


def _slices(arguments: Sequence[Any]) -> tuple[slice, ...]:
    """Of starts, stops and strides; a stop before the first entry is below −size in MLX."""
    return tuple(
        slice(start, None if stride < 0 and stop < 0 else stop, stride)
        for start, stop, stride in zip(*arguments, strict=True)
    )


def _slice(inputs: Arrays, arguments: Sequence[Any]) -> mx.array:
    return inputs[0][_slices(arguments)]


def _slice_update(inputs: Arrays, arguments: Sequence[Any]) -> mx.array:
    kind, *bounds = arguments
    target, update = inputs
    if _UPDATES[kind] is not None:
        updated: mx.array = getattr(target.at[_slices(bounds)], str(_UPDATES[kind]))(update)
        return updated
    written = target[...]  # a handle of its own, since a write changes the one it is made by
    written[_slices(bounds)] = update
    return written


def _right_slice_update(inputs: Arrays, arguments: Sequence[Any]) -> mx.array:
    """MLX's vmap writes a source that is not mapped into the first row alone.

    The entries written are chosen by a mask in place of a write, whose derivative would be one.
    """
    kind, *bounds = arguments
    target, update = inputs
    slices = _slices(bounds)
    placed = mx.broadcast_to(update, target[slices].shape)
    mask = np.ones((), bool)
    for axis, (size, part) in enumerate(zip(target.shape, slices, strict=True)):
        covered = range(*part.indices(size))
        if covered == range(size):
            continue
        source = np.zeros(size, np.int32)
        source[covered] = np.arange(len(covered))
        inside = np.zeros(size, bool)
        inside[covered] = True
        if not len(covered):
            return target
        placed = mx.take(placed, mx.array(source), axis=axis)
        mask = mask & inside.reshape([-1 if k == axis else 1 for k in range(target.ndim)])
    name = _UPDATES[kind]
    combined = placed
    if name is not None:
        combined = getattr(mx, name)(target, placed)
    return mx.where(mx.array(mask), combined, target)


def _masked_scatter(inputs: Arrays, arguments: Sequence[Any]) -> mx.array:
    """target[mask] = values, by batch: entry k of the values goes to the k-th place of a batch."""
    target, mask, values = inputs
    batch = target.shape[0]
    flat = mx.broadcast_to(mask, target.shape).reshape(batch, -1)
    at = mx.maximum(mx.cumsum(flat.astype(mx.int32), axis=1) - 1, 0)
    placed = mx.take_along_axis(values.reshape(batch, -1), at, axis=1)
    return mx.where(flat, placed, target.reshape(batch, -1)).reshape(target.shape)


def _equal(inputs: Arrays, arguments: Sequence[Any]) -> mx.array:
    if arguments and arguments[0]:
        raise UntraceableError("primitive Equal that takes NaN for equal")
    return mx.equal(inputs[0], inputs[1])


def _pad(inputs: Arrays, arguments: Sequence[Any]) -> mx.array:
    axes, low, high = arguments
    widths = [(0, 0)] * inputs[0].ndim
    for axis, *width in zip(axes, low, high, strict=True):
        widths[axis] = (width[0], width[1])
    return mx.pad(inputs[0], widths, constant_values=inputs[1])


def _right_pad(inputs: Arrays, arguments: Sequence[Any]) -> mx.array:
    """The padding's value has no right derivative in MLX: zeros, and a choice between the two."""
    value, filling = inputs
    inside = mx.ones(value.shape, mx.bool_)
    zero = mx.zeros((), value.dtype)
    padded = _pad([value, zero], arguments)
    return mx.where(_pad([inside, mx.array(False)], arguments), padded, filling)


def _right_power(inputs: Arrays, arguments: Sequence[Any]) -> mx.array:
    """MLX leaves out a conjugate in the derivative of a complex power."""
    base, exponent = inputs
    if base.dtype != mx.complex64:
        return mx.power(base, exponent)
    return mx.exp(exponent * mx.log(base))


def _differ(a: mx.array, b: mx.array) -> mx.array:
    """MLX's vmap of not_equal gives a wrong axis if only the second is mapped."""
    return mx.logical_not(mx.equal(a, b))


def _right_bitwise(inputs: Arrays, arguments: Sequence[Any]) -> mx.array:
    """MLX's vmap reads memory that is not there if only one of the two is mapped."""
    a, b = inputs
    if a.dtype == mx.bool_:
        return (mx.logical_and, mx.logical_or, _differ)[arguments[0]](a, b)
    return _BITWISE[arguments[0]](a + 0 * b, b + 0 * a)


def _right_as_type(inputs: Arrays, arguments: Sequence[Any]) -> mx.array:
    """Rounding to whole numbers has derivative 0; MLX passes a gradient through."""
    cast = inputs[0].astype(arguments[0])
    return cast if mx.issubdtype(arguments[0], mx.inexact) else mx.stop_gradient(cast)


def _indexed(operation: Operation) -> Operation:
    """MLX refuses to differentiate by an index or mask, where it should find 0."""

    def run(inputs: Arrays, arguments: Sequence[Any]) -> mx.array | Arrays:
        whole = [not mx.issubdtype(value.dtype, mx.inexact) for value in inputs]
        return operation(
            [mx.stop_gradient(v) if w else v for v, w in zip(inputs, whole, strict=True)], arguments
        )

    return run


def _gather_mm(inputs: Arrays, arguments: Sequence[Any]) -> mx.array:
    a, b, left, right = inputs
    return mx.gather_mm(a, b, lhs_indices=left, rhs_indices=right)


# Floats of the matrices that the positions of one input may take; beyond it, one matrix at a time.
_TAKEN = 2**22


def _right_gather_mm(inputs: Arrays, arguments: Sequence[Any]) -> mx.array:
    """MLX has no vmap for it: the matrices taken and multiplied, or each multiplied with all."""
    a, b, left, right = inputs

    def taken(source: mx.array, index: mx.array) -> mx.array:
        return mx.take(source.reshape(-1, *source.shape[-2:]), index, axis=0)

    rows = taken(a, left)
    if right.size * b.shape[-2] * b.shape[-1] <= _TAKEN:
        return rows @ taken(b, right)
    matrices = b.reshape(-1, *b.shape[-2:])
    total = mx.zeros((*right.shape, a.shape[-2], b.shape[-1]), a.dtype)
    for number in range(matrices.shape[0]):
        meets = mx.expand_dims(right == number, [-1, -2])
        total = total + mx.where(meets, rows @ matrices[number], 0)
    return total


def _add_mm(inputs: Arrays, arguments: Sequence[Any]) -> mx.array:
    alpha, beta = arguments
    return mx.addmm(inputs[2], inputs[0], inputs[1], alpha=alpha, beta=beta)


def _add_mm_by_parts(inputs: Arrays, arguments: Sequence[Any]) -> mx.array:
    """MLX's forward mode leaves alpha and beta out."""
    alpha, beta = (float(factor) for factor in arguments)
    return alpha * (inputs[0] @ inputs[1]) + beta * inputs[2]


def _quantized_matmul(inputs: Arrays, arguments: Sequence[Any]) -> mx.array:
    group_size, bits, mode, transpose = arguments
    if mode != 0:
        raise UntraceableError("primitive QuantizedMatmul other than affine")
    x, weight, scales = inputs[:3]
    biases = inputs[3] if len(inputs) > 3 else None
    return mx.quantized_matmul(
        x, weight, scales, biases, transpose=transpose, group_size=group_size, bits=bits
    )


_UNARY: dict[str, Callable[..., mx.array]] = {
    "Abs": mx.abs, "ArcCos": mx.arccos, "ArcCosh": mx.arccosh, "ArcSin": mx.arcsin,
    "ArcSinh": mx.arcsinh, "ArcTan": mx.arctan, "ArcTanh": mx.arctanh,
    "Ceil": mx.ceil, "Conjugate": mx.conjugate,
    "Cos": mx.cos, "Cosh": mx.cosh, "Erf": mx.erf, "ErfInv": mx.erfinv, "Exp": mx.exp,
    "Expm1": mx.expm1, "Floor": mx.floor, "Imag": mx.imag, "Log1p": mx.log1p,
    "LogicalNot": mx.logical_not, "Negative": mx.negative, "Real": mx.real, "Round": mx.round,
    "Sigmoid": mx.sigmoid, "Sign": mx.sign, "Sin": mx.sin, "Sinh": mx.sinh, "Square": mx.square,
    "Tan": mx.tan, "Tanh": mx.tanh,
}  # fmt: skip
_BINARY: dict[str, Callable[..., mx.array]] = {
    "Add": mx.add, "ArcTan2": mx.arctan2, "Divide": mx.divide, "FloorDivide": mx.floor_divide,
    "Greater": mx.greater, "GreaterEqual": mx.greater_equal, "Less": mx.less,
    "LessEqual": mx.less_equal, "LogAddExp": mx.logaddexp, "LogicalAnd": mx.logical_and,
    "LogicalOr": mx.logical_or, "Matmul": mx.matmul, "Maximum": mx.maximum,
    "Minimum": mx.minimum, "Multiply": mx.multiply, "NotEqual": mx.not_equal, "Power": mx.power,
    "Remainder": mx.remainder, "Subtract": mx.subtract,
}  # fmt: skip

# Primitives whose every output entry depends on the entries at the same place alone.
ELEMENTWISE = (frozenset(_UNARY | _BINARY) - {"Matmul"}) | {"AsType", "Log", "Select", "Sqrt"}

# Those that keep the entries and their order.
REGROUPED = frozenset({"ExpandDims", "Flatten", "Reshape", "Squeeze", "Unflatten"})

OPERATIONS: dict[str, Operation] = {
    **{name: _elementwise(function) for name, function in (_UNARY | _BINARY).items()},
    "AddMM": _add_mm,
    "Arange": lambda x, a: mx.arange(a[0], a[1], a[2], dtype=a[3]),
    "ArgPartition": lambda x, a: mx.argpartition(x[0], a[0], axis=a[1]),
    "ArgReduce": lambda x, a: _ARGUMENT_REDUCTIONS[a[0]](x[0], axis=a[1], keepdims=True),
    "ArgSort": lambda x, a: mx.argsort(x[0], axis=a[0]),
    "AsStrided": lambda x, a: mx.as_strided(x[0], a[0], a[1], a[2]),
    "AsType": lambda x, a: x[0].astype(a[0]),
    "BitwiseBinary": lambda x, a: _BITWISE[a[0]](x[0], x[1]),
    "Broadcast": lambda x, a: mx.broadcast_to(x[0], a[0]),
    "Concatenate": lambda x, a: mx.concatenate(x, axis=a[0]),
    "Convolution": convolution,
    "DivMod": lambda x, a: list(mx.divmod(x[0], x[1])),
    "Equal": _equal,
    "ExpandDims": lambda x, a: mx.expand_dims(x[0], a[0]),
    "Flatten": lambda x, a: mx.flatten(x[0], a[0], a[1]),
    "Full": lambda x, a: mx.full(x[0].shape, x[0]),
    "Gather": _gather,
    "GatherAxis": lambda x, a: mx.take_along_axis(x[0], x[1], axis=a[0]),
    "GatherMM": _gather_mm,
    "Log": lambda x, a: _LOGARITHMS[a[0]](x[0]),
    "LogSumExp": lambda x, a: mx.logsumexp(x[0], axis=-1, keepdims=True),
    "MaskedScatter": _masked_scatter,
    "Pad": _pad,
    "Partition": lambda x, a: mx.partition(x[0], a[0], axis=a[1]),
    "QuantizedMatmul": _quantized_matmul,
    "Reduce": lambda x, a: _REDUCTIONS[a[0]](x[0], axis=a[1], keepdims=True),
    "Reshape": lambda x, a: mx.reshape(x[0], a[0]),
    "Scan": lambda x, a: _SCANS[a[0]](x[0], axis=a[1], reverse=a[2], inclusive=a[3]),
    "Scatter": _scatter,
    "ScatterAxis": _scatter_axis,
    "Select": lambda x, a: mx.where(x[0], x[1], x[2]),
    "Slice": _slice,
    "SliceUpdate": _slice_update,
    "Softmax": lambda x, a: mx.softmax(x[0], axis=-1, precise=a[0]),
    "Sort": lambda x, a: mx.sort(x[0], axis=a[0]),
    "Split": lambda x, a: list(mx.split(x[0], list(a[0]), axis=a[1])),
    "Sqrt": lambda x, a: mx.rsqrt(x[0]) if a[0] else mx.sqrt(x[0]),
    "Squeeze": lambda x, a: mx.squeeze(x[0], a[0]),
    "Transpose": lambda x, a: mx.transpose(x[0], a[0]),
    "Unflatten": lambda x, a: mx.unflatten(x[0], a[0], a[1]),
}

# Primitives that take indices or a mask.
_INDEXED = ("Gather", "GatherAxis", "GatherMM", "MaskedScatter", "Scatter", "ScatterAxis")

# By MLX itself, whose indices have no derivative.
INDEXED: dict[str, Operation] = {name: _indexed(OPERATIONS[name]) for name in _INDEXED}

# The same values by others, for what MLX differentiates or maps wrongly, or not at all.
RIGHT: dict[str, Operation] = {
    **INDEXED,
    "AsType": _right_as_type,
    "BitwiseBinary": _right_bitwise,
    "Convolution": right_convolution,
    # MLX's derivative is 0, and its vmap ends the process.
    "DivMod": lambda x, a: [mx.floor_divide(x[0], x[1]), mx.remainder(x[0], x[1])],
    "Full": lambda x, a: x[0],  # MLX multiplies a gradient by the value
    "GatherMM": _indexed(_right_gather_mm),
    "NotEqual": lambda x, a: _differ(x[0], x[1]),
    "Pad": _right_pad,
    "Power": _right_power,
    "SliceUpdate": _right_slice_update,
}

# ... and with a right forward rule, and a right derivative of their reverse rule.
TRANSPOSABLE: dict[str, Operation] = {
    **RIGHT,
    "AddMM": _add_mm_by_parts,
    "Convolution": convolution_by_patches,
}

# Either by custom functions where those are faster, for graphs that are run: MLX reports none.
FAST: dict[str, Operation] = {**RIGHT, "Convolution": convolve}
FAST_TRANSPOSABLE: dict[str, Operation] = {**TRANSPOSABLE, "Convolution": convolve}
