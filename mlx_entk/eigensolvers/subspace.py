"""Randomised subspace iteration (Halko, Martinsson and Tropp, 2011, algorithm 5.3)."""

import numpy as np

from mlx_entk._linalg import Float64Array
from mlx_entk.eigensolvers.operators import Product, require_kernel
from mlx_entk.errors import RunFailedError


def subspace_iteration(
    multiply: Product,
    size: int,
    k: int,
    tolerance: float,
    iterations: int,
    generator: np.random.Generator,
) -> tuple[Float64Array, Float64Array]:
    """Find the k largest eigenpairs by subspace iteration with Rayleigh-Ritz.

    Parameters
    ----------
    multiply
        Multiplies by the operator, as :func:`~mlx_entk.eigensolvers.operators.products_of` gives.
    size
        N.
    k
        How many eigenpairs to find; the basis has 10 more vectors.
    tolerance, iterations
        As for :func:`~mlx_entk.eigensolvers.top_modes`.
    generator
        Draws the first basis.

    Returns
    -------
    values, vectors
        Shapes (k,) and (N, k), the largest first.

    Raises
    ------
    InputError
        If the operator turns out not to be symmetric positive semidefinite.
    RunFailedError
        If the modes have not converged after ``iterations`` block products.
    """
    basis = np.linalg.qr(generator.standard_normal((size, k + 10)))[0]
    for _ in range(iterations):
        product = multiply(basis)
        projected = basis.T @ product
        require_kernel(projected)
        values, rotation = np.linalg.eigh(projected)
        values, rotation = values[::-1], rotation[:, ::-1]
        vectors = basis @ rotation
        worst = float(np.linalg.norm(product @ rotation - vectors * values, axis=0)[:k].max())
        if worst <= tolerance * values[0]:
            return values[:k], vectors[:, :k]
        basis = np.linalg.qr(product)[0]
    raise RunFailedError(
        f"subspace iteration reached ‖Kv − λv‖ = {worst:.1e} with λ₀ = {values[0]:.1e} after "
        f"{iterations} products: allow more, or a larger tolerance"
    )
