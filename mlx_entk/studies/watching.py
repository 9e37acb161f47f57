"""A page that follows a run which another process writes: what its folder holds so far."""

import time
from pathlib import Path

from mlx_entk.report.live import LivePage, metric_charts, write_live
from mlx_entk.runs import Run


def write_watched(run: Run) -> tuple[Path, bool]:
    """Write live.html into a run folder from the metrics and checkpoints that it has.

    Nothing of the run is executed, and its lock is not needed: the page is written atomically.

    Returns
    -------
    pathlib.Path, bool
        The page, and whether the run is finished.

    Raises
    ------
    InputError
        If the metrics are damaged, or the page cannot be written.
    """
    finished = run.finished  # before the metrics, so that the last page has all of them
    path = run.file("live.html")
    write_live(watched_page(run, finished), path)
    return path, finished


def watched_page(run: Run, finished: bool) -> LivePage:
    """The metrics of a run so far; those that are no finite numbers have no point."""
    rows = run.metrics
    metrics = [
        (row["epoch"], {name: value for name, value in row.items() if name != "epoch"})
        for row in rows
    ]
    notes = []
    if finished:
        notes.append("The run is finished: report.html beside this page has its kernels.")
    else:
        notes.append("Kernels are computed after the training; report.html will have them.")
        if not rows:
            notes.append("The run has stored no metrics so far; not every study does.")
    done = f"epoch {rows[-1]['epoch']}" if rows else "no epoch yet"
    kept = len(run.checkpoints)
    return LivePage(
        title=f"{run.study}: {run.path.resolve().name}",
        state=f"{'Finished' if finished else 'Unfinished'}: {done}, {kept} checkpoints.",
        written=round(time.time(), 1),
        running=not finished,
        notes=notes,
        charts=metric_charts(metrics),
    )
