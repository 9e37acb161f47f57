"""The kinds of use of a parameter: how each is recognised, and what its Jacobian looks like.

A new kind is a module with a class and a place in ``KINDS``.
"""

from collections.abc import Sequence

from mlx_entk.kernel.factors import Factor, add_up
from mlx_entk.kernel.uses.base import VIEWS, Batch, Kind, Use, matrix_shape
from mlx_entk.kernel.uses.bias import Bias
from mlx_entk.kernel.uses.convolution import Convolution, GroupedConvolution
from mlx_entk.kernel.uses.dense import Dense
from mlx_entk.kernel.uses.embedding import Embedding
from mlx_entk.kernel.uses.experts import Experts
from mlx_entk.kernel.uses.local import Local
from mlx_entk.tracing.graph import Graph

__all__ = ["KINDS", "VIEWS", "Batch", "Kind", "Use", "factor_of", "kind_of"]

# In the order in which they are tried; the last recognises every use.
KINDS: tuple[Kind, ...] = (
    Dense(),
    Bias(),
    Embedding(),
    Convolution(),
    GroupedConvolution(),
    Experts(),
    Local(),
)


def kind_of(use: Use, graph: Graph) -> Kind:
    """The first kind that recognises a use."""
    return next(kind for kind in KINDS if kind.recognises(use, graph))


def factor_of(
    uses: Sequence[Use], graph: Graph, batch: Batch, paired: bool, outer: bool = False
) -> Factor:
    """The Jacobian factor of one parameter, summed over its uses.

    Parameters
    ----------
    uses
        At least one.
    graph
        That they are in.
    batch
        What they meet.
    paired
        Whether the factor will be contracted in pairs.
    outer
        As for ``mlx_entk.kernel.factors.add_up``.
    """
    parts = []
    for use in uses:
        kind, delta = kind_of(use, graph), batch.deltas[use.tap]
        # Of several uses, cross terms need the same rows in each.
        if paired and len(uses) == 1 and kind.merges(use):
            delta = delta.merged
        parts.append(kind.factor(use, batch, delta))
    return add_up(parts, matrix_shape(batch.parameters[uses[0].parameter]), paired, outer)
