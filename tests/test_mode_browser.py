"""The page of modes: what is in its file, and how it behaves in a browser."""

import base64
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.select import Select

from mlx_entk import InputError
from mlx_entk._linalg import Float64Array
from mlx_entk.report import (
    FoundLabel,
    KernelView,
    ModeBrowser,
    ModeView,
    Window,
    Windows,
    ends,
    write_browser,
)
from mlx_entk.report import browser as pages
from mlx_entk.report import inputs as drawn_inputs
from tests.chromium import LAPTOP, PHONE, chromium, load, needs_chromium

N, T, LAYERS, MODES = 40, 6, (2, 11), 3
HOSTILE = "</script><img src=x onerror=document.title='owned'>"


def window(number: int) -> Window:
    """Every fourth one is followed by ``was``; one is hostile, and one is alone with a word."""
    word = "was" if number % 4 == 0 else f"wash{number}"
    tokens = [f" w{number}", " the", " cat", "\n", " and", " It"]
    if number == 7:
        tokens[2], word = HOSTILE, "<b>\u202ebold"
    if number == 9:
        tokens[2] = " Zebra"
    return Window(tokens, word, {"upos": "AUX" if word == "was" else "NOUN"})


WINDOWS = [window(number) for number in range(N)]


def mode(layer: int, number: int) -> ModeView:
    scores = np.random.default_rng([layer, number]).standard_normal(N)
    if (layer, number) == (11, 1):
        scores = np.linspace(2, -2, N)
    shares = {}
    for i in {*ends(scores)[0], *ends(scores)[1]}:
        shares[i] = scores[i] * np.array([0.1, -0.05, 0.6, 0, 0.05, 0.3])
    labels = [FoundLabel("upos=AUX", 1, 0.813), FoundLabel("upos=NOUN", -1, 0.5)]
    return ModeView(
        number, 10.0 / (number + 1), scores, share=0.75, labels=labels, positions=shares
    )


def made(path: Path, change: Any = None) -> Path:
    kernels = [
        KernelView(f"Layer {layer}", [mode(layer, i) for i in range(MODES)]) for layer in LAYERS
    ]
    page = ModeBrowser(f"Modes <of> {HOSTILE}", "Some windows.", Windows(WINDOWS), kernels)
    write_browser(change(page) if change else page, path)
    return path


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("modes") / "modes.html")


def data(text: str, attributes: str) -> list[Any]:
    """What the scripts with these attributes hold."""
    found = re.findall(rf'<script type="application/json" {attributes}>(.*?)</script>', text)
    return [json.loads(script) for script in found]


def values(steps: dict[str, Any]) -> Float64Array:
    return np.asarray(np.array(steps["steps"]) * steps["unit"])


def scores_of(stored: dict[str, Any]) -> Float64Array:
    steps = np.frombuffer(base64.b64decode(stored["scores"]), "<i2")
    return np.asarray(steps * stored["unit"], dtype=np.float64)


def test_the_file_has_texts_once_and_the_numbers_of_each_layer(page: Path) -> None:
    text = page.read_text(encoding="utf-8")

    (windows,) = data(text, 'id="inputs"')
    layers = [kernel["modes"] for kernel in data(text, 'class="kernel"')]

    assert text.count("Zebra") == 1
    assert windows["tokens"][9] == [" w9", " the", " Zebra", "↵", " and", " It"]
    assert len(layers) == len(LAYERS)
    for layer, modes in zip(LAYERS, layers, strict=True):
        for number, stored in enumerate(modes):
            original = mode(layer, number)
            assert np.allclose(scores_of(stored), original.scores, atol=1e-4)
            order = np.argsort(original.scores)
            assert stored["ends"] == [order[::-1][:8].tolist(), order[:8].tolist()]
            assert len(stored["positions"]) == 16
            for i, row in stored["positions"].items():
                assert np.allclose(values(row), original.positions[int(i)], atol=5e-3)


