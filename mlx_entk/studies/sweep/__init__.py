"""A sweep: one experiment over several seeds."""

from mlx_entk.studies.base import Study
from mlx_entk.studies.sweep.show import SHOW
from mlx_entk.studies.sweep.study import (
    SweepConfig,
    SweepResults,
    compute,
    folder_of_seed,
)

STUDY = Study(
    name="sweep",
    title="Sweep over seeds",
    config=SweepConfig,
    results=SweepResults,
    compute=compute,
    show=SHOW,
)

__all__ = ["STUDY", "SweepConfig", "SweepResults", "folder_of_seed"]
