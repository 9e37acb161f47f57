"""How the kernel of a user's own model is shown: summary, tables and figures with captions."""

from mlx_entk.analysis import SHUFFLES, WHOLE
from mlx_entk.kernel.reduction import reduction_name
from mlx_entk.plotting import CaptionedFigure, plot_alignment, plot_spectra
from mlx_entk.report import Table, modes_cell
from mlx_entk.runs import Run, arrays_below
from mlx_entk.studies.base import Figures, Show
from mlx_entk.studies.kernel.study import KernelResults
from mlx_entk.studies.words import (
    alignment_table,
    cliff_sentence,
    cliff_table,
    control_tables,
    holding_sentence,
    kernel_name,
    margin_sentence,
)


def _summary(results: KernelResults) -> tuple[str, str]:
    reduction = results.config.reduction
    kernel = reduction if isinstance(reduction, str) else f"class {reduction[0]}"
    first = (
        f"The {kernel} eNTK of {results.parameters:,} parameters on {results.inputs:,} inputs has "
        f"{cliff_sentence(results.cliffs[WHOLE])}."
    )
    rows = [row for row in results.alignment if row.kernel == WHOLE]
    # The first mode is close to constant in most kernels, and says little.
    rows = [row for row in rows if row.modes != (0, 0)] or rows
    if not rows:
        return first, (
            "There is no group of modes to align with the features."
            if results.mode_features
            else "No features were given to align its modes with."
        )
    best = max(rows, key=lambda row: row.percent - row.chance_percent)
    before = (
        ""
        if best.initial_percent is None
        else f"; before training the same modes held {best.initial_percent:.0f}%"
    )
    return first, f"{holding_sentence(best)}{before}. {margin_sentence(best, results.controls)}"


def _tables(results: KernelResults) -> list[Table]:
    overview = Table(
        "Run",
        ("", ""),
        [
            ("model", results.config.model),
            ("inputs, parameters", f"{results.inputs:,}, {results.parameters:,}"),
            ("reduction", reduction_name(results.config.reduction)),
        ],
    )
    return [
        overview,
        cliff_table(
            results.cliffs, results.effective_rank, results.cliff_rule, results.cliffs_before
        ),
        *alignment_table(results.alignment, results.equivalent_families, controls=results.controls),
        *_null_table(results),
    ]


def _null_table(results: KernelResults) -> list[Table]:
    """The overlaps of null models: features that were shuffled, and the model before training."""
    rows = [row for row in results.alignment if row.shuffled is not None]
    if not rows:
        return []
    missing = (
        ""
        if any(row.initial is not None for row in rows)
        else " The model before training is not known: name it with --initial."
    )
    without = f" Activations are left out: {results.without}." if results.without else ""
    return [
        Table(
            "The same overlaps of null models",
            ("kernel", "modes", "family", "overlap", "before training", "shuffled", "deviation"),
            [
                (
                    kernel_name(row.kernel),
                    modes_cell(row.modes),
                    row.family,
                    f"{row.overlap:.2f}",
                    "" if row.initial is None else f"{row.initial:.2f}",
                    f"{row.shuffled:.2f}",
                    f"{row.shuffled_deviation:.2f}",
                )
                for row in rows
            ],
            "Before training: the same modes of the model as it began. Shuffled: features that "
            f"were shuffled over the inputs, the mean of {SHUFFLES} shuffles and their standard "
            f"deviation.{missing}{without}",
        )
    ]


def _details(results: KernelResults, run: Run) -> list[Table]:
    return control_tables(results.alignment, results.controls)


def _figures(results: KernelResults, run: Run) -> Figures:
    arrays = run.arrays
    values = arrays_below(arrays, "values/")
    whose = "the whole and the layerwise kernels" if results.config.by_layer else "the kernel"
    yield CaptionedFigure(
        "spectra",
        plot_spectra(
            values,
            results.cliffs,
            max(of_kernel.size for of_kernel in values.values()),
            arrays_below(arrays, "shares/"),
            results.mode_features,
        ),
        f"The leading eigenvalues of {whose}. Look for the drops: each shaded group of modes ends "
        "at a cliff by the stated criterion.",
    )
    if results.alignment:
        yield CaptionedFigure(
            "alignment",
            plot_alignment(results.alignment, results.controls),
            "The overlap of each group of modes with each feature family, in per cent of the "
            "smaller of the two dimensions. If a cell is bright, but dark by chance, the kernel "
            "holds that feature; if it is dark in activations and outputs alone as well, they "
            "would not have shown it.",
        )


SHOW = Show(summary=_summary, tables=_tables, figures=_figures, details=_details)
