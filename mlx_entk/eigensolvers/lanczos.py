"""Thick-restart block Lanczos: the leading eigenpairs of an operator.

The restarts are those of Wu and Simon (2000), with a block of vectors in place of each vector as
in Golub and Underwood (1977). A block of one takes the fewest products; a larger one takes several
at a time, which is faster if a product is limited by the memory that it reads.
"""

from dataclasses import dataclass

import numpy as np
import scipy.linalg

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
# Convergence is looked at when the basis has grown by one vector in so many, because it costs an
# eigendecomposition: with single vectors, whose products are expensive, and with blocks.
_BETWEEN, _BETWEEN_BLOCKS = 32, 10


def basis_width(k: int, block: int) -> int:
    """Return how many vectors Lanczos keeps in order to find k modes, at most."""
    return _width(k, block) + 2 * block - 1


def _width(k: int, block: int) -> int:
    """The vectors of a basis at which it is restarted, give or take a block."""
    return max(2 * k + _SEARCH * block, _LEAST_WIDTH)


def lanczos(search: Search) -> Solution:
    """Find the k largest eigenpairs by restarted block Lanczos.

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
    k, b, generator = search.k, search.block, search.generator
    width = _width(k, b)
    basis = np.empty((basis_width(k, b) + b, search.size))  # orthonormal, in rows
    projected = np.zeros((len(basis), len(basis)))  # basis · K · basisᵀ, its upper triangle
    basis[:b] = _random_directions(basis[:0], b, generator)
    kept, end, restarts, left = 0, width, 0, search.products or np.inf
    known: Float64Array | None = None  # values of the converged modes that a search starts from
    # Directions that a search starts without, and what products of kept vectors have along them.
    dropped, along_dropped = basis[:0], np.zeros((0, 0))
    while True:
        last = int(min(end, kept + left))
        # A search takes all its steps: it looks for what the first vectors did not see.
        reached = _extend(search, basis, projected, kept, last, known is None)
        left -= reached.end - kept
        values, rotation = reached.values, reached.rotation
        if restarts == 0 and known is None:
            require_kernel(projected[: reached.end, : reached.end])
        following = basis[reached.end : reached.end + b]
        dropped = dropped - (dropped @ basis[: reached.end].T) @ basis[: reached.end]
        ahead = reached.remainder @ rotation[-b:, :k]
        aside = along_dropped @ rotation[: along_dropped.shape[1], :k]
        both = 2 * (ahead * (following @ dropped.T @ aside)).sum(axis=0)
        squares = (
            (ahead**2).sum(axis=0) + both + (aside * (dropped @ dropped.T @ aside)).sum(axis=0)
        )
        outside = np.sqrt(np.maximum(squares, 0))
        limits = _limits(search, values)
        converged = outside <= limits
        complete = known is not None and (values[:k] - known <= np.sqrt(k) * limits).all()
        if left == 0 or (converged.all() and complete):
            vectors = rotation[:, :k].T @ basis[: reached.end]
            return Solution(values[:k], np.ascontiguousarray(vectors.T), outside)
        following = following.copy()
        searches = bool(converged.all())
        if searches:
            kept, end, known = k, k + _SEARCH * b, values[:k]
            dropped, along_dropped = following, ahead
        else:
            restarts += 1
            if restarts == search.iterations:
                raise RunFailedError(
                    f"Lanczos found {converged.sum()} of {k} modes in {restarts} restarts: "
                    "allow more, or a larger tolerance"
                )
            kept, end, known = k + (reached.end - k) // 2, width, None
            dropped, along_dropped = following[:0], np.zeros((0, 0))
        basis[:kept] = rotation[:, :kept].T @ basis[: reached.end]
        basis[kept : kept + b] = (
            _random_directions(basis[:kept], b, generator) if searches else following
        )
        projected[:] = 0
        projected[np.arange(kept), np.arange(kept)] = values[:kept]


@dataclass(frozen=True)
class _Reached:
    """A basis, and the eigenpairs of the operator in it.

    Attributes
    ----------
    end
        Vectors of the basis; the next block follows them.
    remainder
        What the last products have along the next block, shape (b, b).
    values, rotation
        Eigenvalues, the largest first, and eigenvectors in terms of the basis.
    """

    end: int
    remainder: Float64Array
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
    continues it. Each block is made orthogonal twice, since doing it once would leave rounding as
    large as that of the products.
    """
    largest, k, b, looked = 0.0, search.k, search.block, 0
    between = _BETWEEN if b == 1 else _BETWEEN_BLOCKS
    for first in range(start, end, b):
        reached = first + b
        products = _products(search, basis[first:reached])
        largest = max(largest, float(np.linalg.norm(products, axis=1).max()))
        known = basis[:reached]
        along = known @ products.T
        projected[:reached, first:reached] = along
        following, remainder = _orthonormal(products - along.T @ known, largest, search.generator)
        again = known @ following.T
        projected[:reached, first:reached] += again @ remainder
        following -= again.T @ known
        basis[reached : reached + b], correction = _orthonormal(following, 0.0, search.generator)
        remainder = correction @ remainder
        ended = reached >= end
        if ended or (may_stop and reached > k and between * (reached - looked) >= reached):
            looked = reached
            values, rotation = np.linalg.eigh(projected[:reached, :reached], UPLO="U")
            values, rotation = values[::-1], rotation[:, ::-1]
            outside = np.linalg.norm(remainder @ rotation[-b:, :k], axis=0)
            if ended or (outside <= _limits(search, values)).all():
                return _Reached(reached, remainder, values, rotation)
        projected[reached : reached + b, first:reached] = remainder
    raise AssertionError("start lies below end")


def _products(search: Search, vectors: Float64Array) -> Float64Array:
    """The products of vectors in rows; a single one is given as a vector."""
    if len(vectors) == 1:
        return search.multiply(vectors[0])[None]
    return np.ascontiguousarray(search.multiply(vectors.T).T)


def _orthonormal(
    rows: Float64Array, scale: float, generator: np.random.Generator
) -> tuple[Float64Array, Float64Array]:
    """Orthonormal rows Q and the matrix B with rows = Bᵀ Q.

    Directions of no more than rounding, as products of size ``scale`` have it, are left out of B,
    and are random in Q.
    """
    columns, triangle, order = scipy.linalg.qr(rows.T, mode="economic", pivoting=True)
    sizes = np.abs(np.diagonal(triangle))
    rank = int((sizes > 100 * float(np.finfo(np.float64).eps) * scale).sum())
    triangle[rank:] = 0
    unordered = np.empty_like(triangle)
    unordered[:, order] = triangle
    orthonormal = np.ascontiguousarray(columns.T)
    orthonormal[rank:] = _random_directions(orthonormal[:rank], len(rows) - rank, generator)
    return orthonormal, unordered


def _random_directions(
    basis: Float64Array, count: int, generator: np.random.Generator
) -> Float64Array:
    """Draw random orthonormal rows that are orthogonal to the rows of a basis."""
    directions: Float64Array = generator.standard_normal((count, basis.shape[1]))
    for _ in range(2):
        directions -= (directions @ basis.T) @ basis
        directions = np.ascontiguousarray(np.linalg.qr(directions.T)[0].T)
    return directions
