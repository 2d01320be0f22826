"""metrics.py: every metric on cases worked out by hand."""

import json

import numpy as np
import pytest

from metrics import (
    MotionScores,
    best_edit_distance,
    best_normalised_edit_distance,
    codebook_perplexity,
    codebook_usage,
    count_ngrams,
    distinct_n,
    edit_distance,
    is_valid,
    nearest_clips,
    nearest_length,
    ngram_jsd,
    normalised_edit_distance,
    novelty,
    repetition_rate,
    score_motions,
    valid_share,
)


@pytest.mark.parametrize("a, b, edits, normalised", [
    ([1, 2, 3], [1, 2, 3], 0, 0),
    ([1, 2, 3], [2, 3, 4], 2, 2 / 3),  # 1 out, 4 in
    ([1, 2, 3, 4], [1, 9, 3, 4], 1, 1 / 4),  # 2 becomes 9
    ([1, 2, 3], [4, 5, 6, 7], 4, 1),  # nothing in common
    ([], [1, 2], 2, 1),
    ([], [], 0, 0),
    ([12], [1, 2], 2, 1),  # codes are numbers, not digits
    ([1, 2], [2, 1], 2, 1),  # order counts
])
def test_edit_distance_and_its_share_of_the_longer_clip(a, b, edits, normalised):
    assert edit_distance(a, b) == edit_distance(b, a) == edits
    assert normalised_edit_distance(a, b) == normalised_edit_distance(b, a) == pytest.approx(normalised)


def test_arrays_and_lists_of_codes_compare_by_value():
    assert edit_distance(np.array([5, 70000, 9], dtype=np.int32), [5, 70000, 8]) == 1
    assert normalised_edit_distance(np.array([5, 9], dtype=np.int64), np.array([5, 9], dtype=np.int32)) == 0


def test_the_nearest_reference_counts_and_may_differ_between_the_two_distances():
    clip, long, short = [1, 2, 3, 4], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10], [1, 9, 9, 9]
    assert (edit_distance(clip, long), edit_distance(clip, short)) == (6, 3)
    assert best_edit_distance(clip, [long, short]) == 3
    assert best_normalised_edit_distance(clip, [long, short]) == pytest.approx(6 / 10)  # not 3 / 4


def test_the_nearest_length_is_the_shorter_of_two_as_near():
    references = [[0] * 8, [0] * 12, [0] * 30]
    assert [nearest_length(n, references) for n in (1, 8, 10, 11, 22, 99)] == [8, 8, 8, 12, 30, 30]


def test_scores_of_two_clips_by_hand():
    clips = [[1, 2, 3, 4], [5, 5]]
    references = [[[1, 2, 3, 4], [9]], [[5, 6, 7], [8] * 10]]
    # The first clip equals a reference. The second is 2 edits from [5, 6, 7], 2/3 of its length, and a token shorter.
    scores = score_motions(clips, references)
    assert scores.n == 2
    assert scores.edit_distance == 1
    assert scores.normalised_edit_distance == pytest.approx(1 / 3)
    assert scores.length_accuracy == 0.5
    assert scores.length_ratio == pytest.approx((1 + 2 / 3) / 2)
    assert scores.length_error == 0.5


def test_a_clip_that_equals_a_reference_scores_best():
    clip = [4, 2, 2, 7]
    assert score_motions([clip] * 3, [[[9] * 50, clip]] * 3) == MotionScores(
        n=3, edit_distance=0, normalised_edit_distance=0, length_accuracy=1, length_ratio=1, length_error=0)


def test_clips_without_a_code_in_common_are_as_far_as_can_be():
    scores = score_motions([[1, 2], [3] * 5], [[[7, 8]], [[9] * 5]])
    assert scores.normalised_edit_distance == 1 and scores.edit_distance == 3.5


def test_a_length_is_right_within_ten_per_cent_of_the_reference():
    reference = [[0] * 10]
    for length, right in [(8, 0), (9, 1), (10, 1), (11, 1), (12, 0)]:
        scores = score_motions([[0] * length], [reference])
        assert scores.length_accuracy == right
        assert (scores.length_ratio, scores.length_error) == (length / 10, abs(length - 10))
    assert score_motions([[0] * 77], [[[0] * 70]]).length_accuracy == 1  # exactly ten per cent, despite rounding


def test_lengths_are_held_against_the_reference_of_the_nearest_length():
    scores = score_motions([[1] * 20], [[[1] * 10, [2] * 19]])  # not against the reference with the nearest codes
    assert (scores.length_error, scores.length_accuracy, scores.length_ratio) == (1, 1, 20 / 19)


def test_an_empty_clip_is_scored_as_all_wrong():
    assert score_motions([[]], [[[1, 2, 3]]]) == MotionScores(
        n=1, edit_distance=3, normalised_edit_distance=1, length_accuracy=0, length_ratio=0, length_error=3)


def test_scores_of_arrays_can_be_written_as_json():
    clips = [np.array([1, 2, 3], dtype=np.int32)]
    content = score_motions(clips, [[np.array([1, 2, 4], dtype=np.int32)]]).to_dict()
    assert json.loads(json.dumps(content)) == {
        "n": 1, "edit_distance": 1, "normalised_edit_distance": pytest.approx(1 / 3), "length_accuracy": 1,
        "length_ratio": 1, "length_error": 0}


def test_no_clips_have_no_scores():
    assert score_motions([], []) is None


