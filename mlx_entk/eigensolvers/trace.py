"""Estimates of tr K and tr K² (Hutch++)."""

from dataclasses import dataclass

import numpy as np
from scipy.sparse.linalg import LinearOperator

from mlx_entk._linalg import ArrayLike, whole_number
from mlx_entk.eigensolvers.operators import products_of, random_generator, require_kernel
from mlx_entk.errors import InputError


@dataclass(frozen=True)
class TraceEstimate:
    """Estimates of tr K and tr K² for an operator.

    Attributes
    ----------
    trace, trace_of_square
        The estimates.
    products
        How many matrix-vector products they took.
    """

    trace: float
    trace_of_square: float
    products: int

    @property
    def participation_ratio(self) -> float:
        """(tr K)²/tr K²: how many equal modes would give both traces; 0 if K = 0."""
        return self.trace**2 / self.trace_of_square if self.trace_of_square > 0 else 0.0


def estimate_trace(
    operator: LinearOperator | ArrayLike, vectors: int = 20, seed: int = 0
) -> TraceEstimate:
    """Estimate tr K and tr K² by Hutch++ (Meyer, Musco, Musco and Woodruff, 2021).

    The traces are exact on the range of K·S, for a random S of ``vectors`` columns; Hutchinson's
    estimate covers the rest. The error falls like 1/``vectors``.

    Parameters
    ----------
    operator
        Shape (N, N): a SciPy operator or a matrix.
    vectors
        Number of columns of S, and of Hutchinson's random vectors; N are enough to be exact.
    seed
        Seed of the random vectors.

    Raises
    ------
    InputError
        If ``vectors`` is below 1, or the operator is not square, or not symmetric positive
        semidefinite on the range of K·S.
    RunFailedError
        If a product is not finite.
    """
    multiply, size = products_of(operator)
    vectors = whole_number(vectors, "vectors")
    if vectors < 1:
        raise InputError(f"vectors is {vectors}: the estimate needs at least one")
    vectors = min(vectors, size)
    generator = random_generator(seed)
    sketch = multiply(generator.choice([-1.0, 1.0], (size, vectors)))
    basis = np.linalg.qr(sketch)[0]
    on_basis = multiply(basis)
    require_kernel(basis.T @ on_basis)
    outside = generator.choice([-1.0, 1.0], (size, vectors))
    outside -= basis @ (basis.T @ outside)
    on_outside = multiply(outside)
    return TraceEstimate(
        trace=float((basis * on_basis).sum() + (outside * on_outside).sum() / vectors),
        trace_of_square=float((on_basis**2).sum() + (on_outside**2).sum() / vectors),
        products=3 * vectors,
    )
