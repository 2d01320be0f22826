"""Look at motions: a web page to turn and play them in, a GIF, an MP4, or the plain joints.

    python view.py --tokens "42 18 91" --codec codec/ --output clip.html
    python view.py --bvh walk.bvh --bvh wave.bvh --output both.gif
    python view.py --joints clip.npy --fps 20 --caption "a person waves" --output clip.mp4

The page is one file that needs no network and no library (view_page.html is its form); GIF needs Pillow, MP4 Pillow
and imageio-ffmpeg. Several clips stand side by side, each with its --caption.
"""

import argparse
import base64
import html
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bvh import SCALE, read_bvh, write_bvh
from codec import CodecError, MotionCodec, tokens_of
from motion import Motion, MotionError, Skeleton
from stick_figure import JOINTS, PARENTS
from view_figure import Clip, Figure, figures_of
from view_video import VideoError, write_gif, write_mp4

TEMPLATE_PATH = Path(__file__).parent / "view_page.html"
EMPTY = '<script type="application/json" id="clips">[]</script>'  # in the template


# The page


def page(clips: list[Clip], group: int = 1) -> str:
    """One HTML file with the clips side by side: 57 kB for 10 seconds of 22 joints at 20 frames a second, 92 kB at 60.
    group: so many that follow each other belong together, and stay in one row. Raises MotionError for no clips."""
    data = json.dumps([page_data(clip, figure) for clip, figure in zip(clips, figures_of(clips), strict=True)])
    data = data.replace("<", "\\u003c")  # no caption can end the script element
    template = TEMPLATE_PATH.read_text(encoding="utf-8").replace('data-group="1"', f'data-group="{group}"')
    return template.replace(EMPTY, EMPTY.replace("[]", data))


def page_data(clip: Clip, figure: Figure) -> dict:
    """What the page's script reads of a clip; lengths in metres, `joints` and `target` as `packed` says."""
    capsules = [[c.start, c.end, *(round(float(v), 4) for v in (c.near, c.far, c.near_radius, c.far_radius)), c.side]
                for c in figure.capsules]
    frames = clip.motion.joints.reshape(len(clip.motion), -1)
    return {"caption": clip.caption, "note": clip.note, "fps": float(clip.motion.fps),
            "joint_count": clip.motion.joints.shape[1], "joints": packed(frames), "target": packed(figure.target),
            "capsules": capsules, "root": figure.root, "size": round(figure.size, 4), "floor": round(figure.floor, 4),
            "reach": round(figure.reach, 4), "height": round(figure.height, 4), "heading": round(figure.heading, 4)}


def packed(frames: np.ndarray) -> str:
    """Frames (T, C) in metres as base64 of whole millimetres: the first frame, then the differences from frame to
    frame, each a zigzag varint (7 bits a byte, low ones first; the lowest bit is the sign). Most take one byte."""
    millimetres = np.rint(frames * 1000).astype(np.int64)
    steps = np.diff(millimetres, axis=0, prepend=0).ravel()
    values = np.where(steps < 0, -2 * steps - 1, 2 * steps)  # 0 -1 1 -2 ... -> 0 1 2 3 ...
    groups = np.stack([values >> shift for shift in range(0, 63, 7)], -1)  # (N, 9)
    used = groups > 0
    used[:, 0] = True
    more = np.append(used[:, 1:], np.zeros((len(used), 1), bool), 1)  # another byte follows
    return base64.b64encode(((groups & 127) | more * 128)[used].astype(np.uint8).tobytes()).decode()


def write_page(path: str | Path, clips: list[Clip], group: int = 1) -> None:
    Path(path).write_text(page(clips, group), encoding="utf-8")


@dataclass(frozen=True)
class NotebookView:
    """Clips as the value of a notebook's cell, which shows them in a page of `height` pixels."""

    clips: list[Clip] = field(repr=False)
    height: int = 480

    def _repr_html_(self) -> str:
        return (f'<iframe title="Motion" sandbox="allow-scripts" style="width: 100%; height: {int(self.height)}px; '
                f'border: 0" srcdoc="{html.escape(page(self.clips))}"></iframe>')


# Joints in files


def write_joints(path: str | Path, clips: list[Clip]) -> None:
    """(T, J, 3) float32 metres as .npy, of one clip alone. Raises MotionError for more."""
    motion = _only(path, clips)
    with Path(path).open("wb") as file:
        np.save(file, motion.joints.astype(np.float32), allow_pickle=False)


def write_figure(path: str | Path, clips: list[Clip]) -> None:
    """A BVH file in centimetres, of one clip alone. Raises MotionError for more."""
    write_bvh(path, _only(path, clips))


def _only(path: str | Path, clips: list[Clip]) -> Motion:
    if len(clips) != 1:
        raise MotionError(f"{path}: a {Path(path).suffix} file holds one clip, there are {len(clips)}")
    return clips[0].motion


