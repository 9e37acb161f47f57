"""The report of a run and the comparison of several, built from what their study shows."""

import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mlx_entk._files import write_text
from mlx_entk._provenance import Session
from mlx_entk.errors import InputError
from mlx_entk.plotting import CaptionedFigure
from mlx_entk.report import (
    ComparedFigure,
    Draw,
    ModeBrowser,
    Report,
    Status,
    Table,
    browser_page,
    place,
    unexplained_table,
    with_names,
    write_page,
)
from mlx_entk.report import Comparison as ComparisonPage
from mlx_entk.runs import Run
from mlx_entk.studies.base import Figures, Show, Study, showing, study_of
from mlx_entk.studies.compare import Comparison, comparison_table, run_names
from mlx_entk.studies.intervention.intervene import intervention_of
from mlx_entk.studies.intervention.records import Intervention
from mlx_entk.studies.intervention.show import (
    intervention_details,
    intervention_figures,
    intervention_summary,
    intervention_tables,
)
from mlx_entk.studies.regression.regress import regression_of
from mlx_entk.studies.regression.show import regression_figures, regression_tables
from mlx_entk.studies.results import Regression
from mlx_entk.studies.verification import (
    Verification,
    verification_of,
    verification_table,
)

# The page to browse the modes of a run, in its folder.
MODES = "modes.html"


def summary(run: Run) -> str:
    """Two sentences on what a finished run found."""
    study = study_of(run)
    with showing(run):
        return " ".join(study.show.summary(study.results_of(run)))


def tables(run: Run) -> list[Table]:
    """The tables of a finished run."""
    study = study_of(run)
    with showing(run):
        return study.show.tables(study.results_of(run))


def figures(run: Run) -> Figures:
    """Every figure of a finished run, drawn one at a time."""
    study = study_of(run)
    with showing(run):
        yield from _figures(
            study.show, study.results_of(run), regression_of(run), intervention_of(run), run
        )


def _figures(
    show: Show[Any],
    results: Any,
    regression: Regression | None,
    intervention: Intervention | None,
    run: Run,
) -> Figures:
    yield from show.figures(results, run)
    if regression is not None:
        yield from regression_figures(regression)
    if intervention is not None:
        yield from intervention_figures(intervention, run.intervention_arrays)


def write_report(run: Run) -> Path:
    """Write figures/ and report.html of a finished run; return the path of the report.

    Raises
    ------
    InputError
        If the run is unfinished or damaged, or its folder cannot be written.
    """
    with showing(run):
        page = _report(run)
    path = run.file("report.html")
    write_page(page, path)
    return path


def _report(run: Run) -> Report:
    """The contents of a run's report; its figures are written on the way."""
    study = study_of(run)
    # Read and checked once: the results of a long run are large.
    show, results, regression = study.show, study.results_of(run), regression_of(run)
    intervention = intervention_of(run)
    overview, *rest = show.tables(results)
    if regression is not None:
        rest += regression_tables(regression)
    if intervention is not None:
        first, *others = intervention_tables(intervention)
        said = f"{intervention_summary(intervention)} {first.note}"
        rest += [replace(first, note=said), *others]
    if (verification := verification_of(run)) is not None:
        rest.append(verification_table(verification))
    rest += show.details(results, run)
    if intervention is not None:
        rest += intervention_details(intervention)
    placed = []
    for figure in _figures(show, results, regression, intervention, run):
        figure.drawing.settle()
        run.save_figure(figure.name, figure.drawing)
        placed.append(place(figure))
    further = []
    if (modes := _modes_of(show, results, run)) is not None:
        page, text = modes
        write_text(run.file(MODES), text)
        further.append((MODES, "Browse the modes, with the inputs at their ends"))
        if page.kernels[0].families:
            rest.append(unexplained_table(page))
    sessions = run.sessions
    return Report(
        title=f"{study.title}: {run.path.resolve().name}",
        summary=" ".join(show.summary(results)),
        status=[*show.status(results), *_verified(study, run, verification)],
        overview=overview,
        command=sessions[0].command,
        pages=further,
        figures=placed,
        tables=[*rest, _provenance_table(sessions)],
    )


