"""The blocks of a kernel: factors of both sides, contracted."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import mlx.core as mx

from mlx_entk._linalg import FloatArray, as_numpy, settle
from mlx_entk.distributed import Group, numbers_of_first
from mlx_entk.kernel.factors import Factor, Outers, Rows
from mlx_entk.kernel.forward import Push
from mlx_entk.kernel.guard import Ways
from mlx_entk.kernel.reduction import Cotangents
from mlx_entk.kernel.sides import Products
from mlx_entk.kernel.tiling import ONE_TILE, Demand, Tile, Tiling, fit, ranges
from mlx_entk.tracing.functions import ParametricFunction
from mlx_entk.tracing.inputs import Inputs, count, part
from mlx_entk.tracing.jacobian import jacobian_rows

Factors = dict[str, Factor]

# A side of a tile: whether it is of the rows, its inputs and its cotangents.
_Side = tuple[bool, tuple[int, int], tuple[int, int]]

# The name of the kernel of all parameters.
WHOLE = "kernel"
# Bytes of an entry.
_FLOAT = 4


def half_names(parameter: str) -> tuple[str, str]:
    """The names of the Gram matrices of what a weight meets and of δ."""
    return f"{parameter}, activations", f"{parameter}, backward"


def halves_of(factor: Factor) -> tuple[Rows, Rows] | None:
    """What a weight meets and δ, if the factor is one outer product."""
    return factor.halves() if isinstance(factor, Outers) else None


@dataclass
class Work:
    """How one kernel is computed, block by block.

    Attributes
    ----------
    ways
        How each parameter of the model is taken; those without structure by their exact Jacobian.
    cotangents
        Of the reduction.
    x, x2
        N and M inputs, of the rows and of the columns; ``x2`` None stands for x.
    by_layer
        Whether each parameter has a kernel of its own, or they are summed up.
    push
        Makes a block the Jacobian of x applied to the gradients of x2, in place of factors of
        both; None for factors.
    tiling
        How the kernel is cut.
    halves
        Whether, in place of its kernel, each parameter has the two Gram matrices that make it up,
        by ``half_names``; the parameters are then those of which that is known.
    kept
        Of how many tiles of a side the factors are kept for the tiles that need them again.
    """

    ways: Ways
    cotangents: Cotangents
    x: Inputs
    x2: Inputs | None
    by_layer: bool
    push: Push | None = None
    tiling: Tiling = ONE_TILE
    halves: bool = False
    kept: int = 2
    # What blocks leave for the next ones; work that is made from other work begins without.
    _kept: dict[_Side, Factors] = field(default_factory=dict, init=False, repr=False)
    _combinations: dict[bool, tuple[tuple[int, int], mx.array]] = field(
        default_factory=dict, init=False, repr=False
    )
    _finite: list[mx.array] = field(default_factory=list, init=False, repr=False)

    @property
    def function(self) -> ParametricFunction:
        """The model."""
        return self.ways.function

    @property
    def columns(self) -> Inputs:
        """The inputs of the columns."""
        return self.x if self.x2 is None else self.x2

    @property
    def symmetric(self) -> bool:
        """Whether swapping the inputs transposes the kernel, so that half of it suffices."""
        return self.x2 is None and self.cotangents.symmetric

    @property
    def kernels(self) -> list[str]:
        """Names of the kernels."""
        if self.halves:
            return [half for name in self.function.params for half in half_names(name)]
        return list(self.function.params) if self.by_layer else [WHOLE]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of each kernel."""
        classes = (len(self.cotangents.left), len(self.cotangents.right))
        return (count(self.x), count(self.columns), *classes * self.cotangents.keeps_classes)

    @property
    def bytes(self) -> int:
        """The bytes that all kernels take."""
        return _FLOAT * len(self.kernels) * math.prod(self.shape)

    def cut(self, budget: int, group: Group | None) -> "Work":
        """The same in the largest tiles whose factors and blocks stay within a budget of bytes.

        Ranks of a group get the tiles of the first.

        Raises
        ------
        InputError
            If one input and one cotangent do not fit.
        """
        paired, few = self.cotangents.paired, min(2, len(self.cotangents.left))
        one = self.factors(part(self.x, slice(1)), self.cotangents.left[:few])
        arrays = [array for factor in one.values() for array in factor.arrays]
        # The second axis is over cotangents; 1 stands for any number of them.
        each = sum(array.size / few for array in arrays if array.shape[1] == few > 1)
        structure = self.ways.structure
        alive = structure.activations if structure is not None else 0
        backward = structure is None or structure.has_backward_passes
        fitted, kept = fit(
            passes=Demand(alive, alive * backward),
            factors=Demand(sum(array.size for array in arrays) - few * each, each),
            shared=0 if structure is None else structure.shared,
            block=max(factor.block(paired) for factor in one.values()) // (1 if paired else few**2),
            folded=0 if paired else max(factor.folded for factor in one.values()),
            N=count(self.x),
            kernels=len(self.kernels),
            cotangents=self.cotangents,
            budget=budget,
        )
        tiling = Tiling(*numbers_of_first([fitted.inputs, fitted.cotangents], group))
        return replace(self, tiling=tiling, kept=kept)

    def tiles(self, tiling: Tiling) -> list[tuple[Tile, list[Tile]]]:
        """Every tile of a tiling, with its pieces that stay within the budget.

        Of a symmetric kernel, those on and above the diagonal.
        """
        N, M = count(self.x), count(self.columns)
        return [
            (tile, tile.pieces(self.tiling, self.cotangents.paired))
            for tile in tiling.tiles(N, M, self.cotangents, self.symmetric)
        ]

    def factors(self, x: Inputs, cotangents: mx.array) -> Factors:
        """The Jacobian factor of every parameter on inputs x."""
        return self.passes(x, cotangents)[0]

    def passes(self, x: Inputs, cotangents: mx.array) -> tuple[Factors, mx.array]:
        """``factors``, and whether the outputs on x are finite."""
        factors: Factors = {}
        structure, looped = self.ways.structure, self.ways.looped
        if structure is not None and structure.uses:
            paired = self.cotangents.paired
            structured, finite = structure.passes(x, cotangents, paired, self.halves)
            factors |= structured
        else:
            finite = mx.all(mx.isfinite(self.function.apply({}, *x)))
        rest = [name for name in self.function.params if name not in factors]
        if rest:
            for name, rows in jacobian_rows(self.ways.rows, x, cotangents, rest, looped).items():
                values = rows.reshape(*rows.shape[:2], -1).astype(mx.float32)
                one_by_one = ", input by input" if name in looped else ""
                factors[name] = Rows(values, f"Jacobian contraction{one_by_one}")
        return {name: factors[name] for name in self.function.params}, finite

    @property
    def outputs_are_finite(self) -> bool:
        """Whether the outputs are, on all inputs of which factors were made."""
        return all(bool(finite) for finite in self._finite)

    def blocks(self, tile: Tile) -> dict[str, FloatArray]:
        """The block of each kernel on a tile."""
        sides = [(tile.left, tile.right)]
        if self.cotangents.paired:
            R = len(self.cotangents.left)
            sides = [(some, some) for some in ranges(R, self.tiling.cotangents)]
        total: dict[str, mx.array] = {}
        for left, right in sides:
            blocks = self._contractions if self.push is None else self._products
            for kernel, block in blocks(tile, left, right):
                total[kernel] = total[kernel] + block if kernel in total else block
                settle(total[kernel])  # bounds the memory to one block more
        found = {name: as_numpy(block) for name, block in total.items()}
        if self.cotangents.paired:
            return found
        return {name: block.transpose(0, 2, 1, 3) for name, block in found.items()}

    def _contractions(
        self, tile: Tile, left: slice, right: slice
    ) -> Iterator[tuple[str, mx.array]]:
        """The part of each parameter, and the kernel it belongs to."""
        symmetric = self.symmetric and tile.diagonal and left == right
        mine = (True, _ends(tile.rows), _ends(left))
        theirs = (self.symmetric, _ends(tile.columns), _ends(right))
        self._forget(mine, theirs)
        one = other = self._factors_of(mine, theirs)
        if not symmetric:
            other = self._factors_of(theirs, mine)
        products = Products(symmetric)
        for name, factor in one.items():
            if self.halves:
                halves, others = halves_of(factor), halves_of(other[name])
                assert halves is not None
                assert others is not None
                for half, a, b in zip(half_names(name), halves, others, strict=True):
                    yield half, a.contract(b, True, Products(symmetric))
                continue
            block = factor.contract(other[name], self.cotangents.paired, products)
            yield name if self.by_layer else WHOLE, block

    def _products(self, tile: Tile, left: slice, right: slice) -> Iterator[tuple[str, mx.array]]:
        """K[n, m, r, s] as the change of output r of x[n] along the gradient of output s of x2[m].

        One forward-mode product for each m and s.
        """
        assert self.push is not None
        x, x2 = part(self.x, tile.rows), part(self.columns, tile.columns)
        params, cotangents = self.function.params, self.cotangents.left[left]
        by_output = self.cotangents.right[right]
        gradients = jacobian_rows(self.ways.rows, x2, by_output, params, self.ways.looped)
        for kernel in self.kernels:
            names = [kernel] if self.by_layer else list(params)
            columns = []
            for m in range(count(x2)):
                tangents = tuple(gradients[name][m] for name in names)
                (changes,) = self.push.along(x, names, tangents)  # s, n, c
                if self.cotangents.paired:
                    columns.append((changes * cotangents[:, None]).sum(axis=(0, 2)))
                else:
                    columns.append((changes @ cotangents.T).transpose(1, 2, 0))
                settle(columns[-1])  # one pass at a time
            axis = 1 if self.cotangents.paired else 2
            yield kernel, mx.stack(columns, axis=axis).astype(mx.float32)

    def _factors_of(self, side: _Side, opposite: _Side) -> Factors:
        """The factors of a side of a tile, kept for the tiles that need them again.

        The columns come around in the same order for every row. If there is no room for all of
        them, the newest makes way, so that those before it are still there the next time.
        """
        if side not in self._kept:
            if len(self._kept) >= self.kept:
                newest = next(key for key in reversed(self._kept) if key != opposite)
                del self._kept[newest]
            of_rows, inputs, cotangents = side
            batch = part(self.x if of_rows else self.columns, slice(*inputs))
            made, finite = self.passes(batch, self._rows(of_rows, *cotangents))
            settle(*(array for factor in made.values() for array in factor.arrays), finite)
            self._finite.append(finite)
            self._kept[side] = made
        return self._kept[side]

    def _rows(self, of_rows: bool, start: int, stop: int) -> mx.array:
        """Some cotangents, as the same array as the last time if they are the same."""
        key, known = (start, stop), self._combinations.get(of_rows)
        if known is None or known[0] != key:
            combinations = self.cotangents.left if of_rows else self.cotangents.right
            known = self._combinations[of_rows] = (key, combinations[start:stop])
        return known[1]

    def _forget(self, rows: _Side, columns: _Side) -> None:
        """Let go of the factors of rows that have been passed."""
        _, now, _ = rows
        for side in list(self._kept):
            of_rows, inputs, _ = side
            passed = inputs < now if self.symmetric else of_rows and inputs != now
            if passed and side != columns:
                del self._kept[side]


def _ends(part: slice) -> tuple[int, int]:
    return part.start, part.stop
