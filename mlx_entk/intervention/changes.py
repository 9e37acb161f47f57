"""Changes of the weights as vectors: an array for each parameter that is touched."""

import mlx.core as mx
import numpy as np

from mlx_entk._linalg import Float64Array, as_numpy
from mlx_entk._parameters import Params
from mlx_entk.errors import InputError
from mlx_entk.spectrum import effective_rank


def dot(a: Params, b: Params) -> float:
    """The sum of products of all entries, accumulated in float64."""
    return float(sum(np.vdot(wide(value), wide(b[name])) for name, value in a.items()))


def norm(change: Params) -> float:
    """The Euclidean norm over all parameters together."""
    return float(np.sqrt(dot(change, change)))


def combined(a: Params, b: Params, factor: float) -> Params:
    """Two changes of the same parameters as one, a + factor · b."""
    return {name: value + factor * b[name] for name, value in a.items()}


def scaled(change: Params, to: float) -> Params:
    """A change scaled to a norm, over all parameters together."""
    size = norm(change)
    return {name: value * (to / size if size else 0.0) for name, value in change.items()}


def applied(params: Params, change: Params, dose: float = 1.0) -> Params:
    """θ + dose · change, for the parameters that change; each keeps its type."""
    return {
        name: (params[name].astype(mx.float32) + dose * value).astype(params[name].dtype)
        for name, value in change.items()
    }


def displacement(params: Params, initial: Params | None = None) -> Params:
    """θ − θ₀ in float32, or θ if θ₀ is not given."""
    if initial is None:
        return {name: value.astype(mx.float32) for name, value in params.items()}
    missing = [
        name
        for name, value in params.items()
        if name not in initial or initial[name].shape != value.shape
    ]
    if missing:
        raise InputError(
            f"the parameters before training do not have {', '.join(missing[:3])} in the shape of "
            "the trained ones"
        )
    return {
        name: value.astype(mx.float32) - initial[name].astype(mx.float32)
        for name, value in params.items()
    }


def effective_rank_of(change: mx.array) -> float | None:
    """Effective rank of the squared singular values of a matrix; None for any other shape.

    1 says that a change is one outer product: it links one direction of the inputs of a weight
    with one of its outputs.
    """
    if change.ndim != 2:
        return None
    return effective_rank(np.linalg.svd(wide(change), compute_uv=False) ** 2)


def wide(value: mx.array) -> Float64Array:
    """An array in float64 on the host."""
    return np.asarray(as_numpy(value.astype(mx.float32)), dtype=np.float64)
