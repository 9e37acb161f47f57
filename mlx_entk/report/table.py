"""Tables for people to read, the same in the terminal and in a report."""

from collections.abc import Sequence
from dataclasses import dataclass

from mlx_entk._text import visible

# Rows that anybody could look at.
MOST_ROWS = 2000
# Rows that a prompt shows, and characters of a cell.
_ROWS_OF_REPR, _CELL_OF_REPR = 40, 40


@dataclass(frozen=True, repr=False)
class Table:
    """A table for people to read.

    Attributes
    ----------
    title
        The line above the table.
    columns
        Names of the columns; empty strings for a table of names and values, which has no head.
    rows
        Rows of cells, one text for each column.
    note
        What to know when reading the table.
    same
        Groups of numbers of rows that differ by a name alone, such as those of families that span
        the same space: a report folds each into one row.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""
    same: Sequence[Sequence[int]] = ()

    @property
    def shown(self) -> list[Sequence[str]]:
        """The rows, of a very long table the first ``MOST_ROWS`` and how many there are more."""
        more = len(self.rows) - MOST_ROWS
        if more <= 0:
            return list(self.rows)
        rest = (f"… and {more:,} more rows", *[""] * (len(self.columns) - 1))
        return [*self.rows[:MOST_ROWS], rest]

    @property
    def blocks(self) -> list[tuple[list[str], list[Sequence[str]]]]:
        """The rows shown, each with those that are folded below it.

        A row of names alone stands above those: where they differ, it has all of their names.
        """
        shown = self.shown
        groups = {group[0]: list(group) for group in self.same if max(group) < len(shown)}
        below = {number for group in groups.values() for number in group[1:]}
        blocks = []
        for number, row in enumerate(shown):
            if number not in below:
                folded = [shown[i] for i in groups.get(number, [])]
                cells = zip(*(folded or [row]), strict=True)
                blocks.append(([" = ".join(dict.fromkeys(cell)) for cell in cells], folded))
        return blocks

    @property
    def has_head(self) -> bool:
        """Whether any column has a name."""
        return any(self.columns)

    def __repr__(self) -> str:
        most = _ROWS_OF_REPR
        rows = [[visible(cell, _CELL_OF_REPR) for cell in row] for row in self.rows[:most]]
        lines = [list(self.columns), *rows] if self.has_head else rows
        widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
        numeric = [self.is_numeric(column) for column in range(len(widths))]
        aligned = [
            "  ".join(
                cell.rjust(width) if right else cell.ljust(width)
                for cell, width, right in zip(line, widths, numeric, strict=True)
            ).rstrip()
            for line in lines
        ]
        more = [f"… and {len(self.rows) - most} more rows"] if len(self.rows) > most else []
        note = [visible(self.note)] if self.note else []
        return "\n".join([visible(self.title), *aligned, *more, *note])

    def _repr_html_(self) -> str:
        # What makes pages stands on tables.
        from mlx_entk.report.notebook import fragment

        return fragment(tables=[self])

    def is_numeric(self, column: int) -> bool:
        """Whether a column has numbers and empty cells only, so that it is aligned right."""
        cells = [row[column] for row in self.rows if row[column]]
        return bool(cells) and all(
            cell.removeprefix("-").replace(".", "", 1).isdigit() for cell in cells
        )


def modes_cell(modes: tuple[int, int]) -> str:
    """A group of modes as a cell: ``3``, or ``1–56``."""
    first, last = modes
    return str(first) if first == last else f"{first}–{last}"


def p_cell(p: float) -> str:
    """A p-value as a cell, to one digit."""
    return f"{p:.1g}" if p >= 1e-99 else "< 1e-99"


def number_cell(value: float | None) -> str:
    """A number of any size as a cell, without decimals if it is whole or large."""
    if value is None:
        return "–"
    digits = 0 if abs(value) >= 100 or float(value).is_integer() else 1
    return f"{value:.{digits}f}"
