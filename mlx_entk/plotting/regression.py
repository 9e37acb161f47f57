"""The figures of kernel regression."""

from collections.abc import Iterator

from mlx_entk._files import Json
from mlx_entk.plotting.drawing import Drawing
from mlx_entk.plotting.style import COLORS, MUTED, modes_label, new_figure, styled


def regression_figures(regression: Json) -> Iterator[tuple[str, Drawing]]:
    """Every figure of ``regression.json`` with its name."""
    yield "regression-path", path(regression)
    yield "regression-modes", modes(regression)


@styled
def path(regression: Json) -> Drawing:
    """R² against the network over the ridge, on held-out inputs; the chosen ridges marked."""
    figure, (axis,) = new_figure(6.6, 3.6)
    for color, row in zip(COLORS, regression["predictors"], strict=False):
        ridges, r2 = row["path"]["ridges"], row["path"]["r2"]
        axis.semilogx(ridges, r2, color=color, linewidth=1.7, label=row["predictor"])
        axis.plot(row["ridge"], row["r2"], "o", color=color)
    axis.axhline(0.8, color=MUTED, linestyle=":", linewidth=1.0)
    axis.annotate(
        "R² = 0.8, the rule of thumb", (0, 0.8), xycoords=("axes fraction", "data"),
        xytext=(4, 3), textcoords="offset points", color=MUTED, fontsize=8.5,
    )  # fmt: skip
    axis.set_ylim(-0.1, 1.03)
    axis.set_xlabel("ridge λ, in units of the mean eigenvalue")
    axis.set_ylabel("R² on held-out inputs")
    axis.legend(loc="lower left")
    return figure


@styled
def modes(regression: Json) -> Drawing:
    """What the pure kernel predictor keeps of the network with some of its modes."""
    found = regression["modes"]
    groups = found["without_group"]
    figure, (left, middle, right) = new_figure(12.4, 3.6, 1, 3, width_ratios=(1, 1, 0.9))
    tops = found["top"]
    left.semilogx(
        [row["k"] for row in tops], [row["r2"] for row in tops], "o-", color=COLORS[0], markersize=4
    )
    for number, (_, last) in enumerate(found["cliffs"]):
        left.axvline(last + 1, color=COLORS[1], linewidth=1.0)
        left.annotate(
            f"{last + 1}", (last + 1, 0.97 - 0.08 * (number % 3)),
            xycoords=("data", "axes fraction"),
            xytext=(-3, 0), textcoords="offset points", ha="right", va="top", color=COLORS[1],
        )  # fmt: skip
    left.set_xlabel("leading modes kept; cliffs marked")
    left.set_ylabel("R² on held-out inputs")
    whole, single = found["all"]["r2"], found["without_mode"]
    losses = [whole - row["r2"] for row in single]
    middle.bar([row["mode"] for row in single], losses, color=COLORS[0], width=0.9)
    texts = [
        f"without mode {row['mode']}: R² falls by {loss:.3g}"
        for row, loss in zip(single, losses, strict=True)
    ]
    figure.hint_points(middle, [row["mode"] for row in single], losses, texts)
    middle.axhline(0, color=MUTED, linewidth=0.8)
    middle.set_xlabel("mode removed")
    middle.set_ylabel("loss of R²")
    labels = ["all", *(modes_label(row["modes"]) for row in groups)]
    places = range(len(labels))
    right.barh(
        [place - 0.2 for place in places], [whole, *(row["r2"] for row in groups)],
        height=0.38, color=COLORS[1], label="without",
    )  # fmt: skip
    right.barh(
        [place + 0.2 for place in places], [whole, *(row["alone"]["r2"] for row in groups)],
        height=0.38, color=COLORS[2], label="alone",
    )  # fmt: skip
    right.set_yticks(places, labels)
    right.invert_yaxis()
    right.axvline(0, color=MUTED, linewidth=0.8)
    right.set_xlabel("R² of groups that end at a cliff")
    right.legend(fontsize=8.5, ncols=2, loc="lower right", bbox_to_anchor=(1, 1))
    return figure
