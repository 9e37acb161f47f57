"""The blocks of a kernel: factors of both sides, contracted."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import mlx.core as mx

from mlx_entk._linalg import FloatArray, as_numpy
from mlx_entk.distributed import Group, numbers_of_first
from mlx_entk.kernel.factors import Factor, Outers, Rows
from mlx_entk.kernel.forward import Push
from mlx_entk.kernel.guard import Ways
from mlx_entk.kernel.outer import Products
from mlx_entk.kernel.reduction import Cotangents
from mlx_entk.kernel.tiling import ONE_TILE, Tile, Tiling, fit, ranges
from mlx_entk.tracing.functions import ParametricFunction
from mlx_entk.tracing.inputs import Inputs, count, part
from mlx_entk.tracing.jacobian import jacobian_rows

Factors = dict[str, Factor]

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
    """

    ways: Ways
    cotangents: Cotangents
    x: Inputs
    x2: Inputs | None
    by_layer: bool
    push: Push | None = None
    tiling: Tiling = ONE_TILE
    halves: bool = False
    _last: tuple[tuple[int, ...], Factors] | None = field(default=None, repr=False)

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
        paired = self.cotangents.paired
        one = self.factors(part(self.x, slice(1)), self.cotangents.left[:1])
        structure = self.ways.structure
        alive = structure.activations if structure is not None else 0
        fitted = fit(
            per_cotangent=alive + sum(factor.size for factor in one.values()),
            block=max(factor.block(paired) for factor in one.values()),
            N=count(self.x),
            kernels=len(self.kernels),
            cotangents=self.cotangents,
            budget=budget,
        )
        tiling = Tiling(*numbers_of_first([fitted.inputs, fitted.cotangents], group))
        return replace(self, tiling=tiling)

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
        factors: Factors = {}
        structure, looped = self.ways.structure, self.ways.looped
        if structure is not None:
            factors |= structure.factors(x, cotangents, self.cotangents.paired, self.halves)
        rest = [name for name in self.function.params if name not in factors]
        if rest:
            for name, rows in jacobian_rows(self.ways.rows, x, cotangents, rest, looped).items():
                values = rows.reshape(*rows.shape[:2], -1).astype(mx.float32)
                one_by_one = ", input by input" if name in looped else ""
                factors[name] = Rows(values, f"Jacobian contraction{one_by_one}")
        return {name: factors[name] for name in self.function.params}

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
                mx.eval(total[kernel])  # bounds the memory to one block more
        return {name: as_numpy(block) for name, block in total.items()}

    def _contractions(
        self, tile: Tile, left: slice, right: slice
    ) -> Iterator[tuple[str, mx.array]]:
        """The part of each parameter, and the kernel it belongs to."""
        symmetric = self.symmetric and tile.diagonal and left == right
        one = other = self._left_factors(tile, left)
        if not symmetric:
            other = self.factors(part(self.columns, tile.columns), self.cotangents.right[right])
        products = Products(symmetric)
        for name, factor in one.items():
            if self.halves:
                mine, others = halves_of(factor), halves_of(other[name])
                assert mine is not None
                assert others is not None
                for half, a, b in zip(half_names(name), mine, others, strict=True):
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
                mx.eval(columns[-1])  # one pass at a time
            yield kernel, mx.stack(columns, axis=1).astype(mx.float32)

    def _left_factors(self, tile: Tile, left: slice) -> Factors:
        """The factors of the rows, kept for the next tiles, which have the same rows."""
        key = (tile.rows.start, left.start)
        if self._last is None or self._last[0] != key:
            self._last = None  # let go of the old ones before the new ones are made
            self._last = (key, self.factors(part(self.x, tile.rows), self.cotangents.left[left]))
        return self._last[1]
