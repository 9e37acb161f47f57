"""Estimate the time and memory of a study, by trying small parts of it on this device."""

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mlx_entk._memory import format_bytes
from mlx_entk.kernel import Reduction, entk, layerwise_entk
from mlx_entk.report import Table
from mlx_entk.runs import Run
from mlx_entk.spectrum import eigendecompose
from mlx_entk.tracing.functions import Model, bind
from mlx_entk.tracing.inputs import count, part

# The most inputs, and the largest matrices, that are tried as they are; more than that is scaled up
# from smaller ones.
_INPUTS = 512
_SIZE = 600
# Float64 arrays of the kernel's size that an eigendecomposition holds: matrix, vectors, workspace.
_DECOMPOSITION = 4


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
    rows = [
        (s.name, str(s.count), _duration(s.seconds), format_bytes(s.memory) if s.memory else "")
        for s in stages
    ]
    total = ("total", "", _duration(whole), format_bytes(max(s.memory for s in stages)))
    return Table(
        "Estimate, by trying small parts on this device",
        ("stage", "how many", "time", "memory"),
        [*rows, total],
        "Memory is the peak, in addition to the process itself. Figures and the report take a few "
        "seconds more.",
    )


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def seconds_of_training(train: Callable[[int, Run], object], epochs: int, few: int) -> float:
    """Train for ``few`` epochs and for three times as many; return the difference, scaled to all.

    Parameters
    ----------
    train
        Trains for a number of epochs, in a run folder that is thrown away.
    """
    taken = []
    with tempfile.TemporaryDirectory() as folder:
        for count in (few, 3 * few):
            run = Run.create(Path(folder) / str(count), "estimate", {})
            taken.append(seconds_of(partial(train, count, run)))
    return max(0.0, taken[1] - taken[0]) / (2 * few) * epochs


def seconds_of_kernel(
    model: Model, x: Any, reduction: Reduction, *, layerwise: bool = True
) -> float:
    """Seconds that the kernels of all inputs take; for many inputs, scaled up from fewer.

    Parameters
    ----------
    layerwise
        Whether the kernel of each parameter is computed.
    """
    function, inputs = bind(model, x)
    N = count(inputs)
    compute = layerwise_entk if layerwise else entk

    def measure(n: int) -> float:
        def form() -> None:
            compute(function, part(inputs, slice(n)), reduction=reduction)

        form()  # the first call compiles
        return seconds_of(form)

    if N <= _INPUTS:
        return measure(N)
    n = _INPUTS // 2
    one, two = measure(n), measure(2 * n)
    quadratic = max(0.0, two - 2 * one) / (2 * n * n)
    return (one / n - quadratic * n) * N + quadratic * N * N


def seconds_of_decomposition(size: int, top: int | None = None) -> float:
    """Seconds of one dense eigendecomposition, all modes or the leading ones; cubic in the size."""
    tried = min(size, _SIZE)
    rows = np.random.default_rng(0).standard_normal((tried, tried))
    matrix = rows @ rows.T
    modes = None if top is None else min(top, tried)
    return seconds_of(lambda: eigendecompose(matrix, modes)) * (size / tried) ** 3


def seconds_of(work: Callable[[], object]) -> float:
    """How long something takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def memory_of_kernels(size: int, kernels: int) -> int:
    """Bytes of float32 kernels and of one decomposition in float64."""
    return size * size * (4 * kernels + 8 * _DECOMPOSITION)
