"""Sentences, captions and tables that several studies share."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal

from mlx_entk._files import Arrays
from mlx_entk.analysis import WHOLE
from mlx_entk.cliffs import CLIFF_RULE, Cliff
from mlx_entk.controls import OUTPUTS, ControlAlignment, Controls
from mlx_entk.features import Alignment
from mlx_entk.kernel import half_names
from mlx_entk.plotting.style import modes_label
from mlx_entk.report import Status, Table, modes_cell, p_cell
from mlx_entk.runs import arrays_below

SPECTRA_CAPTION = (
    "The leading eigenvalues of the whole and the layerwise kernels after training. Look for the "
    "drops: each shaded group of modes ends at a cliff by the stated criterion."
)
ALIGNMENT_CAPTION = (
    "The overlap of each group of modes with each feature family, in per cent of the smaller of "
    "the two dimensions, and what training changed, in points. If a cell is bright and training "
    "raised it, the kernel has learned that feature. The best of activations and outputs alone "
    "says whether anybody would need the kernel to see it."
)


def chance_sentence(rows: Sequence[Alignment]) -> str:
    """What random modes hold in a map of overlaps, as a sentence after its caption."""
    chances = sorted(row.chance_percent for row in rows)
    deviation = max(100 * row.chance_deviation / row.dimension for row in rows)
    least, most = f"{chances[0]:.0f}", f"{chances[-1]:.0f}"
    return (
        f" Chance gives {least if least == most else f'{least} to {most}'}%, with a standard "
        f"deviation of {deviation:.1f} points at most; the tables have it by cell."
    )


# What a run's own figures support, as the chips of a report


def cliff_status(cliffs: Sequence[Cliff]) -> Status:
    """How many cliffs a kernel has."""
    count = len(cliffs)
    text = {0: "no cliff", 1: "1 cliff"}.get(count, f"{count} cliffs")
    return Status(text, "yes" if count else "no", CLIFF_RULE)


def alignment_status(row: Alignment, controls: Controls) -> list[Status]:
    """Whether training and the kernel add to what a group of modes holds of a family.

    Parameters
    ----------
    row
        The overlap that the run's summary is about; with ``initial_percent``, if it is known what
        the same modes held before training.
    """
    before: float | None = getattr(row, "initial_percent", None)
    noise = 100 * row.chance_deviation / row.dimension
    told = f"{modes_label(row.modes)} and “{row.family}”"
    if row.percent - row.chance_percent < max(MIN_MARGIN, 2 * noise):
        return [Status("not above chance", "no", f"{holding_sentence(row)}.")]
    statuses = []
    if before is None:
        statuses.append(Status("no before-training control", "open", f"Of {told}."))
    else:
        learned = row.percent - before
        held = f"{told}: {row.percent:.0f}% after training, {before:.0f}% before."
        statuses.append(
            Status(f"learned: +{learned:.0f} points since before training", "yes", held)
            if learned >= max(MIN_MARGIN, 2 * noise)
            else Status("before training as well", "no", held)
        )
    best, margin = controls.best(row), controls.margin(row)
    if best is None or margin is None:
        statuses.append(Status("not compared with activations", "open", f"Of {told}."))
    else:
        held = f"{told}: {row.percent:.0f}%, {best.control} alone {best.percent:.0f}%."
        statuses.append(
            Status(f"beyond activations and outputs: +{margin:.0f} points", "yes", held)
            if margin >= MIN_MARGIN
            else Status(f"{best.control} alone: as much or more", "no", held)
        )
    return statuses


def kernel_name(kernel: str) -> str:
    """The name of a kernel in a table: ``whole``, or the parameter's name."""
    return "whole" if kernel == WHOLE else kernel


def noise_floors(arrays: Arrays) -> dict[str, float]:
    """The noise floor of each kernel of a run; none for runs of versions that did not keep it."""
    return {name: float(floor) for name, floor in arrays_below(arrays, "noise floor/").items()}


