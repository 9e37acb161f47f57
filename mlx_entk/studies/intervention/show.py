"""How an intervention on the network of a run is shown."""

from collections.abc import Iterator, Sequence

import numpy as np

from mlx_entk._files import Arrays
from mlx_entk._linalg import FloatArray
from mlx_entk.intervention.effects import BROKEN
from mlx_entk.plotting import CaptionedFigure, Drawing
from mlx_entk.plotting.style import COLORS, DIVERGING, MUTED, new_figure, styled
from mlx_entk.report import Table
from mlx_entk.runs import arrays_below
from mlx_entk.studies.intervention.intervene import (
    ORDERS,
    OTHER_EQUAL,
    PRINCIPAL_EQUAL,
    RANDOM,
    STEP,
)
from mlx_entk.studies.intervention.records import Control, Edit, Interval, Intervention

_DOES = {
    "undo": "Undoing what was learned along",
    "project": "Taking out of the weights what lies along",
    "step": f"A step of {STEP:.0%} of the weights' norm along",
}
_WHAT = {
    "undo": "−P(θ − θ₀): what was learned in the span of the modes is undone. Alone: the weights "
    "before training, and what was learned in that span.",
    "project": "−Pθ: what the weights hold in the span of the modes is taken out. Alone: only "
    "what they hold there.",
    "step": f"The weights move by {STEP:.0%} of their norm in the direction of one mode.",
}
# Controls of equal norm, as sentences call them.
_COMPARED = {
    RANDOM: "random changes",
    OTHER_EQUAL: "changes along other modes",
    PRINCIPAL_EQUAL: "principal directions of the activations",
}
# A loss below this share of a measure is none; and a control that comes within this share of an
# edit's loss does as much.
_NOTHING, _AS_MUCH = 0.005, 0.1
# The most features that a matrix names at its sides.
_NAMED = 60


def intervention_summary(found: Intervention) -> str:
    """What ``intervention.json`` found, in a sentence for each group and one for the features."""
    sentences = [_sentence(found, edit) for edit in found.edits]
    if found.singles:
        sentences.append(_features_sentence(found))
    return " ".join(sentences)


def _sentence(found: Intervention, edit: Edit) -> str:
    main, before, after = found.main, found.before[found.main], edit.after[found.main]
    lost = before - after
    does = f"{_DOES[found.by]} {edit.name}"
    alone = ""
    if edit.alone is not None:
        alone = f" With nothing but {edit.name} it is {_cell(main, edit.alone[main])}."
    if lost <= _NOTHING * abs(before):
        return f"{does} leaves the {main} at {_cell(main, after)}.{alone}"
    controls = {
        who: control
        for name, who in _COMPARED.items()
        if (control := edit.control(name)) is not None
    }
    cells = [
        f"{who} {'' if number else 'leave '}{_interval(main, control.after[main])}"
        for number, (who, control) in enumerate(controls.items())
    ]
    less = [
        who
        for who, control in controls.items()
        if control.after[main].mean - after > _AS_MUCH * lost and after < control.after[main].low
    ]
    rest = [who for who in controls if who not in less]
    verdict = (
        "It takes more than any of these."
        if not rest
        else f"It takes no more than {_listed(rest)}."
        if not less
        else f"It takes more than {_listed(less)}, but no more than {_listed(rest)}."
    )
    return (
        f"{does} takes the {main} from {_cell(main, before)} to {_cell(main, after)}. At equal "
        f"norm, {_listed(cells)}. {verdict}{alone}"
    )


def _listed(parts: Sequence[str]) -> str:
    *most, last = parts
    return f"{', '.join(most)} and {last}" if most else last


def _features_sentence(found: Intervention) -> str:
    rows = found.singles
    own = float(np.mean([row.own(found.features) for row in rows]))
    specific = float(np.mean([row.specificity for row in rows]))
    random = float(np.mean([row.random_specificity.mean for row in rows]))
    return (
        f"Of {len(rows)} features taken out one at a time, {found.dominant} change themselves the "
        f"most of all: by {own:+.0%} on average, which is {specific:.0%} of all changes, where "
        f"random changes of equal norm have {random:.0%}."
    )


def intervention_tables(found: Intervention) -> list[Table]:
    """The edits of groups with their controls, single features, and how local the edits are."""
    tables = [
        _edits_table(found, found.main, f"Intervention: {found.by}"),
        _linear_table(found),
    ]
    if found.singles:
        tables.append(_singles_table(found))
    return tables


