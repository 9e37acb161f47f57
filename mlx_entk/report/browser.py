"""A page to browse the modes of kernels: what each mode holds, and the inputs at its ends.

The page holds every input once, and for each mode its values on all inputs, so that it can search
them. A kernel's modes are data that the page's script reads when the kernel is opened.
"""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from mlx_entk._files import Json, write_text
from mlx_entk._linalg import Float64Array, FloatArray
from mlx_entk._text import visible
from mlx_entk.errors import InputError
from mlx_entk.report.inputs import LONGEST, Inputs
from mlx_entk.report.page import render
from mlx_entk.report.svg import as_script

# Inputs shown at each end of a mode, of windows of tokens.
END = 8
# Values of modes that a page can hold: about 21 MB, which a browser opens in a second or two.
MOST_SCORES = 8_000_000
# The share of them that the whole kernel has, where those of its parts are on the page as well.
_OF_WHOLE = 0.75
# Values are whole multiples of a unit: so many of it are the largest.
_SCORE_STEPS, _SHARE_STEPS = 32767, 999
# Shares in features and layers are told in thousandths.
_THOUSAND = 1000

Modes = tuple[int, int]


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
class FamilyView:
    """A family of features that modes are compared with.

    Attributes
    ----------
    name, dimension
        Its name, and how many independent features it has.
    chance
        The share of a random mode in it.
    control
        The largest share of any single mode of the activations or outputs; None if it is unknown.
    control_name
        Which these are.
    """

    name: str
    dimension: int
    chance: float
    control: float | None = None
    control_name: str = ""


@dataclass(frozen=True)
class ModeView:
    """One mode of a kernel.

    Attributes
    ----------
    number
        Of the mode in its kernel, from 0.
    eigenvalue
        Its eigenvalue.
    scores
        Its values on all inputs, shape (N,).
    share
        Share of the mode's square norm that its scores explain: that of its top singular pair.
        None for a mode that is the scores.
    of_trace
        Its eigenvalue as a share of the trace; None if that is unknown.
    features
        Its share in each family of its kernel, from 0 to 1.
    parts
        The share of each part of its kernel in its eigenvalue; empty if they are unknown.
    labels
        Labels that it tells best, in the order to show them in.
    positions
        What each position of a window adds to the score, by the number of the window. Windows at
        the ends (see ``ends``) that are missing here are shown without colours.
    """

    number: int
    eigenvalue: float
    scores: FloatArray
    share: float | None = None
    of_trace: float | None = None
    features: Sequence[float] = ()
    parts: Sequence[float] = ()
    labels: Sequence[FoundLabel] = ()
    positions: Mapping[int, Sequence[float]] = field(default_factory=dict)


@dataclass(frozen=True)
class KernelView:
    """The modes of one kernel.

    Attributes
    ----------
    name
        Of the kernel, at the beginning of a heading.
    modes
        The leading one first.
    groups
        Groups of modes (first, last) that end at a cliff.
    rank
        How many leading modes are above the noise floor; None if that is unknown.
    families
        What the shares of its modes are of.
    parts
        Names of the kernels that it is the sum of.
    """

    name: str
    modes: Sequence[ModeView]
    groups: Sequence[Modes] = ()
    rank: int | None = None
    families: Sequence[FamilyView] = ()
    parts: Sequence[str] = ()


@dataclass(frozen=True)
class ModeBrowser:
    """The contents of a page to browse modes.

    Attributes
    ----------
    title
        Title of the page.
    summary
        One or two sentences: which model, which weights, which inputs.
    inputs
        All inputs.
    kernels
        At least one, with at least one mode each.
    names
        A name for each value of a mode, such as the label of its input; empty for none.
    places
        The input of each value of a mode, shape (N,); None if they are the inputs in order.
    explained
        The share above chance from which on a family explains a mode.
    parts_hint
        How to get the shares of layers, for kernels without them.
    """

    title: str
    summary: str
    inputs: Inputs
    kernels: Sequence[KernelView]
    names: Sequence[str] = ()
    places: NDArray[np.intp] | None = None
    explained: float = 0.5
    parts_hint: str = ""


