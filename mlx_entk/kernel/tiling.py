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

# Floats alive for each float of a factor while the factors of both sides are made (the factor,
# what reverse mode keeps, one copy), and for each float of a block while it is made and put into
# a file, in addition to the block of each kernel.
_FACTOR_COPIES = 6
_BLOCK_COPIES = 6
_FLOAT = 4

# Floats of a block at most if cotangents are not paired: larger ones leave the caches, and cost
# more in passes over memory than they save in factors (the full kernel of a small
# transformer takes half the time in blocks of 16 MB that it takes in blocks of 64 MB).
_LARGEST_BLOCK = 2**22


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


def fit(
    per_cotangent: int, block: int, kernels: int, N: int, cotangents: Cotangents, budget: int
) -> Tiling:
    """The largest tiles within a budget.

    Parameters
    ----------
    per_cotangent
        Floats that an input takes for each cotangent.
    block
        Floats that a contraction makes for each pair of inputs and, if cotangents are not
        paired, for each pair of those.
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
    R, copies = len(cotangents.left), _BLOCK_COPIES + kernels
    floats = budget / _FLOAT / 2  # half for the factors of two sides, half for the block
    affordable = min(
        floats / (2 * _FACTOR_COPIES * per_cotangent),
        math.inf if cotangents.paired else math.sqrt(floats / (copies * block)),
    )
    if affordable < 1 or floats < copies * block:
        need = 2 * _FLOAT * max(2 * _FACTOR_COPIES * per_cotangent, copies * block)
        raise InputError(
            f"one input takes {format_bytes(need)} of working memory, the limit leaves "
            f"{format_bytes(max(0, budget))}: raise the memory limit"
        )
    rows = min(R, int(affordable))
    pairs = 1 if cotangents.paired else rows * rows
    side = min(
        floats / (2 * _FACTOR_COPIES * rows * per_cotangent),
        math.sqrt(floats / (copies * block * pairs)),
        math.inf if cotangents.paired else max(1.0, math.sqrt(_LARGEST_BLOCK / (block * pairs))),
    )
    return Tiling(inputs=max(1, min(N, int(side))), cotangents=rows)


def ranges(count: int, size: int) -> list[slice]:
    """0…count−1 in ranges of a size, the last perhaps smaller."""
    return _cut(slice(0, count), size)


def _cut(whole: slice, size: int) -> list[slice]:
    starts = range(whole.start, whole.stop, size)
    return [slice(start, min(start + size, whole.stop)) for start in starts]
