"""Reports and comparisons in a real headless Chromium, from a large screen down to a phone.

Where there is no Chromium the tests are left out; in CI they have to run.
"""

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import Select, WebDriverWait

from mlx_entk.report import Report, Table, write_page
from mlx_entk.runs import Run
from mlx_entk.studies import modular_mlp, modular_transformer, toy_models
from mlx_entk.studies.compare import compare
from mlx_entk.studies.reporting import write_comparison
from mlx_entk.studies.running import run_study
from tests.chromium import PHONE, chromium, load, needs_chromium

pytestmark = needs_chromium

LARGE, TABLET = 1440, 1024


@pytest.fixture(scope="module")
def browser() -> Iterator[webdriver.Chrome]:
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """A small finished run of each study with its report."""
    folder = tmp_path_factory.mktemp("browser")
    mlp = modular_mlp.MLPConfig(p=5, width=16, epochs=40)
    toy = toy_models.TMSConfig(n=6, m=2, rows=40, steps=100)
    transformer = modular_transformer.TransformerConfig(
        p=5, d_model=8, heads=2, d_mlp=16, epochs=60
    )
    made = {
        "mlp": run_study(modular_mlp.STUDY, mlp, folder / "mlp"),
        "tms": run_study(toy_models.TOY_MODEL, toy, folder / "tms"),
        "transformer": run_study(modular_transformer.STUDY, transformer, folder / "transformer"),
    }
    write_comparison(compare([made["mlp"]] * 2), [made["mlp"]] * 2, folder / "compare.html")
    return made


def hint(browser: webdriver.Chrome) -> str:
    """What the hint says; empty if it is hidden."""
    return browser.find_element(By.ID, "hint").text


def figure(browser: webdriver.Chrome, name: str) -> WebElement:
    return browser.find_element(By.ID, name)


def picker(browser: webdriver.Chrome, name: str = "spectra") -> Select:
    """What picks the kernel whose spectrum is drawn."""
    return Select(figure(browser, name).find_element(By.TAG_NAME, "select"))


def all_side_by_side(browser: webdriver.Chrome) -> None:
    picker(browser).select_by_value("all")


def drawn(browser: webdriver.Chrome, name: str) -> WebElement:
    """The picture of a figure that is shown."""
    pictures = figure(browser, name).find_elements(By.TAG_NAME, "svg")
    (shown,) = [picture for picture in pictures if picture.is_displayed()]
    return shown


def hints_of(browser: webdriver.Chrome, name: str) -> dict[str, Any]:
    script = figure(browser, name).find_element(By.CSS_SELECTOR, "script")
    hints: dict[str, Any] = json.loads(script.get_attribute("textContent") or "")
    return hints


def put_mouse_aside(browser: webdriver.Chrome) -> None:
    """To where no figure is: what scrolls below a resting mouse is pointed at, too."""
    actions = ActionChains(browser)
    actions.w3c_actions.pointer_action.move_to_location(2, 2)
    actions.perform()


def point_at(browser: webdriver.Chrome, name: str, x: float, y: float) -> None:
    """Move the mouse to a place in the coordinates of a figure's SVG."""
    svg = drawn(browser, name)
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", svg)
    place = browser.execute_script(
        "const p = new DOMPoint(arguments[1], arguments[2])"
        ".matrixTransform(arguments[0].getScreenCTM()); return [p.x, p.y]",
        svg, x, y,
    )  # fmt: skip
    actions = ActionChains(browser)
    actions.w3c_actions.pointer_action.move_to_location(round(place[0]), round(place[1]))
    actions.perform()


