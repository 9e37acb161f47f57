"""``mlx-entk modular``: the modular-addition experiments."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import click

from mlx_entk.data import Embedding
from mlx_entk.studies import mlp, transformer
from mlx_entk.studies.estimate import Stage
from mlx_entk.studies.modular import ModularConfig

from .base import Group, dry_run_option
from .display import run_study

Function = Callable[..., Any]


@click.group(cls=Group, short_help="Networks that add modulo p: MLP and transformer.")
def modular() -> None:
    """Study networks that add modulo p."""


def _options(default: ModularConfig) -> Callable[[Function], Function]:
    """The settings that every network has, with a network's own defaults."""
    options = [
        click.option("--p", default=default.p, help="Modulus, odd and at least 3."),
        click.option(
            "--train-fraction",
            default=default.train_fraction,
            help="Share of the p² pairs to train on, between 0 and 1.",
        ),
        click.option("--epochs", default=default.epochs, help="Passes over the pairs, at most."),
        click.option("--seed", default=default.seed, help="Of weights, split and batches."),
        click.option("--learning-rate", default=default.learning_rate, help="Of AdamW."),
        click.option("--weight-decay", default=default.weight_decay, help="Of AdamW."),
        click.option(
            "--out",
            type=click.Path(file_okay=False, path_type=Path),
            help="Run folder; by default one below runs/ named after the settings.",
        ),
        dry_run_option,
    ]

    def decorate(command: Function) -> Function:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


_MLP = mlp.MLPConfig()


@modular.command(
    "mlp",
    context_settings={"show_default": True},
    examples=["mlx-entk modular mlp --seed 1 --out runs/seed-1", "mlx-entk modular mlp --dry-run"],
)
@_options(_MLP)
@click.option("--width", default=_MLP.width, help="Hidden units.")
@click.option(
    "--embedding",
    type=click.Choice(get_args(Embedding)),
    default=_MLP.embedding,
    help="How n and m enter: unit vectors, or cyclic shifts of one random vector.",
)
def mlp_command(out: Path | None, dry_run: bool, **settings: Any) -> list[Stage] | None:
    """Train the MLP, decompose its trace eNTK, align it with Fourier families.

    Writes a run folder with checkpoints every 10 epochs, results.json, spectra.npz, figures/
    and report.html. Run the same command again to continue after an interruption.
    """
    config = mlp.MLPConfig(**settings)
    return run_study(
        out,
        mlp.STUDY,
        config.as_json(),
        lambda run, update: mlp.run_mlp(config, run, update),
        dry_run,
        lambda: mlp.estimate(config),
    )


_TRANSFORMER = transformer.TransformerConfig()


@modular.command(
    "transformer",
    context_settings={"show_default": True},
    examples=[
        "mlx-entk modular transformer --seed 0 --epochs 20000",
        "mlx-entk sweep --seeds 0-7 modular transformer --epochs 20000",
    ],
)
@_options(_TRANSFORMER)
@click.option("--d-model", default=_TRANSFORMER.d_model, help="Width of the residual stream.")
@click.option("--heads", default=_TRANSFORMER.heads, help="Attention heads.")
@click.option("--d-mlp", default=_TRANSFORMER.d_mlp, help="Hidden units of the ReLU layer.")
@click.option("--batch-size", default=_TRANSFORMER.batch_size, help="Pairs a step.")
@click.option(
    "--hold",
    default=_TRANSFORMER.hold,
    help="Epochs that the test accuracy has to hold 99% before training stops; 0 trains to the "
    "last epoch.",
)
def transformer_command(out: Path | None, dry_run: bool, **settings: Any) -> list[Stage] | None:
    """Train the transformer until it groks, and find which parameter's kernel holds what.

    Reads its key frequencies off the embedding and off the kernel's modes, and aligns the
    kernels of all nine parameters with Fourier families at those frequencies, after training
    and over it. Writes a run folder with checkpoints every 20 epochs, results.json,
    spectra.npz, figures/ and report.html. Run the same command again to continue after an
    interruption.
    """
    config = transformer.TransformerConfig(**settings)
    return run_study(
        out,
        transformer.STUDY,
        config.as_json(),
        lambda run, update: transformer.run_transformer(config, run, update),
        dry_run,
        lambda: transformer.estimate(config),
    )
