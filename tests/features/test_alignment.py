from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import scipy.linalg

from mlx_entk import InputError, Spectrum, eigendecompose, find_cliffs
from mlx_entk._linalg import orthonormal_basis
from mlx_entk.analysis import Families
from mlx_entk.features import (
    Alignment,
    align,
    center,
    equivalent_families,
    family_shares,
    frequency_alignment,
    frequency_shares,
    modular_features,
    subspace_overlap,
)
from mlx_entk.features.bank import frequency_families


def random_basis(N: int, d: int, seed: int) -> np.ndarray:
    return orthonormal_basis(np.random.default_rng(seed).standard_normal((N, d)))


def test_overlap_and_angles_equal_those_of_scipy() -> None:
    Q, F = random_basis(30, 5, 0), random_basis(30, 3, 1)

    measured = subspace_overlap(Q, F)

    assert measured.overlap == pytest.approx(np.linalg.norm(Q.T @ F) ** 2)
    expected = np.degrees(np.sort(scipy.linalg.subspace_angles(Q, F)))
    np.testing.assert_allclose(measured.angles, expected, atol=1e-6)
    assert measured.dimension == 3
    assert measured.chance == pytest.approx(5 * 3 / 30)


def test_a_subspace_overlaps_one_that_holds_it_completely() -> None:
    Q = random_basis(30, 5, 0)

    measured = subspace_overlap(Q, Q[:, :2])

    assert measured.percent == pytest.approx(100)
    assert measured.angles.max() < 1e-5


