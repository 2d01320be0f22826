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
from motion_llm.command_line import exit_status, printable, printable_json, start_log
from motion_llm.decoding.request import CANDIDATES, SAMPLING_SETTINGS
from motion_llm.decoding.scene import SHARED, Segment, Span
from motion_llm.inference.flags import check_flags, make_parser, shows_motion
from motion_llm.inference.questions import hints_of, prompts_of, read_motions, requests_of, segments_of
from motion_llm.motion.finishing import FINISHING, check_finishing, finished, seam_of
from motion_llm.network.folder import read_motion_config
from motion_llm.saving import naming
from motion_llm.streams import in_a_line
from motion_llm.viewer.figure import Clip
from motion_llm.viewer.files import named, write

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


def run(args: argparse.Namespace) -> Iterator[str]:
    """The lines to print; with --stream, one token each. Raises ValueError (subclasses included) and OSError."""
    settings = config.resolve({})
    overrides = {flag: getattr(args, flag) for flag in SAMPLING_SETTINGS if getattr(args, flag) is not None}
    rate = {"TOKENS_PER_SECOND": args.tokens_per_second} if args.tokens_per_second is not None else {}
    config.check({SAMPLING_SETTINGS[flag]: value for flag, value in overrides.items()} | rate, "command line")
    model_path = args.model_path or str(Path(settings["WORK_DIR"]) / "stage3_t2m_sft")
    segments = segments_of(args)
    prompts = prompts_of(args) if segments is None else []
    content = read_motion_config(model_path)
    read_motions(args, model_path, args.tokens_per_second or content["settings"].get("TOKENS_PER_SECOND"))
    if args.best_of is None:
        args.best_of = CANDIDATES if args.task == "m2t" and "t2m" in content["tasks"] else 1
    if args.task == "m2t" and args.temperature is None and args.seed is None:
        args.seed = 0  # the same caption each time
    requests = requests_of(args, prompts)
    config.check(content["settings"], f"{model_path}/motion_config.json")
    check_flags(args, model_path, content, (len(requests) or 1) * args.num_samples)
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
        if shows_motion(args):
            shown.append(result)
    if shows_motion(args):
        clips = generator.clips(shown)
        if args.motion is not None and args.span is not None:  # outside of the span it stays as it was recorded
            clips = [replace(clip, motion=generator.spliced(args.motion, result.codes, **hints_of(args)))
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
    if shows_motion(args):
        _write(args, generator.scene_clips(scenes))


def _shared(args: argparse.Namespace) -> dict:
    return {name: getattr(args, name) for name in SHARED}


def _described(span: Span) -> str:
    seconds = "" if span.seconds is None else f", {span.seconds[0]:.1f} to {span.seconds[1]:.1f} s"
    taken_for = "" if span.taken_for is None else f", taken for the training caption {span.taken_for!r}"
    return f"{span.text!r}: tokens {span.start} to {span.end - 1}{seconds}{taken_for}"


def main() -> int:
    args = make_parser().parse_args()
    start_log()
    return exit_status("inference.py", lambda: print_and_save(args))


def print_and_save(args: argparse.Namespace) -> None:
    """Print what `run` yields as it comes, and write it to --output if that is a text file."""
    end, separator = ("", " ") if args.stream else ("\n", "")
    in_json = args.prompts_file is not None or not args.stream and (args.then is not None or args.timeline is not None)
    shown = printable_json if in_json else printable
    with closing(run(args)) as lines, _text_output(None if shows_motion(args) else args.output) as save:
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
