"""``mlx-entk export`` and ``mlx-entk verify``: take a run's network to other frameworks."""

from pathlib import Path
from typing import get_args

import click

from mlx_entk._records import to_json
from mlx_entk.errors import InputError
from mlx_entk.onnx import CHECKERS, installed_checkers
from mlx_entk.onnx.derivatives import What
from mlx_entk.runs import Run
from mlx_entk.studies.base import network_of
from mlx_entk.studies.networks import export_graph, how_written, verify_run
from mlx_entk.studies.reporting import write_report
from mlx_entk.studies.verification import verification_table

from .base import Command, RunFolder, code_option
from .display import progress, show
from .inputs import parse_reduction


@click.command(
    cls=Command,
    short_help="Write a run's network or its kernel as an ONNX graph.",
    examples=[
        "mlx-entk export runs/demo",
        "mlx-entk export runs/demo --what entk --reduction sum-of-logits --out kernel.onnx",
    ],
)
@click.argument("run", type=RunFolder())
@click.option(
    "--what",
    type=click.Choice(get_args(What)),
    default="model",
    show_default=True,
    help="What the graph computes. model: the outputs. jacobian: the Jacobian of the outputs by "
    "each parameter. entk: the kernel between two sets of inputs, whole and by parameter. vjp, "
    "jvp: derivatives along given cotangents or parameter directions.",
)
@click.option(
    "--reduction",
    help="Reduction of the kernel, for --what entk: trace, sum-of-logits, full, or a pair of "
    "classes as c,d. By default the one that the study looks at.",
)
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File to write; by default one in the folder onnx/ of the run.",
)
@code_option
def export(
    run: Path, what: What, reduction: str | None, out: Path | None, model: str | None
) -> None:
    """Write the network of a finished RUN, or a derivative of it, as an ONNX graph.

    Derivative graphs need no automatic differentiation: onnxruntime alone computes the eNTK on
    new inputs. A graph is written once onnxruntime has run it, at two sizes of the batch if that
    is free, and agrees with MLX.
    """
    if reduction is not None and what != "entk":
        raise InputError(f"--reduction goes with --what entk, not with --what {what}")
    opened = Run.load(run)
    wanted = None if reduction is None else parse_reduction(reduction)
    if out is not None:
        written = export_graph(opened, network_of(opened, model), what, wanted, out)
    else:
        with opened.session():
            written = export_graph(opened, network_of(opened, model), what, wanted)
    show([], None, graph=written, **how_written(written))


@click.command(
    cls=Command,
    short_help="Check a run's network and kernel in other frameworks.",
    examples=["mlx-entk verify runs/demo --against onnxruntime,torch"],
)
@click.argument("run", type=RunFolder())
@click.option(
    "--against",
    metavar="CHECKER,…",
    help=f"Checkers to compare with: {', '.join(CHECKERS)}. By default those that are installed.",
)
@code_option
@click.pass_context
def verify(context: click.Context, run: Path, against: str | None, model: str | None) -> None:
    """Check the network of a finished RUN and its kernel in other frameworks.

    Exports the graphs that the run folder does not have yet, computes them in each framework,
    compares, and writes verification.json and report.html. Exits with 1 if a check fails.
    """
    opened = Run.load(run)
    names = [name.strip() for name in against.split(",")] if against else installed_checkers()
    with opened.session():
        with progress() as update:
            verification = verify_run(opened, network_of(opened, model), names, update)
        opened.save_verification(to_json(verification))
        report = write_report(opened)
    data = {"verification": to_json(verification)}
    show([verification_table(verification)], data, passed=verification.passed, report=report)
    if not verification.passed:
        context.exit(1)
