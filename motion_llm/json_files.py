"""JSON and text files: written atomically, and read with errors that name the file. Every wing may use it."""

import json
import math
import re
from pathlib import Path

from motion_llm.input_files import check_regular
from motion_llm.saving import saving

MOST_BYTES = 2**28  # of a JSON or text file that is no dataset; lengths of 50,000 captions take 10 MB


def write_json(path: str | Path, content: object) -> None:
    """Write an object or a list as JSON; the file is always whole."""
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def write_text(path: str | Path, text: str) -> None:
    """Write a text file, which is always whole; folders above it are made. Raises OSError naming the file."""
    with saving(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_json(path: Path, error: type[ValueError] = ValueError) -> dict:
    """A JSON object from a file. Raises `error` naming the file where it is broken, larger than MOST_BYTES, nested too
    deep or holds something else."""
    content = parse_json(read_text(path, error), str(path), error)
    if not isinstance(content, dict):
        raise error(f"{path} holds {_shown(content)}, expected an object")
    return content


def parse_json(text: str, place: str, error: type[ValueError], expected: str = "JSON", finite: bool = True) -> object:
    """What a JSON text holds. finite: refuses numbers that are not; a caller who names them better takes them.

    Raises `error` naming the place where it is broken or nested too deep, or has a number of thousands of digits.
    """
    hooks = {"parse_constant": _no_number, "parse_float": _finite} if finite else {}
    try:
        return json.loads(text, **hooks)
    except (ValueError, RecursionError) as reason:  # RecursionError: brackets in brackets, a hundred thousand deep
        raise error(f"{place} is broken: {str(reason)[:200]}; expected {expected}") from None


def _no_number(name: str) -> None:
    raise ValueError(f"{name}, a number that is not finite")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"{text[:40]}, a number that is not finite")
    return value


def check_form(content: object, form: object, place: str, error: type[ValueError]) -> None:
    """Raises `error`, naming the place and what is there, where content is not of the form.

    A form is a type (a number may be whole where float is meant), a range of integers, a slice for numbers from its
    start to its stop, a pattern of text, [form] for a list, {str: form} for an object of any names, {"name": form} for
    one with these names, or (form,) for that or null; "name?" may be missing.
    place: of the content, such as "motion_config.json: model".
    """
    if isinstance(form, tuple):
        if content is None:
            return
        form = form[0]
    if isinstance(form, list | dict) and not isinstance(content, type(form)):
        kind = "a list" if isinstance(form, list) else "an object"
        raise error(f"{place} is {_shown(content)}, expected {kind}")
    if isinstance(form, list):
        for i, item in enumerate(content):
            check_form(item, form[0], f"{place}, item {i}", error)
    elif isinstance(form, dict):
        if missing := [name for name in form if isinstance(name, str) and name[-1] != "?" and name not in content]:
            raise error(f"{place} has no {missing[0]}")
        for name, value in content.items():
            if (of_value := form.get(name, form.get(f"{name}?", form.get(str)))) is not None:
                check_form(value, of_value, f"{place} {name[:60]}", error)
    elif isinstance(form, re.Pattern):
        if not isinstance(content, str) or not form.fullmatch(content):
            raise error(f"{place} is {_shown(content)}, expected text such as {form.pattern[:60]}")
    elif isinstance(form, slice):
        if isinstance(content, bool) or not isinstance(content, int | float) or not form.start <= content <= form.stop:
            raise error(f"{place} is {_shown(content)}, expected a number from {form.start:g} to {form.stop:g}")
    elif isinstance(form, range):
        # A float is compared with every integer of a range.
        if isinstance(content, bool) or not isinstance(content, int) or content not in form:
            raise error(f"{place} is {_shown(content)}, expected an integer from {form.start} to {form.stop - 1:,}")
    else:
        number = form is float and isinstance(content, int) and abs(content) < 1e300
        if isinstance(content, bool) and form is not bool or not (isinstance(content, form) or number):
            names = {str: "text", float: "a number", bool: "true or false"}
            raise error(f"{place} is {_shown(content)}, expected {names[form]}")
        if form is float and not math.isfinite(content):
            raise error(f"{place} is {content}, expected a finite number")


def _shown(content: object) -> str:
    """A value in a few characters."""
    return f"a list of {len(content)}" if isinstance(content, list) else (
        f"an object of {len(content)}" if isinstance(content, dict) else repr(content)[:60])


def read_text(path: Path, error: type[ValueError] = ValueError) -> str:
    """The text of a UTF-8 file or of a shell's pipe, without a byte order mark, with "\\n" between its lines.

    Raises `error` naming file, line and byte where it is not UTF-8, and what is no file or has more than MOST_BYTES;
    OSError where it cannot be opened.
    """
    size = check_regular(path, error, pipe=True)
    with open(path, "rb") as file:  # a pipe does not tell its size
        content = b"" if size > MOST_BYTES else file.read(size or MOST_BYTES + 1)
    if max(size, len(content)) > MOST_BYTES:
        raise error(f"{path} has {max(size, len(content)):,} bytes, expected at most {MOST_BYTES:,}")
    try:
        text = content.decode()
        place = content.find(0)  # UTF-16 without a byte order mark decodes as UTF-8 where all its letters are ASCII
    except UnicodeDecodeError as reason:
        place = reason.start
    if place >= 0:
        line = 1 + content.count(b"\n", 0, place)
        raise error(f"{path}: {not_utf8(content[place], place, line)}")
    return text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")


def not_utf8(byte: int, offset: int, line: int) -> str:
    """The message on the first byte that is no UTF-8 text. offset: bytes before it, from 0. line: its line, from 1."""
    if offset == 0 and byte in (0xFF, 0xFE) or byte == 0:
        hint = "it looks like UTF-16"
    else:
        hint = f"in Latin-1 (Windows-1252) it would be {bytes([byte]).decode('cp1252', 'replace')!r}"
    return f"not UTF-8: byte 0x{byte:02x} at byte offset {offset}, line {line}; {hint}; save the file as UTF-8"
