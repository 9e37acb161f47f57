import numpy as np
import pytest

from mlx_entk import InputError
from mlx_entk.dynamics import derivative, track, transition


def test_the_transition_of_a_noisy_ramp_is_found_at_its_corners() -> None:
    epochs = np.arange(0, 510, 10.0)
    series = np.interp(epochs, [70, 120], [2.0, 26.0])
    series += np.random.default_rng(0).normal(0, 0.2, epochs.size)

    found = transition(epochs, series)

    assert (found.onset, found.completion) == (70, 120)
    assert found.before == pytest.approx(2, abs=0.2)
    assert found.after == pytest.approx(26, abs=0.2)
    assert found.explained > 0.99


def test_a_fall_ends_below_where_it_began() -> None:
    found = transition(np.arange(4.0), np.array([1.0, 1, 0, 0]))

    assert (found.onset, found.completion) == (1, 2)
    assert found.before == pytest.approx(1)
    assert found.after == pytest.approx(0)


def test_a_flat_series_has_nothing_to_explain() -> None:
    assert transition(np.arange(4.0), np.ones(4)).explained == 0


def test_two_epochs_are_too_few() -> None:
    with pytest.raises(InputError, match="at least three"):
        transition(np.arange(2.0), np.arange(2.0))


def test_the_derivative_of_a_parabola_is_exact_inside() -> None:
    epochs = np.arange(0, 50, 10.0)

    np.testing.assert_allclose(derivative(epochs, epochs**2)[1:-1], 2 * epochs[1:-1])


def test_tracking_overlaps_the_same_modes_at_every_epoch() -> None:
    order = {0: [0, 1, 2, 3], 5: [2, 1, 0, 3]}
    kernels = {
        epoch: {"full": np.diag([4.0, 3, 2, 1])[np.argsort(axes)][:, np.argsort(axes)]}
        for epoch, axes in order.items()
    }
    first = np.eye(4)[:, :1]

    seen = track(kernels.__getitem__, [0, 5], {"full": [(0, 0), (0, 2)]}, {"f": first}, top=3)

    np.testing.assert_allclose(seen.values["full"], [[4, 3, 2]] * 2)
    np.testing.assert_allclose(seen.overlaps["full", (0, 0), "f"], [1, 0], atol=1e-12)
    np.testing.assert_allclose(seen.overlaps["full", (0, 2), "f"], [1, 1])


def test_groups_beyond_the_modes_kept_are_refused() -> None:
    with pytest.raises(InputError, match="reach beyond"):
        track(lambda epoch: {}, [0], {"full": [(0, 3)]}, {}, top=3)
