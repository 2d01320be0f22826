"""The clips of an evaluation in memory: those to score, and the real ones that the model was trained on."""

import hashlib
from collections import defaultdict
from collections.abc import Container, Iterable
from dataclasses import dataclass, field

import numpy as np

from motion_llm.dataset.caption_index import CaptionIndex
from motion_llm.dataset.rows import Row, caption_key

MOST_CLIPS = 50_000  # training clips in memory, beside all clips of the captions to score
HELD_SHARE, HELD_MOST = 0.1, 500  # of training clips without a held-out split: for the evaluator's early stopping


class EvaluationError(ValueError):
    """A request that cannot be evaluated; the text says what was found and what is expected."""


@dataclass(frozen=True)
class EvaluationRow:
    """A clip to score, as the row of the caption that it is scored under. key: of that caption, see caption_key. kind:
    "seen" if the caption was trained, "unseen" if not, None if that is unknown. captions: all captions that the data
    has for this motion, the row's own first."""

    index: int
    text_query: str
    key: str
    codes: list[int]
    participant_id: str | None
    kind: str | None
    captions: tuple[str, ...] = ()


@dataclass
class Training:
    """Real training clips. clips, texts, keys, people: codes, caption, caption key and participant of each row in
    memory, a sample of about MOST_CLIPS and all rows of the captions to score. distinct: the places of the first row of
    each clip. held_clips, held_texts: held-out rows, for the evaluator's early stopping. count: all training rows.
    fingerprint: of the data they come from."""

    fingerprint: str
    source: str
    count: int = 0
    clips: list[list[int]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    people: list[str | None] = field(default_factory=list)
    held_clips: list[list[int]] = field(default_factory=list)
    held_texts: list[str] = field(default_factory=list)
    all_keys: set[str] = field(default_factory=set)
    _motions: set[bytes] = field(default_factory=set)
    _clip_ids: set[str] = field(default_factory=set)

    def __post_init__(self):
        self._nearest: dict[tuple[str, int], list[str]] = {}
        self._index: CaptionIndex | None = None

    def fill(self, rows: Iterable[Row], count: int, caption_keys: Container[str], seed: int) -> "Training":
        """Add the training rows, `count` of them. Every clip of a caption in caption_keys stays in memory."""
        rng, share = np.random.default_rng(seed), MOST_CLIPS / max(1, count)
        for row in rows:
            key = caption_key(row.text_query)
            self.count += 1
            self.all_keys.add(key)
            self._motions.add(digest_of(row.codes))
            if row.clip_id is not None:
                self._clip_ids.add(row.clip_id)
            if rng.random() < share or key in caption_keys:
                self.clips.append(row.codes.tolist())
                self.texts.append(row.text_query)
                self.keys.append(key)
                self.people.append(row.participant_id)
        self.by_key: dict[str, list[int]] = defaultdict(list)
        first: dict[tuple, int] = {}
        for place, (key, codes, person) in enumerate(zip(self.keys, self.clips, self.people, strict=True)):
            self.by_key[key].append(place)
            first.setdefault((tuple(codes), person), place)
        self.distinct = list(first.values())
        return self

    def add_held(self, rows: Iterable[Row]) -> None:
        """Add held-out rows."""
        for row in rows:
            self.held_clips.append(row.codes.tolist())
            self.held_texts.append(row.text_query)

    def holds(self, row: Row) -> bool:
        """Whether this clip was trained on: the same tokens, or the same clip_id."""
        return digest_of(row.codes) in self._motions or (row.clip_id is not None and row.clip_id in self._clip_ids)

    def of_nearest_caption(self, row: EvaluationRow) -> list[int]:
        """The places of the clips of the most similar training caption that has some in memory. The row's own clip is
        not among them, as one that was trained on would be found itself."""
        for limit in (0, 1, 10, len(self.by_key)):
            for key in self._nearest_captions(row.key, limit):
                if places := [i for i in self.by_key[key] if self.clips[i] != row.codes]:
                    return places
        return list(range(len(self.clips)))  # all training clips are this one

    def _nearest_captions(self, key: str, limit: int) -> list[str]:
        """limit 0: the caption itself, if it has clips. (The index sorts the words, so of the same words in another
        order it may find either.)"""
        if not limit:
            return [key] * (key in self.by_key)
        self._index = self._index or CaptionIndex(list(self.by_key))
        if (key, limit) not in self._nearest:
            self._nearest[key, limit] = [near for near, _ in self._index.nearest(key, limit)]
        return self._nearest[key, limit]


def digest_of(codes: np.ndarray) -> bytes:
    return hashlib.blake2b(codes.astype("<i4").tobytes(), digest_size=16).digest()


def evaluator_material(training: Training, seed: int) -> tuple[list, list, list, list]:
    """Clips, captions, held-out clips and held-out captions to train an evaluator with.

    Without held-out clips of a run, a share of the clips is held out here, half of it as whole captions and half as
    single clips. Raises EvaluationError for too few clips.
    """
    if training.held_clips:
        return training.clips, training.texts, training.held_clips, training.held_texts
    count = min(HELD_MOST, int(HELD_SHARE * len(training.clips)))
    if count < 2:
        raise EvaluationError(f"{training.source}: {len(training.clips)} training clips, expected 20 or more to train "
                              "an evaluator")
    rng = np.random.default_rng(seed)
    held: set[int] = set()
    for key in rng.permutation(sorted(training.by_key)).tolist():
        if len(held) + len(training.by_key[key]) <= count // 2:
            held.update(training.by_key[key])
    rest = [i for i in range(len(training.clips)) if i not in held]
    held.update(rng.permutation(rest)[:count - len(held)].tolist())
    rest = [i for i in rest if i not in held]
    return ([training.clips[i] for i in rest], [training.texts[i] for i in rest],
            [training.clips[i] for i in sorted(held)], [training.texts[i] for i in sorted(held)])
