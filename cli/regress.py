"""``mlx-entk regress``: kernel regression of a run's network."""

from pathlib import Path

import click

from mlx_entk._records import to_json
from mlx_entk.runs import Run
from mlx_entk.studies.base import problem_of
from mlx_entk.studies.regression.regress import regress
from mlx_entk.studies.regression.show import regression_summary, regression_tables
from mlx_entk.studies.reporting import write_report

from .base import Command, RunFolder, code_option
from .display import progress, show
from .inputs import load_targets


@click.command(
    "regress",
    cls=Command,
    short_help="Test by kernel regression whether the eNTK describes a run's network.",
    examples=["mlx-entk regress runs/demo"],
)
@click.argument("run", type=RunFolder())
@click.option(
    "--targets",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Targets for a run of `mlx-entk kernel`: an .npz file with the array y, of shape (N, C), "
    "or (N,) if they are classes.",
)
@code_option
def regress_command(run: Path, targets: Path | None, model: str | None) -> None:
    """Test by kernel regression whether the eNTK of a finished RUN describes its network.

    Fits the pure kernel predictor over a path of ridges, and compares it with the network on
    held-out inputs, alongside the kernel before training, that of shuffled inputs and the Gram
    matrix of activations. Says whether the kernel describes the network, and which modes carry the
    function. Writes regression.json, figures/ and report.html into the run folder.
    """
    opened = Run.load(run)
    values = None if targets is None else load_targets(targets)
    with opened.session():
        with progress() as update:
            regression = regress(problem_of(opened, values, model), update)
        opened.save_regression(to_json(regression))
        report = write_report(opened)
    data = {"regression": to_json(regression)}
    show(regression_tables(regression), data, found=regression_summary(regression), report=report)
