"""Estimates scale what was measured on small parts; the clock here is made up."""

import time

import mlx.core as mx
import numpy as np
import pytest

from mlx_entk.runs import Run
from mlx_entk.studies import estimate
from tests.models import MLP


class Clock:
    """A clock that only work moves on."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(time, "perf_counter", made)
    return made


def test_training_is_scaled_without_its_start(clock: Clock) -> None:
    def train(epochs: int, run: Run) -> None:
        assert run.path.is_dir()
        clock.now += 7 + 0.02 * epochs  # compiling, then the epochs

    assert estimate.seconds_of_training(train, epochs=1000, few=20) == pytest.approx(20)


@pytest.mark.parametrize("N", [100, 5000])
def test_kernels_grow_by_their_linear_and_quadratic_part(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, N: int
) -> None:
    def form(model: object, x: tuple[mx.array], **options: object) -> None:
        clock.now += 1e-3 * x[0].shape[0] + 1e-6 * x[0].shape[0] ** 2

    monkeypatch.setattr(estimate, "entk", form)

    seconds = estimate.seconds_of_kernel(MLP([2, 2]), mx.zeros((N, 2)), "trace", layerwise=False)

    assert seconds == pytest.approx(1e-3 * N + 1e-6 * N**2)


@pytest.mark.parametrize("size", [300, 6000])
def test_decompositions_grow_by_the_cube(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    def decompose(matrix: np.ndarray, top: int | None) -> None:
        clock.now += 1e-9 * len(matrix) ** 3

    monkeypatch.setattr(estimate, "eigendecompose", decompose)

    assert estimate.seconds_of_decomposition(size) == pytest.approx(1e-9 * size**3)
