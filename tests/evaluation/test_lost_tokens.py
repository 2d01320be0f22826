"""lost_tokens.py: which tokens are lost, the requests for them, and the two baselines, by hand."""

from types import SimpleNamespace

import numpy as np
import pytest

from motion_llm.evaluation.lost_tokens import MODEL, REPEATING, copying, fill_in, lost_places, question, repeating
from templates import MASKED


def test_repeating_and_copying_by_hand():
    codes = [1, 2, 3, 4, 5, 6, 7]
    assert repeating(codes, np.array([2, 3, 5])) == [1, 2, 2, 2, 5, 5, 7]
    assert copying(codes, np.array([4, 5])) == [1, 2, 3, 4, 3, 4, 7]
    assert copying(codes, np.array([2, 3, 4])) == [1, 2, 1, 2, 1, 6, 7]


def test_a_third_is_lost_and_never_the_first():
    for seed in range(200):
        rng = np.random.default_rng(seed)
        for count in (6, 7, 30):
            anywhere, gap, end = (lost_places(task, count, rng) for task in ("denoise", "inbetween", "continue"))
            assert len(anywhere) == len(gap) == len(end) == count // 3
            assert min(anywhere[0], gap[0]) >= 1 and gap[-1] < count - 1 and end[-1] == count - 1
            assert (np.diff(gap) == 1).all() and len(set(anywhere.tolist())) == len(anywhere)


@pytest.mark.parametrize("task, motion, end, tokens", [
    ("denoise", (1, 2, MASKED, MASKED, 5, 6, 7), None, None),
    ("inbetween", (1, 2), (5, 6, 7), 7),
    ("continue", (1, 2), None, 7),
])
def test_a_request_does_not_have_the_lost_tokens(task, motion, end, tokens):
    request = question(task, [1, 2, 3, 4, 5, 6, 7], np.array([2, 3]), "P1")
    assert (request.task, request.motion, request.end, request.tokens) == (task, motion, end, tokens)
    assert request.participant_id == "P1"


def test_the_share_put_right_counts_lost_tokens_alone():
    """Nine tokens, the last three lost; a model that puts 7, 0, 9 there has two of the three right."""
    class Generator:
        def answers(self, requests, seed):
            assert [request.motion for request in requests] == [(1, 2, 3, 4, 5, 6)] and seed == 3
            return [SimpleNamespace(codes=(1, 2, 3, 4, 5, 6, 7, 0, 9))]

    (filled,) = fill_in(Generator(), [[1, 2, 3, 4, 5, 6, 7, 8, 9]], [None], "continue", 3)
    assert filled.accuracy(MODEL) == pytest.approx(2 / 3) and filled.accuracy(REPEATING) == 0
