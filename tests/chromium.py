"""A real browser for the tests of pages: the package playwright with the Chromium that CHROMIUM names, or the
distribution's. Modules that import this are skipped, with the reason, where one of them is missing."""

import os
import shutil

import pytest

playwright = pytest.importorskip("playwright.sync_api", reason="no browser tests: the package playwright is missing")
CHROMIUM = os.environ.get("CHROMIUM") or next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
if not CHROMIUM:
    pytest.skip("no browser tests: no Chromium; name one by CHROMIUM=path", allow_module_level=True)

SCREENS = [(1920, 1080), (360, 780), (768, 1024), (1280, 720), (1300, 1400), (1440, 900), (2560, 1440)]


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])  # as root in a container
        yield chromium
        chromium.close()


@pytest.fixture
def visit(browser):
    """visit(address, width, height, colours) -> the page; afterwards no page has asked for another address or told of
    an error. More arguments: those of the browser's context."""
    contexts, told, asked, visited = [], [], set(), set()

    def open_page(address: str, width: int, height: int, colours: str = "light", **options):
        visited.add(address.split("#")[0])
        contexts.append(browser.new_context(viewport={"width": width, "height": height}, color_scheme=colours,
                                            **options))
        page = contexts[-1].new_page()
        page.on("console", lambda message: told.append(message.text))
        page.on("pageerror", lambda error: told.append(str(error)))
        page.on("request", lambda request: asked.add(request.url.split("#")[0]))
        page.goto(address)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert told == [] and asked == visited


def settled(page, width: int | None = None, height: int | None = None) -> None:
    """Wait until the page has been laid out and drawn, after a change of its window's size where one is given: the
    window has its size first, then an observer tells of it, and the frame after that draws."""
    if width is not None:
        page.set_viewport_size({"width": width, "height": height})
        page.wait_for_function(f"innerWidth === {width} && innerHeight === {height}")
    for _ in range(4):
        page.evaluate("() => new Promise((done) => requestAnimationFrame(done))")
