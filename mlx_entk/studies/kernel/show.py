"""How the kernel of a user's own model is shown: summary, tables and figures with captions."""

from mlx_entk._files import Arrays
from mlx_entk.analysis import SHUFFLES, WHOLE
from mlx_entk.kernel.reduction import reduction_name
from mlx_entk.plotting import CaptionedFigure, plot_alignment, plot_spectra
from mlx_entk.report import Status, Table, modes_cell
from mlx_entk.runs import Run, arrays_below
from mlx_entk.studies.base import Figures, Show
from mlx_entk.studies.kernel.directions import EXPLAINED
from mlx_entk.studies.kernel.modes import modes
from mlx_entk.studies.kernel.study import KernelAlignment, KernelResults
from mlx_entk.studies.words import (
    alignment_status,
    alignment_table,
    chance_sentence,
    cliff_sentence,
    cliff_status,
    cliff_table,
    control_tables,
    holding_sentence,
    kernel_name,
    margin_sentence,
    noise_floors,
    same_rows,
)


def _main(results: KernelResults) -> KernelAlignment | None:
    """The alignment of the whole kernel furthest above chance; None if there is none."""
    rows = [row for row in results.alignment if row.kernel == WHOLE]
    # The first mode is close to constant in most kernels, and says little.
    rows = [row for row in rows if row.modes != (0, 0)] or rows
    return max(rows, key=lambda row: row.percent - row.chance_percent, default=None)


def _status(results: KernelResults) -> list[Status]:
    best = _main(results)
    return [
        cliff_status(results.cliffs[WHOLE]),
        *([] if best is None else alignment_status(best, results.controls)),
    ]


def summary(results: KernelResults) -> tuple[str, str]:
    """What was found: of the spectrum, and of the features."""
    reduction = results.config.reduction
    kernel = reduction if isinstance(reduction, str) else f"class {reduction[0]}"
    first = (
        f"The {kernel} eNTK of {results.parameters:,} parameters on {results.inputs:,} inputs has "
        f"{cliff_sentence(results.cliffs[WHOLE])}."
    )
    best = _main(results)
    if best is None:
        nothing = (
            "There is no group of modes to align with the features."
            if results.mode_features
            else "No features were given to align its modes with."
        )
        return first, nothing + _disentangled_sentence(results)
    before = (
        ""
        if best.initial_percent is None
        else f"; before training the same modes held {best.initial_percent:.0f}%"
    )
    held = f"{holding_sentence(best)}{before}. {margin_sentence(best, results.controls)}"
    return first, held.rstrip() + _disentangled_sentence(results)


def _disentangled_sentence(results: KernelResults) -> str:
    """What explains the rotated directions; empty if that was not asked for."""
    method, groups = results.config.disentangle, results.disentangled
    if method is None:
        return ""
    if not groups:
        return " There is no group of modes to disentangle: name some with --groups."
    directions = sum(len(group.directions) for group in groups)
    if not results.mode_features:
        return f" Rotated by {method}, the groups have {directions} directions."
    modes = sum(group.modes[1] - group.modes[0] + 1 for group in groups)
    null = [f"{sum(group.by_modes for group in groups)} of the {modes} modes as they are"]
    random = [g.by_random_rotations for g in groups if g.by_random_rotations is not None]
    if random:
        null.append(f"{sum(draws.mean for draws in random):.1f} by a random rotation")
    before = [group.before for group in groups if group.before is not None]
    if before:
        null.append(f"{sum(before)} rotated in the same way before training")
    explained = sum(group.explained for group in groups)
    compared = " and ".join(filter(None, [", ".join(null[:-1]), null[-1]]))
    return (
        f" Rotated by {method}, {explained} of {directions} directions are explained by a known "
        f"family, compared with {compared}."
    )


def tables(results: KernelResults) -> list[Table]:
    """Tables for the terminal and the report; the first one is the overview."""
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
        *_disentangled_table(results),
    ]


