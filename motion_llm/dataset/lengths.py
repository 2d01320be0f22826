"""Length limits of a motion and the codes of its caption: statistics of the training clips, by caption.

Stored in the model's folder, so that decoding never needs the training data.
"""

import hashlib
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from motion_llm.dataset.length_regression import LengthRegression, words_of
from motion_llm.dataset.rows import Columns, Groups, distinct, group, motion_hashes, offsets

ENOUGH_CLIPS = 4  # a participant with so many clips of a caption gets limits from those clips alone
MOST_CAPTIONS = 50_000  # captions that are stored: about 3 MB in the model's folder
MOST_DETAILS = 400_000  # codes, and numbers of the lengths by participant, stored of them: about 2 MB


@dataclass(frozen=True)
class LengthLimits:
    """min_tokens <= soft_target <= max_tokens, in motion tokens, steps where there are several streams; `source` says
    where they come from."""

    min_tokens: int
    soft_target: float
    max_tokens: int
    source: str

    def times(self, in_step: int) -> "LengthLimits":
        """The same limits in codes, of motions with so many in a step."""
        return LengthLimits(self.min_tokens * in_step, self.soft_target * in_step, self.max_tokens * in_step,
                            self.source)


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
    """Statistics of a caption's training clips. codes: those that occur in them, ascending; None: not stored."""

    lengths: LengthStatistics
    by_participant: dict[str, LengthStatistics]
    codes: tuple[int, ...] | None


class LengthModel:
    """Length limits for any caption.

    captions: caption key -> CaptionRecord. spread: the standard deviation of log length among clips of one
    caption, pooled over captions. overall: lengths of all training clips. regression: the length from a caption's
    words. key: the function that makes captions comparable (case, spaces).

    At most MOST_CAPTIONS captions are stored, those with most clips (ties by a hash), so that the model stays small;
    the others count as unseen captions. Codes and the lengths by participant are stored for the first of them, up to
    MOST_DETAILS in all.
    """

    def __init__(self, captions: dict[str, CaptionRecord], spread: float, overall: LengthStatistics,
                 regression: LengthRegression, key: Callable[[str], str]):
        self.captions = captions
        self.spread = spread
        self.overall = overall
        self.regression = regression
        self._key = key

    @classmethod
    def fit(cls, chunks: Iterable[Columns], key: Callable[[str], str], in_step: int = 1) -> "LengthModel":
        """chunks: the training clips, at least one; iterated three times. in_step: codes of a step. Raises ValueError
        for no clips."""
        clips = _Clips.of(chunks, key, in_step)
        if not len(clips.lengths):
            raise ValueError("no training clips to take lengths from")
        once = clips.once
        of_caption = _statistics(clips.captions.ids[once], clips.lengths[once], clips.captions.count)
        stored = clips.most_frequent(MOST_CAPTIONS)
        by_participant = clips.by_participant(stored)
        codes = clips.codes(chunks, stored)
        texts = clips.texts(chunks, stored, key)
        budget, detailed = MOST_DETAILS, set()
        for caption in stored.tolist():
            budget -= len(codes[caption]) + 4 * len(by_participant.get(caption, ()))
            if budget < 0:
                break
            detailed.add(caption)
        captions = {texts[caption]: CaptionRecord(
            of_caption(caption), by_participant.get(caption, {}) if caption in detailed else {},
            tuple(codes[caption].tolist()) if caption in detailed else None)
            for caption in sorted(stored.tolist(), key=lambda caption: clips.captions.first[caption])}
        lengths = clips.lengths[clips.motions.first]
        overall = _statistics(np.zeros(len(lengths), np.int64), lengths, 1)(0)
        spread = _pooled_log_spread(clips.lengths[once], clips.captions.ids[once])
        regression = LengthRegression.fit(
            list(captions), [record.lengths.median for record in captions.values()],
            [record.lengths.count for record in captions.values()], spread)
        return cls(captions, spread, overall, regression, key)

    def limits(self, text: str, participant_id: str | None = None) -> LengthLimits:
        """Limits for a caption: from its training clips (from the participant's alone, where there are enough); for an
        unseen caption, from its words; where no training caption has any of its words, from all clips."""
        record = self.captions.get(self._key(text))
        if record is not None:
            lengths = record.by_participant.get(participant_id) if participant_id is not None else None
            if lengths is not None:
                return self._window(lengths, f"{_clip_count(lengths.count)} of this caption by {participant_id}")
            return self._window(record.lengths, f"{_clip_count(record.lengths.count)} of this caption")
        if self._words.isdisjoint(words_of(text)):
            return self._window(self.overall, "all training clips, for no caption has a word of it")
        low, middle, high = self.regression.expected(text)
        # The limits stay within those of all clips.
        bounds = self._window(self.overall, "")
        shortest = max(1, bounds.min_tokens, math.floor(low))
        longest = max(shortest, min(bounds.max_tokens, math.ceil(high)))
        return LengthLimits(shortest, min(max(middle, shortest), longest), longest,
                            f"what the words of {len(self.captions)} captions say about length")

    @cached_property
    def _words(self) -> set[str]:
        return {word for caption in self.captions for word in words_of(caption)}

    def new_words(self, text: str) -> set[str]:
        """The words of a text that no stored caption has."""
        return set(words_of(text)) - self._words

    def codes(self, text: str) -> tuple[int, ...] | None:
        """The codes of this caption's training clips; None for an unseen caption, or where they are not stored."""
        record = self.captions.get(self._key(text))
        return None if record is None else record.codes

    def _window(self, lengths: LengthStatistics, source: str) -> LengthLimits:
        """The clips' range, widened by two spreads divided by the number of clips: with few clips, their shortest and
        longest say little about new clips."""
        widening = math.exp(2 * self.spread / lengths.count)
        return LengthLimits(max(1, math.floor(lengths.shortest / widening)), lengths.median,
                            math.ceil(lengths.longest * widening), source)

    def to_dict(self) -> dict:
        """For JSON; numbers are joined into texts, because a list would take a line for each of them."""
        records = self.captions.items()
        return {
            "spread": self.spread,
            "overall": self.overall.to_text(),
            "regression": self.regression.to_dict(),
            "captions": {caption: record.lengths.to_text() for caption, record in records},
            "participants": {caption: {name: lengths.to_text() for name, lengths in record.by_participant.items()}
                             for caption, record in records if record.by_participant},
            "codes": {caption: " ".join(map(str, record.codes)) for caption, record in records
                      if record.codes is not None},
        }

    @classmethod
    def from_dict(cls, content: dict, key: Callable[[str], str]) -> "LengthModel":
        """Raises ValueError for statistics in the format of an earlier version."""
        if not {"spread", "overall", "regression", "captions", "participants", "codes"} <= content.keys():
            raise ValueError("the model's length statistics are of an earlier version of this project: train it again")
        parse, codes = LengthStatistics.from_text, content["codes"]
        captions = {
            caption: CaptionRecord(
                parse(text),
                {name: parse(lengths) for name, lengths in content["participants"].get(caption, {}).items()},
                tuple(map(int, codes[caption].split())) if caption in codes else None)
            for caption, text in content["captions"].items()
        }
        return cls(captions, content["spread"], parse(content["overall"]),
                   LengthRegression.from_dict(content["regression"]), key)


