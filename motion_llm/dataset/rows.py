"""The rows of a dataset as compact columns: a few arrays for each chunk, in memory or mapped from a file."""

import hashlib
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from json.encoder import encode_basestring_ascii as quoted

import numpy as np

SPLITS = ("train", "val", "test")
BYTES_A_TOKEN = 4  # of a caption, roughly


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
    """The form in which captions are compared: case folded, NFC, single spaces, no full stop at the end."""
    folded = unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())
    spaced = " ".join(folded.split())
    return spaced.rstrip(". ") or spaced


@dataclass(frozen=True)
class Texts:
    """N texts, some of them None. data: uint8, their concatenated UTF-8; text i is data[ends[i]:ends[i + 1]] (ends:
    int32, (N + 1,)). present: bool, (N,), False for None."""

    data: np.ndarray
    ends: np.ndarray
    present: np.ndarray

    @classmethod
    def of(cls, texts: Sequence[str | None]) -> "Texts":
        plain = [text or "" for text in texts]
        joined = "".join(plain)
        data = np.frombuffer(joined.encode(), np.uint8)
        sizes = map(len, plain) if len(data) == len(joined) else (len(text.encode()) for text in plain)
        present = np.fromiter((text is not None for text in texts), bool, len(plain))
        return cls(data, offsets(np.fromiter(sizes, np.int64, len(plain))).astype(np.int32), present)

    def __len__(self) -> int:
        return len(self.present)

    def __getitem__(self, place: int) -> str | None:
        return self.data[self.ends[place]:self.ends[place + 1]].tobytes().decode() if self.present[place] else None

    def to_list(self) -> list[str | None]:
        data, ends = self.data.tobytes(), self.ends.tolist()
        return [data[start:end].decode() if present else None
                for start, end, present in zip(ends[:-1], ends[1:], self.present.tolist(), strict=True)]


def offsets(sizes: np.ndarray) -> np.ndarray:
    """Sizes, (N,), to the bounds, (N + 1,), of consecutive items of these sizes, from 0."""
    return np.concatenate([[0], np.cumsum(sizes)])


def distinct(numbers: np.ndarray) -> np.ndarray:
    """The distinct numbers, ascending; many times faster than np.unique (numpy 2.4), which hashes."""
    ordered = np.sort(numbers)
    new = np.ones(len(ordered), bool)
    new[1:] = ordered[1:] != ordered[:-1]
    return ordered[new]


@dataclass(frozen=True)
class Columns:
    """Consecutive rows. index: int64, (N,), positions in the file. codes: int32, those of all rows concatenated; row i
    has codes[ends[i]:ends[i + 1]] (ends: int32, (N + 1,)). clips: clip_ids. splits: int8, (N,), places in SPLITS, -1
    for none."""

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
    """Groups of equal items among N. ids: int64, (N,), the group of each item, from 0 to count - 1, or -1. first:
    (count,), the first item of each group."""

    ids: np.ndarray
    first: np.ndarray

    @property
    def count(self) -> int:
        return len(self.first)


def group(hashes: np.ndarray, present: np.ndarray | None = None) -> Groups:
    """Groups of items with equal hashes, (N, 2) uint64; present: (N,), False for items in no group (id -1)."""
    places = np.arange(len(hashes)) if present is None else np.flatnonzero(present)
    high, low = hashes[places, 0], hashes[places, 1]
    order = np.lexsort((low, high))  # stable, so that a group's first item comes first
    high, low = high[order], low[order]
    new = np.ones(len(order), bool)
    new[1:] = (high[1:] != high[:-1]) | (low[1:] != low[:-1])
    ids = np.full(len(hashes), -1, np.int64)
    ids[places[order]] = np.cumsum(new) - 1
    return Groups(ids, places[order[new]])


