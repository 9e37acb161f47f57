"""The empirical neural tangent kernel: reductions, strategies, tiles."""

from mlx_entk.kernel.activations import activations
from mlx_entk.kernel.engine import LayerFactors, entk, explain, layer_factors, layerwise_entk
from mlx_entk.kernel.explanation import Explanation
from mlx_entk.kernel.operator import EntkOperator, entk_operator
from mlx_entk.kernel.reduction import Reduction, flatten
from mlx_entk.kernel.work import half_names

__all__ = [
    "EntkOperator",
    "Explanation",
    "LayerFactors",
    "Reduction",
    "activations",
    "entk",
    "entk_operator",
    "explain",
    "flatten",
    "half_names",
    "layer_factors",
    "layerwise_entk",
]
