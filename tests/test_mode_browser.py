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
from selenium.webdriver.support.wait import WebDriverWait

from mlx_entk import InputError
from mlx_entk._linalg import Float64Array
from mlx_entk.analysis import WHOLE
from mlx_entk.data import modular_addition
from mlx_entk.report import (
    FoundLabel,
    KernelView,
    ModeBrowser,
    ModeView,
    Pairs,
    Window,
    Windows,
    drawn,
    ends,
    write_browser,
)
from mlx_entk.report import browser as pages
from mlx_entk.report import inputs as drawn_inputs
from mlx_entk.studies.browsing import families_of, kernel_view
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


# Other inputs: the modes of a small kernel whose features are known

P = 5
PAIRS = modular_addition(P, 0.7, 0)


def basis_of(columns: Float64Array) -> Float64Array:
    return np.linalg.qr(columns - columns.mean(axis=0))[0]


def orthonormal_modes(N: int) -> Float64Array:
    """The constant, a step, and then anything."""
    step = np.where(np.arange(N) < N // 2, 1.0, -1.0)
    rest = np.random.default_rng(0).standard_normal((N, 6))
    return np.linalg.qr(np.column_stack([np.ones(N), step, rest]))[0] * -1


def browser_of(inputs: Any, names: Sequence[str] = ()) -> ModeBrowser:
    """A page of the whole kernel, its two parts and two families: ``step``, and a hostile one."""
    N = len(inputs)
    vectors = orthonormal_modes(N)
    values = np.array([10.0, 5.0, 4.0, 3.0, 2.0, 1.0, 0.5, 1e-9])
    bases = {"step": basis_of(vectors[:, 1:2]), HOSTILE: basis_of(vectors[:, 2:4])}
    families = families_of({"step": 1, HOSTILE: 2}, N)
    parts = {"layers.0": np.linspace(0, 1, 8), "layers.1": np.linspace(1, 0, 8)}
    kernels = [
        kernel_view(
            kernel, values, vectors, trace=25.5, groups=[(0, 0), (1, 4)], families=families,
            bases=bases, parts=parts if kernel == WHOLE else None,
        )
        for kernel in (WHOLE, "layers.0", "layers.1")
    ]  # fmt: skip
    return ModeBrowser(f"Modes {HOSTILE}", "A kernel.", inputs, kernels, names)


INPUTS = {
    "pairs": Pairs(PAIRS.n, PAIRS.m, P, "Pairs."),
    "images": drawn(np.random.default_rng(1).random((20, 8, 8))),
    "rows": drawn({"age": np.arange(20.0), HOSTILE: np.zeros(20)}),
    "wide": drawn(np.random.default_rng(1).standard_normal((20, 30))),
    "tokens": drawn(np.random.default_rng(1).integers(0, 50, (20, 6))),
    "texts": drawn([f"text {i} {HOSTILE}" for i in range(20)]),
    "drawings": drawn(
        np.arange(20),
        lambda i: f'<svg viewBox="0 0 9 9"><circle r="{i}"/><script>top.owned = 1</script></svg>',
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def pages_of_kinds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("kinds")
    for kind, inputs in INPUTS.items():
        names = [f"label {i % 2}" for i in range(len(inputs))]
        write_browser(browser_of(inputs, names), folder / f"{kind}.html")
    return {kind: folder / f"{kind}.html" for kind in INPUTS}


def items(browser: webdriver.Chrome, identifier: str) -> list[str]:
    found = browser.find_elements(By.CSS_SELECTOR, f"#{identifier} > li")
    return [" ".join(item.text.split()) for item in found]


def rows_of(browser: webdriver.Chrome, identifier: str) -> list[str]:
    """The rows of a table, without its head."""
    rows = browser.find_elements(By.CSS_SELECTOR, f"#{identifier} tbody tr")
    return [" ".join(row.text.split()) for row in rows]


def listed(browser: webdriver.Chrome) -> list[str]:
    """The numbers of the modes in the list, as it is sorted and filtered."""
    return browser.execute_script(  # type: ignore[no-any-return]
        "return [...document.querySelectorAll('#modes button span:first-child')]"
        ".map((e) => e.textContent)"
    )


def choose(browser: webdriver.Chrome, identifier: str, text: str) -> None:
    Select(browser.find_element(By.ID, identifier)).select_by_visible_text(text)


@needs_chromium
@pytest.mark.parametrize("kind", INPUTS)
def test_inputs_of_each_kind_are_drawn_and_stay_inputs(
    browser: webdriver.Chrome, pages_of_kinds: dict[str, Path], kind: str
) -> None:
    for width, scheme in ((PHONE, "dark"), (LAPTOP, "light")):
        load(browser, pages_of_kinds[kind], width, scheme, "#kernel=Whole+kernel&mode=1")
        wide, seen = browser.execute_script(
            "return [document.documentElement.scrollWidth, innerWidth]"
        )
        assert wide <= seen
    drawn_as = {
        "pairs": "li", "images": ".sprite", "rows": ".cells", "wide": ".strip", "tokens": ".text",
        "texts": ".text", "drawings": "img",
    }  # fmt: skip
    inputs = INPUTS[kind]
    shown_ = browser.find_elements(By.CSS_SELECTOR, f"#plus-inputs {drawn_as[kind]}")
    assert len(shown_) == min(inputs.at_ends, len(inputs) // 2)
    assert re.search("label [01]", items(browser, "plus-inputs")[0])
    assert "of 1" in text_of(browser, "plus-names")
    assert browser.get_log("browser") == []
    assert browser.title == f"Modes {HOSTILE}"
    assert browser.execute_script("return window.owned") is None


@needs_chromium
def test_a_mode_tells_its_features_parts_group_and_neighbours(
    browser: webdriver.Chrome, pages_of_kinds: dict[str, Path]
) -> None:
    load(browser, pages_of_kinds["rows"], fragment="#kernel=Whole+kernel&mode=1")

    rows, parts = rows_of(browser, "features"), rows_of(browser, "parts")
    numbers = text_of(browser, "numbers").split("\n")
    assert numbers[:2] == ["eigenvalue", "5"]
    assert "modes 1–4" in numbers
    assert "20%" in numbers  # of the trace: 5 of 25.5
    assert rows[0] == "step 100% 5.3% – 1"
    assert rows[1].startswith(HOSTILE)
    assert parts == ["layers.0 14%", "layers.1 86%"]
    assert items(browser, "neighbours") == ["1", "2", "3", "4"]

    browser.find_element(By.CSS_SELECTOR, "#neighbours li:nth-child(3) a").click()
    assert text_of(browser, "heading") == "Whole kernel, mode 3"
    browser.find_element(By.LINK_TEXT, "layers.1").click()
    assert text_of(browser, "heading") == "layers.1, mode 0"
    assert not browser.find_element(By.ID, "parts-section").is_displayed()
    load(browser, pages_of_kinds["rows"], fragment="#kernel=Whole+kernel&mode=7")
    assert "below it: this mode is rounding" in text_of(browser, "numbers")
    assert "below the noise floor has no shares" in text_of(browser, "parts")
    assert "No family holds 50% of this mode above chance." in text_of(browser, "features")


@needs_chromium
def test_modes_are_sorted_filtered_and_found(
    browser: webdriver.Chrome, pages_of_kinds: dict[str, Path]
) -> None:
    load(browser, pages_of_kinds["rows"], fragment="#kernel=Whole+kernel&mode=2")

    assert listed(browser) == list("01234567")
    button = browser.find_element(By.CSS_SELECTOR, "#modes button")
    assert button.text.split("\n")[1] == "constant 100%"
    choose(browser, "sort", "smallest eigenvalue")
    assert listed(browser) == list("76543210")
    browser.find_element(By.CSS_SELECTOR, "#features td button").click()  # features → modes
    assert text_of(browser, "shown-as") == f"share in {HOSTILE}"
    assert set(listed(browser)[:2]) == {"2", "3"}
    assert text_of(browser, "heading") == "Whole kernel, mode 2"
    choose(browser, "sort", "number")
    for keep, kept in (
        ("above the noise floor", "0123456"), ("that no feature explains", "4567"),
        ("group modes 1–4", "1234"), ("all", "01234567"),
    ):  # fmt: skip
        choose(browser, "keep", keep)
        assert listed(browser) == list(kept)
    press(browser, Keys.ESCAPE)
    press(browser, "f")
    find = browser.switch_to.active_element
    for query, found in (("step", "1"), ("5", "5"), ("2-4", "234"), ("nothing", "")):
        find.clear()
        find.send_keys(query)
        assert listed(browser) == list(found)
    find.clear()
    find.send_keys("4-6", Keys.ENTER)
    assert text_of(browser, "heading") == "Whole kernel, mode 4"
    press(browser, Keys.ESCAPE)
    for key, heading in ((Keys.ARROW_RIGHT, 5), ("j", 6), ("j", 6), ("k", 5)):  # along the list
        press(browser, key)
        assert text_of(browser, "heading") == f"Whole kernel, mode {heading}"
    assert text_of(browser, "listed") == "3 of 8 modes"


@needs_chromium
def test_inputs_are_searched_by_name_text_and_number(
    browser: webdriver.Chrome, pages_of_kinds: dict[str, Path]
) -> None:
    for kind, query, found in (
        ("pairs", "n=2 m>2", 2), ("pairs", "sum = 3", P), ("pairs", "label 1", 12),
        ("rows", "age>=18", 2), ("rows", "age<3; input>0", 2), ("rows", f"{HOSTILE}=0", 20),
        ("images", "input=7", 1), ("texts", "text 19", 1), ("tokens", "no such token", 0),
    ):  # fmt: skip
        load(browser, pages_of_kinds[kind], fragment="#kernel=Whole+kernel&mode=1")
        browser.find_element(By.ID, "query").send_keys(query)
        assert len(items(browser, "results")) == found, (kind, query)
        assert text_of(browser, "matches").startswith(f"{found} of {len(INPUTS[kind])} ")


@needs_chromium
def test_a_map_of_pairs_is_read_by_pointer_and_keyboard(
    browser: webdriver.Chrome, pages_of_kinds: dict[str, Path]
) -> None:
    load(browser, pages_of_kinds["pairs"], fragment="#kernel=Whole+kernel&mode=1")
    vectors = orthonormal_modes(P * P)
    canvas = browser.find_element(By.ID, "map")

    browser.execute_script("arguments[0].focus()", canvas)
    said = [text_of(browser, "hint")]
    for key in (Keys.ARROW_DOWN, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ARROW_UP):
        press(browser, key)
        said.append(text_of(browser, "hint"))
    pixels = browser.execute_script(
        "return [...arguments[0].getContext('2d').getImageData(0, 0, 5, 5).data]", canvas
    )

    assert [text.split(":")[0] for text in said] == [
        "n = 0, m = 0", "n = 1, m = 0", "n = 1, m = 1", "n = 1, m = 2", "n = 0, m = 2",
    ]  # fmt: skip
    value = float(said[3].split(": ")[1].replace("−", "-"))
    assert value == pytest.approx(vectors[P + 2, 1], rel=2e-2)
    colours = np.array(pixels).reshape(P * P, 4)
    above = vectors[:, 1] > 0
    assert (colours[above, 2] > colours[above, 0]).all()  # blue
    assert (colours[~above, 0] > colours[~above, 2]).all()  # orange
    assert text_of(browser, "heading") == "Whole kernel, mode 1"  # arrows on the map stay there
    webdriver.ActionChains(browser).move_to_element(canvas).perform()
    assert text_of(browser, "hint").startswith("n = 2, m = 2: ")


@needs_chromium
def test_correlations_with_columns_and_pixels(
    browser: webdriver.Chrome, pages_of_kinds: dict[str, Path]
) -> None:
    load(browser, pages_of_kinds["rows"], fragment="#kernel=Whole+kernel&mode=1")
    vector = orthonormal_modes(20)[:, 1]
    expected = np.corrcoef(vector, np.arange(20))[0, 1]
    first, other = rows_of(browser, "profile")
    assert first.replace("−", "-") == f"age {expected:+.2f}"
    assert other == f"{HOSTILE} 0"  # a column that does not vary

    load(browser, pages_of_kinds["images"], fragment="#kernel=Whole+kernel&mode=1")
    WebDriverWait(browser, 5).until(
        lambda b: b.find_elements(By.CSS_SELECTOR, "#profile canvas.profile")
    )


def test_shares_that_do_not_fit_and_names_are_refused(tmp_path: Path) -> None:
    page = browser_of(INPUTS["rows"])
    first = page.kernels[0]
    bad = replace(first.modes[0], features=[0.5])
    for change, message in (
        (replace(page, kernels=[replace(first, modes=[bad])]), "do not fit the inputs"),
        (replace(page, names=["a"]), "there are 1 names for 20 inputs"),
        (replace(page, places=np.zeros(19, int)), "do not fit the inputs"),
    ):
        with pytest.raises(InputError, match=message):
            write_browser(change, tmp_path / "modes.html")
