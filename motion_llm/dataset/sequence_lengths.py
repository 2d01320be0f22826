"""Which rows fit the positions of a model, exactly, once its tokenizer is there."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from motion_llm.dataset.rows import Columns
from templates import MotionTemplate

SHOWN = 10  # rows that are described
TOKENS_A_LETTER = 4  # a letter that a tokenizer does not know is written as its bytes, at most 4
_SIMPLE = np.array([chr(byte).isascii() and (chr(byte).isalnum() or chr(byte) in " .,;:!?'-") for byte in range(256)])


@dataclass
class Unfit:
    """Rows that do not fit. largest: positions that the longest example needs. first: what to say of some of them."""

    count: int = 0
    largest: int = 0
    first: list[str] = field(default_factory=list)


def find_unfit(chunks: Iterable[Columns], template: MotionTemplate, tasks: set[str], positions: int) -> Unfit:
    """Every row in every task that it may be given, against `positions`. Raises ValueError for a caption that cannot
    be written without control ids."""
    unfit = Unfit()
    for chunk in chunks:
        places = _uncertain(chunk, template, tasks, positions)
        texts, codes = [chunk.texts[place] for place in places], np.diff(chunk.ends)[places]
        distinct = list(set(texts))
        tokens = dict(zip(distinct, template.encode_text.counts(distinct), strict=True))
        text_tokens = np.array([tokens[text] for text in texts], np.int64)
        needed = {task: template.length(task, text_tokens, codes) for task in tasks}
        longest = np.max(list(needed.values()), axis=0)
        for i in np.flatnonzero(longest > positions).tolist():
            unfit.count, unfit.largest = unfit.count + 1, max(unfit.largest, int(longest[i]))
            if unfit.count <= SHOWN:
                task = max(task for task in tasks if needed[task][i] == longest[i])
                unfit.first.append(f"row {chunk.index[places[i]]} needs {longest[i]} in {task} ({codes[i]} motion "
                                   f"tokens, {texts[i][:40]!r})")
    return unfit


def _uncertain(chunk: Columns, template: MotionTemplate, tasks: set[str], positions: int) -> np.ndarray:
    """Places of the rows whose caption has to be encoded, which is slow, to know whether they fit.

    The others fit with TOKENS_A_LETTER ids for each letter, and hold nothing but letters, digits and simple marks, so
    nothing that any tokenizer makes a control id of.
    """
    letters = np.diff(chunk.texts.ends)
    tokens = TOKENS_A_LETTER * (letters + 1)
    most = np.max([template.length(task, tokens, np.diff(chunk.ends)) for task in tasks], axis=0)
    odd = np.concatenate([[0], np.cumsum(~_SIMPLE[chunk.texts.data])])
    return np.flatnonzero((most > positions) | (odd[chunk.texts.ends[1:]] > odd[chunk.texts.ends[:-1]]))
