"""Project gradients on k random columns, through the structure of each parameter.

An entry of the gradient goes to one of the k places with a random sign, and the entries of a place
are added up: a CountSketch (Charikar, Chen and Farach-Colton, 2002). For a weight whose gradient is
the outer product δ ⊗ a, entry (i, j) goes to place h(i) + h′(j) mod k, so that the projection is
the circular convolution of those of a and of δ: two Fourier transforms of length k, and the outer
product is never formed (TensorSketch: Pham and Pagh, 2013; Ahle et al., 2020).

Inner products are right on average, with a variance that depends on which entries can meet in a
place. Independent h and h′ let (i, j) meet (i, j′) for all i at once, which makes the variance up
to four times as large as that of a projection by independent signs. Here h and h′ give every entry
of at most k another place, and longer sides are cut into blocks of k, each with signs of its own,
so that only entries that differ in both indices can meet. The variance is then about that of
independent signs: (‖g‖²‖g′‖² + (g·g′)²)/k for gradients g and g′.
"""

from collections.abc import Mapping
from functools import lru_cache

import mlx.core as mx
import numpy as np

from mlx_entk.kernel.factors import Factor, Outers, Rows
from mlx_entk.kernel.outer import Outer
from mlx_entk.kernel.sides import Side
from mlx_entk.sketch.draws import Draws

# Floats of a Fourier transform at a time, few enough for the caches.
_AT_ONCE = 2**19
# What an entry of a transform and of the products with it takes, over an entry that is added up to
# its place; and how many multiplications of a matrix product take as long as that.
_TRANSFORM, _PRODUCTS = 2, 8
# Blocks of k entries whose signs exist at the same time.
_BLOCKS = 64


