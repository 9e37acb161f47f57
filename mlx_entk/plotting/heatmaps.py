"""Which kernel and cliff holds which family, key and single frequencies, neurons."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from mlx_entk._linalg import Float64Array
from mlx_entk.plotting.drawing import Drawing
from mlx_entk.plotting.style import (
    COLORS,
    DIVERGING,
    MUTED,
    ON_BRIGHT,
    SEQUENTIAL,
    kernel_label,
    modes_label,
    new_figure,
    styled,
)


@styled
def alignment(rows: Sequence[dict[str, Any]]) -> Drawing:
    """Overlap in per cent of the smaller dimension: kernel and mode group × family.

    What chance gives stands beside it, and where the rows have it, what the same modes had
    before training.

    Parameters
    ----------
    rows
        ``results["alignment"]``.
    """
    groups = list(dict.fromkeys((row["kernel"], tuple(row["modes"])) for row in rows))
    families = list(dict.fromkeys(row["family"] for row in rows))
    names = [f"{kernel_label(kernel)}, {modes_label(list(modes))}" for kernel, modes in groups]
    panels = {"after training": "overlap", "before training": "initial", "by chance": "chance"}
    shown = {title: key for title, key in panels.items() if key in rows[0]}
    percent = np.zeros((len(shown), len(groups), len(families)))
    for row in rows:
        i, j = groups.index((row["kernel"], tuple(row["modes"]))), families.index(row["family"])
        percent[:, i, j] = [100 * row[key] / row["dimension"] for key in shown.values()]
    # Panels side by side where they are high, one below the other where they are wide.
    beside = len(groups) > len(families)
    across, down = (len(shown), 1) if beside else (1, len(shown))
    figure, axes = new_figure(
        2.0 + 0.4 * len(families) * across,
        1.6 + (0.2 + 0.27 * len(groups)) * down,
        down,
        across,
        sharex=not beside,
        sharey=beside,
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
        axis.set_title(title if len(shown) > 2 else title.removeprefix("after training"))
        figure.hint_cells(axis, names, families, values, f"% {title}")
    figure.colorbar(image, ax=axes, label="overlap (%)", pad=0.01)
    return figure


@styled
def key_frequencies(power: dict[str, Float64Array], keys: dict[str, Sequence[int]]) -> Drawing:
    """Share of each frequency by source, the key ones in colour.

    Parameters
    ----------
    power
        Shares of frequencies 1, 2, … by source.
    keys
        The key frequencies by source.
    """
    figure, axes = new_figure(7.2, 2.9, 1, len(power), sharey=True)
    for axis, (source, shares) in zip(axes, power.items(), strict=True):
        frequencies = np.arange(1, shares.size + 1)
        colors = [COLORS[1] if k in keys[source] else MUTED for k in frequencies]
        axis.bar(frequencies, 100 * shares, color=colors)
        uniform = 100 / shares.size
        axis.axhline(
            uniform,
            color=MUTED,
            linestyle=":",
            linewidth=1.2,
            label=f"uniform share, {uniform:.1f}%",
        )
        axis.set_xticks(frequencies[:: max(1, shares.size // 14)])
        axis.set_title(f"by the {source}")
        texts = [
            f"frequency {k}: {share:.1%}" for k, share in zip(frequencies, shares, strict=True)
        ]
        figure.hint_points(axis, frequencies, 100 * shares, texts)
        axis.set_xlabel("frequency k")
    axes[0].set_ylabel("share of the power (%)")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper right", fontsize=8.5)
    return figure


@styled
def frequencies(
    maps: dict[tuple[int, int], Float64Array], families: Sequence[str], kernel: str
) -> Drawing:
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
        figure.hint_cells(
            axis,
            [f"rotated mode {number}" for number in range(len(heatmap))],
            [f"{family}, k = {k + 1}" for family in families for k in range(K)],
            heatmap[order],
            "|cosine|",
        )
        axis.set_ylabel("disentangled mode")
        axis.spines[:].set_visible(False)
        figure.colorbar(image, ax=axis, label="|cosine|, any phase")
    axes[-1].set_xlabel("frequency k, of each family")
    return figure


@styled
def preactivations(neurons: Float64Array) -> Drawing:
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
        rows_of, columns_of = ([f"{of} = {v}" for v in range(len(values))] for of in "nm")
        figure.hint_cells(axis, rows_of, columns_of, values, "preactivation")
        if number % columns == 0:
            axis.set_ylabel("n")
        if number >= len(neurons) - columns:
            axis.set_xlabel("m")
    figure.colorbar(image, ax=axes[: len(neurons)], label="preactivation")
    figure.suptitle("Neurons with the largest readout weights, over all inputs (n, m)", fontsize=10)
    return figure
