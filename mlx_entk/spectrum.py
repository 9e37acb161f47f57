"""Eigendecomposition of a kernel, its cliffs and its effective rank."""

from dataclasses import dataclass

import numpy as np

from mlx_entk import linalg
from mlx_entk.errors import InputError
from mlx_entk.linalg import Float64Array, FloatArray

# A cliff: the eigenvalue falls to 1/1.25 or less in one step, ...
MIN_DROP = float(np.log10(1.25))
# ... and that step is this many times the median step of its neighbourhood, ...
PROMINENCE = 8.0
# ... of this many steps to either side.
NEIGHBOURHOOD = 25

CLIFF_RULE = (
    "a cliff lies before mode i where log10(λ[i-1]/λ[i]) ≥ log10(1.25) and ≥ 8 × the median of "
    "the 25 such steps to either side, among eigenvalues above the noise floor"
)


@dataclass(frozen=True)
class Spectrum:
    """Leading eigenpairs of a symmetric positive semidefinite kernel, in float64.

    Attributes
    ----------
    values
        Eigenvalues, largest first, shape (k,).
    vectors
        Orthonormal eigenvectors in columns, shape (N, k).
    noise_floor
        Eigenvalues below this cannot be told from rounding of the kernel.
    """

    values: Float64Array
    vectors: Float64Array
    noise_floor: float

    def modes(self, first: int, last: int) -> Float64Array:
        """The eigenvectors of modes first…last, both included, shape (N, last − first + 1)."""
        return self.vectors[:, first : last + 1]


def eigendecompose(kernel: FloatArray, top: int | None = None) -> Spectrum:
    """Eigenpairs of a kernel, all or the ``top`` largest.

    Parameters
    ----------
    kernel
        Shape (N, N), symmetric; a full kernel goes through :func:`mlx_entk.flatten` first.

    Raises
    ------
    InputError
        For a kernel that is not square, not finite, or not symmetric to rounding, and for a
        ``top`` below 1.
    """
    if kernel.ndim != 2 or kernel.shape[0] != kernel.shape[1]:
        raise InputError(f"kernel has shape {kernel.shape}: a spectrum needs a square matrix")
    if top is not None and top < 1:
        raise InputError(f"top is {top}: ask for at least one mode")
    if not np.isfinite(kernel).all():
        raise InputError("kernel has NaN or infinite entries: look at the model's weights")
    scale = float(np.abs(kernel).max())
    if float(np.abs(kernel - kernel.T).max()) > 1e-4 * scale:
        raise InputError("kernel is not symmetric: its spectrum is not that of an eNTK")
    values, vectors = linalg.eigh(kernel, top)
    # Rounding of each entry, spread over N modes like a random symmetric matrix.
    epsilon = np.finfo(kernel.dtype).eps
    return Spectrum(values, vectors, float(2 * np.sqrt(kernel.shape[0]) * epsilon * scale))


def find_cliffs(values: Float64Array, noise_floor: float = 0.0) -> list[int]:
    """Indices of the modes that open a new group: the spectrum drops sharply just before them.

    The criterion is :data:`CLIFF_RULE`, on the steps of log₁₀ λ: a cliff must be steep in
    itself and stand out from the decay around it. Eigenvalues at or below ``noise_floor`` take
    no part, so the edge where the rank ends is no cliff.

    Parameters
    ----------
    values
        Eigenvalues, largest first.
    """
    above = values[values > noise_floor]
    steps = -np.diff(np.log10(above))
    cliffs = []
    for i, step in enumerate(steps):
        around = np.concatenate(
            [steps[max(0, i - NEIGHBOURHOOD) : i], steps[i + 1 : i + 1 + NEIGHBOURHOOD]]
        )
        typical = np.median(around) if around.size else 0.0
        if step >= MIN_DROP and step >= PROMINENCE * typical:
            cliffs.append(i + 1)
    return cliffs


def mode_groups(cliffs: list[int]) -> list[tuple[int, int]]:
    """The groups of modes that end at a cliff, as (first, last), both included."""
    starts = [0, *cliffs[:-1]] if cliffs else []
    return [(start, end - 1) for start, end in zip(starts, cliffs, strict=True)]


def effective_rank(values: Float64Array) -> float:
    """Exponential of the entropy of the normalised eigenvalues (Roy and Vetterli, 2007).

    Runs from 1, for one mode, to N, for a flat spectrum. Negative eigenvalues are rounding
    and count as zero. Needs all the eigenvalues.
    """
    positive = values[values > 0]
    if positive.size == 0:
        return 0.0
    weights = positive / positive.sum()
    return float(np.exp(-(weights * np.log(weights)).sum()))
