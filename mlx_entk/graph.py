"""A function as a graph of MLX primitives that can be run again, with perturbations.

``mx.export_function`` reports every primitive of a function with its inputs, outputs and
arguments. :data:`OPERATIONS` says what each primitive computes, so that the graph can be run
under any MLX transform, with a perturbation added to any value inside it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx

Arrays = list[mx.array]
Operation = Callable[[Arrays, Sequence[Any]], mx.array | Arrays]


class UntraceableError(ValueError):
    """The function cannot be described by known primitives; the message says which it needs."""


@dataclass(frozen=True)
class Node:
    """One primitive: the names of what it takes and gives, and its arguments."""

    primitive: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    arguments: tuple[Any, ...]

    def run(self, inputs: Arrays) -> Arrays:
        """What the primitive gives for its inputs."""
        result = OPERATIONS[self.primitive](inputs, self.arguments)
        return result if isinstance(result, list) else [result]


@dataclass
class Graph:
    """A function traced on inputs of certain shapes.

    Attributes
    ----------
    inputs, outputs
        Names of what the function takes and gives.
    constants
        Arrays that it closes over, by name.
    nodes
        The primitives, each after those it needs.
    shapes, dtypes
        Of every value, by name.
    """

    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    constants: dict[str, mx.array] = field(default_factory=dict)
    nodes: list[Node] = field(default_factory=list)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    dtypes: dict[str, mx.Dtype] = field(default_factory=dict)

    def run(
        self, inputs: Sequence[mx.array], perturbations: Mapping[str, mx.array] | None = None
    ) -> dict[str, mx.array]:
        """Every value of the graph by name, with perturbations added as values appear."""
        values = dict(self.constants)
        values.update(zip(self.inputs, inputs, strict=True))
        for node in self.nodes:
            results = node.run([values[name] for name in node.inputs])
            for name, result in zip(node.outputs, results, strict=True):
                if perturbations and name in perturbations:
                    result = result + perturbations[name]
                values[name] = result
        return values


def trace(function: Callable[..., mx.array], *inputs: mx.array) -> Graph:
    """Trace a function on inputs, of which the graph can be run again.

    Derivatives that a function hides (``mx.stop_gradient``, custom ones) are not part of what
    MLX reports: whoever differentiates a graph has to compare.

    Raises
    ------
    UntraceableError
        For a primitive that :data:`OPERATIONS` does not have or MLX cannot report.
    """
    graph = record(function, *inputs)
    unknown = sorted({node.primitive for node in graph.nodes} - OPERATIONS.keys())
    if unknown:
        raise UntraceableError(f"primitive {', '.join(unknown)}")
    return graph


def record(function: Callable[..., Any], *inputs: mx.array) -> Graph:
    """What MLX reports of a function: its primitives, whether this module knows them or not.

    Raises
    ------
    UntraceableError
        For a primitive that MLX cannot report.
    """
    graph = Graph()

    def receive(event: Mapping[str, Any]) -> None:
        kind = event["type"]
        if kind in ("inputs", "outputs"):
            getattr(graph, kind).extend(name for name, *_ in event[kind])
            for name, shape, dtype in event[kind]:
                graph.shapes[name], graph.dtypes[name] = tuple(shape), dtype
        if kind == "constants":
            for name, value in event["constants"]:
                graph.constants[name] = value
                graph.shapes[name], graph.dtypes[name] = value.shape, value.dtype
        if kind == "primitive":
            for name, shape, dtype in (*event["inputs"], *event["outputs"]):
                graph.shapes[name], graph.dtypes[name] = tuple(shape), dtype
            arguments = list(event["arguments"])
            if event["name"] == "Arange":  # its type is that of its output
                arguments.append(event["outputs"][0][2])
            graph.nodes.append(
                Node(
                    event["name"],
                    tuple(name for name, *_ in event["inputs"]),
                    tuple(name for name, *_ in event["outputs"]),
                    tuple(arguments),
                )
            )

    try:
        # For a GPU MLX would report its fused kernels (layer norm, attention) as one primitive
        # each, for a CPU the operations that define them. Nothing is computed here.
        with mx.stream(mx.cpu):
            mx.export_function(receive, function, *inputs)
    except (RuntimeError, ValueError) as error:
        raise UntraceableError(str(error)) from error
    return graph


def _elementwise(function: Callable[..., mx.array]) -> Operation:
    return lambda inputs, arguments: function(*inputs)


def _gather(inputs: Arrays, arguments: Sequence[Any]) -> mx.array:
    axes, sizes = arguments
    source = inputs[0]
    full = all(size == source.shape[k] for k, size in enumerate(sizes) if k not in axes)
    if len(axes) != 1 or not full or sizes[axes[0]] != 1:
        raise UntraceableError("primitive Gather along more than one axis")
    (axis,), index = axes, inputs[1]
    return mx.expand_dims(mx.moveaxis(source, axis, 0)[index], index.ndim + axis)


def _slice(inputs: Arrays, arguments: Sequence[Any]) -> mx.array:
    return inputs[0][tuple(slice(*part) for part in zip(*arguments, strict=True))]


def _pad(inputs: Arrays, arguments: Sequence[Any]) -> mx.array:
    axes, low, high = arguments
    widths = [(0, 0)] * inputs[0].ndim
    for axis, *width in zip(axes, low, high, strict=True):
        widths[axis] = (width[0], width[1])
    return mx.pad(inputs[0], widths, constant_values=inputs[1])


def _convolution(inputs: Arrays, arguments: Sequence[Any]) -> mx.array:
    stride, low, high, kernel_dilation, input_dilation, groups, flip = arguments
    return mx.conv_general(
        inputs[0],
        inputs[1],
        stride=stride,
        padding=(low, high),
        kernel_dilation=kernel_dilation,
        input_dilation=input_dilation,
        groups=groups,
        flip=flip,
    )


def _cumulative_sum(inputs: Arrays, arguments: Sequence[Any]) -> mx.array:
    kind, axis, reverse, inclusive = arguments
    if kind != _SUM:
        raise UntraceableError("primitive Scan other than a sum")
    return mx.cumsum(inputs[0], axis=axis, reverse=reverse, inclusive=inclusive)


# The numbers by which MLX reports the kinds of Reduce, ArgReduce, Scan and Log.
_SUM = 2
_REDUCTIONS = (mx.all, mx.any, mx.sum, mx.prod, mx.min, mx.max)
_ARGUMENT_REDUCTIONS = (mx.argmin, mx.argmax)
_LOGARITHMS = (mx.log2, mx.log10, mx.log)

_UNARY: dict[str, Callable[..., mx.array]] = {
    "Abs": mx.abs, "ArcCos": mx.arccos, "ArcCosh": mx.arccosh, "ArcSin": mx.arcsin,
    "ArcSinh": mx.arcsinh, "ArcTan": mx.arctan, "ArcTanh": mx.arctanh, "Ceil": mx.ceil,
    "Cos": mx.cos, "Cosh": mx.cosh, "Erf": mx.erf, "ErfInv": mx.erfinv, "Exp": mx.exp,
    "Expm1": mx.expm1, "Floor": mx.floor, "Log1p": mx.log1p, "LogicalNot": mx.logical_not,
    "Negative": mx.negative, "Sigmoid": mx.sigmoid, "Sign": mx.sign, "Sin": mx.sin,
    "Sinh": mx.sinh, "Square": mx.square, "Tan": mx.tan, "Tanh": mx.tanh,
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
ELEMENTWISE = frozenset(_UNARY | _BINARY) - {"Matmul"} | {"AsType", "Log", "Select", "Sqrt"}

OPERATIONS: dict[str, Operation] = {
    **{name: _elementwise(function) for name, function in (_UNARY | _BINARY).items()},
    "AddMM": lambda x, a: mx.addmm(x[2], x[0], x[1], alpha=a[0], beta=a[1]),
    "Arange": lambda x, a: mx.arange(a[0], a[1], a[2], dtype=a[3]),
    "ArgReduce": lambda x, a: _ARGUMENT_REDUCTIONS[a[0]](x[0], axis=a[1], keepdims=True),
    "AsType": lambda x, a: x[0].astype(a[0]),
    "Broadcast": lambda x, a: mx.broadcast_to(x[0], a[0]),
    "Concatenate": lambda x, a: mx.concatenate(x, axis=a[0]),
    "Convolution": _convolution,
    "Equal": lambda x, a: mx.equal(x[0], x[1]),
    "ExpandDims": lambda x, a: mx.expand_dims(x[0], a[0]),
    "Flatten": lambda x, a: mx.flatten(x[0], a[0], a[1]),
    "Full": lambda x, a: x[0],
    "Gather": _gather,
    "GatherAxis": lambda x, a: mx.take_along_axis(x[0], x[1], axis=a[0]),
    "Log": lambda x, a: _LOGARITHMS[a[0]](x[0]),
    "LogSumExp": lambda x, a: mx.logsumexp(x[0], axis=-1, keepdims=True),
    "Pad": _pad,
    "Reduce": lambda x, a: _REDUCTIONS[a[0]](x[0], axis=a[1], keepdims=True),
    "Reshape": lambda x, a: mx.reshape(x[0], a[0]),
    "Scan": _cumulative_sum,
    "Select": lambda x, a: mx.where(x[0], x[1], x[2]),
    "Slice": _slice,
    "Softmax": lambda x, a: mx.softmax(x[0], axis=-1, precise=a[0]),
    "Split": lambda x, a: list(mx.split(x[0], list(a[0]), axis=a[1])),
    "Sqrt": lambda x, a: mx.rsqrt(x[0]) if a[0] else mx.sqrt(x[0]),
    "Squeeze": lambda x, a: mx.squeeze(x[0], a[0]),
    "Transpose": lambda x, a: mx.transpose(x[0], a[0]),
    "Unflatten": lambda x, a: mx.unflatten(x[0], a[0], a[1]),
}
