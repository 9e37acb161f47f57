"""Where dense linear algebra runs: the one module that knows.

Matrix products belong to MLX on a GPU and wherever MLX has a fast BLAS (Accelerate, or one
preloaded by :mod:`mlx_entk._blas`); with the reference BLAS of MLX's Linux wheel they go to
NumPy, through views of the same memory. Eigenproblems and singular values are solved in
float64 on the host by SciPy: Metal has no float64, and a spectrum of ten decades drowns in
float32.
"""

import sys
from typing import Any

import mlx.core as mx
import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from mlx_entk import _blas

FloatArray = NDArray[np.floating[Any]]
Float64Array = NDArray[np.float64]


def matmul_backend() -> str:
    """``"mlx"`` or ``"numpy"``: who multiplies large matrices on MLX's default device."""
    on_gpu = mx.default_device().type == mx.DeviceType.gpu
    slow_blas = sys.platform == "linux" and _blas.LIBRARY is None
    return "numpy" if slow_blas and not on_gpu else "mlx"


def gram(a: mx.array, b: mx.array) -> mx.array:
    """The product a bᵀ of float32 shapes (n, k) and (m, k): shape (n, m), 2·n·m·k FLOPs.

    On a CPU NumPy takes half of that where b is a: it sees the symmetry and calls ``ssyrk``,
    which MLX does not. Where k is small its copies cost more than they save.
    """
    on_gpu = mx.default_device().type == mx.DeviceType.gpu
    symmetric = a is b and 8 * a.shape[1] >= a.shape[0]
    if matmul_backend() == "mlx" and (on_gpu or not symmetric):
        return a @ b.T
    left = as_numpy(a)
    # As MLX does, without a warning: who decomposes the kernel says that it is not finite.
    with np.errstate(over="ignore", invalid="ignore"):
        return mx.array(left @ (left if a is b else as_numpy(b)).T)


def as_numpy(a: mx.array) -> FloatArray:
    """View an MLX array as NumPy, without a copy where the memory is shared with the host."""
    mx.eval(a)
    return np.array(a, copy=None)


def eigh(matrix: FloatArray, top: int | None = None) -> tuple[Float64Array, Float64Array]:
    """Eigenpairs of a symmetric matrix in float64, largest eigenvalue first.

    Parameters
    ----------
    matrix
        Shape (N, N). Only its symmetric part counts.
    top
        How many of the largest eigenpairs; None for all.

    Returns
    -------
    values, vectors
        Shapes (k,) and (N, k), float64; the sign of each vector makes its entry of largest
        magnitude positive, so that equal input gives equal output.
    """
    size = matrix.shape[0]
    symmetric = np.asarray(matrix, dtype=np.float64)
    symmetric = (symmetric + symmetric.T) / 2
    if top is None or top >= size:
        values, vectors = scipy.linalg.eigh(symmetric, overwrite_a=True, driver="evd")
    else:
        values, vectors = scipy.linalg.eigh(
            symmetric, overwrite_a=True, subset_by_index=(size - top, size - 1)
        )
    values, vectors = values[::-1], vectors[:, ::-1]
    peaks = vectors[np.abs(vectors).argmax(axis=0), np.arange(vectors.shape[1])]
    return np.ascontiguousarray(values), np.ascontiguousarray(vectors * np.sign(peaks))


def orthonormal_basis(columns: FloatArray, rtol: float = 1e-8) -> Float64Array:
    """Orthonormal basis of the span of the columns, by singular values.

    Directions whose singular value is below ``rtol`` times the largest are dropped, so the
    number of columns returned is the numerical rank; shape (N, rank), float64.
    """
    left, singular, _ = scipy.linalg.svd(np.asarray(columns, dtype=np.float64), full_matrices=False)
    if singular.size == 0 or singular[0] == 0:
        return np.zeros((columns.shape[0], 0))
    return np.ascontiguousarray(left[:, singular > rtol * singular[0]])