def test_as_many_lists_of_references_as_clips():
    with pytest.raises(ValueError, match="^2 clips but 1 lists of references$"):
        score_motions([[1], [2]], [[[1]]])


def test_a_clip_without_a_reference_is_refused():
    with pytest.raises(ValueError, match="^2 clips have no reference, the first is clip 1$"):
        score_motions([[1], [2], [3]], [[[1]], [], []])


# Distributions of codes


def test_ngrams_stay_within_a_clip():
    assert count_ngrams([[1, 2, 1, 2], [2, 3]], 2) == {(1, 2): 2, (2, 1): 1, (2, 3): 1}
    assert count_ngrams([[1], []], 2) == {}


def test_divergence_by_hand():
    # p = (3/4, 1/4), q = (1/4, 3/4), so m = (1/2, 1/2): 3/4 log2(3/2) + 1/4 log2(1/2), for both sides alike.
    assert ngram_jsd([[7, 7, 7, 8]], [[7, 8], [8, 8]], 1) == pytest.approx(0.75 * np.log2(1.5) - 0.25)
    # Half of each set's pairs are in the other: (1/2, 1/2, 0) and (0, 1/2, 1/2) differ by 1/2 bit.
    assert ngram_jsd([[1, 2, 3]], [[2, 3, 4]], 2) == pytest.approx(0.5)


def test_divergence_of_a_set_with_itself_is_0_and_of_strangers_1():
    clips = [[5, 1, 1, 9], [9, 9]]
    assert ngram_jsd(clips, clips[::-1], 1) == ngram_jsd(clips, clips, 2) == 0
    assert ngram_jsd(clips, [[2, 3, 4]], 1) == ngram_jsd(clips, [[2, 3, 4]], 2) == 1
    assert ngram_jsd(clips, [[2]], 2) is None  # no pair to compare


def test_pairs_tell_order_apart_and_single_codes_do_not():
    forwards, backwards = [[1, 2, 3, 1, 2, 3]], [[3, 2, 1, 3, 2, 1]]
    assert ngram_jsd(forwards, backwards, 1) == 0 and ngram_jsd(forwards, backwards, 2) == 1


def test_usage_and_perplexity_by_hand():
    clips = [[0, 0, 1], [2, 2, 2, 3, 3]]  # shares 2/8, 1/8, 3/8, 2/8
    assert codebook_usage(clips, 8) == 4 / 8
    entropy = 2 * 0.25 * 2 + 0.125 * 3 - 0.375 * np.log2(0.375)
    assert codebook_perplexity(clips) == pytest.approx(2 ** entropy)
    assert codebook_usage([[1, 9, -1]], 4) == 1 / 4  # what is no code of the codebook does not count
    assert codebook_perplexity([[4, 5, 6, 7]] * 3) == pytest.approx(4)
    assert codebook_perplexity([[4] * 9]) == 1 and codebook_perplexity([[]]) is None is codebook_usage([], 4)


def test_repetition_by_hand():
    assert repetition_rate([3, 3, 4, 4, 4]) == 3 / 4
    assert repetition_rate([1, 2, 1]) == 0 and repetition_rate([6] * 5) == 1
    assert repetition_rate([1]) is None is repetition_rate([])


def test_distinct_ngrams_by_hand():
    clips = [[1, 2, 1, 2], [1, 2]]
    assert distinct_n(clips, 1) == 2 / 6 and distinct_n(clips, 2) == 2 / 4
    assert distinct_n([[1, 2, 3]], 1) == distinct_n([[1, 2, 3]], 2) == 1
    assert distinct_n([[1]], 2) is None


def test_novelty_is_the_distance_to_the_nearest_training_clip():
    training = [[1, 2, 3, 4], np.array([70000, 70001], np.int32)]
    clips = [[1, 2, 3, 4], [70000, 70001, 5], [1, 2, 9, 9], [-3, 8]]
    assert novelty(clips, training) == pytest.approx([0, 1 / 3, 1 / 2, 1])
    with pytest.raises(ValueError, match="no training clips"):
        novelty(clips, [])


def test_the_nearest_of_several_as_near_is_the_first():
    training = [[5, 6, 7], [1, 2], [1, 3], [1, 2]]
    assert nearest_clips([[1, 2], [5, 6]], training) == [(1, 0), (0, pytest.approx(1 / 3))]
    assert nearest_clips([[1, 2], [5, 6]], training, others=True) == [(2, 0.5), (0, pytest.approx(1 / 3))]
    assert nearest_clips([[1, 2]], [[1, 2], [1, 2]], others=True) == [(0, 0)]


def test_what_a_codec_could_decode_is_valid():
    assert [is_valid(clip, 4, 3) for clip in ([0, 3], [4], [-1], [], [1, 1, 1], [1] * 4)] == [
        True, False, False, False, True, False]
    assert valid_share([[0], [9], [], [3]], 4) == 0.5 and valid_share([], 4) is None


def test_a_constant_clip_is_caught_by_divergence_usage_and_repetition():
    real = [[i % 7, (3 * i + 1) % 7, (5 * i) % 7] for i in range(50)]
    constant = [[4, 4, 4]] * 50
    assert ngram_jsd(constant, real, 1) > 0.5 and ngram_jsd(constant, real, 2) > 0.9
    assert codebook_usage(constant, 7) == 1 / 7 and codebook_usage(real, 7) == 1
    assert repetition_rate(constant[0]) == 1 and distinct_n(constant, 2) < 0.02
