"""Charts of a language model: how well directions tell labels, and spectra by layer."""

import numpy as np
from matplotlib.ticker import MaxNLocator

from mlx_entk.plotting import eigenvalue_axes
from mlx_entk.plotting.drawing import Drawing
from mlx_entk.plotting.style import COLORS, MUTED, new_figure, styled
from mlx_entk.studies.language_model.records import (
    ENTK,
    METHODS,
    PCA,
    PCA_STANDARDISED,
    PROBE,
    RANDOM,
    LMResults,
)

# Of controls that are not in colour.
GRID = "#b5b5b5"


# What is drawn in colour; other controls are grey, and the best of them is named.
_COLOURED = (ENTK, PCA_STANDARDISED, PCA, RANDOM, PROBE)


@styled
def scores_by_layer(results: LMResults) -> Drawing:
    """Mean average precision and AUROC over the labels of a family, by layer and directions."""
    family = results.family
    figure, axes = new_figure(10, 3.8, 1, 2)
    layers = [row.layer for row in results.layers]
    methods = [name for name in METHODS if all(name in row.scores for row in results.layers)]
    members = results.families[family]
    share = float(np.mean([results.label_shares[label] for label in members]))
    for axis, measure, chance, title in zip(
        axes, ("average_precision", "auroc"), (share, 0.5), ("average precision", "AUROC"),
        strict=True,
    ):  # fmt: skip
        for method in methods:
            estimates = [getattr(row.macro(method, family), measure) for row in results.layers]
            coloured = method in _COLOURED
            axis.errorbar(
                layers,
                [estimate.mean for estimate in estimates],
                [estimate.deviation for estimate in estimates],
                fmt=".-",
                color=COLORS[_COLOURED.index(method)] if coloured else GRID,
                linewidth=2.2 if method == ENTK else 1.1,
                markersize=7,
                capsize=2 if coloured else 0,
                zorder=3 if method == ENTK else 2 if coloured else 1,
                label=method if coloured else None,
            )
        axis.plot([], [], ".-", color=GRID, label="other controls")
        axis.axhline(chance, color=MUTED, linestyle=":", linewidth=1)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        if len(layers) == 1:
            axis.set_xlim(layers[0] - 1, layers[0] + 1)
        axis.set_xlabel("layer")
        axis.set_title(f"{family}: {title}")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", fontsize=9)
    return figure


@styled
def labels_of_best_layer(results: LMResults) -> Drawing:
    """Average precision by label in the layer that is chosen."""
    best, labels = results.best, list(results.labels)
    figure, (axis,) = new_figure(7.8, 1.1 + 0.3 * len(labels))
    places = np.arange(len(labels))[::-1]
    for i, method in enumerate(_COLOURED):
        precisions = {row.label: row.average_precision for row in best.scores[method].labels}
        axis.plot(
            [precisions[label] for label in labels], places, "o", color=COLORS[i], label=method,
            alpha=0.9, markersize=6,
        )  # fmt: skip
    shares = list(results.label_shares.values())
    axis.plot(shares, places, "|", color=MUTED, markersize=11, label="share of the label")
    axis.set_yticks(places, labels)
    axis.set_xlim(0, 1)
    axis.grid(axis="y", color="#e6e6e6", linewidth=0.8)
    axis.set_xlabel("average precision")
    axis.set_title(f"layer {best.layer}")
    figure.legend(*axis.get_legend_handles_labels(), loc="outside right center", fontsize=9)
    return figure


@styled
def spectra_by_layer(results: LMResults) -> Drawing:
    """Leading eigenvalues, a line for each layer."""
    figure, (axis,) = new_figure(5.6, 3.4)
    for i, row in enumerate(results.layers):
        axis.plot(
            row.values, ".-", color=COLORS[i % len(COLORS)], linewidth=0.8, markersize=4,
            label=f"layer {row.layer}",
        )  # fmt: skip
    eigenvalue_axes(axis, [np.asarray(row.values) for row in results.layers], 0.0)
    axis.set_ylabel("eigenvalue")
    figure.legend(loc="outside right center", fontsize=9)
    return figure
