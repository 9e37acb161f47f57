"""The Jacobian of one parameter on a tile of inputs, in the form it is contracted in.

Shapes: n inputs, R cotangents, T positions. Two factors meet in a contraction: *paired* keeps
row r with row r and sums over r, giving (n, m); unpaired gives (n, m, R, S).
"""

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import mlx.core as mx

from mlx_entk._linalg import gram

# Both sides of an outer product at one position.
Sides = tuple[mx.array, mx.array]

# FLOPs of a matrix product that take as long as one entry of an elementwise one, about.
_ENTRY = 100


class Factor(Protocol):
    """The Jacobian rows of one parameter, in some form that can be contracted."""

    @property
    def size(self) -> int:
        """Floats it holds."""

    def block(self, paired: bool) -> int:
        """Floats that a contraction makes for each pair of inputs."""

    def flops(self, paired: bool) -> int:
        """Of the contraction with a factor of the same form, for each pair of inputs."""

    def rows(self) -> "Rows":
        """The Jacobian itself, shape (n, R, P)."""

    def finite(self) -> mx.array:
        """Whether the Jacobian of each input is finite, shape (n,)."""


class Products:
    """Products of sides; the last two are kept, since a weight and its bias share one."""

    def __init__(self) -> None:
        self._kept: deque[tuple[mx.array, mx.array, mx.array]] = deque(maxlen=2)

    def gram(self, a: mx.array, b: mx.array, form: Callable[[mx.array], mx.array]) -> mx.array:
        """The product of two sides, each brought into the form of a matrix first."""
        for one, other, product in self._kept:
            if one is a and other is b:
                return product
        left = form(a)
        product = gram(left, left if b is a else form(b))
        self._kept.append((a, b, product))
        return product


def contract(one: Factor, other: Factor, paired: bool, products: Products) -> mx.array:
    """Σ_p J[n, r, p] J'[m, s, p] of two factors of one parameter."""
    if isinstance(one, Outers) and isinstance(other, Outers):
        return one.contract(other, paired, products)
    # Tiles of unequal size may come in unequal forms.
    same = other is one
    one = one.rows()
    return one.contract(one if same else other.rows(), paired)


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

    def flops(self, paired: bool) -> int:
        """2·R·P when paired, 2·R²·P when not."""
        _, R, P = self.values.shape
        return 2 * (R if paired else R * R) * P

    def rows(self) -> "Rows":
        """Itself."""
        return self

    def finite(self) -> mx.array:
        """Of the values."""
        return _finite(self.values)

    def contract(self, other: "Rows", paired: bool) -> mx.array:
        """One product, which sums over r when paired."""
        n, R, P = self.values.shape
        m, S, _ = other.values.shape
        if P == 0:
            return mx.zeros((n, m) if paired else (n, m, R, S))
        shape, other_shape = ((n, R * P), (m, S * P)) if paired else ((n * R, P), (m * S, P))
        left = self.values.reshape(shape)
        product = gram(left, left if other is self else other.values.reshape(other_shape))
        return product if paired else product.reshape(n, R, m, S).transpose(0, 2, 1, 3)


