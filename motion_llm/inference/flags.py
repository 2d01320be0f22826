"""The flags of inference.py, and which of them do not go together."""

import argparse
from pathlib import Path

from motion_llm.command_line import Parser, keep_inputs
from motion_llm.decoding.request import CANDIDATES, SAMPLING_SETTINGS, TASKS
from motion_llm.motion.bvh import SCALE
from motion_llm.motion.files import READERS
from motion_llm.motion.finishing import FINISHING, add_finishing_flags
from motion_llm.motion.humanml3d import FPS
from motion_llm.motion.kinematics import UP
from motion_llm.motion.rest_pose import REST_POSES
from motion_llm.network.folder import CODEC_FOLDER
from motion_llm.viewer.codec_figures import check_codec
from motion_llm.viewer.files import WRITERS, check_rest_pose, paths_of
from motion_llm.viewer.video import check_packages


def make_parser() -> Parser:
    parser = Parser(description="Motion tokens for a sentence, from a trained model, and its other tasks.")
    parser.add_argument("--model_path", default=None, help="a trained stage's folder. Default: WORK_DIR/stage3_t2m_sft")
    parser.add_argument("--task", choices=list(TASKS), default="t2m",
                        help="; ".join(f"{task}: {text}" for task, text in TASKS.items()) + ". Default: t2m")
    parser.add_argument("--prompt", help="the sentence")
    parser.add_argument("--prompts_file", help="a file with one sentence a line; the answers are JSON Lines")
    parser.add_argument("--then", metavar="SENTENCE", action="append", help="what happens next, behind --prompt; "
                        "may stand several times. The answer is a JSON line with the tokens and each sentence's span")
    parser.add_argument("--timeline", metavar="FILE", help="the same from a JSON file of sentences, with seconds, "
                        "tokens or starts")
    parser.add_argument("--motion_tokens", help='the motion that m2t, denoise and edit ("?" for a lost token), '
                        'inbetween and continue start from, such as "42 18 91"; of several streams JSON in the form of '
                        'the dataset, such as {"body": "42 18", "hands": "?"}')
    parser.add_argument("--end_tokens", help="the motion that inbetween leads to")
    kinds = ", ".join(READERS)
    parser.add_argument("--motion", "--bvh", metavar="FILE", help=f"a file with the motion ({kinds}) instead of "
                        "--motion_tokens, where the model's folder knows its codec")
    parser.add_argument("--end_motion", metavar="FILE", help="the same instead of --end_tokens")
    parser.add_argument("--scale", type=float, default=SCALE, metavar="METRES", help="metres a unit of BVH files. "
                        f"Default: {SCALE}, centimetres")
    parser.add_argument("--fps", type=float, help=f"frames a second of .npy files. Default: {FPS:g}")
    parser.add_argument("--up", choices=UP, help="the files' axis that points up. Default: y, and z for .npz")
    parser.add_argument("--span", metavar="START:END", help="seconds of the motion that denoise or edit makes anew, "
                        "such as 2.0:3.5")
    parser.add_argument("--output", help="a file for the tokens, beside stdout; one that ends with "
                        f"{', '.join(WRITERS)} shows the motion, where the model's folder knows its codec")
    parser.add_argument("--rest_pose", choices=REST_POSES, default=REST_POSES[0],
                        help=f"of a .bvh or .glb --output: t for a T-pose. Default: {REST_POSES[0]}")
    add_finishing_flags(parser)
    parser.add_argument("--loop", action="store_true", help="add a few tokens that lead from the end back to the "
                        "start, so that the motion can be played again and again")
    parser.add_argument("--dataset_path", help="take lengths and per-prompt codes from this dataset instead")
    parser.add_argument("--streams", nargs="+", metavar="NAME", help="of a model with several streams, those that the "
                                                                     "answer has. Default: all")
    parser.add_argument("--participant_id", help="move like this participant of the training data")
    parser.add_argument("--tokens", type=int, help="exactly this many motion tokens")
    parser.add_argument("--min_tokens", type=int, help="at least this many motion tokens")
    parser.add_argument("--max_tokens", type=int, help="at most this many motion tokens")
    parser.add_argument("--seconds", type=float, help="the exact duration, rounded to whole tokens")
    parser.add_argument("--tokens_per_second", type=float, help="overrides the TOKENS_PER_SECOND that the model's "
                                                                "folder keeps")
    parser.add_argument("--max_new_tokens", type=int, help="a cap on the length, lowered to what fits the model")
    for flag, name in SAMPLING_SETTINGS.items():
        kind = int if flag == "top_k" else float
        parser.add_argument(f"--{flag}", type=kind, help=f"overrides the {name} that the model's folder keeps")
    parser.add_argument("--per_prompt_vocab", action="store_true", help="only codes seen in training with the sentence")
    parser.add_argument("--num_samples", type=int, default=1, help="clips for each sentence. Default: 1")
    parser.add_argument("--best_of", type=int, help="decode this many for each clip and keep the one that fits the "
                        f"sentence best; of m2t, compare so many captions. Default: 1, for m2t {CANDIDATES}")
    parser.add_argument("--as_written", action="store_true", help="ask a sentence with new words as it is, not as the "
                                                                  "nearest training caption")
    parser.add_argument("--stream", action="store_true", help="print the tokens of one clip as they are decoded")
    parser.add_argument("--seed", type=int, help="the same seed gives the same clips. Default: a new one each time")
    parser.add_argument("--device", choices=["cpu", "cuda"], help="Default: a GPU where there is one")
    return parser


