"""Modular addition by an MLP: which Fourier features its eNTK sees, and from when on."""

from mlx_entk.studies.base import Command, Study
from mlx_entk.studies.modular.pairs import MODULAR
from mlx_entk.studies.modular_mlp.show import SHOW
from mlx_entk.studies.modular_mlp.study import (
    MLPConfig,
    MLPResults,
    compute,
    estimate,
    headline,
    intervention,
    problem,
    trained,
    unit,
)

STUDY = Study(
    name="modular-mlp",
    title="Modular addition, MLP",
    config=MLPConfig,
    results=MLPResults,
    compute=compute,
    show=SHOW,
    estimate=estimate,
    headline=headline,
    unit=unit,
    network=trained,
    problem=problem,
    intervention=intervention,
    command=Command(
        name="mlp",
        group=MODULAR,
        short_help="Train an MLP, and align its trace eNTK with Fourier families.",
        help="""Train an MLP, decompose its trace eNTK, and align the modes with Fourier families.

        Writes a run folder with checkpoints, results.json, spectra.npz, figures/ and report.html.
        Run the same command again to continue after an interruption.
        """,
        examples=(
            "mlx-entk modular mlp --seed 1 --out runs/seed-1",
            "mlx-entk modular mlp --dry-run",
        ),
    ),
)

__all__ = ["STUDY", "MLPConfig", "MLPResults"]
