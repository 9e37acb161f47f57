from typing import Any

import numpy as np
import pytest

from mlx_entk import InputError
from mlx_entk._linalg import orthonormal_basis
from mlx_entk.features import (
    FREQUENCY_FAMILIES,
    center,
    cycle_frequency,
    disentangle_frequencies,
    frequency_alignment,
    modular_features,
)
from mlx_entk.features.cycles import AXES

P = 11
n, m = np.divmod(np.arange(P * P), P)
BANK = modular_features(n, m, P)


@pytest.mark.parametrize(
    ("axis", "step"), [("n", (1, 0)), ("m", (0, 1)), ("diagonal", (1, 1))], ids=str
)
def test_the_operator_is_the_stated_function_of_the_graph_laplacian(
    axis: str, step: tuple[int, int]
) -> None:
    shift = np.zeros((P * P, P * P))
    shift[np.arange(P * P), (n + step[0]) % P * P + (m + step[1]) % P] = 1
    laplacian = 2 * np.eye(P * P) - shift - shift.T
    levels, vectors = np.linalg.eigh(laplacian)
    frequencies = P / (2 * np.pi) * np.arccos(np.clip(1 - levels / 2, -1, 1))

    applied = cycle_frequency(np.eye(P * P), P, axis)  # type: ignore[arg-type]

    np.testing.assert_allclose(applied, (vectors * frequencies) @ vectors.T, atol=1e-6)


@pytest.mark.parametrize("families", [("n", "m"), ("sum", "difference"), FREQUENCY_FAMILIES])
@pytest.mark.parametrize("noise", [0, 0.02])
def test_any_mixture_of_families_comes_apart_into_single_frequencies(
    families: tuple[str, ...], noise: float
) -> None:
    generator = np.random.default_rng(0)
    columns = np.concatenate([BANK[family] for family in families], axis=1)
    basis = orthonormal_basis(center(columns))
    mixed = basis @ np.linalg.qr(generator.standard_normal((basis.shape[1],) * 2))[0]
    mixed = orthonormal_basis(mixed + noise * generator.standard_normal(mixed.shape))

    rotated = disentangle_frequencies(mixed, P, AXES)

    aligned = np.concatenate([frequency_alignment(rotated, BANK[f]) for f in families], axis=1)
    assert aligned.max(axis=1).min() > (0.999 if noise == 0 else 0.9)
    # Each frequency of each family is met by its two modes, cosine and sine.
    assert np.bincount(aligned.argmax(axis=1)).tolist() == [2] * aligned.shape[1]
    np.testing.assert_allclose(rotated @ rotated.T, mixed @ mixed.T, atol=1e-10)


def test_functions_on_another_grid_are_refused() -> None:
    with pytest.raises(InputError, match="over 10 inputs, not p² = 121"):
        cycle_frequency(np.zeros((10, 2)), P, "n")


def test_no_modes_and_one_come_back() -> None:
    assert disentangle_frequencies(np.zeros((P * P, 0)), P).shape == (P * P, 0)
    assert cycle_frequency(np.zeros((P * P, 0)), P, "n").shape == (P * P, 0)
    single = np.full((P * P, 1), 1 / P)
    np.testing.assert_allclose(np.abs(disentangle_frequencies(single, P)), single)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: cycle_frequency(np.ones((P * P, 1)), P, "k"), "axis 'k' is unknown: use n, m"),  # type: ignore[arg-type]
        (lambda: cycle_frequency(np.ones(P * P), P, "n"), r"functions have shape \(121,\)"),
        (lambda: cycle_frequency(np.full((P * P, 1), np.nan), P, "m"), "infinite functions"),
        (
            lambda: disentangle_frequencies(np.full((P * P, 2), np.inf), P),
            "121 of 121 inputs .* modes",
        ),
        (lambda: disentangle_frequencies(np.ones((10, 2)), P), "over 10 inputs, not p² = 121"),
    ],
)
def test_what_cannot_be_disentangled_is_refused(call: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()