def _disentangled_table(results: KernelResults) -> list[Table]:
    """Groups of modes that were rotated, and what explains their directions."""
    if not results.disentangled:
        return []
    unfinished = [modes_cell(g.modes) for g in results.disentangled if not g.converged]
    stopped = f" The rotation of {', '.join(unfinished)} did not converge." if unfinished else ""
    return [
        Table(
            "Directions that a known family explains, of groups rotated by "
            f"{results.config.disentangle}",
            (
                "modes",
                "directions",
                "explained",
                "modes as they are",
                "random rotation",
                "before training",
            ),
            [
                (
                    modes_cell(group.modes),
                    str(len(group.directions)),
                    str(group.explained),
                    str(group.by_modes),
                    "" if group.by_random_rotations is None else str(group.by_random_rotations),
                    "" if group.before is None else str(group.before),
                )
                for group in results.disentangled
            ],
            f"A family explains a direction if its span holds a share (cos²) of {EXPLAINED} or "
            "more of it. Alongside is how many it explains of the modes as they are, of random "
            f"rotations of them ({SHUFFLES} draws), and of the same modes before training, rotated "
            "in the same way. If they are as many, the rotation says nothing of the features."
            f"{stopped}",
        )
    ]


def _direction_table(results: KernelResults) -> list[Table]:
    """Each direction of the rotated groups, with the family that explains it."""
    if not results.disentangled:
        return []
    return [
        Table(
            "Directions of the rotated groups, the sparsest of each first",
            (
                "modes",
                "direction",
                "explained by",
                "best family",
                "share",
                "shuffled",
                "kurtosis",
                "largest on inputs",
            ),
            [
                (
                    modes_cell(group.modes),
                    str(number),
                    direction.family if direction.explained else "no known feature",
                    direction.family,
                    f"{direction.share:.2f}" if direction.family else "",
                    "" if direction.shuffled is None else f"{direction.shuffled:.2f}",
                    f"{direction.kurtosis:.1f}",
                    ", ".join(map(str, direction.inputs)),
                )
                for group in results.disentangled
                for number, direction in enumerate(group.directions)
            ],
            "Share: how much of the direction (cos²) lies in the span of the best known family; "
            f"below {EXPLAINED} none explains it. Shuffled: the same of features that were "
            f"shuffled over the inputs, the mean of {SHUFFLES} shuffles. The kurtosis of a "
            "Gaussian is 3; the larger, the fewer inputs make the direction. The directions are "
            "the columns of directions/FIRST-LAST in spectra.npz.",
        )
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
            same_rows(
                [((row.kernel, row.modes), row.family) for row in rows],
                results.equivalent_families,
            ),
        )
    ]


def _details(results: KernelResults, run: Run) -> list[Table]:
    return [
        *control_tables(
            results.alignment, results.controls, equivalent=results.equivalent_families
        ),
        *_direction_table(results),
    ]


def spectra_figure(results: KernelResults, arrays: Arrays) -> CaptionedFigure:
    """The spectra of all kernels, from the arrays of a run."""
    values = arrays_below(arrays, "values/")
    whose = "the whole and the layerwise kernels" if results.config.by_layer else "the kernel"
    return CaptionedFigure(
        "spectra",
        plot_spectra(
            values,
            results.cliffs,
            max(of_kernel.size for of_kernel in values.values()),
            arrays_below(arrays, "shares/"),
            results.mode_features,
            noise_floors(arrays),
        ),
        f"The leading eigenvalues of {whose}. Look for the drops: each shaded group of modes ends "
        "at a cliff by the stated criterion.",
    )


def alignment_figure(results: KernelResults) -> CaptionedFigure:
    """The alignment of a run that has one."""
    return CaptionedFigure(
        "alignment",
        plot_alignment(results.alignment, results.controls, results.equivalent_families),
        "The overlap of each group of modes with each feature family, in per cent of the "
        "smaller of the two dimensions. If a cell is bright, far above chance, the kernel "
        "holds that feature; if it is dark in activations and outputs alone, they would not "
        f"have shown it.{chance_sentence(results.alignment)}",
    )


def _figures(results: KernelResults, run: Run) -> Figures:
    yield spectra_figure(results, run.arrays)
    if results.alignment:
        yield alignment_figure(results)


SHOW = Show(
    summary=summary,
    tables=tables,
    figures=_figures,
    status=_status,
    details=_details,
    modes=modes,
)
