"""What notebooks display of an object: sentences, tables and figures, without a page's script."""

import base64
from collections.abc import Sequence

from markupsafe import Markup

from mlx_entk.plotting.drawing import CaptionedFigure, Drawing
from mlx_entk.report.page import render
from mlx_entk.report.table import Table

# Rows of a table that a notebook shows.
_MOST_ROWS = 40


def fragment(
    text: str = "", tables: Sequence[Table] = (), figures: Sequence[CaptionedFigure] = ()
) -> str:
    """HTML for a cell of a notebook, in which every text is escaped."""
    return render(
        "notebook.html",
        [],
        None,
        text=text,
        tables=tables,
        most=_MOST_ROWS,
        figures=[(_as_image(figure.drawing), figure.caption) for figure in figures],
    )


def _as_image(figure: Drawing) -> Markup:
    """A figure as an address of its SVG, so that no style of a notebook changes it."""
    figure.settle()
    encoded = base64.b64encode(figure.svg.encode()).decode()
    return Markup(f"data:image/svg+xml;base64,{encoded}")