@pytest.mark.parametrize("j", [0, 1, 12, 30])
def test_chance_is_what_random_modes_after_others_overlap(j: int) -> None:
    """Mean and spread of 2,000 random groups of 8 modes that are orthogonal to j modes before."""
    F = random_basis(40, 6, 0)
    before = orthonormal_basis(
        np.concatenate([F[:, : j // 12] + 0.3, random_basis(40, j - j // 12, 1)], axis=1)
    )
    generator = np.random.default_rng(2)
    overlaps = []
    for _ in range(2000):
        drawn = generator.standard_normal((40, 8))
        Q = orthonormal_basis(drawn - before @ (before.T @ drawn))
        overlaps.append(subspace_overlap(Q, F, before))

    chance, deviation = overlaps[0].chance, overlaps[0].chance_deviation
    sampled = [overlap.overlap for overlap in overlaps]
    assert np.mean(sampled) == pytest.approx(chance, abs=4 * deviation / np.sqrt(2000))
    assert np.std(sampled) == pytest.approx(deviation, rel=0.08)


def test_chance_for_the_second_group_of_the_modular_mlp() -> None:
    """56 modes after 57 that are orthogonal to a family of 28, of 841 in all."""
    overlap = subspace_overlap(np.eye(841)[:, 57:113], np.eye(841)[:, 200:228], np.eye(841)[:, :57])

    assert overlap.chance == pytest.approx(56 * 28 / 784) == 2.0
    assert overlap.chance_deviation == pytest.approx(0.0675, abs=0.0005)


def test_all_that_is_left_overlaps_what_is_left_of_the_family() -> None:
    overlap = subspace_overlap(np.eye(4)[:, 1:], np.eye(4)[:, :2], np.eye(4)[:, :1])

    assert overlap.chance == pytest.approx(1)
    assert overlap.chance_deviation == 0


def test_modes_below_the_noise_floor_hold_nothing() -> None:
    spectrum = Spectrum(np.array([3.0, 2, 1e-9, 1e-9]), np.eye(4), 1e-8)
    bases = {"first": np.eye(4)[:, [0]], "third": np.eye(4)[:, [2]], "two": np.eye(4)[:, [1, 2]]}

    rows = align({"w": spectrum}, {"w": [(0, 2), (2, 3)]}, bases)

    found = {(row.modes, row.family): row.overlap for row in rows}
    assert found == {
        ((0, 2), "first"): 1, ((0, 2), "third"): 0, ((0, 2), "two"): 1,
        ((2, 3), "first"): 0, ((2, 3), "third"): 0, ((2, 3), "two"): 0,
    }  # fmt: skip
    assert Families(bases).overlaps(spectrum, [(0, 2), (2, 3)]) == pytest.approx(found)
    assert [row.percent for row in rows if row.family == "two"] == [50, 0]
    assert all(row.chance == 0 for row in rows if row.modes == (2, 3))


@pytest.mark.parametrize(
    ("modes", "family", "message"),
    [
        (np.eye(3), np.eye(4), "modes are over 3 inputs, features over 4"),
        (np.eye(3), np.zeros((3, 0)), "at least one"),
        (np.zeros((3, 0)), np.eye(3), "at least one"),
        (np.eye(3), np.ones(3), r"features have shape \(3,\)"),
        (np.eye(3), np.full((3, 1), np.nan), "3 of 3 inputs .* have NaN or infinite features"),
        (np.full((3, 1), np.inf), np.eye(3), "3 of 3 inputs .* have NaN or infinite modes"),
        (np.eye(3), 2 * np.eye(3), "features are not orthonormal"),
        (np.zeros((3, 1)), np.eye(3), "modes are not orthonormal"),
        (np.eye(3)[:, [0, 0]], np.eye(3)[:, :1], "modes are not orthonormal"),
    ],
)
def test_overlaps_without_meaning_are_refused(
    modes: np.ndarray, family: np.ndarray, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        subspace_overlap(modes, family)


def test_modes_before_that_are_not_a_basis_are_refused() -> None:
    for before, message in ((2 * np.eye(3)[:, :1], "not orthonormal"), (np.eye(4), "over 3")):
        with pytest.raises(InputError, match=message):
            subspace_overlap(np.eye(3)[:, 1:], np.eye(3), before)


def test_bases_in_single_precision_overlap_too() -> None:
    Q = random_basis(300, 5, 0).astype(np.float32)

    for basis in (Q, mx.array(Q)):
        assert subspace_overlap(basis, basis).percent == pytest.approx(100)
        assert family_shares(basis, {"f": basis})[0] == pytest.approx(np.ones((5, 1)))


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (np.ones(3), r"features have shape \(3,\): pass a row for each input, \(N, k\)"),
        (np.zeros((0, 2)), r"features have shape \(0, 2\)"),
        (np.array([[1, np.nan], [1, 2]]), r"1 of 2 inputs \(0\) has NaN or infinite features"),
        (np.array([["a"]]), "features has type <U1"),
    ],
)
def test_what_is_not_a_feature_is_refused(features: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        center(features)


def test_features_of_any_kind_are_centred() -> None:
    for features in (np.array([[0], [2]]), mx.array([[0], [2]]).astype(mx.bfloat16), [[0], [2]]):
        assert center(features).tolist() == [[-1], [1]]
    assert center(np.array([[True], [False]])).tolist() == [[0.5], [-0.5]]


Q4 = np.eye(4)[:, :2]
TWO = {"f": Q4, "g": np.eye(5)[:, :2]}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: equivalent_families(TWO), "modes are over 4 inputs, features g over 5"),
        (lambda: equivalent_families({"f": 2 * Q4}), "features f are not orthonormal"),
        (lambda: family_shares(Q4, TWO), "modes are over 4 inputs, features g over 5"),
        (lambda: family_shares(Q4, {"f": Q4 * np.nan}), "infinite features f"),
        (lambda: frequency_shares(Q4, TWO, ["h"]), "the bank lacks h: pass some of f, g"),
        (lambda: frequency_shares(Q4, TWO, []), "there are no families: pass some of f, g"),
        (lambda: frequency_alignment(Q4, np.eye(5)[:, :2]), r"family has shape \(5, 2\)"),
        (lambda: frequency_alignment(Q4, np.eye(4)[:, :3]), r"family has shape \(4, 3\)"),
        (lambda: frequency_alignment(Q4, np.full((4, 2), np.nan)), "NaN or infinite features"),
        (lambda: frequency_alignment(3 * Q4, Q4), "modes are not orthonormal"),
    ],
)
def test_families_that_do_not_match_are_refused(call: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()


def test_no_families_have_no_shares() -> None:
    shares, names = family_shares(Q4, {})

    assert (shares.shape, names) == ((2, 0), [])


def test_groups_that_a_spectrum_lacks_are_refused() -> None:
    spectrum = Spectrum(np.array([2.0, 1]), Q4, 0.0)

    with pytest.raises(InputError, match="modes 1–2: the spectrum has 2 modes"):
        align({"full": spectrum}, {"full": [(1, 2)]}, {"f": Q4})
    with pytest.raises(InputError, match="groups has other: full is missing"):
        align({"full": spectrum}, {"other": []}, {"f": Q4})


def test_a_kernel_of_zeros_has_no_rows() -> None:
    spectrum = eigendecompose(np.zeros((4, 4)))
    groups = [c.modes for c in find_cliffs(spectrum.values, spectrum.noise_floor)]

    assert align({"full": spectrum}, {"full": groups}, {"f": Q4}) == []


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

    rows = align({"full": spectrum}, {"full": [(1, 4)]}, {"pair": vectors[:, [1, 7]]})

    (row,) = rows
    assert isinstance(row, Alignment)
    assert (row.kernel, row.modes, row.family, row.dimension) == ("full", (1, 4), "pair", 2)
    assert row.overlap == pytest.approx(1)
    assert row.percent == pytest.approx(50)
    assert row.chance == pytest.approx(4 * 2 / 9)
    assert row.chance_percent == pytest.approx(100 * 4 / 9)
    assert row.angles == pytest.approx((0, 45, 90))


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


def test_angles_of_modes_that_are_rounding_are_right() -> None:
    spectrum = Spectrum(np.array([3.0, 1e-9, 1e-9, 1e-9]), np.eye(4), 1e-8)

    (row,) = align({"w": spectrum}, {"w": [(0, 2)]}, {"f": np.eye(4)[:, :3]})

    assert (row.overlap, row.dimension) == (1, 3)
    assert row.angles == (0, 90, 90)


def test_a_family_that_does_not_vary_is_refused_for_any_kernel() -> None:
    for values in ([1.0, 0.5, 0.1], [0.0, 0.0, 0.0]):
        spectrum = Spectrum(np.array(values), np.eye(3), 0.0)
        with pytest.raises(InputError, match="features c do not vary"):
            align({"w": spectrum}, {"w": [(0, 1)]}, {"c": np.zeros((3, 0))})


def test_modes_that_are_not_orthogonal_have_no_overlap() -> None:
    F = (np.eye(3)[:, [0]] + np.eye(3)[:, [1]]) / np.sqrt(2)
    with pytest.raises(InputError, match="modes are not orthonormal"):
        subspace_overlap(np.eye(3)[:, [0, 0]], F)
