"""Charts of networks that add modulo p: training, key and single frequencies, neurons."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes

from mlx_entk._files import Json
from mlx_entk._linalg import Float64Array
from mlx_entk.controls import ControlAlignment
from mlx_entk.plotting.drawing import Drawing
from mlx_entk.plotting.style import (
    COLORS,
    DIVERGING,
    MUTED,
    SEQUENTIAL,
    kernel_label,
    modes_label,
    new_figure,
    styled,
)
from mlx_entk.spectrum import Modes
from mlx_entk.studies.results import Grokking, GrokkingByParameter
from mlx_entk.studies.words import kernel_name


def epoch_labels(tracked: Grokking) -> list[str]:
    """What to say of each tracked epoch: how accurate, and how far the kernel has turned."""
    return [
        f"epoch {epoch}: test accuracy {accuracy:.1%}, {modes_label(tracked.modes)} of the "
        f"{kernel_name(tracked.kernel)} kernel hold {percent:.0f}% of {tracked.family}"
        for epoch, accuracy, percent in zip(
            tracked.epochs, tracked.test_accuracy, tracked.main.percent, strict=True
        )
    ]


@styled
def grokking(
    metrics: Sequence[Json], tracked: Grokking, control: ControlAlignment | None = None
) -> Drawing:
    """Test accuracy above the overlap of the main group with its family, and its derivative.

    Parameters
    ----------
    metrics
        Rows with ``epoch``, ``train accuracy`` and ``test accuracy``.
    control
        The best control of the same family after training, drawn as a line.
    """
    main = tracked.main
    epochs, onset = tracked.epochs, tracked.onset
    figure, (top, middle, bottom) = new_figure(7, 6.4, 3, 1, sharex=True)
    every = [row["epoch"] for row in metrics]
    for part, style in (("train", "--"), ("test", "-")):
        accuracy = [100 * row[f"{part} accuracy"] for row in metrics]
        top.plot(every, accuracy, style, color=COLORS[0], linewidth=1.6, label=part)
    top.set_ylabel("accuracy (%)")
    top.set_ylim(-3, 105)
    top.legend(loc="lower right")
    middle.plot(epochs, main.overlap, ".-", color=COLORS[1])
    if control is not None:
        middle.axhline(control.overlap, color=MUTED, linestyle="--", linewidth=1.2)
        middle.annotate(
            f"{control.control} alone, after training", (0, control.overlap),
            xycoords=("axes fraction", "data"), xytext=(4, 3), textcoords="offset points",
            color=MUTED, fontsize=9.5,
        )  # fmt: skip
    middle.set_ylabel("overlap ‖QᵀF‖²")
    middle.set_title(
        f"{modes_label(tracked.modes)} of the {kernel_name(tracked.kernel)} kernel "
        f"with the {tracked.family} family"
    )
    bottom.plot(epochs, main.derivative, ".-", color=COLORS[2])
    bottom.axhline(0, color=MUTED, linewidth=0.8)
    bottom.set_ylabel("d overlap / d epoch")
    bottom.set_xlabel("epoch")
    for axis, rise in ((top, onset.test_accuracy), (middle, onset.overlap)):
        if not rise.rises:
            continue
        axis.axvspan(rise.onset, rise.completion, color=MUTED, alpha=0.15, linewidth=0)
        label = f"rise from epoch {rise.onset:.0f} to {rise.completion:.0f}"
        _annotate(axis, label, rise.completion, 0.5)
    bottom.axvline(onset.steepest_overlap, color=MUTED, linestyle=":")
    _annotate(bottom, f"steepest at epoch {onset.steepest_overlap}", onset.steepest_overlap, 0.85)
    return figure


def _annotate(axis: Axes, text: str, epoch: float, height: float) -> None:
    """Write next to an epoch, at a share of the axis's height."""
    axis.annotate(
        text, (epoch, height), xycoords=("data", "axes fraction"), xytext=(8, 0),
        textcoords="offset points", color=MUTED,
    )  # fmt: skip


