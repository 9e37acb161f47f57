"""A study is a value: what it computes, what it found, how it is shown, how it is called.

The command line, sweeps, reports, export, verification and regression know studies by
``STUDIES`` alone, and ask the study for what they need.
"""

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import mlx.core as mx

from mlx_entk._files import Arrays, Json
from mlx_entk._linalg import ArrayLike
from mlx_entk._records import from_json, to_json
from mlx_entk.distributed import Group, first_says, is_first
from mlx_entk.errors import InputError
from mlx_entk.kernel import Reduction
from mlx_entk.plotting.drawing import CaptionedFigure
from mlx_entk.progress import Progress, silent
from mlx_entk.report import Table
from mlx_entk.runs import Run
from mlx_entk.studies.estimate import Stage
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
        With the weights of the last checkpoint.
    x
        Inputs, if possible some that it was not trained on; shape (N, …).
    reduction
        Of the kernel that the study looks at.
    """

    function: ParametricFunction
    x: mx.array
    reduction: Reduction


def _no_tables(results: Any, run: Run) -> list[Table]:
    return []


def _no_figures(runs: Any) -> Figures:
    return iter(())


@dataclass(frozen=True)
class Show(Generic[R]):
    """How the results of a study are shown.

    Attributes
    ----------
    summary
        Two sentences: what was found, compared with what.
    tables
        For terminal and report; the first one is the overview.
    figures
        Every figure of a finished run with its caption, drawn one at a time.
    details
        Tables that only the report has.
    over_seeds
        Figures of several runs that differ in their seed alone, by seed.
    """

    summary: Callable[[R], tuple[str, str]]
    tables: Callable[[R], list[Table]]
    figures: Callable[[R, Run], Figures]
    details: Callable[[R, Run], list[Table]] = _no_tables
    over_seeds: Callable[[Mapping[int, R]], Figures] = _no_figures


@dataclass(frozen=True)
class CommandGroup:
    """A command that has those of several studies below it."""

    name: str
    help: str


@dataclass(frozen=True)
class Command:
    """How a study is called; its options are the settings of its configuration.

    Attributes
    ----------
    name
        Of the command, or with ``flag`` of the command that it is an option of.
    help
        What the command does: a line, and perhaps paragraphs.
    short_help
        For the list of commands.
    group
        The command that this one stands below.
    flag
        The option, such as ``"--paper"``, that makes another study's command run this one.
    settings
        The settings that are options; None for all.
    examples
        Commands as they are typed.
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
        Of the study in run folders.
    title
        For people.
    config, results
        Frozen dataclasses of plain values, which are kept as JSON in a run folder.
    compute
        ``compute(config, run, progress=…, **given)`` gives the results and arrays, and keeps in
        the run folder what it needs to go on after an interruption. ``given`` is what a
        configuration cannot hold, such as a model. On ranks other than the first it gives None.
    show
        How the results are shown.
    estimate
        ``estimate(config, **given)``: what ``compute`` would take on this device; None for a
        study without ``--dry-run``.
    headline
        The numbers by which runs are compared; None if the study has none.
    command
        How the command line offers it; None if it has a command of its own.
    network, problem
        Of a finished run, the trained network, for export and verification, and what kernel
        regression of it is about; both are None if a run trains none, or several.
    takes_targets
        Whether ``problem`` needs targets from the user.
    scratch
        Folders inside a run that ``compute`` goes on from, and that a finished run needs no more.
    """

    name: str
    title: str
    config: type[C]
    results: type[R]
    compute: Callable[..., tuple[R, Arrays] | None]
    show: Show[R]
    estimate: Callable[..., list[Stage]] | None = None
    headline: Callable[[R], Headline] | None = None
    command: Command | None = None
    network: Callable[[Run, C], Network] | None = None
    problem: Callable[[Run, C, ArrayLike | None], RegressionProblem] | None = None
    takes_targets: bool = False
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
            Ranks that share the work; the first one alone writes.
        given
            What the study needs beyond its configuration.
        """
        if first_says(is_first(group) and run.finished, group):
            return
        if group is not None:
            given["group"] = group
        computed = self.compute(config, run, progress=progress, **given)
        if computed is not None:
            self.save(config, run, *computed)
            for folder in self.scratch:
                shutil.rmtree(run.path / folder, ignore_errors=True)

    def save(self, config: C, run: Run, results: R, arrays: Arrays) -> None:
        """Store results in a run folder, which is finished with that."""
        named: Json = {"study": self.name, "config": to_json(config)}
        run.save_results(named | to_json(results), arrays)


# Every study by name; mlx_entk.studies fills it.
STUDIES: dict[str, Study[Any, Any]] = {}


def study_of(run: Run) -> Study[Any, Any]:
    """The study that a run folder is of.

    Raises
    ------
    InputError
        For a study that is not installed.
    """
    if run.study not in STUDIES:
        raise InputError(
            f"{run.path} is a run of {run.study}, a study that is not installed here: there are "
            f"{', '.join(sorted(STUDIES))}"
        )
    return STUDIES[run.study]


def study_of_one_network(run: Run) -> Study[Any, Any]:
    """The study of a finished run that trained one network.

    Raises
    ------
    InputError
        For an unfinished run, and one of a study that trains no network, or several.
    """
    run.require_finished()
    study = study_of(run)
    if study.network is None or study.problem is None:
        raise InputError(
            f"{run.path} is a {run.study} run: name the run of one network, such as a folder "
            "inside it"
        )
    return study
