"""length_regression.py: the fit against values computed by hand, and its errors against refits without each caption."""

import json
import math

import numpy as np
import pytest

from motion_llm.dataset import length_regression
from motion_llm.dataset.length_regression import RIDGE, LengthRegression, features


def test_captions_with_nothing_in_common_shrink_to_the_mean_each_by_its_clips():
    texts, medians, counts = ["jumps", "waltz"], [10, 40], [1, 3]
    assert abs(features("jumps") @ features("waltz")) < 1e-9
    mean = (math.log(10) + 3 * math.log(40)) / 4
    model = LengthRegression.fit(texts, medians, counts, 0.0)
    assert model.mean == pytest.approx(mean)
    for text, median, count in zip(texts, medians, counts, strict=True):
        shrunk = mean + (math.log(median) - mean) / (1 + RIDGE / count)
        assert model.expected(text)[1] == pytest.approx(math.exp(shrunk), rel=1e-3)
    assert model.expected("xyz")[1] == pytest.approx(math.exp(mean), rel=1e-3)


def test_features_are_words_pairs_in_their_order_and_pieces_of_words():
    assert np.linalg.norm(features("a person walks")) == pytest.approx(1) and not features("?! 。").any()
    assert (features("Walks, left!") == features("walks left")).all()

    def alike(a: str, b: str) -> float:
        return float(features(a) @ features(b))

    assert alike("left then right", "right then left") < 0.8  # the order counts
    assert 0.2 < alike("jumping", "jumps") < 0.9  # the pieces count
    assert abs(alike("jumps", "waltz")) < 0.01
    assert features("走 走").any()


def captions(seed: int = 0):
    rng = np.random.default_rng(seed)
    ways = {"once": 1.0, "twice": 2.0, "four times": 4.0}
    verbs = {"jumps": 8.0, "claps": 5.0, "bows": 12.0, "kicks": 9.0, "spins": 11.0}
    texts = [f"a person {verb} {way}" for verb in verbs for way in ways]
    medians = [verbs[v] * ways[w] * math.exp(0.05 * rng.normal()) for v in verbs for w in ways]
    return texts, medians, rng.integers(1, 9, len(texts)).tolist()


def test_the_deviation_is_that_of_fits_with_each_caption_left_out():
    texts, medians, counts = captions()
    model = LengthRegression.fit(texts, medians, counts, 0.0)
    inputs = np.stack([features(text) for text in texts])
    logs, weights = np.log(medians) - model.mean, np.array(counts, float)
    errors = []
    for out in range(len(texts)):
        rest = np.arange(len(texts)) != out
        kernel = inputs[rest] @ inputs[rest].T + RIDGE * np.diag(1 / weights[rest])
        errors.append(logs[out] - inputs[out] @ inputs[rest].T @ np.linalg.solve(kernel, logs[rest]))
    expected = math.sqrt(np.average(np.square(errors), weights=weights))
    assert model.deviation == pytest.approx(expected, rel=1e-4)
    with_spread = LengthRegression.fit(texts, medians, counts, 0.3).deviation
    assert with_spread == pytest.approx(math.hypot(expected, 0.3), rel=1e-4)


def test_a_new_combination_of_words_gets_a_length_from_its_words():
    texts, medians, counts = captions()
    rest = [i for i, text in enumerate(texts) if text != "a person bows four times"]
    model = LengthRegression.fit(*([values[i] for i in rest] for values in (texts, medians, counts)), 0.1)
    low, middle, high = model.expected("a person bows four times")
    assert abs(middle - 48) < 0.4 * abs(np.median(medians) - 48)
    assert low * math.exp(2 * model.deviation) == pytest.approx(middle) == high / math.exp(2 * model.deviation)


def test_json_keeps_it():
    model = LengthRegression.fit(*captions(), 0.1)
    again = LengthRegression.from_dict(json.loads(json.dumps(model.to_dict())))
    for text in ("a person jumps four times", "bows"):
        assert again.expected(text) == model.expected(text)


def test_many_captions_are_fitted_by_those_with_most_clips(monkeypatch):
    monkeypatch.setattr(length_regression, "MOST_FITTED", 2)
    model = LengthRegression.fit(["rare", "jumps", "waltz"], [1000, 10, 40], [1, 5, 5], 0.0)
    assert model.expected("rare")[1] == pytest.approx(20, rel=0.05)
