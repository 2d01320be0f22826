"""lost_tokens.py: which tokens are lost, the requests for them, and the two baselines, by hand."""

from types import SimpleNamespace

import numpy as np
import pytest

from motion_llm.evaluation.lost_tokens import (
    COPYING,
    MODEL,
    REPEATING,
    WITH_WORDS,
    WRONG_WORDS,
    copying,
    fill_in,
    lost_codes,
    lost_places,
    of_others,
    question,
    repeating,
)
from motion_llm.streams import ABSENT, MASKED, Streams


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


# Several streams


HANDS = Streams(("left", "right"), (10, 10))
CLIP = HANDS.flat(np.array([[1, 2, 3, 4, 5, 6], [7, 7, 8, 8, 9, 9]]).T).tolist()


def test_single_codes_or_whole_steps_are_lost_and_never_those_of_the_first():
    for seed in range(100):
        rng = np.random.default_rng(seed)
        anywhere, gap, end = (lost_codes(task, CLIP, 2, rng) for task in ("denoise", "inbetween", "continue"))
        assert len(anywhere) == 10 // 3 and anywhere[0] >= 2 and (np.diff(anywhere) > 0).all()
        assert end.tolist() == [8, 9, 10, 11] and gap[0] >= 2 and gap[0] % 2 == 0 and (np.diff(gap) == 1).all()
        assert len(gap) == 4 and gap[-1] < 10


def test_codes_of_an_absent_stream_cannot_be_lost():
    one_hand = [code if place % 2 == 0 else ABSENT for place, code in enumerate(CLIP)]
    for task in ("denoise", "inbetween", "continue"):
        lost = lost_codes(task, one_hand, 2, np.random.default_rng(0))
        assert len(lost) and (lost % 2 == 0).all()


@pytest.mark.parametrize("task, lost, motion, end, tokens", [
    ("denoise", [2, 5], {"left": "1 ? 3 4 5 6", "right": "7 7 ? 8 9 9"}, None, None),
    ("inbetween", [4, 5, 6, 7], {"left": "1 2", "right": "7 7"}, {"left": "5 6", "right": "9 9"}, 6),
    ("continue", [8, 9, 10, 11], {"left": "1 2 3 4", "right": "7 7 8 8"}, None, 6)])
def test_a_request_has_the_form_of_the_data_and_its_length_in_steps(task, lost, motion, end, tokens):
    request = question(task, CLIP, np.array(lost), None, HANDS)
    assert (request.motion, request.end, request.tokens) == (motion, end, tokens)


def test_a_gap_is_also_filled_with_the_caption_and_with_that_of_another_clip():
    asked = []

    def answers(requests, seed):
        asked.extend(requests)
        return [SimpleNamespace(codes=(place,) * 6) for place in range(len(requests))]

    clips, captions = [[1, 2, 3, 4, 5, 6]] * 3, ["walks", "bows", "walks"]
    filled = fill_in(SimpleNamespace(answers=answers), clips, [None] * 3, "inbetween", 0, captions=captions)
    assert [request.text for request in asked] == [None] * 3 + captions + ["bows", "walks", "bows"]
    assert [filled[1].filled[method][0] for method in (MODEL, WITH_WORDS, WRONG_WORDS)] == [1, 4, 7]
    assert len({(request.motion, request.end) for request in asked[::3]}) == 1
    alone = fill_in(SimpleNamespace(answers=answers), clips, [None] * 3, "inbetween", 0, captions=["walks"] * 3)
    assert WITH_WORDS not in alone[0].filled


def test_another_clips_caption_is_drawn_from_all_others():
    captions = [*"abcd"] * 50
    drawn = of_others(captions, 1)
    assert all(other != own for own, other in zip(captions, drawn, strict=True))
    assert {(own, other) for own, other in zip(captions, drawn, strict=True)} == {
        (own, other) for own in "abcd" for other in "abcd" if own != other}


def test_each_stream_is_filled_in_and_counted_by_itself():
    """The last two steps are lost. Repeating: 4 4 and 8 8, none right. Copying: 3 4 and 8 8, none right either."""
    answer = [*CLIP[:8], CLIP[8], 10, CLIP[10], CLIP[11]]  # right are 5, 6 and the last 9
    generator = SimpleNamespace(answers=lambda requests, seed: [SimpleNamespace(codes=answer)])
    (filled,) = fill_in(generator, [CLIP], [None], "continue", 0, HANDS)
    assert filled.filled[REPEATING].tolist() == [*CLIP[:8], 4, 18, 4, 18]
    assert filled.filled[COPYING].tolist() == [*CLIP[:8], 3, 18, 4, 18]
    assert filled.accuracy(MODEL) == 3 / 4
    assert [filled.accuracy(MODEL, stream, 2) for stream in (0, 1)] == [1, 1 / 2]
