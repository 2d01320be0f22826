"""set_intervals.py: weighted metrics are those of the set with clips repeated, and the intervals hold what they say."""

import numpy as np
import pytest

import metrics
from motion_llm.evaluation.embedding_metrics import diversity, fid, kid
from motion_llm.evaluation.set_intervals import (
    around,
    clip_weights,
    divergences,
    diversities,
    fids,
    kids,
)


def rng(seed=0):
    return np.random.default_rng(seed)


A, B = rng(1).normal(size=(12, 3)), rng(2).normal(size=(12, 3)) * 1.5 + 1
ONES = np.ones((1, 12))
TWICE = np.array([[2.0, 0, 1, 3, 0, 1, 1, 0, 2, 1, 1, 0]])
DRAWN = np.repeat(np.arange(12), TWICE[0].astype(int))


def test_with_every_clip_once_they_are_the_metrics_themselves():
    assert fids(A, B, ONES)[0] == pytest.approx(fid(A, B))
    assert kids(A, B, ONES)[0] == pytest.approx(kid(A, B))
    assert diversities(A, ONES)[0] == pytest.approx(diversity(A))


def test_fid_and_divergences_of_weights_are_those_of_clips_repeated():
    assert fids(A, B, TWICE)[0] == pytest.approx(fid(A[DRAWN], B[DRAWN]))
    draw = rng(3)
    clips, others = ([draw.integers(0, 6, draw.integers(1, 9)).tolist() for _ in range(12)] for _ in range(2))
    for n in (1, 2):
        expected = metrics.ngram_jsd([clips[i] for i in DRAWN], [others[i] for i in DRAWN], n)
        assert divergences(clips, others, n, TWICE)[0] == pytest.approx(expected)
        assert divergences(clips, others, n, ONES)[0] == pytest.approx(metrics.ngram_jsd(clips, others, n))
    assert np.isnan(divergences([[], [1]], [[1], [2]], 1, np.array([[2.0, 0.0]]))[0])


def test_pairs_of_a_clip_with_itself_are_left_out():
    weights = np.array([[2.0, 1.0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], [3.0] + 11 * [0.0]])
    values = diversities(A, weights)
    assert values[0] == pytest.approx(np.linalg.norm(A[0] - A[1])) and np.isnan(values[1])


def test_all_clips_of_a_caption_are_drawn_together():
    weights = clip_weights(list("aabbbc"), rng(), 50)
    assert (weights[:, 0] == weights[:, 1]).all() and (weights[:, 2:5] == weights[:, 2:3]).all()
    assert (weights[:, [0, 2, 5]].sum(1) == 3).all() and len(set(map(tuple, weights))) > 5


def test_the_interval_lies_around_the_value_whatever_the_resampled_mean():
    estimate = around(1.0, np.array([4.0, 5.0, 6.0, np.nan]), 7)
    assert estimate.low == pytest.approx(0.05) and estimate.high == pytest.approx(1.95) and estimate.n == 7
    assert around(1.0, np.array([np.nan, 2.0]), 7).low is None


@pytest.mark.parametrize("shift, scale", [(0.0, 1.0), (0.5, 1.5)])
def test_most_intervals_hold_the_mean_of_many_sets(shift, scale):
    """Of 60 pairs of sets of 50 clips; of two sets of one distribution the intervals are too wide rather than too
    narrow."""
    draw = rng(4)

    def sets():
        return draw.normal(size=(50, 3)), draw.normal(size=(50, 3)) * scale + shift

    truth = [np.mean([metric(*sets()) for _ in range(300)]) for metric in (fid, kid)]
    inside = np.zeros(2)
    for _ in range(60):
        a, b = sets()
        weights = clip_weights(range(50), draw, 100)
        for i, (metric, resampled) in enumerate(((fid, fids), (kid, kids))):
            estimate = around(metric(a, b), resampled(a, b, weights), 50)
            inside[i] += estimate.low <= truth[i] <= estimate.high
    assert (inside >= 52).all()
