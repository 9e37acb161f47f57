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
from mlx_entk import entk_operator, layerwise_entk
from mlx_entk._records import to_json
from mlx_entk.analysis import WHOLE, analyze_kernels, with_whole
from mlx_entk.eigensolvers import as_operator
from mlx_entk.features import modular_features
from mlx_entk.runs import Run
from mlx_entk.studies.modular_mlp import STUDY, MLPConfig
from mlx_entk.studies.modular_mlp.study import dataset, network, reported_groups, train_mlp

CONFIG = MLPConfig(p=113)
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

    data = dataset(CONFIG)
    x = mx.array(data.x)
    model = network(CONFIG)
    with timed("training"), tempfile.TemporaryDirectory() as folder:
        run = Run.create(Path(folder) / "run", STUDY.name, to_json(CONFIG))
        train_mlp(model, data, CONFIG, run)
        accuracy = run.metrics[-1]["test accuracy"]
    with timed("kernels"):
        kernels = with_whole(layerwise_entk(model, x, reduction="trace"))
    with timed(f"top {TOP} modes of each kernel, and alignment"):
        bank = modular_features(data.n, data.m, CONFIG.p)
        analysis = analyze_kernels(
            kernels,
            {family: bank[family] for family in FAMILIES},
            groups=lambda cliffs: reported_groups(cliffs, CONFIG.p),
            top=TOP,
        )
    total = sum(value for stage, value in seconds.items() if stage != "training")
    peak = peak_bytes()
    residuals = {
        name: float(
            np.linalg.norm(kernels[name] @ s.vectors - s.vectors * s.values, axis=0).max()
            / s.values[0]
        )
        for name, s in analysis.spectra.items()
    }

    operator = entk_operator(model, x, reduction="trace")
    vector = np.ones(len(data.x))
    operator @ vector
    with timed("one product of the operator, trace"):
        operator @ vector
    formed = as_operator(kernels[WHOLE])
    with timed("one product of the formed kernel"):
        formed @ vector
    return {
        "inputs": len(data.x),
        "test_accuracy": accuracy,
        "seconds": seconds,
        "total_seconds_without_training": total,
        "peak_bytes": peak,
        "largest_residual_over_first_eigenvalue": residuals,
        "cliffs": analysis.groups_at_cliffs,
        "alignment": to_json(analysis.alignment),
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
