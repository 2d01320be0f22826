"""A dataset's file as JSON values, in chunks, so that memory does not grow with the file.

The file is a JSON list or JSON Lines, told apart by content. What cannot be read is said as Python's own parser would
say it of the whole file: with line and column.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BLOCK = 1 << 22  # bytes read at once; 16,000 rows of 250 bytes, and about ten times as much memory
AHEAD = 64  # characters behind an error that are read, more than a message shows and than any escape or number name has
SHOWN = 10  # rows, keys or lines at most that a message names


class Bad(Exception):
    """What cannot be accepted. kind: a short name; found: what was found, for the message."""

    def __init__(self, kind: str, found: str) -> None:
        self.kind, self.found = kind, found


class Constant:
    """NaN, Infinity or -Infinity: Python's parser takes them, JSON does not have them."""

    made = 0  # so that a chunk's values are searched for them only if there are any

    def __init__(self, name: str) -> None:
        self.name = name
        Constant.made += 1

    def __repr__(self) -> str:
        return self.name


class Repeated(dict):
    """An object with a key given twice."""

    twice: list[str]


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) == len(pairs):
        return record
    repeated = Repeated(record)
    repeated.twice = [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]
    return repeated


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
    """One JSON value; line, column: where text starts in the file. Raises Bad (kind json) with line and column."""
    try:
        return _decoder.decode(text)
    except json.JSONDecodeError as error:
        rest = text[error.pos:error.pos + 20].split("\n")[0]
        found = repr(rest) if rest else "the end of the line" if text[error.pos:].strip() else "the end"
        there = error.colno + (column - 1 if error.lineno == 1 else 0)
        raise Bad("json", f"broken JSON at line {line + error.lineno - 1}, column {there}: {error.msg} "
                          f"(found {found})") from error
    except (ValueError, RecursionError) as error:  # a number of over 4300 digits; lists in lists in lists
        raise Bad("json", f"broken JSON at line {line} or after it: {error}") from error


class Window:
    """The part of a file's text that is being looked at. Raises Bad (kinds file, encoding).

    text: from line `line` and column `column` on (both from 1), without a byte order mark. whole: whether it goes to
    the end of the file. digest: sha256 of the bytes read so far.
    """

    def __init__(self, path: Path) -> None:
        if path.is_dir():
            raise Bad("file", "this is a folder, expected a JSON file")
        if not path.exists():
            raise Bad("file", f"no such file (looked for {path.absolute()})")
        self._file = open(path, "rb")
        self.digest = hashlib.sha256()
        self.text, self.line, self.column, self.whole = "", 1, 1, False
        self.size = 0  # bytes read
        self._lines_read = 1
        self._rest = b""  # the start of a character whose end is still to be read

    def close(self) -> None:
        self._file.close()

    def grow(self) -> bool:
        """Read as much again as there is, a block at least; False at the end of the file."""
        if self.whole:
            return False
        start = self.size - len(self._rest)
        raw = self._file.read(max(BLOCK, len(self.text)))
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

    def _not_utf8(self, piece: bytes, place: int, start: int) -> Bad:
        utf16 = "; it looks like UTF-16" if start == 0 and piece[:2] in (b"\xff\xfe", b"\xfe\xff") else ""
        line = self._lines_read + piece.count(b"\n", 0, place)
        return Bad("encoding", f"not UTF-8: byte 0x{piece[place]:02x} at byte offset {start + place}, line {line}"
                               f"{utf16}; save the file as UTF-8")

    def drop(self, end: int) -> None:
        """Forget the text before `end`."""
        breaks = self.text.count("\n", 0, end)
        self.line += breaks
        self.column = end - self.text.rfind("\n", 0, end) if breaks else self.column + end
        self.text = self.text[end:]

    def skip_space(self, place: int) -> int:
        """The next place that is no space, with AHEAD more read."""
        if self.text[place:place + 1] in _SPACES:
            place = _space(self.text, place).end()
        while place + AHEAD > len(self.text) and self.grow():
            place = _space(self.text, place).end()
        return place

    def value(self, place: int) -> tuple[Any, int] | None:
        """The JSON value at `place` and where it ends; None if it is broken, with as much read as its error needs."""
        while True:
            try:
                value, end = _decoder.raw_decode(self.text, place)
                if end < len(self.text) or self.whole:  # else a number may go on
                    return value, end
            except json.JSONDecodeError as error:
                # What is cut off by the end of the window is broken near its end, or is a string that never ends.
                if error.pos < len(self.text) - AHEAD and not error.msg.startswith("Unterminated string"):
                    return None
            except (ValueError, RecursionError):
                return None
            if not self.grow():
                return None

    def raise_broken(self, place: int, before: str) -> None:
        """Raise what is wrong at `place`; before: what stood there, so that the parser expects what comes next."""
        self.drop(place)
        _parse(before + self.text, self.line, self.column - len(before))
        raise Bad("json", f"broken JSON at line {self.line}, column {self.column}")

    def only_value(self) -> Any:
        """The one value that the whole file is. Raises Bad if it is none, or something follows it."""
        found = self.value(self.skip_space(0))
        if found is None or self.skip_space(found[1]) < len(self.text):
            _parse(self.text)
        return found[0]


