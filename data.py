"""The dataset: read it, and refuse what is wrong with it.

A row is a caption with a motion, which is a list of codes (motion tokens). Nothing is silently dropped,
cropped or repaired: read_rows() collects every error, raise_on_errors() raises them together. Problems
name rows as `row 17`, counted from 0, for a JSON list, and as `line 18` of the file for JSON Lines.
"""

import hashlib
import json
import logging
import re
import textwrap
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from templates import NO_PARTICIPANT

if TYPE_CHECKING:
    pass

log = logging.getLogger(__name__)

FIELDS = ("text_query", "motion_tokens", "participant_id", "clip_id")
REQUIRED = FIELDS[:2]
LARGEST_CODE = 1_000_000
SHOWN = 10  # rows at most that a problem names

_ERRORS = {
    "not-an-object": "not an object",
    "duplicate-key": "a key given twice",
    "json-constant": "NaN or Infinity, which JSON does not have",
    "missing-field": "a missing field",
    "text": "text_query that is not text, or is blank",
    "codes-type": 'motion_tokens that is neither text ("42 18 91") nor a list ([42, 18, 91])',
    "no-codes": "no motion tokens",
    "negative-code": "a negative motion token",
    "non-integer-code": "a motion token that is not an integer",
    "code-too-large": "a motion token that is too large (at most {largest:,} is allowed{codebook})",
    "participant": "a participant_id that cannot be used",
    "clip-id": "a clip_id that cannot be used",
    "too-long": "a clip that cannot fit MAX_SEQ_LEN ({max_seq_len:,}); raise MAX_SEQ_LEN or shorten the clip",
}
_WARNINGS = {
    "may-not-fit": "a clip that may not fit MAX_SEQ_LEN ({max_seq_len:,}); checked exactly once the "
                   "tokenizer is loaded",
    "duplicate": "an exact duplicate of an earlier row",
    "same-motion": "the motion of an earlier row under another caption (they stay on one side of the split)",
    "similar-captions": "a caption that differs from an earlier one only by case, spaces or full stop (they "
                        "count as one)",
}


class DataError(ValueError):
    """The dataset has errors; the text is the whole list of them."""


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """A clip with one caption. index: position in the file, from 0. codes: int32, (T,), read-only."""

    index: int
    text_query: str
    codes: np.ndarray
    participant_id: str | None = None
    clip_id: str | None = None


@dataclass(frozen=True)
class Problem:
    """kind: a short name ("missing-field"). message: the file, the rows and what was found there."""

    kind: str
    message: str


@dataclass
class Report:
    """What read_rows() found. rows: the good rows in file order; all of them only where errors is empty.

    form: "JSON list" or "JSON Lines". fingerprint: sha256 of the content in order, whatever the path and the
    JSON formatting ("" with errors). codebook_size: as set, else the largest code + 1. ignored_fields:
    unknown fields and the number of rows that have them.
    """

    path: str
    max_seq_len: int
    form: str = ""
    rows: list[Row] = field(default_factory=list)
    errors: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)
    fingerprint: str = ""
    codebook_size: int = 0
    codebook_size_is_set: bool = False
    ignored_fields: dict[str, int] = field(default_factory=dict)


def caption_key(text: str) -> str:
    """What captions are compared by: no case, NFC, single spaces, no full stop at the end."""
    folded = unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())
    spaced = " ".join(folded.split())
    return spaced.rstrip(". ") or spaced


def raise_on_errors(report: Report) -> None:
    """Raise DataError with every error of the report, if it has any."""
    if report.errors:
        raise DataError("\n".join([f"{report.path}: {_kinds(report.errors, 'error')}{_counting(report)}",
                                   *(f"  ERROR: {problem.message}" for problem in report.errors)]))


def _kinds(problems: list[Problem], word: str) -> str:
    return f"{_count(len(problems), 'kind')} of {word}" if problems else f"no {word}s"


def _count(number: int, unit: str) -> str:
    return f"{number:,} {unit}{'s' * (number != 1)}"


def _counting(report: Report) -> str:
    """How messages number the rows."""
    return {"JSON list": "; rows count from 0", "JSON Lines": "; lines count from 1", "": ""}[report.form]


# ---------------------------------------------------------------- reading the file


class _Bad(Exception):
    """A value that its rule refuses. kind: a key of _ERRORS; found: what was found, for the message."""

    def __init__(self, kind: str, found: str) -> None:
        self.kind, self.found = kind, found


