"""The documentation does what it says: its snippets run, and its search works on files."""

import re
import runpy
from pathlib import Path

import pytest

from tests.chromium import chromium, load, needs_chromium

ROOT = Path(__file__).parent.parent
SNIPPET = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def snippets_of(page: Path) -> list[str]:
    return SNIPPET.findall(page.read_text(encoding="utf-8"))


def run_snippets(page: Path, *, slow: bool = False) -> int:
    """Run the snippets of a page one after the other; those from transformers on are slow."""
    names: dict[str, object] = {}
    snippets = snippets_of(page)
    for number, snippet in enumerate(snippets, 1):
        if "import transformers" in snippet and not slow:
            return number - 1
        exec(compile(snippet, f"{page.name}, snippet {number}", "exec"), names)
    return len(snippets)


@pytest.mark.parametrize("page", ["README.md", "docs/five-questions.md", "docs/recipes.md"])
def test_snippets_of_the_documentation_run_as_they_stand(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_snippets(ROOT / page) > 0


def test_the_home_page_and_the_readme_begin_with_the_same_snippet() -> None:
    assert snippets_of(ROOT / "docs" / "index.md") == snippets_of(ROOT / "README.md")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_model_of_transformers_goes_through_onnx_as_the_recipe_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_snippets(ROOT / "docs" / "recipes.md", slow=True) > 0


def test_make_docs_says_which_page_shows_markup(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(
        "<nav>**aside**</nav><article><p>See :func:`entk`.</p><pre>**code**</pre>"
        "<p><code>$x$</code> costs 3 | 4 of it.</p><p>| a | b |</p></article>",
        encoding="utf-8",
    )
    build_docs = runpy.run_path(str(ROOT / "scripts" / "build_docs.py"))
    assert list(build_docs["raw_markup"](tmp_path)) == [
        "page.html shows markup: See :func:`entk`.",
        "page.html shows markup: | a | b |",
    ]


@needs_chromium
def test_the_worker_of_the_search_runs_on_a_page_that_was_opened_as_a_file(tmp_path: Path) -> None:
    shim = (ROOT / "docs" / "javascripts" / "iframe-worker.js").read_text(encoding="utf-8")
    # As the search of Material for MkDocs talks to its worker.
    (tmp_path / "worker.js").write_text(
        "addEventListener('message', (event) => postMessage(event.data + 1))", encoding="utf-8"
    )
    (tmp_path / "page.html").write_text(
        f"<!doctype html><title>-</title><script>{shim}</script><script>"
        "const worker = new Worker('worker.js');"
        "worker.addEventListener('message', (event) => { document.title = event.data; });"
        "worker.postMessage(41);</script>",
        encoding="utf-8",
    )
    with chromium() as browser:
        load(browser, tmp_path / "page.html")
        browser.set_script_timeout(10)
        browser.execute_async_script(
            "const done = arguments[0];"
            "const wait = () => document.title === '-' ? setTimeout(wait, 20) : done(); wait();"
        )
        assert browser.title == "42"
