"""The viewer's page in a real browser: whole texts and figures on every screen and on paper, keys, the sentences of
scenes, no request or error.

Needs the package playwright and a Chromium: the one that the variable CHROMIUM names, or the distribution's.
"""

import re

import pytest
from chromium import SCREENS, browser, settled, visit  # noqa: F401, two fixtures
from walker import walk

from motion_llm.viewer.figure import Clip, Span
from motion_llm.viewer.page import write_page

SHORT, LONG = "sit", ("a person walks slowly forward in a wide circle, stops for a moment, looks around over the left "
                      "shoulder, lifts both hands up high above the head and then sits down on a chair, very tired")
RIGHT_TO_LEFT = "شخص يمشي إلى الأمام ببطء ثم يجلس على كرسي"
WIDE = "一个人慢慢地向前走，然后停下来，举起双手，再坐到椅子上"
PAGES = {  # name -> (clips, clips in a group, caption)
    "the gallery": (12, 2, "the person jumps with arms and legs apart"), "twelve long": (12, 1, LONG),
    "pairs of long": (12, 2, LONG), "twelve short": (12, 1, SHORT), "one short": (1, 1, SHORT),
    "one long": (1, 1, LONG),
    "from right to left, odd": (5, 2, RIGHT_TO_LEFT), "wide characters": (3, 1, WIDE), "one word": (2, 2, "w" * 200),
}
STORY = ("walks forward", "turns to the left", "sits down")
SCENES = {  # name -> (clips, clips in a group, caption, sentences)
    "a story": (1, 1, "", STORY), "one sentence": (1, 1, "", (SHORT,)),
    "twelve sentences": (1, 1, "", (SHORT, "waves", "turns around and bows") * 4),
    "twelve long sentences": (1, 1, "", (SHORT, *[LONG + " indeed"] * 11)),
    "sentences from right to left": (1, 1, RIGHT_TO_LEFT, (RIGHT_TO_LEFT, WIDE, "w" * 200)),
    "three stories": (3, 1, "a story", STORY), "pairs of stories": (12, 2, "", (WIDE, LONG, *STORY)),
    "twelve stories": (12, 1, "", tuple(f"{text}, then looks back" for text in STORY * 3)),
}

