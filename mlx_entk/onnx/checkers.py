"""The checkers of a verification: onnxruntime, finite differences and PyTorch.

They share no code with MLX: onnxruntime runs the exported graphs; central differences of the
forward graph, in double precision by ONNX's reference, use no automatic differentiation; PyTorch
differentiates the forward graph by ``torch.func``.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import onnx
from numpy.typing import NDArray

from mlx_entk import _linalg as linalg
from mlx_entk._files import Arrays
from mlx_entk._linalg import Float64Array
from mlx_entk.kernel import Reduction, entk
from mlx_entk.onnx.agreement import Agreement, agreement_of
from mlx_entk.onnx.derivatives import KERNEL, OUTPUT, OUTPUT_TANGENT, What
from mlx_entk.onnx.precision import in_double, is_weight
from mlx_entk.onnx.reference import evaluator
from mlx_entk.onnx.torch_runtime import as_torch
from mlx_entk.tracing.functions import ParametricFunction

# Finite differences check the whole kernel of models with at most this many parameters.
SMALL = 4000
STEP = 1e-7
DIRECTIONS = 4


@dataclass(frozen=True)
class Subject:
    """What to verify.

    Attributes
    ----------
    model
        The model in MLX, with the weights that the graphs should have.
    x
        Inputs that the model was not trained on, shape (N, …).
    reduction
        Reduction of the kernel.
    graphs
        Paths of the graphs ``model``, ``jvp`` and ``entk``. If one is missing, the checkers that
        need it stop there.
    """

    model: ParametricFunction
    x: mx.array
    reduction: Reduction
    graphs: dict[What, Path]

    @cached_property
    def outputs(self) -> NDArray[Any]:
        """MLX's outputs, shape (N, C)."""
        return linalg.as_numpy(self.model.apply(self.model.params, self.x))

    @cached_property
    def kernel(self) -> NDArray[Any]:
        """MLX's kernel, in the shape of the reduction."""
        kernel: NDArray[Any] = entk(self.model, self.x, reduction=self.reduction)
        return kernel

    @property
    def has_spectrum(self) -> bool:
        """Whether the kernel is symmetric; that of a pair of different classes is not."""
        return isinstance(self.reduction, str) or self.reduction[0] == self.reduction[1]


Graphs = dict[What, onnx.ModelProto]
Checker = Callable[[Subject, Graphs], Iterator[Agreement]]


def _graph(graphs: Graphs, what: What) -> onnx.ModelProto:
    """Return a graph that a checker needs; raises NotImplementedError if it was not written."""
    if what not in graphs:
        raise NotImplementedError(f"there is no graph {what} of this model")
    return graphs[what]


def by_onnxruntime(subject: Subject, graphs: Graphs) -> Iterator[Agreement]:
    """Check the outputs and the kernel by running the graphs in onnxruntime."""
    import onnxruntime

    def run(graph: onnx.ModelProto, output: str, feed: Arrays) -> NDArray[Any]:
        session = onnxruntime.InferenceSession(
            graph.SerializeToString(), providers=["CPUExecutionProvider"]
        )
        return np.asarray(session.run([output], feed)[0])

    x = linalg.as_numpy(subject.x)
    outputs = run(_graph(graphs, "model"), OUTPUT, {"x": x})
    yield agreement_of("onnxruntime", "outputs", outputs, subject.outputs, "forward")
    kernel = run(_graph(graphs, "entk"), KERNEL, {"x": x, "x2": x})
    yield agreement_of(
        "onnxruntime", "kernel", kernel, subject.kernel, "kernel", subject.has_spectrum
    )


def by_differences(subject: Subject, graphs: Graphs) -> Iterator[Agreement]:
    """Check outputs, J u and, for small models, the kernel by central differences in float64."""
    x = _in_double(subject.x)
    weights = _weights(_graph(graphs, "model"))
    forward = evaluator(in_double(_graph(graphs, "model"), weights_as_inputs=True))
    name = "finite-differences"
    outputs = forward(OUTPUT, {"x": x, **weights})
    yield agreement_of(name, "outputs in double", outputs, subject.outputs, "forward")

    def slope(direction: Arrays) -> Float64Array:
        after, before = (
            forward(OUTPUT, {"x": x} | {k: w + step * direction[k] for k, w in weights.items()})
            for step in (STEP, -STEP)
        )
        return (after - before) / (2 * STEP)

    generator = np.random.default_rng(0)
    directions = [
        {k: generator.standard_normal(w.shape) for k, w in subject.model.params.items()}
        for _ in range(DIRECTIONS)
    ]
    push = evaluator(in_double(_graph(graphs, "jvp")))
    tangents = [
        push(OUTPUT_TANGENT, {"x": x} | {f"tangent.{k}": u for k, u in direction.items()})
        for direction in directions
    ]
    slopes = [slope(direction) for direction in directions]
    quantity = f"J u, {DIRECTIONS} directions"
    yield agreement_of(name, quantity, np.stack(slopes), np.stack(tangents), "differences")
    if sum(w.size for w in weights.values()) > SMALL:
        return
    columns = []
    for parameter, weight in weights.items():
        for index in np.ndindex(weight.shape):
            unit = {k: np.zeros_like(w) for k, w in weights.items()}
            unit[parameter][index] = 1
            columns.append(slope(unit))
    kernel = _reduce(np.stack(columns, axis=-1), subject.reduction)
    expected = evaluator(in_double(_graph(graphs, "entk")))(KERNEL, {"x": x, "x2": x})
    yield agreement_of(name, "kernel", kernel, expected, "differences", subject.has_spectrum)


def by_torch(subject: Subject, graphs: Graphs) -> Iterator[Agreement]:
    """Check the outputs and the kernel by differentiating the graph with ``torch.func``."""
    weights, function = as_torch(_graph(graphs, "model"))
    import torch

    x = torch.from_numpy(_in_double(subject.x))
    outputs = function(weights, x).numpy()
    yield agreement_of("torch", "outputs", outputs, subject.outputs, "forward")

    def of_input(values: Any, row: Any) -> Any:
        return function(values, row[None])[0]

    # One input at a time: for a wide network, the Jacobian of all would need too much memory.
    jacobian = torch.func.jacrev(of_input)
    rows = [
        torch.cat([part.flatten(1) for part in jacobian(weights, row).values()], dim=1) for row in x
    ]
    J = torch.stack(rows).numpy()
    kernel = _reduce(J, subject.reduction)
    yield agreement_of("torch", "kernel", kernel, subject.kernel, "kernel", subject.has_spectrum)


def _reduce(J: Float64Array, reduction: Reduction) -> Float64Array:
    """Return the kernel of a Jacobian of shape (N, C, P)."""
    if isinstance(reduction, tuple):
        c, d = reduction
        return np.asarray(J[:, c] @ J[:, d].T)
    if reduction == "full":
        return np.asarray(np.einsum("ncp,mdp->nmcd", J, J, optimize=True))
    if reduction == "trace":
        return np.asarray(np.einsum("ncp,mcp->nm", J, J, optimize=True) / J.shape[1])
    mean = J.mean(axis=1)
    return np.asarray(mean @ mean.T)


def _in_double(x: mx.array) -> NDArray[Any]:
    array = linalg.as_numpy(x)
    return array.astype(np.float64) if array.dtype.kind == "f" else array


def _weights(graph: onnx.ModelProto) -> dict[str, Float64Array]:
    return {
        tensor.name: onnx.numpy_helper.to_array(tensor).astype(np.float64)
        for tensor in graph.graph.initializer
        if is_weight(tensor)
    }
