"""How the study of the transformer is shown: its sentences, tables and captioned figures."""

from collections.abc import Mapping

import numpy as np

from mlx_entk.dynamics import MIN_RISE
from mlx_entk.features import KEYED_FAMILIES, Family, Role, frequency_features
from mlx_entk.features.bank import frequency_families
from mlx_entk.plotting import (
    CaptionedFigure,
    plot_alignment,
    plot_spectra,
    plot_spectra_over_training,
)
from mlx_entk.report import Draw, ModeBrowser, Status, Table, modes_cell
from mlx_entk.runs import Run, arrays_below
from mlx_entk.studies.base import Figures, Show
from mlx_entk.studies.modular import charts
from mlx_entk.studies.modular.figures import training_figures
from mlx_entk.studies.modular.modes import names_of_pairs, pairs_drawn, views
from mlx_entk.studies.modular.words import (
    SPECTRA_OVER_TRAINING_CAPTION,
    rise_cell,
)
from mlx_entk.studies.modular_transformer.charts import leads, overlap_by_seed
from mlx_entk.studies.modular_transformer.study import (
    MAIN,
    SUM,
    UNEMBEDDING,
    TransformerResults,
    expected_groups,
    lead_test,
    main_rows,
    shown_modes,
)
from mlx_entk.studies.modular_transformer.training import GROKKED, dataset
from mlx_entk.studies.results import GrokkingByParameter, LocalisedAlignment
from mlx_entk.studies.words import (
    SPECTRA_CAPTION,
    alignment_status,
    chance_sentence,
    cliff_status,
    control_lines,
    control_note,
    control_tables,
    kernel_name,
    margin_sentence,
    noise_floors,
)

# Families of n and m together at the key frequencies: what the table of localisation shows.
_JOINT = [f for f in KEYED_FAMILIES if f.role is Role.JOINT and f.frequencies == "key"]
_SHORT = {family.label: family.name for family in KEYED_FAMILIES}


def _followed() -> list[str]:
    """What the kernels turn to over training, and the control."""
    order = ("sum", "axis sum", "difference", "axis difference")
    control = [family for family in KEYED_FAMILIES if family.role is Role.CONTROL]
    chosen: list[Family] = sorted(_JOINT, key=lambda family: order.index(family.name))
    return [family.label for family in [*chosen, *control]]


# What to see in the heatmap of each reduction.
_LOCALISATION = {
    "sum-of-logits": (
        "The overlap of groups of modes of each parameter's sum-of-logits kernel with the families "
        "at the key frequencies and, as a control, at the others. Read down a column to see which "
        "parameters' kernels hold a family, and compare the panel after training with the "
        "others."
    ),
    "trace": (
        "The same for the trace kernels, which also see families that cancel in the mean of the "
        "logits."
    ),
    "class 0": "The same for the kernels of class 0 alone, which see one output.",
}


def _main(results: TransformerResults) -> LocalisedAlignment:
    """The alignment of the series that is compared with the test accuracy."""
    keys = results.key_frequencies.embedding
    return main_rows(results)[UNEMBEDDING, expected_groups(len(keys))[0], SUM]


def _summary(results: TransformerResults) -> tuple[str, str]:
    keys = results.key_frequencies.embedding
    grokked = results.grokked_at
    row = _main(results)
    ahead = [move for move in results.grokking.moves if move.lead > 0 and move.rose]
    if not results.grokking.onset.test_accuracy.rises:
        first = "the test accuracy does not rise, so no kernel turned ahead of it"
    elif ahead:
        first = (
            f"{kernel_name(ahead[0].kernel)} was the first to turn, {ahead[0].lead:.0f} epochs "
            "ahead of the test accuracy"
        )
    else:
        first = "no kernel turned to its family ahead of the test accuracy"
    grokked_or_not = "did not grok" if grokked is None else f"grokked at epoch {grokked}"
    named = f"{'frequency' if len(keys) == 1 else 'frequencies'} {', '.join(map(str, keys))}"
    frequencies = (
        f"its embedding uses the {named}"
        if results.accuracy.test >= GROKKED
        else f"by the stated rule its embedding has the key {named}, but it does not solve the task"
    )
    margin = margin_sentence(row, results.controls)
    return (
        f"The network {grokked_or_not} (test accuracy {results.accuracy.test:.1%} at the end); "
        f"{frequencies}.",
        f"The leading modes of the unembedding's kernel hold {row.percent:.0f}% of the sum at "
        f"these frequencies, compared with {row.initial_percent:.0f}% before training; {first}. "
        f"{margin}",
    )


