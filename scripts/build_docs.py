"""Build the documentation into ``site/``: ``python scripts/build_docs.py [FOLDER]``.

Every notebook becomes a page with the outputs that are stored in it (no cell runs), MkDocs builds
all pages, and what came out is checked. A warning of MkDocs is an error, and so are
markup that a page shows as text and a public name that no page of the API describes.
"""

import html
import importlib
import os
import pkgutil
import re
import subprocess
import sys
import zlib
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import latex2mathml.converter
import nbformat
from nbconvert import MarkdownExporter
from traitlets.config import Config

import mlx_entk

ROOT = Path(__file__).resolve().parent.parent
PAGES = ROOT / "docs" / "notebooks"

# $…$ and $$…$$, as in the Markdown of notebooks, where a code span may hold a dollar.
_MATH = re.compile(r"(?P<code>`[^`]*`)|(?P<sign>\$\$?)(?P<tex>[^$`]+)(?P=sign)")
_MATH_IN_PAGE = re.compile(r"<code>(?P<sign>\$\$?)(?P<tex>[^<$]+)(?P=sign)</code>")
_LINK = re.compile(r"\[(?P<text>[^]]*)\]\((?P<to>[^)#:]+)(?P<place>#[^)]*)?\)")
# In text that a reader sees, outside code: roles, code spans, links, emphasis, attributes,
# directives, rows of tables, mathematics.
_RAW = re.compile(
    r":[a-z]+:`|`|\]\[|\]\(|\*\*|\{[#:.]|^\s*\.\. |^\s*\|.*\|\s*$|^:::|\$[^$]*\$|&[a-z]+;|[_^]\{"
)


def write_notebooks() -> None:
    """Write each notebook as a Markdown page, with its images beside it."""
    for old in PAGES.glob("*"):
        old.unlink()
    PAGES.mkdir(exist_ok=True)
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        for cell in notebook.cells:
            if cell.cell_type == "markdown":
                cell.source = _MATH.sub(_as_code, _LINK.sub(_link, cell.source))
        names = {"unique_key": path.stem, "output_files_dir": "."}
        text, resources = _EXPORTER.from_notebook_node(notebook, names)
        (PAGES / f"{path.stem}.md").write_text(text, encoding="utf-8")
        for name, data in resources["outputs"].items():
            (PAGES / name).write_bytes(data)


# Outputs are marked, so that they do not look like code; what a terminal shows is text.
_TEMPLATE = """
{%- extends 'markdown/index.md.j2' -%}
{%- block input -%}
```python
{{ cell.source }}
```
{% endblock input %}
{%- block stream -%}
``` { .text .output .no-copy }
{{ output.text | strip_ansi | trim }}
```
{% endblock stream %}
{%- block data_text scoped -%}
``` { .text .output .no-copy }
{{ output.data['text/plain'] | strip_ansi | trim }}
```
{% endblock data_text %}
{%- block data_html scoped -%}
<div class="output">
{{ output.data['text/html'] | replace('\\n\\n', '\\n') }}
</div>
{% endblock data_html %}
"""
_EXPORTER = MarkdownExporter(
    raw_template=_TEMPLATE,
    config=Config({"NbConvertBase": {"display_data_priority": [
        "text/html", "image/svg+xml", "image/png", "text/markdown", "text/plain",
    ]}}),
)  # fmt: skip


def _as_code(match: re.Match[str]) -> str:
    """Mathematics as a code span, in which Markdown finds no emphasis and no blocks."""
    return match["code"] or f"`{match[0]}`"


def write_mathematics(site: Path) -> None:
    """Turn the mathematics of notebooks into MathML, which browsers draw without a script."""
    for page in (site / PAGES.name).glob("*.html"):
        text = page.read_text(encoding="utf-8")
        page.write_text(_MATH_IN_PAGE.sub(_mathml, text), encoding="utf-8")


def _mathml(match: re.Match[str]) -> str:
    display = "block" if match["sign"] == "$$" else "inline"
    return latex2mathml.converter.convert(html.unescape(match["tex"]), display=display)


def _link(match: re.Match[str]) -> str:
    """A link from a notebook, as one from its page; a file that is no page is only named."""
    to = (PAGES.parent.parent / "notebooks" / match["to"]).resolve().relative_to(ROOT)
    if to.parts[0] == "docs":
        page = Path("..", *to.parts[1:])
    elif to.suffix == ".ipynb":
        page = Path(to.name).with_suffix(".md")
    else:
        return f"{match['text']}"
    return f"[{match['text']}]({page.as_posix()}{match['place'] or ''})"


def build(site: Path) -> bool:
    """Build all pages into a folder, and say whether there was nothing to warn of."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)]
    # The theme advertises its successor at each build; CONTRIBUTING.md says what we think of it.
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(command, cwd=ROOT, env=environment).returncode == 0


class _Text(HTMLParser):
    """The lines of a page's article as a reader sees them, without code and drawings."""

    _HIDDEN = frozenset({"code", "pre", "script", "style", "svg", "math"})
    _BLOCKS = frozenset({"p", "li", "td", "th", "div", "h1", "h2", "h3", "h4", "figcaption"})

    def __init__(self, page: str):
        super().__init__()
        self._in_article = False
        self._hidden = 0
        self._parts: list[str] = []
        self.feed(page)
        self.lines = "".join(self._parts).splitlines()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._in_article |= tag == "article"
        self._hidden += tag in self._HIDDEN
        self._parts.append("\n" * (tag in self._BLOCKS))

    def handle_endtag(self, tag: str) -> None:
        self._in_article &= tag != "article"
        self._hidden -= tag in self._HIDDEN
        self._parts.append("\n" * (tag in self._BLOCKS))

    def handle_data(self, data: str) -> None:
        if self._in_article and not self._hidden:
            self._parts.append(data)


def raw_markup(site: Path) -> Iterator[str]:
    """Lines that a page shows with markup in them."""
    for page in sorted(site.rglob("*.html")):
        for line in _Text(page.read_text(encoding="utf-8")).lines:
            if _RAW.search(line):
                yield f"{page.relative_to(site)} shows markup: {line.strip()}"


def undescribed(site: Path) -> Iterator[str]:
    """Public names of the package that the API pages do not have."""
    # A Sphinx inventory: four lines of text, and a compressed line for each name.
    lines = zlib.decompress((site / "objects.inv").read_bytes().split(b"\n", 4)[4])
    described = {line.split(" ")[0] for line in lines.decode().splitlines()}
    modules = pkgutil.iter_modules(mlx_entk.__path__, "mlx_entk.")
    for package in ["mlx_entk", *(module.name for module in modules if module.ispkg)]:
        for name in getattr(importlib.import_module(package), "__all__", ()):
            value = getattr(sys.modules[package], name)
            home = f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', '')}"
            if {f"{package}.{name}", home}.isdisjoint(described):
                yield f"{package}.{name} is on no page of the API"


def main() -> None:
    """Build, and exit with 1 if something is wrong with what was built."""
    site = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "site").resolve()
    write_notebooks()
    if not build(site):
        sys.exit(1)
    write_mathematics(site)
    faults = [*raw_markup(site), *undescribed(site)]
    if faults:
        sys.exit("\n".join(faults))


if __name__ == "__main__":
    main()
