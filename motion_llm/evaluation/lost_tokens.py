"""Clips that lose a third of their tokens, filled in by a model and by two baselines.

Of clips of several streams, single codes are lost anywhere but in the first step, or a third of the steps; the
baselines fill in each stream from its own codes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from motion_llm.decoding.request import MotionRequest
from motion_llm.evaluation.progress import with_bar
from motion_llm.evaluation.stream_clips import ONE_STREAM
from motion_llm.streams import ABSENT, MASKED, Streams

FEWEST_TOKENS = 6  # tokens or steps of a clip, or more
TASKS = {"denoise": "anywhere", "inbetween": "a gap", "continue": "the end"}  # task -> where tokens are lost
MODEL, REPEATING, COPYING = "model", "repeating", "copying"
METHODS = (MODEL, REPEATING, COPYING)
WITH_WORDS, WRONG_WORDS = "model_with_caption", "model_with_wrong_caption"  # methods of edits by words


@dataclass(frozen=True)
class Filled:
    """A clip's codes (T,), the places of its lost ones (L,), and method -> the codes (T,) with those filled in."""

    codes: np.ndarray
    lost: np.ndarray
    filled: Mapping[str, np.ndarray]

    def accuracy(self, method: str, stream: int = 0, in_step: int = 1) -> float | None:
        """Share of the lost tokens that were filled in correctly, 0 to 1; with in_step, of those of one stream, None
        without any."""
        lost = self.lost[self.lost % in_step == stream]
        return float((self.filled[method][lost] == self.codes[lost]).mean()) if len(lost) else None


def lost_codes(task: str, codes: Sequence[int], in_step: int, rng: np.random.Generator) -> np.ndarray:
    """The places of the lost codes of a clip (T * in_step,), sorted; never in the first step, and none that are ABSENT.
    """
    if in_step == 1:
        return lost_places(task, len(codes), rng)
    there = np.flatnonzero(np.array(codes) != ABSENT)
    if task == "denoise":
        there = there[there >= in_step]
        return np.sort(rng.choice(there, len(there) // 3, replace=False))
    steps = lost_places(task, len(codes) // in_step, rng)
    return there[np.isin(there // in_step, steps)]


def lost_places(task: str, count: int, rng: np.random.Generator) -> np.ndarray:
    """The places of a third of a clip's tokens or steps, sorted; never the first one."""
    third = count // 3
    if task == "denoise":
        return np.sort(1 + rng.choice(count - 1, third, replace=False))
    start = count - third if task == "continue" else 1 + int(rng.integers(0, count - third - 1))
    return np.arange(start, start + third)


def repeating(codes: Sequence[int], lost: np.ndarray) -> list[int]:
    """The codes with each lost one replaced by the code before it."""
    filled = list(codes)
    for place in lost:
        filled[place] = filled[place - 1]
    return filled


def copying(codes: Sequence[int], lost: np.ndarray) -> list[int]:
    """The codes with the lost ones replaced by those before the first lost one, repeated."""
    filled, pattern = list(codes), list(codes)[:lost[0]][-len(lost):]
    for i, place in enumerate(lost):
        filled[place] = pattern[i % len(pattern)]
    return filled


def by_stream(fill, codes: Sequence[int], lost: np.ndarray, in_step: int) -> np.ndarray:
    """The codes with the lost ones of each stream filled in from its own by `fill`: repeating or copying."""
    filled = np.array(codes)
    for stream in range(in_step):
        own = lost[lost % in_step == stream] // in_step
        if len(own):
            filled[stream::in_step] = fill(codes[stream::in_step], own)
    return filled


def question(task: str, codes: Sequence[int], lost: np.ndarray, participant_id: str | None,
             streams: Streams = ONE_STREAM, text: str | None = None) -> MotionRequest:
    """The request for the lost tokens; it has their places only. text: what they are about."""
    in_step = streams.count
    start, end = codes[:lost[0] // in_step * in_step], codes[(lost[-1] // in_step + 1) * in_step:]
    lost_set = set(lost.tolist())
    noisy = [MASKED if place in lost_set else code for place, code in enumerate(codes)]
    tokens = len(codes) // in_step
    fields = {"denoise": {"motion": noisy}, "inbetween": {"motion": start, "end": end, "tokens": tokens},
              "continue": {"motion": start, "tokens": tokens}}[task]
    motions = {name: streams.written(fields[name]) for name in ("motion", "end") if name in fields}
    return MotionRequest(task, text, participant_id=participant_id, **fields | motions)


def fill_in(generator, clips: Sequence[Sequence[int]], people: Sequence[str | None], task: str, seed: int,
            streams: Streams = ONE_STREAM, captions: Sequence[str] | None = None) -> list[Filled]:
    """Each clip, of FEWEST_TOKENS or more, with a third lost and filled in by the MotionGenerator and the baselines.

    people: the participant of each clip, or None. streams: the model's. captions: of the clips, for a model that was
    trained for edits: it is also told each clip's own caption, and that of another clip. Raises GenerationError for
    clips that do not fit the model.
    """
    clips, in_step = [[int(code) for code in codes] for codes in clips], streams.count
    lost = [lost_codes(task, codes, in_step, np.random.default_rng([seed, i])) for i, codes in enumerate(clips)]
    told = {MODEL: [None] * len(clips)}
    if captions is not None and len(set(captions)) > 1:
        told |= {WITH_WORDS: captions, WRONG_WORDS: of_others(captions, seed)}
    requests = [question(task, *arguments, streams, text) for texts in told.values()
                for *arguments, text in zip(clips, lost, people, texts, strict=True)]
    results = with_bar(generator.answers(requests, seed=seed), len(requests), f"lost tokens, {TASKS[task]}")
    answers = {method: [np.array(next(results).codes) for _ in clips] for method in told}
    return [Filled(np.array(codes), places, {method: of_clips[i] for method, of_clips in answers.items()} | {
        REPEATING: by_stream(repeating, codes, places, in_step),
        COPYING: by_stream(copying, codes, places, in_step)})
            for i, (codes, places) in enumerate(zip(clips, lost, strict=True))]


def of_others(captions: Sequence[str], seed: int) -> list[str]:
    """For each clip the caption of a random other one, which differs from its own; there are two different ones."""
    rng, distinct = np.random.default_rng(seed), sorted(set(captions))
    drawn = [distinct[place] for place in rng.integers(len(distinct) - 1, size=len(captions))]
    return [distinct[-1] if other == own else other for own, other in zip(captions, drawn, strict=True)]
