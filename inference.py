"""A sentence in, motion tokens out: `python inference.py --model_path output/stage3_t2m_sft --prompt "a person ..."`.

Stdout carries the tokens alone, one clip a line, in the dataset's format; everything else goes to stderr. In Python:

    from inference import MotionGenerator
    MotionGenerator(model_path="output/stage3_t2m_sft").generate("a person walks forward")
"""

import argparse
import json
import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

import config
from motion_llm.command_line import Parser, exit_status, keep_inputs, printable, printable_json, start_log
from motion_llm.decoding.request import (
    CANDIDATES,
    SAMPLING_SETTINGS,
    TASKS,
    WITH_LOST_TOKENS,
    GenerationError,
    MotionRequest,
    checked_number,
    motion_of_text,
    with_lost_span,
)
from motion_llm.decoding.scene import MOST_SEGMENTS, SHARED, Segment, Span
from motion_llm.decoding.timeline import read_timeline
from motion_llm.json_files import read_text
from motion_llm.motion.bvh import SCALE
from motion_llm.motion.files import READERS
from motion_llm.motion.finishing import FINISHING, add_finishing_flags, check_finishing, finished, seam_of
from motion_llm.motion.humanml3d import FPS
from motion_llm.motion.kinematics import UP
from motion_llm.motion.rest_pose import REST_POSES
from motion_llm.network.folder import CODEC_FOLDER, read_motion_config
from motion_llm.saving import naming
from motion_llm.streams import in_a_line
from motion_llm.viewer.codec_figures import CodecFigures, check_codec
from motion_llm.viewer.figure import Clip
from motion_llm.viewer.files import WRITERS, check_rest_pose, named, paths_of, write
from motion_llm.viewer.video import check_packages

log = logging.getLogger("inference")

BAR_AFTER = 3  # seconds of decoding


def __getattr__(name: str):
    # MotionGenerator comes from generate.py, whose imports take seconds that --help should not.
    if name == "MotionGenerator":
        return _motion_generator_class()
    raise AttributeError(name)


def _motion_generator_class():
    from generate import MotionGenerator  # imports torch, which takes seconds

    return MotionGenerator


def _parser() -> Parser:
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


def _take_files(args: argparse.Namespace, model_path: str) -> None:
    """Put the codes of --motion and --end_motion into --motion_tokens and --end_tokens. Raises ValueError."""
    files = (("motion", "motion_tokens"), ("end_motion", "end_tokens"))
    for name, tokens in files:
        if getattr(args, name) is not None and getattr(args, tokens) is not None:
            raise ValueError(f"--{name} and --{tokens} are the same thing: give one of them")
    if args.motion is None and args.end_motion is None:
        return
    figures = CodecFigures(Path(model_path) / CODEC_FOLDER)
    for name, tokens in files:
        if (path := getattr(args, name)) is not None:
            setattr(args, tokens, figures.encode(path, **_hints(args)))


def _hints(args: argparse.Namespace) -> dict:
    """What motion files leave open."""
    return {"scale": args.scale, "fps": args.fps, "up": args.up}


def _read_tokens(args: argparse.Namespace) -> None:
    """Read motions of several streams, which are JSON. Raises GenerationError."""
    for name in ("motion_tokens", "end_tokens"):
        if isinstance(value := getattr(args, name), str):
            setattr(args, name, motion_of_text(value))


def _lose_span(args: argparse.Namespace, rate: float | None) -> None:
    """Put lost tokens into --motion_tokens, where --span says. rate: tokens a second. Raises ValueError."""
    if args.span is None:
        return
    if args.task not in WITH_LOST_TOKENS or args.motion_tokens is None:
        raise ValueError(f"--span is for --task {' and '.join(WITH_LOST_TOKENS)}, with --motion_tokens or --motion")
    args.motion_tokens = with_lost_span(args.motion_tokens, args.span, rate)


