"""What a study is: a value that says what it computes, how it is shown and how it is called.

The command line, sweeps, reports, export, verification and regression find studies in
``STUDIES``, and ask the study for what they need.
"""

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import mlx.core as mx

from mlx_entk._files import Arrays, Json
from mlx_entk._linalg import ArrayLike
from mlx_entk._records import from_json, to_json
from mlx_entk.distributed import Group, first_says, is_first
from mlx_entk.errors import InputError, MlxEntkError, first_line
from mlx_entk.kernel import Reduction
from mlx_entk.plotting.drawing import CaptionedFigure
from mlx_entk.progress import Progress, silent
from mlx_entk.report import Draw, ModeBrowser, Status, Table
from mlx_entk.runs import Run
from mlx_entk.studies.estimate import Stage
from mlx_entk.studies.intervention.problem import InterventionProblem
from mlx_entk.studies.problem import RegressionProblem
from mlx_entk.tracing.functions import ParametricFunction

C = TypeVar("C")  # the configuration of a study, a frozen dataclass
R = TypeVar("R")  # its results, another

# Headline numbers by name; None for one that a run does not have.
Headline = dict[str, float | None]

Figures = Iterator[CaptionedFigure]


@dataclass(frozen=True)
class Network:
    """A trained network.

    Attributes
    ----------
    function
        The network with the weights of the last checkpoint.
    x
        Inputs, shape (N, …); if possible some that the network was not trained on.
    reduction
        Reduction of the kernel that the study looks at.
    """

    function: ParametricFunction
    x: mx.array
    reduction: Reduction


def _no_tables(results: Any, run: Run) -> list[Table]:
    return []


def _no_figures(runs: Any) -> Figures:
    return iter(())


def _no_status(results: Any) -> list[Status]:
    return []


def _no_units(name: str) -> str:
    return ""


@dataclass(frozen=True)
class Show(Generic[R]):
    """How the results of a study are shown.

    Attributes
    ----------
    summary
        Two sentences that say what was found, and what it is compared with.
    tables
        Tables for the terminal and the report; the first one is the overview.
    figures
        Every figure of a finished run with its caption, drawn one at a time.
    status
        What the run's figures support, in a few words each; only what they say by themselves.
    details
        Tables for the report alone.
    modes
        ``modes(results, run, draw)``: the page to browse the modes of a run, with its inputs drawn
        as asked for or, for None, as what they are. InputError for a run that has no such page.
        None for a study without one.
    over_seeds
        Figures of several runs, given by seed, that differ in their seed alone.
    """

    summary: Callable[[R], tuple[str, str]]
    tables: Callable[[R], list[Table]]
    figures: Callable[[R, Run], Figures]
    status: Callable[[R], list[Status]] = _no_status
    details: Callable[[R, Run], list[Table]] = _no_tables
    modes: Callable[[R, Run, Draw | None], ModeBrowser] | None = None
    over_seeds: Callable[[Mapping[int, R]], Figures] = _no_figures


@dataclass(frozen=True)
class CommandGroup:
    """A command that has the commands of several studies below it."""

    name: str
    help: str


@dataclass(frozen=True)
class Command:
    """How a study is called. Its options are the settings of the study's configuration.

    Attributes
    ----------
    name
        Name of the command; with ``flag``, of the command that the flag belongs to.
    help
        What the command does and writes: one line, and more paragraphs if needed.
    short_help
        One line for the list of commands.
    group
        The command that this one is below.
    flag
        The option, such as ``"--paper"``, that makes another study's command run this study.
    settings
        Names of the settings that are options; None for all.
    examples
        Commands as a user would type them.
    """

    name: str
    help: str
    short_help: str
    group: CommandGroup | None = None
    flag: str = ""
    settings: Sequence[str] | None = None
    examples: Sequence[str] = ()


@dataclass(frozen=True)
class Study(Generic[C, R]):
    """An experiment.

    Attributes
    ----------
    name
        Name of the study in run folders.
    title
        Title for reports.
    config, results
        Frozen dataclasses of plain values, which a run folder keeps as JSON.
    compute
        ``compute(config, run, progress=…, **given)`` returns the results and arrays, and keeps in
        the run folder what it needs to continue after an interruption. ``given`` is what a
        configuration cannot hold, such as a model. On ranks other than the first it returns None.
    show
        How the results are shown.
    estimate
        ``estimate(config, **given)`` says what ``compute`` would take on this device; None if the
        study cannot say.
    headline
        The numbers by which runs are compared; None if the study does not have any.
    unit
        The unit of a headline number by its name, such as ``"%"``; empty for counts and shares.
    command
        How the command line offers the study; None if the command line has code of its own for it,
        or does not offer it.
    network, problem
        For a finished run: ``network`` returns the trained network, for export and verification,
        and ``problem`` what kernel regression of it is about. Both are None unless a run trains
        exactly one network.
    intervention
        For the same runs: what an intervention on the network is about; None if the study does not
        say.
    takes_targets
        Whether ``problem`` and ``intervention`` take targets from the user, and ``intervention``
        features and the weights before training.
    takes_model
        Whether ``network``, ``problem`` and ``intervention`` take ``model``, the code that makes
        the network, as the user names it: MODULE:FACTORY. A run never names it by itself.
    scratch
        Folders inside a run that ``compute`` needs to continue, and that a finished run does not
        need any more.
    """

    name: str
    title: str
    config: type[C]
    results: type[R]
    compute: Callable[..., tuple[R, Arrays] | None]
    show: Show[R]
    estimate: Callable[..., list[Stage]] | None = None
    headline: Callable[[R], Headline] | None = None
    unit: Callable[[str], str] = _no_units
    command: Command | None = None
    network: Callable[..., Network] | None = None
    problem: Callable[..., RegressionProblem] | None = None
    intervention: Callable[..., InterventionProblem] | None = None
    takes_targets: bool = False
    takes_model: bool = False
    scratch: Sequence[str] = ()

    def config_of(self, run: Run) -> C:
        """The configuration that a run folder was made for."""
        return from_json(self.config, run.config, f"the configuration of {run.path}")

    def results_of(self, run: Run) -> R:
        """The results of a finished run."""
        return from_json(self.results, run.results, f"{run.path / 'results.json'}")

    def complete(
        self,
        config: C,
        run: Run,
        progress: Progress = silent,
        group: Group | None = None,
        **given: Any,
    ) -> None:
        """Compute what a run folder does not have yet, and store it there.

        Parameters
        ----------
        run
            A folder made for this configuration.
        group
            Ranks that share the work; only the first one writes.
        given
            What the study needs in addition to its configuration.
        """
        if first_says(is_first(group) and run.finished, group):
            return
        if group is not None:
            given["group"] = group
        computed = self.compute(config, run, progress=progress, **given)
        if computed is not None:
            self.save(config, run, *computed)
            for folder in self.scratch:
                shutil.rmtree(run.file(folder), ignore_errors=True)

    def save(self, config: C, run: Run, results: R, arrays: Arrays) -> None:
        """Store results in a run folder, which is finished after that."""
        named: Json = {"study": self.name, "config": to_json(config)}
        run.save_results(named | to_json(results), arrays)


