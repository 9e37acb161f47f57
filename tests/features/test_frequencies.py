from typing import Any

import mlx.core as mx
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


def test_arrays_of_any_kind_have_frequencies() -> None:
    embedding = np.round(100 * waves({2: 3.0, 5: 1.0}))
    expected = embedding_power(embedding)

    np.testing.assert_allclose(embedding_power(embedding.astype(int)), expected)
    np.testing.assert_allclose(embedding_power(mx.array(embedding)), expected, rtol=1e-5)
    assert key_frequencies(expected.tolist()) == key_frequencies(expected) == [2]
    assert key_frequencies([]) == []


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: embedding_power(np.full((p, 2), np.nan)), "NaN or infinite features"),
        (lambda: embedding_power(np.ones(p)), r"features have shape \(13,\)"),
        (lambda: embedding_power(np.eye(4)), "embedding has 4 rows: its frequencies need an odd p"),
        (lambda: embedding_power(np.eye(1)), "no frequency has any power"),
        (
            lambda: kernel_power(eigendecompose(np.zeros((p, p))), fourier_family(np.arange(p), p)),
            "no frequency has any power: the features do not vary over the inputs, or the kernel",
        ),
        (lambda: key_frequencies([0.5, np.nan]), r"1 of 2 frequencies \(1\) has NaN"),
        (lambda: key_frequencies(np.ones((2, 2))), r"shares have shape \(2, 2\)"),
        (lambda: frequency_features(n, m, p, [7]), r"keys are \[7\]: pass frequencies from 1 to 6"),
        (lambda: frequency_features(n, m, p, [0, 1]), r"keys are \[0, 1\]"),
        (lambda: frequency_features(n, m, p, [2, 2]), r"keys are \[2, 2\]"),
        (lambda: frequency_features(n, m, p, [2.5]), "key is 2.5: pass a whole number"),  # type: ignore[list-item]
        (lambda: frequency_features(n, m[:3], p, [2]), "n and m have 169 and 3 inputs"),
        (lambda: fourier_family(np.arange(3), 0), "p is 0"),
        (lambda: fourier_family(np.array([0.5]), 3), "values are not whole numbers"),
    ],
)
def test_what_has_no_frequencies_is_refused(call: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()