class _Constant:
    """NaN, Infinity or -Infinity: Python's parser takes them, JSON does not have them."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return self.name


class _Repeated(dict):
    """An object with a key given twice."""

    twice: list[str]


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) == len(pairs):
        return record
    repeated = _Repeated(record)
    repeated.twice = [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]
    return repeated


_decode = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_Constant).decode


def _show(value: Any) -> str:
    """A value in a few words: 'an object with keys a, b', "'walk'", '3.5'."""
    if isinstance(value, dict):
        keys = ", ".join(list(value)[:SHOWN]) + (", ..." if len(value) > SHOWN else "")
        return f"an object with keys {keys}" if value else "an object without keys"
    if isinstance(value, list):
        return f"a list of {len(value):,}"
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    text = repr(value)
    return text if len(text) <= 60 else text[:56] + " ..."


@dataclass
class _Findings:
    """Problems of one report: kind -> (row, what was found there), worded at the end."""

    name: str
    unit: str  # "row" or "line"
    numbers: Sequence[int]  # the number that a message gives to each record
    constants: bool = False  # whether the file may hold NaN or Infinity: looking for them is slow
    found: dict[str, list[tuple[int, str]]] = field(default_factory=lambda: defaultdict(list))

    def add(self, kind: str, record: int, found: str) -> None:
        self.found[kind].append((record, found))

    def where(self, record: int) -> str:
        return f"{self.unit} {self.numbers[record]}"

    def problems(self, wording: dict[str, str], **values: Any) -> list[Problem]:
        return [Problem(kind, self._word(text.format(**values), self.found[kind]))
                for kind, text in wording.items() if kind in self.found]

    def _word(self, what: str, found: list[tuple[int, str]]) -> str:
        count = len({record for record, _ in found})
        shown = ", ".join(f"{self.where(record)} ({text})" for record, text in found[:SHOWN])
        more = f", and {len(found) - SHOWN:,} more" if len(found) > SHOWN else ""
        return f"{self.name}: {what}, in {_count(count, self.unit)}: {shown}{more}"


def _read_text(path: Path) -> str:
    """The file's text without a byte order mark. Raises _Bad (kinds file, empty-file, encoding)."""
    if path.is_dir():
        raise _Bad("file", "this is a folder, expected a JSON file")
    if not path.exists():
        raise _Bad("file", f"no such file (looked for {path.absolute()})")
    raw = path.read_bytes()
    body = raw.removeprefix(b"\xef\xbb\xbf")
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        offset = error.start + len(raw) - len(body)
        utf16 = "; it looks like UTF-16" if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else ""
        line = raw.count(b"\n", 0, offset) + 1
        raise _Bad("encoding", f"not UTF-8: byte 0x{raw[offset]:02x} at byte offset {offset}, line {line}"
                               f"{utf16}; save the file as UTF-8") from error
    if not text.strip():
        raise _Bad("empty-file", f"the file is empty ({len(raw)} bytes)")
    return text


def _parse(text: str, line: int = 1) -> Any:
    """One JSON value; line: where text starts in the file. Raises _Bad (kind json) with line and column."""
    try:
        return _decode(text)
    except json.JSONDecodeError as error:
        rest = text[error.pos:error.pos + 20].split("\n")[0]
        found = repr(rest) if rest else "the end of the line" if text[error.pos:].strip() else "the end"
        raise _Bad("json", f"broken JSON at line {line + error.lineno - 1}, column {error.colno}: "
                           f"{error.msg} (found {found})") from error
    except (ValueError, RecursionError) as error:  # a number of over 4300 digits; lists in lists in lists
        raise _Bad("json", f"broken JSON at line {line} or after it: {error}") from error


def _parse_lines(text: str) -> tuple[list[Any], list[int], list[str]]:
    """JSON Lines: values, their line numbers from 1, and a message for each broken line."""
    records, numbers, broken = [], [], []
    for number, line in enumerate(text.split("\n"), 1):  # not splitlines: a caption may hold U+2028
        if line.strip():
            try:
                records.append(_parse(line, number))
                numbers.append(number)
            except _Bad as bad:
                broken.append(bad.found)
    return records, numbers, broken


def _is_lines(text: str) -> bool:
    """Whether a text that starts with "{" is JSON Lines, rather than one object or a broken one."""
    first, *others = (line for line in text.split("\n") if line.strip())
    try:
        value = _parse(first)
        return bool(others) or any(name in value for name in FIELDS)
    except _Bad:
        pass  # broken, or an object over several lines
    try:
        _parse(text)
        return False
    except _Bad:
        return bool(others) and others[0].lstrip().startswith("{")


