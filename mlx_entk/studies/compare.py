"""Finished runs of one study beside each other: what was set differently, what came out."""

from collections.abc import Sequence

from mlx_entk._files import Json
from mlx_entk.errors import InputError
from mlx_entk.runs import Run
from mlx_entk.studies.sweep import HEADLINES


def compare(runs: Sequence[Run]) -> Json:
    """Settings in which runs differ, and their headline figures.

    Returns
    -------
    dict
        ``study``; ``runs``, their folders; ``settings`` and ``figures``, a list over the runs by
        name, None where a run has no such setting or figure.

    Raises
    ------
    InputError
        For fewer than two runs, runs of different studies, or an unfinished one.
    """
    if len(runs) < 2:
        raise InputError("name at least two runs to compare")
    study = runs[0].study
    for run in runs[1:]:
        if run.study != study:
            raise InputError(
                f"{run.path} is a {run.study} run, {runs[0].path} a {study} run: compare runs of "
                "one study"
            )
    results = [run.results for run in runs]
    found = [HEADLINES[study](of_run) if study in HEADLINES else {} for of_run in results]
    settings = _by_name([run.config for run in runs])
    return {
        "study": study,
        "runs": [str(run.path) for run in runs],
        "settings": {
            name: values
            for name, values in settings.items()
            if any(value != values[0] for value in values)
        },
        "figures": _by_name(found),
    }


def _by_name(rows: Sequence[Json]) -> dict[str, list[object]]:
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}