def shows_motion(args: argparse.Namespace) -> bool:
    return args.output is not None and Path(args.output).suffix.lower() in WRITERS


def check_flags(args: argparse.Namespace, model_path: str, content: dict, count: int) -> None:
    """The checks that need no slow imports; content: of the model's motion_config.json; count: of answers. Raises
    ValueError."""
    people = content["vocabulary"]["participants"]
    if args.participant_id is not None and args.participant_id not in people:
        raise ValueError(f"participant {args.participant_id!r} is unknown; there are {', '.join(people) or 'none'}")
    if args.output is not None:
        for path in (args.output, *paths_of(args.output, count)):
            keep_inputs(path, args.prompts_file, args.timeline, args.motion, args.end_motion)
    if args.output is not None and Path(args.output).is_dir():
        raise ValueError(f"--output {args.output} is a folder, expected a file")
    check_rest_pose(args.output or "the output", args.rest_pose)
    if shows_motion(args):
        check_codec(Path(model_path) / CODEC_FOLDER)
        check_packages(Path(args.output).suffix.lower())
        if args.task == "m2t" or args.stream:
            raise ValueError(f"--output {args.output}: m2t answers with text, and --stream with tokens alone")
    if (flag := next((name for name in FINISHING if getattr(args, name)), None)) and not shows_motion(args):
        raise ValueError(f"--{flag} is about the motion that --output shows: give an --output that ends with "
                         f"{', '.join(WRITERS)}")
    if args.loop and (args.task == "m2t" or args.stream or args.then is not None or args.timeline is not None):
        raise ValueError("--loop is for one motion at a time: not for m2t, --stream, --then and --timeline")
    if args.loop and args.motion is not None and args.span is not None:
        raise ValueError("--loop adds tokens, and --span leaves a file as it was recorded elsewhere: give one of them")
    if args.loop and args.trim:
        raise ValueError("--loop and --trim: a loop's ends meet, and --trim cuts them off; give one of them")
    if args.loop and "inbetween" not in content["tasks"]:
        raise ValueError(f"--loop needs a model that goes from one motion to another; {model_path} was trained for "
                         f"{', '.join(content['tasks'])}: use the folder of stage 2, or set STAGE3_MIX and train again")
    if args.trim and (args.then is not None or args.timeline is not None):
        raise ValueError("--trim would move the times of a scene: leave it out")
    if args.stream and (args.prompts_file is not None or args.num_samples * args.best_of != 1 or args.task == "m2t"):
        raise ValueError("--stream prints one motion: no --prompts_file, --num_samples, --best_of, and not m2t")
