"""A page that follows a training while it runs: one file, which reloads itself.

It is written again and again beside a training, so it is drawn here and not by matplotlib, which
takes a hundred times as long; and it thins what it shows, so that it stays small.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from markupsafe import Markup

from mlx_entk._files import write_text
from mlx_entk._text import visible
from mlx_entk.report.page import render
from mlx_entk.report.table import Table

# Kernels of a page, lines of a chart, and points of all its lines together, at most: a point takes
# about 12 bytes.
MOST_KERNELS, MOST_LINES, MOST_POINTS = 15, 10, 10_000
# Points of a line, at least and at most.
_FEWEST, MOST_OF_LINE = 12, 120
# Seconds from one reload of the page to the next.
RELOAD = 5
# A chart in its own units; its text is 12 of them high.
_WIDTH, _HEIGHT = 460, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 16, 12, 34
_DECADES, _TICKS = 6, 5
# Metrics of a page, at most.
_METRICS = 2 * MOST_LINES
# The largest number that has a point.
_LARGEST = 1e100
# The range of a logarithmic axis, at most.
_SPAN = 1e12


@dataclass(frozen=True)
class Line:
    """A series over steps: values that are None or not finite have no point.

    Attributes
    ----------
    name
        For the legend.
    steps, values
        Of the same length.
    dashed
        Whether it is something to compare with.
    color
        Number of its colour; lines with the same one belong together.
    """

    name: str
    steps: Sequence[float]
    values: Sequence[float | None]
    dashed: bool = False
    color: int = 0


@dataclass(frozen=True)
class Chart:
    """Lines over steps.

    Attributes
    ----------
    title
        What is drawn.
    lines
        The series.
    logarithmic
        Whether the axis of values is; values of zero and below have no point then.
    empty
        What stands in place of lines without points.
    """

    title: str
    lines: Sequence[Line]
    logarithmic: bool = False
    empty: str = "nothing to draw yet"


@dataclass(frozen=True)
class LiveKernel:
    """The charts of one kernel, and its numbers as a table."""

    name: str
    charts: Sequence[Chart]
    numbers: Table | None = None


@dataclass(frozen=True)
class LivePage:
    """The contents of a live page.

    Attributes
    ----------
    title
        Title of the page.
    state
        One sentence: the step of the last row.
    written
        When the page was written, in seconds since 1970.
    running
        Whether the training goes on; if not, the page does not reload itself.
    notes
        What a reader has to know besides, such as how many rows were left out.
    charts
        Charts of the training itself.
    kernels
        Those to choose from, at most ``MOST_KERNELS``.
    """

    title: str
    state: str
    written: float
    running: bool
    notes: Sequence[str] = ()
    charts: Sequence[Chart] = ()
    kernels: Sequence[LiveKernel] = field(default=())


def write_live(page: LivePage, path: Path) -> None:
    """Write a live page atomically, as one HTML file that needs no network.

    Raises
    ------
    InputError
        If the file cannot be written.
    """
    write_text(path, live_html(page))


def live_html(page: LivePage) -> str:
    """A live page as HTML."""
    charts = [*page.charts, *(chart for kernel in page.kernels for chart in kernel.charts)]
    lines = sum(min(len(chart.lines), MOST_LINES) for chart in charts)
    most = max(_FEWEST, min(MOST_OF_LINE, MOST_POINTS // max(lines, 1)))
    return render(
        "live.html",
        ["report.css", "live.css"],
        "live.js",
        page=page,
        reload=RELOAD,
        charts=[_drawn(chart, most) for chart in page.charts],
        kernels=[
            (kernel.name, [_drawn(chart, most) for chart in kernel.charts], kernel.numbers)
            for kernel in page.kernels
        ],
    )


def _drawn(chart: Chart, most: int) -> tuple[str, Markup, Sequence[Line], int]:
    """A chart's title, picture and legend, and how many lines it leaves out."""
    lines = chart.lines[:MOST_LINES]
    # Every text in it is escaped.
    return chart.title, Markup(_svg(chart, lines, most)), lines, len(chart.lines) - len(lines)


