"""Generated clips from a file, and how they are assigned to the rows that are scored."""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from motion_llm.dataset.rows import caption_key
from motion_llm.evaluation.rows import EvaluationError, EvaluationRow


@dataclass(frozen=True)
class Generated:
    """Clips from a file, by caption key and participant."""

    path: str
    clips: dict[tuple[str, str | None], list[list[int]]]
    lines: int


def read_generated(path: str | Path) -> Generated:
    """JSON Lines of text_query, motion_tokens ("42 18 91" or a list) and, if the clip has one, participant_id.

    Codes outside the codebook and empty clips are accepted, as valid_share counts them.
    Raises EvaluationError naming file and line for anything else.
    """
    clips: dict[tuple[str, str | None], list[list[int]]] = defaultdict(list)
    count = 0
    with open(path, encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            location = f"{path}: line {number}"
            try:
                content = json.loads(line)
            except json.JSONDecodeError as error:
                raise EvaluationError(f"{location} is not JSON ({error.msg} at column {error.colno})") from None
            if not isinstance(content, dict) or not isinstance(content.get("text_query"), str):
                raise EvaluationError(f"{location}: {line.strip()[:80]!r}, expected an object with text_query (text) "
                                      "and motion_tokens")
            participant = content.get("participant_id")
            if participant is not None and (isinstance(participant, bool) or not isinstance(participant, str | int)):
                raise EvaluationError(f"{location}: participant_id is {participant!r}, expected text or an integer")
            codes = _codes(content.get("motion_tokens"), location)
            clips[caption_key(content["text_query"]), None if participant is None else str(participant)].append(codes)
            count += 1
    if not count:
        raise EvaluationError(f"{path} is empty, expected JSON Lines of text_query and motion_tokens")
    return Generated(str(path), dict(clips), count)


def _codes(tokens: object, location: str) -> list[int]:
    if isinstance(tokens, str):
        try:
            return [int(token) for token in tokens.split()]
        except ValueError:
            raise EvaluationError(f"{location}: motion_tokens is {tokens[:60]!r}, expected integers with spaces between"
                                  ) from None
    if isinstance(tokens, list) and all(isinstance(token, int) and not isinstance(token, bool) for token in tokens):
        return tokens
    raise EvaluationError(f"{location}: motion_tokens is {str(tokens)[:60]!r}, expected "
                          "\"42 18 91\" or a list of integers")


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
