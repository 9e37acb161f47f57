"""Does the kit give the kernel of an architecture that plain reverse mode gives?

The reference takes one input and one output at a time, with no ``vmap`` and no structure, and
adds up in NumPy float64. Central differences along directions in parameter space tell whether
reverse mode itself is right.
"""

import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from typing import Literal

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from numpy.typing import NDArray

import mlx_entk
from mlx_entk._parameters import Params, flatten_tree, unflatten_tree
from mlx_entk.errors import InputError
from mlx_entk.kernel.reduction import Reduction
from tests.zoo.architectures import SEED, TOKENS, VOCABULARY, NotBuilt, build

INPUTS = 3
OUTPUTS = 2

# Of a layerwise kernel over the largest entry of the whole one, and over its own largest entry:
# a small one must not be wrong in the shade of a large one. Below SMALL of the whole it may be
# rounding alone (the kernel of a key's bias is zero).
KERNEL_TOLERANCE = 1e-4
OWN_TOLERANCE = 1e-2
SMALL = 1e-6
# Over the change that the parameter makes, beside what rounding of the outputs may add to it: a
# few units in the last place of the largest, over the step. Steps are in units of the
# parameter's root mean square; Richardson's rule takes the curvature away.
DIFFERENCES_TOLERANCE = 2e-2
ROUNDING = 1e-6
STEPS = (1e-1, 2e-2, 4e-3, 8e-4, 1e-4)

Status = Literal["right", "refused", "wrong", "crashed", "-"]
Float64 = NDArray[np.float64]
Jacobian = dict[str, Float64]


@dataclass(frozen=True)
class Verdict:
    """What came of one comparison.

    Attributes
    ----------
    status
        ``right`` or ``wrong``, with the error; ``refused`` by an ``InputError``; ``crashed`` by
        anything else; ``-`` where there was nothing to compare.
    error
        Relative, of the first two.
    note
        What was wrong, or the message of the refusal, or of the crash with its frames.
    """

    status: Status
    error: float | None = None
    note: str = ""

    def __str__(self) -> str:
        return self.status if self.error is None else f"{self.status} {self.error:.0e}"


@dataclass(frozen=True)
class Outcome:
    """A row of the table: an architecture, and what came of each comparison."""

    name: str
    kernel: Verdict = Verdict("-")
    operator: Verdict = Verdict("-")
    differences: Verdict = Verdict("-")
    seconds: float = 0.0
    not_built: str = ""

    @property
    def fine(self) -> bool:
        """Whether nothing was wrong or crashed."""
        verdicts = (self.kernel, self.operator, self.differences)
        return not any(verdict.status in ("wrong", "crashed") for verdict in verdicts)

    @property
    def notes(self) -> list[str]:
        """What there is to say beside the numbers."""
        if self.not_built:
            return [f"not built: {self.not_built}"]
        named = {"kernel": self.kernel, "operator": self.operator, "differences": self.differences}
        return [f"{name}: {verdict.note}" for name, verdict in named.items() if verdict.note]


