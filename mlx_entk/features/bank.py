"""Feature banks: named families of ground-truth features over the inputs."""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from mlx_entk._linalg import ArrayLike, Float64Array, as_floats, whole_number
from mlx_entk.errors import InputError

FeatureBank = dict[str, Float64Array]
"""Families of features by name, each of shape (N, k)."""


class Role(StrEnum):
    """What a feature family of modular addition stands for."""

    SUMMAND = "functions of n alone or of m alone"
    JOINT = "functions of n and m together"
    TASK = "properties of the task itself"
    CONTROL = "random columns"


@dataclass(frozen=True)
class Family:
    """A feature family of modular addition: its name, and what it stands for.

    Attributes
    ----------
    name
        Short, such as ``"sum"``.
    role
        What it stands for.
    frequencies
        Which frequencies of the Fourier family it has, ``"key"`` or ``"other"``; empty for all.
    """

    name: str
    role: Role
    frequencies: str = ""

    @property
    def label(self) -> str:
        """Its key in a feature bank."""
        return f"{self.name} ({self.frequencies})" if self.frequencies else self.name


_FOURIER = (
    Family("n", Role.SUMMAND),
    Family("m", Role.SUMMAND),
    Family("sum", Role.JOINT),
    Family("difference", Role.JOINT),
    Family("axis sum", Role.JOINT),
    Family("axis difference", Role.JOINT),
)
RANDOM = Family("random", Role.CONTROL)

KEYED_FAMILIES = (
    *(
        Family(family.name, family.role, frequencies)
        for frequencies in ("key", "other")
        for family in _FOURIER
    ),
    RANDOM,
)
"""The families of ``frequency_features``; those of other frequencies are missing if all are key."""

FREQUENCY_FAMILIES = ("n", "m", "sum", "difference")
"""Families of single frequencies that differ from one another.

2n and 2m only permute the frequencies of n and m; the others are unions, sums, indicators and
controls.
"""


