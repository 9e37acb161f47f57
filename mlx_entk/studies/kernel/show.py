"""How the kernel of a user's own model is shown: summary, tables and figures with captions."""

from mlx_entk.analysis import WHOLE
from mlx_entk.kernel.reduction import reduction_name
from mlx_entk.plotting import CaptionedFigure, plot_alignment, plot_spectra
from mlx_entk.report import Table
from mlx_entk.runs import Run, arrays_below
from mlx_entk.studies.base import Figures, Show
from mlx_entk.studies.kernel.study import KernelResults
from mlx_entk.studies.words import alignment_table, cliff_sentence, cliff_table


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
    return first, (
        f"Modes {best.modes[0]}–{best.modes[1]} hold {best.percent:.0f}% of {best.family}; chance "
        f"gives {best.chance_percent:.0f}%."
    )


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
        cliff_table(results.cliffs, results.effective_rank, results.cliff_rule),
        *alignment_table(results.alignment, results.equivalent_families),
    ]


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
            plot_alignment(results.alignment),
            "The overlap of each group of modes with each feature family, in per cent of the "
            "smaller of the two dimensions. If a cell is bright, but dark by chance, the kernel "
            "holds that feature.",
        )


SHOW = Show(summary=_summary, tables=_tables, figures=_figures)
