"""A page to see what a model has learned: captions of held-out clips, each with a generated clip and the real one."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from rapidfuzz import fuzz

from generate import MotionGenerator
from motion_llm.dataset.rows import caption_key
from motion_llm.decoding.request import MotionRequest
from motion_llm.viewer.page import write_page

CAPTIONS = 6
DOT = "\u00a0\u00b7 "  # stays on the line of what is before it


def write_gallery(path: str | Path, generator: MotionGenerator, rows: Sequence[Mapping], seed: int) -> list[str]:
    """Write a page with CAPTIONS captions of held-out rows, as different as possible: for each the generated clip, and
    beside it the real one, decoded from its codes. Returns the captions.

    rows: text_query, codes, participant_id and kind ("seen" or "unseen"). The model's folder has to contain its codec.
    Raises GenerationError, CodecError, OSError.
    """
    chosen = most_different(rows, CAPTIONS)
    results = generator.answer([MotionRequest(text=row["text_query"], participant_id=row["participant_id"])
                                for row in chosen], seed=seed)
    clips = []
    for row, result in zip(chosen, results, strict=True):
        label = "generated" if row["kind"] == "seen" else "generated, new caption"
        clips += [generator.clip(result.codes, row["text_query"], f"{label}{DOT}"),
                  generator.clip(row["codes"], row["text_query"], f"real, through the codec{DOT}")]
    write_page(path, clips, group=2)
    return [row["text_query"] for row in chosen]


def most_different(rows: Sequence[Mapping], count: int) -> list[Mapping]:
    """At most `count` rows of different captions: the first one, then each time the row whose largest similarity to a
    chosen row is least."""
    candidates = list({caption_key(row["text_query"]): row for row in reversed(rows)}.values())[::-1]
    chosen = candidates[:1]
    while chosen and len(chosen) < min(count, len(candidates)):
        remaining = [row for row in candidates if row not in chosen]
        chosen.append(min(remaining, key=lambda row: max(_similarity(row, other) for other in chosen)))
    return chosen


def _similarity(row: Mapping, other: Mapping) -> float:
    """0 to 1: the larger of the captions' similarity (words in any order) and of the share of the shorter clip's codes
    that the other clip has too."""
    words = fuzz.token_set_ratio(caption_key(row["text_query"]), caption_key(other["text_query"])) / 100
    common = (Counter(row["codes"]) & Counter(other["codes"])).total()
    return max(words, common / min(len(row["codes"]), len(other["codes"])))
