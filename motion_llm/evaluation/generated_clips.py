"""Generated clips from a file, and how they are assigned to the rows that are scored."""

import codecs
import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from motion_llm.dataset.rows import caption_key
from motion_llm.evaluation.clips import EvaluationError, EvaluationRow
from motion_llm.evaluation.rows import MOST_TOKENS
from motion_llm.evaluation.stream_clips import INVALID
from motion_llm.streams import ABSENT, OBJECT, Streams

MOST_BYTES = 2**22  # of a line
POSSIBLE = range(-2**31, 2**31)  # codes
CODE = re.compile(r"-?[0-9]{1,10}")


@dataclass(frozen=True)
class Generated:
    """Clips from a file, flat codes, by caption key and participant."""

    path: str
    clips: dict[tuple[str, str | None], list[list[int]]]
    lines: int

    def holds(self, key: str, participant: str | None) -> bool:
        """Whether there is a clip of this caption that serves the participant."""
        return (key, participant) in self.clips or (key, None) in self.clips


def read_generated(path: str | Path, most_tokens: int = MOST_TOKENS, streams: Streams | None = None) -> Generated:
    """JSON Lines of text_query, motion_tokens and, if the clip has one, participant_id. motion_tokens: "42 18 91" or a
    list; of several `streams` an object of them, null for one that is absent, or a list of steps.

    Codes outside the codebook and empty clips are accepted, as valid_share counts them; most_tokens: of a clip.
    Raises EvaluationError naming file and line for anything else.
    """
    clips: dict[tuple[str, str | None], list[list[int]]] = defaultdict(list)
    count, number = 0, 0
    with open(path, "rb") as file:
        while line := file.readline(MOST_BYTES + 1):
            number += 1
            location = f"{path}: line {number}"
            content = _json_of(line.removeprefix(codecs.BOM_UTF8) if number == 1 else line, location)
            if content is None:
                continue
            if not isinstance(content, dict) or not isinstance(content.get("text_query"), str):
                raise EvaluationError(f"{location}: {line.decode().strip()[:80]!r}, expected an object with text_query "
                                      "(text) and motion_tokens")
            participant = content.get("participant_id")
            if participant is not None and (isinstance(participant, bool) or not isinstance(participant, str | int)):
                raise EvaluationError(f"{location}: participant_id is {repr(participant)[:60]}, expected text or an "
                                      "integer")
            tokens = content.get("motion_tokens")
            codes = _codes(tokens, location) if streams is None or streams.count == 1 else _flat_codes(
                tokens, streams, location)
            if len(codes) > most_tokens:
                raise EvaluationError(f"{location}: motion_tokens has {len(codes):,} codes, expected at most "
                                      f"{most_tokens:,}: no model here answers with a longer clip")
            clips[caption_key(content["text_query"]), None if participant is None else str(participant)].append(codes)
            count += 1
    if not count:
        raise EvaluationError(f"{path} is empty, expected JSON Lines of text_query and motion_tokens")
    return Generated(str(path), dict(clips), count)


def _json_of(line: bytes, location: str) -> object:
    """None for an empty line. Raises EvaluationError."""
    if len(line) > MOST_BYTES:
        raise EvaluationError(f"{location} has more than {MOST_BYTES:,} bytes, expected a clip")
    try:
        text = line.decode()
        return json.loads(text) if text.strip() else None
    except UnicodeDecodeError as error:
        raise EvaluationError(f"{location} is not UTF-8 (byte 0x{line[error.start]:02x} at place {error.start}): save "
                              "the file as UTF-8") from None
    except json.JSONDecodeError as error:
        raise EvaluationError(f"{location} is not JSON ({error.msg} at column {error.colno})") from None
    except (ValueError, RecursionError) as error:  # an integer of thousands of digits; brackets in brackets
        raise EvaluationError(f"{location} cannot be read: {str(error)[:80]}") from None