@styled
def kernels_in_training(tracked: Grokking) -> Drawing:
    """Accuracy of network and after kernel, alignment with targets and last kernel, velocity."""
    figure, (top, targets, final, bottom) = new_figure(7, 8.6, 4, 1, sharex=True)
    for label, values, style in (
        ("network", tracked.test_accuracy, "-"),
        (f"{kernel_name(tracked.kernel)} kernel", tracked.after_kernel_accuracy, "--"),
    ):
        percent = [100 * value for value in values]
        top.plot(tracked.epochs, percent, style, color=COLORS[0], label=label)
    top.set_ylabel("test accuracy (%)")
    top.set_ylim(-3, 105)
    top.legend(loc="lower right")
    panels = (
        (targets, tracked.with_targets, "with the targets"),
        (final, tracked.with_final, "with the last kernel"),
        (bottom, tracked.velocity, "velocity per epoch"),
    )
    for axis, by_kernel, title in panels:
        for number, (kernel, values) in enumerate(by_kernel.items()):
            style = "-" if number < len(COLORS) else "--"
            color = COLORS[number % len(COLORS)]
            start = 1 if axis is bottom else 0  # there is no checkpoint before the first
            axis.plot(
                tracked.epochs[start:], values[start:], style, color=color, linewidth=1.4,
                label=kernel_name(kernel),
            )  # fmt: skip
        axis.set_ylabel(title)
    if any(value > 0 for values in tracked.velocity.values() for value in values):
        bottom.set_yscale("log")
    bottom.set_xlabel("epoch")
    targets.set_title("centred alignment of the kernels")
    figure.legend(*targets.get_legend_handles_labels(), loc="outside right center", fontsize=9.5)
    return figure


