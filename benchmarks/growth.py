"""How the time of the trace kernel grows, and how near kernels come to the rate of matmul."""

import math
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import mlx.core as mx
import numpy as np

from benchmarks.compare import REDUCTIONS
from benchmarks.problems import mlp
from mlx_entk import entk
from mlx_entk.kernel.guard import find_ways
from mlx_entk.kernel.reduction import cotangents_of
from mlx_entk.tracing.functions import ParametricFunction, as_parametric
from mlx_entk.tracing.graph import dependents

# What is doubled three times, from a base where products dominate; and the exponent in theory:
# N² C H² of products and N C H² of backward passes, a layer.
BASE = {"inputs": 400, "outputs": 16, "width": 256, "depth": 4}
THEORY = {"inputs": "1 to 2", "outputs": "1", "width": "1 to 2", "depth": "1"}
REPEATS = 5


class Ops:
    """The operations of an MLP in MLX."""

    relu = staticmethod(lambda v: mx.maximum(v, 0))


def growth() -> list[dict[str, Any]]:
    """Fitted exponents for inputs, outputs, width (parameters: its square) and depth."""
    rows = []
    for what in BASE:
        sizes = [BASE[what] * 2**k for k in range(4)]
        seconds = [_trace_seconds(BASE | {what: size}) for size in sizes]
        exponent = float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])
        rows.append({"what": what, "sizes": sizes, "seconds": seconds, "exponent": exponent})
        print(rows[-1], flush=True)
    return rows


def rates() -> list[dict[str, Any]]:
    """FLOP/s of each kernel of the 3 × 1024 MLP, and of MLX's and NumPy's matmul."""
    posed = mlp()
    params = {name: mx.array(value) for name, value in posed.params.items()}

    def model(values: Any, rows: mx.array) -> mx.array:
        outputs: mx.array = posed.forward(Ops, values, rows)
        return outputs

    a, b = np.random.default_rng(0).standard_normal((2, 2000, 2000)).astype(np.float32)
    one, other = mx.array(a), mx.array(b)
    multiplied = {"numpy": lambda: a @ b, "mlx": lambda: mx.eval(one @ other)}
    peak = {name: 2 * 2000**3 / _best(multiply) for name, multiply in multiplied.items()}
    rows = []
    for reduction in REDUCTIONS:
        x = mx.array(posed.x[: posed.full] if reduction == "full" else posed.x)
        flops = _flops(as_parametric(model, params), x, reduction)
        kind: Any = reduction
        seconds = _best(partial(entk, model, x, params=params, reduction=kind))
        rows.append(
            {"reduction": reduction, "inputs": len(x), "flops": flops, "seconds": seconds} | peak
        )
        print(rows[-1], flush=True)
    return rows


def _flops(function: ParametricFunction, x: mx.array, reduction: str) -> dict[str, int]:
    """FLOPs of the matrix products that a kernel is made of, each of them once.

    Passes: one forward pass, and one backward pass for each cotangent from the outputs to the first
    weight, except where a Gram matrix stands for all of them. Products: of the factors, half of
    them, because the kernel is symmetric.
    """
    C = function.apply({}, x[:1]).shape[1]
    structure = find_ways(function, (x,), C).structure
    assert structure is not None
    graph, cotangents = structure.graph, cotangents_of(reduction, C)
    R, N = len(cotangents.left), len(x)
    behind = dependents(graph, [tap for tap in structure.taps if tap not in structure.tails])
    forward = backward = 0
    for node in graph.nodes:
        if node.primitive in ("AddMM", "Matmul"):
            size = math.prod(graph.shapes[node.outputs[0]]) * graph.shapes[node.inputs[0]][-1]
            forward += 2 * size
            backward += 2 * size * R * (node.inputs[0] in behind)
    two = (mx.concatenate([x[:1]] * 2),)
    factors = structure.factors(two, cotangents.left[:], cotangents.paired)
    sides = {
        side.name: side
        for factor in factors.values()
        for use in factor.uses
        for side in use.sides
        if side.inputs > 1
    }
    rows = [side.cotangents if cotangents.paired else side.cotangents**2 for side in sides.values()]
    products = sum(
        2 * side.values.shape[3] * R for side, R in zip(sides.values(), rows, strict=True)
    )
    return {"passes": N * (forward + backward), "products": N * (N + 1) // 2 * products}


def _trace_seconds(sizes: dict[str, int]) -> float:
    posed = mlp(**sizes, fan_in=sizes["width"])
    params = {name: mx.array(value) for name, value in posed.params.items()}
    x = mx.array(posed.x)

    def model(values: Any, rows: mx.array) -> mx.array:
        outputs: mx.array = posed.forward(Ops, values, rows)
        return outputs

    return _best(lambda: entk(model, x, params=params, reduction="trace"))


def _best(compute: Callable[[], Any]) -> float:
    compute()
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        compute()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def rates_table(rows: list[dict[str, Any]]) -> str:
    """The rates as Markdown."""
    lines = [
        "| kernel | N | passes | products | time | rate | of MLX's matmul |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        rate = sum(row["flops"].values()) / row["seconds"]
        counted = (f"{row['flops'][part] / 1e9:.3g} GFLOP" for part in ("passes", "products"))
        cells = [row["reduction"], str(row["inputs"]), *counted, f"{row['seconds']:.3g} s"]
        cells += [f"{rate / 1e9:.0f} GFLOP/s", f"{rate / row['mlx']:.0%}"]
        lines.append(f"| {' | '.join(cells)} |")
    lines.append(
        f"\nA matmul of 2000³ runs at {rows[0]['mlx'] / 1e9:.0f} GFLOP/s in MLX and at "
        f"{rows[0]['numpy'] / 1e9:.0f} in NumPy, in the same process."
    )
    return "\n".join(lines)


def table(rows: list[dict[str, Any]]) -> str:
    """The growth as Markdown."""
    lines = ["| doubled | sizes | seconds | exponent | theory |", "| --- | --- | --- | --- | --- |"]
    for row in rows:
        sizes = ", ".join(str(size) for size in row["sizes"])
        seconds = ", ".join(f"{value:.2g}" for value in row["seconds"])
        cells = [row["what"], sizes, seconds, f"{row['exponent']:.2f}", THEORY[row["what"]]]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
