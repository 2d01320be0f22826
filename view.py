"""Look at motions: a web page to turn and play them in, a GIF, an MP4; or take them to other programs.

    python view.py --tokens "42 18 91" --codec codec/ --output clip.html
    python view.py --bvh walk.bvh --bvh wave.bvh --output both.gif
    python view.py --joints clip.npy --fps 20 --caption "a person waves" --output clip.mp4
    python view.py --bvh walk.bvh --rest_pose t --output walk.glb
    python view.py --bvh walk.bvh --to figure.bvh --output walk_of_the_figure.bvh

The page is one file that needs no network and no library; GIF needs Pillow, MP4 Pillow and imageio-ffmpeg. Several
clips stand side by side, each with its --caption. The implementation is in motion_llm/viewer.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from motion_llm.command_line import Parser, exit_status, keep_inputs, printable, start_log
from motion_llm.motion.bvh import SCALE, read_bvh
from motion_llm.motion.codec import MotionCodec
from motion_llm.motion.features import Layout
from motion_llm.motion.files import READERS, read_motion
from motion_llm.motion.humanml3d import FPS
from motion_llm.motion.joints_file import read_joints, read_skeleton
from motion_llm.motion.kinematics import UP
from motion_llm.motion.rest_pose import REST_POSES
from motion_llm.motion.retarget import read_map, retargeted
from motion_llm.motion.skeleton import Motion, MotionError
from motion_llm.motion.survey import Measures, check_jumps, check_sizes, check_upright
from motion_llm.viewer.figure import Clip
from motion_llm.viewer.files import WRITERS, check_rest_pose, named, paths_of, write, write_figure, write_joints
from motion_llm.viewer.page import NotebookView, page, write_page
from motion_llm.viewer.video import VideoError, write_gif, write_mp4

__all__ = ["Clip", "NotebookView", "VideoError", "page", "read_joints", "read_skeleton", "write", "write_figure",
           "write_gif", "write_joints", "write_mp4", "write_page"]  # for notebooks


def _parser() -> Parser:
    flags = Parser(description=__doc__.split("\n")[0])
    flags.add_argument("--tokens", action="append", default=[], metavar="CODES",
                       help='codes such as "42 18 91", which --codec turns into motion')
    flags.add_argument("--codec", metavar="FOLDER", help="the folder that `codec.py fit` wrote")
    flags.add_argument("--bvh", action="append", default=[], metavar="CLIP.bvh", help="a BVH file")
    flags.add_argument("--scale", type=float, default=SCALE, metavar="METRES",
                       help="metres a unit of the BVH files (default %(default)s, centimetres)")
    flags.add_argument("--joints", action="append", default=[], metavar="CLIP.npy",
                       help="joints (T, J, 3) in metres, y up, or HumanML3D's features (T, 263)")
    flags.add_argument("--motion", action="append", default=[], metavar="CLIP",
                       help=f"a file of any kind: {', '.join(READERS)}; --tokens, --bvh, --joints and --motion can be "
                            "given several times")
    flags.add_argument("--caption", action="append", default=[],
                       help="of each clip: first those of --tokens, then of --bvh, --joints and --motion")
    flags.add_argument("--fps", type=float, help="frames a second of files that do not name them (default of .npy: "
                                                 f"{FPS:g})")
    flags.add_argument("--up", choices=UP, help="the files' axis that points up; --up=-y for a y that points down "
                                                "(default y, of .npz z)")
    flags.add_argument("--body_model", metavar="MODEL.npz", help="SMPL's body model, for .npz files")
    flags.add_argument("--skeleton", metavar="SKELETON.json",
                       help="names and parents of the joints, if they are not HumanML3D's 22")
    flags.add_argument("--to", metavar="FIGURE.bvh", help="move this file's figure instead; its joints correspond to "
                                                          "the clips' by name")
    flags.add_argument("--map", metavar="MAP.json",
                       help='for --to: joints of other names, {"name in the clip": "name in the figure"}')
    flags.add_argument("--rest_pose", choices=REST_POSES, default=REST_POSES[0],
                       help="of .bvh and .glb: t for a T-pose (default %(default)s)")
    flags.add_argument("--output", required=True, help=f"a path that ends with {', '.join(WRITERS)}")
    return flags


def clips_of(args: argparse.Namespace) -> list[Clip]:
    """The clips that the flags name. Raises MotionError, CodecError, OSError."""
    if not args.tokens + args.bvh + args.joints + args.motion:
        raise MotionError("nothing to look at: give --tokens, --bvh, --joints or --motion")
    if args.tokens and args.codec is None:
        raise MotionError("--tokens needs --codec, the folder of the codec that made them")
    motions = []  # of (motion, default caption, start of the note)
    if args.tokens:
        if empty := [text for text in args.tokens if not text.strip()]:
            raise MotionError(f'--tokens is {empty[0]!r}, expected codes such as "42 18 91"')
        codec = MotionCodec.load(args.codec)
        motions = [(codec.decode(codec.read(text)), text, f"{len(codec.read(text))} tokens, ") for text in args.tokens]
    recordings = [(path, read_bvh(path, args.scale, args.up or "y")) for path in args.bvh]
    rate = FPS if args.fps is None else args.fps
    recordings += [(path, read_joints(path, rate, args.skeleton, args.up or "y")) for path in args.joints]
    recordings += [(path, _read(path, args)) for path in args.motion]
    _look_at(recordings)
    motions += [(motion, Path(path).stem, "") for path, motion in recordings]
    if len(args.caption) > len(motions):
        raise MotionError(f"{len(args.caption)} captions for {len(motions)} clips")
    clips = [Clip(motion, args.caption[i] if i < len(args.caption) else name, f"{note}{motion.seconds:.1f} s")
             for i, (motion, name, note) in enumerate(motions)]
    return clips if args.to is None else _on_another_figure(clips, args)


def _read(path: str, args: argparse.Namespace) -> Motion:
    return read_motion(path, args.scale, args.fps, args.skeleton, args.body_model, args.up)


def _look_at(recordings: Sequence[tuple[str, Motion]]) -> None:
    """Logs warnings for figures of an unlikely size, that lie, stand on their heads or jump."""
    for path, motion in recordings:
        measures = Measures.of(motion, Layout.of(motion.skeleton))
        check_sizes([measures.size], [path])
        check_upright([measures], [path])
        check_jumps([measures], [path])


def _on_another_figure(clips: list[Clip], args: argparse.Namespace) -> list[Clip]:
    figure, names = _read(args.to, args), {} if args.map is None else read_map(args.map)
    _look_at([(args.to, figure)])
    moved = []
    for clip in clips:
        try:
            moved.append(replace(clip, motion=retargeted(clip.motion, figure.skeleton, names)))
        except MotionError as error:
            raise MotionError(f"{clip.caption[:30]} to {args.to}: {error}") from None
    return moved


def main() -> int:
    args = _parser().parse_args()
    start_log()
    return exit_status("view.py", lambda: print(printable(run(args))))


def run(args: argparse.Namespace) -> str:
    """The text to print. Raises MotionError, CodecError, VideoError, OSError."""
    if args.map is not None and args.to is None:
        raise MotionError(f"--map {args.map} is for --to, a file of another figure")
    if args.fps is not None and not 0 < args.fps < 1e5:
        raise MotionError(f"--fps {args.fps:g}, expected frames a second, more than 0 and less than 100,000")
    files = args.bvh + args.joints + args.motion
    for path in (args.output, *paths_of(args.output, len(args.tokens + files))):
        keep_inputs(path, *files, args.to, args.map, args.skeleton)
    check_rest_pose(args.output, args.rest_pose)
    clips = clips_of(args)
    written = write(args.output, clips, args.rest_pose)
    size = sum(path.stat().st_size for path in written)
    return f"{named(written)}: {len(clips)} clip{'s' * (len(clips) > 1)}, {size:,} bytes"


if __name__ == "__main__":
    sys.exit(main())
