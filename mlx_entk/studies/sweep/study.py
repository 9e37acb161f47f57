"""One experiment over several seeds: its headline numbers, and their spread."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mlx_entk._files import Arrays
from mlx_entk.errors import InputError
from mlx_entk.progress import Progress, silent
from mlx_entk.runs import Run
from mlx_entk.studies.base import STUDIES, study_of
from mlx_entk.studies.estimate import Stage
from mlx_entk.studies.results import OfSeed, Spread


@dataclass(frozen=True)
class SweepConfig:
    """What was run for each seed: the words of a command of mlx-entk."""

    command: tuple[str, ...]


@dataclass(frozen=True)
class SweepResults:
    """Headline numbers by seed.

    Attributes
    ----------
    of
        The study that was run.
    seeds
        In order.
    spread
        Of every number over the seeds.
    """

    config: SweepConfig
    of: str
    seeds: list[OfSeed]
    spread: dict[str, Spread]


def folder_of_seed(sweep: Path, seed: int) -> Path:
    """Where a sweep keeps the run of a seed."""
    return sweep / f"seed-{seed}"


def compute(
    config: SweepConfig, run: Run, progress: Progress = silent, *, runs: Mapping[int, Run]
) -> tuple[SweepResults, Arrays]:
    """Collect the headline numbers of finished runs, and their spread.

    Parameters
    ----------
    runs
        By seed, of one study and one configuration but for the seed.

    Raises
    ------
    InputError
        For a study without headline numbers.
    """
    study = study_of(next(iter(runs.values())))
    if study.headline is None:
        known = sorted(name for name, other in STUDIES.items() if other.headline)
        raise InputError(
            f"runs of {study.name} have no headline numbers: sweep one of {', '.join(known)}"
        )
    seeds = [
        OfSeed(seed, study.headline(study.results_of(of_seed)))
        for seed, of_seed in sorted(runs.items())
    ]
    spread = {name: _spread([row.figures[name] for row in seeds]) for name in seeds[0].figures}
    return SweepResults(config, study.name, seeds, spread), {}


def estimate(config: SweepConfig, *, stages: list[Stage]) -> list[Stage]:
    """What the seeds take, which the commands of the sweep say."""
    return stages


def _spread(values: list[float | None]) -> Spread:
    numbers = np.array([value for value in values if value is not None], dtype=np.float64)
    if numbers.size == 0:
        return Spread(0, None, None, None, None)
    return Spread(
        count=int(numbers.size),
        mean=float(numbers.mean()),
        deviation=float(numbers.std(ddof=1)) if numbers.size > 1 else None,
        smallest=float(numbers.min()),
        largest=float(numbers.max()),
    )
