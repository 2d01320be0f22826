"""Look at motions: a web page to turn and play them in, a GIF, an MP4, or the plain joints.

    python view.py --tokens "42 18 91" --codec codec/ --output clip.html
    python view.py --bvh walk.bvh --bvh wave.bvh --output both.gif
    python view.py --joints clip.npy --fps 20 --caption "a person waves" --output clip.mp4

The page is one file that needs no network and no library; GIF needs Pillow, MP4 Pillow and imageio-ffmpeg. Several
clips stand side by side, each with its --caption. The implementation is in motion_llm/viewer.
"""

import argparse
import sys
from pathlib import Path

from motion_llm.command_line import exit_status, start_log
from motion_llm.motion.bvh import SCALE, read_bvh
from motion_llm.motion.codec import MotionCodec, tokens_of
from motion_llm.motion.skeleton import MotionError
from motion_llm.viewer.figure import Clip
from motion_llm.viewer.files import WRITERS, read_joints, read_skeleton, write, write_figure, write_joints
from motion_llm.viewer.page import NotebookView, page, write_page
from motion_llm.viewer.video import VideoError, write_gif, write_mp4

__all__ = ["Clip", "NotebookView", "VideoError", "page", "read_joints", "read_skeleton", "write", "write_figure",
           "write_gif", "write_joints", "write_mp4", "write_page"]  # for notebooks


def _parser() -> argparse.ArgumentParser:
    flags = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    flags.add_argument("--tokens", action="append", default=[], metavar="CODES",
                       help='codes such as "42 18 91", which --codec turns into motion')
    flags.add_argument("--codec", metavar="FOLDER", help="the folder that `codec.py fit` wrote")
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
    """The clips that the flags name. Raises MotionError, CodecError, OSError."""
    if not args.tokens + args.bvh + args.joints:
        raise MotionError("nothing to look at: give --tokens, --bvh or --joints")
    if args.tokens and args.codec is None:
        raise MotionError("--tokens needs --codec, the folder of the codec that made them")
    motions = []  # of (motion, default caption, start of the note)
    if args.tokens:
        codec = MotionCodec.load(args.codec)
        motions = [(codec.decode(tokens_of(text)), text, f"{len(tokens_of(text))} tokens, ") for text in args.tokens]
    motions += [(read_bvh(path, args.scale), Path(path).stem, "") for path in args.bvh]
    motions += [(read_joints(path, args.fps, args.skeleton), Path(path).stem, "") for path in args.joints]
    if len(args.caption) > len(motions):
        raise MotionError(f"{len(args.caption)} captions for {len(motions)} clips")
    return [Clip(motion, args.caption[i] if i < len(args.caption) else name, f"{note}{motion.seconds:.1f} s")
            for i, (motion, name, note) in enumerate(motions)]


def main() -> int:
    args = _parser().parse_args()
    start_log()
    return exit_status("view.py", lambda: print(run(args)))


def run(args: argparse.Namespace) -> str:
    """The text to print. Raises MotionError, CodecError, VideoError, OSError."""
    clips = clips_of(args)
    write(args.output, clips)
    return f"{args.output}: {len(clips)} clip{'s' * (len(clips) > 1)}, {Path(args.output).stat().st_size:,} bytes"


if __name__ == "__main__":
    sys.exit(main())
