"""The networks of the studies, as ``mlx.nn`` modules."""

from mlx_entk.models.mlp import QuadraticMLP

__all__ = ["QuadraticMLP"]
