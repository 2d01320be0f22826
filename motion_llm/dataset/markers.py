"""Codes that are probably no motion: markers at the ends of all motions, and ids of a language model's vocabulary.

Both would train without an error: the markers as codes of the codebook, which the model then puts into its answers, and
the ids as a codebook of 150,000 codes, nearly none of which is ever used.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from motion_llm.dataset.rows import Columns, Rows

FEW_MOTIONS = 10  # among fewer distinct motions, a code that all begin or end with may well be chance
NEARLY = 0.9  # of the motions have a marker; a file may hold some without
PADDED = 0.5  # of the motions are padded; the longest ones are not
COMMON_CODEBOOK = 10_000  # codes; hardly any codebook has more, but every vocabulary of a language model does
CHANCE = 1e-6  # below this, it is no chance that the lower codes do not occur


@dataclass(frozen=True)
class Markers:
    """start: codes that nearly all motions begin with, end: that they end with, padding: that fill them up behind, each
    from the outside in; none of them occurs anywhere else. rows: how many begin or end with one."""

    start: tuple[int, ...] = ()
    end: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    rows: int = 0

    @property
    def codes(self) -> list[int]:
        return sorted({*self.start, *self.end, *self.padding})


@dataclass(frozen=True)
class _Ends:
    """How many motions begin with each code, end with it, and are that code alone, (K,) each. motions: how many are not
    empty."""

    first: np.ndarray
    last: np.ndarray
    alone: np.ndarray
    motions: int


def find_markers(rows: Rows, counts: np.ndarray) -> Markers:
    """counts: (K,), how often each code occurs in the rows.

    The most frequent first and last codes are looked at, and taken off where they are markers, until there is no more.
    A marker stands once at one end of the motions, or once at both; padding stands in runs of any length behind them. A
    pose in which all clips begin and end comes in runs at both ends, and is no marker.
    """
    if not len(rows) or rows.motions.count < FEW_MOTIONS:
        return Markers()
    start, end, padding, most = [], [], [], 0
    bounds = [(chunk.ends[:-1], chunk.ends[1:]) for chunk in rows.chunks]
    while True:
        ends = _ends(rows.chunks, bounds, len(counts))
        if not ends.motions:  # nothing but markers
            break
        first, last = int(np.argmax(ends.first)), int(np.argmax(ends.last))
        enough = NEARLY * ends.motions
        begins, stops = ends.first[first] >= enough, ends.last[last] >= enough
        if begins and stops and first == last and (
                counts[first] == ends.first[first] + ends.last[first] - ends.alone[first]):
            start, end, code, marked = [*start, first], [*end, first], first, ends.first[first]
        elif begins and counts[first] == ends.first[first]:
            start, code, marked = [*start, first], first, ends.first[first]
        elif stops and counts[last] == ends.last[last]:
            end, code, marked = [*end, last], last, ends.last[last]
        elif ends.last[last] >= PADDED * ends.motions and (
                ends.last[last] < counts[last] == _behind(rows.chunks, bounds, last)):
            padding, code, marked = [*padding, last], last, ends.last[last]
        else:
            break
        most = max(most, int(marked))
        bounds = [_without(chunk.codes, *bound, code) for chunk, bound in zip(rows.chunks, bounds, strict=True)]
    return Markers(tuple(start), tuple(end), tuple(padding), most)


def _ends(chunks: list[Columns], bounds: list[tuple[np.ndarray, np.ndarray]], size: int) -> _Ends:
    first, last, alone = np.zeros((3, size), np.int64)
    motions = 0
    for chunk, (starts, stops) in zip(chunks, bounds, strict=True):
        there = stops > starts
        motions += int(there.sum())
        first += np.bincount(chunk.codes[starts[there]], minlength=size)
        last += np.bincount(chunk.codes[stops[there] - 1], minlength=size)
        alone += np.bincount(chunk.codes[starts[stops == starts + 1]], minlength=size)
    return _Ends(first, last, alone, motions)


def _behind(chunks: list[Columns], bounds: list[tuple[np.ndarray, np.ndarray]], code: int) -> int:
    """How often the code stands at the end of motions with nothing else behind it."""
    return sum(int((stops - _without(chunk.codes, starts, stops, code)[1]).sum())
               for chunk, (starts, stops) in zip(chunks, bounds, strict=True))


def _without(codes: np.ndarray, starts: np.ndarray, stops: np.ndarray, code: int) -> tuple[np.ndarray, np.ndarray]:
    """The bounds of the motions without the code at their ends."""
    others = np.flatnonzero(codes != code)
    if not len(others):
        return starts, starts
    before = np.searchsorted(others, stops)  # the number of other codes before each stop
    new_stops = np.maximum(starts, np.where(before > 0, others[before - 1] + 1, 0))
    after = np.minimum(np.searchsorted(others, starts), len(others) - 1)
    return np.minimum(new_stops, np.maximum(starts, others[after])), new_stops


def marker_warning(rows: Rows, markers: Markers, path: str, stream: str | None = None) -> str | None:
    """The message on the markers; None where there are none. stream: the name of that which rows have, among several.
    """
    if not markers.codes:
        return None
    parts = [f"{verb} {', '.join(map(str, codes))}" for verb, codes in (
        ("begin with", markers.start), ("end with", markers.end[::-1]), ("are filled up with", markers.padding))
        if codes]
    are = "codes that occur nowhere else: probably markers" if len(markers.codes) > 1 else (
        "a code that occurs nowhere else: probably a marker")
    return (f"{markers.rows:,} of {len(rows):,} motions {' and '.join(parts)}, {are} and no motion. To take out: "
            + _command(path, "--drop_codes", stream, ",".join(map(str, markers.codes))))


def _command(path: str, option: str, stream: str | None, value: str) -> str:
    of = "" if stream is None else f"{stream}="
    return f"python import_tokens.py --layout json --data {Path(path).name} --output new.json {option} {of}{value}"


def vocabulary_warning(rows: Rows, counts: np.ndarray, markers: Markers, path: str, stream: str | None = None
                       ) -> str | None:
    """The message on codes that lie so far above 0 that they are probably ids of a vocabulary; None for others. stream:
    as in marker_warning().

    If the codes that occur, n of them, were any of 0 to the largest, none of them would lie below the smallest with the
    probability (1 - smallest / (largest + 1)) ** n. That has to be tiny, and more codes have to be missing below the
    smallest than occur.
    """
    counts = counts.copy()
    counts[markers.codes] = 0
    used = np.flatnonzero(counts)
    if not len(used) or not used[0] or rows.motions.count < FEW_MOTIONS and used[0] < COMMON_CODEBOOK:
        return None
    smallest, largest = int(used[0]), int(used[-1])
    if smallest <= len(used) or len(used) * math.log(1 - smallest / (largest + 1)) > math.log(CHANCE):
        return None
    return (f"the smallest code is {smallest:,}, the largest {largest:,}, and {len(used):,} are used: probably ids of "
            f"a language model's vocabulary, or codes with an offset, and no codebook of {largest + 1:,}. To subtract "
            f"the id of code 0 ({smallest} or a little less): " + _command(path, "--subtract", stream, str(smallest)))
