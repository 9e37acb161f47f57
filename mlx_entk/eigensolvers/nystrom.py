"""Leading modes of a kernel from some of its columns (Nyström's method)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from mlx_entk._linalg import Float64Array, FloatArray, eigh, whole_number
from mlx_entk._memory import format_bytes, limit_in_bytes
from mlx_entk.eigensolvers.operators import random_generator, require_kernel
from mlx_entk.errors import InputError
from mlx_entk.kernel import entk
from mlx_entk.progress import Progress, silent
from mlx_entk.spectrum import Spectrum, noise_floor
from mlx_entk.tracing.functions import Model, Output, Selection
from mlx_entk.tracing.inputs import as_inputs, count, part

_FLOAT = 4
_EPSILON = float(np.finfo(np.float32).eps)
# Rows of the columns that are worked on in float64 at a time.
_ROWS = 2048


@dataclass(frozen=True)
class NystromModes:
    """The leading eigenpairs of a kernel as some of its columns tell them, and their errors.

    Attributes
    ----------
    spectrum
        The eigenpairs over all N inputs; the values are estimates of vᵀKv.
    residuals
        Estimates of ‖Kv − λv‖/λ for each mode, shape (k,), from rows of the kernel that had no part
        in finding the modes.
    errors
        Standard errors of the residuals, shape (k,).
    landmarks
        The inputs whose columns were taken, in ascending order.
    """

    spectrum: Spectrum
    residuals: Float64Array
    errors: Float64Array
    landmarks: NDArray[np.int64]


def nystrom_modes(
    model: Model,
    x: Any,
    k: int,
    *,
    landmarks: int,
    reduction: str = "trace",
    params: Any = None,
    output: Output | None = None,
    parameters: Selection | None = None,
    checks: int = 256,
    memory_limit: int | str | None = None,
    out: Path | str | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> NystromModes:
    """Estimate the k leading modes of an eNTK over N inputs from m of its columns.

    The kernel is approximated by C W⁺ Cᵀ (Williams and Seeger, 2001), where C are the columns of m
    landmarks and W their rows of C. That takes N·m entries of the kernel instead of N²/2, so it
    pays off for N well above 2m.

    Parameters
    ----------
    model, x, params, output, parameters, progress
        As for ``mlx_entk.entk``.
    k
        How many modes, from 1 to ``landmarks``.
    landmarks
        m. They are drawn uniformly, which served leading modes as well as pivoted Cholesky did.
    reduction
        ``"trace"`` or ``"sum-of-logits"``.
    checks
        How many further inputs to draw, at least 2, whose rows of K v show the residuals.
    memory_limit
        As for ``mlx_entk.entk``. Without ``out``, C may take half of it.
    out
        A folder for C, as for ``mlx_entk.entk``, if it does not fit into memory.
    seed
        Seed of the drawings.

    Returns
    -------
    NystromModes
        There are fewer than k modes if the others are lost in rounding. Look at the residuals: if
        they are too large, take more landmarks.

    Raises
    ------
    InputError
        If a number is out of range; if C does not fit into the memory limit; for a reduction that
        has no kernel over inputs; and as ``mlx_entk.entk`` does.

    Notes
    -----
    C W⁺ Cᵀ has the landmarks' rows of K exactly. With r checks, a sum over the other N − m rows of
    Kv − λv is estimated by (N − m)/r times that over the checks. Both λ and the residuals are
    estimated so: the eigenvalues of C W⁺ Cᵀ itself are too small.

    Time beyond that of the columns, in FLOPs: 4·N·m² in double precision.
    """
    inputs, names = as_inputs(x)
    N, m, r, k = count(inputs), *_numbers(landmarks, checks, k)
    if m + r > N:
        raise InputError(
            f"{m} landmarks and {r} checks are more than the {N} inputs: take fewer, or form the "
            "kernel and pass it to top_modes"
        )
    if reduction not in ("trace", "sum-of-logits"):
        raise InputError(f"reduction is {reduction!r}: pass trace or sum-of-logits")
    limit, held = limit_in_bytes(memory_limit), _FLOAT * N * (m + r)
    if out is None and held > limit / 2:
        raise InputError(
            f"{m + r} columns over {N} inputs take {format_bytes(held)}, more than half of the "
            f"memory limit of {format_bytes(limit)}: take fewer landmarks, or pass out=FOLDER"
        )
    drawn = random_generator(seed).permutation(N)[: m + r]
    chosen, checked = np.sort(drawn[:m]), np.sort(drawn[m:])
    some: Any = part(inputs, mx.array(np.concatenate([chosen, checked])))
    if not isinstance(x, tuple):
        some = some[0] if names is None else dict(zip(names, some, strict=True))
    columns = entk(
        model, x, some, reduction=reduction, params=params, output=output, parameters=parameters,
        memory_limit=limit, out=out, progress=progress,
    )  # fmt: skip
    values, vectors, floor = _approximated(columns[:, :m], chosen, k)
    # Kv − λv on the checks, by the symmetry of K, and what a row of them stands for.
    products = sum(
        np.asarray(columns[rows, m:], np.float64).T @ vectors[rows] for rows in _slices(N)
    )
    there, stands_for = vectors[checked], (N - m) / r
    shift = stands_for * (there * (products - values * there)).sum(axis=0)
    values = values + shift
    squares = (products - values * there) ** 2
    total = stands_for * squares.sum(axis=0) + shift**2 * (vectors[chosen] ** 2).sum(axis=0)
    spread = stands_for * np.sqrt(r) * squares.std(axis=0, ddof=1)
    residuals = np.sqrt(total)
    # A change of the square by its standard error changes the root by about half as much of it.
    errors = spread / np.maximum(2 * residuals, np.finfo(np.float64).tiny)
    order = np.argsort(-values, kind="stable")
    scale = np.maximum(values, floor)
    return NystromModes(
        Spectrum(values[order], np.ascontiguousarray(vectors[:, order]), floor),
        (residuals / scale)[order],
        (errors / scale)[order],
        chosen,
    )


def _numbers(landmarks: int, checks: int, k: int) -> tuple[int, int, int]:
    m, r, k = (
        whole_number(number, name)
        for number, name in ((landmarks, "landmarks"), (checks, "checks"), (k, "k"))
    )
    if not 0 < k <= m:
        raise InputError(f"k is {k}: {m} landmarks give 1 to {m} modes")
    if r < 2:
        raise InputError(f"checks is {r}: residuals need at least two rows")
    return m, r, k


def _approximated(
    columns: FloatArray, chosen: NDArray[np.int64], k: int
) -> tuple[Float64Array, Float64Array, float]:
    """The k leading eigenpairs of C W⁺ Cᵀ, and the noise floor."""
    N, m = columns.shape
    among = np.asarray(columns[chosen], np.float64)
    require_kernel(among)
    scale = float(np.abs(among).max())
    small, rotation = eigh(among)
    kept = small > noise_floor(m, scale, _EPSILON)
    root = rotation[:, kept] / np.sqrt(small[kept])  # C W⁺ Cᵀ = (C root)(C root)ᵀ
    gram = np.zeros((root.shape[1],) * 2)
    for rows in _slices(N):
        factor = np.asarray(columns[rows], np.float64) @ root
        gram += factor.T @ factor
    floor = noise_floor(N, scale, _EPSILON)
    if not kept.any():
        return np.zeros(0), np.zeros((N, 0)), floor
    values, within = eigh(gram, k)
    values, within = values[values > floor], within[:, values > floor]
    directions = root @ (within / np.sqrt(values))
    vectors = np.concatenate(
        [np.asarray(columns[rows], np.float64) @ directions for rows in _slices(N)]
    )
    return values, vectors, floor


def _slices(N: int) -> list[slice]:
    return [slice(start, start + _ROWS) for start in range(0, N, _ROWS)]