@pytest.mark.parametrize(
    ("width", "scheme"),
    [(LARGE, "light"), (TABLET, "dark"), (PHONE, "light"), (PHONE, "dark")],
)
@pytest.mark.parametrize("page", ["mlp/report", "tms/report", "transformer/report", "compare"])
def test_pages_render_without_errors_and_never_wider_than_the_screen(
    browser: webdriver.Chrome, runs: dict[str, Run], page: str, width: int, scheme: str
) -> None:
    load(browser, runs["mlp"].path.parent / f"{page}.html", width, scheme)

    assert browser.get_log("browser") == []
    wide, seen = browser.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
    assert wide <= seen
    drawings = [
        d for d in browser.find_elements(By.CSS_SELECTOR, "svg.drawing") if d.is_displayed()
    ]
    assert drawings
    assert all(drawing.size["height"] > 50 for drawing in drawings)
    ink, paper = browser.execute_script(
        "const s = getComputedStyle(document.body); return [s.color, s.backgroundColor]"
    )
    brightness = [sum(map(int, c.split("(")[1].rstrip(")").split(",")[:3])) for c in (ink, paper)]
    assert abs(brightness[0] - brightness[1]) > 500
    assert (brightness[1] > brightness[0]) == (scheme == "light")
    ticks = browser.execute_script(
        "return getComputedStyle(document.querySelector('svg.drawing text')).fill"
    )
    assert ticks == ink
    sizes = browser.execute_script(
        "return [...document.querySelectorAll('svg.drawing')]"
        ".filter((s) => s.getClientRects().length)"
        ".flatMap((s) => [...s.querySelectorAll('text')].map((t) => "
        "parseFloat(getComputedStyle(t).fontSize) * s.getScreenCTM().d))"
    )
    assert min(sizes) >= 9.95


def test_pointing_at_a_mark_says_mode_eigenvalue_and_feature(
    browser: webdriver.Chrome, runs: dict[str, Run]
) -> None:
    load(browser, runs["mlp"].path / "report.html")
    all_side_by_side(browser)
    points = hints_of(browser, "spectra")["panels"][0]["points"]

    point_at(browser, "spectra", points["x"][3], points["y"][3])

    assert hint(browser) == points["texts"][3]
    assert hint(browser).startswith("mode 3: eigenvalue ")
    point_at(browser, "spectra", 1, 1)
    assert hint(browser) == ""


def test_pointing_at_a_cell_says_row_column_and_value(
    browser: webdriver.Chrome, runs: dict[str, Run]
) -> None:
    load(browser, runs["mlp"].path / "report.html")
    cells = hints_of(browser, "alignment")["panels"][0]["cells"]
    column = cells["columns"].index("sum = identity of n+m")
    x, y = (cells["origin"][i] + cells["step"][i] * (column, 1)[i] for i in (0, 1))

    point_at(browser, "alignment", x, y)

    value = f"{cells['values'][1][column]:g}"
    assert hint(browser) == f"{cells['rows'][1]}; sum = identity of n+m: {value} % after training"


def test_the_slider_moves_the_marks_and_says_where_it_is(
    browser: webdriver.Chrome, runs: dict[str, Run]
) -> None:
    load(browser, runs["mlp"].path / "report.html")
    of_slider = figure(browser, "spectra-over-training")
    slider, output = (of_slider.find_element(By.TAG_NAME, tag) for tag in ("input", "output"))

    def heights() -> list[str | None]:
        circles = of_slider.find_elements(By.CSS_SELECTOR, "circle.moving")
        return [circle.get_attribute("cy") for circle in circles]

    last, shown_last = heights(), output.text
    slider.send_keys(Keys.HOME)
    first, shown_first = heights(), output.text

    assert shown_last.startswith("epoch 40: test accuracy")
    assert shown_first.startswith("epoch 0: test accuracy")
    assert slider.get_attribute("aria-valuetext") == shown_first
    assert len(first) == len(last) > 0
    assert first != last


def test_the_hint_stays_with_its_mark_when_the_page_scrolls(
    browser: webdriver.Chrome, runs: dict[str, Run]
) -> None:
    load(browser, runs["mlp"].path / "report.html")
    put_mouse_aside(browser)
    all_side_by_side(browser)
    svg = drawn(browser, "spectra")
    browser.execute_script("arguments[0].focus()", svg)
    svg.send_keys(Keys.ARROW_RIGHT)

    def distance() -> float:
        """From the mark down to the hint, in pixels."""
        pixels: float = browser.execute_script(
            "const top = (e) => e.getBoundingClientRect().top;"
            "return top(document.getElementById('hint'))"
            " - top(document.querySelector('#spectra .mark'))"
        )
        return pixels

    before = distance()
    browser.execute_async_script(
        "scrollBy(0, 60); requestAnimationFrame(() => requestAnimationFrame(arguments[0]))"
    )

    assert hint(browser) != ""
    assert abs(distance() - before) < 2


