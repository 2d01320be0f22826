"""raster.py and video.py: pictures show the figure at its position, in the page's colours; a GIF has all frames, and
scenes have their current sentence."""

import re
import sys

import numpy as np
import pytest
from test_view import walk

from motion_llm.viewer import page as view_page
from motion_llm.viewer import video as view_video
from motion_llm.viewer.figure import Clip, Span, figure_of
from motion_llm.viewer.raster import LOOKS, enlarged, nice_step, picture, view_of
from motion_llm.viewer.video import SENTENCE_LINES, wrapped


def near(image: np.ndarray, colour) -> np.ndarray:
    """(H, W): whether pixels have the hue of `colour`, in any brightness."""
    tone = image / np.maximum(image.sum(-1, keepdims=True), 1)
    return np.abs(tone - np.array(colour) / sum(colour)).max(-1) < 0.06


@pytest.fixture(scope="module")
def picture_of_walk():
    motion = walk()
    figure = figure_of(motion)
    return motion, figure, picture(motion, figure, 1.0, 200, 160, LOOKS["light"])


def test_the_figure_stands_where_the_camera_sees_it(picture_of_walk):
    motion, figure, image = picture_of_walk
    assert image.shape == (160, 200, 3) and image.dtype == np.uint8
    x, z = figure.target[20]
    view = view_of(figure, np.array([x, figure.floor + figure.height / 2, z]), 200, 160)
    knees = view.project(motion.joints[20, [4, 5]])  # left, right
    for (column, row, _), colour in zip(knees, LOOKS["light"].body[1:], strict=True):
        assert near(image[round(row) - 1:round(row) + 2, round(column) - 1:round(column) + 2], colour).any()
    columns = [np.flatnonzero(near(image, colour).any(0)).mean() for colour in LOOKS["light"].body[1:]]
    assert columns[0] > columns[1]  # seen from the front, the left is on the right


def test_light_comes_from_above_and_the_floor_is_dark_below(picture_of_walk):
    _, _, image = picture_of_walk
    grey = image.astype(int).sum(-1)
    back = sum(LOOKS["light"].back)
    floor = grey[110:, :].min(1)
    assert (grey[:20, :20] == back).all()  # nothing far above and aside
    assert floor.min() < back - 60 and not near(image[150:], LOOKS["light"].body[2]).any()


def test_frames_between_two_are_between_them():
    motion = walk(1)
    figure = figure_of(motion)
    first, middle, after = (picture(motion, figure, s, 96, 96, LOOKS["dark"]).astype(int) for s in (0.5, 0.525, 0.55))
    assert 0 < np.abs(middle - first).sum() < np.abs(after - first).sum()
    end = [picture(motion, figure, s, 96, 96, LOOKS["dark"]) for s in (0.95, 5.0)]  # after the end, the last frame
    assert np.array_equal(*end)


def test_the_page_and_the_pictures_have_the_same_looks():
    template = view_page.TEMPLATE_PATH.read_text(encoding="utf-8")
    for name, look in LOOKS.items():
        (in_page,) = re.findall(rf"  {name}: {{ top(.*?)}},\n", template, re.DOTALL)
        body = [[int(v) for v in re.findall(r"\d+", colour)] for colour in re.findall(r"\[(\d+, \d+, \d+)\]", in_page)]
        assert body == [list(colour) for colour in look.body]
        for share in ("lines", "floor", "sky", "key", "gloss", "rim", "dark"):
            assert float(re.search(rf"\b{share}: ([\d.]+)", in_page)[1]) == getattr(look, share), (name, share)


def test_grid_steps_and_enlarging():
    assert [nice_step(size) for size in (0.1, 0.16, 0.5, 0.9, 30)] == pytest.approx([0.1, 0.2, 0.5, 0.5, 20])
    ramp = enlarged(np.arange(12.0).reshape(3, 4), 4, (9, 13))
    assert ramp.shape == (9, 13) and np.allclose(ramp[0], np.arange(13) / 4) and np.allclose(ramp[:, 0], np.arange(9))


# Videos


@pytest.mark.parametrize(("fps", "milliseconds"), [(20, 1300), (30, 1300)])
def test_a_gif_has_its_frames_and_its_length(fps, milliseconds, tmp_path):
    image = pytest.importorskip("PIL.Image")
    clips = [Clip(walk(1.3), "a person walks", "1.3 s"), Clip(walk(0.5), "shorter")]
    view_video.write_gif(tmp_path / "clip.gif", clips, fps=fps, side=96)
    with image.open(tmp_path / "clip.gif") as gif:
        assert gif.n_frames == round(1.3 * fps) and gif.info["loop"] == 0
        assert gif.width >= 2 * 96 and gif.height > 96
        lengths = []
        for i in range(gif.n_frames):
            gif.seek(i)
            lengths.append(gif.info["duration"])
    assert sum(lengths) == pytest.approx(milliseconds, abs=10) and max(lengths) - min(lengths) <= 10