class LastLogits(nn.Module):
    """A few projections of the logits after the last token: tokens (N, T) to (N, C)."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner
        readout = np.random.default_rng(SEED).standard_normal((VOCABULARY, OUTPUTS))
        self.readout = mx.array(readout.astype(np.float32)) / VOCABULARY**0.5
        self.freeze(keys=["readout"], recurse=False)

    def __call__(self, tokens: mx.array) -> mx.array:
        logits: mx.array = self.inner(tokens)[:, -1, :VOCABULARY] @ self.readout
        return logits


def inputs() -> mx.array:
    """Different rows of tokens, in each of which a token comes twice."""
    rows = np.random.default_rng(SEED).integers(1, VOCABULARY - 1, size=(INPUTS, TOKENS))
    rows[:, 3] = rows[:, 1]
    return mx.array(rows)


def examine(name: str, tell: Callable[[str], None] = lambda stage: None) -> Outcome:
    """Build an architecture and make every comparison; ``tell`` hears of each before it starts."""
    start = time.perf_counter()

    def seconds() -> float:
        return time.perf_counter() - start

    tell("building")
    try:
        model = LastLogits(build(name))
    except NotBuilt as error:
        return Outcome(name, not_built=str(error), seconds=seconds())
    x = inputs()
    tell("differences")
    try:
        J, own = reference_jacobian(model, x), ""
    except Exception as error:
        # What plain MLX cannot do, the kit may refuse, or do right as the differences will tell.
        own = f"the kit's own Jacobian, for want of another: {_told(error)}"
        tell("kernel")
        try:
            J = {name: _rows(value) for name, value in mlx_entk.jacobian(model, x).items()}
        except InputError as refusal:
            return Outcome(name, Verdict("refused", note=str(refusal)), seconds=seconds())
        except Exception as crash:
            return Outcome(name, Verdict("crashed", note=_told(crash)), seconds=seconds())
    differences = _verdict(lambda: compare_differences(model, x, J), own)
    tell("kernel")
    kernel = _verdict(lambda: compare_kernel(model, x, J))
    tell("operator")
    operator = _verdict(lambda: compare_operator(model, x, J))
    return Outcome(name, kernel, operator, differences, seconds())


def _rows(value: mx.array) -> Float64:
    return _float64(value).reshape(*value.shape[:2], -1)


def _verdict(compare: Callable[[], Verdict], note: str = "") -> Verdict:
    """What a comparison gives, or why it does not; warnings become notes."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            verdict = compare()
        except InputError as error:
            verdict = Verdict("refused", note=str(error))
        except Exception as error:
            verdict = Verdict("crashed", note=_told(error))
    told = [f"{warning.category.__name__}: {warning.message}" for warning in caught]
    notes = [part for part in (note, verdict.note, *dict.fromkeys(told)) if part]
    return replace(verdict, note="; ".join(notes))


def _told(error: Exception) -> str:
    """An exception in a line, with the innermost frame and that of the kit."""
    frames = traceback.extract_tb(error.__traceback__)
    kit = [frame for frame in frames if "/mlx_entk/" in frame.filename]
    places = [
        f"{frame.filename.rpartition('/')[2]}:{frame.lineno}" for frame in (frames[-1], *kit[-1:])
    ]
    message = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {message} ({' < '.join(dict.fromkeys(places))})"


# --- references ---------------------------------------------------------------------------------


def parameters(model: nn.Module) -> Params:
    """Trainable parameters by name; one that a model has at two places counts once."""
    found: Params = {}
    seen: set[int] = set()
    for name, value in flatten_tree(model.trainable_parameters()).items():
        if id(value) not in seen:
            seen.add(id(value))
            found[name] = value
    return found


def reference_jacobian(model: nn.Module, x: mx.array) -> Jacobian:
    """Each parameter's Jacobian of shape (N, C, P), by a backward pass for each n and c."""
    params = parameters(model)
    names, values = list(params), list(params.values())
    rows: dict[str, list[Float64]] = {name: [] for name in names}
    try:
        for n in range(x.shape[0]):

            def outputs(*given: mx.array, row: mx.array = x[n : n + 1]) -> mx.array:
                model.update(unflatten_tree(dict(zip(names, given, strict=True))))
                result: mx.array = model(row)
                return result

            for cotangent in mx.eye(OUTPUTS):
                gradients = mx.vjp(outputs, values, [cotangent[None]])[1]
                for name, gradient in zip(names, gradients, strict=True):
                    rows[name].append(_float64(gradient).reshape(-1))
    finally:
        model.update(unflatten_tree(params))
    return {name: np.array(part).reshape(len(x), OUTPUTS, -1) for name, part in rows.items()}


