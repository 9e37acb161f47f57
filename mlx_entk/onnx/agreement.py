"""How far a result of another framework is from the expected one, and whether that is too far."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mlx_entk import _linalg as linalg
from mlx_entk._linalg import Float64Array
from mlx_entk.errors import InputError
from mlx_entk.kernel import flatten

TOLERANCES = {
    "forward": (1e-5, "single precision: some hundred roundings of 6e-8 along a path"),
    "kernel": (1e-4, "single precision: products of Jacobians, summed over the parameters"),
    "differences": (1e-6, "double precision on both sides: rounding over a step of 1e-7"),
    "half": (0.1, "half precision: two or three digits"),
}
# The kinds whose quantities MLX computes in the model's own precision.
_OWN_PRECISION = frozenset({"forward", "kernel"})

# Eigenvalues below this share of the largest may be rounding of single precision.
ROUNDING = 1e-6

Status = Literal["passed", "failed", "not run"]


@dataclass(frozen=True)
class Agreement:
    """One quantity from a checker, held against MLX or against a derivative graph.

    The fields are the keys of a row in ``verification.json``.

    Attributes
    ----------
    checker, quantity
        Who computed what.
    graphs
        The exported graphs that were compared, by what they are of; empty in files of earlier
        versions, as is the quantity if a checker could not continue.
    max_error
        Largest difference over the largest entry; None if nothing was computed, or the result is
        not a number.
    frobenius
        Norm of the difference over the norm of the expected quantity; None as for ``max_error``.
    spectrum
        Largest difference of eigenvalues over the largest eigenvalue; None unless the quantity is
        a symmetric kernel.
    angle
        Largest principal angle between the leading eigenspaces, in degrees; None as for
        ``spectrum``.
    modes
        Dimension of those eigenspaces: up to the widest gap among the first ten eigenvalues above
        the rounding of single precision, where the space is best defined.
    tolerance, reason
        The largest ``max_error`` and ``frobenius`` allowed, and why; or None, and why the check
        could not be run.
    passed
        Whether the check ran and passed.
    status
        Whether both errors are within the tolerance; an error that is None is not.
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
    passed: bool
    status: Status
    graphs: list[str] = field(default_factory=list)

    @classmethod
    def not_run(
        cls, checker: str, quantity: str, graphs: Sequence[str], reason: str
    ) -> "Agreement":
        """Return the row of a check that could not be run."""
        return cls(
            checker=checker, quantity=quantity, max_error=None, frobenius=None, spectrum=None,
            angle=None, modes=None, tolerance=None, reason=reason, passed=False, status="not run",
            graphs=list(graphs),
        )  # fmt: skip


def all_passed(agreements: Sequence[Agreement]) -> bool:
    """Return whether a verification passed: at least one check ran, and none failed."""
    statuses = {agreement.status for agreement in agreements}
    return "passed" in statuses and "failed" not in statuses


def agreement_of(
    checker: str,
    quantity: str,
    actual: NDArray[Any],
    expected: NDArray[Any],
    kind: str,
    symmetric: bool = False,
    half: bool = False,
    graphs: Sequence[str] = (),
) -> Agreement:
    """Measure how far a checker's result is from the expected one.

    Parameters
    ----------
    checker, quantity
        Who computed what.
    actual, expected
        The checker's result and the expected one, of the same shape.
    kind
        A key of ``TOLERANCES``.
    symmetric
        Whether both are symmetric kernels, (N, N) or (N, N, C, C), so that their spectra can be
        examined as well.
    half
        Whether the model has half precision.
    graphs
        The exported graphs that were compared.

    Raises
    ------
    InputError
        If the shapes differ.
    """
    if actual.shape != expected.shape:
        raise InputError(
            f"{checker}: {quantity} has shape {actual.shape}, expected {expected.shape}: the graph "
            "is of another model, export it again"
        )
    a, b = actual.astype(np.float64), expected.astype(np.float64)
    tolerance, reason = TOLERANCES["half" if half and kind in _OWN_PRECISION else kind]
    difference = a - b
    spectrum = angle = modes = None
    if symmetric and np.isfinite(difference).all():
        if a.ndim == 4:
            a, b = (np.asarray(flatten(part), dtype=np.float64) for part in (a, b))
        (values, vectors), (values_b, vectors_b) = linalg.eigh(a), linalg.eigh(b)
        spectrum = _relative(float(np.abs(values - values_b).max()), float(values_b[0]))
        modes = _leading(values_b)
        angle = _principal_angle(vectors[:, :modes], vectors_b[:, :modes])
    errors = (
        _relative(float(np.abs(difference).max()), float(np.abs(b).max())),
        _relative(float(np.linalg.norm(difference)), float(np.linalg.norm(b))),
    )
    passed = all(error is not None and error <= tolerance for error in errors)
    return Agreement(
        checker=checker,
        quantity=quantity,
        max_error=errors[0],
        frobenius=errors[1],
        spectrum=spectrum,
        angle=angle,
        modes=modes,
        tolerance=tolerance,
        reason=reason,
        passed=passed,
        status="passed" if passed else "failed",
        graphs=list(graphs),
    )


def _principal_angle(vectors: Float64Array, vectors_b: Float64Array) -> float:
    """Return the largest principal angle between two spaces, in degrees."""
    cosines = np.linalg.svd(vectors.T @ vectors_b, compute_uv=False)
    # The sine keeps its digits for small angles, whose cosine rounds to 1.
    outside = vectors - vectors_b @ (vectors_b.T @ vectors)
    sine = np.linalg.norm(outside, 2)
    return float(np.degrees(np.arctan2(sine, cosines.min())))


def _relative(error: float, size: float) -> float | None:
    """Return an error over a size, or the error itself if that is 0; None if not a number."""
    relative = error / size if size else error
    return relative if np.isfinite(relative) else None


def _leading(values: Float64Array) -> int:
    """Return the number of modes before the widest gap, leaving out what may be rounding alone."""
    head = values[:11][values[:11] > ROUNDING * values[0]]
    return int(np.argmax(head[:-1] / head[1:])) + 1 if head.size > 1 else 1
