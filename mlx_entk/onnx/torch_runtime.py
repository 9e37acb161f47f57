"""A graph that the exporter wrote, run by PyTorch: its autograd then differentiates it.

onnx2torch, the kept library for this, has no ReduceMax or Split of opset 18 and asks for
torchvision; these few operators are what the exporter writes for models.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import onnx
from onnx import helper, numpy_helper

from mlx_entk.errors import InputError
from mlx_entk.onnx.precision import is_weight

if TYPE_CHECKING:
    import torch

Tensors = dict[str, "torch.Tensor"]


def as_torch(model: onnx.ModelProto) -> tuple[Tensors, Callable[[Tensors, Any], Any]]:
    """The weights in double precision, and ``function(weights, x)`` for the first output.

    Raises
    ------
    InputError
        Where PyTorch is missing, or the graph has an operator that is not known here.
    """
    try:
        import torch
    except ImportError as error:
        raise InputError(
            "verification by PyTorch needs the extra torch: pip install 'mlx-entk[torch]'"
        ) from error
    operators = _operators(torch)
    unknown = sorted({node.op_type for node in model.graph.node} - operators.keys())
    if unknown:
        raise InputError(f"operators that verification by PyTorch lacks: {', '.join(unknown)}")

    def tensor(proto: onnx.TensorProto) -> Any:
        found = torch.from_numpy(numpy_helper.to_array(proto).copy())
        return found.double() if found.is_floating_point() else found

    stored = {proto.name: tensor(proto) for proto in model.graph.initializer}
    weights = {t.name: stored[t.name] for t in model.graph.initializer if is_weight(t)}
    (name,) = [value.name for value in model.graph.input if value.name not in stored]

    def function(weights: Tensors, x: Any) -> Any:
        values = {**stored, **weights, name: x}
        for node in model.graph.node:
            attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
            inputs = [values[i] for i in node.input if i]
            found = operators[node.op_type](inputs, attributes)
            found = found if isinstance(found, tuple) else (found,)
            values.update(zip(node.output, found, strict=False))
        return values[model.graph.output[0].name]

    return weights, function


def _operators(torch: Any) -> dict[str, Callable[[list[Any], dict[str, Any]], Any]]:
    types = {
        onnx.TensorProto.FLOAT: torch.float64,
        onnx.TensorProto.DOUBLE: torch.float64,
        onnx.TensorProto.INT32: torch.int32,
        onnx.TensorProto.INT64: torch.int64,
        onnx.TensorProto.BOOL: torch.bool,
    }

    def sizes(value: Any) -> list[int]:
        return [int(v) for v in value.tolist()]

    def reshape(x: list[Any], a: dict[str, Any]) -> Any:
        wanted = [x[0].shape[i] if s == 0 else s for i, s in enumerate(sizes(x[1]))]
        return x[0].reshape(wanted)

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

    def scatter_nd(x: list[Any], a: dict[str, Any]) -> Any:
        add = a.get("reduction", b"none") == b"add"
        return x[0].index_put(tuple(x[1].movedim(-1, 0)), x[2], accumulate=add)

    def convolution(x: list[Any], a: dict[str, Any]) -> Any:
        count = x[0].ndim - 2
        pads = a["pads"]
        widths = [w for i in reversed(range(count)) for w in (pads[i], pads[i + count])]
        padded = torch.nn.functional.pad(x[0], widths)
        call = getattr(torch.nn.functional, f"conv{count}d")
        return call(padded, x[1], stride=a["strides"], dilation=a["dilations"], groups=a["group"])

    def reduce(function: Callable[..., Any]) -> Callable[[list[Any], dict[str, Any]], Any]:
        return lambda x, a: function(x[0], dim=sizes(x[1]), keepdim=bool(a.get("keepdims", 1)))

    unary = {
        "Abs": torch.abs, "Atan": torch.atan, "Cos": torch.cos, "Cosh": torch.cosh,
        "Erf": torch.erf, "Exp": torch.exp, "Floor": torch.floor, "Identity": lambda v: v,
        "Log": torch.log, "Neg": torch.neg, "Not": torch.logical_not,
        "Reciprocal": torch.reciprocal, "Sigmoid": torch.sigmoid, "Sign": torch.sign,
        "Sin": torch.sin, "Sinh": torch.sinh, "Sqrt": torch.sqrt, "Tanh": torch.tanh,
    }  # fmt: skip
    binary = {
        "Add": torch.add, "And": torch.logical_and, "Div": torch.div, "Equal": torch.eq,
        "Greater": torch.gt, "GreaterOrEqual": torch.ge, "Less": torch.lt,
        "LessOrEqual": torch.le, "MatMul": torch.matmul, "Max": torch.maximum,
        "Min": torch.minimum, "Mul": torch.mul, "Or": torch.logical_or, "Pow": torch.pow,
        "Sub": torch.sub,
    }  # fmt: skip

    def of(function: Callable[..., Any], count: int) -> Callable[[list[Any], dict[str, Any]], Any]:
        return lambda x, a: function(*x[:count])

    return {
        **{name: of(function, 1) for name, function in unary.items()},
        **{name: of(function, 2) for name, function in binary.items()},
        "Cast": lambda x, a: x[0].to(types[a["to"]]),
        "Concat": lambda x, a: torch.cat(x, dim=a["axis"]),
        "Conv": convolution,
        "Expand": lambda x, a: x[0].expand(torch.broadcast_shapes(x[0].shape, tuple(sizes(x[1])))),
        "Gather": lambda x, a: x[0][(slice(None),) * a.get("axis", 0) + (x[1],)],
        "GatherND": gather_nd,
        "ReduceMax": reduce(torch.amax),
        "ReduceMin": reduce(torch.amin),
        "ReduceSum": reduce(torch.sum),
        "Reshape": reshape,
        "ScatterND": scatter_nd,
        "Shape": lambda x, a: torch.tensor(x[0].shape)[a.get("start", 0) : a.get("end", x[0].ndim)],
        "Slice": slice_,
        "Softmax": lambda x, a: torch.softmax(x[0], dim=a.get("axis", -1)),
        "Split": lambda x, a: torch.split(x[0], sizes(x[1]), dim=a.get("axis", 0)),
        "Squeeze": lambda x, a: x[0].squeeze(),
        "Transpose": lambda x, a: x[0].permute(a["perm"]),
        "Unsqueeze": lambda x, a: x[0].unsqueeze(sizes(x[1])[0]),
        "Where": lambda x, a: torch.where(x[0], x[1], x[2]),
    }