class Projection:
    """A random map of gradients to k numbers, the same for every input.

    Parameters
    ----------
    columns
        k.
    seed
        Of the map.
    own
        The first of the places that each parameter has to itself, which makes the map exact; None
        if there are too few.
    """

    def __init__(self, columns: int, seed: int, own: Mapping[str, int] | None = None):
        self.columns, self._own = columns, own
        self._draws = Draws(seed)
        self._tables = lru_cache(maxsize=None)(self._table)

    def apply(self, name: str, factor: Factor, paired: bool) -> mx.array:
        """The projection of the gradients by one parameter.

        Parameters
        ----------
        name
            Parameters of different names get independent maps.
        factor
            The gradients: n inputs, R cotangents.
        paired
            Whether the map takes the gradients of all cotangents together.

        Returns
        -------
        mlx.core.array
            Shape (n, 1, k) if ``paired``, and else (n, R, k); n is 1 if it is the same for every
            input.
        """
        if isinstance(factor, Outers) and not self._prefers_rows(factor):
            axis = _scattered(factor.terms[0])
            parts = [self._of_outer(name, use, factor.shape, axis, paired) for use in factor.terms]
            return sum(parts[1:], parts[0])
        return self._of_rows(name, factor.rows(), paired)

    def _prefers_rows(self, factor: Outers) -> bool:
        """Whether it is cheaper to form the gradient, by what does not vary from call to call."""
        if self._own is not None or any(use.blocks is not None for use in factor.terms):
            return True
        A, B = factor.shape
        positions = sum(use.positions for use in factor.terms)
        transforms = 2 * -(-A // self.columns) * -(-B // self.columns)
        return A * B * (1 + positions / _PRODUCTS) < positions * (
            A + B + _TRANSFORM * transforms * self.columns
        )

    def _of_rows(self, name: str, factor: Rows, paired: bool) -> mx.array:
        """Block after block of k entries, each added at a random place of its own."""
        n, R, P = factor.values.shape
        k = self.columns
        values = factor.values.reshape(n, 1, R * P) if paired else factor.values
        size = values.shape[2]
        blocks = -(-size // k)
        places = self._draws.places(blocks, k, name, "places")
        if self._own is not None:
            places = np.array([self._own[name]])
        total = mx.zeros((*values.shape[:2], k))
        for block in range(blocks):
            if block % _BLOCKS == 0:
                some = min(_BLOCKS * k, size - block * k)
                signs = mx.array(self._draws.signs(some, name, "signs", block))
                mx.eval(total)
            first = block % _BLOCKS * k
            some = min(k, size - block * k)
            signed = values[..., block * k : block * k + some] * signs[first : first + some]
            if some < k:
                signed = mx.pad(signed, [(0, 0), (0, 0), (0, k - some)])
            total = total + mx.roll(signed, int(places[block]), -1)
        return total

    def _of_outer(
        self, name: str, use: Outer, shape: tuple[int, int], axis: int, paired: bool
    ) -> mx.array:
        """Σ_t of the projections of outer products, a few inputs at a time.

        ``axis`` is that of the weight along which entries get random places; along the other one
        they get places in a row.
        """
        row, scattered = use.sides[1 - axis], use.sides[axis]
        n = max(row.inputs, scattered.inputs)
        width = max(
            1, _AT_ONCE // (self.columns * use.positions * (1 if paired else use.cotangents))
        )
        parts = []
        for start in range(0, n, width):
            some = slice(start, start + width)
            sides = _inputs(row, some), _inputs(scattered, some)
            parts.append(self._of_sides(name, *sides, shape[1 - axis], shape[axis], paired))
            mx.eval(parts[-1])  # bounds the memory to a few inputs
        return mx.concatenate(parts)

    def _of_sides(
        self, name: str, row: Side, scattered: Side, A: int, B: int, paired: bool
    ) -> mx.array:
        """The projection for sides of widths A and B, shape (n, 1 or R, k)."""
        if paired and row.cotangents > 1:
            # The places of an entry depend on the cotangent, and so does what is multiplied.
            R = row.cotangents
            parts = [self._of_pair(name, row.row(r), scattered, A, B, r) for r in range(R)]
            return sum(parts[1:], parts[0])
        if paired and not scattered.is_tokens:
            n, R, T, _ = scattered.values.shape
            flat = scattered.values.swapaxes(1, 2).reshape(n, 1, T, R * B)
            return self._of_pair(name, row, Side(flat, scattered.name), A, R * B, 0)
        return self._of_pair(name, row, scattered, A, B, 0)

    def _of_pair(
        self, name: str, row: Side, scattered: Side, A: int, width: int, number: int
    ) -> mx.array:
        """The same for entries number·width… of the scattered side, which hold all that varies."""
        k = self.columns
        first = number * width
        tokens = row.is_tokens or scattered.is_tokens
        join = self._shifted if tokens else self._multiplied
        total: mx.array | None = None
        for i in range(0, A, k):
            for block in range(first // k, (first + width - 1) // k + 1):
                begin, end = max(first, block * k), min(first + width, (block + 1) * k)
                signs, places, others = self._tables(name, i, min(k, A - i), block)
                chosen = slice(begin - block * k, end - block * k)
                part = join(
                    (row, slice(i, min(i + k, A)), signs, None),
                    (scattered, slice(begin - first, end - first), others[chosen], places[chosen]),
                )
                total = part if total is None else total + part
        assert total is not None
        return total if tokens else mx.fft.irfft(total, n=k)

    def _table(self, name: str, start: int, size: int, block: int) -> tuple[mx.array, ...]:
        """Signs of a row of entries, and places and signs of a block of scattered ones."""
        k = self.columns
        key = (name, start, block)
        return (
            mx.array(self._draws.signs(size, *key, "row")),
            mx.array(self._draws.order(k, *key, "places")),
            mx.array(self._draws.signs(k, *key, "scattered")),
        )

    def _shifted(self, row: "_Part", scattered: "_Part") -> mx.array:
        """Σ_t of the circular convolution of both sides, if one of them is tokens."""
        tokens, numbers = (row, scattered) if row[0].is_tokens else (scattered, row)
        shifts, signs = _shifts(*tokens)
        placed = _placed(*numbers, self.columns) * signs
        index = (mx.arange(self.columns) - shifts) % self.columns
        shape = (max(placed.shape[0], index.shape[0]), *placed.shape[1:])
        placed, index = mx.broadcast_to(placed, shape), mx.broadcast_to(index, shape)
        return mx.take_along_axis(placed, index, axis=-1).sum(axis=2)

    def _multiplied(self, row: "_Part", scattered: "_Part") -> mx.array:
        """The Fourier transform of Σ_t of the circular convolution of both sides."""
        one, other = (mx.fft.rfft(_placed(*part, self.columns)) for part in (row, scattered))
        product = one * other
        return product[:, :, 0] if product.shape[2] == 1 else product.sum(axis=2)


# A side, which of its entries, their signs, and their places; None for places in a row from 0.
_Part = tuple[Side, slice, mx.array, mx.array | None]


def _scattered(use: Outer) -> int:
    """The axis of the weight along which δ is: 0 or 1."""
    return 0 if use.first.backward and not use.second.backward else 1


def _inputs(side: Side, rows: slice) -> Side:
    """A side at some inputs, or as it is if all inputs have the same."""
    return side if side.inputs == 1 else Side(side.values[rows], side.name, side.backward)


def _placed(
    side: Side, entries: slice, signs: mx.array, places: mx.array | None, k: int
) -> mx.array:
    """Entries with their signs at their places, shape (n, R, T, k)."""
    signed = side.values[..., entries] * signs
    size = signed.shape[-1]
    if size < k:
        signed = mx.pad(signed, [(0, 0)] * 3 + [(0, k - size)])
    if places is None:
        return signed
    # Which entry a place gets: a zero behind them, or anything if there are k.
    source = mx.put_along_axis(mx.full((k,), k - 1), places, mx.arange(size), axis=0)
    return mx.take_along_axis(signed, source[None, None, None], axis=-1)


def _shifts(
    side: Side, entries: slice, signs: mx.array, places: mx.array | None
) -> tuple[mx.array, mx.array]:
    """The places and signs of tokens, (n, 1, T, 1); sign 0 for tokens not among the entries."""
    inside = mx.logical_and(side.values >= entries.start, side.values < entries.stop)
    tokens = mx.where(inside, side.values - entries.start, 0)
    shifts = tokens if places is None else mx.take(places, tokens)
    return shifts[..., None], mx.where(inside, mx.take(signs, tokens), 0)[..., None]
