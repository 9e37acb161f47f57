"""What commands show: one progress bar, and tables."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
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

from mlx_entk.progress import Progress
from mlx_entk.report import Table

console = Console()


@contextmanager
def progress() -> Iterator[Progress]:
    """A bar a stage, with its note; where there is no terminal, a line a finished stage."""
    bars = Bars(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("[dim]{task.fields[note]}"),
        console=Console(stderr=True),
    )
    stages: dict[str, TaskID] = {}

    def update(stage: str, done: int, total: int, note: str = "") -> None:
        if stage not in stages:
            stages[stage] = bars.add_task(stage, total=total, note=note)
        bars.update(stages[stage], completed=done, total=total, note=note)

    with bars:
        yield update


def print_table(table: Table) -> None:
    """Print a table and its note."""
    grid = RichTable(
        title=table.title, title_justify="left", title_style="bold", show_header=any(table.columns)
    )
    for number, column in enumerate(table.columns):
        cells = [row[number] for row in table.rows]
        numeric = all(cell.replace(".", "", 1).isdigit() for cell in cells)
        grid.add_column(column, justify="right" if numeric else "left")
    for row in table.rows:
        grid.add_row(*(Text(cell) for cell in row))
    console.print(grid)
    if table.note:
        console.print(Text(table.note, style="dim"))
    console.print()
