"""Tables, and pages of tables and figures; each page is one file that needs no network."""

from mlx_entk.report.browser import (
    FamilyView,
    FoundLabel,
    KernelView,
    ModeBrowser,
    ModeView,
    browser_page,
    ends,
    modes_that_fit,
    with_names,
    write_browser,
)
from mlx_entk.report.inputs import (
    KINDS,
    Draw,
    Inputs,
    Kind,
    Pairs,
    Window,
    Windows,
    drawn,
    inputs_html,
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
from mlx_entk.report.unexplained import unexplained_modes, unexplained_table

__all__ = [
    "KINDS",
    "ComparedFigure",
    "Comparison",
    "Draw",
    "FamilyView",
    "FoundLabel",
    "Inputs",
    "KernelView",
    "Kind",
    "ModeBrowser",
    "ModeView",
    "Pairs",
    "PlacedFigure",
    "Report",
    "Status",
    "Table",
    "Window",
    "Windows",
    "browser_page",
    "drawn",
    "ends",
    "fragment",
    "inputs_html",
    "modes_cell",
    "modes_that_fit",
    "number_cell",
    "p_cell",
    "place",
    "unexplained_modes",
    "unexplained_table",
    "with_names",
    "write_browser",
    "write_page",
]
