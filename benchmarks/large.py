"""Leading modes of 30,000 inputs of the 3 × 1024 MLP, from some columns of the kernel.

``python -m benchmarks.large`` writes ``results/large.json`` and the table of docs/performance.md.
At 5,000 inputs the modes are compared with those of the formed kernel, decomposed by LAPACK.
"""

import json
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from mlx_entk._provenance import provenance  # isort: skip  (BLAS before MLX)
import mlx.core as mx
import numpy as np

from benchmarks.contestants import peak_bytes
from benchmarks.pages import HERE, insert
from benchmarks.problems import mlp
from mlx_entk import eigendecompose, entk, nystrom_modes

TOP = 25
# Inputs and landmarks; None for the formed kernel.
CASES = ((5_000, None), (5_000, 1_000), (5_000, 2_000), (30_000, 2_000))
# Tiles take far less than their limit.
LIMIT = "20GB"


class Ops:
    """What the network needs of MLX."""

    relu = staticmethod(lambda v: mx.maximum(v, 0))


def measure(inputs: int, landmarks: int | None, target: Path) -> dict[str, Any]:
    """Time and memory of one case, in a process of its own; its modes go to a file."""
    problem = mlp(inputs)
    settings: dict[str, Any] = {
        "params": {name: mx.array(value) for name, value in problem.params.items()},
        "reduction": "trace",
        "memory_limit": LIMIT,
    }

    def model(params: Any, x: mx.array) -> mx.array:
        outputs: mx.array = problem.forward(Ops, params, x)
        return outputs

    x = mx.array(problem.x)
    start = time.perf_counter()
    row: dict[str, Any] = {"inputs": inputs, "landmarks": landmarks}
    if landmarks is None:
        spectrum = eigendecompose(entk(model, x, **settings), TOP)
    else:
        modes = nystrom_modes(model, x, TOP, landmarks=landmarks, **settings)
        spectrum, worst = modes.spectrum, int(modes.residuals.argmax())
        row |= {"residual": modes.residuals[worst], "error": modes.errors[worst]}
    row |= {"seconds": time.perf_counter() - start, "peak_bytes": peak_bytes()}
    np.save(target, spectrum.vectors)
    print(row, flush=True)
    return row


def table(rows: list[dict[str, Any]]) -> str:
    """The cases as Markdown."""
    lines = [
        "| inputs | columns | time | memory | largest residual, estimated | overlap with exact |",
        "| ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        columns = "all" if row["landmarks"] is None else f"{row['landmarks']:,}"
        residual = f"{row['residual']:.3f} ± {row['error']:.3f}" if "residual" in row else ""
        overlap = f"{row['overlap']:.4f}" if "overlap" in row else ""
        lines.append(
            f"| {row['inputs']:,} | {columns} | {row['seconds']:.0f} s | "
            f"{row['peak_bytes'] / 1e9:.1f} GB | {residual} | {overlap} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure, store, and put the table into the docs."""
    rows, exact = [], {}
    with tempfile.TemporaryDirectory() as folder:
        for number, (inputs, landmarks) in enumerate(CASES):
            target = Path(folder) / f"{number}.npy"
            with ProcessPoolExecutor(1, get_context("spawn")) as pool:
                row = pool.submit(measure, inputs, landmarks, target).result()
            vectors = np.load(target)
            if landmarks is None:
                exact[inputs] = vectors
            elif inputs in exact:
                row["overlap"] = float(np.linalg.norm(vectors.T @ exact[inputs]) ** 2 / TOP)
            rows.append(row)
    result = {"modes": TOP, "cases": rows, "provenance": provenance()}
    (HERE / "results" / "large.json").write_text(json.dumps(result, indent=1) + "\n")
    insert(HERE.parent / "docs" / "performance.md", "large", table(rows))
    print(table(rows))


if __name__ == "__main__":
    main()
