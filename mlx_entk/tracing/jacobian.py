"""The exact Jacobian of a model by reverse mode, and plain gradients to hold everything against."""

import sys
import warnings
from collections.abc import Collection, Iterable, Sequence, Set
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_entk._linalg import FloatArray, as_numpy
from mlx_entk._parameters import Params
from mlx_entk.errors import InputError, SlowPathWarning, first_line
from mlx_entk.tracing.functions import Model, Output, ParametricFunction, Selection, bind
from mlx_entk.tracing.inputs import Inputs, alone, count, different, part
from mlx_entk.tracing.mapping import map_pairs
from mlx_entk.tracing.rules import examine

# How far a gradient may be from the plain one, over its largest entry: far more than rounding,
# far less than a wrong rule. The second is for models with values in half precision.
TOLERANCE, TOLERANCE_IN_HALF = 1e-3, 0.03
# ... and over the largest of all gradients: below that it may be nothing but rounding.
_FLOOR = 5e-7
# Entries of a gradient that are compared, drawn at random: a wrong rule is wrong in many.
_ENTRIES = 2**16


def jacobian(
    model: Model,
    x: Any,
    *,
    params: Any = None,
    cotangents: mx.array | None = None,
    output: Output | None = None,
    parameters: Selection | None = None,
) -> Params:
    """Exact Jacobian ∂f/∂θ per input, by reverse mode.

    Parameters
    ----------
    model, x, params, output, parameters
        As for ``mlx_entk.entk``.
    cotangents
        Shape (R, C): returns the R combinations of the outputs that its rows ask for. None is
        the identity: R = C, the whole Jacobian.

    Returns
    -------
    dict
        By parameter name, shape (N, R, *parameter). Memory is N·R·P floats, time N·R
        backward passes; ``mlx_entk.entk`` is the way to kernels.
    """
    function, inputs = bind(model, x, params, output, parameters)
    if cotangents is None:
        cotangents = mx.eye(count_outputs(function, inputs))
    C = cotangents.shape[1]
    examined = examine(function, inputs, C)
    probe = Probe.of(examined.function, inputs, C)
    looped = unmappable(examined.rows, function.params, probe)
    warn_of_slow_path(looped)
    return jacobian_rows(examined.rows, inputs, cotangents, function.params, looped)


def flattened_jacobian(model: Model, x: Any, *, params: Any = None) -> FloatArray:
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


def count_outputs(function: ParametricFunction, x: Inputs) -> int:
    """C, the number of outputs, seen by calling the model on one input."""
    return function.apply({}, *part(x, slice(1))).shape[1]


def gradient(
    function: ParametricFunction, names: Sequence[str], x: Inputs, cotangents: mx.array
) -> list[mx.array]:
    """Σ over inputs and outputs of ``cotangents`` (N, C) times the Jacobian, by parameter."""

    def outputs(*wrt: mx.array) -> mx.array:
        return function.apply(dict(zip(names, wrt, strict=True)), *x)

    try:
        pulled: list[mx.array] = mx.vjp(
            outputs, [function.params[name] for name in names], [cotangents]
        )[1]
    except InputError:
        raise
    except Exception as error:  # MLX raises several types; a model's own code any
        raise InputError(f"model cannot be differentiated: {first_line(error)}") from error
    return pulled


