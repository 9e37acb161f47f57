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
    place,
    write_page,
)
from mlx_entk.report.table import Table, modes_cell, number_cell, p_cell

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
    "with_names",
    "write_browser",
    "write_page",
]
