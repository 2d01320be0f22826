"""Clips side by side, each with its caption and current sentence, as a GIF or an MP4, and moments of a clip as a PNG.
Needs no screen: raster.py draws the figures, Pillow the texts; Pillow writes the GIF and the PNG, and the ffmpeg of
imageio-ffmpeg the MP4. Both packages are optional.
"""

import importlib.util
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from motion_llm.saving import saving
from motion_llm.viewer.figure import Clip, Figure, Span, figure_of, figures_of
from motion_llm.viewer.raster import LOOKS, Look, picture

GAP = 8  # pixels between panels
CAPTION_LINES, SENTENCE_LINES = 2, 5  # at most
MOMENTS = 4  # of a clip without sentences, in a PNG
PACKAGES = {".gif": {"PIL": "pillow"}, ".mp4": {"PIL": "pillow", "imageio_ffmpeg": "imageio-ffmpeg"},
            ".png": {"PIL": "pillow"}}


class VideoError(ValueError):
    """A missing package or an invalid setting of a video; the text says which, and what helps."""


def check_packages(suffix: str) -> None:
    """Checks that the packages for this suffix are installed, without importing them. Raises VideoError."""
    needed = PACKAGES.get(suffix, {})
    if any(importlib.util.find_spec(module) is None for module in needed):
        raise VideoError(f"{suffix} files need more packages: pip install {' '.join(needed.values())}")