def _codes(tokens: object, location: str) -> list[int]:
    codes = None
    if isinstance(tokens, str) and all(map(CODE.fullmatch, tokens.split())):
        codes = [int(token) for token in tokens.split()]
    elif isinstance(tokens, list) and all(isinstance(token, int) and not isinstance(token, bool) for token in tokens):
        codes = tokens
    if codes is None or any(code not in POSSIBLE for code in codes):
        expected = '"42 18 91" or a list of integers' if codes is None and not isinstance(tokens, str) else (
            f"integers with spaces between, from {POSSIBLE.start:,} to {POSSIBLE.stop - 1:,}")
        raise EvaluationError(f"{location}: motion_tokens is {str(tokens)[:60]!r}, expected {expected}")
    return codes


def _flat_codes(value: object, streams: Streams, location: str) -> list[int]:
    """Codes of several streams, INVALID where they are outside their stream's codebook."""
    names = streams.names
    if isinstance(value, Mapping) and set(value) == set(names):
        columns = [None if value[name] is None else _codes(value[name], f"{location}: {name}") for name in names]
    elif isinstance(value, list) and all(isinstance(step, list) and len(step) == len(names) for step in value):
        columns = [_codes([step[stream] for step in value], f"{location}: {name}") for stream, name in enumerate(names)]
    else:
        form = (f"an object of {', '.join(names)}" if streams.form == OBJECT else
                f"a list of steps of {len(names)} codes")
        raise EvaluationError(f"{location}: motion_tokens is {str(value)[:60]!r}, expected {form}")
    lengths = {name: len(column) for name, column in zip(names, columns, strict=True) if column is not None}
    if len(set(lengths.values())) != 1:
        counted = ", ".join(f"{count} codes of {name}" for name, count in lengths.items()) or "null for every stream"
        raise EvaluationError(f"{location}: motion_tokens has {counted}, expected as many codes of each stream")
    steps = np.full((next(iter(lengths.values())), len(names)), ABSENT, np.int64)
    for stream, column in enumerate(columns):
        if column is not None:
            own = np.array(column, np.int64)
            steps[:, stream] = np.where((own >= 0) & (own < streams.sizes[stream]), own, INVALID)
    return streams.flat(steps).tolist()


def match(generated: Generated, rows: Sequence[EvaluationRow], max_samples: int
          ) -> tuple[list[list[list[int]]], list[str]]:
    """Clips for each row, equally many for all rows, at most max_samples; and notes.

    A row takes the clips of its caption and participant; without any, those of its caption without a participant. Rows
    of one caption and participant take its clips in turn, and reuse them if there are fewer clips than rows. Raises
    EvaluationError naming the first row that has no clip.
    """
    by_key: dict[tuple, list[int]] = defaultdict(list)
    missing = []
    for i, row in enumerate(rows):
        key = next((key for key in ((row.key, row.participant_id), (row.key, None)) if key in generated.clips), None)
        if key is None:
            missing.append(row)
        else:
            by_key[key].append(i)
    if missing:
        row = missing[0]
        raise EvaluationError(f"{generated.path}: no clip for {len(missing)} of {len(rows)} rows, the first is row "
                              f"{row.index}: {row.text_query!r}, participant {row.participant_id!r}")
    samples = min(max_samples, *(max(1, len(generated.clips[key]) // len(places)) for key, places in by_key.items()))
    matched: list[list[list[int]]] = [[] for _ in rows]
    notes, reused, used = [], 0, 0
    for key, places in by_key.items():
        clips = generated.clips[key]
        reused += len(places) > len(clips)
        used += min(len(clips), len(places) * samples)
        for turn, i in enumerate(places):
            matched[i] = [clips[(turn + k * len(places)) % len(clips)] for k in range(samples)]
    if reused:
        notes.append(f"{generated.path} has fewer clips than there are rows for {reused} captions with participant; "
                     "their clips are used again")
    if used < generated.lines:
        notes.append(f"{generated.path}: {used} of {generated.lines} clips are scored; the others belong to no row, "
                     f"or are more than {samples} a row")
    return matched, notes