def intervention_details(found: Intervention) -> list[Table]:
    """Tables for the report alone: the other measures, and every class or output."""
    others = list(found.before)[1:]
    tables = [_edits_table(found, name, f"Intervention: {name}") for name in others]
    return [*tables, *([_class_table(found)] if found.by_class else [])]


def _edits_table(found: Intervention, measure: str, title: str) -> Table:
    """One measure after every edit and its controls, and with nothing else."""
    rows = [("trained network", "", _cell(measure, found.before[measure]), "")]
    if found.initial is not None:
        rows.append(("before training", "", _cell(measure, found.initial[measure]), ""))
    for edit in found.edits:
        alone = "" if edit.alone is None else _cell(measure, edit.alone[measure])
        rows.append((edit.name, f"{edit.norm:.3g}", _cell(measure, edit.after[measure]), alone))
        for control in edit.controls:
            kept = "" if control.alone is None else _interval(measure, control.alone[measure])
            after = _interval(measure, control.after[measure])
            rows.append((f"… {control.name}", _norm(control), after, kept))
    changed = ", ".join(found.parameters[:6]) + (", …" if len(found.parameters) > 6 else "")
    note = (
        f"{_WHAT[found.by]} In brackets: the central 90% of {found.draws} draws. Equal norm: "
        "random directions have that of the edit in each parameter, the others over all of them. "
        f"Principal: of what each weight is multiplied with. Changed: {changed}; other parameters, "
        f"if there are any, stay trained. Kernel: {found.kernel}."
    )
    columns = ("edit", "norm", measure, "alone")
    return Table(title, columns, rows, note if measure == found.main else "")


def _linear_table(found: Intervention) -> Table:
    return Table(
        "How local the edits are",
        ("edit", "modes", "gradients", "share", "linear to", "where, and effective rank"),
        [
            (
                edit.name,
                str(edit.size),
                str(edit.dimension),
                f"{edit.share:.1%}",
                "all of it" if edit.linear.radius is None else f"{edit.linear.radius:.1%}",
                ", ".join(
                    f"{row.parameter} {row.share:.0%}"
                    + ("" if row.effective_rank is None else f" ({row.effective_rank:.1f})")
                    for row in sorted(edit.touched, key=lambda row: -row.share)[:3]
                ),
            )
            for edit in found.edits
        ],
        "Gradients: how many span what belongs to the modes in weight space. Share: the norm of "
        "the edit over that of "
        f"{'what was learned' if found.by == 'undo' else 'the weights'}. Linear to: the share "
        f"of the edit at which the outputs change by {BROKEN:.0%} more or less than a first-order "
        "prediction says. Effective rank: of the squared singular values of a matrix's change.",
    )


def _singles_table(found: Intervention) -> Table:
    selective = any(row.selectivity is not None for row in found.singles)
    names = ["feature", "norm", "itself", "random", "its share", "random ", found.main]
    if selective:
        names[-1:-1] = ["selects", "random  "]
    return Table(
        "Single features, taken out one at a time",
        names,
        [
            (
                row.feature,
                f"{row.norm:.3g}",
                f"{row.own(found.features):+.0%}",
                f"{row.random_own.mean:+.0%}",
                f"{row.specificity:.0%}",
                f"{row.random_specificity.mean:.0%}",
                *(_selectivity_cells(row.selectivity, row.random_selectivity) if selective else ()),
                _cell(found.main, row.after[found.main]),
            )
            for row in found.singles
        ],
        f"Taken out: {found.single_rule}. Itself: by how much the feature's strength in the "
        "outputs changes. Its share: of the changes of all features. "
        + (
            "Selects: the mean squared change of the outputs on inputs that have the feature, "
            "over that on inputs that do not. "
            if selective
            else ""
        )
        + f"Random: the mean of {found.draws} changes of equal norm.",
    )


def _selectivity_cells(value: float | None, random: Interval | None) -> tuple[str, str]:
    if value is None or random is None:
        return "", ""
    return f"{value:.3g}", f"{random.mean:.3g}"


def _class_table(found: Intervention) -> Table:
    rows = [("trained network", found.by_class), *((e.name, e.by_class) for e in found.edits)]
    return Table(
        "By class or output",
        ("edit", "lowest", "median", "highest"),
        [
            (name, *(f"{value:.3g}" for value in np.quantile(values, [0, 0.5, 1])))
            for name, values in rows
        ],
        "The accuracy on each class, or the loss of each output.",
    )


def _norm(control: Control) -> str:
    low, high = f"{control.norm.low:.3g}", f"{control.norm.high:.3g}"
    return low if low == high else f"{low}–{high}"


