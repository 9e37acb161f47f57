"""Commands about existing runs, such as ``runs``, ``show``, ``watch`` and ``compare``."""

import time
import webbrowser
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import click

from mlx_entk._files import Json
from mlx_entk._records import to_json
from mlx_entk.errors import InputError
from mlx_entk.report import KINDS, Kind, Table, number_cell, unexplained_modes, unexplained_table
from mlx_entk.runs import Run, run_folders
from mlx_entk.studies import STUDIES
from mlx_entk.studies.base import headline_of
from mlx_entk.studies.compare import compare, comparison_table
from mlx_entk.studies.reporting import (
    modes_of,
    summary,
    tables,
    write_comparison,
    write_modes,
    write_report,
)
from mlx_entk.studies.watching import write_watched

from .base import Command, RunFolder, is_quiet, wants_json
from .display import console, data_of, plain, show
from .inputs import load_names

_RUNS = Path("runs")
# Modes that no feature explains, of which the page has all.
_FIRST = 10
# Seconds from one page of a run that is watched to the next.
_PAUSE = 3.0


@click.command(
    cls=Command,
    short_help="List runs with their settings and state.",
    examples=["mlx-entk runs", "mlx-entk runs --json"],
)
@click.argument("root", type=click.Path(file_okay=False, path_type=Path), default=_RUNS)
def runs(root: Path) -> None:
    """List the runs below ROOT (by default runs/) with their settings and state."""
    folders = run_folders(root) if root != _RUNS or root.exists() else []
    if not folders and not wants_json():
        if not is_quiet():
            console.print(plain(f"There are no runs below {root}. Try `mlx-entk modular mlp`."))
        return
    rows = [(str(folder), *_settings_and_state(folder)) for folder in folders]
    shown = [Table(f"Runs below {root}", ("folder", "settings", "state"), rows)]
    show(shown, {"runs": [_record(folder) for folder in folders]} if wants_json() else None)


@click.command(
    "show",
    cls=Command,
    short_help="Print the tables of a finished run.",
    examples=["mlx-entk show runs/demo"],
)
@click.argument("run", type=RunFolder())
def show_command(run: Path) -> None:
    """Print the tables of a finished RUN, and what it found."""
    opened = Run.load(run)
    report = opened.file("report.html")
    written = {"report": report} if report.exists() else {}
    show(tables(opened), data_of(opened), found=summary(opened), **written)


@click.command(
    cls=Command,
    short_help="Draw a run's figures again, and write its report.html.",
    examples=["mlx-entk report runs/demo"],
)
@click.argument("run", type=RunFolder())
def report(run: Path) -> None:
    """Draw the figures of a finished RUN again, and write its report.html.

    Every experiment does this when it ends. Run the command after an update of mlx-entk, to bring
    an older report up to date.
    """
    opened = Run.load(run)
    opened.require_finished()
    with opened.session():
        written = write_report(opened)
    show([], report=written)


@click.command(
    cls=Command,
    short_help="Write a page to browse the modes of a run.",
    examples=[
        "mlx-entk browse runs/demo --open",
        "mlx-entk browse runs/mnist --draw images --names labels.txt",
    ],
)
@click.argument("run", type=RunFolder())
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="HTML page to write; by default modes.html in the run folder.",
)
@click.option(
    "--draw",
    type=click.Choice(KINDS),
    help="What the inputs are; by default this is guessed from their type and shape.",
)
@click.option(
    "--names",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A text file with a name for each input, such as its label, one a line; or an .npy file.",
)
@click.option("--open", "opens", is_flag=True, help="Open the page in the web browser.")
def browse(run: Path, out: Path | None, draw: Kind | None, names: Path | None, opens: bool) -> None:
    """Write a page to browse the modes of a finished RUN.

    Click a mode to see the inputs with its largest and smallest values, drawn as what they are,
    the features that it lies in, the parameters that it lives in, and its neighbours. Sort modes by
    a feature, and search inputs. The page is one file that works without a network. The command
    also prints the modes that no feature explains, with the inputs at their ends.
    """
    opened = Run.load(run)
    opened.require_finished()
    with nullcontext() if out else opened.session():
        page = modes_of(opened, draw, None if names is None else load_names(names))
        written = write_modes(opened, page, out)
    table = unexplained_table(page)
    if (more := len(table.rows) - _FIRST) > 0:
        rest = (f"… {more} more", *[""] * (len(table.columns) - 1))
        table = replace(table, rows=[*table.rows[:_FIRST], rest])
    show([table], {"unexplained": unexplained_modes(page)}, page=written)
    if opens and not webbrowser.open(written.resolve().as_uri()):
        raise InputError(f"--open: there is no web browser here; the page is {written}")


