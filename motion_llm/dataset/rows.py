"""The rows of a dataset as compact columns: a few arrays for each chunk, whether in memory or mapped from a file."""

import hashlib
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from json.encoder import encode_basestring_ascii as quoted

import numpy as np

SPLITS = ("train", "val", "test")
BYTES_A_TOKEN = 4  # of a caption, about


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """A clip with one caption. index: position in the file, from 0. codes: int32, (T,), read-only. split: one of
    SPLITS, None where the file names none, and of prepared rows."""

    index: int
    text_query: str
    codes: np.ndarray
    participant_id: str | None = None
    clip_id: str | None = None
    split: str | None = None


def caption_key(text: str) -> str:
    """What captions are compared by: no case, NFC, single spaces, no full stop at the end."""
    folded = unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())
    spaced = " ".join(folded.split())
    return spaced.rstrip(". ") or spaced


@dataclass(frozen=True)
class Texts:
    """N texts, some of them None. data: their UTF-8 one after another, uint8; text i is data[ends[i]:ends[i + 1]]
    (ends: int32, (N + 1,)); there: bool, (N,), False for None."""

    data: np.ndarray
    ends: np.ndarray
    there: np.ndarray

    @classmethod
    def of(cls, texts: Sequence[str | None]) -> "Texts":
        plain = [text or "" for text in texts]
        joined = "".join(plain)
        data = np.frombuffer(joined.encode(), np.uint8)
        sizes = map(len, plain) if len(data) == len(joined) else (len(text.encode()) for text in plain)
        there = np.fromiter((text is not None for text in texts), bool, len(plain))
        return cls(data, offsets(np.fromiter(sizes, np.int64, len(plain))).astype(np.int32), there)

    def __len__(self) -> int:
        return len(self.there)

    def __getitem__(self, place: int) -> str | None:
        return self.data[self.ends[place]:self.ends[place + 1]].tobytes().decode() if self.there[place] else None

    def to_list(self) -> list[str | None]:
        data, ends = self.data.tobytes(), self.ends.tolist()
        return [data[start:end].decode() if there else None
                for start, end, there in zip(ends[:-1], ends[1:], self.there.tolist(), strict=True)]


def offsets(sizes: np.ndarray) -> np.ndarray:
    """(N,) sizes to (N + 1,) places where things of these sizes begin and end when they stand one after another."""
    return np.concatenate([[0], np.cumsum(sizes)])


def distinct(numbers: np.ndarray) -> np.ndarray:
    """The different ones, ascending; many times faster than np.unique (numpy 2.4), which hashes."""
    ordered = np.sort(numbers)
    new = np.ones(len(ordered), bool)
    new[1:] = ordered[1:] != ordered[:-1]
    return ordered[new]


@dataclass(frozen=True)
class Columns:
    """Some consecutive rows. index: int64, (N,), positions in the file. codes: int32, those of all rows one after
    another; row i has codes[ends[i]:ends[i + 1]] (ends: int32, (N + 1,)). splits: int8, (N,), places in SPLITS, -1 for
    none."""

    index: np.ndarray
    texts: Texts
    codes: np.ndarray
    ends: np.ndarray
    participants: Texts
    clips: Texts
    splits: np.ndarray

    @classmethod
    def of(cls, rows: Sequence[Row]) -> "Columns":
        codes = [row.codes for row in rows]
        return cls(np.array([row.index for row in rows], np.int64), Texts.of([row.text_query for row in rows]),
                   np.concatenate([np.empty(0, np.int32), *codes]).astype(np.int32),
                   offsets(np.array(list(map(len, codes)), np.int64)).astype(np.int32),
                   Texts.of([row.participant_id for row in rows]), Texts.of([row.clip_id for row in rows]),
                   np.array([-1 if row.split is None else SPLITS.index(row.split) for row in rows], np.int8))

    def __len__(self) -> int:
        return len(self.index)

    def row(self, place: int) -> Row:
        codes = self.codes[self.ends[place]:self.ends[place + 1]]
        codes.flags.writeable = False
        split = SPLITS[self.splits[place]] if self.splits[place] >= 0 else None
        return Row(int(self.index[place]), self.texts[place], codes, self.participants[place], self.clips[place], split)


