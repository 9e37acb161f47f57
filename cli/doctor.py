"""``mlx-entk doctor``: check the machine."""

import sys

import click
from rich.table import Table

from mlx_entk._records import to_json
from mlx_entk.doctor import Finding, examine

from .base import Command, is_quiet, wants_json
from .display import console, plain, show


@click.command(
    cls=Command, short_help="Check this machine, and say how to install what is missing."
)
def doctor() -> None:
    """Check the packages and devices of this machine, and say how to install what is missing.

    Exits with 1 if a required package is missing or the matrix product is slow.
    """
    findings = examine()
    if wants_json() or is_quiet():
        show([], {"findings": [to_json(finding) for finding in findings]})
    else:
        _print(findings)
    if any(not finding.fine and finding.required for finding in findings):
        sys.exit(1)


def _print(findings: list[Finding]) -> None:
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for finding in findings:
        cells = (finding.subject, finding.found, "" if finding.fine else finding.remedy)
        mark = "[green]ok[/]" if finding.fine else "[yellow]--[/]"
        table.add_row(mark, *map(plain, cells))
    console.print(table)
