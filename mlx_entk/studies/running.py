"""Run a study in a run folder, as the command line, notebooks and tests do."""

from pathlib import Path
from typing import Any

from mlx_entk._records import to_json
from mlx_entk.distributed import Group, is_first
from mlx_entk.progress import Progress, silent
from mlx_entk.runs import Run
from mlx_entk.studies.base import C, R, Study
from mlx_entk.studies.reporting import write_report


def run_study(
    study: Study[C, R],
    config: C,
    out: Path,
    *,
    progress: Progress = silent,
    group: Group | None = None,
    **given: Any,
) -> Run:
    """Run a study in a folder, or continue it there, and write its report.

    Parameters
    ----------
    config
        An instance of the study's configuration.
    out
        The run folder.
    progress
        Called with the progress of every step.
    group
        Ranks that share the work. Each of them makes this call, but only the first one writes.
    given
        What the study needs in addition to its configuration, such as a model.

    Returns
    -------
    Run
        The finished run; ``study.results_of(run)`` are its results.

    Raises
    ------
    InputError
        If the folder holds something else, or another configuration.
    """
    if not is_first(group):
        run = Run(out, study.name, to_json(config))
        study.complete(config, run, silent, group, **given)
        return run
    run = Run.create(out, study.name, to_json(config))
    with run.session():
        study.complete(config, run, progress, group, **given)
        write_report(run)
    return run
