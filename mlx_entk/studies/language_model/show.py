"""How a language model is shown: its sentences, tables, windows and captioned figures."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mlx_entk._linalg import Float64Array
from mlx_entk.lm.contexts import read_contexts
from mlx_entk.lm.scoring import Interval, LabelScore
from mlx_entk.plotting import CaptionedFigure
from mlx_entk.report import Table
from mlx_entk.runs import Run
from mlx_entk.studies.base import Figures, Show
from mlx_entk.studies.language_model import charts
from mlx_entk.studies.language_model.records import (
    ENTK,
    ENTK_AT_INITIALISATION,
    RANDOM,
    LayerResults,
    LMResults,
    contexts_file,
)

# Modes of each layer whose windows the report shows, and windows at each end.
_WINDOW_MODES, _WINDOWS = 5, 3


def _summary(results: LMResults) -> tuple[str, str]:
    best = results.best
    control = best.best_control
    others = ", ".join(
        f"{best.scores[method].average_precision.mean:.3f} by {method}"
        for method in (control, RANDOM, ENTK_AT_INITIALISATION)
    )
    return (
        f"Over {results.inputs:,} windows, the modes of {len(results.layers)} layers were compared "
        f"with {len(results.labels)} labels of the next word.",
        f"They tell the labels best in layer {best.layer}: mean average precision "
        f"{best.precision:.3f}, compared with {others}. {_beyond(best)}",
    )


def _beyond(row: LayerResults) -> str:
    """Whether the eNTK is ahead of the best control without a kernel, by their intervals."""
    entk, control = row.scores[ENTK], row.scores[row.best_control]
    low, high = entk.average_precision.interval
    of_control = control.average_precision.interval
    if low > of_control[1]:
        return f"The eNTK is ahead of {row.best_control}, the best control without a kernel."
    if high < of_control[0]:
        return f"{row.best_control}, which needs no kernel, is ahead of the eNTK."
    return (
        f"The 95% intervals of the eNTK and of {row.best_control}, the best control without a "
        "kernel, overlap."
    )


def _tables(results: LMResults) -> list[Table]:
    by_label = [_labels_of_layer(results, row) for row in results.layers]
    return [_overview(results), _scores(results), *by_label]


def _overview(results: LMResults) -> Table:
    config = results.config
    rows = [
        (
            str(row.layer),
            f"{row.values[0]:.3g}",
            f"{row.values[-1]:.3g}",
            f"{max(row.residuals):.0e}",
            str(row.products),
            f"{row.product_seconds:.2f}",
            f"{row.product_seconds / results.forward_seconds:.1f}",
            f"{np.median(row.shares):.0%}",
        )
        for row in results.layers
    ]
    return Table(
        f"{config.model}: {config.modes} modes by {', '.join(config.selection)}",
        ("layer", "largest", "smallest", "residual", "products", "seconds", "forwards", "share"),
        rows,
        f"{results.inputs} windows of {results.window} tokens. Largest and smallest eigenvalue; "
        "the largest residual ‖Kv − λv‖/λ; matrix-vector products, the seconds of each, and that "
        "as a multiple of one forward pass of the whole model; the median share of a mode's norm "
        "that its scores of the inputs explain.",
    )


def _scores(results: LMResults) -> Table:
    def cell(scored: Interval) -> str:
        low, high = scored.interval
        return f"{scored.mean:.3f} [{low:.3f}, {high:.3f}]"

    return Table(
        f"{len(results.labels)} labels of the next word, mean over them",
        ("layer", "directions", "average precision", "AUROC", "enrichment"),
        [
            (
                str(row.layer),
                method,
                cell(scores.average_precision),
                cell(scores.auroc),
                f"{np.mean([label.enrichment for label in scores.labels]):.2f}",
            )
            for row in results.layers
            for method, scores in row.scores.items()
        ],
        "Direction and sign of each label are chosen by average precision on one half of the "
        "windows. The numbers are of the other half; in brackets, 95% of its bootstrap resamples. "
        "Enrichment: share of the label among as many leading windows as have it, over its share "
        "among all. PCA: of the stream after the layer, centred, as it is (raw) and with every "
        f"coordinate standardised; and of the logits, centred. Labels: {results.label_rule}.",
    )


def _labels_of_layer(results: LMResults, row: LayerResults) -> Table:
    by_method = {
        method: {scored.label: scored for scored in scores.labels}
        for method, scores in row.scores.items()
    }
    return Table(
        f"Average precision by label, layer {row.layer}",
        ("label", "share", "mode", *by_method),
        [
            (
                label,
                f"{share:.1%}",
                _signed(by_method[ENTK][label]),
                *(f"{by_label[label].average_precision:.3f}" for by_label in by_method.values()),
            )
            for label, share in results.label_shares.items()
        ],
        "Share: of all windows, which is what a score without information would reach. Mode: of "
        "the eNTK, with its sign.",
    )


def _signed(scored: LabelScore) -> str:
    return f"{'+' if scored.sign > 0 else '−'}{scored.direction}"


def _figures(results: LMResults, run: Run) -> Figures:
    yield CaptionedFigure(
        "lm-scores",
        charts.scores_by_layer(results),
        "How well directions tell labels of the next word apart: the mean over the labels, with "
        "95% bootstrap intervals. The eNTK's modes are worth their cost if they lie above the "
        "other directions by more than the bars. The dotted line is the value of a score without "
        "information.",
    )
    yield CaptionedFigure(
        "lm-labels",
        charts.labels_of_best_layer(results),
        "The average precision of the modes of the best layer, alongside the other directions; the "
        "tick is the label's share. The layer knows labels whose dots lie far to the right of "
        "their tick.",
    )
    yield CaptionedFigure(
        "lm-spectra",
        charts.spectra_by_layer(results),
        "The leading eigenvalues of each layer. A steep beginning means that few directions carry "
        "most of the layer's kernel.",
    )


def _details(results: LMResults, run: Run) -> list[Table]:
    return [
        table
        for row in results.layers
        for table in window_tables(
            results, run, row.layer, range(min(_WINDOW_MODES, len(row.values))), _WINDOWS
        )
    ]


def window_tables(
    results: LMResults, run: Run, layer: int, modes: Sequence[int], count: int
) -> list[Table]:
    """The two ends of some modes: windows with their next words and labels.

    Parameters
    ----------
    results, run
        A finished run, which has the layer and the modes.
    count
        Windows at each end.
    """
    (row,) = [row for row in results.layers if row.layer == layer]
    scores = run.arrays[f"scores/layer-{layer}"]
    contexts = read_contexts(contexts_file(run))

    def cells(number: int, mode: int) -> tuple[str, str, str, str]:
        context = contexts[number]
        text = " ".join(context.text.split())[-56:]
        labels = " ".join(f"{name}={value}" for name, value in context.labels.items())
        return f"{scores[number, mode]:.2g}", f"…{text}", context.word, labels

    tables = []
    for mode in modes:
        top, bottom = _leading_windows(scores, mode, count)
        tables.append(
            Table(
                f"Layer {layer}, mode {mode}: eigenvalue {row.values[mode]:.3g}, "
                f"{row.shares[mode]:.0%} of it in these scores",
                ("score", "window", "next", "labels"),
                [
                    *(cells(int(i), mode) for i in top),
                    ("", "⋮", "", ""),
                    *(cells(int(i), mode) for i in bottom[::-1]),
                ],
            )
        )
    return tables


def _leading_windows(
    scores: Float64Array, mode: int, count: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Numbers of the inputs with the largest scores of a mode, and with the smallest."""
    order = np.argsort(scores[:, mode], kind="stable")
    return order[::-1][:count], order[:count]


SHOW = Show(summary=_summary, tables=_tables, figures=_figures, details=_details)
