"""The sides of outer products δ ⊗ a, and the matrix products of one with another."""

from collections import deque
from collections.abc import Hashable, Sequence
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
    def inputs(self) -> int:
        """n, or 1."""
        return self.values.shape[0]

    @property
    def cotangents(self) -> int:
        """R, or 1."""
        return self.values.shape[1]

    @property
    def positions(self) -> int:
        """T."""
        return self.values.shape[2]

    def at(self, positions: slice) -> "Side":
        """The side at some positions."""
        if positions == slice(0, self.positions):
            return self
        values = mx.contiguous(self.values[:, :, positions])
        name = (*self.name, "positions", positions.start, positions.stop)
        return Side(values, name, self.backward)

    def row(self, r: int) -> "Side":
        """The side for one cotangent, shape (n, 1, T, A)."""
        if self.cotangents == 1:
            return self
        return Side(self.values[:, r : r + 1], (*self.name, "cotangent", r), self.backward)


# Both sides of an outer product at some positions.
Sides = tuple[Side, Side]


def joined(parts: Sequence[mx.array], inputs: int) -> mx.array:
    """Parts for some inputs as one array; the first alone, if it is the same for all inputs.

    ``inputs`` are those of the first part.
    """
    return parts[0] if parts[0].shape[0] != inputs else mx.concatenate(list(parts))


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

    def by_position(self, a: Side, b: Side) -> mx.array:
        """Σ_r a[n, r, t]·b[m, r, u] for all positions, shape (T, n, U, m)."""
        shape = (a.positions, a.inputs, b.positions, b.inputs)
        if a.is_tokens:
            one, other = (side.values[:, 0].T.reshape(-1) for side in (a, b))
            return (one[:, None] == other).astype(mx.float32).reshape(shape)
        return self._gram(a, b, summed=True).reshape(shape)

    def by_cotangent(self, a: Side, b: Side) -> mx.array:
        """a[n, r]·b[m, s] of sides at one position, shape (n, R, m, S)."""
        shape = (a.inputs, a.cotangents, b.inputs, b.cotangents)
        if a.is_tokens and b.is_tokens:
            return self.by_position(a, b).reshape(shape)
        if a.is_tokens:  # one-hot · b is an entry of b
            picked = mx.take(b.values, a.values.reshape(-1), axis=3)
            return mx.moveaxis(picked, 3, 0).reshape(shape)
        if b.is_tokens:
            return self.by_cotangent(b, a).transpose(2, 3, 0, 1)
        return self._gram(a, b, summed=False).reshape(shape)

    def _gram(self, a: Side, b: Side, summed: bool) -> mx.array:
        key = (a.name, b.name, summed)
        for kept, product in self._kept:
            if kept == key:
                return product
        same = self.symmetric and a.name == b.name
        product = gram(_matrix(a, summed), None if same else _matrix(b, summed))
        self._kept.append((key, product))
        return product


def _matrix(side: Side, summed: bool) -> mx.array:
    """A side as a matrix.

    A row for each t and n if products are summed over r, else for each n and r.
    """
    inputs, R, T, width = side.values.shape
    if not summed:
        return side.values.reshape(inputs * R, T * width)
    values = side.values if T == 1 else side.values.transpose(2, 0, 1, 3)
    return values.reshape(T * inputs, R * width)
