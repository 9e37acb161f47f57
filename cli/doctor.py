"""``mlx-entk doctor``: what this machine has."""

import sys

import click
from rich.table import Table
from rich.text import Text

from mlx_entk.doctor import examine

from .display import console


@click.command()
def doctor() -> None:
    """Check what this machine has, and say how to install what is missing.

    Exits with 1 if a required package is missing or the matrix product is slow.
    """
    findings = examine()
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for finding in findings:
        cells = (finding.subject, finding.found, "" if finding.fine else finding.remedy)
        mark = "[green]ok[/]" if finding.fine else "[yellow]--[/]"
        table.add_row(mark, *(Text(cell) for cell in cells))
    console.print(table)
    if any(not finding.fine and finding.required for finding in findings):
        sys.exit(1)
