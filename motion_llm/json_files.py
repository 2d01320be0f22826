"""JSON and text files: written atomically, and read with errors that name the file. Every wing may use it."""

import json
import shutil
from pathlib import Path


def write_json(path: Path, content: object) -> None:
    """Write to a temporary file and rename it, so that the file is always whole."""
    temporary = path.with_name(f".{path.name}.saving")
    temporary.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    temporary.replace(path)


def read_json(path: Path, error: type[ValueError] = ValueError) -> dict:
    """A JSON object from a file. Raises `error` naming the file where it is broken or holds something else."""
    text = read_text(path, error)
    try:
        content = json.loads(text)
    except ValueError as reason:
        raise error(f"{path} is broken: {reason}") from None
    if not isinstance(content, dict):
        raise error(f"{path} holds a {type(content).__name__}, expected an object")
    return content


def read_text(path: Path, error: type[ValueError] = ValueError) -> str:
    """The text of a UTF-8 file, without a byte order mark, with "\\n" between its lines.

    Raises `error` naming file, line and byte where it is not UTF-8, and OSError where it cannot be opened.
    """
    content = Path(path).read_bytes()
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


def replace_folder(temporary: Path, folder: Path) -> None:
    """Put a finished temporary folder in the place of `folder`; an earlier one is moved aside before it is removed."""
    if folder.exists():
        aside = folder.with_name(f".{folder.name}.removing")
        remove(aside)
        folder.rename(aside)
        temporary.rename(folder)
        shutil.rmtree(aside)
    else:
        temporary.rename(folder)


def remove(path: Path) -> None:
    """Remove a file or a folder, if it exists. A folder is renamed first, so that a half-removed one is never taken for
    a whole one; what a kill left of it goes as well."""
    aside = path.with_name(f".{path.name}.removing")
    if path.is_dir() and not path.is_symlink():
        if aside.exists():
            shutil.rmtree(aside)
        path.rename(aside)
    else:
        path.unlink(missing_ok=True)
    if aside.is_dir():
        shutil.rmtree(aside)
