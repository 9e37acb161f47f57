"""ONNX models, from any framework, as MLX functions of their weights."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from mlx_entk._memory import limit_in_bytes
from mlx_entk._parameters import Params
from mlx_entk._text import visible
from mlx_entk.errors import InputError, SlowPathWarning
from mlx_entk.onnx.batching import (
    batched,
    decides_together,
    declared_shape,
    fixed_batch,
    is_free,
)
from mlx_entk.onnx.branches import taken
from mlx_entk.onnx.evaluation import Evaluation, require_depth, require_known
from mlx_entk.onnx.files import read_model
from mlx_entk.onnx.graph import Graph, graph_of, needed
from mlx_entk.onnx.operators import Value, as_mlx, from_numpy
from mlx_entk.onnx.operators.values import Indices, mlx_dtype, noting_indices
from mlx_entk.onnx.parameters import BOUND, WEIGHTS, Candidates, candidates_of
from mlx_entk.onnx.tensors import FLOATING, NUMBERS
from mlx_entk.tracing.functions import ParametricFunction, from_flat

Host = NDArray[Any]

# Entries up to which stored numbers stay on the host, where what depends on them alone is computed.
_SMALL = 4096


@dataclass(frozen=True)
class OnnxFunction:
    """An ONNX graph as a function of its parameters, for MLX's transforms.

    Attributes
    ----------
    inputs, outputs
        Names of the graph's inputs and outputs.
    output
        Name of the output that a call returns.
    candidates
        Everything in the file that may be a weight, and why it is a parameter or not.
    """

    inputs: list[str]
    outputs: list[str]
    output: str
    candidates: Candidates
    _graph: Graph
    _nodes: list[onnx.NodeProto]  # that the output depends on
    _stored: dict[str, Value]
    _chosen: tuple[str, ...] | None
    _limit: int

    @cached_property
    def params(self) -> Params:
        """Parameters by name, which a kernel differentiates by.

        Raises
        ------
        InputError
            If none were chosen, and the file does not tell which of its numbers are parameters.
        """
        names = self._chosen or self.candidates.chosen(None)
        return {name: as_mlx(self._stored[name]) for name in names}

    def __call__(self, params: Params, *inputs: mx.array) -> mx.array:
        """Return the chosen output for parameters and inputs, the latter in the graph's order.

        A graph of a fixed batch runs once for each such part of the inputs, the last one filled up
        with its last input. An input with one axis more than the graph declares holds what the
        graph takes for each row, which then runs by itself.
        """
        self._require_count(inputs)
        return batched(self._run_once, self._graph.inputs, self.batch, params, inputs)

    @cached_property
    def batch(self) -> int | None:
        """How many inputs one run of the graph takes; None for any number.

        One, if it decides something by all that it runs on: the scale of dynamic quantisation, or
        which branch it takes.
        """
        batch = fixed_batch(self._graph.inputs)
        if batch in (None, 1) and decides_together(self._nodes, self.inputs):
            return 1
        if batch and is_free(self._run_once, self._graph.inputs, batch):
            return None
        return batch

    def _require_count(self, inputs: Sequence[mx.array]) -> None:
        if len(inputs) != len(self.inputs):
            raise InputError(
                f"the model takes {len(self.inputs)} inputs ({', '.join(self.inputs)}), "
                f"got {len(inputs)}"
            )

    def _run_once(self, params: Params, inputs: Sequence[mx.array]) -> mx.array:
        (output,) = self.run(params, inputs, [self.output])
        return output

    def parametric(self) -> ParametricFunction:
        """Return the model in the form that ``mlx_entk.entk`` takes, its inputs in order.

        Raises
        ------
        InputError
            If the graph has no parameters, or ``params`` is refused.

        Warns
        -----
        SlowPathWarning
            If the graph takes a fixed number of inputs.
        """
        if not self.params:
            raise InputError(
                "no number that the file stores is a parameter: --dry-run lists them, and "
                "--parameters chooses some"
            )
        if self.batch:  # found out now, because a transform may be under way later
            warnings.warn(
                f"the graph takes {self.batch} input{'s' * (self.batch > 1)} at a time, so it runs "
                "once for each: export it with a free batch axis to save time",
                SlowPathWarning,
                stacklevel=2,
            )
        return from_flat(self, self.params)

    def run(
        self, params: Params, inputs: Sequence[mx.array], outputs: Sequence[str] | None = None
    ) -> list[mx.array]:
        """Return several outputs, of one run of the graph.

        Parameters
        ----------
        params
            Parameters by name; what is left out keeps its value.
        inputs
            Inputs in the graph's order.
        outputs
            Names of the outputs to compute, by default all.

        Raises
        ------
        InputError
            If the number of inputs is wrong, or an operator cannot be computed on these inputs: a
            value larger than the memory limit, for example, which is said before it is computed;
            or an index that what it indexes does not have.
        """
        self._require_count(inputs)
        outputs = self.outputs if outputs is None else outputs
        values: dict[str, Value] = {"": None, **self._stored, **params}
        for value, given in zip(self._graph.inputs, inputs, strict=True):
            _require_shape(value.name, given.shape, declared_shape(value))
            values[value.name] = _typed(value, given)
        for name in self._chosen or ():
            if name in self.candidates.steps:
                values[name] = self.candidates.steps[name].whole(as_mlx(values[name]))
        with noting_indices() as indices:
            own = list(outputs) == [self.output]
            nodes = self._nodes if own else needed(self._graph.nodes, outputs)
            Evaluation(self._graph.opsets, self._limit).run(nodes, values)
        for name in outputs:
            if name not in values:
                raise InputError(self._graph.unusable.get(name, f"nothing computes {name}"))
        return [_unless_outside(as_mlx(values[name]), indices) for name in outputs]


def _unless_outside(output: mx.array, indices: Sequence[Indices]) -> mx.array:
    """An output, if the indices that depend on the inputs exist.

    Where MLX computes nothing yet, because it maps or compiles, the output is NaN if one does not.

    Raises
    ------
    InputError
        If one does not exist.
    """
    if not indices:
        return output
    every = [mx.all(one.inside) for one in indices]
    try:
        exist = [bool(one.item()) for one in every]
    except (RuntimeError, ValueError):  # within vmap and compile
        if not mx.issubdtype(output.dtype, mx.floating):
            return output
        return mx.where(mx.all(mx.stack(every)), output, mx.array(mx.nan, dtype=output.dtype))
    for one, inside in zip(indices, exist, strict=True):
        if not inside:
            raise InputError(
                f"an input leads to the index {one.wrong()} of {one.size} entries: is a token "
                "outside the vocabulary?"
            )
    return output


def _require_shape(name: str, shape: tuple[int, ...], declared: list[int] | None) -> None:
    """Raise InputError for an input of another shape than the graph declares, but for the batch."""
    if declared is not None and (
        len(shape) != len(declared)
        or any(
            wanted > 0 and size != wanted
            for size, wanted in zip(shape[1:], declared[1:], strict=True)
        )
    ):
        wanted = ", ".join("…" if size <= 0 else str(size) for size in declared)
        raise InputError(f"the model takes {name} of shape ({wanted}), got {shape}")


def _typed(value: onnx.ValueInfoProto, given: mx.array) -> mx.array:
    """An input in the floating type that the graph declares.

    Raises
    ------
    InputError
        For numbers that are not whole where the graph takes whole ones.
    """
    floating = value.type.tensor_type.elem_type in FLOATING
    if floating:
        return given.astype(mlx_dtype(value.type.tensor_type.elem_type))
    if mx.issubdtype(given.dtype, mx.floating) and value.type.tensor_type.elem_type:
        declared = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        raise InputError(f"the model takes {value.name} as {declared}, got {given.dtype}")
    return given


def load(
    path: Path | str,
    output: str | None = None,
    parameters: Sequence[str] | None = None,
    memory_limit: int | str | None = None,
    constants: Mapping[str, Any] | None = None,
) -> OnnxFunction:
    """Read an ONNX model.

    Parameters
    ----------
    path
        The file. Data that it keeps in other files has to be in the same folder.
    output
        Name of the output to compute; by default the first of floating type.
    parameters
        Names of the numbers to differentiate by, or patterns such as ``layers.*``; ``["*"]`` takes
        all that may be weights, as the file has them. By default those that were trained, as far as
        the file tells (``mlx_entk.onnx.parameters``). If it leaves that open, outputs can be
        computed, but a kernel is refused.
    memory_limit
        Bytes that the file, and any one value of the graph, may take; by default half of what is
        available.
    constants
        Inputs that are the same for every row, such as a sampling rate, by name: the function
        takes the others.

    Raises
    ------
    InputError
        If ``mlx_entk.onnx.files.read_model`` refuses the file, an operator has no MLX
        counterpart, the output is unknown, or a pattern matches no number.
    """
    model = read_model(Path(path), memory_limit)
    if constants:
        model = with_constants(model, constants)
    return from_model(model, output, parameters, memory_limit)


def from_model(
    model: onnx.ModelProto,
    output: str | None = None,
    parameters: Sequence[str] | None = None,
    memory_limit: int | str | None = None,
) -> OnnxFunction:
    """Do what ``load`` does, for a model in memory."""
    limit = limit_in_bytes(memory_limit)
    graph, output, nodes = _read(model, output, limit)
    candidates = candidates_of(model, graph, nodes)
    chosen = None if parameters is None else tuple(candidates.chosen(parameters))
    weights = {c.name for c in candidates.judged if c.kind in WEIGHTS} | set(chosen or ())
    stored: dict[str, Value] = {}
    for name, given in graph.stored.items():
        array = given.array
        if name in (chosen or ()) and name in candidates.steps:
            array = candidates.steps[name].real(array)
        large = array.dtype.kind == "f" and array.size > _SMALL
        stored[name] = from_numpy(array) if large or name in weights else array
    return OnnxFunction(
        inputs=[value.name for value in graph.inputs],
        outputs=[value.name for value in graph.outputs],
        output=output,
        candidates=candidates,
        _graph=graph,
        _nodes=nodes,
        _stored=stored,
        _chosen=chosen,
        _limit=limit,
    )


def judged(
    model: onnx.ModelProto, output: str | None = None, memory_limit: int | str | None = None
) -> Candidates:
    """What a model stores, judged, whether or not the file tells enough for a kernel.

    Raises
    ------
    InputError
        As ``from_model``, but not for parameters that are unclear.
    """
    graph, _, nodes = _read(model, output, limit_in_bytes(memory_limit))
    return candidates_of(model, graph, nodes)


def inputs_of(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """The inputs of a model that have no stored value, in its order."""
    stored = {tensor.name for tensor in model.graph.initializer}
    stored |= {tensor.values.name for tensor in model.graph.sparse_initializer}
    return [value for value in model.graph.input if value.name not in stored]


def declared_type(value: onnx.ValueInfoProto) -> str:
    """An input or output as its file declares it, such as ``float32 (batch, 3)``."""
    kind = value.type.WhichOneof("value")
    if kind != "tensor_type":
        return str(kind or "no type").removesuffix("_type")
    tensor = value.type.tensor_type
    name = onnx.TensorProto.DataType.Name(tensor.elem_type).lower()
    if not tensor.HasField("shape"):
        return f"{name} of any shape"
    sizes = (axis.dim_param or str(axis.dim_value or "…") for axis in tensor.shape.dim)
    return f"{name} ({', '.join(sizes)})"


def _read(
    model: onnx.ModelProto, output: str | None, limit: int
) -> tuple[Graph, str, list[onnx.NodeProto]]:
    """The graph of a model, the output to compute, and the nodes that it depends on."""
    graph = graph_of(model, limit)
    known = {name: stored.array for name, stored in graph.stored.items()}
    graph.nodes = taken(graph.nodes, known, graph.opsets, limit)
    outputs = [value.name for value in graph.outputs]
    if output is not None and output not in outputs:
        listed = ", ".join(map(visible, outputs))
        raise InputError(f"the model has no output {output!r}: it has {listed}")
    output = _tensor_of(graph, output or _first_floating(graph))
    nodes = needed(graph.nodes, [output])
    require_known(nodes)
    require_depth(nodes)
    return graph, output, nodes


def _first_floating(graph: Graph) -> str:
    """The first output that has a derivative; a map of probabilities counts if no other does."""
    for value in graph.outputs:
        if value.type.tensor_type.elem_type in FLOATING:
            return value.name
    for value in graph.outputs:
        if value.type.HasField("sequence_type") and _tensor_of(graph, value.name) != value.name:
            return value.name
    return graph.outputs[0].name


def _tensor_of(graph: Graph, output: str) -> str:
    """The array of probabilities that an output spells out as maps; else the output itself."""
    for node in graph.nodes:
        if output in node.output and node.op_type == "ZipMap" and node.domain == "ai.onnx.ml":
            return str(node.input[0])
    return output


def with_constants(model: onnx.ModelProto, constants: Mapping[str, Any]) -> onnx.ModelProto:
    """A copy of a model in which some inputs are numbers.

    Parameters
    ----------
    constants
        What each input is, by name.

    Raises
    ------
    InputError
        If the model has no such input, or takes it in another type or shape.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    for name, given in constants.items():
        value = next((value for value in graph.input if value.name == name), None)
        if value is None:
            names = ", ".join(visible(value.name) for value in graph.input)
            raise InputError(f"the model has no input {name!r}: it takes {names}")
        array = _constant(value, np.asarray(given))
        graph.input.remove(value)
        for stored in [tensor for tensor in graph.initializer if tensor.name == name]:
            graph.initializer.remove(stored)  # what the input was by default
        for sparse in [one for one in graph.sparse_initializer if one.values.name == name]:
            graph.sparse_initializer.remove(sparse)
        tensor = numpy_helper.from_array(array, name)
        tensor.metadata_props.add(key=BOUND, value="an input")
        graph.initializer.append(tensor)
    return copy


def _constant(value: onnx.ValueInfoProto, given: Host) -> Host:
    """An array in the type and shape that the model takes."""
    kind = value.type.tensor_type.elem_type
    if given.dtype.kind not in "fiub" or kind not in NUMBERS:
        raise InputError(f"the model takes {visible(value.name)} as no array of {given.dtype}")
    dtype = onnx.helper.tensor_dtype_to_np_dtype(kind)
    array = given.astype(dtype)
    if kind not in FLOATING and not np.array_equal(array, given):
        raise InputError(f"the model takes {visible(value.name)} as {dtype}, got {given.dtype}")
    declared = declared_shape(value)
    if declared is not None and array.ndim != len(declared) and array.size == 1:
        array = array.reshape([1] * len(declared))
    if declared is not None and array.ndim:
        _require_shape(value.name, array.shape, declared)
    return np.asarray(array)
