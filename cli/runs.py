"""``mlx-entk runs`` and ``mlx-entk show``: look at run folders."""

from pathlib import Path

import click

from mlx_entk.report import Table, tables
from mlx_entk.runs import Run, list_runs

from .display import console, print_table


@click.command()
@click.argument(
    "root", type=click.Path(exists=True, file_okay=False, path_type=Path), default=Path("runs")
)
def runs(root: Path) -> None:
    """List the runs below ROOT (by default runs/), finished or not."""
    found = list_runs(root)
    if not found:
        console.print(f"No runs below {root}. Make one with `mlx-entk modular mlp`.")
        return
    rows = [
        (
            str(run.path),
            f"{run.study} " + " ".join(f"{key}={value}" for key, value in run.config.items()),
            _state(run),
        )
        for run in found
    ]
    print_table(Table(f"Runs below {root}", ("folder", "settings", "state"), rows))


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
def show(run: Path) -> None:
    """Print the tables of a finished RUN folder."""
    opened = Run.load(run)
    for table in tables(opened.results):
        print_table(table)
    report = opened.path / "report.html"
    if report.exists():
        console.print(f"Report: {report}", soft_wrap=True)


def _state(run: Run) -> str:
    if run.finished:
        accuracy = run.results.get("accuracy")
        return f"finished, test accuracy {accuracy['test']:.1%}" if accuracy else "finished"
    if run.checkpoints:
        return f"unfinished, checkpoint at epoch {run.checkpoints[-1]}"
    return "unfinished, no checkpoint"
