"""Modular addition by a transformer: which parameter's kernel holds which feature, and when."""

from mlx_entk.studies.base import Command, Study
from mlx_entk.studies.modular.pairs import MODULAR
from mlx_entk.studies.modular_transformer.show import SHOW
from mlx_entk.studies.modular_transformer.study import (
    TransformerResults,
    compute,
    estimate,
    headline,
    intervention,
    problem,
    trained,
    unit,
)
from mlx_entk.studies.modular_transformer.training import TransformerConfig

STUDY = Study(
    name="modular-transformer",
    title="Modular addition, transformer",
    config=TransformerConfig,
    results=TransformerResults,
    compute=compute,
    show=SHOW,
    estimate=estimate,
    headline=headline,
    unit=unit,
    network=trained,
    problem=problem,
    intervention=intervention,
    command=Command(
        name="transformer",
        group=MODULAR,
        short_help="Train a transformer until it groks, and align the kernel of each parameter.",
        help="""Train a transformer until it groks, and find which parameter's kernel holds what.

        Reads the key frequencies off the embedding and off the kernel's modes. Aligns the kernels
        of all parameters with Fourier families at those frequencies, during and after training.
        Writes a run folder with checkpoints, results.json, spectra.npz, figures/ and report.html.
        Run the same command again to continue after an interruption.
        """,
        examples=(
            "mlx-entk modular transformer --seed 0 --epochs 20000",
            "mlx-entk sweep --seeds 0-7 modular transformer --epochs 20000",
        ),
    ),
)

__all__ = ["STUDY", "TransformerConfig", "TransformerResults"]
