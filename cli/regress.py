"""``mlx-entk regress``: how much of a run's network its kernel explains."""

from pathlib import Path

import click

from mlx_entk._files import read_arrays
from mlx_entk.errors import InputError
from mlx_entk.report import regression_tables
from mlx_entk.runs import Run
from mlx_entk.studies import kernel as kernel_study
from mlx_entk.studies.regress import Fit, fit_of, fit_of_model, regress

from .base import Command, RunFolder
from .display import finish, progress, session
from .inputs import functions_of_kernel_run


@click.command(
    "regress",
    cls=Command,
    short_help="Kernel regression: does the kernel describe the network?",
    examples=["mlx-entk regress runs/demo"],
)
@click.argument("run", type=RunFolder())
@click.option(
    "--targets",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="For a run of `mlx-entk kernel`: an .npz with the array y, shape (N, C), or (N,) of "
    "classes.",
)
def regress_command(run: Path, targets: Path | None) -> None:
    """Fit kernel regression with the eNTK of a finished RUN.

    Compares the linearised and the pure kernel predictor with the network on held-out inputs
    over a path of ridges, says whether the kernel describes the network, and which modes carry
    it. Writes regression.json and figures into the run folder.
    """
    opened = Run.load(run)
    with session(opened):
        with progress() as update:
            regression = regress(_fit(opened, targets), update)
        opened.save_regression(regression)
        finish(opened, regression_tables(regression))


def _fit(run: Run, targets: Path | None) -> Fit:
    if run.study != kernel_study.STUDY:
        if targets is not None:
            raise InputError(f"--targets: a {run.study} run has targets of its own")
        return fit_of(run)
    if targets is None:
        raise InputError("--targets is missing: a run of `mlx-entk kernel` has none of its own")
    arrays = read_arrays(targets)
    if "y" not in arrays:
        raise InputError(f"{targets} has no array y; it has {', '.join(arrays) or 'nothing'}")
    model, initial, inputs = functions_of_kernel_run(run)
    return fit_of_model(model, initial, inputs, arrays["y"])
