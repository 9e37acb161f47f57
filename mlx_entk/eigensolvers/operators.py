"""Kernels as linear operators, and the checks that an operator can be an eNTK."""

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.sparse import issparse
from scipy.sparse.linalg import LinearOperator, aslinearoperator

from mlx_entk._linalg import ArrayLike, Float64Array, FloatArray, rows_not_finite, whole_number
from mlx_entk.errors import InputError, RunFailedError
from mlx_entk.spectrum import NOT_AN_ENTK, ROUNDING, square

Product = Callable[[Float64Array], Float64Array]

# The asymmetry that rounding may cause, as a share of the operator's norm: products of networks in
# bfloat16 gave up to 0.006, in float32 1e-7; operators that are not symmetric give about 1.
_ASYMMETRY = 0.03
# How far below zero rounding may put an eigenvalue, as a share of the largest: those networks gave
# 3e-4 and 1e-9, the kernels of pairs of different classes 0.08 and more.
_NEGATIVE = 1e-3
# Vectors that a formed kernel is best multiplied with at a time. A product has to read the whole
# kernel from memory, which takes about as long with 16 vectors as with one; with 32 it takes
# longer, and Lanczos needs a third more vectors.
_BLOCK = 16


class FormedOperator(LinearOperator):  # type: ignore[misc]
    """An operator whose numbers lie in memory, so that several products at a time are cheap.

    Parameters
    ----------
    size
        N.
    multiply
        Multiplies by vectors in columns, shape (N, k), or by one of shape (N,).
    """

    def __init__(self, size: int, multiply: Product):
        self._multiply = multiply
        super().__init__(np.dtype(np.float64), (size, size))

    def _matvec(self, vector: Float64Array) -> Float64Array:
        return self._multiply(vector)

    def _matmat(self, vectors: Float64Array) -> Float64Array:
        return self._multiply(vectors)


def products_at_once(operator: LinearOperator | ArrayLike) -> int:
    """How many products with an operator a solver best asks for at a time.

    Several of a matrix in memory; one of any other operator, whose products are expensive.
    """
    formed = not isinstance(operator, LinearOperator) or isinstance(operator, FormedOperator)
    return _BLOCK if formed else 1


def as_operator(kernel: ArrayLike) -> LinearOperator:
    """Wrap a formed kernel as an operator that multiplies in its own precision.

    The kernel is not copied to a wider type.

    Parameters
    ----------
    kernel
        Shape (N, N), of any floating or integer type.

    Returns
    -------
    LinearOperator
        Shape (N, N), with products in float64.

    Raises
    ------
    InputError
        If the kernel is not square, or has a negative entry on the diagonal.
    """
    return _formed(square(kernel, "kernel"), "kernel")


def _formed(matrix: FloatArray, name: str) -> LinearOperator:
    diagonal = np.diagonal(matrix)
    if diagonal.min() < -ROUNDING * np.abs(diagonal).max():
        raise InputError(
            f"{name} has negative entries on the diagonal down to −{-diagonal.min():.3g}: "
            f"{NOT_AN_ENTK}"
        )

    def multiply(vectors: Float64Array) -> Float64Array:
        product: Float64Array = (matrix @ vectors.astype(matrix.dtype)).astype(np.float64)
        return product

    return FormedOperator(len(matrix), multiply)


def products_of(operator: LinearOperator | ArrayLike) -> tuple[Product, int]:
    """Return a function that multiplies by an operator, and the operator's size.

    Parameters
    ----------
    operator
        Shape (N, N): a SciPy operator, a sparse matrix or a dense one.

    Returns
    -------
    multiply, size
        ``multiply`` takes one vector of shape (N,), or k of them in columns of shape (N, k), and
        returns float64 of the same shape; ``size`` is N.

    Raises
    ------
    InputError
        If the operator is not square, or not real.
    RunFailedError
        From ``multiply``, if a product is not finite.
    """
    linear: Any = operator
    if issparse(operator):
        linear = aslinearoperator(operator)
    elif not isinstance(operator, LinearOperator):
        linear = _formed(square(operator, "operator"), "operator")
    rows, columns = linear.shape
    if rows != columns or rows == 0:
        raise InputError(f"operator has shape {linear.shape}: an eNTK is square")
    if np.issubdtype(linear.dtype, np.complexfloating):
        raise InputError(f"operator has type {linear.dtype}: an eNTK is real")

    def multiply(vectors: Float64Array) -> Float64Array:
        with np.errstate(over="ignore", invalid="ignore"):
            # A copy, because an operator may return the very array that it was given.
            product: Float64Array = np.array(linear @ vectors, dtype=np.float64)
        if not np.isfinite(product).all():
            raise RunFailedError(
                f"{rows_not_finite(product, 'rows')} NaN or infinite entries in a product of "
                "the operator: look at the model's weights and inputs"
            )
        return product

    return multiply, rows


def require_kernel(projected: Float64Array) -> None:
    """Check that VᵀKV, for an orthonormal V, can come from an eNTK K.

    Its asymmetry shows how precise the products are, so a negative eigenvalue no larger than that
    counts as rounding too.

    Parameters
    ----------
    projected
        VᵀKV, shape (k, k).

    Raises
    ------
    InputError
        If it is asymmetric or negative beyond rounding.
    """
    asymmetry = float(np.linalg.norm(projected - projected.T))
    if asymmetry > _ASYMMETRY * np.linalg.norm(projected):
        raise InputError("operator is not symmetric: its spectrum is not that of an eNTK")
    values = np.linalg.eigvalsh((projected + projected.T) / 2)
    if -values[0] > max(_NEGATIVE * np.abs(values).max(), asymmetry):
        raise InputError(
            f"operator has negative eigenvalues down to −{-values[0]:.3g}: {NOT_AN_ENTK}"
        )


def random_generator(seed: int) -> np.random.Generator:
    """Return NumPy's generator for a seed.

    Raises
    ------
    InputError
        If the seed is not a whole number of at least 0.
    """
    if whole_number(seed, "seed") < 0:
        raise InputError(f"seed is {seed}: it must be 0 or more")
    return np.random.default_rng(seed)
