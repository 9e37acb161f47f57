"""Times on each device that MLX has here: ``python -m benchmarks.device``.

Medians of five computations after one that warms up, in one process: on a GPU if there is one, and
on the CPU. Where PyTorch has CUDA, ``torch.func`` forms the first kernel as well.
"""

from mlx_entk import eigendecompose, entk, entk_operator, intervention  # isort: skip  (BLAS first)
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from statistics import median
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from numpy.typing import NDArray

from mlx_entk.data import modular_addition
from mlx_entk.models import QuadraticMLP

P, WIDTH = 29, 512
ROUNDS = 5


class Wide(nn.Module):
    """A ReLU network of 256 inputs, three layers of 1024 units and ten outputs."""

    def __init__(self) -> None:
        super().__init__()
        sizes = [256, 1024, 1024, 1024, 10]
        self.layers = [nn.Linear(a, b) for a, b in pairwise(sizes)]

    def __call__(self, x: mx.array) -> mx.array:
        """Outputs of shape (N, 10)."""
        for layer in self.layers[:-1]:
            x = mx.maximum(layer(x), 0)
        return self.layers[-1](x)


def cases() -> Iterator[tuple[str, Callable[[], object]]]:
    """What is timed, made on MLX's default device."""
    model, x = QuadraticMLP(P, WIDTH), mx.array(modular_addition(P, 0.7, 0).x)
    yield "modular MLP, trace, N = 841", lambda: entk(model, x, reduction="trace")
    yield "modular MLP, full, N = 200", lambda: entk(model, x[:200])
    wide, inputs = Wide(), mx.random.normal((1024, 256), key=mx.random.key(0))
    yield "3 × 1024 MLP, trace, N = 1024", lambda: entk(wide, inputs, reduction="trace")
    operator, ones = entk_operator(wide, inputs, reduction="trace"), np.ones(1024)
    yield "3 × 1024 MLP, product with the trace kernel, N = 1024", lambda: operator @ ones
    spectrum = eigendecompose(entk(model, x, reduction="trace"))
    products = entk_operator(model, x, reduction="trace")
    span = intervention.ModeSpan(products, spectrum.modes(57, 112))
    yield (
        "modular MLP, projection on modes 57–112",
        lambda: mx.eval(intervention.removal(span)),
    )


def seconds(compute: Callable[[], object]) -> float:
    """Median of some computations after one that warms up."""
    compute()
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        compute()
        times.append(time.perf_counter() - start)
    return median(times)


def torch_on_cuda() -> Callable[[], NDArray[np.float32]] | None:
    """The trace kernel of the modular MLP by ``torch.func`` on CUDA; None without it."""
    try:
        import torch
    except ImportError:
        return None
    if not torch.cuda.is_available():
        return None
    model = QuadraticMLP(P, WIDTH)
    weights = tuple(
        torch.tensor(np.array(layer.weight)).cuda() for layer in (model.hidden, model.readout)
    )
    x = torch.tensor(modular_addition(P, 0.7, 0).x).cuda()

    def outputs(params: Any, row: Any) -> Any:
        hidden = row @ params[0].T / (2 * P) ** 0.5
        return hidden**2 @ params[1].T / WIDTH

    def kernel() -> NDArray[np.float32]:
        rows = torch.func.vmap(torch.func.jacrev(outputs), (None, 0))(weights, x)
        flat = [of_weight.flatten(2) for of_weight in rows]
        total: Any = sum(torch.einsum("ncp,mcp->nm", of_weight, of_weight) for of_weight in flat)
        return np.asarray((total / P).cpu().numpy())

    return kernel


def main() -> None:
    """Print a line for each device and case."""
    before = mx.default_device()
    devices = [d for d in (mx.gpu, mx.cpu) if mx.is_available(mx.Device(d))]
    for device in devices:
        mx.set_default_device(mx.Device(device))
        for name, compute in cases():
            print(f"{device.name}: {name}: {1e3 * seconds(compute):.3g} ms", flush=True)
    mx.set_default_device(before)
    peer = torch_on_cuda()
    if peer is not None:
        print(f"torch.func on CUDA: modular MLP, trace, N = 841: {1e3 * seconds(peer):.3g} ms")
        x = mx.array(modular_addition(P, 0.7, 0).x)
        ours, theirs = entk(QuadraticMLP(P, WIDTH), x, reduction="trace"), peer()
        print(f"largest difference: {np.abs(ours - theirs).max() / np.abs(theirs).max():.1e}")


if __name__ == "__main__":
    main()
