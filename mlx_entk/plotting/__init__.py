"""Figures from results, without computation: each function returns a matplotlib Figure."""

from mlx_entk.plotting.kernel import kernel_figures
from mlx_entk.plotting.lm import lm_figures
from mlx_entk.plotting.modular import modular_figures
from mlx_entk.plotting.regression import regression_figures
from mlx_entk.plotting.sweep import sweep_figures
from mlx_entk.plotting.tms import descent_figures, paper_figures, tms_figures
from mlx_entk.plotting.transformer import transformer_figures

__all__ = [
    "descent_figures",
    "kernel_figures",
    "lm_figures",
    "modular_figures",
    "paper_figures",
    "regression_figures",
    "sweep_figures",
    "tms_figures",
    "transformer_figures",
]