def _segments(args: argparse.Namespace) -> list[Segment] | None:
    """The segments of a scene; None where one sentence is asked. Raises ValueError."""
    if args.timeline is None and args.then is None:
        return None
    flag = "--then" if args.timeline is None else "--timeline"
    lengths = ("tokens", "min_tokens", "max_tokens", "seconds", "max_new_tokens")
    if given := [name for name in lengths if getattr(args, name) is not None]:
        raise ValueError(f"--{given[0]} is the length of one sentence, not of a scene ({flag}): write each segment's "
                         "own into a --timeline")
    if args.task != "t2m" or args.prompts_file is not None:
        raise ValueError(f"{flag} is for t2m, and without --prompts_file")
    checked_number("num_samples", args.num_samples, 1, MOST_SEGMENTS, whole=True)
    if args.timeline is None:
        if args.prompt is None:
            raise ValueError("--then is what happens behind --prompt, which was not given")
        return [Segment(text) for text in (args.prompt, *args.then)]
    if args.prompt is not None or args.then is not None:
        raise ValueError("--timeline has all sentences of a scene: leave out --prompt and --then")
    return read_timeline(args.timeline)


def _prompts(args: argparse.Namespace) -> list[str | None]:
    """Raises ValueError naming the file and the line for an empty one, and for flags that do not go together."""
    if args.prompts_file is None:
        if args.task == "t2m" and args.prompt is None:
            raise ValueError("t2m needs a sentence: --prompt, or --prompts_file with one a line")
        return [args.prompt]
    if args.task != "t2m" or args.prompt is not None:
        raise ValueError("--prompts_file is for t2m, and without --prompt")
    text = read_text(args.prompts_file)
    lines = text.removesuffix("\n").split("\n")  # not splitlines(), which cuts at characters inside a sentence too
    empty = [number for number, line in enumerate(lines, 1) if not line.strip()]
    if empty:
        raise ValueError(f"{args.prompts_file}: line {empty[0]} is empty (empty lines: {len(empty)}), "
                         "expected one sentence a line")
    return [line.removesuffix("\r") for line in lines]


def _requests(args: argparse.Namespace, prompts: list[str | None]) -> list:
    """Raises GenerationError for a request that no model can answer."""
    shared = {name: getattr(args, name) for name in (
        "participant_id", "tokens", "min_tokens", "max_tokens", "seconds", "max_new_tokens", "per_prompt_vocab",
        "num_samples", "best_of", "streams", "as_written", *SAMPLING_SETTINGS)}
    shared["best_of"] = args.best_of or 1
    if args.task == "m2t" and args.temperature is None:
        shared["temperature"] = 0  # the answer is one sentence, so the likeliest
    requests = []
    for number, prompt in enumerate(prompts, 1):
        try:
            requests.append(MotionRequest(args.task, prompt, args.motion_tokens, args.end_tokens, **shared))
        except GenerationError as error:
            if args.prompts_file is None:
                raise
            raise GenerationError(f"{args.prompts_file}: line {number}: {error}") from None
    return requests


def _check_early(args: argparse.Namespace, model_path: str, content: dict, count: int) -> None:
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
    if _shows_motion(args):
        check_codec(Path(model_path) / CODEC_FOLDER)
        check_packages(Path(args.output).suffix.lower())
        if args.task == "m2t" or args.stream:
            raise ValueError(f"--output {args.output}: m2t answers with text, and --stream with tokens alone")
    if (flag := next((name for name in FINISHING if getattr(args, name)), None)) and not _shows_motion(args):
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


def _generator(args: argparse.Namespace, settings: dict, model_path: str, overrides: dict):
    generator = _motion_generator_class()(model_path, args.dataset_path, args.device)
    if args.tokens_per_second is not None:
        generator.settings["TOKENS_PER_SECOND"] = args.tokens_per_second
    for flag, name in SAMPLING_SETTINGS.items():
        if flag not in overrides and settings[name] != generator.settings.get(name, settings[name]):
            log.info("%s is %s, as the model's folder keeps it (config.py says %s)", name, generator.settings[name],
                     settings[name])
    return generator


