"""The evaluation's table for each stream of motions that have several: a stream's own codes beside the real clips'."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from motion_llm.evaluation.metric_names import (
    ANOTHER,
    FROM_REFERENCES,
    METRICS,
    MODEL,
    NEAREST,
    RANDOM,
    REAL,
    STREAM_METRICS,
    Table,
    blank,
)
from motion_llm.evaluation.stream_clips import Sums, columns
from motion_llm.evaluation.table import ClipSet, Judge, nll_estimates, score_row

ROWS = (MODEL, REAL, ANOTHER, NEAREST, RANDOM)


def score_streams(judge: Judge, nll: Mapping[str, Sums], tasks: Mapping[str, Table]) -> dict[str, Table]:
    """Stream -> the table of its own codes: of STREAM_METRICS, for the clips of judge.sets and `tasks`.

    A stream's figures are of the clips and real clips that have it. nll: stream -> Sums of its tokens, or {}. tasks:
    stream -> rows with the figures of lost tokens. {} for one stream.
    """
    if judge.streams.count == 1:
        return {}
    tables = {}
    for stream, name in enumerate(judge.streams.names):
        own = _judge_of(judge, stream)
        table = {row: score_row(own, [_set_of(own, judge, clip_set, stream) for clip_set in judge.sets[row]],
                                FROM_REFERENCES if row == REAL else ()) for row in ROWS if row in judge.sets}
        for split, estimate in nll_estimates(nll.get(name), judge.rows, judge.seed).items():
            table[MODEL][split]["nll_per_token"] = estimate
        for row, splits in tasks.get(name, {}).items():
            whole = table.setdefault(row, blank(METRICS))
            for split, estimates in splits.items():
                whole[split] |= estimates
        tables[name] = {row: {split: {metric: estimates[metric] for metric in STREAM_METRICS}
                              for split, estimates in splits.items()} for row, splits in table.items()}
    return tables


def _judge_of(judge: Judge, stream: int) -> Judge:
    rows = [replace(row, codes=_own(row.codes, judge, stream)) for row in judge.rows]
    return Judge(rows, judge.streams.sizes[stream], None, None, judge.seed)


def _set_of(own: Judge, judge: Judge, clip_set: ClipSet, stream: int) -> ClipSet:
    """The clips whose row has the stream, or that have it themselves."""
    clips = [_own(clip, judge, stream) for clip in clip_set.clips]
    kept = [k for k, place in enumerate(clip_set.places) if clips[k] or own.rows[place].codes]
    # References of a clip without the stream would tell how long they are, and nothing more.
    references = [[codes for codes in (_own(codes, judge, stream) for codes in clip_set.references[k]) if codes]
                  if clips[k] else [] for k in kept]
    return ClipSet([clips[k] for k in kept], [clip_set.places[k] for k in kept], clip_set.captions[kept],
                   [[] for _ in kept], references, [clip_set.real[k] for k in kept])


def _own(clip: Sequence[int], judge: Judge, stream: int) -> list[int]:
    """The stream's own codes, from 0; none where it is absent."""
    start = int(judge.streams.starts[stream])
    return [code - start for code in columns(clip, judge.streams.count)[stream]]
