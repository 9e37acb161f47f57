"""One analysis for studies, commands, trackers and notebooks."""

import numpy as np
import pytest

from mlx_entk import InputError, flatten
from mlx_entk.analysis import (
    DENSE,
    TrainedAlignment,
    analyze_kernels,
    bases_of,
    with_sums,
    with_whole,
)
from mlx_entk.spectrum import Modes

N = 12
generator = np.random.default_rng(0)
Q = np.linalg.qr(np.c_[np.ones(N), generator.standard_normal((N, N - 1))])[0][:, 1:]


def kernel(values: list[float], basis: np.ndarray = Q) -> np.ndarray:
    vectors = basis[:, : len(values)]
    return np.asarray((vectors * values) @ vectors.T)


def test_the_whole_comes_first_and_is_the_sum() -> None:
    kernels = with_whole({"a": kernel([2.0]), "b": kernel([1.0, 3.0])})

    assert list(kernels) == ["full", "a", "b"]
    np.testing.assert_allclose(kernels["full"], kernels["a"] + kernels["b"])


def test_sums_come_last_and_leave_the_kernels_as_they_are() -> None:
    single = {"a": kernel([2.0]), "b": kernel([1.0, 3.0]), "c": kernel([5.0])}

    kernels = with_sums(single, {"b+a": ("b", "a")})

    assert list(kernels) == ["a", "b", "c", "b+a"]
    np.testing.assert_allclose(kernels["b+a"], single["a"] + single["b"])
    np.testing.assert_array_equal(kernels["b"], kernel([1.0, 3.0]))


@pytest.mark.parametrize(
    ("name", "parts", "message"),
    [
        ("s", ["a", "z"], "sum s: there is no kernel z; the kernels are a"),
        ("s", [], "sum s: it adds up nothing"),
        ("a", ["a"], "sum a: a kernel has that name already"),
    ],
)
def test_sums_of_what_is_not_there_are_refused(name: str, parts: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        with_sums({"a": kernel([2.0])}, {name: parts})


def test_groups_end_at_cliffs_and_are_aligned_with_centred_features() -> None:
    values = [8.0, 8.0, 8.0, *(0.01 * 0.97**k for k in range(6))]

    analysis = analyze_kernels({"w": kernel(values)}, {"f": Q[:, :2] + 5, "g": Q[:, 3:4]})

    assert [cliff.before for cliff in analysis.cliffs["w"]] == [3]
    assert analysis.groups == analysis.groups_at_cliffs == {"w": [(0, 2)]}
    first, second = analysis.alignment
    assert (first.family, first.modes, first.dimension) == ("f", (0, 2), 2)
    assert first.overlap == pytest.approx(2)
    assert second.overlap == pytest.approx(0, abs=1e-12)
    assert analysis.effective_ranks["w"] == pytest.approx(3, abs=0.1)


def test_other_groups_can_be_reported() -> None:
    chosen: list[Modes] = [(0, 0), (1, 4)]

    analysis = analyze_kernels({"w": kernel([3.0, 2.0, 1.0])}, {"f": Q[:, :1]}, groups=chosen)

    assert [row.modes for row in analysis.alignment] == chosen


def test_the_same_modes_before_training_stand_in_each_row() -> None:
    after, before = kernel([9.0, 1.0]), kernel([9.0, 1.0], Q[:, ::-1])

    rows = analyze_kernels({"w": after}, {"f": Q[:, :1], "last": Q[:, -1:]}, groups=[(0, 0)]).since(
        {"w": before}
    )

    assert all(isinstance(row, TrainedAlignment) for row in rows)
    assert [row.overlap for row in rows] == pytest.approx([1, 0], abs=1e-12)
    assert [row.initial for row in rows] == pytest.approx([0, 1], abs=1e-12)
    assert rows[1].initial_percent == pytest.approx(100)


def test_a_full_kernel_is_flattened() -> None:
    J = generator.standard_normal((4, 3, 20))
    full = np.einsum("ncp,mdp->nmcd", J, J)

    analysis = analyze_kernels({"full": full})

    expected = np.linalg.eigvalsh(flatten(full))[::-1]
    np.testing.assert_allclose(analysis.spectra["full"].values, expected, atol=1e-10)


def test_large_kernels_keep_their_leading_modes_and_have_no_rank() -> None:
    rows = np.random.default_rng(1).standard_normal((DENSE + 1, 5))
    expected = np.linalg.eigvalsh(rows.T @ rows)[::-1]

    analysis = analyze_kernels({"w": rows @ rows.T}, top=3)

    np.testing.assert_allclose(analysis.spectra["w"].values, expected[:3], rtol=1e-6)
    assert analysis.effective_ranks == {"w": None}


@pytest.mark.parametrize("top", [20, 60])
def test_few_and_many_leading_modes_of_a_large_kernel_are_right(
    monkeypatch: pytest.MonkeyPatch, top: int
) -> None:
    """Lanczos finds the few, LAPACK the many."""
    monkeypatch.setattr("mlx_entk.analysis.DENSE", 200)
    rows = np.random.default_rng(1).standard_normal((400, 90)) / np.arange(1, 91)
    values, vectors = np.linalg.eigh(rows @ rows.T)

    spectrum = analyze_kernels({"w": rows @ rows.T}, top=top).spectra["w"]

    np.testing.assert_allclose(spectrum.values, values[::-1][:top], rtol=1e-5)
    cosines = np.abs((spectrum.vectors * vectors[:, ::-1][:, :top]).sum(axis=0))
    assert cosines.min() > 1 - 1e-6


def test_features_over_other_inputs_are_refused() -> None:
    with pytest.raises(InputError, match="features f are over 3 inputs, not 4"):
        bases_of({"f": np.eye(3)}, inputs=4)
    with pytest.raises(InputError, match="modes are over 12 inputs, features over 3"):
        analyze_kernels({"w": kernel([2.0, 1.9, 1e-3, 9e-4])}, {"f": np.eye(3)})
