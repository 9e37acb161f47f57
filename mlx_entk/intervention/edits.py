"""Edits of the weights: what lies in a span of modes, and the controls of it."""

from typing import Any

import mlx.core as mx
import numpy as np

from mlx_entk._linalg import Float64Array, FloatArray
from mlx_entk._parameters import Params
from mlx_entk.intervention.changes import displacement, wide
from mlx_entk.intervention.directions import ModeSpan
from mlx_entk.kernel.activations import weight_inputs
from mlx_entk.tracing.functions import Model, Output, Selection, bind


def removal(span: ModeSpan, initial: Params | None = None) -> Params:
    """The change that takes out of the weights what lies in a span.

    Parameters
    ----------
    span
        Of modes; the weights are those that its operator was made with.
    initial
        θ₀, the parameters before training by dotted name: then what was *learned* in the span is
        undone, −P(θ − θ₀). None takes out all that the weights hold there, −P θ.

    Raises
    ------
    InputError
        If the parameters before training are others.
    """
    held = displacement(span.operator.params, initial)
    return {name: -value for name, value in span.project(held).items()}


def random_edit(like: Params, generator: np.random.Generator) -> Params:
    """A change in a random direction whose norm equals another's, parameter by parameter."""
    drawn: Params = {}
    for name, value in like.items():
        noise = generator.standard_normal(value.shape)
        size = np.linalg.norm(noise)
        length = np.linalg.norm(wide(value))
        drawn[name] = mx.array((noise * (length / size if size else 0.0)).astype(np.float32))
    return drawn


def principal_edit(
    model: Model,
    x: Any,
    count: int,
    initial: Params | None = None,
    *,
    params: Any = None,
    output: Output | None = None,
    parameters: Selection | None = None,
) -> Params:
    """Take the leading principal directions of its activations out of each dense weight.

    The control of an edit along modes that needs no kernel: what a weight is multiplied with has
    principal directions, over inputs and positions and without centring, and the weight no longer
    reads the leading ones.

    Parameters
    ----------
    model, x, params, output, parameters
        As for ``mlx_entk.entk``; the activations are those on x.
    count
        How many directions; all of them if there are fewer.
    initial
        As for ``removal``.

    Returns
    -------
    dict
        By parameter; empty if MLX cannot tell what any weight is multiplied with.
    """
    function, inputs = bind(model, x, params, output, parameters)
    held = displacement(function.params, initial)
    change: Params = {}
    for name, uses in weight_inputs(function, inputs).items():
        left = whole = wide(held[name])
        for use in uses:
            directions = principal_directions(use.values, count)
            kept = np.eye(len(directions)) - directions @ directions.T
            left = left @ kept if use.axis == left.ndim - 1 else kept @ left
        change[name] = mx.array((left - whole).astype(np.float32))
    return change


def principal_directions(values: FloatArray, count: int) -> Float64Array:
    """The leading eigenvectors of HᵀH for coordinates H (n, D), shape (D, at most count)."""
    H = np.asarray(values, dtype=np.float64)
    return np.linalg.eigh(H.T @ H)[1][:, ::-1][:, :count]
