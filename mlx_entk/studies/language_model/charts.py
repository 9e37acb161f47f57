"""Charts of a language model: how well directions tell labels, and spectra by layer."""

import numpy as np

from mlx_entk.plotting.drawing import Drawing
from mlx_entk.plotting.style import COLORS, MUTED, new_figure, styled
from mlx_entk.studies.language_model.records import LMResults


@styled
def scores_by_layer(results: LMResults) -> Drawing:
    """Mean average precision and AUROC over the labels, by layer and kind of direction."""
    figure, axes = new_figure(9, 3.4, 1, 2)
    layers = [row.layer for row in results.layers]
    methods = list(results.layers[0].scores)
    intervals = (
        [
            {m: scores.average_precision for m, scores in row.scores.items()}
            for row in results.layers
        ],
        [{m: scores.auroc for m, scores in row.scores.items()} for row in results.layers],
    )
    chances = (float(np.mean(list(results.label_shares.values()))), 0.5)
    titles = ("average precision", "AUROC")
    for axis, by_layer, chance, title in zip(axes, intervals, chances, titles, strict=True):
        for i, method in enumerate(methods):
            means = np.array([of_layer[method].mean for of_layer in by_layer])
            ends = np.array([of_layer[method].interval for of_layer in by_layer])
            at = np.arange(len(layers)) + 0.09 * (i - (len(methods) - 1) / 2)
            errors = np.maximum(0, [means - ends[:, 0], ends[:, 1] - means])
            axis.errorbar(
                at, means, errors, fmt="o", color=COLORS[i], capsize=2, markersize=5, label=method
            )
        axis.axhline(chance, color=MUTED, linestyle=":", linewidth=1)
        axis.set_xticks(range(len(layers)), [str(layer) for layer in layers])
        axis.set_xlim(-0.6, len(layers) - 0.4)
        axis.set_xlabel("layer")
        axis.set_title(f"{title}, mean over labels")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", fontsize=9)
    return figure


@styled
def labels_of_best_layer(results: LMResults) -> Drawing:
    """Average precision by label in the layer whose eNTK modes have the best mean."""
    best, labels = results.best, list(results.labels)
    figure, (axis,) = new_figure(7.4, 1.1 + 0.3 * len(labels))
    places = np.arange(len(labels))[::-1]
    for i, (method, scores) in enumerate(best.scores.items()):
        precisions = {row.label: row.average_precision for row in scores.labels}
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
        axis.semilogy(
            row.values, ".-", color=COLORS[i % len(COLORS)], linewidth=0.8, markersize=4,
            label=f"layer {row.layer}",
        )  # fmt: skip
    axis.set_xlabel("mode")
    axis.set_ylabel("eigenvalue")
    figure.legend(loc="outside right center", fontsize=9)
    return figure
