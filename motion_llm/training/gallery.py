"""A page to see what a model has learned: captions of held-out clips, what it makes of each, and the real clip."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from rapidfuzz import fuzz

from generate import MotionGenerator
from motion_llm.dataset.rows import caption_key
from motion_llm.decoding.request import MotionRequest
from motion_llm.viewer.page import write_page

CAPTIONS = 6


def write_gallery(path: str | Path, generator: MotionGenerator, rows: Sequence[Mapping], seed: int) -> list[str]:
    """Six captions as unlike as can be of held-out rows (text_query, codes, participant_id and kind, "seen" or
    "unseen"); of each the model's clip, and beside it the real one, as the codec gives it back from its codes. Gives
    the captions. The model's folder has to know its codec. Raises GenerationError, CodecError, OSError."""
    chosen = spread(rows, CAPTIONS)
    results = generator.answer([MotionRequest(text=row["text_query"], participant_id=row["participant_id"])
                                for row in chosen], seed=seed)
    clips = []
    for row, result in zip(chosen, results, strict=True):
        trained = "generated" if row["kind"] == "seen" else "generated, new caption"
        clips += [generator.clip(result.codes, row["text_query"], f"{trained} \u00b7 "),
                  generator.clip(row["codes"], row["text_query"], "real, through the codec \u00b7 ")]
    write_page(path, clips, group=2)
    return [row["text_query"] for row in chosen]


def spread(rows: Sequence[Mapping], count: int) -> list[Mapping]:
    """At most so many rows of different captions: the first one, then each time the row that is least like those
    before, in its words or in the codes of its clip, whichever are more alike."""
    found = list({caption_key(row["text_query"]): row for row in reversed(rows)}.values())[::-1]
    chosen = found[:1]
    while chosen and len(chosen) < min(count, len(found)):
        left = [row for row in found if row not in chosen]
        chosen.append(min(left, key=lambda row: max(_likeness(row, other) for other in chosen)))
    return chosen


def _likeness(row: Mapping, other: Mapping) -> float:
    """0 to 1: of words in any order, or the share of the shorter clip's codes that the other one has as well."""
    words = fuzz.token_set_ratio(caption_key(row["text_query"]), caption_key(other["text_query"])) / 100
    common = (Counter(row["codes"]) & Counter(other["codes"])).total()
    return max(words, common / min(len(row["codes"]), len(other["codes"])))
