"""Captioned figures that the studies of modular addition share."""

from mlx_entk.controls import ControlAlignment
from mlx_entk.plotting import CaptionedFigure
from mlx_entk.runs import Run
from mlx_entk.studies.base import Figures
from mlx_entk.studies.modular import charts
from mlx_entk.studies.modular.words import KERNELS_IN_TRAINING_CAPTION, grokking_caption
from mlx_entk.studies.results import Grokking


def training_figures(run: Run, tracked: Grokking, control: ControlAlignment | None) -> Figures:
    """How accuracy, overlap and kernels change over training.

    Parameters
    ----------
    control
        The best control of the main series after training.
    """
    grokking = charts.grokking(run.metrics, tracked, control)
    yield CaptionedFigure("grokking", grokking, grokking_caption(tracked))
    in_training = charts.kernels_in_training(tracked)
    yield CaptionedFigure("kernels-in-training", in_training, KERNELS_IN_TRAINING_CAPTION)
