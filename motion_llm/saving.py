"""Writing without loss: files and whole folders are written aside and renamed, one process at a time.

What was there stays until the new one is whole, and after a full disk or a kill. Every wing may use it.
"""

import contextlib
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

log = logging.getLogger(__name__)

# In errors of the disk that are no OSError: of safetensors and tokenizers, and of torch.save.
MARKS = ("(os error ", "enforce fail at inline_container.cc")
LEFTOVERS = ("saving", "before", "removing")  # kinds of folders that a kill may leave


@contextlib.contextmanager
def saving(path: str | Path) -> Iterator[Path]:
    """A file beside `path` to write to, which takes its place at the end, with the mode that files have here. After an
    error it is gone, and what was there has stayed. Folders above it are made. Raises OSError naming `path`."""
    path = Path(path)
    temporary = _aside(path, "saving")
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.unlink(missing_ok=True)
        temporary.touch()
        mode = temporary.stat().st_mode
        try:
            yield temporary
            temporary.chmod(mode)  # safetensors lets only the owner read its files
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def saving_folder(folder: str | Path) -> Iterator[Path]:
    """A new folder beside `folder`, which takes its place at the end. After an error it is gone, and what was there
    has stayed. Raises OSError naming `folder`, also where another process is writing it."""
    folder = Path(folder)
    temporary = _aside(folder, "saving")
    with naming(folder), locked(_aside(folder, "lock"), OSError(
            f"{folder}: another process is writing it: wait for it, or choose another name")):
        _clear(folder)
        temporary.mkdir()
        try:
            yield temporary
            _replace(folder, temporary)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _replace(folder: Path, temporary: Path) -> None:
    for path in (temporary, *temporary.rglob("*")):  # a server may run as another user
        path.chmod(path.stat().st_mode | (0o555 if path.is_dir() else 0o444) & ~_umask())
    before = _aside(folder, "before")
    if folder.exists():
        folder.rename(before)
    temporary.rename(folder)
    if before.exists():
        shutil.rmtree(before)


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def clear_leftovers(folder: Path) -> None:
    """Remove, with a line, what a killed saving_folder() or remove() of `folder` left beside it; or put the folder
    back, where the kill came between its two renames. Does nothing while another process writes the folder."""
    if not any(_aside(folder, kind).exists() for kind in LEFTOVERS):
        return
    try:
        with locked(_aside(folder, "lock"), BlockingIOError()):
            _clear(folder)
    except BlockingIOError:
        log.info("%s is being written by another process", folder)


def _clear(folder: Path) -> None:
    before = _aside(folder, "before")
    if before.exists() and not folder.exists():
        log.info("%s is put back, as a command was stopped while it was replaced", folder)
        before.rename(folder)
    for leftover in (_aside(folder, kind) for kind in LEFTOVERS):
        if leftover.exists():
            log.info("removing %s, which a stopped command left", leftover)
            shutil.rmtree(leftover)


def remove(path: Path) -> None:
    """Remove a file or a folder, if it exists. A folder is renamed first, so that a half-removed one is never taken for
    a whole one; what a kill left of it goes as well."""
    aside = _aside(path, "removing")
    if path.is_dir() and not path.is_symlink():
        if aside.exists():
            shutil.rmtree(aside)
        path.rename(aside)
    else:
        path.unlink(missing_ok=True)
    if aside.is_dir():
        shutil.rmtree(aside)


@contextlib.contextmanager
def locked(path: Path, busy: Exception | None) -> Iterator[None]:
    """Hold a lock file, which ends with the process, even if it is killed. busy: raised where another process holds it;
    None: wait for that one. Windows has no such lock."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        import fcntl
    except ImportError:
        yield
        return
    while True:
        with path.open("w", encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | (0 if busy is None else fcntl.LOCK_NB))
            except BlockingIOError:
                raise busy from None
            if not _is_at(file, path):  # the one who held it has removed it meanwhile
                continue
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
            return


def _is_at(file, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


class naming:
    """Around writing: an error of the disk names the file or folder, also where a library's error does not."""

    def __init__(self, path: Path):
        self.path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind, error, traceback) -> None:
        of_library = isinstance(error, Exception) and any(mark in str(error) for mark in MARKS)
        if isinstance(error, OSError) and error.filename is None and error.errno is not None:
            raise OSError(error.errno, error.strerror, str(self.path)) from error
        if of_library or isinstance(error, OSError) and error.filename is None and str(self.path) not in str(error):
            raise OSError(f"{self.path}: {error}") from error  # numpy's "N requested and M written" too


def _aside(path: Path, kind: str) -> Path:
    """.name.kind.suffix: a hidden neighbour with the same suffix, by which some libraries choose the format."""
    path = Path(os.path.abspath(path))  # "." has no name
    return path.with_name(f".{path.stem}.{kind}{path.suffix}")
