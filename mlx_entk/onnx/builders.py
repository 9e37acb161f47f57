"""How each MLX primitive is written in ONNX: one table, :data:`BUILDERS`.

A builder gets the emitter and a :class:`Primitive`, and returns the name of its ONNX value, or a
list of them. To export another primitive, add a line to the table.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_entk.errors import InputError
from mlx_entk.onnx.emitter import TYPES, Emitter
from mlx_entk.onnx.symbolic import FixedBatchError, Size


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


def _is_float(dtype: mx.Dtype) -> bool:
    return bool(mx.issubdtype(dtype, mx.floating))


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
    infinite = e.op("IsInf", [e.op("Cast", [x], to=TYPES[mx.float32])])
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
            name if dtype == mx.bool_ else e.op("Cast", [name], to=TYPES[mx.bool_])
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
    quotient = e.op("Div", p.inputs)
    return e.op("Floor", [quotient]) if _is_float(p.dtypes[0]) else quotient


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


def _maximum(kind: str) -> Builder:
    def build(e: Emitter, p: Primitive) -> str:
        if p.dtypes[0] == mx.bool_:
            return e.op("Or" if kind == "Max" else "And", p.inputs)
        return e.op(kind, p.inputs)

    return build


def _add_mm(e: Emitter, p: Primitive) -> str:
    alpha, beta = p.arguments
    product = e.op("MatMul", p.inputs[:2])
    dtype = p.dtypes[0]
    scaled = e.op("Mul", [product, e.number(alpha, dtype)]) if alpha != 1 else product
    addend = e.op("Mul", [p.inputs[2], e.number(beta, dtype)]) if beta != 1 else p.inputs[2]
    return e.op("Add", [scaled, addend])


def _as_type(e: Emitter, p: Primitive) -> str:
    return e.op("Cast", p.inputs, to=TYPES[p.arguments[0]])


def _arange(e: Emitter, p: Primitive) -> str:
    start, _, step, dtype = p.arguments
    if isinstance(start, Size) or isinstance(step, Size):
        raise p.refuse_free_batch("whose start depends on the batch")
    (count,) = p.output_shapes[0]
    if not isinstance(count, Size):
        return e.constant(start + step * np.arange(count), np.dtype(_numpy_name(dtype)))
    zero, one = e.constant(0), e.constant(1)
    scalar = e.op("Squeeze", [e.size(count)])
    steps = e.op("Cast", [e.op("Range", [zero, scalar, one])], to=TYPES[dtype])
    return e.op("Add", [e.op("Mul", [steps, e.number(step, dtype)]), e.number(start, dtype)])


def _numpy_name(dtype: mx.Dtype) -> str:
    if mx.issubdtype(dtype, mx.unsignedinteger):
        return "int64"
    return str(dtype).removeprefix("mlx.core.")


def _reduce(e: Emitter, p: Primitive) -> str:
    kind, axes = p.arguments
    name = ("Min", "Max", "Sum", "Prod", "Min", "Max")[kind]
    value = p.inputs[0]
    dtype = p.dtypes[0]
    logical = dtype == mx.bool_
    if logical:  # all, any, and counts
        value = e.op("Cast", [value], to=TYPES[mx.int32])
    reduced = e.op(f"Reduce{name}", [value, e.constant(list(axes))], keepdims=1)
    if p.output_dtypes[0] != dtype or logical:
        reduced = e.op("Cast", [reduced], to=TYPES[p.output_dtypes[0]])
    return reduced


def _arg_reduce(e: Emitter, p: Primitive) -> str:
    kind, axis = p.arguments
    return e.op(("ArgMin", "ArgMax")[kind], p.inputs, axis=axis, keepdims=1)


def _log_sum_exp(e: Emitter, p: Primitive) -> str:
    x, axes = p.inputs[0], e.constant([-1])
    peak = e.op("ReduceMax", [x, axes], keepdims=1)
    total = e.op("ReduceSum", [e.op("Exp", [e.op("Sub", [x, peak])]), axes], keepdims=1)
    return e.op("Add", [e.op("Log", [total]), peak])


def _scan(e: Emitter, p: Primitive) -> str:
    kind, axis, reverse, inclusive = p.arguments
    if kind != 2:
        raise p.refuse("other than a cumulative sum")
    return e.op(
        "CumSum", [p.inputs[0], e.constant(axis)], exclusive=int(not inclusive),
        reverse=int(reverse),
    )  # fmt: skip


def _sorted(values: bool, descending: bool = False) -> Builder:
    """Sort or argument sort along the axis that is the last argument, by TopK of all."""

    def build(e: Emitter, p: Primitive) -> str:
        axis = p.arguments[-1]
        found = [e.fresh(), e.fresh()]
        e.nodes.append(_top_k(p.inputs[0], e.size(p.shapes[0][axis]), found, axis, descending))
        return found[0 if values else 1]

    return build


def _top_k(value: str, count: str, outputs: list[str], axis: int, largest: bool) -> Any:
    from onnx import helper

    return helper.make_node(
        "TopK", [value, count], outputs, axis=axis, largest=int(largest), sorted=1
    )


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
    from onnx import helper

    axis = p.arguments[1]
    lengths = e.sizes([shape[axis] for shape in p.output_shapes])
    names = [e.fresh() for _ in p.output_shapes]
    e.nodes.append(helper.make_node("Split", [p.inputs[0], lengths], names, axis=axis))
    return names


def _slice(e: Emitter, p: Primitive) -> str:
    starts, stops, strides = p.arguments
    # A stop before the first entry, of a slice that goes backwards, is −1 in MLX.
    far = -(2**31)
    ends = [
        far if not isinstance(stop, Size) and stride < 0 and stop < 0 else stop
        for stop, stride in zip(stops, strides, strict=True)
    ]
    axes = e.constant(list(range(p.rank)))
    return e.op(
        "Slice", [p.inputs[0], e.sizes(starts), e.sizes(ends), axes, e.constant(list(strides))]
    )


def _slice_update(e: Emitter, p: Primitive) -> str:
    reduction, starts, stops, strides = p.arguments
    partial = [
        axis
        for axis, bounds in enumerate(zip(starts, stops, strides, strict=True))
        if bounds != (0, p.shapes[0][axis], 1)
    ]
    if any(isinstance(v, Size) for axis in partial for v in (starts[axis], stops[axis])):
        raise p.refuse_free_batch("with bounds that depend on the batch")
    ranges = [np.arange(starts[a], stops[a], strides[a]) for a in partial]
    order = [*partial, *(axis for axis in range(p.rank) if axis not in partial)]
    updates = p.inputs[1]
    if p.shapes[1] != p.shapes[0][:0] and len(p.shapes[1]) != p.rank:
        raise p.refuse("with updates of another rank")
    if not partial:
        return _combine(e, reduction, p.inputs[0], updates, p)
    grid = np.stack(np.meshgrid(*ranges, indexing="ij"), axis=-1)
    front = e.op("Transpose", [p.inputs[0]], perm=order)
    moved = e.op("Transpose", [updates], perm=order)
    rest = [p.shapes[0][axis] for axis in order[len(partial) :]]
    moved = e.op("Expand", [moved, e.sizes([*grid.shape[:-1], *rest])])
    scattered = e.op(
        "ScatterND", [front, e.constant(grid), moved], reduction=_reduction(p, reduction)
    )
    return e.op("Transpose", [scattered], perm=np.argsort(order).tolist())


def _combine(e: Emitter, reduction: int, data: str, updates: str, p: Primitive) -> str:
    updates = e.op("Expand", [updates, e.sizes(p.shapes[0])])
    kind = {"none": "", "add": "Add", "mul": "Mul", "max": "Max", "min": "Min"}
    name = kind[_reduction(p, reduction)]
    return e.op(name, [data, updates]) if name else updates


def _reduction(p: Primitive, kind: int) -> str:
    return ("max", "min", "add", "mul", "none")[kind]


def _indices(e: Emitter, p: Primitive, names: Sequence[str], axes: Sequence[int]) -> str:
    """Index arrays side by side on a last axis, for GatherND and ScatterND."""
    columns = []
    for name, dtype, axis in zip(names, p.dtypes[1:], axes, strict=False):
        value = (
            name if TYPES[dtype] == TYPES[mx.int64] else e.op("Cast", [name], to=TYPES[mx.int64])
        )
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
    scattered = e.op(
        "ScatterND", [front, _indices(e, p, indices, axes), moved],
        reduction=_reduction(p, reduction),
    )  # fmt: skip
    return e.op("Transpose", [scattered], perm=np.argsort(order).tolist())


def _index_input(e: Emitter, p: Primitive) -> str:
    name = p.inputs[1]
    return (
        name if TYPES[p.dtypes[1]] == TYPES[mx.int64] else e.op("Cast", [name], to=TYPES[mx.int64])
    )


def _gather_axis(e: Emitter, p: Primitive) -> str:
    return e.op("GatherElements", [p.inputs[0], _index_input(e, p)], axis=p.arguments[0])


def _scatter_axis(e: Emitter, p: Primitive) -> str:
    kind, axis = p.arguments
    # 0 adds, 1 assigns.
    reduction = ("add", "none")[kind]
    data, _, updates = p.inputs
    moved = e.op("Expand", [updates, e.sizes(p.shapes[1])])
    return e.op(
        "ScatterElements", [data, _index_input(e, p), moved], axis=axis, reduction=reduction
    )


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
    # Negative padding cuts, which Conv has no word for.
    if any(width < 0 for width in (*low, *high)):
        widths = e.constant([*low, *high])
        zero = e.number(0, p.dtypes[0])
        x = e.op("Pad", [x, widths, zero, e.constant(list(range(2, n + 2)))], mode="constant")
        low = high = (0,) * n
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
    "ArcTan": "Atan", "ArcTanh": "Atanh", "Ceil": "Ceil", "Cos": "Cos", "Cosh": "Cosh",
    "Erf": "Erf", "Exp": "Exp", "Floor": "Floor", "Negative": "Neg", "Round": "Round",
    "Sigmoid": "Sigmoid", "Sign": "Sign", "Sin": "Sin", "Sinh": "Sinh", "Tan": "Tan",
    "Tanh": "Tanh",
}  # fmt: skip
_BINARY = {
    "Add": "Add", "Divide": "Div", "Equal": "Equal", "Greater": "Greater",
    "GreaterEqual": "GreaterOrEqual", "Less": "Less", "LessEqual": "LessOrEqual",
    "Matmul": "MatMul", "Multiply": "Mul", "Subtract": "Sub",
}  # fmt: skip

BUILDERS: dict[str, Builder] = {
    **{name: _same(kind) for name, kind in (_UNARY | _BINARY).items()},
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
    "ExpandDims": _reshape,
    "Expm1": _expm1,
    "Flatten": _reshape,
    "FloorDivide": _floor_divide,
    "Full": _identity,
    "Gather": _gather,
    "GatherAxis": _gather_axis,
    "Log": _log,
    "Log1p": _log1p,
    "LogAddExp": _log_add_exp,
    "LogSumExp": _log_sum_exp,
    "LogicalAnd": _logical("And"),
    "LogicalNot": _logical("Not"),
    "LogicalOr": _logical("Or"),
    "Maximum": _maximum("Max"),
    "Minimum": _maximum("Min"),
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
