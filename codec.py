"""Motions to codes and back, by a codec that is fitted to clips of one figure.

    python codec.py fit --motions clips/ --output codec/
    python codec.py encode --codec codec/ --motions clips/ --captions captions.json --output dataset.json
    python codec.py encode --codec codec/ --motions clips/ --output tokens.json
    python codec.py decode --codec codec/ --tokens "42 18 91" --seconds 0.35 --output clip.bvh
    python codec.py decode --codec codec/ --tokens "42 18 91" --clean_feet --trim --in_place --output clip.bvh
    python codec.py fit --motions clips/ --parts hands --codes body=256,left_hand=64,right_hand=64 --output codec/
    python codec.py fit --motions clips/ --levels 2 --output codec/

captions.json is a list of {"file", "text_query", optional "participant_id", "split", and "start" and "end" in seconds};
dataset.json gets one row for each entry. tokens.json gets {"file", "motion_tokens", "seconds"} for each file. --motions
takes a folder with its folders, of files in any format that is read. A codec of parts or levels has several streams of
codes; motion_tokens is then {"body": "42 18", "left_hand": "3 3"}, or a list of steps [[42, 3], [18, 1]] for levels.
The implementation is in motion_llm/motion: codec.py, look_ahead.py, parts.py and captions.py.
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from config import MAX_SEQ_LEN
from motion_llm.command_line import Parser, exit_status, keep_inputs, printable, start_log
from motion_llm.json_files import write_json
from motion_llm.motion.bvh import SCALE, write_bvh
from motion_llm.motion.captions import encode_captions, encode_files
from motion_llm.motion.clip_files import MotionFiles
from motion_llm.motion.codec import CONFIG_FILE, QUANTISERS, SEED, WINDOW, CodecError, MotionCodec
from motion_llm.motion.files import READERS
from motion_llm.motion.finishing import add_finishing_flags, check_finishing, finished
from motion_llm.motion.kinematics import UP
from motion_llm.motion.look_ahead import MOST_CHOSEN, codes_of_text
from motion_llm.motion.parts import HANDS, read_parts
from motion_llm.motion.skeleton import MotionError
from motion_llm.motion.stream_quantisers import LEVELS
from motion_llm.viewer.figure import Clip
from motion_llm.viewer.files import WRITERS, write

log = logging.getLogger(__name__)
HELDOUT = 0.05  # share of the clips
LEVELS_KIND = QUANTISERS[1]  # the only kind that has them
READING = ("scale", "up", "rate", "skeleton", "body_model")  # flags on how motions are read


def _parser() -> Parser:
    parser = Parser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True, metavar="|".join(COMMANDS))
    fit = commands.add_parser("fit", help="make a codec from clips")
    fit.add_argument("--codes", metavar="K", help="size of the codebook, or of each stream, such as "
                     f"body=128,left_hand=64. Default: chosen from the seconds of motion, at most {MOST_CHOSEN}")
    fit.add_argument("--window", type=int, default=WINDOW, metavar="N", help=f"frames a code. Default: {WINDOW}")
    fit.add_argument("--kind", choices=QUANTISERS, help=f"Default: {QUANTISERS[0]}, which takes minutes; with --levels "
                     f"{LEVELS_KIND}")
    several = fit.add_mutually_exclusive_group()
    several.add_argument("--parts", metavar="FILE", help="a codebook for each part of the figure: JSON of the names of "
                         'joints by part, such as {"upper": ["Spine", ...], "lower": ["Hips", ...]}; or the word '
                         f"{HANDS}, for the body and both hands by the names of their fingers")
    several.add_argument("--levels", type=int, default=1, choices=LEVELS, metavar="N", help="codebooks that each "
                         f"refine the ones before, {LEVELS[1]} to {LEVELS[-1]} (residual quantisation). Default: one")
    fit.add_argument("--fps", type=float, help="frames a second of the codec, to which clips are resampled. Default: "
                     "chosen from that of most clips, 20 to 30")
    fit.add_argument("--heldout", type=float, default=HELDOUT, metavar="SHARE", help="share of the clips that is not "
                     f"fitted and shows the error of other clips. Default: {HELDOUT:g}; 0 to fit all")
    fit.add_argument("--seed", type=int, default=SEED, help=f"Default: {SEED}")
    encode = commands.add_parser("encode", help="make a dataset from clips and captions, or codes of clips")
    encode.add_argument("--captions", metavar="FILE", help="JSON list of file, text_query and, for a part of the file, "
                        "start and end in seconds. Default: the codes of each file, without captions")
    decode = commands.add_parser("decode", help="make a motion from codes")
    decode.add_argument("--tokens", required=True, metavar="TEXT", help='codes with spaces between: "42 18 91"; of '
                        "several streams JSON, as encode writes it")
    decode.add_argument("--seconds", type=float, help="length of the motion, which may end in its last code. Default: "
                        "that of the codes")
    add_finishing_flags(decode)
    for command in (encode, decode):
        command.add_argument("--codec", required=True, metavar="FOLDER", help="the folder that fit wrote")
    for command in (fit, encode):
        command.add_argument("--motions", required=True, metavar="FOLDER", help=f"a folder, with its folders, of "
                             f"{', '.join(READERS)} files")
        command.add_argument("--up", choices=UP, help="the axis that points up in the files (write --up=-y for a y "
                             "that points down). Default: y, and z for .npz")
        command.add_argument("--rate", type=float, metavar="FPS", help="frames a second of .npy files, which do not "
                             "say it. Default: 20, as HumanML3D's")
        command.add_argument("--skeleton", metavar="FILE", help="JSON of names and parents, for .npy files of joints "
                             "that are not HumanML3D's 22. Default: skeleton.json in the folder")
        command.add_argument("--body_model", metavar="FILE", help="the model of SMPL-X or SMPL-H (.npz), for the hands "
                             "and shapes of its .npz files")
    outputs = f"a file that ends with {', '.join(WRITERS)}"
    for command, text in ((fit, "the codec's folder"), (encode, "the dataset, JSON"), (decode, outputs)):
        command.add_argument("--output", required=True, metavar="PATH", help=text)
        command.add_argument("--scale", type=float, default=SCALE, metavar="METRES",
                             help=f"metres a unit of the BVH files. Default: {SCALE}, centimetres")
    return parser


def run(args: argparse.Namespace) -> str:
    """Runs the command and returns the line to print. Raises ValueError or a subclass of it, and OSError."""
    return COMMANDS[args.command](args)


def _fit(args: argparse.Namespace) -> str:
    if Path(args.output).is_file():
        raise CodecError(f"{args.output} is a file, expected a new folder")
    if (Path(args.output) / CONFIG_FILE).exists():  # other files alone are what a killed fit left
        raise CodecError(f"{args.output} holds a codec already: choose another --output, or remove it")
    codes = None if args.codes is None else codes_of_text(args.codes)
    parts = args.parts if args.parts in (None, HANDS) else read_parts(args.parts)
    kind = args.kind or (LEVELS_KIND if args.levels > 1 else QUANTISERS[0])
    motions = MotionFiles(args.motions, **_reading(args))
    names = [str(path.relative_to(motions.folder)) for path in motions.paths]
    log.info("%s: %d motion files", args.motions, len(motions))
    codec = MotionCodec.fit(motions, codes, args.window, kind, args.fps, args.seed, names, args.heldout, MAX_SEQ_LEN,
                            parts, args.levels)
    codec.save(args.output)
    streams, rate = codec.streams, f"of {codec.window} frames, {codec.fps / codec.window:g} a second"
    if streams.count == 1:
        return f"{args.output}: {codec.codes} codes {rate}"
    sizes = ", ".join(f"{size} codes of {name}" for name, size in zip(streams.names, streams.sizes, strict=True))
    return f"{args.output}: {sizes}; steps {rate}"


def _encode(args: argparse.Namespace) -> str:
    keep_inputs(args.output, args.captions)
    log.info("encoding %s by the codec in %s", args.captions or args.motions, args.codec)
    codec = MotionCodec.load(args.codec)
    if args.captions:
        rows = encode_captions(codec, args.motions, args.captions, **_reading(args))
    else:
        rows = encode_files(codec, args.motions, **_reading(args))
    write_json(args.output, rows)
    return f"{args.output}: {len(rows)} {'rows' if args.captions else 'clips'}"


def _reading(args: argparse.Namespace) -> dict:
    """The options of read_motion that the flags set."""
    names = {"rate": "fps", "skeleton": "skeleton_path"}
    return {names.get(flag, flag): getattr(args, flag) for flag in READING if getattr(args, flag) is not None}


def _decode(args: argparse.Namespace) -> str:
    suffix = Path(args.output).suffix.lower()
    if suffix not in WRITERS:
        raise MotionError(f"--output {args.output}: expected a name that ends with {', '.join(WRITERS)}")
    codec = MotionCodec.load(args.codec)
    check_finishing(args, codec.layout.skeleton)
    frames = None if args.seconds is None else _frames(args.seconds, codec.fps)
    motion = finished(codec.decode(codec.read(args.tokens), frames), args)
    if suffix == ".bvh":
        write_bvh(args.output, motion, args.scale)
    else:
        write(args.output, [Clip(motion, args.tokens)])
    return f"{args.output}: {len(motion)} frames, {motion.seconds:.1f} seconds"


def _frames(seconds: float, fps: float) -> int:
    if not 0 < seconds < 1e6:
        raise CodecError(f"--seconds {seconds:g}: expected more than 0, and less than 1,000,000")
    return round(seconds * fps)


COMMANDS = {"fit": _fit, "encode": _encode, "decode": _decode}


def main(arguments: Sequence[str] | None = None) -> int:
    args = _parser().parse_args(arguments)
    start_log()
    return exit_status("codec.py", lambda: print(printable(run(args))))


if __name__ == "__main__":
    sys.exit(main())
