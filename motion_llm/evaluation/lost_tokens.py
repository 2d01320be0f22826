"""Clips that lose a third of their tokens, filled in by a model and by two baselines."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from motion_llm.decoding.request import LOST, MotionRequest
from motion_llm.evaluation.progress import with_bar

FEWEST_TOKENS = 6  # tokens of a clip, or more
TASKS = {"denoise": "anywhere", "inbetween": "a gap", "continue": "the end"}  # task -> where tokens are lost
MODEL, REPEATING, COPYING = "model", "repeating", "copying"
METHODS = (MODEL, REPEATING, COPYING)


@dataclass(frozen=True)
class Filled:
    """A clip's codes (T,), the places of its lost ones (L,), and method -> the codes (T,) with those filled in."""

    codes: np.ndarray
    lost: np.ndarray
    filled: Mapping[str, np.ndarray]

    def accuracy(self, method: str) -> float:
        """Share of the lost tokens that were filled in correctly, 0 to 1."""
        return float((self.filled[method][self.lost] == self.codes[self.lost]).mean())


def lost_places(task: str, count: int, rng: np.random.Generator) -> np.ndarray:
    """The places of a third of a clip's tokens, sorted; never the first token."""
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


def question(task: str, codes: Sequence[int], lost: np.ndarray, participant_id: str | None) -> MotionRequest:
    """The request for the lost tokens; it has their places only."""
    start, end = codes[:lost[0]], codes[lost[-1] + 1:]
    lost_set = set(lost.tolist())
    fields = {"denoise": {"motion": [LOST if place in lost_set else code for place, code in enumerate(codes)]},
              "inbetween": {"motion": start, "end": end, "tokens": len(codes)},
              "continue": {"motion": start, "tokens": len(codes)}}[task]
    return MotionRequest(task, participant_id=participant_id, **fields)


def fill_in(generator, clips: Sequence[Sequence[int]], people: Sequence[str | None], task: str, seed: int
            ) -> list[Filled]:
    """Each clip, of FEWEST_TOKENS or more, with a third lost and filled in by the MotionGenerator and the baselines.

    people: the participant of each clip, or None. Raises GenerationError for clips that do not fit the model.
    """
    clips = [[int(code) for code in codes] for codes in clips]
    lost = [lost_places(task, len(codes), np.random.default_rng([seed, i])) for i, codes in enumerate(clips)]
    requests = [question(task, *arguments) for arguments in zip(clips, lost, people, strict=True)]
    answers = with_bar(generator.answers(requests, seed=seed), len(requests), f"lost tokens, {TASKS[task]}")
    return [Filled(np.array(codes), places, {
        MODEL: np.array(answer.codes), REPEATING: np.array(repeating(codes, places)),
        COPYING: np.array(copying(codes, places))}) for codes, places, answer in zip(clips, lost, answers, strict=True)]
