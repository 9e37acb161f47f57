"""The figures of the modular-addition transformer."""

from collections.abc import Iterator

from mlx_entk.plotting import heatmaps, spectra, training
from mlx_entk.plotting.drawing import Drawing
from mlx_entk.runs import Run, arrays_below
from mlx_entk.studies.transformer import TransformerConfig, shown_modes

# Followed over training: what the kernels turn to, and the control.
_FAMILIES = ("sum (key)", "axis sum (key)", "difference (key)", "axis difference (key)", "random")


def transformer_figures(run: Run) -> Iterator[tuple[str, Drawing]]:
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
    shown = shown_modes(TransformerConfig(**results["config"]))
    shares = arrays_below(arrays, "shares/")
    yield (
        "spectra",
        spectra.spectra(values, cliffs, shown, shares, results["mode_features"]),
    )
    over_training = arrays_below(arrays, "values over training/")
    last = tracked["epochs"][-1]
    yield (
        "spectra-over-training",
        spectra.spectra_over_training(
            over_training,
            tracked["epochs"],
            [tracked["epochs"][0], last],
            len(next(iter(over_training.values()))[0]),
            training.epoch_labels(tracked),
        ),
    )
    yield "overlaps-by-parameter", training.by_parameter(tracked, _FAMILIES)
    yield "first-to-move", training.first_to_move(tracked)
