"""Eigendecomposition of a kernel, and its effective rank."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import entr

from mlx_entk import _linalg as linalg
from mlx_entk._linalg import ArrayLike, Float64Array, FloatArray
from mlx_entk.errors import InputError

if TYPE_CHECKING:
    from mlx_entk.plotting import Drawing

# How much rounding may change the entries of a kernel, as a share of the largest. It may make them
# differ from their mirror images, and those on the diagonal, which are sums of squares, negative.
ROUNDING = 1e-4
# How far rounding may push an eigenvalue below zero, as a share of the trace. If the entries
# K[n, m] err by this share of √(K[n, n] K[m, m]), the eigenvalues err by no more. Networks in
# float32 gave up to 1e-7, sequential sums over 10⁶ parameters 2e-4, and kernels of pairs of
# different classes 0.02 and more.
_NEGATIVE = 1e-3

# The first and the last mode of a group, both included, counted from 0.
Modes = tuple[int, int]

NOT_AN_ENTK = "it is not an eNTK (the kernel of a pair of different classes is not one)"


@dataclass(frozen=True, repr=False)
class Spectrum:
    """Leading eigenpairs of a symmetric positive semidefinite kernel, in float64.

    Attributes
    ----------
    values
        Eigenvalues, largest first, shape (k,).
    vectors
        Orthonormal eigenvectors in columns, shape (N, k).
    noise_floor
        Eigenvalues below this cannot be told apart from rounding of the kernel.
    """

    values: Float64Array
    vectors: Float64Array
    noise_floor: float

    @property
    def rank(self) -> int:
        """How many of the eigenvalues are above the noise floor."""
        return int((self.values > max(self.noise_floor, 0.0)).sum())

    def modes(self, first: int, last: int) -> Float64Array:
        """The eigenvectors of modes first…last, both included, shape (N, last − first + 1).

        Raises
        ------
        InputError
            For modes that the spectrum does not have.
        """
        require_modes((first, last), self.values.size, "the spectrum")
        return self.vectors[:, first : last + 1]

    def plot(self) -> "Drawing":
        """Draw the eigenvalues and their cliffs, as a matplotlib figure."""
        from mlx_entk.plotting import plot_spectrum

        return plot_spectrum(self)

    def __repr__(self) -> str:
        largest, smallest = (float(v) for v in self.values[[0, -1]]) if self.values.size else (0, 0)
        return (
            f"Spectrum({self.values.size} modes over {len(self.vectors)} inputs, eigenvalues "
            f"{largest:.4g} to {smallest:.4g}, {self.rank} above the noise floor "
            f"{self.noise_floor:.2g})"
        )


def require_modes(modes: Modes, size: int, owner: str) -> None:
    """Raise InputError if a group does not lie within the ``size`` modes that its owner has."""
    first, last = modes
    if not 0 <= first <= last < size:
        raise InputError(f"modes {first}–{last}: {owner} has {size} modes")


def eigendecompose(kernel: ArrayLike, top: int | None = None) -> Spectrum:
    """Eigenpairs of a kernel, all of them or the ``top`` largest.

    Parameters
    ----------
    kernel
        Shape (N, N), symmetric positive semidefinite; pass a full kernel through
        ``mlx_entk.flatten`` first. The noise floor follows from the type it is stored in.
    top
        How many to find; None, or N and more, for all. If it is less, the other eigenvalues are
        not computed, only checked not to be negative.

    Raises
    ------
    InputError
        For a kernel that is not square, not finite, or not symmetric up to rounding; for one that
        has an eigenvalue below zero by more than rounding; and for a ``top`` below 1.
    """
    matrix = square(kernel, "kernel")
    size = matrix.shape[0]
    count = size if top is None else linalg.whole_number(top, "top")
    if count < 1:
        raise InputError(f"top is {count}: ask for at least one mode")
    if not np.isfinite(matrix).all():
        # NaN from one input fills its row and its column, so it reaches every row; the diagonal
        # tells which input it is.
        diagonal = np.diagonal(matrix)
        bad = linalg.rows_not_finite(matrix if np.isfinite(diagonal).all() else diagonal, "rows")
        raise InputError(f"kernel: {bad} NaN or infinite entries: check the model's weights")
    scale = float(np.abs(matrix).max())
    epsilon = linalg.epsilon_of(kernel)
    with np.errstate(over="ignore"):
        difference = float(np.abs(matrix - matrix.T).max())
    rounding = max(ROUNDING, 2 * epsilon)
    if difference > rounding * scale:
        raise InputError("kernel is not symmetric: its spectrum is not that of an eNTK")
    diagonal = np.diagonal(matrix).astype(np.float64)
    limit = -max(_NEGATIVE, rounding) * float(np.abs(diagonal).sum())
    if diagonal.min() < -rounding * scale:
        limit = 0.0
    values, vectors = linalg.eigh(matrix, count)
    lowest = values[-1] if count >= size else linalg.lowest_eigenvalue(matrix, limit)
    if lowest is not None and lowest < limit:
        raise InputError(f"kernel has negative eigenvalues down to −{-lowest:.3g}: {NOT_AN_ENTK}")
    return Spectrum(values, vectors, noise_floor(size, scale, epsilon))


def noise_floor(size: int, scale: float, epsilon: float) -> float:
    """The eigenvalue below which a kernel's spectrum cannot be told apart from rounding.

    Every entry is rounded, and the errors spread over N modes like a random symmetric matrix.

    Parameters
    ----------
    size
        N.
    scale
        The kernel's largest entry.
    epsilon
        Relative spacing of the type that the kernel is stored in.
    """
    return float(2 * np.sqrt(size) * epsilon * scale)


def square(kernel: ArrayLike, name: str) -> FloatArray:
    """A kernel as float32 or float64 of shape (N, N); raises InputError for any other shape."""
    matrix = linalg.as_floats(kernel, name)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or matrix.size == 0:
        raise InputError(f"{name} has shape {matrix.shape}: a spectrum needs a square matrix")
    return matrix


def effective_rank(values: ArrayLike) -> float:
    """Exponential of the entropy of the normalised eigenvalues (Roy and Vetterli, 2007).

    It runs from 1, for a single mode, to N, for a flat spectrum, and is 0 for a kernel of zeros.
    Negative eigenvalues come from rounding and count as zero. All eigenvalues are needed.

    Raises
    ------
    InputError
        If the values are not finite numbers of shape (k,).
    """
    eigenvalues = as_eigenvalues(values)
    positive = eigenvalues[eigenvalues > 0]
    if positive.size == 0:
        return 0.0
    shares = positive / positive.max()
    return float(np.exp(entr(shares / shares.sum()).sum()))


def as_eigenvalues(values: ArrayLike) -> Float64Array:
    """Eigenvalues in float64, shape (k,); raises InputError for anything else."""
    eigenvalues: Float64Array = np.asarray(linalg.as_floats(values, "values"), dtype=np.float64)
    if eigenvalues.ndim != 1:
        raise InputError(f"values have shape {eigenvalues.shape}: pass eigenvalues, shape (k,)")
    linalg.require_finite(eigenvalues, "eigenvalues", "modes")
    return eigenvalues
