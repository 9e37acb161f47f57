"""Thick-restart Lanczos (Wu and Simon, 2000): the fewest products for the leading eigenpairs."""

import numpy as np

from mlx_entk._linalg import Float64Array
from mlx_entk.eigensolvers.operators import Product, require_kernel
from mlx_entk.eigensolvers.search import Search
from mlx_entk.errors import RunFailedError

# Steps of the search for modes that the first ones missed.
_SEARCH = 12
# The smallest basis that Lanczos works with.
_LEAST_WIDTH = 20


def basis_width(k: int) -> int:
    """Return how many vectors Lanczos keeps in order to find k modes."""
    return max(2 * k + 1, k + _SEARCH, _LEAST_WIDTH)


def lanczos(search: Search) -> tuple[Float64Array, Float64Array]:
    """Find the k largest eigenpairs by restarted Lanczos.

    Parameters
    ----------
    search
        The task; its size has to be above ``basis_width``.

    Returns
    -------
    values, vectors
        Shapes (k,) and (N, k), the largest first.

    Raises
    ------
    InputError
        If the operator turns out not to be symmetric positive semidefinite.
    RunFailedError
        If the modes have not converged after ``iterations`` restarts.
    """
    multiply, k, generator = search.multiply, search.k, search.generator
    width = basis_width(k)
    basis = np.empty((width + 1, search.size))  # orthonormal, in rows
    projected = np.zeros((width, width))  # basis · K · basisᵀ, its upper triangle
    basis[0] = _random_direction(basis[:0], generator)
    kept, end, restarts = 0, width, 0
    known: Float64Array | None = None  # values of the converged modes that a search starts from
    while True:
        remainder = _extend(multiply, basis, projected, kept, end, generator)
        if restarts == 0 and known is None:
            require_kernel(projected)
        values, rotation = np.linalg.eigh(projected[:end, :end], UPLO="U")
        values, rotation = values[::-1], rotation[:, ::-1]
        limits = search.tolerance * np.maximum(values[:k], values[0] / 100)
        converged = remainder * np.abs(rotation[-1, :k]) <= limits
        if converged.all():
            if known is not None and (values[:k] - known <= np.sqrt(k) * limits).all():
                return values[:k], np.ascontiguousarray((rotation[:, :k].T @ basis[:end]).T)
            kept, following, known = k, None, values[:k]
        else:
            restarts += 1
            if restarts == search.iterations:
                raise RunFailedError(
                    f"Lanczos found {converged.sum()} of {k} modes in {restarts} restarts: "
                    "allow more, or a larger tolerance"
                )
            kept, following, known = k + (end - k) // 2, basis[end].copy(), None
        basis[:kept] = rotation[:, :kept].T @ basis[:end]
        basis[kept] = _random_direction(basis[:kept], generator) if following is None else following
        end = k + _SEARCH if following is None else width
        projected[:] = 0
        projected[np.arange(kept), np.arange(kept)] = values[:kept]


def _extend(
    multiply: Product,
    basis: Float64Array,
    projected: Float64Array,
    start: int,
    end: int,
    generator: np.random.Generator,
) -> float:
    """Take Lanczos steps from row ``start`` of the basis up to ``end``.

    If nothing of a product is left, the basis spans an invariant subspace, and a random direction
    continues it.

    Returns
    -------
    float
        Norm of what the last product has outside the basis.
    """
    largest, remainder = 0.0, 0.0
    for j in range(start, end):
        product = multiply(basis[j])
        largest = max(largest, float(np.linalg.norm(product)))
        for _ in range(2):  # doing it once would leave rounding as large as that of the product
            along = basis[: j + 1] @ product
            product -= along @ basis[: j + 1]
            projected[: j + 1, j] += along
        remainder = float(np.linalg.norm(product))
        if remainder <= 100 * float(np.finfo(np.float64).eps) * largest:
            remainder = 0.0
            basis[j + 1] = _random_direction(basis[: j + 1], generator)
        else:
            basis[j + 1] = product / remainder
        if j + 1 < end:
            projected[j + 1, j] = remainder
    return remainder


def _random_direction(basis: Float64Array, generator: np.random.Generator) -> Float64Array:
    """Draw a random unit vector orthogonal to the rows of a basis."""
    direction: Float64Array = generator.standard_normal(basis.shape[1:])
    for _ in range(2):
        direction -= (basis @ direction) @ basis
        direction /= np.linalg.norm(direction)
    return direction
