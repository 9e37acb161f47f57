"""Reports as HTML; each is one file with its style, script and figures inside."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from mlx_entk._files import write_text
from mlx_entk._text import visible
from mlx_entk.plotting.drawing import CaptionedFigure
from mlx_entk.report.svg import as_script, inline_svg
from mlx_entk.report.table import Table


@dataclass(frozen=True)
class PlacedFigure:
    """A figure that has its place in a page.

    Attributes
    ----------
    identifier
        Unique within the page.
    svg, hints
        The picture, and what the page's script shows for its marks.
    moments
        Names of the frames that a slider moves through; empty for a figure without one.
    caption
        The text below it.
    """

    identifier: str
    svg: Markup
    hints: Markup
    moments: Sequence[str]
    caption: str


def place(figure: CaptionedFigure, identifier: str = "", caption: str = "") -> PlacedFigure:
    """Prepare a figure for its place in a page.

    Parameters
    ----------
    figure
        A figure that is laid out (see ``mlx_entk.plotting.drawing.Drawing.settle``).
    identifier, caption
        Given if they differ from the figure's own name and caption; a screen reader then reads
        both captions.
    """
    identifier = identifier or figure.name
    label = f"{caption}: {figure.caption}" if caption else figure.caption
    svg, hints = inline_svg(figure.drawing, identifier, label)
    # inline_svg made both, and escaped every text in them.
    return PlacedFigure(
        identifier,
        Markup(svg),
        Markup(as_script(hints)),
        hints["labels"],
        caption or figure.caption,
    )


@dataclass(frozen=True)
class Report:
    """The contents of a run's report.

    Attributes
    ----------
    title
        Title of the page.
    summary
        What the run found, in two sentences.
    overview
        The table at the top.
    command
        The command that repeats the run.
    pages
        Pages beside this one: the name of the file, and the text of the link.
    figures, tables
        Figures and tables, in the order in which they are shown.
    """

    title: str
    summary: str
    overview: Table
    command: str
    pages: Sequence[tuple[str, str]]
    figures: Sequence[PlacedFigure]
    tables: Sequence[Table]


@dataclass(frozen=True)
class ComparedFigure:
    """One figure of several runs: its name, each run's version of it, and its caption."""

    name: str
    versions: Sequence[PlacedFigure]
    caption: str


@dataclass(frozen=True)
class Comparison:
    """The contents of a page that compares several runs.

    Attributes
    ----------
    title
        Title of the page.
    overview
        The runs' settings and headline numbers.
    summaries
        The name of each run, and what it found.
    figures
        Each figure, in the versions of all runs.
    """

    title: str
    overview: Table
    summaries: Sequence[tuple[str, str]]
    figures: Sequence[ComparedFigure]


def write_page(page: Report | Comparison, path: Path) -> None:
    """Write a page as one HTML file that needs no network.

    Raises
    ------
    InputError
        If the file cannot be written.
    """
    template = f"{type(page).__name__.lower()}.html"
    write_text(path, render(template, ["report.css"], "report.js", page=page))


def render(template: str, styles: Sequence[str], script: str | None, **contents: object) -> str:
    """Fill a template, with styles and a script of this package inside the page.

    Parameters
    ----------
    template
        Name of a template that extends ``page.html``.
    styles, script
        Names of files of this package; None for no script.
    contents
        What the template shows: every text is escaped and made visible, unless it is ``Markup``.
    """
    environment = Environment(
        loader=PackageLoader("mlx_entk.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
        finalize=lambda value: visible(value) if type(value) is str else value,
    )
    here = files("mlx_entk.report")
    style, code = (
        Markup("".join(here.joinpath(name).read_text(encoding="utf-8") for name in names))
        for names in (styles, [script] if script else [])
    )
    return environment.get_template(template).render(style=style, script=code, **contents)
