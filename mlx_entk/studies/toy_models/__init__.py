"""Toy models of superposition: one model, the paper's three, and datasets of several sizes."""

from functools import partial

from mlx_entk.studies.base import Command, CommandGroup, Study
from mlx_entk.studies.toy_models import double_descent, paper, study
from mlx_entk.studies.toy_models.double_descent import DescentConfig, DescentResults
from mlx_entk.studies.toy_models.paper import PaperResults
from mlx_entk.studies.toy_models.show import DESCENT_SHOW, PAPER_SHOW, TOY_MODEL_SHOW
from mlx_entk.studies.toy_models.study import TMSResults, own_feature_shares
from mlx_entk.studies.toy_models.training import STUDY, TMSConfig

_SHORT_HELP = "Train toy models of superposition, and count the features in their eNTK's modes."

TOY_MODEL = Study(
    name=STUDY,
    title="Toy model of superposition",
    config=TMSConfig,
    results=TMSResults,
    compute=study.compute,
    show=TOY_MODEL_SHOW,
    estimate=study.estimate,
    headline=study.headline,
    unit=study.unit,
    network=study.trained,
    problem=study.problem,
    intervention=study.intervention,
    command=Command(
        name="tms",
        short_help=_SHORT_HELP,
        help="""Train a toy model, and count the features that the modes of its eNTK recover.

        The same is done for the network before training and for one trained on shuffled targets.
        Writes a run folder with checkpoints, results.json, spectra.npz, figures/ and report.html.
        Run the same command again to continue after an interruption.
        """,
        examples=(
            "mlx-entk tms --m 2 --n 5",
            "mlx-entk tms --paper",
            "mlx-entk tms double-descent",
        ),
    ),
)

PAPER = Study(
    name="tms-paper",
    title="Toy models of superposition, the paper's three",
    config=TMSConfig,
    results=PaperResults,
    compute=partial(paper.compute, TOY_MODEL),
    show=PAPER_SHOW,
    estimate=paper.estimate,
    command=Command(
        name="tms",
        flag="--paper",
        short_help="Train the three models of the paper instead of one.",
        help="Train the three models of the paper, which fix the other settings.",
        settings=paper.SETTINGS,
    ),
)

DOUBLE_DESCENT = Study(
    name="tms-double-descent",
    title="Toy models of superposition, double descent",
    config=DescentConfig,
    results=DescentResults,
    compute=double_descent.compute,
    show=DESCENT_SHOW,
    estimate=double_descent.estimate,
    command=Command(
        name="double-descent",
        group=CommandGroup("tms", _SHORT_HELP),
        short_help="Train toy models on datasets of several sizes, and compare their losses.",
        help="""Train toy models on datasets of several sizes, and compare their losses.

        Writes a run folder with results.json, spectra.npz, figures/ and report.html, which show
        the loss on new inputs and the effective rank of the eNTK over the size. Run the same
        command again to continue after an interruption.
        """,
        settings=double_descent.SETTINGS,
        examples=("mlx-entk tms double-descent --m 2",),
    ),
)

__all__ = [
    "DOUBLE_DESCENT",
    "PAPER",
    "TOY_MODEL",
    "DescentConfig",
    "DescentResults",
    "PaperResults",
    "TMSConfig",
    "TMSResults",
    "own_feature_shares",
]
