"""The leading eigenpairs of an operator, with their residuals."""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from scipy.sparse.linalg import LinearOperator

from mlx_entk._linalg import ArrayLike, Float64Array, eigh, whole_number
from mlx_entk.eigensolvers.lanczos import basis_width, lanczos
from mlx_entk.eigensolvers.operators import (
    products_at_once,
    products_of,
    random_generator,
    require_kernel,
)
from mlx_entk.eigensolvers.search import Search
from mlx_entk.eigensolvers.subspace import subspace_iteration
from mlx_entk.errors import InputError
from mlx_entk.spectrum import Spectrum

Method = Literal["lanczos", "subspace"]
"""How ``top_modes`` finds modes."""

# Share of the largest eigenvalue below which products in float32 show rounding alone.
_NOISE = 10 * float(np.finfo(np.float32).eps)


@dataclass(frozen=True)
class TopModes:
    """The leading eigenpairs of an operator, and how accurate each of them is.

    Attributes
    ----------
    spectrum
        The eigenpairs.
    residuals
        ‖Kv − λv‖/λ for each mode, shape (k,), as the solver's products tell it; for modes below
        the noise floor, the same norm over that floor.
    """

    spectrum: Spectrum
    residuals: Float64Array


def top_modes(
    operator: LinearOperator | ArrayLike,
    k: int,
    *,
    method: Method = "lanczos",
    tolerance: float = 1e-5,
    iterations: int = 300,
    products: int | None = None,
    seed: int = 0,
) -> TopModes:
    """Find the k largest eigenpairs of a symmetric positive semidefinite operator.

    Parameters
    ----------
    operator
        Shape (N, N): a SciPy operator or a matrix. If N is at most about 2k + 12 for an operator,
        or 2k + 220 for a matrix, it is formed by N products and decomposed.
    k
        From 1 to N.
    method
        ``"lanczos"``: restarted Lanczos (Wu and Simon, 2000), which needs the fewest products; in
        blocks of 16 vectors for a matrix, which it then reads a tenth as often. Once the modes
        have converged, 12 steps from random vectors orthogonal to them look for larger ones,
        because a single vector cannot see further copies of a repeated eigenvalue.
        ``"subspace"``: randomised subspace iteration on k + 10 vectors with Rayleigh-Ritz
        (Halko, Martinsson and Tropp, 2011, algorithm 5.3), which needs more products but is
        simple and works in blocks.
    tolerance
        The residual ‖Kv − λv‖/λ at which to stop, with λ₀/100 in place of λ for modes below it;
        for ``"subspace"``, ‖Kv − λv‖/λ₀. Products in float32 reach about 1e-6.
    iterations
        The largest number of restarts (Lanczos) or block products (subspace).
    products
        For Lanczos, the largest number of products, above k. What has not converged by then is
        given as it is, which its residual tells. None for as many as it takes.
    seed
        Seed of the random vectors.

    Returns
    -------
    TopModes
        If the rank is below k, the remaining eigenvalues are 0.

    Raises
    ------
    InputError
        If k is not between 1 and N, another setting is out of range, or the operator is not
        square, not symmetric or not positive semidefinite. The last two are checked on the vectors
        in use, without further products: Lanczos finds the smallest eigenvalues along with the
        largest, so it sees a negative one well beyond rounding, while subspace iteration sees
        only those as large as the ones it is asked for.
    RunFailedError
        If ``iterations`` are too few, or a product is not finite.
    """
    multiply, size = products_of(operator)
    k, iterations = whole_number(k, "k"), whole_number(iterations, "iterations")
    if not 0 < k <= size:
        raise InputError(f"k is {k}: an operator of size {size} has {size} modes, pass 1 to {size}")
    if iterations < 1:
        raise InputError(f"iterations is {iterations}: allow at least one")
    if products is not None and products <= k:
        raise InputError(f"products is {products}: {k} modes need at least {k + 1}")
    if not tolerance > 0:
        raise InputError(f"tolerance is {tolerance}: it must be above 0")
    if method not in get_args(Method):
        raise InputError(f"method {method!r} is unknown: use {' or '.join(get_args(Method))}")
    generator = random_generator(seed)
    # A limit on products says that they are expensive.
    block = products_at_once(operator) if products is None else 1
    if size <= basis_width(k, block):
        formed = multiply(np.eye(size))
        require_kernel(formed)
        values, vectors = eigh(formed, k)
        remainders = np.linalg.norm(formed @ vectors - vectors * values, axis=0)
    else:
        solve = lanczos if method == "lanczos" else subspace_iteration
        found = solve(Search(multiply, size, k, tolerance, iterations, products, generator, block))
        values, vectors, remainders = found.values, found.vectors, found.remainders
    floor = _NOISE * max(0.0, float(values[0]))
    # For a kernel of zeros both the values and the floor are 0.
    residuals = remainders / np.maximum(values, floor or 1.0)
    return TopModes(Spectrum(values, vectors, floor), residuals)
