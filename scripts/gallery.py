"""Draw the figures of ``docs/gallery.md``: ``python scripts/gallery.py [NAME …]``.

The page says what there is: before a mark ``<!-- gallery: NAME -->`` stand the commands that make
``runs/NAME``. They run if that folder has no results yet, and all figures of the run go
between that mark and the next, after pictures of the report and of the page of modes if the
commands make one. After NAME, the mark may name the figures that are wanted. With names, only
those sections are drawn.
"""

import html
import io
import re
import subprocess
import sys
from pathlib import Path

from PIL import Image

from mlx_entk.plotting import CaptionedFigure
from mlx_entk.runs import Run
from mlx_entk.studies.reporting import figures

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from tests.chromium import chromium, load  # noqa: E402

PAGE = ROOT / "docs" / "gallery.md"
IMAGES = PAGE.parent / "images" / "gallery"

_SECTION = re.compile(
    r"```sh\n(?P<commands>[^`]*)```\n\n<!-- gallery: (?P<name>\S+)(?P<wanted>[^>]*) -->\n"
    r"(?P<old>.*?)<!-- end of (?P=name) -->",
    re.DOTALL,
)
# As wide as the screen of a laptop, and with a palette: small files.
_WIDTH, _COLOURS = 1400, 256
# Pages of a run, where to open them, and what they show.
_PAGES = (
    (
        "report.html",
        "",
        "What was found, how sure it is, the spectrum, and every figure and table.",
    ),
    (
        "modes.html",
        "#mode=60",
        "A mode at its inputs, the families it lies in, and its neighbours.",
    ),
)


def main() -> None:
    """Run what has not run yet, draw all figures, and write the page."""
    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(_SECTION.sub(_section, text), encoding="utf-8")


def _section(match: re.Match[str]) -> str:
    if sys.argv[1:] and match["name"] not in sys.argv[1:]:
        return match[0]
    folder = ROOT / "runs" / match["name"]
    if not (folder / "results.json").exists():
        for command in match["commands"].splitlines():
            program, *arguments = command.split()
            path = Path(sys.executable).with_name(program)
            subprocess.run([path, *arguments], cwd=ROOT, check=True)
    wanted = match["wanted"].split()
    for old in (IMAGES / match["name"]).glob("*.png"):
        old.unlink()
    pages = _PAGES if "mlx-entk browse" in match["commands"] else ()
    drawn = [_page(folder, *page) for page in pages]
    drawn += [
        _figure(match["name"], figure)
        for figure in figures(Run.load(folder))
        if not wanted or figure.name in wanted
    ]
    before = match[0][: match.start("old") - match.start()]
    grid = '<div class="gallery" markdown>\n' + "".join(drawn) + "</div>\n"
    return f"{before}{grid}<!-- end of {match['name']} -->"


def _figure(run: str, figure: CaptionedFigure) -> str:
    figure.drawing.settle()
    picture = io.BytesIO()
    figure.drawing.savefig(picture, format="png", dpi=_WIDTH / figure.drawing.get_figwidth())
    return _placed(run, figure.name, figure.caption, picture.getvalue())


def _page(folder: Path, file: str, fragment: str, caption: str) -> str:
    with chromium() as browser:
        load(browser, folder / file, fragment=fragment)
        picture = browser.get_screenshot_as_png()
    return _placed(folder.name, Path(file).stem, caption, picture)


def _placed(run: str, name: str, caption: str, picture: bytes) -> str:
    """Write a picture as a small PNG file, and return its place in the page."""
    file = IMAGES / run / f"{name}.png"
    file.parent.mkdir(parents=True, exist_ok=True)
    with Image.open(io.BytesIO(picture)) as image:
        flat = image.convert("RGB").quantize(_COLOURS, dither=Image.Dither.NONE)
    flat.save(file, optimize=True)
    name = name.replace("-", " ").capitalize()
    place = file.relative_to(PAGE.parent).as_posix()
    caption = html.escape(caption, quote=False)
    return (
        f"<figure markdown>\n[![{name}]({place}){{ loading=lazy }}]({place})\n"
        f"<figcaption><strong>{name}.</strong> {caption}</figcaption>\n</figure>\n"
    )


if __name__ == "__main__":
    main()
