"""Figures that show which group of modes of which kernel holds which feature family."""

from collections.abc import Sequence

import numpy as np

from mlx_entk._text import visible
from mlx_entk.analysis import TrainedAlignment
from mlx_entk.controls import Controls
from mlx_entk.features import Alignment
from mlx_entk.plotting.drawing import LONGEST_AT_TICK, Drawing
from mlx_entk.plotting.style import (
    ON_BRIGHT,
    SEQUENTIAL,
    kernel_label,
    modes_label,
    new_figure,
    styled,
)

# Inches that a letter of a panel's title takes.
_TITLE = 0.09


@styled
def plot_alignment(rows: Sequence[Alignment], controls: Controls | None = None) -> Drawing:
    """Draw the overlap of each kernel's mode groups (rows) with each family (columns).

    Overlaps are in per cent of the smaller dimension. Those expected by chance have a panel of
    their own, and so have those of the same modes before training, if the rows have them, and the
    best of activations and outputs alone, if there are any.

    Parameters
    ----------
    rows
        From ``mlx_entk.features.align``, or ``mlx_entk.KernelAnalysis.since``.
    controls
        ``mlx_entk.KernelAnalysis.controls``.
    """
    groups = list(dict.fromkeys((row.kernel, row.modes) for row in rows))
    families = list(dict.fromkeys(row.family for row in rows))
    names = [f"{kernel_label(kernel)}, {modes_label(modes)}" for kernel, modes in groups]
    panels = [_percent_by_panel(row, controls) for row in rows]
    shown = list(panels[0])
    deviation = max(100 * row.chance_deviation / row.dimension for row in rows)
    titles = {"by chance": f"by chance (± {deviation:.1f} at most)"}
    percent = np.zeros((len(shown), len(groups), len(families)))
    for row, by_panel in zip(rows, panels, strict=True):
        i, j = groups.index((row.kernel, row.modes)), families.index(row.family)
        percent[:, i, j] = [by_panel[title] for title in shown]
    # Panels stand side by side if they are tall, and one below the other if they are wide.
    side_by_side = len(groups) > len(families)
    across, down = (len(shown), 1) if side_by_side else (1, len(shown))
    panel = max(0.4 * len(families), _TITLE * max(len(titles.get(name, name)) for name in shown))
    figure, axes = new_figure(
        2.0 + panel * across + _room(names, 30),
        1.6 + (0.2 + 0.27 * len(groups)) * down + _room(families, 16),
        down,
        across,
        sharex=not side_by_side,
        sharey=side_by_side,
    )
    for axis, title, values in zip(axes, shown, percent, strict=True):
        image = axis.imshow(values, cmap=SEQUENTIAL, vmin=0, vmax=100, aspect="auto")
        for (i, j), value in np.ndenumerate(values):
            axis.text(
                j, i, f"{value:.0f}", ha="center", va="center", fontsize=7,
                color=ON_BRIGHT if value > 55 else "white",
            )  # fmt: skip
        axis.set_xticks(range(len(families)), families, rotation=50, ha="right", fontsize=8)
        axis.set_yticks(range(len(groups)), names, fontsize=8)
        axis.tick_params(length=0)
        axis.spines[:].set_visible(False)
        name = titles.get(title, title)
        axis.set_title(name if len(shown) > 2 else name.removeprefix("after training"))
        figure.hint_cells(axis, names, families, values, f"% {title}")
    figure.colorbar(image, ax=axes, label="overlap (%)", pad=0.01)
    return figure


def _room(names: Sequence[str], usual: int) -> float:
    """Inches that the longest of some names takes beyond those of a usual one."""
    longest = max(len(visible(name, LONGEST_AT_TICK)) for name in names)
    return 0.08 * max(0, longest - usual)


def _percent_by_panel(row: Alignment, controls: Controls | None) -> dict[str, float]:
    before = {"before training": row.initial_percent} if isinstance(row, TrainedAlignment) else {}
    best = None if controls is None else controls.best(row)
    alone = {} if best is None else {"activations or outputs alone": best.percent}
    return {"after training": row.percent, **before, **alone, "by chance": row.chance_percent}
