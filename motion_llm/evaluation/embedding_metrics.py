"""The usual metrics on embeddings of motions and captions: arrays in, numbers out.

R-Precision, MM-Dist, Diversity and MultiModality are from Guo et al. 2022, "Generating Diverse and Natural 3D Human
Motions from Text", where they are computed on embeddings of an evaluator trained for it, as here.
"""

from collections.abc import Sequence

import numpy as np

POOL = 32  # captions among which the caption of a motion is ranked
TOPS = (1, 2, 3)
DEFINED_SAMPLES = 30  # clips a caption that MultiModality is defined with
_BLOCK = 1024  # rows of a distance matrix at once


def _distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(N, d), (M, d) -> (N, M) Euclidean distances."""
    squares = (a * a).sum(1)[:, None] + (b * b).sum(1)[None, :] - 2 * a @ b.T
    return np.sqrt(np.maximum(squares, 0))


def retrieval_hits(motions: np.ndarray, captions: np.ndarray, caption_index: np.ndarray, rng: np.random.Generator,
                   pool: int = POOL, also: Sequence[Sequence[int]] | None = None) -> np.ndarray:
    """Whether each motion's own caption is among the nearest 1, 2 and 3 of its pool: (N, 3) bool (Guo et al. 2022).

    motions: (N, d). captions: (C, d), distinct ones. caption_index: (N,), of each motion's own caption. The pool is the
    own caption and pool - 1 others drawn for each motion, or all C if there are fewer. also: for each motion the
    indices of other captions of the same real clip, which are right too, so no rivals. In a tie the own caption comes
    last, so an evaluator that embeds everything alike has no hits. Raises ValueError for fewer than two captions.
    """
    if len(captions) < 2:
        raise ValueError(f"{len(captions)} distinct captions, expected two or more")
    size = min(pool, len(captions))
    hits = np.empty((len(motions), len(TOPS)), bool)
    for start in range(0, len(motions), _BLOCK):
        places = caption_index[start:start + _BLOCK]
        distances = _distances(motions[start:start + _BLOCK], captions)  # (B, C)
        own_distances = distances[np.arange(len(places)), places]
        order = rng.random(distances.shape)
        order[np.arange(len(places)), places] = np.inf  # the own caption is in every pool, but is no rival
        for i, others in enumerate(() if also is None else also[start:start + _BLOCK]):
            order[i, others] = distances[i, others] = np.inf  # where the pool takes all captions: never nearer
        rivals = np.argpartition(order, size - 2, axis=1)[:, :size - 1]  # (B, size - 1)
        nearer = (np.take_along_axis(distances, rivals, 1) <= own_distances[:, None]).sum(1)
        hits[start:start + _BLOCK] = nearer[:, None] < np.array(TOPS)
    return hits


def r_precision(motions: np.ndarray, captions: np.ndarray, caption_index: np.ndarray, rng: np.random.Generator,
                pool: int = POOL) -> np.ndarray:
    """R-Precision at 1, 2 and 3, (3,): the means of `retrieval_hits`. Chance is 1, 2 and 3 over the pool's size."""
    return retrieval_hits(motions, captions, caption_index, rng, pool).mean(0)


def chance(captions: int, pool: int = POOL) -> np.ndarray:
    """(3,): R-Precision of guessing among `captions` distinct captions."""
    return np.minimum(np.array(TOPS) / min(pool, captions), 1)


def caption_distances(motions: np.ndarray, captions: np.ndarray, caption_index: np.ndarray) -> np.ndarray:
    """(N,): Euclidean distance of each motion (N, d) to its own caption, captions[caption_index]."""
    return np.linalg.norm(motions - captions[caption_index], axis=1)


def mm_dist(motions: np.ndarray, captions: np.ndarray, caption_index: np.ndarray) -> float:
    """MultiModal Distance: the mean of `caption_distances` (Guo et al. 2022)."""
    return float(caption_distances(motions, captions, caption_index).mean())


