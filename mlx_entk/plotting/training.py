"""Accuracy and overlap over training."""

from collections.abc import Sequence
from typing import Any

from mlx_entk.plotting.drawing import Drawing
from mlx_entk.plotting.style import (
    COLORS,
    MUTED,
    kernel_label,
    modes_label,
    new_figure,
    styled,
)


def epoch_labels(tracked: dict[str, Any]) -> list[str]:
    """What to say of each tracked epoch: how accurate, and how far the kernel has turned.

    Parameters
    ----------
    tracked
        ``results["grokking"]``.
    """
    main = _main(tracked)
    return [
        f"epoch {epoch}: test accuracy {accuracy:.1%}, {modes_label(tracked['modes'])} of the "
        f"{kernel_label(tracked['kernel'])} hold {overlap / main['dimension']:.0%} of "
        f"{tracked['family']}"
        for epoch, accuracy, overlap in zip(
            tracked["epochs"], tracked["test_accuracy"], main["overlap"], strict=True
        )
    ]


def _main(tracked: dict[str, Any]) -> dict[str, Any]:
    """The series that is set against the test accuracy."""
    return next(
        row
        for row in tracked["series"]
        if all(row[key] == tracked[key] for key in ("kernel", "modes", "family"))
    )


@styled
def grokking(metrics: Sequence[dict[str, Any]], tracked: dict[str, Any]) -> Drawing:
    """Test accuracy beside the overlap of the main group with its family, and its derivative.

    Parameters
    ----------
    metrics
        Rows with ``epoch``, ``train accuracy`` and ``test accuracy``.
    tracked
        ``results["grokking"]``.
    """
    main = _main(tracked)
    epochs, onset = tracked["epochs"], tracked["onset"]
    figure, (top, middle, bottom) = new_figure(7, 6.4, 3, 1, sharex=True)
    every = [row["epoch"] for row in metrics]
    for part, style in (("train", "--"), ("test", "-")):
        accuracy = [100 * row[f"{part} accuracy"] for row in metrics]
        top.plot(every, accuracy, style, color=COLORS[0], linewidth=1.6, label=part)
    top.set_ylabel("accuracy (%)")
    top.set_ylim(-3, 105)
    top.legend(loc="lower right")
    middle.plot(epochs, main["overlap"], ".-", color=COLORS[1])
    middle.set_ylabel("overlap ‖QᵀF‖²")
    middle.set_title(
        f"{modes_label(tracked['modes'])} of the {tracked['kernel']} kernel "
        f"with the {tracked['family']} family"
    )
    bottom.plot(epochs, main["derivative"], ".-", color=COLORS[2])
    bottom.axhline(0, color=MUTED, linewidth=0.8)
    bottom.set_ylabel("d overlap / d epoch")
    bottom.set_xlabel("epoch")
    for axis, which in ((top, "test_accuracy"), (middle, "overlap")):
        rise = onset[which]
        if rise["after"] <= rise["before"]:
            continue
        axis.axvspan(rise["onset"], rise["completion"], color=MUTED, alpha=0.15, linewidth=0)
        axis.annotate(
            f"rise from epoch {rise['onset']:.0f} to {rise['completion']:.0f}",
            (rise["completion"], 0.5),
            xycoords=("data", "axes fraction"),
            xytext=(8, 0),
            textcoords="offset points",
            color=MUTED,
        )
    bottom.axvline(onset["steepest_overlap"], color=MUTED, linestyle=":")
    bottom.annotate(
        f"steepest at epoch {onset['steepest_overlap']}",
        (onset["steepest_overlap"], 0.85),
        xycoords=("data", "axes fraction"),
        xytext=(8, 0),
        textcoords="offset points",
        color=MUTED,
    )
    return figure


