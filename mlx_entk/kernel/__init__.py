"""The empirical neural tangent kernel: reductions, strategies, tiles."""

from mlx_entk.kernel.engine import entk
from mlx_entk.kernel.operator import EntkOperator, entk_operator
from mlx_entk.kernel.reduction import Reduction, flatten

__all__ = ["EntkOperator", "Reduction", "entk", "entk_operator", "flatten"]
