"""by_stream.py, stream_clips.py and the table of clips of several streams: figures worked out by hand."""

from collections import Counter

import numpy as np
import pytest

from metrics import count_ngrams
from motion_llm.evaluation.by_stream import score_streams
from motion_llm.evaluation.clips import EvaluationRow
from motion_llm.evaluation.intervals import Estimate
from motion_llm.evaluation.metric_names import MODEL, REAL, SPLITS
from motion_llm.evaluation.stream_clips import (
    INVALID,
    all_columns,
    columns,
    decodable,
    flat_codes,
    in_a_row,
    present,
    shown,
    token_nll,
    written,
)
from motion_llm.evaluation.table import Judge, clip_values, score_all, set_values
from motion_llm.streams import ABSENT, STEPS, Streams

HANDS = Streams(("left", "right"), (4, 3))
ONE_HAND = [0, ABSENT, 1, ABSENT]


def flat(left: list[int], right: list[int]) -> list[int]:
    return HANDS.flat(np.array([left, right]).T).tolist()


def judge_of(*clips: list[int], keys: str = "abcdef") -> Judge:
    return Judge([EvaluationRow(i, key, key, clip, None, "seen") for i, (clip, key) in enumerate(
        zip(clips, keys, strict=False))], HANDS, None, None, 0)


def figures(judge: Judge, generated: list[list[int]], nll=None, tasks=None) -> dict[str, dict[str, Estimate]]:
    """stream -> the model's figures of all captions."""
    score_all(judge, [[clip] for clip in generated], None)
    return {name: table[MODEL]["all"] for name, table in score_streams(judge, nll or {}, tasks or {}).items()}


def test_each_stream_is_compared_by_its_own_codes():
    """The left hand has one of four codes wrong, the right hand is one of three codes alone."""
    judge = judge_of(flat([0, 1, 2, 3], [0, 0, 1, 2]))
    of = figures(judge, [flat([0, 1, 2, 0], [2, 2, 2, 2])])
    assert (of["left"]["edit_distance"].value, of["right"]["edit_distance"].value) == (1, 3)
    assert (of["left"]["codebook_usage"].value, of["right"]["codebook_usage"].value) == (3 / 4, 1 / 3)
    assert of["right"]["codebook_perplexity"].value == 1 and of["right"]["repetition_rate"].value == 1
    assert of["left"]["repetition_rate"].value == 0 and 0 < of["left"]["unigram_jsd"].value < 1


def test_lengths_count_steps_and_edits_count_codes():
    judge = judge_of(flat([0] * 10, [0] * 10))
    values = clip_values(judge, score_and_set(judge, flat([0] * 12, [0] * 12)))
    assert values["length_error"] == [2] and values["edit_distance"] == [4] and values["length_ratio"] == [1.2]


def score_and_set(judge: Judge, clip: list[int]):
    score_all(judge, [[clip]], None)
    return judge.sets[MODEL][0]


def test_pairs_of_codes_are_of_one_stream():
    clip = flat([0, 1, 2], [2, 2, 0])
    assert count_ngrams(all_columns([clip], 2), 2) == Counter({(0, 1): 1, (1, 2): 1, (6, 6): 1, (6, 4): 1})
    shifted = flat([0, 1, 2], [0, 2, 2])  # the same codes in each stream, other pairs of the right hand alone
    judge = judge_of(clip)
    values = set_values(judge, [shifted], [0])
    assert values["unigram_jsd"] == 0 and values["bigram_jsd"] == pytest.approx(1 / 4)
    of = figures(judge, [shifted])
    assert of["left"]["bigram_jsd"].value == 0 and of["right"]["bigram_jsd"].value == pytest.approx(1 / 2)


