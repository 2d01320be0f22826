"""recogniser.py: n-grams, actions that differ only in order, determinism, and refused arguments."""

import random

import pytest

from motion_llm.evaluation.recogniser import EDGE, ActionRecogniser, cross_validate, ngrams


def clips_of(pattern: list[int], count: int, rng: random.Random) -> list[list[int]]:
    """A pattern a few times, with a code of noise at each end."""
    return [[rng.randrange(20, 40), *pattern * rng.randint(2, 4), rng.randrange(20, 40)] for _ in range(count)]


@pytest.fixture(scope="module")
def data():
    # "left" and "right" have the same codes in another order, so single codes cannot distinguish them
    rng = random.Random(0)
    patterns = {"left": [1, 2, 3], "right": [3, 2, 1], "still": [7, 7, 8]}
    clips, labels = [], []
    for label, pattern in patterns.items():
        clips += clips_of(pattern, 20, rng)
        labels += [label] * 20
    return clips, labels


def test_ngrams_are_counted_with_the_edges():
    assert ngrams([5, 5, 6]) == {(5,): 2, (6,): 1, (EDGE, 5): 1, (5, 5): 1, (5, 6): 1, (6, EDGE): 1}


def test_the_order_of_codes_tells_left_from_right(data):
    assert sum(a == b for a, b in zip(cross_validate(*data), data[1], strict=True)) / len(data[1]) > 0.95


def test_cross_validation_never_shows_a_clip_to_its_judge():
    # Labels are noise here: only a recogniser that saw the clips could know them.
    rng = random.Random(1)
    clips = [[rng.randrange(50) for _ in range(12)] for _ in range(80)]
    labels = [rng.choice("ab") for _ in clips]
    assert ActionRecogniser().fit(clips, labels).accuracy(clips, labels) == 1
    assert sum(a == b for a, b in zip(cross_validate(clips, labels), labels, strict=True)) / 80 < 0.75


def test_the_same_clips_give_the_same_recogniser_whatever_their_types(data):
    clips, labels = data
    first = ActionRecogniser().fit(clips, labels)
    second = ActionRecogniser().fit([tuple(clip) for clip in clips], labels)
    assert (first.weights == second.weights).all() and (first.bias == second.bias).all()


def test_a_clip_of_unknown_codes_gets_the_most_frequent_label():
    clips = [[1, 2]] * 3 + [[3, 4]] * 9
    assert ActionRecogniser().fit(clips, ["a"] * 3 + ["b"] * 9).predict([[90, 91], [1, 2]]) == ["b", "a"]


def test_what_cannot_be_fitted_or_scored_is_refused(data):
    with pytest.raises(ValueError, match="2 clips but 1 labels"):
        ActionRecogniser().fit([[1], [2]], ["a"])
    with pytest.raises(ValueError, match="2 clips with 1 different labels"):
        ActionRecogniser().fit([[1], [2]], ["a", "a"])
    with pytest.raises(ValueError, match="0 clips"):
        ActionRecogniser().fit(*data).accuracy([], [])
