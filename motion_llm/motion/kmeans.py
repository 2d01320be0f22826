"""The k-means quantiser: a code is the mean of similar windows of features. It is a baseline, and fast."""

import logging
from collections.abc import Mapping, Sequence

import numpy as np

from motion_llm.motion.clip_files import with_bar
from motion_llm.motion.features import ROOT, Layout

log = logging.getLogger(__name__)
MAX_ITERATIONS = 60  # of Lloyd's algorithm, which ends earlier if no centre moves
MAX_WINDOWS = 50_000  # windows; if there are more, this many are sampled
CHUNK = 4096  # windows whose distances to all centres are in memory at a time
RATE_WEIGHT = 0.33  # of velocities and turning relative to positions in metres; more gives less drift, worse poses


class KMeans:
    """centres: (K, window, F) means of features whose rates are multiplied by RATE_WEIGHT."""

    has_weights = False  # besides the codebook

    def __init__(self, centres: np.ndarray):
        self.centres = centres
        self.codes, self.window, width = centres.shape
        self.weights = np.ones(width)
        self.weights[:ROOT] = RATE_WEIGHT

    @staticmethod
    def check_window(window: int) -> None:
        """Any window will do."""

    @staticmethod
    def fit(clips: Sequence[np.ndarray], codes: int, window: int, seed: int, layout: Layout, fps: float) -> "KMeans":
        """From all overlapping windows of the clips (T, F), or a sample of MAX_WINDOWS; at least as many as codes."""
        return KMeans(kmeans(points_of(clips, codes, window, seed), codes, seed).reshape(codes, window, -1))

    def encode(self, features: np.ndarray) -> np.ndarray:
        """Codes (T // window,) of features (T, F)."""
        return nearest(windows_of(features * self.weights, self.window, self.window), self.codebook)

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Features (n * window, F) of codes (n,)."""
        return self.centres[codes].reshape(-1, self.centres.shape[2]) / self.weights

    @property
    def codebook(self) -> np.ndarray:
        """(K, window * F)"""
        return self.centres.reshape(self.codes, -1)

    def tensors(self) -> dict[str, np.ndarray]:
        """Parameters to save beside the codebook: none."""
        return {}

    @staticmethod
    def restore(codebook: np.ndarray, tensors: Mapping[str, np.ndarray], window: int, width: int) -> "KMeans":
        """Raises ValueError for a codebook of another shape."""
        if codebook.shape[1] != window * width:
            raise ValueError(f"a codebook {codebook.shape}, expected {window * width} numbers a code")
        return KMeans(codebook.astype(float).reshape(len(codebook), window, width))


def points_of(clips: Sequence[np.ndarray], codes: int, window: int, seed: int) -> np.ndarray:
    """(N, window * F): all overlapping windows of the clips (T, F), weighted; of more than MAX_WINDOWS (or codes, where
    these are more) as many are drawn."""
    weights = KMeans(np.zeros((1, 1, clips[0].shape[1]))).weights
    ends = np.cumsum([max(len(clip) - window + 1, 0) for clip in clips])
    sampled = np.ones(ends[-1], dtype=bool)
    if len(sampled) > max(MAX_WINDOWS, codes):
        sampled[:] = False
        sampled[np.random.default_rng(seed).choice(len(sampled), max(MAX_WINDOWS, codes), replace=False)] = True
    return np.concatenate([windows_of(clip * weights, window, 1)[mask]
                           for clip, mask in zip(clips, np.split(sampled, ends[:-1]), strict=True)])


def windows_of(frames: np.ndarray, window: int, step: int) -> np.ndarray:
    """Windows (N, window * F) of features (T, F), one every `step` frames; an incomplete one at the end is dropped."""
    starts = np.arange(0, len(frames) - window + 1, step)
    return frames[starts[:, None] + np.arange(window)].reshape(len(starts), window * frames.shape[1])


def nearest(points: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """For each of the points (N, D) the index of the nearest of the centres (K, D)."""
    squares = (centres**2).sum(1)
    return np.concatenate([(squares - 2 * points[i:i + CHUNK] @ centres.T).argmin(1)
                           for i in range(0, len(points), CHUNK)])


def kmeans(points: np.ndarray, codes: int, seed: int) -> np.ndarray:
    """Centres (codes, D) of the points (N, D), N >= codes: k-means++ (Arthur and Vassilvitskii 2007), then Lloyd's
    algorithm."""
    rng = np.random.default_rng(seed)
    centres = points[[rng.integers(len(points))]]
    distance = ((points - centres[0])**2).sum(1)
    log.info("k-means: %d points, %d codes", len(points), codes)
    for _ in with_bar(range(codes - 1), codes - 1, "k-means", "code"):
        total = distance.sum()
        chosen = rng.choice(len(points), p=distance / total) if total > 0 else rng.integers(len(points))
        centres = np.concatenate([centres, points[[chosen]]])
        distance = np.minimum(distance, ((points - points[chosen])**2).sum(1))
    return lloyd(points, centres)


def lloyd(points: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Moves the centres (K, D) to the means of their points (N, D) until none moves, at most MAX_ITERATIONS times. A
    centre without points moves to the point that is farthest from its centre."""
    for _ in with_bar(range(MAX_ITERATIONS), MAX_ITERATIONS, "k-means", "round"):
        owner = nearest(points, centres)
        counts = np.bincount(owner, minlength=len(centres))
        sums = np.zeros_like(centres)
        np.add.at(sums, owner, points)
        moved = np.where(counts[:, None] > 0, sums / np.maximum(counts, 1)[:, None], centres)
        empty = np.flatnonzero(counts == 0)
        if len(empty):
            far = ((points - centres[owner])**2).sum(1).argsort()[::-1]
            moved[empty] = points[far[:len(empty)]]
        if np.array_equal(moved, centres):
            break
        centres = moved
    return centres
