"""How the kernel regression of a run is shown."""

from mlx_entk.plotting import CaptionedFigure, Drawing
from mlx_entk.plotting.style import COLORS, MUTED, modes_label, new_figure, styled
from mlx_entk.regression import MIN_R2, Quality
from mlx_entk.report import Table, modes_cell
from mlx_entk.studies.base import Figures
from mlx_entk.studies.regression.regress import HEAD, PURE, RANDOM_GROUPS, RIDGES
from mlx_entk.studies.results import ByModes, Predictor, Regression

_LINEARISED_NOTE = (
    "The linearised predictor has no verdict: it is the network plus a correction of a residual "
    "that is close to zero, so it is close to the network by any kernel, also one of shuffled "
    "inputs."
)


def regression_tables(regression: Regression) -> list[Table]:
    """Each predictor at its best ridge, and the pure kernel predictor by its modes."""
    inputs, by_modes = regression.inputs, regression.modes
    quality = ("R²", "loss ratio", "accuracy gap")
    parts = [("all", *_quality_cells(by_modes.all))]
    for row in by_modes.without_group:
        modes = modes_cell(row.modes)
        parts.append((f"without {modes}", *_quality_cells(row)))
        parts.append(("... of as many random modes", str(row.random), "", ""))
        parts.append((f"{modes} alone", *_quality_cells(row.alone)))
        parts.append(("... of as many random modes", str(row.random_alone), "", ""))
    return [
        Table(
            f"Kernel regression by the {regression.kernel} kernel: {inputs.train} training inputs, "
            f"{inputs.held_out} held-out inputs",
            ("predictor", "ridge", *quality, "describes it"),
            [
                (
                    row.predictor,
                    _ridge_cell(row),
                    *_quality_cells(row),
                    {True: "yes", False: "no", None: ""}[row.described],
                )
                for row in regression.predictors
            ],
            f"Describes it: {regression.verdict_rule}, the thresholds that the author's notebook "
            f"uses. {_LINEARISED_NOTE} The ridge is in units of the mean eigenvalue: "
            f"{regression.ridge_rule}.",
        ),
        Table(
            "The pure kernel predictor by its modes",
            ("modes", *quality),
            parts,
            "Each group of modes ends at a cliff of the kernel on the training inputs. Random "
            f"modes: mean and standard deviation of {RANDOM_GROUPS} draws from the other ones of "
            f"the leading {HEAD}.",
        ),
        *_alignment_tables(regression),
    ]


def _ridge_cell(row: Predictor) -> str:
    """The ridge; a bound if it is the smallest or the largest that was tried."""
    bound = "" if not row.at_edge else "≤ " if row.ridge == RIDGES[0] else "≥ "
    return f"{bound}{row.ridge:.0e}"


def _alignment_tables(regression: Regression) -> list[Table]:
    """What the groups of modes of the kernel on the training inputs hold."""
    rows = regression.alignment
    if not rows:
        return []
    families = list(dict.fromkeys(row.family for row in rows))
    by_key = {(row.modes, row.family): row for row in rows}
    return [
        Table(
            "What the groups of modes hold of families of features, %",
            ("modes", *families),
            [
                (
                    modes_cell(modes),
                    *(
                        f"{by_key[modes, f].percent:.0f} ({by_key[modes, f].chance_percent:.0f})"
                        for f in families
                    ),
                )
                for modes in dict.fromkeys(row.modes for row in rows)
            ],
            "In brackets: by chance. The features are over the training inputs alone.",
        )
    ]


def regression_summary(regression: Regression) -> str:
    """What ``regression.json`` found, in a sentence."""
    by_name = {row.predictor: row for row in regression.predictors}
    pure = by_name[PURE]
    also = [row.predictor for row in by_name.values() if row.described and row is not pure]
    others = "".join(
        f"; {name}: {row.r2:.2f}"
        for name, row in by_name.items()
        if row is not pure and row.described is not None
    )
    verdict = "describes" if pure.described else "does not describe"
    found = f"The pure kernel {verdict} the network by the stated rule (R² {pure.r2:.2f}{others})."
    if pure.described and also:
        return f"{found} So does the {' and the '.join(also)}, so that this says little."
    return found


