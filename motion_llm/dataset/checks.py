"""The rules for a row: checked for a whole chunk at once, and row by row where the chunk has an error."""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from motion_llm.dataset.caption_rules import LONGEST_CAPTION, caption_problem, mistaken_characters
from motion_llm.dataset.motion_tokens import Form, codes_of_text, parse, step_codes
from motion_llm.dataset.reader import SHOWN, Constant, Invalid, RepeatedKeys, show
from motion_llm.dataset.rows import SPLITS, Columns, Row, Texts, offsets
from motion_llm.streams import OBJECT, ONE, TEXT, Streams
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


def _read_row(record: Any, index: int, codes_of: Callable[[Any], np.ndarray], findings: Findings) -> Row | None:
    """The record as a Row, or None with its errors added to findings."""
    if not isinstance(record, dict):
        findings.add("not-an-object", index, show(record))
        return None
    readers: dict[str, Callable[[Any], Any]] = {
        "text_query": _text, "motion_tokens": codes_of,
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


def _whole_chunk(records: list[Any], start: int, form: Form, largest: dict[str, int]) -> Columns | None:
    """The records as columns; None where any of them may have an error."""
    if set(map(type, records)) != {dict} or not all(map(_REQUIRED_SET.issubset, records)):
        return None
    if Constant.count and any(map(_has_constant, records)):
        return None
    texts, tokens, participants, clip_ids, splits = ([record.get(name) for record in records] for name in FIELDS)
    parsed = parse(tokens, form, largest)
    if parsed is None:
        return None
    codes, counts = parsed
    if not counts.all():
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

    max_seq_len: positions. largest: the largest code allowed; codebook: see read_rows(), for those of each stream.
    form: that of the file, known from its first motion on. denoise: see `_positions`. ignored: unknown fields and
    the number of rows that have them. types: field -> type -> (records, first record, its value). checked: records.
    """

    max_seq_len: int
    largest: int
    denoise: bool
    codebook: int | Mapping[str, int] | Sequence[int] | Streams | None = None
    form: Form | None = None
    findings: Findings = field(default_factory=Findings)
    ignored: Counter[str] = field(default_factory=Counter)
    types: dict[str, dict[type, tuple[int, int, Any]]] = field(
        default_factory=lambda: {name: {} for name in _IDENTIFIERS})
    checked: int = 0

    def __call__(self, records: list[Any]) -> Columns:
        """The valid rows of the next chunk; the errors of the others go into findings."""
        if self.form is None:
            self.form = self._first_form(records)
            self.form.check_codebook(self.codebook)
            if isinstance(self.codebook, Streams):  # a model's streams keep the model's order
                self.form = Form(self.form.form, self.codebook.names)
        largest = self.largest_of()
        columns = _whole_chunk(records, self.checked, self.form, largest)
        if columns is None:
            columns = self._one_by_one(records, largest)
        else:
            self._count_unknown_fields(records)
        self._count_types(records)
        self._check_positions(columns)
        self._check_characters(columns)
        self.checked += len(records)
        return columns

    @staticmethod
    def _first_form(records: list[Any]) -> Form:
        values = (record["motion_tokens"] for record in records
                  if isinstance(record, dict) and "motion_tokens" in record)
        return next(filter(None, map(Form.of, values)), Form(TEXT, (ONE,)))

    def largest_of(self) -> dict[str, int]:
        """The largest code allowed, of each stream."""
        if self.codebook is None or isinstance(self.codebook, int):
            return dict.fromkeys(self.form.names, self.largest)
        return {name: size - 1 for name, size in zip(self.form.names, self.form.sizes(self.codebook), strict=True)}

    def _one_by_one(self, records: list[Any], largest: dict[str, int]) -> Columns:
        form, rows = self.form, []
        if form.form != TEXT:
            codes_of = partial(step_codes, form=form, largest=largest)
        else:
            def codes_of(value: Any) -> np.ndarray:
                found = Form.of(value)
                if found is not None and found.form != TEXT:
                    raise Invalid("mixed-forms", f"{found}, where rows before it have one stream")
                return codes_of_text(value, largest[ONE])
        for index, record in enumerate(records, self.checked):
            if Constant.count and _has_constant(record):
                self.findings.add("json-constant", index, show(record))
                continue
            row = _read_row(record, index, codes_of, self.findings)
            if row is not None and form.form == OBJECT and tuple(record["motion_tokens"]) != form.names:
                self.findings.add("stream-order", index, ", ".join(record["motion_tokens"]))
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
