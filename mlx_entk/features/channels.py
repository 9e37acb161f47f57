"""Features that have an output of their own, and the modes that hold them.

For an autoencoder, feature j is the function that puts the j-th input into the j-th output and
nothing into the others: the indicator column z_j of Lin, arXiv 2510.00468.
"""

from dataclasses import dataclass

import numpy as np

from mlx_entk.errors import InputError
from mlx_entk.linalg import Float64Array, FloatArray

# |cosine| above which a mode is more this feature than everything else together.
RECOVERED = float(np.sqrt(0.5))
RECOVERY_RULE = "a feature is recovered where one mode has cos² ≥ 1/2 with it"


def channel_alignment(modes: Float64Array, x: FloatArray) -> Float64Array:
    """Cosine of each mode with each feature's indicator column, shape (k, C).

    Parameters
    ----------
    modes
        Orthonormal modes of a flattened kernel, channel-major, shape (C·N, k).
    x
        The inputs, one feature for each output, shape (N, C).

    Raises
    ------
    InputError
        Where the modes are not over C·N rows.
    """
    N, C = x.shape
    if modes.shape[0] != C * N:
        raise InputError(f"modes have {modes.shape[0]} rows, {C} outputs of {N} inputs {C * N}")
    columns = np.asarray(x, dtype=np.float64)
    columns = columns / np.maximum(np.linalg.norm(columns, axis=0), np.finfo(np.float64).tiny)
    cosines = np.einsum("cnk,nc->kc", modes.reshape(C, N, -1), columns)
    return np.asarray(cosines)


def constant_alignment(x: FloatArray) -> Float64Array:
    """Cosine of each feature with the constant function of its own output, shape (C,).

    A bias gives every output a mode that is constant on it. Where features are mostly present,
    that alone resembles them: whoever counts recovered features has to know how many of them
    are recovered so.
    """
    columns = np.asarray(x, dtype=np.float64)
    lengths = np.maximum(np.linalg.norm(columns, axis=0), np.finfo(np.float64).tiny)
    return np.asarray(columns.sum(axis=0) / lengths / np.sqrt(len(columns)))


@dataclass(frozen=True)
class Recovery:
    """How many features some modes recover, by :data:`RECOVERY_RULE`.

    Attributes
    ----------
    best
        |cosine| of each feature with its best mode, shape (C,).
    contained
        Length of each feature's projection on all the modes together, shape (C,).
    rotated
        How many a random rotation of the same modes recovers: what the eigenvectors add to
        their span.
    random
        How many random modes recover.
    """

    best: Float64Array
    contained: Float64Array
    rotated: int
    random: int

    @property
    def count(self) -> int:
        """Features recovered."""
        return int((self.best >= RECOVERED).sum())


def recovery(cosines: Float64Array, rows: int, seed: int = 0) -> Recovery:
    """Count the features that single modes recover, beside two kinds of chance.

    Parameters
    ----------
    cosines
        From :func:`channel_alignment`, shape (k, C).
    rows
        Dimension of the space, C·N.
    seed
        Of the rotation and of the random modes.
    """
    k = cosines.shape[0]
    generator = np.random.default_rng(seed)
    rotation = np.linalg.qr(generator.standard_normal((k, k)))[0]
    # k random directions of a space of `rows`: their cosines with a feature are the first k
    # entries of a random unit vector.
    drawn = generator.standard_normal((rows, cosines.shape[1]))
    by_chance = np.abs(drawn[:k] / np.linalg.norm(drawn, axis=0))
    return Recovery(
        best=np.abs(cosines).max(axis=0),
        contained=np.linalg.norm(cosines, axis=0),
        rotated=int((np.abs(rotation @ cosines).max(axis=0) >= RECOVERED).sum()),
        random=int((by_chance.max(axis=0) >= RECOVERED).sum()),
    )
