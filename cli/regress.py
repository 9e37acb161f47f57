"""``mlx-entk regress``: how much of a run's network its kernel explains."""

from pathlib import Path

import click

from mlx_entk._files import read_arrays
from mlx_entk._linalg import FloatArray
from mlx_entk._records import to_json
from mlx_entk.errors import InputError
from mlx_entk.runs import Run
from mlx_entk.studies.regression.regress import problem_of, regress
from mlx_entk.studies.regression.show import regression_tables
from mlx_entk.studies.reporting import write_report

from .base import Command, RunFolder
from .display import finish, progress


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
    values = None if targets is None else _targets(targets)
    with opened.session():
        with progress() as update:
            regression = to_json(regress(problem_of(opened, values), update))
        opened.save_regression(regression)
        write_report(opened)
    finish(opened, regression_tables(regression))


def _targets(path: Path) -> FloatArray:
    arrays = read_arrays(path)
    if "y" not in arrays:
        raise InputError(f"{path} has no array y; it has {', '.join(arrays) or 'nothing'}")
    return arrays["y"]
