"""A model as a function of its parameters, and its exact Jacobian."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_entk.errors import InputError
from mlx_entk.linalg import FloatArray, as_numpy
from mlx_entk.parameters import Params, flatten_tree, unflatten_tree


@dataclass(frozen=True)
class ParametricFunction:
    """A model f(x; θ) as a pure function of a flat dictionary of parameters.

    Attributes
    ----------
    params
        θ by dotted name, every parameter once.
    apply
        ``apply(params, x)`` of shape (N, C) for x of shape (N, …); ``params`` may be a part of
        θ, the rest keeps its value.
    module
        The module behind it, or None for a function.
    """

    params: Params
    apply: Callable[[Params, mx.array], mx.array]
    module: nn.Module | None


Model = nn.Module | ParametricFunction | Callable[[Any, mx.array], mx.array]


def as_parametric(model: Model, params: Any = None) -> ParametricFunction:
    """View a module, or a function with a parameter tree, as a :class:`ParametricFunction`.

    Parameters
    ----------
    model
        An ``mlx.nn.Module`` called as ``model(x)``, of which the trainable parameters count;
        a function called as ``model(params, x)``; or what this function gives.
    params
        The parameter tree of a function; None for the others.

    Raises
    ------
    InputError
        Where the parameters are missing, given twice, or none.
    """
    if isinstance(model, ParametricFunction):
        if params is not None:
            raise InputError("params belongs to a function; this one brings its own parameters")
        return model
    if isinstance(model, nn.Module):
        if params is not None:
            raise InputError("params belongs to a function; a module brings its own parameters")
        return _from_module(model)
    if params is None:
        raise InputError("model is a function: pass its parameter tree as params=…")
    function = model
    return from_flat(lambda values, x: function(unflatten_tree(values), x), flatten_tree(params))


def from_flat(
    function: Callable[[Params, mx.array], mx.array], params: Params
) -> ParametricFunction:
    """View a function of a flat dictionary of parameters as a :class:`ParametricFunction`.

    Names may hold anything: no tree is made of them.

    Raises
    ------
    InputError
        Where there are no parameters.
    """
    _require_parameters(params)

    def apply(values: Params, x: mx.array) -> mx.array:
        return _as_matrix(function(params | values, x), x)

    return ParametricFunction(params, apply, None)


def _from_module(module: nn.Module) -> ParametricFunction:
    params = _unique_parameters(module)
    _require_parameters(params)

    def apply(values: Params, x: mx.array) -> mx.array:
        module.update(unflatten_tree(values))
        try:
            return _as_matrix(module(x), x)
        finally:  # a transform may have put tracers in; the reader's module stays as it was
            module.update(unflatten_tree(params))

    return ParametricFunction(params, apply, module)


def _unique_parameters(module: nn.Module) -> Params:
    """Trainable parameters by name; a submodule used at two places counts at its first."""
    params: Params = {}
    seen: set[tuple[int, str]] = set()
    for name, value in flatten_tree(module.trainable_parameters()).items():
        path, _, leaf = name.rpartition(".")
        owner, key = resolve(module, path, leaf)
        if (id(owner), key) not in seen:
            seen.add((id(owner), key))
            params[name] = value
    return params


def resolve(module: nn.Module, path: str, leaf: str) -> tuple[Any, str]:
    """The container that holds a dotted parameter, and the key it has there."""
    owner: Any = module
    for key in path.split(".") if path else []:
        owner = owner[int(key)] if isinstance(owner, list | tuple) else owner[key]
    return owner, leaf


def _require_parameters(params: Params) -> None:
    if not params:
        raise InputError("model has no trainable parameters: its eNTK would be zero")
    for name, value in params.items():
        if not isinstance(value, mx.array):
            raise InputError(f"parameter {name} is {type(value).__name__}, not an mlx array")


def _as_matrix(outputs: mx.array, x: mx.array) -> mx.array:
    if not isinstance(outputs, mx.array):
        raise InputError(f"model returned {type(outputs).__name__}, not an mlx array")
    if outputs.ndim == 0 or outputs.shape[0] != x.shape[0]:
        raise InputError(
            f"model returned shape {outputs.shape} for {x.shape[0]} inputs; "
            "its first axis must be the batch"
        )
    return outputs.reshape(outputs.shape[0], -1)


def jacobian(
    model: Model, x: mx.array, *, params: Any = None, cotangents: mx.array | None = None
) -> Params:
    """Exact Jacobian ∂f/∂θ per input, by reverse mode.

    Parameters
    ----------
    model, params
        As for :func:`as_parametric`.
    x
        N inputs, shape (N, …).
    cotangents
        Shape (R, C): returns the R combinations of the outputs that its rows ask for. None is
        the identity: R = C, the whole Jacobian.

    Returns
    -------
    dict
        By parameter name, shape (N, R, *parameter). Memory is N·R·P floats, time N·R
        backward passes; :func:`mlx_entk.entk` is the way to kernels.
    """
    function = as_parametric(model, params)
    if cotangents is None:
        cotangents = mx.eye(count_outputs(function, x))
    return jacobian_rows(function, x, cotangents, function.params)


def flattened_jacobian(model: Model, x: mx.array, *, params: Any = None) -> FloatArray:
    """The Jacobian as a matrix, channel-major: row c·N + n, shape (C·N, P).

    Its product with its own transpose is the flattened eNTK. Memory is C·N·P floats, twice.
    """
    parts = [
        as_numpy(rows.astype(mx.float32).reshape(*rows.shape[:2], -1))
        for rows in jacobian(model, x, params=params).values()
    ]
    whole = np.concatenate(parts, axis=2)
    N, C, P = whole.shape
    return np.ascontiguousarray(whole.swapaxes(0, 1)).reshape(C * N, P)


def count_outputs(function: ParametricFunction, x: mx.array) -> int:
    """C, the number of outputs, seen by calling the model on one input."""
    return function.apply({}, x[:1]).shape[1]


def jacobian_rows(
    function: ParametricFunction, x: mx.array, cotangents: mx.array, names: Iterable[str]
) -> Params:
    """:func:`jacobian` for a part of the parameters of a function already resolved."""
    names = list(names)
    values = [function.params[name] for name in names]

    def pull(cotangent: mx.array, xn: mx.array) -> list[mx.array]:
        def outputs(*wrt: mx.array) -> mx.array:
            return function.apply(dict(zip(names, wrt, strict=True)), xn[None])[0]

        return mx.vjp(outputs, values, [cotangent.astype(mx.float32)])[1]

    rows = vmap_or_loop(lambda xn: vmap_or_loop(lambda ct: pull(ct, xn), cotangents), x)
    return dict(zip(names, rows, strict=True))


def vmap_or_loop(function: Callable[..., list[mx.array]], *over: mx.array) -> list[mx.array]:
    """Map over first axes with ``mx.vmap``, or one by one where MLX lacks a vmap rule."""
    try:
        mapped: list[mx.array] = mx.vmap(function)(*over)
        return mapped
    except ValueError as error:
        if "vmap" not in str(error):
            raise
    parts = []
    for items in zip(*over, strict=True):
        parts.append(function(*items))
        mx.eval(parts[-1])  # bounds the graph: one backward pass at a time
    return [mx.stack(list(part)) for part in zip(*parts, strict=True)]


def jvp_or_transpose(
    function: Callable[..., mx.array], values: list[mx.array], tangents: list[mx.array]
) -> mx.array:
    """Change of a function's value along tangents, by forward mode where MLX has it.

    Some primitives, such as convolutions, have a reverse rule alone. That one is linear in the
    cotangent, and its own reverse is the forward derivative.
    """
    try:
        return mx.jvp(function, values, tangents)[1][0]
    except ValueError as error:
        if "jvp" not in str(error):
            raise
    cotangent = mx.zeros_like(function(*values))
    return mx.vjp(lambda ct: mx.vjp(function, values, [ct])[1], [cotangent], tangents)[1][0]