def test_texts_cannot_leave_their_script_and_nothing_is_loaded(page: Path) -> None:
    text = page.read_text(encoding="utf-8")

    assert "<img" not in text
    assert text.count("</script>") == text.count("<script") == 2 + len(LAYERS)
    assert "\u202e" not in text
    assert "default-src 'none'" in text
    assert not re.search(r"@import|<link|src=\"|url\((?!data:)|innerHTML", text)


def test_windows_without_shares_and_shares_of_other_windows(tmp_path: Path) -> None:
    def without(page: ModeBrowser) -> ModeBrowser:
        scores = np.arange(N, dtype=float)
        bare = ModeView(0, 1.0, scores, positions={20: [0.5] * T, 39: [0.25] * T})
        return replace(page, kernels=[KernelView("Layer 0", [bare])])

    text = made(tmp_path / "modes.html", without).read_text(encoding="utf-8")

    (kernel,) = data(text, 'class="kernel"')
    assert list(kernel["modes"][0]["positions"]) == ["39"]  # the other one is not at an end


def test_few_windows_are_at_one_end_only() -> None:
    assert ends(np.array([0.5, -1.0, 2.0])) == ([2], [1])
    assert ends(np.array([3.0, 1.0, 4.0, 1.5]), count=9) == ([2, 0], [1, 3])


def test_a_page_that_would_be_too_large_says_what_it_leaves_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "MOST_SCORES", 2 * N * len(LAYERS))
    text = made(tmp_path / "modes.html").read_text(encoding="utf-8")

    assert [len(kernel["modes"]) for kernel in data(text, 'class="kernel"')] == [2, 2]
    assert "Of each kernel the first 2 modes are here" in text
    monkeypatch.setattr(pages, "MOST_SCORES", N)
    with pytest.raises(
        InputError, match="cannot hold 80 values of one mode of each kernel: 40 are"
    ):
        made(tmp_path / "modes.html")
    monkeypatch.undo()
    monkeypatch.setattr(drawn_inputs, "MOST_TOKENS", N * T - 1)
    with pytest.raises(InputError, match="cannot hold 240 tokens: 239 are the most"):
        made(tmp_path / "modes.html")


def changed(**fields: Any) -> Any:
    """A change of the first mode of the page."""

    def change(page: ModeBrowser) -> ModeBrowser:
        first = replace(page.kernels[0].modes[0], **fields)
        return replace(page, kernels=[KernelView("Layer 0", [first])])

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (changed(scores=np.ones(N - 1)), "do not fit the inputs"),
        (changed(positions={N: [0.0] * T}), "do not fit the inputs"),
        (changed(positions={0: [0.0]}), "do not fit the inputs"),
        (changed(scores=np.full(N, np.nan)), "not finite"),
        (changed(positions={0: [np.inf] * T}), "not finite"),
        (changed(eigenvalue=np.nan), "not finite"),
        (lambda page: replace(page, kernels=[]), "at least one kernel, and a mode in each"),
        (
            lambda page: replace(page, kernels=[KernelView("", [])]),
            "at least one kernel, and a mode",
        ),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, change: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        made(tmp_path / "modes.html", change)
    assert not (tmp_path / "modes.html").exists()


@pytest.fixture(scope="module")
def browser() -> Iterator[webdriver.Chrome]:
    with chromium() as started:
        yield started


def text_of(browser: webdriver.Chrome, identifier: str) -> str:
    return browser.find_element(By.ID, identifier).text


def shown(browser: webdriver.Chrome, identifier: str) -> list[str]:
    """The window's own token of each window in a list: ``w7`` of window 7."""
    spans = browser.find_elements(By.CSS_SELECTOR, f"#{identifier} .text > span:first-child")
    return [span.text.strip() for span in spans]


def named(numbers: Sequence[int]) -> list[str]:
    return [f"w{number}" for number in numbers]


