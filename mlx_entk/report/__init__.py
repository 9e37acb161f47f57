"""Tables, and pages of tables and figures; each page is one file that needs no network."""

from mlx_entk.report.page import (
    ComparedFigure,
    Comparison,
    PlacedFigure,
    Report,
    place,
    write_page,
)
from mlx_entk.report.table import Table, modes_cell, number_cell, p_cell

__all__ = [
    "ComparedFigure",
    "Comparison",
    "PlacedFigure",
    "Report",
    "Table",
    "modes_cell",
    "number_cell",
    "p_cell",
    "place",
    "write_page",
]
