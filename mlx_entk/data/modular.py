"""Modular addition: all pairs (n, m) of ℤ_p and the class (n + m) mod p."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from mlx_entk._linalg import Float64Array

Embedding = Literal["one-hot", "cyclic", "cyclic-pair"]
"""How a residue is given to a network."""

EMBEDDINGS: tuple[str, ...] = get_args(Embedding)
"""All of them."""


@dataclass(frozen=True)
class ModularAddition:
    """All p² problems in row-major order of (n, m), and their split into training and test.

    Attributes
    ----------
    n, m, labels
        The summands and (n + m) mod p, shape (p²,).
    x
        The embedding of n followed by that of m, shape (p², 2p), float32.
    train, test
        Indices of the problems to train on and of the others, in random order.
    """

    n: NDArray[np.int64]
    m: NDArray[np.int64]
    labels: NDArray[np.int64]
    x: NDArray[np.float32]
    train: NDArray[np.int64]
    test: NDArray[np.int64]

    @property
    def tokens(self) -> NDArray[np.int32]:
        """The tokens n, m and "=" (which is p) of each problem, shape (p², 3)."""
        equals = np.full_like(self.n, math.isqrt(self.n.size))
        return np.stack([self.n, self.m, equals], axis=1).astype(np.int32)


def modular_addition(
    p: int, train_fraction: float, seed: int, embedding: Embedding = "one-hot"
) -> ModularAddition:
    """Make the problems: embed all pairs, and draw the split.

    Parameters
    ----------
    p
        The modulus.
    train_fraction
        Share of the p² pairs to train on, rounded to a whole number of pairs.
    seed
        Seed of the split and of the cyclic embedding.
    embedding
        ``"one-hot"``, or ``"cyclic"``: n becomes the n-th cyclic shift of a random unit vector,
        which keeps the cycle but breaks the symmetry between frequencies. ``"cyclic-pair"``: the
        shifts of one vector for n and of another, independent one for m, which also breaks the
        symmetry between the summands.
    """
    generator = np.random.default_rng(seed)
    n, m = np.divmod(np.arange(p * p), p)
    order = generator.permutation(p * p)
    count = round(train_fraction * p * p)
    first = second = np.eye(p)
    if embedding != "one-hot":
        first = second = _shifts(generator.standard_normal(p))
    if embedding == "cyclic-pair":
        second = _shifts(generator.standard_normal(p))
    x = np.concatenate([first[n], second[m]], axis=1).astype(np.float32)
    return ModularAddition(n, m, (n + m) % p, x, order[:count], order[count:])


def _shifts(vector: Float64Array) -> Float64Array:
    """Every cyclic shift of a vector, scaled to unit length, shape (p, p)."""
    unit = vector / np.linalg.norm(vector)
    return np.stack([np.roll(unit, shift) for shift in range(len(unit))])
