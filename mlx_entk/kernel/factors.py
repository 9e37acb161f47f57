"""The Jacobian of one parameter on a tile of inputs, in the form it is contracted in.

Shapes: n inputs, R cotangents, T positions, I inputs and O outputs of a dense layer. Two
factors meet in a contraction: *paired* keeps row r with row r and sums over r, giving (n, m);
unpaired gives (n, m, R, S).
"""

from dataclasses import dataclass
from typing import Protocol, Self

import mlx.core as mx

from mlx_entk.linalg import gram


class Factor(Protocol):
    """The Jacobian rows of one parameter, in some form that can be contracted."""

    @property
    def size(self) -> int:
        """Floats it holds."""

    def block(self, paired: bool) -> int:
        """Floats that a contraction makes for each pair of inputs."""

    def contract(self, other: Self, paired: bool) -> mx.array:
        """Σ_p J[n, r, p] J'[m, s, p]."""


@dataclass(frozen=True)
class Rows:
    """The Jacobian itself, ``values`` of shape (n, R, P)."""

    values: mx.array

    @property
    def size(self) -> int:
        """n·R·P."""
        return self.values.size

    def block(self, paired: bool) -> int:
        """1 when paired, R² when not."""
        return 1 if paired else self.values.shape[1] ** 2

    def contract(self, other: Self, paired: bool) -> mx.array:
        """2·n·m·R·P FLOPs when paired, R times that when not."""
        n, R, _ = self.values.shape
        m, S, _ = other.values.shape
        if paired:
            left = self.values.reshape(1, n, -1)
            return gram(left, left if other is self else other.values.reshape(1, m, -1))
        left = self.values.reshape(1, n * R, -1)
        pairs = gram(left, left if other is self else other.values.reshape(1, m * S, -1))
        return pairs.reshape(n, R, m, S).transpose(0, 2, 1, 3)


@dataclass(frozen=True)
class Outer:
    """The Jacobian of a dense weight as Σ_t δ_t ⊗ a_t: the parameter axis never exists.

    The structured derivatives of Novak, Sohl-Dickstein and Schoenholz, "Fast Finite Width
    Neural Tangent Kernel" (2022).

    Attributes
    ----------
    inputs
        a: what the layer was given, shape (n, T, I).
    deltas
        δ: the derivative of the outputs by what the layer returned, shape (R, n, T, O), the
        order in which reverse mode gives it.
    """

    inputs: mx.array
    deltas: mx.array

    @property
    def size(self) -> int:
        """n·T·(I + R·O)."""
        return self.inputs.size + self.deltas.size

    def block(self, paired: bool) -> int:
        """T² when paired, R²·T² when not."""
        R, _, T, _ = self.deltas.shape
        return T * T * (1 if paired else R * R)

    def contract(self, other: Self, paired: bool) -> mx.array:
        """Σ over positions t, u of (a_t·a'_u)(δ_t·δ'_u).

        2·n·m·T·U·(I + R·O) FLOPs when paired, with R² in place of R when not.
        """
        R, n, T, O = self.deltas.shape  # noqa: E741
        S, m, U, _ = other.deltas.shape
        left = self.inputs.reshape(1, n * T, -1)
        inputs = gram(left, left if other is self else other.inputs.reshape(1, m * U, -1))
        if paired:
            left = self.deltas.reshape(R, n * T, O)
            deltas = gram(left, left if other is self else other.deltas.reshape(S, m * U, O))
            return (inputs * deltas).reshape(n, T, m, U).sum(axis=(1, 3))
        left = self.deltas.reshape(1, R * n * T, O)
        deltas = gram(left, left if other is self else other.deltas.reshape(1, S * m * U, O))
        product = deltas.reshape(R, n, T, S, m, U) * inputs.reshape(1, n, T, 1, m, U)
        return product.sum(axis=(2, 5)).transpose(1, 3, 0, 2)

    def rows(self) -> Rows:
        """The same Jacobian with the positions contracted first, for long sequences."""
        R, n, _, _ = self.deltas.shape
        weights = self.deltas.transpose(1, 0, 3, 2) @ self.inputs[:, None]
        return Rows(weights.reshape(n, R, -1))

    def prefers_rows(self, paired: bool) -> bool:
        """Whether contracting positions first costs fewer FLOPs a pair of inputs."""
        R, _, T, O = self.deltas.shape  # noqa: E741
        I = self.inputs.shape[-1]  # noqa: E741
        pairs = R if paired else R * R
        return pairs * O * I < T * T * (I + pairs * O)
