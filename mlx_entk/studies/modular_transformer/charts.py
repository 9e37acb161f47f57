"""Charts of several seeds of the transformer."""

from collections.abc import Mapping

import numpy as np

from mlx_entk.plotting.drawing import Drawing
from mlx_entk.plotting.style import COLORS, MUTED, new_figure, styled
from mlx_entk.studies.results import Grokking, GrokkingByParameter, Move
from mlx_entk.studies.words import kernel_name


@styled
def overlap_by_seed(tracked: Mapping[int, Grokking]) -> Drawing:
    """Test accuracy, and the overlap of the main group with its family, of every seed."""
    figure, (above, below) = new_figure(7.2, 5.4, 2, 1, sharex=True)
    for number, (seed, of_seed) in enumerate(tracked.items()):
        color = COLORS[number % len(COLORS)]
        style = "-" if number < len(COLORS) else "--"
        accuracy = [100 * value for value in of_seed.test_accuracy]
        above.plot(of_seed.epochs, accuracy, style, color=color, label=f"seed {seed}")
        below.plot(of_seed.epochs, of_seed.main.percent, style, color=color)
    above.set_ylabel("test accuracy (%)")
    below.set_ylabel("overlap (%)")
    below.set_title(
        f"leading modes of the {kernel_name(of_seed.kernel)} kernel with {of_seed.family}"
    )
    below.set_xlabel("epoch")
    for axis in (above, below):
        axis.set_xscale("symlog", linthresh=200)
        axis.set_ylim(-3, 105)
    figure.legend(loc="outside right upper", fontsize=9.5)
    return figure


@styled
def leads(tracked: Mapping[int, GrokkingByParameter]) -> Drawing:
    """How far ahead of the test accuracy each kernel turned to its family, in every seed."""
    moves: dict[str, list[Move]] = {}
    for of_seed in tracked.values():
        for move in of_seed.moves:
            moves.setdefault(move.kernel, []).append(move)
    medians = {
        kernel: np.median([m.lead for m in of_kernel]) for kernel, of_kernel in moves.items()
    }
    order = sorted(moves, key=lambda kernel: -float(medians[kernel]))
    figure, (axis,) = new_figure(7.2, 1.4 + 0.34 * len(order))
    for number, kernel in enumerate(order):
        for move in moves[kernel]:
            filled = COLORS[0] if move.rose else "none"
            axis.plot(move.lead, number, "o", markersize=5, color=COLORS[0], markerfacecolor=filled)
        axis.plot(medians[kernel], number, "|", color=COLORS[1], markersize=16, markeredgewidth=2)
    axis.axvline(0, color=MUTED, linewidth=0.8)
    axis.set_xscale("symlog", linthresh=100)
    axis.set_yticks(range(len(order)), [kernel_name(kernel) for kernel in order])
    axis.invert_yaxis()
    axis.set_xlabel("epochs ahead of the test accuracy (to the left: after it)")
    return figure
