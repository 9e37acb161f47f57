"""``mlx-entk modular``: the modular-addition experiments."""

from pathlib import Path
from typing import get_args

import click

from mlx_entk.data import Embedding
from mlx_entk.plotting import modular_figures
from mlx_entk.runs import Run
from mlx_entk.studies.mlp import STUDY, MLPConfig, run_mlp

from .display import default_folder, finish, progress

_DEFAULT = MLPConfig()


@click.group()
def modular() -> None:
    """Study networks that add modulo p."""


@modular.command(
    epilog="Example: mlx-entk modular mlp --seed 1 --out runs/seed-1",
)
@click.option("--p", default=_DEFAULT.p, show_default=True, help="Modulus, odd and at least 3.")
@click.option("--width", default=_DEFAULT.width, show_default=True, help="Hidden units.")
@click.option(
    "--train-fraction",
    default=_DEFAULT.train_fraction,
    show_default=True,
    help="Share of the p² pairs to train on, between 0 and 1.",
)
@click.option("--epochs", default=_DEFAULT.epochs, show_default=True, help="Full-batch steps.")
@click.option("--seed", default=_DEFAULT.seed, show_default=True, help="Of weights and split.")
@click.option(
    "--embedding",
    type=click.Choice(get_args(Embedding)),
    default=_DEFAULT.embedding,
    show_default=True,
    help="How n and m enter: unit vectors, or cyclic shifts of one random vector.",
)
@click.option(
    "--learning-rate", default=_DEFAULT.learning_rate, show_default=True, help="Of AdamW."
)
@click.option("--weight-decay", default=_DEFAULT.weight_decay, show_default=True, help="Of AdamW.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="Run folder; by default one below runs/ named after the settings.",
)
def mlp(out: Path | None, **settings: object) -> None:
    """Train the MLP, decompose its trace eNTK, align it with Fourier families.

    Writes a run folder with checkpoints every 10 epochs, results.json, spectra.npz, figures/
    and report.html. Run the same command again to continue after an interruption.
    """
    config = MLPConfig(**settings)  # type: ignore[arg-type]
    named = config.as_json()
    run = Run.create(out or default_folder(STUDY, named), STUDY, named)
    with run.session():
        with progress() as update:
            run_mlp(config, run, update)
        finish(run, modular_figures(run))