@dataclass(frozen=True)
class Outer:
    """One use of a weight matrix, whose Jacobian is Σ_t left_t ⊗ right_t.

    The structured derivatives of Novak, Sohl-Dickstein and Schoenholz, "Fast Finite Width
    Neural Tangent Kernel" (2022): one side is what the weight multiplies, the other the
    derivative of the outputs by the product, and the parameter axis never exists.

    Attributes
    ----------
    left, right
        Along the first and the second axis of the weight, shapes (n, R or 1, T, A) and
        (n, R or 1, T, B); the side that depends on the cotangent has R. Integers of shape
        (n, 1, T) stand for one-hot rows: the tokens of an embedding.
    fixed
        Whether the side that depends on the cotangent is the same for all inputs, as behind the
        last nonlinearity: it is then there once, for n = 1.
    blocks
        Of a weight that is a stack of matrices (the experts of a mixture), the matrix that each
        position meets, shape (n, T); None for a single matrix.
    """

    left: mx.array
    right: mx.array
    fixed: bool = False
    blocks: mx.array | None = None

    @property
    def cotangents(self) -> int:
        """R."""
        return max(self.left.shape[1], self.right.shape[1])

    @property
    def positions(self) -> int:
        """T."""
        return self.left.shape[2]

    def contract(self, other: "Outer", paired: bool, products: Products) -> mx.array:
        """Σ over positions t, u of (left_t·left'_u)(right_t·right'_u)."""
        mine = [self._at(t) for t in range(self.positions)]
        others = mine if other is self else [other._at(u) for u in range(other.positions)]
        at_positions = _paired_product if paired else _product
        total: mx.array | None = None
        for t, one in enumerate(mine):
            for u, another in enumerate(others):
                product = at_positions(one, another, products)
                if self.blocks is not None and other.blocks is not None:
                    same = self.blocks[:, t][:, None] == other.blocks[:, u][None]
                    product = product * same.reshape(*same.shape, *[1] * (product.ndim - 2))
                total = product if total is None else total + product
                mx.eval(total)  # bounds the memory to two positions
        assert total is not None
        return total

    def _at(self, t: int) -> Sides:
        """Both sides at one position, shapes (n, R or 1, 1, A or B); tokens (n, 1, 1)."""
        if self.positions == 1:
            return self.sides
        left, right = (mx.contiguous(side[:, :, t : t + 1]) for side in self.sides)
        return left, right

    def flops(self, other: "Outer", paired: bool) -> int:
        """Of :meth:`contract` for each pair of inputs.

        Tokens are compared, not multiplied, and of fixed sides there is one product for all.
        """
        total = 0
        R = max(self.cotangents, other.cotangents)
        mixed = paired and not any(a.shape[1] == b.shape[1] == 1 for a, b in self._beside(other))
        for a, b in self._beside(other):
            width = 1 if _is_tokens(a) or _is_tokens(b) else a.shape[3]
            rows = a.shape[1] if paired else a.shape[1] * b.shape[1]
            once = self.fixed and other.fixed and a.shape[0] == b.shape[0] == 1
            total += 0 if once else width * (R if mixed else rows)
        return 2 * self.positions * other.positions * total

    def _beside(self, other: "Outer") -> list[tuple[mx.array, mx.array]]:
        return list(zip(self.sides, other.sides, strict=True))

    def rows(self, shape: tuple[int, int]) -> mx.array:
        """The same Jacobian with the positions contracted first, shape (n, R, P).

        ``shape`` is that of the weight as a matrix: its first axis and the rest.
        """
        left, right = self.sides
        if self.blocks is not None:
            chosen = [(self.blocks == block)[:, None, :, None] for block in range(shape[0])]
            weights = mx.stack([(left * one).swapaxes(2, 3) @ right for one in chosen], axis=2)
        elif _is_tokens(left):
            _, R, T, width = right.shape
            n = left.shape[0]
            right = mx.broadcast_to(right, (n, R, T, width))
            empty = mx.zeros((n, shape[0], R, width))
            inputs = mx.broadcast_to(mx.arange(n)[:, None], (n, T))
            weights = empty.at[inputs, left[:, 0]].add(right.swapaxes(1, 2)).swapaxes(1, 2)
        else:
            weights = left.swapaxes(2, 3) @ right
        return weights.reshape(*weights.shape[:2], -1)

    @property
    def sides(self) -> tuple[mx.array, mx.array]:
        """Both sides."""
        return self.left, self.right


