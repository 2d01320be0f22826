"""Files with the tokens of one clip, ID.npy or ID.txt: which axis of an array is time, and which codes to take out."""

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from motion_llm.arrays import load_npy
from motion_llm.dataset.report import count_of
from motion_llm.json_files import read_text

SUFFIXES = (".npy", ".txt")
MACOS = "._"  # begins the names of files in which macOS keeps attributes of the file of the same name
MOST_LEVELS = 32  # of a residual quantisation; a second axis that is longer is time


class LayoutError(ValueError):
    """A folder or file that is not in the layout; the message names what it holds and what is expected."""


@dataclass
class Edits:
    """What is done to every motion: codes are dropped first, then a number is subtracted from the others.

    level: of a residual quantisation, from 0 (the base); None for motions of one stream. dropped: how many motions had
    each code that was dropped. smallest, largest: of all codes afterwards.
    """

    level: int | None = None
    drop: frozenset[int] = frozenset()
    subtract: int = 0
    dropped: Counter[int] = field(default_factory=Counter)
    smallest: int | None = None
    largest: int | None = None

    def apply(self, codes: Sequence[int], describe: Callable[[], str]) -> list[int]:
        """The codes of a motion, which may be none at all. describe: names the motion in an error. Raises LayoutError
        for a code less than `subtract`."""
        if self.drop:
            self.dropped.update(self.drop.intersection(codes))
            codes = [code for code in codes if code not in self.drop]
        if not codes:
            return []
        smallest = min(codes)
        if smallest < self.subtract:
            raise LayoutError(f"{describe()} has the code {smallest}, expected {self.subtract} or more, to subtract "
                              f"{self.subtract}; --drop_codes takes out single codes before that")
        edited = [code - self.subtract for code in codes] if self.subtract else list(codes)
        self.smallest = min(edited) if self.smallest is None else min(self.smallest, min(edited))
        self.largest = max(edited) if self.largest is None else max(self.largest, max(edited))
        return edited

    def facts(self) -> list[str]:
        """Lines of a summary."""
        lines = []
        if self.drop:
            lines.append("taken out: " + ", ".join(
                f"code {code} from {count_of(self.dropped[code], 'motion')}" if self.dropped[code] else
                f"code {code} from none, it does not occur" for code in sorted(self.drop)))
        if self.subtract and self.smallest is not None:
            lines.append(f"{self.subtract} subtracted from every code: now {self.smallest} to {self.largest}")
        return lines


# ---------------------------------------------------------------- finding


def find_file(folder: Path, name: str, suffixes: Sequence[str]) -> Path | None:
    """folder/name + suffix, of the first suffix that there is. The name may have another Unicode form there, as macOS
    writes names of files in NFD."""
    spellings = [name] if name.isascii() else [name, *(unicodedata.normalize(form, name) for form in ("NFC", "NFD"))]
    paths = (folder / f"{spelling}{suffix}" for suffix in suffixes for spelling in spellings)
    return next((path for path in paths if path.is_file()), None)


def find_tokens(root: Path, ids: Iterable[str]) -> Path:
    """The one folder below root whose files are named by ids and hold codes; an id with a slash is in a subfolder.

    HumanML3D's own folders of .npy files have the same names, but hold floats. Raises LayoutError.
    """
    names = set(ids)
    candidates: dict[Path, Path] = {}  # folder -> the first file in it
    for path in _files(root):
        parts = unicodedata.normalize("NFC", path.relative_to(root).with_suffix("").as_posix()).split("/")
        for depth in range(1, len(parts) + 1):  # folders in the id
            if "/".join(parts[-depth:]) in names:
                candidates.setdefault(path.parents[depth - 1], path)
    folders = [folder for folder, path in candidates.items() if _holds_codes(path)]
    if len(folders) != 1:
        listed = ", ".join(map(str, folders)) or "none"
        raise LayoutError(f"{root}: folders of ID.npy with integers, or ID.txt with codes: {listed}; name the one with "
                          "--tokens_dir")
    return folders[0]


def _files(root: Path) -> Iterator[Path]:
    """All .npy and .txt files below root, in order."""
    for folder, folders, files in os.walk(root):
        folders.sort()
        paths = (Path(folder) / name for name in sorted(files) if name.endswith(SUFFIXES))
        yield from filter(Path.is_file, paths)  # no pipes, which may have no end


def macos_files(*folders: Path) -> list[str]:
    """The files of macOS below the folders."""
    return [str(path) for folder in folders for path in sorted(folder.rglob(f"{MACOS}*")) if path.is_file()]


# ---------------------------------------------------------------- reading


def _load(path: Path) -> np.ndarray:
    return load_npy(path, LayoutError)


_codes_line = re.compile(r"\d{1,9}(?:[\s,]+\d{1,9})*", re.ASCII).fullmatch


def _holds_codes(path: Path) -> bool:
    if path.suffix == ".npy":
        return bool(np.issubdtype(_load(path).dtype, np.integer))
    text = path.read_bytes().decode("utf-8", "replace").removeprefix("\ufeff")  # may be captions of any kind
    lines = [line.strip().strip(",").strip() for line in text.splitlines() if line.strip()]
    return bool(lines) and all(map(_codes_line, lines))


