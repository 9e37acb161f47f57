"""A stack of matrices of which each position meets one: the experts of a mixture."""

import mlx.core as mx

from mlx_entk.kernel.delta import Delta
from mlx_entk.kernel.factors import Factor
from mlx_entk.kernel.sides import Side
from mlx_entk.kernel.uses.base import Batch, Kind, Use, counted_from_the_start, outer_product
from mlx_entk.tracing.graph import Graph


class Experts(Kind):
    """``gather_mm`` by a stack of matrices, each as it is or transposed."""

    def recognises(self, use: Use, graph: Graph) -> bool:
        """Whether the parameter is the stack behind what it is multiplied with."""
        if use.node.primitive != "GatherMM" or use.slot != 1:
            return False
        return len(graph.shapes[use.parameter]) == 3 and use.is_stack

    def merges(self, use: Use) -> bool:
        """Return True: δ stands on a side of its own."""
        return True

    def factor(self, use: Use, batch: Batch, delta: Delta) -> Factor:
        """The outer product of what the experts are given and δ, with the expert of each."""
        n, stack = batch.inputs, batch.parameters[use.parameter]
        source, chosen = use.node.inputs[0], use.node.inputs[2]
        matrices = batch.values[source].reshape(n, -1, *batch.values[source].shape[-2:])
        at = batch.values[chosen].reshape(n, -1, *[1] * 2)
        taken = mx.take_along_axis(matrices, at.astype(mx.int32), axis=1).astype(mx.float32)
        experts = counted_from_the_start(batch.values[use.node.inputs[3]], stack.shape[0])
        experts = mx.repeat(experts.reshape(n, -1), taken.shape[2], axis=1)
        given = Side(taken.reshape(n, 1, -1, taken.shape[-1]), (source, chosen, "taken"))
        sides = (given, delta.side())
        first, second = sides[::-1] if use.transposed else sides
        return outer_product(stack, first, second, delta, experts)