# What a person would see to be wrong, as a list of texts.
PROBLEMS = """() => {
  const found = [], box = (element) => element.getBoundingClientRect();
  const inside = (a, b) =>
    a.left >= b.left - 1 && a.right <= b.right + 1 && a.top >= b.top - 1 && a.bottom <= b.bottom + 1;
  const apart = (a, b) =>
    a.right <= b.left + 1 || b.right <= a.left + 1 || a.bottom <= b.top + 1 || b.bottom <= a.top + 1;
  const shown = (element) => box(element).width > 0 && element.checkVisibility({ visibilityProperty: true });
  const texts = [...document.querySelectorAll("figcaption span")].filter(shown);
  const brush = document.createElement("canvas").getContext("2d"), root = document.documentElement;
  const canvases = [...document.querySelectorAll("canvas")], controls = document.querySelector(".controls");
  if (root.scrollWidth > innerWidth) found.push("the page is wider than the window");
  for (const text of texts) {
    const style = getComputedStyle(text), holder = text.parentElement, said = text.textContent.slice(0, 20);
    brush.font = `${style.fontWeight} ${style.fontSize} ${style.fontFamily}`;
    const lines = box(text).height / parseFloat(style.lineHeight);
    const room = holder.clientWidth - parseFloat(getComputedStyle(holder).paddingLeft) * 2;
    const needed = brush.measureText(text.textContent).width / room;
    if (lines > 1.4 * needed + 1.5) found.push(`${said}: ${lines} lines, where ${needed} would do`);
    if (!inside(box(text), box(text.closest("figure"))) || text.scrollWidth > text.clientWidth + 1) {
      found.push(`${said}: cut`);
    }
    for (const other of [...texts, ...canvases]) {
      if (other !== text && !apart(box(text), box(other))) found.push(`${said}: covered`);
    }
    if (root.scrollHeight <= innerHeight && shown(controls) && !apart(box(text), box(controls))) {
      found.push(`${said}: under the controls`);
    }
  }
  const buttons = [...document.querySelectorAll("figcaption button")];
  buttons.forEach((button, i) => {
    const { width, height } = box(button), said = button.textContent.slice(0, 20);
    if (Math.min(width, height) < 24) found.push(`${said}: too small to press`);
    if (!inside(box(button), box(button.closest("figure")))) found.push(`${said}: a button cut`);
    for (const other of buttons.slice(0, i)) if (!apart(box(button), box(other))) found.push(`${said}: stacked`);
  });
  for (const control of controls.children) {
    if (shown(control) && !inside(box(control), box(controls))) found.push(`${control.id}: cut`);
  }
  if (panels.some((panel) => !panel.seen)) draw(true);  // also what is scrolled away
  const copy = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  canvases.forEach((canvas, i) => {
    const height = 200, width = Math.round(height * canvas.width / canvas.height);  // a small copy is quick to search
    Object.assign(copy.canvas, { width, height });
    copy.drawImage(canvas, 0, 0, width, height);
    const { data } = copy.getImageData(0, 0, width, height);
    let pixels = 0, top = height, bottom = 0, left = width, right = 0;
    for (let at = 0; at < width * height; at++) {  // blue and orange limbs
      if (Math.abs(data[4 * at] - data[4 * at + 2]) < 70) continue;
      const x = at % width, y = (at - x) / width;
      pixels++;
      top = Math.min(top, y); bottom = Math.max(bottom, y); left = Math.min(left, x); right = Math.max(right, x);
    }
    const high = (bottom - top) * box(canvas).height / height;
    if (pixels < 0.005 * width * height || high < 75) found.push(`figure ${i}: ${pixels} pixels, ${high} high`);
    if (left < 1 || top < 1 || right > width - 2 || bottom > height - 2) found.push(`figure ${i}: cut`);
    const stretch = box(canvas).width / box(canvas).height / canvas.width * canvas.height;
    if (Math.abs(stretch - 1) > 0.03) found.push(`figure ${i}: stretched by ${stretch}`);
  });
  return found;
}"""
CONTRAST = """(selector) => {  // of a text to what is behind it, by WCAG 2
  const element = document.querySelector(selector), colour = (text) => text.match(/[\\d.]+/g).map(Number);
  let behind = element;
  while (colour(getComputedStyle(behind).backgroundColor)[3] === 0) behind = behind.parentElement;
  const light = (text) => colour(text).slice(0, 3).map((c) => c / 255)
    .map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0.05);
  const [a, b] = [light(getComputedStyle(element).color), light(getComputedStyle(behind).backgroundColor)];
  return Math.max(a, b) / Math.min(a, b);
}"""


@pytest.fixture
def opened(visit, tmp_path):  # noqa: F811
    """open(name, width, height, colours) -> the page PAGES[name] or SCENES[name], at its first sentence."""

    def open_page(name: str, width: int, height: int, colours: str = "light"):
        count, group, caption, sentences = SCENES[name] if name in SCENES else (*PAGES[name], ())
        notes = ("generated, new caption\u00a0\u00b7 20 tokens, 4.0 s",
                 "real, through the codec\u00a0\u00b7 16 tokens, 3.2 s")
        path = tmp_path / "page.html"
        spans = tuple(Span(2.0 * i, 2.0 * i + 2, text) for i, text in enumerate(sentences))
        write_page(path, [Clip(walk(60 * len(spans) or 30, phase=i), caption, notes[i % 2], spans)
                          for i in range(count)], group)
        moment = 0.1 if spans else 0.5  # a scene's figure walks so far that a longer trail leaves the picture
        page = visit(path.as_uri() + f"#t={moment}&paused", width, height, colours, reduced_motion="reduce",
                     device_scale_factor=0.5)  # draws faster
        settled(page)
        return page

    return open_page


@pytest.mark.parametrize("name", [*PAGES, *SCENES])
def test_texts_are_whole_and_figures_drawn_on_every_screen(opened, name):
    page, found = opened(name, *SCREENS[0]), {}
    for width, height in SCREENS:
        settled(page, width, height)
        found[width, height] = page.evaluate(PROBLEMS)
    assert found == {screen: [] for screen in SCREENS}


