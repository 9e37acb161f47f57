"""The results of verification, as kept in verification.json, and their table."""

from dataclasses import dataclass

from mlx_entk._files import Json
from mlx_entk._records import from_json
from mlx_entk.onnx import Agreement
from mlx_entk.report import Table
from mlx_entk.runs import Run


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
    """

    reduction: str
    inputs: int
    passed: bool
    comparisons: list[Agreement]
    not_installed: list[str]


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
    stopped = "".join(
        f" {row.checker} could not continue: {row.reason}." for row in rows if row not in ran
    )
    missing = verification.not_installed
    skipped = f" Not checked, because not installed: {', '.join(missing)}." if missing else ""
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
        f"errors.{limits}{skipped}{stopped}",
    )


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
