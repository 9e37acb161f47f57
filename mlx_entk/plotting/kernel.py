"""The figures of a kernel of a reader's own model."""

from collections.abc import Iterator

from mlx_entk.plotting import heatmaps, spectra
from mlx_entk.plotting.drawing import Drawing
from mlx_entk.runs import Run, arrays_below


def kernel_figures(run: Run) -> Iterator[tuple[str, Drawing]]:
    """Every figure of a finished run with its name, drawn one at a time."""
    results, arrays = run.results, run.arrays
    values = arrays_below(arrays, "values/")
    shown = max(v.size for v in values.values())
    shares = arrays_below(arrays, "shares/")
    yield (
        "spectra",
        spectra.spectra(values, results["cliffs"], shown, shares, results["mode_features"]),
    )
    if results["alignment"]:
        yield "alignment", heatmaps.alignment(results["alignment"])
