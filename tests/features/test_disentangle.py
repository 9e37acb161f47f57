"""Rotations that know of no feature, against sources that were planted."""

import sys

import numpy as np
import pytest
from numpy.typing import NDArray

from mlx_entk import InputError
from mlx_entk.features import ROTATIONS, Rotation, disentangle, sparsity

N, K = 600, 5
Array = NDArray[np.float64]


def planted(seed: int = 0) -> tuple[Array, Array]:
    """Sparse orthonormal sources, and a random rotation of them."""
    generator = np.random.default_rng(seed)
    sources = np.zeros((N, K))
    for k in range(K):  # each on a tenth of the rows, which overlap
        rows = generator.choice(N, N // 10, replace=False)
        sources[rows, k] = generator.uniform(0.5, 1, len(rows))
    sources = np.linalg.qr(sources)[0]
    rotation = np.linalg.qr(generator.standard_normal((K, K)))[0]
    return sources, sources @ rotation


@pytest.mark.parametrize("method", ROTATIONS)
def test_planted_sources_are_found_in_a_random_rotation(method: Rotation) -> None:
    sources, mixed = planted()
    assert np.abs(sources.T @ mixed).max(axis=1).min() < 0.9
    found = disentangle(mixed, method)
    least = 0.7 if method == "dictionary" else 0.98  # atoms need not be orthogonal
    assert np.abs(sources.T @ found).max(axis=1).min() > least


@pytest.mark.parametrize("method", ROTATIONS)
def test_directions_have_unit_norm_lie_in_the_span_and_are_the_same_again(
    method: Rotation,
) -> None:
    _, mixed = planted(1)
    found = disentangle(mixed, method, seed=3)
    np.testing.assert_allclose(np.linalg.norm(found, axis=0), 1, atol=1e-6)
    np.testing.assert_allclose(mixed @ (mixed.T @ found), found, atol=1e-8)
    np.testing.assert_array_equal(found, disentangle(mixed, method, seed=3))
    if method != "dictionary":
        np.testing.assert_allclose(found.T @ found, np.eye(K), atol=1e-6)
    assert (np.diff(sparsity(found)) <= 1e-9).all()
    assert ((found**3).sum(axis=0) > 0).all()


def test_a_dictionary_may_have_more_atoms_than_there_are_modes() -> None:
    _, mixed = planted()
    assert disentangle(mixed, "dictionary", atoms=9).shape == (N, 9)


def test_varimax_maximises_kaisers_criterion() -> None:
    """No rotation of a pair of the directions raises the variance of their squares."""
    _, mixed = planted(2)
    found = disentangle(mixed)

    def criterion(directions: Array) -> float:
        return float((directions**2).var(axis=0).sum())

    best = criterion(found)
    assert best > criterion(mixed)
    for a in range(K):
        for b in range(a):
            for angle in (-0.3, -0.01, 0.01, 0.3):
                turned = found.copy()
                turned[:, a] = np.cos(angle) * found[:, a] - np.sin(angle) * found[:, b]
                turned[:, b] = np.sin(angle) * found[:, a] + np.cos(angle) * found[:, b]
                assert criterion(turned) <= best + 1e-12


def test_sparsity_is_the_excess_kurtosis() -> None:
    single = np.zeros((50, 1))
    single[7] = 3
    assert sparsity(single)[0] == pytest.approx(47)
    normal = np.random.default_rng(0).standard_normal((200_000, 1))
    assert sparsity(normal)[0] == pytest.approx(0, abs=0.1)
    assert sparsity(np.zeros((5, 1)))[0] == -3


def test_one_mode_and_none_stay_as_they_are() -> None:
    sources, _ = planted()
    np.testing.assert_allclose(np.abs(disentangle(sources[:, :1])), np.abs(sources[:, :1]))
    assert disentangle(np.zeros((N, 0))).shape == (N, 0)


def test_what_cannot_be_rotated_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    _, mixed = planted()
    with pytest.raises(InputError, match="method 'pca' is unknown: use varimax, ica, dictionary"):
        disentangle(mixed, "pca")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="modes are not orthonormal"):
        disentangle(2 * mixed)
    for method, atoms in (("varimax", 3), ("dictionary", 0)):
        with pytest.raises(InputError, match=f"atoms is {atoms}"):
            disentangle(mixed, method, atoms=atoms)  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(InputError, match=r"need scikit-learn: pip install 'mlx-entk\[sparse\]'"):
        disentangle(mixed, "ica")
    assert disentangle(mixed).shape == mixed.shape
