"""A model as a function of its parameters, whatever form a user brings it in."""

import dataclasses
import difflib
import fnmatch
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_map_with_path

from mlx_entk._parameters import Params, flatten_tree, unflatten_tree
from mlx_entk.errors import InputError
from mlx_entk.tracing.inputs import Inputs, as_inputs
from mlx_entk.tracing.module_state import require_initialised, restored
from mlx_entk.tracing.replacing import Replacing


def _stopped(function: Callable[..., mx.array]) -> Callable[..., mx.array]:
    return lambda *a, **k: mx.stop_gradient(function(*a, **k))


# Indices that a model finds by its own values count as constants, which they are. MLX refuses to
# differentiate by an index, as in a mixture's choice of experts, unless the model itself takes its
# gradient out.
_INDICES_WITHOUT_DERIVATIVE = Replacing(
    dict.fromkeys(("argmax", "argmin", "argpartition", "argsort"), _stopped)
)


@dataclass(frozen=True)
class ParametricFunction:
    """A model f(x; θ) as a pure function of a flat dictionary of parameters.

    Attributes
    ----------
    params
        θ by dotted name, every parameter once, real and of floating type.
    apply
        ``apply(params, *inputs)`` of shape (N, C), float32, for inputs of shapes (N, …);
        ``params`` may be a part of θ, the rest keeps its value.
    """

    params: Params
    apply: Callable[..., mx.array]

    def restricted(self, names: Collection[str]) -> "ParametricFunction":
        """The same as a function of some of the parameters."""
        kept = {name: value for name, value in self.params.items() if name in names}
        return ParametricFunction(kept, self.apply)


# Names that the message on an unknown one shows, the nearest first.
_NEAR = 12

Model = nn.Module | ParametricFunction | Callable[..., Any]
# Which part of what a model returns counts: its place, its name, or a function of it.
Output = int | str | Callable[[Any], Any]
# Which parameters count: names and patterns of names, or a function of a name.
Selection = str | Collection[str] | Callable[[str], bool]


def bind(
    model: Model,
    x: Any,
    params: Any = None,
    output: Output | None = None,
    parameters: Selection | None = None,
) -> tuple[ParametricFunction, Inputs]:
    """A model and its inputs, as a user passes them, in the form that kernels are computed in.

    Parameters
    ----------
    model, params, output
        As for ``as_parametric``.
    x
        As for ``mlx_entk.tracing.inputs.as_inputs``.
    parameters
        As for ``chosen_parameters``.
    """
    inputs, names = as_inputs(x)
    function = as_parametric(model, params, output=output, input_names=names)
    if parameters is not None:
        function = function.restricted(chosen_parameters(function.params, parameters))
    return function, inputs


def as_parametric(
    model: Model,
    params: Any = None,
    *,
    output: Output | None = None,
    input_names: Sequence[str] | None = None,
) -> ParametricFunction:
    """View a module, or a function with a parameter tree, as a ``ParametricFunction``.

    Parameters
    ----------
    model
        An ``mlx.nn.Module`` called as ``model(x)``, of which the trainable parameters count;
        a function called as ``model(params, x)``; or what this function gives.
    params
        The parameter tree of a function; None for the others. Arrays of whole numbers in it
        are passed on and do not count. A complex parameter counts as its real and its imaginary
        part, on a last axis of two.
    output
        Which part of what the model returns counts: a place in a tuple or list, a key of a
        dictionary or a field of an object, or a function of it such as ``lambda y: y[:, -1]``.
        None for all of an array.
    input_names
        Of several inputs, to pass them by name; None passes them in order.

    Raises
    ------
    InputError
        Where the parameters are missing, given twice, or none.
    """
    if isinstance(model, ParametricFunction):
        if params is not None:
            raise InputError("params belongs to a function; this one brings its own parameters")
        if output is not None or input_names is not None:
            raise InputError("output and inputs by name need the model itself")
        return model

    def call(function: Callable[..., Any], *inputs: mx.array) -> mx.array:
        with _INDICES_WITHOUT_DERIVATIVE:
            if input_names is None:
                returned = function(*inputs)
            else:
                returned = function(**dict(zip(input_names, inputs, strict=True)))
        return _as_matrix(_selected(returned, output), inputs[0].shape[0])

    if isinstance(model, nn.Module):
        if params is not None:
            raise InputError("params belongs to a function; a module brings its own parameters")
        return _from_module(model, call)
    if params is None:
        raise InputError("model is a function: pass its parameter tree as params=…")
    function = model

    flat = flatten_tree(params)
    if len(flat) < len(tree_flatten(params)):
        raise InputError("params has two parameters of one dotted name: rename one")

    def of_flat(values: Params, *inputs: mx.array) -> mx.array:
        tree = tree_map_with_path(lambda name, _: values[name or ""], params)
        return call(lambda *a, **k: function(tree, *a, **k), *inputs)

    return _from_values(of_flat, flat)


def from_flat(function: Callable[..., mx.array], params: Params) -> ParametricFunction:
    """View ``function(params, *inputs)`` of a flat dictionary as a ``ParametricFunction``.

    Names may hold anything: no tree is made of them.

    Raises
    ------
    InputError
        Where there are no parameters.
    """

    def apply(values: Params, *inputs: mx.array) -> mx.array:
        return _as_matrix(_selected(function(values, *inputs), None), inputs[0].shape[0])

    return _from_values(apply, params)


