"""The directions in weight space that belong to modes of an eNTK.

A mode of a full kernel is a function of inputs and outputs, v, and has the one direction Jᵀv. A
mode of a trace kernel is a function of inputs alone: it has a gradient for each output c,
Jᵀ(v ⊗ e_c), and all of them together span what belongs to it in weight space.
"""

from dataclasses import dataclass

import mlx.core as mx
import numpy as np
from scipy.sparse.linalg import LinearOperator, cg

from mlx_entk._linalg import ArrayLike, Float64Array, FloatArray, as_columns, as_numpy
from mlx_entk._parameters import Params
from mlx_entk.eigensolvers import top_modes
from mlx_entk.errors import InputError, RunFailedError
from mlx_entk.intervention.changes import combined, dot, norm
from mlx_entk.kernel import EntkOperator

# Relative residual at which a projection is done, and the most products that it may take.
_TOLERANCE, _PRODUCTS = 1e-5, 2000
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

    Nothing of the size of all gradients is ever held: projections are found by conjugate
    gradients, which take a product with the kernel at each step.

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

        Raises
        ------
        RunFailedError
            If the products of float32 do not tell it to one part in 100,000.
        """
        wanted = self.products(tangent)
        if not np.isfinite(wanted).all():
            raise InputError("the change of the parameters, or the model, is NaN or infinite")
        shape = wanted.shape

        def gram(coefficients: Float64Array) -> Float64Array:
            return self.products(self.combine(coefficients.reshape(shape))).reshape(-1)

        size = wanted.size
        found, failed = cg(
            LinearOperator((size, size), matvec=gram, dtype=np.float64),
            wanted.reshape(-1),
            rtol=_TOLERANCE,
            maxiter=_PRODUCTS,
        )
        if failed:
            raise RunFailedError(
                f"the span of {self.size} modes could not be told from rounding in {_PRODUCTS} "
                "products: leave out the modes with the smallest eigenvalues"
            )
        return self.combine(found.reshape(shape))


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
