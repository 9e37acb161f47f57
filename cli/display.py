"""What commands show: one progress bar, and tables or JSON."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from rich.box import SIMPLE_HEAD
from rich.console import Console, JustifyMethod
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.progress import (
    Progress as Bars,
)
from rich.table import Table as RichTable
from rich.text import Text

from mlx_entk._files import Json
from mlx_entk.distributed import Group, is_first
from mlx_entk.progress import Progress, silent
from mlx_entk.report import Table
from mlx_entk.runs import Run
from mlx_entk.studies.base import C, R, Study
from mlx_entk.studies.estimate import Stage, estimate_table
from mlx_entk.studies.reporting import summary, tables
from mlx_entk.studies.running import run_study

from .base import is_quiet, wants_json

console = Console()
errors = Console(stderr=True)


@contextmanager
def progress() -> Iterator[Progress]:
    """A bar for each stage with its note; without a terminal, a line when a stage is done.

    A command that runs inside another one, which passed a progress of its own as the object of
    click's context, reports to that one instead.
    """
    outer = click.get_current_context().obj
    if outer is not None:
        yield outer
        return
    if is_quiet():
        yield silent
        return
    if not errors.is_terminal:
        yield _print_finished
        return
    bars = Bars(
        TextColumn("{task.description}"),
        BarColumn(bar_width=16),
        MofNCompleteColumn(),
        TextColumn("[dim]{task.fields[note]}"),
        TimeElapsedColumn(),
        console=errors,
    )
    stages: dict[str, TaskID] = {}

    def update(stage: str, done: int, total: int, note: str = "") -> None:
        if stage not in stages:
            stages[stage] = bars.add_task(stage, total=total, note=note)
        bars.update(stages[stage], completed=done, total=total, note=note)

    with bars:
        yield update


def _print_finished(stage: str, done: int, total: int, note: str = "") -> None:
    if done == total:
        errors.print(Text(f"{stage}: {done} of {total}  {note}".rstrip()), soft_wrap=True)


def show(shown: Sequence[Table], **facts: object) -> None:
    """Print tables, then other facts such as the files written; or all of it as JSON."""
    if wants_json():
        document = {name: _plain(fact) for name, fact in facts.items()}
        document["tables"] = [table.as_json() for table in shown]
        click.echo(json.dumps(document, indent=1, ensure_ascii=False))
        return
    if is_quiet():
        return
    for table in shown:
        _print_table(table)
    for name, fact in facts.items():
        console.print(Text(f"{name.capitalize()}: {fact}"), soft_wrap=True)


def _plain(fact: object) -> object:
    return str(fact) if isinstance(fact, Path) else fact


def run_and_show(
    study: Study[C, R], config: C, path: Path, group: Group | None = None, **given: Any
) -> None:
    """Run a study in a folder with a bar for each stage, and show what it found.

    ``given`` is what the study needs beyond its configuration; see
    ``mlx_entk.studies.run_study``.
    """
    with progress() as update:
        run = run_study(study, config, path, progress=update, group=group, **given)
    if is_first(group):
        finish(run)


def finish(run: Run, shown: Sequence[Table] | None = None) -> None:
    """Show what a finished run found, by its tables or those given, and where its report is."""
    show(
        tables(run) if shown is None else shown,
        found=summary(run),
        report=run.path / "report.html",
    )


def show_estimate(path: Path, stages: list[Stage]) -> list[Stage]:
    """Print what a run would take, and where it would be; returns the stages."""
    state = "would be made"
    if (path / "config.json").exists():
        run = Run.load(path)
        state = "is finished: nothing would be computed" if run.finished else "would go on"
        if not run.finished and run.checkpoints:
            state += f" from the checkpoint at {run.checkpoints[-1]}"
    show([estimate_table(stages)], run=f"{path} {state}")
    return stages


def default_folder(study: str, settings: Json) -> Path:
    """A name that tells the study and the seed, and a digest that tells all settings apart."""
    text = json.dumps(settings, sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:6]
    sizes = "-".join(f"{key}{settings[key]}" for key in ("p", "n", "m") if key in settings)
    seed = f"seed{settings['seed']}" if "seed" in settings else ""
    return Path("runs") / "-".join(filter(None, [study, sizes, seed, digest]))


def _print_table(table: Table) -> None:
    grid = RichTable(
        title=table.title,
        title_justify="left",
        title_style="bold",
        show_header=any(table.columns),
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    for number, column in enumerate(table.columns):
        justify: JustifyMethod = "right" if table.is_numeric(number) else "left"
        grid.add_column(column, justify=justify, no_wrap=number == 0)
    for row in table.rows:
        grid.add_row(*(Text(cell) for cell in row))
    console.print(grid)
    if table.note:
        console.print(Text(table.note, style="dim"))
    console.print()
