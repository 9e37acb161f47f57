"""What the weights of a model are multiplied with: its activations, found in its graph."""

import math
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_entk._linalg import FloatArray, as_numpy
from mlx_entk._memory import default_limit, format_bytes, limit_of
from mlx_entk.errors import InputError
from mlx_entk.kernel.structure import structure_of
from mlx_entk.kernel.tiling import ranges
from mlx_entk.tracing.functions import Model, Output, Selection, bind
from mlx_entk.tracing.inputs import alone, count, part
from mlx_entk.tracing.mapping import map_inputs
from mlx_entk.tracing.primitives import RIGHT, UntraceableError
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
    limit = limit_of(memory_limit)
    limit = default_limit() if limit is None else limit
    floats = sum(math.prod(graph.shapes[value]) for value in values)
    taken = _FLOAT * floats * count(rows)
    if taken > limit:
        raise InputError(
            f"activations of {count(rows)} inputs take {format_bytes(taken)}, more than the limit "
            f"of {format_bytes(limit)}: pass fewer inputs or parameters"
        )
    given = list(function.params.values())

    def meet(*row: mx.array) -> list[mx.array]:
        every = graph.run([*alone(row), *given], instead=RIGHT)
        return [every[value].reshape(-1).astype(mx.float32) for value in values]

    batches = [
        [as_numpy(array) for array in map_inputs(meet, part(rows, some))]
        for some in (ranges(count(rows), _BATCH) if values else [])
    ]
    return {
        ", ".join(weights[value]): np.concatenate(of_value)
        for value, of_value in zip(values, zip(*batches, strict=True), strict=True)
    }
