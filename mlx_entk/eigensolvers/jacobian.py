"""Modes of a kernel from its Jacobian, through the smaller of two Gram matrices."""

import numpy as np

from mlx_entk._linalg import (
    ArrayLike,
    Float64Array,
    as_floats,
    eigh,
    epsilon_of,
    require_finite,
    whole_number,
)
from mlx_entk.errors import InputError
from mlx_entk.spectrum import Spectrum


def jacobian_modes(rows: ArrayLike, top: int) -> tuple[Spectrum, Float64Array]:
    """Find modes of K = J Jᵀ from the smaller of J Jᵀ and Jᵀ J, which share their eigenvalues.

    For a flattened kernel of R = C·N rows this costs R·P² instead of R³ if there are fewer
    parameters than rows.

    Parameters
    ----------
    rows
        J, shape (R, P): a row for each row of the flattened kernel.
    top
        How many modes to return, at most min(R, P).

    Returns
    -------
    spectrum
        The leading modes, float64. There are fewer than ``top`` if the others are lost in
        rounding, and none if J is zero.
    values
        All min(R, P) eigenvalues that can differ from zero, float64.

    Raises
    ------
    InputError
        If the Jacobian is not a matrix, or not finite, or does not have ``top`` modes.
    """
    stored = as_floats(rows, "rows")
    if stored.ndim != 2:
        raise InputError(f"rows have shape {stored.shape}: a Jacobian has shape (R, P)")
    R, P = stored.shape
    top = whole_number(top, "top")
    if not 0 < top <= min(R, P):
        raise InputError(f"top is {top}: a Jacobian of shape ({R}, {P}) has 1 to {min(R, P)} modes")
    require_finite(stored, "entries", "rows of the Jacobian")
    wide: Float64Array = np.asarray(stored, dtype=np.float64)
    values, small = eigh(wide.T @ wide if P < R else wide @ wide.T)
    scale = float(np.einsum("rp,rp->r", wide, wide).max())
    floor = float(2 * np.sqrt(R) * epsilon_of(rows) * scale)
    top = min(top, int((values > floor).sum()))
    vectors = small[:, :top]
    if P < R:
        vectors = wide @ vectors / np.sqrt(values[:top])
    return Spectrum(values[:top], vectors, floor), values
