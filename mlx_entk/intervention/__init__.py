"""From modes of the eNTK to changes of the weights, and what they do to the network.

A mode v of K = J Jᵀ has a direction in weight space, u = Jᵀv/√λ: the change of weights that moves
the outputs along v. What a network learned along the directions of a group of modes can be undone,
or taken out of its weights, and the network run again: that tells whether the group does a
feature's work, or is only aligned with it.
"""

from mlx_entk.intervention.changes import applied, displacement, effective_rank_of, norm, scaled
from mlx_entk.intervention.directions import Direction, ModeSpan, mode_directions
from mlx_entk.intervention.edits import principal_edit, random_edit, removal
from mlx_entk.intervention.effects import LinearRange, linear_range, outputs_after

__all__ = [
    "Direction",
    "LinearRange",
    "ModeSpan",
    "applied",
    "displacement",
    "effective_rank_of",
    "linear_range",
    "mode_directions",
    "norm",
    "outputs_after",
    "principal_edit",
    "random_edit",
    "removal",
    "scaled",
]
