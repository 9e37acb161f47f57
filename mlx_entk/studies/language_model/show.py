"""How a language model is shown: its sentences, tables, windows and captioned figures."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath

import numpy as np
from numpy.typing import NDArray

from mlx_entk._linalg import Float64Array
from mlx_entk.errors import InputError
from mlx_entk.lm.contexts import read_contexts
from mlx_entk.lm.scoring import LabelScore, Macro
from mlx_entk.plotting import CaptionedFigure
from mlx_entk.report import (
    Draw,
    FoundLabel,
    KernelView,
    ModeBrowser,
    ModeView,
    Table,
    Window,
    Windows,
)
from mlx_entk.runs import Run
from mlx_entk.studies.base import Figures, Show
from mlx_entk.studies.language_model import charts
from mlx_entk.studies.language_model.records import (
    ENTK,
    METHODS,
    PROBE,
    RANDOM,
    LayerResults,
    LMConfig,
    LMResults,
    contexts_file,
    read_token_texts,
)
from mlx_entk.studies.language_model.step_show import (
    example_tables,
    step_figures,
    step_tables,
)
from mlx_entk.studies.language_model.steps import steps_of

# Modes of each layer whose windows the report shows, and windows at each end.
_WINDOW_MODES, _WINDOWS = 5, 3
# Said once, below the first table of directions.
_HOW = (
    " Direction and sign of each label are chosen by average precision on one half of the windows "
    "and judged on the other: mean over {results.config.splits} splits ± standard deviation "
    "between them. All windows of a document are in one half. eNTK ahead by: the difference in "
    "average precision, and in brackets the middle 95% of it over resamples of documents, each "
    "with a choice of its own. PCA: of the layer's output, centred, raw, standardised or divided "
    "by each window's RMS; of the weight's input, standardised; of the final state and of the "
    "logits, centred. At the start: of the model drawn anew. The linear probe is told the labels "
    "of its half. Labels: {results.label_rule}."
)
# Labels of a mode that its page names.
_LABELS = 5


def _summary(results: LMResults) -> tuple[str, str]:
    row, family = results.best, results.family
    macro = row.macro(ENTK, family)
    # Over the splits the halves to choose on cover all windows: the value leans upwards a little.
    one = len(results.layers) == 1
    chosen = "" if one else ", the best of them by the halves on which directions are chosen,"
    return (
        f"Over {results.inputs:,} windows, the modes of {_count(len(results.layers), 'layer')} "
        f"were compared with {_count(len(results.labels), 'label')} of the next word.",
        f"In layer {row.layer}{chosen} they tell the labels of {family} with mean average "
        f"precision {macro.average_precision.mean:.3f}. {difference_sentence(row, family)}"
        + _bos_sentence(results),
    )


def _name(config: LMConfig) -> str:
    """The model's name, without the folder or owner before it."""
    return PurePath(config.model).name or config.model


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def difference_sentence(row: LayerResults, family: str) -> str:
    """Say how the eNTK's modes compare with the best principal directions, as far as is shown."""
    control = row.best_control(family)
    ahead = row.macro(control, family).precision_ahead
    assert ahead is not None
    low, high = ahead.interval
    interval = f"{signed(ahead.mean)}, 95% interval {signed(low)} to {signed(high)}"
    if low > 0:
        return f"They tell more than {control}, the best control without a kernel ({interval})."
    if high < 0:
        return f"{control}, which needs no kernel, tells more than they do ({interval})."
    return (
        f"That they tell more or less than {control}, the best control without a kernel, is not "
        f"shown ({interval})."
    )


def signed(value: float) -> str:
    """A difference with its sign."""
    return f"{value:+.3f}".replace("-", "−")


def _bos_sentence(results: LMResults) -> str:
    if not results.tokenizer_adds_bos or results.config.ahead:
        return ""
    return (
        " The windows lack the token that the model's tokenizer begins a text with; the median "
        f"perplexity of a window is {results.perplexity:.0f}."
    )


def _tables(results: LMResults) -> list[Table]:
    by_layer = [table for row in results.layers for table in _of_layer(results, row)]
    return [_overview(results), *by_layer]


