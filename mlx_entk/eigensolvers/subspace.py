"""Randomised subspace iteration (Halko, Martinsson and Tropp, 2011, algorithm 5.3)."""

import numpy as np

from mlx_entk.eigensolvers.operators import require_kernel
from mlx_entk.eigensolvers.search import Search, Solution
from mlx_entk.errors import RunFailedError


def subspace_iteration(search: Search) -> Solution:
    """Find the k largest eigenpairs by subspace iteration on k + 10 vectors with Rayleigh-Ritz.

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
        remainders = np.linalg.norm(product @ rotation - vectors * values, axis=0)[:k]
        worst = float(remainders.max())
        if worst <= search.tolerance * values[0]:
            return Solution(values[:k], vectors[:, :k], remainders)
        basis = np.linalg.qr(product)[0]
    raise RunFailedError(
        f"subspace iteration reached ‖Kv − λv‖ = {worst:.1e} with λ₀ = {values[0]:.1e} after "
        f"{search.iterations} products: allow more, or a larger tolerance"
    )
