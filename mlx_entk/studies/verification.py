"""The results of verification, as kept in verification.json, and their table."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from mlx_entk._files import Json
from mlx_entk._records import from_json
from mlx_entk.onnx import Agreement
from mlx_entk.report import Table
from mlx_entk.runs import Run


@dataclass(frozen=True)
class VerifiedModel:
    """Which model was verified.

    Attributes
    ----------
    run, study
        The folder of its run, and the study that made it.
    parameters
        How many numbers are its parameters.
    sha256
        SHA-256 of their names, types, shapes and contents.
    """

    run: str
    study: str
    parameters: int
    sha256: str


@dataclass(frozen=True)
class VerifiedGraph:
    """Which graph was verified.

    Attributes
    ----------
    graph
        What it computes: ``model``, ``jvp`` or ``entk``.
    file, sha256
        The file in the folder of the run, and its SHA-256; None if it could not be written.
    reason
        Why it could not be written, or empty.
    """

    graph: str
    file: str | None
    sha256: str | None
    reason: str


@dataclass(frozen=True)
class Verification:
    """What verification.json holds.

    Attributes
    ----------
    reduction, inputs
        Reduction of the kernel, and the number of inputs that it was over.
    passed
        Whether at least one check was made, and no check failed.
    comparisons
        A row for each quantity and checker.
    not_installed
        Checkers that are not installed.
    model, graphs
        What was verified; None and empty in files of earlier versions.
    """

    reduction: str
    inputs: int
    passed: bool
    comparisons: list[Agreement]
    not_installed: list[str]
    model: VerifiedModel | None = None
    graphs: list[VerifiedGraph] = field(default_factory=list)


def verification_of(run: Run) -> Verification | None:
    """What verification of a run found; None if the run was not verified."""
    stored = run.verification
    if stored is None:
        return None
    return from_json(Verification, _with_status(stored), f"{run.path / 'verification.json'}")


def verification_table(verification: Verification) -> Table:
    """A row for each quantity and checker."""
    rows = verification.comparisons
    ran = [row for row in rows if row.tolerance is not None]
    reasons = {f"{row.tolerance:.0e}: {row.reason}" for row in ran}
    limits = f" Limits: {'; '.join(sorted(reasons))}." if reasons else ""
    missing = verification.not_installed
    skipped = f" Not checked, because not installed: {', '.join(missing)}." if missing else ""
    graphs = "; ".join(
        f"{graph.file} {graph.sha256[:12]}"
        for graph in verification.graphs
        if graph.file is not None and graph.sha256 is not None
    )
    files = f" Graphs, with the start of their SHA-256: {graphs}." if graphs else ""
    return Table(
        f"Verification of the {verification.reduction} kernel on {verification.inputs} inputs",
        ("checker", "quantity", "error", "spectrum", "angle", "limit", ""),
        [
            (
                row.checker,
                row.quantity,
                _error_cell(row),
                _small_cell(row.spectrum),
                "" if row.angle is None else f"{row.angle:.2g}°",
                "" if row.tolerance is None else f"{row.tolerance:.0e}",
                row.status.replace("failed", "FAILED"),
            )
            for row in rows
        ],
        "Error is the largest error, relative to the largest entry. Spectrum is the largest error "
        "of an eigenvalue, relative to the largest one. Angle is the largest angle between the "
        "leading eigenspaces, up to the widest gap. verification.json also has Frobenius "
        f"errors.{limits}{skipped}{_not_run(rows)}{files}",
    )


def _not_run(rows: Sequence[Agreement]) -> str:
    """Sentences that say which rows were not run, one for each reason."""
    found: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if row.tolerance is None:
            found.setdefault((row.checker, row.reason), []).append(row.quantity)
    sentences = []
    for (checker, reason), quantities in found.items():
        which = " ".join([checker, *filter(None, [" and ".join(quantities)])])
        sentences.append(f" Not run: {which}, because {reason}.")
    return "".join(sentences)


def _with_status(stored: Json) -> Json:
    """Add the status, which earlier versions did not store: each check passed or failed."""
    rows = stored.get("comparisons")
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        return stored
    whole = [{"status": "passed" if row.get("passed") else "failed", **row} for row in rows]
    return {**stored, "comparisons": whole}


def _error_cell(row: Agreement) -> str:
    if row.tolerance is not None and row.max_error is None:
        return "NaN"
    return _small_cell(row.max_error)


def _small_cell(value: float | None) -> str:
    return "" if value is None else f"{value:.1e}"
