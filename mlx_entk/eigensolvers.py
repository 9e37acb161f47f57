"""Leading eigenpairs and traces of kernels that exist only as matrix-vector products."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from scipy.sparse import issparse
from scipy.sparse.linalg import LinearOperator, aslinearoperator

from mlx_entk._files import read_arrays, write_arrays
from mlx_entk._linalg import (
    ArrayLike,
    Float64Array,
    FloatArray,
    as_floats,
    eigh,
    epsilon_of,
    require_finite,
    rows_not_finite,
    whole_number,
)
from mlx_entk.distributed import Group, from_first, is_first
from mlx_entk.errors import InputError, RunFailedError
from mlx_entk.spectrum import NOT_AN_ENTK, ROUNDING, Spectrum, square

Method = Literal["lanczos", "subspace"]
Product = Callable[[Float64Array], Float64Array]

# Vectors that Lanczos works with at least, and those of a search for what it missed.
_LEAST_WIDTH = 20
_SEARCH = 12
# Share of an operator that rounding may make asymmetric: products of networks in bfloat16 gave up
# to 0.006, in float32 1e-7; operators that are not symmetric give about 1.
_ASYMMETRY = 0.03
# Share of the largest eigenvalue that rounding may put below zero: those gave 3e-4 and 1e-9, the
# kernels of pairs of different classes 0.08 and more.
_NEGATIVE = 1e-3
# Share of the largest eigenvalue below which products in float32 show rounding alone.
_NOISE = 10 * float(np.finfo(np.float32).eps)


@dataclass(frozen=True)
class TopModes:
    """Leading eigenpairs of an operator, and how far each is from being one.

    Attributes
    ----------
    spectrum
        The eigenpairs.
    residuals
        ‖Kv − λv‖/λ of each, of modes below the noise floor over that, shape (k,).
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


def as_operator(kernel: ArrayLike) -> LinearOperator:
    """A formed kernel as an operator, multiplied in its own precision, without a wider copy.

    Raises
    ------
    InputError
        For a kernel that is not square, or has a negative entry on the diagonal.
    """
    return _formed(square(kernel, "kernel"), "kernel")


def _formed(matrix: FloatArray, name: str) -> LinearOperator:
    diagonal = np.diagonal(matrix)
    if diagonal.min() < -ROUNDING * np.abs(diagonal).max():
        raise InputError(
            f"{name} has negative entries on the diagonal down to −{-diagonal.min():.3g}: "
            f"{NOT_AN_ENTK}"
        )

    def multiply(vectors: Float64Array) -> Float64Array:
        product: Float64Array = (matrix @ vectors.astype(matrix.dtype)).astype(np.float64)
        return product

    return LinearOperator(matrix.shape, matvec=multiply, matmat=multiply, dtype=np.float64)


