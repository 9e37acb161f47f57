"""Inputs as people have them: an array, or a tuple or dictionary of arrays with one batch axis."""

from collections.abc import Mapping
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_entk.errors import InputError, first_line

# What a model is called with along with its parameters: arrays whose first axis is the batch.
Inputs = tuple[mx.array, ...]


def as_inputs(x: Any, name: str = "x") -> tuple[Inputs, tuple[str, ...] | None]:
    """The arrays of one or several inputs, and their names if they have any.

    Parameters
    ----------
    x
        An array of MLX, or of anything that NumPy reads; a tuple of them, for a model called as
        ``model(*x)``; or a dictionary of them, for one called as ``model(**x)``.
    name
        What to call it in an error.

    Raises
    ------
    InputError
        For anything else, for no input at all, and for arrays of different length.
    """
    names = None
    if isinstance(x, Mapping):
        if not all(isinstance(key, str) for key in x):
            raise InputError(f"{name} has keys that are no text: a model takes inputs by name")
        names = tuple(x)
        parts = {f"{name}[{key!r}]": value for key, value in x.items()}
    elif isinstance(x, tuple):
        parts = {f"{name}[{number}]": value for number, value in enumerate(x)}
    else:
        parts = {name: x}
    arrays = {key: _as_array(value, key) for key, value in parts.items()}
    if not arrays:
        raise InputError(f"{name} is empty: pass at least one array")
    lengths = {key: array.shape[0] for key, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        said = ", ".join(f"{key} has {length}" for key, length in lengths.items())
        raise InputError(f"{said} inputs: all need the same batch axis, which comes first")
    return tuple(arrays.values()), names


def _as_array(value: Any, name: str) -> mx.array:
    array: mx.array = value
    if not isinstance(value, mx.array):
        if isinstance(value, list) or not hasattr(value, "__array__"):
            raise InputError(
                f"{name} is {type(value).__name__}: pass an array with the batch first, or a "
                "tuple or dictionary of arrays"
            )
        try:
            host = np.asarray(value)
        except Exception as error:  # of other libraries: a tensor on a GPU, or one with gradients
            raise InputError(f"{name} is no array that NumPy reads: {first_line(error)}") from error
        if host.dtype.kind not in "biufc":
            raise InputError(f"{name} has type {host.dtype}, which MLX has no array for")
        wide = {"f": np.float32, "c": np.complex64}.get(host.dtype.kind)
        array = mx.array(host.astype(wide) if wide and host.dtype.itemsize > 4 else host)
    if array.ndim == 0 or array.shape[0] == 0:
        raise InputError(f"{name} has shape {array.shape}: it needs at least one input")
    return array


def count(inputs: Inputs) -> int:
    """N."""
    return inputs[0].shape[0]


def part(inputs: Inputs, rows: slice | mx.array) -> Inputs:
    """Some of the inputs."""
    return tuple(array[rows] for array in inputs)


def alone(row: Inputs) -> Inputs:
    """One input, without its batch axis, as a batch of one."""
    return tuple(array[None] for array in row)


def joined(*batches: Inputs) -> Inputs:
    """Several batches as one."""
    return tuple(mx.concatenate(list(arrays)) for arrays in zip(*batches, strict=True))


def described(inputs: Inputs) -> str:
    """Shapes and types, for an error."""
    return " and ".join(f"shape {array.shape} and type {array.dtype}" for array in inputs)


def different(x: Inputs) -> Inputs:
    """Two inputs that differ: the first, and the first that is not its equal.

    Where all are equal the second is made from the first: numbers are shifted by a little,
    whole numbers (tokens) turned around or, if that changes nothing, put to 0 or 1 at the end.
    """
    first = part(x, slice(1))
    unequal = mx.zeros((count(x),), mx.bool_)
    for array in x:
        unequal = mx.logical_or(unequal, mx.any((array != array[:1]).reshape(count(x), -1), axis=1))
    if mx.any(unequal):
        at = int(mx.argmax(unequal))
        return joined(first, part(x, slice(at, at + 1)))
    return joined(first, tuple(_changed(array) for array in first))


def _changed(array: mx.array) -> mx.array:
    if mx.issubdtype(array.dtype, mx.inexact):
        noise = mx.random.normal(array.shape, key=mx.random.key(0))
        return array + (0.1 * (mx.abs(array).mean() + 0.1) * noise).astype(array.dtype)
    flat = array.reshape(1, -1)
    turned = flat[:, ::-1]
    if flat.size and mx.array_equal(turned, flat):
        last = mx.where(flat[:, -1:] == 0, 1, 0).astype(array.dtype)
        turned = mx.concatenate([flat[:, :-1], last], axis=1)
    return turned.reshape(array.shape)
