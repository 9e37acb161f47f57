"""What commands show: progress bars, and tables or JSON."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from rich.box import SIMPLE_HEAD
from rich.console import Console, JustifyMethod
from rich.table import Table as RichTable
from rich.text import Text

from mlx_entk._files import Json
from mlx_entk._records import to_json
from mlx_entk._text import visible
from mlx_entk.distributed import Group, is_first
from mlx_entk.progress import Progress, bars, silent
from mlx_entk.report import Table
from mlx_entk.runs import Run
from mlx_entk.studies.base import C, R, Study
from mlx_entk.studies.estimate import Stage, estimate_table
from mlx_entk.studies.reporting import summary, tables
from mlx_entk.studies.running import run_study

from .base import is_quiet, wants_json

console = Console()
errors = Console(stderr=True)


def plain(text: str, style: str = "") -> Text:
    """Text as rich prints it letter by letter: no markup, no escape sequence of the terminal."""
    return Text(visible(text), style=style)


@contextmanager
def progress() -> Iterator[Progress]:
    """Show a bar with a note for each stage; without a terminal, a line when a stage is done.

    A command may run inside another one that passed its own progress as the object of click's
    context. It then reports to that progress instead.
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
    with bars(errors) as update:
        yield update


def _print_finished(stage: str, done: int, total: int, note: str = "") -> None:
    if done == total:
        errors.print(plain(f"{stage}: {done} of {total}  {note}".rstrip()), soft_wrap=True)


def show(shown: Sequence[Table], **facts: object) -> None:
    """Print tables, then other facts such as the files that were written; or all of it as JSON."""
    if wants_json():
        document = {name: _plain(fact) for name, fact in facts.items()}
        document["tables"] = [table.as_json() for table in shown]
        # In ASCII, which every terminal and every program that reads the document can take.
        click.echo(json.dumps(document, indent=1))
        return
    if is_quiet():
        return
    for table in shown:
        _print_table(table)
    for name, fact in facts.items():
        console.print(plain(f"{name.capitalize()}: {fact}"), soft_wrap=True)


def _plain(fact: object) -> object:
    return str(fact) if isinstance(fact, Path) else fact


def run_and_show(
    study: Study[C, R], config: C, path: Path, group: Group | None = None, **given: Any
) -> None:
    """Run a study in a folder with a bar for each stage, and show what it found.

    ``given`` holds what the study needs in addition to its configuration; see
    ``mlx_entk.studies.run_study``.
    """
    with progress() as update:
        run = run_study(study, config, path, progress=update, group=group, **given)
    if is_first(group):
        finish(run)


def finish(run: Run) -> None:
    """Show the tables of a finished run, what it found, and the path of its report."""
    show(tables(run), found=summary(run), report=run.file("report.html"))


def show_estimate(
    path: Path | None, state: str | None, stages: list[Stage], before: Sequence[Table] = ()
) -> list[Stage]:
    """Print tables, what a run would take, and the state of its folder, if it has one."""
    facts = {} if path is None else {"run": f"{path} {state}"}
    show([*before, estimate_table(stages)], **facts)
    return stages


def state_of_folder(study: Study[C, Any], config: C, path: Path) -> str:
    """What a run would do with its folder.

    Raises
    ------
    InputError
        If the folder belongs to another run, so that this one would refuse it.
    """
    if not (path / "config.json").exists():
        return "would be created"
    run = Run.create(path, study.name, to_json(config))  # it exists: this only compares
    if run.finished:
        return "is finished: nothing would be computed"
    if not run.checkpoints:
        return "would be continued"
    return f"would be continued from the checkpoint at {run.checkpoints[-1]}"


def default_folder(study: str, settings: Json) -> Path:
    """A name with the study, its sizes and its seed, and a digest of all settings."""
    text = json.dumps(settings, sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:6]
    sizes = "-".join(f"{key}{settings[key]}" for key in ("p", "n", "m") if key in settings)
    seed = f"seed{settings['seed']}" if "seed" in settings else ""
    return Path("runs") / "-".join(filter(None, [study, sizes, seed, digest]))


def _print_table(table: Table) -> None:
    grid = RichTable(
        title=plain(table.title),
        title_justify="left",
        title_style="bold",
        show_header=table.has_head,
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    for number, column in enumerate(table.columns):
        justify: JustifyMethod = "right" if table.is_numeric(number) else "left"
        grid.add_column(plain(column), justify=justify, no_wrap=number == 0)
    for row in table.shown:
        grid.add_row(*map(plain, row))
    console.print(grid)
    if table.note:
        console.print(plain(table.note, style="dim"))
    console.print()
