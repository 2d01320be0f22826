"""JSON files: written atomically, and read with errors that name the file. Every wing may use it."""

import json
from pathlib import Path


def write_json(path: Path, content: object) -> None:
    """Write to a temporary file and rename it, so that the file is always whole."""
    temporary = path.with_name(f".{path.name}.saving")
    temporary.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    temporary.replace(path)


def read_json(path: Path, error: type[ValueError] = ValueError) -> dict:
    """A JSON object from a file. Raises `error` naming the file where it is broken or holds something else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as reason:
        raise error(f"{path} is broken: {reason}") from None
    if not isinstance(content, dict):
        raise error(f"{path} holds a {type(content).__name__}, expected an object")
    return content
