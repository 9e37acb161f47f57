"""How the study of the MLP is shown: its sentences, tables and captioned figures."""

from mlx_entk.analysis import WHOLE, TrainedAlignment
from mlx_entk.features import FREQUENCY_FAMILIES, modular_features
from mlx_entk.plotting import (
    CaptionedFigure,
    plot_alignment,
    plot_spectra,
    plot_spectra_over_training,
)
from mlx_entk.probes import PROBE_RULE
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
from mlx_entk.studies.modular_mlp.study import DRAWS, MLPResults, dataset
from mlx_entk.studies.words import (
    ALIGNMENT_CAPTION,
    SPECTRA_CAPTION,
    alignment_status,
    alignment_table,
    chance_sentence,
    cliff_sentence,
    cliff_status,
    cliff_table,
    control_tables,
    holding_sentence,
    margin_sentence,
    noise_floors,
)

# The epochs whose spectra the paper shows, if a run has them; the last epoch of the run is added.
_EPOCHS = (0, 60, 80, 100)
# The families that say most: all of them are too many for a terminal.
_FAMILIES = (*FREQUENCY_FAMILIES, "n ∪ m", "random")


def _main(results: MLPResults) -> TrainedAlignment:
    """The alignment of the series that is compared with the test accuracy."""
    tracked = results.grokking
    wanted = (tracked.kernel, tracked.modes, tracked.family)
    return next(r for r in results.alignment if (r.kernel, r.modes, r.family) == wanted)


def _summary(results: MLPResults) -> tuple[str, str]:
    row = _main(results)
    return (
        f"The network is right on {results.accuracy.test:.1%} of the pairs that it was not "
        f"trained on, and its eNTK has {cliff_sentence(results.cliffs[WHOLE])}.",
        f"{holding_sentence(row)}; before training the same modes held "
        f"{row.initial_percent:.0f}%. {margin_sentence(row, results.controls)}",
    )


def _status(results: MLPResults) -> list[Status]:
    return [
        cliff_status(results.cliffs[WHOLE]),
        *alignment_status(_main(results), results.controls),
    ]


def _tables(results: MLPResults) -> list[Table]:
    config, onset = results.config, results.grokking.onset
    overview = Table(
        "Run",
        ("", ""),
        [
            ("p, width", f"{config.p}, {config.width}"),
            ("seed, embedding", f"{config.seed}, {config.embedding}"),
            ("inputs, parameters", f"{results.inputs:,}, {results.parameters:,}"),
            ("train accuracy", f"{results.accuracy.train:.2%}"),
            ("test accuracy", f"{results.accuracy.test:.2%}"),
            ("test accuracy rises", rise_cell(onset.test_accuracy)),
            ("overlap with the sum rises", rise_cell(onset.overlap)),
        ],
        f"Rise: {onset.rule}.",
    )
    return [
        overview,
        cliff_table(results.cliffs, results.effective_rank, results.cliff_rule),
        *alignment_table(
            results.alignment, results.equivalent_families, _FAMILIES, results.controls
        ),
    ]


def _details(results: MLPResults, run: Run) -> list[Table]:
    return [
        *control_tables(
            results.alignment, results.controls, _FAMILIES, results.equivalent_families
        ),
        _disentangled(results),
        *_probes(results),
    ]


def _disentangled(results: MLPResults) -> Table:
    return Table(
        "How nearly the rotated modes of each group are single frequencies, |cosine|",
        ("modes", "median", "smallest", "random rotation", "random subspace"),
        [
            (
                modes_cell(row.modes),
                f"{row.single_frequency.median:.2f}",
                f"{row.single_frequency.smallest:.2f}",
                str(row.rotated_at_random),
                str(row.random_subspaces),
            )
            for row in results.disentangled
        ],
        "Null models: the median for the same modes in a random rotation, and for random "
        "subspaces of the same dimension in the rotation that makes them most nearly single "
        f"frequencies; mean and standard deviation of {DRAWS} draws.",
    )


