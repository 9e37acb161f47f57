"""Reports as HTML: one file each, with its style, its script and its figures inside."""

from collections.abc import Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template

from mlx_entk._files import Json, write_atomically
from mlx_entk.plotting.drawing import Drawing
from mlx_entk.report.figures import CAPTIONS, figures
from mlx_entk.report.headlines import TITLES, headline
from mlx_entk.report.svg import as_script, inline_svg
from mlx_entk.report.tables import (
    Table,
    comparison_table,
    regression_tables,
    run_names,
    tables,
    verification_table,
    window_tables,
)
from mlx_entk.runs import Run
from mlx_entk.studies import lm

# Modes of each layer of a language model whose windows the report shows, and windows at each end.
_WINDOW_MODES, _WINDOWS = 5, 3


def write_report(run: Run) -> Path:
    """Write figures/NAME.png, NAME.svg and report.html of a finished run; returns where.

    Raises
    ------
    InputError
        Where the run is unfinished or damaged, or its folder cannot be written.
    """
    results = run.results
    overview, *rest = _shown_tables(run, results)
    drawn = {}
    for name, figure in figures(run):
        figure.settle()
        run.save_figure(name, figure)
        drawn[name] = _figure_html(name, figure, CAPTIONS[name], CAPTIONS[name])
    sessions = run.sessions
    parts = [
        f'<p class="headline">{escape(headline(results))}</p>',
        _table_html(overview),
        "<h2>To repeat it</h2>",
        f"<pre><code>{escape(sessions[0]['command'])}</code></pre>",
        '<p class="note">The same settings give the same numbers on the same device.</p>',
        '<h2 id="figures">Figures</h2>',
        '<p class="note screen">Point at a mark to see what it stands for; or reach a figure with '
        "the Tab key, go through its marks with ← → ↑ ↓ and through its panels with Page Up and "
        "Page Down.</p>",
        *(drawn[name] for name in CAPTIONS if name in drawn),
        '<h2 id="tables">Tables</h2>',
        *(_table_html(table, level=3) for table in rest),
        _table_html(_provenance_table(sessions)),
    ]
    path = run.path / "report.html"
    _write_page(path, f"{TITLES[run.study]}: {run.path.resolve().name}", parts)
    return path


def write_comparison(comparison: Json, runs: Sequence[Run], path: Path) -> None:
    """Write several finished runs of one study beside each other.

    Parameters
    ----------
    comparison
        What :func:`mlx_entk.studies.compare.compare` says of them.
    path
        The HTML file.
    """
    names = run_names(comparison["runs"])
    parts = [_table_html(comparison_table(comparison))]
    for name, run in zip(names, runs, strict=True):
        parts.append(f"<p><strong>{escape(name)}</strong>: {escape(headline(run.results))}</p>")
    drawn = [dict(figures(run)) for run in runs]
    for figure in (figure for of_run in drawn for figure in of_run.values()):
        figure.settle()
    there = {name for of_run in drawn for name in of_run}
    parts.append('<h2 id="figures">Figures</h2>')
    for name in (name for name in CAPTIONS if name in there):
        parts.append(f'<h3>{escape(name.replace("-", " "))}</h3><div class="beside">')
        parts += [
            _figure_html(
                f"{name}-{number}", of_run[name], run_name, f"{run_name}: {CAPTIONS[name]}"
            )
            for number, (run_name, of_run) in enumerate(zip(names, drawn, strict=True))
            if name in of_run
        ]
        parts.append(f'</div><p class="note">{escape(CAPTIONS[name])}</p>')
    _write_page(path, f"{TITLES[runs[0].study]}: {len(runs)} runs compared", parts, "wide-page")


def _shown_tables(run: Run, results: Json) -> list[Table]:
    shown = tables(results)
    if (regression := run.regression) is not None:
        shown += regression_tables(regression)
    if (verification := run.verification) is not None:
        shown.append(verification_table(verification))
    if run.study == lm.STUDY:
        for row in results["layers"]:
            modes = range(min(_WINDOW_MODES, len(row["values"])))
            shown += window_tables(run, row["layer"], modes, _WINDOWS)
    return shown


def _figure_html(identifier: str, figure: Drawing, caption: str, label: str) -> str:
    """A figure with its hints; ``label`` is what a screen reader says of it."""
    svg, hints = inline_svg(figure, identifier, label)
    slider = ""
    if hints["labels"]:
        last = len(hints["labels"]) - 1
        moment = escape(hints["labels"][last])
        slider = (
            f'<div class="slider"><input type="range" min="0" max="{last}" value="{last}" '
            f'aria-label="Moment of training" aria-valuetext="{moment}">'
            f"<output>{moment}</output></div>"
        )
    return (
        f'<figure id="{identifier}"><div class="wide">{svg}</div>{slider}'
        f"<figcaption>{escape(caption)}</figcaption>"
        f'<script type="application/json">{as_script(hints)}</script></figure>'
    )


def _provenance_table(sessions: Sequence[Json]) -> Table:
    first = sessions[0]
    versions = ", ".join(f"{name} {version}" for name, version in first["versions"].items())
    keys = ("started", "git_revision", "device", "blas", "platform", "python")
    later = [
        ("then" if number else "then, in the same folder", f"{s['started']}: {s['command']}")
        for number, s in enumerate(sessions[1:])
    ]
    return Table(
        "Provenance",
        ("", ""),
        [
            ("command", first["command"]),
            *((key.replace("_", " "), str(first[key])) for key in keys),
            ("versions", versions),
            *later,
        ],
    )


def _table_html(table: Table, level: int = 2) -> str:
    classes = [' class="number"' if table.is_numeric(i) else "" for i in range(len(table.columns))]
    head = _row_html("th", table.columns, classes) if any(table.columns) else ""
    body = "\n".join(_row_html("td", row, classes) for row in table.rows)
    note = f'<p class="note">{escape(table.note)}</p>' if table.note else ""
    return (
        f"<h{level}>{escape(table.title)}</h{level}>"
        f'<div class="wide" tabindex="0"><table>{head}\n{body}</table></div>{note}'
    )


def _row_html(tag: str, cells: Sequence[str], classes: Sequence[str]) -> str:
    return "<tr>{}</tr>".format(
        "".join(
            f"<{tag}{css}>{escape(cell)}</{tag}>" for cell, css in zip(cells, classes, strict=True)
        )
    )


def _write_page(path: Path, title: str, parts: Sequence[str], css_class: str = "") -> None:
    here = files("mlx_entk.report")
    style, script, page = (
        here.joinpath(name).read_text(encoding="utf-8")
        for name in ("report.css", "report.js", "page.html")
    )
    text = Template(page).substitute(
        title=escape(title), style=style, script=script, css_class=css_class, body="\n".join(parts)
    )
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
