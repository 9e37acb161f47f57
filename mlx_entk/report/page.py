"""Reports as HTML; each is one file with its style, script and figures inside."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Literal

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
    svg, width, hints
        The picture, the pixels that it is wide at least, and what the page's script shows for its
        marks.
    moments
        Names of the frames that a slider moves through; empty for a figure without one.
    caption
        The text below it.
    has_spectra
        Whether the page's script can draw the spectrum of each kernel by itself.
    """

    identifier: str
    svg: Markup
    width: int
    hints: Markup
    moments: Sequence[str]
    caption: str
    has_spectra: bool

    @property
    def title(self) -> str:
        """Its identifier as a title."""
        return _title(self.identifier)


def _title(identifier: str) -> str:
    """The name of a figure as a title: ``Spectra over training``."""
    words = identifier.replace("-", " ")
    return words[:1].upper() + words[1:]


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
    svg, width, hints = inline_svg(figure.drawing, identifier, label)
    # inline_svg made both, and escaped every text in them.
    return PlacedFigure(
        identifier,
        Markup(svg),
        width,
        Markup(as_script(hints)),
        hints["labels"],
        caption or figure.caption,
        bool(figure.drawing.hints.spectra),
    )


@dataclass(frozen=True)
class Status:
    """One thing that a run's figures support, or do not, in a few words.

    Attributes
    ----------
    text
        What it is.
    tone
        Whether that is so (``yes``), is not (``no``), or is not known (``open``).
    about
        Which figures say so.
    """

    text: str
    tone: Literal["yes", "no", "open"]
    about: str = ""


@dataclass(frozen=True)
class Section:
    """A numbered part of a page, with figures and tables that have labels (``Figure 2``).

    Attributes
    ----------
    number, title, identifier
        Its number and title, and what links to it use.
    figures, tables
        With their labels.
    """

    number: int
    title: str
    identifier: str
    figures: Sequence[tuple[str, "PlacedFigure | ComparedFigure"]] = ()
    tables: Sequence[tuple[str, Table]] = ()

    @property
    def entries(self) -> list[tuple[str, str, str]]:
        """Number, title and identifier of every figure and table; none if there is only one."""
        listed = [
            *((figure.identifier, figure.title) for _, figure in self.figures),
            *((label.lower().replace(" ", "-"), table.title) for label, table in self.tables),
        ]
        return [
            (f"{self.number}.{number}", title, identifier)
            for number, (identifier, title) in enumerate(listed, 1)
            if len(listed) > 1
        ]


@dataclass(frozen=True)
class Report:
    """The contents of a run's report.

    Attributes
    ----------
    title
        Title of the page.
    summary, status
        What the run found, in two sentences, and in a few words each.
    overview
        The table of the run's settings and results.
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
    status: Sequence[Status] = ()

    @property
    def sections(self) -> list[Section]:
        """The numbered parts of the page: the first spectrum is on top."""
        first = next((figure for figure in self.figures if figure.has_spectra), None)
        ordered = [*([first] if first else []), *(f for f in self.figures if f is not first)]
        figures = [(f"Figure {number}", figure) for number, figure in enumerate(ordered, 1)]
        tables = [
            (f"Table {number}", t) for number, t in enumerate([self.overview, *self.tables], 1)
        ]
        sections = [
            Section(1, "Spectrum", "spectrum", figures[: 1 if first else 0]),
            Section(2, "Run", "run", tables=tables[:1]),
            Section(3, "Figures", "figures", figures[1 if first else 0 :]),
            Section(4, "Tables", "tables", tables=tables[1:]),
        ]
        kept = [section for section in sections if section.figures or section.tables]
        return [replace(section, number=number) for number, section in enumerate(kept, 1)]


@dataclass(frozen=True)
class ComparedFigure:
    """One figure of several runs: its name, each run's version of it, and its caption."""

    name: str
    versions: Sequence[PlacedFigure]
    caption: str

    @property
    def title(self) -> str:
        """Its name as a title."""
        return _title(self.name)

    @property
    def identifier(self) -> str:
        """What links to it use: its versions have names that begin with that of the figure."""
        return f"all-{self.name}"


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

    @property
    def sections(self) -> list[Section]:
        """The numbered parts of the page."""
        figures = [(f"Figure {number}", figure) for number, figure in enumerate(self.figures, 1)]
        return [
            Section(1, "Runs", "runs", tables=[("Table 1", self.overview)]),
            Section(2, "Figures", "figures", figures),
        ]


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
