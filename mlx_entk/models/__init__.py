"""The networks of the studies, as ``mlx.nn`` modules."""

from mlx_entk.models.mlp import QuadraticMLP
from mlx_entk.models.tms import ToyModel
from mlx_entk.models.transformer import ModularTransformer

__all__ = ["ModularTransformer", "QuadraticMLP", "ToyModel"]