def with_names(page: ModeBrowser, names: Sequence[str]) -> ModeBrowser:
    """The page with a name for each input, such as its label, before the names that it has.

    Raises
    ------
    InputError
        If there are not as many names as inputs.
    """
    if len(names) != len(page.inputs):
        raise InputError(f"there are {len(names):,} names for {len(page.inputs):,} inputs")
    places = range(len(names)) if page.places is None else page.places.tolist()
    given = page.names or [""] * len(places)
    both = [
        ", ".join(filter(None, (names[place], own)))
        for place, own in zip(places, given, strict=True)
    ]
    return replace(page, names=both)


def ends(scores: FloatArray, count: int = END) -> tuple[list[int], list[int]]:
    """Numbers of the inputs with the largest scores, and with the smallest, outermost first.

    At most half of the inputs are at an end.
    """
    order: NDArray[np.intp] = np.argsort(-scores, kind="stable")
    count = min(count, len(order) // 2)
    return order[:count].tolist(), order[::-1][:count].tolist()


def write_browser(page: ModeBrowser, path: Path) -> None:
    """Write the page as one HTML file that needs no network.

    Of many inputs or kernels only the leading modes fit into a page, which then says so: in all,
    ``MOST_SCORES`` values.

    Raises
    ------
    InputError
        If there are more inputs than any page could show, if numbers do not fit the inputs or are
        not finite, or if the file cannot be written.
    """
    write_text(path, browser_page(page))


def browser_page(page: ModeBrowser) -> str:
    """The text of the page; see ``write_browser``."""
    kernels, N = page.kernels, values_of(page)
    if not kernels or not all(kernel.modes for kernel in kernels):
        raise InputError("a page of modes needs at least one kernel, and a mode in each")
    if len(kernels) * N > MOST_SCORES:
        raise InputError(
            f"a page of modes cannot hold {len(kernels) * N:,} values of one mode of each kernel: "
            f"{MOST_SCORES:,} are the most"
        )
    if page.names and len(page.names) != N:
        raise InputError(f"there are {len(page.names):,} names for {N:,} inputs")
    fit = modes_that_fit(N, len(kernels), whole=bool(kernels[0].parts))
    shown = [min(len(kernel.modes), most) for kernel, most in zip(kernels, fit, strict=True)]
    inputs: Json = {
        "kind": page.inputs.kind,
        "count": N,
        "explained": page.explained,
        "places": None if page.places is None else page.places.tolist(),
        "names": [visible(name, LONGEST) for name in page.names],
        **page.inputs.data(),
    }
    return render(
        "modebrowser.html",
        ["report.css", "browser.css"],
        "browser.js",
        page=page,
        count=N,
        cut=_cut(kernels, shown),
        has_features=any(kernel.families for kernel in kernels),
        has_labels=any(mode.labels for kernel in kernels for mode in kernel.modes),
        inputs=Markup(as_script(inputs)),
        kernels=[
            (visible(kernel.name, LONGEST), Markup(as_script(_kernel(kernel, page, most))))
            for kernel, most in zip(kernels, shown, strict=True)
        ],
    )


def modes_that_fit(N: int, kernels: int, *, whole: bool) -> list[int]:
    """How many modes of each kernel a page can hold, at least one.

    Parameters
    ----------
    N
        Values of a mode.
    kernels
        How many kernels there are.
    whole
        Whether the first one is the sum of the others, which then has most of the room.
    """
    room = MOST_SCORES // max(1, N)
    if not whole or kernels == 1:
        return [max(1, room // kernels)] * kernels
    others = max(1, int((1 - _OF_WHOLE) * room) // (kernels - 1))
    return [max(1, room - others * (kernels - 1)), *[others] * (kernels - 1)]


def _cut(kernels: Sequence[KernelView], shown: Sequence[int]) -> str:
    """Which modes are left out, in words; empty if none are."""
    cut = [(k.name, n) for k, n in zip(kernels, shown, strict=True) if n < len(k.modes)]
    if len({n for _, n in cut}) == 1 and len(cut) == len(kernels):
        return f"Of each kernel the first {cut[0][1]:,} modes are here"
    return "; ".join(f"of {name} the first {n:,} modes are here" for name, n in cut).capitalize()


def values_of(page: ModeBrowser) -> int:
    """N, the number of values of a mode."""
    return len(page.inputs) if page.places is None else len(page.places)


def _kernel(kernel: KernelView, page: ModeBrowser, shown: int) -> Json:
    families = kernel.families
    numbers = [f.chance for f in families] + [f.control or 0.0 for f in families]
    if not np.isfinite(numbers).all():
        raise InputError(f"{visible(kernel.name)}: its families have numbers that are not finite")
    return {
        "groups": [list(group) for group in kernel.groups],
        "rank": kernel.rank,
        "families": [
            {
                "name": visible(family.name, LONGEST),
                "dimension": family.dimension,
                "chance": _thousandths(family.chance),
                "control": None if family.control is None else _thousandths(family.control),
                "of": visible(family.control_name, LONGEST),
            }
            for family in families
        ],
        "parts": [visible(name, LONGEST) for name in kernel.parts],
        "modes": [_mode(mode, kernel, page) for mode in kernel.modes[:shown]],
    }


def _mode(mode: ModeView, kernel: KernelView, page: ModeBrowser) -> Json:
    N = values_of(page)
    scores = np.asarray(mode.scores, dtype=float)
    positions = {n: np.asarray(row, dtype=float) for n, row in mode.positions.items()}
    windows = getattr(page.inputs, "windows", ())
    fit = (
        scores.shape == (N,)
        and len(mode.features) == len(kernel.families)
        and len(mode.parts) in (0, len(kernel.parts))
        and all(
            0 <= number < len(windows) and row.shape == (len(windows[number].tokens),)
            for number, row in positions.items()
        )
    )
    if not fit:
        raise InputError(f"mode {mode.number}: its scores or shares do not fit the inputs")
    known = [x for x in (mode.eigenvalue, mode.share, mode.of_trace) if x is not None]
    numbers = np.concatenate([scores, known, mode.features, mode.parts, *positions.values()])
    if not np.isfinite(numbers).all():
        raise InputError(f"mode {mode.number} has numbers that are not finite")
    top, bottom = ends(scores, page.inputs.at_ends)
    kept = {number: positions[number] for number in (*top, *bottom) if number in positions}
    unit = _unit(scores, _SCORE_STEPS)
    steps = np.rint(scores / unit).astype("<i2")
    return {
        "number": mode.number,
        "value": float(f"{mode.eigenvalue:.4g}"),
        "share": None if mode.share is None else round(mode.share, 3),
        "trace": None if mode.of_trace is None else float(f"{mode.of_trace:.3g}"),
        "constant": None if mode.share is not None else _thousandths(constant_share(scores)),
        "features": [_thousandths(share) for share in mode.features],
        "parts": [_thousandths(share) for share in mode.parts],
        "labels": [
            [visible(found.label, LONGEST), found.sign, round(found.precision, 3)]
            for found in mode.labels
        ],
        "unit": unit,
        "scores": base64.b64encode(steps.tobytes()).decode("ascii"),
        "ends": [top, bottom],
        "positions": {number: _steps(row) for number, row in kept.items()},
    }


def constant_share(scores: FloatArray) -> float:
    """The share of a mode in the constant functions."""
    values = np.asarray(scores, dtype=np.float64)
    squares = float(values @ values) * values.size
    return float(values.sum()) ** 2 / squares if squares > 0 else 0.0


def _thousandths(share: float) -> float:
    return round(_THOUSAND * float(share), 1)


def _unit(values: Float64Array, most: int) -> float:
    """A unit of which ``most`` are the largest value."""
    largest = np.abs(values).max(initial=0) / most
    # Rounded up, so that no value has more steps than an integer of two bytes holds.
    return float(f"{largest * (1 + 1e-5):.6g}") if largest > 0 else 1.0


def _steps(values: Float64Array) -> Json:
    unit = float(f"{np.abs(values).max(initial=0) / _SHARE_STEPS or 1:.4g}")
    return {"unit": unit, "steps": np.rint(values / unit).astype(int).tolist()}
