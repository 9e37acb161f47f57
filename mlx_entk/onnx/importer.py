"""ONNX models, from any framework, as MLX functions of their weights."""

import fnmatch
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper
from onnx.reference import ReferenceEvaluator

from mlx_entk._parameters import Params
from mlx_entk.errors import InputError, first_line
from mlx_entk.onnx.emitter import FROZEN, PRODUCER, is_value
from mlx_entk.onnx.files import read_model
from mlx_entk.onnx.limits import (
    MOST_DEPTH,
    inferred_size,
    limit_in_bytes,
    require_room,
    size_of,
)
from mlx_entk.onnx.operators import OPERATORS, Value, as_mlx, from_numpy
from mlx_entk.onnx.operators.values import noting_indices
from mlx_entk.onnx.tensors import array_of
from mlx_entk.tracing.functions import ParametricFunction, from_flat

Host = NDArray[Any]


@dataclass(frozen=True)
class OnnxFunction:
    """An ONNX graph as a function of its parameters, for MLX's transforms.

    Attributes
    ----------
    params
        Parameters by name, which a kernel differentiates by.
    inputs, outputs
        Names of the graph's inputs and outputs.
    output
        Name of the output that a call returns.
    """

    params: Params
    inputs: list[str]
    outputs: list[str]
    output: str
    _nodes: list[onnx.NodeProto]
    _constants: dict[str, Host]
    _opset: int
    _limit: int
    _shapes: dict[str, list[int]]

    def __call__(self, params: Params, *inputs: mx.array) -> mx.array:
        """Return the chosen output for parameters and inputs, the latter in the graph's order."""
        (output,) = self.run(params, inputs, [self.output])
        return output

    def parametric(self) -> ParametricFunction:
        """Return the model in the form that ``mlx_entk.entk`` takes.

        Raises
        ------
        InputError
            If the graph takes several inputs, or has no parameters.
        """
        if len(self.inputs) != 1:
            raise InputError(
                f"the model takes {len(self.inputs)} inputs ({', '.join(self.inputs)}): a kernel "
                "needs a model of one input"
            )
        return from_flat(self, self.params)

    def run(
        self, params: Params, inputs: Sequence[mx.array], outputs: Sequence[str] | None = None
    ) -> list[mx.array]:
        """Return several outputs.

        Parameters
        ----------
        params
            Parameters by name.
        inputs
            Inputs in the graph's order.
        outputs
            Names of the outputs to compute, by default all.

        Raises
        ------
        InputError
            If the number of inputs is wrong, or an operator cannot be computed on these inputs: a
            value larger than the memory limit, for example, which is said before it is computed.
        """
        if len(inputs) != len(self.inputs):
            raise InputError(
                f"the model takes {len(self.inputs)} inputs ({', '.join(self.inputs)}), "
                f"got {len(inputs)}"
            )
        for name, value in zip(self.inputs, inputs, strict=True):
            _require_shape(name, value.shape, self._shapes[name])
        outputs = self.outputs if outputs is None else outputs
        values: dict[str, Value] = {"": None, **self._constants, **params}
        values.update(zip(self.inputs, inputs, strict=True))
        room = self._limit  # for values that are known without the inputs, which all stay
        with noting_indices() as inside:
            for node in needed(self._nodes, outputs):
                arguments = [values[name] for name in node.input]
                try:
                    results = self._apply(node, arguments, room)
                    # Arrays of MLX are not computed yet.
                    sizes = [size_of(value) for value in results]
                    require_room(max(sizes, default=0), self._limit, "the result")
                    if len(results) < len(node.output):
                        raise InputError(f"it has {len(results)} results here")
                except Exception as error:  # a damaged graph makes MLX raise almost anything
                    message = first_line(error)
                    raise InputError(
                        f"ONNX operator {node.op_type} {node.name}: {message}"
                    ) from error
                room -= sum(v.nbytes for v in results if isinstance(v, np.ndarray))
                values.update(zip(node.output, results, strict=False))
        return [_unless_outside(as_mlx(values[name]), inside) for name in outputs]

    def _apply(self, node: onnx.NodeProto, arguments: list[Value], room: int) -> Sequence[Value]:
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        if node.op_type == "Shape":  # known while tracing, and never differentiated
            shape = np.array(arguments[0].shape, dtype=np.int64)  # type: ignore[union-attr]
            return [shape[attributes.get("start", 0) : attributes.get("end", len(shape))]]
        if node.op_type == "Size":
            return [np.array(arguments[0].size, dtype=np.int64)]  # type: ignore[union-attr]
        known = [value for value in arguments if isinstance(value, np.ndarray)]
        if len(known) == sum(value is not None for value in arguments) and (
            node.op_type not in OPERATORS or _is_light(node, known)
        ):
            return self._on_host(node, arguments, room)
        result = OPERATORS[node.op_type](arguments, attributes, len(node.output))
        return result if isinstance(result, list | tuple) else [result]

    def _on_host(self, node: onnx.NodeProto, arguments: list[Value], room: int) -> Sequence[Value]:
        """Evaluate a node that depends on no input, by ONNX's reference implementation."""
        names = [f"i{k}" if value is not None else "" for k, value in enumerate(arguments)]
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.ClearField("input")
        copy.input.extend(names)
        given = [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
            for name, v in zip(names, arguments, strict=True)
            if isinstance(v, np.ndarray)
        ]
        outputs = [onnx.ValueInfoProto(name=name) for name in node.output if name]
        graph = helper.make_graph([copy], "one", given, outputs)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self._opset)])
        feed = {n: v for n, v in zip(names, arguments, strict=True) if isinstance(v, np.ndarray)}
        require_room(max(inferred_size(model, feed), _broadcast_size(feed)), room, "the result")
        results = iter(ReferenceEvaluator(model).run(None, feed))
        return [np.asarray(next(results)) if name else None for name in node.output]