def fourier_family(values: ArrayLike, p: int) -> Float64Array:
    """cos(2πkv/p) for k = 1…⌊p/2⌋, then the sines, shape (N, 2⌊p/2⌋).

    Raises
    ------
    InputError
        If the values are not N whole numbers, or p is below 1.
    """
    values = _whole_numbers(values, "values")
    if whole_number(p, "p") < 1:
        raise InputError(f"p is {p}: a cycle needs at least one number")
    angles = 2 * np.pi * np.outer(values, np.arange(1, p // 2 + 1)) / p
    return np.concatenate([np.cos(angles), np.sin(angles)], axis=1)


def _whole_numbers(values: ArrayLike, name: str) -> NDArray[np.int64]:
    """N whole numbers of any type as int64, so that differences do not wrap around."""
    floats = as_floats(values, name)
    whole = floats.astype(np.int64) if np.isfinite(floats).all() else np.zeros(0, dtype=np.int64)
    if floats.ndim != 1 or floats.size == 0 or not np.array_equal(whole, floats):
        raise InputError(f"{name} are not whole numbers, one for each input")
    return whole


def _summands(n: ArrayLike, m: ArrayLike, p: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    pair = _whole_numbers(n, "n"), _whole_numbers(m, "m")
    if pair[0].size != pair[1].size:
        raise InputError(
            f"n and m have {pair[0].size} and {pair[1].size} inputs: pass the same number"
        )
    for name, values in zip("nm", pair, strict=True):
        if values.min() < 0 or values.max() >= p:
            raise InputError(f"{name} has numbers outside 0…{p - 1}: p is {p}")
    return pair


def frequency_families(n: ArrayLike, m: ArrayLike, p: int) -> FeatureBank:
    """Fourier families of n, m, n+m and n−m, and of n and m added or subtracted as functions.

    Parameters
    ----------
    n, m
        The summands of each input, shape (N,).
    p
        The modulus, odd.

    Returns
    -------
    dict
        ``"n"``, ``"m"``, ``"sum"``, ``"difference"``, ``"axis sum"`` and ``"axis difference"``,
        shape (N, 2⌊p/2⌋) each, as ``fourier_family`` gives them.

    Raises
    ------
    InputError
        If n and m are not N numbers from 0 to p − 1 each.
    """
    n, m = _summands(n, m, p)
    of_n, of_m = fourier_family(n, p), fourier_family(m, p)
    return {
        "n": of_n,
        "m": of_m,
        "sum": fourier_family((n + m) % p, p),
        "difference": fourier_family((n - m) % p, p),
        "axis sum": of_n + of_m,
        "axis difference": of_n - of_m,
    }


def readout_family(n: ArrayLike, m: ArrayLike, p: int) -> Float64Array:
    """The waves cos and sin of 2πk(n + m − q)/p over inputs and outputs q: what logits consist of.

    They are functions of an input and an output, so they are features for the modes of a
    flattened kernel. A network that adds modulo p by Fourier waves has logits that are a sum of
    their cosines.

    Parameters
    ----------
    n, m
        The summands of each input, shape (N,).
    p
        The modulus, odd, and the number of outputs.

    Returns
    -------
    numpy.ndarray
        Shape (p·N, 2⌊p/2⌋), in the order of ``mlx_entk.flatten``: row q·N + i is output q of
        input i. The cosines of k = 1…⌊p/2⌋, then the sines.

    Raises
    ------
    InputError
        If n and m are not N numbers from 0 to p − 1 each.
    """
    n, m = _summands(n, m, p)
    outputs = np.arange(p)[:, None]
    return fourier_family(((n + m) - outputs).ravel() % p, p)


def indicators(values: NDArray[np.int64], count: int) -> Float64Array:
    """One column for each value from 0 to count − 1, 1 on the inputs that have it: (N, count)."""
    taken: Float64Array = np.equal.outer(values, np.arange(count)).astype(np.float64)
    return taken


def modular_features(n: ArrayLike, m: ArrayLike, p: int, seed: int = 0) -> FeatureBank:
    """Families of modular addition, after Lin, arXiv 2510.00468.

    They are the Fourier families of n, m, n+m ("sum"), n−m ("difference"), 2n and 2m; the union
    of n and m; n and m added or subtracted as functions ("axis sum", "axis difference");
    properties of the task itself (digit identities, parities, the carry); and random
    columns as a control.

    Parameters
    ----------
    n, m
        The summands of each input, shape (N,).
    p
        The modulus, odd and at least 3: for even p the sine of frequency p/2 is zero and 2 has
        no inverse, so the families have other dimensions.
    seed
        Seed of the random control.

    Raises
    ------
    InputError
        If p is even or below 3, or n and m are not N numbers from 0 to p − 1 each.
    """
    if whole_number(p, "p") < 3 or p % 2 == 0:
        raise InputError(f"p is {p}: Fourier families need an odd p of at least 3")
    n, m = _summands(n, m, p)
    single = frequency_families(n, m, p)
    total = (n + m) % p
    random = np.random.default_rng(seed).standard_normal((n.size, p - 1))
    return {
        "n": single["n"],
        "m": single["m"],
        "n ∪ m": np.concatenate([single["n"], single["m"]], axis=1),
        "sum": single["sum"],
        "difference": single["difference"],
        "2n": fourier_family(2 * n, p),
        "2m": fourier_family(2 * m, p),
        "axis sum": single["axis sum"],
        "axis difference": single["axis difference"],
        "identity of n": indicators(n, p),
        "identity of m": indicators(m, p),
        "identity of n+m": indicators(total, p),
        "parity of n": (n % 2)[:, None].astype(np.float64),
        "parity of m": (m % 2)[:, None].astype(np.float64),
        "parity of n+m": (total % 2)[:, None].astype(np.float64),
        "carry": (n + m >= p)[:, None].astype(np.float64),
        "random": random,
    }
