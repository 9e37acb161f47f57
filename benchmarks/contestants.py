"""Ways to compute the trace eNTK of the modular-addition MLP.

As a program it runs one of them, ``python -m benchmarks.contestants NAME PROBLEM.npz KERNEL.npy``,
and prints the seconds of the second of two computations (the first warms up) and the peak
resident memory of its process, as JSON. Each contestant imports only what it needs, so that its
memory is its own.
"""

import json
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Compute = Callable[[], Array]


def mlx_entk(W1: Array, W2: Array, x: Array) -> Compute:
    """The trace eNTK of this package, on MLX's default device."""
    from mlx_entk import entk  # isort: skip
    import mlx.core as mx

    from mlx_entk.models import QuadraticMLP

    model = QuadraticMLP(W2.shape[0], W2.shape[1])
    model.hidden.weight, model.readout.weight = mx.array(W1), mx.array(W2)
    inputs = mx.array(x)
    return lambda: np.asarray(entk(model, inputs, reduction="trace"), dtype=np.float32)


def torch_func(W1: Array, W2: Array, x: Array) -> Compute:
    """``vmap`` of ``jacrev``, then ``einsum``: the way of PyTorch's tutorial on the NTK."""
    import torch

    p, width = W2.shape
    params = {"hidden": torch.from_numpy(W1), "readout": torch.from_numpy(W2)}
    inputs = torch.from_numpy(x)

    def network(values: dict[str, Any], row: Any) -> Any:
        return values["readout"] @ (values["hidden"] @ row / (2 * p) ** 0.5) ** 2 / width

    def compute() -> Array:
        jacobian = torch.func.vmap(torch.func.jacrev(network), (None, 0))(params, inputs)
        kernels = [
            torch.einsum("ncp,mcp->nm", rows, rows)
            for rows in (J.flatten(2) for J in jacobian.values())
        ]
        return np.asarray(sum(kernels) / p)

    return compute


CONTESTANTS: dict[str, Callable[[Array, Array, Array], Compute]] = {
    "mlx-entk": mlx_entk,
    "torch.func": torch_func,
}


def main(name: str, problem: str, kernel: str) -> None:
    """Run one contestant on a stored problem, and store its kernel."""
    with np.load(problem) as stored:
        compute = CONTESTANTS[name](stored["W1"], stored["W2"], stored["x"])
    compute()
    start = time.perf_counter()
    result = compute()
    seconds = time.perf_counter() - start
    np.save(kernel, result)
    # Linux counts in kilobytes, macOS in bytes.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    peak *= 1 if sys.platform == "darwin" else 1024
    print(json.dumps({"seconds": seconds, "peak_bytes": peak}))


if __name__ == "__main__":
    main(*sys.argv[1:])
