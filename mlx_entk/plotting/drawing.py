"""A figure that knows what its marks stand for, so that a report can show it at the pointer."""

import io
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import FixedFormatter, FuncFormatter, LogFormatterSciNotation
from numpy.typing import NDArray

from mlx_entk._text import visible
from mlx_entk.errors import InputError

# How identifiers of what lies behind a figure's marks begin, in its SVG.
BACKGROUND = "background"

# The most characters that a text has in a figure, and a name at a tick.
_LONGEST, LONGEST_AT_TICK = 100, 40


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


@dataclass(frozen=True)
class KernelSpectrum:
    """What a panel with the eigenvalues of one kernel shows, so that a page can draw it larger.

    Attributes
    ----------
    axes
        The panel.
    name
        The kernel, for people.
    values
        The eigenvalues that are drawn, largest first, shape (k,); the panel also has ``Points``.
    floor
        The noise floor; 0 if it is not known.
    groups
        The groups of modes (first, last) that end at a cliff.
    """

    axes: Axes
    name: str
    values: NDArray[Any]
    floor: float
    groups: Sequence[tuple[int, int]]


@dataclass
class Hints:
    """Everything that a figure can tell beyond its picture."""

    points: list[Points] = field(default_factory=list)
    cells: list[Cells] = field(default_factory=list)
    frames: list[Frames] = field(default_factory=list)
    spectra: list[KernelSpectrum] = field(default_factory=list)


class Drawing(Figure):
    """A matplotlib figure with ``Hints``; outside a report it is like any other.

    It shows names letter by letter: ``$`` begins no mathematics.
    """

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        self.hints = Hints()
        self._settled = False

    # Straight to the backends: savefig draws each figure twice, which takes longer than the rest
    # of a report.

    def write_png(self, path: Path) -> None:
        """Write the figure as PNG, as it stands; lay it out first (see ``settle``)."""
        FigureCanvasAgg(self).print_png(path)

    @cached_property
    def svg(self) -> str:
        """The figure as SVG, drawn once as it stands; texts are texts, for pages and editors.

        What lies behind the marks has identifiers that begin with ``BACKGROUND``.
        """
        for number, patch in enumerate([self.patch, *(axes.patch for axes in self.axes)]):
            patch.set_gid(f"{BACKGROUND}-{number}")
        buffer = io.StringIO()
        with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "mlx-entk"}):
            FigureCanvasSVG(self).print_svg(buffer, metadata={"Date": None})
        return buffer.getvalue()

    def write_svg(self, path: Path) -> None:
        """Write the figure as SVG; see ``write_png``."""
        path.write_text(self.svg, encoding="utf-8")

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.settle()
        FigureCanvasAgg(self).print_png(buffer)
        return buffer.getvalue()

    def settle(self) -> None:
        """Lay the figure out, once for all the files that it is written to."""
        engine = self.get_layout_engine()
        if engine is not None:
            show_letter_by_letter(self)
            with _without_glyph_warnings():
                engine.execute(self)
        self.set_layout_engine("none")
        self._settled = True

    def draw(self, renderer: Any) -> None:
        """Draw the figure, with every name letter by letter."""
        if not self._settled:
            show_letter_by_letter(self)
        with _without_glyph_warnings():
            super().draw(renderer)

    def hint_points(
        self, axes: Axes, x: Sequence[float] | NDArray[Any], y: Any, texts: Sequence[str]
    ) -> None:
        """Show a text at each of the places (x, y).

        Raises
        ------
        InputError
            For more than ``MOST_MARKS`` of them.
        """
        require_drawable(len(texts))
        shown = list(map(visible, texts))
        self.hints.points.append(Points(axes, np.asarray(x), np.asarray(y), shown))

    def hint_spectrum(
        self,
        axes: Axes,
        name: str,
        values: NDArray[Any],
        floor: float,
        groups: Sequence[tuple[int, int]],
        texts: Sequence[str],
    ) -> None:
        """Let a page draw the spectrum of a panel by itself; a text for each mode.

        Raises
        ------
        InputError
            For more than ``MOST_MARKS`` modes.
        """
        self.hint_points(axes, np.arange(values.size), values, texts)
        self.hints.spectra.append(KernelSpectrum(axes, visible(name), values, floor, groups))

    def hint_cells(
        self,
        axes: Axes,
        rows: Sequence[str],
        columns: Sequence[str],
        values: NDArray[Any],
        quantity: str,
    ) -> None:
        """Show the row, the column and the value of each cell of an image.

        Raises
        ------
        InputError
            For more than ``MOST_CELLS`` of them.
        """
        require_drawable(values.size, MOST_CELLS)
        shown_rows, shown_columns = list(map(visible, rows)), list(map(visible, columns))
        self.hints.cells.append(Cells(axes, shown_rows, shown_columns, values, visible(quantity)))

    def add_frames(
        self, axes: Axes, x: NDArray[Any], y: NDArray[Any], labels: Sequence[str]
    ) -> None:
        """Let a slider move marks from row to row of y, shape (frames, marks).

        Raises
        ------
        InputError
            For more than ``MOST_CELLS`` of them in all.
        """
        require_drawable(y.size, MOST_CELLS)
        self.hints.frames.append(Frames(axes, x, y, list(map(visible, labels))))


