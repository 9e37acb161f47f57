"""A table whose rows are looked up: J = Σ_t e(token_t) ⊗ δ_t, with e one-hot."""

from mlx_entk.kernel.delta import Delta
from mlx_entk.kernel.factors import Factor
from mlx_entk.kernel.sides import Side
from mlx_entk.kernel.uses.base import Batch, Kind, Use, counted_from_the_start, outer_product
from mlx_entk.tracing.graph import Graph


class Embedding(Kind):
    """``W[tokens]`` of a matrix W."""

    def recognises(self, use: Use, graph: Graph) -> bool:
        """Whether whole rows of a matrix are taken."""
        if use.node.primitive != "Gather" or use.slot != 0:
            return False
        of_rows = list(use.node.arguments[0]) == [0]
        return use.plain and len(graph.shapes[use.parameter]) == 2 and of_rows

    def merges(self, use: Use) -> bool:
        """Return True: δ stands on a side of its own."""
        return True

    def factor(self, use: Use, batch: Batch, delta: Delta) -> Factor:
        """The outer product of the tokens and δ."""
        table, name = batch.parameters[use.parameter], use.node.inputs[1]
        given = batch.values[name].reshape(batch.inputs, 1, -1)
        tokens = counted_from_the_start(given, table.shape[0])
        by_output = delta.side()
        embedded = by_output.values.reshape(*by_output.values.shape[:2], -1, table.shape[1])
        return outer_product(
            table,
            Side(tokens, (name, "tokens")),
            Side(embedded, (*by_output.name, "embedded"), backward=True),
            delta,
        )
