"""Verification: whether other frameworks compute the same outputs, derivatives and kernels."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path

import onnx

from mlx_entk.errors import InputError, MlxEntkError
from mlx_entk.onnx.agreement import Agreement, agreement_of
from mlx_entk.onnx.checkers import (
    Check,
    Checker,
    by_differences,
    by_onnxruntime,
    by_torch,
)
from mlx_entk.onnx.files import read_model
from mlx_entk.onnx.precision import is_weight
from mlx_entk.onnx.runtime import message_of
from mlx_entk.onnx.subject import Subject
from mlx_entk.progress import Progress, silent

_CHECKERS: dict[str, Checker] = {
    "onnxruntime": by_onnxruntime,
    "finite-differences": by_differences,
    "torch": by_torch,
}
CHECKERS = tuple(_CHECKERS)
"""What ``verify`` can check against, by name."""


def verify(
    subject: Subject, against: Sequence[str] = CHECKERS, progress: Progress = silent
) -> list[Agreement]:
    """Check MLX's results with other frameworks.

    Parameters
    ----------
    subject
        What to verify.
    against
        Names from ``CHECKERS``.
    progress
        Told which checker runs.

    Returns
    -------
    list of Agreement
        Rows of each checker in turn. If a checker lacks an operator, or a graph could not be
        written, the rows that need it say so; the others are run all the same.

    Raises
    ------
    InputError
        If a checker is unknown or not installed, or a graph is damaged or of another model.
    """
    require_checkers(against)
    graphs = {name: read_model(path) for name, path in subject.graphs.items()}
    for what, graph in graphs.items():
        _require_same_model(subject, subject.graphs[what], graph)
    agreements: list[Agreement] = []
    for done, name in enumerate(against):
        progress("verification", done, len(against), name)
        agreements += [_row(subject, check) for check in _CHECKERS[name](subject, graphs)]
    progress("verification", len(against), len(against))
    return agreements


def _row(subject: Subject, check: Check) -> Agreement:
    """Return the row of a check, or one that says why there is nothing to compare."""
    for what in check.graphs:
        if what not in subject.graphs:
            why = subject.missing.get(what, "it was not written")
            reason = f"there is no graph {what} of this model: {why}"
            return Agreement.not_run(check.checker, check.quantity, check.graphs, reason)
    try:
        found = check.compute()
    except MlxEntkError:
        raise
    except Exception as error:  # other frameworks may raise anything
        reason = message_of(error)
        return Agreement.not_run(check.checker, check.quantity, check.graphs, reason)
    return agreement_of(
        check.checker,
        check.quantity,
        found.actual,
        found.expected,
        found.kind,
        symmetric=check.quantity == "kernel" and subject.has_spectrum,
        half=subject.is_half,
        graphs=found.graphs,
    )


def require_checkers(names: Sequence[str]) -> None:
    """Raise InputError for a name that is not in ``CHECKERS``, or not installed."""
    unknown = [name for name in names if name not in CHECKERS]
    if unknown:
        raise InputError(f"no checker {', '.join(unknown)}: use {', '.join(CHECKERS)}")
    if "torch" in names and "torch" not in installed_checkers():
        raise InputError(
            "verification by PyTorch needs the extra torch: pip install 'mlx-entk[torch]'"
        )


def installed_checkers() -> list[str]:
    """Return the checkers whose framework is installed; PyTorch is an extra."""
    has_torch = importlib.util.find_spec("torch") is not None
    return [name for name in CHECKERS if name != "torch" or has_torch]


def _require_same_model(subject: Subject, path: Path, graph: onnx.ModelProto) -> None:
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
