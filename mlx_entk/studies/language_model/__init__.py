"""A language model: what its layers know of the next word, by their kernels' modes."""

from mlx_entk.studies.base import Study
from mlx_entk.studies.language_model.records import METHODS, LMConfig, LMResults
from mlx_entk.studies.language_model.show import SHOW, window_ends, window_tables
from mlx_entk.studies.language_model.step_show import step_summary, step_tables
from mlx_entk.studies.language_model.steps import StepSettings, steps_of, steps_of_run
from mlx_entk.studies.language_model.study import PRODUCTS, compute, estimate, headline, prepare

STUDY = Study(
    name="lm",
    title="Language model",
    config=LMConfig,
    results=LMResults,
    compute=compute,
    show=SHOW,
    estimate=estimate,
    headline=headline,
    scratch=(PRODUCTS,),
)

__all__ = [
    "METHODS",
    "STUDY",
    "LMConfig",
    "LMResults",
    "StepSettings",
    "estimate",
    "prepare",
    "step_summary",
    "step_tables",
    "steps_of",
    "steps_of_run",
    "window_ends",
    "window_tables",
]
