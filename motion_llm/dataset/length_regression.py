"""The expected length of a motion from the words of a caption without training clips: a ridge regression."""

import math
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

DIMENSIONS = 4096  # features are hashed into so many (Weinberger et al. 2009)
MOST_FITTED = 2_500  # captions, those with most clips. Takes about a second; the time grows with the cube of the number
RIDGE = 0.03  # penalty for a caption with one clip; chosen by length error (docs/log.md)
DEVIATIONS = 2.0  # either side of the expected log length: 95 % of a normal distribution


def words_of(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def features(text: str) -> np.ndarray:
    """(DIMENSIONS,), a unit vector, or zeros for a text without words: its words, the ordered pairs of words (adjacent
    or not), and pieces of 3 and 4 letters, so that "jumping" is like "jumps"."""
    words = words_of(text)
    spaced = f" {' '.join(words)} "
    names = [f"word {word}" for word in words]
    names += [f"pair {word} {later}" for i, word in enumerate(words) for later in words[i + 1:]]
    names += [f"piece {spaced[i:i + size]}" for size in (3, 4) for i in range(len(spaced) - size + 1) if words]
    vector = np.zeros(DIMENSIONS)
    for name in names:
        crc = zlib.crc32(name.encode())
        vector[crc % DIMENSIONS] += 1 if crc >> 31 else -1  # signs, so that collisions cancel out on average
    norm = np.linalg.norm(vector)
    return vector / norm if norm else vector


@dataclass(frozen=True)
class LengthRegression:
    """log length = mean + weights . features(caption). weights: (DIMENSIONS,). deviation: standard deviation of a
    clip's log length around that, for captions left out of the fit."""

    mean: float
    weights: np.ndarray
    deviation: float

    @classmethod
    def fit(cls, texts: Sequence[str], medians: Sequence[float], counts: Sequence[int],
            spread: float) -> "LengthRegression":
        """texts: N captions, at least one; medians: the median length of each caption's clips, in tokens; counts: the
        number of its clips; spread: the standard deviation of log length among clips of one caption.

        Ridge regression (Hoerl and Kennard 1970) in its dual form; each caption is weighted by its number of clips. The
        leave-one-out errors are computed without fitting N times (PRESS, Allen 1974).
        """
        chosen = np.argsort(-np.asarray(counts), kind="stable")[:MOST_FITTED]
        inputs = np.stack([features(texts[i]) for i in chosen])  # (N, D)
        weights = np.asarray(counts, dtype=float)[chosen]
        logs = np.log(np.asarray(medians, dtype=float)[chosen])
        mean = float(np.average(logs, weights=weights))
        inverse = np.linalg.inv(inputs @ inputs.T + RIDGE * np.diag(1 / weights))
        dual = inverse @ (logs - mean)
        errors = dual / np.diag(inverse)  # (N,), leave-one-out
        variance = float(np.average(errors**2, weights=weights)) + spread**2
        rounded = np.array([float(f"{weight:.4g}") for weight in inputs.T @ dual])  # as to_dict writes them
        return cls(mean, rounded, math.sqrt(variance))

    def expected(self, text: str) -> tuple[float, float, float]:
        """The shortest, the expected and the longest length, in tokens."""
        log = self.mean + float(features(text) @ self.weights)
        middle, factor = math.exp(log), math.exp(DEVIATIONS * self.deviation)
        return middle / factor, middle, middle * factor

    def to_dict(self) -> dict:
        return {"mean": self.mean, "deviation": self.deviation,
                "weights": " ".join(f"{weight:.4g}" for weight in self.weights)}

    @classmethod
    def from_dict(cls, content: dict) -> "LengthRegression":
        return cls(content["mean"], np.array(content["weights"].split(), dtype=float), content["deviation"])
