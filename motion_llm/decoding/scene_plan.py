"""How a scene is decoded: each segment goes on from the end of the one before.

A segment is text to motion with the last OVERLAP tokens of the scene so far before its first one (`before` of a
request). So a scene may be longer than the model's positions, and one of ten times as many segments takes ten times as
long and the same memory. A segment that does not fit the model is decoded in several parts of the same sentence.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from motion_llm.decoding.jobs import JobMaker
from motion_llm.decoding.request import (
    MOST_CALL_TOKENS,
    GenerationError,
    MotionRequest,
    MotionResult,
    with_fields,
)
from motion_llm.decoding.scene import SHARED, Scene, Segment, Span, as_segments, token_counts
from motion_llm.streams import Streams

OVERLAP = 2  # tokens, or steps, of the scene so far that a segment goes on from (docs/scenes.md)


@dataclass(frozen=True)
class Plan:
    """How a scene is decoded. segments: of the scene. requests: resolved, one for each part, with the motion before it
    still to come. places: the segment of each part."""

    segments: Sequence[Segment]
    requests: Sequence[MotionRequest]
    places: Sequence[int]


def planned(timeline: Sequence[Segment | str], jobs: JobMaker, fields: Mapping) -> Plan:
    """fields: those of MotionRequest that all segments share. Raises GenerationError for what cannot be answered."""
    if unknown := [name for name in fields if name not in SHARED]:
        raise GenerationError(f"{unknown[0]} was given for a scene, which takes {', '.join(SHARED)}; each segment has "
                              "its own length")
    segments = as_segments(timeline)
    counts = token_counts(segments, jobs.settings.get("TOKENS_PER_SECOND"))
    if (tokens := sum(filter(None, counts))) > MOST_CALL_TOKENS:
        raise GenerationError(f"the timeline has {tokens:,} tokens in all; at most {MOST_CALL_TOKENS:,} are decoded in "
                              "one call")
    requests, places = [], []
    for place, (segment, count) in enumerate(zip(segments, counts, strict=True)):
        try:
            parts = _parts(segment, count, jobs, fields)
        except ValueError as error:  # GenerationError, and an unknown participant
            raise GenerationError(f"segment {place + 1}: {error}") from None
        requests += parts
        places += [place] * len(parts)
    return Plan(segments, requests, places)


def _parts(segment: Segment, count: int | None, jobs: JobMaker, fields: Mapping) -> list[MotionRequest]:
    """The requests of a segment of `count` tokens, as few as fit the model."""
    person = {} if segment.participant_id is None else {"participant_id": segment.participant_id}
    request = jobs.resolved(MotionRequest(text=segment.text, **{**fields, **person}))
    if count is None:
        return [request]
    before = jobs.streams.starts[:-1].tolist() * OVERLAP  # as long as the codes that will stand there
    room = jobs.room(going_on(request, before, jobs.streams.count))
    number = -(-count // room)
    ends = [count * i // number for i in range(number + 1)]
    return [with_fields(request, tokens=end - start) for start, end in pairwise(ends)]


def going_on(request: MotionRequest, codes: Sequence[int], in_step: int) -> MotionRequest:
    """The resolved request behind a scene's flat codes so far, of which the last are enough."""
    return with_fields(request, before=tuple(codes[-OVERLAP * in_step:]) or None)


def seed_of(seed: int, part: int) -> int:
    """The seed of a part of a scene, so that parts of the same sentence differ."""
    return int(np.random.SeedSequence([seed, part]).generate_state(1)[0])


def part_after_part(plans: Sequence[Plan], answers_to: Callable[[list[MotionRequest], int], Iterable[MotionResult]],
                    seed: int, in_step: int) -> Iterator[list[list[MotionResult]]]:
    """What each plan's parts gave so far, each time that all plans have one more, or are at their end. answers_to: of
    resolved requests, which are decoded together, and a seed."""
    results: list[list[MotionResult]] = [[] for _ in plans]
    for part in range(max((len(plan.requests) for plan in plans), default=0)):
        live = [i for i, plan in enumerate(plans) if part < len(plan.requests)]
        requests = [going_on(plans[i].requests[part], results[i][-1].codes if part else (), in_step) for i in live]
        for i, result in zip(live, answers_to(requests, seed_of(seed, part)), strict=True):
            results[i].append(result)
        yield results


def scene_of(plan: Plan, results: Sequence[MotionResult], streams: Streams, rate: float | None) -> Scene:
    """The scene from the results of its parts. rate: tokens a second, None if unknown."""
    codes: list[int] = []
    spans: list[Span] = []
    for place, result in zip(plan.places, results, strict=True):
        start = len(codes) // streams.count
        codes += result.codes
        end = len(codes) // streams.count
        if len(spans) > place:  # another part of the same segment
            start = spans.pop().start
        seconds = None if rate is None else (start / rate, end / rate)
        spans.append(Span(plan.segments[place].text, start, end, seconds, result.taken_for))
    return Scene(streams.written(codes), tuple(spans), tuple(codes))