@dataclass(frozen=True)
class Groups:
    """Which of N things are equal. ids: int64, (N,), from 0 to count - 1, or -1. first: (count,), the first thing of
    each group."""

    ids: np.ndarray
    first: np.ndarray

    @property
    def count(self) -> int:
        return len(self.first)


def group(hashes: np.ndarray, there: np.ndarray | None = None) -> Groups:
    """Things with equal hashes, (N, 2) uint64; there: (N,), False for things that are in no group (id -1)."""
    places = np.arange(len(hashes)) if there is None else np.flatnonzero(there)
    high, low = hashes[places, 0], hashes[places, 1]
    order = np.lexsort((low, high))  # stable, so that a group's first thing comes first
    high, low = high[order], low[order]
    new = np.ones(len(order), bool)
    new[1:] = (high[1:] != high[:-1]) | (low[1:] != low[:-1])
    ids = np.full(len(hashes), -1, np.int64)
    ids[places[order]] = np.cumsum(new) - 1
    return Groups(ids, places[order[new]])


@dataclass(frozen=True)
class Marks:
    """What rows of a chunk are told apart by. digests: uint8, (N, 32), see `digest`; the others: uint64, (N, 2),
    hashes of the motion, the caption, its key and the clip_id."""

    digests: np.ndarray
    motion: np.ndarray
    text: np.ndarray
    key: np.ndarray
    clip: np.ndarray

    @classmethod
    def of(cls, chunk: Columns) -> "Marks":
        texts, people, clips = (column.to_list() for column in (chunk.texts, chunk.participants, chunk.clips))
        codes, ends = chunk.codes.astype("<i4").tobytes(), (4 * chunk.ends.astype(np.int64)).tolist()
        motions = [codes[start:end] for start, end in zip(ends[:-1], ends[1:], strict=True)]
        splits = np.array([*SPLITS, None], object)[chunk.splits].tolist()  # -1 takes the last, None
        digests = [digest(*content) for content in zip(texts, people, clips, motions, splits, strict=True)]
        of_text = {text: _hash(text.encode()) for text in set(texts)}
        of_key = {text: _hash(caption_key(text).encode()) for text in of_text}
        return cls(np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 32), _join(map(_hash, motions)),
                   _join(of_text[text] for text in texts), _join(of_key[text] for text in texts),
                   _join(_hash((clip or "").encode()) for clip in clips))


def digest(text: str, participant_id: str | None, clip_id: str | None, codes: bytes, split: str | None = None) -> bytes:
    """A digest of a row's content, the same on every machine and for every JSON formatting of it.

    codes: int32, little-endian.
    """
    person = "null" if participant_id is None else quoted(participant_id)
    clip = "null" if clip_id is None else quoted(clip_id)
    end = "]" if split is None else f', "{split}"]'
    head = f"[{quoted(text)}, {person}, {clip}{end}".encode()
    return hashlib.sha256(len(head).to_bytes(8, "little") + head + codes).digest()


def _hash(content: bytes) -> bytes:
    """16 bytes: among a thousand million contents two share them with odds of about 1 to 10**20."""
    return hashlib.blake2b(content, digest_size=16).digest()


def _join(hashes: Iterable[bytes]) -> np.ndarray:
    return np.frombuffer(b"".join(hashes), np.uint64).reshape(-1, 2)


