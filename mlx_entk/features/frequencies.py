"""Which frequencies a network uses, read off its embedding or off the modes of its kernel."""

import numpy as np
from numpy.typing import NDArray

from mlx_entk.errors import InputError
from mlx_entk.features.alignment import center, frequency_alignment
from mlx_entk.features.bank import FeatureBank, frequency_families
from mlx_entk.linalg import Float64Array, FloatArray
from mlx_entk.spectrum import Spectrum

KEY_RULE = (
    "a frequency is key where it has more than the uniform share 1/⌊p/2⌋ of the power of all "
    "frequencies from 1 to ⌊p/2⌋"
)


def embedding_power(embedding: FloatArray) -> Float64Array:
    """Share of each frequency in the Fourier norm of an embedding (Nanda et al., 2023).

    Parameters
    ----------
    embedding
        One row for each of the numbers 0…p−1, p odd, shape (p, d).

    Returns
    -------
    numpy.ndarray
        Shape (⌊p/2⌋,), of frequencies 1…⌊p/2⌋; sums to 1.
    """
    spectrum = np.fft.rfft(center(embedding), axis=0)[1:]
    return _shares((np.abs(spectrum) ** 2).sum(axis=1))


def kernel_power(spectrum: Spectrum, family: FloatArray) -> Float64Array:
    """Share of each frequency of a Fourier family in a kernel, by the kernel's modes.

    The power of a frequency is Σ_i λ_i cos²(v_i, plane of its cosine and sine).

    Parameters
    ----------
    family
        Shape (N, 2K), as :func:`mlx_entk.features.bank.fourier_family` gives it.

    Returns
    -------
    numpy.ndarray
        Shape (K,), of frequencies 1…K; sums to 1.
    """
    squared = frequency_alignment(spectrum.vectors, family) ** 2
    return _shares(np.maximum(spectrum.values, 0) @ squared)


def _shares(power: Float64Array) -> Float64Array:
    total = float(power.sum())
    if not total > 0:
        raise InputError("no frequency has any power: the features do not vary over the inputs")
    shares: Float64Array = power / total
    return shares


def key_frequencies(shares: Float64Array) -> list[int]:
    """The frequencies, from 1 on, that a network uses, by :data:`KEY_RULE`."""
    return [k + 1 for k, share in enumerate(shares) if share > 1 / shares.size]


def frequency_features(
    n: NDArray[np.int64], m: NDArray[np.int64], p: int, keys: list[int], seed: int = 0
) -> FeatureBank:
    """Fourier families of modular addition at the key frequencies, and at the others as control.

    Each of the :func:`frequency_families` as "NAME (key)" and "NAME (other)", and as many random
    columns as a key family has.

    Parameters
    ----------
    n, m
        The summands of each input, shape (N,).
    p
        The modulus, odd.
    keys
        Frequencies from 1 to ⌊p/2⌋.
    seed
        Of the random control.
    """
    every = frequency_families(n, m, p)
    K = p // 2
    others = [k for k in range(1, K + 1) if k not in keys]
    bank: FeatureBank = {}
    for label, frequencies in (("key", keys), ("other", others)):
        columns = [k - 1 for k in frequencies]
        columns += [K + k for k in columns]
        bank |= {
            f"{name} ({label})": family[:, columns] for name, family in every.items() if columns
        }
    bank["random"] = np.random.default_rng(seed).standard_normal((n.size, 2 * len(keys)))
    return bank
