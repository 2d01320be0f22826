"""What tells a folder's files from damaged ones and from those of another folder: their sha256, kept in its head file.

The head (motion_config.json, codec.json, ...) is written with the files, so a folder is checked before it is used.
"""

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

log = logging.getLogger(__name__)

BLOCK = 1 << 20


def digest_of(path: Path) -> str:
    """The sha256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def digests_of(folder: Path, names: Iterable[str] | None = None) -> dict[str, str]:
    """Name -> sha256 of a folder's files; names: of some of them, None for all but those in folders inside."""
    names = sorted(path.name for path in folder.iterdir() if path.is_file()) if names is None else names
    return {name: digest_of(folder / name) for name in names}


def damage(folder: Path, digests: Mapping[str, str]) -> str | None:
    """What is wrong with the first file that is missing or is not the one that was saved; None if all are whole."""
    for name, expected in digests.items():
        path = folder / Path(name).name
        if not path.is_file():
            return f"{path.name} is missing"
        if (actual := digest_of(path)) != expected:
            return (f"{path.name} is not the file that was saved there (sha256 {actual[:12]}, expected "
                    f"{str(expected)[:12]})")
    return None


def digest_of_json(content: Mapping) -> str:
    """sha256 of a JSON object, whatever the order of its keys and its layout in a file."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def check_digests(folder: Path, digests: Mapping[str, str], error: type[ValueError]) -> None:
    """Raises `error` for a folder with a damaged, missing or swapped file."""
    if wrong := damage(folder, digests):
        raise error(f"{folder}: {wrong}: it is damaged, or of another folder. Put it back, or make the folder anew")


@cache  # a folder is loaded several times in a run
def say_unchecked(folder: Path) -> None:
    """A line, once in a process, for a folder whose head has no digests."""
    log.info("%s was saved before folders kept digests of their files: they are not checked", folder)
