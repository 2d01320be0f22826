"""Numbers, words and lines in the text of BVH files."""

import math
import re

import numpy as np

IN_NUMBERS = b"0123456789+-.eE \t\n\v\f"


def counts_of(content: bytes) -> np.ndarray:
    """Words of each line of ASCII text."""
    data = np.frombuffer(b" " + content + b"\n", np.uint8)
    word = data > 32
    ends = np.flatnonzero(data == 10)
    return np.diff(np.searchsorted(np.flatnonzero(word[1:] > word[:-1]), ends), prepend=0)


def number_of(word: str) -> float | None:
    """A finite number, or None; unlike float(), not "nan", "inf" or "1_0"."""
    if not re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", word, re.ASCII):
        return None
    value = float(word)
    return value if math.isfinite(value) else None


def breaks_in(content: bytes) -> int:
    """Number of line breaks."""
    return len(re.findall(rb"\r\n|\r|\n", content))