def read_joints(path: str | Path, fps: float, skeleton_path: str | Path | None = None) -> Motion:
    """A .npy file of joints (T, J, 3) in metres, y up. Raises MotionError for anything else."""
    try:
        joints = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise MotionError(f"{path}: no .npy file of numbers ({error})") from error
    if not isinstance(joints, np.ndarray):
        raise MotionError(f"{path}: an archive of several arrays, expected one .npy array")
    if joints.dtype.kind not in "fiu" or joints.ndim != 3 or joints.shape[2] != 3 or not len(joints):
        raise MotionError(f"{path}: {joints.dtype} {joints.shape}, expected numbers (T, J, 3), metres with y up")
    names, parents = read_skeleton(skeleton_path) if skeleton_path else (JOINTS, PARENTS)
    if joints.shape[1] != len(names):
        where = skeleton_path or "HumanML3D's skeleton; --skeleton gives another"
        raise MotionError(f"{path}: {joints.shape[1]} joints, expected the {len(names)} of {where}")
    joints = joints.astype(np.float32)
    offsets = joints[0] - joints[0, np.maximum(parents, 0)]
    try:
        return Motion(joints, fps, Skeleton(tuple(names), tuple(parents), offsets))
    except MotionError as error:
        raise MotionError(f"{path}: {error}") from error


def read_skeleton(path: str | Path) -> tuple[list[str], list[int]]:
    """Names and parents of a JSON file such as {"names": ["hips", "spine"], "parents": [-1, 0]}."""
    try:
        read = json.loads(Path(path).read_text(encoding="utf-8"))
        names, parents = read["names"], read["parents"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise MotionError(f'{path}: {error!r}, expected JSON such as {{"names": ["hips"], "parents": [-1]}}') from error
    if not (isinstance(names, list) and isinstance(parents, list) and len(names) == len(parents)
            and all(isinstance(name, str) for name in names) and all(type(parent) is int for parent in parents)):
        raise MotionError(f"{path}: expected as many names (text) as parents (whole numbers, -1 for the root)")
    return names, parents


WRITERS = {".html": write_page, ".gif": write_gif, ".mp4": write_mp4, ".bvh": write_figure, ".npy": write_joints}


def write(path: str | Path, clips: list[Clip]) -> None:
    """What the path's suffix says: .html, .gif, .mp4, .bvh or .npy. Raises MotionError for another."""
    suffix = Path(path).suffix.lower()
    if suffix not in WRITERS:
        raise MotionError(f"{path}: expected a name that ends with {', '.join(WRITERS)}")
    WRITERS[suffix](path, clips)


# Command line


def _parser() -> argparse.ArgumentParser:
    flags = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    flags.add_argument("--tokens", action="append", default=[], metavar="CODES",
                       help='codes such as "42 18 91", which --codec turns into motion')
    flags.add_argument("--codec", metavar="FOLDER", help="what `codec.py fit` has made")
    flags.add_argument("--bvh", action="append", default=[], metavar="CLIP.bvh", help="a BVH file")
    flags.add_argument("--scale", type=float, default=SCALE, metavar="METRES",
                       help="metres a unit of the BVH files (default %(default)s, centimetres)")
    flags.add_argument("--joints", action="append", default=[], metavar="CLIP.npy",
                       help="joints (T, J, 3) in metres, y up; --tokens, --bvh and --joints can be given several times")
    flags.add_argument("--caption", action="append", default=[],
                       help="of each clip: first those of --tokens, then of --bvh, then of --joints")
    flags.add_argument("--fps", type=float, default=20.0, help="frames a second of --joints (default %(default)s)")
    flags.add_argument("--skeleton", metavar="SKELETON.json",
                       help="names and parents of the joints, if they are not HumanML3D's 22")
    flags.add_argument("--output", required=True, help=f"a path that ends with {', '.join(WRITERS)}")
    return flags


def clips_of(args: argparse.Namespace) -> list[Clip]:
    """Raises MotionError, CodecError, OSError."""
    if not args.tokens + args.bvh + args.joints:
        raise MotionError("nothing to look at: give --tokens, --bvh or --joints")
    if args.tokens and args.codec is None:
        raise MotionError("--tokens needs --codec, the folder of the codec that made them")
    found = []
    if args.tokens:
        codec = MotionCodec.load(args.codec)
        found = [(codec.decode(tokens_of(text)), text, f"{len(tokens_of(text))} tokens, ") for text in args.tokens]
    found += [(read_bvh(path, args.scale), Path(path).stem, "") for path in args.bvh]
    found += [(read_joints(path, args.fps, args.skeleton), Path(path).stem, "") for path in args.joints]
    if len(args.caption) > len(found):
        raise MotionError(f"{len(args.caption)} captions for {len(found)} clips")
    return [Clip(motion, args.caption[i] if i < len(args.caption) else name, f"{note}{motion.seconds:.1f} s")
            for i, (motion, name, note) in enumerate(found)]


def main() -> int:
    args = _parser().parse_args()
    try:
        clips = clips_of(args)
        write(args.output, clips)
    except (MotionError, CodecError, VideoError, OSError) as error:
        print(f"view.py: {error}", file=sys.stderr)
        return 1
    print(f"{args.output}: {len(clips)} clip{'s' * (len(clips) > 1)}, {Path(args.output).stat().st_size:,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
