"""Leading eigenpairs and traces of kernels that exist only as matrix-vector products."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh

from mlx_entk.distributed import Group, from_first, is_first
from mlx_entk.errors import InputError, RunFailedError
from mlx_entk.files import read_arrays, write_arrays
from mlx_entk.linalg import Float64Array, FloatArray, eigh
from mlx_entk.spectrum import Spectrum

Method = Literal["lanczos", "subspace"]


@dataclass(frozen=True)
class TopModes:
    """Leading eigenpairs of an operator, and how far each is from being one.

    Attributes
    ----------
    spectrum
        The eigenpairs.
    residuals
        ‖Kv − λv‖/λ of each, shape (k,).
    """

    spectrum: Spectrum
    residuals: Float64Array


class RecordedOperator(LinearOperator):  # type: ignore[misc]
    """An operator that keeps its products in files, so that a solver can be started again.

    Solvers are deterministic: started again they ask for the same products, which are then read
    until the first one that is missing. A product counts only for the vector that it was made
    for.

    Parameters
    ----------
    operator
        What makes the products; of single-precision accuracy, in which they are kept.
    folder
        Where to keep them, ``NUMBER.npz`` each.
    told
        Called with the number of products after each.
    group
        Ranks of ``mx.distributed`` that make the products together: the first one keeps them.
    """

    def __init__(
        self,
        operator: LinearOperator,
        folder: Path,
        told: Callable[[int], None] = lambda _: None,
        group: Group | None = None,
    ):
        self._operator, self._folder, self._told = operator, folder, told
        self._group = group
        self.products = 0
        super().__init__(np.dtype(np.float64), operator.shape)

    def _matvec(self, vector: Float64Array) -> Float64Array:
        self.products += 1
        vector = np.ascontiguousarray(vector.reshape(-1), dtype=np.float64)
        key = hashlib.sha256(vector.tobytes()).hexdigest()
        path = self._folder / f"{self.products:06d}.npz"
        stored = self._stored(path, key) if is_first(self._group) else None
        product = from_first(stored, self.shape[:1], self._group)
        if product is None:
            product = np.asarray(self._operator @ vector, dtype=np.float32)
            if is_first(self._group):
                write_arrays(path, {"key": np.array(key), "product": product})
        self._told(self.products)
        return product.astype(np.float64)

    def _stored(self, path: Path, key: str) -> FloatArray | None:
        if not path.exists():
            return None
        try:
            stored = read_arrays(path)
        except InputError:  # a damaged file is only one product to make again
            return None
        if str(stored.get("key")) != key or stored["product"].shape != (self.shape[0],):
            return None
        found: FloatArray = stored["product"]
        return found

    def _adjoint(self) -> "RecordedOperator":
        return self


def as_operator(kernel: FloatArray) -> LinearOperator:
    """A formed kernel as an operator, multiplied in its own precision, without a wider copy."""

    def multiply(vectors: Float64Array) -> Float64Array:
        product: Float64Array = (kernel @ vectors.astype(kernel.dtype)).astype(np.float64)
        return product

    return LinearOperator(kernel.shape, matvec=multiply, matmat=multiply, dtype=np.float64)


def top_modes(
    operator: LinearOperator,
    k: int,
    *,
    method: Method = "lanczos",
    tolerance: float = 1e-5,
    iterations: int = 300,
    seed: int = 0,
) -> TopModes:
    """The k largest eigenpairs of a symmetric positive semidefinite operator.

    Parameters
    ----------
    operator
        Shape (N, N).
    k
        From 1 to N − 1.
    method
        ``"lanczos"``: implicitly restarted Lanczos (ARPACK's ``eigsh``), the fewest products.
        ``"subspace"``: randomised subspace iteration on k + 10 vectors with Rayleigh-Ritz
        (Halko, Martinsson and Tropp, 2011, algorithm 5.3), more products, but simple and in
        blocks.
    tolerance
        The residual ‖Kv − λv‖/λ₀ at which to stop; products in float32 reach about 1e-6.
    iterations
        The most restarts (Lanczos) or block products (subspace).
    seed
        Of the starting vectors.

    Raises
    ------
    InputError
        For a k that the operator has no eigenpairs for.
    RunFailedError
        Where ``iterations`` did not suffice.
    """
    size = operator.shape[0]
    if not 0 < k < size:
        raise InputError(f"k is {k}: an operator of size {size} has 1 to {size - 1} to ask for")
    generator = np.random.default_rng(seed)
    if method == "lanczos":
        values, vectors = _lanczos(operator, k, tolerance, iterations, generator)
    elif method == "subspace":
        values, vectors = _subspace(operator, k, tolerance, iterations, generator)
    else:
        raise InputError(f"method {method!r} is unknown: use lanczos or subspace")
    differences = np.linalg.norm(operator @ vectors - vectors * values, axis=0)
    floor = 10 * float(np.finfo(np.float32).eps) * float(values[0])
    residuals = differences / np.maximum(values, np.finfo(float).tiny)
    return TopModes(Spectrum(values, vectors, floor), residuals)


def _lanczos(
    operator: LinearOperator,
    k: int,
    tolerance: float,
    iterations: int,
    generator: np.random.Generator,
) -> tuple[Float64Array, Float64Array]:
    start = generator.standard_normal(operator.shape[0])
    try:
        values, vectors = eigsh(
            operator, k, which="LA", v0=start, tol=tolerance, maxiter=iterations
        )
    except ArpackNoConvergence as error:
        raise RunFailedError(
            f"Lanczos found {len(error.eigenvalues)} of {k} modes in {iterations} restarts: "
            "allow more, or a larger tolerance"
        ) from error
    order = np.argsort(values)[::-1]
    return values[order], vectors[:, order]


def _subspace(
    operator: LinearOperator,
    k: int,
    tolerance: float,
    iterations: int,
    generator: np.random.Generator,
) -> tuple[Float64Array, Float64Array]:
    width = min(k + 10, operator.shape[0])
    basis = np.linalg.qr(generator.standard_normal((operator.shape[0], width)))[0]
    for _ in range(iterations):
        product = operator @ basis
        values, rotation = np.linalg.eigh(basis.T @ product)
        values, rotation = values[::-1], rotation[:, ::-1]
        vectors = basis @ rotation
        errors = np.linalg.norm(product @ rotation - vectors * values, axis=0)[:k]
        if errors.max() <= tolerance * values[0]:
            return values[:k], vectors[:, :k]
        basis = np.linalg.qr(product)[0]
    raise RunFailedError(
        f"subspace iteration stood at a residual of {errors.max() / values[0]:.1e} after "
        f"{iterations} products: allow more, or a larger tolerance"
    )


def jacobian_modes(rows: FloatArray, top: int) -> tuple[Spectrum, Float64Array]:
    """Modes of K = J Jᵀ from the smaller of J Jᵀ and Jᵀ J, which have the same eigenvalues.

    A flattened kernel of R = C·N rows costs R·P² in place of R³ where the parameters are fewer.

    Parameters
    ----------
    rows
        J, shape (R, P): a row for each entry of the flattened kernel.
    top
        How many modes, at most min(R, P).

    Returns
    -------
    spectrum, values
        The leading modes, fewer than ``top`` where the rest is lost in rounding, and all
        min(R, P) eigenvalues that may differ from zero, float64.
    """
    wide: Float64Array = np.asarray(rows, dtype=np.float64)
    R, P = wide.shape
    if not 0 < top <= min(R, P):
        raise InputError(f"top is {top}: a Jacobian of shape ({R}, {P}) has 1 to {min(R, P)} modes")
    values, small = eigh(wide.T @ wide if P < R else wide @ wide.T)
    scale = float(np.einsum("rp,rp->r", wide, wide).max())
    floor = 2 * np.sqrt(R) * float(np.finfo(rows.dtype).eps) * scale
    top = min(top, int((values > floor).sum()))
    vectors = small[:, :top]
    if P < R:
        vectors = wide @ vectors / np.sqrt(values[:top])
    return Spectrum(values[:top], vectors, floor), values


@dataclass(frozen=True)
class TraceEstimate:
    """tr K and tr K² of an operator.

    Attributes
    ----------
    trace, trace_of_square
        The estimates.
    products
        Matrix-vector products that they took.
    """

    trace: float
    trace_of_square: float
    products: int

    @property
    def participation_ratio(self) -> float:
        """(tr K)²/tr K²: the number of equal modes that would give both traces."""
        return self.trace**2 / self.trace_of_square


def estimate_trace(operator: LinearOperator, vectors: int = 20, seed: int = 0) -> TraceEstimate:
    """Estimate tr K and tr K² by Hutch++ (Meyer, Musco, Musco and Woodruff, 2021).

    Exact on the range of K·S for a random S of ``vectors`` columns, Hutchinson's estimate on
    what is left of it. The error falls like 1/``vectors``.

    Raises
    ------
    InputError
        For fewer than one vector.
    """
    size = operator.shape[0]
    if vectors < 1:
        raise InputError(f"vectors is {vectors}: the estimate needs at least one")
    vectors = min(vectors, size)
    generator = np.random.default_rng(seed)
    sketch = operator @ generator.choice([-1.0, 1.0], (size, vectors))
    basis = np.linalg.qr(sketch)[0]
    on_basis = operator @ basis
    rest = generator.choice([-1.0, 1.0], (size, vectors))
    rest -= basis @ (basis.T @ rest)
    on_rest = operator @ rest
    return TraceEstimate(
        trace=float((basis * on_basis).sum() + (rest * on_rest).sum() / vectors),
        trace_of_square=float((on_basis**2).sum() + (on_rest**2).sum() / vectors),
        products=3 * vectors,
    )
