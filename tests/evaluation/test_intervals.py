"""intervals.py: 95 % intervals over captions and over repeats."""

import numpy as np
import pytest

from motion_llm.evaluation.intervals import NOT_AVAILABLE, Estimate, bootstrap, mean_over_captions, over_repeats


def rng():
    return np.random.default_rng(0)


def test_two_captions_drawn_by_hand():
    # Means of two draws from {0, 1}: 0 and 1 a quarter of the time each, so both lie inside the interval.
    assert bootstrap(np.array([0.0, 1.0]), np.mean, rng()) == (0.5, 0, 1)
    assert bootstrap(np.array([3.0]), np.mean, rng(), 20) == (3, 3, 3)


def test_the_interval_of_a_mean_is_near_the_normal_one():
    values = np.random.default_rng(1).normal(5, 2, 400)
    value, low, high = bootstrap(values, np.mean, rng(), 4000)
    assert value == pytest.approx(values.mean())
    margin = 1.96 * values.std() / 20
    assert (low, high) == pytest.approx((value - margin, value + margin), abs=0.015)


def test_the_true_mean_lies_in_about_95_of_100_intervals():
    draw, inside = np.random.default_rng(2), 0
    for _ in range(200):
        _, low, high = bootstrap(draw.normal(0, 1, 60), np.mean, draw, 300)
        inside += low <= 0 <= high
    assert 180 <= inside <= 199


def test_captions_are_drawn_not_clips():
    values, captions = [0.0] * 50 + [1.0] * 50, ["a"] * 50 + ["b"] * 50
    assert mean_over_captions(values, captions, rng()) == Estimate(0.5, 0, 1, 100)
    alone = mean_over_captions(values, range(100), rng())
    assert alone.value == 0.5 and 0.38 < alone.low < 0.42 and 0.58 < alone.high < 0.62


def test_clips_count_alike_whatever_their_caption_and_missing_ones_not_at_all():
    estimate = mean_over_captions([1, 1, 1, 5, None], list("aaabc"), rng())
    assert (estimate.value, estimate.n, estimate.low, estimate.high) == (2, 4, 1, 5)
    weighted = mean_over_captions([1.0, 4.0], "ab", rng(), weights=[3, 1])
    assert weighted.value == 7 / 4 and weighted.n == 2
    samples = mean_over_captions([1, 2, 3, None], list("aabb"), rng(), clips=[0, 0, 1, 2])
    assert samples.value == 2 and samples.n == 2  # a clip that was generated twice is one
    assert mean_over_captions([None], ["a"], rng()) == NOT_AVAILABLE == mean_over_captions([], [], rng())


def test_the_same_seed_draws_the_same():
    values = np.random.default_rng(3).random(30)
    assert bootstrap(values, np.mean, rng()) == bootstrap(values, np.mean, rng())


def test_no_captions_are_refused():
    with pytest.raises(ValueError, match="no captions"):
        bootstrap(np.empty(0), np.mean, rng())


def test_repeats_by_hand():
    # Mean 2, standard deviation 1, three repeats: 4.303 / sqrt(3) either way.
    estimate = over_repeats([1.0, 2.0, 3.0], 40)
    assert (estimate.value, estimate.n) == (2, 40)
    assert (estimate.low, estimate.high) == pytest.approx((2 - 2.4843, 2 + 2.4843), abs=1e-4)
    assert over_repeats([7.0], 9) == Estimate(7, None, None, 9)
    assert over_repeats([7.0] * 50, 9) == Estimate(7, 7, 7, 9)
    assert over_repeats([], 9) == NOT_AVAILABLE == over_repeats([1.0, None], 9)