def _clip_count(count: int) -> str:
    return f"{count} clip{'s' * (count != 1)}"


def _statistics(ids: np.ndarray, lengths: np.ndarray, count: int) -> Callable[[int], LengthStatistics]:
    """Statistics of the lengths in each of `count` groups; ids: (N,), the group of each length."""
    ordered = lengths[np.lexsort((lengths, ids))]
    ends = offsets(np.bincount(ids, minlength=count))

    def statistics_of(place: int) -> LengthStatistics:
        start, end = int(ends[place]), int(ends[place + 1])
        median = (int(ordered[(start + end - 1) // 2]) + int(ordered[(start + end) // 2])) / 2
        return LengthStatistics(end - start, int(ordered[start]), median, int(ordered[end - 1]))

    return statistics_of


def _pooled_log_spread(lengths: np.ndarray, ids: np.ndarray) -> float:
    """Standard deviation of log length within groups, pooled over groups; over all clips where no group has two."""
    counts = np.bincount(ids)
    if counts.max() < 2:
        ids, counts = np.zeros_like(ids), np.array([len(ids)])
    first = np.zeros(len(counts), lengths.dtype)
    first[ids[::-1]] = lengths[::-1]
    logs = np.log(lengths / first[ids])  # relative to the group's first, so that equal lengths are exactly 0
    means = np.bincount(ids, logs) / np.maximum(counts, 1)
    freedom = int((counts - 1).clip(0).sum())
    return math.sqrt(float(((logs - means[ids]) ** 2).sum()) / freedom) if freedom else 0.0


@dataclass(frozen=True)
class _Clips:
    """N training rows as arrays. captions: groups of rows with the same caption key. hashes: uint64, (N, 2), of the
    keys. motions: groups of rows with the same codes, which are captions of one clip. once: places of the first row of
    each clip with a caption. names: of participants; participants: (N,), places in names, -1 for none."""

    lengths: np.ndarray
    captions: Groups
    hashes: np.ndarray
    motions: Groups
    once: np.ndarray
    names: list[str]
    participants: np.ndarray

    @classmethod
    def of(cls, chunks: Iterable[Columns], key: Callable[[str], str], in_step: int) -> "_Clips":
        lengths, hashes, participants = [np.empty(0, np.int32)], [np.empty((0, 2), np.uint64)], [np.empty(0, np.int64)]
        names: dict[str | None, int] = {None: -1}
        codes = [np.empty((0, 2), np.uint64)]
        for chunk in chunks:
            codes.append(np.frombuffer(b"".join(motion_hashes(chunk.codes, chunk.ends)), "<u8").reshape(-1, 2))
            texts = chunk.texts.to_list()
            hash_of = {text: hashlib.blake2b(key(text).encode(), digest_size=16).digest() for text in set(texts)}
            hashes.append(np.frombuffer(b"".join(hash_of[text] for text in texts), "<u8").reshape(-1, 2))
            lengths.append(np.diff(chunk.ends) // in_step)
            participants.append(np.array(
                [names.setdefault(name, len(names) - 1) for name in chunk.participants.to_list()], np.int64))
        all_hashes = np.concatenate(hashes)
        captions, motions = group(all_hashes), group(np.concatenate(codes))
        pairs = np.stack([captions.ids, motions.ids], 1).astype(np.uint64)
        return cls(np.concatenate(lengths), captions, all_hashes, motions, np.sort(group(pairs).first), list(names)[1:],
                   np.concatenate(participants))

    def most_frequent(self, limit: int) -> np.ndarray:
        """Captions by number of clips, most first, then by hash; at most `limit`."""
        counts = np.bincount(self.captions.ids[self.once], minlength=self.captions.count)
        return np.lexsort((self.hashes[self.captions.first, 0], -counts))[:limit]

    def by_participant(self, captions: np.ndarray) -> dict[int, dict[str, LengthStatistics]]:
        """caption -> participant -> lengths, where there are ENOUGH_CLIPS."""
        mask = (self.participants >= 0) & np.isin(self.captions.ids, captions)
        mask &= np.isin(np.arange(len(mask)), self.once)
        pairs, ids, counts = np.unique(self.captions.ids[mask] * max(len(self.names), 1) + self.participants[mask],
                                       return_inverse=True, return_counts=True)
        of_pair = _statistics(ids, self.lengths[mask], len(pairs))
        by_caption: dict[int, dict[str, LengthStatistics]] = {}
        for place in np.flatnonzero(counts >= ENOUGH_CLIPS).tolist():
            caption, participant = divmod(int(pairs[place]), len(self.names))
            by_caption.setdefault(caption, {})[self.names[participant]] = of_pair(place)
        return by_caption

    def codes(self, chunks: Iterable[Columns], captions: np.ndarray) -> dict[int, np.ndarray]:
        """caption -> the codes that occur in its clips, ascending."""
        selected, pairs, done = np.isin(np.arange(self.captions.count), captions), [np.empty(0, np.int64)], 0
        for chunk in chunks:
            ids = self.captions.ids[done:done + len(chunk)]
            done += len(chunk)
            owners = np.repeat(ids, np.diff(chunk.ends))
            mask = selected[owners] & (chunk.codes >= 0)  # without those of absent streams
            pairs.append(distinct(owners[mask] << 32 | chunk.codes[mask]))
            if sum(map(len, pairs[1:])) > len(pairs[0]) + 2**22:  # so that memory does not grow with the rows
                pairs = [distinct(np.concatenate(pairs))]
        all_pairs = distinct(np.concatenate(pairs))
        owners = all_pairs >> 32
        codes = np.split(all_pairs & 0xFFFFFFFF, np.flatnonzero(np.diff(owners)) + 1)
        return dict(zip(distinct(owners).tolist(), codes, strict=True))

    def texts(self, chunks: Iterable[Columns], captions: np.ndarray, key: Callable[[str], str]) -> dict[int, str]:
        """caption -> its key."""
        keys, done = {}, 0
        first = {int(self.captions.first[caption]): caption for caption in captions.tolist()}
        for chunk in chunks:
            for place in [place for place in range(done, done + len(chunk)) if place in first]:
                keys[first[place]] = key(chunk.texts[place - done])
            done += len(chunk)
        return keys
