"""95 % intervals of a metric, by resampling captions or from repeated generation; those of a set that was generated
once are in set_intervals.py."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np

LEVEL = 0.95
# Student's t, the 97.5 % quantile for 1 to 30 degrees of freedom; beyond them the normal distribution's 1.960.
_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120,
      2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042)


@dataclass(frozen=True)
class Estimate:
    """A value with the ends of its 95 % interval, None without one, from n clips of the data, each of which may have
    been generated several times (n of MModality: captions). value None: not available."""

    value: float | None
    low: float | None
    high: float | None
    n: int

    def to_dict(self) -> dict:
        return asdict(self)


NOT_AVAILABLE = Estimate(None, None, None, 0)


def bootstrap(values_by_caption: np.ndarray, statistic: Callable[[np.ndarray], float], rng: np.random.Generator,
              repeats: int = 1000) -> tuple[float, float, float]:
    """statistic(values_by_caption) and its 95 % percentile interval (Efron 1979): value, low, high.

    values_by_caption: (captions, ...), the statistic's input for each caption. Captions, not clips, are drawn with
    replacement, as clips of one caption are similar and not independent. For a single caption the interval is its
    value. Raises ValueError for no captions.
    """
    values = np.asarray(values_by_caption)
    if not len(values):
        raise ValueError("no captions to draw from")
    draws = rng.integers(0, len(values), (repeats, len(values)))
    statistics = np.array([statistic(values[draw]) for draw in draws])
    low, high = np.quantile(statistics, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(statistic(values)), float(low), float(high)


def mean_over_captions(values: Sequence[float | None], captions: Sequence, rng: np.random.Generator,
                       repeats: int = 1000, weights: Sequence[float] | None = None, clips: Sequence | None = None
                       ) -> Estimate:
    """The mean of values with an interval over captions.

    values: (N,); one that is None does not count. captions: (N,), of each value. weights: (N,), default 1. clips: (N,),
    which clip of the data each value is of, by default another one each; the n of the result counts different ones.
    """
    sums: dict = {}
    counted = set()
    for place, (value, caption) in enumerate(zip(values, captions, strict=True)):
        if value is not None:
            weight = 1.0 if weights is None else weights[place]
            counted.add(place if clips is None else clips[place])
            total, count = sums.get(caption, (0.0, 0.0))
            sums[caption] = (total + weight * float(value), count + weight)
    if not sums:
        return NOT_AVAILABLE
    table = np.array(list(sums.values()))  # (captions, 2)
    return Estimate(*bootstrap(table, lambda rows: rows[:, 0].sum() / rows[:, 1].sum(), rng, repeats), len(counted))


def over_repeats(values: Sequence[float | None], n: int) -> Estimate:
    """The mean of a metric of a whole set over repeated generations of the set, with Student's interval.

    The interval covers how much generating varies, but not the choice of captions. One repeat has none here, see
    set_intervals.py. n: clips in each repeat.
    """
    if not values or any(value is None for value in values):
        return NOT_AVAILABLE
    mean = math.fsum(values) / len(values)
    if len(values) == 1:
        return Estimate(mean, None, None, n)
    spread = float(np.std(values, ddof=1)) / math.sqrt(len(values))
    margin = (_T[len(values) - 2] if len(values) - 1 <= len(_T) else 1.960) * spread
    return Estimate(mean, mean - margin, mean + margin, n)
