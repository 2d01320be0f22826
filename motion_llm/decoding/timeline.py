"""A timeline in a file: the segments of a scene, with their times.

    ["walks forward", "turns left", "sits down"]
    {"participant_id": "actor1", "segments": [{"text": "walks forward", "seconds": 3}, {"text": "sits down"}]}
    [{"text": "walks forward", "start": 0}, {"text": "turns left", "start": 3}, {"text": "sits down", "start": 4.5}]

A segment is a sentence, or an object; its length is its seconds or tokens, or lies between its start and its end, or
the start of the next one, or comes from its sentence.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from motion_llm.decoding.request import MOST_TOKENS, GenerationError
from motion_llm.decoding.scene import Segment
from motion_llm.json_files import check_form, parse_json, read_text

CLOSE = 1e-6  # seconds; times that differ by less are the same
_SECONDS = slice(0, MOST_TOKENS)
SEGMENT = {"text": str, "seconds?": _SECONDS, "tokens?": range(1, MOST_TOKENS + 1), "start?": _SECONDS,
           "end?": _SECONDS, "participant_id?": str}
WHOLE = {"segments": [SEGMENT], "seconds?": _SECONDS, "participant_id?": str}


def read_timeline(path: str | Path) -> list[Segment]:
    """The segments of a JSON file. Raises GenerationError naming the file and the segment, OSError."""
    content = parse_json(read_text(Path(path), GenerationError), str(path), GenerationError, "a timeline in JSON")
    try:
        return segments_of(content)
    except GenerationError as error:
        raise GenerationError(f"{path}: {error}") from None


def segments_of(content: object) -> list[Segment]:
    """The segments of a timeline that JSON holds. Raises GenerationError."""
    whole = content if isinstance(content, dict) else {"segments": content}
    if isinstance(whole.get("segments"), list):
        whole = whole | {"segments": [{"text": one} if isinstance(one, str) else one for one in whole["segments"]]}
    _check_names(whole, WHOLE, "the timeline")
    check_form(whole.get("segments"), [{}], "segments", GenerationError)  # a list of objects, before their names
    if not whole["segments"]:
        raise GenerationError("segments is an empty list, expected one segment or more")
    for number, entry in enumerate(whole["segments"], 1):
        _check_names(entry, SEGMENT, f"segment {number}")
        check_form(entry, SEGMENT, f"segment {number}:", GenerationError)
    check_form(whole, WHOLE, "the timeline:", GenerationError)
    durations = _durations(whole["segments"])
    _check_sum(whole.get("seconds"), durations)
    return [_segment(number, entry, duration, whole.get("participant_id"))
            for number, (entry, duration) in enumerate(zip(whole["segments"], durations, strict=True), 1)]


def _check_names(content: Mapping, form: Mapping, place: str) -> None:
    names = [name.removesuffix("?") for name in form]
    if unknown := [name for name in content if name not in names]:
        raise GenerationError(f"{place} has {unknown[0][:60]!r}, expected some of {', '.join(names)}")


def _durations(entries: Sequence[Mapping]) -> list[float | None]:
    """Seconds of each segment; None where nothing says them. Raises GenerationError for times that do not add up."""
    durations: list[float | None] = []
    at: float | None = 0.0  # seconds so far; None behind a segment that does not say its seconds
    for number, entry in enumerate(entries, 1):
        start, end, seconds = (entry.get(name) for name in ("start", "end", "seconds"))
        if None not in (start, at) and abs(start - at) > CLOSE:
            raise GenerationError(f"segment {number} starts at {start:g} s and the one before ends at {at:g} s: "
                                  "segments follow each other without a gap")
        at = start if at is None else at
        if number < len(entries) and end is None and seconds is None and entry.get("tokens") is None:
            end = entries[number].get("start")
        if end is not None:
            if at is None:
                raise GenerationError(f"segment {number} ends at {end:g} s, and nothing says when it starts")
            if seconds is not None and abs(at + seconds - end) > CLOSE:
                raise GenerationError(f"segment {number} starts at {at:g} s, has {seconds:g} seconds and ends at "
                                      f"{end:g} s: they do not add up")
            seconds = end - at
        if seconds is not None and seconds <= 0:
            raise GenerationError(f"segment {number} has {seconds:g} seconds, expected more than 0")
        durations.append(seconds)
        at = None if None in (at, seconds) else at + seconds
    return durations


def _check_sum(seconds: float | None, durations: Sequence[float | None]) -> None:
    if seconds is None:
        return
    if None in durations:
        raise GenerationError(f"the scene has {seconds:g} seconds, and segment {durations.index(None) + 1} does not "
                              "say its own")
    if abs(sum(durations) - seconds) > CLOSE:
        raise GenerationError(f"the scene has {seconds:g} seconds, and its segments {sum(durations):g}")


def _segment(number: int, entry: Mapping, seconds: float | None, participant_id: str | None) -> Segment:
    try:
        return Segment(entry["text"], seconds, entry.get("tokens"), entry.get("participant_id", participant_id))
    except GenerationError as error:
        raise GenerationError(f"segment {number}: {error}") from None
