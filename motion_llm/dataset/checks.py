"""The rules for a row: checked for a whole chunk at once, and row by row where the chunk has an error."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import Any

import numpy as np

from motion_llm.dataset.caption_rules import LONGEST_CAPTION, caption_problem, mistaken_characters
from motion_llm.dataset.reader import SHOWN, Constant, Invalid, RepeatedKeys, show
from motion_llm.dataset.rows import SPLITS, Columns, Row, Texts, offsets
from templates import NO_PARTICIPANT

FIELDS = ("text_query", "motion_tokens", "participant_id", "clip_id", "split")
REQUIRED, _IDENTIFIERS = FIELDS[:2], FIELDS[2:4]
# Accepted names of a split, in any case.
_SPLIT_NAMES = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val",
                "test": "test"}
LARGEST_CODE = 1_000_000
LENGTH = "seconds"  # of a motion that ends in its last code; codec.py writes it, and decoding alone takes it
_FIELD_SET, _REQUIRED_SET = frozenset((*FIELDS, LENGTH)), frozenset(REQUIRED)


@dataclass
class Occurrences:
    """Problems of one kind. records: how many records have it. count: how many there are. last: the last record that
    has it. first: (record, text) of the first SHOWN."""

    records: int = 0
    count: int = 0
    last: int = -1
    first: list[tuple[int, str]] = field(default_factory=list)


@dataclass
class Findings:
    """The problems of all records (positions in the file, from 0), by kind. Texts are stored of the first only."""

    by_kind: dict[str, Occurrences] = field(default_factory=lambda: defaultdict(Occurrences))

    def add(self, kind: str, record: int, text: str) -> None:
        """Records of a kind come in ascending order; one may come several times."""
        occurrences = self.by_kind[kind]
        occurrences.records += record != occurrences.last
        occurrences.last = record
        occurrences.count += 1
        if occurrences.count <= SHOWN:
            occurrences.first.append((record, text))

    def add_all(self, kind: str, records: np.ndarray, text: Callable[[int], str]) -> None:
        """records: ascending; text: gives the text for the i-th of them."""
        for i, record in enumerate(records[:SHOWN].tolist()):
            self.add(kind, record, text(i))
        rest = max(0, len(records) - SHOWN)
        self.by_kind[kind].records += rest
        self.by_kind[kind].count += rest


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise Invalid("text", show(value))
    if problem := caption_problem(value):
        raise Invalid("text", f"{show(value)} {problem}")
    return value


def _refuse_half_characters(value: str, kind: str) -> None:
    """Half a character is a lone surrogate such as "\\ud83d": no UTF-8 file can store it."""
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise Invalid(kind, f"half a character, {value[error.start]!r}, in {show(value)}") from error


_CODES = re.compile(r"\s*\d{1,6}(?:\s+\d{1,6})*\s*", re.ASCII)


def _codes(value: Any, largest: int) -> np.ndarray:
    """motion_tokens as codes, int32 (T,). The usual forms are read at once; others go to _codes_one_by_one."""
    if isinstance(value, str) and _CODES.fullmatch(value):
        numbers = list(map(int, value.split()))
    elif isinstance(value, list) and set(map(type, value)) == {int}:
        numbers = value
    else:
        numbers = _codes_one_by_one(value, largest)
    if min(numbers) < 0 or max(numbers) > largest:
        _codes_one_by_one(numbers, largest)
    codes = np.array(numbers, dtype=np.int32)
    codes.flags.writeable = False
    return codes


def _codes_one_by_one(value: Any, largest: int) -> list[int]:
    """The codes in a field's value. Raises Invalid for the first wrong one, with its place, counted from 0."""
    if not isinstance(value, str | list):
        raise Invalid("codes-type", show(value))
    tokens = value.split() if isinstance(value, str) else value
    if not tokens:
        raise Invalid("no-codes", show(value))
    numbers = []
    for place, token in enumerate(tokens):
        detail = f"{show(token)} at place {place}"
        is_decimal = isinstance(value, str) and re.fullmatch(r"-?\d+", token, re.ASCII)
        if not is_decimal and type(token) is not int:
            hint = "; separate tokens by spaces" if isinstance(token, str) and "," in token else ""
            raise Invalid("non-integer-code", detail + hint)
        if token.startswith("-") if is_decimal else token < 0:
            raise Invalid("negative-code", detail)
        digits = token.lstrip("0") or "0" if is_decimal else ""
        if len(digits) > 7 or int(digits or token) > largest:  # int() would raise for 4301 digits
            raise Invalid("code-too-large", detail)
        numbers.append(int(digits or token))
    return numbers