def _cell(name: str, value: float) -> str:
    """A measure as text: shares in per cent, counts and losses as they are."""
    if "accuracy" in name or "R²" in name:
        return f"{100 * value:.1f}%"
    return f"{value:.3g}"


def _interval(name: str, interval: Interval) -> str:
    mean = _cell(name, interval.mean)
    low, high = _cell(name, interval.low), _cell(name, interval.high)
    return mean if low == high else f"{mean} [{low}, {high}]"


def intervention_figures(found: Intervention, arrays: Arrays) -> Iterator[CaptionedFigure]:
    """Every figure of ``intervention.json`` with its caption."""
    yield CaptionedFigure(
        "intervention-effects",
        effects(found),
        f"The {found.main} of the network with edited weights. If the edit (blue) lies left of all "
        "controls (bars: the central 90%), the modes carry more of what the network does than "
        "other changes of that size; if what is left alone (green) lies right, they are enough for "
        "it. Dotted: the trained network and, if it is known, the network before training.",
    )
    yield CaptionedFigure(
        "intervention-dose",
        dose_response(found),
        f"The {found.main} over the share of the edit that is made, with the central 90% of random "
        "changes of the same norm (grey). A line below the band says that the direction matters, "
        "and not only the size.",
    )
    yield CaptionedFigure(
        "intervention-linear",
        linear(found),
        "How far a first-order prediction tells what an edit does to the outputs: their change "
        "less J Δ, over the size of J Δ. Beyond the dotted line the kernel's linear picture no "
        "longer describes the edit, whatever it predicts.",
    )
    if found.singles:
        yield CaptionedFigure(
            "intervention-features",
            features(found),
            "Rows: the feature that was taken out. Columns: by how much of itself the strength of "
            "each feature changes in the outputs. A dark diagonal on a white ground says that an "
            "edit removes its own feature and no other.",
        )
    if found.cumulative:
        yield CaptionedFigure(
            "intervention-cumulative",
            cumulative(found),
            f"The {found.main} after more and more features were taken out together, in {ORDERS} "
            "random orders (blue, with their range), and after random changes of the same norm "
            "(grey). A late drop says that the network has more features than it needs.",
        )
    grids = arrays_below(arrays, "grid/")
    if grids:
        yield CaptionedFigure(
            "intervention-maps",
            maps(grids),
            "The margin of every pair (n, m): the logit of the answer less the largest other one. "
            "Below zero (brown) the answer is wrong.",
        )


@styled
def effects(found: Intervention) -> Drawing:
    """The main measure after every edit, what is left alone, and every control."""
    main = found.main
    height = sum(2 + len(edit.controls) for edit in found.edits)
    figure, axes = new_figure(
        8.2, 0.9 + 0.27 * height + 0.3 * len(found.edits), len(found.edits), 1, sharex=True,
        height_ratios=[2 + len(edit.controls) for edit in found.edits],
    )  # fmt: skip
    for axis, edit in zip(axes, found.edits, strict=True):
        labels = [edit.name, *(["nothing else"] if edit.alone else [])]
        axis.plot(edit.after[main], 0, "o", color=COLORS[0], markersize=7)
        if edit.alone:
            axis.plot(edit.alone[main], 1, "D", color=COLORS[2], markersize=6)
        for control in edit.controls:
            interval = control.after[main]
            axis.plot(
                [interval.low, interval.high], [len(labels)] * 2,
                color=COLORS[1], linewidth=3, alpha=0.45, solid_capstyle="butt",
            )  # fmt: skip
            axis.plot(interval.mean, len(labels), "|", color=COLORS[1], markersize=11)
            labels.append(control.name)
        for value in (found.before, found.initial):
            if value is not None:
                axis.axvline(value[main], color=MUTED, linestyle=":", linewidth=1)
        axis.set_yticks(range(len(labels)), labels, fontsize=8)
        axis.set_ylim(len(labels) - 0.4, -0.6)
        axis.set_title(f"{_DOES[found.by]} {edit.name}")
    axes[-1].set_xlabel(main)
    return figure


