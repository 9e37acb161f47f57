"""Experiments. Each has a folder, and a line here that registers it."""

import warnings
from importlib.metadata import entry_points

from mlx_entk.studies import (
    kernel,
    language_model,
    modular_mlp,
    modular_transformer,
    sweep,
    toy_models,
)
from mlx_entk.studies.base import STUDIES, Command, CommandGroup, Network, Show, Study, study_of
from mlx_entk.studies.estimate import Stage
from mlx_entk.studies.networks import trained_network
from mlx_entk.studies.problem import RegressionProblem, problem_of_model
from mlx_entk.studies.running import Finished, run, run_study
from mlx_entk.studies.settings import setting

GROUP = "mlx_entk.studies"
"""Entry points of this group name the studies of other packages."""

_BUILT_IN: tuple[Study, ...] = (  # type: ignore[type-arg]
    modular_mlp.STUDY,
    modular_transformer.STUDY,
    toy_models.TOY_MODEL,
    toy_models.PAPER,
    toy_models.DOUBLE_DESCENT,
    kernel.STUDY,
    language_model.STUDY,
    sweep.STUDY,
)


def _register() -> None:
    STUDIES.update({study.name: study for study in _BUILT_IN})
    for entry in entry_points(group=GROUP):
        try:
            study = entry.load()
        except Exception as error:  # code of another package, which must not stop the rest
            warnings.warn(f"the study {entry.name} cannot be imported: {error}", stacklevel=2)
            continue
        if not isinstance(study, Study) or study.name in STUDIES:
            reason = (
                "a study with that name exists" if isinstance(study, Study) else "it is not a Study"
            )
            warnings.warn(f"the study {entry.name} is left out: {reason}", stacklevel=2)
            continue
        STUDIES[study.name] = study


_register()

__all__ = [
    "GROUP",
    "STUDIES",
    "Command",
    "CommandGroup",
    "Finished",
    "Network",
    "RegressionProblem",
    "Show",
    "Stage",
    "Study",
    "problem_of_model",
    "run",
    "run_study",
    "setting",
    "study_of",
    "trained_network",
]