def top_modes(
    operator: LinearOperator | ArrayLike,
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
        Shape (N, N): of SciPy, or a matrix. One of fewer than 20 rows, or 2k + 1, is formed by
        N products and decomposed.
    k
        From 1 to N.
    method
        ``"lanczos"``: restarted Lanczos (Wu and Simon, 2000), the fewest products. When the
        modes have converged, 12 products from a random vector orthogonal to them look for
        larger ones: copies of a repeated eigenvalue stay hidden from a single vector.
        ``"subspace"``: randomised subspace iteration on k + 10 vectors with Rayleigh-Ritz
        (Halko, Martinsson and Tropp, 2011, algorithm 5.3), more products, but simple and in
        blocks.
    tolerance
        The residual ‖Kv − λv‖/λ at which to stop, of modes below λ₀/100 ‖Kv − λv‖ over that;
        of ``"subspace"`` ‖Kv − λv‖/λ₀. Products in float32 reach about 1e-6.
    iterations
        The most restarts (Lanczos) or block products (subspace).
    seed
        Of the random vectors.

    Returns
    -------
    TopModes
        Eigenvalue 0 for as many as the rank is below k.

    Raises
    ------
    InputError
        For a k that the operator has no eigenpairs for, other settings that do not fit, and an
        operator that is not square, not symmetric or not positive semidefinite, as far as the
        vectors that are worked with show it, with no further products. Lanczos finds the
        smallest eigenvalues of its operator as it does the largest, so that a negative one
        well beyond rounding shows; subspace iteration sees those as large as the ones that it
        is asked for.
    RunFailedError
        Where ``iterations`` did not suffice, or a product is not finite.
    """
    multiply, size = _products_of(operator)
    k, iterations = whole_number(k, "k"), whole_number(iterations, "iterations")
    if not 0 < k <= size:
        raise InputError(f"k is {k}: an operator of size {size} has 1 to {size} to ask for")
    if iterations < 1:
        raise InputError(f"iterations is {iterations}: allow at least one")
    if not tolerance > 0:
        raise InputError(f"tolerance is {tolerance}: it must be above 0")
    if method not in get_args(Method):
        raise InputError(f"method {method!r} is unknown: use {' or '.join(get_args(Method))}")
    generator = _generator(seed)
    width = max(2 * k + 1, k + _SEARCH, _LEAST_WIDTH)
    if size <= width:
        formed = multiply(np.eye(size))
        _require_kernel(formed)
        multiply = formed.__matmul__
        values, vectors = eigh(formed, k)
    elif method == "lanczos":
        values, vectors = _lanczos(multiply, size, k, width, tolerance, iterations, generator)
    else:
        values, vectors = _subspace(multiply, size, k, tolerance, iterations, generator)
    differences = np.linalg.norm(multiply(vectors) - vectors * values, axis=0)
    floor = _NOISE * max(0.0, float(values[0]))
    # Of a kernel of zeros both are 0.
    residuals = differences / np.maximum(values, floor or 1.0)
    return TopModes(Spectrum(values, vectors, floor), residuals)


def _products_of(operator: LinearOperator | ArrayLike) -> tuple[Product, int]:
    """Finite products with vectors in columns, or one vector, and the operator's size."""
    linear: Any = operator
    if issparse(operator):
        linear = aslinearoperator(operator)
    elif not isinstance(operator, LinearOperator):
        linear = _formed(square(operator, "operator"), "operator")
    rows, columns = linear.shape
    if rows != columns or rows == 0:
        raise InputError(f"operator has shape {linear.shape}: an eNTK is square")
    if np.issubdtype(linear.dtype, np.complexfloating):
        raise InputError(f"operator has type {linear.dtype}: an eNTK is real")

    def multiply(vectors: Float64Array) -> Float64Array:
        with np.errstate(over="ignore", invalid="ignore"):
            # A copy: an operator may return what it was given.
            product: Float64Array = np.array(linear @ vectors, dtype=np.float64)
        if not np.isfinite(product).all():
            raise RunFailedError(
                f"{rows_not_finite(product, 'rows')} NaN or infinite entries in a product of "
                "the operator: look at the model's weights and inputs"
            )
        return product

    return multiply, rows


def _generator(seed: int) -> np.random.Generator:
    if whole_number(seed, "seed") < 0:
        raise InputError(f"seed is {seed}: it is 0 or more")
    return np.random.default_rng(seed)


def _require_kernel(projected: Float64Array) -> None:
    """Raise InputError where VᵀKV, for an orthonormal V, is not that of an eNTK K.

    How asymmetric it is says how precise the products are: a negative eigenvalue within that
    is rounding too.
    """
    asymmetry = float(np.linalg.norm(projected - projected.T))
    if asymmetry > _ASYMMETRY * np.linalg.norm(projected):
        raise InputError("operator is not symmetric: its spectrum is not that of an eNTK")
    values = np.linalg.eigvalsh((projected + projected.T) / 2)
    if -values[0] > max(_NEGATIVE * np.abs(values).max(), asymmetry):
        raise InputError(
            f"operator has negative eigenvalues down to −{-values[0]:.3g}: {NOT_AN_ENTK}"
        )


def _lanczos(
    multiply: Product,
    size: int,
    k: int,
    width: int,
    tolerance: float,
    iterations: int,
    generator: np.random.Generator,
) -> tuple[Float64Array, Float64Array]:
    basis = np.empty((width + 1, size))  # orthonormal, in rows
    projected = np.zeros((width, width))  # basis · K · basisᵀ, its upper triangle
    basis[0] = _random_direction(basis[:0], generator)
    kept, end, restarts = 0, width, 0
    known: Float64Array | None = None  # the values of converged modes that a search goes beyond
    while True:
        rest = _extend(multiply, basis, projected, kept, end, generator)
        if restarts == 0 and known is None:
            _require_kernel(projected)
        values, rotation = np.linalg.eigh(projected[:end, :end], UPLO="U")
        values, rotation = values[::-1], rotation[:, ::-1]
        limits = tolerance * np.maximum(values[:k], values[0] / 100)
        converged = rest * np.abs(rotation[-1, :k]) <= limits
        if converged.all():
            if known is not None and (values[:k] - known <= np.sqrt(k) * limits).all():
                return values[:k], np.ascontiguousarray((rotation[:, :k].T @ basis[:end]).T)
            kept, following, known = k, None, values[:k]
        else:
            restarts += 1
            if restarts == iterations:
                raise RunFailedError(
                    f"Lanczos found {converged.sum()} of {k} modes in {iterations} restarts: "
                    "allow more, or a larger tolerance"
                )
            kept, following, known = k + (end - k) // 2, basis[end].copy(), None
        basis[:kept] = rotation[:, :kept].T @ basis[:end]
        basis[kept] = _random_direction(basis[:kept], generator) if following is None else following
        end = k + _SEARCH if following is None else width
        projected[:] = 0
        projected[np.arange(kept), np.arange(kept)] = values[:kept]


def _extend(
    multiply: Product,
    basis: Float64Array,
    projected: Float64Array,
    start: int,
    end: int,
    generator: np.random.Generator,
) -> float:
    """Lanczos steps from row ``start`` of the basis until ``end``; the length of the last rest.

    Where nothing is left of a product, the basis spans an invariant subspace, and a random
    direction goes on.
    """
    largest, rest = 0.0, 0.0
    for j in range(start, end):
        product = multiply(basis[j])
        largest = max(largest, float(np.linalg.norm(product)))
        for _ in range(2):  # once leaves rounding of the size of the product
            along = basis[: j + 1] @ product
            product -= along @ basis[: j + 1]
            projected[: j + 1, j] += along
        rest = float(np.linalg.norm(product))
        if rest <= 100 * float(np.finfo(np.float64).eps) * largest:
            rest = 0.0
            basis[j + 1] = _random_direction(basis[: j + 1], generator)
        else:
            basis[j + 1] = product / rest
        if j + 1 < end:
            projected[j + 1, j] = rest
    return rest


def _random_direction(basis: Float64Array, generator: np.random.Generator) -> Float64Array:
    """A random unit vector orthogonal to the rows of a basis."""
    direction: Float64Array = generator.standard_normal(basis.shape[1:])
    for _ in range(2):
        direction -= (basis @ direction) @ basis
        direction /= np.linalg.norm(direction)
    return direction


def _subspace(
    multiply: Product,
    size: int,
    k: int,
    tolerance: float,
    iterations: int,
    generator: np.random.Generator,
) -> tuple[Float64Array, Float64Array]:
    basis = np.linalg.qr(generator.standard_normal((size, k + 10)))[0]
    for _ in range(iterations):
        product = multiply(basis)
        projected = basis.T @ product
        _require_kernel(projected)
        values, rotation = np.linalg.eigh(projected)
        values, rotation = values[::-1], rotation[:, ::-1]
        vectors = basis @ rotation
        worst = float(np.linalg.norm(product @ rotation - vectors * values, axis=0)[:k].max())
        if worst <= tolerance * values[0]:
            return values[:k], vectors[:, :k]
        basis = np.linalg.qr(product)[0]
    raise RunFailedError(
        f"subspace iteration stood at ‖Kv − λv‖ = {worst:.1e}, λ₀ = {values[0]:.1e} after "
        f"{iterations} products: allow more, or a larger tolerance"
    )


def jacobian_modes(rows: ArrayLike, top: int) -> tuple[Spectrum, Float64Array]:
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
        The leading modes, fewer than ``top`` where the rest is lost in rounding and none of a
        J of zeros, and all min(R, P) eigenvalues that may differ from zero, float64.

    Raises
    ------
    InputError
        For a Jacobian that is no matrix, or not finite, and a ``top`` that it has no modes for.
    """
    stored = as_floats(rows, "rows")
    if stored.ndim != 2:
        raise InputError(f"rows have shape {stored.shape}: a Jacobian has (R, P)")
    R, P = stored.shape
    top = whole_number(top, "top")
    if not 0 < top <= min(R, P):
        raise InputError(f"top is {top}: a Jacobian of shape ({R}, {P}) has 1 to {min(R, P)} modes")
    require_finite(stored, "entries", "rows of the Jacobian")
    wide: Float64Array = np.asarray(stored, dtype=np.float64)
    values, small = eigh(wide.T @ wide if P < R else wide @ wide.T)
    scale = float(np.einsum("rp,rp->r", wide, wide).max())
    floor = float(2 * np.sqrt(R) * epsilon_of(rows) * scale)
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
        """(tr K)²/tr K²: the number of equal modes that would give both traces; 0 of K = 0."""
        return self.trace**2 / self.trace_of_square if self.trace_of_square > 0 else 0.0


def estimate_trace(
    operator: LinearOperator | ArrayLike, vectors: int = 20, seed: int = 0
) -> TraceEstimate:
    """Estimate tr K and tr K² by Hutch++ (Meyer, Musco, Musco and Woodruff, 2021).

    Exact on the range of K·S for a random S of ``vectors`` columns, Hutchinson's estimate on
    what is left of it. The error falls like 1/``vectors``.

    Raises
    ------
    InputError
        For fewer than one vector, and an operator that is not square, or not symmetric
        positive semidefinite on the range of K·S.
    RunFailedError
        Where a product is not finite.
    """
    multiply, size = _products_of(operator)
    vectors = whole_number(vectors, "vectors")
    if vectors < 1:
        raise InputError(f"vectors is {vectors}: the estimate needs at least one")
    vectors = min(vectors, size)
    generator = _generator(seed)
    sketch = multiply(generator.choice([-1.0, 1.0], (size, vectors)))
    basis = np.linalg.qr(sketch)[0]
    on_basis = multiply(basis)
    _require_kernel(basis.T @ on_basis)
    rest = generator.choice([-1.0, 1.0], (size, vectors))
    rest -= basis @ (basis.T @ rest)
    on_rest = multiply(rest)
    return TraceEstimate(
        trace=float((basis * on_basis).sum() + (rest * on_rest).sum() / vectors),
        trace_of_square=float((on_basis**2).sum() + (on_rest**2).sum() / vectors),
        products=3 * vectors,
    )
