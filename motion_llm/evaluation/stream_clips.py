"""Clips of several streams: each stream's own codes, what is valid, and the form in which files and pages show them.

A clip is one flat sequence of codes, see motion_llm/streams.py. What counts runs of codes takes each stream by itself,
so that no run has codes of two streams.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from metrics import is_valid
from motion_llm.streams import ABSENT, ONE, TEXT, Streams, Value, level_names

Codes = Sequence[int]
Sums = Mapping[str, tuple[float, int]]  # caption key -> the sum over its real clips' tokens, and their number
ONE_STREAM = Streams.one(10**9)  # however many codes it has
INVALID = -3  # a code outside its stream's codebook in clips of another model, which has no flat code


def streams_of_model(motion_config: Mapping | None) -> Streams | None:
    """The streams of a model's motion_config.json; None without a model."""
    if motion_config is None:
        return None
    vocabulary = motion_config["vocabulary"]
    return Streams.from_dict(vocabulary["streams"]) if "streams" in vocabulary else Streams.one(
        vocabulary["codebook_size"])


def columns(clip: Codes, count: int) -> list[Codes]:
    """The flat codes of each of `count` streams of a clip (T * count,); of a stream that the clip lacks, none."""
    return [clip] if count == 1 else [[code for code in clip[stream::count] if code != ABSENT]
                                      for stream in range(count)]


def all_columns(clips: Sequence[Codes], count: int) -> Sequence[Codes]:
    """Those of all clips, `count` of each clip one after another."""
    return clips if count == 1 else [column for clip in clips for column in columns(clip, count)]


def in_a_row(clip: Codes, count: int, edge: int) -> Codes:
    """The streams that a clip has, one behind the other with an edge between: runs of codes are of one stream or have
    an edge."""
    if count == 1:
        return clip
    row: list[int] = []
    for column in filter(None, columns(clip, count)):
        row += [*([edge] if row else []), *column]
    return row


def present(clip: Codes, streams: Streams) -> tuple[str, ...]:
    """The names of the streams that a clip has."""
    return tuple(name for name, column in zip(streams.names, columns(clip, streams.count), strict=True) if column)


def decodable(clip: Codes, streams: Streams) -> bool:
    """Whether a codec can decode a clip: whole steps of codes of the streams' codebooks, and one stream or more; a
    stream may be absent from the whole clip."""
    if streams.count == 1:
        return is_valid(clip, streams.size)
    lengths = {len(column) for column in columns(clip, streams.count)} - {0}
    return lengths == {len(clip) // streams.count} and streams.problem(clip, (ABSENT,)) is None


def written(clip: Codes, streams: Streams) -> Value:
    """A clip in the dataset's form. Codes outside the codebook stay numbers."""
    return " ".join(map(str, clip)) if streams.form == TEXT else streams.written(clip)


def shown(value: Value) -> dict[str, list[int]]:
    """Name -> codes of each stream that a clip of `written` has."""
    if isinstance(value, str):
        return {ONE: [int(code) for code in value.split()]}
    if isinstance(value, Mapping):
        return {name: [int(code) for code in text.split()] for name, text in value.items() if text is not None}
    names = level_names(len(value[0])) if value else ()
    return dict(zip(names, map(list, zip(*value, strict=True)), strict=True))


def flat_codes(value: Value, streams: Streams) -> list[int]:
    """The flat codes of a clip of `written`, whatever they are."""
    own = shown(value)
    absent = [ABSENT] * max(map(len, own.values()), default=0)
    return streams.flat(np.array([own.get(name, absent) for name in streams.names], np.int64).T).tolist()


def token_nll(rows: Sequence, log_probabilities: Sequence[np.ndarray], streams: Streams) -> dict[str, dict]:
    """Stream -> Sums of the negative log-likelihood of its tokens. rows: with key and codes; log_probabilities: of each
    row's codes and end (T * Q + 1,)."""
    sums: dict[str, dict] = {name: {} for name in streams.names}
    for row, values in zip(rows, log_probabilities, strict=True):
        codes = np.array(row.codes)
        for stream, name in enumerate(streams.names):
            own = slice(stream, None, streams.count)
            there = codes[own] >= 0
            if there.any():
                total, tokens = sums[name].get(row.key, (0.0, 0))
                sums[name][row.key] = total - float(values[:-1][own][there].sum()), tokens + int(there.sum())
    return sums
