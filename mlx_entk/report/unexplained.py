"""Modes that no feature explains, as a table: what a run's features leave to be looked at."""

import numpy as np

from mlx_entk._files import Json
from mlx_entk.report.browser import KernelView, ModeBrowser, ModeView, constant_share, ends
from mlx_entk.report.inputs import Inputs, Pairs
from mlx_entk.report.table import Table

# Inputs that are named at each end of a mode.
_INPUTS = 3


def unexplained_table(page: ModeBrowser) -> Table:
    """The modes of the first kernel above its noise floor that no family explains.

    The rule is that of the page: the share of a family less that of a random mode is below
    ``page.explained`` for all families, and so is the share of the constants.
    """
    kernel = page.kernels[0]
    columns = ("mode", "eigenvalue", "best family", "share", "chance", "largest on", "smallest on")
    if not kernel.families:
        note = "The modes are compared with no features, so none of them can explain a mode."
        return Table(f"{kernel.name}: modes that no feature explains", columns, (), note)
    left = unexplained_modes(page)
    return Table(
        f"{kernel.name}: modes that no feature explains, {len(left)} of {len(_above(kernel))} "
        "above the noise floor",
        columns,
        [_row(record) for record in left],
        f"A family explains a mode if its share of it is at least {page.explained:.0%} above "
        "chance, the share of a random mode; the constants explain it from that share on.",
    )


def _excess(kernel: KernelView, mode: ModeView) -> float:
    """The most that a family holds above chance, or what the constants hold."""
    above = (s - f.chance for s, f in zip(mode.features, kernel.families, strict=True))
    # A window has many values of a mode, of which its scores are a summary without a constant.
    constant = 0.0 if mode.share is not None else constant_share(mode.scores)
    return max(constant, *above)


def unexplained_modes(page: ModeBrowser) -> list[Json]:
    """What ``unexplained_table`` lists, for programs: numbers as numbers."""
    kernel = page.kernels[0]
    return [_record(page, kernel, mode) for mode in _left(page, kernel)]


def _record(page: ModeBrowser, kernel: KernelView, mode: ModeView) -> Json:
    excess = [s - f.chance for s, f in zip(mode.features, kernel.families, strict=True)]
    best = int(np.argmax(excess))
    top, bottom = ends(mode.scores, _INPUTS)
    return {
        "mode": mode.number,
        "eigenvalue": mode.eigenvalue,
        "family": kernel.families[best].name,
        "share": mode.features[best],
        "chance": kernel.families[best].chance,
        "largest_on": _named(page, top),
        "smallest_on": _named(page, bottom),
    }


def _row(record: Json) -> tuple[str, ...]:
    return (
        str(record["mode"]),
        f"{record['eigenvalue']:.3g}",
        record["family"],
        f"{record['share']:.2f}",
        f"{record['chance']:.2f}",
        record["largest_on"],
        record["smallest_on"],
    )


def _above(kernel: KernelView) -> list[ModeView]:
    return [mode for mode in kernel.modes if kernel.rank is None or mode.number < kernel.rank]


def _left(page: ModeBrowser, kernel: KernelView) -> list[ModeView]:
    if not kernel.families:
        return []
    return [mode for mode in _above(kernel) if _excess(kernel, mode) < page.explained]


def _named(page: ModeBrowser, places: list[int]) -> str:
    """Values of a mode by their inputs, each with its name in brackets if there is one."""
    numbers = places if page.places is None else [int(page.places[place]) for place in places]
    inputs = [_input(page.inputs, number) for number in numbers]
    if not page.names:
        return ", ".join(inputs)
    names = [page.names[place] for place in places]
    # A name is often a label that many inputs share, so it does not stand for an input.
    named = (f"{i} ({name})" if name else i for i, name in zip(inputs, names, strict=True))
    return ", ".join(named)


def _input(inputs: Inputs, number: int) -> str:
    """An input by its number, or a pair of ℤ_p by its two."""
    if isinstance(inputs, Pairs):
        return f"{inputs.n[number]}+{inputs.m[number]}"
    return str(number)
