"""What forming a kernel would take, from tiles that are a small part of it.

The factors of a tile take time in proportion to its inputs, their contraction in proportion to the
pairs of inputs. Both are measured on tiles that grow until that can be told, and added up over the
tiles that the memory limit leaves.
"""

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import mlx.core as mx
import numpy as np
import scipy.optimize

from mlx_entk._memory import limit_in_bytes, peak_bytes
from mlx_entk.kernel.engine import prepare
from mlx_entk.kernel.reduction import Reduction
from mlx_entk.kernel.store import FileStore, MemoryStore, Store
from mlx_entk.kernel.tiling import ONE_TILE, Tile, ranges
from mlx_entk.kernel.work import Factors, Work
from mlx_entk.tracing.functions import Model
from mlx_entk.tracing.inputs import Inputs, count

T = TypeVar("T")

# Tiles that are tried have this share of the inputs at most, and at least so many inputs.
_SHARE, _FEWEST = 1 / 8, 4
# They do not grow further once their contraction takes so many seconds.
_LONG = 0.05
# Computations of which the fastest counts: one that is so short is easily disturbed.
_ROUNDS = 2
# Bytes of new memory that are written to.
_TOUCHED = 2**25


@dataclass(frozen=True)
class Forecast:
    """What a kernel takes.

    Attributes
    ----------
    first
        Seconds that the first kernel of a model takes longer than the later ones.
    seconds
        Seconds to form a kernel.
    memory
        Bytes at the peak, in addition to the model and its inputs. Those of the kernel are counted
        unless it goes into files.
    """

    first: float
    seconds: float
    memory: int


@dataclass(frozen=True)
class _Tried:
    """What a tile of some inputs a side took: seconds, and bytes at the peak.

    ``off_diagonal`` is the contraction of a tile whose columns are not its rows; None if the
    kernel has no such tiles.
    """

    inputs: int
    factors: float
    contraction: float
    off_diagonal: float | None
    bytes: int


def forecast(
    model: Model,
    x: Any,
    *,
    reduction: Reduction = "full",
    by_layer: bool = False,
    memory_limit: int | None = None,
    in_files: bool = False,
) -> Forecast:
    """What ``entk`` or ``layerwise_entk`` would take on this device.

    Only tiles of an eighth of the inputs at most are formed, and of far fewer if there are many.

    Parameters
    ----------
    model, x, reduction, memory_limit
        As for ``entk``.
    by_layer
        Whether each parameter would have a kernel of its own.
    in_files
        Whether the kernels would go into files.

    Raises
    ------
    InputError
        As ``entk`` does.
    """

    def prepared() -> Work:
        return prepare(model, x, None, reduction, None, None, None, "auto", by_layer)

    first, _ = _timed(prepared)
    again, work = _timed(prepared)
    held = 0 if in_files else work.bytes
    limit = limit_in_bytes(memory_limit)
    cutting, work = _timed(lambda: work.cut(limit - held, None))
    tried = _try_tiles(work, in_files)
    seconds = again + cutting + _seconds_of_tiles(work, tried)
    side = min(count(work.x), work.tiling.inputs)
    sides = side if tried[0].off_diagonal is None else 2 * side
    n = np.array([tile.inputs for tile in tried], dtype=np.float64)
    fixed, each, pair = _fit([np.ones(len(n)), n, n * n], [tile.bytes for tile in tried])
    seconds += work.bytes * _seconds_to_touch()
    memory = held + fixed + each * sides + pair * side * side
    return Forecast(max(0.0, first - again), seconds, int(memory))


def _try_tiles(work: Work, in_files: bool) -> list[_Tried]:
    """Tiles of growing size, the smallest first."""
    N, side = count(work.x), min(count(work.x), work.tiling.inputs)
    most = max(min(side, _FEWEST), min(side, int(_SHARE * N)))
    tried: list[_Tried] = []
    n = min(side, _FEWEST)
    with tempfile.TemporaryDirectory() as folder:
        while True:
            tried.append(_try_tile(work, n, Path(folder) / str(n) if in_files else None))
            if n == most or tried[-1].contraction > _LONG:
                return tried
            n = min(most, 4 * n)


