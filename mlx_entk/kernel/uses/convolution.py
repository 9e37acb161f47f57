"""The weight of a convolution: a dense weight on patches of its input."""

import math

import mlx.core as mx

from mlx_entk.kernel.delta import Delta
from mlx_entk.kernel.factors import FROM_DELTA, Factor, Rows
from mlx_entk.kernel.outer import Side
from mlx_entk.kernel.uses.base import Batch, Kind, Use, outer_product
from mlx_entk.tracing.graph import Graph
from mlx_entk.tracing.primitives import patches


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
        second = Side(_patches(use, batch)[:, None], name)
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
        groups, taken = _groups(use), _patches(use, batch)
        n, T, _ = taken.shape
        channels = batch.parameters[use.parameter].shape[-1]
        by_group = taken.reshape(n, T, -1, groups, channels).transpose(0, 3, 1, 2, 4)
        by_group = by_group.reshape(n, 1, groups, T, -1)
        by_output = delta.by_position
        outputs = by_output.reshape(*by_output.shape[:3], groups, -1).transpose(0, 1, 3, 4, 2)
        # The axes are then groups, their outputs, taps of the kernel.
        return Rows((outputs @ by_group).reshape(n, by_output.shape[1], -1), FROM_DELTA)


def _is_weight(use: Use) -> bool:
    return use.node.primitive == "Convolution" and use.slot == 1 and use.plain


def _groups(use: Use) -> int:
    return int(use.node.arguments[5])


def _patches(use: Use, batch: Batch) -> mx.array:
    """What a convolution multiplies its weight with, shape (n, positions, kernel · channels)."""
    x = batch.values[use.node.inputs[0]]
    kernel = batch.parameters[use.parameter].shape[1:-1]
    # Each input was a batch of one.
    taken = patches(x[:, 0].astype(mx.float32), kernel, use.node.arguments)
    return taken.reshape(x.shape[0], math.prod(taken.shape[1 : 1 + len(kernel)]), -1)
