"""embedding_metrics.py: each metric on cases worked out by hand, and at its limits."""

import numpy as np
import pytest

from motion_llm.evaluation.embedding_metrics import (
    chance,
    diversity,
    fid,
    kid,
    mm_dist,
    multimodality,
    r_precision,
    retrieval_hits,
    sample_distances,
)


def rng(seed=0):
    return np.random.default_rng(seed)


def test_retrieval_by_hand():
    captions = np.array([[0.0], [1.0], [2.0], [3.0]])
    motions = np.array([[0.1], [1.6], [0.0], [9.0]])
    caption_index = np.array([0, 1, 3, 2])  # nearest; second, after 2; last; second, after 3
    assert retrieval_hits(motions, captions, caption_index, rng()).tolist() == [
        [True, True, True], [False, True, True], [False, False, False], [False, True, True]]
    assert r_precision(motions, captions, caption_index, rng()).tolist() == [1 / 4, 3 / 4, 3 / 4]


def test_pools_have_32_distinct_captions_with_the_own_one():
    """Captions at 0 to 319; each motion is at 0 and has the caption at 31, so each of 31 rivals is nearer with
    probability 31/319."""
    captions, caption_index = np.arange(320.0)[:, None], np.full(4000, 31)
    hits = retrieval_hits(np.zeros((4000, 1)), captions, caption_index, rng())
    none_nearer = np.prod([(319 - 31 - i) / (319 - i) for i in range(31)])  # 31 drawn without replacement
    assert hits[:, 0].mean() == pytest.approx(none_nearer, abs=0.01)
    assert retrieval_hits(np.zeros((1, 1)), captions[:32], caption_index[:1], rng()).tolist() == [[False] * 3]


def test_shuffled_captions_drop_retrieval_to_chance():
    captions = rng(1).normal(size=(200, 16))
    caption_index = np.tile(np.arange(200), 20)
    motions = captions[caption_index] + 0.1 * rng(2).normal(size=(4000, 16))
    assert r_precision(motions, captions, caption_index, rng()).tolist() == [1, 1, 1]
    shuffled = r_precision(motions, captions, rng(3).permutation(caption_index), rng())
    assert shuffled == pytest.approx(chance(200), abs=0.015)
    assert chance(200).tolist() == [1 / 32, 2 / 32, 3 / 32] and chance(2).tolist() == [0.5, 1, 1]


def test_an_evaluator_that_tells_nothing_apart_finds_nothing():
    assert not retrieval_hits(np.zeros((5, 3)), np.zeros((40, 3)), np.arange(5), rng()).any()
    with pytest.raises(ValueError, match="^1 distinct captions"):
        retrieval_hits(np.zeros((5, 3)), np.zeros((1, 3)), np.zeros(5, int), rng())


def test_the_distance_to_the_own_caption_by_hand():
    captions, motions = np.array([[0.0, 0], [3, 4]]), np.array([[0.0, 0], [0, 0], [3, 0]])
    assert mm_dist(motions, captions, np.array([0, 1, 1])) == (0 + 5 + 4) / 3


def test_frechet_distance_by_hand():
    # Means 1 and 4, variances 2 and 8 (of N - 1): 9 + (sqrt(8) - sqrt(2))^2.
    assert fid(np.array([[0.0], [2]]), np.array([[2.0], [6]])) == pytest.approx(9 + (8 ** 0.5 - 2 ** 0.5) ** 2)
    # Two dimensions apart: variances 1 and 4 against 9 and 4 on the axes, means alike.
    square = np.array([[1.0, 1], [1, -1], [-1, 1], [-1, -1]]) * (3 / 4) ** 0.5
    assert fid(square * [1, 2], square * [3, 2]) == pytest.approx((3 - 1) ** 2)


def test_frechet_distance_with_itself_is_0_within_rounding_even_if_singular():
    clips = rng().normal(size=(20, 64))  # fewer clips than dimensions
    assert fid(clips, clips) < 1e-6 and fid(clips, clips[::-1]) < 1e-6
    assert fid(np.zeros((4, 8)), np.zeros((4, 8))) == 0


def test_frechet_distance_of_rotated_gaussians_by_the_formula():
    """Covariances that do not commute: against the roots of the eigenvalues of their product."""
    a, b = rng(1).normal(size=(500, 3)) @ rng(2).normal(size=(3, 3)), rng(3).normal(size=(400, 3))
    gap, cov_a, cov_b = a.mean(0) - b.mean(0), np.cov(a.T), np.cov(b.T)
    root = np.sqrt(np.linalg.eigvals(cov_a @ cov_b).real).sum()
    assert fid(a, b) == pytest.approx(gap @ gap + np.trace(cov_a) + np.trace(cov_b) - 2 * root)
    assert fid(a, b) == pytest.approx(fid(b, a))


