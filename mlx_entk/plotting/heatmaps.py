"""Figures that show which group of modes of which kernel holds which feature family."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mlx_entk._text import visible
from mlx_entk.controls import Controls
from mlx_entk.features import Alignment
from mlx_entk.features.alignment import one_of_each_space
from mlx_entk.plotting.drawing import LONGEST_AT_TICK, Drawing
from mlx_entk.plotting.style import (
    DIVERGING,
    ON_BRIGHT,
    SEQUENTIAL,
    kernel_label,
    modes_label,
    new_figure,
    styled,
)

# Inches that a letter of a panel's title takes.
_TITLE = 0.09


@dataclass(frozen=True)
class _Panel:
    """One map: its title, what its numbers are, their colours, and from where to where."""

    title: str
    quantity: str
    colours: str
    least: float

    def ink(self, value: float) -> str:
        """The colour of a number on its cell."""
        bright = abs(value) < 60 if self.least < 0 else value > 55
        return ON_BRIGHT if bright else "white"


_AFTER = _Panel("after training", "overlap (%)", SEQUENTIAL, 0)
_HELD = _Panel("overlap", "overlap (%)", SEQUENTIAL, 0)
_CHANGE = _Panel("after − before training", "change (points)", DIVERGING, -100)
_ALONE = _Panel("activations or outputs alone", "overlap (%)", SEQUENTIAL, 0)


@styled
def plot_alignment(
    rows: Sequence[Alignment],
    controls: Controls | None = None,
    equivalent: Sequence[Sequence[str]] = (),
) -> Drawing:
    """Draw the overlap of each kernel's mode groups (rows) with each family (columns).

    Overlaps are in per cent of the smaller dimension. What training changed has a panel of its
    own, if the rows say what the same modes held before it, and so has the best of activations
    and outputs alone, if there is any. Families that span the same space share a column.

    Parameters
    ----------
    rows
        From ``mlx_entk.features.align``, or ``mlx_entk.KernelAnalysis.since``.
    controls
        ``mlx_entk.KernelAnalysis.controls``.
    equivalent
        ``mlx_entk.KernelAnalysis.equivalent_families``.
    """
    spaces = one_of_each_space(list(dict.fromkeys(row.family for row in rows)), equivalent)
    rows = [row for row in rows if row.family in spaces]
    groups = list(dict.fromkeys((row.kernel, row.modes) for row in rows))
    families = list(spaces.values())
    names = [f"{kernel_label(kernel)}, {modes_label(modes)}" for kernel, modes in groups]
    panels = [_percent_by_panel(row, controls) for row in rows]
    shown = list(panels[0])
    percent = np.zeros((len(shown), len(groups), len(families)))
    for row, by_panel in zip(rows, panels, strict=True):
        i, j = groups.index((row.kernel, row.modes)), list(spaces).index(row.family)
        percent[:, i, j] = [by_panel[panel] for panel in shown]
    # Panels stand side by side if they are tall, and one below the other if they are wide.
    side_by_side = len(groups) > len(families)
    across, down = (len(shown), 1) if side_by_side else (1, len(shown))
    width = max(0.42 * len(families), _TITLE * max(len(panel.title) for panel in shown))
    figure, axes = new_figure(
        2.4 + (0.5 + width) * across + _room(names, 30),
        1.6 + (0.4 + 0.3 * len(groups)) * down + _room(families, 16),
        down,
        across,
        sharex=not side_by_side,
        sharey=side_by_side,
    )
    for axis, panel, values in zip(axes, shown, percent, strict=True):
        image = axis.imshow(values, cmap=panel.colours, vmin=panel.least, vmax=100, aspect="auto")
        for (i, j), value in np.ndenumerate(values):
            axis.text(
                j, i, _number(value, panel), ha="center", va="center", fontsize=8.5,
                color=panel.ink(value),
            )  # fmt: skip
        axis.set_xticks(range(len(families)), families, rotation=50, ha="right", fontsize=8.5)
        axis.set_yticks(range(len(groups)), names, fontsize=8.5)
        axis.tick_params(length=0)
        axis.spines[:].set_visible(False)
        axis.set_title(panel.title)
        unit = "points" if panel is _CHANGE else "%"
        figure.hint_cells(axis, names, families, values, f"{unit} {panel.title}")
        figure.colorbar(image, ax=axis, label=panel.quantity, pad=0.01)
    return figure


def _number(value: float, panel: _Panel) -> str:
    """A value of a cell to a whole number; a change with its sign, a small one without."""
    text = f"{value:+.0f}" if panel is _CHANGE else f"{value:.0f}"
    return "0" if text in ("+0", "-0") else text.replace("-", "−")


def _room(names: Sequence[str], usual: int) -> float:
    """Inches that the longest of some names takes beyond those of a usual one."""
    longest = max(len(visible(name, LONGEST_AT_TICK)) for name in names)
    return 0.08 * max(0, longest - usual)


def _percent_by_panel(row: Alignment, controls: Controls | None) -> dict[_Panel, float]:
    before: float | None = getattr(row, "initial_percent", None)
    best = None if controls is None else controls.best(row)
    held = {_HELD: row.percent} if before is None else {_AFTER: row.percent}
    changed = {} if before is None else {_CHANGE: row.percent - before}
    return held | changed | ({} if best is None else {_ALONE: best.percent})