@styled
def overlaps(tracked: dict[str, Any], families: Sequence[str]) -> Drawing:
    """Overlap of each mode group of each kernel with some families over training, in per cent.

    Parameters
    ----------
    tracked
        ``results["grokking"]``.
    families
        The families to draw.
    """
    shown = [row for row in tracked["series"] if row["family"] in families]
    kernels = list(dict.fromkeys(row["kernel"] for row in shown))
    groups = {
        kernel: sorted({tuple(row["modes"]) for row in shown if row["kernel"] == kernel})
        for kernel in kernels
    }
    rows, columns = max(map(len, groups.values())), len(kernels)
    figure, axes = new_figure(
        3.3 * columns, 0.6 + 2.2 * rows, rows, columns, sharex=True, sharey=True
    )
    for number, axis in enumerate(axes):
        kernel = kernels[number % columns]
        if number // columns >= len(groups[kernel]):
            axis.remove()
            continue
        modes = list(groups[kernel][number // columns])
        for row in shown:
            if (row["kernel"], row["modes"]) == (kernel, modes):
                percent = [100 * value / row["dimension"] for value in row["overlap"]]
                color = COLORS[families.index(row["family"])]
                axis.plot(tracked["epochs"], percent, color=color, label=row["family"])
        axis.set_title(f"{kernel_label(kernel)}, {modes_label(modes)}")
        axis.set_ylim(-3, 105)
        if number % columns == 0:
            axis.set_ylabel("overlap (%)")
        if number // columns == len(groups[kernel]) - 1:
            axis.set_xlabel("epoch")
            axis.tick_params(labelbottom=True)
    axes[0].legend(fontsize=8.5)
    return figure


@styled
def by_parameter(tracked: dict[str, Any], families: Sequence[str]) -> Drawing:
    """Overlap of the two groups of every kernel with some families over training, in per cent.

    The leading group in full lines, the next one dashed; the test accuracy in grey.

    Parameters
    ----------
    tracked
        ``results["grokking"]``.
    families
        The families to draw.
    """
    kernels = list(tracked["distance"])
    groups = sorted({tuple(row["modes"]) for row in tracked["series"]})
    leading, following = (list(modes) for modes in (groups[0], groups[-1]))
    columns = 5
    rows = -(-len(kernels) // columns)
    figure, axes = new_figure(
        2.7 * columns, 0.8 + 2.2 * rows, rows, columns, sharex=True, sharey=True
    )
    for axis in axes[len(kernels) :]:
        axis.remove()
    epochs = tracked["epochs"]
    for number, (axis, kernel) in enumerate(zip(axes, kernels, strict=False)):
        accuracy = [100 * value for value in tracked["test_accuracy"]]
        axis.fill_between(epochs, accuracy, color=MUTED, alpha=0.15, linewidth=0)
        for modes, style in ((leading, "-"), (following, "--")):
            for row in tracked["series"]:
                if (row["kernel"], row["modes"]) == (kernel, modes) and row["family"] in families:
                    percent = [100 * value / row["dimension"] for value in row["overlap"]]
                    color = COLORS[families.index(row["family"])]
                    label = row["family"] if style == "-" else None
                    axis.plot(epochs, percent, style, linewidth=1.3, color=color, label=label)
        axis.set_title(kernel_label(kernel))
        axis.set_ylim(-3, 105)
        if number % columns == 0:
            axis.set_ylabel("overlap, accuracy (%)")
        if number >= len(kernels) - columns:
            axis.set_xlabel("epoch")
    figure.legend(
        *axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=len(families)
    )
    return figure


@styled
def first_to_move(tracked: dict[str, Any]) -> Drawing:
    """When each kernel turned to its family, beside the rise of the test accuracy.

    Parameters
    ----------
    tracked
        ``results["grokking"]``, with ``moves``.
    """
    moves = tracked["moves"]
    figure, (axis,) = new_figure(7, 1.0 + 0.3 * len(moves))
    accuracy = tracked["half_rise_of_test_accuracy"]
    axis.axvline(accuracy, color=COLORS[1])
    axis.annotate(
        "test accuracy", (accuracy, 1), xycoords=("data", "axes fraction"), xytext=(4, 2),
        textcoords="offset points", color=COLORS[1], fontsize=8.5,
    )  # fmt: skip
    for number, row in enumerate(moves):
        color = COLORS[0] if row["rise"] >= 0.2 else COLORS[5]
        axis.plot([row["epoch"], accuracy], [number] * 2, color=color, linewidth=1.2, alpha=0.5)
        axis.plot(row["epoch"], number, "o", color=color)
    labels = [
        f"{kernel_label(row['kernel'])}: {row['family'].removesuffix(' (key)')} "
        f"+{100 * row['rise']:.0f}%"
        for row in moves
    ]
    axis.set_yticks(range(len(moves)), labels)
    axis.invert_yaxis()
    axis.set_xlabel("epoch of half the rise")
    axis.set_xlim(left=0)
    return figure
