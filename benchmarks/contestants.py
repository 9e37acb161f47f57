"""One way to compute one kernel, in a process of its own.

``python -m benchmarks.contestants CONTESTANT PROBLEM REDUCTION KERNEL.npy`` stores the kernel and
prints, as JSON, the seconds of a computation after a first one that warms up (of the first one
itself if that took long) and the peak resident memory of the process. A contestant imports
only what it needs, so that its memory is its own.
"""

import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.problems import PROBLEMS, Problem

Array = NDArray[np.float32]
Contestant = Callable[[Problem, NDArray[Any], str], Callable[[], Array]]

# A first computation that took longer than this many seconds counts.
LONG = 20.0
# Floats of a Jacobian that PyTorch holds at a time.
CHUNK = 5e8


def mlx_entk(problem: Problem, x: NDArray[Any], reduction: str) -> Callable[[], Array]:
    """`mlx-entk` with its own choice of strategies, on MLX's default device."""
    from mlx_entk import entk  # isort: skip
    import mlx.core as mx

    class Ops:
        softmax = staticmethod(lambda v: mx.softmax(v, axis=-1))
        relu = staticmethod(lambda v: mx.maximum(v, 0))
        convolve = staticmethod(lambda v, weight: mx.conv2d(v, weight, padding=1))
        swap = staticmethod(mx.swapaxes)

    params = {name: mx.array(value) for name, value in problem.params.items()}
    inputs = mx.array(x)

    def model(values: Any, x: mx.array) -> mx.array:
        outputs: mx.array = problem.forward(Ops, values, x)
        return outputs

    kind: Any = reduction
    return lambda: np.asarray(entk(model, inputs, params=params, reduction=kind))


def torch_func(problem: Problem, x: NDArray[Any], reduction: str) -> Callable[[], Array]:
    """``vmap`` of ``jacrev``, then ``einsum``: the way of PyTorch's tutorial on the NTK.

    If the Jacobian does not fit into memory, in chunks of the inputs, each pair once.
    """
    import torch

    class Ops:
        softmax = staticmethod(lambda v: torch.softmax(v, dim=-1))
        relu = staticmethod(torch.relu)
        swap = staticmethod(torch.swapaxes)

        @staticmethod
        def convolve(v: Any, weight: Any) -> Any:
            first = v.permute(0, 3, 1, 2)
            out = torch.nn.functional.conv2d(first, weight.permute(0, 3, 1, 2), padding=1)
            return out.permute(0, 2, 3, 1)

    params = {name: torch.from_numpy(value) for name, value in problem.params.items()}
    inputs = torch.from_numpy(x.astype(np.int64) if x.dtype.kind == "i" else x)

    def network(values: dict[str, Any], row: Any) -> Any:
        outputs = problem.forward(Ops, values, row[None])[0]
        return outputs.mean(0, keepdim=True) if reduction == "sum-of-logits" else outputs

    def jacobian(rows: Any) -> list[Any]:
        jacobian = torch.func.vmap(torch.func.jacrev(network), (None, 0))(params, rows)
        return [J.flatten(2) for J in jacobian.values()]

    C = network(params, inputs[0]).shape[0]
    size = max(1, int(CHUNK / (C * sum(value.numel() for value in params.values()))))
    equation, shape = ("ncp,mcp->nm", ()) if reduction != "full" else ("ncp,mdp->nmcd", (C, C))

    def contract(left: list[Any], right: list[Any]) -> Any:
        pairs = zip(left, right, strict=True)
        return sum(torch.einsum(equation, a, b) for a, b in pairs)

    def compute() -> Array:
        N = len(inputs)
        kernel = torch.empty((N, N, *shape))
        for i in range(0, N, size):
            left = jacobian(inputs[i : i + size])
            for j in range(i, N, size):
                block = contract(left, left if i == j else jacobian(inputs[j : j + size]))
                kernel[i : i + size, j : j + size] = block
                if i != j:
                    mirrored = block.transpose(0, 1)
                    mirrored = mirrored.transpose(2, 3) if shape else mirrored
                    kernel[j : j + size, i : i + size] = mirrored
        return np.asarray(kernel / (C if reduction == "trace" else 1))

    return compute


def neural_tangents(implementation: int) -> Contestant:
    """Novak et al.'s library on JAX, with one of its implementations, compiled."""

    def prepare(problem: Problem, x: NDArray[Any], reduction: str) -> Callable[[], Array]:
        import jax
        import jax.numpy as jnp
        import neural_tangents as nt

        class Ops:
            softmax = staticmethod(jax.nn.softmax)
            relu = staticmethod(jax.nn.relu)
            swap = staticmethod(jnp.swapaxes)

            @staticmethod
            def convolve(v: Any, weight: Any) -> Any:
                return jax.lax.conv_general_dilated(
                    v, weight, (1, 1), "SAME", dimension_numbers=("NHWC", "OHWI", "NHWC")
                )

        params = {name: jnp.asarray(value) for name, value in problem.params.items()}
        inputs = jnp.asarray(x)

        def network(values: Any, rows: Any) -> Any:
            outputs = problem.forward(Ops, values, rows)
            return outputs.mean(1, keepdims=True) if reduction == "sum-of-logits" else outputs

        kernel = jax.jit(
            nt.empirical_ntk_fn(
                network,
                trace_axes=(-1,) if reduction == "trace" else (),
                vmap_axes=0,
                implementation=nt.NtkImplementation(implementation),
            )
        )

        def compute() -> Array:
            formed = np.asarray(kernel(inputs, None, params))
            return formed[:, :, 0, 0] if reduction == "sum-of-logits" else formed

        return compute

    return prepare


CONTESTANTS: dict[str, Contestant] = {
    "mlx-entk": mlx_entk,
    "torch.func": torch_func,
    "neural-tangents, Jacobian contraction": neural_tangents(1),
    "neural-tangents, NTK-vector products": neural_tangents(2),
    "neural-tangents, structured derivatives": neural_tangents(3),
}


def peak_bytes() -> int:
    """Peak resident memory of this process alone; ``getrusage`` counts its parent's on Linux."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return 1024 * int(line.split()[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main(contestant: str, problem: str, reduction: str, target: str) -> None:
    """Run one contestant, store its kernel and print what it took."""
    posed = PROBLEMS[problem]()
    x = posed.x[: posed.full] if reduction == "full" else posed.x
    compute = CONTESTANTS[contestant](posed, x, reduction)
    for _ in range(2):
        start = time.perf_counter()
        result = compute()
        seconds = time.perf_counter() - start
        if seconds > LONG:
            break
    np.save(target, result)
    print(json.dumps({"seconds": seconds, "peak_bytes": peak_bytes()}))


if __name__ == "__main__":
    main(*sys.argv[1:])