def _status(results: TransformerResults) -> list[Status]:
    main = _main(results)
    of_main = results.cliffs[main.reduction][main.kernel]
    return [cliff_status(of_main), *alignment_status(main, results.controls)]


def _tables(results: TransformerResults) -> list[Table]:
    return [_overview(results), _localisation(results), _moves(results)]


def _overview(results: TransformerResults) -> Table:
    config, keys, onset = results.config, results.key_frequencies, results.grokking.onset
    grokked = results.grokked_at
    return Table(
        "Run",
        ("", ""),
        [
            ("p, d_model, heads, d_mlp",
             f"{config.p}, {config.d_model}, {config.heads}, {config.d_mlp}"),
            ("seed", str(config.seed)),
            ("inputs, parameters", f"{results.inputs:,}, {results.parameters:,}"),
            ("epochs", str(results.epochs)),
            ("train accuracy", f"{results.accuracy.train:.2%}"),
            ("test accuracy", f"{results.accuracy.test:.2%}"),
            ("grokked", "never" if grokked is None else f"at epoch {grokked}"),
            ("test accuracy rises", rise_cell(onset.test_accuracy)),
            ("key frequencies, by the embedding", ", ".join(map(str, keys.embedding))),
            ("... by the kernel's modes", ", ".join(map(str, keys.kernel))),
        ],
        f"Training ends {results.stop_rule}. Key: {keys.rule}. Rise: {onset.rule}.",
    )  # fmt: skip


def _localisation(results: TransformerResults) -> Table:
    rows = main_rows(results)
    groups = dict.fromkeys((kernel, modes) for kernel, modes, _ in rows)
    reduction = next(iter(results.cliffs))

    def cell(kernel: str, modes: tuple[int, int], family: Family) -> str:
        row = rows[kernel, modes, family.label]
        return f"{row.percent:.0f} ({row.initial_percent:.0f}, {row.chance_percent:.0f})"

    return Table(
        f"Overlap of the {reduction} kernels' groups of modes with families at the key "
        "frequencies, %",
        ("kernel", "modes", *(family.name for family in _JOINT)),
        [
            *(
                (
                    kernel_name(kernel),
                    modes_cell(modes),
                    *(cell(kernel, modes, family) for family in _JOINT),
                )
                for kernel, modes in groups
            ),
            *control_lines(
                list(rows.values()),
                [family.label for family in _JOINT],
                results.controls,
                lambda control: f"{control.percent:.0f}",
            ),
        ],
        "In brackets: the same modes before training, and by chance. Per cent of the smaller "
        "dimension; results.json has the other frequencies and reductions."
        f"{control_note(results.controls)}",
    )


def _moves(results: TransformerResults) -> Table:
    tracked = results.grokking
    return Table(
        "When each kernel turned to its family",
        ("kernel", "modes", "family", "rise %", "half by epoch", "ahead"),
        [
            (
                kernel_name(move.kernel),
                modes_cell(move.modes),
                _SHORT[move.family],
                f"{100 * move.rise:.0f}",
                f"{move.epoch:.0f}",
                f"{move.lead:.0f}",
            )
            for move in tracked.moves
        ],
        "Its family: the one at the key frequencies whose overlap rose the most. Half by epoch: "
        f"{tracked.half_rise_rule}. Ahead: epochs before that of the test accuracy, "
        f"{tracked.half_rise_of_test_accuracy:.0f}.",
    )