def _covariance_root(covariance: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(covariance)
    return vectors * np.sqrt(np.maximum(values, 0)) @ vectors.T


def fid(a: np.ndarray, b: np.ndarray) -> float:
    """Frechet distance of the Gaussians fitted to (N, d) and (M, d) (Heusel et al. 2017):
    |mean_a - mean_b|^2 + tr(A + B - 2 (A B)^(1/2)), A and B the covariances.

    tr (A B)^(1/2) is computed as the trace of the root of A^(1/2) B A^(1/2), which is symmetric, so its eigenvalues are
    real and not negative even if a covariance is singular. FID is biased upwards for few clips, so only sets of one
    size can be compared. Raises ValueError for fewer than two clips in a set.
    """
    if min(len(a), len(b)) < 2:
        raise ValueError(f"{len(a)} and {len(b)} clips, expected two or more of each")
    a, b = a.astype(np.float64), b.astype(np.float64)
    cov_a, cov_b = np.atleast_2d(np.cov(a, rowvar=False)), np.atleast_2d(np.cov(b, rowvar=False))
    root = _covariance_root(cov_a)
    shared = np.linalg.eigvalsh(root @ cov_b @ root)
    gap = a.mean(0) - b.mean(0)
    value = gap @ gap + np.trace(cov_a) + np.trace(cov_b) - 2 * np.sqrt(np.maximum(shared, 0)).sum()
    return max(0.0, float(value))


def kid(a: np.ndarray, b: np.ndarray) -> float:
    """Kernel distance of (N, d) and (M, d): the unbiased estimate of the squared maximum mean discrepancy under the
    kernel (x y / d + 1)^3 (Binkowski et al. 2018), over all clips rather than subsets of them.

    Its mean is 0 for two sets from one distribution, whatever their sizes, so it can be negative.
    Raises ValueError for fewer than two clips in a set.
    """
    if min(len(a), len(b)) < 2:
        raise ValueError(f"{len(a)} and {len(b)} clips, expected two or more of each")
    a, b = a.astype(np.float64), b.astype(np.float64)

    def kernel(x: np.ndarray, y: np.ndarray) -> float:
        """The sum over all pairs of rows."""
        return sum(((x[start:start + _BLOCK] @ y.T / x.shape[1] + 1) ** 3).sum() for start in range(0, len(x), _BLOCK))

    def within(x: np.ndarray) -> float:
        """The mean over pairs of two different rows."""
        of_itself = (((x * x).sum(1) / x.shape[1] + 1) ** 3).sum()
        return (kernel(x, x) - of_itself) / (len(x) * (len(x) - 1))

    return float(within(a) + within(b) - 2 * kernel(a, b) / (len(a) * len(b)))


def diversity(embeddings: np.ndarray) -> float:
    """Mean Euclidean distance of two clips of (N, d), over all pairs; Guo et al. 2022 estimate it from 300 pairs.
    Raises ValueError for fewer than two clips."""
    count = len(embeddings)
    if count < 2:
        raise ValueError(f"{count} clips, expected two or more")
    total = sum(_distances(embeddings[start:start + _BLOCK], embeddings).sum() for start in range(0, count, _BLOCK))
    return float(total / (count * (count - 1)))


def sample_distances(samples: np.ndarray) -> np.ndarray:
    """(C, S, d), S clips of each caption -> (C,): mean distance of two clips of it, over all pairs.
    Raises ValueError for fewer than two clips a caption."""
    captions, count = samples.shape[:2]
    if count < 2:
        raise ValueError(f"{count} clips a caption, expected two or more")
    total = np.zeros(captions)
    for i in range(count - 1):  # all pairs at once of a caption with thousands of clips do not fit in memory
        total += np.linalg.norm(samples[:, i + 1:] - samples[:, i:i + 1], axis=2).sum(1)
    return total / (count * (count - 1) / 2)


def multimodality(samples: np.ndarray) -> float:
    """Mean distance of clips of one caption (Guo et al. 2022): the mean of `sample_distances`. Defined with
    DEFINED_SAMPLES clips a caption; fewer clips estimate the same value with more variance."""
    return float(sample_distances(samples).mean())