def test_clips_of_a_group_have_their_common_caption_once_and_others_their_own(opened):
    def captions(name):
        return opened(name, 1280, 720).locator(".caption").all_inner_texts()
    assert captions("pairs of long") == [LONG] * 6 and captions("twelve long") == [LONG] * 12


def test_text_from_right_to_left_begins_at_the_right(opened):
    page = opened("from right to left, odd", 1280, 720)
    caption = page.locator(".caption").first
    assert caption.evaluate("(e) => getComputedStyle(e).direction") == "rtl"
    assert page.locator(".note").first.evaluate("(e) => getComputedStyle(e).direction") == "ltr"


@pytest.mark.parametrize("screen", [(360, 780), (1280, 720)])
def test_a_page_too_long_for_the_window_scrolls_to_figures_that_are_drawn(opened, screen):
    page = opened("twelve long", *screen)
    last = page.locator("canvas").last
    last.scroll_into_view_if_needed()
    page.wait_for_function("() => scrollY > 0 && panels.at(-1).seen && panels.at(-1).width > 60")
    settled(page)
    colours = last.evaluate("(canvas) => new Set(new Uint32Array(canvas.getContext('2d')"
                            ".getImageData(0, 0, canvas.width, canvas.height).data.buffer)).size")
    assert colours > 500
    controls, note = page.locator(".controls").bounding_box(), page.locator(".note").last
    assert controls["y"] + controls["height"] == pytest.approx(screen[1], abs=1)  # they stay on the screen
    page.evaluate("() => scrollTo(0, document.documentElement.scrollHeight)")
    note = note.bounding_box()
    assert note["y"] + note["height"] <= page.locator(".controls").bounding_box()["y"]


@pytest.mark.parametrize("colours", ["light", "dark"])
def test_texts_stand_out_in_light_and_dark(opened, colours):
    page = opened("the gallery", 1280, 720, colours)
    assert page.evaluate("() => document.documentElement.dataset.theme") == colours
    for selector in (".caption", ".note", "#time", ".sides", "#hint"):
        assert page.evaluate(CONTRAST, selector) >= 4.5, selector
    assert page.evaluate(PROBLEMS) == []


@pytest.mark.parametrize("screen", [(360, 780), (1280, 720)])
def test_the_keyboard_reaches_every_control_and_each_has_a_name(opened, screen):
    page, reached = opened("the gallery", *screen), []
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("() => document.activeElement.id || document.activeElement.tagName"))
        if reached[-1] == "hint":
            break
    assert reached == ["CANVAS"] * 12 + ["play", "scrub", "speed", "loop", "theme", "hint"]
    for role, name in (("button", "Play"), ("slider", "Time"), ("combobox", "Speed"), ("button", "Loop"),
                       ("button", "Light or dark"), ("button", "Help")):
        assert page.get_by_role(role, name=name, exact=True).is_visible(), name
    names = [page.locator("canvas").nth(i).get_attribute("aria-label") for i in (0, 1)]
    assert PAGES["the gallery"][2] in names[0] and names[0] != names[1]
    page.keyboard.press("Enter")
    settled(page)
    box = page.locator("#help").bounding_box()
    assert box["x"] >= 0 and box["y"] >= 0 and box["x"] + box["width"] <= screen[0]
    assert box["y"] + box["height"] <= page.locator(".controls").bounding_box()["y"] + 1
    page.keyboard.press("Escape")
    assert not page.locator("#help").is_visible()
    page.locator("#play").focus()
    page.keyboard.press("Space")
    assert page.get_by_role("button", name="Pause", exact=True).is_visible()


def current(page) -> str | None:
    """The sentence that a scene's page shows as the current one; where it is in words, that is the pressed button."""
    said = page.locator("ol [aria-current] .words, .said .current").all()
    shown = [text.inner_text() for text in said if text.is_visible()]
    assert len(shown) <= 1
    return shown[0] if shown else None


