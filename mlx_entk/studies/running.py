"""Run a study in a run folder, as the command line, notebooks and tests do."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from mlx_entk._records import to_json
from mlx_entk.distributed import Group, is_first
from mlx_entk.errors import InputError
from mlx_entk.plotting import Drawing
from mlx_entk.progress import Progress, Wanted, shown, silent
from mlx_entk.report import Table, fragment
from mlx_entk.runs import Run
from mlx_entk.studies.base import STUDIES, C, Network, R, Study, network_of, study_of
from mlx_entk.studies.reporting import figures, summary, tables, write_report


def run_study(
    study: Study[C, R],
    config: C,
    out: Path,
    *,
    progress: Progress = silent,
    group: Group | None = None,
    **given: Any,
) -> Run:
    """Run a study in a folder, or continue it there, and write its report.

    Parameters
    ----------
    config
        An instance of the study's configuration.
    out
        The run folder.
    progress
        Called with the progress of every step.
    group
        Ranks that share the work. Each of them makes this call, but only the first one writes.
    given
        What the study needs in addition to its configuration, such as a model.

    Returns
    -------
    Run
        The finished run; ``study.results_of(run)`` are its results.

    Raises
    ------
    InputError
        If the folder holds something else, or another configuration.
    """
    if not is_first(group):
        run = Run(out, study.name, to_json(config))
        study.complete(config, run, silent, group, **given)
        return run
    run = Run.create(out, study.name, to_json(config))
    with run.session():
        study.complete(config, run, progress, group, **given)
        write_report(run)
    return run


def run(
    config: C,
    out: str | Path | None = None,
    *,
    study: Study[C, Any] | None = None,
    progress: Wanted = None,
) -> "Finished":
    """Run the study that a configuration belongs to.

    Parameters
    ----------
    config
        Such as ``mlx_entk.studies.modular_mlp.MLPConfig(p=29)``.
    out
        The run folder; None for a new temporary one.
    study
        Needed if several studies have this kind of configuration.
    progress
        As for ``mlx_entk.analyze``.

    Raises
    ------
    InputError
        For what is no configuration of a study, and as for ``run_study``.
    """
    fitting = (
        [s for s in STUDIES.values() if s.config is type(config)] if study is None else [study]
    )
    if len(fitting) != 1:
        names = ", ".join(s.name for s in fitting) or "no study"
        raise InputError(f"{type(config).__name__} is the configuration of {names}: pass study=…")
    folder = Path(mkdtemp(prefix="mlx-entk-")) / "run" if out is None else Path(out)
    with shown(progress) as update:
        return Finished(run_study(fitting[0], config, folder, progress=update))


@dataclass(frozen=True, repr=False)
class Finished:
    """A finished run, with what it found at hand.

    Attributes
    ----------
    run
        Its folder.
    """

    run: Run

    @cached_property
    def results(self) -> Any:
        """The study's record of results."""
        return study_of(self.run).results_of(self.run)

    @property
    def found(self) -> str:
        """What it found, in a few sentences."""
        return summary(self.run)

    @property
    def tables(self) -> list[Table]:
        """What it found, as tables; the first one is the overview."""
        return tables(self.run)

    @cached_property
    def figures(self) -> dict[str, Drawing]:
        """Every figure by name, as matplotlib figures."""
        return {figure.name: figure.drawing for figure in figures(self.run)}

    @cached_property
    def network(self) -> Network:
        """The trained network, some inputs, and the reduction that the study looks at.

        Raises
        ------
        InputError
            For a study that did not train exactly one network.
        """
        return network_of(self.run)

    def __repr__(self) -> str:
        return f"{study_of(self.run).title}: {self.found}"

    def _repr_html_(self) -> str:
        return fragment(repr(self), self.tables[:1])