def test_captions_are_broken_and_cut():
    font = pytest.importorskip("PIL.ImageFont").load_default(12)
    assert wrapped("", font, 100) == [] and wrapped("a walk", font, 200) == ["a walk"]
    lines = wrapped("someone walks a long way and then comes back again to where the walk began", font, 120)
    assert len(lines) == 2 and lines[1].endswith("\u2026") and all(font.getlength(line) <= 120 for line in lines)
    assert font.getlength(wrapped("x" * 200, font, 120)[0]) <= 120


@pytest.mark.parametrize(("settings", "message"), [
    ({"fps": 0}, "0 frames a second"), ({"fps": 60}, "at most 50"), ({"side": 8}, "8 pixels"),
    ({"theme": "pink"}, "expected light or dark")])
def test_settings_of_a_gif_that_are_none_are_refused(settings, message, tmp_path):
    if "fps" not in settings:
        pytest.importorskip("PIL")
    with pytest.raises(view_video.VideoError, match=message):
        view_video.write_gif(tmp_path / "clip.gif", [Clip(walk(1))], **settings)
    assert not (tmp_path / "clip.gif").exists()


@pytest.mark.parametrize("side", [320, 560])
def test_a_sentence_of_200_characters_is_whole(side):
    pytest.importorskip("PIL")
    text = ("walks forward in a wide circle and then lifts both of the hands up " * 3)[:200]
    assert " ".join(wrapped(text, view_video.font_of(side, 22), 0.92 * side, SENTENCE_LINES)) == text.strip()


def test_a_video_shows_the_sentence_of_the_moment():
    pytest.importorskip("PIL")
    side, motion = 96, walk(2)

    def frames(*spans, caption="", note="2.0 s"):
        return list(view_video.frames_of([Clip(motion, caption, note, spans)], 4, side, "light"))  # 8 frames

    def texts(frame, bar=2):
        return frame[side + bar:].tobytes()

    scene = frames(Span(0.0, 1.0, "walks on"), Span(1.25, 2.0, "sits"))
    walks, sits, neither = (texts(scene[i]) for i in (0, 5, 4))
    assert [texts(frame) for frame in scene] == [walks] * 4 + [neither] + [sits] * 3
    assert len({walks, sits, neither}) == 3
    captioned = frames(caption="walks on")
    assert walks == texts(captioned[0]) and scene[0].shape == captioned[0].shape  # in the place of a caption
    assert texts(frames(Span(0.0, 1.0, "walks on"), caption="walks on")[0]) == walks  # once
    titled = frames(Span(0.0, 1.0, "walks on"), caption="a story")[0]
    assert titled.shape[0] > scene[0].shape[0] and near(titled[side + 4:], LOOKS["light"].trail).sum() > 20
    bar, plain = (pictures[5][side:side + 2] for pictures in (scene, captioned))  # at 1.25 of 2 s
    assert (bar[:, 47:49] == LOOKS["light"].panel).all() and (bar[:, 10] == LOOKS["light"].trail).all()
    assert (bar[:, 80] != plain[:, 80]).all() and (plain[:, 47] == LOOKS["light"].trail).all()


def test_a_picture_of_a_scene_has_a_figure_for_every_sentence(tmp_path):
    image = pytest.importorskip("PIL.Image")
    motion = walk(2.5)
    figure = figure_of(motion)

    def pictures(clip, columns, rows, side=64):
        view_video.write_png(tmp_path / "clip.png", clip, side=side)
        with image.open(tmp_path / "clip.png") as file:
            pixels = np.asarray(file.convert("RGB"))
        height = (len(pixels) + 8) // rows
        assert abs(pixels.shape[1] - columns * (side + 8) + 8) <= 1
        return [pixels[row * height:row * height + side, column * (side + 8):column * (side + 8) + side]
                for row in range(rows) for column in range(columns)]

    spans = tuple(Span(0.5 * i, 0.5 * i + 0.4, f"sentence {i}") for i in range(5))
    for i, shown in enumerate(pictures(Clip(motion, spans=spans), 3, 2)[:5]):
        assert np.array_equal(shown, picture(motion, figure, 0.5 * i + 0.2, 64, 64, LOOKS["light"])), i
    moments = [picture(motion, figure, seconds, 64, 64, LOOKS["light"]) for seconds in (0.3125, 0.9375, 1.5625, 2.1875)]
    assert all(map(np.array_equal, pictures(Clip(motion, "a walk"), 4, 1), moments))


def test_an_mp4_has_its_length(tmp_path):
    pytest.importorskip("PIL")
    imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg")
    view_video.write_mp4(tmp_path / "clip.mp4", [Clip(walk(1), "a walk")], fps=20, side=97)
    metadata = next(imageio_ffmpeg.read_frames(str(tmp_path / "clip.mp4")))
    assert metadata["fps"] == 20 and metadata["duration"] == pytest.approx(1.0, abs=0.06)
    assert all(size % 2 == 0 for size in metadata["size"])


def test_a_still_of_numbers_needs_no_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    assert picture(walk(1), figure_of(walk(1)), 0, 64, 64, LOOKS["light"]).any()
