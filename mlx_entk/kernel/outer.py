"""Outer products δ ⊗ a, and the products of one with another.

The structured derivatives of Novak, Sohl-Dickstein and Schoenholz, "Fast Finite Width Neural
Tangent Kernel" (2022): one side is what a weight multiplies, the other the derivative of the
outputs by the product, and the parameter axis never exists.
"""

from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass

import mlx.core as mx

from mlx_entk._linalg import gram

# What tells the numbers of a side from others: the value in the graph, and what was done to it.
Name = tuple[Hashable, ...]


@dataclass(frozen=True)
class Side:
    """One side of an outer product, on n inputs.

    Attributes
    ----------
    values
        Shape (n, R, T, A) for the side that depends on the cotangent, (n, 1, T, A) for the other.
        Integers of shape (n, 1, T) stand for one-hot rows: the tokens of an embedding.
    name
        Sides of the same inputs and cotangents that have the same name hold the same numbers.
    backward
        Whether it is the derivative of the outputs, δ, and not what the weight is multiplied with.
    """

    values: mx.array
    name: Name
    backward: bool = False

    @property
    def is_tokens(self) -> bool:
        """Whether integers stand for one-hot rows."""
        return self.values.ndim == 3

    @property
    def cotangents(self) -> int:
        """R, or 1."""
        return self.values.shape[1]

    def at(self, t: int) -> "Side":
        """The side at one position, shape (n, R or 1, 1, A)."""
        values = mx.contiguous(self.values[:, :, t : t + 1])
        return Side(values, (*self.name, "position", t), self.backward)

    def row(self, r: int) -> "Side":
        """The side for one cotangent, shape (n, 1, T, A)."""
        if self.cotangents == 1:
            return self
        return Side(self.values[:, r : r + 1], (*self.name, "cotangent", r), self.backward)


# Both sides of an outer product at one position.
Sides = tuple[Side, Side]


class Products:
    """The matrix products of sides that a block is made of.

    The last two are kept, since a weight and its bias share one.

    Parameters
    ----------
    symmetric
        Whether a factor meets itself, so that sides of the same name hold the same numbers.
    """

    def __init__(self, symmetric: bool):
        self.symmetric = symmetric
        self._kept: deque[tuple[tuple[Name, Name, bool], mx.array]] = deque(maxlen=2)

    def gram(self, a: Side, b: Side, summed: bool) -> mx.array:
        """a[n, r]·b[m, s] for all rows, shape (n·R, m·S); their sum over r = s if ``summed``.

        The sum has shape (n, m).
        """
        key = (a.name, b.name, summed)
        for kept, product in self._kept:
            if kept == key:
                return product
        same = self.symmetric and a.name == b.name
        product = gram(_matrix(a, summed), None if same else _matrix(b, summed))
        self._kept.append((key, product))
        return product


