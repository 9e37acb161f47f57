"""Where results go: JSON files, and tables between two marks of a page."""

from pathlib import Path

HERE = Path(__file__).parent


def insert(page: Path, name: str, text: str) -> None:
    """Replace what stands between the two marks of a page."""
    start, end = f"<!-- make bench: {name} -->", f"<!-- end of {name} -->"
    before, mark, rest = page.read_text(encoding="utf-8").partition(start)
    _, closing, after = rest.partition(end)
    if not (mark and closing):
        raise SystemExit(f"{page} has no marks for {name}")
    page.write_text(f"{before}{start}\n\n{text}\n{end}{after}", encoding="utf-8")
