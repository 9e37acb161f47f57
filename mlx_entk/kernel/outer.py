"""Outer products δ ⊗ a, and the contraction of one with another.

The structured derivatives of Novak, Sohl-Dickstein and Schoenholz, "Fast Finite Width Neural
Tangent Kernel" (2022): one side is what a weight multiplies, the other the derivative of the
outputs by the product, and the parameter axis never exists. What is summed first is chosen by what
it takes, as ``opt_einsum`` (Smith and Gray, 2018) does for any expression.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import mlx.core as mx

from mlx_entk._linalg import settle
from mlx_entk.kernel.sides import Name, Products, Side, Sides, joined

# Pairs of positions whose products are formed at once, or all of one position; and floats of an
# intermediate, few enough for the caches.
_PAIRS, _AT_ONCE = 16, 2**20
# FLOPs of a large matrix product that take as long as one entry of an elementwise one, and as one
# FLOP of small matrix products; measured on two cores with AVX-512, about.
_ENTRY, _SMALL = 300, 3


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

    def joined(self, parts: "Sequence[Outer]", inputs: int) -> "Outer":
        """The same for all inputs, of parts for some; ``inputs`` are those of the first part."""
        first, second = (
            replace(side, values=joined([part.sides[k].values for part in parts], inputs))
            for k, side in enumerate(self.sides)
        )
        blocks = [part.blocks for part in parts if part.blocks is not None]
        return replace(
            self, first=first, second=second, blocks=joined(blocks, inputs) if blocks else None
        )

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
        return self.first.positions

    def block(self, paired: bool) -> int:
        """Floats that ``contract`` makes for each pair of inputs, and of cotangents if unpaired."""
        T = self.positions
        return min(T, _positions_at_once(T)) * T if paired else 1

    def contract(self, other: "Outer", paired: bool, products: Products) -> mx.array:
        """Σ over positions t, u of (first_t·first'_u)(second_t·second'_u).

        Shape (n, m), summed over r = s, if ``paired``, and else (n, R, m, S).
        """
        if paired and self._shared_side(other) is not None:
            return self._by_positions(other, products)
        if not paired and self._folds(other):
            return self._folded(other, products)
        return self._by_position(other, paired, products)

    def _shared_side(self, other: "Outer") -> int | None:
        """Which of the sides all cotangents share, in both, so that the other one sums over them.

        None if there is none, or if tokens meet numbers.
        """
        pairs = list(zip(self.sides, other.sides, strict=True))
        if any(a.is_tokens != b.is_tokens for a, b in pairs):
            return None
        shared = (k for k, (a, b) in enumerate(pairs) if a.cotangents == b.cotangents == 1)
        return next(shared, None)

    def _by_positions(self, other: "Outer", products: Products) -> mx.array:
        """The sum over r = s, with the products of many pairs of positions in one."""
        step = _positions_at_once(other.positions)
        total: mx.array | None = None
        for start in range(0, self.positions, step):
            some = slice(start, min(start + step, self.positions))
            first, second = (
                products.by_position(a.at(some), b)
                for a, b in zip(self.sides, other.sides, strict=True)
            )
            product = first * second
            if self.blocks is not None and other.blocks is not None:
                mine = self.blocks[:, some].T
                product = product * (mine[:, :, None, None] == other.blocks.T)
            product = product.sum((0, 2)) if product.shape[::2] != (1, 1) else product[0, :, 0]
            total = product if total is None else total + product
            settle(total)  # bounds the memory to one step
        assert total is not None
        return total

    def _folds(self, other: "Outer") -> bool:
        """Whether it is cheaper to multiply δ' with (a_t·a'_u), for every n, before δ meets it."""
        shared = self._shared_side(other)
        if shared is None or self.positions * other.positions == 1:
            return False
        if any(outer.sides[1 - shared].is_tokens or outer.fixed for outer in (self, other)):
            return False
        return self._folded_cost(other) < self._cost_by_position(other, paired=False)

    def _folded(self, other: "Outer", products: Products) -> mx.array:
        """The product for all pairs of cotangents, (n, R, m, S), from δ (a·a') of shape (m, S)."""
        shared = self._shared_side(other)
        assert shared is not None
        forward = products.by_position(self.sides[shared], other.sides[shared])
        if self.blocks is not None and other.blocks is not None:
            forward = forward * (self.blocks.T[:, :, None, None] == other.blocks.T)
        forward = mx.contiguous(forward.transpose(1, 3, 0, 2))  # (n, m, T, U)
        delta, others = (outer.sides[1 - shared].values for outer in (self, other))
        n, R, T, width = delta.shape
        m, S, U, _ = others.shape
        delta = delta.reshape(n, 1, R, T * width)
        others = mx.contiguous(others.transpose(0, 2, 3, 1)).reshape(m, U, width * S)
        step = max(1, _AT_ONCE // (m * T * width * S))
        parts = []
        for start in range(0, n, step):
            rows = slice(start, start + step)
            folded = (forward[rows] @ others).reshape(-1, m, T * width, S)
            parts.append((delta[rows] @ folded).swapaxes(1, 2))
            settle(parts[-1])  # bounds the memory to one step
        return mx.concatenate(parts)

    def _by_position(self, other: "Outer", paired: bool, products: Products) -> mx.array:
        """The same with one pair of positions after another, for all pairs of cotangents too."""
        mine, others = self._each_position(), other._each_position()
        at_position = _paired_product if paired else _product
        total: mx.array | None = None
        for t, one in enumerate(mine):
            for u, another in enumerate(others):
                product = at_position(one, another, products)
                if self.blocks is not None and other.blocks is not None:
                    equal = self.blocks[:, t][:, None] == other.blocks[:, u][None]
                    product = product * (equal if paired else equal[:, None, :, None])
                total = product if total is None else total + product
                settle(total)  # bounds the memory to two positions
        assert total is not None
        return total

    def _each_position(self) -> list[Sides]:
        places = [slice(t, t + 1) for t in range(self.positions)]
        return [(self.first.at(place), self.second.at(place)) for place in places]

    def flops(self, other: "Outer", paired: bool) -> int:
        """FLOPs of ``contract`` for each pair of inputs.

        Tokens are compared, not multiplied, and of fixed sides there is one product for all.
        """
        if not paired and self._folds(other):
            return self._folded_flops(other)
        return self._flops_by_position(other, paired)

    def cost(self, other: "Outer", paired: bool) -> float:
        """What ``contract`` takes for each pair of inputs, in FLOPs of a large matrix product."""
        if not paired and self._folds(other):
            return self._folded_cost(other)
        return self._cost_by_position(other, paired)

    def _flops_by_position(self, other: "Outer", paired: bool) -> int:
        pairs = list(zip(self.sides, other.sides, strict=True))
        R = max(self.cotangents, other.cotangents)
        mixed = paired and not any(a.cotangents == b.cotangents == 1 for a, b in pairs)
        total = 0
        for a, b in pairs:
            width = 1 if a.is_tokens or b.is_tokens else a.values.shape[3]
            rows = a.cotangents if paired else a.cotangents * b.cotangents
            once = self.fixed and other.fixed and a.inputs == b.inputs == 1
            total += 0 if once else width * (R if mixed else rows)
        return 2 * self.positions * other.positions * total

    def _cost_by_position(self, other: "Outer", paired: bool) -> float:
        R = 1 if paired else self.cotangents * other.cotangents
        entries = _ENTRY * self.positions * other.positions * R
        return self._flops_by_position(other, paired) + entries

    def _folded_flops(self, other: "Outer") -> int:
        shared = self._shared_side(other)
        assert shared is not None
        forward, delta = self.sides[shared], self.sides[1 - shared]
        T, U, R, S = self.positions, other.positions, self.cotangents, other.cotangents
        given = 1 if forward.is_tokens else forward.values.shape[3]
        width = delta.values.shape[3]
        return 2 * T * (U * given + U * width * S + R * width * S)

    def _folded_cost(self, other: "Outer") -> float:
        return _SMALL * self._folded_flops(other) + _ENTRY * self.cotangents * other.cotangents

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


def _positions_at_once(others: int) -> int:
    """Positions that meet so many others at the same time."""
    return max(1, _PAIRS // others)


def _product(one: Sides, other: Sides, products: Products) -> mx.array:
    """(first_r·first'_s)(second_r·second'_s) of shape (n, R, m, S)."""
    first, second = (products.by_cotangent(a, b) for a, b in zip(one, other, strict=True))
    return first * second


def _paired_product(one: Sides, other: Sides, products: Products) -> mx.array:
    """Σ_r (first_r·first'_r)(second_r·second'_r) of shape (n, m), one r after another."""
    pairs = list(zip(one, other, strict=True))
    terms = []
    for r in range(max(side.cotangents for pair in pairs for side in pair)):
        first, second = (products.by_cotangent(a.row(r), b.row(r)) for a, b in pairs)
        terms.append((first * second).squeeze((1, 3)))
    return sum(terms[1:], terms[0])
