"""p = 113, H = 512: kernels of all 12,769 inputs, their leading modes and their alignment.

``python -m benchmarks.scale`` writes ``results/scale.json`` and the table of
docs/performance.md.
"""

import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mlx_entk._provenance import provenance  # isort: skip  (BLAS before MLX)
import mlx.core as mx
import numpy as np

from benchmarks.contestants import peak_bytes
from benchmarks.pages import HERE, insert
from mlx_entk import entk, entk_operator, find_cliffs, mode_groups, top_modes
from mlx_entk._linalg import orthonormal_basis
from mlx_entk.data import modular_addition
from mlx_entk.eigensolvers import as_operator
from mlx_entk.features import alignment_rows, center, modular_features
from mlx_entk.models import QuadraticMLP
from mlx_entk.runs import Run
from mlx_entk.studies import mlp

CONFIG = mlp.MLPConfig(p=113)
TOP = 500
FAMILIES = ("n", "m", "n ∪ m", "sum", "difference")


def measure() -> dict[str, Any]:
    """Train, form the kernels, decompose them, align their groups."""
    seconds: dict[str, float] = {}

    @contextmanager
    def timed(stage: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        seconds[stage] = time.perf_counter() - start
        print(f"{stage}: {seconds[stage]:.1f} s, peak {peak_bytes() / 1e9:.1f} GB", flush=True)

    data = modular_addition(CONFIG.p, CONFIG.train_fraction, CONFIG.seed)
    x = mx.array(data.x)
    model = QuadraticMLP(CONFIG.p, CONFIG.width, CONFIG.seed)
    with timed("training"), tempfile.TemporaryDirectory() as folder:
        run = Run.create(Path(folder) / "run", mlp.STUDY, CONFIG.as_json())
        mlp.train_mlp(model, data, CONFIG, run)
        accuracy = run.metrics[-1]["test accuracy"]
    with timed("kernels"):
        kernels = entk(model, x, reduction="trace", by_layer=True)
        kernels["full"] = np.sum(list(kernels.values()), axis=0)
    spectra, residuals = {}, {}
    for name, kernel in kernels.items():
        with timed(f"top {TOP} modes, {name}"):
            found = top_modes(as_operator(kernel), TOP)
        spectra[name] = found.spectrum
        residuals[name] = float((found.residuals * found.spectrum.values).max())
        residuals[name] /= float(found.spectrum.values[0])
    with timed("alignment"):
        bank = modular_features(data.n, data.m, CONFIG.p)
        bases = {family: orthonormal_basis(center(bank[family])) for family in FAMILIES}
        cliffs = {name: find_cliffs(s.values, s.noise_floor) for name, s in spectra.items()}
        groups = {name: mlp.reported_groups(cliffs[name], CONFIG.p) for name in spectra}
        rows = alignment_rows(spectra, groups, bases)
    total = sum(value for stage, value in seconds.items() if stage != "training")
    peak = peak_bytes()

    operator = entk_operator(model, x, reduction="trace")
    vector = np.ones(len(data.x))
    operator @ vector
    with timed("one product of the operator, trace"):
        operator @ vector
    formed = as_operator(kernels["full"])
    with timed("one product of the formed kernel"):
        formed @ vector
    return {
        "inputs": len(data.x),
        "test_accuracy": accuracy,
        "seconds": seconds,
        "total_seconds_without_training": total,
        "peak_bytes": peak,
        "largest_residual_over_first_eigenvalue": residuals,
        "cliffs": {name: mode_groups(found) for name, found in cliffs.items()},
        "alignment": rows,
        "provenance": provenance(),
    }


def table(result: dict[str, Any]) -> str:
    """The stages as Markdown."""
    lines = ["| stage | time |", "| --- | --- |"]
    lines += [f"| {stage} | {value:.3g} s |" for stage, value in result["seconds"].items()]
    lines.append(
        f"\nWithout training {result['total_seconds_without_training'] / 60:.1f} minutes, "
        f"{result['peak_bytes'] / 1e9:.1f} GB at most."
    )
    return "\n".join(lines)


def main() -> None:
    """Measure, store, and put the table into the docs."""
    result = measure()
    (HERE / "results" / "scale.json").write_text(json.dumps(result, indent=1) + "\n")
    insert(HERE.parent / "docs" / "performance.md", "scale", table(result))
    print(table(result))


if __name__ == "__main__":
    main()