@dataclass(frozen=True)
class RowHashes:
    """Hashes of a chunk's rows. digests: uint8, (N, 32), see `digest`; the others: uint64, (N, 2), hashes of the
    motion, the caption, its key and the clip_id."""

    digests: np.ndarray
    motion: np.ndarray
    text: np.ndarray
    key: np.ndarray
    clip: np.ndarray

    @classmethod
    def of(cls, chunk: Columns) -> "RowHashes":
        texts, participants, clips = (column.to_list() for column in (chunk.texts, chunk.participants, chunk.clips))
        codes, ends = chunk.codes.astype("<i4").tobytes(), (4 * chunk.ends.astype(np.int64)).tolist()
        motions = [codes[start:end] for start, end in zip(ends[:-1], ends[1:], strict=True)]
        splits = np.array([*SPLITS, None], object)[chunk.splits].tolist()  # -1 indexes the last, None
        digests = [digest(*content) for content in zip(texts, participants, clips, motions, splits, strict=True)]
        of_text = {text: _hash(text.encode()) for text in set(texts)}
        of_key = {text: _hash(caption_key(text).encode()) for text in of_text}
        return cls(np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 32), _join(map(_hash, motions)),
                   _join(of_text[text] for text in texts), _join(of_key[text] for text in texts),
                   _join(_hash((clip or "").encode()) for clip in clips))


def digest(text: str, participant_id: str | None, clip_id: str | None, codes: bytes, split: str | None = None) -> bytes:
    """A digest of a row's content, the same on every machine and for every JSON formatting of it.

    codes: int32, little-endian.
    """
    participant = "null" if participant_id is None else quoted(participant_id)
    clip = "null" if clip_id is None else quoted(clip_id)
    end = "]" if split is None else f', "{split}"]'
    head = f"[{quoted(text)}, {participant}, {clip}{end}".encode()
    return hashlib.sha256(len(head).to_bytes(8, "little") + head + codes).digest()


def _hash(content: bytes) -> bytes:
    """16 bytes: the odds that any two of 10**9 contents share them are about 1 to 10**20."""
    return hashlib.blake2b(content, digest_size=16).digest()


def _join(hashes: Iterable[bytes]) -> np.ndarray:
    return np.frombuffer(b"".join(hashes), np.uint64).reshape(-1, 2)


