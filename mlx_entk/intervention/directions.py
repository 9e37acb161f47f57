"""The directions in weight space that belong to modes of an eNTK.

A mode of a full kernel is a function of inputs and outputs, v, and has the one direction Jᵀv. A
mode of a trace kernel is a function of inputs alone: it has a gradient for each output c,
Jᵀ(v ⊗ e_c), and all of them together span what belongs to it in weight space.
"""

from dataclasses import dataclass
from functools import cached_property

import mlx.core as mx
import numpy as np
from scipy.sparse.linalg import LinearOperator, cg

from mlx_entk._linalg import ArrayLike, Float64Array, FloatArray, as_columns, as_numpy
from mlx_entk._memory import default_limit
from mlx_entk._parameters import Params
from mlx_entk.eigensolvers import top_modes
from mlx_entk.errors import InputError, RunFailedError
from mlx_entk.intervention.changes import combined, dot, norm, wide
from mlx_entk.kernel import EntkOperator

# Relative residual at which conjugate gradients are done; the products in which they are if the
# gradients are far from dependent, and the most that they may take.
_TOLERANCE, _FEW, _MOST = 1e-5, 60, 5000
# Directions of a span that are this much shorter than the longest may be rounding.
_RANK = 1e-4
# A direction of which less than this is left, once the others are taken out, is one of them.
_LEAST = 1e-3


@dataclass(frozen=True)
class Direction:
    """The direction in weight space that moves the outputs along a mode.

    Attributes
    ----------
    tangent
        u, of unit norm over all parameters together, by parameter.
    outputs
        J u, the change of the outputs for each unit of a small step, shape (N, C). It is √λ v for
        a mode v of a full kernel.
    """

    tangent: Params
    outputs: Float64Array


class ModeSpan:
    """The span in weight space of the gradients that belong to some modes.

    Parameters
    ----------
    operator
        Of the same model, inputs and reduction as the modes, from ``mlx_entk.entk_operator``; of
        some of the parameters, for the directions of those alone.
    vectors
        The modes, in columns: shape (N, k), or (C·N, k) of a full kernel, channel-major. Any basis
        of their span does as well.

    Raises
    ------
    InputError
        For modes of another size, and for NaN or infinite entries.
    """

    def __init__(self, operator: EntkOperator, vectors: ArrayLike):
        self.operator = operator
        self.vectors = as_columns(vectors, "modes")
        rows, self.size = self.vectors.shape
        if rows != operator.shape[0]:
            raise InputError(
                f"modes are over {rows} rows, the kernel's operator over {operator.shape[0]}: pass "
                "the operator of the same inputs and reduction"
            )
        self._combinations = 1 if operator.full else len(operator.cotangents)

    @property
    def dimension(self) -> int:
        """How many gradients span it: for each mode one, or R if its kernel sums over R."""
        return int(self.size * self._combinations)

    def combine(self, coefficients: Float64Array) -> Params:
        """Σ over modes and combinations of the outputs of coefficients (k, R) times gradients."""
        values = self.vectors @ coefficients
        operator = self.operator
        cotangent: FloatArray = (
            values.reshape(operator.outputs, -1).T
            if operator.full
            else operator.cotangents.spread(values)
        )
        return operator.pull(mx.array(cotangent.astype(np.float32)))

    def products(self, tangent: Params) -> Float64Array:
        """Dot products of a change of the parameters with every gradient, shape (k, R)."""
        return self._along_modes(np.asarray(as_numpy(self.operator.push(tangent)), np.float64))

    def _along_modes(self, outputs: Float64Array) -> Float64Array:
        if self.operator.full:
            return self.vectors.T @ outputs.T.reshape(-1, 1)
        return self.vectors.T @ self.operator.cotangents.gather(outputs)

    def project(self, tangent: Params) -> Params:
        """The part of a change of the parameters that lies in the span.

        Found by conjugate gradients, which take a product with the kernel at each step and hold
        nothing. If the gradients are nearly dependent, so that it takes many, the gradients
        themselves are formed as far as memory goes; then directions whose singular value is below
        10⁻⁴ of the largest, which may be rounding, are left out.

        Raises
        ------
        InputError
            For a change that is not finite.
        RunFailedError
            If neither way tells the projection from rounding.
        """
        wanted = self.products(tangent)
        if not np.isfinite(wanted).all():
            raise InputError("the change of the parameters, or the model, is NaN or infinite")
        coefficients, found = self._solved(wanted, _FEW)
        if not found:
            if self._bytes_of_gradients <= default_limit():
                return self._projected(tangent)
            coefficients, found = self._solved(wanted, _MOST)
        if not found:
            raise RunFailedError(
                f"the span of {self.size} modes could not be told from rounding in {_MOST} "
                "products: leave out the modes with the smallest eigenvalues, or choose parameters"
            )
        return self.combine(coefficients)

    def _solved(self, wanted: Float64Array, products: int) -> tuple[Float64Array, bool]:
        """The combination of gradients with these dot products; and whether it was reached."""

        def gram(coefficients: Float64Array) -> Float64Array:
            return self.products(self.combine(coefficients.reshape(wanted.shape))).reshape(-1)

        size = wanted.size
        operator = LinearOperator((size, size), matvec=gram, dtype=np.float64)
        with np.errstate(all="ignore"):  # of gradients that rounding makes zero
            found, failed = cg(operator, wanted.reshape(-1), rtol=_TOLERANCE, maxiter=products)
        return found.reshape(wanted.shape), not failed and bool(np.isfinite(found).all())

    @property
    def _bytes_of_gradients(self) -> int:
        return 2 * 8 * self.dimension * sum(value.size for value in self.operator.params.values())

    def _projected(self, tangent: Params) -> Params:
        """``project`` by the gradients themselves."""
        rows, shortened = self._gradients
        flat = np.concatenate([wide(tangent[name]).reshape(-1) for name in self.operator.params])
        inside = (rows.T @ (shortened @ (rows @ flat))).astype(np.float32)
        ends = np.cumsum([value.size for value in self.operator.params.values()])[:-1]
        parts = zip(self.operator.params.items(), np.split(inside, ends), strict=True)
        return {name: mx.array(part.reshape(value.shape)) for (name, value), part in parts}

    @cached_property
    def _gradients(self) -> tuple[Float64Array, Float64Array]:
        """Every gradient in float64, shape (kR, P), and the inverse of their Gram matrix."""
        rows = []
        for unit in np.eye(self.dimension):
            gradient = self.combine(unit.reshape(self.size, -1))
            rows.append(np.concatenate([wide(g).reshape(-1) for g in gradient.values()]))
        gradients = np.stack(rows)
        values, vectors = np.linalg.eigh(gradients @ gradients.T)
        kept = values > _RANK**2 * values[-1]
        return gradients, (vectors[:, kept] / values[kept]) @ vectors[:, kept].T


