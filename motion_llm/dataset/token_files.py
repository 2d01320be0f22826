"""Files with the tokens of one clip, ID.npy, ID.txt or ID.npz: which axis of an array is time, and which codes to take
out.

A motion of one stream is a list of codes. One of several is an array of steps, int64 (T, Q), ABSENT where the clip does
not have the stream.
"""

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from motion_llm.arrays import Archive, load_npy
from motion_llm.dataset.report import count_of
from motion_llm.json_files import read_text
from motion_llm.streams import ABSENT, ONE, level_names, name_problem

SUFFIXES = (".npy", ".txt")
ARCHIVE = ".npz"  # of several streams, an array each
ALL = "all"  # levels
MACOS = "._"  # begins the names of files in which macOS keeps attributes of the file of the same name
MOST_LEVELS = 32  # of a residual quantisation; a second axis that is longer is time


class LayoutError(ValueError):
    """A folder or file that is not in the layout; the message names what it holds and what is expected."""


@dataclass
class Edits:
    """What is done to every motion: codes are dropped first, then a number is subtracted from the others.

    level: of a residual quantisation, from 0 (the base); ALL for all of them, as streams; None for what the arrays show
    themselves. drop, subtract: for every stream, or by the stream's name. dropped: how many motions had each code of a
    stream that was dropped. ranges: stream -> its smallest and largest code afterwards.
    """

    level: int | str | None = None
    drop: frozenset[int] | Mapping[str, frozenset[int]] = frozenset()
    subtract: int | Mapping[str, int] = 0
    dropped: Counter[tuple[str, int]] = field(default_factory=Counter)
    ranges: dict[str, tuple[int, int]] = field(default_factory=dict)
    names: Sequence[str] = (ONE,)

    def apply(self, codes: Sequence[int], describe: Callable[[], str]) -> list[int]:
        """The codes of a motion, which may be none at all. describe: names the motion in an error. Raises LayoutError
        for a code less than `subtract`."""
        return self.apply_steps(np.array(codes)[:, None], (ONE,), describe)[:, 0].tolist() if len(codes) else []

    def apply_steps(self, steps: np.ndarray, names: Sequence[str], describe: Callable[[], str]) -> np.ndarray:
        """The same for a motion of several streams, (T, Q). A step goes as a whole: raises LayoutError where a part of
        its codes would be dropped."""
        self.names = names
        if unknown := {name for edit in (self.drop, self.subtract) if isinstance(edit, Mapping) for name in edit
                       if name not in names}:
            raise LayoutError(f"--drop_codes or --subtract names {', '.join(sorted(unknown))}, {describe()} has the "
                              f"streams {', '.join(names)}")
        steps = self._without(steps, describe)
        numbers = np.array([_of(self.subtract, name, 0) for name in names])
        for name, column, number in zip(names, steps.T, numbers.tolist(), strict=True):
            if not len(column) or column[0] == ABSENT:
                continue
            smallest, largest = int(column.min()) - number, int(column.max()) - number
            if smallest < 0:
                raise LayoutError(f"{describe()} has the code {smallest + number}{_of_stream(name)}, expected {number} "
                                  f"or more, to subtract {number}; --drop_codes takes out single codes before that")
            before = self.ranges.get(name, (smallest, largest))
            self.ranges[name] = min(before[0], smallest), max(before[1], largest)
        return np.where(steps == ABSENT, ABSENT, steps - numbers)

    def _without(self, steps: np.ndarray, describe: Callable[[], str]) -> np.ndarray:
        """The steps that are left, (T, Q)."""
        if not self.drop:
            return steps
        drop = [_of(self.drop, name, frozenset()) for name in self.names]
        dropped = np.stack([np.isin(column, list(codes)) for column, codes in zip(steps.T, drop, strict=True)], axis=1)
        for name, column, mask in zip(self.names, steps.T, dropped.T, strict=True):
            self.dropped.update((name, code) for code in set(column[mask].tolist()))
        whole = (dropped | (steps == ABSENT)).all(1)
        for step in np.flatnonzero(dropped.any(1) & ~whole)[:1]:
            codes = ", ".join(f"{name} {code}" for name, code in zip(self.names, steps[step].tolist(), strict=True)
                              if code != ABSENT)
            raise LayoutError(f"{describe()}: step {step} is {codes[:120]}: to take out a part of it would put the "
                              "streams out of step, expected all of its codes in --drop_codes or none (codes of one "
                              "stream: --drop_codes body=512,513 left_hand=128,129)")
        return steps[~whole]

    def facts(self) -> list[str]:
        """Lines of a summary."""
        lines = []
        if self.drop:
            codes = ((name, code) for name in self.names for code in sorted(_of(self.drop, name, frozenset())))
            lines.append("taken out: " + ", ".join(
                f"code {code}{_of_stream(name)} from {count_of(self.dropped[name, code], 'motion')}"
                if self.dropped[name, code] else f"code {code}{_of_stream(name)} from none, it does not occur"
                for name, code in codes))
        for name, (smallest, largest) in self.ranges.items():
            if number := _of(self.subtract, name, 0):
                lines.append(f"{number} subtracted from every code{_of_stream(name)}: now {smallest} to {largest}")
        return lines


