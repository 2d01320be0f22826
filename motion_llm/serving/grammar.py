"""The ids that an answer may hold, as a grammar for llguidance, which vLLM, SGLang and llama.cpp can decode under.

A window of 20 to 40 tokens over 512 codes, whose ids are 49152 to 49663, with <MOT_END> at 49664:

    %llguidance {}
    start: <[49152-49663]>{20,40} <[49664]>

and 20 to 40 steps of two streams, of 512 and of 64 codes:

    start: (<[49152-49663]> <[49664-49727]>){20,40} <[49728]>

It allows in every state what LengthAwareMotionLogitsProcessor allows (a test compares the two). A grammar cannot
express the soft target within the window, because that forbids nothing: `end_shift.py` adds it to vLLM.
"""

from collections.abc import Iterable

from templates import MotionVocabulary

HEADER = "%llguidance {}"  # it tells SGLang and llama.cpp that the grammar is not in their own format


def id_ranges(ids: Iterable[int]) -> str:
    """Ids as llguidance writes them, with runs as ranges: 3, 4, 5, 9 -> "3-5,9"."""
    runs: list[list[int]] = []
    for i in sorted(set(ids)):
        if runs and i == runs[-1][1] + 1:
            runs[-1][1] = i
        else:
            runs.append([i, i])
    return ",".join(f"{first}" if first == last else f"{first}-{last}" for first, last in runs)


def motion_grammar(vocabulary: MotionVocabulary, min_tokens: int, max_tokens: int,
                   codes: Iterable[int] | None = None) -> str:
    """A grammar of min_tokens to max_tokens codes, then <MOT_END>; of several streams, of so many steps, each of one
    code of every stream. codes: those allowed; None for all.

    Raises ValueError for a window that holds no length, for an empty codes, and for codes outside the codebook.
    """
    if not 1 <= min_tokens <= max_tokens:
        raise ValueError(f"length limits {min_tokens} to {max_tokens} tokens: expected 1 <= min_tokens <= max_tokens")
    streams, allowed = vocabulary.streams, None if codes is None else sorted(set(codes))
    if allowed and not 0 <= allowed[0] <= allowed[-1] < streams.size:
        wrong = next(place for place, code in enumerate(allowed) if not 0 <= code < streams.size)
        raise ValueError(f"code {allowed[wrong]} at position {wrong} is outside the codebook (0 to {streams.size - 1})")
    step = []
    for name, own in zip(streams.names, map(streams.codes_of, range(streams.count)), strict=True):
        usable = own if allowed is None else [code for code in allowed if code in own]
        if not usable:
            of = "" if streams.count == 1 else f" for {name}"
            raise ValueError(f"codes is empty{of}, expected at least one code")
        step.append(f"<[{id_ranges(vocabulary.first_motion_id + code for code in usable)}]>")
    one = step[0] if streams.count == 1 else f"({' '.join(step)})"
    return f"{HEADER}\nstart: {one}{{{min_tokens},{max_tokens}}} <[{vocabulary.end_id}]>\n"