def _overview(results: LMResults) -> Table:
    config = results.config
    rows = [
        (
            str(row.layer),
            f"{row.values[0]:.3g}",
            f"{max(row.residuals):.0e}",
            "–" if row.initial_residual is None else f"{row.initial_residual:.0e}",
            str(row.products),
            f"{row.product_seconds:.2f}",
            f"{row.product_seconds / results.forward_seconds:.2f}",
            f"{np.median(row.shares):.0%}",
        )
        for row in results.layers
    ]
    ahead = f", {len(config.ahead)} token before each" if config.ahead else ""
    return Table(
        f"{_name(config)}: {config.modes} modes by {', '.join(config.selection)}",
        (
            "layer", "largest", "residual", "at start", "products", "seconds", "forwards", "share",
        ),
        rows,
        f"{results.inputs} windows of {results.window} tokens{ahead}, from "
        f"{_count(results.documents, 'document')}; median perplexity {results.perplexity:.1f}. "
        "Largest eigenvalue; the largest residual ‖Kv − λv‖/λ of the modes, and of those of the "
        "model drawn anew (at start); matrix-vector products, the seconds of each, and that as a "
        "multiple of one forward pass of the whole model; the median share of a mode's norm that "
        f"its scores of the inputs explain.{''.join(f' {note}.' for note in results.notes)}",
    )  # fmt: skip


def _of_layer(results: LMResults, row: LayerResults) -> list[Table]:
    first = results.layers[0], next(iter(results.families))
    by_family = [
        _methods(results, row, family, (row, family) == first) for family in results.families
    ]
    return [*by_family, _labels(results, row)]


def _methods(results: LMResults, row: LayerResults, family: str, is_first: bool) -> Table:
    def cells(macro: Macro) -> tuple[str, str, str]:
        ahead = macro.precision_ahead
        return (
            f"{macro.average_precision.mean:.3f} ± {macro.average_precision.deviation:.3f}",
            f"{macro.auroc.mean:.3f} ± {macro.auroc.deviation:.3f}",
            "–" if ahead is None
            else f"{signed(ahead.mean)} [{', '.join(map(signed, ahead.interval))}]",
        )  # fmt: skip

    return Table(
        f"Layer {row.layer}: how well directions tell {family} of the next word",
        ("directions", "precision", "AUROC", "eNTK ahead by"),
        [(method, *cells(row.macro(method, family))) for method in METHODS if method in row.scores],
        f"Means over {_count(len(results.families[family]), 'label')}."
        + (_HOW.format(results=results) if is_first else ""),
    )


def _labels(results: LMResults, row: LayerResults) -> Table:
    by_method = {
        method: {scored.label: scored for scored in row.scores[method].labels}
        for method in (ENTK, row.best_control(results.family), RANDOM, PROBE)
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
        "the eNTK, the one chosen most often, with its sign.",
    )


def _signed(scored: LabelScore) -> str:
    return f"{'+' if scored.sign > 0 else '−'}{scored.direction}"


def _figures(results: LMResults, run: Run) -> Figures:
    yield CaptionedFigure(
        "lm-scores",
        charts.scores_by_layer(results),
        "How well directions tell labels of the next word apart: the mean over the labels and over "
        "splits; bars are the standard deviation between splits. Whether the eNTK's modes are "
        "ahead of other directions is told by the table's intervals, not by these bars. The dotted "
        "line is the value of a score without information.",
    )
    yield CaptionedFigure(
        "lm-labels",
        charts.labels_of_best_layer(results),
        "The average precision of the modes of the chosen layer, alongside other directions; the "
        "tick is the label's share. The layer knows labels whose dots lie far to the right of "
        "their tick.",
    )
    yield CaptionedFigure(
        "lm-spectra",
        charts.spectra_by_layer(results),
        "The leading eigenvalues of each layer. A steep beginning means that few directions carry "
        "most of the layer's kernel.",
    )
    if (steps := steps_of(run)) is not None:
        yield from step_figures(steps)


def _details(results: LMResults, run: Run) -> list[Table]:
    steps = steps_of(run)
    of_steps = [] if steps is None else [*step_tables(steps), *example_tables(steps)]
    return of_steps + [
        table
        for row in results.layers
        for table in window_tables(
            window_ends(
                results, run, row.layer, range(min(_WINDOW_MODES, len(row.values))), _WINDOWS
            )
        )
    ]


