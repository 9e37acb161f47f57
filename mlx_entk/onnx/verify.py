"""Do other frameworks find the same numbers? Outputs, derivatives and kernels, checked.

Three checkers that share no code with MLX: onnxruntime runs the exported graphs; central
differences of the forward graph, in double precision by ONNX's reference, know no autodiff at
all; PyTorch differentiates the forward graph by ``torch.func``.
"""

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import mlx.core as mx
import numpy as np
import onnx
from numpy.typing import NDArray

from mlx_entk import _linalg as linalg
from mlx_entk._files import Arrays, Json
from mlx_entk._linalg import Float64Array
from mlx_entk.errors import InputError, MlxEntkError, first_line
from mlx_entk.kernel import Reduction, entk, flatten
from mlx_entk.onnx.derivatives import KERNEL, OUTPUT, OUTPUT_TANGENT, What
from mlx_entk.onnx.files import read_model
from mlx_entk.onnx.precision import in_double, is_weight
from mlx_entk.onnx.reference import evaluator
from mlx_entk.onnx.torch_runtime import as_torch
from mlx_entk.progress import Progress, silent
from mlx_entk.tracing.functions import ParametricFunction

CHECKERS = ("onnxruntime", "finite-differences", "torch")

TOLERANCES = {
    "forward": (1e-5, "single precision: some hundred roundings of 6e-8 along a path"),
    "kernel": (1e-4, "single precision: products of Jacobians, summed over the parameters"),
    "differences": (1e-6, "double precision on both sides: rounding over a step of 1e-7"),
}

# Models of up to so many parameters have their whole kernel checked by finite differences.
SMALL = 4000
STEP = 1e-7
DIRECTIONS = 4
# Eigenvalues below this part of the largest may be rounding of single precision.
ROUNDING = 1e-6


Status = Literal["passed", "failed", "not run"]


@dataclass(frozen=True)
class Comparison:
    """One quantity by a checker against MLX, or against the derivative graph.

    Attributes
    ----------
    checker, quantity
        Who computed what; no quantity where the checker could not go on.
    max_error
        Largest difference over the largest entry; None where nothing was computed, or no number.
    frobenius
        Norm of the difference over the norm; None as before.
    spectrum
        Largest difference of eigenvalues over the largest of them; None but for symmetric
        kernels.
    angle
        Largest principal angle between the leading eigenspaces, in degrees; None as before.
    modes
        How many modes those have: up to the widest gap among the first ten that stand above the
        rounding of single precision; there the space is best defined.
    tolerance, reason
        What the two errors may be, and why; or None, and why the checker could not run.
    """

    checker: str
    quantity: str
    max_error: float | None
    frobenius: float | None
    spectrum: float | None
    angle: float | None
    modes: int | None
    tolerance: float | None
    reason: str

    @classmethod
    def not_run(cls, checker: str, reason: str) -> "Comparison":
        """The row of a checker that could not run, or not go on."""
        return cls(checker, "", None, None, None, None, None, None, reason)

    @property
    def status(self) -> Status:
        """Whether both errors are within the tolerance; what is no number is not."""
        if self.tolerance is None:
            return "not run"
        errors = (self.max_error, self.frobenius)
        within = all(error is not None and error <= self.tolerance for error in errors)
        return "passed" if within else "failed"

    @property
    def passed(self) -> bool:
        """Whether it was run and passed."""
        return self.status == "passed"

    def as_json(self) -> Json:
        """For ``verification.json``."""
        return asdict(self) | {"passed": self.passed, "status": self.status}


def all_passed(comparisons: Sequence[Comparison]) -> bool:
    """Whether a verification has passed: something was compared, and nothing failed."""
    found = {row.status for row in comparisons}
    return "passed" in found and "failed" not in found


@dataclass(frozen=True)
class Subject:
    """What is to be verified.

    Attributes
    ----------
    model
        In MLX, with the weights that the graphs should have.
    x
        Inputs that the model was not trained on, shape (N, …).
    reduction
        Of the kernel.
    graphs
        Paths of the graphs ``model``, ``jvp`` and ``entk``; a checker goes as far as those that
        are there let it.
    """

    model: ParametricFunction
    x: mx.array
    reduction: Reduction
    graphs: dict[What, Path]

    @cached_property
    def outputs(self) -> NDArray[Any]:
        """By MLX, shape (N, C)."""
        return linalg.as_numpy(self.model.apply(self.model.params, self.x))

    @cached_property
    def kernel(self) -> NDArray[Any]:
        """By MLX, in the shape of the reduction."""
        found: NDArray[Any] = entk(self.model, self.x, reduction=self.reduction)
        return found

    @property
    def has_spectrum(self) -> bool:
        """Whether the kernel is symmetric; that of a pair of different classes is not."""
        return isinstance(self.reduction, str) or self.reduction[0] == self.reduction[1]