def press(browser: webdriver.Chrome, key: str) -> None:
    browser.switch_to.active_element.send_keys(key)


@needs_chromium
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [LAPTOP, PHONE])
def test_it_renders_without_errors_and_never_wider_than_the_screen(
    browser: webdriver.Chrome, page: Path, width: int, scheme: str
) -> None:
    load(browser, page, width, scheme, "#kernel=Layer+11&mode=1")

    for query in ("", "the"):
        browser.find_element(By.ID, "query").send_keys(query)
        wide, seen = browser.execute_script(
            "return [document.documentElement.scrollWidth, innerWidth]"
        )
        assert wide <= seen
        beyond = browser.execute_script(
            "const edge = document.querySelector('main').getBoundingClientRect().right;"
            "return [...document.querySelectorAll('main .toolbar *, main #view *')]"
            ".filter((e) => e.getBoundingClientRect().right > edge).length"
        )
        assert beyond == 0
    assert browser.get_log("browser") == []
    assert browser.title == f"Modes <of> {HOSTILE}"  # which the hostile texts would have changed
    assert browser.find_elements(By.CSS_SELECTOR, "main img") == []


@needs_chromium
def test_an_address_names_layer_and_mode_and_both_ends_are_shown(
    browser: webdriver.Chrome, page: Path
) -> None:
    load(browser, page, fragment="#kernel=Layer+11&mode=1")

    assert text_of(browser, "heading") == "Layer 11, mode 1"
    assert text_of(browser, "numbers").split("\n")[1::2] == ["5", "50%", "75%"]
    assert "+ upos=AUX 0.813 25%" in text_of(browser, "labels")
    assert "− upos=NOUN 0.500 75%" in text_of(browser, "labels")
    assert shown(browser, "plus-inputs") == named(range(8))
    assert shown(browser, "minus-inputs") == named(range(N - 1, N - 9, -1))
    # Five windows are counted at each end: 0 to 4, of which 0 and 4 are followed by was.
    assert "was 2 of 10" in text_of(browser, "plus-names")
    assert browser.find_element(By.CSS_SELECTOR, "[aria-current]").text == "1\n+ upos=AUX\n5"
    for fragment in ("", "#kernel=Layer+5&mode=1000", "#kernel=<b>"):
        load(browser, page, fragment=fragment)
        assert text_of(browser, "heading") == "Layer 2, mode 0"


@needs_chromium
def test_tokens_are_coloured_by_sign_and_say_their_part(
    browser: webdriver.Chrome, page: Path
) -> None:
    load(browser, page, fragment="#kernel=Layer+11&mode=1")

    kinds = {}
    for end in ("plus", "minus"):
        spans = browser.find_elements(By.CSS_SELECTOR, f"#{end}-inputs li:first-child .text > span")
        kinds[end] = [span.get_attribute("class") for span in spans]
    first = browser.find_element(By.CSS_SELECTOR, "#plus-inputs li")

    assert kinds["plus"] == ["up", "down", "up strong", "", "up", "up strong"]
    assert kinds["minus"] == ["down", "up", "down strong", "", "down", "down strong"]
    assert "Largest parts (95% of all by size): cat +1.2, It +0.60, w0 +0.20" in first.text
    token = first.find_element(By.CSS_SELECTOR, ".strong")
    webdriver.ActionChains(browser).move_to_element(token).perform()
    assert text_of(browser, "hint") == "position 3 of 6: +1.20 of +2.00"


@needs_chromium
def test_hostile_texts_are_shown_as_they_are(browser: webdriver.Chrome, page: Path) -> None:
    load(browser, page, fragment="#kernel=Layer+11&mode=1")

    window = browser.find_elements(By.CSS_SELECTOR, "#plus-inputs li")[7]

    assert HOSTILE in window.text
    assert "<b>\\u202ebold" in window.text


