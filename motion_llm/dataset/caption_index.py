"""The most similar of many captions, without comparing all of them."""

from collections.abc import Sequence

import numpy as np
from rapidfuzz import fuzz, process

_BINS = 32  # letters are counted by their last 5 bits, in which a to z differ
_FIRST = 256  # captions compared at first


class CaptionIndex:
    """Captions by the letters in them.

    Similarity is rapidfuzz's token_sort_ratio: twice the longest common subsequence of the two texts with their words
    sorted, in per cent of both lengths. The letters that two texts share bound it from above, so only captions with
    enough shared letters are compared. The result is the same as comparing all.
    """

    def __init__(self, captions: Sequence[str]):
        self.captions = list(captions)
        self._sorted = np.array([" ".join(sorted(caption.split())) for caption in self.captions], object)
        self._lengths = np.fromiter(map(len, self._sorted), np.int64, len(self._sorted))
        letters = _letters("".join(self._sorted))
        owners = np.repeat(np.arange(len(self._sorted)), self._lengths)  # the caption of each letter
        counts = np.bincount(owners * _BINS + letters, minlength=len(self._sorted) * _BINS)
        self._counts = np.ascontiguousarray(counts.reshape(-1, _BINS).T.astype(np.int32))  # (_BINS, captions)

    def nearest(self, caption: str, limit: int, least: float = 0.0) -> list[tuple[str, float]]:
        """At most `limit` captions of at least `least` per cent similarity, each with its similarity; best first, ties
        in the order of the captions."""
        text = " ".join(sorted(caption.split()))
        shared = np.zeros(len(self._sorted), np.int32)
        for letter, count in enumerate(np.bincount(_letters(text), minlength=_BINS)):
            if count:
                shared += np.minimum(self._counts[letter], count)
        # Per cent; a little is added so that rounding excludes nothing.
        bounds = 200.0 * shared / np.maximum(self._lengths + len(text), 1) + 1e-6
        if len(bounds) > _FIRST:
            first = np.argpartition(-bounds, _FIRST)[:_FIRST]
            scores = [score for _, score in self._compare(text, first, limit, least)]
            # A little less than the last score, because rapidfuzz rounds its cutoff.
            least = max(least, scores[-1] - 0.1) if len(scores) == limit else least
        return [(self.captions[place], score)
                for place, score in self._compare(text, np.flatnonzero(bounds >= least), limit, least)]

    def _compare(self, text: str, places: np.ndarray, limit: int, least: float) -> list[tuple[int, float]]:
        matches = process.extract(text, self._sorted[places].tolist(), scorer=fuzz.ratio, limit=limit,
                                  score_cutoff=least)
        return [(int(places[i]), score) for _, score, i in matches]


def _letters(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.int64) % _BINS