@styled
def overlaps(tracked: Grokking, families: Sequence[str]) -> Drawing:
    """Overlap of each mode group of each kernel with some families over training, in per cent."""
    shown = [row for row in tracked.series if row.family in families]
    kernels = list(dict.fromkeys(row.kernel for row in shown))
    groups = {
        kernel: sorted({row.modes for row in shown if row.kernel == kernel}) for kernel in kernels
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
        modes = groups[kernel][number // columns]
        for row in shown:
            if (row.kernel, row.modes) == (kernel, modes):
                color = COLORS[families.index(row.family)]
                axis.plot(tracked.epochs, row.percent, color=color, label=row.family)
        axis.set_title(f"{kernel_label(kernel)}, {modes_label(modes)}")
        axis.set_ylim(-3, 105)
        if number % columns == 0:
            axis.set_ylabel("overlap (%)")
        if number // columns == len(groups[kernel]) - 1:
            axis.set_xlabel("epoch")
            axis.tick_params(labelbottom=True)
    axes[0].legend(fontsize=9.5)
    return figure


@styled
def by_parameter(tracked: Grokking, families: Sequence[str]) -> Drawing:
    """Overlap of the two groups of every kernel with some families over training, in per cent.

    The leading group has full lines, the next one dashed ones; the test accuracy is grey.
    """
    kernels = list(tracked.distance)
    groups = sorted({row.modes for row in tracked.series})
    leading, following = groups[0], groups[-1]
    columns = 5
    rows = -(-len(kernels) // columns)
    figure, axes = new_figure(
        2.7 * columns, 0.8 + 2.2 * rows, rows, columns, sharex=True, sharey=True
    )
    for axis in axes[len(kernels) :]:
        axis.remove()
    for number, (axis, kernel) in enumerate(zip(axes, kernels, strict=False)):
        accuracy = [100 * value for value in tracked.test_accuracy]
        axis.fill_between(tracked.epochs, accuracy, color=MUTED, alpha=0.15, linewidth=0)
        for modes, style in ((leading, "-"), (following, "--")):
            for row in tracked.series:
                if (row.kernel, row.modes) != (kernel, modes) or row.family not in families:
                    continue
                color = COLORS[families.index(row.family)]
                label = row.family if style == "-" else None
                axis.plot(
                    tracked.epochs, row.percent, style, linewidth=1.3, color=color, label=label
                )
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
def first_to_move(tracked: GrokkingByParameter, labels: Mapping[str, str]) -> Drawing:
    """When each kernel turned to its family, compared with the rise of the test accuracy.

    Parameters
    ----------
    labels
        What each family is called.
    """
    moves = tracked.moves
    figure, (axis,) = new_figure(7, 1.0 + 0.3 * len(moves))
    accuracy = tracked.half_rise_of_test_accuracy
    axis.axvline(accuracy, color=COLORS[1])
    axis.annotate(
        "test accuracy", (accuracy, 1), xycoords=("data", "axes fraction"), xytext=(4, 2),
        textcoords="offset points", color=COLORS[1], fontsize=9.5,
    )  # fmt: skip
    for number, move in enumerate(moves):
        color = COLORS[0] if move.rose else COLORS[5]
        axis.plot([move.epoch, accuracy], [number] * 2, color=color, linewidth=1.2, alpha=0.5)
        axis.plot(move.epoch, number, "o", color=color)
    names = [
        f"{kernel_label(move.kernel)}: {labels[move.family]} +{100 * move.rise:.0f}%"
        for move in moves
    ]
    axis.set_yticks(range(len(moves)), names)
    axis.invert_yaxis()
    axis.set_xlabel("epoch of half the rise")
    axis.set_xlim(left=0)
    return figure


@styled
def key_frequencies(
    power: Mapping[str, Float64Array], keys: Mapping[str, Sequence[int]]
) -> Drawing:
    """Share of each frequency by source, the key ones in colour.

    Parameters
    ----------
    power
        Shares of frequencies 1, 2, … by source.
    keys
        The key frequencies by source.
    """
    figure, axes = new_figure(7.2, 2.9, 1, len(power), sharey=True)
    for axis, (source, shares) in zip(axes, power.items(), strict=True):
        frequencies = np.arange(1, shares.size + 1)
        colors = [COLORS[1] if k in keys[source] else MUTED for k in frequencies]
        axis.bar(frequencies, 100 * shares, color=colors)
        uniform = 100 / shares.size
        axis.axhline(
            uniform,
            color=MUTED,
            linestyle=":",
            linewidth=1.2,
            label=f"uniform share, {uniform:.1f}%",
        )
        axis.set_xticks(frequencies[:: max(1, shares.size // 14)])
        axis.set_title(f"by the {source}")
        texts = [
            f"frequency {k}: {share:.1%}" for k, share in zip(frequencies, shares, strict=True)
        ]
        figure.hint_points(axis, frequencies, 100 * shares, texts)
        axis.set_xlabel("frequency k")
    axes[0].set_ylabel("share of the power (%)")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper right", fontsize=9.5)
    return figure


@styled
def frequencies(
    maps: Mapping[Modes, Float64Array], families: Sequence[str], kernel: str
) -> Drawing:
    """|cosine| of each disentangled mode with each frequency of each family.

    Parameters
    ----------
    maps
        By mode group, shape (modes, families × frequencies).
    families
        Names, in the order of the columns.
    kernel
        Whose modes they are.
    """
    figure, axes = new_figure(7.2, 3.4 * len(maps), len(maps), 1)
    for axis, (modes, heatmap) in zip(axes, maps.items(), strict=True):
        order = np.argsort(heatmap.argmax(axis=1), kind="stable")
        K = heatmap.shape[1] // len(families)
        image = axis.imshow(
            heatmap[order], cmap=SEQUENTIAL, vmin=0, vmax=1, aspect="auto", interpolation="nearest"
        )
        for number in range(1, len(families)):
            axis.axvline(number * K - 0.5, color="white", linewidth=1.2)
        # Every frequency of a small p, about three of a large one.
        step = max(1, round(K / 4))
        ticks = [f * K + k for f in range(len(families)) for k in range(0, K, step)]
        axis.set_xticks(ticks, [str(tick % K + 1) for tick in ticks], fontsize=9.5)
        for number, family in enumerate(families):
            axis.text(
                (number + 0.5) * K - 0.5, -0.02 * heatmap.shape[0] - 0.5, family,
                ha="center", va="bottom",
            )  # fmt: skip
        axis.set_title(f"{kernel_label(kernel)}, {modes_label(modes)}", pad=18)
        figure.hint_cells(
            axis,
            [f"rotated mode {number}" for number in range(len(heatmap))],
            [f"{family}, k = {k + 1}" for family in families for k in range(K)],
            heatmap[order],
            "|cosine|",
        )
        axis.set_ylabel("disentangled mode")
        axis.spines[:].set_visible(False)
        figure.colorbar(image, ax=axis, label="|cosine|, any phase")
    axes[-1].set_xlabel("frequency k, of each family")
    return figure


@styled
def preactivations(neurons: Float64Array) -> Drawing:
    """Preactivations of some neurons over ℤ_p².

    Parameters
    ----------
    neurons
        Shape (neurons, p, p).
    """
    columns = 3
    rows = -(-len(neurons) // columns)
    figure, axes = new_figure(7.2, 2.4 * rows, rows, columns, sharex=True, sharey=True)
    limit = float(np.abs(neurons).max())
    for axis in axes[len(neurons) :]:
        axis.remove()
    for number, (axis, values) in enumerate(zip(axes, neurons, strict=False)):
        image = axis.imshow(values, cmap=DIVERGING, vmin=-limit, vmax=limit, origin="lower")
        rows_of, columns_of = ([f"{of} = {v}" for v in range(len(values))] for of in "nm")
        figure.hint_cells(axis, rows_of, columns_of, values, "preactivation")
        if number % columns == 0:
            axis.set_ylabel("n")
        if number >= len(neurons) - columns:
            axis.set_xlabel("m")
    figure.colorbar(image, ax=axes[: len(neurons)], label="preactivation")
    figure.suptitle("Neurons with the largest readout weights, over all inputs (n, m)", fontsize=10)
    return figure
