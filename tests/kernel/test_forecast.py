"""What a kernel would take is told from small tiles; what they compute is counted here."""

import time
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from mlx_entk import entk, layerwise_entk
from mlx_entk.kernel import forecast as forecasts
from mlx_entk.kernel.forecast import forecast
from mlx_entk.kernel.reduction import Reduction
from mlx_entk.kernel.structure import Structure
from mlx_entk.kernel.work import Work
from mlx_entk.tracing.inputs import count
from tests.models import MLP


class Formed:
    """The tiles that are formed: inputs of their rows and columns."""

    def __init__(self) -> None:
        self.tiles: list[tuple[int, int]] = []

    @property
    def pairs(self) -> int:
        return sum(rows * columns for rows, columns in self.tiles)


@pytest.fixture
def formed(monkeypatch: pytest.MonkeyPatch) -> Formed:
    seen, blocks = Formed(), Work.blocks

    def watched(self: Work, tile: Any) -> Any:
        sides = (tile.rows.stop - tile.rows.start, tile.columns.stop - tile.columns.start)
        seen.tiles.append(sides)
        return blocks(self, tile)

    monkeypatch.setattr(Work, "blocks", watched)
    return seen


@pytest.mark.parametrize("reduction", ["trace", "sum-of-logits", "full", (1, 1)])
@pytest.mark.parametrize("by_layer", [False, True])
def test_no_kernel_of_more_than_an_eighth_of_the_inputs_is_formed(
    formed: Formed, reduction: Reduction, by_layer: bool
) -> None:
    x = mx.random.normal((240, 3), key=mx.random.key(0))

    found = forecast(MLP([3, 8, 2]), x, reduction=reduction, by_layer=by_layer)

    assert max(max(tile) for tile in formed.tiles) <= 240 // 8
    assert formed.pairs < 240 * 240 / 8
    assert found.seconds > 0


def test_a_few_inputs_are_enough_where_each_takes_long(
    formed: Formed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forecasts, "_LONG", 0.0)

    forecast(MLP([3, 8, 2]), mx.zeros((4000, 3)) + mx.arange(4000)[:, None], reduction="trace")

    assert max(max(tile) for tile in formed.tiles) == 4


@pytest.mark.parametrize("reduction", ["trace", "full"])
@pytest.mark.parametrize("by_layer", [False, True])
def test_memory_is_that_of_the_kernels_and_of_the_largest_tile(
    reduction: Reduction, by_layer: bool
) -> None:
    model, x = MLP([3, 8, 2]), mx.random.normal((600, 3), key=mx.random.key(0))
    found = forecast(model, x, reduction=reduction, by_layer=by_layer)
    mx.reset_peak_memory()
    before = mx.get_active_memory()

    formed: Any = (layerwise_entk if by_layer else entk)(model, x, reduction=reduction)

    kernels = formed.values() if by_layer else [formed]
    taken = mx.get_peak_memory() - before + sum(kernel.nbytes for kernel in kernels)
    assert taken / 1.5 < found.memory < 1.5 * taken


def test_memory_of_tiles_stays_within_a_limit() -> None:
    x = mx.random.normal((600, 3), key=mx.random.key(0))

    found = forecast(MLP([3, 64, 2]), x, reduction="trace", memory_limit=4_000_000)

    assert 4 * 600 * 600 < found.memory < 4_000_000


class Clock:
    """A clock that only tiles move on."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Factors take 1 ms for each input and cotangent, blocks 1 µs for each pair of inputs."""
    made, blocks, passes = Clock(), Work.blocks, Work.passes

    def of_tile(self: Work, tile: Any) -> Any:
        rows, columns = (part.stop - part.start for part in (tile.rows, tile.columns))
        classes = 1 if self.cotangents.paired else (tile.left.stop - tile.left.start) ** 2
        made.now += 1e-6 * rows * columns * classes
        return blocks(self, tile)

    def of_side(self: Work, x: Any, cotangents: mx.array) -> Any:
        made.now += 1e-3 * count(x) * len(cotangents)
        return passes(self, x, cotangents)

    monkeypatch.setattr(Work, "passes", of_side)
    monkeypatch.setattr(Work, "blocks", of_tile)
    monkeypatch.setattr(time, "perf_counter", made)
    return made


@pytest.mark.parametrize("memory_limit", [None, 3_000_000, 1_500_000])
@pytest.mark.parametrize("reduction", ["trace", "full"])
def test_seconds_are_those_of_all_tiles(
    clock: Clock, memory_limit: int | None, reduction: Reduction, tmp_path: Any
) -> None:
    model, x = MLP([3, 16, 2]), mx.random.normal((300, 3), key=mx.random.key(0))

    found = forecast(model, x, reduction=reduction, memory_limit=memory_limit, in_files=True)
    start = clock.now
    entk(model, x, reduction=reduction, memory_limit=memory_limit, out=tmp_path / "k")

    assert np.isclose(found.seconds, clock.now - start, rtol=0.05)


def test_the_tiles_that_are_added_up_are_not_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    made, passes = [0], Structure.passes

    def counted(self: Structure, x: Any, *options: Any) -> Any:
        made[0] += count(x)
        return passes(self, x, *options)

    monkeypatch.setattr(Structure, "passes", counted)
    monkeypatch.setattr(forecasts, "_LONG", 0.0)  # no tile but the smallest is tried

    forecast(MLP([3, 8, 2]), mx.random.normal((4000, 3), key=mx.random.key(0)), reduction="trace")

    assert made[0] < 100
