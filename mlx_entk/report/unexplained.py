"""Modes that no feature explains, as a table: what a run's features leave to be looked at."""

import numpy as np

from mlx_entk.report.browser import KernelView, ModeBrowser, ModeView, constant_share, ends
from mlx_entk.report.table import Table

# Inputs that are named at each end of a mode.
_INPUTS = 3


def unexplained_table(page: ModeBrowser) -> Table:
    """The modes of the first kernel above its noise floor that no family explains.

    The rule is that of the page: the share of a family less that of a random mode is below
    ``page.explained`` for all families, and so is the share of the constants.
    """
    kernel = page.kernels[0]
    above = [mode for mode in kernel.modes if kernel.rank is None or mode.number < kernel.rank]
    columns = ("mode", "eigenvalue", "best family", "share", "chance", "largest on", "smallest on")
    if not kernel.families:
        note = "The modes are compared with no features, so none of them can explain a mode."
        return Table(f"{kernel.name}: modes that no feature explains", columns, (), note)
    left = [mode for mode in above if _excess(page, kernel, mode) < page.explained]
    return Table(
        f"{kernel.name}: modes that no feature explains, {len(left)} of {len(above)} above the "
        "noise floor",
        columns,
        [_row(page, kernel, mode) for mode in left],
        f"A family explains a mode if its share of it is at least {page.explained:.0%} above "
        "chance, the share of a random mode; the constants explain it from that share on.",
    )


def _excess(page: ModeBrowser, kernel: KernelView, mode: ModeView) -> float:
    """The most that a family holds above chance, or what the constants hold."""
    above = (s - f.chance for s, f in zip(mode.features, kernel.families, strict=True))
    # A window has many values of a mode, of which its scores are a summary without a constant.
    constant = 0.0 if mode.share is not None else constant_share(mode.scores)
    return max(constant, *above)


def _row(page: ModeBrowser, kernel: KernelView, mode: ModeView) -> tuple[str, ...]:
    excess = [s - f.chance for s, f in zip(mode.features, kernel.families, strict=True)]
    best = int(np.argmax(excess))
    top, bottom = ends(mode.scores, _INPUTS)
    return (
        str(mode.number),
        f"{mode.eigenvalue:.3g}",
        kernel.families[best].name,
        f"{mode.features[best]:.2f}",
        f"{kernel.families[best].chance:.2f}",
        _named(page, top),
        _named(page, bottom),
    )


def _named(page: ModeBrowser, places: list[int]) -> str:
    """Values of a mode by their names, or else by the numbers of their inputs."""
    numbers = places if page.places is None else [int(page.places[place]) for place in places]
    if not page.names:
        return ", ".join(map(str, numbers))
    named = (page.names[place] or str(n) for place, n in zip(places, numbers, strict=True))
    return "; ".join(named)