@pytest.mark.parametrize("name", ["a story", "twelve long sentences"])
def test_the_current_sentence_is_shown_and_the_figure_keeps_its_size(opened, name):
    page, sizes = opened(name, 360, 780), set()
    for i, text in enumerate(SCENES[name][3]):
        for seconds in (2 * i, 2 * i + 1.9):
            page.evaluate(f"() => setTime({seconds})")
            settled(page)
            assert current(page) == text
            sizes.add(tuple(page.locator("canvas").bounding_box().values()))
    assert len(sizes) == 1


def test_sentences_are_in_words_where_these_have_room(opened):
    page = opened("a story", 1280, 720)
    assert [text.inner_text() for text in page.locator("ol .words").all() if text.is_visible()] == list(STORY)
    for name, screen in (("twelve stories", (2560, 1440)), ("twelve long sentences", (1920, 1080))):
        page = opened(name, *screen)
        assert not any(text.is_visible() for text in page.locator("ol .words").all())
    assert page.locator("ol .number").all_inner_texts() == [str(i) for i in range(1, 13)]
    button = page.get_by_role("button", name=f"2 {LONG} indeed", exact=True)
    assert button.get_attribute("title") == f"{LONG} indeed (2.0 to 4.0 s)"


@pytest.mark.parametrize("name", ["a story", "three stories", "twelve sentences"])
def test_a_sentence_is_jumped_to_with_the_mouse_and_the_keyboard(opened, name):
    page, sentences = opened(name, 768, 1024), SCENES[name][3]

    def now() -> tuple:
        settled(page)
        return page.evaluate("() => time"), page.locator("[aria-current] .words").first.text_content()

    page.locator("ol button").nth(2).click()
    assert now() == (4, sentences[2])
    page.locator("ol button").nth(1).focus()
    page.keyboard.press("Enter")
    assert now() == (2, sentences[1])
    page.keyboard.press("n")
    assert now() == (4, sentences[2])
    page.evaluate("() => setTime(5)")
    page.keyboard.press("p")  # first to the start of the current one
    assert now() == (4, sentences[2])
    page.keyboard.press("p")
    assert now() == (2, sentences[1])
    page.evaluate("() => setTime(longest - 0.1)")
    page.keyboard.press("n")
    assert now() == (0, sentences[0])


@pytest.mark.parametrize(("name", "told"), [
    ("a story", list(STORY)), ("three stories", list(STORY)),
    ("twelve sentences", [SHORT, "waves", "turns around and bows"]),
])
def test_a_screen_reader_is_told_of_a_sentence_once(opened, name, told):
    page = opened(name, 1280, 720)
    status = page.get_by_role("status")
    assert status.inner_text() == told[0]
    page.evaluate("""() => {
      window.told = [];
      new MutationObserver(() => window.told.push(teller.textContent)).observe(teller, { childList: true });
    }""")
    for frame in range(16, 175, 3):
        page.evaluate(f"() => {{ setTime({frame / 30}); draw(); }}")
    assert page.evaluate("() => told") == told[1:]


def test_a_scene_shows_no_sentence_in_the_time_between_two(visit, tmp_path):  # noqa: F811
    spans = (Span(0.5, 1.0, "waves"), Span(1.5, 2.0, "bows"))
    write_page(tmp_path / "page.html", [Clip(walk(60), spans=spans)])
    page, shown = visit((tmp_path / "page.html").as_uri() + "#t=0&paused", 1280, 720), []
    assert page.title() == "waves; bows"
    page.get_by_role("button", name="Loop").click()  # no longer: 2 seconds are the end
    for seconds in (0.4, 0.5, 0.9, 1.2, 1.5, 2.0):
        page.evaluate(f"() => setTime({seconds})")
        settled(page)
        shown.append((current(page), page.get_by_role("status").inner_text()))
    assert shown == [(None, "")] + [("waves", "waves")] * 2 + [(None, "")] + [("bows", "bows")] * 2


