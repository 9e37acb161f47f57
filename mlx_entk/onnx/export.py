"""Export of any MLX function as an ONNX graph.

MLX reports the primitives of a function, and ``mlx_entk.onnx.builders.BUILDERS`` writes each
of them in ONNX. Weights become named initializers. The batch axis is free if the graph allows it,
which tracing at several sizes shows (see ``mlx_entk.onnx.symbolic``).
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import onnx
from onnx import helper, numpy_helper

from mlx_entk._parameters import Params, flatten_tree, unflatten_tree
from mlx_entk._provenance import provenance
from mlx_entk.errors import InputError
from mlx_entk.onnx.builders import BUILDERS, Primitive
from mlx_entk.onnx.emitter import FROZEN, PRODUCER, Emitter, as_onnx_array, is_value, onnx_type
from mlx_entk.onnx.files import write_model
from mlx_entk.onnx.symbolic import (
    FixedBatchError,
    Size,
    SymbolicGraph,
    resized,
    trace_dynamic,
    trace_fixed,
)
from mlx_entk.onnx.trial import Trial
from mlx_entk.tracing.primitives import UntraceableError

# ReduceMax with its axes as an input needs 18; every other operator is older.
OPSET = 18
# Version of the file format: the first with opset 18.
IR_VERSION = 8

Exportable = nn.Module | Callable[..., Any]


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
    names = list(weights)
    first = len(names)  # number of the first input, after the parameters
    structure: list[str] = []

    def flat(*arrays: mx.array) -> list[mx.array]:
        outputs = call(dict(zip(names, arrays[:first], strict=True)), *arrays[first:])
        if isinstance(outputs, mx.array):
            outputs = [outputs]
        structure[:] = list(outputs) if isinstance(outputs, dict) else []
        return list(outputs.values() if isinstance(outputs, dict) else outputs)

    arrays = [*weights.values(), *example_inputs]
    free = [[first + number for number in numbers] for numbers in batches]
    inputs = _named(input_names, len(example_inputs), "x")
    outputs: list[str] = []

    def build(traced: SymbolicGraph, free: Sequence[Sequence[int]]) -> onnx.ModelProto:
        count = len(traced.graph.outputs)
        outputs[:] = _named(output_names or structure or None, count, "output")
        return _build(traced, [*names, *inputs], outputs, weights, free)

    try:
        try:
            if not free:
                raise FixedBatchError("it was exported for the batch size of its example")
            traced = trace_dynamic(flat, arrays, free)
            model, note = build(traced, free), "dynamic"
        except FixedBatchError as error:
            traced = trace_fixed(flat, arrays)
            model, note, free = build(traced, []), f"fixed: {error}", []
    except UntraceableError as error:
        raise InputError(f"the function cannot be exported: {error}") from error
    frozen = {FROZEN: _frozen(function)} if isinstance(function, nn.Module) else {}
    entries = {"batch": note, **frozen, **(metadata or {}), "provenance": provenance()}
    for key, value in entries.items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        model.metadata_props.add(key=key, value=text)

    sizes = [example_inputs[numbers[0] - first].shape[0] for numbers in free]
    larger = [size + 1 + i for i, size in enumerate(sizes)]
    batches_tried = [arrays, resized(arrays, free, larger)] if free else [arrays]
    trial = Trial(
        function=lambda given: flat(*weights.values(), *given),
        inputs=[dict(zip(inputs, batch[first:], strict=True)) for batch in batches_tried],
        outputs=outputs,
        dtypes=frozenset(traced.graph.dtypes.values()),
        primitives=frozenset(node.primitive for node in traced.nodes),
    )
    write_model(model, path, trial)
    return model


def _parametric(function: Exportable, params: Any) -> tuple[Params, Callable[..., Any]]:
    if isinstance(function, nn.Module):
        if params is not None:
            raise InputError("params belongs to a function; a module brings its own parameters")
        module = function
        own = flatten_tree(module.parameters())

        def call(values: Params, *inputs: mx.array) -> Any:
            module.update(unflatten_tree(values))
            try:
                return module(*inputs)
            finally:
                module.update(unflatten_tree(own))

        return own, call
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


def _build(
    traced: SymbolicGraph,
    input_names: list[str],
    output_names: list[str],
    weights: Params,
    free: Sequence[Sequence[int]],
) -> onnx.ModelProto:
    graph = traced.graph
    ends = {*input_names[len(weights) :], *output_names}
    if taken := [name for name in weights if name in ends or is_value(name)]:
        raise InputError(
            f"the graph has an input, an output or a value of its own called {taken[0]}: rename "
            "the parameter"
        )
    names = dict(zip(graph.inputs, input_names, strict=True))
    emitter = Emitter({numbers[0]: input_names[numbers[0]] for numbers in free})
    for name, value in weights.items():
        emitter.initializers[name] = as_onnx_array(value)
    for name, value in graph.constants.items():
        names[name] = emitter.fresh()
        emitter.initializers[names[name]] = as_onnx_array(value)
    for node in traced.nodes:
        if node.primitive == "RandomBits":
            raise InputError(
                "the function cannot be exported because of MLX primitive RandomBits: it draws "
                "random numbers, or closes over an array that mx.eval has not computed yet"
            )
        if node.primitive not in BUILDERS:
            raise InputError(
                f"MLX primitive {node.primitive} has no ONNX builder: add a line "
                f'"{node.primitive}": … to the table of its family in mlx_entk/onnx/builders'
            )
        primitive = Primitive(
            name=node.primitive,
            inputs=[names[name] for name in node.inputs],
            arguments=node.arguments,
            shapes=[traced.shapes[name] for name in node.inputs],
            dtypes=[graph.dtypes[name] for name in node.inputs],
            output_shapes=[traced.shapes[name] for name in node.outputs],
            output_dtypes=[graph.dtypes[name] for name in node.outputs],
        )
        built = BUILDERS[node.primitive](emitter, primitive)
        names.update(zip(node.outputs, [built] if isinstance(built, str) else built, strict=True))
    for name, output in zip(graph.outputs, output_names, strict=True):
        emitter.op("Identity", [names[name]], output)
    used = {name for node in emitter.nodes for name in node.input}

    labels = {numbers[0]: f"N{i}" if i else "N" for i, numbers in enumerate(free)}

    def described(name: str, value: str) -> onnx.ValueInfoProto:
        shape = [_label(size, labels) for size in traced.shapes[value]]
        return helper.make_tensor_value_info(name, onnx_type(graph.dtypes[value]), shape)

    inputs = list(zip(input_names, graph.inputs, strict=True))[len(weights) :]
    outputs = zip(output_names, graph.outputs, strict=True)
    model = helper.make_model(
        helper.make_graph(
            emitter.nodes,
            "mlx_entk",
            [described(name, value) for name, value in inputs],
            [described(name, value) for name, value in outputs],
        ),
        producer_name=PRODUCER,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )
    for name, array in emitter.initializers.items():  # one at a time: they may fill the memory
        if name in used:
            tensor = numpy_helper.from_array(np.ascontiguousarray(array), name)
            model.graph.initializer.add().CopyFrom(tensor)
    return model


def _label(size: Any, labels: dict[int, str]) -> int | str | None:
    """Return a size, the name of a free batch, or None for a size composed of batches."""
    if not isinstance(size, Size):
        return int(size)
    for number, label in labels.items():
        if size.coefficients == (((number,), 1),):
            return label
    return None