# Operators whose reference implementation is slow, or needs far more room than its result.
_HEAVY = frozenset(
    {
        "AveragePool", "BatchNormalization", "Conv", "ConvTranspose", "Einsum",
        "GroupNormalization", "InstanceNormalization", "LayerNormalization", "MaxPool",
        "RMSNormalization",
    }
)  # fmt: skip
# Operators that make what others are shaped and indexed by: always known on the host.
_OF_SHAPES = frozenset({"Concat", "ConstantOfShape", "Expand", "Range", "Reshape", "Tile"})
# Entries of known inputs up to which ONNX's reference implementation evaluates the others.
_LIGHT = 4096


def _is_light(node: onnx.NodeProto, known: Sequence[Host]) -> bool:
    """Whether ONNX's reference implementation may evaluate a node whose inputs are known.

    MLX does the rest. What graphs compute of shapes is small.
    """
    if node.op_type in _HEAVY:
        return False
    return node.op_type in _OF_SHAPES or all(value.size <= _LIGHT for value in known)


def _broadcast_size(feed: Mapping[str, Host]) -> int:
    """Bytes that inputs may take once they are broadcast with one another, if they can be."""
    try:
        shape = np.broadcast_shapes(*(value.shape for value in feed.values()))
    except ValueError:
        return 0
    return math.prod(shape) * max((value.itemsize for value in feed.values()), default=0)


def _unless_outside(output: mx.array, inside: Sequence[mx.array]) -> mx.array:
    """An output, or NaN if an index that depends on the inputs did not exist."""
    if not inside or not mx.issubdtype(output.dtype, mx.floating):
        return output
    every = inside[0]
    for one in inside[1:]:
        every = every & one
    return mx.where(every, output, mx.array(mx.nan, dtype=output.dtype))


def load(
    path: Path,
    output: str | None = None,
    parameters: Sequence[str] | None = None,
    memory_limit: int | str | None = None,
) -> OnnxFunction:
    """Read an ONNX model.

    Parameters
    ----------
    path
        The file. Data that it keeps in other files has to be in the same folder.
    output
        Name of the output to compute; by default the first of floating type.
    parameters
        Names of the initializers to differentiate by, or patterns such as ``layers.*``. By
        default, every initializer of floating type with at least one axis, except for the running
        statistics of batch norms and the constants of a file that this package exported. It has
        to be given for a file in which PyTorch may have folded parameters.
    memory_limit
        Bytes that the file, and any one value of the graph, may take; by default half of what is
        available.

    Raises
    ------
    InputError
        If ``mlx_entk.onnx.files.read_model`` refuses the file, an operator has no MLX
        counterpart, the output is unknown, or a pattern matches no initializer.
    """
    return from_model(read_model(path, memory_limit), output, parameters, memory_limit)