def _of(edit: Any, name: str, default: Any) -> Any:
    """What is done to a stream."""
    return edit.get(name, default) if isinstance(edit, Mapping) else edit


def _of_stream(name: str) -> str:
    return "" if name == ONE else f" of {name}"


# ---------------------------------------------------------------- finding


def find_file(folder: Path, name: str, suffixes: Sequence[str]) -> Path | None:
    """folder/name + suffix, of the first suffix that there is. The name may have another Unicode form there, as macOS
    writes names of files in NFD."""
    spellings = [name] if name.isascii() else [name, *(unicodedata.normalize(form, name) for form in ("NFC", "NFD"))]
    paths = (folder / f"{spelling}{suffix}" for suffix in suffixes for spelling in spellings)
    return next((path for path in paths if path.is_file()), None)


def find_tokens(root: Path, ids: Iterable[str]) -> Path:
    """The one folder below root whose files are named by ids and hold codes; an id with a slash is in a subfolder.
    Archives of several streams are looked for where there are no other files with codes.

    HumanML3D's own folders of .npy files have the same names, but hold floats. Raises LayoutError.
    """
    names = set(ids)
    folders = _code_folders(root, names, SUFFIXES) or _code_folders(root, names, (ARCHIVE,))
    if len(folders) != 1:
        listed = ", ".join(map(str, folders)) or "none"
        parts = "; or take each as a stream, with --streams NAME=FOLDER NAME=FOLDER" if folders else ""
        raise LayoutError(f"{root}: folders of ID.npy with integers, or ID.txt with codes: {listed}; name the one with "
                          f"--tokens_dir{parts}")
    return folders[0]


def _code_folders(root: Path, names: set[str], suffixes: tuple[str, ...]) -> list[Path]:
    candidates: dict[Path, Path] = {}  # folder -> the first file in it
    for path in _files(root, suffixes):
        parts = unicodedata.normalize("NFC", path.relative_to(root).with_suffix("").as_posix()).split("/")
        for depth in range(1, len(parts) + 1):  # folders in the id
            if "/".join(parts[-depth:]) in names:
                candidates.setdefault(path.parents[depth - 1], path)
    return [folder for folder, path in candidates.items() if _holds_codes(path)]


def _files(root: Path, suffixes: tuple[str, ...]) -> Iterator[Path]:
    """All files below root with these suffixes, in order."""
    for folder, folders, files in os.walk(root):
        folders.sort()
        paths = (Path(folder) / name for name in sorted(files) if name.endswith(suffixes))
        yield from filter(Path.is_file, paths)  # no pipes, which may have no end


def macos_files(*folders: Path) -> list[str]:
    """The files of macOS below the folders."""
    return [str(path) for folder in folders for path in sorted(folder.rglob(f"{MACOS}*")) if path.is_file()]


# ---------------------------------------------------------------- reading


def _load(path: Path) -> np.ndarray:
    return load_npy(path, LayoutError)


_codes_line = re.compile(r"\d{1,9}(?:[\s,]+\d{1,9})*", re.ASCII).fullmatch


def _holds_codes(path: Path) -> bool:
    if path.suffix == ARCHIVE:  # of any kind, such as AMASS's, which hold text and pickles beside numbers
        try:
            return bool(_read_archive(path))
        except LayoutError:
            return False
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
    return _checked(_load(path) if path.suffix == ".npy" else _text_codes(path), str(path))


def _checked(tokens: np.ndarray, where: str) -> np.ndarray:
    if tokens.ndim == 3 and tokens.shape[0] == 1:  # a batch of one clip, (1, T, levels)
        tokens = tokens[0]
    if tokens.ndim == 2 and tokens.shape[1] == 1:  # a column
        tokens = tokens[:, 0]
    if not np.issubdtype(tokens.dtype, np.integer) or tokens.ndim not in (1, 2) or not tokens.size:
        raise LayoutError(f"{where} holds {tokens.dtype} of shape {tokens.shape}, expected integers of shape (1, T) or "
                          "(T,)")
    if tokens.min() < 0:
        raise LayoutError(f"{where} has the token {tokens.min()}, expected 0 or more")
    if tokens.max() > np.iinfo(np.int64).max:  # as int64 it would be another code
        raise LayoutError(f"{where} has the token {tokens.max()}, which is no code")
    return tokens.astype(np.int64)


