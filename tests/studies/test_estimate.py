"""Estimates scale what was measured on small parts; the clock here is made up."""

import sys
import time
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from mlx_entk.kernel.work import Work
from mlx_entk.runs import Run
from mlx_entk.spectrum import eigendecompose
from mlx_entk.studies import estimate
from mlx_entk.studies.kernel import KernelConfig
from mlx_entk.studies.kernel import estimate as estimate_of_kernel
from mlx_entk.studies.modular_mlp.study import MLPConfig
from mlx_entk.studies.modular_mlp.study import estimate as estimate_of_mlp
from mlx_entk.studies.modular_transformer.study import estimate as estimate_of_transformer
from mlx_entk.studies.modular_transformer.training import TransformerConfig
from mlx_entk.studies.toy_models.study import estimate as estimate_of_toy
from mlx_entk.studies.toy_models.training import TMSConfig
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


def test_training_is_scaled_apart_from_its_start(clock: Clock) -> None:
    def train(epochs: int, run: Run) -> None:
        assert run.path.is_dir()
        clock.now += 7 + 0.02 * epochs  # compiling, then the epochs
        mx.eval(mx.zeros(1000))

    stage = estimate.stage_of_training("training", train, epochs=1000, few=20, runs=2)

    assert stage.seconds == pytest.approx(2 * (7 + 20))
    assert stage.memory >= 4000


@pytest.mark.parametrize("power", [1, 2, 3])
@pytest.mark.parametrize("size", [1, 7, 50, 900, 20000])
def test_time_is_scaled_by_its_power_from_a_third_of_the_size_at_most(
    size: int, power: float
) -> None:
    tried = []

    def measure(piece: int) -> float:
        tried.append(piece)
        return float(1e-9 * piece**power)

    assert estimate.scaled_up(measure, size, power) == pytest.approx(1e-9 * float(size) ** power)
    assert max(tried) <= max(1, size / 3)


def test_no_larger_piece_is_tried_once_one_takes_long() -> None:
    tried = []

    def measure(piece: int) -> float:
        tried.append(piece)
        return 1e-3 * piece

    estimate.scaled_up(measure, 10**6, 1)

    assert max(tried) == 256


def test_work_with_a_start_is_not_scaled_as_if_all_of_it_grew() -> None:
    found = estimate.scaled_up(lambda piece: 0.2 + 1e-3 * piece, 600, 1)

    assert 0.8 / 1.5 < found < 0.8 * 1.5


@pytest.mark.parametrize("size", [300, 6000])
def test_decompositions_grow_by_the_cube(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    def decompose(matrix: np.ndarray, top: int | None) -> None:
        clock.now += 1e-9 * len(matrix) ** 3

    monkeypatch.setattr(estimate, "eigendecompose", decompose)

    assert estimate.seconds_of_decomposition(size) == pytest.approx(1e-9 * size**3)


def test_leading_modes_are_tried_on_kernels_of_some_inputs() -> None:
    sizes = []

    def sample(inputs: int) -> np.ndarray:
        sizes.append(inputs)
        rows = np.random.default_rng(0).standard_normal((inputs, 40))
        return rows @ rows.T

    assert estimate.seconds_of_leading_modes(sample, 600, 12) > 0
    assert max(sizes) <= 200


def test_a_report_is_scaled_from_one_small_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []

    def write() -> float:
        drawn.append(1)
        return 0.1 if len(drawn) > 1 else 3.0  # the first one loads fonts

    monkeypatch.setattr(estimate, "_seconds_of_figure", write)

    few = estimate.stage_of_report(10).seconds
    drawn.clear()
    with_numbers = estimate.stage_of_report(10, 50).seconds

    assert few == pytest.approx(1.6)
    assert with_numbers == pytest.approx(1.65)
    assert len(drawn) == 2


def test_the_total_has_the_growth_of_the_process_itself() -> None:
    stages = [estimate.Stage("a", 1, 1.0, 2_000_000), estimate.Stage("b", 2, 2.5, 30_000_000)]

    table = estimate.estimate_table(stages)

    assert table.rows[-1] == ("total", "", "3.5 s", "80 MB")


ESTIMATES: dict[str, Callable[[], list[estimate.Stage]]] = {
    "modular-mlp": lambda: estimate_of_mlp(MLPConfig(p=17, width=8, epochs=40)),
    "modular-transformer": lambda: estimate_of_transformer(
        TransformerConfig(p=17, d_model=8, epochs=80)
    ),
    "tms": lambda: estimate_of_toy(TMSConfig(n=6, m=2, rows=200, steps=200)),
    "kernel": lambda: estimate_of_kernel(
        KernelConfig("model", by_layer=True),
        model=MLP([3, 8, 2]),
        x=mx.random.normal((300, 3), key=mx.random.key(0)),
        features={"first": np.arange(300.0)[:, None]},
    ),
}


@pytest.mark.parametrize("study", ESTIMATES)
def test_estimates_do_no_work_of_the_size_of_the_job(
    monkeypatch: pytest.MonkeyPatch, study: str
) -> None:
    tiles: list[int] = []
    matrices: list[int] = []
    blocks = Work.blocks

    def formed(self: Work, tile: Any) -> Any:
        tiles.append(tile.rows.stop - tile.rows.start)
        return blocks(self, tile)

    def decomposed(matrix: np.ndarray, top: int | None) -> Any:
        matrices.append(len(matrix))
        return eigendecompose(matrix, top)

    monkeypatch.setattr(Work, "blocks", formed)
    monkeypatch.setattr(estimate, "eigendecompose", decomposed)
    inputs = {"kernel": 300, "tms": 400}.get(study, 17 * 17)

    stages = ESTIMATES[study]()

    assert max(tiles) <= inputs / 8
    assert max(matrices, default=0) <= inputs / 3
    assert all(stage.seconds >= 0 and stage.memory >= 0 for stage in stages)
    assert stages[-1].name == "figures and report, panels"


def test_samples_of_a_full_kernel_have_as_many_rows_as_are_tried(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shapes = []

    def of_leading_modes(sample: Callable[[int], np.ndarray], size: int, top: int) -> float:
        shapes.extend([sample(tried).shape for tried in (16, 33)])
        assert size == 4200
        return 1.0

    module = sys.modules[estimate_of_kernel.__module__]
    monkeypatch.setattr(module, "seconds_of_leading_modes", of_leading_modes)
    x = mx.random.normal((2100, 3), key=mx.random.key(0))
    config = KernelConfig("model", reduction="full", top=5, controls=False)

    estimate_of_kernel(config, model=MLP([3, 8, 2]), x=x, features={})

    assert shapes == [(16, 16), (33, 33)]
