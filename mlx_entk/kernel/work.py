"""The blocks of a kernel: factors of both sides, contracted."""

from dataclasses import dataclass, field

import mlx.core as mx
import numpy as np

from mlx_entk.jacobian import ParametricFunction, jacobian_rows
from mlx_entk.kernel.factors import Factor, Rows, contract
from mlx_entk.kernel.reduction import Cotangents
from mlx_entk.kernel.structure import Structure
from mlx_entk.kernel.tiling import Tile, Tiling, fit, ranges
from mlx_entk.linalg import FloatArray, as_numpy

Factors = dict[str, Factor]

# The name of the kernel of all parameters.
WHOLE = "kernel"


@dataclass
class Work:
    """How the blocks of one kernel are computed.

    Attributes
    ----------
    function
        The model.
    structure
        What is known of its parameters; those without go by their exact Jacobian.
    cotangents
        Of the reduction.
    by_layer
        Whether each parameter has a kernel of its own, or they are summed up.
    """

    function: ParametricFunction
    structure: Structure | None
    cotangents: Cotangents
    by_layer: bool
    _last: tuple[tuple[int, ...], Factors] | None = field(default=None, repr=False)

    @property
    def kernels(self) -> list[str]:
        """Names of the kernels."""
        return list(self.function.params) if self.by_layer else [WHOLE]

    def factors(self, x: mx.array, cotangents: mx.array) -> Factors:
        """The Jacobian factor of every parameter on inputs x."""
        found: Factors = {}
        if self.structure is not None:
            found |= self.structure.factors(x, cotangents, self.cotangents.paired)
        rest = [name for name in self.function.params if name not in found]
        if rest:
            for name, rows in jacobian_rows(self.function, x, cotangents, rest).items():
                found[name] = Rows(rows.reshape(*rows.shape[:2], -1).astype(mx.float32))
        return {name: found[name] for name in self.function.params}

    def fit(self, x: mx.array, budget: int) -> Tiling:
        """The largest tiles whose factors and blocks stay within a budget of bytes."""
        one, paired = self.factors(x[:1], self.cotangents.left[:1]), self.cotangents.paired
        alive = self.structure.activations if self.structure is not None else 0
        return fit(
            per_cotangent=alive + sum(factor.size for factor in one.values()),
            block=max(factor.block(paired) for factor in one.values()),
            N=x.shape[0],
            kernels=len(self.kernels),
            cotangents=self.cotangents,
            budget=budget,
        )

    def blocks(
        self, x: mx.array, x2: mx.array, tile: Tile, tiling: Tiling, same: bool
    ) -> dict[str, FloatArray]:
        """The block of each kernel on a tile; ``same`` says that x2 is x."""
        paired, R = self.cotangents.paired, self.cotangents.left.shape[0]
        sides = [(tile.left, tile.right)]
        if paired:
            sides = [(part, part) for part in ranges(R, tiling.cotangents)]
        total: dict[str, FloatArray] = {}
        for left, right in sides:
            one = self._left_factors(x, tile, left)
            other = one
            if not (same and self.cotangents.symmetric and tile.diagonal and left == right):
                other = self.factors(x2[tile.columns], self.cotangents.right[right])
            for name, factor in one.items():
                block = as_numpy(contract(factor, other[name], paired))
                kernel = name if self.by_layer else WHOLE
                if kernel in total:
                    total[kernel] += block
                else:
                    total[kernel] = block.copy()
        if paired:
            for block in total.values():
                block /= np.float32(R)
        return total

    def _left_factors(self, x: mx.array, tile: Tile, left: slice) -> Factors:
        """The factors of the rows, kept for the tiles beside this one."""
        key = (tile.rows.start, left.start)
        if self._last is None or self._last[0] != key:
            self._last = None  # let go of the old ones before the new ones are made
            self._last = (key, self.factors(x[tile.rows], self.cotangents.left[left]))
        return self._last[1]
