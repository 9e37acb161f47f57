"""The weight of a convolution: a dense weight on patches of its input."""

import mlx.core as mx

from mlx_entk.kernel.delta import Delta
from mlx_entk.kernel.factors import FROM_DELTA, Factor, Rows
from mlx_entk.kernel.sides import Side
from mlx_entk.kernel.uses.base import Batch, Kind, Use, outer_product
from mlx_entk.tracing.convolutions import Form
from mlx_entk.tracing.graph import Graph
from mlx_entk.tracing.row_products import patch_matrices


class Convolution(Kind):
    """A convolution of any dimension in one group."""

    def recognises(self, use: Use, graph: Graph) -> bool:
        """Whether the parameter is the weight of a convolution in one group."""
        return _is_weight(use) and _groups(use) == 1

    def merges(self, use: Use) -> bool:
        """Return True: δ stands on a side of its own."""
        return True

    def factor(self, use: Use, batch: Batch, delta: Delta) -> Factor:
        """The outer product of δ and the patches."""
        name = ("patches", use.node.outputs[0])
        (taken,) = _patches(use, batch)
        second = Side(taken[:, None], name)
        return outer_product(batch.parameters[use.parameter], delta.side(), second, delta)


class GroupedConvolution(Kind):
    """A convolution in several groups, each a dense weight of its own on a part of the patches."""

    def recognises(self, use: Use, graph: Graph) -> bool:
        """Whether the parameter is the weight of a convolution in groups."""
        return _is_weight(use)

    def merges(self, use: Use) -> bool:
        """Return False: rows of the Jacobian are contracted, not δ."""
        return False

    def factor(self, use: Use, batch: Batch, delta: Delta) -> Factor:
        """Jacobian rows: patches times δ for each group."""
        groups = _groups(use)
        by_group = _patches(use, batch).swapaxes(0, 1)[:, None]
        by_output = delta.by_position
        outputs = by_output.reshape(*by_output.shape[:3], groups, -1).transpose(0, 1, 3, 4, 2)
        # The axes are then groups, their outputs, taps of the kernel.
        rows = (outputs @ by_group).reshape(batch.inputs, by_output.shape[1], -1)
        return Rows(rows, FROM_DELTA)


def _is_weight(use: Use) -> bool:
    return use.node.primitive == "Convolution" and use.slot == 1 and use.plain


def _groups(use: Use) -> int:
    return int(use.node.arguments[5])


def _patches(use: Use, batch: Batch) -> mx.array:
    """What a convolution multiplies its weight with.

    Shape (groups, n, positions, kernel · channels of a group).
    """
    x = batch.values[use.node.inputs[0]]
    kernel = batch.parameters[use.parameter].shape[1:-1]
    # Each input was a batch of one.
    return patch_matrices(x[:, 0].astype(mx.float32), kernel, Form.of(use.node.arguments))