def _probes(results: MLPResults) -> list[Table]:
    """What linear probes tell; no table for a run that has none."""
    if not results.probes:
        return []
    return [
        Table(
            "What linear probes tell from each stage of the network, % right",
            (
                "network",
                "stage",
                "target",
                "training pairs",
                "held out",
                "shuffled, training",
                "shuffled, held out",
                "chance",
            ),
            [
                (
                    row.network,
                    row.activations,
                    row.target,
                    *(
                        f"{100 * share:.1f}"
                        for share in (
                            row.accuracy.train,
                            row.accuracy.held_out,
                            row.accuracy.shuffled_train,
                            row.accuracy.shuffled_held_out,
                            row.accuracy.chance,
                        )
                    ),
                )
                for row in results.probes
            ],
            f"Probe: {PROBE_RULE}. Held out: the pairs that the network was not trained on. "
            "Shuffled: the same probe of classes shuffled over all pairs, where there is nothing "
            "to find. As many training pairs, a probe of these activations gets right by fitting "
            "alone.",
        )
    ]


def _figures(results: MLPResults, run: Run) -> Figures:
    arrays, tracked, p = run.arrays, results.grokking, results.config.p
    shown = min(p * p, 6 * (p - 1))
    yield from training_figures(run, tracked, results.controls.best(_main(results)))
    yield CaptionedFigure(
        "overlaps-over-training",
        charts.overlaps(tracked, FREQUENCY_FAMILIES),
        "The overlap of each group of modes of each kernel with the families of single "
        "frequencies, in per cent of the smaller dimension. A line that is high from epoch 0 on is "
        "due to the architecture; one that rises was learned.",
    )
    yield CaptionedFigure(
        "spectra",
        plot_spectra(
            arrays_below(arrays, "values/"),
            results.cliffs,
            shown,
            arrays_below(arrays, "shares/"),
            results.mode_features,
            noise_floors(arrays),
        ),
        SPECTRA_CAPTION,
    )
    yield CaptionedFigure(
        "spectra-over-training",
        plot_spectra_over_training(
            arrays_below(arrays, "values over training/"),
            tracked.epochs,
            [e for e in _EPOCHS if e in tracked.epochs[:-1]] + tracked.epochs[-1:],
            shown,
            charts.epoch_labels(tracked),
            noise_floors(arrays),
        ),
        SPECTRA_OVER_TRAINING_CAPTION,
    )
    yield CaptionedFigure(
        "alignment",
        plot_alignment(results.alignment, results.controls, results.equivalent_families),
        ALIGNMENT_CAPTION + chance_sentence(results.alignment),
    )
    maps = {
        row.modes: arrays[f"frequencies/{row.modes[0]}-{row.modes[1]}"]
        for row in results.disentangled
    }
    yield CaptionedFigure(
        "frequencies",
        charts.frequencies(maps, FREQUENCY_FAMILIES, WHOLE),
        "The modes of each group, rotated within the space that they span. A bright cell is a mode "
        "that is one frequency of one family; if every mode has a bright cell, the group consists "
        "of single frequencies. The table of rotated modes says what random subspaces would show.",
    )
    yield CaptionedFigure(
        "preactivations",
        charts.preactivations(arrays["preactivations"]),
        "Hidden neurons before the activation, over all inputs. Stripes are waves in n and m: a "
        "neuron with regular stripes computes a single frequency.",
    )


def _modes(results: MLPResults, run: Run, draw: Draw | None) -> ModeBrowser:
    config, arrays = results.config, run.arrays
    data = dataset(config)
    bank = modular_features(data.n, data.m, config.p, config.seed)
    return ModeBrowser(
        f"Modes of an MLP that adds modulo {config.p}",
        f"The trace eNTK of {results.parameters:,} parameters on all {results.inputs:,} pairs, "
        f"after {config.epochs:,} epochs, right on {results.accuracy.test:.1%} of the pairs that "
        "the network was not trained on.",
        pairs_drawn(data, data.x, draw),
        views(
            arrays_below(arrays, "values/"),
            arrays,
            results.cliffs,
            bank,
            {family: bank[family] for family in FREQUENCY_FAMILIES},
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
    modes=_modes,
)