@dataclass(frozen=True)
class Outer:
    """One use of a weight matrix, whose Jacobian is Σ_t first_t ⊗ second_t.

    Attributes
    ----------
    first, second
        The sides along the first and the second axis of the weight.
    fixed
        Whether the side that depends on the cotangent is the same for all inputs, as it is behind
        the last nonlinearity: it is then there once, for n = 1.
    blocks
        Of a weight that is a stack of matrices (the experts of a mixture), the matrix that each
        position meets, shape (n, T); None for a single matrix.
    """

    first: Side
    second: Side
    fixed: bool = False
    blocks: mx.array | None = None

    @property
    def sides(self) -> Sides:
        """Both sides."""
        return self.first, self.second

    @property
    def name(self) -> Name:
        """What tells its numbers from others."""
        return self.first.name, self.second.name

    @property
    def cotangents(self) -> int:
        """R."""
        return max(side.cotangents for side in self.sides)

    @property
    def positions(self) -> int:
        """T."""
        return self.first.values.shape[2]

    def contract(self, other: "Outer", paired: bool, products: Products) -> mx.array:
        """Σ over positions t, u of (first_t·first'_u)(second_t·second'_u)."""
        mine = self._by_position()
        same = products.symmetric and self.name == other.name
        others = mine if same else other._by_position()
        at_positions = _paired_product if paired else _product
        total: mx.array | None = None
        for t, one in enumerate(mine):
            for u, another in enumerate(others):
                product = at_positions(one, another, products)
                if self.blocks is not None and other.blocks is not None:
                    equal = self.blocks[:, t][:, None] == other.blocks[:, u][None]
                    product = product * equal.reshape(*equal.shape, *[1] * (product.ndim - 2))
                total = product if total is None else total + product
                mx.eval(total)  # bounds the memory to two positions
        assert total is not None
        return total

    def _by_position(self) -> list[Sides]:
        if self.positions == 1:
            return [self.sides]
        return [(self.first.at(t), self.second.at(t)) for t in range(self.positions)]

    def flops(self, other: "Outer", paired: bool) -> int:
        """FLOPs of ``contract`` for each pair of inputs.

        Tokens are compared, not multiplied, and of fixed sides there is one product for all.
        """
        pairs = list(zip(self.sides, other.sides, strict=True))
        R = max(self.cotangents, other.cotangents)
        mixed = paired and not any(a.cotangents == b.cotangents == 1 for a, b in pairs)
        total = 0
        for a, b in pairs:
            width = 1 if a.is_tokens or b.is_tokens else a.values.shape[3]
            rows = a.cotangents if paired else a.cotangents * b.cotangents
            once = self.fixed and other.fixed and a.values.shape[0] == b.values.shape[0] == 1
            total += 0 if once else width * (R if mixed else rows)
        return 2 * self.positions * other.positions * total

    def rows(self, shape: tuple[int, int]) -> mx.array:
        """The same Jacobian with the positions contracted first, shape (n, R, P).

        ``shape`` is that of the weight as a matrix: its first axis and the rest.
        """
        first, second = self.first.values, self.second.values
        if self.blocks is not None:
            chosen = [(self.blocks == block)[:, None, :, None] for block in range(shape[0])]
            weights = mx.stack([(first * one).swapaxes(2, 3) @ second for one in chosen], axis=2)
        elif self.first.is_tokens:
            _, R, T, width = second.shape
            n = first.shape[0]
            second = mx.broadcast_to(second, (n, R, T, width))
            empty = mx.zeros((n, shape[0], R, width))
            inputs = mx.broadcast_to(mx.arange(n)[:, None], (n, T))
            weights = empty.at[inputs, first[:, 0]].add(second.swapaxes(1, 2)).swapaxes(1, 2)
        else:
            weights = first.swapaxes(2, 3) @ second
        return weights.reshape(*weights.shape[:2], -1)


def _matrix(side: Side, summed: bool) -> mx.array:
    """A side as a matrix: a row for each input if products are summed, else for each n and r."""
    inputs, _, _, width = side.values.shape
    return side.values.reshape(inputs, -1) if summed else side.values.reshape(-1, width)


def _product(one: Sides, other: Sides, products: Products) -> mx.array:
    """(first_r·first'_s)(second_r·second'_s) of shape (n, m, r, s)."""
    first, second = (_every_pair(a, b, products) for a, b in zip(one, other, strict=True))
    return (first * second).transpose(0, 2, 1, 3)


def _paired_product(one: Sides, other: Sides, products: Products) -> mx.array:
    """Σ_r (first_r·first'_r)(second_r·second'_r) of shape (n, m)."""
    pairs = list(zip(one, other, strict=True))
    # A side without R, in both, leaves the sum over r to the product of the other side.
    if any(a.cotangents == b.cotangents == 1 for a, b in pairs):
        first, second = (_sum_of_pairs(a, b, products) for a, b in pairs)
        return first * second
    terms = []
    for r in range(max(side.cotangents for pair in pairs for side in pair)):
        first, second = (_sum_of_pairs(a.row(r), b.row(r), products) for a, b in pairs)
        terms.append(first * second)
    return sum(terms[1:], terms[0])


def _sum_of_pairs(a: Side, b: Side, products: Products) -> mx.array:
    """Σ_r a[n, r]·b[m, r] of shape (n, m)."""
    if a.is_tokens or b.is_tokens:
        pairs = _every_pair(a, b, products)
        return pairs.squeeze((1, 3)) if pairs.shape[1] == pairs.shape[3] == 1 else pairs.sum((1, 3))
    return products.gram(a, b, summed=True)


def _every_pair(a: Side, b: Side, products: Products) -> mx.array:
    """a[n, r]·b[m, s] of shape (n, r, m, s)."""
    shape = (*a.values.shape[:2], *b.values.shape[:2])
    if a.is_tokens and b.is_tokens:
        equal = a.values.reshape(-1, 1) == b.values.reshape(1, -1)
        return equal.astype(mx.float32).reshape(shape)
    if a.is_tokens:  # one-hot · b is an entry of b
        picked = mx.take(b.values, a.values.reshape(-1), axis=3)
        return mx.moveaxis(picked, 3, 0).reshape(shape)
    if b.is_tokens:
        return _every_pair(b, a, products).transpose(2, 3, 0, 1)
    return products.gram(a, b, summed=False).reshape(shape)