@dataclass(frozen=True)
class Probe:
    """Gradients of two different inputs by two cotangents, each by a backward pass of its own.

    No ``vmap``, no structure and no forward mode are in them: what a kernel is computed from has
    to agree with these.

    Attributes
    ----------
    x
        Two inputs.
    cotangents
        Shape (2, C).
    gradients
        By parameter, for each input and each cotangent; not computed before they are asked for.
    tolerance
        How far rows may be from them, over the largest entry.
    """

    x: Inputs
    cotangents: mx.array
    gradients: dict[str, list[list[mx.array]]]
    tolerance: float

    @classmethod
    def of(cls, function: ParametricFunction, x: Inputs, C: int) -> "Probe":
        """At two different inputs among x."""
        rows = different(x)
        names = list(function.params)
        cotangents = mx.random.normal((2, C), key=mx.random.key(0))
        by_input = [
            [gradient(function, names, part(rows, slice(n, n + 1)), ct[None]) for ct in cotangents]
            for n in range(count(rows))
        ]
        half = {mx.float16, mx.bfloat16}
        is_half = any(value.dtype in half for value in (*function.params.values(), *x))
        gradients = {
            name: [[by_name[i] for by_name in of_input] for of_input in by_input]
            for i, name in enumerate(names)
        }
        tolerance = TOLERANCE_IN_HALF if is_half else TOLERANCE
        return cls(rows, cotangents, gradients, tolerance)

    def flat(self, name: str) -> list[mx.array]:
        """The gradients by a parameter: both cotangents of the first input, then of the second."""
        return [value for of_input in self.gradients[name] for value in of_input]

    def blind(self) -> set[str]:
        """Names of the parameters of which every gradient is zero, or lost in rounding."""
        sizes = {
            name: max(
                float(mx.abs(value).max()) if value.size else 0.0 for value in self.flat(name)
            )
            for name in self.gradients
        }
        floor = _FLOOR * max((size for size in sizes.values() if size < np.inf), default=0.0)
        return {name for name, size in sizes.items() if size <= floor}

    def has_gram(self, name: str, block: mx.array) -> bool:
        """Whether ``block`` (2, 2) is the products of the gradients, summed over cotangents."""
        flat = mx.stack([value.astype(mx.float32).reshape(-1) for value in self.flat(name)])
        products = (flat @ flat.T).reshape(2, 2, 2, 2)
        expected = products[:, 0, :, 0] + products[:, 1, :, 1]
        finite = mx.isfinite(expected)
        allowed = self.tolerance * mx.where(finite, mx.abs(expected), 0).max() + 1e-30
        return bool(mx.all(mx.where(finite, mx.abs(block - expected), 0) <= allowed))

    def mistaken(self, rows: Iterable[tuple[str, mx.array]]) -> set[str]:
        """Names of the parameters whose rows, shape (2, 2, …), are not the gradients."""
        errors, sizes = {}, {}
        for name, value in rows:
            if self.gradients[name][0][0].size == 0:
                continue
            plain = mx.stack([_sample(one.reshape(1, -1)) for one in self.flat(name)])
            plain = plain.reshape(2, 2, -1)
            sample = _sample(value.reshape(4, -1)).reshape(2, 2, -1)
            both_lost = mx.logical_not(mx.logical_or(mx.isfinite(plain), mx.isfinite(sample)))
            difference = mx.where(both_lost, 0, mx.abs(sample - plain))
            largest = mx.where(mx.isfinite(plain), mx.abs(plain), 0)
            errors[name], sizes[name] = difference.max(axis=2), largest.max(axis=2)
            mx.eval(errors[name], sizes[name])  # one parameter at a time
        floor = _FLOOR * max((float(size.max()) for size in sizes.values()), default=0.0)
        return {
            name
            for name, error in errors.items()
            if not mx.all(error <= self.tolerance * sizes[name] + floor)
        }


def _sample(rows: mx.array) -> mx.array:
    """Rows in single precision, of long ones as many entries as will do to tell them apart."""
    if rows.shape[1] > _ENTRIES:
        chosen = np.random.default_rng(0).integers(0, rows.shape[1], _ENTRIES).astype(np.int32)
        rows = mx.take(rows, mx.array(chosen), axis=1)
    return rows.astype(mx.float32)


def jacobian_rows(
    function: ParametricFunction,
    x: Inputs,
    cotangents: mx.array,
    names: Iterable[str],
    looped: Collection[str] = (),
) -> Params:
    """``jacobian`` for a part of the parameters of a function already resolved.

    Those in ``looped`` go by a backward pass for each input and cotangent, the others by
    ``mx.vmap`` if MLX can.
    """

    def rows(of: list[str], loop: bool) -> Params:
        def pull(row: Inputs, cotangent: mx.array) -> list[mx.array]:
            return gradient(function, of, alone(row), cotangent[None])

        mapped = map_pairs(pull, x, cotangents, loop=loop) if of else []
        return dict(zip(of, mapped, strict=True))

    names = list(names)
    alike = [name for name in names if name not in looped]
    by_name = rows(alike, loop=False) | rows([name for name in names if name in looped], loop=True)
    return {name: by_name[name] for name in names}


def unmappable(function: ParametricFunction, names: Collection[str], probe: Probe) -> set[str]:
    """The parameters whose rows by ``mx.vmap`` are not the gradients."""
    return probe.mistaken(jacobian_rows(function, probe.x, probe.cotangents, names).items())


def warn_of_slow_path(looped: Set[str]) -> None:
    """Say of which parameters the gradients are taken one by one."""
    if looped:
        names = [name or "the parameter" for name in sorted(looped)[:3]]
        named = ", ".join(names) + (", …" if len(looped) > 3 else "")
        warnings.warn(
            f"MLX maps the gradient by {named} wrongly: it is taken input by input, which is slow",
            SlowPathWarning,
            stacklevel=_levels_to_the_user(),
        )


def _levels_to_the_user() -> int:
    """How many calls above a warning the code that is not of this package is."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_globals["__name__"].startswith("mlx_entk."):
        frame, level = frame.f_back, level + 1
    return level
