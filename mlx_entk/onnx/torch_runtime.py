"""Exported graphs as PyTorch functions, which its autograd can differentiate.

onnx2torch, the maintained library for this, lacks ReduceMax and Split of opset 18 and requires
torchvision. The operators here are those that the exporter writes.
"""

from collections.abc import Callable
from functools import reduce
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from mlx_entk.onnx.precision import is_weight

if TYPE_CHECKING:
    import torch

Tensors = dict[str, "torch.Tensor"]


def as_torch(model: onnx.ModelProto) -> tuple[Tensors, Callable[[Tensors, Any], Any]]:
    """Return the weights in double precision, and ``function(weights, x)`` for the first output.

    Raises
    ------
    NotImplementedError
        If the graph has an operator that is missing here; the message names it.
    """
    import torch

    operators = operators_of(torch)
    unknown = sorted({node.op_type for node in model.graph.node} - operators.keys())
    if unknown:
        raise NotImplementedError(f"verification by PyTorch lacks operator {', '.join(unknown)}")

    def tensor(proto: onnx.TensorProto) -> Any:
        array = numpy_helper.to_array(proto)
        whole = array.dtype.kind in "biu"
        return torch.from_numpy(array.copy() if whole else array.astype(np.float64))

    stored = {proto.name: tensor(proto) for proto in model.graph.initializer}
    weights = {t.name: stored[t.name] for t in model.graph.initializer if is_weight(t)}
    (name,) = [value.name for value in model.graph.input if value.name not in stored]

    def function(weights: Tensors, x: Any) -> Any:
        values = {**stored, **weights, name: x}
        for node in model.graph.node:
            attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
            inputs = [values[i] for i in node.input if i]
            result = operators[node.op_type](inputs, attributes)
            results = result if isinstance(result, tuple) else (result,)
            values.update(zip(node.output, results, strict=False))
        return values[model.graph.output[0].name]

    return weights, function


Operator = Callable[[list[Any], dict[str, Any]], Any]


