"""What commands show: progress bars, and tables or JSON."""

import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
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
from mlx_entk._text import in_ascii, visible
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
    shown = visible(text)
    # Before it is laid out, since a spelling is longer than a character.
    return Text(shown if console.encoding.startswith("utf") else in_ascii(shown), style=style)


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


def show(shown: Sequence[Table], data: Mapping[str, Any] | None = None, **facts: object) -> None:
    """Print what was found, tables, and facts such as the files that were written; or JSON.

    Parameters
    ----------
    shown
        Tables for people. Their notes follow after all of them.
    data
        The same for programs, by name: records with numbers as numbers.
    facts
        Texts and paths; ``found`` is printed first.
    """
    if wants_json():
        document = {name: _plain(fact) for name, fact in facts.items()} | dict(data or {})
        # In ASCII, which every terminal and every program that reads the document can take.
        click.echo(json.dumps(document, indent=1))
        return
    if is_quiet():
        return
    if found := facts.pop("found", None):
        console.print(plain(str(found)))
        console.print()
    for table in shown:
        _print_table(table)
    for table in shown:
        if table.note:
            console.print(plain(f"{table.title}: {table.note}", style="dim"))
            console.print()
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
    show(tables(run), data_of(run), found=summary(run), report=run.file("report.html"))


def data_of(run: Run) -> dict[str, Any]:
    """A finished run for programs: what its results.json holds, below ``results``."""
    return {"run": str(run.path), "results": run.results}


def show_estimate(
    path: Path | None,
    state: str | None,
    stages: list[Stage],
    before: Sequence[Table] = (),
    known: Mapping[str, Any] | None = None,
) -> list[Stage]:
    """Print tables, what a run would take, and the state of its folder, if it has one.

    ``known`` is what the tables hold, for programs.
    """
    facts = {} if path is None else {"run": f"{path} {state}"}
    data = dict(known or {}) | {"stages": [to_json(stage) for stage in stages]}
    show([*before, estimate_table(stages)], data, **facts)
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
    """Print a table; one that is too wide in parts, each of which begins with its names."""
    for number, columns in enumerate(_parts(table, console.width)):
        grid = RichTable(
            title=plain(table.title if number == 0 else f"{table.title}, continued"),
            title_justify="left",
            title_style="bold",
            show_header=table.has_head,
            box=SIMPLE_HEAD,
            padding=(0, 1, 0, 0),
        )
        for column in columns:
            numeric = table.is_numeric(column)
            justify: JustifyMethod = "right" if numeric else "left"
            grid.add_column(
                plain(table.columns[column]),
                justify=justify,
                no_wrap=numeric,
                overflow="fold",
                min_width=min(_least(table, column), console.width - 4),
            )
        for row in table.shown:
            grid.add_row(*(plain(row[column]) for column in columns))
        console.print(grid)
    console.print()


# What a column of text takes at least, if it has as much, and what the lines between columns take.
_TEXT, _BETWEEN = 14, 2


def _parts(table: Table, width: int) -> list[list[int]]:
    """The columns of each part of a table, so that no part is wider than the terminal.

    The names at the left are repeated in every part if they take no more than half of it.
    """
    every = range(len(table.columns))
    takes = [_BETWEEN + _least(table, column) for column in every]
    width -= 2  # at the edges
    names = list(itertools.takewhile(lambda column: not table.is_numeric(column), every))
    while len(names) > 1 and 2 * sum(takes[c] for c in names) > width:
        names.pop()
    parts = [list(names)]
    for column in every[len(names) :]:
        if len(parts[-1]) > len(names) and sum(takes[c] for c in [*parts[-1], column]) > width:
            parts.append(list(names))
        parts[-1].append(column)
    return parts


def _least(table: Table, column: int) -> int:
    """Characters that a column takes at least; the first one, of names, is not broken."""
    cells = [row[column] for row in table.shown]
    longest = max(map(len, cells), default=0)
    head = max(map(len, table.columns[column].split()), default=0)
    words = max((len(word) for cell in cells for word in cell.split()), default=0)
    if table.is_numeric(column):
        return max(longest, head)
    most = console.width // 2 if column == 0 else _TEXT
    return max(min(longest, most), min(words, 2 * _TEXT), head)
