"""Export of any MLX function as an ONNX graph.

MLX reports the primitives of a function, and ``mlx_entk.onnx.builders.BUILDERS`` writes each
of them in ONNX. Weights become named initializers. The batch axis is free if the graph allows it,
which tracing at several sizes shows (see ``mlx_entk.onnx.symbolic``).
"""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import onnx

from mlx_entk._parameters import Params, flatten_tree, unflatten_tree
from mlx_entk._provenance import provenance
from mlx_entk.errors import InputError
from mlx_entk.onnx.assembly import assembled
from mlx_entk.onnx.checkpoints import reported
from mlx_entk.onnx.emitter import FROZEN
from mlx_entk.onnx.files import write_model
from mlx_entk.onnx.random_numbers import refuse_draws, with_numbers_drawn
from mlx_entk.onnx.symbolic import (
    FixedBatchError,
    SymbolicGraph,
    resized,
    trace_dynamic,
    trace_fixed,
)
from mlx_entk.onnx.trial import Trial
from mlx_entk.tracing.module_state import restored

Exportable = nn.Module | Callable[..., Any]
# For each batch that may have any size, the numbers of the arrays whose first axis it is.
Batches = Sequence[Sequence[int]]


def export(
    function: Exportable,
    example_inputs: Sequence[mx.array],
    path: Path,
    *,
    params: Any = None,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    batches: Sequence[Sequence[int]] = ((0,),),
    metadata: Mapping[str, Any] | None = None,
) -> onnx.ModelProto:
    """Write a function as an ONNX file.

    Parameters
    ----------
    function
        An ``mlx.nn.Module`` called as ``module(*inputs)``; a function called as
        ``function(params, *inputs)``; or, with ``params`` None, as ``function(*inputs)``. It
        returns an array, or a list, tuple or dictionary of them.
    example_inputs
        Arrays with the shapes and types of the inputs.
    path
        Where to write the file. It is only written once onnxruntime has run the model and agrees
        with MLX. Weights beyond the 2 GiB that an ONNX file can hold go into a second file next to
        it, with the suffix ``.data``.
    params
        The parameter tree of a function. Parameters that it uses become initializers under their
        dotted names.
    input_names, output_names
        By default ``x`` or ``x0``, ``x1``, …; ``output`` or ``output0``, …, or the keys of a
        dictionary.
    batches
        For each batch, the numbers of the inputs whose first axis it is; by default the first
        input has one. Pass none for a graph with the example's shapes. If the graph does not allow
        a free size, its shapes are those of the example, and the metadata ``batch`` says ``fixed``
        and why.
    metadata
        Entries to add to the model's metadata.

    Returns
    -------
    onnx.ModelProto
        The model as written, with opset ``OPSET``. The metadata ``onnxruntime`` says what it
        was tried on.

    Raises
    ------
    InputError
        If a primitive has no builder: the message names it and where to add one. If onnxruntime
        cannot run the graph on the example inputs, or disagrees with MLX: the message names the
        operator or the output.
    """
    weights, call = _parametric(function, params)
    flat = _Flat(list(weights), call)
    arrays = [*weights.values(), *example_inputs]
    first = len(weights)  # number of the first input, after the weights
    inputs = _named(input_names, len(example_inputs), "x")
    outputs: list[str] = []

    def build(traced: SymbolicGraph, free: Batches) -> tuple[SymbolicGraph, onnx.ModelProto]:
        traced = with_numbers_drawn(traced)
        count = len(traced.graph.outputs)
        outputs[:] = _named(output_names or flat.keys or None, count, "output")
        return traced, assembled(traced, [*weights, *inputs], outputs, weights, free)

    with restored(function) if isinstance(function, nn.Module) else nullcontext():
        free = [[first + number for number in numbers] for numbers in batches]
        with refuse_draws():
            made = reported(partial(_make, arrays=arrays, free=free, build=build), flat, first)
        frozen = {FROZEN: _frozen(function)} if isinstance(function, nn.Module) else {}
        entries = {"batch": made.note, **frozen, **(metadata or {}), "provenance": provenance()}
        for key, value in entries.items():
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            made.model.metadata_props.add(key=key, value=text)
        sizes = [arrays[numbers[0]].shape[0] + 1 + i for i, numbers in enumerate(made.free)]
        tried = [arrays, resized(arrays, made.free, sizes)] if made.free else [arrays]
        trial = Trial(
            function=lambda given: flat(*weights.values(), *given),
            inputs=[dict(zip(inputs, batch[first:], strict=True)) for batch in tried],
            outputs=outputs,
            dtypes=frozenset(made.traced.graph.dtypes.values()),
            primitives=frozenset(node.primitive for node in made.traced.nodes),
        )
        write_model(made.model, path, trial)
    return made.model


class _Flat:
    """A function of arrays in order, weights first, that returns a list.

    ``keys`` are those of the dictionary that the function returned last.
    """

    def __init__(self, names: Sequence[str], call: Callable[..., Any]):
        self.keys: list[str] = []
        self._names, self._call = names, call

    def __call__(self, *arrays: mx.array) -> list[mx.array]:
        count = len(self._names)
        values = dict(zip(self._names, arrays[:count], strict=True))
        outputs = self._call(values, *arrays[count:])
        if isinstance(outputs, mx.array):
            outputs = [outputs]
        self.keys = list(outputs) if isinstance(outputs, dict) else []
        return list(outputs.values() if isinstance(outputs, dict) else outputs)


@dataclass(frozen=True)
class _Made:
    """A model, the graph that it was made from, and what is said of its free batches."""

    traced: SymbolicGraph
    model: onnx.ModelProto
    note: str
    free: Batches


def _make(
    function: Callable[..., list[mx.array]],
    arrays: Sequence[mx.array],
    free: Batches,
    build: Callable[[SymbolicGraph, Batches], tuple[SymbolicGraph, onnx.ModelProto]],
) -> _Made:
    """Trace a function and build its model, with free batches if the graph allows them."""
    try:
        if not free:
            raise FixedBatchError("it was exported for the batch size of its example")
        return _Made(*build(trace_dynamic(function, arrays, free), free), "dynamic", free)
    except FixedBatchError as error:
        return _Made(*build(trace_fixed(function, arrays), []), f"fixed: {error}", [])


def _parametric(function: Exportable, params: Any) -> tuple[Params, Callable[..., Any]]:
    if isinstance(function, nn.Module):
        if params is not None:
            raise InputError("params belongs to a function; a module brings its own parameters")
        module = function

        def call(values: Params, *inputs: mx.array) -> Any:
            module.update(unflatten_tree(values))
            return module(*inputs)

        return flatten_tree(module.parameters()), call
    if params is None:
        return {}, lambda values, *inputs: function(*inputs)
    return flatten_tree(params), lambda values, *inputs: function(unflatten_tree(values), *inputs)


def _frozen(module: nn.Module) -> list[str]:
    return sorted(
        flatten_tree(module.parameters()).keys()
        - flatten_tree(module.trainable_parameters()).keys()
    )


def _named(names: Sequence[str] | None, count: int, stem: str) -> list[str]:
    if names is None:
        return [stem] if count == 1 else [f"{stem}{i}" for i in range(count)]
    if len(names) != count:
        raise InputError(f"got {len(names)} names for {count} arrays: give one for each")
    return list(names)
