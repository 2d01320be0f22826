"""Metrics of motions as codes: code sequences in, numbers out.

A clip is compared with its references, real clips of the same caption. A caption has many right answers, so the
nearest reference counts. A whole set of clips is compared by the distribution of its codes.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from rapidfuzz import process
from rapidfuzz.distance import Levenshtein

Codes = Sequence[int]
LENGTH_TOLERANCE = 0.1


def edit_distance(a: Codes, b: Codes) -> int:
    """Insertions, deletions and replacements of codes that turn a (T,) into b (S,) (Levenshtein 1966)."""
    return Levenshtein.distance(tuple(a), tuple(b))


def normalised_edit_distance(a: Codes, b: Codes) -> float:
    """Edit distance over the longer length: 0 equal, 1 nothing in common. Two empty clips are equal."""
    return edit_distance(a, b) / max(len(a), len(b), 1)


def best_edit_distance(clip: Codes, references: Sequence[Codes]) -> int:
    return min(edit_distance(clip, reference) for reference in references)


def best_normalised_edit_distance(clip: Codes, references: Sequence[Codes]) -> float:
    return min(normalised_edit_distance(clip, reference) for reference in references)


def nearest_length(length: int, references: Sequence[Codes]) -> int:
    """The references' length nearest to `length`; the shorter one in a tie."""
    return min((len(reference) for reference in references), key=lambda n: (abs(n - length), n))


def repetition_rate(clip: Codes) -> float | None:
    """Share of a clip's codes, from the second on, that repeat the one before; None for fewer than two codes."""
    codes = [int(code) for code in clip]
    pairs = list(zip(codes[:-1], codes[1:], strict=True))
    return sum(a == b for a, b in pairs) / len(pairs) if pairs else None


def nearest_clips(clips: Sequence[Codes], training: Sequence[Codes], others: bool = False) -> list[tuple[int, float]]:
    """For each clip the index of the nearest training clip, the first one in a tie, and the normalised edit distance to
    it. others: among training clips of other codes, if there are any, for clips that were trained on. Raises ValueError
    without training clips."""
    if not training:
        raise ValueError("no training clips to search for the nearest")
    # As text, which is compared many times faster; each code gets a letter of its own, whatever its size.
    letters: dict[int, str] = {}

    def spelled(clip: Codes) -> str:
        return "".join(letters.setdefault(int(code), chr(len(letters))) for code in clip)

    places: dict[str, int] = {}
    for place, clip in enumerate(training):
        places.setdefault(spelled(clip), place)
    choices, nearest = list(places), []
    for clip in map(spelled, clips):
        matches = process.extract(clip, choices, scorer=Levenshtein.normalized_distance, limit=1 + others)
        text, distance, _ = next((match for match in matches if others and match[0] != clip), matches[0])
        nearest.append((places[text], distance))
    return nearest


def novelty(clips: Sequence[Codes], training: Sequence[Codes]) -> list[float]:
    """For each clip its normalised edit distance to the nearest training clip: 0 is a copy. Raises ValueError without
    training clips."""
    return [distance for _, distance in nearest_clips(clips, training)]


def is_valid(clip: Codes, codebook_size: int, longest: int | None = None) -> bool:
    """Whether a codec can decode it: at least one code, all from 0 to codebook_size - 1, at most `longest` codes."""
    return (len(clip) > 0 and all(0 <= code < codebook_size for code in clip)
            and (longest is None or len(clip) <= longest))


def valid_share(clips: Sequence[Codes], codebook_size: int, longest: int | None = None) -> float | None:
    """Share of the clips that are valid; None without clips."""
    return _mean([is_valid(clip, codebook_size, longest) for clip in clips]) if clips else None


# ---------------------------------------------------------------- distribution of the codes of a whole set


def count_ngrams(clips: Sequence[Codes], n: int) -> Counter[tuple[int, ...]]:
    """How often each run of n codes occurs within the clips, never across two of them."""
    counts: Counter[tuple[int, ...]] = Counter()
    for clip in clips:
        codes = [int(code) for code in clip]
        counts.update(zip(*(codes[i:] for i in range(n)), strict=False))
    return counts