def _modes(results: LMResults, run: Run, draw: Draw | None) -> ModeBrowser:
    if draw not in (None, "tokens"):
        raise InputError("a run of a language model has windows of tokens: draw them as tokens")
    config = results.config
    contexts = read_contexts(contexts_file(run))
    texts = read_token_texts(run)

    def shown(tokens: Sequence[int]) -> list[str]:
        return [texts.get(str(token), f"<{token}>") for token in tokens]

    windows = [
        Window(shown([*config.ahead, *context.tokens]), context.word, context.labels)
        for context in contexts
    ]
    return ModeBrowser(
        f"Modes of {_name(config)}",
        f"{config.modes} modes of each layer's kernel by {', '.join(config.selection)}, over "
        f"{results.inputs:,} windows of {results.window} tokens.",
        Windows(windows),
        [_layer_view(row, run) for row in results.layers],
    )


def _layer_view(row: LayerResults, run: Run) -> KernelView:
    scores = run.arrays[f"scores/layer-{row.layer}"]
    at_ends = run.arrays[f"ends/layer-{row.layer}"]
    positions = run.arrays[f"positions/layer-{row.layer}"]
    told = sorted(row.scores[ENTK].labels, key=lambda label: -label.average_precision)
    modes = []
    for number, value in enumerate(row.values):
        labels = [
            FoundLabel(label.label, label.sign, label.average_precision)
            for label in told
            if label.direction == number
        ]
        shares = {}
        if number < len(positions):
            pairs = zip(at_ends[number].tolist(), positions[number], strict=True)
            shares = {window: of_window.tolist() for window, of_window in pairs}
        modes.append(
            ModeView(
                number,
                value,
                scores[:, number],
                share=row.shares[number],
                labels=labels[:_LABELS],
                positions=shares,
            )
        )
    return KernelView(f"Layer {row.layer}", modes)


@dataclass(frozen=True)
class WindowAtEnd:
    """A window at an end of a mode: its score, its text, the next word, and labels of that."""

    score: float
    text: str
    word: str
    labels: dict[str, str]


@dataclass(frozen=True)
class WindowEnds:
    """The windows at the two ends of a mode.

    Attributes
    ----------
    layer, mode
        Which mode.
    eigenvalue, share
        Its eigenvalue, and how much of it is in the scores.
    largest, smallest
        The outermost windows first.
    """

    layer: int
    mode: int
    eigenvalue: float
    share: float
    largest: list[WindowAtEnd]
    smallest: list[WindowAtEnd]


def window_ends(
    results: LMResults, run: Run, layer: int, modes: Sequence[int], count: int
) -> list[WindowEnds]:
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

    def window(number: int, mode: int) -> WindowAtEnd:
        context = contexts[number]
        return WindowAtEnd(
            float(scores[number, mode]), context.text, context.word, dict(context.labels)
        )

    found = []
    for mode in modes:
        top, bottom = _leading_windows(scores, mode, count)
        found.append(
            WindowEnds(
                layer,
                mode,
                float(row.values[mode]),
                float(row.shares[mode]),
                [window(int(i), mode) for i in top],
                [window(int(i), mode) for i in bottom],
            )
        )
    return found


def window_tables(ends: Sequence[WindowEnds]) -> list[Table]:
    """The ends of modes as tables, one for each."""

    def cells(window: WindowAtEnd) -> tuple[str, str, str, str]:
        text = " ".join(window.text.split())[-56:]
        labels = " ".join(f"{name}={value}" for name, value in window.labels.items())
        return f"{window.score:.2g}", f"…{text}", window.word, labels

    return [
        Table(
            f"Layer {mode.layer}, mode {mode.mode}: eigenvalue {mode.eigenvalue:.3g}, "
            f"{mode.share:.0%} of it in these scores",
            ("score", "window", "next", "labels"),
            [*map(cells, mode.largest), ("", "⋮", "", ""), *map(cells, mode.smallest[::-1])],
        )
        for mode in ends
    ]


def _leading_windows(
    scores: Float64Array, mode: int, count: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Numbers of the inputs with the largest scores of a mode, and with the smallest."""
    order = np.argsort(scores[:, mode], kind="stable")
    return order[::-1][:count], order[:count]


SHOW = Show(summary=_summary, tables=_tables, figures=_figures, details=_details, modes=_modes)
