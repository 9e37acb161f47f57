import numpy as np
import pytest
from numpy.typing import NDArray

from mlx_entk import InputError, eigendecompose
from mlx_entk.features import embedding_power, frequency_features, kernel_power, key_frequencies
from mlx_entk.features.bank import fourier_family

p = 13
n, m = np.divmod(np.arange(p * p), p)


def waves(amplitudes: dict[int, float]) -> NDArray[np.float64]:
    family = fourier_family(np.arange(p), p)
    random = np.random.default_rng(0).standard_normal((2, 5))
    random /= np.linalg.norm(random)
    K = p // 2
    parts = [a * family[:, [k - 1, K + k - 1]] @ random for k, a in amplitudes.items()]
    return np.asarray(np.sum(parts, axis=0))


def test_power_is_shared_by_squared_amplitude_whatever_the_constant() -> None:
    embedding = waves({2: 3.0, 5: 1.0}) + 7.0

    power = embedding_power(embedding)

    np.testing.assert_allclose(power, [0, 0.9, 0, 0, 0.1, 0], atol=1e-12)
    assert key_frequencies(power) == [2]


def test_the_kernel_of_a_sum_shows_its_frequencies() -> None:
    family = fourier_family((n + m) % p, p)
    J = np.concatenate([3 * family[:, [0, 6]], 2 * family[:, [3, 9]]], axis=1)

    power = kernel_power(eigendecompose(J @ J.T), family)

    np.testing.assert_allclose(power, np.array([9, 0, 0, 4, 0, 0]) / 13, atol=1e-9)
    assert key_frequencies(power) == [1, 4]


def test_families_are_split_into_key_and_other_frequencies() -> None:
    bank = frequency_features(n, m, p, [2, 5])

    assert {name: columns.shape[1] for name, columns in bank.items() if "sum" in name} == {
        "sum (key)": 4, "axis sum (key)": 4, "sum (other)": 8, "axis sum (other)": 8,
    }  # fmt: skip
    np.testing.assert_allclose(bank["n (key)"][:, 1], np.cos(2 * np.pi * 5 * n / p))
    np.testing.assert_allclose(bank["axis difference (key)"], bank["n (key)"] - bank["m (key)"])
    np.testing.assert_allclose(
        bank["sum (key)"][:, 2], np.sin(2 * np.pi * 2 * (n + m) / p), atol=1e-12
    )
    assert bank["random"].shape == (p * p, 4)


def test_there_are_no_others_where_all_are_key() -> None:
    assert "sum (other)" not in frequency_features(n, m, p, [1, 2, 3, 4, 5, 6])


def test_a_constant_embedding_has_no_frequency() -> None:
    with pytest.raises(InputError, match="no frequency has any power"):
        embedding_power(np.ones((p, 3)))
