"""A sentence in, motion tokens out: `python inference.py --model_path output/stage3_t2m_sft --prompt "a person ..."`.

Stdout carries the tokens alone, one clip a line, in the dataset's format; everything else goes to stderr. In Python:

    from inference import MotionGenerator
    MotionGenerator(model_path="output/stage3_t2m_sft").generate("a person walks forward")
"""

import argparse
import json
import logging
import sys
from pathlib import Path

import config
from model_folder import read_motion_config

log = logging.getLogger("inference")

DECODING = {"temperature": "GEN_TEMPERATURE", "top_p": "GEN_TOP_P", "top_k": "GEN_TOP_K",
            "end_logit_slope": "GEN_END_LOGIT_SLOPE"}


def __getattr__(name: str):
    # MotionGenerator is handed on from generate.py, whose imports take seconds that --help should not.
    if name == "MotionGenerator":
        return _motion_generator_class()
    raise AttributeError(name)


def _motion_generator_class(device: str | None = None):
    from model import start_unsloth

    start_unsloth(device)  # before transformers, which generate.py imports
    from generate import MotionGenerator

    return MotionGenerator


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Motion tokens for a sentence, from a trained model.", allow_abbrev=False)
    parser.add_argument("--model_path", default=None, help="a trained stage's folder. Default: WORK_DIR/stage3_t2m_sft")
    asked = parser.add_mutually_exclusive_group(required=True)
    asked.add_argument("--prompt", help="the sentence")
    asked.add_argument("--prompts_file", help="a file with one sentence a line; the answers are JSON Lines")
    parser.add_argument("--output", help="a file for the tokens, beside stdout")
    parser.add_argument("--dataset_path", help="take lengths and per-prompt codes from this dataset instead")
    parser.add_argument("--participant_id", help="move like this participant of the training data")
    parser.add_argument("--max_new_tokens", type=int, help="longest clip, in motion tokens")
    for flag, name in DECODING.items():
        kind = int if flag == "top_k" else float
        parser.add_argument(f"--{flag}", type=kind, help=f"overrides the {name} that the model's folder keeps")
    parser.add_argument("--per_prompt_vocab", action="store_true", help="only codes seen in training with the sentence")
    parser.add_argument("--num_samples", type=int, default=1, help="clips for each sentence. Default: 1")
    parser.add_argument("--seed", type=int, help="the same seed gives the same clips. Default: a new one each time")
    parser.add_argument("--device", choices=["cpu", "cuda"], help="Default: a GPU where there is one")
    return parser


def _prompts(args: argparse.Namespace) -> list[str]:
    """Raises ValueError naming the file and the line for an empty one."""
    if args.prompt is not None:
        return [args.prompt]
    try:
        text = Path(args.prompts_file).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{args.prompts_file}: not UTF-8 (byte {error.start}), expected one sentence a line") from None
    lines = text.removesuffix("\n").split("\n")  # not splitlines(), which cuts at characters inside a sentence too
    empty = [number for number, line in enumerate(lines, 1) if not line.strip()]
    if empty:
        raise ValueError(f"{args.prompts_file}: line {empty[0]} is empty (empty lines: {len(empty)}), "
                         "expected one sentence a line")
    return [line.removesuffix("\r") for line in lines]


def _refuse_early(args: argparse.Namespace, prompts: list[str], kept: dict) -> None:
    """What can be told before seconds of imports. Raises ValueError."""
    if not all(prompt.strip() for prompt in prompts):
        raise ValueError("the prompt is empty, expected a sentence")
    for name in ("num_samples", "max_new_tokens"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise ValueError(f"{name} is {value}, expected 1 or more")
    people = kept["vocabulary"]["participants"]
    if args.participant_id is not None and args.participant_id not in people:
        raise ValueError(f"participant {args.participant_id!r} is unknown; there are {', '.join(people) or 'none'}")
    if args.output is not None and Path(args.output).is_dir():
        raise ValueError(f"--output {args.output} is a folder, expected a file")


def run(args: argparse.Namespace) -> list[str]:
    """The lines to print. Raises ValueError (its subclasses included) and OSError for what cannot be done."""
    settings = config.resolve({})
    given = {flag: getattr(args, flag) for flag in DECODING if getattr(args, flag) is not None}
    config.check({DECODING[flag]: value for flag, value in given.items()}, "command line")
    prompts = _prompts(args)
    model_path = args.model_path or str(Path(settings["WORK_DIR"]) / "stage3_t2m_sft")
    kept = read_motion_config(model_path)
    config.check(kept["settings"], f"{model_path}/motion_config.json")
    _refuse_early(args, prompts, kept)
    log.info("model %s, trained on %s", model_path, kept["settings"]["DATA_JSON_PATH"])
    generator = _motion_generator_class(args.device)(model_path, args.dataset_path, args.device)
    for flag, name in DECODING.items():
        if flag not in given and settings[name] != generator.settings[name]:
            log.info("%s is %s, as the model's folder keeps it (config.py says %s)", name, generator.settings[name],
                     settings[name])
    motions = generator.generate_batch(
        prompts, [args.participant_id] * len(prompts), max_new_tokens=args.max_new_tokens,
        per_prompt_vocab=args.per_prompt_vocab, seed=args.seed, num_samples=args.num_samples, **given)
    for prompt in list(dict.fromkeys(prompts))[:10]:
        limits = generator.length_model.limits(prompt, args.participant_id)
        log.info("%r: %d to %d tokens, about %g, from %s", prompt, limits.min_tokens, limits.max_tokens,
                 limits.soft_target, limits.source)
    if args.prompts_file is None:
        return motions
    repeated = [prompt for prompt in prompts for _ in range(args.num_samples)]
    return [json.dumps({"text_query": prompt, "motion_tokens": motion}, ensure_ascii=False)
            for prompt, motion in zip(repeated, motions, strict=True)]


def main() -> int:
    args = _parser().parse_args()
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(message)s")
    try:
        lines = run(args)
        print("\n".join(lines), flush=True)
        if args.output is not None:
            Path(args.output).parent.mkdir(parents=True, exist_ok=True)
            Path(args.output).write_text("\n".join(lines) + "\n", encoding="utf-8")
    except (ValueError, OSError) as error:
        print(f"inference.py: {error}", file=sys.stderr)
        return 1
    except ModuleNotFoundError as error:
        print(f"inference.py: the package {error.name} is missing: run it with .venv/bin/python", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
