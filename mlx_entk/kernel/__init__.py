"""The empirical neural tangent kernel: reductions, strategies, tiles."""

from mlx_entk.kernel.engine import entk
from mlx_entk.kernel.reduction import Reduction, flatten

__all__ = ["Reduction", "entk", "flatten"]
