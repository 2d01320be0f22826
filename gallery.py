"""A page to see what a model has learned: captions of held-out clips, what it makes of each, and the recording."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from rapidfuzz import fuzz

from generate import MotionGenerator
from motion_request import MotionRequest
from rows import caption_key
from view import write_page

CAPTIONS = 6


def write_gallery(path: str | Path, generator: MotionGenerator, rows: Sequence[Mapping], seed: int) -> list[str]:
    """Six captions as unlike as can be of held-out rows (text_query, codes, participant_id and kind, "seen" or
    "unseen"); of each the model's clip, and beside it the recording. Gives the captions. The model's folder has to know
    its codec. Raises GenerationError, CodecError, OSError."""
    chosen = spread(rows, CAPTIONS)
    results = generator.answer([MotionRequest(text=row["text_query"], participant_id=row["participant_id"])
                                for row in chosen], seed=seed)
    clips = []
    for row, result in zip(chosen, results, strict=True):
        trained = "generated" if row["kind"] == "seen" else "generated, caption never trained"
        clips += [generator.clip(result.codes, row["text_query"], f"{trained} \u00b7 "),
                  generator.clip(row["codes"], row["text_query"], "recorded \u00b7 ")]
    write_page(path, clips, group=2)
    return [row["text_query"] for row in chosen]


def spread(rows: Sequence[Mapping], count: int) -> list[Mapping]:
    """At most so many rows of different captions: the first one, then each time the row whose words are least like
    those of the rows before."""
    found = list({caption_key(row["text_query"]): row for row in reversed(rows)}.values())[::-1]
    chosen = found[:1]
    likeness = [0.0] * len(found)
    while chosen and len(chosen) < min(count, len(found)):
        last = caption_key(chosen[-1]["text_query"])
        likeness = [max(before, fuzz.token_set_ratio(caption_key(row["text_query"]), last))
                    for before, row in zip(likeness, found, strict=True)]
        chosen.append(found[min(range(len(found)), key=lambda place: (found[place] in chosen, likeness[place]))])
    return chosen