def _load(path: Path, report: Report) -> tuple[list[Any], _Findings]:
    """The file's records; what keeps it from being read goes into report.errors."""
    try:
        text = _read_text(path)
        constants = "NaN" in text or "Infinity" in text
        if text.lstrip().startswith("{") and _is_lines(text):
            report.form = "JSON Lines"
            records, numbers, broken = _parse_lines(text)
            more = [f"and {len(broken) - SHOWN:,} more broken lines"] if len(broken) > SHOWN else []
            report.errors += [Problem("json", f"{report.path}: {found}") for found in broken[:SHOWN] + more]
            return records, _Findings(report.path, "line", numbers, constants)
        report.form = "JSON list"
        records = _parse(text)
        if not isinstance(records, list) or not records:
            raise _Bad("structure", f"expected a list of objects with {' and '.join(REQUIRED)}, found "
                                    f"{'an empty list' if records == [] else _show(records)}")
        return records, _Findings(report.path, "row", range(len(records)), constants)
    except _Bad as bad:
        report.errors.append(Problem(bad.kind, f"{report.path}: {bad.found}"))
        return [], _Findings(report.path, "row", [])


# ---------------------------------------------------------------- checking the rows


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise _Bad("text", _show(value))
    if not any(char.isprintable() and not char.isspace() for char in value):
        raise _Bad("text", f"{_show(value)}, in which nothing can be seen")
    _refuse_half_characters(value, "text")
    return value


def _refuse_half_characters(value: str, kind: str) -> None:
    """Half a character, such as "\\ud83d" without its other half: no tokenizer takes it, no file stores it."""
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise _Bad(kind, f"half a character, {value[error.start]!r}, in {_show(value)}") from error


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
    """The codes one by one. Raises _Bad for the first that is wrong, with its place, counted from 0."""
    if not isinstance(value, str | list):
        raise _Bad("codes-type", _show(value))
    tokens = value.split() if isinstance(value, str) else value
    if not tokens:
        raise _Bad("no-codes", _show(value))
    numbers = []
    for place, token in enumerate(tokens):
        found = f"{_show(token)} at place {place}"
        whole = isinstance(value, str) and re.fullmatch(r"-?\d+", token, re.ASCII)
        if not whole and type(token) is not int:
            comma = "; separate tokens by spaces" if isinstance(token, str) and "," in token else ""
            raise _Bad("non-integer-code", found + comma)
        if token.startswith("-") if whole else token < 0:
            raise _Bad("negative-code", found)
        digits = token.lstrip("0") or "0" if whole else ""
        if len(digits) > 7 or int(digits or token) > largest:  # int() would raise for 4301 digits
            raise _Bad("code-too-large", found)
        numbers.append(int(digits or token))
    return numbers


def _identifier(value: Any, kind: str) -> str | None:
    """participant_id or clip_id as text; null counts as not given."""
    if value is None:
        return None
    if type(value) is int and abs(value) < 10**18:
        return str(value)
    if not isinstance(value, str):
        raise _Bad(kind, f"{_show(value)}; expected text or an integer")
    if not value.strip():
        raise _Bad(kind, f"{_show(value)}; leave the field out where there is none")
    _refuse_half_characters(value, kind)
    if kind == "participant":  # it becomes a token, <PID_x>
        if len(value) > 64:
            raise _Bad(kind, f"{_show(value)}: {len(value)} characters, at most 64 are allowed")
        if value == NO_PARTICIPANT:
            raise _Bad(kind, f"{_show(value)}: the name is reserved for clips without a participant")
        wrong = [char for char in value if char in "<>" or not char.isprintable()]
        if wrong or value != value.strip():
            raise _Bad(kind, f"{_show(value)} holds {wrong[0]!r}" if wrong else
                       f"{_show(value)} has spaces at its ends")
    return value


def _has_constant(value: Any) -> bool:
    waiting = [value]  # not recursive: a field may be nested deeper than Python's calls
    while waiting:
        one = waiting.pop()
        if isinstance(one, _Constant):
            return True
        waiting += one.values() if isinstance(one, dict) else one if isinstance(one, list) else ()
    return False