def compare_differences(model: nn.Module, x: mx.array, J: Jacobian) -> Verdict:
    """Central differences against J u, with a direction u for each parameter.

    Each is tried with several steps, of which every input has its best: a router that picks
    another expert, or a kink, spoils some steps, while a wrong derivative fits none.
    """
    rng = np.random.default_rng(SEED)
    scale = float(np.abs(_float64(model(x))).max())
    worst, where = 0.0, ""
    for name, value in parameters(model).items():
        start = _float64(value)
        direction = float(np.sqrt(np.mean(start**2))) * rng.standard_normal(start.shape)
        slopes = J[name] @ direction.reshape(-1)
        best = np.full(len(x), np.inf)
        for step in STEPS:
            coarse = _central(model, x, name, start, direction, step)
            fine = _central(model, x, name, start, direction, step / 2)
            found = (4 * fine - coarse) / 3
            rounding = ROUNDING * scale / step
            if step < STEPS[0] and rounding > np.abs(slopes).max() / 10:
                rounding = 0.0  # it would excuse anything; of what is constant, all is exactly 0
            change = max(float(np.abs(slopes).max()), float(np.abs(found).max()))
            excess = np.maximum(np.abs(found - slopes).max(axis=1) - rounding, 0)
            best = np.minimum(best, excess / change if change else 0)
            if best.max() < DIFFERENCES_TOLERANCE / 4:
                break
        model.update(unflatten_tree({name: value}))
        if best.max() > worst:
            worst, where = float(best.max()), name
    if worst > DIFFERENCES_TOLERANCE:
        return Verdict("wrong", worst, f"the derivative by {where}")
    return Verdict("right", worst)


def _central(
    model: nn.Module, x: mx.array, name: str, start: Float64, direction: Float64, step: float
) -> Float64:
    ends = []
    for shift in (step, -step):
        value = mx.array((start + shift * direction).astype(np.float32))
        model.update(unflatten_tree({name: value}))
        ends.append(_float64(model(x)))
    return np.asarray((ends[0] - ends[1]) / (2 * step))


# --- the kit ------------------------------------------------------------------------------------


def compare_kernel(model: nn.Module, x: mx.array, J: Jacobian) -> Verdict:
    """The trace kernel by parameter against that of a Jacobian."""
    found = mlx_entk.layerwise_entk(model, x, reduction="trace")
    expected = {name: np.einsum("ncp,mcp->nm", rows, rows) / OUTPUTS for name, rows in J.items()}
    if found.keys() != expected.keys():
        missing, extra = expected.keys() - found.keys(), found.keys() - expected.keys()
        return Verdict("wrong", note=f"missing {sorted(missing)}, not expected {sorted(extra)}")
    whole = float(np.abs(sum(expected.values())).max())
    errors, wrong = {}, []
    for name, kernel in expected.items():
        error = float(np.nan_to_num(np.abs(found[name] - kernel).max(), nan=np.inf))
        own = max(float(np.abs(kernel).max()), SMALL * whole)
        errors[name] = error / whole
        if error > KERNEL_TOLERANCE * whole or error > OWN_TOLERANCE * own:
            wrong.append(name)
    worst = max(errors, key=lambda name: errors[name])
    if not wrong:
        return Verdict("right", errors[worst])
    return Verdict("wrong", errors[worst], f"{len(wrong)} of {len(errors)}, {worst} the most")


def compare_operator(model: nn.Module, x: mx.array, J: Jacobian) -> Verdict:
    """Products of a vector with the full and the trace kernel against those of a Jacobian."""
    rng = np.random.default_rng(SEED)
    rows = np.concatenate(list(J.values()), axis=-1)
    full = np.einsum("ncp,mdp->cndm", rows, rows)
    kernels: dict[Reduction, Float64] = {
        "full": full.reshape(INPUTS * OUTPUTS, -1),
        "trace": np.einsum("cncm->nm", full) / OUTPUTS,
    }
    worst, where = 0.0, ""
    mx.disable_compile()  # on a CPU it starts a C++ compiler a hundred times
    try:
        for reduction, kernel in kernels.items():
            vector = rng.standard_normal(len(kernel))
            product = mlx_entk.entk_operator(model, x, reduction=reduction) @ vector
            expected = kernel @ vector
            error = np.abs(product - expected).max() / np.abs(expected).max()
            if not error <= worst:  # NaN is the worst there is
                worst, where = float(error), str(reduction)
    finally:
        mx.enable_compile()
    if worst <= KERNEL_TOLERANCE:
        return Verdict("right", worst)
    return Verdict("wrong", worst, f"the product with the {where} kernel")


def _float64(array: mx.array) -> Float64:
    return np.array(array.astype(mx.float32), dtype=np.float64)


def serve(pipe: Connection) -> None:
    """Examine the architectures whose names come through a pipe, one by one."""
    while True:
        pipe.send(examine(pipe.recv(), tell=pipe.send))