def write_gif(path: str | Path, clips: list[Clip], fps: float = 20.0, side: int = 420, theme: str = "light") -> None:
    """Writes a GIF as long as the longest clip; shorter ones start again. fps: at most 50, the limit of GIF players.
    side: pixels of a clip's square. theme: a key of LOOKS. Raises VideoError if Pillow is missing or a setting is out
    of range, and MotionError for no clips."""
    if not 0 < fps <= 50:
        raise VideoError(f"a GIF of {fps} frames a second: expected more than 0, at most 50")
    frames = [pillow("Image").fromarray(frame) for frame in frames_of(clips, fps, side, theme)]
    palette = common_palette(frames[::max(1, len(frames) // 8)])
    frames = [frame.quantize(palette=palette, dither=pillow("Image").Dither.NONE) for frame in frames]
    ends = np.rint(np.arange(len(frames) + 1) * 100 / fps) * 10  # a frame lasts whole hundredths of a second
    with saving(path) as temporary:
        frames[0].save(temporary, save_all=True, append_images=frames[1:], duration=np.diff(ends).astype(int).tolist(),
                       loop=0)


def write_mp4(path: str | Path, clips: list[Clip], fps: float = 30.0, side: int = 560, theme: str = "light") -> None:
    """Writes H.264; otherwise as write_gif."""
    if not fps > 0:
        raise VideoError(f"an MP4 of {fps} frames a second: expected more than 0")
    pillow("Image")
    try:
        import imageio_ffmpeg
    except ImportError as error:
        raise VideoError("MP4 needs ffmpeg: pip install pillow imageio-ffmpeg") from error
    frames = frames_of(clips, fps, side, theme)
    first = next(frames)
    with saving(path) as temporary, closing(imageio_ffmpeg.write_frames(
            str(temporary), (first.shape[1], first.shape[0]), fps=fps, quality=8, macro_block_size=2)) as writer:
        writer.send(None)
        writer.send(first.tobytes())
        for frame in frames:
            writer.send(frame.tobytes())


def write_png(path: str | Path, clip: Clip, side: int = 320, theme: str = "light") -> None:
    """Writes a picture of the clip, at most four moments in a row: the middle of each sentence with its text instead of
    the caption, or MOMENTS of a clip without. side and theme: as in write_gif. Raises VideoError as write_gif does."""
    look, figure, seconds = look_of(side, theme), figure_of(clip.motion), clip.motion.seconds
    shown = [((span.start + min(span.end, seconds)) / 2, replace(
        clip, caption="", note=f"{span.start:.1f} to {span.end:.1f} s", spans=(span,))) for span in clip.spans]
    if not shown:
        times = (np.arange(MOMENTS) + 0.5) / MOMENTS * seconds
        shown = [(time, replace(clip, caption="" if i else clip.caption, note=f"{time:.1f} s"))
                 for i, time in enumerate(times)]
    lines = [lines_of(moment, moment.span_at(time), side, look) for time, moment in shown]
    columns = -(-len(shown) // -(-len(shown) // 4))
    panels = panels_of([(moment, figure, max(map(len, lines))) for _, moment in shown], columns, side)
    image = np.array(frame_without_figures(panels, lines, look))
    for panel, (time, _) in zip(panels, shown, strict=True):
        panel.draw(image, time, look)
    with saving(path) as temporary:
        pillow("Image").fromarray(image).save(temporary)


def pillow(module: str):
    """Pillow's module of that name. Raises VideoError if Pillow is missing."""
    try:
        from PIL import Image, ImageDraw, ImageFont
    except ImportError as error:
        raise VideoError("GIF, MP4 and PNG need Pillow: pip install pillow") from error
    return {"Image": Image, "ImageDraw": ImageDraw, "ImageFont": ImageFont}[module]


def common_palette(frames):
    """An image with a palette of 255 colours for all of these frames; a palette for each frame would flicker."""
    pixels = np.concatenate([np.asarray(frame) for frame in frames])
    return pillow("Image").fromarray(pixels).quantize(255, method=pillow("Image").Quantize.MEDIANCUT, kmeans=1)


@dataclass(frozen=True)
class Panel:
    """A clip's area in the frame: a square of `side` pixels at left and top; below it, to `bottom`, `rows` lines for
    caption and sentence, and the note."""

    clip: Clip
    figure: Figure
    left: int
    top: int
    side: int
    rows: int
    bottom: int

    def draw(self, frame: np.ndarray, seconds: float, look: Look) -> None:
        square = slice(self.top, self.top + self.side), slice(self.left, self.left + self.side)
        frame[square] = picture(self.clip.motion, self.figure, seconds, self.side, self.side, look)

    def draw_progress(self, frame: np.ndarray, seconds: float, look: Look) -> None:
        """A bar below the square, with gaps where sentences begin and end."""
        bar = frame[self.top + self.side:self.top + self.side + max(2, self.side // 200),
                    self.left:self.left + self.side]
        if self.clip.spans:
            bar[:] = np.mean([look.panel, look.panel, look.line], 0)
        bar[:, :self._column(seconds)] = look.trail
        for column in {self._column(time) for span in self.clip.spans for time in (span.start, span.end)}:
            if 0 < column < self.side:
                bar[:, column - 1:column + 1] = look.panel

    def _column(self, seconds: float) -> int:
        return round(self.side * seconds / self.clip.motion.seconds)


def frames_of(clips: list[Clip], fps: float, side: int, theme: str) -> Iterator[np.ndarray]:
    """Frames (H, W, 3), uint8, of the whole longest clip; H and W are even, as video needs."""
    look, figures = look_of(side, theme), figures_of(clips)
    columns = {1: 1, 2: 2, 3: 3, 4: 2, 5: 3, 6: 3}.get(len(clips), 4)
    texts = [{span: lines_of(clip, span, side, look) for span in (None, *clip.spans)} for clip in clips]
    panels = panels_of([(clip, figure, max(map(len, text.values())))
                        for clip, figure, text in zip(clips, figures, texts, strict=True)], columns, side)
    longest = max(clip.motion.seconds for clip in clips)
    shown = base = None
    for i in range(max(1, round(longest * fps))):
        moments = [i / fps % clip.motion.seconds for clip in clips]
        spans = [clip.span_at(seconds) for clip, seconds in zip(clips, moments, strict=True)]
        if spans != shown:
            lines = [text[span] for text, span in zip(texts, spans, strict=True)]
            shown, base = spans, frame_without_figures(panels, lines, look)
        frame = base.copy()
        for panel, seconds in zip(panels, moments, strict=True):
            panel.draw(frame, seconds, look)
            panel.draw_progress(frame, seconds, look)
        yield frame


def look_of(side: int, theme: str) -> Look:
    if theme not in LOOKS:
        raise VideoError(f"the theme {theme!r}: expected {' or '.join(LOOKS)}")
    if not 64 <= side <= 2160:
        raise VideoError(f"panels of {side} pixels: expected 64 to 2160")
    return LOOKS[theme]


def panels_of(shown: list[tuple[Clip, Figure, int]], columns: int, side: int) -> list[Panel]:
    """Panels in rows, of clips, their figures and their lines of text above the note."""
    height = side + round(side * 0.055 * max(rows + bool(clip.note) for clip, _, rows in shown) + side * 0.05)
    places = [(i % columns * (side + GAP), i // columns * (height + GAP)) for i in range(len(shown))]
    return [Panel(clip, figure, left, top, side, rows, top + height)
            for (clip, figure, rows), (left, top) in zip(shown, places, strict=True)]


def font_of(side: int, share: int):
    return pillow("ImageFont").load_default(max(10, round(side / share)))


def lines_of(clip: Clip, span: Span | None, side: int, look: Look) -> list[tuple[str, tuple]]:
    """The caption and the sentence as lines of (text, colour)."""
    font, width = font_of(side, 22), side * 0.92
    colour = look.trail if clip.title else look.text
    return ([(line, look.text) for line in wrapped(clip.title, font, width)]
            + [(line, colour) for line in wrapped(span.text if span else "", font, width, SENTENCE_LINES)])


def frame_without_figures(panels: list[Panel], texts: list[list[tuple]], look: Look) -> np.ndarray:
    width, height = max(panel.left + panel.side for panel in panels), max(panel.bottom for panel in panels)
    image = pillow("Image").new("RGB", (width + width % 2, height + height % 2), look.panel)
    draw = pillow("ImageDraw").Draw(image)
    for panel, lines in zip(panels, texts, strict=True):
        left, top = panel.left + 0.04 * panel.side, panel.top + 1.03 * panel.side
        for i, (line, colour) in enumerate(lines):
            draw.text((left, top + 0.055 * panel.side * i), line, colour, font_of(panel.side, 22))
        draw.text((left, top + 0.055 * panel.side * panel.rows), panel.clip.note, look.muted, font_of(panel.side, 28))
    return np.asarray(image)


def wrapped(text: str, font, width: float, most: int = CAPTION_LINES) -> list[str]:
    """At most `most` lines of at most `width` pixels; an ellipsis marks text that is cut."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    cut = len(lines) > most
    lines = [shortened(line, font, width) for line in lines[:most]]
    if cut:
        lines[-1] = shortened(lines[-1] + " \u2026", font, width)
    return lines if text else []


def shortened(line: str, font, width: float) -> str:
    while font.getlength(line) > width and len(line) > 1:
        line = line.rstrip("\u2026 ")[:-1] + "\u2026"
    return line