def verify(
    subject: Subject, against: Sequence[str] = CHECKERS, progress: Progress = silent
) -> list[Comparison]:
    """Compare MLX with other frameworks.

    Parameters
    ----------
    against
        Names from :data:`CHECKERS`.

    Returns
    -------
    list of Comparison
        Of each checker in turn. One that cannot run, or not go on, as for an operator that it
        lacks, ends with a row that says why; the others run all the same.

    Raises
    ------
    InputError
        For an unknown checker or one that is not installed, a damaged graph, or one of another
        model.
    """
    require_checkers(against)
    graphs = {name: read_model(path) for name, path in subject.graphs.items()}
    for what, graph in graphs.items():
        _require_fit(subject, subject.graphs[what], graph)
    checkers: dict[str, Callable[[Subject, dict[What, onnx.ModelProto]], Iterator[Comparison]]] = {
        "onnxruntime": _by_onnxruntime,
        "finite-differences": _by_differences,
        "torch": _by_torch,
    }
    found: list[Comparison] = []
    for done, name in enumerate(against):
        progress("verification", done, len(against), name)
        found += _rows(name, checkers[name](subject, graphs))
    progress("verification", len(against), len(against))
    return found


def _rows(name: str, rows: Iterator[Comparison]) -> Iterator[Comparison]:
    """What a checker finds, and why it could not go on if it could not."""
    try:
        yield from rows
    except MlxEntkError:
        raise
    except Exception as error:  # whatever another framework raises
        yield Comparison.not_run(name, first_line(error))


def _graph(graphs: dict[What, onnx.ModelProto], what: What) -> onnx.ModelProto:
    """A graph that a checker needs; raises NotImplementedError where it could not be written."""
    if what not in graphs:
        raise NotImplementedError(f"there is no graph {what} of this model")
    return graphs[what]


def require_checkers(names: Sequence[str]) -> None:
    """Raise InputError for a name that is not in :data:`CHECKERS`, or not installed."""
    unknown = [name for name in names if name not in CHECKERS]
    if unknown:
        raise InputError(f"no checker {', '.join(unknown)}: use {', '.join(CHECKERS)}")
    if "torch" in names and "torch" not in installed_checkers():
        raise InputError(
            "verification by PyTorch needs the extra torch: pip install 'mlx-entk[torch]'"
        )


def installed_checkers() -> list[str]:
    """The checkers whose framework is there; PyTorch is an extra."""
    there = importlib.util.find_spec("torch") is not None
    return [name for name in CHECKERS if name != "torch" or there]


def _require_fit(subject: Subject, path: Path, graph: onnx.ModelProto) -> None:
    stored = {t.name: tuple(t.dims) for t in graph.graph.initializer if is_weight(t)}
    shapes = {name: value.shape for name, value in subject.model.params.items()}
    unknown = sorted(stored.keys() - shapes.keys())
    if unknown:
        raise InputError(
            f"{path} has weights that the model lacks, {', '.join(unknown)}: export it again"
        )
    other = [name for name in stored if shapes[name] != stored[name]]
    if other:
        raise InputError(f"{path} has {', '.join(other)} of another shape: export it again")


def _by_onnxruntime(subject: Subject, graphs: dict[What, onnx.ModelProto]) -> Iterator[Comparison]:
    import onnxruntime

    def run(graph: onnx.ModelProto, output: str, feed: Arrays) -> NDArray[Any]:
        session = onnxruntime.InferenceSession(
            graph.SerializeToString(), providers=["CPUExecutionProvider"]
        )
        return np.asarray(session.run([output], feed)[0])

    x = linalg.as_numpy(subject.x)
    outputs = run(_graph(graphs, "model"), OUTPUT, {"x": x})
    yield compare("onnxruntime", "outputs", outputs, subject.outputs, "forward")
    kernel = run(_graph(graphs, "entk"), KERNEL, {"x": x, "x2": x})
    yield compare("onnxruntime", "kernel", kernel, subject.kernel, "kernel", subject.has_spectrum)