@needs_chromium
def test_the_keyboard_alone_reaches_everything(browser: webdriver.Chrome, page: Path) -> None:
    load(browser, page)
    said = []
    for key in (
        Keys.ARROW_RIGHT, "j", Keys.ARROW_RIGHT, "k", "]", "]", Keys.ARROW_LEFT, "[",
    ):  # fmt: skip
        press(browser, key)
        said.append(text_of(browser, "heading").removeprefix("Layer ").replace(", mode ", "."))
    address = browser.current_url

    press(browser, "/")
    in_search = browser.switch_to.active_element.get_attribute("id")
    for key in "j]":
        press(browser, key)
    typed = browser.find_element(By.ID, "query").get_attribute("value")
    press(browser, Keys.ESCAPE)
    outside = browser.switch_to.active_element.tag_name
    press(browser, "]")

    assert said == ["2.1", "2.2", "2.2", "2.1", "11.1", "11.1", "11.0", "2.0"]
    assert address.endswith("#kernel=Layer+2&mode=0")
    assert (in_search, typed, outside) == ("query", "j]", "body")
    assert text_of(browser, "heading") == "Layer 11, mode 0"
    assert browser.find_element(By.ID, "query").get_attribute("value") == "j]"


@needs_chromium
def test_the_search_goes_over_all_windows_and_sorts_them_by_score(
    browser: webdriver.Chrome, page: Path
) -> None:
    load(browser, page, fragment="#kernel=Layer+11&mode=0")
    scores = mode(11, 0).scores
    query, scope = (
        browser.find_element(By.ID, "query"),
        Select(browser.find_element(By.ID, "scope")),
    )

    query.send_keys("zebra")
    alone = shown(browser, "results")
    query.clear()
    query.send_keys("WAS")
    scope.select_by_value("name")
    by_word = shown(browser, "results")
    counted = text_of(browser, "matches")
    browser.find_element(By.ID, "order").click()
    reverse = shown(browser, "results")
    press(browser, "]")  # no layer is there: nothing changes
    browser.find_element(By.ID, "mode-after").click()
    by_next_mode = shown(browser, "results")
    query.clear()
    query.send_keys(Keys.SPACE)

    followed = np.arange(0, N, 4)
    order = followed[np.argsort(-scores[followed])]
    ranks = np.argsort(np.argsort(-scores))[followed]
    assert alone == ["w9"]
    assert by_word == named(order.tolist())
    assert reverse == by_word[::-1]
    assert counted == (
        f"10 of 40 windows match; {(ranks < 5).sum()} of them are among the 5 at the + end, "
        f"{(ranks >= N - 5).sum()} among the 5 at the − end"
    )
    assert by_next_mode == named(followed[::-1].tolist())
    assert shown(browser, "plus-inputs") == named(range(8))  # an empty search shows the ends


@needs_chromium
def test_a_label_and_a_next_word_can_be_searched_by_a_click(
    browser: webdriver.Chrome, page: Path
) -> None:
    for place in ("#labels td button", "#plus-names button"):
        load(browser, page, fragment="#kernel=Layer+11&mode=1")
        browser.find_element(By.CSS_SELECTOR, place).click()
        assert shown(browser, "results") == named(range(0, N, 4))


@needs_chromium
def test_without_shares_it_says_why_there_are_no_colours(
    browser: webdriver.Chrome, tmp_path: Path
) -> None:
    change = changed(positions={}, labels=[], eigenvalue=2.538e11)
    load(browser, made(tmp_path / "modes.html", change))

    assert text_of(browser, "legend").startswith("Tokens have no colours")
    assert "2.54e+11" in text_of(browser, "numbers")
    assert text_of(browser, "labels") == "None was chosen for this mode."
    assert browser.find_elements(By.CSS_SELECTOR, ".up, .down") == []
    assert len(shown(browser, "plus-inputs")) == 8
    assert browser.get_log("browser") == []
