"""One look for all figures, in colours that colour-blind people can tell apart."""

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, ParamSpec

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from numpy.typing import NDArray

from mlx_entk.analysis import WHOLE
from mlx_entk.errors import InputError
from mlx_entk.plotting.drawing import Drawing, require_drawable
from mlx_entk.spectrum import Modes

# Okabe and Ito (2008), in an order that keeps neighbours apart in lightness too.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MUTED = "#6B6B6B"
# Text on bright cells, dark in every theme: in a report plain black becomes the page's own ink.
ON_BRIGHT = "#111111"
# Panels, and inches, that a figure has at most: 100 inches are 16,000 pixels.
_PANELS, _LARGEST = 600, 100.0
SEQUENTIAL = "cividis"
DIVERGING = "PuOr"

_RC: Any = {  # matplotlib's own type lists every key
    "font.size": 9.5,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "svg.hashsalt": "mlx-entk",
}


P = ParamSpec("P")


def styled(draw: Callable[P, Drawing]) -> Callable[P, Drawing]:
    """Draw in the common look, and leave the user's matplotlib settings alone."""

    @wraps(draw)
    def in_style(*args: P.args, **kwargs: P.kwargs) -> Drawing:
        with mpl.rc_context(_RC):
            return draw(*args, **kwargs)

    return in_style


def new_figure(
    width: float, height: float, rows: int = 1, columns: int = 1, **options: Any
) -> tuple[Drawing, list[Axes]]:
    """A figure (size in inches) and its axes, row by row; ``options`` go to ``subplots``.

    Raises
    ------
    InputError
        For more panels than anybody could look at.
    """
    if rows * columns > _PANELS:
        raise InputError(f"a figure of {rows * columns} panels cannot be drawn")
    size = min(width, _LARGEST), min(height, _LARGEST)
    figure = Drawing(figsize=size, dpi=160, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, columns, squeeze=False, **options)
    return figure, list(grid.flat)


def mode_texts(
    values: NDArray[Any], shares: NDArray[Any] | None = None, features: Sequence[str] = ()
) -> list[str]:
    """A text for each mode: its number, its eigenvalue, and the feature it holds most of.

    Parameters
    ----------
    values
        Eigenvalues, largest first, shape (k,).
    shares
        How much of each mode lies in each feature, from 0 to 1, shape (k, features); None if
        there are no features.
    features
        The features' names.
    """
    require_drawable(len(values))
    texts = [f"mode {number}: eigenvalue {value:.3g}" for number, value in enumerate(values)]
    if shares is None:
        return texts
    best = shares.argmax(axis=1)
    return [
        f"{text}; {of_mode[i]:.0%} of it is {features[i]}"
        for text, of_mode, i in zip(texts, shares, best, strict=False)
    ]


def modes_label(modes: Modes) -> str:
    """A group of modes as text: ``modes 1–56``, or ``mode 3``."""
    first, last = modes
    return f"mode {first}" if first == last else f"modes {first}–{last}"


def kernel_label(kernel: str) -> str:
    """The name of a kernel in figures: its parameter's name, or ``whole kernel``."""
    return "whole kernel" if kernel == WHOLE else kernel
