"""95 % intervals of a set's metrics without repeated generation: the bootstrap over captions, with all clips of each.

FID, KID, Diversity and divergences of a set of clips are computed again for sets in which each clip counts as often as
its caption was drawn, the generated and the real clips of a caption together. Such a set has fewer different clips, and
that raises FID and divergences: FID of two sets of one distribution about doubles. So only how much they vary is taken
from them: their quantiles are moved by the mean difference to the set itself. The interval is of the value that other
captions, as many, would give; it does not correct the bias of few clips, which the value has too. KID and Diversity
leave out pairs of a clip with itself, and hardly move.

Measured on Gaussians, 200 pairs of 60 clips in 4 dimensions and 60 pairs of 100 clips in 32: the interval holds the
mean of many such sets in 94 to 100 % of the cases for FID, 93 to 100 % for KID, 89 to 92 % for Diversity. The 100 % are
two sets of one distribution: there the intervals of FID and KID are 1.5 to 2.3 times as wide as they need be.
"""

from collections.abc import Sequence

import numpy as np

from motion_llm.evaluation.intervals import LEVEL, Estimate

REPEATS = 400
_BLOCK = 1024


def clip_weights(captions: Sequence, rng: np.random.Generator, repeats: int = REPEATS) -> np.ndarray:
    """(repeats, N): how often each clip counts, if as many captions as there are are drawn with replacement. captions:
    of each clip."""
    distinct = {caption: i for i, caption in enumerate(dict.fromkeys(captions))}
    places = np.array([distinct[caption] for caption in captions])
    draws = rng.multinomial(len(distinct), np.full(len(distinct), 1 / len(distinct)), size=repeats)
    return draws[:, places].astype(np.float64)


def around(value: float, resampled: np.ndarray, n: int, least: float = -np.inf) -> Estimate:
    """The value with an interval as wide as the resampled values (repeats,) spread around their mean; those that are
    not finite do not count. least: that the metric can be."""
    resampled = resampled[np.isfinite(resampled)]
    if len(resampled) < 2:
        return Estimate(value, None, None, n)
    low, high = np.quantile(resampled - resampled.mean(), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(value, float(max(least, min(value, value + low))), float(max(value, value + high)), n)


def fids(a: np.ndarray, b: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(repeats,): Frechet distance of (N, d) and (N, d) whose rows count weights (repeats, N); see
    embedding_metrics.fid."""
    (mean_a, cov_a), (mean_b, cov_b) = (_moments(x.astype(np.float64), weights) for x in (a, b))
    values, vectors = np.linalg.eigh(cov_a)
    root = (vectors * np.sqrt(np.maximum(values, 0))[:, None, :]) @ vectors.transpose(0, 2, 1)
    shared = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ cov_b @ root), 0)).sum(1)
    traces = np.trace(cov_a, axis1=1, axis2=2) + np.trace(cov_b, axis1=1, axis2=2)
    return np.maximum(0, ((mean_a - mean_b) ** 2).sum(1) + traces - 2 * shared)


def _moments(x: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means (repeats, d) and covariances (repeats, d, d)."""
    totals = weights.sum(1)[:, None]
    means = weights @ x / totals
    centred = x - x.mean(0)
    shift = means - x.mean(0)
    squares = np.stack([(centred * w[:, None]).T @ centred for w in weights]) / totals[..., None]
    cov = squares - shift[:, :, None] * shift[:, None, :]
    return means, cov * (totals / np.maximum(totals - 1, 1))[..., None]


def kids(a: np.ndarray, b: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(repeats,): kernel distance of (N, d) and (N, d) whose rows count weights; see embedding_metrics.kid."""
    a, b = a.astype(np.float64), b.astype(np.float64)

    def kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return (x @ y.T / x.shape[1] + 1) ** 3

    between = _sums(a, b, weights, kernel) / weights.sum(1) ** 2
    return _of_pairs(a, weights, kernel) + _of_pairs(b, weights, kernel) - 2 * between


def diversities(embeddings: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(repeats,): mean distance of two clips of (N, d) whose rows count weights; see embedding_metrics.diversity."""
    def distance(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        squares = (x * x).sum(1)[:, None] + (y * y).sum(1)[None, :] - 2 * x @ y.T
        return np.sqrt(np.maximum(squares, 0))

    return _of_pairs(embeddings.astype(np.float64), weights, distance)


def _sums(x: np.ndarray, y: np.ndarray, weights: np.ndarray, pair) -> np.ndarray:
    """(repeats,): sum over all pairs of pair(x, y), times the weights of both."""
    total = np.zeros(len(weights))
    for start in range(0, len(x), _BLOCK):
        part = slice(start, start + _BLOCK)
        total += (weights[:, part].T * (pair(x[part], y) @ weights.T)).sum(0)
    return total


def _of_pairs(x: np.ndarray, weights: np.ndarray, pair) -> np.ndarray:
    """(repeats,): mean of pair over pairs of two different rows; nan for a repeat with fewer than two."""
    itself = np.concatenate([np.diagonal(pair(x[i:i + 64], x[i:i + 64])) for i in range(0, len(x), 64)])
    squares = weights ** 2
    pairs = weights.sum(1) ** 2 - squares.sum(1)
    return np.where(pairs > 0, _sums(x, x, weights, pair) - squares @ itself, np.nan) / np.maximum(pairs, 1)


def divergences(clips: Sequence[Sequence[int]], others: Sequence[Sequence[int]], n: int, weights: np.ndarray
                ) -> np.ndarray:
    """(repeats,): Jensen-Shannon divergence in bits of the n-grams of two sets of N clips whose clips count weights;
    see metrics.ngram_jsd. nan for a repeat without n-grams."""
    grams: dict[tuple, int] = {}
    counted = []
    for part in (clips, others):
        pairs = [(i, grams.setdefault(tuple(clip[k:k + n]), len(grams))) for i, clip in enumerate(part)
                 for k in range(len(clip) - n + 1)]
        counted.append(np.array(pairs, np.int64).reshape(-1, 2))
    result = np.full(len(weights), np.nan)
    for repeat, of_clip in enumerate(weights):
        p, q = (np.bincount(pairs[:, 1], of_clip[pairs[:, 0]], len(grams)) for pairs in counted)
        if p.sum() and q.sum():
            p, q = p / p.sum(), q / q.sum()
            middle = (p + q) / 2
            result[repeat] = sum((part[part > 0] * np.log2(part[part > 0] / middle[part > 0])).sum()
                                 for part in (p, q)) / 2
    return result
