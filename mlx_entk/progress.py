"""Progress of long computations: the protocol by which they report it, and bars that show it.

The library itself prints nothing, unless ``mlx_entk.analyze`` finds somebody who looks.
"""

import functools
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html import escape
from typing import Any, Protocol

from mlx_entk._text import visible


class Progress(Protocol):
    """A function that is called as work proceeds."""

    def __call__(self, stage: str, done: int, total: int, note: str = "") -> None:
        """Report that ``done`` of ``total`` steps of ``stage`` are done; people read ``note``."""


# How a caller asks for progress: bars (True), nothing (False), bars if somebody looks (None), a
# ``Progress``, or a class of bars such as ``tqdm.tqdm``.
Wanted = Progress | Callable[..., Any] | bool | None


def silent(stage: str, done: int, total: int, note: str = "") -> None:
    """Report nothing."""


@contextmanager
def shown(wanted: Wanted = None) -> Iterator[Progress]:
    """A ``Progress`` that shows what a caller wants to see.

    Parameters
    ----------
    wanted
        True for a bar for each stage; False for nothing; None for bars in a terminal and in a
        notebook alone. A class such as ``tqdm.tqdm``, whose objects take ``total`` and ``desc`` and
        have ``update`` and ``close``, makes the bars itself. Any other function is a ``Progress``.
    """
    if wanted is False or (wanted is None and not (_in_notebook() or _in_terminal())):
        yield silent
    elif (wanted is None or wanted is True) and _in_notebook():
        with _in_cell() as progress:
            yield progress
    elif wanted is None or wanted is True:
        from rich.console import Console

        with bars(Console(stderr=True)) as progress:
            yield progress
    elif isinstance(wanted.func if isinstance(wanted, functools.partial) else wanted, type):
        with _bars_of(wanted) as progress:
            yield progress
    else:
        yield wanted


def _in_notebook() -> bool:
    return "ipykernel" in sys.modules and sys.modules["IPython"].get_ipython() is not None


def _in_terminal() -> bool:
    return sys.stderr is not None and sys.stderr.isatty()


# Seconds from one change of a notebook's line to the next.
_BETWEEN = 0.2


@contextmanager
def _in_cell() -> Iterator[Progress]:
    """A line below a notebook's cell, which is gone once the work is done.

    rich would add an output to the cell for every change.
    """
    from IPython.display import HTML, display

    line = display(HTML(""), display_id=True)
    last = 0.0

    def update(stage: str, done: int, total: int, note: str = "") -> None:
        nonlocal last
        if time.monotonic() - last > _BETWEEN:
            last = time.monotonic()
            text = escape(visible(f"{stage}: {done} of {total}  {note}"))
            bar = f'<progress value="{done}" max="{total}"></progress>'
            line.update(HTML(f"{bar} {text}"))

    try:
        yield update
    finally:
        line.update(HTML(""))


@contextmanager
def bars(console: Any) -> Iterator[Progress]:
    """A bar with a note for each stage, on a ``rich.console.Console``."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        TaskID,
        TextColumn,
        TimeElapsedColumn,
    )
    from rich.progress import Progress as Bars

    shown = Bars(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=16),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}", style="dim", markup=False),
        TimeElapsedColumn(),
        console=console,
    )
    stages: dict[str, TaskID] = {}

    def update(stage: str, done: int, total: int, note: str = "") -> None:
        if stage not in stages:
            stages[stage] = shown.add_task(visible(stage), total=total, note="")
        shown.update(stages[stage], completed=done, total=total, note=visible(note))

    with shown:
        yield update


@contextmanager
def _bars_of(make: Callable[..., Any]) -> Iterator[Progress]:
    """Bars of a class like ``tqdm.tqdm``."""
    made: dict[str, tuple[Any, int]] = {}

    def update(stage: str, done: int, total: int, note: str = "") -> None:
        bar, before = made.get(stage) or (make(total=total, desc=stage), 0)
        bar.update(done - before)
        made[stage] = bar, done

    try:
        yield update
    finally:
        for bar, _ in made.values():
            bar.close()
