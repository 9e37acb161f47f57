"""The headline numbers of one experiment over several seeds, and their spread."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mlx_entk._files import Arrays, inside
from mlx_entk.errors import InputError
from mlx_entk.progress import Progress, silent
from mlx_entk.runs import Run
from mlx_entk.studies.base import STUDIES, headline_of, study_of
from mlx_entk.studies.results import OfSeed, Spread


@dataclass(frozen=True)
class SweepConfig:
    """What was run for each seed: an mlx-entk command, word by word."""

    command: tuple[str, ...]


@dataclass(frozen=True)
class SweepResults:
    """Headline numbers by seed.

    Attributes
    ----------
    of
        The name of the study that was run.
    seeds
        The headline numbers of each seed, in the order of the seeds.
    spread
        The spread of each headline number over the seeds.
    """

    config: SweepConfig
    of: str
    seeds: list[OfSeed]
    spread: dict[str, Spread]


def folder_of_seed(sweep: Path, seed: int) -> Path:
    """The folder in which a sweep keeps the run of a seed."""
    return inside(sweep, f"seed-{seed}")


def compute(
    config: SweepConfig, run: Run, progress: Progress = silent, *, runs: Mapping[int, Run]
) -> tuple[SweepResults, Arrays]:
    """Collect the headline numbers of finished runs, and their spread.

    Parameters
    ----------
    runs
        By seed; all of one study, with configurations that differ in the seed alone.

    Raises
    ------
    InputError
        For a study without headline numbers.
    """
    first = next(iter(runs.values()))
    require_headline(first)
    seeds = [OfSeed(seed, headline_of(of_seed)) for seed, of_seed in sorted(runs.items())]
    spread = {name: _spread([row.figures.get(name) for row in seeds]) for name in seeds[0].figures}
    return SweepResults(config, first.study, seeds, spread), {}


def require_headline(run: Run) -> None:
    """Raise InputError for a run of a study without headline numbers."""
    study = study_of(run)
    if study.headline is None:
        known = sorted(name for name, other in STUDIES.items() if other.headline)
        raise InputError(
            f"a {study.name} run has no headline numbers, which a sweep collects: sweep one of "
            f"{', '.join(known)}"
        )


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
