"""The figures of the modular-addition study."""

from collections.abc import Iterator

from mlx_entk.features import FREQUENCY_FAMILIES
from mlx_entk.plotting import heatmaps, spectra, training
from mlx_entk.plotting.drawing import Drawing
from mlx_entk.runs import Run, arrays_below

# The epochs whose spectra the paper shows, where the run has them, and the last.
_EPOCHS = (0, 60, 80, 100)


def modular_figures(run: Run) -> Iterator[tuple[str, Drawing]]:
    """Every figure of a finished run with its name, drawn one at a time."""
    results, arrays = run.results, run.arrays
    p = results["config"]["p"]
    shown = min(p * p, 6 * (p - 1))
    tracked = results["grokking"]
    epochs = tracked["epochs"]
    chosen = [epoch for epoch in _EPOCHS if epoch in epochs[:-1]] + epochs[-1:]
    yield "grokking", training.grokking(run.metrics, tracked)
    yield "overlaps-over-training", training.overlaps(tracked, FREQUENCY_FAMILIES)
    yield (
        "spectra",
        spectra.spectra(
            arrays_below(arrays, "values/"),
            results["cliffs"],
            shown,
            arrays_below(arrays, "shares/"),
            results["mode_features"],
        ),
    )
    yield (
        "spectra-over-training",
        spectra.spectra_over_training(
            arrays_below(arrays, "values over training/"),
            epochs,
            chosen,
            shown,
            training.epoch_labels(tracked),
        ),
    )
    yield "alignment", heatmaps.alignment(results["alignment"])
    yield (
        "frequencies",
        heatmaps.frequencies(
            {
                (row["modes"][0], row["modes"][1]): arrays[
                    f"frequencies/{row['modes'][0]}-{row['modes'][1]}"
                ]
                for row in results["disentangled"]
            },
            FREQUENCY_FAMILIES,
            "full",
        ),
    )
    yield "preactivations", heatmaps.preactivations(arrays["preactivations"])