def _figures(results: TransformerResults, run: Run) -> Figures:
    arrays, tracked, keys = run.arrays, results.grokking, results.key_frequencies
    yield from training_figures(run, tracked, results.controls.best(_main(results)))
    by_source = {"embedding": keys.embedding, "kernel": keys.kernel}
    power = {source: np.asarray(arrays[f"{source} power"]) for source in by_source}
    yield CaptionedFigure(
        "key-frequencies",
        charts.key_frequencies(power, by_source),
        "The share of each frequency, with the key frequencies in orange. The two panels read them "
        "off the embedding and off the kernel independently: trust those on which they agree.",
    )
    for reduction in results.cliffs:
        rows = [row for row in results.alignment if row.reduction == reduction]
        name = f"localisation-{reduction.replace(' ', '-')}"
        yield CaptionedFigure(
            name,
            plot_alignment(rows, results.controls, results.equivalent_families),
            _LOCALISATION[reduction] + chance_sentence(rows),
        )
    yield CaptionedFigure(
        "overlaps-by-parameter",
        charts.by_parameter(tracked, _followed()),
        "Which kernel turns to which family, and when. A line that rises before the grey area (the "
        "test accuracy) belongs to a kernel that turned first. Full lines are the leading group of "
        "modes, dashed lines the next one.",
    )
    yield CaptionedFigure(
        "first-to-move",
        charts.first_to_move(tracked, _SHORT),
        "Dots left of the orange line are kernels that turned to their family before the test "
        "accuracy rose. A kernel's family is the one at the key frequencies whose overlap rose "
        "the most, and its dot is at half that rise. A dot is pale if the overlap rose by less "
        f"than {MIN_RISE:.0%}.",
    )
    reduction, cliffs = next(iter(results.cliffs.items()))
    yield CaptionedFigure(
        "spectra",
        plot_spectra(
            arrays_below(arrays, f"values/{reduction}/"),
            cliffs,
            shown_modes(results.config),
            arrays_below(arrays, "shares/"),
            results.mode_features,
            noise_floors(arrays),
        ),
        SPECTRA_CAPTION,
    )
    over_training = arrays_below(arrays, "values over training/")
    yield CaptionedFigure(
        "spectra-over-training",
        plot_spectra_over_training(
            over_training,
            tracked.epochs,
            [tracked.epochs[0], tracked.epochs[-1]],
            len(next(iter(over_training.values()))[0]),
            charts.epoch_labels(tracked),
            noise_floors(arrays),
        ),
        SPECTRA_OVER_TRAINING_CAPTION,
    )


def _lead_sentence(tracked: Mapping[int, GrokkingByParameter]) -> str:
    """Which kernel was ahead in most seeds, and whether chance would do that."""
    found = lead_test([of_seed.moves for of_seed in tracked.values()])
    if found.ahead == 0:
        return "No kernel was ahead in any seed."
    return (
        f"{kernel_name(found.kernel)} was ahead in {found.ahead} of {found.seeds} seeds; if the "
        "kernels of every seed changed their places at random, some kernel would be so often in "
        f"{found.p:.1%} of cases."
    )


def _over_seeds(runs: Mapping[int, TransformerResults]) -> Figures:
    tracked = {seed: results.grokking for seed, results in runs.items()}
    yield CaptionedFigure(
        "sweep-overlap",
        overlap_by_seed(tracked),
        "The test accuracy (above) and the overlap of the leading modes with the sum at the key "
        "frequencies (below), for every seed.",
    )
    yield CaptionedFigure(
        "sweep-leads",
        leads(tracked),
        "Each dot is a seed. If all dots of a kernel lie right of zero, it turned to its family "
        "before the test accuracy rose in every seed. A dot is hollow if the overlap rose by less "
        f"than {MIN_RISE:.0%}; the median is orange. {_lead_sentence(tracked)}",
    )


def _details(results: TransformerResults, run: Run) -> list[Table]:
    rows = list(main_rows(results).values())
    joint = [family.label for family in _JOINT]
    return control_tables(rows, results.controls, joint, results.equivalent_families)


def _modes(results: TransformerResults, run: Run, draw: Draw | None) -> ModeBrowser:
    config, arrays = results.config, run.arrays
    data, keys = dataset(config), results.key_frequencies.embedding
    return ModeBrowser(
        f"Modes of a transformer that adds modulo {config.p}",
        f"The {MAIN} eNTK of {results.parameters:,} parameters on all {results.inputs:,} pairs, "
        f"after {results.epochs:,} epochs, right on {results.accuracy.test:.1%} of the pairs that "
        "the network was not trained on.",
        pairs_drawn(data, data.tokens, draw),
        views(
            arrays_below(arrays, f"values/{MAIN}/"),
            arrays,
            results.cliffs[MAIN],
            frequency_features(data.n, data.m, config.p, keys, config.seed),
            frequency_families(data.n, data.m, config.p),
            results.controls,
        ),
        names=names_of_pairs(data),
    )


SHOW = Show(
    summary=_summary,
    tables=_tables,
    figures=_figures,
    status=_status,
    details=_details,
    over_seeds=_over_seeds,
    modes=_modes,
)
