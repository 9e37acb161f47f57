"""Toy models trained on datasets of several sizes: the loss on new inputs rises and falls again.

After Henighan et al. (2023), with the effective rank of the flattened kernel on the held-out
inputs alongside the losses.
"""

from dataclasses import dataclass, fields, replace

import mlx.core as mx
import numpy as np

from mlx_entk._files import Arrays
from mlx_entk._records import to_json
from mlx_entk.eigensolvers import jacobian_modes
from mlx_entk.errors import InputError
from mlx_entk.models import ToyModel
from mlx_entk.progress import Progress, silent
from mlx_entk.runs import Run
from mlx_entk.spectrum import effective_rank
from mlx_entk.studies.estimate import Stage, scaled_up, shortest, stage_of_report
from mlx_entk.studies.results import DatasetSize
from mlx_entk.studies.settings import setting
from mlx_entk.studies.toy_models.training import (
    STUDY,
    TMSConfig,
    ToyConfig,
    dataset,
    memory_of_jacobian,
    reconstructed,
    stage_of_toy_training,
    train_toy,
)
from mlx_entk.tracing.jacobian import flattened_jacobian

SIZES = (3, 5, 8, 10, 15, 20, 30, 50, 80, 100, 150, 200, 300, 500, 700, 1000)
# Held-out inputs of the kernels.
PROBE = 200
# Panels of a report.
_PANELS = 2

# The settings of a toy model that this study leaves to the user.
SETTINGS = ("n", "m", "sparsity", "importance", "steps", "seed", "sizes")


@dataclass(frozen=True, kw_only=True)
class DescentConfig(ToyConfig):
    """Settings of the study: those of a toy model on fixed datasets, and their sizes.

    Raises
    ------
    InputError
        For fresh inputs, and sizes for which the study has no meaning.
    """

    sparsity: float = 0.3
    sizes: tuple[int, ...] = setting(
        "Number of inputs of a dataset; may be given more than once.", SIZES, option="rows"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dataset != "fixed":
            raise InputError("double descent is over fixed datasets: leave dataset as it is")
        if not self.sizes or min(self.sizes) < 1:
            raise InputError(f"rows are {list(self.sizes)}: each must be at least 1")

    def at_size(self, rows: int) -> TMSConfig:
        """The settings of the toy model that is trained on so many rows."""
        return TMSConfig(**{f.name: getattr(self, f.name) for f in fields(ToyConfig)}, rows=rows)


@dataclass(frozen=True)
class DescentResults:
    """What the study finds: a row for each dataset size."""

    config: DescentConfig
    sizes: list[DatasetSize]


def compute(
    config: DescentConfig, run: Run, progress: Progress = silent
) -> tuple[DescentResults, Arrays]:
    """Train on datasets of several sizes, and decompose the kernel on held-out inputs.

    Parameters
    ----------
    run
        A folder made for this configuration; each size is a run of its own inside it.
    """
    probe = mx.array(dataset(config.at_size(1)).held_out[:PROBE])
    rows: list[DatasetSize] = []
    arrays: Arrays = {}
    sizes = sorted({*config.sizes})
    for done, size in enumerate(sizes):
        progress("dataset sizes", done, len(sizes), f"{size} rows")
        of_size = config.at_size(size)
        inner = Run.create(run.file(f"rows-{size}"), STUDY, to_json(of_size))
        with inner.session():
            model = train_toy(of_size, inner)
        spectrum, values = jacobian_modes(flattened_jacobian(model, probe), config.n)
        last = inner.metrics[-1]
        rows.append(
            DatasetSize(
                rows=size,
                train_loss=last["train loss"],
                test_loss=last["test loss"],
                reconstructed=reconstructed(model),
                effective_rank=effective_rank(values),
            )
        )
        arrays[f"W/{size}"] = np.array(model.W)
        arrays[f"hidden/{size}"] = np.array(model.hidden(mx.array(dataset(of_size).x)))
        arrays[f"values/{size}"] = spectrum.values
    progress("dataset sizes", len(sizes), len(sizes))
    return DescentResults(config, rows), arrays


def estimate(config: DescentConfig) -> list[Stage]:
    """What ``compute`` and a report would take on this device."""
    sizes = sorted({*config.sizes})
    ends = [
        stage_of_toy_training("training, dataset sizes", config.at_size(size))
        for size in (sizes[0], sizes[-1])
    ]
    # Between the ends, training takes in proportion to the rows.
    slope = (ends[1].seconds - ends[0].seconds) / max(1, sizes[-1] - sizes[0])
    training = sum(ends[0].seconds + slope * (size - sizes[0]) for size in sizes)
    model = ToyModel(config.n, config.m, config.seed)
    probe = dataset(config.at_size(1)).held_out[:PROBE]

    def measure(rows: int) -> float:
        some = mx.array(probe[:rows])
        return shortest(lambda: jacobian_modes(flattened_jacobian(model, some), config.n))

    kernel = scaled_up(measure, len(probe), 1)
    return [
        replace(ends[1], count=len(sizes), seconds=training),
        Stage(
            "flattened kernels and their modes",
            len(sizes),
            len(sizes) * kernel,
            memory_of_jacobian(config, PROBE),
        ),
        stage_of_report(_PANELS),
    ]
