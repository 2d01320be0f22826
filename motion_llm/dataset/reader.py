"""A dataset's file as JSON values, in chunks, so that memory does not grow with the file.

The file is a JSON list or JSON Lines, told apart by content. The error for broken JSON is the one that Python's parser
would give for the whole file, with line and column.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from motion_llm.input_files import check_regular
from motion_llm.json_files import not_utf8

BLOCK = 1 << 22  # bytes read at once; 16,000 rows of 250 bytes, and about ten times as much memory
AHEAD = 64  # characters read after an error: more than a message shows, and than any escape or constant's name has
LONGEST_ROW = 1 << 23  # characters; a million codes. A longer row may take twenty times its size in memory
SHOWN = 10  # rows, keys or lines at most that a message names


class Invalid(Exception):
    """A value or file that cannot be accepted. kind: a short name; detail: what was found, for the message."""

    def __init__(self, kind: str, detail: str) -> None:
        self.kind, self.detail = kind, detail


class Constant:
    """NaN, Infinity or -Infinity: Python's parser takes them, JSON does not have them."""

    count = 0  # instances; values are searched for them only if there are any

    def __init__(self, name: str) -> None:
        self.name = name
        Constant.count += 1

    def __repr__(self) -> str:
        return self.name


class RepeatedKeys(dict):
    """An object in which a key occurs twice. repeated: those keys."""

    repeated: list[str]


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) == len(pairs):
        return record
    record = RepeatedKeys(record)
    record.repeated = [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]
    return record


_decoder = json.JSONDecoder(object_pairs_hook=_object, parse_constant=Constant)
_SPACES = " \t\n\r"
_space = re.compile(rf"[{_SPACES}]*").match


def show(value: Any) -> str:
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


def _parse(text: str, line: int = 1, column: int = 1) -> Any:
    """One JSON value; line, column: where text starts in the file. Raises Invalid (kind json) with line and column."""
    try:
        return _decoder.decode(text)
    except json.JSONDecodeError as error:
        rest = text[error.pos:error.pos + 20].split("\n")[0]
        excerpt = repr(rest) if rest else "the end of the line" if text[error.pos:].strip() else "the end"
        error_column = error.colno + (column - 1 if error.lineno == 1 else 0)
        raise Invalid("json", f"broken JSON at line {line + error.lineno - 1}, column {error_column}: {error.msg} "
                              f"(found {excerpt})") from error
    except (ValueError, RecursionError) as error:  # a number of over 4300 digits; lists nested too deep
        raise Invalid("json", f"broken JSON at line {line} or after it: {error}") from error