@dataclass(frozen=True)
class Outers:
    """Every use of one weight matrix; the Jacobian is the sum, with all cross terms.

    Attributes
    ----------
    uses
        At least one.
    shape
        Of the weight, as a matrix.
    """

    uses: tuple[Outer, ...]
    shape: tuple[int, int]

    @property
    def size(self) -> int:
        """Floats of both sides of every use."""
        return sum(side.size for use in self.uses for side in use.sides)

    def block(self, paired: bool) -> int:
        """1 when paired, R² when not."""
        return 1 if paired else self.cotangents**2

    def flops(self, paired: bool) -> int:
        """2·T·U·(A + R·B) for two uses that have R on the same side, with R² when not paired.

        Paired uses that have it on different sides take 2·R·T·U·(A + B).
        """
        return sum(a.flops(b, paired) for a in self.uses for b in self.uses)

    def contract(self, other: "Outers", paired: bool, products: Products) -> mx.array:
        """Sum over all pairs of uses."""
        terms = [a.contract(b, paired, products) for a in self.uses for b in other.uses]
        return sum(terms[1:], terms[0])

    @property
    def cotangents(self) -> int:
        """R."""
        return self.uses[0].cotangents

    def prefers_rows(self, paired: bool) -> bool:
        """Whether contracting positions first is cheaper."""
        R, T = self.cotangents, sum(use.positions for use in self.uses)
        if T == 1:
            return False
        entries = _ENTRY * T * T * (1 if paired else R * R)
        rows = 2 * (R if paired else R * R) * math.prod(self.shape)
        return rows < self.flops(paired) + entries

    def finite(self) -> mx.array:
        """Of both sides of every use."""
        parts = [_finite(side) for use in self.uses for side in use.sides]
        return mx.all(mx.stack(list(mx.broadcast_arrays(*parts))), axis=0)

    def rows(self) -> Rows:
        """The Jacobian itself, the positions contracted."""
        parts = [use.rows(self.shape) for use in self.uses]
        return Rows(sum(parts[1:], parts[0]))


def _finite(values: mx.array) -> mx.array:
    return mx.all(mx.isfinite(values).reshape(values.shape[0], -1), axis=1)


def _is_tokens(side: mx.array) -> bool:
    return side.ndim == 3


def _product(one: Sides, other: Sides, products: Products) -> mx.array:
    """(left_r·left'_s)(right_r·right'_s) of shape (n, m, r, s)."""
    left, right = (_every_pair(a, b, products) for a, b in zip(one, other, strict=True))
    return (left * right).transpose(0, 2, 1, 3)


def _paired_product(one: Sides, other: Sides, products: Products) -> mx.array:
    """Σ_r (left_r·left'_r)(right_r·right'_r) of shape (n, m)."""
    sides = list(zip(one, other, strict=True))
    # A side without R, in both, leaves the sum over r to the product of the other side.
    if any(a.shape[1] == b.shape[1] == 1 for a, b in sides):
        left, right = (_sum_of_pairs(a, b, products) for a, b in sides)
        return left * right
    terms = []
    for r in range(max(side.shape[1] for pair in sides for side in pair)):
        left, right = (_sum_of_pairs(_row(a, r), _row(b, r), products) for a, b in sides)
        terms.append(left * right)
    return sum(terms[1:], terms[0])


def _row(side: mx.array, r: int) -> mx.array:
    return side if side.shape[1] == 1 else side[:, r : r + 1]


def _sum_of_pairs(a: mx.array, b: mx.array, products: Products) -> mx.array:
    """Σ_r a[n, r]·b[m, r] of shape (n, m)."""
    if _is_tokens(a) or _is_tokens(b):
        pairs = _every_pair(a, b, products)
        return pairs.squeeze((1, 3)) if pairs.shape[1] == pairs.shape[3] == 1 else pairs.sum((1, 3))
    return products.gram(a, b, lambda side: side.reshape(side.shape[0], -1))


def _every_pair(a: mx.array, b: mx.array, products: Products) -> mx.array:
    """a[n, r]·b[m, s] of shape (n, r, m, s)."""
    shape = (*a.shape[:2], *b.shape[:2])
    if _is_tokens(a) and _is_tokens(b):
        equal = a.reshape(-1, 1) == b.reshape(1, -1)
        return equal.astype(mx.float32).reshape(shape)
    if _is_tokens(a):  # one-hot · b is an entry of b
        picked = mx.take(b, a.reshape(-1), axis=3)
        return mx.moveaxis(picked, 3, 0).reshape(shape)
    if _is_tokens(b):
        return _every_pair(b, a, products).transpose(2, 3, 0, 1)
    return products.gram(a, b, lambda side: side.reshape(-1, side.shape[3])).reshape(shape)
