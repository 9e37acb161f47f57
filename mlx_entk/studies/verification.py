"""What other frameworks said of a run's network, as kept in verification.json, and its table."""

from dataclasses import dataclass

from mlx_entk._files import Json
from mlx_entk._records import from_json
from mlx_entk.onnx import Agreement
from mlx_entk.report import Table


@dataclass(frozen=True)
class Verification:
    """What verification.json holds.

    Attributes
    ----------
    reduction, inputs
        Of the kernel, and how many held-out inputs it was over.
    passed
        Whether something was checked, and nothing failed.
    comparisons
        A row for each quantity and checker.
    not_installed
        Checkers that were not there.
    """

    reduction: str
    inputs: int
    passed: bool
    comparisons: list[Agreement]
    not_installed: list[str]


def verification_table(stored: Json) -> Table:
    """The table of ``verification.json``."""
    verification = from_json(Verification, _with_status(stored), "verification.json")
    rows = verification.comparisons
    ran = [row for row in rows if row.tolerance is not None]
    reasons = {f"{row.tolerance:.0e}: {row.reason}" for row in ran}
    limits = f" Limits: {'; '.join(sorted(reasons))}." if reasons else ""
    stopped = "".join(
        f" {row.checker} could not go on: {row.reason}." for row in rows if row not in ran
    )
    missing = verification.not_installed
    skipped = f" Not checked, since not installed: {', '.join(missing)}." if missing else ""
    return Table(
        f"Verified on {verification.inputs} held-out inputs, {verification.reduction} kernel",
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
        "The largest error is relative to the largest entry, the spectrum's to its largest "
        "eigenvalue. The angle is the largest between the leading eigenspaces, up to the widest "
        f"gap; verification.json has Frobenius errors too.{limits}{skipped}{stopped}",
    )


def _with_status(stored: Json) -> Json:
    """Earlier versions stored no status: what was computed there either passed or failed."""
    rows = [
        {"status": "passed" if row.get("passed") else "failed", **row}
        for row in stored.get("comparisons", [])
        if isinstance(row, dict)
    ]
    return {**stored, "comparisons": rows}


def _error_cell(row: Agreement) -> str:
    if row.tolerance is not None and row.max_error is None:
        return "NaN"
    return _small_cell(row.max_error)


def _small_cell(value: float | None) -> str:
    return "" if value is None else f"{value:.1e}"
