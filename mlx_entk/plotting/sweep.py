"""The figures of a sweep over seeds."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from mlx_entk._files import Json
from mlx_entk.plotting.drawing import Drawing
from mlx_entk.plotting.style import COLORS, MUTED, new_figure, styled
from mlx_entk.runs import Run


def sweep_figures(results: Json, runs: Mapping[int, Run]) -> Iterator[tuple[str, Drawing]]:
    """Every figure of a sweep with its name.

    Parameters
    ----------
    results
        ``results.json`` of the sweep.
    runs
        The finished runs by seed.
    """
    yield "sweep", figures(results["seeds"])
    tracked = {seed: run.results["grokking"] for seed, run in runs.items()
               if "moves" in run.results.get("grokking", {})}  # fmt: skip
    if tracked:
        yield "sweep-overlap", overlap(tracked)
        yield "sweep-leads", leads(tracked)


@styled
def figures(rows: Sequence[dict[str, Any]]) -> Drawing:
    """Every headline figure over the seeds, each on a scale of its own.

    Parameters
    ----------
    rows
        ``results["seeds"]``.
    """
    names = list(rows[0]["figures"])
    columns = 4
    lines = -(-len(names) // columns)
    figure, axes = new_figure(2.6 * columns, 1.7 * lines, lines, columns)
    for axis in axes[len(names) :]:
        axis.remove()
    ticks = range(len(rows))
    for axis, name in zip(axes, names, strict=False):
        values = [row["figures"][name] for row in rows]
        there = [(i, value) for i, value in enumerate(values) if value is not None]
        if there:
            axis.axhline(np.mean([value for _, value in there]), color=MUTED, linestyle=":")
            axis.plot(*zip(*there, strict=True), "o", color=COLORS[0], markersize=4)
        axis.set_title(name, fontsize=9)
        axis.set_xticks(ticks, [str(row["seed"]) for row in rows])
        axis.margins(y=0.15)
    figure.supxlabel("seed", fontsize=9.5)
    return figure


@styled
def overlap(tracked: Mapping[int, dict[str, Any]]) -> Drawing:
    """Test accuracy, and the overlap of the main group with its family, of every seed.

    Parameters
    ----------
    tracked
        ``results["grokking"]`` by seed.
    """
    figure, (above, below) = new_figure(7.2, 5.4, 2, 1, sharex=True)
    for number, (seed, of_seed) in enumerate(tracked.items()):
        (main,) = [
            row
            for row in of_seed["series"]
            if all(row[key] == of_seed[key] for key in ("kernel", "modes", "family"))
        ]
        color = COLORS[number % len(COLORS)]
        style = "-" if number < len(COLORS) else "--"
        percent = [100 * value for value in of_seed["test_accuracy"]]
        above.plot(of_seed["epochs"], percent, style, color=color, label=f"seed {seed}")
        percent = [100 * value / main["dimension"] for value in main["overlap"]]
        below.plot(of_seed["epochs"], percent, style, color=color)
    above.set_ylabel("test accuracy (%)")
    below.set_ylabel("overlap (%)")
    below.set_title(f"leading modes of the {main['kernel']} kernel with {main['family']}")
    below.set_xlabel("epoch")
    for axis in (above, below):
        axis.set_xscale("symlog", linthresh=200)
        axis.set_ylim(-3, 105)
    figure.legend(loc="outside right upper", fontsize=8.5)
    return figure


@styled
def leads(tracked: Mapping[int, dict[str, Any]]) -> Drawing:
    """How far ahead of the test accuracy each kernel turned to its family, in every seed.

    Parameters
    ----------
    tracked
        ``results["grokking"]`` by seed, with ``moves``.
    """
    found: dict[str, list[tuple[float, float]]] = {}
    for of_seed in tracked.values():
        for row in of_seed["moves"]:
            found.setdefault(row["kernel"], []).append((row["lead"], row["rise"]))
    order = sorted(found, key=lambda kernel: -float(np.median([lead for lead, _ in found[kernel]])))
    figure, (axis,) = new_figure(7.2, 1.4 + 0.34 * len(order))
    for number, kernel in enumerate(order):
        for lead, rise in found[kernel]:
            filled = COLORS[0] if rise >= 0.2 else "none"
            axis.plot(lead, number, "o", markersize=5, color=COLORS[0], markerfacecolor=filled)
        axis.plot(np.median([lead for lead, _ in found[kernel]]), number, "|", color=COLORS[1],
                  markersize=16, markeredgewidth=2)  # fmt: skip
    axis.axvline(0, color=MUTED, linewidth=0.8)
    axis.set_xscale("symlog", linthresh=100)
    axis.set_yticks(range(len(order)), order)
    axis.invert_yaxis()
    axis.set_xlabel("epochs ahead of the test accuracy (to the left: after it)")
    return figure