def _modes_of(show: Show[Any], results: Any, run: Run) -> tuple[ModeBrowser, str] | None:
    """A run's modes and the page to browse them; None for a run that cannot have one."""
    if show.modes is None:
        return None
    try:
        page = show.modes(results, run, None)
        return page, browser_page(page)
    except InputError:  # such as too many inputs for a page, or an older run: `browse` says which
        return None


def modes_of(run: Run, draw: Draw | None = None, names: Sequence[str] | None = None) -> ModeBrowser:
    """The modes of a finished run, to browse.

    Parameters
    ----------
    draw
        What the inputs are drawn as, as for ``mlx_entk.report.drawn``.
    names
        A name for each input, such as its label; None for those that the study gives.

    Raises
    ------
    InputError
        If the run is unfinished or damaged, has no single set of modes, or has inputs that cannot
        be drawn.
    """
    run.require_finished()
    study = study_of(run)
    if study.show.modes is None:
        raise InputError(
            f"{run.path} is a {run.study} run, which has no one set of inputs and modes to browse"
        )
    with showing(run):
        page = study.show.modes(study.results_of(run), run, draw)
    return page if names is None else with_names(page, names)


def write_modes(run: Run, page: ModeBrowser | None = None, path: Path | None = None) -> Path:
    """Write the page to browse the modes of a finished run; return its path.

    Parameters
    ----------
    page
        By default that of ``modes_of``.
    path
        Where to, by default modes.html in the run folder.

    Raises
    ------
    InputError
        As for ``modes_of``, or if the file cannot be written.
    """
    text = browser_page(modes_of(run) if page is None else page)
    path = path or run.file(MODES)
    write_text(path, text)
    return path


def _verified(study: Study[Any, Any], run: Run, found: Verification | None) -> list[Status]:
    """Whether other tools gave the same kernel; nothing for a run without one network."""
    if found is None:
        command = f"mlx-entk verify {shlex.quote(str(run.path))}"
        return [Status(f"not verified: {command}", "open")] if study.network else []
    checkers = list(dict.fromkeys(r.checker for r in found.comparisons if r.status == "passed"))
    if found.passed:
        return [Status(f"verified in {', '.join(checkers)}", "yes")]
    return [Status("verification failed", "no")]


def write_comparison(comparison: Comparison, runs: Sequence[Run], path: Path) -> None:
    """Write a page about several finished runs of one study.

    Parameters
    ----------
    comparison
        What ``mlx_entk.studies.compare.compare`` returned for them.
    path
        The HTML file to write.
    """
    names = run_names(comparison.runs)
    drawn = [_drawn(run) for run in runs]
    captions = {name: figure.caption for of_run in drawn for name, figure in of_run.items()}
    page = ComparisonPage(
        title=f"{study_of(runs[0]).title}: {len(runs)} runs compared",
        overview=comparison_table(comparison),
        summaries=[(name, summary(run)) for name, run in zip(names, runs, strict=True)],
        figures=[
            ComparedFigure(
                figure_name.replace("-", " "),
                [
                    place(of_run[figure_name], f"{figure_name}-{number}", run_name)
                    for number, (run_name, of_run) in enumerate(zip(names, drawn, strict=True))
                    if figure_name in of_run
                ],
                caption,
            )
            for figure_name, caption in captions.items()
        ],
    )
    write_page(page, path)


def _drawn(run: Run) -> dict[str, CaptionedFigure]:
    with showing(run):
        drawn = {figure.name: figure for figure in figures(run)}
        for figure in drawn.values():
            figure.drawing.settle()
        return drawn


def _provenance_table(sessions: Sequence[Session]) -> Table:
    first = sessions[0]
    versions = ", ".join(f"{name} {version}" for name, version in first.versions.items())
    keys = ("started", "git_revision", "device", "blas", "platform", "python")
    later = [
        ("then" if number else "then, in the same folder", f"{s.started}: {s.command}")
        for number, s in enumerate(sessions[1:])
    ]
    return Table(
        "Provenance",
        ("", ""),
        [
            ("command", first.command),
            *((key.replace("_", " "), str(getattr(first, key))) for key in keys),
            ("versions", versions),
            *later,
        ],
    )
