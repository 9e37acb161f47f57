"""The checkers of a verification: onnxruntime, finite differences and PyTorch.

They share no code with MLX: onnxruntime runs the exported graphs; central differences of the
forward graph, in double precision by ONNX's reference, use no automatic differentiation; PyTorch
differentiates the forward graph by ``torch.func``.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import mlx.core as mx
import numpy as np
import onnx
from numpy.typing import NDArray

from mlx_entk import _linalg as linalg
from mlx_entk._files import Arrays
from mlx_entk._linalg import Float64Array
from mlx_entk.kernel import Reduction
from mlx_entk.onnx.derivatives import KERNEL, OUTPUT, OUTPUT_TANGENT, What
from mlx_entk.onnx.precision import in_double, is_weight
from mlx_entk.onnx.reference import evaluator
from mlx_entk.onnx.runtime import Session
from mlx_entk.onnx.subject import Subject
from mlx_entk.onnx.torch_runtime import as_torch

# Finite differences check the whole kernel of models with at most this many parameters.
SMALL = 4000
STEP = 1e-7
DIRECTIONS = 4


Graphs = dict[What, onnx.ModelProto]


@dataclass(frozen=True)
class Compared:
    """A quantity that a checker computed, and what it should be.

    ``kind`` is a key of ``mlx_entk.onnx.agreement.TOLERANCES``; ``graphs`` were used.
    """

    actual: NDArray[Any]
    expected: NDArray[Any]
    kind: str
    graphs: tuple[What, ...]


@dataclass(frozen=True)
class Check:
    """One row of a verification.

    Attributes
    ----------
    checker, quantity
        Who computes what.
    graphs
        The graphs that it needs.
    compute
        Computes it from these; raises NotImplementedError, or whatever a framework raises, if that
        lacks an operator.
    """

    checker: str
    quantity: str
    graphs: tuple[What, ...]
    compute: Callable[[], Compared]


Checker = Callable[[Subject, Graphs], list[Check]]


def by_onnxruntime(subject: Subject, graphs: Graphs) -> list[Check]:
    """Check the outputs and the kernel by running the graphs in onnxruntime."""

    def run(what: What, output: str) -> NDArray[Any]:
        (result,) = Session(graphs[what].SerializeToString()).run(
            [output], {"x": subject.x, "x2": subject.x}
        )
        return result

    def outputs() -> Compared:
        return Compared(run("model", OUTPUT), subject.outputs, "forward", ("model",))

    def kernel() -> Compared:
        return Compared(run("entk", KERNEL), subject.kernel, "kernel", ("entk",))

    name = "onnxruntime"
    return [Check(name, "outputs", ("model",), outputs), Check(name, "kernel", ("entk",), kernel)]


def by_differences(subject: Subject, graphs: Graphs) -> list[Check]:
    """Check outputs, J u and, for small models, the kernel by central differences in float64.

    They are compared with the graphs of derivatives in float64; if there is none, or the reference
    cannot run it, with MLX.
    """
    name, differences = "finite-differences", _Differences(subject, graphs)
    checks = [
        Check(name, "outputs in double", ("model",), differences.outputs),
        Check(name, f"J u, {DIRECTIONS} directions", ("model",), differences.tangents),
    ]
    if sum(value.size for value in subject.model.params.values()) <= SMALL:
        checks.append(Check(name, "kernel", ("model",), differences.kernel))
    return checks


class _Differences:
    """Central differences of the forward graph in double precision."""

    def __init__(self, subject: Subject, graphs: Graphs):
        self._subject, self._graphs = subject, graphs
        self._x = _in_double(subject.x)

    @cached_property
    def _weights(self) -> Arrays:
        return {
            tensor.name: onnx.numpy_helper.to_array(tensor).astype(np.float64)
            for tensor in self._graphs["model"].graph.initializer
            if is_weight(tensor)
        }

    @cached_property
    def _forward(self) -> Callable[[str, Arrays], Float64Array]:
        return evaluator(in_double(self._graphs["model"], weights_as_inputs=True))

    def _slope(self, direction: Arrays) -> Float64Array:
        after, before = (
            self._forward(
                OUTPUT,
                {"x": self._x} | {k: w + step * direction[k] for k, w in self._weights.items()},
            )
            for step in (STEP, -STEP)
        )
        return (after - before) / (2 * STEP)

    def outputs(self) -> Compared:
        outputs = self._forward(OUTPUT, {"x": self._x, **self._weights})
        return Compared(outputs, self._subject.outputs, "forward", ("model",))

    def tangents(self) -> Compared:
        generator = np.random.default_rng(0)
        directions = [
            {k: generator.standard_normal(w.shape) for k, w in self._subject.model.params.items()}
            for _ in range(DIRECTIONS)
        ]
        slopes = np.stack([self._slope(direction) for direction in directions])
        if "jvp" in self._graphs:
            with suppress(Exception):  # whatever the reference raises
                push = evaluator(in_double(self._graphs["jvp"]))
                pushed = [push(OUTPUT_TANGENT, self._tangent(u)) for u in directions]
                return Compared(slopes, np.stack(pushed), "differences", ("model", "jvp"))
        pushed = [self._subject.push(direction) for direction in directions]
        return Compared(slopes, np.stack(pushed), "kernel", ("model",))

    def _tangent(self, direction: Arrays) -> Arrays:
        return {"x": self._x} | {f"tangent.{name}": u for name, u in direction.items()}

    def kernel(self) -> Compared:
        columns = []
        for parameter, weight in self._weights.items():
            for index in np.ndindex(weight.shape):
                unit = {k: np.zeros_like(w) for k, w in self._weights.items()}
                unit[parameter][index] = 1
                columns.append(self._slope(unit))
        kernel = _reduce(np.stack(columns, axis=-1), self._subject.reduction)
        if "entk" in self._graphs:
            with suppress(Exception):  # whatever the reference raises
                run = evaluator(in_double(self._graphs["entk"]))
                expected = run(KERNEL, {"x": self._x, "x2": self._x})
                return Compared(kernel, expected, "differences", ("model", "entk"))
        return Compared(kernel, self._subject.kernel, "kernel", ("model",))


def by_torch(subject: Subject, graphs: Graphs) -> list[Check]:
    """Check the outputs and the kernel by differentiating the graph with ``torch.func``."""

    def outputs() -> Compared:
        import torch

        weights, function = as_torch(graphs["model"])
        found = function(weights, torch.from_numpy(_in_double(subject.x))).numpy()
        return Compared(found, subject.outputs, "forward", ("model",))

    def kernel() -> Compared:
        import torch

        weights, function = as_torch(graphs["model"])

        def of_input(values: Any, row: Any) -> Any:
            return function(values, row[None])[0]

        # One input at a time: for a wide network, the Jacobian of all would need too much memory.
        jacobian = torch.func.jacrev(of_input)
        rows = [
            torch.cat([part.reshape(len(part), -1) for part in jacobian(weights, row).values()], 1)
            for row in torch.from_numpy(_in_double(subject.x))
        ]
        J = torch.stack(rows).numpy()
        return Compared(_reduce(J, subject.reduction), subject.kernel, "kernel", ("model",))

    return [
        Check("torch", "outputs", ("model",), outputs),
        Check("torch", "kernel", ("model",), kernel),
    ]


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
    if not mx.issubdtype(x.dtype, mx.floating):
        return linalg.as_numpy(x)
    return np.asarray(linalg.as_numpy(x.astype(mx.float32)), dtype=np.float64)