def _identifier(value: Any, kind: str) -> str | None:
    """participant_id or clip_id as text; null counts as a missing field."""
    if value is None:
        return None
    if type(value) is int and abs(value) < 10**18:
        return str(value)
    if not isinstance(value, str):
        raise Invalid(kind, f"{show(value)}; expected text or an integer")
    if not value.strip():
        raise Invalid(kind, f"{show(value)}; leave the field out where there is none")
    _refuse_half_characters(value, kind)
    if kind == "participant":  # it becomes a token, <PID_x>
        if len(value) > 64:
            raise Invalid(kind, f"{show(value)}: {len(value)} characters, at most 64 are allowed")
        if value == NO_PARTICIPANT:
            raise Invalid(kind, f"{show(value)}: the name is reserved for clips without a participant")
        forbidden = [char for char in value if char in "<>" or not char.isprintable()]
        if forbidden or value != value.strip():
            raise Invalid(kind, f"{show(value)} holds {forbidden[0]!r}" if forbidden else
                          f"{show(value)} has spaces at its ends")
    return value


def _split(value: Any) -> str | None:
    """split as one of SPLITS; null counts as a missing field."""
    if value is None:
        return None
    if not isinstance(value, str) or value.casefold() not in _SPLIT_NAMES:
        raise Invalid("split", show(value))
    return _SPLIT_NAMES[value.casefold()]


def _has_constant(value: Any) -> bool:
    stack = [value]  # not recursive: a field may be nested deeper than Python's calls
    while stack:
        item = stack.pop()
        if isinstance(item, Constant):
            return True
        stack += item.values() if isinstance(item, dict) else item if isinstance(item, list) else ()
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
    values, valid = {}, True
    for name, reader in readers.items():
        try:
            if name in record:
                values[name] = reader(record[name])
            elif name in REQUIRED:
                raise Invalid("missing-field", f"{name}; it has {', '.join(record) or 'no fields'}")
        except Invalid as error:
            findings.add(error.kind, index, error.detail)
            valid = False
    if isinstance(record, RepeatedKeys):
        findings.add("duplicate-key", index, ", ".join(record.repeated))
        valid = False
    return Row(index, values["text_query"], values["motion_tokens"], values.get("participant_id"),
               values.get("clip_id"), values.get("split")) if valid else None


def _positions(row: Row, denoise: bool) -> tuple[int, int]:
    """Lower and upper bound, without a tokenizer, of the positions that the row's longest example takes.

    A caption has at least a token a word and at most one a UTF-8 byte; 4 and 40 stand for markers and prompt.
    denoise: an example of stage 2 also holds the motion twice, damaged and undamaged.
    """
    codes = len(row.codes)
    low = codes + len(row.text_query.split()) + 4
    high = codes + len(row.text_query.encode()) + 40
    return (max(low, 2 * codes + 6), max(high, 2 * codes + 40)) if denoise else (low, high)


# ---------------------------------------------------------------- a whole chunk at once


def _code_texts(tokens: list[str]) -> tuple[np.ndarray, np.ndarray] | None:
    """Texts of codes to all their codes and the number of codes in each; None unless all are digits and spaces."""
    joined = "\n".join(["", *tokens, ""])  # line breaks at both ends, so that every number has a start and an end
    if not joined.isascii():
        return None
    data = np.frombuffer(joined.encode(), np.uint8)
    is_digit = data - np.uint8(ord("0")) < 10  # uint8 wraps around: a byte below "0" becomes large
    separators = data[~is_digit]
    if not ((separators == ord(" ")) | (separators - np.uint8(9) < 5)).all():  # 9 to 13: tab, line breaks
        return None
    changes = np.flatnonzero(is_digit[1:] != is_digit[:-1]) + 1
    starts, ends = changes[::2], changes[1::2]
    sizes = ends - starts
    if not len(sizes) or sizes.max() > 9:  # more digits may still be a small number, with leading zeros
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
    """int8, (N,): places in SPLITS, -1 for none. Raises Invalid for an unknown split."""
    if not set(map(type, values)) <= {str, type(None)}:  # such a value is no dict key: 1 and True are equal, [] fails
        raise Invalid("split", "")
    names = {value: -1 if value is None else SPLITS.index(_split(value)) for value in set(values)}
    return np.fromiter(map(names.__getitem__, values), np.int8, len(values))


