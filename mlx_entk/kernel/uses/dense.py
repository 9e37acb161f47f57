"""A weight matrix in a matrix product: J = Σ_t δ_t ⊗ a_t over positions t."""

import mlx.core as mx

from mlx_entk.kernel.delta import Delta
from mlx_entk.kernel.factors import Factor
from mlx_entk.kernel.sides import Side
from mlx_entk.kernel.uses.base import Batch, Kind, Use, outer_product, positions_of
from mlx_entk.tracing.graph import Graph


class Dense(Kind):
    """z = a W and z = W a, with W as it is or transposed, alone or in ``addmm``."""

    def recognises(self, use: Use, graph: Graph) -> bool:
        """Whether a matrix is multiplied; if it stands in front, with a single matrix."""
        if use.node.primitive not in ("Matmul", "AddMM") or use.slot > 1:
            return False
        if len(graph.shapes[use.parameter]) != 2 or not use.is_matrix:
            return False
        return not _comes_first(use) or len(graph.shapes[_multiplied(use)]) == 2

    def merges(self, use: Use) -> bool:
        """Whether the product is a W; in W a, entries of δ are positions."""
        return not _comes_first(use)

    def factor(self, use: Use, batch: Batch, delta: Delta) -> Factor:
        """The outer product of a and δ, in the order of the axes of W."""
        name = _multiplied(use)
        by_output = delta.side(use.node.arguments[0] if use.node.primitive == "AddMM" else 1)
        values = batch.values[name].astype(mx.float32)
        if _comes_first(use):  # a column of a is a position
            columns = Side(values.swapaxes(-1, -2)[:, None], (name, "columns"))
            turned = by_output.values.swapaxes(-1, -2)
            swapped = Side(turned, (*by_output.name, "columns"), backward=True)
            sides = (swapped, columns)
        else:
            sides = (Side(positions_of(values), (name, "rows")), by_output)
        first, second = sides[::-1] if use.transposed else sides
        return outer_product(batch.parameters[use.parameter], first, second, delta)


def _comes_first(use: Use) -> bool:
    """Whether the parameter stands in front of what it is multiplied with: W a, not a W."""
    return use.slot == 0


def _multiplied(use: Use) -> str:
    """What the parameter is multiplied with, as a value of the graph."""
    return use.node.inputs[1 - use.slot]
