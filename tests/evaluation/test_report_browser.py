"""The report in a real browser: whole texts on every screen and on paper, tables that the keyboard scrolls, no request,
no error."""

import pytest
import test_report_page
from chromium import SCREENS, browser, settled, visit  # noqa: F401, two fixtures

CAPTIONS = {"short": "sit", "long": "a person walks slowly forward in a circle and then sits down again " * 3,
            "from right to left": "شخص يمشي إلى الأمام ببطء ثم يجلس على كرسي", 
            "wide": "一个人慢慢地向前走，然后停下来" * 3,
            "one word": "w" * 200}
PROBLEMS = """() => {
  const found = [], root = document.documentElement, box = (element) => element.getBoundingClientRect();
  const within = (a, b) =>
    a.left >= b.left - 1 && a.right <= b.right + 1 && a.top >= b.top - 1 && a.bottom <= b.bottom + 1;
  if (root.scrollWidth > innerWidth) found.push(`the page is ${root.scrollWidth} wide`);
  for (const element of document.querySelectorAll("h1, h2, h3, p, dt, dd, th, td, bdi, svg, .card")) {
    if (!element.checkVisibility()) continue;  // folded
    const holder = element.closest("td, th") ? element.closest("table") : document.querySelector("main");
    if (!within(box(element), box(holder))) found.push(`${element.tagName} ${element.textContent.slice(0, 20)}: cut`);
  }
  for (const cell of document.querySelectorAll("th, td")) {
    if (!cell.checkVisibility()) continue;
    const range = document.createRange();
    range.selectNodeContents(cell);
    if (box(range).right > box(cell).right + 1) found.push(`${cell.textContent.slice(0, 20)}: covers the next cell`);
  }
  for (const svg of document.querySelectorAll("svg")) {
    if (!svg.checkVisibility()) continue;
    const texts = [...svg.querySelectorAll("text")];
    texts.forEach((text, i) => {
      const a = box(text);
      if (!within(a, box(svg))) found.push(`${text.textContent}: outside its chart`);
      const pixels = parseFloat(getComputedStyle(text).fontSize) * box(svg).width / svg.viewBox.baseVal.width;
      if (pixels < 8.5) found.push(`${text.textContent}: ${pixels} pixels`);
      for (const other of texts.slice(i + 1)) {
        const b = box(other);
        if (a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 2 && b.top < a.bottom - 2) {
          found.push(`${text.textContent} on ${other.textContent}`);
        }
      }
    });
  }
  return found;
}"""


def unfold(page, unfolded: bool = True) -> None:
    page.evaluate("(open) => document.querySelectorAll('details').forEach((part) => { part.open = open; })", unfolded)


@pytest.fixture
def opened(visit, tmp_path, monkeypatch):  # noqa: F811
    """open(caption, width, height, colours) -> the report."""

    def open_page(caption: str, width: int, height: int, colours: str = "light"):
        monkeypatch.setattr(test_report_page, "NASTY", caption)
        test_report_page.page(tmp_path)
        return visit((tmp_path / "report.html").as_uri(), width, height, colours)

    return open_page


@pytest.mark.parametrize("caption", CAPTIONS)
def test_texts_are_whole_on_every_screen_and_on_paper_folded_and_unfolded(opened, caption):
    page, found = opened(CAPTIONS[caption], *SCREENS[0]), {}
    for unfolded in (False, True):
        unfold(page, unfolded)
        for width, height in SCREENS:
            settled(page, width, height)
            found[unfolded, width, height] = page.evaluate(PROBLEMS)
        settled(page, 718, 1040)  # A4 less Chromium's margins
        page.emulate_media(media="print")
        found[unfolded, "print"] = page.evaluate(PROBLEMS)
        page.emulate_media(media="screen")
    assert found == dict.fromkeys(found, [])


def test_the_keyboard_unfolds_a_part(opened):
    page = opened("sit", 1280, 720)
    summary = page.locator("summary").first
    assert not page.get_by_role("region", name="All captions", exact=True).is_visible()
    page.keyboard.press("Tab")
    assert page.evaluate("() => document.activeElement.tagName") == "SUMMARY"
    page.keyboard.press("Enter")
    assert page.get_by_role("region", name="All captions", exact=True).is_visible()
    assert summary.text_content() == "All figures"


def test_the_clips_are_drawn_in_place_and_play(visit, tmp_path):  # noqa: F811
    from walker import walks

    from motion_llm.viewer.figure import Clip
    from motion_llm.viewer.page import page as viewer_page

    clips = [Clip(motion, f"{label}: a walk", note) for motion, label in zip(walks(), ("Good", "Typical", "Worst"),
             strict=False) for note in ("generated", "real")]
    test_report_page.page(tmp_path, figures=viewer_page(clips, group=2))
    page = visit((tmp_path / "report.html").as_uri(), 1280, 900)
    frame = page.frame_locator("iframe.figures")
    for width, height in SCREENS:
        settled(page, width, height)
        page.locator("iframe.figures").scroll_into_view_if_needed()
        frame.locator("canvas").nth(5).wait_for()
        inside = page.frames[1]
        inside.wait_for_function("() => document.documentElement.dataset.drawn >= 1")
        assert inside.evaluate("() => document.documentElement.scrollHeight <= innerHeight"), (width, height)
        assert inside.evaluate("() => Math.min(...[...document.querySelectorAll('canvas')].map((c) => c.clientHeight))"
                               ) >= 110, (width, height)
    frame.get_by_role("button", name="Pause").click()
    assert frame.get_by_role("button", name="Play").is_visible()


def test_the_keyboard_scrolls_a_wide_table(opened):
    page = opened("sit", 360, 780)
    unfold(page)
    tables = page.get_by_role("region", name="All captions", exact=True)
    tables.focus()
    assert page.evaluate("() => document.activeElement.className") == "wide"
    page.keyboard.press("ArrowRight")
    page.wait_for_function("() => document.activeElement.scrollLeft > 0")


def test_a_screen_reader_hears_rows_columns_and_charts(opened):
    page = opened("sit", 1280, 720)
    unfold(page)
    assert page.get_by_role("columnheader", name="95 % interval").count() >= 3
    assert page.get_by_role("rowheader", name="sit", exact=True).count() >= 1
    assert page.get_by_role("img", name="R-Precision top 3 ↑: model 0.123").count() == 1


@pytest.mark.parametrize("colours", ["light", "dark"])
def test_it_follows_light_and_dark(opened, colours):
    light = opened("sit", 1280, 720, colours).evaluate("""() => getComputedStyle(document.body).backgroundColor
        .match(/\\d+/g).every((c) => c > 128)""")
    assert light == (colours == "light")