class Rows(Sequence[Row]):
    """Rows in file order, as chunks of columns; a Row is made when it is asked for.

    marks: those of each chunk, worked out when first needed if not given.
    """

    def __init__(self, chunks: Iterable[Columns] = (), marks: list[Marks] | None = None) -> None:
        self.chunks = list(chunks)
        self._marks = marks
        self._starts = offsets(np.array(list(map(len, self.chunks)), np.int64))

    @classmethod
    def of(cls, rows: Sequence[Row]) -> "Rows":
        return cls([Columns.of(rows)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, place: int | slice) -> Row | list[Row]:
        if isinstance(place, slice):
            return [self[one] for one in range(*place.indices(len(self)))]
        if not -len(self) <= place < len(self):
            raise IndexError(f"row {place} of {len(self)}")
        place %= len(self)
        chunk = int(np.searchsorted(self._starts, place, "right")) - 1
        return self.chunks[chunk].row(place - int(self._starts[chunk]))

    def __iter__(self) -> Iterator[Row]:
        return (chunk.row(place) for chunk in self.chunks for place in range(len(chunk)))

    def _all(self, parts: Iterable[np.ndarray], empty: np.ndarray) -> np.ndarray:
        return np.concatenate([empty, *parts])

    def _marked(self, name: str) -> np.ndarray:
        if self._marks is None:
            self._marks = list(map(Marks.of, self.chunks))
        width, kind = (32, np.uint8) if name == "digests" else (2, np.uint64)
        return self._all((getattr(marks, name) for marks in self._marks), np.empty((0, width), kind))

    @cached_property
    def index(self) -> np.ndarray:
        """int64, (N,): positions in the file."""
        return self._all((chunk.index for chunk in self.chunks), np.empty(0, np.int64))

    @cached_property
    def lengths(self) -> np.ndarray:
        """int32, (N,): motion tokens of each row."""
        return self._all((np.diff(chunk.ends) for chunk in self.chunks), np.empty(0, np.int32))

    @property
    def digests(self) -> np.ndarray:
        return self._marked("digests")

    @cached_property
    def motions(self) -> Groups:
        """Rows with the same motion tokens."""
        return group(self._marked("motion"))

    @cached_property
    def captions(self) -> Groups:
        """Rows with the same caption, letter by letter."""
        return group(self._marked("text"))

    @cached_property
    def keys(self) -> Groups:
        """Rows whose captions have the same key."""
        return group(self._marked("key"))

    @cached_property
    def clips(self) -> Groups:
        """Rows with the same clip_id."""
        return group(self._marked("clip"), self._all((chunk.clips.there for chunk in self.chunks), np.empty(0, bool)))

    @cached_property
    def splits(self) -> np.ndarray:
        """int8, (N,): the place in SPLITS of the split that the file names for each row; -1 for none."""
        return self._all((chunk.splits for chunk in self.chunks), np.empty(0, np.int8))

    @cached_property
    def later_copy(self) -> np.ndarray:
        """int64, (N,): the place of a row of the same clip (same tokens or same clip_id) in a later split, in the order
        of SPLITS; -1 where there is none. A row without a split counts as train."""
        if not (self.splits > 0).any():
            return np.full(len(self), -1)
        split, places = np.maximum(self.splits, 0), np.arange(len(self))
        last_first = np.lexsort((-places, split))  # of what is assigned twice below, the last stays
        found = places.copy()
        for groups in (self.motions, self.clips):
            mine = last_first[groups.ids[last_first] >= 0]
            latest = np.zeros(groups.count, np.int64)
            latest[groups.ids[mine]] = mine
            other = latest[groups.ids[mine]]
            found[mine] = np.where(split[other] > split[found[mine]], other, found[mine])
        return np.where(found == places, -1, found)

    @cached_property
    def _people(self) -> tuple[list[str], np.ndarray]:
        names: dict[str | None, int] = {None: -1}
        parts = [np.fromiter((names.setdefault(name, len(names) - 1) for name in chunk.participants.to_list()),
                             np.int64, len(chunk)) for chunk in self.chunks]
        return list(names)[1:], self._all(parts, np.empty(0, np.int64))

    @property
    def participants(self) -> list[str]:
        """Their names, in the order in which they come."""
        return self._people[0]

    @property
    def participant(self) -> np.ndarray:
        """int64, (N,): the place of each row's participant in `participants`; -1 for none."""
        return self._people[1]


def row_lengths(table) -> tuple[np.ndarray, np.ndarray]:
    """(N,) each: motion tokens of the rows of a `datasets` table, and about how many tokens their captions have;
    without making lists of them."""
    import pyarrow.compute

    counts, letters = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for batch in table.select_columns(["codes", "text_query"]).with_format("arrow").iter(10_000):
        counts.append(batch["codes"].combine_chunks().value_lengths().to_numpy())
        letters.append(pyarrow.compute.binary_length(batch["text_query"]).to_numpy())
    return np.concatenate(counts), np.concatenate(letters) // BYTES_A_TOKEN
