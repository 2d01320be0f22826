"""How good a trained model is: `python evaluate.py --model_path output/stage3_t2m_sft`.

Generates clips for held-out captions, scores them beside real clips and beside baselines that need no model, and
writes metrics.json, baselines.json, details.json, generated.jsonl and report.html. After an interruption the same
command continues. Clips of another model are scored with --generated.
"""

import argparse
import sys
from pathlib import Path

import config
from motion_llm.command_line import Parser, exit_status, printable, start_log
from motion_llm.dataset.rows import SPLITS
from motion_llm.evaluation.run import Request, evaluate_model
from motion_llm.network.folder import MOTION_CONFIG, read_motion_config

DECODING = ("GEN_TEMPERATURE", "GEN_TOP_P", "GEN_TOP_K", "GEN_END_LOGIT_SLOPE", "GEN_GUIDANCE")


def _parser() -> Parser:
    parser = Parser(description="Score a trained model, or clips of any other.")
    parser.add_argument("--model_path", help="a trained stage's folder. Default: WORK_DIR/stage3_t2m_sft, which with "
                        "--generated need not exist")
    parser.add_argument("--data", help="the rows to score. Default: the run's own test set")
    parser.add_argument("--split", choices=[*SPLITS, "all"], help="which rows of --data to score, by their field "
                        "split. Default: test, where there are any, else all")
    parser.add_argument("--output", help="the folder to write to. Default: evaluation, beside the model")
    parser.add_argument("--num_samples", type=int, default=3, help="how often to generate each clip. Default: 3")
    parser.add_argument("--max_prompts", type=int, help="score only so many clips, drawn by the seed. Default: "
                        "all")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same figures. Default: 0")
    parser.add_argument("--include_train", action="store_true", help="also score rows that the run was trained on")
    parser.add_argument("--generated", help="score the clips in this file (JSON Lines of text_query, motion_tokens and "
                        "participant_id, in any order) and generate none")
    parser.add_argument("--train_data", help="a dataset of the training clips, where they do not lie beside the model")
    parser.add_argument("--codec", metavar="FOLDER", help="the codec of the tokens, a folder made by `codec.py fit`, "
                        "for the metrics of joints. Default: the copy in the model's folder, if any")
    parser.add_argument("--parts", metavar="FILE", help="also judge the joints of each part of the figure apart: a "
                        "JSON file of joints' names by part, or hands. Default: the parts of the codec, if it has any")
    parser.add_argument("--fresh", action="store_true", help="generate anew: remove the files of an earlier evaluation "
                        "in --output")
    parser.add_argument("--device", choices=["cpu", "cuda"], help="Default: a GPU where there is one")
    decoding = parser.add_argument_group("decoding", "The default is the model's own setting, not the default shown "
                                         "here.")
    config.add_arguments(decoding, DECODING)
    return parser


def main() -> int:
    args = _parser().parse_args()
    start_log()
    return exit_status("evaluate.py", lambda: print(printable(run(args)), flush=True),
                       stopped="stopped; the same command continues after the clips that are saved")


def run(args: argparse.Namespace) -> str:
    """The text to print. Raises ValueError (or a subclass) and OSError for a request that cannot be evaluated."""
    settings = config.resolve({})
    model_path = args.model_path or str(Path(settings["WORK_DIR"]) / "stage3_t2m_sft")
    if args.model_path is None and args.generated is not None and not (Path(model_path) / MOTION_CONFIG).is_file():
        model_path = None  # clips from a file need no model
    if model_path is not None:
        config.check(read_motion_config(model_path)["settings"], f"{model_path}/{MOTION_CONFIG}")
    decoding = {name: value for name, value in config.given(args).items() if name in DECODING}
    options = {name: value for name, value in vars(args).items() if name.upper() not in DECODING}
    return evaluate_model(Request(**options | {"model_path": model_path, "decoding": decoding}))


if __name__ == "__main__":
    sys.exit(main())