class Window:
    """The part of a file's text that is in memory. Raises Invalid (kinds file, encoding, long-row).

    text: from line `line` and column `column` on (both from 1), without a byte order mark. whole: whether it goes to
    the end of the file. digest: sha256 of the bytes read so far. size: their number. row: what errors call the row
    that is read; "" for a value that may be no row.
    """

    def __init__(self, path: Path) -> None:
        if path.is_dir():
            raise Invalid("file", "this is a folder, expected a JSON file")
        if not path.exists():
            raise Invalid("file", f"no such file (looked for {path.absolute()})")
        check_regular(path, lambda text: Invalid("file", text.removeprefix(f"{path} ")), pipe=True)
        self._file = open(path, "rb")
        self.digest = hashlib.sha256()
        self.text, self.line, self.column, self.whole, self.row = "", 1, 1, False, ""
        self.size = 0
        self._lines_read = 1
        self._rest = b""  # the first bytes of a character whose last bytes are not read yet

    def close(self) -> None:
        self._file.close()

    def grow(self) -> bool:
        """Read as much as text holds, at least a block; False at the end of the file."""
        if self.whole:
            return False
        if len(self.text) > LONGEST_ROW + 2 * BLOCK:  # what stands before the row is at most a block
            raise self.too_long()
        start = self.size - len(self._rest)
        raw = self._file.read(max(BLOCK, min(len(self.text), LONGEST_ROW - len(self.text))))
        self.digest.update(raw)
        self.size += len(raw)
        self.whole = not raw
        piece = self._rest + raw
        if start == 0 and piece.startswith(b"\xef\xbb\xbf"):
            piece, start = piece[3:], 3
        self._rest = b""
        try:
            self.text += piece.decode()
        except UnicodeDecodeError as error:
            if error.reason != "unexpected end of data" or self.whole:
                raise self._not_utf8(piece, error.start, start) from error
            self.text += piece[:error.start].decode()
            self._rest = piece[error.start:]
        self._lines_read += piece.count(b"\n")
        return True

    def too_long(self) -> Invalid:
        return Invalid("long-row", f"{self.row or f'what begins in line {self.line}'} is longer than {LONGEST_ROW:,} "
                                   "characters, expected a list of objects, each at most that long")

    def _not_utf8(self, piece: bytes, place: int, start: int) -> Invalid:
        line = self._lines_read + piece.count(b"\n", 0, place)
        return Invalid("encoding", not_utf8(piece[place], start + place, line))

    def drop(self, end: int) -> None:
        """Remove the text before `end`."""
        breaks = self.text.count("\n", 0, end)
        self.line += breaks
        self.column = end - self.text.rfind("\n", 0, end) if breaks else self.column + end
        self.text = self.text[end:]

    def skip_space(self, place: int) -> int:
        """The next place that is no space; AHEAD more characters are then read."""
        if self.text[place:place + 1] in _SPACES:
            place = _space(self.text, place).end()
        while place + AHEAD > len(self.text) and self.grow():
            place = _space(self.text, place).end()
        return place

    def value(self, place: int) -> tuple[Any, int] | None:
        """The JSON value at `place` and where it ends; None if it is broken (all that its error needs is then read)."""
        while True:
            try:
                value, end = _decoder.raw_decode(self.text, place)
                if end - place > LONGEST_ROW:
                    raise self.too_long()
                if end < len(self.text) or self.whole:  # else a number may continue after the window
                    return value, end
            except json.JSONDecodeError as error:
                # A value cut off by the end of the window has its error near that end, or is an unterminated string.
                if error.pos < len(self.text) - AHEAD and not error.msg.startswith("Unterminated string"):
                    return None
            except (ValueError, RecursionError):
                return None
            if not self.grow():
                return None

    def raise_broken(self, place: int, before: str) -> None:
        """Raise the error at `place`; before: text to parse ahead of it, so that the parser is in the same state."""
        self.drop(place)
        _parse(before + self.text, self.line, self.column - len(before))
        raise Invalid("json", f"broken JSON at line {self.line}, column {self.column}")

    def only_value(self) -> Any:
        """The value of a file that holds just one. Raises Invalid if it is broken, or if something follows it."""
        value_and_end = self.value(self.skip_space(0))
        if value_and_end is None or self.skip_space(value_and_end[1]) < len(self.text):
            _parse(self.text, self.line, self.column)
        return value_and_end[0]