def _text_codes(path: Path) -> np.ndarray:
    """Codes separated by spaces or commas, on one line or one a line, (T,); several lines of several, (lines, codes).
    """
    rows = []
    for number, line in enumerate(read_text(path, LayoutError).split("\n"), 1):
        line = line.strip().strip(",").strip()
        if not line:
            continue
        if not _codes_line(line):
            raise LayoutError(f"{path}: line {number} is {line[:40]!r}, expected codes from 0 such as 42 18 91")
        rows.append([int(code) for code in re.split(r"[\s,]+", line)])
    if len({len(row) for row in rows}) > 1:
        raise LayoutError(f"{path} has lines of {min(map(len, rows))} to {max(map(len, rows))} codes, expected one "
                          "line, one code a line, or the same number on every line")
    codes = np.array(rows, np.int64)
    return codes.ravel() if codes.ndim == 1 or 1 in codes.shape else codes


def _read(path: Path) -> np.ndarray:
    """(T,), (n, T) or (T, levels), integers from 0. Raises LayoutError."""
    tokens = _load(path) if path.suffix == ".npy" else _text_codes(path)
    if tokens.ndim == 3 and tokens.shape[0] == 1:  # a batch of one clip, (1, T, levels)
        tokens = tokens[0]
    if tokens.ndim == 2 and tokens.shape[1] == 1:  # a column
        tokens = tokens[:, 0]
    if not np.issubdtype(tokens.dtype, np.integer) or tokens.ndim not in (1, 2) or not tokens.size:
        raise LayoutError(f"{path} holds {tokens.dtype} of shape {tokens.shape}, expected integers of shape (1, T) or "
                          "(T,)")
    if tokens.min() < 0:
        raise LayoutError(f"{path} has the token {tokens.min()}, expected 0 or more")
    return tokens


def read_motions(paths: Sequence[Path], edits: Edits) -> tuple[list[list[list[int]]], list[str]]:
    """The motions of each file, edited, and what was taken from arrays of two axes, as lines of a summary.

    (T,), (1, T) and (T, 1) are one motion, (n, T) are n. An array that is longer along the first axis than along a
    short second one is (T, levels) of a residual quantisation, of which edits.level names one. Raises LayoutError.
    """
    arrays = [_read(path) for path in paths]
    tables = {path: array.shape for path, array in zip(paths, arrays, strict=True) if array.ndim == 2}
    if edits.level is not None:
        take, facts = _one_level(tables, edits.level)
    else:
        take, facts = (lambda array: array), _several_motions(tables)
    motions = []
    for path, array in zip(paths, arrays, strict=True):
        streams = take(array) if array.ndim == 2 else array[None]
        edited = [edits.apply(stream, lambda path=path: str(path)) for stream in streams.tolist()]
        motions.append([stream for stream in edited if stream])
    return motions, facts


def _several_motions(tables: dict[Path, tuple[int, int]]) -> list[str]:
    """What is taken from arrays (n, T), as lines of a summary. tables: the shapes of the files. Raises LayoutError for
    (T, levels)."""
    long = {path: shape for path, shape in tables.items() if shape[1] < shape[0] and shape[1] <= MOST_LEVELS}
    for path, shape in long.items():
        raise LayoutError(f"{count_of(len(long), 'file')} such as {path} {shape}: longer along the first axis, "
                          f"probably {shape[0]} steps with {shape[1]} levels each of a residual quantisation (MoMask); "
                          "expected one stream of codes, (T,) or (1, T). --level 0 takes the base level, column 0, of "
                          "every file and leaves the others")
    several = {path: shape for path, shape in tables.items() if shape[0] > 1}
    facts = [f"arrays (n, T) taken as n motions each: {count_of(len(several), 'file')} such as {path.name} {shape}"
             for path, shape in list(several.items())[:1]]
    if len(several) == len(tables) > 1 and len({shape[0] for shape in several.values()}) == 1:
        facts.append("  (if these are levels of a residual quantisation, (levels, T), take one with --level 0)")
    return facts


def _one_level(tables: dict[Path, tuple[int, int]], level: int) -> tuple[Callable[[np.ndarray], np.ndarray], list[str]]:
    """A function from an array (T, levels), or (levels, T), to one level, (1, T), and what it takes as a line of a
    summary. The axis of the levels is the one that is the same in all files; if both are, the shorter one. Raises
    LayoutError."""
    sizes = {axis: {shape[axis] for shape in tables.values()} for axis in (1, 0)}
    numbers = {axis: min(size) for axis, size in sizes.items() if len(size) == 1 and 1 < min(size) <= MOST_LEVELS}
    path, shape = next(iter(tables.items()), ("a file", "(T,)"))
    if not numbers:
        raise LayoutError(f"--level {level}: {path} has the shape {shape}, expected (T, levels) with the same number "
                          "of levels in every file")
    axis = min(numbers, key=numbers.get)
    if level >= numbers[axis]:
        raise LayoutError(f"--level {level}: {path} has the shape {shape}, expected 0 to {numbers[axis] - 1}")
    axes = "(T, levels)" if axis else "(levels, T)"
    return (lambda array: np.take(array, [level], axis).reshape(1, -1)), [
        f"level {level} of {numbers[axis]} taken, the others left: arrays {axes} such as {path.name} {shape}"]