@styled
def dose_response(found: Intervention) -> Drawing:
    """The main measure over doses, one panel for each edit."""
    columns = min(3, len(found.edits))
    rows = -(-len(found.edits) // columns)
    figure, axes = new_figure(3.6 * columns, 2.7 * rows, rows, columns, sharey=True)
    for axis, edit in zip(axes, found.edits, strict=False):
        doses = [dose.dose for dose in edit.doses]
        axis.fill_between(
            doses,
            [dose.random.low for dose in edit.doses],
            [dose.random.high for dose in edit.doses],
            color=MUTED, alpha=0.3, linewidth=0, label="random, central 90%",
        )  # fmt: skip
        values = [dose.value for dose in edit.doses]
        axis.plot(doses, values, "o-", color=COLORS[0], markersize=4, label="the edit")
        texts = [
            f"{dose:.0%} of the edit: {_cell(found.main, value)}"
            for dose, value in zip(doses, values, strict=True)
        ]
        figure.hint_points(axis, doses, values, texts)
        axis.set_title(edit.name)
        axis.set_xlabel("share of the edit")
    for axis in axes[len(found.edits) :]:
        axis.set_visible(False)
    axes[0].set_ylabel(found.main)
    figure.legend(
        *axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=8
    )
    return figure


@styled
def linear(found: Intervention) -> Drawing:
    """The deviation from the first-order prediction over doses."""
    figure, (axis,) = new_figure(6.2, 3.4)
    for number, edit in enumerate(found.edits):
        color = COLORS[number % len(COLORS)]
        found_at = [max(value, 1e-5) for value in edit.linear.deviation]
        axis.loglog(edit.linear.doses, found_at, "o-", color=color, markersize=3, label=edit.name)
    axis.axhline(BROKEN, color=MUTED, linestyle=":", linewidth=1)
    axis.set_xlabel("share of the edit")
    axis.set_ylabel("deviation from the prediction")
    axis.legend(fontsize=8)
    return figure


@styled
def features(found: Intervention) -> Drawing:
    """Features that were taken out × what becomes of every feature."""
    rows = [row.feature for row in found.singles]
    values = np.array([row.changes for row in found.singles])
    size = min(9.0, 2.2 + 0.22 * max(values.shape))
    figure, (axis,) = new_figure(size + 1.2, size)
    image = axis.imshow(values, cmap=DIVERGING, vmin=-1, vmax=1, aspect="auto")
    if len(rows) <= _NAMED and len(found.features) <= _NAMED:
        axis.set_xticks(
            range(len(found.features)), found.features, rotation=50, ha="right", fontsize=8
        )
        axis.set_yticks(range(len(rows)), rows, fontsize=8)
    axis.set_xlabel("strength in the outputs")
    axis.set_ylabel("taken out")
    figure.hint_cells(axis, rows, found.features, values, "change, as a share of the strength")
    figure.colorbar(image, ax=axis, label="change, as a share of the strength", pad=0.01)
    return figure


@styled
def cumulative(found: Intervention) -> Drawing:
    """The main measure after several features were taken out together."""
    figure, (axis,) = new_figure(5.6, 3.2)
    counts = [row.features for row in found.cumulative]
    for color, name, of_row in (
        (COLORS[0], "features", [row.value for row in found.cumulative]),
        (MUTED, "random, equal norm", [row.random for row in found.cumulative]),
    ):
        axis.fill_between(
            counts,
            [value.low for value in of_row],
            [value.high for value in of_row],
            color=color, alpha=0.2, linewidth=0,
        )  # fmt: skip
        axis.plot(
            counts, [value.mean for value in of_row], "o-", color=color, markersize=4, label=name
        )
    axis.set_xlabel("features taken out together")
    axis.set_ylabel(found.main)
    axis.legend(fontsize=8)
    return figure


@styled
def maps(grids: dict[str, FloatArray]) -> Drawing:
    """A number for each pair of summands, before and after every edit."""
    names: Sequence[str] = list(grids)
    columns = min(4, len(names))
    rows = -(-len(names) // columns)
    figure, axes = new_figure(2.9 * columns + 0.8, 3.3 * rows, rows, columns)
    for axis, name in zip(axes, names, strict=False):
        values = grids[name]
        # A scale of its own for each map, since edits change the size of all logits.
        most = float(np.quantile(np.abs(values), 0.99)) or 1.0
        image = axis.imshow(
            values / most, cmap="BrBG", vmin=-1, vmax=1, origin="lower", interpolation="nearest"
        )
        axis.set_title(name)
        axis.set_xlabel("m")
        axis.set_ylabel("n")
        sides = [list(map(str, range(length))) for length in values.shape]
        figure.hint_cells(axis, sides[0], sides[1], values, "margin")
    for axis in axes[len(names) :]:
        axis.set_visible(False)
    figure.colorbar(
        image, ax=axes[: len(names)], label="margin, over its 99th percentile", pad=0.01
    )
    return figure