def _read_row(record: Any, index: int, largest: int, findings: _Findings) -> Row | None:
    """The record as a Row, or None with its errors added to findings."""
    if not isinstance(record, dict):
        findings.add("not-an-object", index, _show(record))
        return None
    readers: dict[str, Callable[[Any], Any]] = {
        "text_query": _text, "motion_tokens": partial(_codes, largest=largest),
        "participant_id": partial(_identifier, kind="participant"),
        "clip_id": partial(_identifier, kind="clip-id")}
    values, good = {}, True
    for name, reader in readers.items():
        try:
            if name in record:
                values[name] = reader(record[name])
            elif name in REQUIRED:
                raise _Bad("missing-field", f"{name}; it has {', '.join(record) or 'no fields'}")
        except _Bad as bad:
            findings.add(bad.kind, index, bad.found)
            good = False
    if isinstance(record, _Repeated):
        findings.add("duplicate-key", index, ", ".join(record.twice))
        good = False
    return Row(index, values["text_query"], values["motion_tokens"], values.get("participant_id"),
               values.get("clip_id")) if good else None


def _positions(row: Row, denoise: bool) -> tuple[int, int]:
    """Bounds, without a tokenizer, of the positions that the row's longest example takes.

    A caption has at least a token a word and at most one a UTF-8 byte; 4 and 40 stand for markers and prompt.
    denoise: stage 2 also holds the motion twice, the damaged and the whole one.
    """
    codes = len(row.codes)
    low = codes + len(row.text_query.split()) + 4
    high = codes + len(row.text_query.encode()) + 40
    return (max(low, 2 * codes + 6), max(high, 2 * codes + 40)) if denoise else (low, high)


def canonical(row: Row) -> bytes:
    """A digest of the row's content, the same on every machine and for every JSON formatting of it."""
    texts = json.dumps([row.text_query, row.participant_id, row.clip_id]).encode()
    codes = row.codes.astype("<i4").tobytes()
    return hashlib.sha256(len(texts).to_bytes(8, "little") + texts + codes).digest()


def _check_types(records: list[Any], findings: _Findings, report: Report) -> None:
    """One type a field: 7 and "7" would otherwise silently become one participant or one clip."""
    for name in ("participant_id", "clip_id"):
        first: dict[type, int] = {}
        counts: Counter[type] = Counter()
        for place, record in enumerate(records):
            kind = type(record.get(name)) if isinstance(record, dict) else None
            if kind in (str, int):
                counts[kind] += 1
                first.setdefault(kind, place)
        if len(counts) == 2:
            found = " and ".join(
                f"{word} in {_count(counts[kind], findings.unit)} (first: "
                f"{findings.where(first[kind])}, {_show(records[first[kind]][name])})"
                for kind, word in ((str, "text"), (int, "an integer")))
            report.errors.append(Problem(f"{name.split('_')[0]}-types",
                                         f"{report.path}: {name} is {found}; make them all one type"))


def _compare(rows: list[Row], findings: _Findings) -> None:
    """Add what rows have in common: duplicates, one motion under several captions, similar captions."""
    seen: dict[Hashable, Row] = {}
    motions: dict[bytes, Row] = {}
    captions: dict[str, Row] = {}
    keys = {text: caption_key(text) for text in {row.text_query for row in rows}}
    variants: set[str] = set()
    for row in rows:
        tokens, text = row.codes.tobytes(), row.text_query
        same = seen.setdefault((text, tokens, row.participant_id), row)
        if same is not row:
            findings.add("duplicate", row.index, f"as {findings.where(same.index)}")
        other = motions.setdefault(tokens, row)
        if keys[other.text_query] != keys[text]:
            findings.add("same-motion", row.index, f"{_show(text)}, as {findings.where(other.index)}, "
                                                   f"{_show(other.text_query)}")
        first = captions.setdefault(keys[text], row)
        if first.text_query != text and text not in variants:
            variants.add(text)
            findings.add("similar-captions", row.index, f"{_show(text)}, as {findings.where(first.index)}, "
                                                        f"{_show(first.text_query)}")


