"""How long a motion should be, and which codes its caption uses: statistics of the training clips, by caption.

Kept in the model's folder, so that decoding never needs the training data.
"""

import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from rapidfuzz import fuzz, process

ENOUGH_CLIPS = 4  # clips of a caption by one participant from which their own lengths are used
SIMILAR_CAPTIONS = 5  # captions that an unseen one borrows its lengths from; chosen by length error (BENCHMARKS.md)
LEAST_SIMILARITY = 60.0  # per cent; below it a caption is like no other, and all lengths count


@dataclass(frozen=True)
class LengthLimits:
    """min_tokens <= soft_target <= max_tokens, in motion tokens; `source` says where they come from."""

    min_tokens: int
    soft_target: float
    max_tokens: int
    source: str


@dataclass(frozen=True)
class LengthStatistics:
    """Lengths of some clips, in tokens."""

    count: int
    shortest: int
    median: float
    longest: int

    @classmethod
    def of(cls, lengths: Sequence[int]) -> "LengthStatistics":
        return cls(len(lengths), min(lengths), statistics.median(lengths), max(lengths))


@dataclass(frozen=True)
class CaptionRecord:
    """What is kept of a caption's training clips. codes: those that occur in them, ascending."""

    lengths: LengthStatistics
    by_participant: dict[str, LengthStatistics]
    codes: tuple[int, ...]


class LengthModel:
    """Length limits for any caption.

    captions: caption key -> CaptionRecord. spread: the standard deviation of log length among clips of one
    caption, pooled over captions. key: the function that makes captions comparable (case, spaces).
    """

    def __init__(self, captions: dict[str, CaptionRecord], spread: float, overall: LengthStatistics,
                 key: Callable[[str], str]):
        self.captions = captions
        self.spread = spread
        self.overall = overall
        self._key = key

    @classmethod
    def fit(cls, clips: Iterable[tuple[str, str | None, Sequence[int]]], key: Callable[[str], str]) -> "LengthModel":
        """clips: (text_query, participant_id, codes (T,)) of the training rows, at least one."""
        lengths, codes = defaultdict(lambda: defaultdict(list)), defaultdict(set)
        for text, participant_id, clip in clips:
            lengths[key(text)][participant_id].append(len(clip))
            codes[key(text)].update(int(code) for code in clip)
        if not lengths:
            raise ValueError("no training clips to take lengths from")
        pooled = {caption: [n for group in groups.values() for n in group] for caption, groups in lengths.items()}
        captions = {
            caption: CaptionRecord(
                LengthStatistics.of(pooled[caption]),
                {str(p): LengthStatistics.of(group) for p, group in groups.items()
                 if p is not None and len(group) >= ENOUGH_CLIPS},
                tuple(sorted(codes[caption])))
            for caption, groups in lengths.items()
        }
        everything = [n for group in pooled.values() for n in group]
        return cls(captions, _pooled_log_spread(list(pooled.values())), LengthStatistics.of(everything), key)

    def limits(self, text: str, participant_id: str | None = None) -> LengthLimits:
        """Limits for a caption: from its own clips (and the participant's, where there are enough), else from the
        most similar captions', else from all clips."""
        record = self.captions.get(self._key(text))
        if record is not None:
            own = record.by_participant.get(participant_id) if participant_id is not None else None
            if own is not None:
                return self._window([own], f"{_clips(own.count)} of this caption by {participant_id}")
            return self._window([record.lengths], f"{_clips(record.lengths.count)} of this caption")
        similar = self.similar_captions(text)
        if not similar:
            return self._window([self.overall], "all training clips, for no caption is similar")
        named = ", ".join(f"{caption!r} ({score:.0f} %)" for caption, score in similar)
        return self._window([self.captions[caption].lengths for caption, _ in similar],
                            f"the clips of the most similar captions: {named}")

    def similar_captions(self, text: str) -> list[tuple[str, float]]:
        """The training captions most like `text` with their similarity in per cent, best first; may be empty."""
        found = process.extract(self._key(text), self.captions.keys(), scorer=fuzz.token_sort_ratio,
                                limit=SIMILAR_CAPTIONS, score_cutoff=LEAST_SIMILARITY)
        return [(caption, score) for caption, score, _ in found]

    def codes(self, text: str) -> tuple[int, ...] | None:
        """The codes seen in training with this caption; None when it was never seen."""
        record = self.captions.get(self._key(text))
        return None if record is None else record.codes

    def _window(self, groups: Sequence[LengthStatistics], source: str) -> LengthLimits:
        """The clips' range, widened by two spreads over the number of clips: the fewer clips, the less their
        shortest and longest say about those to come."""
        count = sum(group.count for group in groups)
        widening = math.exp(2 * self.spread / count)
        target = statistics.median(group.median for group in groups)
        shortest = min(group.shortest for group in groups) / widening
        longest = max(group.longest for group in groups) * widening
        return LengthLimits(max(1, math.floor(shortest)), target, math.ceil(longest), source)

    def to_dict(self) -> dict:
        def pack(s: LengthStatistics) -> list:
            return [s.count, s.shortest, s.median, s.longest]

        return {
            "spread": self.spread,
            "overall": pack(self.overall),
            "captions": {
                caption: {"lengths": pack(record.lengths),
                          "by_participant": {p: pack(s) for p, s in record.by_participant.items()},
                          "codes": list(record.codes)}
                for caption, record in self.captions.items()
            },
        }

    @classmethod
    def from_dict(cls, content: dict, key: Callable[[str], str]) -> "LengthModel":
        captions = {
            caption: CaptionRecord(LengthStatistics(*fields["lengths"]),
                                   {p: LengthStatistics(*s) for p, s in fields["by_participant"].items()},
                                   tuple(fields["codes"]))
            for caption, fields in content["captions"].items()
        }
        return cls(captions, content["spread"], LengthStatistics(*content["overall"]), key)


def _clips(count: int) -> str:
    return f"{count} clip{'s' * (count != 1)}"


def _pooled_log_spread(groups: Sequence[Sequence[int]]) -> float:
    """Standard deviation of log length within groups, pooled; that of all clips where no group has two."""
    repeated = [group for group in groups if len(group) > 1]
    if not repeated:
        repeated = [[n for group in groups for n in group]]
    squares, freedom = 0.0, 0
    for group in repeated:
        logs = [math.log(n) for n in group]
        mean = sum(logs) / len(logs)
        squares += sum((value - mean) ** 2 for value in logs)
        freedom += len(logs) - 1
    return math.sqrt(squares / freedom) if freedom else 0.0
