"""What a kernel needs of its inputs and its model, said before anything is computed."""

import mlx.core as mx

from mlx_entk.errors import InputError
from mlx_entk.jacobian import ParametricFunction


def check_inputs(x: mx.array, x2: mx.array | None) -> None:
    """Require arrays of inputs of the same shape, at least one of each."""
    for name, value in (("x", x), ("x2", x2)):
        if value is None:
            continue
        if not isinstance(value, mx.array):
            raise InputError(f"{name} is {type(value).__name__}: pass an mlx array, batch first")
        if value.ndim == 0 or value.shape[0] == 0:
            raise InputError(f"{name} has shape {value.shape}: it needs at least one input")
    if x2 is not None and x2.shape[1:] != x.shape[1:]:
        raise InputError(f"x2 has inputs of shape {x2.shape[1:]}, x of {x.shape[1:]}")


def check_model(function: ParametricFunction, x: mx.array) -> int:
    """C, of a model that gives an input the same finite outputs whenever and beside whatever.

    Raises
    ------
    InputError
        For a model that cannot be called on x, returns NaN, draws random numbers (dropout) or
        mixes the inputs of a batch (batch norm).
    """
    try:
        alone = function.apply({}, x[:1])
        again = function.apply({}, x[:1])
        beside = function.apply({}, mx.concatenate([x[:1], x[-1:]]))[:1]
        mx.eval(alone, again, beside)
    except InputError:
        raise
    except (ValueError, TypeError, IndexError, RuntimeError) as error:
        raise InputError(
            f"model cannot be called on x of shape {x.shape} and type {x.dtype}: {error}"
        ) from error
    if not mx.all(mx.isfinite(alone)):
        raise InputError("model returns NaN or infinity on the first input: look at its weights")
    if not mx.array_equal(alone, again):
        raise InputError("model is random (dropout in training mode?): call model.eval() first")
    if not mx.allclose(alone, beside, rtol=1e-2, atol=1e-3):
        raise InputError(
            "model gives an input other outputs beside another input (batch norm in training "
            "mode?): call model.eval() first"
        )
    return alone.shape[1]