def regression_figures(regression: Regression) -> Figures:
    """Every figure of ``regression.json`` with its caption."""
    yield CaptionedFigure(
        "regression-path",
        path(regression),
        "A pure kernel explains most of the network if its line is above the dotted one, and those "
        "of the controls are not. The lines are the R² of each predictor with the network on "
        f"held-out inputs, over the ridge; the dots are the ridges that are reported. "
        f"{_LINEARISED_NOTE}",
    )
    yield CaptionedFigure(
        "regression-modes",
        modes(regression.modes),
        "Which modes carry the function: a group of modes that has a high R² alone (green) is "
        "enough; one without which R² is low (orange) is needed. The panels show the pure kernel "
        "predictor by its leading modes, with single modes removed, and by groups.",
    )


def _quality_cells(quality: Quality) -> tuple[str, str, str]:
    ratio, gap = quality.loss_ratio, quality.accuracy_gap
    return (
        f"{quality.r2:.3f}",
        "" if ratio is None else f"{ratio:.3g}",
        "" if gap is None else f"{100 * gap:.1f}",
    )


@styled
def path(regression: Regression) -> Drawing:
    """R² with the network on held-out inputs over the ridge, with the chosen ridges marked."""
    figure, (axis,) = new_figure(6.6, 3.6)
    for color, row in zip(COLORS, regression.predictors, strict=False):
        axis.semilogx(row.path.ridges, row.path.r2, color=color, linewidth=1.7, label=row.predictor)
        axis.plot(row.ridge, row.r2, "o", color=color)
    axis.axhline(MIN_R2, color=MUTED, linestyle=":", linewidth=1.0)
    axis.annotate(
        f"R² = {MIN_R2:g}, the rule of thumb", (0, MIN_R2), xycoords=("axes fraction", "data"),
        xytext=(4, 3), textcoords="offset points", color=MUTED, fontsize=8.5,
    )  # fmt: skip
    axis.set_ylim(-0.1, 1.03)
    axis.set_xlabel("ridge λ, in units of the mean eigenvalue")
    axis.set_ylabel("R² on held-out inputs")
    axis.legend(loc="lower left")
    return figure


@styled
def modes(by_modes: ByModes) -> Drawing:
    """R² of the pure kernel predictor with some of its modes."""
    groups = by_modes.without_group
    figure, (left, middle, right) = new_figure(12.4, 3.6, 1, 3, width_ratios=(1, 1, 0.9))
    tops = by_modes.top
    left.semilogx(
        [row.k for row in tops], [row.r2 for row in tops], "o-", color=COLORS[0], markersize=4
    )
    for number, cliff in enumerate(by_modes.cliffs):
        left.axvline(cliff.before, color=COLORS[1], linewidth=1.0)
        left.annotate(
            f"{cliff.before}", (cliff.before, 0.97 - 0.08 * (number % 3)),
            xycoords=("data", "axes fraction"),
            xytext=(-3, 0), textcoords="offset points", ha="right", va="top", color=COLORS[1],
        )  # fmt: skip
    left.set_xlabel("leading modes kept; cliffs marked")
    left.set_ylabel("R² on held-out inputs")
    whole, single = by_modes.all.r2, by_modes.without_mode
    losses = [whole - row.r2 for row in single]
    middle.bar([row.mode for row in single], losses, color=COLORS[0], width=0.9)
    texts = [
        f"without mode {row.mode}: R² falls by {loss:.3g}"
        for row, loss in zip(single, losses, strict=True)
    ]
    figure.hint_points(middle, [row.mode for row in single], losses, texts)
    middle.axhline(0, color=MUTED, linewidth=0.8)
    middle.set_xlabel("mode removed")
    middle.set_ylabel("loss of R²")
    labels = ["all", *(modes_label(row.modes) for row in groups)]
    places = range(len(labels))
    right.barh(
        [place - 0.2 for place in places], [whole, *(row.r2 for row in groups)],
        height=0.38, color=COLORS[1], label="without",
    )  # fmt: skip
    right.barh(
        [place + 0.2 for place in places], [whole, *(row.alone.r2 for row in groups)],
        height=0.38, color=COLORS[2], label="alone",
    )  # fmt: skip
    right.set_yticks(places, labels)
    right.invert_yaxis()
    right.axvline(0, color=MUTED, linewidth=0.8)
    right.set_xlabel("R² of groups that end at a cliff")
    right.legend(fontsize=8.5, ncols=2, loc="lower right", bbox_to_anchor=(1, 1))
    return figure
