"""A real headless Chromium for tests of pages, at the width of a laptop and of a phone."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from selenium import webdriver

_NAMES = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
)
BROWSER = next(filter(None, map(shutil.which, _NAMES)), None)
CI = os.environ.get("CI") == "true"
needs_chromium = pytest.mark.skipif(
    BROWSER is None and not CI, reason="no Chromium on this machine"
)

LAPTOP, PHONE = 1280, 390
ARGUMENTS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--no-first-run",
)  # fmt: skip


@contextmanager
def chromium() -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER or "chromium"
    for argument in ARGUMENTS:
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = shutil.which("chromedriver")
    service = webdriver.ChromeService(driver) if driver else None
    chrome = webdriver.Chrome(options, service)
    try:
        yield chrome
    finally:
        chrome.quit()


def load(
    browser: webdriver.Chrome,
    page: Path,
    width: int = LAPTOP,
    scheme: str = "light",
    fragment: str = "",
) -> None:
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width == PHONE}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    browser.get("about:blank")  # from the same page, a fragment would load nothing
    browser.get(page.as_uri() + fragment)
