"""How long a motion should be, and which codes its caption uses: statistics of the training clips, by caption.

Kept in the model's folder, so that decoding never needs the training data.
"""

import hashlib
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from motion_llm.dataset.length_regression import LengthRegression, words_of
from motion_llm.dataset.rows import Columns, Groups, distinct, group, offsets

ENOUGH_CLIPS = 4  # clips of a caption by one participant from which their own lengths are used
MOST_CAPTIONS = 50_000  # captions that are kept: about 3 MB in the model's folder
MOST_DETAILS = 400_000  # codes, and clips' lengths by participant, that are kept of them: about 2 MB


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

    def to_text(self) -> str:
        return f"{self.count} {self.shortest} {self.median:.15g} {self.longest}"

    @classmethod
    def from_text(cls, text: str) -> "LengthStatistics":
        count, shortest, median, longest = text.split()
        return cls(int(count), int(shortest), float(median), int(longest))


@dataclass(frozen=True)
class CaptionRecord:
    """What is kept of a caption's training clips. codes: those that occur in them, ascending; None: not kept."""

    lengths: LengthStatistics
    by_participant: dict[str, LengthStatistics]
    codes: tuple[int, ...] | None


class LengthModel:
    """Length limits for any caption.

    captions: caption key -> CaptionRecord. spread: the standard deviation of log length among clips of one
    caption, pooled over captions. regression: what a caption's words say about its length. key: the function that makes
    captions comparable (case, spaces).

    Of more than MOST_CAPTIONS captions those with most clips are kept (of equal ones, those that a hash chooses), so
    that the model stays small; the others are then like captions that were never trained. Codes and the lengths by
    participant are kept for the first of them, up to MOST_DETAILS in all.
    """

    def __init__(self, captions: dict[str, CaptionRecord], spread: float, overall: LengthStatistics,
                 regression: LengthRegression, key: Callable[[str], str]):
        self.captions = captions
        self.spread = spread
        self.overall = overall
        self.regression = regression
        self._key = key

    @classmethod
    def fit(cls, chunks: Iterable[Columns], key: Callable[[str], str]) -> "LengthModel":
        """chunks: the training clips, at least one; they are gone through twice. Raises ValueError for none."""
        clips = _Clips.of(chunks, key)
        if not len(clips.lengths):
            raise ValueError("no training clips to take lengths from")
        of_caption = _statistics(clips.captions.ids, clips.lengths, clips.captions.count)
        kept = clips.most_frequent(MOST_CAPTIONS)
        people = clips.by_participant(kept)
        codes = clips.codes(chunks, kept)
        texts = clips.texts(chunks, kept, key)
        room, details = MOST_DETAILS, set()
        for caption in kept.tolist():
            room -= len(codes[caption]) + 4 * len(people.get(caption, ()))
            if room < 0:
                break
            details.add(caption)
        captions = {texts[caption]: CaptionRecord(
            of_caption(caption), people.get(caption, {}) if caption in details else {},
            tuple(codes[caption].tolist()) if caption in details else None)
            for caption in sorted(kept.tolist(), key=lambda caption: clips.captions.first[caption])}
        everything = _statistics(np.zeros(len(clips.lengths), np.int64), clips.lengths, 1)
        spread = _pooled_log_spread(clips.lengths, clips.captions.ids)
        regression = LengthRegression.fit(
            list(captions), [record.lengths.median for record in captions.values()],
            [record.lengths.count for record in captions.values()], spread)
        return cls(captions, spread, everything(0), regression, key)

    def limits(self, text: str, participant_id: str | None = None) -> LengthLimits:
        """Limits for a caption: from its own clips (and the participant's, where there are enough), else from what its
        words say, else, where no training caption has any of them, from all clips."""
        record = self.captions.get(self._key(text))
        if record is not None:
            own = record.by_participant.get(participant_id) if participant_id is not None else None
            if own is not None:
                return self._window(own, f"{_clips(own.count)} of this caption by {participant_id}")
            return self._window(record.lengths, f"{_clips(record.lengths.count)} of this caption")
        if self._words.isdisjoint(words_of(text)):
            return self._window(self.overall, "all training clips, for no caption has a word of it")
        low, middle, high = self.regression.expected(text)
        # Nothing is longer or shorter than any clip was, widened as ever.
        bounds = self._window(self.overall, "")
        shortest = max(1, bounds.min_tokens, math.floor(low))
        longest = max(shortest, min(bounds.max_tokens, math.ceil(high)))
        return LengthLimits(shortest, min(max(middle, shortest), longest), longest,
                            f"what the words of {len(self.captions)} captions say about length")

    @cached_property
    def _words(self) -> set[str]:
        return {word for caption in self.captions for word in words_of(caption)}

    def codes(self, text: str) -> tuple[int, ...] | None:
        """The codes seen in training with this caption; None when they are not known (never seen, or not kept)."""
        record = self.captions.get(self._key(text))
        return None if record is None else record.codes

    def _window(self, group: LengthStatistics, source: str) -> LengthLimits:
        """The clips' range, widened by two spreads over the number of clips: the fewer clips, the less their
        shortest and longest say about those to come."""
        widening = math.exp(2 * self.spread / group.count)
        return LengthLimits(max(1, math.floor(group.shortest / widening)), group.median,
                            math.ceil(group.longest * widening), source)

    def to_dict(self) -> dict:
        """As JSON; figures as text, for a list would take a line for each of them."""
        records = self.captions.items()
        return {
            "spread": self.spread,
            "overall": self.overall.to_text(),
            "regression": self.regression.to_dict(),
            "captions": {caption: record.lengths.to_text() for caption, record in records},
            "participants": {caption: {name: own.to_text() for name, own in record.by_participant.items()}
                             for caption, record in records if record.by_participant},
            "codes": {caption: " ".join(map(str, record.codes)) for caption, record in records
                      if record.codes is not None},
        }

    @classmethod
    def from_dict(cls, content: dict, key: Callable[[str], str]) -> "LengthModel":
        """Raises ValueError for statistics in another form."""
        if not {"spread", "overall", "regression", "captions", "participants", "codes"} <= content.keys():
            raise ValueError("the model's length statistics are of an earlier version of this project: train it again")
        read, codes = LengthStatistics.from_text, content["codes"]
        captions = {
            caption: CaptionRecord(
                read(lengths),
                {name: read(own) for name, own in content["participants"].get(caption, {}).items()},
                tuple(map(int, codes[caption].split())) if caption in codes else None)
            for caption, lengths in content["captions"].items()
        }
        return cls(captions, content["spread"], read(content["overall"]),
                   LengthRegression.from_dict(content["regression"]), key)


