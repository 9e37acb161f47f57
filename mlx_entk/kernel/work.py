"""The blocks of a kernel: factors of both sides, contracted."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import mlx.core as mx

from mlx_entk._linalg import FloatArray, as_numpy
from mlx_entk.kernel.factors import Factor, Products, Rows, contract
from mlx_entk.kernel.forward import Push
from mlx_entk.kernel.guard import Ways
from mlx_entk.kernel.reduction import Cotangents
from mlx_entk.kernel.tiling import Tile, Tiling, fit, ranges
from mlx_entk.tracing.functions import ParametricFunction
from mlx_entk.tracing.inputs import Inputs, count, part
from mlx_entk.tracing.jacobian import jacobian_rows

Factors = dict[str, Factor]

# The name of the kernel of all parameters.
WHOLE = "kernel"


@dataclass
class Work:
    """How the blocks of one kernel are computed.

    Attributes
    ----------
    ways
        How each parameter of the model is taken; those without structure by their exact Jacobian.
    cotangents
        Of the reduction.
    by_layer
        Whether each parameter has a kernel of its own, or they are summed up.
    push
        Makes a block the Jacobian of x applied to the gradients of x2, in place of factors of
        both; None for factors.
    """

    ways: Ways
    cotangents: Cotangents
    by_layer: bool
    push: Push | None = None
    _last: tuple[tuple[int, ...], Factors] | None = field(default=None, repr=False)

    @property
    def function(self) -> ParametricFunction:
        """The model."""
        return self.ways.function

    @property
    def kernels(self) -> list[str]:
        """Names of the kernels."""
        return list(self.function.params) if self.by_layer else [WHOLE]

    def factors(self, x: Inputs, cotangents: mx.array) -> Factors:
        """The Jacobian factor of every parameter on inputs x."""
        found: Factors = {}
        structure, looped = self.ways.structure, self.ways.looped
        if structure is not None:
            found |= structure.factors(x, cotangents, self.cotangents.paired)
        rest = [name for name in self.function.params if name not in found]
        if rest:
            for name, rows in jacobian_rows(self.ways.rows, x, cotangents, rest, looped).items():
                found[name] = Rows(rows.reshape(*rows.shape[:2], -1).astype(mx.float32))
        return {name: found[name] for name in self.function.params}

    def fit(self, x: Inputs, budget: int) -> Tiling:
        """The largest tiles whose factors and blocks stay within a budget of bytes."""
        paired = self.cotangents.paired
        one = self.factors(part(x, slice(1)), self.cotangents.left[:1])
        structure = self.ways.structure
        alive = structure.activations if structure is not None else 0
        return fit(
            per_cotangent=alive + sum(factor.size for factor in one.values()),
            block=max(factor.block(paired) for factor in one.values()),
            N=count(x),
            kernels=len(self.kernels),
            cotangents=self.cotangents,
            budget=budget,
        )

    def blocks(
        self, x: Inputs, x2: Inputs, tile: Tile, tiling: Tiling, same: bool
    ) -> dict[str, FloatArray]:
        """The block of each kernel on a tile; ``same`` says that x2 is x."""
        R = len(self.cotangents.left)
        sides = [(tile.left, tile.right)]
        if self.cotangents.paired:
            sides = [(part, part) for part in ranges(R, tiling.cotangents)]
        total: dict[str, mx.array] = {}
        for left, right in sides:
            if self.push is not None:
                rows, columns = part(x, tile.rows), part(x2, tile.columns)
                blocks = self._products(self.push, rows, columns, left, right)
            else:
                alike = same and self.cotangents.symmetric and tile.diagonal and left == right
                blocks = self._contractions(x, x2, tile, left, right, alike)
            for kernel, block in blocks:
                total[kernel] = total[kernel] + block if kernel in total else block
                mx.eval(total[kernel])  # bounds the memory to one block more
        return {name: as_numpy(block) for name, block in total.items()}

    def _contractions(
        self, x: Inputs, x2: Inputs, tile: Tile, left: slice, right: slice, alike: bool
    ) -> Iterator[tuple[str, mx.array]]:
        """The part of each parameter, and the kernel it belongs to."""
        one = self._left_factors(x, tile, left)
        other = one
        if not alike:
            other = self.factors(part(x2, tile.columns), self.cotangents.right[right])
        products = Products()
        for name, factor in one.items():
            block = contract(factor, other[name], self.cotangents.paired, products)
            yield name if self.by_layer else WHOLE, block

    def _products(
        self, push: Push, x: Inputs, x2: Inputs, left: slice, right: slice
    ) -> Iterator[tuple[str, mx.array]]:
        """K[n, m, r, s] as the change of output r of x[n] along the gradient of output s of x2[m].

        One forward-mode product for each m and s.
        """
        params, cotangents = self.function.params, self.cotangents.left[left]
        by_output = self.cotangents.right[right]
        gradients = jacobian_rows(self.ways.rows, x2, by_output, params, self.ways.looped)
        for kernel in self.kernels:
            names = list(params) if kernel == WHOLE else [kernel]
            columns = []
            for m in range(count(x2)):
                tangents = tuple(gradients[name][m] for name in names)
                (changes,) = push.along(x, names, tangents)  # s, n, c
                if self.cotangents.paired:
                    columns.append((changes * cotangents[:, None]).sum(axis=(0, 2)))
                else:
                    columns.append((changes @ cotangents.T).transpose(1, 2, 0))
                mx.eval(columns[-1])  # one pass at a time
            yield kernel, mx.stack(columns, axis=1).astype(mx.float32)

    def _left_factors(self, x: Inputs, tile: Tile, left: slice) -> Factors:
        """The factors of the rows, kept for the tiles beside this one."""
        key = (tile.rows.start, left.start)
        if self._last is None or self._last[0] != key:
            self._last = None  # let go of the old ones before the new ones are made
            self._last = (key, self.factors(part(x, tile.rows), self.cotangents.left[left]))
        return self._last[1]
