import json
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
import pytest

from mlx_entk import InputError, entk
from mlx_entk.dynamics import (
    KernelTracker,
    derivative,
    half_rise,
    kernel_distance,
    track,
    transition,
)
from tests.models import MLP


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


def test_half_of_a_rise_is_found_between_checkpoints() -> None:
    epochs = np.array([0.0, 10, 20, 30])

    assert half_rise(epochs, np.array([1.0, 1, 5, 4])) == pytest.approx(15)
    assert half_rise(epochs, np.array([3.0, 2, 1, 0])) == 0


def test_the_distance_of_kernels_is_blind_to_scale() -> None:
    a, b = np.diag([1.0, 0]), np.diag([0, 2.0])

    assert kernel_distance(a, 5 * a) == pytest.approx(0)
    assert kernel_distance(a, b) == pytest.approx(1)
    assert kernel_distance(a, a + b / 2) == pytest.approx(1 - 1 / np.sqrt(2))


probe = mx.random.normal((12, 3), key=mx.random.key(4))


def fit(model: MLP, steps: int, tracker: KernelTracker | None = None) -> list[float]:
    """A reader's own loop, compiled."""
    optimizer = optim.Adam(1e-2)
    state = [model.state, optimizer.state]
    loss_and_gradient = nn.value_and_grad(
        model, lambda net, x: nn.losses.mse_loss(net(x), mx.sin(x[:, :2]))
    )

    @partial(mx.compile, inputs=state, outputs=state)
    def step(x: mx.array) -> mx.array:
        loss, gradient = loss_and_gradient(model, x)
        optimizer.update(model, gradient)
        return mx.array(loss)

    losses = []
    for number in range(steps):
        if tracker is not None:
            tracker(number)
        losses.append(float(step(probe)))
    return losses


def test_a_tracker_logs_what_the_kernel_does_and_leaves_training_alone(tmp_path: Path) -> None:
    bank = {"first": np.array(probe)[:, :1]}
    model = MLP((3, 8, 2))
    log = tmp_path / "kernels.jsonl"
    tracker = KernelTracker(
        model, probe, every=10, reduction="trace", features=bank, groups=[(0, 2)], top=5, log=log
    )

    assert fit(model, 25, tracker) == fit(MLP((3, 8, 2)), 25)
    assert [row["step"] for row in tracker.rows] == [0, 10, 20]
    assert [json.loads(line) for line in log.read_text().splitlines()] == tracker.rows
    assert tracker.seconds == pytest.approx(sum(row["seconds"] for row in tracker.rows), abs=1e-3)


def test_its_figures_are_those_of_the_kernels_themselves() -> None:
    bank = {"first": np.array(probe)[:, :1]}
    model = MLP((3, 8, 2))
    tracker = KernelTracker(model, probe, every=1, features=bank, groups=[(0, 2)], top=5)
    kernels = []
    for step in range(3):
        tracker(step)
        kernels.append(entk(model, probe, reduction="trace"))
        fit(model, 3)

    for row, kernel, last in zip(tracker.rows, kernels, [kernels[0], *kernels], strict=False):
        found = row["kernels"]["full"]
        values, vectors = np.linalg.eigh(kernel.astype(np.float64))
        np.testing.assert_allclose(found["values"], values[::-1][:5], rtol=1e-4)
        shares = values[values > 0] / values[values > 0].sum()
        rank = np.exp(-(shares * np.log(shares)).sum())
        assert found["effective_rank"] == pytest.approx(rank, rel=1e-3)
        for key, other in (("distance_from_last", last), ("distance_from_first", kernels[0])):
            cosine = (kernel * other).sum() / np.linalg.norm(kernel) / np.linalg.norm(other)
            assert found[key] == pytest.approx(1 - cosine, abs=1e-5)
        feature = bank["first"] - bank["first"].mean()
        overlap = ((vectors[:, ::-1][:, :3].T @ feature) ** 2).sum() / (feature**2).sum()
        (aligned,) = found["alignment"]
        assert aligned["overlap"] == pytest.approx(overlap, abs=1e-3)
        assert aligned["dimension"] == 1
    assert tracker.rows[2]["kernels"]["full"]["distance_from_first"] > 1e-4


def test_the_time_it_takes_can_be_bounded() -> None:
    model = MLP((3, 8, 2))
    tracker = KernelTracker(model, probe, every=1, max_share=1e-6)

    fit(model, 10, tracker)

    assert len(tracker.rows) == 1
    assert tracker.skipped == 9


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"every": 0}, "every is 0"),
        ({"reduction": "full"}, "reduction is full"),
        ({"top": 13}, "top is 13: the probe set has 12 modes"),
        ({"max_share": 1.5}, "max_share is 1.5"),
        ({"features": {"f": np.ones((3, 1))}}, "features f are over 3 inputs"),
        ({"groups": [(3, 12)]}, "modes 3–12 are no group of 12 modes"),
    ],
)
def test_a_tracker_refuses_settings_that_do_not_fit(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        KernelTracker(MLP((3, 8, 2)), probe, **{"every": 1, "top": 5} | settings)