def mode_directions(operator: EntkOperator, vectors: ArrayLike) -> list[Direction]:
    """The direction in weight space of each mode, orthonormal.

    For a kernel of one combination of outputs (full, sum of logits, or one class) it is Jᵀv/√λ.
    A mode of a trace has a gradient for each output: its direction is the combination of them
    that moves the outputs the most, less what lies in the directions before it.

    Parameters
    ----------
    operator, vectors
        As for ``ModeSpan``; k directions of the size of the parameters are held.

    Raises
    ------
    InputError
        For a mode that has no direction of its own: its eigenvalue is zero up to rounding.
    """
    found: list[Direction] = []
    for number, vector in enumerate(as_columns(vectors, "modes").T):
        span = ModeSpan(operator, vector[:, None])
        tangent = span.combine(_leading_combination(span))
        length = norm(tangent)
        for _ in range(2):  # rounding leaves something the first time
            for earlier in found:
                tangent = combined(tangent, earlier.tangent, -dot(tangent, earlier.tangent))
        left = norm(tangent)
        if not left > _LEAST * length:
            raise InputError(
                f"mode {number} of those given moves no weights of its own: its eigenvalue is "
                "zero up to rounding"
            )
        unit = {name: value / left for name, value in tangent.items()}
        found.append(Direction(unit, np.asarray(as_numpy(operator.push(unit)), np.float64)))
    return found


def _leading_combination(span: ModeSpan) -> Float64Array:
    """The combination of outputs, shape (1, R), along which a mode's gradients are largest."""
    R = span.dimension
    if R == 1:
        return np.ones((1, 1))

    def multiply(combination: Float64Array) -> Float64Array:
        return span.products(span.combine(combination.reshape(1, R))).reshape(-1)

    operator = LinearOperator((R, R), matvec=multiply, dtype=np.float64)
    return top_modes(operator, 1, tolerance=1e-3).spectrum.vectors.T