def _svg(chart: Chart, lines: Sequence[Line], most: int) -> str:
    points = [_points(line, chart.logarithmic, most) for line in lines]
    places = [point for of_line in points for point in of_line]
    label = f"{chart.title}: {_told(lines)}"
    head = (
        f'<svg class="chart" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="{escape(visible(label, 600))}">'
    )
    if not places:
        empty = escape(visible(chart.empty))
        return f'{head}<text x="{_LEFT}" y="{_HEIGHT // 2}">{empty}</text></svg>'
    first, last = min(x for x, _ in places), max(x for x, _ in places)
    low, high = min(y for _, y in places), max(y for _, y in places)
    if chart.logarithmic:
        low, high = max(low, high / _SPAN), high
        ticks = _powers(low, high)
    else:
        low = min(low, 0.0)
        ticks = _steps(low, high)
    low, high = min(low, ticks[0]), max(high, ticks[-1])

    def x_of(step: float) -> float:
        share = (step - first) / (last - first) if last > first else 0.5
        return round(_LEFT + share * (_WIDTH - _LEFT - _RIGHT), 1)

    def y_of(value: float) -> float:
        if chart.logarithmic:
            value = max(value, low)
            share = math.log(value / low) / math.log(high / low) if high > low else 0.5
        else:
            share = (value - low) / (high - low) if high > low else 0.5
        return round(_HEIGHT - _BOTTOM - share * (_HEIGHT - _BOTTOM - _TOP), 1)

    drawn = [head]
    for tick in ticks:
        y = y_of(tick)
        drawn.append(
            f'<path class="grid" d="M{_LEFT} {y}H{_WIDTH - _RIGHT}"/>'
            f'<text class="tick" x="{_LEFT - 6}" y="{y + 4:g}" text-anchor="end">{tick:.3g}</text>'
        )
    whole = (
        [tick for tick in _steps(first, last) if first <= tick <= last] if last > first else [first]
    )
    drawn += [
        f'<text class="tick" x="{x_of(tick)}" y="{_HEIGHT - _BOTTOM + 16}" '
        f'text-anchor="middle">{tick:g}</text>'
        for tick in whole
    ]
    middle = (_LEFT + _WIDTH - _RIGHT) // 2
    drawn.append(
        f'<text class="tick" x="{middle}" y="{_HEIGHT - 3}" text-anchor="middle">step</text>'
    )
    for line, of_line in zip(lines, points, strict=True):
        if not of_line:
            continue
        kind = f"line of-{line.color % 7}{' dashed' if line.dashed else ''}"
        path = "L".join(f"{x_of(x)} {y_of(y)}" for x, y in of_line)
        drawn.append(f'<path class="{kind}" d="M{path}"/>')
        if not line.dashed:
            x, y = of_line[-1]
            drawn.append(
                f'<circle class="dot of-{line.color % 7}" cx="{x_of(x)}" cy="{y_of(y)}" r="3"/>'
            )
    return "".join([*drawn, "</svg>"])


def _points(line: Line, logarithmic: bool, most: int) -> list[tuple[float, float]]:
    """The points that can be drawn, at most ``most`` of them: the first and last are kept."""
    found = [
        (float(step), float(value))
        for step, value in zip(line.steps, line.values, strict=True)
        if value is not None
        and abs(step) < _LARGEST
        and abs(value) < _LARGEST  # so not NaN, nor too large for a float
        and (value > 0 or not logarithmic)
    ]
    if len(found) <= most:
        return found
    return [found[round(i * (len(found) - 1) / (most - 1))] for i in range(most)]


def _told(lines: Sequence[Line]) -> str:
    """The last value of each line, for those who do not see them."""
    last = ((line.name, _points(line, False, MOST_OF_LINE)[-1:]) for line in lines)
    return ", ".join(f"{name} {points[0][1]:.3g}" for name, points in last if points)


def _powers(low: float, high: float) -> list[float]:
    """Powers of ten around a range of positive values, at most about ``_DECADES`` of them."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    last = max(last, first + 1)
    step = math.ceil((last - first) / _DECADES)
    return [10.0**power for power in range(first, last + step, step) if power < 300]


def _steps(low: float, high: float) -> list[float]:
    """Round numbers that span a range, about ``_TICKS`` of them."""
    raw = (high - low) / _TICKS
    if not raw > 0:
        return [low, low + 1.0]
    power = 10.0 ** math.floor(math.log10(raw))
    step = power * next(n for n in (1, 2, 5, 10) if n * power >= raw * (1 - 1e-9))
    first, last = math.floor(low / step), math.ceil(high / step)
    return [number * step for number in range(first, last + 1)]


def metric_charts(
    rows: Sequence[tuple[float, Mapping[str, float | None]]],
) -> list[Chart]:
    """A chart of the losses, on a logarithmic scale, and one of the other metrics.

    Parameters
    ----------
    rows
        Steps and the metrics by name; those with ``loss`` in their names are losses.
    """
    names = list(dict.fromkeys(name for _, metrics in rows for name in metrics))[:_METRICS]
    steps = [step for step, _ in rows]
    charts = []
    for title, is_loss in (("Loss", True), ("Metrics", False)):
        wanted = [name for name in names if ("loss" in name) is is_loss]
        lines = [
            Line(name, steps, [metrics.get(name) for _, metrics in rows], color=color)
            for color, name in enumerate(wanted)
        ]
        if lines:
            charts.append(Chart(title, lines, logarithmic=is_loss))
    return charts
