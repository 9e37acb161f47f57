"""The Jacobian of one parameter on a tile of inputs, in the form it is contracted in.

Shapes: n inputs, R cotangents, T positions. Two factors meet in a contraction: *paired* keeps
row r with row r and sums over r, giving (n, m); unpaired gives (n, R, m, S).
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import mlx.core as mx

from mlx_entk._linalg import gram
from mlx_entk.kernel.outer import Outer
from mlx_entk.kernel.sides import Products, joined


class Factor(ABC):
    """The Jacobian rows of one parameter, in some form that can be contracted."""

    @property
    @abstractmethod
    def strategy(self) -> str:
        """How it is computed and contracted, in words."""

    @property
    @abstractmethod
    def uses(self) -> tuple[Outer, ...]:
        """The outer products that add up to it; empty for any other form."""

    @property
    @abstractmethod
    def arrays(self) -> list[mx.array]:
        """All that it holds."""

    @property
    def size(self) -> int:
        """Floats it holds."""
        return sum(array.size for array in self.arrays)

    @abstractmethod
    def joined(self, parts: Sequence[Self], inputs: int) -> Self:
        """The factor of all inputs, of those of some at a time; ``inputs`` are those of the first.

        What is there once for all inputs stays so.
        """

    @abstractmethod
    def block(self, paired: bool) -> int:
        """Floats that a contraction makes for each pair of inputs."""

    @property
    def folded(self) -> int:
        """Floats that an unpaired contraction makes for each pair of inputs, whatever R is."""
        return 0

    @abstractmethod
    def flops(self, paired: bool) -> int:
        """FLOPs of a contraction with a factor of the same form, for each pair of inputs."""

    @abstractmethod
    def rows(self) -> "Rows":
        """The Jacobian itself, shape (n, R, P)."""

    @abstractmethod
    def finite(self) -> mx.array:
        """Whether the Jacobian of each input is finite, shape (n,)."""

    @abstractmethod
    def contract(self, other: "Factor", paired: bool, products: Products) -> mx.array:
        """Σ_p J[n, r, p] J'[m, s, p] with a factor of the same parameter.

        Tiles of unequal size may come in unequal forms: then both are taken as rows.
        """


@dataclass(frozen=True)
class Rows(Factor):
    """The Jacobian itself.

    Attributes
    ----------
    values
        Shape (n, R, P), float32.
    how
        How they were computed, in words.
    """

    values: mx.array
    how: str = "Jacobian contraction"

    @property
    def strategy(self) -> str:
        """How the values were computed."""
        return self.how

    @property
    def uses(self) -> tuple[Outer, ...]:
        """It has no outer products."""
        return ()

    @property
    def arrays(self) -> list[mx.array]:
        """The values."""
        return [self.values]

    def joined(self, parts: Sequence["Rows"], inputs: int) -> "Rows":
        """The rows of all inputs."""
        return Rows(joined([part.values for part in parts], inputs), self.how)

    def block(self, paired: bool) -> int:
        """1 when paired, R² when not."""
        return 1 if paired else self.values.shape[1] ** 2

    def flops(self, paired: bool) -> int:
        """2·R·P when paired, 2·R²·P when not."""
        _, R, P = self.values.shape
        return 2 * (R if paired else R * R) * P

    def rows(self) -> "Rows":
        """Itself."""
        return self

    def finite(self) -> mx.array:
        """Whether the values of each input are finite."""
        return _finite(self.values)

    def contract(self, other: Factor, paired: bool, products: Products) -> mx.array:
        """One product, which sums over r when paired."""
        others = self.values if products.symmetric else other.rows().values
        n, R, P = self.values.shape
        m, S, _ = others.shape
        if P == 0:
            return mx.zeros((n, m) if paired else (n, R, m, S))
        shape, other_shape = ((n, R * P), (m, S * P)) if paired else ((n * R, P), (m * S, P))
        product = gram(
            self.values.reshape(shape), None if products.symmetric else others.reshape(other_shape)
        )
        return product if paired else product.reshape(n, R, m, S)


# How rows are computed that follow from a parameter's uses, without a backward pass by it.
FROM_DELTA = "structured: Jacobian from δ"


@dataclass(frozen=True)
class Outers(Factor):
    """Every use of one weight matrix; the Jacobian is the sum, with all cross terms.

    Attributes
    ----------
    terms
        At least one.
    shape
        Of the weight, as a matrix.
    """

    terms: tuple[Outer, ...]
    shape: tuple[int, int]

    @property
    def strategy(self) -> str:
        """The product that stands for a contraction over the parameter, and over how many uses."""
        uses = len(self.terms)
        return "structured: (a·a′)(δ·δ′)" + (f" over {uses} uses" if uses > 1 else "")

    @property
    def uses(self) -> tuple[Outer, ...]:
        """The terms."""
        return self.terms

    @property
    def cotangents(self) -> int:
        """R."""
        return self.terms[0].cotangents

    @property
    def arrays(self) -> list[mx.array]:
        """Both sides of every use."""
        return [side.values for use in self.terms for side in use.sides]

    def joined(self, parts: Sequence["Outers"], inputs: int) -> "Outers":
        """Both sides for all inputs."""
        by_term = zip(*(part.terms for part in parts), strict=True)
        return Outers(tuple(term[0].joined(term, inputs) for term in by_term), self.shape)

    def block(self, paired: bool) -> int:
        """As many as the term with the most positions."""
        each = max(use.block(paired) for use in self.terms)
        return each if paired else each * self.cotangents**2

    @property
    def folded(self) -> int:
        """Those of a·a' at all pairs of positions, and a copy."""
        return max(2 * use.positions**2 if use.positions > 1 else 0 for use in self.terms)

    def flops(self, paired: bool) -> int:
        """2·T·U·(A + R·B) for two uses that have R on the same side, with R² when not paired.

        Paired uses that have it on different sides take 2·R·T·U·(A + B).
        """
        return sum(a.flops(b, paired) for a in self.terms for b in self.terms)

    def rows(self) -> Rows:
        """The Jacobian itself, the positions contracted."""
        parts = [use.rows(self.shape) for use in self.terms]
        return Rows(sum(parts[1:], parts[0]), FROM_DELTA)

    def finite(self) -> mx.array:
        """Whether both sides of every use are finite."""
        parts = [_finite(side.values) for use in self.terms for side in use.sides]
        return mx.all(mx.stack(list(mx.broadcast_arrays(*parts))), axis=0)

    def contract(self, other: Factor, paired: bool, products: Products) -> mx.array:
        """Sum over all pairs of uses."""
        if not other.uses:
            return self.rows().contract(other, paired, products)
        products_of_uses = [a.contract(b, paired, products) for a in self.terms for b in other.uses]
        return sum(products_of_uses[1:], products_of_uses[0])

    def halves(self) -> "tuple[Rows, Rows] | None":
        """What the weight meets and δ, each with its positions as one axis, for a contraction.

        None for several uses, a stack of matrices, and the tokens of an embedding.
        """
        if len(self.terms) > 1 or self.terms[0].blocks is not None:
            return None
        forward, backward = sorted(self.terms[0].sides, key=lambda side: side.backward)
        if forward.backward or not backward.backward or forward.is_tokens:
            return None
        inputs = forward.values.shape[0]
        given, delta = (
            mx.broadcast_to(side.values, (inputs, *side.values.shape[1:])).reshape(
                inputs, side.cotangents, -1
            )
            for side in (forward, backward)
        )
        return Rows(given), Rows(delta)

    def prefers_rows(self, paired: bool) -> bool:
        """Whether contracting positions first is cheaper."""
        R, T = self.cotangents, sum(use.positions for use in self.terms)
        if T == 1:
            return False
        rows = 2 * (R if paired else R * R) * math.prod(self.shape)
        return rows < sum(a.cost(b, paired) for a in self.terms for b in self.terms)


def add_up(
    parts: Sequence[Factor], shape: tuple[int, int], paired: bool, outer: bool = False
) -> Factor:
    """The factor of a parameter from those of its uses, in the form that is cheaper to contract.

    Parameters
    ----------
    parts
        At least one.
    shape
        Of the parameter, as a matrix.
    paired
        Whether the factor will be contracted in pairs.
    outer
        Keeps outer products even if rows are cheaper.
    """
    if not all(part.uses for part in parts):
        rows = [part.rows().values for part in parts]
        return Rows(sum(rows[1:], rows[0]), FROM_DELTA)
    whole = Outers(tuple(use for part in parts for use in part.uses), shape)
    return whole.rows() if whole.prefers_rows(paired) and not outer else whole


def _finite(values: mx.array) -> mx.array:
    return mx.all(mx.isfinite(values).reshape(values.shape[0], -1), axis=1)