@contextmanager
def showing(run: Run) -> Iterator[None]:
    """Turn what fails while a run is shown into one line that names the run.

    The results of a run are checked field by field when they are read, but they may contradict
    each other or the arrays, if somebody altered them.

    Raises
    ------
    InputError
        For any other error.
    """
    try:
        yield
    except (MlxEntkError, MemoryError, OSError):
        raise
    except Exception as error:
        raise InputError(
            f"the results of {run.path} cannot be shown ({type(error).__name__}: "
            f"{first_line(error)}): they were altered, or this is a bug of mlx-entk"
        ) from error


STUDIES: dict[str, Study[Any, Any]] = {}
"""Every study by name; ``mlx_entk.studies`` fills it."""


def study_of(run: Run) -> Study[Any, Any]:
    """The study that made a run folder.

    Raises
    ------
    InputError
        For a study that is not installed.
    """
    if run.study not in STUDIES:
        raise InputError(
            f"{run.path} is a run of {run.study}, a study that is not installed; installed are "
            f"{', '.join(sorted(STUDIES))}"
        )
    return STUDIES[run.study]


def network_of(run: Run, model: str | None = None) -> Network:
    """The network that a run trained.

    Parameters
    ----------
    model
        Code that makes the network, as the user names it; for a study that takes it.

    Raises
    ------
    InputError
        For an unfinished run, one that did not train exactly one network, and code that the study
        does not take.
    """
    study = _study_of_one_network(run)
    assert study.network is not None
    return study.network(run, study.config_of(run), **_named(study, model))


def problem_of(
    run: Run, targets: ArrayLike | None = None, model: str | None = None
) -> RegressionProblem:
    """The problem of kernel regression for a finished run of a study that trains one network.

    Parameters
    ----------
    targets
        For a study without targets of its own.
    model
        As for ``network_of``.

    Raises
    ------
    InputError
        As for ``network_of``, and for targets that are missing or that the study does not take.
    """
    study = _study_of_one_network(run)
    assert study.problem is not None
    if targets is not None and not study.takes_targets:
        raise InputError(f"--targets: a {run.study} run has targets of its own")
    return study.problem(run, study.config_of(run), targets, **_named(study, model))


def intervention_problem_of(
    run: Run, model: str | None = None, **given: Any
) -> InterventionProblem:
    """What an intervention on the network of a finished run is about.

    Parameters
    ----------
    model
        As for ``network_of``.
    given
        What the user gives to a study that takes it, by option: ``targets``, ``features`` and
        ``initial``.

    Raises
    ------
    InputError
        As for ``network_of``, for something that the study does not take, and for a study that
        does not say what interventions on it are about.
    """
    study = _study_of_one_network(run)
    if study.intervention is None:
        raise InputError(f"{run.path} is a {study.name} run, which knows no interventions")
    given = {name: value for name, value in given.items() if value is not None}
    if given and not study.takes_targets:
        raise InputError(f"--{next(iter(given))}: a {study.name} run has its own")
    return study.intervention(run, study.config_of(run), **given, **_named(study, model))


def _named(study: Study[Any, Any], model: str | None) -> dict[str, str]:
    if model is None:
        return {}
    if not study.takes_model:
        raise InputError(f"--model: a {study.name} run makes its model by itself")
    return {"model": model}


def _study_of_one_network(run: Run) -> Study[Any, Any]:
    """The study of a finished run that trained one network.

    Raises
    ------
    InputError
        For an unfinished run, and for a study that does not train exactly one network.
    """
    run.require_finished()
    study = study_of(run)
    if study.network is None or study.problem is None:
        raise InputError(
            f"{run.path} is a {run.study} run, which did not train exactly one network: name a "
            "finished run that did"
        )
    return study


def headline_of(run: Run) -> Headline:
    """The headline numbers of a finished run; none for a study without them."""
    study = study_of(run)
    results = study.results_of(run)
    if study.headline is None:
        return {}
    with showing(run):
        return study.headline(results)