def test_figures_can_be_read_with_the_keyboard_alone(
    browser: webdriver.Chrome, runs: dict[str, Run]
) -> None:
    load(browser, runs["mlp"].path / "report.html")
    put_mouse_aside(browser)
    all_side_by_side(browser)
    panels = hints_of(browser, "spectra")["panels"]
    for _ in range(60):
        browser.switch_to.active_element.send_keys(Keys.TAB)
        focused = browser.switch_to.active_element
        inside = browser.execute_script("return arguments[0].closest('figure')?.id", focused)
        if inside == "spectra" and focused.tag_name == "svg":
            break
    else:
        pytest.fail("the Tab key never reaches the spectra")

    said = []
    for key in (Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.END, Keys.PAGE_DOWN, Keys.ESCAPE):
        focused.send_keys(key)
        said.append(hint(browser))

    first, second = (panel["points"]["texts"] for panel in panels[:2])
    assert said == [first[0], first[1], first[-1], second[0], ""]


def test_one_spectrum_is_drawn_large_on_a_logarithmic_or_a_linear_scale(
    browser: webdriver.Chrome, runs: dict[str, Run]
) -> None:
    load(browser, runs["mlp"].path / "report.html", LARGE)
    panels = hints_of(browser, "spectra")["panels"]
    of_figure = figure(browser, "spectra")

    def heights() -> list[float]:
        circles = drawn(browser, "spectra").find_elements(By.CSS_SELECTOR, "circle.eigenvalue")
        return [float(circle.get_attribute("cy") or "nan") for circle in circles]

    def label() -> str:
        return drawn(browser, "spectra").get_attribute("aria-label") or ""

    assert label() == "Eigenvalues of whole kernel by mode, logarithmic scale"
    assert len(heights()) == len(panels[0]["spectrum"]["values"]) > 10
    logarithmic = heights()

    picker(browser).select_by_visible_text("readout.weight")
    assert label() == "Eigenvalues of readout.weight by mode, logarithmic scale"
    assert heights() != logarithmic
    picker(browser).select_by_index(0)
    log = of_figure.find_element(By.CSS_SELECTOR, "input[value=log]")
    log.send_keys(Keys.ARROW_RIGHT)

    assert label().endswith("linear scale")
    linear, values = heights(), panels[0]["spectrum"]["values"]
    share = (linear[2] - linear[1]) / (linear[1] - linear[0])
    assert share == pytest.approx((values[2] - values[1]) / (values[1] - values[0]), abs=0.05)

    drawn(browser, "spectra").send_keys(Keys.ARROW_RIGHT)
    assert hint(browser) == panels[0]["points"]["texts"][0]
    all_side_by_side(browser)
    assert len(drawn(browser, "spectra").find_elements(By.CSS_SELECTOR, "circle")) == 0


def table(browser: webdriver.Chrome, title: str) -> WebElement:
    """The table with a title that begins like this, opened."""
    for found in browser.find_elements(By.CSS_SELECTOR, "details.table"):
        heading = found.find_element(By.CSS_SELECTOR, "summary > :first-child")
        if title in heading.text:
            browser.execute_script("arguments[0].open = true", found)
            return found
    raise AssertionError(f"there is no table {title}")


def column(of_table: WebElement, number: int) -> list[str]:
    """The texts of a column's cells that are shown."""
    shown: list[str] = of_table.parent.execute_script(
        "return [...arguments[0].querySelectorAll('tbody tr')].filter((row) => !row.hidden)"
        ".map((row) => row.cells[arguments[1]].innerText.trim())",
        of_table, number,
    )  # fmt: skip
    return shown