def _read_archive(path: Path) -> dict[str, np.ndarray]:
    """Stream -> its array, in the file's order. Raises LayoutError."""
    with Archive(path, LayoutError) as archive:
        names = [name.removesuffix(".npy") for name in archive.zip.namelist() if name.endswith(".npy")]
        for name in names:
            if problem := name_problem(name):
                archive.fail(f"an array is called {name[:60]!r}, which cannot be a stream: {problem}")
        arrays = {name: _checked(archive[name], f"{path}: {name}") for name in names}
        return arrays or archive.fail("no arrays, expected one of integers for each stream")


# ---------------------------------------------------------------- one stream, or levels


def read_motions(paths: Sequence[Path], edits: Edits) -> tuple[list[list[Sequence[int] | np.ndarray]], list[str]]:
    """The motions of each file, edited, and what was taken from arrays of two axes, as lines of a summary.

    (T,), (1, T) and (T, 1) are one motion, (n, T) are n. An array that is longer along the first axis than along a
    short second one is (T, levels) of a residual quantisation: one motion with a stream for each level, or of one
    stream where edits.level names a level. Raises LayoutError.
    """
    arrays = [_read(path) for path in paths]
    tables = {path: array.shape for path, array in zip(paths, arrays, strict=True) if array.ndim == 2}
    if edits.level == ALL or edits.level is None and _long(tables):
        return _all_levels(paths, arrays, tables, edits)
    take, facts = _take(tables, edits.level)
    motions = []
    for path, array in zip(paths, arrays, strict=True):
        streams = take(array) if array.ndim == 2 else array[None]
        edited = [edits.apply(stream, lambda path=path: str(path)) for stream in streams.tolist()]
        motions.append([stream for stream in edited if stream])
    return motions, facts


Shapes = dict[Path, tuple[int, int]]  # of the files with arrays of two axes


def _long(tables: Shapes) -> Shapes:
    """Those that are probably (T, levels)."""
    return {path: shape for path, shape in tables.items() if shape[1] < shape[0] and shape[1] <= MOST_LEVELS}


def _take(tables: Shapes, level: int | None) -> tuple[Callable[[np.ndarray], np.ndarray], list[str]]:
    """A function from an array of one stream to its motions, (n, T), and what it takes as lines of a summary. Raises
    LayoutError for (T, levels) where no level is named."""
    if level is not None:
        return _one_level(tables, level)
    if long := _long(tables):
        _refuse_levels(long, "expected one code a step of each named stream, (T,) or (1, T)")
    return (lambda array: array), _several_motions(tables)


def _refuse_levels(long: Shapes, reason: str) -> None:
    path, shape = next(iter(long.items()))
    raise LayoutError(f"{count_of(len(long), 'file')} such as {path} {shape}: longer along the first axis, probably "
                      f"{shape[0]} steps with {shape[1]} levels each of a residual quantisation (MoMask); {reason}. "
                      "--level 0 takes the base level, column 0, of every file and leaves the others")


def _several_motions(tables: Shapes) -> list[str]:
    """What is taken from arrays (n, T), as lines of a summary."""
    several = {path: shape for path, shape in tables.items() if shape[0] > 1}
    facts = [f"arrays (n, T) taken as n motions each: {count_of(len(several), 'file')} such as {path.name} {shape}"
             for path, shape in list(several.items())[:1]]
    if len(several) == len(tables) > 1 and len({shape[0] for shape in several.values()}) == 1:
        facts.append("  (if these are levels of a residual quantisation, (levels, T), take all with --level all, one "
                     "with --level 0)")
    return facts


def _all_levels(paths: Sequence[Path], arrays: Sequence[np.ndarray], tables: Shapes, edits: Edits,
                ) -> tuple[list[list[np.ndarray]], list[str]]:
    """Each array as one motion of as many streams as it has levels. Raises LayoutError where the files have other
    numbers of levels."""
    long = _long(tables)
    axis = 1 if edits.level is None else _level_axis(tables, ALL)
    path, shape = next(iter((long or tables).items()))
    for other, array in zip(paths, arrays, strict=True):
        if array.ndim != 2 or array.shape[axis] != shape[axis]:
            reason = f"{other.name} is {array.shape}, expected {shape[axis]} levels in every file"
            if edits.level is None:
                _refuse_levels(long, f"but {reason}")
            raise LayoutError(f"--level {ALL}: {path} is {shape}, and {reason}")
    names, motions = level_names(shape[axis]), []
    for path_of_clip, array in zip(paths, arrays, strict=True):
        edited = edits.apply_steps(array if axis else array.T, names, lambda path=path_of_clip: str(path))
        motions.append([edited] if len(edited) else [])
    return motions, [f"arrays {_AXES[axis]} taken as steps of {len(names)} codes, {names[0]} to {names[-1]}: "
                     f"{count_of(len(arrays), 'file')} such as {path.name} {shape}"]


