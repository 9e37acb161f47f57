"""Features that have an output of their own, and the modes that hold them.

For an autoencoder, feature j is the function that copies the j-th input to the j-th output and
gives 0 at the others: the indicator column z_j of Lin, arXiv 2510.00468.
"""

from dataclasses import dataclass

import numpy as np

from mlx_entk._linalg import (
    ArrayLike,
    Float64Array,
    as_columns,
    as_floats,
    require_finite,
    whole_number,
)
from mlx_entk.errors import InputError

RECOVERED = float(np.sqrt(0.5))
"""The cosine, sign aside, above which a mode holds more of a feature than of all else together."""

RECOVERY_RULE = f"a feature is recovered if one mode has cos² ≥ {RECOVERED**2:.2g} with it"
"""The same as a sentence."""


def channel_alignment(modes: ArrayLike, x: ArrayLike) -> Float64Array:
    """Cosine of each mode with each feature's indicator column, 0 if it is absent; shape (k, C).

    Parameters
    ----------
    modes
        Orthonormal modes of a flattened kernel, channel-major, shape (C·N, k).
    x
        The inputs, one feature for each output, shape (N, C).

    Raises
    ------
    InputError
        If the modes do not have C·N rows, and for NaN or infinite entries.
    """
    columns, directions = as_columns(x, "features"), as_columns(modes, "modes")
    N, C = columns.shape
    rows, k = directions.shape
    if rows != C * N:
        raise InputError(f"modes have {rows} rows: {C} outputs of {N} inputs make {C * N}")
    columns = columns / _lengths(columns)
    cosines = np.einsum("cnk,nc->kc", directions.reshape(C, N, k), columns)
    return np.asarray(cosines)


def _lengths(columns: Float64Array) -> Float64Array:
    """Lengths of the columns, 1 for a column of zeros."""
    lengths: Float64Array = np.linalg.norm(columns, axis=0)
    return np.where(lengths > 0, lengths, 1.0)


def constant_alignment(x: ArrayLike) -> Float64Array:
    """Cosine of each feature with the constant function of its own output, shape (C,).

    A bias gives every output a mode that is constant on it. If features are mostly present, that
    mode alone resembles them, so a count of recovered features has to say how many of them this
    explains. An absent feature has the cosine 0.

    Raises
    ------
    InputError
        For any shape other than (N, C), and for NaN or infinite entries.
    """
    columns = as_columns(x, "features")
    return np.asarray(columns.sum(axis=0) / _lengths(columns) / np.sqrt(len(columns)))


def count_recovered(cosines: ArrayLike) -> int:
    """How many features are recovered by ``RECOVERY_RULE``, from ``channel_alignment``'s cosines.

    Raises
    ------
    InputError
        If the cosines are not of shape (k, C), or not finite.
    """
    return int((np.abs(_cosines(cosines)).max(axis=0, initial=0) >= RECOVERED).sum())


def _cosines(values: ArrayLike) -> Float64Array:
    cosines = np.asarray(as_floats(values, "cosines"), dtype=np.float64)
    if cosines.ndim != 2:
        raise InputError(f"cosines have shape {cosines.shape}: pass those of channel_alignment")
    require_finite(cosines, "cosines", "modes")
    return cosines


@dataclass(frozen=True)
class Recovery:
    """How many features some modes recover, by ``RECOVERY_RULE``.

    Attributes
    ----------
    best
        |cosine| of each feature with its best mode, shape (C,).
    contained
        Length of each feature's projection on all the modes together, shape (C,).
    rotated
        How many features a random rotation of the same modes recovers; the eigenvectors add the
        rest to their span.
    random
        How many features random modes recover.
    random_contained
        How many features the span of random modes holds, cos² ≥ 0.5: no rotation of them, however
        it is chosen, could recover more.
    """

    best: Float64Array
    contained: Float64Array
    rotated: int
    random: int
    random_contained: int

    @property
    def count(self) -> int:
        """How many features are recovered."""
        return int((self.best >= RECOVERED).sum())


def recovery(cosines: ArrayLike, rows: int, seed: int = 0) -> Recovery:
    """Count the features that single modes recover, alongside two kinds of chance.

    If there are no modes, as for a kernel of zeros, no feature is recovered.

    Parameters
    ----------
    cosines
        From ``channel_alignment``, shape (k, C).
    rows
        Dimension of the space, C·N.
    seed
        Seed of the rotation and of the random modes.

    Raises
    ------
    InputError
        If the cosines have another shape or are not finite, or there are fewer rows than modes.
    """
    cosines = _cosines(cosines)
    k = cosines.shape[0]
    if whole_number(rows, "rows") < max(k, 1):
        raise InputError(f"rows is {rows}: {k} modes need at least {max(k, 1)}")
    generator = np.random.default_rng(seed)
    rotation = np.linalg.qr(generator.standard_normal((k, k)))[0]
    # The cosines of k random directions in `rows` dimensions with a feature are the first k
    # entries of a random unit vector.
    drawn = generator.standard_normal((rows, cosines.shape[1]))
    by_chance = np.abs(drawn[:k] / np.linalg.norm(drawn, axis=0))
    return Recovery(
        best=np.abs(cosines).max(axis=0, initial=0),
        contained=np.linalg.norm(cosines, axis=0),
        rotated=count_recovered(rotation @ cosines),
        random=count_recovered(by_chance),
        random_contained=int((np.linalg.norm(by_chance, axis=0) >= RECOVERED).sum()),
    )
