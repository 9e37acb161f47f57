"""Any other use: Jacobian rows by a derivative of the one primitive alone."""

from collections.abc import Sequence

import mlx.core as mx

from mlx_entk.kernel.delta import Delta
from mlx_entk.kernel.factors import FROM_DELTA, Factor, Rows
from mlx_entk.kernel.uses.base import Batch, Kind, Use
from mlx_entk.tracing.graph import Graph
from mlx_entk.tracing.mapping import map_pairs
from mlx_entk.tracing.primitives import FAST


class Local(Kind):
    """A parameter in any primitive of one result."""

    def recognises(self, use: Use, graph: Graph) -> bool:
        """Return True: every use is covered."""
        return True

    def merges(self, use: Use) -> bool:
        """Return False: the primitive may mix entries of δ."""
        return False

    def factor(self, use: Use, batch: Batch, delta: Delta) -> Factor:
        """Jacobian rows: δ pulled back through the primitive and the views in front of it."""
        others = [slot for slot in range(len(use.node.inputs)) if slot != use.slot]
        by_output = mx.broadcast_to(delta.rows, (batch.inputs, *delta.rows.shape[1:]))
        parameter = batch.parameters[use.parameter]

        def pull(given: Sequence[mx.array], cotangent: mx.array) -> list[mx.array]:
            def primitive(value: mx.array) -> mx.array:
                for view in use.views:
                    (value,) = view.run([value], FAST)
                inputs = dict(zip(others, given, strict=True))
                inputs[use.slot] = value
                (result,) = use.node.run([inputs[slot] for slot in range(len(inputs))], FAST)
                return result

            pulled: list[mx.array] = mx.vjp(primitive, [parameter], [cotangent])[1]
            return pulled

        given = tuple(batch.values[use.node.inputs[slot]] for slot in others)
        (rows,) = map_pairs(pull, given, by_output, own=True)
        return Rows(rows.astype(mx.float32).reshape(*by_output.shape[:2], -1), FROM_DELTA)
