"""The frequencies that a network uses, read off its embedding or the modes of its kernel."""

from collections.abc import Sequence

import numpy as np

from mlx_entk._linalg import ArrayLike, Float64Array, as_floats, require_finite, whole_number
from mlx_entk.errors import InputError
from mlx_entk.features.alignment import center, frequency_alignment
from mlx_entk.features.bank import KEYED_FAMILIES, RANDOM, FeatureBank, frequency_families
from mlx_entk.spectrum import Spectrum

KEY_RULE = (
    "a frequency is key if it has more than the uniform share 1/⌊p/2⌋ of the power of all "
    "frequencies from 1 to ⌊p/2⌋"
)
"""Which frequencies are key, as a sentence."""


def embedding_power(embedding: ArrayLike) -> Float64Array:
    """Share of each frequency in the Fourier norm of an embedding (Nanda et al., 2023).

    Parameters
    ----------
    embedding
        One row for each of the numbers 0…p−1, p odd, shape (p, d).

    Returns
    -------
    numpy.ndarray
        Shape (⌊p/2⌋,), for the frequencies 1…⌊p/2⌋; sums to 1.

    Raises
    ------
    InputError
        For an even p, for NaN or infinite entries, and for rows that are all the same.
    """
    rows = center(embedding)
    if len(rows) % 2 == 0:
        raise InputError(f"embedding has {len(rows)} rows: its frequencies need an odd p")
    spectrum = np.fft.rfft(rows, axis=0)[1:]
    return _shares((np.abs(spectrum) ** 2).sum(axis=1))


def kernel_power(spectrum: Spectrum, family: ArrayLike) -> Float64Array:
    """Share of each frequency of a Fourier family in a kernel, by the kernel's modes.

    The power of a frequency is Σ_i λ_i cos²(v_i, plane of its cosine and sine).

    Parameters
    ----------
    family
        Shape (N, 2K), as ``mlx_entk.features.bank.fourier_family`` gives it.

    Returns
    -------
    numpy.ndarray
        Shape (K,), for the frequencies 1…K; sums to 1.

    Raises
    ------
    InputError
        If no frequency has any power, and as for ``mlx_entk.features.frequency_alignment``.
    """
    squared = frequency_alignment(spectrum.vectors, family) ** 2
    return _shares(np.maximum(spectrum.values, 0) @ squared)


def _shares(power: Float64Array) -> Float64Array:
    total = float(power.sum())
    if not total > 0:
        raise InputError(
            "no frequency has any power: the features do not vary over the inputs, or the kernel "
            "is zero"
        )
    shares: Float64Array = power / total
    return shares


def key_frequencies(shares: ArrayLike) -> list[int]:
    """The frequencies that a network uses, counted from 1, by ``KEY_RULE``.

    Raises
    ------
    InputError
        If the shares are not finite numbers, one for each frequency.
    """
    power = as_floats(shares, "shares")
    if power.ndim != 1:
        raise InputError(f"shares have shape {power.shape}: pass one for each frequency")
    require_finite(power, "shares", "frequencies")
    return [k + 1 for k, share in enumerate(power) if share > 1 / power.size]


def frequency_features(
    n: ArrayLike, m: ArrayLike, p: int, keys: Sequence[int], seed: int = 0
) -> FeatureBank:
    """Fourier families of modular addition: at the key frequencies, and at the others as controls.

    The bank has the ``mlx_entk.features.bank.KEYED_FAMILIES`` by label; the random control
    has as many columns as a family at the key frequencies.

    Parameters
    ----------
    n, m
        The summands of each input, shape (N,).
    p
        The modulus, odd.
    keys
        Frequencies from 1 to ⌊p/2⌋.
    seed
        Seed of the random control.

    Raises
    ------
    InputError
        If n and m are not N numbers from 0 to p − 1 each, or keys are beyond ⌊p/2⌋ or repeated.
    """
    every = frequency_families(n, m, p)
    K = p // 2
    keys = [whole_number(key, "key") for key in keys]
    if len(set(keys)) < len(keys) or not set(keys) <= set(range(1, K + 1)):
        raise InputError(f"keys are {keys}: pass frequencies from 1 to {K}, each once")
    others = [k for k in range(1, K + 1) if k not in keys]
    chosen = {"key": keys, "other": others}
    bank: FeatureBank = {}
    for family in KEYED_FAMILIES:
        if columns := [k - 1 for k in chosen.get(family.frequencies, [])]:
            bank[family.label] = every[family.name][:, columns + [K + k for k in columns]]
    bank[RANDOM.label] = np.random.default_rng(seed).standard_normal(
        (len(every["n"]), 2 * len(keys))
    )
    return bank
