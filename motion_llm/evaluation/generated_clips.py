"""Clips that someone generated: read from a file, and shared out to the rows that are scored."""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from motion_llm.dataset.rows import caption_key
from motion_llm.evaluation.rows import AskedRow, EvaluationError


@dataclass(frozen=True)
class Generated:
    """Clips from a file, by caption key and participant."""

    path: str
    clips: dict[tuple[str, str | None], list[list[int]]]
    lines: int


def read_generated(path: str | Path) -> Generated:
    """JSON Lines of text_query and motion_tokens ("42 18 91" or a list), and participant_id where one was asked for.

    Codes out of the codebook and empty clips are taken as they are, for they are what valid_share counts.
    Raises EvaluationError naming file and line for anything else.
    """
    clips: dict[tuple[str, str | None], list[list[int]]] = defaultdict(list)
    count = 0
    with open(path, encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            where = f"{path}: line {number}"
            try:
                content = json.loads(line)
            except json.JSONDecodeError as error:
                raise EvaluationError(f"{where} is not JSON ({error.msg} at column {error.colno})") from None
            if not isinstance(content, dict) or not isinstance(content.get("text_query"), str):
                raise EvaluationError(f"{where}: {line.strip()[:80]!r}, expected an object with text_query (text) and "
                                      "motion_tokens")
            person = content.get("participant_id")
            if person is not None and (isinstance(person, bool) or not isinstance(person, str | int)):
                raise EvaluationError(f"{where}: participant_id is {person!r}, expected text or an integer")
            codes = _codes(content.get("motion_tokens"), where)
            clips[caption_key(content["text_query"]), None if person is None else str(person)].append(codes)
            count += 1
    if not count:
        raise EvaluationError(f"{path} is empty, expected JSON Lines of text_query and motion_tokens")
    return Generated(str(path), dict(clips), count)


def _codes(tokens: object, where: str) -> list[int]:
    if isinstance(tokens, str):
        try:
            return [int(token) for token in tokens.split()]
        except ValueError:
            raise EvaluationError(f"{where}: motion_tokens is {tokens[:60]!r}, expected integers with spaces between"
                                  ) from None
    if isinstance(tokens, list) and all(isinstance(token, int) and not isinstance(token, bool) for token in tokens):
        return tokens
    raise EvaluationError(f"{where}: motion_tokens is {str(tokens)[:60]!r}, expected "
                          "\"42 18 91\" or a list of integers")


def match(generated: Generated, rows: Sequence[AskedRow], most: int) -> tuple[list[list[list[int]]], list[str]]:
    """Clips for each row, as many for all, at most `most`; and notes.

    A row takes the clips of its caption and participant; where none name the participant, those of the caption
    without one. The rows of one caption and participant share its clips out in their order, and use them again where
    there are fewer clips than rows. Raises EvaluationError naming the rows for which there is no clip.
    """
    places: dict[tuple, list[int]] = defaultdict(list)
    missing = []
    for i, row in enumerate(rows):
        key = next((key for key in ((row.key, row.participant_id), (row.key, None)) if key in generated.clips), None)
        if key is None:
            missing.append(row)
        else:
            places[key].append(i)
    if missing:
        row = missing[0]
        raise EvaluationError(f"{generated.path}: no clip for {len(missing)} of {len(rows)} rows, the first is row "
                              f"{row.index}: {row.text_query!r}, participant {row.participant_id!r}")
    samples = min(most, *(max(1, len(generated.clips[key]) // len(own)) for key, own in places.items()))
    found: list[list[list[int]]] = [[] for _ in rows]
    notes, again, used = [], 0, 0
    for key, own in places.items():
        clips = generated.clips[key]
        again += len(own) > len(clips)
        used += min(len(clips), len(own) * samples)
        for turn, i in enumerate(own):
            found[i] = [clips[(turn + k * len(own)) % len(clips)] for k in range(samples)]
    if again:
        notes.append(f"{generated.path} has fewer clips than there are rows for {again} captions with participant; "
                     "their clips are used again")
    if used < generated.lines:
        notes.append(f"{generated.path}: {used} of {generated.lines} clips are scored, the others are not asked for, "
                     f"or more than {samples} a row")
    return found, notes
