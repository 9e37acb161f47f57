"""Cut a kernel into tiles that fit into a memory budget.

A tile is a range of x, a range of x2 and a range of cotangents on either side. The factors of
two ranges of inputs and the block that they make must fit; the fewer tiles the better, since
the factors of x2 are made again for every range of x.
"""

import math
import sys
from dataclasses import dataclass

from mlx_entk._memory import format_bytes
from mlx_entk.errors import InputError
from mlx_entk.kernel.reduction import Cotangents

# Floats alive for each float of activations and factors while the factors of a tile are made, and
# for each float of a block while it is made and put into a file, in addition to the block of each
# kernel.
_MADE_COPIES = 3
_BLOCK_COPIES = 6
# The same for what all inputs share, of which the host makes a few copies in float64.
_SHARED_COPIES = 8
_FLOAT = 4

# Floats at most of a block, and of the factors of a tile: larger ones leave the caches, and cost
# more in passes over memory than they save in calls.
_LARGEST_BLOCK, _LARGEST_FACTORS = 2**22, 2**26


@dataclass(frozen=True)
class Tile:
    """One part of a kernel: the inputs of each side, and its cotangents if they are not paired."""

    rows: slice
    columns: slice
    left: slice
    right: slice

    @property
    def diagonal(self) -> bool:
        """Whether its rows are its columns."""
        return self.rows == self.columns

    @property
    def key(self) -> list[int]:
        """Where it begins, which tells it from the others of a tiling."""
        return [part.start for part in (self.rows, self.columns, self.left, self.right)]

    def pieces(self, tiling: "Tiling", paired: bool) -> list["Tile"]:
        """The same in pieces no larger than the tiles of a tiling."""
        sides = [self.left], [self.right]
        if not paired:
            sides = (_cut(self.left, tiling.cotangents), _cut(self.right, tiling.cotangents))
        return [
            Tile(rows, columns, left, right)
            for rows in _cut(self.rows, tiling.inputs)
            for left in sides[0]
            for columns in _cut(self.columns, tiling.inputs)
            for right in sides[1]
        ]


@dataclass(frozen=True)
class Tiling:
    """How a kernel is cut.

    Attributes
    ----------
    inputs
        Inputs a side of a tile.
    cotangents
        Cotangents at a time: a side of a tile, or of the sum over them if they are paired.
    """

    inputs: int
    cotangents: int

    def tiles(self, N: int, M: int, cotangents: Cotangents, symmetric: bool) -> list[Tile]:
        """Every tile, of a symmetric kernel those on and above the diagonal.

        Tiles that share their rows and left cotangents follow one another.
        """
        R = len(cotangents.left)
        sides = [slice(0, R)] if cotangents.paired else ranges(R, self.cotangents)
        return [
            Tile(rows, columns, left, right)
            for rows in ranges(N, self.inputs)
            for left in sides
            for columns in ranges(M, self.inputs)
            if not symmetric or columns.start >= rows.start
            for right in sides
        ]


ONE_TILE = Tiling(inputs=sys.maxsize, cotangents=sys.maxsize)


@dataclass(frozen=True)
class Demand:
    """Floats that an input takes: so many, and so many for each cotangent."""

    fixed: float
    each: float

    def of(self, cotangents: int) -> float:
        """With some cotangents."""
        return self.fixed + self.each * cotangents

    def __add__(self, other: "Demand") -> "Demand":
        return Demand(self.fixed + other.fixed, self.each + other.each)

    def __mul__(self, times: float) -> "Demand":
        return Demand(times * self.fixed, times * self.each)


def fit(
    passes: Demand,
    factors: Demand,
    shared: int,
    block: int,
    folded: int,
    kernels: int,
    N: int,
    cotangents: Cotangents,
    budget: int,
) -> tuple[Tiling, int]:
    """The tiles to cut a kernel into, and of how many of them the factors may be kept.

    Parameters
    ----------
    passes
        What the passes that make the factors of an input keep alive.
    factors
        What its factors take.
    shared
        Floats for each cotangent of what is the same for all inputs.
    block
        Floats that a contraction makes for each pair of inputs and, if cotangents are not
        paired, for each pair of those.
    folded
        Floats that it makes in addition for each pair of inputs.
    kernels
        Kernels that are put together at the same time.
    N
        Inputs.
    budget
        Bytes.

    Raises
    ------
    InputError
        If one input and one cotangent do not fit.
    """
    copies = _BLOCK_COPIES + kernels
    made = (passes + factors) * _MADE_COPIES
    taken = made + factors * 2  # those of the other side are there, and perhaps a copy
    floats = budget / _FLOAT / 2  # half for the factors of two sides, half for the block
    per_cotangent = taken.each + _SHARED_COPIES * shared
    affordable = min(
        (floats - taken.fixed) / max(per_cotangent, 1e-9),
        math.inf if cotangents.paired else math.sqrt(max(0.0, floats - folded) / (copies * block)),
    )
    if affordable < 1 or floats < copies * block + folded:
        need = 2 * _FLOAT * max(taken.fixed + per_cotangent, copies * block + folded)
        raise InputError(
            f"one input takes {format_bytes(need)} of working memory, the limit leaves "
            f"{format_bytes(max(0, budget))}: raise the memory limit"
        )
    rows = int(min(len(cotangents.left), affordable))
    pairs = 1 if cotangents.paired else rows * rows
    for_inputs = floats - _SHARED_COPIES * shared * rows
    side = min(
        for_inputs / taken.of(rows),
        math.sqrt(floats / (copies * block * pairs + folded)),
        max(1.0, math.sqrt(_LARGEST_BLOCK / (block * pairs))),
        max(1.0, _LARGEST_FACTORS / max(1.0, factors.of(rows))),
    )
    inputs = max(1, min(N, int(side)))
    inputs = math.ceil(N / math.ceil(N / inputs))  # all nearly equal
    kept = (for_inputs - inputs * made.of(rows)) / (inputs * max(1.0, factors.of(rows)))
    return Tiling(inputs=inputs, cotangents=rows), max(2, int(kept))


def ranges(count: int, size: int) -> list[slice]:
    """0…count−1 in ranges of a size, the last perhaps smaller."""
    return _cut(slice(0, count), size)


def _cut(whole: slice, size: int) -> list[slice]:
    starts = range(whole.start, whole.stop, size)
    return [slice(start, min(start + size, whole.stop)) for start in starts]