def _clips(count: int) -> str:
    return f"{count} clip{'s' * (count != 1)}"


def _statistics(ids: np.ndarray, lengths: np.ndarray, count: int) -> Callable[[int], LengthStatistics]:
    """Statistics of the lengths in each of `count` groups; ids: (N,), the group of each length."""
    ordered = lengths[np.lexsort((lengths, ids))]
    ends = offsets(np.bincount(ids, minlength=count))

    def of(place: int) -> LengthStatistics:
        start, end = int(ends[place]), int(ends[place + 1])
        median = (int(ordered[(start + end - 1) // 2]) + int(ordered[(start + end) // 2])) / 2
        return LengthStatistics(end - start, int(ordered[start]), median, int(ordered[end - 1]))

    return of


def _pooled_log_spread(lengths: np.ndarray, ids: np.ndarray) -> float:
    """Standard deviation of log length within groups, pooled; that of all clips where no group has two."""
    counts = np.bincount(ids)
    if counts.max() < 2:
        ids, counts = np.zeros_like(ids), np.array([len(ids)])
    first = np.zeros(len(counts), lengths.dtype)
    first[ids[::-1]] = lengths[::-1]
    logs = np.log(lengths / first[ids])  # from the group's first, so that equal lengths are exactly 0
    means = np.bincount(ids, logs) / np.maximum(counts, 1)
    freedom = int((counts - 1).clip(0).sum())
    return math.sqrt(float(((logs - means[ids]) ** 2).sum()) / freedom) if freedom else 0.0


@dataclass(frozen=True)
class _Clips:
    """Training clips as numbers. captions: clips with the same caption key. hashes: uint64, (N, 2), of the keys.
    names: of participants; people: (N,), places among them, -1 for none."""

    lengths: np.ndarray
    captions: Groups
    hashes: np.ndarray
    names: list[str]
    people: np.ndarray

    @classmethod
    def of(cls, chunks: Iterable[Columns], key: Callable[[str], str]) -> "_Clips":
        lengths, hashes, people = [np.empty(0, np.int32)], [np.empty((0, 2), np.uint64)], [np.empty(0, np.int64)]
        names: dict[str | None, int] = {None: -1}
        for chunk in chunks:
            texts = chunk.texts.to_list()
            known = {text: hashlib.blake2b(key(text).encode(), digest_size=16).digest() for text in set(texts)}
            hashes.append(np.frombuffer(b"".join(known[text] for text in texts), "<u8").reshape(-1, 2))
            lengths.append(np.diff(chunk.ends))
            people.append(np.array([names.setdefault(name, len(names) - 1) for name in chunk.participants.to_list()],
                                   np.int64))
        together = np.concatenate(hashes)
        return cls(np.concatenate(lengths), group(together), together, list(names)[1:], np.concatenate(people))

    def most_frequent(self, limit: int) -> np.ndarray:
        """Captions by number of clips, most first, then by hash; at most `limit`."""
        counts = np.bincount(self.captions.ids, minlength=self.captions.count)
        return np.lexsort((self.hashes[self.captions.first, 0], -counts))[:limit]

    def by_participant(self, kept: np.ndarray) -> dict[int, dict[str, LengthStatistics]]:
        """caption -> participant -> lengths, where there are ENOUGH_CLIPS."""
        inside = (self.people >= 0) & np.isin(self.captions.ids, kept)
        pairs, ids, counts = np.unique(self.captions.ids[inside] * max(len(self.names), 1) + self.people[inside],
                                       return_inverse=True, return_counts=True)
        of_pair = _statistics(ids, self.lengths[inside], len(pairs))
        found: dict[int, dict[str, LengthStatistics]] = {}
        for place in np.flatnonzero(counts >= ENOUGH_CLIPS).tolist():
            caption, person = divmod(int(pairs[place]), len(self.names))
            found.setdefault(caption, {})[self.names[person]] = of_pair(place)
        return found

    def codes(self, chunks: Iterable[Columns], kept: np.ndarray) -> dict[int, np.ndarray]:
        """caption -> the codes that occur in its clips, ascending."""
        keeps, pairs, done = np.isin(np.arange(self.captions.count), kept), [np.empty(0, np.int64)], 0
        for chunk in chunks:
            ids = self.captions.ids[done:done + len(chunk)]
            done += len(chunk)
            owners = np.repeat(ids, np.diff(chunk.ends))
            inside = keeps[owners]
            pairs.append(distinct(owners[inside] << 32 | chunk.codes[inside]))
            if sum(map(len, pairs[1:])) > len(pairs[0]) + 2**22:  # so that memory does not grow with the rows
                pairs = [distinct(np.concatenate(pairs))]
        together = distinct(np.concatenate(pairs))
        owners = together >> 32
        found = np.split(together & 0xFFFFFFFF, np.flatnonzero(np.diff(owners)) + 1)
        return dict(zip(distinct(owners).tolist(), found, strict=True))

    def texts(self, chunks: Iterable[Columns], kept: np.ndarray, key: Callable[[str], str]) -> dict[int, str]:
        """caption -> its key."""
        found, done = {}, 0
        first = {int(self.captions.first[caption]): caption for caption in kept.tolist()}
        for chunk in chunks:
            for place in [place for place in range(done, done + len(chunk)) if place in first]:
                found[first[place]] = key(chunk.texts[place - done])
            done += len(chunk)
        return found
