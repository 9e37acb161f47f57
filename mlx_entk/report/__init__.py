"""Tables, and pages of tables and figures; each page is one file that needs no network."""

from mlx_entk.report.browser import (
    FoundLabel,
    LayerView,
    ModeBrowser,
    ModeView,
    Window,
    ends,
    write_browser,
)
from mlx_entk.report.notebook import fragment
from mlx_entk.report.page import (
    ComparedFigure,
    Comparison,
    PlacedFigure,
    Report,
    Status,
    place,
    write_page,
)
from mlx_entk.report.table import Table, modes_cell, number_cell, p_cell

__all__ = [
    "ComparedFigure",
    "Comparison",
    "FoundLabel",
    "LayerView",
    "ModeBrowser",
    "ModeView",
    "PlacedFigure",
    "Report",
    "Status",
    "Table",
    "Window",
    "ends",
    "fragment",
    "modes_cell",
    "number_cell",
    "p_cell",
    "place",
    "write_browser",
    "write_page",
]
