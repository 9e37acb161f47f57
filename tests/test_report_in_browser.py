"""Reports and comparisons in a real headless Chromium, at the width of a laptop and of a phone.

Where there is no Chromium the tests are left out; in CI they have to run.
"""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

from mlx_entk.runs import Run
from mlx_entk.studies import modular_mlp, modular_transformer, toy_models
from mlx_entk.studies.compare import compare
from mlx_entk.studies.reporting import write_comparison
from mlx_entk.studies.running import run_study
from tests.chromium import LAPTOP, PHONE, chromium, load, needs_chromium

pytestmark = needs_chromium


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
    svg = figure(browser, name).find_element(By.CSS_SELECTOR, "svg")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", svg)
    place = browser.execute_script(
        "const p = new DOMPoint(arguments[1], arguments[2])"
        ".matrixTransform(arguments[0].getScreenCTM()); return [p.x, p.y]",
        svg, x, y,
    )  # fmt: skip
    actions = ActionChains(browser)
    actions.w3c_actions.pointer_action.move_to_location(round(place[0]), round(place[1]))
    actions.perform()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [LAPTOP, PHONE])
@pytest.mark.parametrize("page", ["mlp/report", "tms/report", "transformer/report", "compare"])
def test_pages_render_without_errors_and_never_wider_than_the_screen(
    browser: webdriver.Chrome, runs: dict[str, Run], page: str, width: int, scheme: str
) -> None:
    load(browser, runs["mlp"].path.parent / f"{page}.html", width, scheme)

    assert browser.get_log("browser") == []
    wide, seen = browser.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
    assert wide <= seen
    drawings = browser.find_elements(By.CSS_SELECTOR, "svg.drawing")
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


def test_pointing_at_a_mark_says_mode_eigenvalue_and_feature(
    browser: webdriver.Chrome, runs: dict[str, Run]
) -> None:
    load(browser, runs["mlp"].path / "report.html")
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
    column = cells["columns"].index("sum")
    x, y = (cells["origin"][i] + cells["step"][i] * (column, 1)[i] for i in (0, 1))

    point_at(browser, "alignment", x, y)

    value = f"{cells['values'][1][column]:g}"
    assert hint(browser) == f"{cells['rows'][1]}; sum: {value} % after training"


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
    svg = figure(browser, "spectra").find_element(By.CSS_SELECTOR, "svg")
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