def test_tables_are_sorted_by_their_heads_and_by_the_keyboard(
    browser: webdriver.Chrome, runs: dict[str, Run]
) -> None:
    load(browser, runs["mlp"].path / "report.html", LARGE)
    of_table = table(browser, "What the whole eNTK adds")
    head = of_table.find_element(By.CSS_SELECTOR, "th:nth-child(3)")
    sorts = head.find_element(By.TAG_NAME, "button")
    as_given = column(of_table, 2)

    sorts.send_keys(Keys.ENTER)
    assert [float(cell) for cell in column(of_table, 2)] == sorted(map(float, as_given))
    assert head.get_attribute("aria-sort") == "ascending"
    assert "sorted by eNTK, ascending" in said(browser)
    sorts.send_keys(Keys.ENTER)
    assert [float(cell) for cell in column(of_table, 2)] == sorted(map(float, as_given))[::-1]
    sorts.send_keys(Keys.ENTER)
    assert column(of_table, 2) == as_given
    assert head.get_attribute("aria-sort") is None


def test_rows_that_go_on_with_the_one_above_stay_with_it(
    browser: webdriver.Chrome, runs: dict[str, Run]
) -> None:
    load(browser, runs["mlp"].path / "report.html", LARGE)
    of_table = table(browser, "Overlap")
    before = list(zip(*(column(of_table, i) for i in range(4)), strict=True))

    of_table.find_element(By.CSS_SELECTOR, "th:nth-child(4) button").click()

    after = list(zip(*(column(of_table, i) for i in range(4)), strict=True))
    assert sorted(after) == sorted(before)
    assert after != before
    chance = {row: before[i + 1] for i, row in enumerate(before[:-1]) if before[i + 1][0] == ""}
    assert all(after[after.index(row) + 1] == below for row, below in chance.items())


def said(browser: webdriver.Chrome) -> str:
    return browser.find_element(By.ID, "said").get_attribute("textContent") or ""


def test_long_tables_are_closed_and_say_how_many_rows_they_have(
    browser: webdriver.Chrome, runs: dict[str, Run]
) -> None:
    load(browser, runs["tms"].path / "report.html", LARGE)
    tables = browser.find_elements(By.CSS_SELECTOR, "details.table")

    rows = [len(t.find_elements(By.CSS_SELECTOR, "tbody tr")) for t in tables]
    assert [bool(t.get_attribute("open")) for t in tables] == [count <= 24 for count in rows]
    assert all(
        f", {count} row" in t.find_element(By.CLASS_NAME, "count").text
        for t, count in zip(tables, rows, strict=True)
    )


