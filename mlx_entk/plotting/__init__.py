"""Figures from results, without computation: each function returns a matplotlib Figure."""

from mlx_entk.plotting.modular import modular_figures

__all__ = ["modular_figures"]
