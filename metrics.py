"""How good motions are, in numbers: code sequences in, numbers out.

A clip is judged against its references, other real clips of the same caption: a caption has many right answers,
so the nearest reference counts.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from rapidfuzz.distance import Levenshtein

Codes = Sequence[int]
LENGTH_TOLERANCE = 0.1


def edit_distance(a: Codes, b: Codes) -> int:
    """Insertions, deletions and replacements of codes that turn a (T,) into b (S,) (Levenshtein 1966)."""
    return Levenshtein.distance(tuple(a), tuple(b))


def normalised_edit_distance(a: Codes, b: Codes) -> float:
    """Edit distance over the longer length: 0 the same, 1 nothing in common. Two empty clips are the same."""
    return edit_distance(a, b) / max(len(a), len(b), 1)


def best_edit_distance(clip: Codes, references: Sequence[Codes]) -> int:
    return min(edit_distance(clip, reference) for reference in references)


def best_normalised_edit_distance(clip: Codes, references: Sequence[Codes]) -> float:
    return min(normalised_edit_distance(clip, reference) for reference in references)


def nearest_length(length: int, references: Sequence[Codes]) -> int:
    """The references' length nearest to `length`; the shorter one of two as near."""
    return min((len(reference) for reference in references), key=lambda n: (abs(n - length), n))


@dataclass(frozen=True)
class MotionScores:
    """Means over n clips.

    edit_distance: tokens, to the nearest reference. normalised_edit_distance: likewise, 0 to 1.
    length_accuracy: share of clips within 10 % of the nearest reference's length. length_ratio: length over
    the nearest reference's. length_error: absolute difference to it, in tokens.
    """

    n: int
    edit_distance: float
    normalised_edit_distance: float
    length_accuracy: float
    length_ratio: float
    length_error: float

    def to_dict(self) -> dict:
        return asdict(self)


def score_motions(clips: Sequence[Codes], references: Sequence[Sequence[Codes]]) -> MotionScores | None:
    """Scores of clips, each against its own references (at least one each); None when there are no clips.

    Raises ValueError when the counts differ or a clip has no reference.
    """
    if len(clips) != len(references):
        raise ValueError(f"{len(clips)} clips but {len(references)} lists of references")
    if bare := [i for i, own in enumerate(references) if not own]:
        raise ValueError(f"{len(bare)} clips have no reference, the first is clip {bare[0]}")
    if not clips:
        return None
    nearest = [nearest_length(len(clip), own) for clip, own in zip(clips, references, strict=True)]
    errors = [abs(len(clip) - n) for clip, n in zip(clips, nearest, strict=True)]
    pairs = list(zip(clips, references, strict=True))
    return MotionScores(
        n=len(clips),
        edit_distance=_mean([best_edit_distance(clip, own) for clip, own in pairs]),
        normalised_edit_distance=_mean([best_normalised_edit_distance(clip, own) for clip, own in pairs]),
        length_accuracy=_mean([error <= LENGTH_TOLERANCE * n for error, n in zip(errors, nearest, strict=True)]),
        length_ratio=_mean([len(clip) / n for clip, n in zip(clips, nearest, strict=True)]),
        length_error=_mean(errors),
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
