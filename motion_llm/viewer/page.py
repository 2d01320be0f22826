"""Clips as an interactive web page: one file that needs no network and no library. Its template is page.html."""

import base64
import html
import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from motion_llm.json_files import write_text
from motion_llm.viewer.figure import Clip, Figure, figures_of

TEMPLATE_PATH = Path(__file__).parent / "page.html"
EMPTY = '<script type="application/json" id="clips">[]</script>'  # in the template



def page(clips: list[Clip], group: int = 1) -> str:
    """One HTML file with the clips side by side: 57 kB for 10 seconds of 22 joints at 20 frames a second, 92 kB at 60.
    group: this many consecutive clips belong together: they stay beside each other, and a caption that they have in
    common stands once, above them. Raises MotionError for no clips."""
    data = json.dumps([page_data(clip, figure) for clip, figure in zip(clips, figures_of(clips), strict=True)])
    data = data.replace("<", "\\u003c")  # so that a caption cannot end the script element
    template = TEMPLATE_PATH.read_text(encoding="utf-8").replace('data-group="1"', f'data-group="{group}"')
    return template.replace(EMPTY, EMPTY.replace("[]", data))


def page_data(clip: Clip, figure: Figure) -> dict:
    """A clip's data for the page's script; lengths in metres, `joints` and `target` encoded by `packed`."""
    capsules = [[c.start, c.end, *(round(float(v), 4) for v in (c.near, c.far, c.near_radius, c.far_radius)), c.side]
                for c in figure.capsules]
    frames = clip.motion.joints.reshape(len(clip.motion), -1)
    spans = [[round(span.start, 4), round(span.end, 4), span.text] for span in clip.spans]
    return {"caption": clip.title, "note": clip.note, "fps": float(clip.motion.fps),
            "joint_count": clip.motion.joints.shape[1], "joints": packed(frames), "target": packed(figure.target),
            "capsules": capsules, "root": figure.root, "size": round(figure.size, 4), "floor": round(figure.floor, 4),
            "reach": round(figure.reach, 4), "height": round(figure.height, 4), "heading": round(figure.heading, 4),
            "spans": spans}


def packed(frames: np.ndarray) -> str:
    """Frames (T, C) in metres as base64 of whole millimetres: the first frame, then the differences from frame to
    frame, each a zigzag varint (7 bits a byte, low bits first; the lowest bit is the sign). Most need one byte."""
    millimetres = np.rint(frames * 1000).astype(np.int64)
    steps = np.diff(millimetres, axis=0, prepend=0).ravel()
    values = np.where(steps < 0, -2 * steps - 1, 2 * steps)  # 0 -1 1 -2 ... -> 0 1 2 3 ...
    groups = np.stack([values >> shift for shift in range(0, 63, 7)], -1)  # (N, 9)
    used = groups > 0
    used[:, 0] = True
    more = np.append(used[:, 1:], np.zeros((len(used), 1), bool), 1)  # whether another byte follows
    return base64.b64encode(((groups & 127) | more * 128)[used].astype(np.uint8).tobytes()).decode()


def write_page(path: str | Path, clips: list[Clip], group: int = 1) -> None:
    """Write the page. Raises OSError."""
    write_text(path, page(clips, group))


@dataclass(frozen=True)
class NotebookView:
    """A value that a notebook's cell shows as a page of these clips, `height` pixels high."""

    clips: list[Clip] = field(repr=False)
    height: int = 480

    def _repr_html_(self) -> str:
        return (f'<iframe title="Motion" sandbox="allow-scripts" style="width: 100%; height: {int(self.height)}px; '
                f'border: 0" srcdoc="{html.escape(page(self.clips))}"></iframe>')
