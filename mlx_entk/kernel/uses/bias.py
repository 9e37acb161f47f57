"""A vector added along the last axis: a matrix of one column, multiplied with 1."""

import mlx.core as mx

from mlx_entk.kernel.delta import Delta
from mlx_entk.kernel.factors import Factor
from mlx_entk.kernel.sides import Side
from mlx_entk.kernel.uses.base import VIEWS, Batch, Kind, Use, outer_product
from mlx_entk.tracing.graph import Graph

# Views that leave the last axis where it is, if they leave its size.
_KEEP_THE_LAST_AXIS = VIEWS - {"Transpose"}


class Bias(Kind):
    """z = a + b, with b of one axis, alone or in ``addmm``."""

    def recognises(self, use: Use, graph: Graph) -> bool:
        """Whether a vector arrives in a sum with its entries along the last axis."""
        if use.node.primitive != "Add" and (use.node.primitive, use.slot) != ("AddMM", 2):
            return False
        if not {view.primitive for view in use.views} <= _KEEP_THE_LAST_AXIS:
            return False
        on_the_way = [view.inputs[0] for view in use.views]
        shapes = [
            graph.shapes[name]
            for name in (*on_the_way, use.node.inputs[use.slot], use.node.outputs[0])
        ]
        return len(shapes[0]) == 1 and {shape[-1] for shape in shapes} == {*shapes[0]}

    def merges(self, use: Use) -> bool:
        """Return True: δ stands on a side of its own."""
        return True

    def factor(self, use: Use, batch: Batch, delta: Delta) -> Factor:
        """The outer product of δ and 1."""
        by_output = delta.side(use.node.arguments[1] if use.node.primitive == "AddMM" else 1)
        positions = by_output.values.shape[2]
        ones = Side(mx.ones((batch.inputs, 1, positions, 1)), ("ones", positions))
        return outer_product(batch.parameters[use.parameter], by_output, ones, delta)