@dataclass
class Records:
    """The records of a file, as `chunks` gives them.

    form: "JSON list" or "JSON Lines". numbers: the number that a message gives to each record. broken: messages for
    the first broken lines of JSON Lines; broken_count: how many there are. sha256, size: of the bytes, once all are
    read.
    """

    form: str = ""
    numbers: list[range | list[int]] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    broken_count: int = 0
    sha256: str = ""
    size: int = 0

    @property
    def unit(self) -> str:
        return "line" if self.form == "JSON Lines" else "row"

    def number(self, record: int) -> int:
        """The number of the row or line that a message gives to a record."""
        for numbers in self.numbers:
            if record < len(numbers):
                return numbers[record]
            record -= len(numbers)
        raise IndexError(f"record {record} past the end")

    def chunks(self, path: Path, fields: tuple[str, ...]) -> Iterator[list[Any]]:
        """Lists of records, in order. fields: a single object with any of these names counts as a row.

        Raises Invalid (kinds file, encoding, empty-file, json, structure, long-row), also after some chunks.
        """
        window = Window(path)
        try:
            while not window.text.strip() and window.grow():
                window.drop(len(window.text) - len(window.text.lstrip()))
            if not window.text.strip():
                raise Invalid("empty-file", f"the file is empty ({window.size} bytes)")
            if window.text.lstrip().startswith("{") and _is_lines(window, fields):
                self.form = "JSON Lines"
                yield from self._lines(window)
            else:
                self.form = "JSON list"
                yield from self._list(window, fields)
        finally:
            window.close()
        self.sha256, self.size = window.digest.hexdigest(), window.size

    def _lines(self, window: Window) -> Iterator[list[Any]]:
        while True:
            window.row = f"line {window.line}"
            end = len(window.text) if window.whole else window.text.rfind("\n") + 1
            records, numbers = [], []
            # Not splitlines: a caption may hold U+2028.
            for number, line in enumerate(window.text[:end].split("\n"), window.line):
                if len(line) > LONGEST_ROW:
                    window.row = f"line {number}"
                    raise window.too_long()
                if line.strip():
                    try:
                        records.append(_parse(line, number))
                        numbers.append(number)
                    except Invalid as error:
                        self.broken_count += 1
                        if self.broken_count <= SHOWN:
                            self.broken.append(error.detail)
            if records:
                self.numbers.append(numbers if len(numbers) < numbers[-1] - numbers[0] + 1 else
                                    range(numbers[0], numbers[-1] + 1))
                yield records
            window.drop(end)
            if not window.grow():
                return

    def _list(self, window: Window, fields: tuple[str, ...]) -> Iterator[list[Any]]:
        start = window.skip_space(0)
        place = window.skip_space(start + 1)
        if window.text[start] != "[" or window.text[place:place + 1] == "]":
            value = window.only_value()
            raise Invalid("structure", f"expected a list of objects with {fields[0]} and {fields[1]}, found "
                                       f"{'an empty list' if value == [] else show(value)}")
        done, records, before = 0, [], "["
        while True:
            if place > BLOCK:
                self.numbers.append(range(done, done + len(records)))
                yield records
                done, records = done + len(records), []
                window.drop(place)
                place = 0
            window.row = f"row {done + len(records)}"
            value_and_end = window.value(place)
            if value_and_end is None:
                window.raise_broken(place, before)
            records.append(value_and_end[0])
            end = window.skip_space(value_and_end[1])
            if window.text[end:end + 1] != ",":
                break
            # For an error, the parser then starts inside the list, where a value must follow a comma.
            place, before = window.skip_space(end + 1), "[0,"
        if window.text[end:end + 1] != "]":
            window.raise_broken(place, before)
        if window.skip_space(end + 1) < len(window.text):
            window.raise_broken(end, "[0")
        self.numbers.append(range(done, done + len(records)))
        yield records


def _is_lines(window: Window, fields: tuple[str, ...]) -> bool:
    """Whether a text that starts with "{" is JSON Lines, and not one object, be it broken or not."""
    first, second = _first_lines(window)
    try:
        value = _parse(first)
        return bool(second) or any(name in value for name in fields)
    except Invalid:
        pass  # broken, or an object over several lines
    try:
        window.only_value()
        return False
    except Invalid:
        return second.lstrip().startswith("{")


def _first_lines(window: Window) -> tuple[str, str]:
    """The first two lines that are not blank; "" for the second if there is none."""
    while True:
        started = window.text.split("\n")
        for number, line in enumerate(started, window.line):
            if len(line) > LONGEST_ROW:
                window.row = f"line {number}"
                raise window.too_long()
        lines = [line for line in (started if window.whole else started[:-1]) if line.strip()]
        if len(lines) > 1 or not window.grow():
            return lines[0], lines[1] if len(lines) > 1 else ""
