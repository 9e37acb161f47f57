"""Randomised subspace iteration (Halko, Martinsson and Tropp, 2011, algorithm 5.3)."""

import numpy as np

from mlx_entk._linalg import Float64Array
from mlx_entk.eigensolvers.operators import require_kernel
from mlx_entk.eigensolvers.search import Search
from mlx_entk.errors import RunFailedError


def subspace_iteration(search: Search) -> tuple[Float64Array, Float64Array]:
    """Find the k largest eigenpairs by subspace iteration on k + 10 vectors with Rayleigh-Ritz.

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
    k = search.k
    basis = np.linalg.qr(search.generator.standard_normal((search.size, k + 10)))[0]
    for _ in range(search.iterations):
        product = search.multiply(basis)
        projected = basis.T @ product
        require_kernel(projected)
        values, rotation = np.linalg.eigh(projected)
        values, rotation = values[::-1], rotation[:, ::-1]
        vectors = basis @ rotation
        worst = float(np.linalg.norm(product @ rotation - vectors * values, axis=0)[:k].max())
        if worst <= search.tolerance * values[0]:
            return values[:k], vectors[:, :k]
        basis = np.linalg.qr(product)[0]
    raise RunFailedError(
        f"subspace iteration reached ‖Kv − λv‖ = {worst:.1e} with λ₀ = {values[0]:.1e} after "
        f"{search.iterations} products: allow more, or a larger tolerance"
    )
