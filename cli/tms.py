"""``mlx-entk tms``: toy models of superposition."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args

import click
from click.core import ParameterSource

from mlx_entk.errors import InputError
from mlx_entk.studies import tms as study
from mlx_entk.studies.estimate import Stage

from .base import Group, dry_run_option
from .display import run_study

_DEFAULT = study.TMSConfig()
Function = Callable[..., Any]


def _options(command: Function) -> Function:
    """The settings that every experiment with toy models has."""
    for option in reversed(
        [
            click.option("--n", default=_DEFAULT.n, show_default=True, help="Features."),
            click.option("--m", default=_DEFAULT.m, show_default=True, help="Hidden units."),
            click.option(
                "--importance",
                default=_DEFAULT.importance,
                show_default=True,
                help="Feature i counts importance^i in the loss.",
            ),
            click.option(
                "--steps", default=_DEFAULT.steps, show_default=True, help="Full-batch steps."
            ),
            click.option(
                "--seed", default=_DEFAULT.seed, show_default=True, help="Of weights and data."
            ),
            click.option(
                "--out",
                type=click.Path(file_okay=False, path_type=Path),
                help="Run folder; by default one below runs/ named after the settings.",
            ),
            dry_run_option,
        ]
    ):
        command = option(command)
    return command


@click.group(
    cls=Group,
    short_help="Toy models of superposition.",
    invoke_without_command=True,
    examples=["mlx-entk tms --m 2 --n 5", "mlx-entk tms --paper", "mlx-entk tms double-descent"],
)
@_options
@click.option(
    "--sparsity",
    default=_DEFAULT.sparsity,
    show_default=True,
    help="Probability that a feature is absent from an input.",
)
@click.option(
    "--dataset",
    type=click.Choice(get_args(study.Dataset)),
    default=_DEFAULT.dataset,
    show_default=True,
    help="One set of rows of unit length, or 1024 fresh inputs in every step.",
)
@click.option("--rows", default=_DEFAULT.rows, show_default=True, help="Inputs of the kernel.")
@click.option(
    "--beta",
    "betas",
    multiple=True,
    type=float,
    default=_DEFAULT.betas,
    show_default=True,
    help="Exponent of the importance rescaling; may be given more than once.",
)
@click.option("--paper", is_flag=True, help="The three models of the paper side by side.")
@click.pass_context
def tms(
    context: click.Context, /, out: Path | None, paper: bool, dry_run: bool, **settings: Any
) -> list[Stage] | None:
    """Train a toy model of superposition, and count the features that its eNTK's modes recover.

    Writes a run folder with checkpoints, results.json, spectra.npz, figures/ and report.html.
    The network before training and one trained on shuffled targets stand beside it. Run the
    same command again to continue after an interruption.
    """
    if context.invoked_subcommand is not None:
        names = [*settings, "out", "paper", "dry-run"]
        _refuse(context, names, "belongs after double-descent")
        return None
    if paper:
        _refuse(context, ["n", "m", "sparsity", "dataset", "betas"], "is set by --paper: leave it")
    config = study.TMSConfig(**settings)
    if paper:
        return run_study(
            out,
            study.PAPER_STUDY,
            config.as_json(),
            lambda run, update: study.run_paper(config, run, update),
            dry_run,
            lambda: study.estimate_paper(config),
        )
    return run_study(
        out,
        study.STUDY,
        config.as_json(),
        lambda run, update: study.run_tms(config, run, update),
        dry_run,
        lambda: study.estimate(config),
    )


def _refuse(context: click.Context, names: Sequence[str], why: str) -> None:
    """Say so where an option was given that would not count."""
    for name in names:
        if context.get_parameter_source(name.replace("-", "_")) is ParameterSource.COMMANDLINE:
            option = "beta" if name == "betas" else name
            raise InputError(f"--{option} {why}")


@tms.command("double-descent", examples=["mlx-entk tms double-descent --m 2"])
@_options
@click.option("--sparsity", default=0.3, show_default=True, help="Probability of absence.")
@click.option(
    "--rows",
    "sizes",
    multiple=True,
    type=int,
    default=study.DESCENT_ROWS,
    help="Dataset size; may be given more than once. By default 16 sizes from 3 to 1000.",
)
def double_descent(
    out: Path | None, sizes: tuple[int, ...], dry_run: bool, **settings: Any
) -> list[Stage] | None:
    """Train on datasets of several sizes, and draw the loss on new inputs over the size."""
    config = study.TMSConfig(**settings)
    return run_study(
        out,
        study.DESCENT_STUDY,
        study.descent_config(config, sizes),
        lambda run, update: study.run_double_descent(config, sizes, run, update),
        dry_run,
        lambda: study.estimate_double_descent(config, sizes),
    )
