"""Motions to codes and back, by a codec that is fitted to clips of one figure.

    python codec.py fit --motions clips/ --codes 512 --output codec/
    python codec.py encode --codec codec/ --motions clips/ --captions captions.json --output dataset.json
    python codec.py decode --codec codec/ --tokens "42 18 91" --output clip.bvh

The published codec of T2M-GPT and MotionGPT, for HumanML3D's features:

    python codec.py humanml3d_decode --checkpoint net.pth --mean mean.npy --std std.npy --tokens "42" --output clip.bvh
    python codec.py humanml3d_encode --checkpoint net.pth --mean mean.npy --std std.npy --features 000001.npy

captions.json is a list of {"file", "text_query", optional "participant_id" and "split"}; dataset.json gets one row for
each entry. The implementation is in motion_llm/motion/codec.py.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from motion_llm.command_line import exit_status, start_log
from motion_llm.motion.bvh import SCALE, write_bvh
from motion_llm.motion.codec import (
    CODES,
    FILES,
    QUANTISERS,
    SEED,
    WINDOW,
    CodecError,
    MotionCodec,
    encode_captions,
    mean_skeleton,
    read_motions,
    tokens_of,
    warn_of_size,
)
from motion_llm.motion.humanml3d import HumanML3DCodec, read_numbers
from motion_llm.motion.skeleton import Motion


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True, metavar="|".join(COMMANDS))
    fit = commands.add_parser("fit", help="make a codec from clips", allow_abbrev=False)
    fit.add_argument("--codes", type=int, default=CODES, metavar="K", help=f"size of the codebook. Default: {CODES}")
    fit.add_argument("--window", type=int, default=WINDOW, metavar="N", help=f"frames a code. Default: {WINDOW}")
    fit.add_argument("--kind", choices=QUANTISERS, default=QUANTISERS[0],
                     help=f"Default: {QUANTISERS[0]}, which takes minutes")
    fit.add_argument("--fps", type=float, help="frames a second. Default: that of most clips")
    fit.add_argument("--seed", type=int, default=SEED, help=f"Default: {SEED}")
    encode = commands.add_parser("encode", help="make a dataset from clips and captions", allow_abbrev=False)
    encode.add_argument("--captions", required=True, metavar="FILE", help="JSON list of file and text_query")
    decode = commands.add_parser("decode", help="make a BVH file from codes", allow_abbrev=False)
    decode.add_argument("--tokens", required=True, metavar="TEXT", help='codes with spaces between: "42 18 91"')
    for command in (encode, decode):
        command.add_argument("--codec", required=True, metavar="FOLDER", help="the folder that fit wrote")
    for command in (fit, encode):
        command.add_argument("--motions", required=True, metavar="FOLDER", help="the BVH files")
    for command, text in ((fit, "the codec's folder"), (encode, "the dataset, JSON"), (decode, "the BVH file")):
        command.add_argument("--output", required=True, metavar="PATH", help=text)
        command.add_argument("--scale", type=float, default=SCALE, metavar="METRES",
                             help=f"metres a unit of the BVH files. Default: {SCALE}, centimetres")
    _add_humanml3d(commands)
    return parser


def _add_humanml3d(commands) -> None:
    """Commands for the published codec of T2M-GPT."""
    encode = commands.add_parser("humanml3d_encode", help="print the codes of a clip of HumanML3D, by T2M-GPT's codec",
                                 allow_abbrev=False)
    encode.add_argument("--features", required=True, metavar="FILE", help="a clip's .npy file of new_joint_vecs")
    decode = commands.add_parser("humanml3d_decode", help="make a BVH file from codes of T2M-GPT's codec",
                                 allow_abbrev=False)
    decode.add_argument("--tokens", required=True, metavar="TEXT", help='codes with spaces between: "42 18 91"')
    decode.add_argument("--output", required=True, metavar="PATH", help="the BVH file, in centimetres")
    for command in (encode, decode):
        command.add_argument("--checkpoint", required=True, metavar="FILE", help="the published network")
        command.add_argument("--mean", required=True, metavar="FILE", help="the .npy it was trained with")
        command.add_argument("--std", required=True, metavar="FILE", help="the .npy it was trained with")


def run(args: argparse.Namespace) -> str:
    """Runs the command and returns the line to print. Raises ValueError or a subclass of it, and OSError."""
    return COMMANDS[args.command](args)


def _fit(args: argparse.Namespace) -> str:
    if any((Path(args.output) / name).exists() for name in FILES):
        raise CodecError(f"{args.output} holds a codec already: choose another --output, or remove it")
    motions = list(read_motions(args.motions, args.scale).values())
    warn_of_size(mean_skeleton(motions))
    codec = MotionCodec.fit(motions, args.codes, args.window, args.kind, args.fps, args.seed)
    codec.save(args.output)
    return f"{args.output}: {codec.codes} codes of {codec.window} frames, {codec.fps / codec.window:g} a second"


def _encode(args: argparse.Namespace) -> str:
    rows = encode_captions(MotionCodec.load(args.codec), args.motions, args.captions, args.scale)
    Path(args.output).write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return f"{args.output}: {len(rows)} rows"


def _decode(args: argparse.Namespace) -> str:
    return _write_motion(args.output, MotionCodec.load(args.codec).decode(tokens_of(args.tokens)), args.scale)


def _humanml3d_encode(args: argparse.Namespace) -> str:
    codec = HumanML3DCodec.load(args.checkpoint, args.mean, args.std)
    return " ".join(map(str, codec.encode(read_numbers(Path(args.features), 2))))


def _humanml3d_decode(args: argparse.Namespace) -> str:
    codec = HumanML3DCodec.load(args.checkpoint, args.mean, args.std)
    return _write_motion(args.output, codec.decode(tokens_of(args.tokens)), SCALE)


def _write_motion(path: str, motion: Motion, scale: float) -> str:
    write_bvh(path, motion, scale)
    return f"{path}: {len(motion)} frames, {motion.seconds:.1f} seconds"


COMMANDS = {"fit": _fit, "encode": _encode, "decode": _decode, "humanml3d_encode": _humanml3d_encode,
            "humanml3d_decode": _humanml3d_decode}


def main(arguments: Sequence[str] | None = None) -> int:
    args = _parser().parse_args(arguments)
    start_log()
    return exit_status("codec.py", lambda: print(run(args)))


if __name__ == "__main__":
    sys.exit(main())
