"""How each MLX primitive is written in ONNX: one table, :data:`BUILDERS`.

A builder gets the emitter and a :class:`Primitive`, and returns the name of its ONNX value, or a
list of them. To export another primitive, add a line to the table.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_entk.errors import InputError
from mlx_entk.onnx.emitter import TYPES, Emitter
from mlx_entk.onnx.symbolic import FixedBatchError, Size, combined, product_of


@dataclass(frozen=True)
class Primitive:
    """One primitive of a traced graph.

    Attributes
    ----------
    name
        As MLX reports it.
    inputs
        Names of its inputs in ONNX.
    arguments
        Its arguments, with :class:`Size` where they depend on the batch.
    shapes, dtypes
        Of its inputs.
    output_shapes, output_dtypes
        Of its outputs.
    """

    name: str
    inputs: list[str]
    arguments: tuple[Any, ...]
    shapes: list[tuple[Any, ...]]
    dtypes: list[mx.Dtype]
    output_shapes: list[tuple[Any, ...]]
    output_dtypes: list[mx.Dtype]

    @property
    def rank(self) -> int:
        """Of the first input."""
        return len(self.shapes[0])

    def refuse_free_batch(self, what: str) -> FixedBatchError:
        """The error for a form that can be written for one batch size alone."""
        return FixedBatchError(f"MLX primitive {self.name} {what}")

    def refuse(self, what: str) -> InputError:
        """The error for a form of the primitive that has no builder."""
        return InputError(
            f"MLX primitive {self.name} {what} cannot be exported: extend its builder in "
            "mlx_entk/onnx/builders.py"
        )


Built = str | list[str]
Builder = Callable[[Emitter, Primitive], Built]


def _same(kind: str) -> Builder:
    """A primitive that ONNX has under another name."""
    return lambda e, p: e.op(kind, p.inputs)


def _rounded(kind: str) -> Builder:
    """A rounding, which ONNX does not have of whole numbers."""
    return lambda e, p: e.op(kind, p.inputs) if _is_float(p.dtypes[0]) else p.inputs[0]


def _equal(e: Emitter, p: Primitive) -> str:
    same = e.op("Equal", p.inputs)
    if not p.arguments[0] or not _is_float(p.dtypes[0]):
        return same
    both_lost = e.op("And", [e.op("IsNaN", [value]) for value in p.inputs])
    return e.op("Or", [same, both_lost])


def _is_float(dtype: mx.Dtype) -> bool:
    return bool(mx.issubdtype(dtype, mx.floating))


def _is_infinite(e: Emitter, value: str, dtype: mx.Dtype) -> str:
    wide = dtype in (mx.float32, mx.float64)  # ONNX asks this of no narrower ones
    return e.op("IsInf", [value if wide else e.cast(value, mx.float32)])


def _square(e: Emitter, p: Primitive) -> str:
    return e.op("Mul", [p.inputs[0], p.inputs[0]])


def _sqrt(e: Emitter, p: Primitive) -> str:
    root = e.op("Sqrt", p.inputs)
    return e.op("Reciprocal", [root]) if p.arguments[0] else root


def _log(e: Emitter, p: Primitive) -> str:
    natural = e.op("Log", p.inputs)
    base = (2.0, 10.0, math.e)[p.arguments[0]]
    if base == math.e:
        return natural
    return e.op("Mul", [natural, e.number(1 / math.log(base), p.dtypes[0])])


def _log1p(e: Emitter, p: Primitive) -> str:
    # log(1 + x)·x / ((1 + x) − 1) keeps the digits of a small x (Kahan); x itself where 1 + x = 1.
    x, one = p.inputs[0], e.number(1, p.dtypes[0])
    shifted = e.op("Add", [x, one])
    back = e.op("Sub", [shifted, one])
    rounds = e.op("Equal", [back, e.number(0, p.dtypes[0])])
    infinite = _is_infinite(e, x, p.dtypes[0])
    safe = e.op("Where", [rounds, one, back])
    log = e.op("Log", [shifted])
    value = e.op("Where", [rounds, x, e.op("Mul", [log, e.op("Div", [x, safe])])])
    return e.op("Where", [infinite, log, value])


def _expm1(e: Emitter, p: Primitive) -> str:
    # tanh(x/2)·(e^x + 1) keeps the digits of a small x; for a large one e^x − 1 is exact enough.
    x, one = p.inputs[0], e.number(1, p.dtypes[0])
    exp = e.op("Exp", [x])
    half = e.op("Tanh", [e.op("Mul", [x, e.number(0.5, p.dtypes[0])])])
    small = e.op("Less", [e.op("Abs", [x]), one])
    bounded = e.op("Where", [small, exp, one])
    precise = e.op("Mul", [half, e.op("Add", [bounded, one])])
    return e.op("Where", [small, precise, e.op("Sub", [exp, one])])


def _log_add_exp(e: Emitter, p: Primitive) -> str:
    # max + log(1 + e^−|difference|); equal infinities have no difference.
    a, b = p.inputs
    larger = e.op("Max", [a, b])
    zero = e.number(0, p.dtypes[0])
    difference = e.op("Where", [e.op("Equal", [a, b]), zero, e.op("Sub", [a, b])])
    small = e.op("Exp", [e.op("Neg", [e.op("Abs", [difference])])])
    log = e.op("Log", [e.op("Add", [small, e.number(1, p.dtypes[0])])])
    return e.op("Add", [larger, log])


def _arctan2(e: Emitter, p: Primitive) -> str:
    y, x = p.inputs
    dtype = p.dtypes[0]
    zero = e.number(0, dtype)
    x_is_zero = e.op("Equal", [x, zero])
    safe = e.op("Where", [x_is_zero, e.number(1, dtype), x])
    angle = e.op("Atan", [e.op("Div", [y, safe])])
    below = e.op("Less", [y, zero])
    half_turn = e.op("Where", [below, e.number(-math.pi, dtype), e.number(math.pi, dtype)])
    turned = e.op("Add", [angle, half_turn])
    angle = e.op("Where", [e.op("Less", [x, zero]), turned, angle])
    upright = e.op("Mul", [e.op("Sign", [y]), e.number(math.pi / 2, dtype)])
    return e.op("Where", [x_is_zero, upright, angle])


def _logical(kind: str) -> Builder:
    def build(e: Emitter, p: Primitive) -> str:
        values = [
            name if dtype == mx.bool_ else e.cast(name, mx.bool_)
            for name, dtype in zip(p.inputs, p.dtypes, strict=True)
        ]
        return e.op(kind, values)

    return build


def _bitwise(e: Emitter, p: Primitive) -> str:
    kind = p.arguments[0]
    if kind > 2:  # ONNX shifts unsigned integers alone, which are int64 here
        raise p.refuse("that shifts")
    name = ("And", "Or", "Xor")[kind]
    return e.op(name if p.dtypes[0] == mx.bool_ else f"Bitwise{name}", p.inputs)


def _floor_divide(e: Emitter, p: Primitive) -> str:
    a, b = p.inputs
    if _is_float(p.dtypes[0]):
        return e.op("Floor", [e.op("Div", [a, b])])
    return e.op("Div", [e.op("Sub", [a, e.op("Mod", [a, b])]), b])  # Div alone goes towards zero


def _remainder(e: Emitter, p: Primitive) -> str:
    if not _is_float(p.dtypes[0]):
        return e.op("Mod", p.inputs)
    a, b = p.inputs
    whole = e.op("Floor", [e.op("Div", [a, b])])
    return e.op("Sub", [a, e.op("Mul", [whole, b])])


def _div_mod(e: Emitter, p: Primitive) -> list[str]:
    return [_floor_divide(e, p), _remainder(e, p)]


def _power(e: Emitter, p: Primitive) -> str:
    return e.op("Pow", p.inputs)


def _add_mm(e: Emitter, p: Primitive) -> str:
    alpha, beta = p.arguments
    product = e.op("MatMul", p.inputs[:2])
    dtype = p.dtypes[0]
    scaled = e.op("Mul", [product, e.number(alpha, dtype)]) if alpha != 1 else product
    addend = e.op("Mul", [p.inputs[2], e.number(beta, dtype)]) if beta != 1 else p.inputs[2]
    return e.op("Add", [scaled, addend])


def _as_type(e: Emitter, p: Primitive) -> str:
    return e.cast(p.inputs[0], p.arguments[0])


def _arange(e: Emitter, p: Primitive) -> str:
    start, _, step, dtype = p.arguments
    if isinstance(start, Size) or isinstance(step, Size):
        raise p.refuse_free_batch("whose start depends on the batch")
    (count,) = p.output_shapes[0]
    if not isinstance(count, Size):
        return e.number(start + step * np.arange(count), dtype)
    steps = e.cast(e.range(0, 1, count), dtype)
    return e.op("Add", [e.op("Mul", [steps, e.number(step, dtype)]), e.number(start, dtype)])


def _reduce(e: Emitter, p: Primitive) -> str:
    kind, axes = p.arguments
    name = ("Min", "Max", "Sum", "Prod", "Min", "Max")[kind]
    value, dtype = p.inputs[0], p.dtypes[0]
    if kind < 2 and p.output_dtypes[0] == mx.bool_:  # all and any, of numbers too
        zero = e.number(0, dtype)
        value, dtype = e.cast(e.op("Not", [e.op("Equal", [value, zero])]), mx.int32), mx.int32
    reduced = e.op(f"Reduce{name}", [value, e.constant(list(axes))], keepdims=1)
    return reduced if p.output_dtypes[0] == dtype else e.cast(reduced, p.output_dtypes[0])


def _arg_reduce(e: Emitter, p: Primitive) -> str:
    kind, axis = p.arguments
    return e.op(("ArgMin", "ArgMax")[kind], p.inputs, axis=axis, keepdims=1)


def _log_sum_exp(e: Emitter, p: Primitive) -> str:
    x, axes, dtype = p.inputs[0], e.constant([-1]), p.dtypes[0]
    peak = e.op("ReduceMax", [x, axes], keepdims=1)
    # Infinities have no difference: what is all −∞, a masked row, gives −∞.
    peak = e.op("Where", [_is_infinite(e, peak, dtype), e.number(0, dtype), peak])
    total = e.op("ReduceSum", [e.op("Exp", [e.op("Sub", [x, peak])]), axes], keepdims=1)
    return e.op("Add", [e.op("Log", [total]), peak])


def _scan(e: Emitter, p: Primitive) -> str:
    kind, axis, reverse, inclusive = p.arguments
    name = ("Max", "Min", "Sum", "Mul", "LogSumExp")[kind]
    value, dtype = p.inputs[0], p.dtypes[0]
    if name == "LogSumExp":
        raise p.refuse("that adds logarithms")
    if name == "Sum":
        exclusive = int(not inclusive)
        inputs = [value, e.constant(axis)]
        value = e.op("CumSum", inputs, exclusive=exclusive, reverse=int(reverse))
    else:
        length = p.shapes[0][axis]
        if isinstance(length, Size):
            raise p.refuse_free_batch("along the batch, other than a sum")
        neutral = e.number(_neutral(name, p), dtype)
        if not inclusive:
            value = _shifted(e, p, value, 1, neutral)
        # After the step that reaches back by r, an entry stands for the 2r that end with it.
        reach = 1
        while reach < length:
            value = e.op(name, [value, _shifted(e, p, value, reach, neutral)])
            reach *= 2
    return value if p.output_dtypes[0] == dtype else e.cast(value, p.output_dtypes[0])


def _shifted(e: Emitter, p: Primitive, value: str, by: int, fill: str) -> str:
    """The entries along the axis of a scan, moved on in its direction; ``fill`` moves in."""
    _, axis, reverse, _ = p.arguments
    length = p.shapes[0][axis]
    at = e.constant([axis])
    first = by if reverse else 0
    kept = e.op("Slice", [value, e.constant([first]), e.constant([first + length - by]), at])
    widths = [0, by] if reverse else [by, 0]
    return e.op("Pad", [kept, e.constant(widths), fill, at], mode="constant")


def _neutral(name: str, p: Primitive) -> float:
    """What changes nothing in a product, a maximum or a minimum of the type that MLX has."""
    if name == "Mul":
        return 1
    dtype = p.output_dtypes[0]
    if _is_float(dtype):
        return -math.inf if name == "Max" else math.inf
    if dtype == mx.bool_:
        return int(name == "Min")
    limits = mx.iinfo(dtype)
    return int(limits.min if name == "Max" else limits.max)


def _sorted(values: bool) -> Builder:
    """Sort or argument sort along the axis that is the last argument, by TopK of all."""

    def build(e: Emitter, p: Primitive) -> str:
        axis = p.arguments[-1]
        inputs = [p.inputs[0], e.size(p.shapes[0][axis])]
        outputs = [e.fresh(), e.fresh()]
        found = e.outputs("TopK", inputs, outputs, axis=axis, largest=0, sorted=1)
        return found[0 if values else 1]

    return build


def _broadcast(e: Emitter, p: Primitive) -> str:
    if p.shapes[0] == p.output_shapes[0]:
        return p.inputs[0]
    return e.op("Expand", [p.inputs[0], e.sizes(p.output_shapes[0])])


def _reshape(e: Emitter, p: Primitive) -> str:
    return e.reshape(p.inputs[0], p.output_shapes[0])


def _transpose(e: Emitter, p: Primitive) -> str:
    return e.op("Transpose", p.inputs, perm=list(p.arguments[0]))


def _concatenate(e: Emitter, p: Primitive) -> str:
    return e.op("Concat", p.inputs, axis=p.arguments[0])


def _split(e: Emitter, p: Primitive) -> list[str]:
    axis = p.arguments[1]
    lengths = e.sizes([shape[axis] for shape in p.output_shapes])
    names = [e.fresh() for _ in p.output_shapes]
    return e.outputs("Split", [p.inputs[0], lengths], names, axis=axis)


def _slice(e: Emitter, p: Primitive) -> str:
    starts, _, strides = p.arguments
    ends = [
        _end(start, stride, count)
        for start, stride, count in zip(starts, strides, p.output_shapes[0], strict=True)
    ]
    axes = e.constant(list(range(p.rank)))
    return e.op(
        "Slice", [p.inputs[0], e.sizes(starts), e.sizes(ends), axes, e.constant(list(strides))]
    )


# Before the first entry of any axis, where a slice that goes backwards may end. ONNX would count a
# plain −1 from the last entry.
_FAR = -(2**31)


def _end(start: Any, stride: int, count: Any) -> Any:
    """Where a slice of so many entries ends, whichever way its stop was written."""
    end = combined((1, start), (stride, count))
    return end if isinstance(end, Size) or end >= 0 else _FAR


def _slice_update(e: Emitter, p: Primitive) -> str:
    reduction, starts, _, strides = p.arguments
    data, updates = p.inputs
    shape, counts = p.shapes
    if len(counts) != p.rank:
        raise p.refuse("with updates of another rank")
    if 0 in counts:
        return data
    parts = list(zip(starts, strides, counts, strict=True))
    partial = [axis for axis in range(p.rank) if parts[axis] != (0, 1, shape[axis])]
    if not partial:
        return _combine(e, reduction, data, updates, p)
    order = [*partial, *(axis for axis in range(p.rank) if axis not in partial)]
    front = e.op("Transpose", [data], perm=order)
    moved = e.op("Transpose", [updates], perm=order)
    grid = _grid(e, [parts[axis] for axis in partial])
    scattered = e.op("ScatterND", [front, grid, moved], reduction=_reduction(reduction))
    return e.op("Transpose", [scattered], perm=np.argsort(order).tolist())


def _grid(e: Emitter, parts: Sequence[tuple[Any, int, Any]]) -> str:
    """The entries of a slice of several axes, each of a start, a stride and a count.

    Shape (counts, axes): what ScatterND takes.
    """
    counts = [count for _, _, count in parts]
    columns = []
    for axis, (start, stride, count) in enumerate(parts):
        along = [count if other == axis else 1 for other in range(len(parts))]
        positions = e.reshape(e.range(start, stride, count), along)
        columns.append(e.reshape(e.op("Expand", [positions, e.sizes(counts)]), [*counts, 1]))
    return e.op("Concat", columns, axis=-1) if len(columns) > 1 else columns[0]


def _combine(e: Emitter, reduction: int, data: str, updates: str, p: Primitive) -> str:
    updates = e.op("Expand", [updates, e.sizes(p.shapes[0])])
    kind = {"none": "", "add": "Add", "mul": "Mul", "max": "Max", "min": "Min"}
    name = kind[_reduction(reduction)]
    return e.op(name, [data, updates]) if name else updates


def _reduction(kind: int) -> str:
    return ("max", "min", "add", "mul", "none")[kind]


def _indices(e: Emitter, p: Primitive, names: Sequence[str], axes: Sequence[int]) -> str:
    """Index arrays side by side on a last axis, for GatherND and ScatterND."""
    columns = []
    for name, dtype, axis in zip(names, p.dtypes[1:], axes, strict=False):
        value = _as_index(e, name, dtype)
        if not isinstance(p.shapes[0][axis], Size):  # MLX counts negative indices from the end
            length = e.constant(p.shapes[0][axis])
            negative = e.op("Less", [value, e.constant(0)])
            value = e.op("Where", [negative, e.op("Add", [value, length]), value])
        columns.append(e.op("Unsqueeze", [value, e.constant([-1])]))
    return e.op("Concat", columns, axis=-1) if len(columns) > 1 else columns[0]


def _gather(e: Emitter, p: Primitive) -> str:
    axes, sizes = p.arguments
    if not axes:
        return e.reshape(p.inputs[0], p.output_shapes[0])
    kept = [axis for axis in range(p.rank) if axis not in axes]
    if any(sizes[axis] != 1 for axis in axes):
        raise p.refuse("of more than one entry at a time")
    front = e.op("Transpose", [p.inputs[0]], perm=[*axes, *kept])
    for axis in kept:
        if sizes[axis] != p.shapes[0][axis]:
            if isinstance(sizes[axis], Size):
                raise p.refuse_free_batch("of a part of the batch")
            at = e.constant([len(axes) + kept.index(axis)])
            front = e.op("Slice", [front, e.constant([0]), e.constant([sizes[axis]]), at])
    found = e.op("GatherND", [front, _indices(e, p, p.inputs[1:], axes)])
    return e.reshape(found, p.output_shapes[0])


def _scatter(e: Emitter, p: Primitive) -> str:
    reduction, axes = p.arguments
    data, *indices, updates = p.inputs
    if not axes:
        return _combine(e, reduction, data, e.reshape(updates, p.shapes[-1]), p)
    rank, shape = p.rank, p.shapes[-1]
    kept = [axis for axis in range(rank) if axis not in axes]
    ahead = len(shape) - rank  # axes of the indices come first, then those of the slices
    for axis in range(rank):
        expected = 1 if axis in axes else p.shapes[0][axis]
        if shape[ahead + axis] != expected:
            raise p.refuse("of slices that are only a part of an axis")
    order = [*axes, *kept]
    front = e.op("Transpose", [data], perm=order)
    target = [*shape[:ahead], *(shape[ahead + axis] for axis in kept)]
    moved = e.reshape(updates, target)
    inputs = [front, _indices(e, p, indices, axes), moved]
    scattered = e.op("ScatterND", inputs, reduction=_reduction(reduction))
    return e.op("Transpose", [scattered], perm=np.argsort(order).tolist())


def _gather_mm(e: Emitter, p: Primitive) -> str:
    # The arguments say whether the indices are sorted, which changes nothing but speed.
    products = []
    for number, name in enumerate(p.inputs[:2]):
        *batch, rows, columns = p.shapes[number]
        matrices = e.reshape(name, [product_of(batch), rows, columns])
        index = _as_index(e, p.inputs[2 + number], p.dtypes[2 + number])
        # Not Gather: onnxruntime makes a wrong Slice of one whose indices count up.
        index = e.op("Unsqueeze", [index, e.constant([-1])])
        products.append(e.op("GatherND", [matrices, index]))
    return e.op("MatMul", products)


def _as_index(e: Emitter, name: str, dtype: mx.Dtype) -> str:
    return name if TYPES[dtype] == TYPES[mx.int64] else e.cast(name, mx.int64)


def _gather_axis(e: Emitter, p: Primitive) -> str:
    return e.op(
        "GatherElements", [p.inputs[0], _as_index(e, p.inputs[1], p.dtypes[1])], axis=p.arguments[0]
    )


def _scatter_axis(e: Emitter, p: Primitive) -> str:
    kind, axis = p.arguments
    # 0 adds, 1 assigns.
    reduction = ("add", "none")[kind]
    data, _, updates = p.inputs
    moved = e.op("Expand", [updates, e.sizes(p.shapes[1])])
    inputs = [data, _as_index(e, p.inputs[1], p.dtypes[1]), moved]
    return e.op("ScatterElements", inputs, axis=axis, reduction=reduction)


def _pad(e: Emitter, p: Primitive) -> str:
    axes, low, high = p.arguments
    widths = e.constant([*low, *high])
    return e.op("Pad", [p.inputs[0], widths, p.inputs[1], e.constant(list(axes))], mode="constant")


def _convolution(e: Emitter, p: Primitive) -> str:
    stride, low, high, kernel_dilation, input_dilation, groups, flip = p.arguments
    x, weight = p.inputs
    n = p.rank - 2
    to_front = [0, n + 1, *range(1, n + 1)]
    x = e.op("Transpose", [x], perm=to_front)
    weight = e.op("Transpose", [weight], perm=to_front)
    if flip:
        axes = list(range(2, n + 2))
        back = [-1] * n
        far = [-(2**31)] * n
        weight = e.op("Slice", [weight, *(e.constant(v) for v in (back, far, axes, back))])
    spatial = [p.shapes[0][1 + i] for i in range(n)]
    for i, gap in enumerate(input_dilation):
        if gap > 1:  # zeros between the entries: one more axis, padded, folded, cut
            at = 3 + i
            x = e.op("Unsqueeze", [x, e.constant([at])])
            widths = e.constant([0, gap - 1])
            zero = e.number(0, p.dtypes[0])
            x = e.op("Pad", [x, widths, zero, e.constant([at])], mode="constant")
            batch, channels = p.shapes[0][0], p.shapes[0][-1]
            sizes = [*spatial[:i], spatial[i] * gap, *spatial[i + 1 :]]
            x = e.reshape(x, [batch, channels, *sizes])
            spatial[i] = (spatial[i] - 1) * gap + 1
            cut = [e.constant([v]) for v in (0, spatial[i], 2 + i)]
            x = e.op("Slice", [x, *cut])
    for i, (before, after) in enumerate(zip(low, high, strict=True)):
        if before < 0 or after < 0:  # it cuts, which Conv has no word for
            end = combined((1, spatial[i]), (1, min(after, 0)))
            x = e.op(
                "Slice",
                [x, e.constant([max(-before, 0)]), e.size(end), e.constant([2 + i])],
            )
    low, high = ([max(width, 0) for width in widths] for widths in (low, high))
    found = e.op(
        "Conv", [x, weight], strides=list(stride), pads=[*low, *high],
        dilations=list(kernel_dilation), group=groups,
    )  # fmt: skip
    return e.op("Transpose", [found], perm=[0, *range(2, n + 2), 1])


def _as_strided(e: Emitter, p: Primitive) -> str:
    (total,), (shape, strides, offset) = p.shapes[0], p.arguments
    batch, row = shape[0], strides[0]
    # A free batch has to be in front, each input its own row: windows are then the same in all.
    free = isinstance(batch, Size)
    if free and total == Size(tuple((sizes, row * k) for sizes, k in batch.coefficients)):
        shape, strides, total = shape[1:], strides[1:], row
    if any(isinstance(v, Size) for v in (total, *shape, *strides, offset)):
        raise p.refuse_free_batch("over a free batch")
    at = offset + sum(
        (np.arange(n) * s).reshape([-1 if i == k else 1 for k in range(len(shape))])
        for i, (n, s) in enumerate(zip(shape, strides, strict=True))
    )
    if free and (at.min() < 0 or at.max() >= total):
        raise p.refuse_free_batch("over several inputs at a time")
    flat = e.reshape(p.inputs[0], [batch, row] if free else [total])
    return e.op("Gather", [flat, e.constant(at)], axis=int(free))


def _identity(e: Emitter, p: Primitive) -> str:
    return p.inputs[0]


_UNARY = {
    "Abs": "Abs", "ArcCos": "Acos", "ArcCosh": "Acosh", "ArcSin": "Asin", "ArcSinh": "Asinh",
    "ArcTan": "Atan", "ArcTanh": "Atanh", "Cos": "Cos", "Cosh": "Cosh", "Erf": "Erf",
    "Exp": "Exp", "Negative": "Neg", "Sigmoid": "Sigmoid", "Sign": "Sign", "Sin": "Sin",
    "Sinh": "Sinh", "Tan": "Tan",
    "Tanh": "Tanh",
}  # fmt: skip
_BINARY = {
    "Add": "Add", "Divide": "Div", "Greater": "Greater", "GreaterEqual": "GreaterOrEqual",
    "Less": "Less", "LessEqual": "LessOrEqual", "Matmul": "MatMul", "Maximum": "Max",
    "Minimum": "Min", "Multiply": "Mul", "Subtract": "Sub",
}  # fmt: skip

# Operators that onnxruntime does not have of every type of MLX, by what they do not have; they
# compute in a wider one.
_LOGICAL_OR_SMALL = {mx.bool_: mx.int32, mx.int8: mx.int32, mx.int16: mx.int32}
_BRAIN = {mx.bfloat16: mx.float32}
_HALF = {mx.float16: mx.float32, **_BRAIN}
_WIDER: dict[str, dict[mx.Dtype, mx.Dtype]] = {
    **dict.fromkeys(
        (
            "Abs", "Add", "Divide", "FloorDivide", "DivMod", "Greater", "GreaterEqual", "Less",
            "LessEqual", "Maximum", "Minimum", "Multiply", "Negative", "Pad", "Power", "Reduce",
            "Remainder", "Scan", "Select", "Sign", "Square", "Subtract",
        ),
        _LOGICAL_OR_SMALL,
    ),
    **dict.fromkeys(
        ("ArgPartition", "ArgReduce", "ArgSort", "Partition", "Sort"), _LOGICAL_OR_SMALL | _BRAIN
    ),
    **dict.fromkeys(("Scatter", "ScatterAxis", "SliceUpdate"), _LOGICAL_OR_SMALL | _HALF),
    **dict.fromkeys(
        (
            "ArcCos", "ArcCosh", "ArcSin", "ArcSinh", "ArcTan", "ArcTan2", "ArcTanh",
            "Convolution", "Cos", "Cosh", "Round", "Sin", "Sinh", "Tan",
        ),
        _BRAIN,
    ),
}  # fmt: skip


def _widened(name: str, build: Builder) -> Builder:
    """A builder that computes in wider types where :data:`_WIDER` has some for its primitive."""
    wider = _WIDER.get(name, {})

    def build_wider(e: Emitter, p: Primitive) -> Built:
        kept = 1 if name == "Select" else 0  # its condition
        given = [dtype if i < kept else wider.get(dtype, dtype) for i, dtype in enumerate(p.dtypes)]
        if given == p.dtypes:
            return build(e, p)
        inputs = [
            value if dtype == wide else e.cast(value, wide)
            for value, dtype, wide in zip(p.inputs, p.dtypes, given, strict=True)
        ]
        built = build(e, replace(p, inputs=inputs, dtypes=given))
        found = [
            e.cast(value, dtype) if dtype in wider else value
            for value, dtype in zip(
                [built] if isinstance(built, str) else built, p.output_dtypes, strict=True
            )
        ]
        return found[0] if isinstance(built, str) else found

    return build_wider


_PLAIN: dict[str, Builder] = {
    **{name: _same(kind) for name, kind in (_UNARY | _BINARY).items()},
    **{name: _rounded(name) for name in ("Ceil", "Floor", "Round")},
    "AddMM": _add_mm,
    "Arange": _arange,
    "ArcTan2": _arctan2,
    "ArgPartition": _sorted(values=False),
    "ArgReduce": _arg_reduce,
    "ArgSort": _sorted(values=False),
    "AsStrided": _as_strided,
    "AsType": _as_type,
    "BitwiseBinary": _bitwise,
    "Broadcast": _broadcast,
    "BroadcastAxes": _broadcast,
    "Concatenate": _concatenate,
    "Contiguous": _identity,
    "Convolution": _convolution,
    "Copy": _identity,
    "DivMod": _div_mod,
    "Equal": _equal,
    "ExpandDims": _reshape,
    "Expm1": _expm1,
    "Flatten": _reshape,
    "FloorDivide": _floor_divide,
    "Full": _identity,
    "Gather": _gather,
    "GatherAxis": _gather_axis,
    "GatherMM": _gather_mm,
    "Log": _log,
    "Log1p": _log1p,
    "LogAddExp": _log_add_exp,
    "LogSumExp": _log_sum_exp,
    "LogicalAnd": _logical("And"),
    "LogicalNot": _logical("Not"),
    "LogicalOr": _logical("Or"),
    "NotEqual": lambda e, p: e.op("Not", [e.op("Equal", p.inputs)]),
    "Pad": _pad,
    "Partition": _sorted(values=True),
    "Power": _power,
    "Reduce": _reduce,
    "Remainder": _remainder,
    "Reshape": _reshape,
    "Scan": _scan,
    "Scatter": _scatter,
    "ScatterAxis": _scatter_axis,
    "Select": lambda e, p: e.op("Where", p.inputs),
    "Slice": _slice,
    "SliceUpdate": _slice_update,
    "Softmax": lambda e, p: e.op("Softmax", p.inputs, axis=-1),
    "Sort": _sorted(values=True),
    "Split": _split,
    "Sqrt": _sqrt,
    "Square": _square,
    "Squeeze": _reshape,
    "StopGradient": _identity,
    "Transpose": _transpose,
    "Unflatten": _reshape,
}

BUILDERS: dict[str, Builder] = {name: _widened(name, build) for name, build in _PLAIN.items()}
