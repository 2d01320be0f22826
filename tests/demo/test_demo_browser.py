"""The demo's page in a real browser: whole on every screen, light and dark, labelled, no request to another host."""

import time

import pytest

pytest.importorskip("gradio", reason="no tests of the demo's page: Gradio is missing (requirements-demo.txt)")
from chromium import browser  # noqa: E402, F401, a fixture
from test_page import served  # noqa: E402, F401, a fixture

from motion_llm.demo.page import Page  # noqa: E402
from motion_llm.demo.questions import figures_html  # noqa: E402

# What a person would see to be wrong, as a list of texts.
PROBLEMS = """() => {
  const found = [], root = document.documentElement;
  if (root.scrollWidth > innerWidth) found.push(`the page is ${root.scrollWidth} wide, the window ${innerWidth}`);
  const shown = (element) => element.checkVisibility() && element.getBoundingClientRect().width > 0;
  for (const element of document.querySelectorAll("h1, p, button, a, label, legend, input, textarea")) {
    const box = element.getBoundingClientRect();
    if (!shown(element) || box.width < 2) continue;
    if (box.right > innerWidth + 1 || box.left < -1) found.push(`${element.tagName} ${element.textContent}: cut`);
    if (element.matches("button, a, p") && !element.querySelector(".icon")
        && element.clientWidth && element.scrollWidth > element.clientWidth + 1)
      found.push(`${element.tagName} ${element.textContent}: text cut`);
  }
  for (const element of document.querySelectorAll("input, textarea, button, a, iframe")) {
    const name = element.ariaLabel || element.title || element.textContent.trim() || element.placeholder ||
      [...(element.labels || [])].map((label) => label.textContent.trim()).join("");
    if (shown(element) && !name && !element.getAttribute("aria-labelledby"))
      found.push(`no name: ${element.outerHTML.slice(0, 90)}`);
  }
  return found;
}"""


@pytest.fixture
def visit(browser, served):  # noqa: F811
    """visit(width, height, colours) -> the page; afterwards no other host was asked and nothing went wrong."""
    contexts, told, hosts = [], [], set()

    def open_page(width: int, height: int, colours: str = "light"):
        contexts.append(browser.new_context(viewport={"width": width, "height": height}, color_scheme=colours,
                                            accept_downloads=True))
        contexts[-1].set_default_timeout(120_000)  # milliseconds; a busy machine takes half a minute for the page
        page = contexts[-1].new_page()
        page.on("console", lambda message: told.append(message.text))
        page.on("pageerror", lambda error: told.append(str(error)))
        page.on("request", lambda request: request.url.startswith("http") and hosts.add(request.url.split("/")[2]))
        page.on("response", lambda response: response.status >= 400 and told.append(response.url))
        page.goto(served[1])
        page.wait_for_selector("#sentence textarea")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert told == [] and hosts == {served[1].split("/")[2]}


def answered(page, sentence: str = "a person bows") -> None:
    page.fill("#sentence textarea", sentence)
    page.click("#generate")
    page.wait_for_selector("#earlier input")
    page.wait_for_function("() => document.querySelector('#status').innerText.includes('seed')")
    frame = page.frame_locator("iframe.figures")
    frame.locator("canvas").nth(1).wait_for()
    page.wait_for_timeout(300)


@pytest.mark.parametrize(("width", "height"), [(360, 780), (768, 1024), (1280, 720), (1440, 900), (1920, 1080),
                                              (2560, 1440)])
@pytest.mark.parametrize("colours", ["light", "dark"])
def test_nothing_is_cut_and_everything_has_a_name(visit, width, height, colours):
    page = visit(width, height, colours)
    assert page.evaluate(PROBLEMS) == []
    answered(page)
    assert page.evaluate(PROBLEMS) == []
    page.locator("iframe.figures").scroll_into_view_if_needed()
    figures = page.frames[-1]
    assert figures.evaluate("document.documentElement.dataset.error ?? null") is None
    assert figures.evaluate("Number(document.documentElement.dataset.drawn)") == 2
    assert figures.evaluate("document.documentElement.dataset.theme") == colours
    for name in ("Scene", "Describe", "Edit"):
        page.get_by_role("tab", name=name).click()
        page.wait_for_timeout(300)
        assert page.evaluate(PROBLEMS) == []


def test_figures_that_come_while_the_last_are_being_drawn_are_shown(visit, monkeypatch):
    def two_answers_at_once(self, make, answers, request):
        clip = self.models.main.clip((1, 2, 3), make().request.text)
        for count in (1, 2):
            yield {self.figures: figures_html([clip] * count)}

    monkeypatch.setattr(Page, "_follow", two_answers_at_once)
    page = visit(1280, 720)
    for sentence in ("a person bows", "a person kicks", "a person jumps", "a person waves", "a person sits"):
        page.fill("#sentence textarea", sentence)  # a browser dropped the second in one of three tries
        page.click("#generate")
        page.frame_locator("iframe[title='Moving figures: 2']").get_by_text(sentence).nth(1).wait_for()


def test_the_figures_need_no_scrolling_on_a_laptop(visit):
    page = visit(1280, 720)
    answered(page)
    for place in ("iframe.figures", "#tokens", "#links", "#generate"):
        box = page.locator(place).bounding_box()
        assert box["y"] >= 0 and box["y"] + box["height"] <= 720, place
    assert page.locator("iframe.figures").bounding_box()["height"] > 400


def test_a_file_is_downloaded_and_the_history_goes_back(visit):
    page = visit(1280, 720)
    answered(page)
    with page.expect_download() as download:
        page.get_by_role("link", name="Download clip 1 as BVH").click()
    assert download.value.suggested_filename == "a_person_bows_1.bvh"
    assert download.value.path().read_text().startswith("HIERARCHY")
    first = page.locator("#tokens textarea, #tokens input").input_value()
    page.fill("#sentence textarea", "a person kicks")
    page.click("#generate")
    page.get_by_label("2. a person kicks").wait_for()
    page.get_by_label("1. a person bows").check()
    page.wait_for_function("(first) => document.querySelector('#tokens textarea, #tokens input').value === first",
                           arg=first)


def test_a_closed_tab_leaves_the_queue(visit, served):  # noqa: F811
    page, worker = visit(1280, 720), served[0].worker
    page.get_by_label("Length from the sentence").uncheck()
    page.get_by_label("Variants (1 to 24)").first.fill("24")
    page.fill("#sentence textarea", "a person runs")
    page.click("#generate")
    page.wait_for_function("() => document.querySelector('#status').innerText.includes('decoded')")
    page.context.close()
    for _ in range(100):
        if not worker._open:
            break
        time.sleep(0.2)
    assert not worker._open
