"""Reports as HTML: one file each, with its style, its script and its figures inside."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from mlx_entk._files import write_atomically
from mlx_entk.plotting.drawing import CaptionedFigure
from mlx_entk.report.svg import as_script, inline_svg
from mlx_entk.report.table import Table


@dataclass(frozen=True)
class PlacedFigure:
    """A figure as it stands in a page.

    Attributes
    ----------
    identifier
        Unique within the page.
    svg, hints
        The picture, and what the page's script says of its marks.
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
    """Draw a figure into a page.

    Parameters
    ----------
    figure
        One that is laid out (see ``mlx_entk.plotting.drawing.Drawing.settle``).
    identifier, caption
        If they differ from the figure's own; a screen reader then says both captions.
    """
    identifier = identifier or figure.name
    label = f"{caption}: {figure.caption}" if caption else figure.caption
    svg, hints = inline_svg(figure.drawing, identifier, label)
    # Both are made by us, with every text in them escaped.
    return PlacedFigure(
        identifier,
        Markup(svg),
        Markup(as_script(hints)),
        hints["labels"],
        caption or figure.caption,
    )


@dataclass(frozen=True)
class Report:
    """What the report of a run says.

    Attributes
    ----------
    title
        Of the page.
    summary
        What was found, in two sentences.
    overview
        The table at the top.
    command
        What to type to repeat the run.
    figures, tables
        In the order in which they are shown.
    """

    title: str
    summary: str
    overview: Table
    command: str
    figures: Sequence[PlacedFigure]
    tables: Sequence[Table]


@dataclass(frozen=True)
class ComparedFigure:
    """One figure of several runs: its name, the runs' versions of it, and what to see in it."""

    name: str
    versions: Sequence[PlacedFigure]
    caption: str


@dataclass(frozen=True)
class Comparison:
    """What a page about several runs says.

    Attributes
    ----------
    title
        Of the page.
    overview
        The runs' settings and headline numbers.
    summaries
        What each run found, with the run's name.
    figures
        Each figure of all the runs.
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
    environment = Environment(
        loader=PackageLoader("mlx_entk.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    here = files("mlx_entk.report")
    style, script = (
        Markup(here.joinpath(name).read_text(encoding="utf-8"))
        for name in ("report.css", "report.js")
    )
    template = environment.get_template(f"{type(page).__name__.lower()}.html")
    text = template.render(page=page, style=style, script=script)
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