class Rows(Sequence[Row]):
    """Rows as chunks of columns; a Row object is created on access.

    hashes: those of each chunk; None computes them at first use.
    """

    def __init__(self, chunks: Iterable[Columns] = (), hashes: list[RowHashes] | None = None) -> None:
        self.chunks = list(chunks)
        self._hashes = hashes
        self._starts = offsets(np.array(list(map(len, self.chunks)), np.int64))

    @classmethod
    def of(cls, rows: Sequence[Row]) -> "Rows":
        return cls([Columns.of(rows)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, place: int | slice) -> Row | list[Row]:
        if isinstance(place, slice):
            return [self[i] for i in range(*place.indices(len(self)))]
        if not -len(self) <= place < len(self):
            raise IndexError(f"row {place} of {len(self)}")
        place %= len(self)
        chunk = int(np.searchsorted(self._starts, place, "right")) - 1
        return self.chunks[chunk].row(place - int(self._starts[chunk]))

    def __iter__(self) -> Iterator[Row]:
        return (chunk.row(place) for chunk in self.chunks for place in range(len(chunk)))

    def _all(self, parts: Iterable[np.ndarray], empty: np.ndarray) -> np.ndarray:
        return np.concatenate([empty, *parts])

    def _hash_column(self, name: str) -> np.ndarray:
        if self._hashes is None:
            self._hashes = list(map(RowHashes.of, self.chunks))
        width, dtype = (32, np.uint8) if name == "digests" else (2, np.uint64)
        return self._all((getattr(hashes, name) for hashes in self._hashes), np.empty((0, width), dtype))

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
        return self._hash_column("digests")

    @cached_property
    def motions(self) -> Groups:
        """Rows with the same motion tokens."""
        return group(self._hash_column("motion"))

    @cached_property
    def captions(self) -> Groups:
        """Rows with exactly the same caption."""
        return group(self._hash_column("text"))

    @cached_property
    def keys(self) -> Groups:
        """Rows whose captions have the same key."""
        return group(self._hash_column("key"))

    @cached_property
    def clips(self) -> Groups:
        """Rows with the same clip_id."""
        present = self._all((chunk.clips.present for chunk in self.chunks), np.empty(0, bool))
        return group(self._hash_column("clip"), present)

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
        by_split = np.lexsort((-places, split))  # the latest split comes last, so its assignment below is the last
        copy = places.copy()
        for groups in (self.motions, self.clips):
            members = by_split[groups.ids[by_split] >= 0]
            latest = np.zeros(groups.count, np.int64)
            latest[groups.ids[members]] = members
            candidate = latest[groups.ids[members]]
            copy[members] = np.where(split[candidate] > split[copy[members]], candidate, copy[members])
        return np.where(copy == places, -1, copy)

    @cached_property
    def _participants(self) -> tuple[list[str], np.ndarray]:
        names: dict[str | None, int] = {None: -1}
        parts = [np.fromiter((names.setdefault(name, len(names) - 1) for name in chunk.participants.to_list()),
                             np.int64, len(chunk)) for chunk in self.chunks]
        return list(names)[1:], self._all(parts, np.empty(0, np.int64))

    @property
    def participants(self) -> list[str]:
        """Their names, in the order of their first rows."""
        return self._participants[0]

    @property
    def participant(self) -> np.ndarray:
        """int64, (N,): the place of each row's participant in `participants`; -1 for none."""
        return self._participants[1]


def row_lengths(table) -> tuple[np.ndarray, np.ndarray]:
    """(N,) each: motion tokens of the rows of a `datasets` table, and roughly how many tokens their captions have;
    computed on the Arrow columns, without Python lists."""
    import pyarrow.compute

    counts, text_bytes = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for batch in table.select_columns(["codes", "text_query"]).with_format("arrow").iter(10_000):
        counts.append(batch["codes"].combine_chunks().value_lengths().to_numpy())
        text_bytes.append(pyarrow.compute.binary_length(batch["text_query"]).to_numpy())
    return np.concatenate(counts), np.concatenate(text_bytes) // BYTES_A_TOKEN


def row_motions(table) -> np.ndarray:
    """(N,): the motion of each row of a `datasets` table, numbered from 0; rows with the same codes have the same."""
    numbers: dict[bytes, int] = {}
    motions = []
    for batch in table.select_columns(["codes"]).with_format("arrow").iter(10_000):
        column = batch["codes"].combine_chunks()
        for content in motion_hashes(column.values.to_numpy(), column.offsets.to_numpy()):
            motions.append(numbers.setdefault(content, len(numbers)))
    return np.array(motions, np.int64)


def row_captions(table) -> np.ndarray:
    """(N,): the caption of each row of a `datasets` table, numbered from 0; rows with the same caption_key() have the
    same."""
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(caption_key(text), len(numbers)) for text in table["text_query"]], np.int64)


def distinct_motions(chunks: Iterable[Columns]) -> Iterator[np.ndarray]:
    """The codes (T,) of each motion once, however many captions it has."""
    seen = set()
    for chunk in chunks:
        for content, codes in zip(motion_hashes(chunk.codes, chunk.ends), np.split(chunk.codes, chunk.ends[1:-1]),
                                  strict=True):
            if content not in seen:
                seen.add(content)
                yield codes


def motion_hashes(codes: np.ndarray, ends: np.ndarray) -> Iterator[bytes]:
    """A hash of each row's codes, codes[ends[i]:ends[i + 1]]."""
    bounds = ends.tolist()
    return (hashlib.blake2b(codes[start:end].tobytes(), digest_size=16).digest()
            for start, end in zip(bounds[:-1], bounds[1:], strict=True))
