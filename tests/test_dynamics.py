from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from mlx_entk import InputError
from mlx_entk._linalg import FloatArray
from mlx_entk.dynamics import (
    centred_alignment,
    derivative,
    half_rise,
    kernel_distance,
    target_kernel,
    track,
    transition,
)


def test_the_transition_of_a_noisy_ramp_is_found_at_its_corners() -> None:
    epochs = np.arange(0, 510, 10.0)
    series = np.interp(epochs, [70, 120], [2.0, 26.0])
    series += np.random.default_rng(0).normal(0, 0.2, epochs.size)

    change = transition(epochs, series)

    assert (change.onset, change.completion) == (70, 120)
    assert change.before == pytest.approx(2, abs=0.2)
    assert change.after == pytest.approx(26, abs=0.2)
    assert change.explained > 0.99


def test_a_fall_ends_below_where_it_began() -> None:
    change = transition(np.arange(4.0), np.array([1.0, 1, 0, 0]))

    assert (change.onset, change.completion) == (1, 2)
    assert change.before == pytest.approx(1)
    assert change.after == pytest.approx(0)


def test_a_flat_series_has_nothing_to_explain() -> None:
    assert transition(np.arange(4.0), np.ones(4)).explained == 0


def test_a_flat_series_with_noise_does_not_rise() -> None:
    """The best ramp through a few noisy checkpoints explains a good part of them."""
    generator = np.random.default_rng(0)
    for _ in range(200):
        accuracy = 0.03 + 0.02 * generator.standard_normal(20)
        assert not transition(np.arange(20.0), accuracy).rises
    assert not transition(np.arange(4.0), np.array([1.0, 1, 0, 0])).rises  # a fall


def test_a_rise_is_one_by_its_scale() -> None:
    epochs = np.arange(0, 510, 10.0)
    series = np.interp(epochs, [70, 120], [2.0, 6.0])

    assert transition(epochs, series, 10).rises
    assert not transition(epochs, series, 28).rises


def test_two_epochs_are_too_few() -> None:
    with pytest.raises(InputError, match="at least three"):
        transition(np.arange(2.0), np.arange(2.0))


def test_the_derivative_of_a_parabola_is_exact_inside() -> None:
    epochs = np.arange(0, 50, 10.0)

    np.testing.assert_allclose(derivative(epochs, epochs**2)[1:-1], 2 * epochs[1:-1])


def test_tracking_overlaps_the_same_modes_at_every_epoch() -> None:
    order = {0: [0, 1, 2, 3], 5: [2, 1, 0, 3]}
    kernels: dict[int, dict[str, FloatArray]] = {
        epoch: {"full": np.diag([4.0, 3, 2, 1])[np.argsort(axes)][:, np.argsort(axes)]}
        for epoch, axes in order.items()
    }
    first = np.eye(4)[:, :1]

    seen = track(kernels.__getitem__, [0, 5], {"full": [(0, 0), (0, 2)]}, {"f": first}, top=3)

    np.testing.assert_allclose(seen.values["full"], [[4, 3, 2]] * 2)
    np.testing.assert_allclose(seen.overlaps["full", (0, 0), "f"], [1, 0], atol=1e-12)
    np.testing.assert_allclose(seen.overlaps["full", (0, 2), "f"], [1, 1])


def test_groups_beyond_the_modes_kept_are_refused() -> None:
    with pytest.raises(InputError, match="modes 0–3: a spectrum cut off at top has 3 modes"):
        track(lambda epoch: {}, [0], {"full": [(0, 3)]}, {}, top=3)


def diagonal(*values: float) -> dict[str, np.ndarray]:
    return {"full": np.diag(values)}


def test_a_kernel_of_zeros_can_be_tracked() -> None:
    kernels = {0: diagonal(0, 0, 0), 1: diagonal(2, 1, 0)}

    seen = track(kernels.__getitem__, [0, 1], {"full": [(0, 0)]}, {"f": np.eye(3)[:, :1]}, top=2)

    assert seen.values["full"].tolist() == [[0, 0], [2, 1]]
    assert seen.distances["full"].tolist() == [0, 1]
    np.testing.assert_allclose(seen.overlaps["full", (0, 0), "f"], [0, 1])


