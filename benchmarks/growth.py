"""How the time of the trace kernel grows, and how near its products come to the matmul peak."""

import time
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np

from benchmarks.problems import mlp
from mlx_entk import entk
from mlx_entk.kernel.guard import find_ways
from mlx_entk.kernel.outer import Products
from mlx_entk.tracing.functions import as_parametric

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


def matmul_share() -> dict[str, float]:
    """FLOP/s of the dominant product of the 3 × 1024 MLP's trace kernel, and of NumPy's matmul."""
    posed = mlp()
    params = {name: mx.array(value) for name, value in posed.params.items()}
    x = mx.array(posed.x)
    function = as_parametric(lambda values, rows: posed.forward(Ops, values, rows), params)
    structure = find_ways(function, (x,), 10).structure
    assert structure is not None
    factors = structure.factors((x,), mx.eye(10), paired=True)
    factor = max(factors.values(), key=lambda factor: factor.flops(paired=True))
    mx.eval([side.values for use in factor.uses for side in use.sides])
    ours = _best(lambda: mx.eval(factor.contract(factor, True, Products(symmetric=True))))
    a, b = np.random.default_rng(0).standard_normal((2, 2000, 2000)).astype(np.float32)
    numpy = _best(lambda: a @ b)
    rates = {
        "product": factor.flops(paired=True) * len(posed.x) ** 2 / ours,
        "numpy_matmul": 2 * 2000**3 / numpy,
    }
    print(rates, flush=True)
    return rates


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


def table(rows: list[dict[str, Any]]) -> str:
    """The growth as Markdown."""
    lines = ["| doubled | sizes | seconds | exponent | theory |", "| --- | --- | --- | --- | --- |"]
    for row in rows:
        sizes = ", ".join(str(size) for size in row["sizes"])
        seconds = ", ".join(f"{value:.2g}" for value in row["seconds"])
        cells = [row["what"], sizes, seconds, f"{row['exponent']:.2f}", THEORY[row["what"]]]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
