"""Primitives that combine entries along an axis: reductions, scans and sorting."""

import math
from dataclasses import dataclass

import mlx.core as mx

from mlx_entk.onnx.builders.primitive import Builder, Primitive, is_float, is_infinite
from mlx_entk.onnx.emitter import Emitter
from mlx_entk.onnx.symbolic import Size


def _reduce(e: Emitter, p: Primitive) -> str:
    kind, axes = p.arguments
    name = ("Min", "Max", "Sum", "Prod", "Min", "Max")[kind]
    value, dtype = p.inputs[0], p.dtypes[0]
    if kind < 2 and p.output_dtypes[0] == mx.bool_:  # all and any, which also take numbers
        zero = e.number(0, dtype)
        value, dtype = e.cast(e.op("Not", [e.op("Equal", [value, zero])]), mx.int32), mx.int32
    if name == "Prod" and not is_float(dtype) and 0 not in p.shapes[0]:
        reduced = _product(e, p, value, dtype)
    else:
        reduced = e.op(f"Reduce{name}", [value, e.constant(list(axes))], keepdims=1)
    return reduced if p.output_dtypes[0] == dtype else e.cast(reduced, p.output_dtypes[0])


def _product(e: Emitter, p: Primitive, value: str, dtype: mx.Dtype) -> str:
    """Multiply whole numbers: onnxruntime's ReduceProd does so in floating point."""
    for axis in p.arguments[1]:
        length = p.shapes[0][axis]
        if isinstance(length, Size):
            raise p.refuse_free_batch("multiplies along the batch")
        value = _running(e, "Mul", value, _Line(axis, length), e.number(1, dtype))
        value = e.op("Slice", [value, *(e.constant([at]) for at in (length - 1, length, axis))])
    return value


def _arg_reduce(e: Emitter, p: Primitive) -> str:
    kind, axis = p.arguments
    return e.op(("ArgMin", "ArgMax")[kind], p.inputs, axis=axis, keepdims=1)


def _log_sum_exp(e: Emitter, p: Primitive) -> str:
    x, axes, dtype = p.inputs[0], e.constant([-1]), p.dtypes[0]
    peak = e.op("ReduceMax", [x, axes], keepdims=1)
    # A row of −∞ alone, as masks leave it, has to give −∞, and −∞ − (−∞) would be NaN.
    peak = e.op("Where", [is_infinite(e, peak, dtype), e.number(0, dtype), peak])
    total = e.op("ReduceSum", [e.op("Exp", [e.op("Sub", [x, peak])]), axes], keepdims=1)
    return e.op("Add", [e.op("Log", [total]), peak])


def _scan(e: Emitter, p: Primitive) -> str:
    kind, axis, reverse, inclusive = p.arguments
    name = ("Max", "Min", "Sum", "Mul", "LogSumExp")[kind]
    value, dtype = p.inputs[0], p.dtypes[0]
    if name == "LogSumExp":
        raise p.refuse("if it adds logarithms")
    if name == "Sum":
        exclusive = int(not inclusive)
        inputs = [value, e.constant(axis)]
        value = e.op("CumSum", inputs, exclusive=exclusive, reverse=int(reverse))
    else:
        length = p.shapes[0][axis]
        if isinstance(length, Size):
            raise p.refuse_free_batch("runs along the batch and is not a sum")
        neutral = e.number(_neutral(name, p), dtype)
        line = _Line(axis, length, reverse)
        if not inclusive:
            value = _shifted(e, value, line, 1, neutral)
        value = _running(e, name, value, line, neutral)
    return value if p.output_dtypes[0] == dtype else e.cast(value, p.output_dtypes[0])


@dataclass(frozen=True)
class _Line:
    """An axis, its length, and whether it is gone along from its end."""

    axis: int
    length: int
    reverse: bool = False


def _running(e: Emitter, name: str, value: str, line: _Line, neutral: str) -> str:
    """Combine each entry with all that come before it."""
    # After the step that looks back by r, an entry combines the 2r entries that end with it.
    reach = 1
    while reach < line.length:
        value = e.op(name, [value, _shifted(e, value, line, reach, neutral)])
        reach *= 2
    return value


def _shifted(e: Emitter, value: str, line: _Line, by: int, fill: str) -> str:
    """Move the entries along a line; ``fill`` takes the places that become free."""
    at = e.constant([line.axis])
    first = by if line.reverse else 0
    kept = e.op("Slice", [value, e.constant([first]), e.constant([first + line.length - by]), at])
    widths = [0, by] if line.reverse else [by, 0]
    return e.op("Pad", [kept, e.constant(widths), fill, at], mode="constant")


def _neutral(name: str, p: Primitive) -> float:
    """Return what leaves a product, a maximum or a minimum unchanged, in MLX's type."""
    if name == "Mul":
        return 1
    dtype = p.output_dtypes[0]
    if is_float(dtype):
        return -math.inf if name == "Max" else math.inf
    if dtype == mx.bool_:
        return int(name == "Min")
    limits = mx.iinfo(dtype)
    return int(limits.min) if name == "Max" else min(int(limits.max), 2**63 - 1)


def _sorted(values: bool) -> Builder:
    """Return a builder for sort or argsort along the axis in the last argument: TopK of all."""

    def build(e: Emitter, p: Primitive) -> str:
        axis = p.arguments[-1]
        inputs = [p.inputs[0], e.size(p.shapes[0][axis])]
        outputs = [e.fresh(), e.fresh()]
        entries, order = e.outputs("TopK", inputs, outputs, axis=axis, largest=0, sorted=1)
        return entries if values else order

    return build


REDUCTIONS: dict[str, Builder] = {
    "ArgPartition": _sorted(values=False),
    "ArgReduce": _arg_reduce,
    "ArgSort": _sorted(values=False),
    "LogSumExp": _log_sum_exp,
    "Partition": _sorted(values=True),
    "Reduce": _reduce,
    "Scan": _scan,
    "Softmax": lambda e, p: e.op("Softmax", p.inputs, axis=-1),
    "Sort": _sorted(values=True),
}
