"""Functions with parts that MLX cannot report: checkpoints, and derivatives of their own.

``mx.checkpoint`` and ``mx.custom_function`` leave one primitive that hides what is inside. Mapping
takes the part apart: over an axis of one entry, a function is the same function of what it consists
of.
"""

import io
from collections.abc import Callable
from typing import TypeVar

import mlx.core as mx

from mlx_entk._parameters import Params
from mlx_entk.errors import InputError
from mlx_entk.onnx.trial import agree
from mlx_entk.tracing.functions import ParametricFunction
from mlx_entk.tracing.jacobian import gradient
from mlx_entk.tracing.primitives import Arrays, UntraceableError

_HIDING = "CustomTransforms"
# What MLX says of a checkpoint that closes over arrays of the gradient that it is part of.
_CLOSED_OVER = "uncaptured inputs"

Result = TypeVar("Result")


def reported(
    attempt: Callable[[Callable[..., Arrays]], Result],
    function: Callable[..., Arrays],
    weights: int,
) -> Result:
    """Return ``attempt(function)``, or that of the mapped function if MLX cannot report a part.

    Parameters
    ----------
    attempt
        What to do; it raises UntraceableError if MLX cannot report a primitive.
    function
        A function of weights, then inputs.
    weights
        The number of weights.

    Raises
    ------
    InputError
        If MLX cannot report the function either way.
    """
    try:
        return attempt(function)
    except UntraceableError as error:
        if not hides(str(error)):
            raise InputError(f"the function cannot be exported: {error}") from error
    for unmapped in (weights, 0):  # the inputs mapped; then the weights as well
        try:
            return attempt(_mapped(function, unmapped))
        except UntraceableError as error:
            reason = str(error)
    raise InputError(
        "the function cannot be exported: MLX cannot report what is inside mx.checkpoint, "
        f"nn.utils.checkpoint or mx.custom_function there ({reason}); call the function without it"
    )


def hides(reason: str) -> bool:
    """Return whether a checkpoint or a custom function is the reason of an UntraceableError."""
    return _HIDING in reason or _CLOSED_OVER in reason


def without_checkpoints(function: ParametricFunction, x: mx.array) -> ParametricFunction:
    """Return the same function with the same derivatives, without checkpoints.

    A function that hides other derivatives, which mapping would lose, is returned as it is: custom
    functions may have their own, and checkpoints have none by arrays that they close over. In MLX's
    gradient, each checkpoint leaves a Depends, and custom functions leave none.
    """
    names = list(function.params)
    outputs = function.apply({}, x)
    cotangent = mx.random.normal(outputs.shape, key=mx.random.key(0))
    gradients = gradient(function, names, (x,), cotangent)
    if _count(_HIDING, [outputs]) != _count("Depends", gradients):
        return function

    def apply(values: Params, *inputs: mx.array) -> mx.array:
        (mapped,) = _mapped(lambda *given: [function.apply(values, *given)], 0)(*inputs)
        return mapped

    without = ParametricFunction(function.params, apply)
    return without if agree(gradient(without, names, (x,), cotangent), gradients) else function


def _count(primitive: str, arrays: Arrays) -> int:
    """Return how many primitives of a kind arrays are yet to be computed by."""
    graph = io.StringIO()
    mx.export_to_dot(graph, *arrays)
    return graph.getvalue().count(f'"{primitive}"')


def _mapped(function: Callable[..., Arrays], unmapped: int) -> Callable[..., Arrays]:
    """Return the same function, mapped over an axis of one entry of all arrays but the first."""

    def mapped(*arrays: mx.array) -> Arrays:
        def of_rest(*rest: mx.array) -> Arrays:
            return function(*arrays[:unmapped], *rest)

        outputs: Arrays = mx.vmap(of_rest)(*(array[None] for array in arrays[unmapped:]))
        return [mx.squeeze(output, 0) for output in outputs]

    return mapped
