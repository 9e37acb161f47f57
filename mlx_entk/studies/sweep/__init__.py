"""One experiment over several seeds."""

from mlx_entk.studies.base import Study
from mlx_entk.studies.sweep.show import SHOW
from mlx_entk.studies.sweep.study import (
    SweepConfig,
    SweepResults,
    compute,
    estimate,
    folder_of_seed,
)

STUDY = Study(
    name="sweep",
    title="Sweep over seeds",
    config=SweepConfig,
    results=SweepResults,
    compute=compute,
    show=SHOW,
    estimate=estimate,
)

__all__ = ["STUDY", "SweepConfig", "SweepResults", "folder_of_seed"]