def test_tables_are_copied_and_saved_and_figures_saved(
    browser: webdriver.Chrome, runs: dict[str, Run], tmp_path: Path
) -> None:
    """In files that the page makes by itself: nothing leaves it."""
    load(browser, runs["mlp"].path / "report.html", LARGE)
    browser.execute_cdp_cmd(
        "Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)}
    )
    browser.execute_cdp_cmd(
        "Browser.grantPermissions",
        {"permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]},
    )
    of_table = table(browser, "What the whole eNTK adds")
    copy, csv_button = of_table.find_elements(By.CSS_SELECTOR, ".tools button")

    copy.send_keys(Keys.ENTER)
    WebDriverWait(browser, 5).until(lambda b: said(b).startswith("Copied"))
    copied = browser.execute_async_script("navigator.clipboard.readText().then(arguments[0])")
    csv_button.send_keys(Keys.ENTER)
    figure(browser, "spectra").find_element(By.CSS_SELECTOR, ".tools button").send_keys(Keys.ENTER)
    WebDriverWait(browser, 10).until(
        lambda _: {path.suffix for path in tmp_path.iterdir()} == {".csv", ".svg"}
    )

    heads = ["modes", "family", "eNTK", "best control"]
    assert copied.splitlines()[0].split("\t")[:4] == heads
    saved = {path.suffix: path.read_text(encoding="utf-8-sig") for path in tmp_path.iterdir()}
    rows = list(csv.reader(io.StringIO(saved[".csv"])))
    assert rows == [line.split("\t") for line in copied.splitlines()]
    picture = ElementTree.fromstring(saved[".svg"])
    assert picture.tag.endswith("svg")
    assert "var(" not in saved[".svg"]
    assert browser.get_log("browser") == []


def test_families_of_one_space_are_folded_into_one_row(
    browser: webdriver.Chrome, tmp_path: Path
) -> None:
    rows = [("0", "n", "98.0"), ("0", "=m", "3.0"), ("0", "2n", "98.0")]
    page = Report(
        title="<b>", summary="", overview=Table("Run", ("", ""), [("p", "5")]), command="",
        pages=[], figures=[],
        tables=[Table("Held", ("modes", "family", "%"), rows, same=[[0, 2]])],
    )  # fmt: skip
    write_page(page, tmp_path / "page.html")
    load(browser, tmp_path / "page.html", LARGE)
    held = table(browser, "Held")

    toggle = held.find_element(By.CLASS_NAME, "folds")
    assert [cell.split("\n")[0] for cell in column(held, 2)] == ["98.0", "3.0"]
    assert column(held, 1)[0].startswith("n = 2n")
    toggle.send_keys(Keys.ENTER)

    assert column(held, 1)[1:] == ["n", "2n", "=m"]
    assert toggle.get_attribute("aria-expanded") == "true"
    quoted = browser.execute_script("return document.querySelectorAll('b').length")
    assert quoted == 0


def test_the_contents_lead_to_every_part_and_mark_the_one_in_view(
    browser: webdriver.Chrome, runs: dict[str, Run]
) -> None:
    load(browser, runs["mlp"].path / "report.html", LARGE)
    nav = browser.find_element(By.CSS_SELECTOR, "nav.contents")
    links = nav.find_elements(By.TAG_NAME, "a")

    assert [link.text.split()[0] for link in links][:4] == ["1", "2", "3", "3.1"]
    targets = [link.get_attribute("hash") or "" for link in links]
    assert all(browser.find_elements(By.CSS_SELECTOR, target) for target in targets)
    alignment = next(link for link in links if link.get_attribute("hash") == "#alignment")
    alignment.click()

    def current() -> list[str]:
        marked = nav.find_elements(By.CSS_SELECTOR, "[aria-current]")
        return [link.get_attribute("hash") or "" for link in marked]

    WebDriverWait(browser, 5).until(lambda _: current() == ["#alignment"])
    assert nav.is_displayed()
    assert 0 <= nav.rect["y"] - browser.execute_script("return scrollY") < 20
    assert nav.rect["x"] + nav.rect["width"] < figure(browser, "alignment").rect["x"]
    main = browser.find_element(By.CSS_SELECTOR, "main").rect
    assert main["width"] > 1350

    load(browser, runs["mlp"].path / "report.html", PHONE)
    nav = browser.find_element(By.CSS_SELECTOR, "nav.contents")
    assert not nav.find_element(By.TAG_NAME, "a").is_displayed()
    nav.find_element(By.TAG_NAME, "summary").click()
    assert nav.find_element(By.TAG_NAME, "a").is_displayed()


def test_status_chips_say_what_the_figures_support(
    browser: webdriver.Chrome, runs: dict[str, Run]
) -> None:
    load(browser, runs["mlp"].path / "report.html", LARGE)

    chips = [chip.text for chip in browser.find_elements(By.CSS_SELECTOR, ".chips li")]

    assert "cliff" in chips[0]
    assert any("verify" in chip for chip in chips)


def test_reports_print(browser: webdriver.Chrome, runs: dict[str, Run]) -> None:
    load(browser, runs["mlp"].path / "report.html", scheme="dark")
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})

    paper = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    slider = browser.find_element(By.CSS_SELECTOR, ".slider input")
    pdf = browser.print_page()

    assert paper == "rgb(255, 255, 255)"
    assert not slider.is_displayed()
    assert len(pdf) > 50_000  # base64 of several pages with figures
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
