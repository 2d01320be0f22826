"""Clips that lose a third of their tokens, what a model puts there, and two ways that need none."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from motion_llm.decoding.request import LOST, MotionRequest

LEAST = 6  # tokens of a clip that loses some
TASKS = {"denoise": "anywhere", "inbetween": "a gap", "continue": "the end"}  # task -> where tokens are lost
MODEL, REPEATING, COPYING = "model", "repeating", "copying"
WAYS = (MODEL, REPEATING, COPYING)


@dataclass(frozen=True)
class Filled:
    """A clip's codes (T,), the places of its lost ones (L,), and way -> the codes (T,) with something in these."""

    codes: np.ndarray
    lost: np.ndarray
    ways: Mapping[str, np.ndarray]

    def right(self, way: str) -> float:
        """Share of the lost tokens that are what they were, 0 to 1."""
        return float((self.ways[way][self.lost] == self.codes[self.lost]).mean())


def lost_places(task: str, count: int, rng: np.random.Generator) -> np.ndarray:
    """The places of the third of a clip's tokens that are lost; the first is not."""
    third = count // 3
    if task == "denoise":
        return np.sort(1 + rng.choice(count - 1, third, replace=False))
    start = count - third if task == "continue" else 1 + int(rng.integers(0, count - third - 1))
    return np.arange(start, start + third)


def repeating(codes: Sequence[int], lost: np.ndarray) -> list[int]:
    """The codes with each lost one like the last before it."""
    filled = list(codes)
    for place in lost:
        filled[place] = filled[place - 1]
    return filled


def copying(codes: Sequence[int], lost: np.ndarray) -> list[int]:
    """The codes with what stands before the first lost one copied into the lost places, again and again."""
    filled, before = list(codes), list(codes)[:lost[0]][-len(lost):]
    for i, place in enumerate(lost):
        filled[place] = before[i % len(before)]
    return filled


def question(task: str, codes: Sequence[int], lost: np.ndarray, participant_id: str | None) -> MotionRequest:
    """What a model is asked; of the lost tokens it is told where they were."""
    start, end = codes[:lost[0]], codes[lost[-1] + 1:]
    gone = set(lost.tolist())
    asked = {"denoise": {"motion": [LOST if place in gone else code for place, code in enumerate(codes)]},
             "inbetween": {"motion": start, "end": end, "tokens": len(codes)},
             "continue": {"motion": start, "tokens": len(codes)}}[task]
    return MotionRequest(task, participant_id=participant_id, **asked)


def fill_in(generator, clips: Sequence[Sequence[int]], people: Sequence[str | None], task: str, seed: int
            ) -> list[Filled]:
    """Each clip, LEAST tokens or longer, with a third of it lost and filled in by the MotionGenerator and the others.

    people: for each clip who moves, None for nobody known. Raises GenerationError for clips that do not fit the model.
    """
    clips = [[int(code) for code in codes] for codes in clips]
    lost = [lost_places(task, len(codes), np.random.default_rng([seed, i])) for i, codes in enumerate(clips)]
    answers = generator.answer([question(task, *one) for one in zip(clips, lost, people, strict=True)], seed=seed)
    return [Filled(np.array(codes), places, {
        MODEL: np.array(answer.codes), REPEATING: np.array(repeating(codes, places)),
        COPYING: np.array(copying(codes, places))}) for codes, places, answer in zip(clips, lost, answers, strict=True)]
