"""Which rows fit the positions of a model: an exact check with its tokenizer."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np

from motion_llm.dataset.rows import Columns
from templates import MotionTemplate

SHOWN = 10  # rows that are described
TOKENS_A_LETTER = 4  # a letter that is not in the vocabulary is encoded as its bytes, at most 4
_SIMPLE = np.array([chr(byte).isascii() and (chr(byte).isalnum() or chr(byte) in " .,;:!?'-") for byte in range(256)])


@dataclass
class Unfit:
    """Rows that do not fit. largest: positions that the longest example needs. first: texts on the first SHOWN."""

    count: int = 0
    largest: int = 0
    first: list[str] = field(default_factory=list)


def find_unfit(chunks: Iterable[Columns], template: MotionTemplate, tasks: set[str], positions: int,
               name_of: Callable[[int], str] = "row {}".format) -> Unfit:
    """Check every row in each of the tasks against `positions`. name_of: how the texts name the row at a position in
    the file, see Report.name_of(). Raises ValueError for a caption that cannot be encoded without control ids."""
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
                unfit.first.append(f"{name_of(int(chunk.index[places[i]]))} needs {longest[i]} in {task} ({codes[i]} "
                                   f"motion tokens, {texts[i][:40]!r})")
    return unfit


def _uncertain(chunk: Columns, template: MotionTemplate, tasks: set[str], positions: int) -> np.ndarray:
    """Places of the rows whose caption has to be encoded, which is slow, to know whether they fit.

    The others fit with TOKENS_A_LETTER ids for each letter, and hold only ASCII letters, digits and simple punctuation,
    from which no tokenizer makes a control id.
    """
    text_bytes = np.diff(chunk.texts.ends)
    tokens = TOKENS_A_LETTER * (text_bytes + 1)
    upper_bound = np.max([template.length(task, tokens, np.diff(chunk.ends)) for task in tasks], axis=0)
    special = np.concatenate([[0], np.cumsum(~_SIMPLE[chunk.texts.data])])  # bytes so far that are not simple
    return np.flatnonzero((upper_bound > positions) | (special[chunk.texts.ends[1:]] > special[chunk.texts.ends[:-1]]))
