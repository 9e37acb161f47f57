"""The sketched kernel of the 3 × 1024 MLP: time, memory, error, and modes next to the exact ones.

``python -m benchmarks.sketch`` writes ``results/sketch.json`` and the table of
docs/performance.md. Every row is a process of its own, so that its memory is its own.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from mlx_entk._provenance import provenance  # isort: skip  (BLAS before MLX)
import mlx.core as mx
import numpy as np

from benchmarks.contestants import peak_bytes
from benchmarks.pages import HERE, insert
from benchmarks.problems import mlp
from mlx_entk import eigendecompose, entk, entk_sketch

SMALL, LARGE = 5000, 30_000
COLUMNS = (1024, 4096, 16_384)
TOP = 25


class _Ops:
    relu = staticmethod(lambda v: mx.maximum(v, 0))


def row(N: int, k: int, folder: Path) -> dict[str, Any]:
    """One kernel and its modes; k = 0 for the exact one."""
    problem = mlp(inputs=N)
    params = {name: mx.array(value) for name, value in problem.params.items()}

    def model(values: Any, x: mx.array) -> mx.array:
        outputs: mx.array = problem.forward(_Ops, values, x)
        return outputs

    x = mx.array(problem.x)
    made: dict[str, Any] = {"inputs": N, "columns": k}
    start = time.perf_counter()
    if k == 0:
        kernel = entk(model, x, params=params, reduction="trace")
        made["seconds"] = time.perf_counter() - start
        start = time.perf_counter()
        spectrum = eigendecompose(kernel, TOP)
        made["seconds of modes"] = time.perf_counter() - start
        np.save(folder / "kernel.npy", kernel)
        np.save(folder / "vectors.npy", spectrum.vectors)
        made["values"] = spectrum.values.tolist()
    else:
        out = folder / f"{N}-{k}"
        sketch = entk_sketch(model, x, k, params=params, out=out)
        made["seconds"] = time.perf_counter() - start
        start = time.perf_counter()
        spectrum = sketch.spectrum(TOP)
        made["seconds of modes"] = time.perf_counter() - start
        made["values"] = spectrum.values.tolist()
        made["error"] = [sketch.error.relative, sketch.error.low, sketch.error.high]
        made["peak_bytes"] = peak_bytes()
        if N == SMALL:
            exact = np.load(folder / "kernel.npy")
            made["true error"] = float(
                np.linalg.norm(sketch.kernel() - exact) / np.linalg.norm(exact)
            )
            basis = np.load(folder / "vectors.npy")
            made["overlap"] = float(np.linalg.norm(basis.T @ spectrum.vectors) ** 2 / TOP)
            made["leading"] = abs(float(basis[:, 0] @ spectrum.vectors[:, 0]))
        start = time.perf_counter()
        made["residuals"] = sketch.residuals(spectrum).tolist()
        made["seconds of residuals"] = time.perf_counter() - start
    return {"peak_bytes": peak_bytes()} | made


def measure() -> dict[str, Any]:
    """Every row."""
    plan = [(SMALL, 0), *((SMALL, k) for k in COLUMNS), (LARGE, COLUMNS[1])]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for N, k in plan:
            command = [sys.executable, "-m", "benchmarks.sketch", str(N), str(k), folder]
            printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            rows.append(json.loads(printed.splitlines()[-1]))
            print({key: value for key, value in rows[-1].items() if key != "values"}, flush=True)
    return {"rows": rows, "provenance": provenance()}


def table(result: dict[str, Any]) -> str:
    """The rows as Markdown."""
    lines = [
        "| N | k | features or kernel | modes | memory | error of the kernel | its estimate, 95% "
        "| overlap of 25 modes | first mode | residuals, first and median |",
        "| ---: | ---: | ---: | ---: | ---: | ---: | --- | ---: | ---: | --- |",
    ]
    for row in result["rows"]:
        cells = [f"{row['inputs']:,}", f"{row['columns']:,}" if row["columns"] else "exact"]
        cells += [f"{row[key]:.3g} s" for key in ("seconds", "seconds of modes")]
        cells.append(f"{row['peak_bytes'] / 1e9:.2g} GB")
        if row["columns"]:
            estimate, low, high = row["error"]
            cells.append(f"{row['true error']:.2%}" if "true error" in row else "")
            cells.append(f"{estimate:.2%} ({low:.2%} to {high:.2%})")
            cells += [f"{row[key]:.3f}" if key in row else "" for key in ("overlap", "leading")]
            residuals = row["residuals"]
            cells.append(f"{residuals[0]:.2g}, {np.median(residuals):.2g}")
        else:
            cells += [""] * 5
        lines.append(f"| {' | '.join(cells)} |")
    device = result["provenance"]["device"]
    return "\n".join(lines) + f"\n\nThe first overlap is ‖Q₁ᵀQ₂‖²/25. On {device}."


def main() -> None:
    """Measure, store, and put the table into the docs."""
    if len(sys.argv) > 1:
        print(json.dumps(row(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))))
        return
    result = measure()
    (HERE / "results" / "sketch.json").write_text(json.dumps(result, indent=1) + "\n")
    insert(HERE.parent / "docs" / "performance.md", "sketch", table(result))
    print(table(result))


if __name__ == "__main__":
    main()
