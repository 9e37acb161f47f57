"""The paper's three toy models alongside each other."""

from dataclasses import dataclass, replace

from mlx_entk._files import Arrays
from mlx_entk._records import to_json
from mlx_entk.progress import Progress, silent
from mlx_entk.runs import Run
from mlx_entk.studies.base import Study
from mlx_entk.studies.estimate import Stage, stage_of_report
from mlx_entk.studies.toy_models.study import TMSResults, stages
from mlx_entk.studies.toy_models.training import TMSConfig

# Hidden units and sparsity of the paper's models, which have 50 features.
MODELS = {"dense": (10, 0.3), "sparse": (10, 0.9), "wide": (40, 0.9)}

# Panels of a report.
_PANELS = 15

# The settings of a toy model that the paper's models leave to the user.
SETTINGS = ("importance", "rows", "steps", "seed")


@dataclass(frozen=True)
class ModelResults(TMSResults):
    """The results of one of the models, as its own run folder has them."""

    study: str


@dataclass(frozen=True)
class PaperResults:
    """What the study finds: the results of each model, by its name."""

    config: TMSConfig
    models: dict[str, ModelResults]


def paper_configs(config: TMSConfig) -> dict[str, TMSConfig]:
    """The settings of the three models, which share all but hidden units and sparsity."""
    return {name: replace(config, m=m, sparsity=sparsity) for name, (m, sparsity) in MODELS.items()}


def compute(
    toy_model: Study[TMSConfig, TMSResults],
    config: TMSConfig,
    run: Run,
    progress: Progress = silent,
) -> tuple[PaperResults, Arrays]:
    """Run the study of one toy model for each of the three.

    Parameters
    ----------
    toy_model
        That study.
    run
        A folder made for this configuration; each model is a run of its own inside it.
    """
    models: dict[str, ModelResults] = {}
    arrays: Arrays = {}
    for name, of_model in paper_configs(config).items():
        inner = Run.create(run.file(name), toy_model.name, to_json(of_model))
        with inner.session():
            toy_model.complete(of_model, inner, _prefixed(progress, name))
        models[name] = ModelResults(**vars(toy_model.results_of(inner)), study=toy_model.name)
        arrays |= {f"{name}/{key}": array for key, array in inner.arrays.items()}
    return PaperResults(config, models), arrays


def _prefixed(progress: Progress, name: str) -> Progress:
    """Tell of every stage under the name of a model."""

    def prefixed(stage: str, done: int, total: int, note: str = "") -> None:
        progress(f"{name}: {stage}", done, total, note)

    return prefixed


def estimate(config: TMSConfig) -> list[Stage]:
    """What ``compute`` and a report would take on this device."""
    of_models = [
        replace(stage, name=f"{name}: {stage.name}")
        for name, of_model in paper_configs(config).items()
        for stage in stages(of_model)
    ]
    return [*of_models, stage_of_report(_PANELS)]