# Marks of a figure that have texts, and cells, at most: each takes some hundred bytes of a report.
MOST_MARKS, MOST_CELLS = 200_000, 4_000_000


def require_drawable(count: int, most: int = MOST_MARKS) -> None:
    """Raise InputError for more marks than a figure can show."""
    if count > most:
        raise InputError(f"a figure of {count:,} marks cannot be drawn: {most:,} are the most")


def show_letter_by_letter(figure: Figure) -> None:
    """Make matplotlib show every text of a figure as it is, and not take ``$`` for mathematics.

    The numbers at ticks, which matplotlib writes by itself, stay as they are, but powers of ten
    have exponents as large as the other numbers, and not the small ones of mathematics.
    """
    numbers: set[Text] = set()
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            numbers |= _numbers_at_ticks(axis)
    for text in figure.findobj(Text):
        if text not in numbers:
            text.set_parse_math(False)
            text.set_text(visible(text.get_text(), _LONGEST))


def _numbers_at_ticks(axis: Axis) -> set[Text]:
    """The texts at the ticks of an axis, after its names, if it has any, are shown as they are."""
    ticks = [*axis.get_major_ticks(), *axis.get_minor_ticks()]
    texts = {text for tick in ticks for text in (tick.label1, tick.label2)}
    for found, replace in (
        (axis.get_major_formatter(), axis.set_major_formatter),
        (axis.get_minor_formatter(), axis.set_minor_formatter),
    ):
        if type(found) is LogFormatterSciNotation:
            replace(_PowersOfTen(found))
    formatter = axis.get_major_formatter()
    if isinstance(formatter, FuncFormatter | FixedFormatter):  # names, which the caller gave
        names = [str(formatter(place, i)) for i, place in enumerate(axis.get_majorticklocs())]
        axis.set_major_formatter(FixedFormatter([visible(name, LONGEST_AT_TICK) for name in names]))
        for text in texts:
            text.set_parse_math(False)
    return {*texts, axis.get_offset_text()}


class _PowersOfTen(LogFormatterSciNotation):
    """Ticks such as ``10⁻³`` in letters, at the same ticks as another formatter.

    Mathematics sets exponents at 70% of the size, which is too small to read in a page.
    """

    def __init__(self, like: LogFormatterSciNotation):
        super().__init__()
        vars(self).update(vars(like))

    def __call__(self, x: float, pos: int | None = None) -> str:
        text = str(super().__call__(x, pos))
        text = re.sub(r"\^\{(.*?)\}", lambda found: found[1].translate(_RAISED), text)
        return text.removeprefix(r"$\mathdefault{").removesuffix("}$").replace(r"\times", "×")


_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@contextmanager
def _without_glyph_warnings() -> Iterator[None]:
    """A character that the font lacks is drawn as a box, about which nobody has to be told."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        yield


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