def test_a_clip_without_a_stream_counts_in_the_other_alone():
    judge = judge_of(flat([0, 1], [0, 1]), ONE_HAND)
    of = figures(judge, [flat([0, 1], [0, 1]), [0, ABSENT, 0, ABSENT]])
    assert of["left"]["edit_distance"] == Estimate(0.5, 0.0, 1.0, 2) and of["left"]["unigram_jsd"].n == 2
    assert of["right"]["edit_distance"].value == 0 and of["right"]["edit_distance"].n == 1
    assert of["right"]["unigram_jsd"].n == 1
    values = clip_values(judge, judge.sets[MODEL][0])
    assert values["valid_share"] == [1, 1] and values["edit_distance"] == [0, 1]
    assert set_values(judge, [flat([0, 1], [0, 1])], [1])["unigram_jsd"] == pytest.approx(0.311278)  # 1/4 each, 1/2


def test_likelihoods_are_of_the_tokens_of_their_stream():
    rows = judge_of(flat([0, 1], [0, 1]), ONE_HAND, keys="aab").rows
    values = [np.array([-1, -2, -3, -4, -9.0]), np.array([-5, 0, -6, 0, -9.0])]
    nll = token_nll(rows, values, HANDS)
    assert nll == {"left": {"a": (15.0, 4)}, "right": {"a": (6.0, 2)}}
    of = figures(judge_of(flat([0, 1], [0, 1]), ONE_HAND, keys="aab"), [ONE_HAND, ONE_HAND], nll)
    assert (of["left"]["nll_per_token"].value, of["right"]["nll_per_token"].value) == (15 / 4, 3)


def test_figures_of_lost_tokens_come_into_the_stream_they_are_of():
    judge, told = judge_of(flat([0, 1], [0, 1])), Estimate(0.25, None, None, 1)
    score_all(judge, [[flat([0, 1], [0, 1])]], None)
    tasks = {"right": {row: {split: {"denoising_accuracy": told} for split in SPLITS} for row in (MODEL, "copying")}}
    tables = score_streams(judge, {}, tasks)
    assert tables["right"]["copying"]["all"]["denoising_accuracy"] == told
    assert tables["left"][MODEL]["all"]["denoising_accuracy"].value is None and REAL in tables["left"]


def test_one_stream_has_no_figures_of_its_own():
    judge = Judge([EvaluationRow(0, "a", "a", [1, 2], None, "seen")], 4, None, None, 0)
    score_all(judge, [[[1, 2]]], None)
    assert score_streams(judge, {}, {}) == {}


# Clips taken apart


def test_a_clip_taken_apart_has_no_absent_codes():
    assert columns(flat([0, 1], [2, 0]), 2) == [[0, 1], [6, 4]] and columns(ONE_HAND, 2) == [[0, 1], []]
    assert columns([3, 4], 1) == [[3, 4]] and present(ONE_HAND, HANDS) == ("left",)
    assert in_a_row(flat([0, 1], [2, 0]), 2, -1) == [0, 1, -1, 6, 4] and in_a_row(ONE_HAND, 2, -1) == [0, 1]


@pytest.mark.parametrize("clip, good", [
    (flat([0, 3], [2, 2]), True), (ONE_HAND, True), ([], False), ([0, 4, 1], False), ([0, 1], False),
    ([0, INVALID], False), ([ABSENT, ABSENT], False), ([0, 4, 1, ABSENT], False), ([0, 7], False)])
def test_what_a_codec_can_decode(clip, good):
    assert decodable(clip, HANDS) is good


@pytest.mark.parametrize("streams, clip, value", [
    (HANDS, flat([0, 3], [2, 1]), {"left": "0 3", "right": "2 1"}), (HANDS, ONE_HAND, {"left": "0 1", "right": None}),
    (Streams(("q0", "q1"), (4, 3), STEPS), flat([0, 3], [2, 1]), [[0, 2], [3, 1]]), (Streams.one(9), [8, 0], "8 0"),
    (Streams.one(9), [-1, 99], "-1 99"), (Streams.one(9), [], "")])
def test_a_clip_is_written_and_read_in_the_form_of_the_data(streams, clip, value):
    assert written(clip, streams) == value and flat_codes(value, streams) == clip


def test_strips_are_of_the_streams_that_a_clip_has():
    assert shown({"left": "0 3", "right": None}) == {"left": [0, 3]} and shown("4 4") == {"motion": [4, 4]}
    assert shown([[0, 2], [3, 1]]) == {"q0": [0, 3], "q1": [2, 1]} and shown([]) == {}
