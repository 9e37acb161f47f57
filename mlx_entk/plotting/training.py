"""Accuracy and overlap over training."""

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure

from mlx_entk.plotting.style import COLORS, MUTED, modes_label, new_figure, styled


@styled
def grokking(metrics: Sequence[dict[str, Any]], tracked: dict[str, Any]) -> Figure:
    """Test accuracy beside the overlap of the main group with its family, and its derivative.

    Parameters
    ----------
    metrics
        Rows with ``epoch``, ``train accuracy`` and ``test accuracy``.
    tracked
        ``results["grokking"]``.
    """
    main = next(
        row
        for row in tracked["series"]
        if all(row[key] == tracked[key] for key in ("kernel", "modes", "family"))
    )
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