def read_rows(path: str | Path, max_seq_len: int, codebook_size: int | None = None,
              denoise: bool = True) -> Report:
    """Read a dataset and check all of it; nothing is raised for what is wrong with it, see raise_on_errors().

    The file is a JSON list of objects or JSON Lines (told apart by content), UTF-8, each object with
    text_query, motion_tokens ("42 18 91" or [42, 18, 91]) and optionally participant_id and clip_id (text or
    integers). max_seq_len: positions; denoise: whether stage 2's denoising task is trained, whose examples
    hold the motion twice.
    """
    report = Report(str(path), max_seq_len, codebook_size_is_set=codebook_size is not None)
    records, findings = _load(Path(path), report)
    largest = min(LARGEST_CODE, codebook_size - 1) if codebook_size else LARGEST_CODE
    ignored: Counter[str] = Counter()
    for index, record in enumerate(records):
        if findings.constants and _has_constant(record):
            findings.add("json-constant", index, _show(record))
            continue
        row = _read_row(record, index, largest, findings)
        if isinstance(record, dict) and not record.keys() <= set(FIELDS):
            ignored.update(record.keys() - set(FIELDS))
        if row is not None:
            report.rows.append(row)
            low, high = _positions(row, denoise)
            if high > max_seq_len:
                kind, needs = ("too-long", f"{low:,} or more") if low > max_seq_len else (
                    "may-not-fit", f"{low:,} to {high:,}")
                findings.add(kind, index, f"needs {needs} positions: {len(row.codes):,} codes, "
                                          f"{len(row.text_query.split()):,} words")
    _compare(report.rows, findings)
    _check_types(records, findings, report)
    codebook = f", CODEBOOK_SIZE is {codebook_size:,}" if codebook_size else ""
    report.errors += findings.problems(_ERRORS, max_seq_len=max_seq_len, largest=largest, codebook=codebook)
    report.warnings = findings.problems(_WARNINGS, max_seq_len=max_seq_len)
    report.ignored_fields = dict(sorted(ignored.items()))
    if ignored:
        names = ", ".join(f"{name} ({_count(count, findings.unit)})"
                          for name, count in report.ignored_fields.items())
        report.warnings.append(Problem("ignored-field", f"{report.path}: unknown fields, ignored: {names}"))
    report.codebook_size = codebook_size or max((int(row.codes.max()) + 1 for row in report.rows), default=0)
    if not report.errors:
        report.fingerprint = hashlib.sha256(b"".join(map(canonical, report.rows))).hexdigest()
    return report


# ---------------------------------------------------------------- the report that people read


def _spread(values: Sequence[int]) -> str:
    return (f"min {min(values):,}, median {np.median(values):,.0f}, mean {np.mean(values):,.1f}, "
            f"max {max(values):,}")


def format_report(report: Report, split=None) -> str:
    """The report as aligned text: what is in the dataset, how it is split (a splits.Split), and every problem."""
    facts = _facts(report) if report.rows else []
    if split is not None:
        sizes = split.sizes()
        facts += [("split", f"train {sizes['train']:,}"),
                  ("  validation", f"seen {sizes['seen']:,}, unseen {sizes['unseen']:,}"),
                  ("  test", f"seen {sizes['test seen']:,}, unseen {sizes['test unseen']:,}"),
                  ("", "(seen: other clips with the same caption are trained; unseen: none is)")]
        facts += [("", f"note: {note}") for note in split.notes]
    texts = [(f"  {name:<14} {text}", 17) for name, text in facts]
    texts += [(f"  {title}: {problem.message}", 4) for title, problems in (
        ("ERROR", report.errors), ("warning", report.warnings)) for problem in problems]
    lines = [report.path, *(textwrap.fill(text, 110, subsequent_indent=" " * indent, break_on_hyphens=False,
                                          break_long_words=False) for text, indent in texts)]
    return "\n".join([*lines, f"  {_kinds(report.errors, 'error')}, {_kinds(report.warnings, 'warning')}"])


def _facts(report: Report) -> list[tuple[str, str]]:
    rows, size = report.rows, report.codebook_size
    used = len(np.unique(np.concatenate([row.codes for row in rows])))
    clips: dict[str, set[bytes]] = defaultdict(set)
    for row in rows:
        clips[caption_key(row.text_query)].add(row.codes.tobytes())
    people = Counter(row.participant_id for row in rows)
    nobody = people.pop(None, 0)
    names = [f"{name} {count:,}" for name, count in people.most_common(SHOWN)]
    names += [f"and {len(people) - SHOWN:,} more"] if len(people) > SHOWN else []
    names += [f"without one {nobody:,}"] if nobody else []
    ids = Counter(row.clip_id for row in rows if row.clip_id is not None)
    how = "CODEBOOK_SIZE" if report.codebook_size_is_set else "the largest code + 1"
    return [
        ("form", report.form + _counting(report)),
        ("rows", f"{len(rows):,}" + (" without errors" if report.errors else "")),
        ("motions", f"{len({row.codes.tobytes() for row in rows}):,} distinct"),
        ("motion tokens", f"{_spread([len(row.codes) for row in rows])} a row"),
        ("codebook", f"{size:,} codes ({how}): {used:,} used, {size - used:,} never used"),
        ("captions", f"{len(clips):,} distinct; motions for each: {_spread(list(map(len, clips.values())))}"),
        ("participants", f"{len(people):,} (rows: {', '.join(names)})" if people else "none given"),
        ("clip_id", f"{len(ids):,} distinct, in {sum(ids.values()):,} rows" if ids else "not given"),
    ]
