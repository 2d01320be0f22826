"""What may be read as a file: one answer for every reader, before a byte is read. Every wing may use it."""

import os
import stat
from collections.abc import Callable
from pathlib import Path

KINDS = {stat.S_IFDIR: "a folder", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device", stat.S_IFIFO: "a pipe",
         stat.S_IFSOCK: "a socket"}


LONGEST_NAME = 1000  # characters of a name below a folder


def is_below(name: str) -> bool:
    """Whether a name that a file gives, such as "walks/001", is one below the folder in which it is looked for: it has
    no root and no "..", and can be a file's. Links in the folder are the user's own, and count as in it."""
    path = Path(name)
    return not (path.anchor or ".." in path.parts or "\0" in name or len(name) > LONGEST_NAME)


def check_regular(path: str | Path, error: Callable[[str], Exception], pipe: bool = False) -> int:
    """The bytes of a file, 0 of a pipe. A device such as /dev/zero has no end, and a pipe may never get one.

    pipe: takes the shell's own pipes too, /dev/stdin and <(command), which are below /dev; another pipe may have nobody
    who writes to it. Raises `error` naming anything else, OSError for what does not exist.
    """
    status = os.stat(path)
    kind = stat.S_IFMT(status.st_mode)
    if kind == stat.S_IFREG:
        return status.st_size
    if kind == stat.S_IFIFO and pipe and str(path).startswith("/dev/"):
        return 0
    raise error(f"{path} is no regular file, but {KINDS.get(kind, 'something else')}: expected a file to read")
