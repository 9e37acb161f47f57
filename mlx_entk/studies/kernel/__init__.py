"""A user's own model: the spectrum of its eNTK, and the features that its modes hold."""

from mlx_entk.studies.base import Study
from mlx_entk.studies.kernel.estimate import estimate
from mlx_entk.studies.kernel.finished import intervention, problem, trained
from mlx_entk.studies.kernel.show import SHOW
from mlx_entk.studies.kernel.study import (
    KernelConfig,
    KernelResults,
    compute,
    headline,
    prepare,
    unit,
)

STUDY = Study(
    name="kernel",
    title="Kernel of a model",
    config=KernelConfig,
    results=KernelResults,
    compute=compute,
    show=SHOW,
    estimate=estimate,
    headline=headline,
    unit=unit,
    network=trained,
    problem=problem,
    intervention=intervention,
    takes_targets=True,
    takes_model=True,
)

__all__ = ["STUDY", "KernelConfig", "KernelResults", "estimate", "prepare"]