@click.command(
    cls=Command,
    short_help="Follow a run that another process writes.",
    examples=["mlx-entk watch runs/demo", "mlx-entk watch runs/demo --once"],
)
@click.argument("run", type=RunFolder())
@click.option("--once", is_flag=True, help="Write the page once, and end.")
def watch(run: Path, once: bool) -> None:
    """Write live.html into a RUN folder, again and again until the run is finished.

    Open the page in a browser: it shows the metrics so far, and reloads itself. Press Ctrl-C to
    end; the run in the other process goes on.
    """
    opened = Run.load(run)
    page, finished = write_watched(opened)
    state = "finished; see report.html" if finished else "unfinished"
    show([], page=page, run=f"{run} is {state}")
    try:
        while not (finished or once):
            time.sleep(_PAUSE)
            page, finished = write_watched(opened)
    except KeyboardInterrupt:  # the way to end it
        return
    if not (once or wants_json() or is_quiet() or state.startswith("finished")):
        console.print(plain(f"{run} is finished; see report.html"))


@click.command(
    "compare",
    cls=Command,
    short_help="Compare finished runs of one study.",
    examples=["mlx-entk compare runs/seed-0 runs/seed-1 --out seeds.html"],
)
@click.argument("folders", metavar="RUN RUN…", nargs=-1, type=RunFolder())
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="HTML page to write, with the figures of the runs side by side; by default none.",
)
def compare_command(folders: tuple[Path, ...], out: Path | None) -> None:
    """Print the settings in which finished runs of one study differ, and their headline numbers.

    With --out, write a page of these numbers and of all figures, side by side.
    """
    opened = [Run.load(path) for path in folders]
    comparison = compare(opened)
    written = {}
    if out is not None:
        write_comparison(comparison, opened, out)
        written["page"] = out
    show([comparison_table(comparison)], {"comparison": to_json(comparison)}, **written)


def _record(folder: Path) -> Json:
    """A run for programs: its study, its settings, how far it is, and its headline numbers."""
    record: Json = {"folder": str(folder), "study": None, "config": None, "finished": None}
    try:
        run = Run.load(folder)
        record |= {"study": run.study, "config": run.config, "finished": run.finished}
        record["checkpoint"] = run.checkpoints[-1] if run.checkpoints else None
        known = run.finished and run.study in STUDIES
        record["headline"] = headline_of(run) if known else None
    except (InputError, OSError) as error:  # the other runs are shown all the same
        record["error"] = str(error)
    return record


def _settings_and_state(folder: Path) -> tuple[str, str]:
    try:
        run = Run.load(folder)
        settings = " ".join(f"{key}={value}" for key, value in run.config.items())
        return f"{run.study} {settings}", _state(run)
    except (InputError, OSError) as error:  # the other runs are shown all the same
        return "", f"cannot be read: {error}"


def _state(run: Run) -> str:
    if run.finished:
        if run.study not in STUDIES:
            return "finished, but its study is not installed"
        try:
            numbers = headline_of(run)
        except InputError as error:
            return f"finished, but {error}"
        name, number = next(iter(numbers.items()), ("", None))
        return f"finished, {name} {number_cell(number)}" if name else "finished"
    if run.checkpoints:
        return f"unfinished, with a checkpoint at {run.checkpoints[-1]}"
    return "unfinished, without a checkpoint"