def cliff_sentence(cliffs: Sequence[Cliff]) -> str:
    """The cliffs of a kernel as part of a sentence, by the modes before which they lie."""
    before = [str(cliff.before) for cliff in cliffs]
    if not before:
        return "no cliff by the stated criterion"
    if len(before) == 1:
        return f"one cliff, before mode {before[0]}"
    return f"cliffs before modes {', '.join(before[:-1])} and {before[-1]}"


def cliff_table(
    cliffs: Mapping[str, Sequence[Cliff]],
    ranks: Mapping[str, float | None],
    rule: str,
    before: Mapping[str, Sequence[Cliff]] | None = None,
) -> Table:
    """The groups of modes of each kernel that end at a cliff, its p, and the effective rank.

    ``before`` has those before training, if they are known.
    """
    columns: tuple[str, ...] = ("kernel", "groups of modes that end at a cliff", "effective rank")
    if before is not None:
        columns = (*columns, "before training")
    return Table(
        "Cliffs of the eNTK",
        columns,
        [
            (
                kernel_name(kernel),
                _cliff_cell(of_kernel),
                "" if (rank := ranks[kernel]) is None else f"{rank:.1f}",
                *(() if before is None else (_cliff_cell(before[kernel]),)),
            )
            for kernel, of_kernel in cliffs.items()
        ],
        f"Criterion: {rule}.",
    )


def _cliff_cell(cliffs: Sequence[Cliff]) -> str:
    return ", ".join(f"{modes_cell(c.modes)} (p {p_cell(c.p)})" for c in cliffs) or "none"


