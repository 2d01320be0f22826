"""The rules that a row must keep: for a whole chunk at once, and one by one where something in it is wrong."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import Any

import numpy as np

from motion_llm.dataset.reader import SHOWN, Bad, Constant, Repeated, show
from motion_llm.dataset.rows import SPLITS, Columns, Row, Texts, offsets
from templates import NO_PARTICIPANT

FIELDS = ("text_query", "motion_tokens", "participant_id", "clip_id", "split")
REQUIRED, _IDENTIFIERS = FIELDS[:2], FIELDS[2:4]
# What a split may be called, in any case.
_SPLIT_NAMES = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val",
                "test": "test"}
LARGEST_CODE = 1_000_000
_KNOWN, _REQUIRED = frozenset(FIELDS), frozenset(REQUIRED)


@dataclass
class Found:
    """Problems of one kind. records: how many it is in. count: how many there are. first: (record, text) of some."""

    records: int = 0
    count: int = 0
    last: int = -1
    first: list[tuple[int, str]] = field(default_factory=list)


@dataclass
class Findings:
    """What is wrong in which records (positions in the file, from 0): kind -> Found. Only the first are kept."""

    found: dict[str, Found] = field(default_factory=lambda: defaultdict(Found))

    def add(self, kind: str, record: int, text: str) -> None:
        """Records of a kind come in ascending order; one may come several times."""
        found = self.found[kind]
        found.records += record != found.last
        found.last = record
        found.count += 1
        if found.count <= SHOWN:
            found.first.append((record, text))

    def add_all(self, kind: str, records: np.ndarray, text: Callable[[int], str]) -> None:
        """records: ascending; text: what to say of the i-th of them."""
        for place, record in enumerate(records[:SHOWN].tolist()):
            self.add(kind, record, text(place))
        rest = max(0, len(records) - SHOWN)
        self.found[kind].records += rest
        self.found[kind].count += rest


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise Bad("text", show(value))
    if not any(char.isprintable() and not char.isspace() for char in value):
        raise Bad("text", f"{show(value)}, in which nothing can be seen")
    _refuse_half_characters(value, "text")
    return value


def _refuse_half_characters(value: str, kind: str) -> None:
    """Half a character, such as "\\ud83d" without its other half: no tokenizer takes it, no file stores it."""
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise Bad(kind, f"half a character, {value[error.start]!r}, in {show(value)}") from error


_CODES = re.compile(r"\s*\d{1,6}(?:\s+\d{1,6})*\s*", re.ASCII)


def _codes(value: Any, largest: int) -> np.ndarray:
    """motion_tokens as codes, int32 (T,). Good forms are recognised whole; others go to _slow_codes."""
    if isinstance(value, str) and _CODES.fullmatch(value):
        numbers = list(map(int, value.split()))
    elif isinstance(value, list) and set(map(type, value)) == {int}:
        numbers = value
    else:
        numbers = _slow_codes(value, largest)
    if min(numbers) < 0 or max(numbers) > largest:
        _slow_codes(numbers, largest)
    codes = np.array(numbers, dtype=np.int32)
    codes.flags.writeable = False
    return codes


def _slow_codes(value: Any, largest: int) -> list[int]:
    """The codes one by one. Raises Bad for the first that is wrong, with its place, counted from 0."""
    if not isinstance(value, str | list):
        raise Bad("codes-type", show(value))
    tokens = value.split() if isinstance(value, str) else value
    if not tokens:
        raise Bad("no-codes", show(value))
    numbers = []
    for place, token in enumerate(tokens):
        found = f"{show(token)} at place {place}"
        whole = isinstance(value, str) and re.fullmatch(r"-?\d+", token, re.ASCII)
        if not whole and type(token) is not int:
            comma = "; separate tokens by spaces" if isinstance(token, str) and "," in token else ""
            raise Bad("non-integer-code", found + comma)
        if token.startswith("-") if whole else token < 0:
            raise Bad("negative-code", found)
        digits = token.lstrip("0") or "0" if whole else ""
        if len(digits) > 7 or int(digits or token) > largest:  # int() would raise for 4301 digits
            raise Bad("code-too-large", found)
        numbers.append(int(digits or token))
    return numbers


def _identifier(value: Any, kind: str) -> str | None:
    """participant_id or clip_id as text; null counts as not given."""
    if value is None:
        return None
    if type(value) is int and abs(value) < 10**18:
        return str(value)
    if not isinstance(value, str):
        raise Bad(kind, f"{show(value)}; expected text or an integer")
    if not value.strip():
        raise Bad(kind, f"{show(value)}; leave the field out where there is none")
    _refuse_half_characters(value, kind)
    if kind == "participant":  # it becomes a token, <PID_x>
        if len(value) > 64:
            raise Bad(kind, f"{show(value)}: {len(value)} characters, at most 64 are allowed")
        if value == NO_PARTICIPANT:
            raise Bad(kind, f"{show(value)}: the name is reserved for clips without a participant")
        wrong = [char for char in value if char in "<>" or not char.isprintable()]
        if wrong or value != value.strip():
            raise Bad(kind, f"{show(value)} holds {wrong[0]!r}" if wrong else
                       f"{show(value)} has spaces at its ends")
    return value


def _split(value: Any) -> str | None:
    """split as one of SPLITS; null counts as not given."""
    if value is None:
        return None
    if not isinstance(value, str) or value.casefold() not in _SPLIT_NAMES:
        raise Bad("split", show(value))
    return _SPLIT_NAMES[value.casefold()]


def _has_constant(value: Any) -> bool:
    waiting = [value]  # not recursive: a field may be nested deeper than Python's calls
    while waiting:
        one = waiting.pop()
        if isinstance(one, Constant):
            return True
        waiting += one.values() if isinstance(one, dict) else one if isinstance(one, list) else ()
    return False


def _read_row(record: Any, index: int, largest: int, findings: Findings) -> Row | None:
    """The record as a Row, or None with its errors added to findings."""
    if not isinstance(record, dict):
        findings.add("not-an-object", index, show(record))
        return None
    readers: dict[str, Callable[[Any], Any]] = {
        "text_query": _text, "motion_tokens": partial(_codes, largest=largest),
        "participant_id": partial(_identifier, kind="participant"),
        "clip_id": partial(_identifier, kind="clip-id"), "split": _split}
    values, good = {}, True
    for name, reader in readers.items():
        try:
            if name in record:
                values[name] = reader(record[name])
            elif name in REQUIRED:
                raise Bad("missing-field", f"{name}; it has {', '.join(record) or 'no fields'}")
        except Bad as bad:
            findings.add(bad.kind, index, bad.found)
            good = False
    if isinstance(record, Repeated):
        findings.add("duplicate-key", index, ", ".join(record.twice))
        good = False
    return Row(index, values["text_query"], values["motion_tokens"], values.get("participant_id"),
               values.get("clip_id"), values.get("split")) if good else None


def _positions(row: Row, denoise: bool) -> tuple[int, int]:
    """Bounds, without a tokenizer, of the positions that the row's longest example takes.

    A caption has at least a token a word and at most one a UTF-8 byte; 4 and 40 stand for markers and prompt.
    denoise: stage 2 also holds the motion twice, the damaged and the whole one.
    """
    codes = len(row.codes)
    low = codes + len(row.text_query.split()) + 4
    high = codes + len(row.text_query.encode()) + 40
    return (max(low, 2 * codes + 6), max(high, 2 * codes + 40)) if denoise else (low, high)


# ---------------------------------------------------------------- a whole chunk at once


def _code_texts(tokens: list[str]) -> tuple[np.ndarray, np.ndarray] | None:
    """Texts of codes to all their codes and the number of codes in each; None unless all are digits and spaces."""
    joined = "\n".join(["", *tokens, ""])  # so that spaces stand at both ends
    if not joined.isascii():
        return None
    data = np.frombuffer(joined.encode(), np.uint8)
    digit = data - np.uint8(ord("0")) < 10  # uint8 goes round: what is less than "0" is large
    others = data[~digit]
    if not ((others == ord(" ")) | (others - np.uint8(9) < 5)).all():  # 9 to 13: tab, line breaks
        return None
    changes = np.flatnonzero(digit[1:] != digit[:-1]) + 1
    starts, ends = changes[::2], changes[1::2]
    sizes = ends - starts
    if not len(sizes) or sizes.max() > 9:  # more may still be a small number, behind zeros
        return None
    codes = np.zeros(len(starts), np.int32)
    for place in range(sizes.max()):
        longer = slice(None) if place < sizes.min() else np.flatnonzero(sizes > place)
        codes[longer] = 10 * codes[longer] + (data[starts[longer] + place] - np.uint8(ord("0")))
    bounds = 1 + offsets(np.fromiter(map(len, tokens), np.int64, len(tokens)) + 1)
    return codes, np.diff(np.searchsorted(starts, bounds))


def _code_lists(tokens: list[list]) -> tuple[np.ndarray, np.ndarray] | None:
    """Lists of codes to all their codes and the number of codes in each; None unless all are 64-bit integers."""
    if set(map(type, chain.from_iterable(tokens))) != {int}:
        return None
    counts = np.fromiter(map(len, tokens), np.int64, len(tokens))
    try:
        return np.fromiter(chain.from_iterable(tokens), np.int64, counts.sum()), counts
    except OverflowError:
        return None


def _identifiers(values: list, kind: str) -> list[str | None]:
    if set(map(type, values)) == {str}:  # 1, 1.0 and True would count as one key below
        names = {value: _identifier(value, kind) for value in set(values)}
        return [names[value] for value in values]
    return [_identifier(value, kind) for value in values]


def _splits(values: list) -> np.ndarray:
    """int8, (N,): places in SPLITS, -1 for none. Raises Bad for a split that is none."""
    if not set(map(type, values)) <= {str, type(None)}:  # nor could it be looked up: 1 and True are one key, [] is none
        raise Bad("split", "")
    names = {value: -1 if value is None else SPLITS.index(_split(value)) for value in set(values)}
    return np.fromiter(map(names.__getitem__, values), np.int8, len(values))


def _whole_chunk(records: list[Any], start: int, largest: int) -> Columns | None:
    """The records as columns; None where anything may be wrong with one of them."""
    if set(map(type, records)) != {dict} or not all(map(_REQUIRED.issubset, records)):
        return None
    if Constant.made and any(map(_has_constant, records)):
        return None
    texts, tokens, people, clips, splits = ([record.get(name) for record in records] for name in FIELDS)
    read = {frozenset({str}): _code_texts, frozenset({list}): _code_lists}.get(frozenset(map(type, tokens)))
    found = read(tokens) if read else None
    if found is None or not found[1].all() or found[0].min() < 0 or found[0].max() > largest:
        return None
    try:
        for text in texts:
            if not (type(text) is str and text.isprintable() and not text.isspace() and text):
                _text(text)
        return Columns(np.arange(start, start + len(records)), Texts.of(texts), found[0].astype(np.int32),
                       offsets(found[1]).astype(np.int32), Texts.of(_identifiers(people, "participant")),
                       Texts.of(_identifiers(clips, "clip-id")), _splits(splits))
    except Bad:
        return None


@dataclass
class Checker:
    """Checks the chunks of a file one after another.

    max_seq_len: positions. largest: the largest code allowed. denoise: see `_positions`. ignored: unknown fields and
    the number of rows that have them. types: field -> type -> (records, first record, what it has there).
    """

    max_seq_len: int
    largest: int
    denoise: bool
    findings: Findings = field(default_factory=Findings)
    ignored: Counter[str] = field(default_factory=Counter)
    types: dict[str, dict[type, tuple[int, int, Any]]] = field(
        default_factory=lambda: {name: {} for name in _IDENTIFIERS})
    done: int = 0  # records

    def __call__(self, records: list[Any]) -> Columns:
        """The good rows of the next chunk; what is wrong with the others goes into findings."""
        columns = _whole_chunk(records, self.done, self.largest)
        if columns is None:
            columns = self._one_by_one(records)
        else:
            self._note_unknown(records)
        self._note_types(records)
        self._check_positions(columns)
        self.done += len(records)
        return columns

    def _one_by_one(self, records: list[Any]) -> Columns:
        rows = []
        for index, record in enumerate(records, self.done):
            if Constant.made and _has_constant(record):
                self.findings.add("json-constant", index, show(record))
                continue
            row = _read_row(record, index, self.largest, self.findings)
            if isinstance(record, dict):
                self._note_unknown([record])
            if row is not None:
                rows.append(row)
        return Columns.of(rows)

    def _note_unknown(self, records: list[dict]) -> None:
        for record in records:
            if not record.keys() <= _KNOWN:
                self.ignored.update(record.keys() - _KNOWN)

    def _note_types(self, records: list[Any]) -> None:
        """7 and "7" would otherwise silently become one participant or one clip."""
        for name in _IDENTIFIERS:
            values = [record.get(name) if isinstance(record, dict) else None for record in records]
            for kind, count in Counter(map(type, values)).items():
                if kind in (str, int):
                    place = next(place for place, value in enumerate(values) if type(value) is kind)
                    before, first, shown = self.types[name].get(kind, (0, self.done + place, values[place]))
                    self.types[name][kind] = before + count, first, shown

    def _check_positions(self, columns: Columns) -> None:
        codes, letters = np.diff(columns.ends), np.diff(columns.texts.ends)
        high = np.maximum(codes + letters, 2 * codes if self.denoise else 0) + 40  # as in _positions
        for place in np.flatnonzero(high > self.max_seq_len).tolist():
            row = columns.row(place)
            low, high = _positions(row, self.denoise)
            kind, needs = ("too-long", f"{low:,} or more") if low > self.max_seq_len else (
                "may-not-fit", f"{low:,} to {high:,}")
            self.findings.add(kind, row.index, f"needs {needs} positions: {len(row.codes):,} codes, "
                                               f"{len(row.text_query.split()):,} words")
