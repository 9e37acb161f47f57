"""Dense linear algebra; no other module decides where it runs.

Matrix products run in MLX on a GPU, and wherever MLX has a fast BLAS (Accelerate, or one
preloaded by ``mlx_entk._blas``); with the reference BLAS of MLX's Linux wheel they run in NumPy,
on views of the same memory. SciPy solves eigenproblems and singular values in float64 on the
host: Metal has no float64, and float32 cannot resolve a spectrum that spans ten decades. Input
may be an array of any library; ``as_floats`` turns it into a NumPy array.
"""

import operator
import sys
from typing import Any, SupportsIndex

import mlx.core as mx
import numpy as np
import numpy.typing as npt
import scipy.linalg
from numpy.typing import NDArray

from mlx_entk import _blas
from mlx_entk.errors import InputError, first_line

FloatArray = NDArray[np.floating[Any]]
Float64Array = NDArray[np.float64]
# Whatever NumPy turns into an array, and MLX arrays.
ArrayLike = npt.ArrayLike | mx.array

# Spacing of the numbers just above 1, by the type's name in NumPy, MLX, PyTorch and ml_dtypes.
_EPSILON = {"bfloat16": 2.0**-7, "float16": 2.0**-10, "float32": 2.0**-23}

# How many rows a message names.
_NAMED_ROWS = 5


def on_gpu() -> bool:
    """Whether MLX's default device is a GPU, to which the host's memory is far away."""
    return mx.default_device().type == mx.DeviceType.gpu


def matmul_backend() -> str:
    """``"mlx"`` or ``"numpy"``: which one multiplies large matrices on MLX's default device."""
    slow_blas = sys.platform == "linux" and _blas.LIBRARY is None
    return "numpy" if slow_blas and not on_gpu() else "mlx"


def gram(a: mx.array, b: mx.array | None = None) -> mx.array:
    """The product a bᵀ of float32 arrays of shapes (n, k) and (m, k), or a aᵀ if b is None.

    The result has shape (n, m) and takes 2·n·m·k FLOPs. For a aᵀ a CPU needs only half of them by
    ``ssyrk``, which MLX does not call, unless k is so small that the time goes into the result.
    """
    halved = b is None and 8 * a.shape[1] >= a.shape[0]
    if matmul_backend() == "mlx" and (on_gpu() or not halved):
        return a @ (a if b is None else b).T
    rows = as_numpy(a)
    if b is None and _blas.multiplies_by_itself():
        product = mx.zeros((a.shape[0], a.shape[0]))
        _blas.multiply_by_itself(np.ascontiguousarray(rows), as_numpy(product))
        return product
    # NumPy recognises a aᵀ by the memory of its operands: both have to be views of one array.
    columns = rows if b is None else as_numpy(b)
    # Like MLX, without a warning: whoever decomposes the kernel reports that it is not finite.
    with np.errstate(over="ignore", invalid="ignore"):
        return mx.array(rows @ columns.T)


def settle(*arrays: mx.array) -> None:
    """Compute arrays now, so that what they are made from is freed.

    A GPU begins with it and does not keep the caller waiting.
    """
    if on_gpu():
        mx.async_eval(*arrays)
    else:
        mx.eval(*arrays)


def as_numpy(a: mx.array) -> NDArray[Any]:
    """View an MLX array as a NumPy array, without a copy if the host shares its memory.

    bfloat16, which NumPy lacks, becomes float32.
    """
    if a.dtype == mx.bfloat16:
        a = a.astype(mx.float32)
    mx.eval(a)
    return np.array(a, copy=None)


