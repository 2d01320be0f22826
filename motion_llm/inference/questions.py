"""What the flags of inference.py ask for: motions from files, the segments of a scene, prompts, requests."""

import argparse
from pathlib import Path

from motion_llm.decoding.request import (
    SAMPLING_SETTINGS,
    WITH_LOST_TOKENS,
    GenerationError,
    MotionRequest,
    checked_number,
    motion_of_text,
    with_lost_span,
)
from motion_llm.decoding.scene import MOST_SEGMENTS, Segment
from motion_llm.decoding.timeline import read_timeline
from motion_llm.json_files import read_text
from motion_llm.network.folder import CODEC_FOLDER
from motion_llm.viewer.codec_figures import CodecFigures


def read_motions(args: argparse.Namespace, model_path: str, rate: float | None) -> None:
    """Put the motions that the flags name, as files or as text, into --motion_tokens and --end_tokens, with lost tokens
    where --span says. rate: tokens a second. Raises ValueError (GenerationError included) and OSError."""
    _take_files(args, model_path)
    _read_tokens(args)
    _lose_span(args, rate)


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
            setattr(args, tokens, figures.encode(path, **hints_of(args)))


def hints_of(args: argparse.Namespace) -> dict:
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


def segments_of(args: argparse.Namespace) -> list[Segment] | None:
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


def prompts_of(args: argparse.Namespace) -> list[str | None]:
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


def requests_of(args: argparse.Namespace, prompts: list[str | None]) -> list:
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
