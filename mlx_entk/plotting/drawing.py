"""A figure that knows what its marks stand for, so that a report can show it at the pointer."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from numpy.typing import NDArray


@dataclass(frozen=True)
class Points:
    """Marks at places (x, y) of some axes, each with a text."""

    axes: Axes
    x: NDArray[Any]
    y: NDArray[Any]
    texts: Sequence[str]


@dataclass(frozen=True)
class Cells:
    """The cells of an image: the names of its rows and columns, and the value of each cell.

    Cell (i, j) is centred on (x, y) = (j, i), where ``imshow`` puts it.
    """

    axes: Axes
    rows: Sequence[str]
    columns: Sequence[str]
    values: NDArray[Any]
    quantity: str


@dataclass(frozen=True)
class Frames:
    """Marks that move from frame to frame: y has a row and ``labels`` a name for each frame."""

    axes: Axes
    x: NDArray[Any]
    y: NDArray[Any]
    labels: Sequence[str]


@dataclass
class Hints:
    """Everything that a figure can tell beyond its picture."""

    points: list[Points] = field(default_factory=list)
    cells: list[Cells] = field(default_factory=list)
    frames: list[Frames] = field(default_factory=list)


class Drawing(Figure):
    """A matplotlib figure with ``Hints``; outside a report it is like any other."""

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        self.hints = Hints()

    # Straight to the backends: savefig draws each figure twice, which takes longer than the rest
    # of a report.

    def write_png(self, path: Path) -> None:
        """Write the figure as PNG, as it stands; lay it out first (see ``settle``)."""
        FigureCanvasAgg(self).print_png(path)

    def write_svg(self, target: Path | IO[str]) -> None:
        """Write the figure as SVG; see ``write_png``."""
        FigureCanvasSVG(self).print_svg(target, metadata={"Date": None})

    def settle(self) -> None:
        """Lay the figure out, once for all the files that it is written to."""
        engine = self.get_layout_engine()
        if engine is not None:
            engine.execute(self)
        self.set_layout_engine("none")

    def hint_points(
        self, axes: Axes, x: Sequence[float] | NDArray[Any], y: Any, texts: Sequence[str]
    ) -> None:
        """Show a text at each of the places (x, y)."""
        self.hints.points.append(Points(axes, np.asarray(x), np.asarray(y), texts))

    def hint_cells(
        self,
        axes: Axes,
        rows: Sequence[str],
        columns: Sequence[str],
        values: NDArray[Any],
        quantity: str,
    ) -> None:
        """Show the row, the column and the value of each cell of an image."""
        self.hints.cells.append(Cells(axes, rows, columns, values, quantity))

    def add_frames(
        self, axes: Axes, x: NDArray[Any], y: NDArray[Any], labels: Sequence[str]
    ) -> None:
        """Let a slider move marks from row to row of y, shape (frames, marks)."""
        self.hints.frames.append(Frames(axes, x, y, labels))


@dataclass(frozen=True)
class CaptionedFigure:
    """A figure of a run, with its name and caption.

    Attributes
    ----------
    name
        Name of its files in a run folder, and of its place in a report.
    drawing
        The figure.
    caption
        One or two sentences that say what to look for.
    """

    name: str
    drawing: Drawing
    caption: str
