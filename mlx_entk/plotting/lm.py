"""Language models: how well directions tell labels, and spectra by layer."""

from collections.abc import Iterator

import numpy as np

from mlx_entk._files import Json
from mlx_entk.plotting.drawing import Drawing
from mlx_entk.plotting.style import COLORS, MUTED, new_figure, styled
from mlx_entk.runs import Run


def lm_figures(run: Run) -> Iterator[tuple[str, Drawing]]:
    """The figures of a run of ``mlx-entk lm``."""
    results = run.results
    yield "lm-scores", scores_by_layer(results)
    yield "lm-labels", labels_of_best_layer(results)
    yield "lm-spectra", spectra_by_layer(results)


@styled
def scores_by_layer(results: Json) -> Drawing:
    """Mean average precision and AUROC over the labels, by layer and kind of direction."""
    figure, axes = new_figure(9, 3.4, 1, 2)
    layers = [row["layer"] for row in results["layers"]]
    methods = list(results["layers"][0]["scores"])
    base = np.mean([count / results["inputs"] for count in results["labels"].values()])
    for axis, (key, title, chance) in zip(
        axes,
        (("average_precision", "average precision", base), ("auroc", "AUROC", 0.5)),
        strict=True,
    ):
        for i, method in enumerate(methods):
            found = [row["scores"][method][key] for row in results["layers"]]
            means = np.array([f["mean"] for f in found])
            ends = np.array([f["interval"] for f in found])
            at = np.arange(len(layers)) + 0.12 * (i - (len(methods) - 1) / 2)
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
def labels_of_best_layer(results: Json) -> Drawing:
    """Average precision by label in the layer whose eNTK modes have the best mean."""
    best = max(
        results["layers"], key=lambda row: float(row["scores"]["eNTK"]["average_precision"]["mean"])
    )
    labels = list(results["labels"])
    figure, (axis,) = new_figure(7.4, 1.1 + 0.3 * len(labels))
    places = np.arange(len(labels))[::-1]
    for i, (method, found) in enumerate(best["scores"].items()):
        values = {row["label"]: row["average_precision"] for row in found["labels"]}
        axis.plot(
            [values[label] for label in labels], places, "o", color=COLORS[i], label=method,
            alpha=0.9, markersize=6,
        )  # fmt: skip
    shares = [results["labels"][label] / results["inputs"] for label in labels]
    axis.plot(shares, places, "|", color=MUTED, markersize=11, label="share of the label")
    axis.set_yticks(places, labels)
    axis.set_xlim(0, 1)
    axis.grid(axis="y", color="#e6e6e6", linewidth=0.8)
    axis.set_xlabel("average precision")
    axis.set_title(f"layer {best['layer']}")
    figure.legend(*axis.get_legend_handles_labels(), loc="outside right center", fontsize=9)
    return figure


@styled
def spectra_by_layer(results: Json) -> Drawing:
    """Leading eigenvalues, a line a layer."""
    figure, (axis,) = new_figure(5.6, 3.4)
    for i, row in enumerate(results["layers"]):
        axis.semilogy(
            row["values"], ".-", color=COLORS[i % len(COLORS)], linewidth=0.8, markersize=4,
            label=f"layer {row['layer']}",
        )  # fmt: skip
    axis.set_xlabel("mode")
    axis.set_ylabel("eigenvalue")
    figure.legend(loc="outside right center", fontsize=9)
    return figure