def as_floats(values: ArrayLike, name: str) -> FloatArray:
    """Real numbers as a float32 or float64 array on the host.

    Parameters
    ----------
    values
        Anything that NumPy turns into an array, or an MLX array. float32 and float64 keep their
        type, and are not copied if that is possible; float16 and bfloat16 become float32,
        integers and booleans float64.
    name
        What messages call the values.

    Raises
    ------
    InputError
        If the values are not an array of real numbers.
    """
    if np.ma.is_masked(values):
        raise InputError(f"{name} has masked entries: leave their inputs out, or fill them")
    try:
        array = as_numpy(values) if isinstance(values, mx.array) else np.asarray(values)
        if array.dtype in (np.float32, np.float64):
            return array
        if array.dtype.name in _EPSILON:
            return array.astype(np.float32)
        if array.dtype.kind in "biufO":
            return array.astype(np.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{name} cannot be read as numbers: {first_line(error)}") from error
    raise InputError(f"{name} has type {array.dtype}: pass real numbers")


def epsilon_of(values: ArrayLike) -> float:
    """Relative spacing of the type that values are stored in; that of float64 for integers."""
    name = str(getattr(values, "dtype", "")).rpartition(".")[2]
    return _EPSILON.get(name, float(np.finfo(np.float64).eps))


def as_columns(values: ArrayLike, name: str) -> Float64Array:
    """Functions over N inputs as columns in float64, shape (N, k).

    Raises
    ------
    InputError
        For any other shape, for no inputs, and for NaN or infinite entries.
    """
    columns: Float64Array = np.asarray(as_floats(values, name), dtype=np.float64)
    if columns.ndim != 2 or columns.shape[0] == 0:
        raise InputError(f"{name} have shape {columns.shape}: pass a row for each input, (N, k)")
    require_finite(columns, name)
    return columns


def require_finite(values: FloatArray, name: str, rows: str = "inputs") -> None:
    """Raise InputError if entries are NaN or infinite, and name the rows that have them."""
    if not np.isfinite(values).all():
        raise InputError(f"{rows_not_finite(values, rows)} NaN or infinite {name}")


def rows_not_finite(values: FloatArray, rows: str) -> str:
    """Say how many rows have NaN or infinite entries, and which: ``2 of 9 inputs (3, 5) have``."""
    bad = np.flatnonzero(~np.isfinite(values.reshape(len(values), -1)).all(axis=1))
    named = [*map(str, bad[:_NAMED_ROWS]), *["…"] * (bad.size > _NAMED_ROWS)]
    verb = "has" if bad.size == 1 else "have"
    return f"{bad.size} of {len(values)} {rows} ({', '.join(named)}) {verb}"


def whole_number(value: SupportsIndex, name: str) -> int:
    """An argument that counts something, as an int; raises InputError for 2.0 or None."""
    try:
        return operator.index(value)
    except TypeError as error:
        raise InputError(f"{name} is {value!r}: pass a whole number") from error


def eigh(matrix: FloatArray, top: int | None = None) -> tuple[Float64Array, Float64Array]:
    """Eigenpairs of a symmetric matrix in float64, largest eigenvalue first.

    Parameters
    ----------
    matrix
        Shape (N, N), finite. Only its symmetric part is used.
    top
        How many of the largest eigenpairs to find; None for all.

    Returns
    -------
    values, vectors
        Shapes (k,) and (N, k), float64. Each vector's entry of largest magnitude is positive, so
        that equal input gives equal output.
    """
    size = matrix.shape[0]
    symmetric = _symmetric(matrix)
    if top is None or top >= size:
        values, vectors = scipy.linalg.eigh(symmetric, overwrite_a=True, driver="evd")
    else:
        values, vectors = scipy.linalg.eigh(
            symmetric, overwrite_a=True, subset_by_index=(size - top, size - 1)
        )
    values, vectors = values[::-1], vectors[:, ::-1]
    peaks = vectors[np.abs(vectors).argmax(axis=0), np.arange(vectors.shape[1])]
    return np.ascontiguousarray(values), np.ascontiguousarray(vectors * np.sign(peaks))


def lowest_eigenvalue(matrix: FloatArray, above: float) -> float | None:
    """The smallest eigenvalue of a symmetric matrix, or None if it is above a limit.

    A Cholesky factorisation tells whether it is, in N³/3 multiplications and a tenth of the time
    of an eigendecomposition; the eigenvalue is computed only if the factorisation fails.

    Parameters
    ----------
    matrix
        Shape (N, N), finite. Only its symmetric part is used.
    above
        The limit.
    """
    shifted = _symmetric(matrix)
    shifted[np.diag_indices_from(shifted)] -= above
    try:
        # The transpose is the same matrix, and LAPACK needs no copy of it.
        scipy.linalg.cholesky(shifted.T, overwrite_a=True, check_finite=False)
    except scipy.linalg.LinAlgError:
        (lowest,) = scipy.linalg.eigvalsh(_symmetric(matrix), subset_by_index=(0, 0))
        return float(lowest) if lowest <= above else None
    return None


def _symmetric(matrix: FloatArray) -> Float64Array:
    """The symmetric part in float64."""
    wide = np.asarray(matrix, dtype=np.float64)
    symmetric: Float64Array = (wide + wide.T) / 2
    return symmetric


def orthonormal_basis(columns: ArrayLike, rtol: float = 1e-8) -> Float64Array:
    """Orthonormal basis of the span of the columns, by singular value decomposition.

    Directions whose singular value is at most ``rtol`` times the largest are dropped. The basis
    has shape (N, rank) and type float64; its rank is the numerical one, 0 for zeros.

    Raises
    ------
    InputError
        For columns that are not of shape (N, k), and for NaN or infinite entries.
    """
    wide = as_columns(columns, "columns")
    vectors, singular, _ = scipy.linalg.svd(wide, full_matrices=False)
    if singular.size == 0 or singular[0] == 0:
        return np.zeros((wide.shape[0], 0))
    return np.ascontiguousarray(vectors[:, singular > rtol * singular[0]])