def _try_tile(work: Work, n: int, folder: Path | None) -> _Tried:
    """Form a tile of the first n inputs on the diagonal, and one beside it if there are any."""
    R = min(len(work.cotangents.left), work.tiling.cotangents)
    left, right = (replace(c, count=R) for c in (work.cotangents.left, work.cotangents.right))
    cotangents = replace(work.cotangents, left=left, right=right)
    small = replace(work, cotangents=cotangents, tiling=ONE_TILE)
    every = slice(0, R)
    diagonal = Tile(slice(0, n), slice(0, n), every, every)
    shape = (n, n, R, R) if cotangents.keeps_classes else (n, n)
    store: Store
    if folder is None:
        store = MemoryStore(work.kernels, shape, ONE_TILE, None)
    else:
        store = FileStore(folder, work.kernels, shape, {}, ONE_TILE, None)

    def form(tile: Tile) -> None:
        blocks = small.blocks(tile)
        store.put(replace(tile, columns=diagonal.columns), blocks, work.symmetric)

    if n <= _FEWEST:
        form(diagonal)  # compiles
    off = replace(diagonal, columns=slice(n, 2 * n))
    has_off = 2 * n <= count(work.x) and work.tiling.inputs < count(work.x)
    fresh: list[float] = []
    kept: list[float] = []
    beside: list[float] = []
    for _ in range(_ROUNDS):
        small = replace(small)  # without the factors of the rows
        peak = peak_bytes(lambda: fresh.append(_timed(partial(form, diagonal))[0]))
        kept.append(_timed(partial(form, diagonal))[0])  # with them
        if has_off:
            form(off)  # makes the factors of its columns
            beside.append(_timed(partial(form, off))[0])
        if fresh[0] > _LONG:
            break
    contraction, factors = min(kept), max(0.0, min(fresh) - min(kept))
    off_diagonal = max(contraction, min(beside)) if beside else None
    return _Tried(n, factors, contraction, off_diagonal, peak)


def _seconds_of_tiles(work: Work, tried: Sequence[_Tried]) -> float:
    """What all tiles of some work take, by those that were tried."""
    n = np.array([tile.inputs for tile in tried], dtype=np.float64)
    ones = np.ones(len(n))
    start, each = _fit([ones, n], [tile.factors for tile in tried])
    fixed, pair = _fit([ones, n * n], [tile.contraction for tile in tried])
    last = tried[-1]
    doubled = 1.0 if last.off_diagonal is None else last.off_diagonal / last.contraction
    at_once = min(len(work.cotangents.left), work.tiling.cotangents)
    parts = -(-len(work.cotangents.left) // at_once)
    rehearsal = _Rehearsal(**{f.name: getattr(work, f.name) for f in fields(Work) if f.init})
    seconds = 0.0
    for tile, _ in work.tiles(work.tiling):
        rows, columns, left, right = (
            side.stop - side.start for side in (tile.rows, tile.columns, tile.left, tile.right)
        )
        times = parts if work.cotangents.paired else left * right / at_once**2
        same = work.symmetric and tile.diagonal and tile.left == tile.right
        seconds += times * (fixed + pair * rows * columns * (1 if same else doubled))
        rehearsal.pass_through(tile)
    for inputs, cotangents in rehearsal.made:
        seconds += (start + each * inputs) * cotangents / at_once
    return seconds


@dataclass
class _Rehearsal(Work):
    """Passes through tiles without computing; ``made`` has inputs and cotangents of all factors."""

    made: list[tuple[int, int]] = field(default_factory=list)

    def pass_through(self, tile: Tile) -> None:
        """Ask for the factors that a tile needs."""
        sides = [(tile.left, tile.right)]
        if self.cotangents.paired:
            some = ranges(len(self.cotangents.left), self.tiling.cotangents)
            sides = list(zip(some, some, strict=True))
        for left, right in sides:
            list(self._contractions(tile, left, right))

    def passes(self, x: Inputs, cotangents: mx.array) -> tuple[Factors, mx.array]:
        """Write down what would be made."""
        self.made.append((count(x), len(cotangents)))
        return {}, mx.array(True)


def _seconds_to_touch() -> float:
    """Seconds that the system takes for a byte of new memory when it is written to first."""
    floats = _TOUCHED // 4
    return min(_timed(lambda: np.empty(floats, np.float32).fill(1))[0] for _ in range(3)) / _TOUCHED


def _fit(columns: Sequence[Any], values: Sequence[float]) -> list[float]:
    """Coefficients, none below zero, of the sum of columns that is nearest in proportion."""
    scale = np.maximum(np.asarray(values, dtype=np.float64), 1e-9)
    design = np.stack(columns, axis=1) / scale[:, None]
    coefficients, _ = scipy.optimize.nnls(design, np.ones(len(scale)))
    return [float(c) for c in coefficients]


def _timed(compute: Callable[[], T]) -> tuple[float, T]:
    start = time.perf_counter()
    result = compute()
    return time.perf_counter() - start, result