def _with_bar(results: Iterator, count: int) -> Iterator:
    """The results as they come, with a bar on stderr that estimates the time if it is long. The lengths of the first
    ten captions are logged."""
    lengths, bar, started = set(), None, time.monotonic()
    with ExitStack() as stack:
        for number, result in enumerate(results, 1):
            if bar is None and time.monotonic() - started >= BAR_AFTER and number < count:
                bar = stack.enter_context(tqdm(desc="decoding", total=count, leave=False, unit="clip",
                                               dynamic_ncols=True, mininterval=0.5 if sys.stderr.isatty() else 30))
                bar.start_t -= time.monotonic() - started
            if bar is not None:
                bar.update(number - bar.n)
            if result.limits is not None and len(lengths) < 10 and (result.text, result.limits) not in lengths:
                lengths.add((result.text, result.limits))
                with tqdm.external_write_mode(sys.stderr):
                    if result.taken_for is not None:
                        log.info("%r: taken for the training caption %r, for it has words that none has (--as_written "
                                 "asks it as it is)", result.text, result.taken_for)
                    _log_length(result.text, result.limits)
            yield result


def _log_length(text: str | None, limits) -> None:
    span = (f"{limits.min_tokens} to {limits.max_tokens} tokens, about {round(limits.soft_target, 1):g}"
            if limits.min_tokens < limits.max_tokens else f"{limits.min_tokens} tokens")
    log.info("%s%s, from %s", "" if text is None else f"{text!r}: ", span, limits.source)


def _shows_motion(args: argparse.Namespace) -> bool:
    return args.output is not None and Path(args.output).suffix.lower() in WRITERS


def run(args: argparse.Namespace) -> Iterator[str]:
    """The lines to print; with --stream, one token each. Raises ValueError (subclasses included) and OSError."""
    settings = config.resolve({})
    overrides = {flag: getattr(args, flag) for flag in SAMPLING_SETTINGS if getattr(args, flag) is not None}
    rate = {"TOKENS_PER_SECOND": args.tokens_per_second} if args.tokens_per_second is not None else {}
    config.check({SAMPLING_SETTINGS[flag]: value for flag, value in overrides.items()} | rate, "command line")
    model_path = args.model_path or str(Path(settings["WORK_DIR"]) / "stage3_t2m_sft")
    segments = _segments(args)
    prompts = _prompts(args) if segments is None else []
    content = read_motion_config(model_path)
    _take_files(args, model_path)
    _read_tokens(args)
    _lose_span(args, args.tokens_per_second or content["settings"].get("TOKENS_PER_SECOND"))
    if args.best_of is None:
        args.best_of = CANDIDATES if args.task == "m2t" and "t2m" in content["tasks"] else 1
    if args.task == "m2t" and args.temperature is None and args.seed is None:
        args.seed = 0  # the same caption each time
    requests = _requests(args, prompts)
    config.check(content["settings"], f"{model_path}/motion_config.json")
    _check_early(args, model_path, content, (len(requests) or 1) * args.num_samples)
    log.info("model %s, trained on %s", model_path, content["settings"]["DATA_JSON_PATH"])
    generator = _generator(args, settings, model_path, overrides)
    if any(getattr(args, name) for name in FINISHING):
        check_finishing(args, generator.codec.layout.skeleton)
    if args.stream:
        shared = {} if segments is None else _shared(args)
        yield from map(json.dumps, generator.stream(segments or requests[0], args.seed, **shared))
        return
    if segments is not None:
        yield from _scenes(args, generator, segments)
        return
    shown = []
    for result in _with_bar(generator.answers(requests, args.seed), len(requests) * args.num_samples):
        if args.loop:
            result = generator.looped(result, args.seed, participant_id=args.participant_id)
        if args.prompts_file is not None:
            taken_for = {} if result.taken_for is None else {"taken_for": result.taken_for}
            yield json.dumps({"text_query": result.text, "motion_tokens": result.motion_tokens} | taken_for,
                             ensure_ascii=False)
        else:
            if result.others:
                log.info("%s", _runners_up(result))
            yield result.text if args.task == "m2t" else in_a_line(result.motion_tokens)
        if _shows_motion(args):
            shown.append(result)
    if _shows_motion(args):
        clips = generator.clips(shown)
        if args.motion is not None and args.span is not None:  # outside of the span it stays as it was recorded
            clips = [replace(clip, motion=generator.spliced(args.motion, result.codes, **_hints(args)))
                     for clip, result in zip(clips, shown, strict=True)]
        _write(args, clips)


