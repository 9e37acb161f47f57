"""A figure as SVG inside a page, in the page's colours and font, with its hints as data.

matplotlib draws the figure. What the page's script adds (the text at the pointer, the marks that a
slider moves) depends only on where the axes are, and the transforms of the drawn figure tell that.
"""

import json
import math
import re
from html import escape
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from mlx_entk._files import Json
from mlx_entk._text import visible
from mlx_entk.plotting.drawing import BACKGROUND, Drawing, Points
from mlx_entk.plotting.style import MUTED

# SVG counts in points, 72 to the inch.
_POINTS = 72

_COLORS = {"#000000": "var(--ink)", MUTED.lower(): "var(--muted)", "#e6e6e6": "var(--line)"}


# The least size of text in a page, in pixels, and of a figure as a share of its own.
_TEXT, _SHRUNK = 10, 0.85


def inline_svg(figure: Drawing, name: str, label: str) -> tuple[str, int, Json]:
    """The figure as an ``<svg>`` element, and its hints in the coordinates of that element.

    Parameters
    ----------
    figure
        A figure that is laid out.
    name
        Unique within the page: it keeps the identifiers of several figures apart.
    label
        What a screen reader reads out for the figure.

    Returns
    -------
    str, int, dict
        The element; the pixels that it is wide at least, so that its smallest text can be read;
        and a dictionary of ``panels``, which have a ``box`` (left, top, right, bottom) and
        ``points``, ``cells`` or ``frames`` each, ``points`` of a kernel's eigenvalues also a
        ``spectrum``, and ``labels``, which name the frames.
    """
    text = figure.svg[figure.svg.index("<svg") :]
    # The page's own background shows.
    text = re.sub(rf'<g id="{BACKGROUND}-\d+">.*?</g>', "", text, flags=re.DOTALL)
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r'<style type="text/css">.*?</style>', "", text, flags=re.DOTALL)
    text = re.sub(r'(<image [^>]*?)\bid="[^"]*" ?', r"\1", text)  # equal images share an id
    text = re.sub(r'(\sid="|href="#|url\(#)', rf"\g<1>{name}-", text)
    text = re.sub(r"#[0-9a-f]{6}\b", lambda color: _COLORS.get(color[0], color[0]), text)
    width, height = figure.get_size_inches() * _POINTS
    # On a narrow page it scrolls.
    sizes = [float(size) for size in re.findall(r"font(?:-size)?: (?:[^;]*? )?([\d.]+)px", text)]
    smallest = max(_SHRUNK, _TEXT / min(sizes, default=_TEXT)) * width
    largest = max(1.4 * width, smallest)
    head = (
        f'<svg class="drawing" viewBox="0 0 {width:g} {height:g}" '
        f'style="min-width:{math.ceil(smallest)}px;max-width:{largest:.0f}px" '
        'role="img" tabindex="0" '
        f'aria-label="{escape(visible(label))}" xmlns:xlink="http://www.w3.org/1999/xlink" '
        'xmlns="http://www.w3.org/2000/svg">'
    )
    element = head + text[text.index(">") + 1 :].rstrip()
    return element, math.ceil(smallest), _hints(figure)


def _hints(figure: Drawing) -> Json:
    panels: dict[Axes, Json] = {}

    def panel(axes: Axes) -> Json:
        return panels.setdefault(axes, {"box": _box(figure, axes)})

    hints = figure.hints
    for frames in hints.frames:
        x, _ = _places(figure, frames.axes, frames.x, np.ones_like(frames.x, dtype=float))
        # Values, not places: the script shows them, and places them along this line in log10.
        _, ends = _places(figure, frames.axes, np.ones(2), np.array([1.0, 10.0]))
        panel(frames.axes)["frames"] = {
            "x": _rounded(x),
            "values": [_significant(row) for row in frames.y],
            "line": [round(float(ends[0]), 3), round(float(ends[1] - ends[0]), 3)],
        }
    for cells in hints.cells:
        x, y = _places(figure, cells.axes, np.arange(2), np.arange(2))
        panel(cells.axes)["cells"] = {
            "origin": _rounded(np.array([x[0], y[0]])),
            "step": [float(x[1] - x[0]), float(y[1] - y[0])],
            "rows": cells.rows,
            "columns": cells.columns,
            "quantity": cells.quantity,
            "values": [_significant(row) for row in cells.values],
        }
    explicit = {*panels, *(points.axes for points in hints.points)}
    for points in [*hints.points, *_lines(figure, explicit)]:
        x, y = _places(figure, points.axes, points.x, points.y)
        marks = panel(points.axes).setdefault("points", {"x": [], "y": [], "texts": []})
        left, top, right, bottom = _box(figure, points.axes)
        finite = (x > left - 1) & (x < right + 1) & (y > top - 1) & (y < bottom + 1)
        marks["x"] += _rounded(x[finite])
        marks["y"] += _rounded(y[finite])
        marks["texts"] += [text for text, keep in zip(points.texts, finite, strict=True) if keep]
    for spectrum in hints.spectra:
        bottom, _ = spectrum.axes.get_ylim()
        panel(spectrum.axes)["spectrum"] = {
            "name": spectrum.name,
            "values": _significant(spectrum.values[spectrum.values > bottom]),
            "bottom": bottom,
            "floor": spectrum.floor,
            "groups": spectrum.groups,
        }
    labels = hints.frames[0].labels if hints.frames else []
    return {"panels": list(panels.values()), "labels": list(labels)}


def _lines(figure: Drawing, explicit: set[Axes]) -> list[Points]:
    """Hints for the lines of axes that have none of their own: the line's label and its data."""
    points = []
    for axes in figure.axes:
        if axes in explicit:
            continue
        for line in axes.lines:
            if line.get_transform() != axes.transData:
                continue  # a line across the axes marks a place and is not data
            x, y = (np.asarray(line.get_data()[i], dtype=float) for i in (0, 1))
            label = visible(str(line.get_label()))
            name = "" if label.startswith("_") else f"{label}: "
            of_x = axes.get_xlabel() or "x"
            texts = [f"{name}{of_x} {a:g}, {b:.4g}" for a, b in zip(x, y, strict=True)]
            points.append(Points(axes, x, y, texts))
    return points


def _places(figure: Drawing, axes: Axes, x: Any, y: Any) -> tuple[Any, Any]:
    """Convert data coordinates to those of the SVG, whose y grows downwards."""
    with np.errstate(divide="ignore", invalid="ignore"):
        pixels = axes.transData.transform(np.column_stack([x, y]))
    places = pixels / figure.dpi * _POINTS
    return places[:, 0], figure.get_size_inches()[1] * _POINTS - places[:, 1]


def _box(figure: Drawing, axes: Axes) -> list[float]:
    width, height = figure.get_size_inches() * _POINTS
    bounds = axes.get_position()
    return _rounded(
        np.array(
            [
                bounds.x0 * width,
                height - bounds.y1 * height,
                bounds.x1 * width,
                height - bounds.y0 * height,
            ]
        )
    )


def _rounded(values: Any) -> list[float]:
    return [round(float(value), 1) for value in values]


def _significant(values: Any) -> list[float]:
    """Values rounded to three digits, which is what a hint shows."""
    return [float(f"{value:.3g}") for value in values]


def as_script(data: Json | list[Json]) -> str:
    """Data as JSON that may stand inside a ``<script>`` element."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return text.replace("<", "\\u003c")  # neither </script> nor <!-- has a meaning then
