"""Clips side by side, each with its caption, as a GIF or an MP4. Needs no screen: raster.py draws the figures, Pillow
the captions; Pillow writes the GIF, and the ffmpeg of imageio-ffmpeg the MP4. Both packages are optional.
"""

import importlib.util
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from motion_llm.saving import saving
from motion_llm.viewer.figure import Clip, Figure, figures_of
from motion_llm.viewer.raster import LOOKS, Look, picture

GAP = 8  # pixels between panels
PACKAGES = {".gif": {"PIL": "pillow"}, ".mp4": {"PIL": "pillow", "imageio_ffmpeg": "imageio-ffmpeg"}}


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


def pillow(module: str):
    """Pillow's module of that name. Raises VideoError if Pillow is missing."""
    try:
        from PIL import Image, ImageDraw, ImageFont
    except ImportError as error:
        raise VideoError("GIF and MP4 need Pillow: pip install pillow") from error
    return {"Image": Image, "ImageDraw": ImageDraw, "ImageFont": ImageFont}[module]


def common_palette(frames):
    """An image with a palette of 255 colours for all of these frames; a palette for each frame would flicker."""
    pixels = np.concatenate([np.asarray(frame) for frame in frames])
    return pillow("Image").fromarray(pixels).quantize(255, method=pillow("Image").Quantize.MEDIANCUT, kmeans=1)


@dataclass(frozen=True)
class Panel:
    """A clip's area in the frame: a square of `side` pixels at left and top, with the caption below it."""

    clip: Clip
    figure: Figure
    left: int
    top: int
    side: int


def frames_of(clips: list[Clip], fps: float, side: int, theme: str) -> Iterator[np.ndarray]:
    """Frames (H, W, 3), uint8, of the whole longest clip; H and W are even, as video needs."""
    if theme not in LOOKS:
        raise VideoError(f"the theme {theme!r}: expected {' or '.join(LOOKS)}")
    if not 64 <= side <= 2160:
        raise VideoError(f"panels of {side} pixels: expected 64 to 2160")
    look, figures = LOOKS[theme], figures_of(clips)
    columns = {1: 1, 2: 2, 3: 3, 4: 2, 5: 3, 6: 3}.get(len(clips), 4)
    font, small = (pillow("ImageFont").load_default(max(10, round(side / share))) for share in (22, 28))
    lines = [wrapped(clip.caption, font, side * 0.92) for clip in clips]
    strip = round(side * 0.055 * (max(map(len, lines)) + any(clip.note for clip in clips)) + side * 0.05)
    panels = [Panel(clip, figure, i % columns * (side + GAP), i // columns * (side + strip + GAP), side)
              for i, (clip, figure) in enumerate(zip(clips, figures, strict=True))]
    base = frame_without_figures(panels, lines, strip, look, font, small)
    longest = max(clip.motion.seconds for clip in clips)
    for i in range(max(1, round(longest * fps))):
        frame = base.copy()
        for panel in panels:
            seconds = i / fps % panel.clip.motion.seconds
            square = slice(panel.top, panel.top + side), slice(panel.left, panel.left + side)
            frame[square] = picture(panel.clip.motion, panel.figure, seconds, side, side, look)
            bar = round(side * seconds / panel.clip.motion.seconds)  # pixels of the progress bar, below the square
            frame[panel.top + side:panel.top + side + max(2, side // 200), panel.left:panel.left + bar] = look.trail
        yield frame


def frame_without_figures(panels: list[Panel], lines, strip: int, look: Look, font, small) -> np.ndarray:
    width = max(panel.left + panel.side for panel in panels)
    height = max(panel.top + panel.side for panel in panels) + strip
    image = pillow("Image").new("RGB", (width + width % 2, height + height % 2), look.panel)
    draw = pillow("ImageDraw").Draw(image)
    for panel, text in zip(panels, lines, strict=True):
        left, top = panel.left + 0.04 * panel.side, panel.top + 1.03 * panel.side
        for line in text:
            draw.text((left, top), line, look.text, font)
            top += 0.055 * panel.side
        draw.text((left, top), panel.clip.note, look.muted, small)
    return np.asarray(image)


def wrapped(text: str, font, width: float) -> list[str]:
    """At most two lines of at most `width` pixels; an ellipsis marks text that is cut."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    cut = len(lines) > 2
    lines = [shortened(line, font, width) for line in lines[:2]]
    if cut:
        lines[1] = shortened(lines[1] + " \u2026", font, width)
    return lines if text else []


def shortened(line: str, font, width: float) -> str:
    while font.getlength(line) > width and len(line) > 1:
        line = line.rstrip("\u2026 ")[:-1] + "\u2026"
    return line