def jensen_shannon(a: Counter, b: Counter) -> float | None:
    """Divergence of two counts as distributions, in bits: 0 equal, 1 nothing in common (Lin 1991, base 2, equal
    weights). None if one of them is empty."""
    total_a, total_b = a.total(), b.total()
    if not total_a or not total_b:
        return None

    def part(p: float, q: float) -> float:
        return p * math.log2(2 * p / (p + q)) if p else 0.0

    terms = ((a[key] / total_a, b[key] / total_b) for key in sorted(a.keys() | b.keys()))
    return max(0.0, math.fsum(part(p, q) + part(q, p) for p, q in terms) / 2)


def ngram_jsd(clips: Sequence[Codes], others: Sequence[Codes], n: int) -> float | None:
    """Jensen-Shannon divergence of the n-grams of two sets of clips, 0 to 1 (n = 1: of the codes themselves)."""
    return jensen_shannon(count_ngrams(clips, n), count_ngrams(others, n))


def codebook_usage(clips: Sequence[Codes], codebook_size: int) -> float | None:
    """Share of the codebook's codes that occur at all; None without clips."""
    used = {int(code) for clip in clips for code in clip if 0 <= code < codebook_size}
    return len(used) / codebook_size if clips else None


def codebook_perplexity(clips: Sequence[Codes]) -> float | None:
    """2 to the power of the entropy of the codes in bits: the number of equally frequent codes with that entropy (as
    reported for VQ-VAEs, van den Oord et al. 2017). None without codes."""
    counts = count_ngrams(clips, 1)
    total = counts.total()
    if not total:
        return None
    return 2 ** -math.fsum(count / total * math.log2(count / total) for count in sorted(counts.values()))


def distinct_n(clips: Sequence[Codes], n: int) -> float | None:
    """Distinct n-grams over all n-grams of the set (Li et al. 2016, distinct-1 and distinct-2); None without n-grams.
    It falls as a set grows, so only sets of one size can be compared."""
    counts = count_ngrams(clips, n)
    return len(counts) / counts.total() if counts else None


@dataclass(frozen=True)
class MotionScores:
    """Means over n clips.

    edit_distance: tokens, to the nearest reference. normalised_edit_distance: likewise, 0 to 1.
    length_accuracy: share of clips within 10 % of the nearest of the references' lengths. length_ratio: length over
    that length. length_error: absolute difference to it, in tokens.
    """

    n: int
    edit_distance: float
    normalised_edit_distance: float
    length_accuracy: float
    length_ratio: float
    length_error: float

    def to_dict(self) -> dict:
        return asdict(self)


def score_motions(clips: Sequence[Codes], references: Sequence[Sequence[Codes]], in_step: int = 1
                  ) -> MotionScores | None:
    """Scores of clips, each against its own references (at least one); None without clips. in_step: codes of a step,
    where clips have several streams; lengths count steps, edits count codes.

    Raises ValueError when the counts differ or a clip has no reference.
    """
    if len(clips) != len(references):
        raise ValueError(f"{len(clips)} clips but {len(references)} lists of references")
    if without := [i for i, real in enumerate(references) if not real]:
        raise ValueError(f"{len(without)} clips have no reference, the first is clip {without[0]}")
    if not clips:
        return None
    lengths = [len(clip) // in_step for clip in clips]
    nearest = [nearest_length(len(clip), real) // in_step for clip, real in zip(clips, references, strict=True)]
    errors = [abs(length - n) for length, n in zip(lengths, nearest, strict=True)]
    pairs = list(zip(clips, references, strict=True))
    return MotionScores(
        n=len(clips),
        edit_distance=_mean([best_edit_distance(clip, real) for clip, real in pairs]),
        normalised_edit_distance=_mean([best_normalised_edit_distance(clip, real) for clip, real in pairs]),
        length_accuracy=_mean([error <= LENGTH_TOLERANCE * n for error, n in zip(errors, nearest, strict=True)]),
        length_ratio=_mean([length / n for length, n in zip(lengths, nearest, strict=True)]),
        length_error=_mean(errors),
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