def test_kernel_distance_by_hand():
    # d = 1: k(x, y) = (xy + 1)^3. Within {0, 1}: k(0, 1) = 1. Within {2, 3}: 7^3. Across: 1, 1, 27, 64.
    assert kid(np.array([[0.0], [1]]), np.array([[2.0], [3]])) == 1 + 343 - 2 * (1 + 1 + 27 + 64) / 4


def test_kernel_distance_of_one_source_is_0_on_average_however_few():
    draws = [kid(rng(i).normal(size=(10, 4)), rng(1000 + i).normal(size=(30, 4))) for i in range(300)]
    assert abs(np.mean(draws)) < 3 * np.std(draws) / 300 ** 0.5 and min(draws) < 0
    frechet = [fid(rng(i).normal(size=(10, 4)), rng(1000 + i).normal(size=(30, 4))) for i in range(300)]
    assert np.mean(frechet) > 0.3  # FID is biased for few clips, the kernel distance is not


def test_diversity_and_multimodality_by_hand():
    clips = np.array([[0.0, 0], [3, 4], [0, 8]])  # distances 5, 8, 5
    assert diversity(clips) == pytest.approx(6)
    assert multimodality(np.stack([clips, np.zeros((3, 2))])) == pytest.approx(3)
    assert multimodality(np.stack([clips[:2], clips[1:]])) == 5


def test_many_clips_are_compared_in_blocks():
    clips = rng().normal(size=(2500, 3))
    pairs = np.linalg.norm(clips[:, None] - clips[None], axis=2)
    assert diversity(clips) == pytest.approx(pairs.sum() / (2500 * 2499))
    captions, caption_index = rng(1).normal(size=(5, 3)), np.arange(2500) % 5
    hits = retrieval_hits(clips, captions, caption_index, rng())
    near = np.linalg.norm(clips[:, None] - captions[None], axis=2).argmin(1) == caption_index
    assert (hits[:, 0] == near).all()


def test_constant_clips_are_caught_by_diversity_and_both_distances():
    real, constant = rng().normal(size=(300, 8)), np.tile(rng(1).normal(size=8), (300, 1))
    assert diversity(constant) < 1e-6 < 3 < diversity(real)
    assert fid(constant, real) > 8 and kid(constant, real) > 1
    assert multimodality(constant.reshape(100, 3, 8)) == 0


@pytest.mark.parametrize("figure", [fid, kid])
def test_two_clips_of_each_set_are_needed(figure):
    with pytest.raises(ValueError, match="^1 and 5 clips, expected two or more of each$"):
        figure(np.zeros((1, 3)), np.zeros((5, 3)))


def test_one_clip_has_no_diversity():
    with pytest.raises(ValueError, match="^1 clips, expected two or more$"):
        diversity(np.zeros((1, 3)))
    with pytest.raises(ValueError, match="^1 clips a caption, expected two or more$"):
        multimodality(np.zeros((4, 1, 3)))


def test_large_sets_are_computed_in_parts_to_the_same_values(monkeypatch):
    monkeypatch.setattr("motion_llm.evaluation.embedding_metrics._BLOCK", 7)
    a, b = rng(1).normal(size=(30, 4)), rng(2).normal(size=(23, 4))
    kernels = [(x @ y.T / 4 + 1) ** 3 for x, y in ((a, a), (b, b), (a, b))]
    within = [(k.sum() - np.trace(k)) / (len(k) * (len(k) - 1)) for k in kernels[:2]]
    assert kid(a, b) == pytest.approx(sum(within) - 2 * kernels[2].mean())
    pairs = [np.linalg.norm(a[i] - a[k]) for i in range(30) for k in range(i)]
    assert sample_distances(a[None]).tolist() == pytest.approx([np.mean(pairs)])


def test_other_captions_of_the_same_clip_are_no_rivals():
    """The second caption lies nearer to the motion than its own; with a pool of all captions and of fewer."""
    captions, motions = np.array([[1.0, 0], [0.9, 0], [5.0, 0], [6.0, 0]]), np.array([[0.0, 0]])
    own = np.array([0])
    for pool in (4, 3):
        assert retrieval_hits(motions, captions, own, np.random.default_rng(0), pool, [[1]])[0, 0]
    assert not retrieval_hits(motions, captions, own, np.random.default_rng(0), 4)[0, 0]
