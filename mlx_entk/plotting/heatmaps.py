"""Heatmaps: which kernel and cliff holds which family, single frequencies, neurons."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from mlx_entk.linalg import Float64Array
from mlx_entk.plotting.style import (
    DIVERGING,
    SEQUENTIAL,
    kernel_label,
    modes_label,
    new_figure,
    styled,
)


@styled
def alignment(rows: Sequence[dict[str, Any]]) -> Figure:
    """Overlap in per cent of the smaller dimension: kernel and mode group × family.

    Parameters
    ----------
    rows
        ``results["alignment"]``.
    """
    groups = list(dict.fromkeys((row["kernel"], tuple(row["modes"])) for row in rows))
    families = list(dict.fromkeys(row["family"] for row in rows))
    percent = np.zeros((len(groups), len(families)))
    chance = np.zeros_like(percent)
    for row in rows:
        at = groups.index((row["kernel"], tuple(row["modes"]))), families.index(row["family"])
        percent[at] = row["percent"]
        chance[at] = 100 * row["chance"] / row["dimension"]
    figure, (axis,) = new_figure(2.6 + 0.55 * len(families), 2.0 + 0.36 * len(groups))
    image = axis.imshow(percent, cmap=SEQUENTIAL, vmin=0, vmax=100, aspect="auto")
    for (i, j), value in np.ndenumerate(percent):
        axis.text(
            j, i, f"{value:.0f}", ha="center", va="center", fontsize=8,
            color="black" if value > 55 else "white",
        )  # fmt: skip
    axis.set_xticks(range(len(families)), families, rotation=40, ha="right")
    axis.set_yticks(
        range(len(groups)), [f"{kernel_label(k)}, {modes_label(list(m))}" for k, m in groups]
    )
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    expected = "–".join(dict.fromkeys(f"{value:.0f}" for value in (chance.min(), chance.max())))
    figure.colorbar(image, ax=axis, label=f"overlap (%); by chance {expected}", pad=0.01)
    return figure


@styled
def frequencies(
    maps: dict[tuple[int, int], Float64Array], families: Sequence[str], kernel: str
) -> Figure:
    """|cosine| of each disentangled mode with each frequency of each family.

    Parameters
    ----------
    maps
        By mode group, shape (modes, families × frequencies).
    families
        Names, in the order of the columns.
    kernel
        Whose modes they are.
    """
    figure, axes = new_figure(7.2, 3.4 * len(maps), len(maps), 1)
    for axis, (modes, heatmap) in zip(axes, maps.items(), strict=True):
        order = np.argsort(heatmap.argmax(axis=1), kind="stable")
        K = heatmap.shape[1] // len(families)
        image = axis.imshow(
            heatmap[order], cmap=SEQUENTIAL, vmin=0, vmax=1, aspect="auto", interpolation="nearest"
        )
        for number in range(1, len(families)):
            axis.axvline(number * K - 0.5, color="white", linewidth=1.2)
        # Every frequency of a small p, about five of a large one.
        step = max(1, round(K / 7))
        ticks = [f * K + k for f in range(len(families)) for k in range(0, K, step)]
        axis.set_xticks(ticks, [str(tick % K + 1) for tick in ticks], fontsize=7.5)
        for number, family in enumerate(families):
            axis.text(
                (number + 0.5) * K - 0.5, -0.02 * heatmap.shape[0] - 0.5, family,
                ha="center", va="bottom",
            )  # fmt: skip
        axis.set_title(f"{kernel_label(kernel)}, {modes_label(list(modes))}", pad=18)
        axis.set_ylabel("disentangled mode")
        axis.spines[:].set_visible(False)
        figure.colorbar(image, ax=axis, label="|cosine|, any phase")
    axes[-1].set_xlabel("frequency k, of each family")
    return figure


@styled
def preactivations(neurons: Float64Array) -> Figure:
    """Preactivations of some neurons over ℤ_p².

    Parameters
    ----------
    neurons
        Shape (neurons, p, p).
    """
    columns = 3
    rows = -(-len(neurons) // columns)
    figure, axes = new_figure(7.2, 2.4 * rows, rows, columns, sharex=True, sharey=True)
    limit = float(np.abs(neurons).max())
    for axis in axes[len(neurons) :]:
        axis.remove()
    for number, (axis, values) in enumerate(zip(axes, neurons, strict=False)):
        image = axis.imshow(values, cmap=DIVERGING, vmin=-limit, vmax=limit, origin="lower")
        if number % columns == 0:
            axis.set_ylabel("n")
        if number >= len(neurons) - columns:
            axis.set_xlabel("m")
    figure.colorbar(image, ax=axes[: len(neurons)], label="preactivation")
    figure.suptitle("Neurons with the largest readout weights, over all inputs (n, m)", fontsize=10)
    return figure
