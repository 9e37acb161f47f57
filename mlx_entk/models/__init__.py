"""The networks of the studies, as ``mlx.nn`` modules."""

from mlx_entk.models.mlp import QuadraticMLP
from mlx_entk.models.tms import ToyModel

__all__ = ["QuadraticMLP", "ToyModel"]