def alignment_table(
    rows: Sequence[Alignment],
    equivalent: Sequence[Sequence[str]],
    families: Sequence[str] | None = None,
    controls: Controls | None = None,
) -> list[Table]:
    """The overlaps of groups of modes with feature families; no table if there are none.

    Parameters
    ----------
    equivalent
        Families that span the same space.
    families
        The families to show; by default all.
    controls
        What activations and outputs alone hold.
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
        lines.append(("", "chance", *(f"{row.chance:.2f}" for row in cells)))
    lines += control_lines(rows, shown, controls, lambda control: f"{control.overlap:.2f}")
    deviation = max(row.chance_deviation for row in rows)
    return [
        Table(
            "Overlap ‖QᵀF‖² of groups of modes with feature families",
            ("kernel", "modes", *shown),
            lines,
            "An overlap is at most the smaller of the two dimensions. results.json has all "
            "families, with percentages and angles. Chance: the mean of random modes; their "
            f"standard deviation is at most {deviation:.2f}.{control_note(controls)}{apart}",
        )
    ]


def control_lines(
    rows: Sequence[Alignment],
    families: Sequence[str],
    controls: Controls | None,
    cell: Callable[[ControlAlignment], str],
) -> Iterator[tuple[str, ...]]:
    """Lines of a table: the best of activations and of outputs, by size of the whole's groups.

    Parameters
    ----------
    families
        The columns after the first two.
    cell
        What stands in them.
    """
    if controls is None:
        return
    by_size = {
        (row.modes[1] - row.modes[0] + 1, row.family): row for row in rows if row.kernel == WHOLE
    }
    sources: tuple[Literal["activations", "outputs"], ...] = ("activations", "outputs")
    for size in dict.fromkeys(size for size, _ in by_size):
        for of in sources:
            best = [controls.best(by_size[size, family], of) for family in families]
            if all(best):
                yield (of, f"best {size}", *(cell(row) for row in best if row))


def control_note(controls: Controls | None) -> str:
    """What a note says of ``control_lines``; empty if there are none."""
    if controls is None or not controls.rows:
        return ""
    rule = f" Best: {controls.rule}."
    if not controls.equal_to_activations:
        return rule
    names = ", ".join(controls.equal_to_activations)
    return (
        f"{rule} The kernel of {names} is, up to scale, the Gram matrix of what the weight is "
        "multiplied with: it can hold nothing that the activations do not hold."
    )


def same_rows(
    keys: Sequence[tuple[object, str]], equivalent: Sequence[Sequence[str]]
) -> list[list[int]]:
    """Groups of rows of a table that are of the same thing and of families of the same space.

    Parameters
    ----------
    keys
        What each row is of, and its family.
    equivalent
        Families that span the same space.
    """
    space = {name: number for number, group in enumerate(equivalent) for name in group}
    found: dict[object, list[int]] = {}
    for number, (of, family) in enumerate(keys):
        if family in space:
            found.setdefault((of, space[family]), []).append(number)
    return [group for group in found.values() if len(group) > 1]


def holding_sentence(row: Alignment) -> str:
    """What a group of modes holds of a family, compared with chance, without a full stop."""
    first, last = row.modes
    return (
        f"Modes {first}–{last} hold {row.percent:.0f}% of “{row.family}”; chance gives "
        f"{row.chance_percent:.1f} ± {100 * row.chance_deviation / row.dimension:.1f}%"
    )


# Points by which an eNTK has to be ahead of every control, to be said to add something.
MIN_MARGIN = 1.0


def margin_sentence(row: Alignment, controls: Controls) -> str:
    """What the eNTK adds to activations and outputs alone; empty if there are no controls."""
    best, margin = controls.best(row), controls.margin(row)
    if best is None or margin is None:
        return ""
    found = (
        f"{_capital(best.control)} alone ({best.scaling}, modes {best.modes[0]}–{best.modes[1]}) "
        f"hold{'' if best.control == OUTPUTS else 's'} {best.percent:.0f}%"
    )
    if margin >= MIN_MARGIN:
        return f"{found}: the eNTK adds {margin:.0f} point{'' if round(margin) == 1 else 's'}."
    if margin > -MIN_MARGIN:
        return f"{found}: the eNTK adds nothing to that."
    return f"{found}, which is more."


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def control_tables(
    rows: Sequence[Alignment],
    controls: Controls,
    families: Sequence[str] | None = None,
    equivalent: Sequence[Sequence[str]] = (),
) -> list[Table]:
    """Where the best control of each group of the whole kernel lies, and which factor holds what.

    Parameters
    ----------
    rows
        The alignment.
    families
        The families to show; by default all.
    equivalent
        Families that span the same space.
    """
    wanted = [row for row in rows if families is None or row.family in families]
    lines = []
    for row in wanted:
        best, margin = controls.best(row), controls.margin(row)
        if row.kernel == WHOLE and best is not None and margin is not None:
            lines.append(
                (
                    modes_cell(row.modes),
                    row.family,
                    f"{row.percent:.1f}",
                    f"{best.percent:.1f}",
                    f"{margin:.1f}",
                    best.control,
                    best.scaling,
                    modes_cell(best.modes),
                )
            )
    tables = []
    if lines:
        tables.append(
            Table(
                "What the whole eNTK adds to activations and outputs alone, %",
                (
                    "modes",
                    "family",
                    "eNTK",
                    "best control",
                    "margin",
                    "control",
                    "scaling",
                    "there",
                ),
                lines,
                f"Control: {controls.rule}. Margin: points of the eNTK beyond it.",
                same_rows([(line[0], line[1]) for line in lines], equivalent),
            )
        )
    return tables + _factor_tables(wanted, controls, equivalent)


def _factor_tables(
    rows: Sequence[Alignment], controls: Controls, equivalent: Sequence[Sequence[str]]
) -> list[Table]:
    by_key = {(f.control, f.size, f.family): f for f in controls.factors}
    lines = []
    for row in rows:
        size = row.modes[1] - row.modes[0] + 1
        halves = [by_key.get((half, size, row.family)) for half in half_names(row.kernel)]
        if all(halves):
            lines.append(
                (
                    row.kernel,
                    modes_cell(row.modes),
                    row.family,
                    f"{row.percent:.1f}",
                    *(f"{half.percent:.1f}" for half in halves if half is not None),
                )
            )
    if not lines:
        return []
    return [
        Table(
            "Which factor of a layer's kernel holds a family, %",
            ("kernel", "modes", "family", "kernel's modes", "activations", "backward"),
            lines,
            "The kernel of a layer is (a·a′)(δ·δ′): of activations and of derivatives of the "
            "outputs. Of each factor, the group of equal size that holds the most of the family.",
            same_rows([((line[0], line[1]), line[2]) for line in lines], equivalent),
        )
    ]