@pytest.mark.parametrize("colours", ["light", "dark"])
@pytest.mark.parametrize(("name", "line"), [("a story", "#scrub"), ("three stories", ".progress")])
def test_the_line_of_time_has_gaps_between_sentences(opened, tmp_path, name, line, colours):
    image, page = pytest.importorskip("PIL.Image"), opened(name, 1280, 720, colours)
    page.evaluate("() => setTime(3)")
    settled(page)
    box = page.locator(line).first.bounding_box()
    page.screenshot(path=tmp_path / "line.png", clip=box, scale="css")
    with image.open(tmp_path / "line.png") as picture:
        pixels = [picture.convert("RGB").getpixel((x, picture.height // 2)) for x in range(picture.width)]
    inset = 8 if line == "#scrub" else 0  # half the thumb
    first, second = (round(inset + (box["width"] - 2 * inset) * border / 6) for border in (2, 4))
    passed, ahead = pixels[first - 8], pixels[second + 8]
    assert max(map(abs, (a - b for a, b in zip(passed, ahead, strict=True)))) > 60
    for border, beside in ((first, passed), (second, ahead)):
        gap = pixels[border - 1:border + 2]
        assert max(abs(a - b) for pixel in gap for a, b in zip(pixel, beside, strict=True)) > 25
        assert pixels[border - 8] == pixels[border + 8] == beside


@pytest.mark.parametrize("colours", ["light", "dark"])
def test_sentences_stand_out_in_light_and_dark(opened, colours):
    for name in ("a story", "twelve long sentences"):
        page = opened(name, 360, 780, colours)
        for selector in ("[aria-current] .number", "button:not([aria-current]) .number", ".words", ".said .current"):
            assert page.evaluate(CONTRAST, selector) >= 4.5, selector


@pytest.mark.parametrize("screen", [(360, 780), (460, 780), (1280, 720)])
def test_the_buttons_stand_in_one_row_in_any_font(opened, screen):
    page = opened("one short", *screen)
    for font in ("'DejaVu Sans'", "'Liberation Sans'", "monospace"):
        page.evaluate("(font) => { document.body.style.fontFamily = font; }", font)
        settled(page)
        row = ("#play", "#time", "#speed", "#loop", "#theme", "#hint")
        boxes = [page.locator(place).bounding_box() for place in row]
        middles = [box["y"] + box["height"] / 2 for box in boxes]
        assert max(middles) - min(middles) <= 1, font


def test_the_help_tells_of_sentences_where_there_are_some_and_is_above_the_controls(opened):
    for name, expected in (("one short", False), ("a story", True)):
        page = opened(name, 360, 780)
        page.keyboard.press("?")
        assert page.get_by_text("next sentence").is_visible() == expected
        box = page.locator("#help").bounding_box()
        assert box["y"] >= 0 and box["y"] + box["height"] <= page.locator(".controls").bounding_box()["y"] + 1


def test_paper_has_every_sentence_in_words(opened):
    page = opened("twelve long sentences", 718, 1040)  # A4 less Chromium's margins
    page.emulate_media(media="print")
    settled(page)
    assert page.evaluate(PROBLEMS) == [] and not page.locator(".said").is_visible()
    assert all(text.is_visible() for text in page.locator("ol .words").all())


@pytest.mark.parametrize("name", ["the gallery", "twelve long", "one long", "from right to left, odd"])
def test_paper_has_every_figure_and_text(opened, name):
    page = opened(name, 360, 780, "dark")
    page.evaluate("""() => addEventListener("beforeprint", () => {  // after the page's own
      const copy = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
      window.printed = panels.map(({ canvas }) => {
        copy.drawImage(canvas, 0, 0);
        return copy.getImageData(0, 0, 1, 1).data[0];
      });
    })""")
    content = page.pdf(format="A4")
    assert min(page.evaluate("() => printed")) > 240  # light, scrolled away or not
    assert page.evaluate("() => document.documentElement.dataset.theme") == "dark"  # again
    pictures = [size for picture in re.findall(rb"<<[^>]*/Subtype /Image[^>]*>>", content)
                if min(size := [int(n) for n in re.findall(rb"/(?:Width|Height) (\d+)", picture)]) > 60]
    assert len(pictures) >= PAGES[name][0]
    page.set_viewport_size({"width": 718, "height": 1040})  # A4 less Chromium's margins
    page.evaluate("() => dispatchEvent(new Event('beforeprint'))")
    page.emulate_media(media="print")
    settled(page)
    assert page.evaluate(PROBLEMS) == [] and not page.locator(".controls").is_visible()
    assert page.evaluate(CONTRAST, ".caption") >= 10  # black on white