def test_no_families_have_no_overlaps() -> None:
    assert track(lambda epoch: diagonal(1, 0), [0], {"full": [(0, 0)]}, {}, top=1).overlaps == {}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"epochs": []}, "there are no epochs"),
        ({"groups": {"other": []}}, "epoch 1 has no kernel other"),
        ({"groups": {"full": [(2, 3)]}, "top": 9}, "modes 2–3: kernel full has 3 modes"),
        ({"groups": {"full": [(2, 1)]}}, "modes 2–1: a spectrum cut off at top has 3 modes"),
        ({"bases": {"f": np.eye(4)}}, "bases are over 4 inputs, the kernel over 3"),
        ({"bases": {"f": np.eye(4), "g": np.eye(3)}}, "bases are over different inputs"),
        ({"bases": {"f": np.full((3, 1), np.nan)}}, "NaN or infinite bases of f"),
        ({"kernels_at": lambda epoch: diagonal(*range(3 + epoch))}, "kernels have shapes"),
    ],
)
def test_what_cannot_be_tracked_is_refused(arguments: dict[str, Any], message: str) -> None:
    settings: dict[str, Any] = {
        "kernels_at": lambda epoch: diagonal(2, 1, 0),
        "epochs": [0, 1],
        "groups": {"full": [(0, 0)]},
        "bases": {"f": np.eye(3)[:, :1]},
        "top": 3,
    }
    with pytest.raises(InputError, match=message):
        track(**settings | arguments)


@pytest.mark.parametrize(
    ("epochs", "series", "message"),
    [
        (np.arange(4.0), np.ones(3), r"epochs have shape \(4,\), series \(3,\)"),
        (np.arange(4.0), np.array([1, np.nan, 1, 1]), r"1 of 4 checkpoints \(1\) has NaN"),
        (np.array([0, 1, np.nan, 3]), np.ones(4), r"1 of 4 checkpoints \(2\) has NaN"),
        (np.array([0, 1, 1, 3]), np.ones(4), "epochs do not increase after number 1"),
        (np.array([0, 2, 1, 3]), np.ones(4), "epochs do not increase after number 1"),
        (np.array([]), np.array([]), "pass a value for each epoch"),
    ],
)
def test_what_is_not_a_series_is_refused(
    epochs: np.ndarray, series: np.ndarray, message: str
) -> None:
    for measure in (transition, derivative, half_rise):
        with pytest.raises(InputError, match=message):
            measure(epochs, series)


def test_series_of_any_kind_are_measured() -> None:
    assert half_rise([0, 10, 20], mx.array([0, 0, 2])) == pytest.approx(15)
    assert transition([0, 1, 2, 3], [0, 0, 1, 1]).onset == 1
    np.testing.assert_allclose(derivative([0, 1, 2], np.array([[0], [2], [4]])), [[2], [2], [2]])
    with pytest.raises(InputError, match=r"series has shape \(3, 1\)"):
        half_rise([0, 1, 2], np.ones((3, 1)))
    with pytest.raises(InputError, match="checkpoints is 1: a change needs at least two"):
        derivative([0], [1])


def test_half_of_a_rise_is_found_between_checkpoints() -> None:
    epochs = np.array([0.0, 10, 20, 30])

    assert half_rise(epochs, np.array([1.0, 1, 5, 4])) == pytest.approx(15)
    assert half_rise(epochs, np.array([3.0, 2, 1, 0])) == 0


def test_the_distance_of_kernels_is_blind_to_scale() -> None:
    a, b = np.diag([1.0, 0]), np.diag([0, 2.0])

    assert kernel_distance(a, 5 * a) == pytest.approx(0)
    assert kernel_distance(a, b) == pytest.approx(1)
    assert kernel_distance(a, a + b / 2) == pytest.approx(1 - 1 / np.sqrt(2))


def test_a_kernel_of_zeros_is_far_from_all_but_zeros() -> None:
    zeros, ones = np.zeros((3, 3)), np.ones((3, 3))

    assert kernel_distance(zeros, zeros) == 0
    assert kernel_distance(zeros, ones) == kernel_distance(ones, zeros) == 1


@pytest.mark.parametrize("scale", [1e-300, 1e-30, 1e30, 1e300])
def test_the_distance_of_kernels_of_any_size_is_found(scale: float) -> None:
    a, b = np.diag([scale, 0]), np.diag([0, scale])

    assert kernel_distance(a, b) == pytest.approx(1)
    assert kernel_distance(a, a + b) == pytest.approx(1 - 1 / np.sqrt(2))


