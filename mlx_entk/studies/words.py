"""Sentences, captions and tables that several studies share."""

from collections.abc import Mapping, Sequence

from mlx_entk.analysis import WHOLE
from mlx_entk.cliffs import Cliff
from mlx_entk.features import Alignment
from mlx_entk.report import Table, modes_cell, p_cell

SPECTRA_CAPTION = (
    "The leading eigenvalues of the whole and the layerwise kernels after training. Look for the "
    "drops: each shaded group of modes ends at a cliff by the stated criterion."
)
ALIGNMENT_CAPTION = (
    "The overlap of each group of modes with each feature family, in per cent of the smaller of "
    "the two dimensions. If a cell is bright after training, but dark before it and by chance, the "
    "kernel has learned that feature."
)


def kernel_name(kernel: str) -> str:
    """The name of a kernel in a table: ``whole``, or the parameter's name."""
    return "whole" if kernel == WHOLE else kernel


def cliff_sentence(cliffs: Sequence[Cliff]) -> str:
    """The cliffs of a kernel as part of a sentence, by the modes before which they lie."""
    before = [str(cliff.before) for cliff in cliffs]
    if not before:
        return "no cliff by the stated criterion"
    if len(before) == 1:
        return f"one cliff, before mode {before[0]}"
    return f"cliffs before modes {', '.join(before[:-1])} and {before[-1]}"


def cliff_table(
    cliffs: Mapping[str, Sequence[Cliff]], ranks: Mapping[str, float | None], rule: str
) -> Table:
    """The groups of modes of each kernel that end at a cliff, its p, and the effective rank."""
    return Table(
        "Cliffs of the eNTK",
        ("kernel", "groups of modes that end at a cliff", "effective rank"),
        [
            (
                kernel_name(kernel),
                ", ".join(f"{modes_cell(c.modes)} (p {p_cell(c.p)})" for c in of_kernel) or "none",
                "" if (rank := ranks[kernel]) is None else f"{rank:.1f}",
            )
            for kernel, of_kernel in cliffs.items()
        ],
        f"Criterion: {rule}.",
    )


def alignment_table(
    rows: Sequence[Alignment],
    equivalent: Sequence[Sequence[str]],
    families: Sequence[str] | None = None,
) -> list[Table]:
    """The overlaps of groups of modes with feature families; no table if there are none.

    Parameters
    ----------
    equivalent
        Families that span the same space.
    families
        The families to show; by default all.
    """
    if not rows:
        return []
    shown = families or list(dict.fromkeys(row.family for row in rows))
    by_family = {(row.kernel, row.modes, row.family): row for row in rows}
    groups = dict.fromkeys((row.kernel, row.modes) for row in rows)
    same = "; ".join(" = ".join(group) for group in equivalent)
    apart = f" Families that span the same space have the same overlaps: {same}." if same else ""
    lines: list[tuple[str, ...]] = []
    for kernel, modes in groups:
        cells = [by_family[kernel, modes, family] for family in shown]
        lines.append(
            (kernel_name(kernel), modes_cell(modes), *(f"{row.overlap:.2f}" for row in cells))
        )
        lines.append(
            ("", "chance", *(f"{row.chance:.2f} ± {row.chance_deviation:.2f}" for row in cells))
        )
    return [
        Table(
            "Overlap ‖QᵀF‖² of groups of modes with feature families",
            ("kernel", "modes", *shown),
            lines,
            "An overlap is at most the smaller of the two dimensions. results.json has all "
            f"families, with percentages and angles.{apart}",
        )
    ]
