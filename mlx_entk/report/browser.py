"""A page to browse the modes of a language model's layers, with the windows at their ends.

The page holds every window's text once, and for each mode the scores of all windows, so that it
can search them. A layer's modes are data that the page's script reads when the layer is opened.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from mlx_entk._files import Json, write_text
from mlx_entk._linalg import Float64Array
from mlx_entk._text import visible
from mlx_entk.errors import InputError
from mlx_entk.report.page import render
from mlx_entk.report.svg import as_script

# Windows shown at each end of a mode.
END = 8
# Scores, and tokens of windows, that a page can hold: about 12 MB and 8 MB.
MOST_SCORES, MOST_TOKENS = 2_000_000, 1_000_000
# A longer token, word or label is cut.
_LONGEST = 100
# Numbers of a page are whole multiples of a unit: so many of it are the largest.
_SCORE_STEPS, _SHARE_STEPS = 9999, 999


@dataclass(frozen=True)
class Window:
    """What a model reads, and what follows.

    Attributes
    ----------
    tokens
        The text of each token, with its spaces.
    word
        The word that follows; empty if it is unknown.
    labels
        Labels of that word by name, such as ``{"upos": "NOUN"}``.
    """

    tokens: Sequence[str]
    word: str
    labels: Mapping[str, str]


@dataclass(frozen=True)
class FoundLabel:
    """A label that a mode tells.

    Attributes
    ----------
    label
        As ``name=value``.
    sign
        1 or −1: whether it is at the positive or the negative end.
    precision
        Average precision.
    """

    label: str
    sign: int
    precision: float


@dataclass(frozen=True)
class ModeView:
    """One mode of a layer.

    Attributes
    ----------
    number
        Of the mode in its layer, from 0.
    eigenvalue
        Its eigenvalue.
    share
        Share of the mode's square norm that its scores explain: that of its top singular pair.
    labels
        Those that it tells best, in the order to show them in.
    scores
        Of all windows, shape (N,).
    shares
        What each position adds to the score, by the number of a window. Windows at the ends (see
        ``ends``) that are missing here are shown without colours.
    """

    number: int
    eigenvalue: float
    share: float
    labels: Sequence[FoundLabel]
    scores: Float64Array
    shares: Mapping[int, Sequence[float]]


@dataclass(frozen=True)
class LayerView:
    """The modes of one layer.

    Attributes
    ----------
    layer
        Number of the layer.
    modes
        The leading one first.
    """

    layer: int
    modes: Sequence[ModeView]


@dataclass(frozen=True)
class ModeBrowser:
    """The contents of a page to browse modes.

    Attributes
    ----------
    title
        Title of the page.
    summary
        One or two sentences: which model, which weights, which windows.
    windows
        All windows, in the order of the scores.
    layers
        At least one, with at least one mode each.
    """

    title: str
    summary: str
    windows: Sequence[Window]
    layers: Sequence[LayerView]


def ends(scores: Float64Array, count: int = END) -> tuple[list[int], list[int]]:
    """Numbers of the windows with the largest scores, and with the smallest, outermost first.

    At most half of the windows are at an end.
    """
    order: NDArray[np.intp] = np.argsort(scores, kind="stable")
    count = min(count, len(order) // 2)
    return order[::-1][:count].tolist(), order[:count].tolist()


def write_browser(page: ModeBrowser, path: Path) -> None:
    """Write the page as one HTML file that needs no network.

    Of many windows or layers only the leading modes fit into a page, which then says so: in all,
    ``MOST_SCORES`` scores.

    Raises
    ------
    InputError
        If there are more windows than any page could show, if scores or shares do not fit the
        windows or are not finite, or if the file cannot be written.
    """
    layers, windows = page.layers, page.windows
    if not layers or not all(layer.modes for layer in layers):
        raise InputError("a page of modes needs at least one layer, and a mode in each")
    for what, count, most in (
        ("tokens", sum(len(window.tokens) for window in windows), MOST_TOKENS),
        ("scores of one mode a layer", len(layers) * len(windows), MOST_SCORES),
    ):
        if count > most:
            raise InputError(f"a page of modes cannot hold {count:,} {what}: {most:,} are the most")
    found = max(len(layer.modes) for layer in layers)
    shown = min(found, MOST_SCORES // (len(layers) * max(1, len(windows))))
    text = render(
        "modebrowser.html",
        ["report.css", "browser.css"],
        "browser.js",
        page=page,
        shown=shown if shown < found else None,
        windows=Markup(as_script(_windows(windows))),
        layers=[
            (layer.layer, Markup(as_script([_mode(m, windows) for m in layer.modes[:shown]])))
            for layer in layers
        ],
    )
    write_text(path, text)


def _windows(windows: Sequence[Window]) -> Json:
    return {
        "tokens": [[_token(token) for token in window.tokens] for window in windows],
        "words": [visible(window.word, _LONGEST) for window in windows],
        "labels": [
            [visible(f"{name}={value}", _LONGEST) for name, value in window.labels.items()]
            for window in windows
        ],
    }


def _token(text: str) -> str:
    return visible(text.replace("\n", "↵"), _LONGEST)


def _mode(mode: ModeView, windows: Sequence[Window]) -> Json:
    scores = np.asarray(mode.scores, dtype=float)
    shares = {number: np.asarray(row, dtype=float) for number, row in mode.shares.items()}
    fit = scores.shape == (len(windows),) and all(
        0 <= number < len(windows) and row.shape == (len(windows[number].tokens),)
        for number, row in shares.items()
    )
    if not fit:
        raise InputError(f"mode {mode.number}: its scores or shares do not fit the windows")
    numbers = np.concatenate([scores, [mode.eigenvalue, mode.share], *shares.values()])
    if not np.isfinite(numbers).all():
        raise InputError(f"mode {mode.number} has numbers that are not finite")
    top, bottom = ends(scores)
    kept = {number: shares[number] for number in (*top, *bottom) if number in shares}
    return {
        "number": mode.number,
        "value": float(f"{mode.eigenvalue:.3g}"),
        "share": round(mode.share, 3),
        "labels": [
            [visible(found.label, _LONGEST), found.sign, round(found.precision, 3)]
            for found in mode.labels
        ],
        "scores": _steps(scores, _SCORE_STEPS),
        "ends": [top, bottom],
        "shares": {number: _steps(row, _SHARE_STEPS) for number, row in kept.items()},
    }


def _steps(values: Float64Array, most: int) -> Json:
    """Values as whole multiples of a unit, of which ``most`` are the largest."""
    unit = float(f"{np.abs(values).max(initial=0) / most or 1:.4g}")
    return {"unit": unit, "steps": np.rint(values / unit).astype(int).tolist()}