@dataclass
class Records:
    """The records of a file, as `chunks` gives them.

    form: "JSON list" or "JSON Lines". numbers: the number that a message gives to each record. broken: a message for
    the first broken lines of JSON Lines; broken_count: of how many. sha256, size: of the bytes, when all were read.
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
        """Lists of records, in order. fields: names by which a single object is known as a row.

        Raises Bad (kinds file, encoding, empty-file, json, structure), also after some chunks were given.
        """
        window = Window(path)
        try:
            while not window.text.strip() and window.grow():
                pass
            if not window.text.strip():
                raise Bad("empty-file", f"the file is empty ({window.size} bytes)")
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
            end = len(window.text) if window.whole else window.text.rfind("\n") + 1
            records, numbers = [], []
            # Not splitlines: a caption may hold U+2028.
            for number, line in enumerate(window.text[:end].split("\n"), window.line):
                if line.strip():
                    try:
                        records.append(_parse(line, number))
                        numbers.append(number)
                    except Bad as bad:
                        self.broken_count += 1
                        self.broken += [bad.found] if self.broken_count <= SHOWN else []
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
            raise Bad("structure", f"expected a list of objects with {fields[0]} and {fields[1]}, found "
                                   f"{'an empty list' if value == [] else show(value)}")
        done, records, before = 0, [], "["
        while True:
            if place > BLOCK:
                self.numbers.append(range(done, done + len(records)))
                yield records
                done, records = done + len(records), []
                window.drop(place)
                place = 0
            found = window.value(place)
            if found is None:
                window.raise_broken(place, before)
            records.append(found[0])
            end = window.skip_space(found[1])
            if window.text[end:end + 1] != ",":
                break
            # The parser that words an error starts inside the list, where a value must follow a comma.
            place, before = window.skip_space(end + 1), "[0,"
        if window.text[end:end + 1] != "]":
            window.raise_broken(place, before)
        if window.skip_space(end + 1) < len(window.text):
            window.raise_broken(end, "[0")
        self.numbers.append(range(done, done + len(records)))
        yield records


def _is_lines(window: Window, fields: tuple[str, ...]) -> bool:
    """Whether a text that starts with "{" is JSON Lines, rather than one object or a broken one."""
    first, second = _first_lines(window)
    try:
        value = _parse(first)
        return bool(second) or any(name in value for name in fields)
    except Bad:
        pass  # broken, or an object over several lines
    try:
        window.only_value()
        return False
    except Bad:
        return second.lstrip().startswith("{")


def _first_lines(window: Window) -> tuple[str, str]:
    """The first two lines that are not blank; "" for the second if there is none."""
    while True:
        found = [line for line in window.text.split("\n") if line.strip()] if window.whole else [
            line for line in window.text.split("\n")[:-1] if line.strip()]
        if len(found) > 1 or not window.grow():
            return found[0], found[1] if len(found) > 1 else ""
