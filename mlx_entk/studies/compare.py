"""Compare finished runs of one study: the settings in which they differ, and their results."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mlx_entk.errors import InputError
from mlx_entk.report import Table, number_cell
from mlx_entk.runs import Run
from mlx_entk.studies.base import headline_of, study_of


@dataclass(frozen=True)
class Comparison:
    """Settings in which runs differ, and their headline numbers.

    Attributes
    ----------
    study
        The study of all the runs.
    runs
        The folders of the runs.
    settings, headline
        For each setting or number, its values by run; None for a run that does not have it.
    units
        The unit of each headline number; empty for one that is a count or a share.
    """

    study: str
    runs: list[str]
    settings: dict[str, list[object]]
    headline: dict[str, list[object]]
    units: dict[str, str]


def compare(runs: Sequence[Run]) -> Comparison:
    """Compare finished runs of one study.

    Raises
    ------
    InputError
        For fewer than two runs, runs of different studies, or an unfinished one.
    """
    if len(runs) < 2:
        raise InputError("name at least two runs to compare")
    first = runs[0]
    for run in runs[1:]:
        if run.study != first.study:
            raise InputError(
                f"{run.path} is a {run.study} run, but {first.path} is a {first.study} run: "
                "compare runs of one study"
            )
    headlines = [headline_of(run) for run in runs]
    settings = _by_name([run.config for run in runs])
    return Comparison(
        first.study,
        [str(run.path) for run in runs],
        {
            name: values
            for name, values in settings.items()
            if any(value != values[0] for value in values)
        },
        headline := _by_name(headlines),
        {name: study_of(first).unit(name) for name in headline},
    )


def _by_name(rows: Sequence[Mapping[str, object]]) -> dict[str, list[object]]:
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def run_names(folders: Sequence[str]) -> list[str]:
    """Short names that tell run folders apart: the folders' names, their paths, or with numbers."""
    for names in ([Path(folder).resolve().name for folder in folders], list(folders)):
        if len(set(names)) == len(names):
            return names
    return [f"{number}: {folder}" for number, folder in enumerate(folders, 1)]


def comparison_table(comparison: Comparison) -> Table:
    """The comparison as a table with a column for each run."""

    def cell(value: object) -> str:
        if isinstance(value, float) and abs(value) < 1:
            return f"{value:.3g}"
        return number_cell(value) if isinstance(value, int | float) else str(value)

    rows = [
        *((name, "", *map(str, values)) for name, values in comparison.settings.items()),
        *(
            (name, comparison.units[name], *map(cell, values))
            for name, values in comparison.headline.items()
        ),
    ]
    return Table(
        f"{len(comparison.runs)} runs of {comparison.study}",
        ("", "unit", *run_names(comparison.runs)),
        rows,
        "The settings in which the runs differ come first, then their headline numbers.",
    )
