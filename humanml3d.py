"""The published codec of T2M-GPT and MotionGPT, for HumanML3D's features: features to codes, codes to a BVH file.

    python humanml3d.py encode --checkpoint net.pth --mean mean.npy --std std.npy --features 000001.npy
    python humanml3d.py decode --checkpoint net.pth --mean mean.npy --std std.npy --tokens "42 18" --output clip.bvh

The checkpoint, the mean and the deviation are the authors', and no part of this project. The implementation is in
motion_llm/motion/humanml3d_codec.py.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from motion_llm.command_line import Parser, exit_status, printable, start_log
from motion_llm.motion.bvh import write_bvh
from motion_llm.motion.codec import tokens_of
from motion_llm.motion.humanml3d_codec import HumanML3DCodec, read_numbers


def _parser() -> Parser:
    parser = Parser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True, metavar="encode|decode")
    encode = commands.add_parser("encode", help="print the codes of a clip of HumanML3D")
    encode.add_argument("--features", required=True, metavar="FILE", help="a clip's .npy file of new_joint_vecs")
    decode = commands.add_parser("decode", help="make a BVH file from codes")
    decode.add_argument("--tokens", required=True, metavar="TEXT", help='codes with spaces between: "42 18 91"')
    decode.add_argument("--output", required=True, metavar="PATH", help="the BVH file, in centimetres")
    for command in (encode, decode):
        command.add_argument("--checkpoint", required=True, metavar="FILE", help="the published network")
        command.add_argument("--mean", required=True, metavar="FILE", help="the .npy it was trained with")
        command.add_argument("--std", required=True, metavar="FILE", help="the .npy it was trained with")
    return parser


def run(args: argparse.Namespace) -> str:
    """Runs the command and returns the line to print. Raises CodecError, MotionError, OSError."""
    codec = HumanML3DCodec.load(args.checkpoint, args.mean, args.std)
    if args.command == "encode":
        return " ".join(map(str, codec.encode(read_numbers(Path(args.features), 2))))
    motion = codec.decode(tokens_of(args.tokens))
    write_bvh(args.output, motion)
    return f"{args.output}: {len(motion)} frames, {motion.seconds:.1f} seconds"


def main(arguments: Sequence[str] | None = None) -> int:
    args = _parser().parse_args(arguments)
    start_log()
    return exit_status("humanml3d.py", lambda: print(printable(run(args))))


if __name__ == "__main__":
    sys.exit(main())
