"""Figures from results, without computation: each function returns a matplotlib Figure."""

from mlx_entk.plotting.kernel import kernel_figures
from mlx_entk.plotting.modular import modular_figures

__all__ = ["kernel_figures", "modular_figures"]
