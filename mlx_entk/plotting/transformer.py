"""The figures of the modular-addition transformer."""

from collections.abc import Iterator

from matplotlib.figure import Figure

from mlx_entk.plotting import heatmaps, spectra, training
from mlx_entk.runs import Run, arrays_below

# Followed over training: what the kernels turn to, and the control.
_FAMILIES = ("sum (key)", "axis sum (key)", "difference (key)", "axis difference (key)", "random")


def transformer_figures(run: Run) -> Iterator[tuple[str, Figure]]:
    """Every figure of a finished run with its name, drawn one at a time."""
    results, arrays = run.results, run.arrays
    tracked, keys = results["grokking"], results["key_frequencies"]
    yield "grokking", training.grokking(run.metrics, tracked)
    sources = ("embedding", "kernel")
    power = {source: arrays[f"{source} power"] for source in sources}
    yield "key-frequencies", heatmaps.key_frequencies(power, {s: keys[s] for s in sources})
    for reduction in results["cliffs"]:
        rows = [row for row in results["alignment"] if row["reduction"] == reduction]
        yield f"localisation-{reduction.replace(' ', '-')}", heatmaps.alignment(rows)
    reduction, cliffs = next(iter(results["cliffs"].items()))
    values = arrays_below(arrays, f"values/{reduction}/")
    shown = min(results["inputs"], 2 * (results["config"]["p"] - 1) + 4)
    yield "spectra", spectra.spectra(values, cliffs, shown)
    yield "overlaps-by-parameter", training.by_parameter(tracked, _FAMILIES)
    yield "first-to-move", training.first_to_move(tracked)