def chosen_parameters(params: Iterable[str], parameters: Selection) -> set[str]:
    """The names of parameters that a selection means.

    Parameters
    ----------
    parameters
        A name or pattern such as ``layers.*.weight``, several of them, or a predicate on names.

    Raises
    ------
    InputError
        For a name or pattern that fits no parameter, and where none is left.
    """
    names = list(params)
    if callable(parameters):
        selected = {name for name in names if parameters(name)}
        unknown = [] if selected else ["a predicate that takes none"]
    else:
        patterns = [parameters] if isinstance(parameters, str) else parameters
        if not isinstance(patterns, Iterable) or not all(isinstance(p, str) for p in patterns):
            raise InputError(f"parameters is {parameters!r}: pass names, patterns or a predicate")
        patterns = list(patterns)
        fits = {
            pattern: {pattern} & set(names) or set(fnmatch.filter(names, pattern))
            for pattern in patterns
        }
        unknown = sorted(pattern for pattern, fitting in fits.items() if not fitting)
        unknown = unknown if patterns else ["no names"]
        selected = set().union(*fits.values())
    if unknown:
        near = [n for pattern in unknown for n in difflib.get_close_matches(pattern, names, _NEAR)]
        shown = list(dict.fromkeys([*near, *names]))[: max(_NEAR, len(near))]
        rest = len(names) - len(shown)
        raise InputError(
            f"parameters has {', '.join(unknown)}: the model has {', '.join(shown)}"
            f"{f' and {rest} more' if rest else ''}"
        )
    return selected


def _from_module(module: nn.Module, call: Callable[..., mx.array]) -> ParametricFunction:
    require_initialised(module)
    mx.eval(module.parameters())  # what was never computed would be part of the model's graph
    params = _unique_parameters(module)

    def apply(values: Params, *inputs: mx.array) -> mx.array:
        with restored(module):
            module.update(unflatten_tree(values))
            return call(module, *inputs)

    return _from_values(apply, params, partial=True)


def _from_values(
    apply: Callable[..., mx.array], params: Params, partial: bool = False
) -> ParametricFunction:
    """Of a function of everything in ``params``, those that have a derivative.

    ``partial`` says that the function takes a part of them too.
    """
    for name, value in params.items():
        if not isinstance(value, mx.array):
            raise InputError(f"parameter {name} is {type(value).__name__}, not an mlx array")
    mx.eval(params)
    complex_ = {name for name, value in params.items() if value.dtype == mx.complex64}
    real = {
        name: mx.stack([mx.real(value), mx.imag(value)], axis=-1) if name in complex_ else value
        for name, value in params.items()
        if mx.issubdtype(value.dtype, mx.inexact)
    }
    if not real:
        raise InputError("model has no trainable parameters: its eNTK would be zero")
    mx.eval(real)

    def of_real(values: Params, *inputs: mx.array) -> mx.array:
        own = {
            name: value[..., 0] + 1j * value[..., 1] if name in complex_ else value
            for name, value in values.items()
        }
        return apply(own if partial else params | own, *inputs)

    return ParametricFunction(real, of_real)


def _unique_parameters(module: nn.Module) -> Params:
    """Trainable parameters by name; a submodule used at two places counts at its first."""
    params: Params = {}
    seen: set[tuple[int, str]] = set()
    for name, value in flatten_tree(module.trainable_parameters()).items():
        path, _, leaf = name.rpartition(".")
        try:
            owner, key = resolve(module, path, leaf)
        except (LookupError, TypeError, ValueError) as error:
            raise InputError(
                f"parameter {name} cannot be told from one inside another: a key of a dictionary "
                "in the module has a dot in it, rename it"
            ) from error
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


def _selected(returned: Any, output: Output | None) -> Any:
    """The part of what a model returns that counts."""
    if output is None:
        if isinstance(returned, mx.array):
            return returned
        if isinstance(returned, tuple | list):
            instead = f"a {type(returned).__name__} of {len(returned)}: choose with output=0, 1, …"
        elif isinstance(returned, Mapping) or dataclasses.is_dataclass(returned):
            instead = f"{type(returned).__name__}: choose with output={_names(returned)}"
        else:
            instead = f"{type(returned).__name__}, not an mlx array: choose with output=a function"
        raise InputError(f"model returned {instead}")
    if isinstance(returned, mx.array) and not callable(output):
        raise InputError(
            f"output {output} chooses among several, the model returns one array of shape "
            f"{returned.shape}: pass a function such as lambda y: y[:, -1]"
        )
    try:
        if callable(output):
            return output(returned)
        if isinstance(output, int):
            return returned[output]
        return returned[output] if isinstance(returned, Mapping) else getattr(returned, output)
    except (LookupError, AttributeError, TypeError, ValueError) as error:
        raise InputError(
            f"output {output if isinstance(output, int | str) else 'function'} does not fit what "
            f"the model returns, {type(returned).__name__} of {_names(returned)}: {error}"
        ) from error


def _names(returned: Any) -> str:
    """What a returned value can be asked for."""
    if isinstance(returned, Mapping):
        return ", ".join(repr(key) for key in returned)
    if dataclasses.is_dataclass(returned):
        return ", ".join(repr(field.name) for field in dataclasses.fields(returned))
    if isinstance(returned, tuple | list):
        return f"length {len(returned)}"
    return f"shape {returned.shape}" if isinstance(returned, mx.array) else "no parts"


def _as_matrix(outputs: Any, N: int) -> mx.array:
    if not isinstance(outputs, mx.array):
        raise InputError(f"model returned {type(outputs).__name__}, not an mlx array")
    if outputs.ndim == 0 or outputs.shape[0] != N:
        raise InputError(
            f"model returned shape {outputs.shape} for {N} inputs; its first axis must be the batch"
        )
    if not mx.issubdtype(outputs.dtype, mx.floating):
        what = "take parts or an absolute value" if outputs.dtype == mx.complex64 else "take logits"
        raise InputError(f"model returned {outputs.dtype}, which has no kernel: {what}")
    matrix = outputs.reshape(N, -1)
    return matrix if matrix.dtype == mx.float32 else matrix.astype(mx.float32)
