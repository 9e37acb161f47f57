"""Figures of results, without computation: each function returns a ``Drawing``."""

from mlx_entk.plotting.drawing import CaptionedFigure, Drawing
from mlx_entk.plotting.heatmaps import plot_alignment
from mlx_entk.plotting.spectra import (
    eigenvalue_axes,
    plot_overlap,
    plot_spectra,
    plot_spectra_over_training,
    plot_spectrum,
)

__all__ = [
    "CaptionedFigure",
    "Drawing",
    "eigenvalue_axes",
    "plot_alignment",
    "plot_overlap",
    "plot_spectra",
    "plot_spectra_over_training",
    "plot_spectrum",
]
