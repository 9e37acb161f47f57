"""Estimate the time and memory of a study, by trying small parts of it on this device."""

import math
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from mlx_entk._linalg import FloatArray
from mlx_entk._memory import format_bytes, peak_bytes
from mlx_entk.dynamics import track
from mlx_entk.eigensolvers import as_operator, top_modes
from mlx_entk.plotting import CaptionedFigure, Drawing
from mlx_entk.plotting.style import new_figure, styled
from mlx_entk.report import Table, place
from mlx_entk.runs import Run
from mlx_entk.spectrum import eigendecompose

# The size of the first piece that is tried, and the seconds from which on none larger is.
_SMALLEST, _LONG = 32, 0.2
# What a panel of a report takes, and a number in a cell, as multiples of the small figure that is
# drawn for an estimate: fitted to reports of the studies.
_PANEL, _NUMBER = 1.6, 0.01
# Bytes by which the process grows whatever the size of a study: compiled functions, fonts, and what
# draws and writes figures.
_OWN = 50_000_000
_FLOAT64 = 8


@dataclass(frozen=True)
class Stage:
    """A part of a study.

    Attributes
    ----------
    name
        What is done.
    count
        How many times it is done.
    seconds
        How long all of it takes.
    memory
        Bytes that it needs at most, in addition to the process itself.
    """

    name: str
    count: int
    seconds: float
    memory: int


def estimate_table(stages: Sequence[Stage]) -> Table:
    """What a study would take, by stage and in total."""
    whole = sum(stage.seconds for stage in stages)
    peak = max(stage.memory for stage in stages) + _OWN
    rows = [
        (s.name, str(s.count), _duration(s.seconds), format_bytes(s.memory) if s.memory else "")
        for s in stages
    ]
    total = ("total", "", _duration(whole), format_bytes(peak))
    return Table(
        "Estimate, by trying small parts on this device",
        ("stage", "how many", "time", "memory"),
        [*rows, total],
        "Memory is the peak, in addition to the process itself, which takes a second to start. The "
        f"total has {format_bytes(_OWN)} more, for compiled functions and for figures.",
    )


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def stage_of_training(
    name: str, train: Callable[[int, Run], object], epochs: int, few: int, runs: int = 1
) -> Stage:
    """Train for ``few`` epochs and for three times as many; scale the difference up to all.

    Parameters
    ----------
    train
        Trains for a number of epochs, in a run folder that is thrown away.
    runs
        How often that is done.
    """
    taken: list[float] = []
    with tempfile.TemporaryDirectory() as folder:

        def try_epochs(count: int) -> None:
            run = Run.create(Path(folder) / str(count), "estimate", {})
            taken.append(seconds_of(partial(train, count, run)))

        memory = max([peak_bytes(partial(try_epochs, count)) for count in (few, 3 * few)])
    each = max(0.0, taken[1] - taken[0]) / (2 * few)
    start = max(0.0, taken[0] - few * each)  # the model, the data, and compiling
    return Stage(name, epochs, runs * (start + epochs * each), memory)


def scaled_up(measure: Callable[[int], float], size: int, power: float) -> float:
    """Seconds that work of some size takes, from pieces of it, of a third of the size at most.

    Pieces grow until one takes long enough to be measured. From there on, time grows by a power of
    the size between that from half a piece to the piece, and the one it has in the end.

    Parameters
    ----------
    measure
        Seconds that work of a size takes.
    power
        By which power of the size time grows if it is large: 3 for a decomposition.
    """
    largest = max(1, size // 3)
    piece = min(largest, _SMALLEST)
    before, last = (max(1, piece // 2), measure(max(1, piece // 2))), (piece, measure(piece))
    while last[0] < largest and last[1] < _LONG:
        piece = min(largest, 2 * last[0])
        before, last = last, (piece, measure(piece))
    seen = power
    if before[0] < last[0] and before[1] > 0:
        seen = math.log(last[1] / before[1]) / math.log(last[0] / before[0])
    grows: float = (min(max(seen, 0.0), power) + power) / 2
    return float(last[1] * (size / last[0]) ** grows)


def seconds_of_decomposition(size: int, top: int | None = None) -> float:
    """Seconds of one dense eigendecomposition, all modes or the leading ones."""

    def measure(tried: int) -> float:
        rows = np.random.default_rng(0).standard_normal((tried, tried))
        matrix = rows @ rows.T
        modes = None if top is None else max(1, round(top * tried / size))
        return shortest(lambda: eigendecompose(matrix, modes))

    return scaled_up(measure, size, 3)


def seconds_of_leading_modes(sample: Callable[[int], FloatArray], size: int, top: int) -> float:
    """Seconds that an iterative solver takes for the leading modes of a kernel.

    Parameters
    ----------
    sample
        The kernel of some of the inputs, spread over all: how many products a mode takes depends
        on the spectrum.
    """

    def measure(tried: int) -> float:
        operator, modes = as_operator(sample(tried)), max(1, round(top * tried / size))
        return shortest(lambda: top_modes(operator, modes))

    return scaled_up(measure, size, 3)


def seconds_of_tracking(size: int, top: int) -> float:
    """Seconds that one kernel of one checkpoint takes once it is formed."""

    def measure(tried: int) -> float:
        generator = np.random.default_rng(0)
        rows = [generator.standard_normal((tried, tried)) for _ in range(2)]
        kernels = [{"kernel": (a @ a.T).astype(np.float32)} for a in rows]
        modes = max(1, round(top * tried / size))
        classes = np.arange(tried) % 7
        followed = partial(
            track, kernels.__getitem__, [0, 1], {"kernel": []}, {}, modes, targets=classes
        )
        return shortest(followed) / 2

    return scaled_up(measure, size, 3)


def stage_of_report(panels: int, numbers: int = 0) -> Stage:
    """The report: figures of so many panels, with so many numbers written into cells."""
    figures = _PANEL * panels + _NUMBER * numbers
    seconds = figures * min(_seconds_of_figure(), _seconds_of_figure())
    return Stage("figures and report, panels", panels, seconds, 0)


@styled
def _draw() -> Drawing:
    """A small figure in the style of reports."""
    figure, (axes,) = new_figure(3.5, 3, 1, 1)
    axes.plot(np.geomspace(1, 1e-3, 100), ".", label="kernel")
    axes.set_title("kernel")
    axes.set_xlabel("mode")
    axes.legend()
    return figure


def _seconds_of_figure() -> float:
    """What a report does with a figure, a small one drawn for the purpose."""

    def write() -> None:
        drawing = _draw()
        drawing.settle()
        drawing.write_png(Path(folder) / "figure.png")
        drawing.write_svg(Path(folder) / "figure.svg")
        place(CaptionedFigure("figure", drawing, ""))

    with tempfile.TemporaryDirectory() as folder:
        return seconds_of(write)


def shortest(work: Callable[[], object]) -> float:
    """How long something takes; what is short is done again, since it is easily disturbed."""
    taken = seconds_of(work)
    return min(taken, seconds_of(work), seconds_of(work)) if taken < _LONG / 4 else taken


def seconds_of(work: Callable[[], object]) -> float:
    """How long something takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def memory_of_decomposition(size: int, top: int | None = None) -> int:
    """Bytes at the peak of a dense eigendecomposition in float64.

    For all modes LAPACK has the matrix, its copy and two more for workspace; for the leading ones
    the matrix, its symmetric part and a copy are followed by the vectors.
    """
    if top is None:
        return _FLOAT64 * 4 * size * size
    return _FLOAT64 * size * (3 * size + 2 * top)
