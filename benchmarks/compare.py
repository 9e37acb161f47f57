"""Kernels of four models by every contestant, in turn, in one run.

Each contestant runs in a process of its own. If its first run is short, there are ``ROUNDS`` rounds
and the median counts. Returns what ``results/kernels.json`` stores.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.contestants import CONTESTANTS
from benchmarks.problems import PROBLEMS
from mlx_entk._provenance import provenance

REDUCTIONS = ("trace", "sum-of-logits", "full")
ROUNDS = 3
# Seconds: a contestant that takes longer than the first runs once, than the second not to its end.
SHORT, LIMIT = 15.0, 120.0
# Largest difference from the kernel of this package, over its largest entry.
AGREEMENT = 1e-4

Runs = dict[str, dict[str, Any]]


def compare(peer_python: Path, problems: Iterable[str]) -> list[dict[str, Any]]:
    """Every reduction of some problems; ``peer_python`` has neural-tangents."""
    rows = []
    for problem in problems:
        for reduction in REDUCTIONS:
            posed = PROBLEMS[problem]()
            contestants = _in_turn(problem, reduction, peer_python)
            rows.append(
                {
                    "problem": posed.title,
                    "reduction": reduction,
                    "inputs": posed.full if reduction == "full" else len(posed.x),
                    "parameters": int(sum(value.size for value in posed.params.values())),
                    "contestants": contestants,
                    "provenance": provenance(),
                }
            )
    return rows


def _in_turn(problem: str, reduction: str, peer_python: Path) -> Runs:
    measured: Runs = {name: {"runs": []} for name in CONTESTANTS}
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "kernel.npy"
        reference: Any = None
        for round_ in range(ROUNDS):
            for name, entry in measured.items():
                runs = entry["runs"]
                if "failed" in entry or (round_ and runs[0]["seconds"] > SHORT):
                    continue
                python = peer_python if name.startswith("neural") else Path(sys.executable)
                outcome = _run([str(python), name, problem, reduction, str(target)])
                if isinstance(outcome, str):
                    entry["failed"] = outcome
                    print(f"{problem} {reduction} {name}: {outcome}", flush=True)
                    continue
                runs.append(outcome)
                kernel = np.load(target)
                reference = kernel if reference is None else reference
                difference = float(np.abs(kernel - reference).max() / np.abs(reference).max())
                if not difference <= AGREEMENT:
                    raise SystemExit(f"{name} differs by {difference:.1e} on {problem}")
                print(f"{problem} {reduction} {name}: {outcome} {difference:.0e}", flush=True)
    for entry in measured.values():
        if entry["runs"]:
            for key in ("seconds", "peak_bytes"):
                entry[key] = median(run[key] for run in entry["runs"])
    return measured


def _run(arguments: list[str]) -> dict[str, float] | str:
    """What a contestant took, or why it did not finish."""
    python, *rest = arguments
    command = [python, "-m", "benchmarks.contestants", *rest]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT)
    except subprocess.TimeoutExpired:
        return f"not within {LIMIT:.0f} s"
    if done.returncode:
        errors = done.stderr.lower()
        killed = done.returncode < 0 or "resource_exhausted" in errors or "out of memory" in errors
        return "out of memory" if killed else done.stderr.strip().splitlines()[-1][:200]
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def table(rows: list[dict[str, Any]]) -> str:
    """The comparison as Markdown: time and peak memory, and how much faster this package is."""
    lines = [
        "| model | kernel | N | mlx-entk | torch.func | neural-tangents, best of three | "
        "faster than torch.func | than neural-tangents |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        ours, torch, *peers = row["contestants"].values()
        finished = [peer for peer in peers if "seconds" in peer]
        best = min(finished, key=lambda peer: float(peer["seconds"]), default=peers[0])
        cells = [row["problem"], row["reduction"], str(row["inputs"])]
        cells += [_cell(entry) for entry in (ours, torch, best)]
        cells += [_ratio(ours, torch), _ratio(ours, best)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(entry: dict[str, Any]) -> str:
    if "seconds" not in entry:
        return str(entry["failed"])
    return f"{entry['seconds']:.3g} s, {entry['peak_bytes'] / 1e9:.2g} GB"


def _ratio(ours: dict[str, Any], peer: dict[str, Any]) -> str:
    if "seconds" not in peer:
        return "—"
    return f"{peer['seconds'] / ours['seconds']:.3g} ×"