def _by_differences(subject: Subject, graphs: dict[What, onnx.ModelProto]) -> Iterator[Comparison]:
    x = _in_double(subject.x)
    weights = _weights(_graph(graphs, "model"))
    forward = evaluator(in_double(_graph(graphs, "model"), weights_as_inputs=True))
    name = "finite-differences"
    outputs = forward(OUTPUT, {"x": x, **weights})
    yield compare(name, "outputs in double", outputs, subject.outputs, "forward")

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
    yield compare(name, quantity, np.stack(slopes), np.stack(tangents), "differences")
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
    yield compare(name, "kernel", kernel, expected, "differences", subject.has_spectrum)


def _by_torch(subject: Subject, graphs: dict[What, onnx.ModelProto]) -> Iterator[Comparison]:
    weights, function = as_torch(_graph(graphs, "model"))
    import torch

    x = torch.from_numpy(_in_double(subject.x))
    outputs = function(weights, x).numpy()
    yield compare("torch", "outputs", outputs, subject.outputs, "forward")

    def of_input(values: Any, row: Any) -> Any:
        return function(values, row[None])[0]

    # One input at a time: the Jacobian of all would not fit for a wide network.
    jacobian = torch.func.jacrev(of_input)
    rows = [
        torch.cat([part.flatten(1) for part in jacobian(weights, row).values()], dim=1) for row in x
    ]
    J = torch.stack(rows).numpy()
    kernel = _reduce(J, subject.reduction)
    yield compare("torch", "kernel", kernel, subject.kernel, "kernel", subject.has_spectrum)


def _reduce(J: Float64Array, reduction: Reduction) -> Float64Array:
    """A kernel from a Jacobian of shape (N, C, P)."""
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


def compare(
    checker: str,
    quantity: str,
    found: NDArray[Any],
    expected: NDArray[Any],
    kind: str,
    kernel: bool = False,
) -> Comparison:
    """Errors of what a checker found against what was expected, as a :class:`Comparison`.

    ``kernel`` says that both are symmetric kernels, whose spectra can be compared.
    """
    if found.shape != expected.shape:
        raise InputError(
            f"{checker}: {quantity} has shape {found.shape}, expected {expected.shape}: the graph "
            "is of another model, export it again"
        )
    a, b = found.astype(np.float64), expected.astype(np.float64)
    tolerance, reason = TOLERANCES[kind]
    difference = a - b
    spectrum = angle = modes = None
    if kernel and np.isfinite(difference).all():
        if a.ndim == 4:
            a, b = (np.asarray(flatten(part), dtype=np.float64) for part in (a, b))
        (values, vectors), (values_b, vectors_b) = linalg.eigh(a), linalg.eigh(b)
        spectrum = _relative(float(np.abs(values - values_b).max()), float(values_b[0]))
        modes = _leading(values_b)
        cosines = np.linalg.svd(vectors[:, :modes].T @ vectors_b[:, :modes], compute_uv=False)
        # The sine is exact where the cosine is 1 to rounding.
        outside = vectors[:, :modes] - vectors_b[:, :modes] @ (
            vectors_b[:, :modes].T @ vectors[:, :modes]
        )
        sine = np.linalg.norm(outside, 2)
        angle = float(np.degrees(np.arctan2(sine, cosines.min())))
    return Comparison(
        checker=checker,
        quantity=quantity,
        max_error=_relative(float(np.abs(difference).max()), float(np.abs(b).max())),
        frobenius=_relative(float(np.linalg.norm(difference)), float(np.linalg.norm(b))),
        spectrum=spectrum,
        angle=angle,
        modes=modes,
        tolerance=tolerance,
        reason=reason,
    )


def _relative(error: float, size: float) -> float | None:
    """An error over a size, absolute where that is 0; None where it is no number."""
    found = error / size if size else error
    return found if np.isfinite(found) else None


def _leading(values: Float64Array) -> int:
    """The number of modes before the widest gap; below it nothing may be rounding alone."""
    head = values[:11][values[:11] > ROUNDING * values[0]]
    return int(np.argmax(head[:-1] / head[1:])) + 1 if head.size > 1 else 1