def operators_of(torch: Any) -> dict[str, Operator]:
    """Return a function of inputs and attributes for each ONNX operator, given module ``torch``."""
    double = torch.float64
    types = {
        onnx.TensorProto.FLOAT: double, onnx.TensorProto.DOUBLE: double,
        onnx.TensorProto.FLOAT16: double, onnx.TensorProto.BFLOAT16: double,
        onnx.TensorProto.INT8: torch.int8, onnx.TensorProto.INT16: torch.int16,
        onnx.TensorProto.INT32: torch.int32, onnx.TensorProto.INT64: torch.int64,
        onnx.TensorProto.BOOL: torch.bool,
    }  # fmt: skip

    def sizes(value: Any) -> list[int]:
        return [int(v) for v in value.tolist()]

    def reshape(x: list[Any], a: dict[str, Any]) -> Any:
        shape = sizes(x[1])
        if not a.get("allowzero", 0):
            shape = [x[0].shape[i] if s == 0 else s for i, s in enumerate(shape)]
        return x[0].reshape(shape)

    def slice_(x: list[Any], a: dict[str, Any]) -> Any:
        value = x[0]
        steps = x[4] if len(x) > 4 else torch.ones_like(x[1])
        for start, end, axis, step in zip(*map(sizes, (x[1], x[2], x[3], steps)), strict=True):
            size = value.shape[axis]
            stop = None if step < 0 and end < -size else end
            index = torch.tensor(list(range(size)[start:stop:step]), dtype=torch.int64)
            value = value.index_select(axis, index)
        return value

    def gather_nd(x: list[Any], a: dict[str, Any]) -> Any:
        return x[0][tuple(x[1].movedim(-1, 0))]

    def how(a: dict[str, Any]) -> str:
        return str(a.get("reduction", b"none").decode())

    reductions = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}

    def scatter_nd(x: list[Any], a: dict[str, Any]) -> Any:
        value, index, updates = x
        if how(a) in ("none", "add"):
            at = tuple(index.movedim(-1, 0))
            return value.index_put(at, updates, accumulate=how(a) == "add")
        depth = index.shape[-1]
        row = torch.zeros(index.shape[:-1], dtype=torch.int64)
        for i, size in enumerate(value.shape[:depth]):
            row = row * size + index[..., i] % size
        rows = value.reshape(value.shape[:depth].numel(), -1)
        moved = updates.reshape(row.numel(), -1)
        at = row.reshape(-1, 1).expand(moved.shape)
        return rows.scatter_reduce(0, at, moved, reductions[how(a)]).reshape(value.shape)

    def scatter_elements(x: list[Any], a: dict[str, Any]) -> Any:
        axis = a.get("axis", 0)
        index = x[1] % x[0].shape[axis]
        if how(a) == "none":
            return x[0].scatter(axis, index, x[2])
        return x[0].scatter_reduce(axis, index, x[2], reductions[how(a)])

    def convolution(x: list[Any], a: dict[str, Any]) -> Any:
        count = x[0].ndim - 2
        pads = a["pads"]
        widths = [w for i in reversed(range(count)) for w in (pads[i], pads[i + count])]
        padded = torch.nn.functional.pad(x[0], widths)
        call = getattr(torch.nn.functional, f"conv{count}d")
        return call(padded, x[1], stride=a["strides"], dilation=a["dilations"], groups=a["group"])

    def pad(x: list[Any], a: dict[str, Any]) -> Any:
        if a.get("mode", b"constant") != b"constant":
            raise NotImplementedError(
                "verification by PyTorch lacks padding other than with a constant"
            )
        widths = [0, 0] * x[0].ndim
        axes = sizes(x[3]) if len(x) > 3 else list(range(x[0].ndim))
        for i, axis in enumerate(axes):
            last = 2 * (x[0].ndim - 1 - axis % x[0].ndim)  # PyTorch starts with the last axis
            widths[last : last + 2] = sizes(x[1])[i :: len(axes)]
        padded = torch.nn.functional.pad(x[0], widths)
        if len(x) < 3 or not x[2].any():
            return padded
        # PyTorch takes the value as a float, which no large integer is.
        inside = torch.nn.functional.pad(torch.ones(x[0].shape, dtype=torch.bool), widths)
        return torch.where(inside, padded, x[2])

    def divide(x: list[Any], a: dict[str, Any]) -> Any:
        return torch.div(*x, rounding_mode=None if x[0].is_floating_point() else "trunc")

    def cumulative_sum(x: list[Any], a: dict[str, Any]) -> Any:
        axis = int(x[1])
        value = x[0].flip(axis) if a.get("reverse", 0) else x[0]
        total = value.cumsum(axis, dtype=value.dtype)
        if a.get("exclusive", 0):
            first = torch.zeros_like(total.narrow(axis, 0, 1))
            total = torch.cat([first, total.narrow(axis, 0, total.shape[axis] - 1)], axis)
        return total.flip(axis) if a.get("reverse", 0) else total

    def top_k(x: list[Any], a: dict[str, Any]) -> Any:
        axis = a.get("axis", -1)
        ordered = torch.sort(x[0], dim=axis, descending=bool(a.get("largest", 1)), stable=True)
        return tuple(part.narrow(axis, 0, int(x[1])) for part in ordered)

    def product(value: Any, dim: list[int], keepdim: bool) -> Any:
        for axis in sorted((d % value.ndim for d in dim), reverse=True):
            value = torch.prod(value, dim=axis, keepdim=keepdim)
        return value

    def squeeze(x: list[Any], a: dict[str, Any]) -> Any:
        return x[0].squeeze(tuple(sizes(x[1]))) if len(x) > 1 else x[0].squeeze()

    def unsqueeze(x: list[Any], a: dict[str, Any]) -> Any:
        rank = x[0].ndim + len(x[1])
        return reduce(torch.unsqueeze, sorted(axis % rank for axis in sizes(x[1])), x[0])

    def reduced(function: Callable[..., Any]) -> Operator:
        return lambda x, a: function(x[0], dim=sizes(x[1]), keepdim=bool(a.get("keepdims", 1)))

    def extreme(function: Callable[..., Any]) -> Operator:
        return lambda x, a: function(x[0], a.get("axis", 0), bool(a.get("keepdims", 1)))

    unary = {
        "Abs": torch.abs, "Acos": torch.acos, "Acosh": torch.acosh, "Asin": torch.asin,
        "Asinh": torch.asinh, "Atan": torch.atan, "Atanh": torch.atanh, "Ceil": torch.ceil,
        "Cos": torch.cos, "Cosh": torch.cosh, "Erf": torch.erf, "Exp": torch.exp,
        "Floor": torch.floor, "Identity": lambda v: v, "IsInf": torch.isinf,
        "IsNaN": torch.isnan, "Log": torch.log, "Neg": torch.neg, "Not": torch.logical_not,
        "Reciprocal": torch.reciprocal, "Round": torch.round, "Sigmoid": torch.sigmoid,
        "Sign": torch.sign, "Sin": torch.sin, "Sinh": torch.sinh, "Sqrt": torch.sqrt,
        "Tan": torch.tan, "Tanh": torch.tanh,
    }  # fmt: skip
    binary = {
        "Add": torch.add, "And": torch.logical_and, "BitwiseAnd": torch.bitwise_and,
        "BitwiseOr": torch.bitwise_or, "BitwiseXor": torch.bitwise_xor, "Equal": torch.eq,
        "Greater": torch.gt, "GreaterOrEqual": torch.ge, "Less": torch.lt,
        "LessOrEqual": torch.le, "MatMul": torch.matmul, "Max": torch.maximum,
        "Min": torch.minimum, "Mul": torch.mul, "Or": torch.logical_or, "Sub": torch.sub,
        "Xor": torch.logical_xor,
    }  # fmt: skip

    def of(function: Callable[..., Any], count: int) -> Operator:
        return lambda x, a: function(*x[:count])

    return {
        **{name: of(function, 1) for name, function in unary.items()},
        **{name: of(function, 2) for name, function in binary.items()},
        "ArgMax": extreme(torch.argmax),
        "ArgMin": extreme(torch.argmin),
        "Cast": lambda x, a: x[0].to(types[a["to"]]),
        "Concat": lambda x, a: torch.cat(x, dim=a["axis"]),
        "Conv": convolution,
        "CumSum": cumulative_sum,
        "Div": divide,
        "Expand": lambda x, a: x[0].expand(torch.broadcast_shapes(x[0].shape, tuple(sizes(x[1])))),
        "Gather": lambda x, a: x[0][(slice(None),) * a.get("axis", 0) + (x[1],)],
        "GatherElements": lambda x, a: torch.gather(
            x[0], a.get("axis", 0), x[1] % x[0].shape[a.get("axis", 0)]
        ),
        "GatherND": gather_nd,
        "Mod": lambda x, a: (torch.fmod if a.get("fmod", 0) else torch.remainder)(*x),
        "Pad": pad,
        "Pow": lambda x, a: torch.pow(*x).to(x[0].dtype),
        "Range": lambda x, a: torch.arange(*(v.item() for v in x), dtype=x[0].dtype),
        "ReduceMax": reduced(torch.amax),
        "ReduceMin": reduced(torch.amin),
        "ReduceProd": reduced(product),
        "ReduceSum": reduced(torch.sum),
        "Reshape": reshape,
        "ScatterElements": scatter_elements,
        "ScatterND": scatter_nd,
        "Shape": lambda x, a: torch.tensor(x[0].shape)[a.get("start", 0) : a.get("end", x[0].ndim)],
        "Slice": slice_,
        "Softmax": lambda x, a: torch.softmax(x[0], dim=a.get("axis", -1)),
        "Split": lambda x, a: torch.split(x[0], sizes(x[1]), dim=a.get("axis", 0)),
        "Squeeze": squeeze,
        "TopK": top_k,
        "Transpose": lambda x, a: x[0].permute(a["perm"]),
        "Unsqueeze": unsqueeze,
        "Where": lambda x, a: torch.where(x[0], x[1], x[2]),
    }
