"""`python bench.py requests`: random requests of every kind; each answer is checked against its request.

The captions are those of the training data, cut, mixed and misspelled ones, other scripts, emoji and the spellings of
special tokens. The requests use every way to set a length, participants, per-prompt codes, any sampling, and starts and
ends for the tasks that take them. The checks use the request and the model's folder, not the result's own limits.
"""

import logging
import random
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from motion_llm.decoding.request import WITH_LOST_TOKENS, MotionRequest, MotionResult
from motion_llm.streams import ABSENT, LOST, MASKED, OBJECT, TEXT

log = logging.getLogger(__name__)

AT_ONCE = 500  # requests
UNUSUAL_TEXTS = ("走って、止まる", "يلوح بيده اليمنى", "💃🏽🕺", "<MOT_END> <motion_3> <|im_end|>", "é" * 20,
                 "A PERSON  WALKS!!!", "tabs\tand\nlines", "0 1 2 3", "?", "a" * 60)


def add_arguments(parser) -> None:
    parser.add_argument("--model_path", help="a trained stage's folder. Default: WORK_DIR/stage3_t2m_sft")
    parser.add_argument("--count", type=int, default=10_000, metavar="N", help="number of requests. Default: 10000")


def run(args, settings: Mapping) -> dict:
    """Raises AssertionError with the request for an answer that does not satisfy it."""
    if args.count < 1:
        raise ValueError(f"--count is {args.count}, expected 1 or more")
    from model import start_unsloth  # imports torch, which takes seconds

    start_unsloth()
    from generate import MotionGenerator  # imports transformers, which must follow Unsloth's start

    path = args.model_path or str(Path(settings["WORK_DIR"]) / "stage3_t2m_sft")
    generator = MotionGenerator(path)
    if generator.settings.get("TOKENS_PER_SECOND") is None:
        generator.settings["TOKENS_PER_SECOND"] = 7.5
    rng = random.Random(settings["SEED"])
    started, tokens, kinds, lengths = time.perf_counter(), 0, Counter(), []
    for start in range(0, args.count, AT_ONCE):
        requests = []
        while len(requests) < min(AT_ONCE, args.count - start):
            request = _random_request(rng, generator)
            if _fits(request, generator):
                requests.append(request)
            else:
                kinds["refused"] += 1
        for request, result in zip(requests, generator.answer(requests, seed=rng.randrange(2**32)), strict=True):
            _check(request, result, generator)
            tokens += len(result.codes)
            lengths.append(len(result.codes) // generator.vocabulary.streams.count)
            kinds[request.task] += 1
        log.info("  %d of %d", min(start + AT_ONCE, args.count), args.count)
    seconds = time.perf_counter() - started
    refused = kinds.pop("refused", 0)
    return {"model": path, "requests": dict(kinds), "refused": refused, "seconds": seconds, "tokens": tokens,
            "shortest": min(lengths), "longest": max(lengths)}


def _fits(request: MotionRequest, generator) -> bool:
    """Whether the prompt and the most tokens that the request names fit into MAX_SEQ_LEN."""
    template, positions = generator.template, generator.settings["MAX_SEQ_LEN"]
    in_step = generator.vocabulary.streams.count
    tokens = max(request.tokens or 0, request.min_tokens or 0, request.max_tokens or 0,
                 len(_codes(request.motion, request, generator)) // in_step + 1,
                 round((request.seconds or 0) * generator.settings["TOKENS_PER_SECOND"])) * in_step
    text_tokens = 0 if request.text is None else len(template.encode_text(request.text))
    if request.text is not None and request.task in ("t2m", "continue"):
        before = len(_codes(request.before, request, generator))
        return template.length("t2m", text_tokens, tokens + before) <= positions
    if request.task == "continue" and not (request.tokens or request.seconds):
        tokens = max(tokens, round(generator.length_model.overall.median) * in_step)
    return template.length("edit", text_tokens, tokens) <= positions


def _codes(motion, request: MotionRequest, generator) -> tuple[int, ...]:
    """A motion of a request as flat codes."""
    if motion is None:
        return ()
    return motion if generator.vocabulary.streams.form == TEXT else generator.vocabulary.streams.read(
        motion, lost=request.task in WITH_LOST_TOKENS)


def _random_motion(rng: random.Random, generator, count: int, lost: bool = False):
    """A motion of `count` tokens, or steps, in the dataset's form. lost: some of it is; of named streams, now and then
    a whole one is lost, or null."""
    streams = generator.vocabulary.streams
    steps = [[rng.randrange(size) for size in streams.sizes] for _ in range(count)]
    if lost:
        steps = [[rng.choice([MASKED, code]) for code in step] for step in steps]
    if streams.form == OBJECT and rng.random() < 0.4:
        place, filler = rng.randrange(streams.count), MASKED if lost and rng.random() < 0.7 else ABSENT
        steps = [[filler if i == place else code for i, code in enumerate(step)] for step in steps]
    return streams.written(streams.flat(np.array(steps)))


def _random_request(rng: random.Random, generator) -> MotionRequest:
    tasks = [task for task in generator.tasks if task in ("t2m", "denoise", "edit", "inbetween")] + ["continue"]
    task = rng.choice(tasks)
    fields = {"participant_id": rng.choice([None, *generator.vocabulary.participants])}
    fields |= {name: rng.choice([None, *values]) for name, values in {
        "temperature": (0, 0.5, 1.0, 5.0), "top_p": (0.1, 0.9, 1.0), "top_k": (0, 1, 20),
        "end_logit_slope": (0, 1.0, 50.0)}.items()}
    count = rng.randrange(1, 8)
    if task == "denoise":
        motion = _random_motion(rng, generator, 3 * count, lost=True)
        return MotionRequest(task, motion=motion, keep_given=rng.random() < 0.5, **fields)
    if task == "edit":
        motion = _random_motion(rng, generator, 3 * count, lost=True)
        while LOST not in str(motion):
            motion = _random_motion(rng, generator, 3 * count, lost=True)
        return MotionRequest(task, _random_text(rng, generator), motion, per_prompt_vocab=rng.random() < 0.2, **fields)
    start = _random_motion(rng, generator, count)
    if task == "inbetween":
        more = rng.randrange(1, 5)
        return MotionRequest(task, motion=start, end=_random_motion(rng, generator, more),
                             tokens=count + more + rng.randrange(1, 40), **fields)
    fields |= _random_length(rng, least=count + 1 if task == "continue" else 1)
    if task == "continue":
        trained = "continue" in generator.tasks
        return MotionRequest(task, text=None if trained and rng.random() < 0.5 else _random_text(rng, generator),
                             motion=start, **fields)
    if generator.vocabulary.streams.form == OBJECT and rng.random() < 0.3:
        fields["streams"] = rng.choice(generator.vocabulary.streams.names)
    before = _random_motion(rng, generator, rng.randrange(1, 5)) if rng.random() < 0.3 else None
    return MotionRequest(text=_random_text(rng, generator), per_prompt_vocab=rng.random() < 0.2, before=before,
                         **fields)


def _random_text(rng: random.Random, generator) -> str:
    captions = list(generator.length_model.captions)
    text = rng.choice(captions)
    kind = rng.randrange(5)
    if kind == 1:
        words = text.split()
        text = " ".join(words[:rng.randrange(1, len(words) + 1)])
    elif kind == 2:
        text = f"{text} and {rng.choice(captions)}"
    elif kind == 3:
        position = rng.randrange(len(text))
        text = text[:position] + rng.choice("abcxyz ") + text[position + 1:]
    elif kind == 4:
        text = rng.choice(UNUSUAL_TEXTS)
    return text if text.strip() else "walks"


def _random_length(rng: random.Random, least: int) -> dict:
    low = least + rng.randrange(40)
    return rng.choice([{}, {}, {"tokens": low}, {"min_tokens": low}, {"max_tokens": low}, {"seconds": low / 7.5},
                       {"min_tokens": low, "max_tokens": low + rng.randrange(20)}, {"max_new_tokens": low}])


def _check(request: MotionRequest, result: MotionResult, generator) -> None:
    streams, codes = generator.vocabulary.streams, result.codes
    count, of_step = len(codes) // streams.count, np.arange(len(codes)) % streams.count
    assert result.motion_tokens == streams.written(codes), request
    given, end = (_codes(motion, request, generator) for motion in (request.motion, request.end))
    absent = {name for stream, name in enumerate(streams.names)
              if given and given[stream] == ABSENT or request.streams and name not in request.streams}
    ends = {stream for stream in range(streams.count) if end and end[stream] == ABSENT}
    assert count >= 1 and streams.problem(codes, [ABSENT] if absent or ends else []) is None, request
    for place in np.flatnonzero(np.array(codes) == ABSENT):
        is_end = place >= len(codes) - len(end) and of_step[place] in ends
        assert streams.names[of_step[place]] in absent or is_end, request
    if request.tokens is not None:
        assert count == request.tokens, request
    if request.seconds is not None:
        assert count == max(1, round(request.seconds * generator.settings["TOKENS_PER_SECOND"])), request
    assert count >= (request.min_tokens or 1), request
    assert count <= min(limit for limit in (request.max_tokens, request.max_new_tokens, 10**9) if limit), request
    if request.task in WITH_LOST_TOKENS:
        assert len(codes) == len(given), request
        if request.keep_given:
            assert all(one in (MASKED, code) for one, code in zip(given, codes, strict=True)), request
    elif request.motion is not None:
        assert codes[:len(given)] == given, request
        assert request.end is None or codes[-len(end):] == end, request
    elif not any((request.tokens, request.seconds, request.min_tokens, request.max_tokens, request.max_new_tokens)):
        limits = generator.length_model.limits(request.text, request.participant_id)
        assert limits.min_tokens <= count <= limits.max_tokens, request
    if request.per_prompt_vocab and (allowed := generator.length_model.codes(request.text)) is not None:
        known = [any(code in streams.codes_of(stream) for code in allowed) for stream in range(streams.count)]
        made = [code for place, code in enumerate(codes) if known[of_step[place]] and code >= 0
                and (place >= len(given) or given[place] == MASKED)]
        assert set(made) <= set(allowed), request


def format_figures(figures: Mapping) -> str:
    kinds = ", ".join(f"{count} {task}" for task, count in sorted(figures["requests"].items()))
    rate = figures["tokens"] / figures["seconds"]
    return (f"{sum(figures['requests'].values())} requests ({kinds}) to {figures['model']}: every answer is valid and "
            f"as long as was asked for; {figures['refused']} more did not fit the model\n{figures['tokens']} tokens, "
            f"{figures['shortest']} to {figures['longest']} a clip, in {figures['seconds']:.0f} s: {rate:.0f} a second")
