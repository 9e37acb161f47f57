"""Trace eNTK of the modular-addition MLP (p = 29, H = 512, all 841 inputs) against PyTorch.

Each contestant runs in a process of its own, in turn, three rounds in one run; the median
counts. Writes ``results/trace_kernel.json`` and the table in the README.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.contestants import CONTESTANTS
from mlx_entk.provenance import installed_version, provenance

HERE = Path(__file__).parent
P, WIDTH, ROUNDS = 29, 512, 3
START, END = "<!-- benchmark: make bench -->", "<!-- end of benchmark -->"


def measure() -> dict[str, Any]:
    """Run the contestants in turn and compare them."""
    generator = np.random.default_rng(0)
    n, m = np.divmod(np.arange(P * P), P)
    problem = {
        "W1": generator.standard_normal((WIDTH, 2 * P)).astype(np.float32),
        "W2": generator.standard_normal((P, WIDTH)).astype(np.float32),
        "x": np.concatenate([np.eye(P)[n], np.eye(P)[m]], axis=1).astype(np.float32),
    }
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in CONTESTANTS}
    with tempfile.TemporaryDirectory() as folder:
        np.savez(Path(folder) / "problem.npz", allow_pickle=False, **problem)
        for _ in range(ROUNDS):
            for name, of_name in runs.items():
                command = [sys.executable, "-m", "benchmarks.contestants", name]
                files = [f"{folder}/problem.npz", f"{folder}/{name}.npy"]
                done = subprocess.run([*command, *files], capture_output=True, text=True)
                if done.returncode:
                    raise SystemExit(f"{name} failed: {done.stderr}")
                of_name.append(json.loads(done.stdout))
                print(f"{name}: {of_name[-1]}", flush=True)
        ours, theirs = (np.load(f"{folder}/{name}.npy") for name in CONTESTANTS)
    medians = {
        name: {key: median(run[key] for run in of_name) for key in of_name[0]}
        for name, of_name in runs.items()
    }
    us, peer = medians.values()
    return {
        "problem": {"p": P, "width": WIDTH, "inputs": P * P, "reduction": "trace"},
        "rounds": runs,
        "median": medians,
        "time_ratio": peer["seconds"] / us["seconds"],
        "memory_ratio": peer["peak_bytes"] / us["peak_bytes"],
        "largest_relative_difference": float(np.abs(ours - theirs).max() / np.abs(theirs).max()),
        "torch": installed_version("torch"),
        "provenance": provenance(),
    }


def table(result: dict[str, Any]) -> str:
    """The results as Markdown."""
    rows = [
        f"| {name} | {values['seconds']:.2f} s | {values['peak_bytes'] / 1e9:.2f} GB |"
        for name, values in result["median"].items()
    ]
    made = result["provenance"]
    return "\n".join(
        [
            "| trace eNTK, p = 29, H = 512, 841 inputs | time | peak memory of the process |",
            "| --- | --- | --- |",
            *rows,
            f"| ratio | {result['time_ratio']:.0f} × | {result['memory_ratio']:.0f} × |",
            "",
            f"Median of {ROUNDS} rounds, in turn, on {made['device']}, BLAS {made['blas']}, "
            f"MLX {made['versions']['mlx']}, PyTorch {result['torch']}; the two kernels differ by "
            f"at most {result['largest_relative_difference']:.0e} of the largest entry.",
        ]
    )


def main() -> None:
    """Measure, store, and put the table into the README."""
    result = measure()
    target = HERE / "results" / "trace_kernel.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps(result, indent=1) + "\n")
    readme = HERE.parent / "README.md"
    before, _, rest = readme.read_text(encoding="utf-8").partition(START)
    _, _, after = rest.partition(END)
    readme.write_text(f"{before}{START}\n{table(result)}\n{END}{after}", encoding="utf-8")
    print(table(result))


if __name__ == "__main__":
    main()