def from_model(
    model: onnx.ModelProto,
    output: str | None = None,
    parameters: Sequence[str] | None = None,
    memory_limit: int | str | None = None,
) -> OnnxFunction:
    """Do what ``load`` does, for a model in memory."""
    graph = model.graph
    limit = limit_in_bytes(memory_limit)
    chosen = _parameters(model, parameters)
    arrays = {tensor.name: array_of(tensor) for tensor in graph.initializer}
    params = {name: from_numpy(array) for name, array in arrays.items() if name in chosen}
    constants = {name: array for name, array in arrays.items() if name not in chosen}
    if graph.sparse_initializer:
        raise InputError(
            f"the initializer {graph.sparse_initializer[0].values.name} is sparse: store it dense"
        )
    stored = {tensor.name for tensor in graph.initializer}
    outputs = [value.name for value in graph.output]
    if output is None:
        floating = [
            value.name for value in graph.output if value.type.tensor_type.elem_type in _FLOATING
        ]
        output = (floating or outputs)[0]
    elif output not in outputs:
        raise InputError(f"the model has no output {output!r}: it has {', '.join(outputs)}")
    nodes = needed(graph.node, [output])
    unknown = sorted(
        {
            f"{node.domain}.{node.op_type}" if node.domain else node.op_type
            for node in nodes
            if (node.domain not in ("", "ai.onnx"))
            or (node.op_type not in OPERATORS and node.op_type not in HOST_ONLY)
        }
    )
    _require_depth(nodes)
    if unknown:
        raise InputError(
            f"ONNX operators without an MLX counterpart: {', '.join(unknown)}; add them to "
            "OPERATORS in mlx_entk/onnx/operators"
        )
    return OnnxFunction(
        params=params,
        inputs=[value.name for value in graph.input if value.name not in stored],
        outputs=outputs,
        output=output,
        _nodes=list(graph.node),
        _constants=constants,
        _opset=next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx")),
        _limit=limit,
        _shapes={
            value.name: [axis.dim_value for axis in value.type.tensor_type.shape.dim]
            for value in graph.input
        },
    )


def _require_shape(name: str, shape: tuple[int, ...], declared: list[int]) -> None:
    """Raise InputError for an input of another shape than the graph declares, but for the batch.

    An axis that may have any size is declared as 0.
    """
    if declared and (
        len(shape) != len(declared)
        or any(
            wanted > 0 and size != wanted
            for size, wanted in zip(shape[1:], declared[1:], strict=True)
        )
    ):
        wanted = ", ".join("…" if size <= 0 else str(size) for size in declared)
        raise InputError(f"the model takes {name} of shape ({wanted}), got {shape}")


def needed(nodes: Sequence[onnx.NodeProto], outputs: Sequence[str]) -> list[onnx.NodeProto]:
    """Return the nodes that some outputs depend on, in their order."""
    values = set(outputs)
    kept = []
    for node in reversed(nodes):
        if values.intersection(node.output):
            kept.append(node)
            values.update(node.input)
    return kept[::-1]


def _require_depth(nodes: Sequence[onnx.NodeProto]) -> None:
    """Raise InputError for a chain of operators that MLX's recursion would not survive."""
    depths: dict[str, int] = {}
    for node in nodes:
        depth = 1 + max((depths.get(name, 0) for name in node.input), default=0)
        if depth > MOST_DEPTH:
            raise InputError(f"the model is a chain of more than {MOST_DEPTH:,} operators")
        depths.update(dict.fromkeys(node.output, depth))


def _parameters(model: onnx.ModelProto, patterns: Sequence[str] | None) -> set[str]:
    """Return the names of the initializers to differentiate by."""
    candidates = [t.name for t in model.graph.initializer if t.data_type in _FLOATING and t.dims]
    if patterns is None:
        constants = {
            name
            for node in model.graph.node
            if node.op_type == "BatchNormalization"
            for name in node.input[3:5]
        }
        if model.producer_name == PRODUCER:
            constants |= {name for name in candidates if is_value(name)} | _frozen(model)
        anonymous = [name for name in candidates if _OPTIMISED.match(name)]
        if model.producer_name == "pytorch" and anonymous:
            raise InputError(
                f"PyTorch has optimised this graph: {', '.join(anonymous[:3])} may be a parameter, "
                "a product of several or a constant. Export it with "
                "torch.onnx.export(…, optimize=False), or name its parameters"
            )
        return set(candidates) - constants
    for pattern in patterns:
        if not fnmatch.filter(candidates, pattern):
            raise InputError(
                f"no initializer matches {pattern}: there are {', '.join(candidates) or 'none'}"
            )
    return {name for pattern in patterns for name in fnmatch.filter(candidates, pattern)}


def _frozen(model: onnx.ModelProto) -> set[str]:
    """Names of the weights that were not trainable in the module that was exported."""
    listed = [entry.value for entry in model.metadata_props if entry.key == FROZEN]
    try:
        return set(json.loads(listed[0])) if listed else set()
    except (ValueError, TypeError, RecursionError) as error:
        raise InputError(f"the metadata {FROZEN} of the model is damaged: {error}") from error


# Names that PyTorch's graph optimiser gives to initializers.
_OPTIMISED = re.compile(r"val_\d+$|onnx::")

_FLOATING = (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16)

# Operators that are evaluated while tracing, without an MLX counterpart.
HOST_ONLY = frozenset({"Constant", "Shape", "Size"})
