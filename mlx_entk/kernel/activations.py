"""What the weights of a model are multiplied with: its activations, found in its graph."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_entk._linalg import FloatArray, as_numpy
from mlx_entk._memory import default_limit, format_bytes, limit_of
from mlx_entk.errors import InputError
from mlx_entk.kernel.structure import Structure, structure_of
from mlx_entk.kernel.tiling import ranges
from mlx_entk.kernel.uses.dense import Dense
from mlx_entk.tracing.functions import Model, Output, ParametricFunction, Selection, bind
from mlx_entk.tracing.inputs import Inputs, alone, count, part
from mlx_entk.tracing.mapping import map_inputs
from mlx_entk.tracing.primitives import FAST, UntraceableError
from mlx_entk.tracing.rules import traced

# Bytes of an activation.
_FLOAT = 4
# Inputs at a time.
_BATCH = 64


def activations(
    model: Model,
    x: Any,
    *,
    params: Any = None,
    output: Output | None = None,
    parameters: Selection | None = None,
    memory_limit: int | str | None = None,
    last: bool = False,
) -> dict[str, FloatArray]:
    """What each dense, convolutional or expert weight is multiplied with, in the model's order.

    Parameters
    ----------
    model, x, params, output, parameters
        As for ``mlx_entk.entk``.
    memory_limit
        Bytes that the activations may take together, by default half of what is available.
    last
        Whether to take those of the last weight alone.

    Returns
    -------
    dict of numpy.ndarray
        Shape (N, D), float32, all axes but the first as one. The name is that of the weight, or of
        all weights that meet the same values (query, key and value of an attention layer),
        joined by commas; a weight used several times meets several values, which are numbered.
        Empty for a model whose graph MLX cannot report.

    Raises
    ------
    InputError
        For inputs that do not fit the model, and for activations beyond the limit.
    """
    function, rows = bind(model, x, params, output, parameters)
    try:
        graph = traced(function, rows)
    except UntraceableError:
        return {}
    structure = structure_of(function, graph)
    order = [name for node in graph.nodes for name in node.inputs]
    weights: dict[str, list[str]] = {}
    for parameter, uses in structure.uses.items():
        met = sorted({use.met for use in uses if use.met in structure.of_input}, key=order.index)
        for number, value in enumerate(met):
            numbered = parameter if len(met) == 1 else f"{parameter} ({number + 1})"
            weights.setdefault(value, []).append(numbered)
    values = sorted(weights, key=order.index)[-1 if last else 0 :]
    found = _values(structure, rows, values, limit_of(memory_limit))
    return {", ".join(weights[value]): found[value] for value in values}


@dataclass(frozen=True)
class WeightInput:
    """What one use of a dense weight multiplies it with.

    Attributes
    ----------
    axis
        The axis of the weight that is summed over.
    values
        Over inputs and positions, shape (N·T, D), float32.
    """

    axis: int
    values: FloatArray


def weight_inputs(
    function: ParametricFunction, x: Inputs, memory_limit: int | str | None = None
) -> dict[str, list[WeightInput]]:
    """What every dense weight is multiplied with, position by position, by parameter.

    Weights in front of what they multiply, convolutions and experts are left out; so is every
    weight of a model whose graph MLX cannot report.

    Raises
    ------
    InputError
        As for ``activations``.
    """
    try:
        graph = traced(function, x)
    except UntraceableError:
        return {}
    structure, dense = structure_of(function, graph), Dense()
    met = {
        name: {
            use.met: int(use.transposed)
            for use in uses
            if use.slot == 1 and use.met in structure.of_input and dense.recognises(use, graph)
        }
        for name, uses in structure.uses.items()
    }
    values = list(dict.fromkeys(value for of_name in met.values() for value in of_name))
    found = _values(structure, x, values, limit_of(memory_limit))
    return {
        name: [
            WeightInput(axis, found[value].reshape(-1, graph.shapes[value][-1]))
            for value, axis in of_name.items()
        ]
        for name, of_name in met.items()
        if of_name
    }


def _values(
    structure: Structure, rows: Inputs, values: Sequence[str], limit: int | None
) -> dict[str, FloatArray]:
    """Values of a graph on every input, shape (N, D) each, within a limit of bytes."""
    graph = structure.graph
    limit = default_limit() if limit is None else limit
    floats = sum(math.prod(graph.shapes[value]) for value in values)
    taken = _FLOAT * floats * count(rows)
    if taken > limit:
        raise InputError(
            f"activations of {count(rows)} inputs take {format_bytes(taken)}, more than the limit "
            f"of {format_bytes(limit)}: pass fewer inputs or parameters"
        )
    given = list(structure.function.params.values())

    def meet(*row: mx.array) -> list[mx.array]:
        every = graph.run([*alone(row), *given], instead=FAST)
        return [every[value].reshape(-1).astype(mx.float32) for value in values]

    batches = [
        [as_numpy(array) for array in map_inputs(meet, part(rows, some))]
        for some in (ranges(count(rows), _BATCH) if values else [])
    ]
    joined = [np.concatenate(of_value) for of_value in zip(*batches, strict=True)]
    return dict(zip(values, joined, strict=True)) if values else {}
