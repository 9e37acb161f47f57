"""``mlx-entk intervene``: edit a run's network along modes of its eNTK."""

from pathlib import Path
from typing import cast

import click

from mlx_entk._parameters import patterns_in
from mlx_entk._records import to_json
from mlx_entk.errors import InputError
from mlx_entk.runs import Run
from mlx_entk.studies import language_model
from mlx_entk.studies.base import intervention_problem_of
from mlx_entk.studies.intervention.intervene import intervene
from mlx_entk.studies.intervention.records import BY, By
from mlx_entk.studies.intervention.show import intervention_summary, intervention_tables
from mlx_entk.studies.reporting import write_report

from .base import Command, RunFolder, code_option
from .display import progress, show
from .inputs import load_features, load_targets, parse_groups

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command(
    "intervene",
    cls=Command,
    short_help="Take modes out of a run's network, and measure what it can no longer do.",
    examples=[
        "mlx-entk intervene runs/demo",
        "mlx-entk intervene runs/demo --modes 57-112 --by undo",
        "mlx-entk intervene runs/parity --by project --features parity/features.npz",
    ],
)
@click.argument("run", type=RunFolder())
@click.option(
    "--modes",
    default="",
    metavar="FIRST-LAST,…",
    help="Groups of modes, such as 1-56,57-112; by default those that the study looks at.",
)
@click.option(
    "--by",
    type=click.Choice(BY),
    help="undo: take out what was learned in the span of the modes. project: take out all that the "
    "weights hold there. step: move the weights along each mode by a tenth of their norm. By "
    "default undo if the weights before training are known, else project.",
)
@click.option(
    "--parameters",
    default="",
    metavar="PATTERN,…",
    help="The parameters to change, such as 'layers.*'; by default all of them.",
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Seed of the random changes.",
)
@click.option(
    "--targets",
    type=_FILE,
    help="For a run of `mlx-entk kernel`: an .npy file, or an .npz file with the array y, of shape "
    "(N, C), or (N,) if they are classes, to say how well the model does.",
)
@click.option(
    "--features",
    type=_FILE,
    help="For a run of `mlx-entk kernel`: an .npz file of feature families, shape (N, k) each, or "
    "an .npy file of one, to take out one at a time.",
)
@click.option(
    "--initial",
    type=_FILE,
    help="For a run of `mlx-entk kernel`: the weights before training (.safetensors or .npz).",
)
@code_option
def intervene_command(
    run: Path,
    modes: str,
    by: str | None,
    parameters: str,
    seed: int,
    targets: Path | None,
    features: Path | None,
    initial: Path | None,
    model: str | None,
) -> None:
    """Edit the network of a finished RUN along modes of its eNTK, and measure what it still does.

    Takes out of the weights what belongs to groups of modes and, if features are known, to one
    feature at a time. Compares every edit with random changes of equal norm, with as many other
    modes, and with principal directions of the activations. Writes intervention.json,
    intervention.npz, figures/ and report.html into the run folder.
    """
    opened = Run.load(run)
    if opened.study == language_model.STUDY.name:
        raise InputError(f"{run} is a run of a language model: use `mlx-entk lm steps {run}`")
    groups = parse_groups(modes, "--modes")
    problem = intervention_problem_of(
        opened,
        model,
        targets=None if targets is None else load_targets(targets),
        features=None if features is None else load_features(features),
        initial=initial,
    )
    with opened.session():
        with progress() as update:
            found, arrays = intervene(
                problem,
                cast("By | None", by),
                groups,
                patterns_in(parameters),
                seed,
                update,
            )
        opened.save_intervention(to_json(found), arrays)
        report = write_report(opened)
    data = {"intervention": to_json(found)}
    show(intervention_tables(found), data, found=intervention_summary(found), report=report)
