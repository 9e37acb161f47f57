import numpy as np
import pytest
import scipy.linalg

from mlx_entk import InputError, Spectrum
from mlx_entk.features import (
    alignment_rows,
    center,
    family_shares,
    frequency_alignment,
    frequency_shares,
    modular_features,
    subspace_overlap,
)
from mlx_entk.features.bank import frequency_families
from mlx_entk.linalg import orthonormal_basis


def random_basis(N: int, d: int, seed: int) -> np.ndarray:
    return orthonormal_basis(np.random.default_rng(seed).standard_normal((N, d)))


def test_overlap_and_angles_equal_those_of_scipy() -> None:
    Q, F = random_basis(30, 5, 0), random_basis(30, 3, 1)

    found = subspace_overlap(Q, F, rank=29)

    assert found.overlap == pytest.approx(np.linalg.norm(Q.T @ F) ** 2)
    expected = np.degrees(np.sort(scipy.linalg.subspace_angles(Q, F)))
    np.testing.assert_allclose(found.angles, expected, atol=1e-6)
    assert (found.dimension, found.chance) == (3, 5 * 3 / 29)


def test_a_subspace_overlaps_one_that_holds_it_completely() -> None:
    Q = random_basis(30, 5, 0)

    found = subspace_overlap(Q, Q[:, :2], rank=29)

    assert found.percent == pytest.approx(100)
    assert found.angles.max() < 1e-5


def test_chance_is_what_random_subspaces_overlap_on_average() -> None:
    F = random_basis(40, 6, 0)
    overlaps = [subspace_overlap(random_basis(40, 8, s), F, rank=40).overlap for s in range(1, 300)]

    assert np.mean(overlaps) == pytest.approx(8 * 6 / 40, rel=0.03)


@pytest.mark.parametrize(
    ("modes", "family", "message"),
    [
        (np.eye(3), np.eye(4), "modes are over 3 inputs, features over 4"),
        (np.eye(3), np.zeros((3, 0)), "at least one"),
    ],
)
def test_overlaps_without_meaning_are_refused(
    modes: np.ndarray, family: np.ndarray, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        subspace_overlap(modes, family, rank=3)


def test_frequency_alignment_ignores_the_phase() -> None:
    p = 7
    n, m = np.divmod(np.arange(p * p), p)
    mode = np.cos(2 * np.pi * 2 * n / p + 0.9)[:, None]
    mode /= np.linalg.norm(mode)

    aligned = frequency_alignment(mode, modular_features(n, m, p)["n"])

    np.testing.assert_allclose(aligned, [[0, 1, 0]], atol=1e-12)


def test_rows_hold_what_the_vocabulary_says() -> None:
    vectors = np.eye(10)
    spectrum = Spectrum(np.arange(10, 0, -1.0), vectors, 0.0)

    rows = alignment_rows({"full": spectrum}, {"full": [(1, 4)]}, {"pair": vectors[:, [1, 7]]})

    assert rows == [
        {
            "kernel": "full",
            "modes": [1, 4],
            "family": "pair",
            "overlap": pytest.approx(1),
            "dimension": 2,
            "percent": pytest.approx(50),
            "chance": pytest.approx(4 * 2 / 9),
            "angles": [pytest.approx(0), pytest.approx(45), pytest.approx(90)],
        }
    ]


def test_shares_say_how_much_of_a_mode_is_one_frequency_of_one_family() -> None:
    p = 7
    n, m = (values.ravel() for values in np.indices((p, p)))
    bank = frequency_families(n, m, p)
    angle = 2 * np.pi * 2 * ((n + m) % p) / p
    wave, other = np.cos(angle + 0.3), np.sin(2 * np.pi * 3 * n / p)
    modes = np.stack([wave, other, wave + other], axis=1)
    modes /= np.linalg.norm(modes, axis=0)

    shares, names = frequency_shares(modes, bank, ["n", "sum"])

    assert names == ["n, k = 1", "n, k = 2", "n, k = 3", "sum, k = 1", "sum, k = 2", "sum, k = 3"]
    expected = np.array([[0, 0, 0, 0, 1, 0], [0, 0, 1, 0, 0, 0], [0, 0, 0.5, 0, 0.5, 0]])
    np.testing.assert_allclose(shares, expected, atol=1e-12)

    bases = {name: orthonormal_basis(center(bank[name])) for name in ("n", "sum")}
    of_families, families = family_shares(modes, bases)

    assert families == ["n", "sum"]
    expected = np.array([[0, 1], [1, 0], [0.5, 0.5]])
    np.testing.assert_allclose(of_families, expected, atol=1e-12)