_AXES = {1: "(T, levels)", 0: "(levels, T)"}


def _level_axis(tables: Shapes, level: int | str) -> int:
    """The axis of the levels: the one that is the same in all files; if both are, the shorter one. Raises LayoutError.
    """
    sizes = {axis: {shape[axis] for shape in tables.values()} for axis in (1, 0)}
    numbers = {axis: min(size) for axis, size in sizes.items() if len(size) == 1 and 1 < min(size) <= MOST_LEVELS}
    path, shape = next(iter(tables.items()), ("a file", "(T,)"))
    if not numbers:
        raise LayoutError(f"--level {level}: {path} has the shape {shape}, expected (T, levels) with the same number "
                          "of levels in every file")
    return min(numbers, key=numbers.get)


def _one_level(tables: Shapes, level: int) -> tuple[Callable[[np.ndarray], np.ndarray], list[str]]:
    """A function from an array (T, levels), or (levels, T), to one level, (1, T), and what it takes as a line of a
    summary. Raises LayoutError."""
    axis = _level_axis(tables, level)
    path, shape = next(iter(tables.items()))
    if level >= shape[axis]:
        raise LayoutError(f"--level {level}: {path} has the shape {shape}, expected 0 to {shape[axis] - 1}")
    return (lambda array: np.take(array, [level], axis).reshape(1, -1)), [
        f"level {level} of {shape[axis]} taken, the others left: arrays {_AXES[axis]} such as {path.name} {shape}"]


# ---------------------------------------------------------------- named streams


@dataclass
class Parts:
    """The motions of clips with named streams. names (Q,). motions: id -> its motions, edited, each (T, Q). missing:
    stream -> the ids that do not have it. unequal: the ids whose streams differ in length, with the lengths. facts:
    lines of a summary."""

    names: tuple[str, ...]
    motions: dict[str, list[np.ndarray]] = field(default_factory=dict)
    missing: dict[str, list[str]] = field(default_factory=dict)
    unequal: list[str] = field(default_factory=list)
    facts: list[str] = field(default_factory=list)


def read_parts(clips: Mapping[str, Path | Mapping[str, Path]], names: Sequence[str], edits: Edits) -> Parts:
    """clips: id -> a file for each of its streams, or one archive with an array for each. names: the streams, if they
    are known. A file has one level and one motion or, (n, T), n motions of each stream. Raises LayoutError."""
    arrays = {name: _read_archive(files) if isinstance(files, Path) else
              {stream: _read(path) for stream, path in files.items()} for name, files in clips.items()}
    parts = Parts(tuple(dict.fromkeys([*names, *chain.from_iterable(arrays.values())])))
    for stream in parts.names:
        parts.missing[stream] = [name for name, of_clip in arrays.items() if stream not in of_clip]
        if 0 < len(arrays) == len(parts.missing[stream]):
            raise LayoutError(f"no clip has the stream {stream}: leave it out")
        tables = {_file_of(clips[name], stream): of_clip[stream].shape for name, of_clip in arrays.items()
                  if stream in of_clip and of_clip[stream].ndim == 2}
        take, facts = _take(tables, edits.level)
        parts.facts += [f"{stream}: {fact}" for fact in facts[:1]]
        for of_clip in arrays.values():
            if stream in of_clip:
                of_clip[stream] = take(of_clip[stream]) if of_clip[stream].ndim == 2 else of_clip[stream][None]
    for name, of_clip in arrays.items():
        shapes = {stream: array.shape for stream, array in of_clip.items()}
        if len(set(shapes.values())) > 1:
            parts.unequal.append(f"{name}: " + ", ".join(
                f"{stream} {shape[1] if shape[0] == 1 else shape}" for stream, shape in shapes.items()))
            continue
        where = _file_of(clips[name], next(iter(of_clip)))
        absent = np.full(next(iter(shapes.values())), ABSENT)
        together = np.stack([of_clip.get(stream, absent) for stream in parts.names], axis=2)  # (n, T, Q)
        edited = [edits.apply_steps(steps, parts.names, lambda where=where: str(where)) for steps in together]
        parts.motions[name] = [steps for steps in edited if len(steps)]
    return parts


def _file_of(files: Path | Mapping[str, Path], stream: str) -> Path:
    return files if isinstance(files, Path) else files[stream]