def _whole_chunk(records: list[Any], start: int, largest: int) -> Columns | None:
    """The records as columns; None where any of them may have an error."""
    if set(map(type, records)) != {dict} or not all(map(_REQUIRED_SET.issubset, records)):
        return None
    if Constant.count and any(map(_has_constant, records)):
        return None
    texts, tokens, participants, clip_ids, splits = ([record.get(name) for record in records] for name in FIELDS)
    parse = {frozenset({str}): _code_texts, frozenset({list}): _code_lists}.get(frozenset(map(type, tokens)))
    parsed = parse(tokens) if parse else None
    if parsed is None:
        return None
    codes, counts = parsed
    if not counts.all() or codes.min() < 0 or codes.max() > largest:
        return None
    try:
        for text in texts:
            if not (type(text) is str and text.isprintable() and not text.isspace()
                    and 0 < len(text) <= LONGEST_CAPTION):
                _text(text)
        return Columns(np.arange(start, start + len(records)), Texts.of(texts), codes.astype(np.int32),
                       offsets(counts).astype(np.int32), Texts.of(_identifiers(participants, "participant")),
                       Texts.of(_identifiers(clip_ids, "clip-id")), _splits(splits))
    except Invalid:
        return None


@dataclass
class Checker:
    """Checks the chunks of a file one after another.

    max_seq_len: positions. largest: the largest code allowed. denoise: see `_positions`. ignored: unknown fields and
    the number of rows that have them. types: field -> type -> (records, first record, its value). checked: records.
    """

    max_seq_len: int
    largest: int
    denoise: bool
    findings: Findings = field(default_factory=Findings)
    ignored: Counter[str] = field(default_factory=Counter)
    types: dict[str, dict[type, tuple[int, int, Any]]] = field(
        default_factory=lambda: {name: {} for name in _IDENTIFIERS})
    checked: int = 0

    def __call__(self, records: list[Any]) -> Columns:
        """The valid rows of the next chunk; the errors of the others go into findings."""
        columns = _whole_chunk(records, self.checked, self.largest)
        if columns is None:
            columns = self._one_by_one(records)
        else:
            self._count_unknown_fields(records)
        self._count_types(records)
        self._check_positions(columns)
        self._check_characters(columns)
        self.checked += len(records)
        return columns

    def _one_by_one(self, records: list[Any]) -> Columns:
        rows = []
        for index, record in enumerate(records, self.checked):
            if Constant.count and _has_constant(record):
                self.findings.add("json-constant", index, show(record))
                continue
            row = _read_row(record, index, self.largest, self.findings)
            if isinstance(record, dict):
                self._count_unknown_fields([record])
            if row is not None:
                rows.append(row)
        return Columns.of(rows)

    def _count_unknown_fields(self, records: list[dict]) -> None:
        for record in records:
            if not record.keys() <= _FIELD_SET:
                self.ignored.update(record.keys() - _FIELD_SET)

    def _count_types(self, records: list[Any]) -> None:
        """Without this, 7 and "7" would silently become one participant or one clip."""
        for name in _IDENTIFIERS:
            values = [record.get(name) if isinstance(record, dict) else None for record in records]
            for kind, count in Counter(map(type, values)).items():
                if kind in (str, int):
                    place = next(place for place, value in enumerate(values) if type(value) is kind)
                    before, first, example = self.types[name].get(kind, (0, self.checked + place, values[place]))
                    self.types[name][kind] = before + count, first, example

    def _check_characters(self, columns: Columns) -> None:
        data = columns.texts.data
        if not ((data[:-1] == 0xC2) & (data[1:] < 0xA0)).any():  # in UTF-8, the characters that are looked for
            return
        for place in range(len(columns)):
            row = columns.row(place)
            if characters := mistaken_characters(row.text_query):
                self.findings.add("mistaken-character", row.index, f"{characters!r} in {show(row.text_query)}")

    def _check_positions(self, columns: Columns) -> None:
        codes, text_bytes = np.diff(columns.ends), np.diff(columns.texts.ends)
        high = np.maximum(codes + text_bytes, 2 * codes if self.denoise else 0) + 40  # as in _positions
        for place in np.flatnonzero(high > self.max_seq_len).tolist():
            row = columns.row(place)
            low, high = _positions(row, self.denoise)
            kind, needs = ("too-long", f"{low:,} or more") if low > self.max_seq_len else (
                "may-not-fit", f"{low:,} to {high:,}")
            self.findings.add(kind, row.index, f"needs {needs} positions: {len(row.codes):,} codes, "
                                               f"{len(row.text_query.split()):,} words")