def _write(args: argparse.Namespace, clips: list[Clip]) -> None:
    """Finish the clips as the flags tell, and write them."""
    clips = [replace(clip, motion=finished(clip.motion, args)) for clip in clips]
    for clip in clips if args.loop else ():
        seam = seam_of(clip.motion)
        log.info("where the end meets the start, the joints move at %.2f m/s (%.2f in the motion), with a jerk of %.0f "
                 "m/s3 (%.0f)", seam.speed, seam.own_speed, seam.jerk, seam.own_jerk)
    log.info("written: %s", named(write(args.output, clips, args.rest_pose)))


def _runners_up(result) -> str:
    """How sure a caption is, and what else it could be."""
    others = ", ".join(f"{text!r} {share:.0%}" for text, share in result.others[:3] if share >= 0.005)
    return f"{result.text!r}: {result.score:.0%} sure" + (f"; else {others}" if others else "")


def _scenes(args: argparse.Namespace, generator, segments: list[Segment]) -> Iterator[str]:
    """A JSON line for each of --num_samples scenes, which --output shows."""
    scenes = []
    for scene in generator.scenes([segments] * args.num_samples, args.seed, **_shared(args)):
        if not scenes:
            for span in scene.spans:
                log.info("%s", _described(span))
        yield json.dumps(scene.to_dict(), ensure_ascii=False)
        scenes.append(scene)
    if _shows_motion(args):
        _write(args, generator.scene_clips(scenes))


def _shared(args: argparse.Namespace) -> dict:
    return {name: getattr(args, name) for name in SHARED}


def _described(span: Span) -> str:
    seconds = "" if span.seconds is None else f", {span.seconds[0]:.1f} to {span.seconds[1]:.1f} s"
    taken_for = "" if span.taken_for is None else f", taken for the training caption {span.taken_for!r}"
    return f"{span.text!r}: tokens {span.start} to {span.end - 1}{seconds}{taken_for}"


def main() -> int:
    args = _parser().parse_args()
    start_log()
    return exit_status("inference.py", lambda: print_and_save(args))


def print_and_save(args: argparse.Namespace) -> None:
    """Print what `run` yields as it comes, and write it to --output if that is a text file."""
    end, separator = ("", " ") if args.stream else ("\n", "")
    in_json = args.prompts_file is not None or not args.stream and (args.then is not None or args.timeline is not None)
    shown = printable_json if in_json else printable
    with closing(run(args)) as lines, _text_output(None if _shows_motion(args) else args.output) as save:
        for number, line in enumerate(lines):
            text = f"{separator if number else ''}{line}{end}"
            with tqdm.external_write_mode(sys.stdout):
                print(shown(text), end="", flush=True)
            save(text)
        if args.stream:
            print()
            save("\n")


@contextmanager
def _text_output(path: str | None) -> Iterator[Callable[[str], None]]:
    """A function that writes text to the file at once, so that an interrupted command leaves the answers that it had.
    An earlier file stays until there is a first answer. None: it does nothing. Raises OSError naming the file."""
    with ExitStack() as stack:
        file = None

        def save(text: str) -> None:
            nonlocal file
            if path is None:
                return
            with naming(Path(path)):
                if file is None:
                    Path(path).parent.mkdir(parents=True, exist_ok=True)
                    file = stack.enter_context(open(path, "wb", buffering=0))  # what fails, fails here and by name
                content = text.encode()
                while content:
                    content = content[file.write(content):]

        yield save


if __name__ == "__main__":
    sys.exit(main())
