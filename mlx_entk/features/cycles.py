"""Rotate the modes of a cliff into single frequencies.

Inside a cliff the eigenvalues nearly coincide, so the eigenvectors are an arbitrary basis of
their space. The graph Laplacian L of a cycle picks the basis of pure frequencies instead: on
ℤ_p it has the eigenvalue 2 − 2cos(2πk/p) on frequency k.

Those eigenvalues crowd together at both ends, where a mode with 2% of itself outside its
frequency is already nearer to a wrong one. We diagonalise (p/2π)·arccos(1 − L/2) instead, which
has the same eigenvectors, and k itself as the eigenvalue.
"""

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np

from mlx_entk._linalg import ArrayLike, Float64Array, as_columns
from mlx_entk.errors import InputError

# A cycle on ℤ_p²: along n at fixed m, along m at fixed n, along both at fixed m − n.
Axis = Literal["n", "m", "diagonal"]

# One after the other they tell apart functions of n, of m, of n+m and of n−m: along n and m, a
# function of n−m has the same frequencies as one of n+m, but only it is constant along the
# diagonal.
AXES: tuple[Axis, ...] = ("n", "m", "diagonal")


def cycle_frequency(functions: ArrayLike, p: int, axis: Axis) -> Float64Array:
    """Multiply each frequency k of functions on ℤ_p², along one cycle, by k.

    Parameters
    ----------
    functions
        Columns over the pairs (n, m) in row-major order, shape (p², d).
    p
        The modulus.
    axis
        The cycle along which the frequencies are taken.

    Returns
    -------
    numpy.ndarray
        (p/2π)·arccos(1 − L/2) applied to each column, shape (p², d); symmetric, eigenvalues
        0…⌊p/2⌋.

    Raises
    ------
    InputError
        If the functions are not over p² inputs or not finite, or if the cycle is unknown.
    """
    columns = as_columns(functions, "functions")
    rows, d = columns.shape
    if rows != p * p:
        raise InputError(f"functions are over {rows} inputs, not p² = {p * p}")
    if axis not in get_args(Axis):
        raise InputError(f"axis {axis!r} is unknown: use {', '.join(get_args(Axis))}")
    grid = columns.reshape(p, p, d)
    steps = np.arange(p)
    if axis == "diagonal":  # shear, so that the cycle runs along the first axis
        grid = grid[steps[:, None], (steps[:, None] + steps) % p]
    along = 1 if axis == "m" else 0
    frequencies = np.arange(p // 2 + 1).reshape((-1, 1) if along else (-1, 1, 1))
    scaled = np.fft.irfft(np.fft.rfft(grid, axis=along) * frequencies, n=p, axis=along)
    if axis == "diagonal":
        scaled = scaled[steps[:, None], (steps - steps[:, None]) % p]
    return scaled.reshape(rows, d)


def disentangle_frequencies(modes: ArrayLike, p: int, axes: Sequence[Axis] = AXES) -> Float64Array:
    """Rotate an eigenspace into modes of one frequency along each cycle in turn.

    The frequency along the first cycle is diagonalised within the space. Whenever it rises by
    half a frequency or more from one mode to the next, a new group begins, and the next cycle's
    frequency is diagonalised within each group.

    Parameters
    ----------
    modes
        Orthonormal columns over the pairs (n, m) in row-major order, shape (p², d).
    p
        The modulus.
    axes
        The cycles, in order.

    Returns
    -------
    numpy.ndarray
        Orthonormal columns that span the same space, shape (p², d), ordered by their
        frequencies along the cycles.

    Raises
    ------
    InputError
        As for ``cycle_frequency``.
    """
    groups = [as_columns(modes, "modes")]
    for axis in axes:
        groups = [part for group in groups for part in _split(group, p, axis)]
    return np.concatenate(groups, axis=1)


def _split(group: Float64Array, p: int, axis: Axis) -> list[Float64Array]:
    values, rotation = np.linalg.eigh(group.T @ cycle_frequency(group, p, axis))
    # The part of a mode outside its frequency pulls all values towards the middle, so a rise says
    # more than the nearest whole number.
    rises = np.flatnonzero(np.diff(values) >= 0.5) + 1
    return np.split(group @ rotation, rises, axis=1)
