"""One look for all figures: colours that the colour-blind can tell apart, no global state."""

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

# Okabe and Ito (2008), in an order that keeps neighbours apart in lightness too.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MUTED = "#6B6B6B"
SEQUENTIAL = "cividis"
DIVERGING = "PuOr"

_RC: Any = {  # matplotlib types its keys one by one
    "font.size": 9.5,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "svg.hashsalt": "mlx-entk",
}


P = ParamSpec("P")


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Draw in the common look, and leave the reader's own settings alone."""

    @wraps(draw)
    def in_style(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with mpl.rc_context(_RC):
            return draw(*args, **kwargs)

    return in_style


def new_figure(
    width: float, height: float, rows: int = 1, columns: int = 1, **options: Any
) -> tuple[Figure, list[Axes]]:
    """A figure of a size in inches and its axes, row by row; ``options`` go to ``subplots``."""
    figure = Figure(figsize=(width, height), dpi=160, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, columns, squeeze=False, **options)
    return figure, list(grid.flat)


def modes_label(modes: list[int]) -> str:
    """``modes 1–56``."""
    first, last = modes
    return f"mode {first}" if first == last else f"modes {first}–{last}"


def kernel_label(kernel: str) -> str:
    """``full`` or the parameter's name."""
    return "full kernel" if kernel == "full" else kernel