def test_the_distance_of_kernels_of_any_kind_is_found() -> None:
    assert kernel_distance(np.eye(2, dtype=int), mx.eye(2).astype(mx.bfloat16)) == pytest.approx(0)


@pytest.mark.parametrize(
    ("kernel", "other", "message"),
    [
        (np.zeros((3, 3)), np.eye(2), r"kernels have shapes \(3, 3\) and \(2, 2\)"),
        (np.zeros((0, 0)), np.zeros((0, 0)), "kernels have shapes"),
        (np.full((2, 2), np.nan), np.eye(2), "2 of 2 rows .* infinite kernel"),
        (np.eye(2), np.diag([1, np.inf]), r"1 of 2 rows \(1\) has NaN or infinite other"),
    ],
)
def test_kernels_without_a_distance_are_refused(
    kernel: np.ndarray, other: np.ndarray, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        kernel_distance(kernel, other)


def test_centred_alignment_is_that_of_the_definition() -> None:
    generator = np.random.default_rng(0)
    a, b = (generator.standard_normal((9, 4)) + 3 for _ in range(2))
    H = np.eye(9) - 1 / 9
    left, right = H @ a @ a.T @ H, H @ b @ b.T @ H

    expected = np.sum(left * right) / np.linalg.norm(left) / np.linalg.norm(right)

    assert centred_alignment(a @ a.T, 7 * b @ b.T) == pytest.approx(expected)
    assert centred_alignment(a @ a.T, a @ a.T) == pytest.approx(1)
    # what is the same for all inputs does not count
    assert centred_alignment(a @ a.T + 100, a @ a.T) == pytest.approx(1)
    assert centred_alignment(np.ones((9, 9)), a @ a.T) == 0
    assert centred_alignment(np.zeros((9, 9)), a @ a.T) == 0
    with pytest.raises(InputError, match="pass square ones"):
        centred_alignment(np.ones((3, 4)), np.ones((3, 4)))


def test_classes_are_targets_as_unit_vectors() -> None:
    np.testing.assert_array_equal(target_kernel([0, 2, 0]), [[1, 0, 1], [0, 1, 0], [1, 0, 1]])
    np.testing.assert_array_equal(target_kernel([[1.0], [2.0]]), [[1, 2], [2, 4]])
    for wrong in ([0.5, 1.0], [-1, 0]):
        with pytest.raises(InputError, match="must be classes"):
            target_kernel(wrong)


def test_tracking_aligns_with_targets_and_with_the_last_kernel() -> None:
    """A kernel that turns from noise to its targets over three checkpoints."""
    generator = np.random.default_rng(0)
    Y = generator.standard_normal((8, 2))
    noise = generator.standard_normal((8, 8))
    kernels: dict[int, dict[str, FloatArray]] = {
        epoch: {"w": (1 - share) * noise @ noise.T / 8 + share * Y @ Y.T}
        for epoch, share in ((0, 0.0), (10, 0.5), (30, 1.0))
    }

    followed = track(
        kernels.__getitem__, [0, 10, 30], {"w": [(0, 1)]}, {}, 3, targets=Y,
        measure=lambda of_epoch: float(np.trace(of_epoch["w"])),
    )  # fmt: skip

    assert followed.with_targets is not None
    assert followed.with_targets["w"][-1] == pytest.approx(1)
    assert (np.diff(followed.with_targets["w"]) > 0).all()
    np.testing.assert_allclose(followed.with_final["w"], followed.with_targets["w"])
    between = kernel_distance(kernels[30]["w"], kernels[10]["w"])
    assert followed.velocities["w"].tolist() == pytest.approx(
        [0, kernel_distance(kernels[10]["w"], kernels[0]["w"]) / 10, between / 20]
    )
    assert followed.measures == pytest.approx([np.trace(k["w"]) for k in kernels.values()])
    assert track(kernels.__getitem__, [0, 30], {"w": []}, {}, 3).with_targets is None


def test_epochs_and_kernels_have_to_be_there() -> None:
    kernels = {0: {"w": np.eye(3)}, 5: {"v": np.eye(3)}}
    for epochs in ([0, 0], [5, 0]):
        with pytest.raises(InputError, match="epochs do not increase"):
            track(kernels.__getitem__, epochs, {"w": []}, {}, 3)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="epoch 5 has no kernel w"):
        track(kernels.__getitem__, [0, 5], {"w": []}, {}, 3)  # type: ignore[arg-type]
