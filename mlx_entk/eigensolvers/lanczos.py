"""Thick-restart Lanczos (Wu and Simon, 2000): the fewest products for the leading eigenpairs."""

from dataclasses import dataclass

import numpy as np

from mlx_entk._linalg import Float64Array
from mlx_entk.eigensolvers.operators import require_kernel
from mlx_entk.eigensolvers.search import Search, Solution
from mlx_entk.errors import RunFailedError

# Steps of the search for modes that the first ones missed.
_SEARCH = 12
# The smallest basis that Lanczos works with.
_LEAST_WIDTH = 20
# Modes this many times smaller than the largest count as large as that for the tolerance.
_LEAST = 100


def basis_width(k: int) -> int:
    """Return how many vectors Lanczos keeps in order to find k modes."""
    return max(2 * k + 1, k + _SEARCH, _LEAST_WIDTH)


def lanczos(search: Search) -> Solution:
    """Find the k largest eigenpairs by restarted Lanczos.

    Parameters
    ----------
    search
        The task; its size has to be above ``basis_width``.

    Raises
    ------
    InputError
        If the operator turns out not to be symmetric positive semidefinite.
    RunFailedError
        If the modes have not converged after ``iterations`` restarts.
    """
    k, generator = search.k, search.generator
    width = basis_width(k)
    basis = np.empty((width + 1, search.size))  # orthonormal, in rows
    projected = np.zeros((width, width))  # basis · K · basisᵀ, its upper triangle
    basis[0] = _random_direction(basis[:0], generator)
    kept, end, restarts, left = 0, width, 0, search.products or np.inf
    known: Float64Array | None = None  # values of the converged modes that a search starts from
    # A direction that a search starts without, and what products of the kept vectors have along it.
    dropped, along_dropped = np.zeros(search.size), np.zeros(0)
    while True:
        last = int(min(end, kept + left))
        # A search takes all its steps: it looks for what the first vector did not see.
        reached = _extend(search, basis, projected, kept, last, known is None)
        left -= reached.end - kept
        values, rotation = reached.values, reached.rotation
        if restarts == 0 and known is None:
            require_kernel(projected[: reached.end, : reached.end])
        dropped -= (basis[: reached.end] @ dropped) @ basis[: reached.end]
        ahead = reached.remainder * rotation[-1, :k]
        aside = along_dropped @ rotation[: len(along_dropped), :k]
        both = 2 * ahead * aside * (basis[reached.end] @ dropped)
        squares = ahead**2 + both + aside**2 * (dropped @ dropped)
        outside = np.sqrt(np.maximum(squares, 0))
        limits = _limits(search, values)
        converged = outside <= limits
        complete = known is not None and (values[:k] - known <= np.sqrt(k) * limits).all()
        if left == 0 or (converged.all() and complete):
            vectors = rotation[:, :k].T @ basis[: reached.end]
            return Solution(values[:k], np.ascontiguousarray(vectors.T), outside)
        if converged.all():
            kept, following, known = k, None, values[:k]
            dropped, along_dropped = basis[reached.end].copy(), ahead
        else:
            restarts += 1
            if restarts == search.iterations:
                raise RunFailedError(
                    f"Lanczos found {converged.sum()} of {k} modes in {restarts} restarts: "
                    "allow more, or a larger tolerance"
                )
            kept, following, known = k + (reached.end - k) // 2, basis[reached.end].copy(), None
            dropped, along_dropped = np.zeros(search.size), np.zeros(0)
        basis[:kept] = rotation[:, :kept].T @ basis[: reached.end]
        basis[kept] = _random_direction(basis[:kept], generator) if following is None else following
        end = k + _SEARCH if following is None else width
        projected[:] = 0
        projected[np.arange(kept), np.arange(kept)] = values[:kept]


@dataclass(frozen=True)
class _Reached:
    """A basis, and the eigenpairs of the operator in it.

    Attributes
    ----------
    end
        Vectors of the basis.
    remainder
        Norm of what the last product has outside the basis.
    values, rotation
        Eigenvalues, the largest first, and eigenvectors in terms of the basis.
    """

    end: int
    remainder: float
    values: Float64Array
    rotation: Float64Array


def _limits(search: Search, values: Float64Array) -> Float64Array:
    """‖Kv − λv‖ at which each of the k modes has converged."""
    limits: Float64Array = search.tolerance * np.maximum(values[: search.k], values[0] / _LEAST)
    return limits


def _extend(
    search: Search,
    basis: Float64Array,
    projected: Float64Array,
    start: int,
    end: int,
    may_stop: bool,
) -> _Reached:
    """Take Lanczos steps from row ``start`` of the basis to ``end``, or until the modes converge.

    If nothing of a product is left, the basis spans an invariant subspace, and a random direction
    continues it.
    """
    largest, remainder, k = 0.0, 0.0, search.k
    for j in range(start, end):
        product = search.multiply(basis[j])
        largest = max(largest, float(np.linalg.norm(product)))
        for _ in range(2):  # doing it once would leave rounding as large as that of the product
            along = basis[: j + 1] @ product
            product -= along @ basis[: j + 1]
            projected[: j + 1, j] += along
        remainder = float(np.linalg.norm(product))
        if remainder <= 100 * float(np.finfo(np.float64).eps) * largest:
            remainder = 0.0
            basis[j + 1] = _random_direction(basis[: j + 1], search.generator)
        else:
            basis[j + 1] = product / remainder
        ended = j + 1 == end
        if ended or (may_stop and j >= k):
            values, rotation = np.linalg.eigh(projected[: j + 1, : j + 1], UPLO="U")
            values, rotation = values[::-1], rotation[:, ::-1]
            outside = remainder * np.abs(rotation[-1, :k])
            if ended or (outside <= _limits(search, values)).all():
                return _Reached(j + 1, remainder, values, rotation)
        projected[j + 1, j] = remainder
    raise AssertionError("start lies below end")


def _random_direction(basis: Float64Array, generator: np.random.Generator) -> Float64Array:
    """Draw a random unit vector orthogonal to the rows of a basis."""
    direction: Float64Array = generator.standard_normal(basis.shape[1:])
    for _ in range(2):
        direction -= (basis @ direction) @ basis
        direction /= np.linalg.norm(direction)
    return direction
