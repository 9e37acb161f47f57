"""The empirical neural tangent kernel: reductions, strategies, tiles."""

from mlx_entk.kernel.engine import entk, explain, layerwise_entk
from mlx_entk.kernel.explanation import Explanation
from mlx_entk.kernel.operator import EntkOperator, entk_operator
from mlx_entk.kernel.reduction import Reduction, flatten

__all__ = [
    "EntkOperator",
    "Explanation",
    "Reduction",
    "entk",
    "entk_operator",
    "explain",
    "flatten",
    "layerwise_entk",
]
