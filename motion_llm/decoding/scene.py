"""Scenes: several sentences in a row as one motion. `Segment`s in, a `Scene` out; scene_plan.py says how."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from motion_llm.decoding.request import SAMPLING_SETTINGS, GenerationError, MotionRequest
from motion_llm.streams import Value

MOST_SEGMENTS = 10_000
SHARED = ("participant_id", "best_of", "per_prompt_vocab", "streams", "as_written", *SAMPLING_SETTINGS)


@dataclass(frozen=True)
class Segment:
    """What happens next in a scene. text: a sentence. seconds, or tokens: how long; without either, as long as a clip
    of the sentence. participant_id: moves like this participant. Raises GenerationError."""

    text: str
    seconds: float | None = None
    tokens: int | None = None
    participant_id: str | int | None = None

    def __post_init__(self):
        MotionRequest(text=self.text, seconds=self.seconds, tokens=self.tokens)  # for its checks


@dataclass(frozen=True)
class Span:
    """Where a segment lies in a scene. start, end: its first token (or step) and the one behind its last. seconds: the
    same in seconds, None for a model that does not know its tokens' rate. taken_for: as in MotionResult."""

    text: str
    start: int
    end: int
    seconds: tuple[float, float] | None = None
    taken_for: str | None = None


@dataclass(frozen=True)
class Scene:
    """motion_tokens: in the dataset's form. spans: one for each segment, without gaps. codes: flat."""

    motion_tokens: Value
    spans: tuple[Span, ...]
    codes: tuple[int, ...] = field(default=(), repr=False)

    @property
    def text(self) -> str:
        """All sentences in one."""
        return ", then ".join(span.text for span in self.spans)

    def to_dict(self) -> dict:
        """For JSON."""
        return {"motion_tokens": self.motion_tokens, "segments": [
            {"text": span.text, "tokens": [span.start, span.end]}
            | ({} if span.seconds is None else {"seconds": [round(second, 3) for second in span.seconds]})
            | ({} if span.taken_for is None else {"taken_for": span.taken_for}) for span in self.spans]}


def as_segments(timeline: Sequence[Segment | str]) -> list[Segment]:
    """Sentences become segments. Raises GenerationError for a timeline that cannot be."""
    if isinstance(timeline, str) or not isinstance(timeline, Sequence) or not timeline:
        raise GenerationError(f"the timeline is {timeline!r}, expected one segment or more")
    if len(timeline) > MOST_SEGMENTS:
        raise GenerationError(f"the timeline has {len(timeline):,} segments, at most {MOST_SEGMENTS:,} are possible")
    segments = []
    for number, segment in enumerate(timeline, 1):
        try:
            segments.append(segment if isinstance(segment, Segment) else Segment(segment))
        except GenerationError as error:
            raise GenerationError(f"segment {number}: {error}") from None
    return segments


def token_counts(segments: Sequence[Segment], rate: float | None) -> list[int | None]:
    """The tokens, or steps, of each segment; None where the sentence says it. Seconds are rounded where they end in the
    scene, so that no error adds up. rate: tokens a second, None if unknown. Raises GenerationError."""
    counts: list[int | None] = []
    at = 0.0  # tokens so far, before rounding
    for number, segment in enumerate(segments, 1):
        if segment.seconds is None:
            counts.append(segment.tokens)
            at += segment.tokens or 0
            continue
        if rate is None:
            raise GenerationError(f"segment {number} has seconds, but the model does not know its tokens' rate: set "
                                  "TOKENS_PER_SECOND in config.py and start the training command again, or give tokens")
        start, at = at, at + segment.seconds * rate
        counts.append(round(at) - round(start))
        if counts[-1] < 1:
            raise GenerationError(f"segment {number} has {segment.seconds:g} seconds, less than a token, which has "
                                  f"{1 / rate:.2g}")
    return counts
