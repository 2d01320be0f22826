"""lengths.py and caption_index.py: limits computed by hand, their source, and the cost of many captions."""

import hashlib
import json
import math
import random
import time

import numpy as np
import pytest
from rapidfuzz import fuzz, process

from motion_llm.dataset import lengths
from motion_llm.dataset.caption_index import CaptionIndex
from motion_llm.dataset.lengths import ENOUGH_CLIPS, LengthLimits, LengthModel
from motion_llm.dataset.rows import Columns, Row, caption_key

# Two captions with clips of 10 and 20 tokens. Each log length differs from its mean by ln 2 / 2, so the squares sum to
# 4 (ln 2 / 2)^2 = (ln 2)^2 over two degrees of freedom: a spread of ln 2 / sqrt 2 = 0.4901.
TWO_AND_ONE = [("walks", 10), ("walks", 20), ("turns", 10), ("turns", 20), ("a backflip", 10)]
SPREAD = math.log(2) / math.sqrt(2)


def fit(clips, key=caption_key, chunk=7) -> LengthModel:
    """clips: (caption, participant_id, codes); in several chunks, as a large table gives them."""
    rows = [Row(i, text, np.array(codes, np.int32), participant_id)
            for i, (text, participant_id, codes) in enumerate(clips)]
    return LengthModel.fit([Columns.of(rows[i:i + chunk]) for i in range(0, len(rows), chunk)], key)


def fitted(captions_and_lengths, participant_id=None) -> LengthModel:
    """Clips of these lengths, no two with the same codes."""
    return fit([(text, participant_id, [i] + [0] * (n - 1)) for i, (text, n) in enumerate(captions_and_lengths)])


def window(limits: LengthLimits) -> tuple:
    return limits.min_tokens, limits.soft_target, limits.max_tokens


def test_a_clip_under_several_captions_counts_once():
    """A short clip with nine captions, two of them alike, beside two long ones with one each."""
    words = ["walks", "Walks.", "strolls", "goes", "goes on", "saunters", "ambles", "paces", "steps"]
    model = fit([(word, None, [5] * 10) for word in words] + [("runs", None, [6] * 30), ("jumps", None, [7] * 32)])
    assert model.overall.to_text() == "3 10 30 32"
    assert model.captions["walks"].lengths.count == 1 and model.limits("walks").source == "1 clip of this caption"


def test_the_spread_is_pooled_within_captions():
    assert fitted(TWO_AND_ONE).spread == pytest.approx(SPREAD)  # the caption with one clip does not count


def test_a_caption_with_one_clip_is_widened_by_two_spreads():
    # exp(2 x 0.4901) = 2.6651: 10 / 2.6651 = 3.75, 10 x 2.6651 = 26.65
    assert fitted(TWO_AND_ONE).limits("a backflip") == LengthLimits(3, 10, 27, "1 clip of this caption")


def test_two_clips_are_widened_by_half_as_much():
    # exp(0.4901) = 1.6325: 10 / 1.6325 = 6.13, 20 x 1.6325 = 32.65
    assert fitted(TWO_AND_ONE).limits("walks") == LengthLimits(6, 15.0, 33, "2 clips of this caption")


def test_a_caption_with_many_clips_keeps_their_range_to_within_a_token():
    limits = fitted([("walks", 10), ("walks", 20)] * 100).limits("walks")
    assert 9 <= limits.min_tokens <= 10 and limits.soft_target == 15 and 20 <= limits.max_tokens <= 21


def test_clips_of_one_length_have_that_length():
    assert window(fitted([("walks", 12)] * 3 + [("turns", 30)] * 2).limits("walks")) == (12, 12, 12)


def test_captions_with_one_clip_each_take_the_spread_of_all_clips():
    model = fitted([("walks", 10), ("turns", 20)])  # (ln 2)^2 / 2 over one degree of freedom
    assert model.spread == pytest.approx(SPREAD) and window(model.limits("walks")) == (3, 10, 27)


def test_a_single_clip_has_no_spread():
    assert window(fitted([("walks", 10)]).limits("walks")) == (10, 10, 10)


def test_the_shortest_clip_allowed_has_one_token():
    assert fitted([("walks", 1), ("turns", 50)]).limits("walks").min_tokens == 1


def test_captions_with_the_same_key_get_the_same_limits():
    model = fitted(TWO_AND_ONE)
    assert model.limits("  WALKS.") == model.limits("walks")
    assert fit([("walks", None, [0] * 10)], str).captions.keys() == {"walks"}


# Participants


def people(clips_of_ana: int) -> LengthModel:
    return fit([("walks", "ana", [i] + [0] * 29) for i in range(clips_of_ana)]
               + [("walks", "bo", [i] + [0] * 9) for i in range(10)])


def test_a_participants_own_clips_count_from_enough_clips_on():
    assert ENOUGH_CLIPS == 4
    enough, too_few = people(4).limits("walks", "ana"), people(3).limits("walks", "ana")
    assert enough.source == "4 clips of this caption by ana"
    assert enough.soft_target == 30 and enough.min_tokens > 20  # bo's 10 tokens do not count
    assert too_few.source == "13 clips of this caption" and too_few.soft_target == 10
    assert too_few == people(3).limits("walks")


def test_without_a_participant_or_with_an_unknown_one_all_clips_count():
    model = people(4)
    assert model.limits("walks").source == "14 clips of this caption" == model.limits("walks", "cy").source


def test_clips_without_a_participant_have_no_lengths_by_participant():
    model = fitted([("walks", 10)] * 6)
    assert model.captions["walks"].by_participant == {}
    assert model.limits("walks", "None").source == "6 clips of this caption"


# Unseen captions


WALKS = [("a person walks", 40), ("a person walks slowly", 60), ("a person runs", 20), ("a person runs slowly", 30),
         ("spin", 25)] * 3


def test_an_unseen_caption_gets_a_length_from_its_words():
    model = fitted([clip for clip in WALKS if clip[0] != "a person runs slowly"])
    limits = model.limits("A person runs slowly.")
    assert limits.source == "what the words of 4 captions say about length"
    low, middle, high = model.regression.expected("a person runs slowly")
    assert 20 < middle < 45  # between running and walking slowly
    assert limits.soft_target == middle
    assert limits.min_tokens == max(20, math.floor(low)) and limits.max_tokens == min(60, math.ceil(high))


def test_the_limits_of_an_unseen_caption_stay_within_those_of_all_clips():
    model = fitted([("walks", 10), ("walks", 20), ("runs", 12), ("runs", 18)])
    bounds, limits = model.limits("zzz"), model.limits("walks and runs and walks")
    assert bounds.min_tokens <= limits.min_tokens <= limits.soft_target <= limits.max_tokens <= bounds.max_tokens


@pytest.mark.parametrize("text", ["zzz", "走る", "💃", "?"])
def test_a_caption_without_a_known_word_takes_all_clips(text):
    model = fitted([("walks", 10), ("walks", 20), ("turns", 15), ("turns", 35), ("spin", 60), ("spin", 40)])
    limits = model.limits(text)
    assert limits.source == "all training clips, for no caption has a word of it"
    assert limits.soft_target == 27.5 and limits.min_tokens <= 10 and limits.max_tokens >= 60


# Codes and storage


def test_the_codes_of_a_caption():
    model = fit([("walks", None, [3, 1, 3]), ("Walks.", "ana", np.array([7, 1])), ("turns", None, [9])])
    assert model.codes("walks") == (1, 3, 7) and model.codes("TURNS") == (9,)
    assert model.codes("walks on") is None


def test_json_keeps_every_limit():
    rng = random.Random(0)
    clips = [(f"{verb} {way}", rng.choice(["ana", "bo", None]), [rng.randrange(50)] * rng.randrange(5, 80))
             for verb in ("walks", "runs", "jumps") for way in ("forward", "left") for _ in range(rng.randrange(1, 20))]
    model = fit(clips)
    again = LengthModel.from_dict(json.loads(json.dumps(model.to_dict())), caption_key)
    assert again.captions == model.captions and (again.spread, again.overall) == (model.spread, model.overall)
    assert any(record.by_participant for record in model.captions.values())  # else the loop below tests too little
    for text in ("walks forward", "Jumps LEFT.", "runs backward", "zzz"):
        assert again.codes(text) == model.codes(text)
        for participant_id in ("ana", "bo", "cy", None):
            assert again.limits(text, participant_id) == model.limits(text, participant_id)


def test_arrays_from_the_table_can_be_kept_as_json():
    model = fit([("walks", "ana", np.array(codes, np.int32)) for codes in ([4, 2], [2, 4], [4, 4], [2, 2], [4, 2, 2])])
    content = json.loads(json.dumps(model.to_dict()))
    assert content["captions"] == {"walks": "5 2 2 3"} and content["codes"] == {"walks": "2 4"}
    assert content["participants"] == {"walks": {"ana": "5 2 2 3"}}


def test_limits_are_ordered_and_hold_every_clip_whatever_the_clips():
    rng = random.Random(0)
    words = "walks runs turns left right slowly a person the".split()
    for _ in range(150):
        clips = [(" ".join(rng.choices(words, k=rng.randrange(1, 4))), rng.choice(["ana", None]),
                  [0] * rng.choice([1, 2, rng.randrange(1, 400)])) for _ in range(rng.randrange(1, 25))]
        model = fit(clips)
        for text in [clips[0][0], "zzz", "walks somewhere", "a person turns"]:
            for participant_id in (None, "ana"):
                limits = model.limits(text, participant_id)
                assert 1 <= limits.min_tokens <= limits.soft_target <= limits.max_tokens, (clips, text)
                assert isinstance(limits.min_tokens, int) and isinstance(limits.max_tokens, int)
        for text, _, codes in clips:
            limits = model.limits(text)
            assert limits.min_tokens <= len(codes) <= limits.max_tokens, (clips, text)


def test_no_clips_are_refused():
    with pytest.raises(ValueError, match="^no training clips to take lengths from$"):
        LengthModel.fit([], caption_key)


def test_statistics_in_another_form_are_refused():
    with pytest.raises(ValueError, match="of an earlier version"):
        LengthModel.from_dict({"spread": 0.1, "overall": [1, 2, 2, 2], "captions": {}}, caption_key)


# Many captions


def test_of_too_many_captions_those_with_most_clips_are_kept(monkeypatch):
    monkeypatch.setattr(lengths, "MOST_CAPTIONS", 3)
    clips = [("rare one", 10), ("common", 20), ("often", 30), ("rare two", 40), ("common", 22), ("often", 30),
             ("rare three", 50)]
    for seed in range(5):
        model = fitted(random.Random(seed).sample(clips, len(clips)))
        (rare,) = model.captions.keys() - {"common", "often"}
        assert rare == min(("rare one", "rare two", "rare three"), key=blake_of)  # whatever the order of the clips
    assert model.overall.count == 7 and model.spread == pytest.approx(fitted(clips).spread)
    assert model.limits("common").source == "2 clips of this caption"
    dropped = next(text for text in ("rare one", "rare two") if text not in model.captions)
    assert "of this caption" not in model.limits(dropped).source and model.codes(dropped) is None


def blake_of(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest()[:8], "little")


def test_details_are_kept_for_the_captions_with_most_clips(monkeypatch):
    clips = [("often", "ana", [n]) for n in range(5)] + [("rare", "bo", [7, 8, 9])]
    for budget, codes, participants in ((12, (7, 8, 9), {"ana"}), (11, None, {"ana"}), (8, None, set())):
        monkeypatch.setattr(lengths, "MOST_DETAILS", budget)
        model = fit(clips)
        assert (model.codes("rare"), set(model.captions["often"].by_participant)) == (codes, participants)
        assert model.codes("often") == ((0, 1, 2, 3, 4) if participants else None)
        assert model.limits("rare").source == "1 clip of this caption"


def test_a_model_of_many_captions_is_small_and_quick():
    words = "a person walks runs jumps slowly quickly left right forward twice then and waves".split()
    rng = random.Random(0)
    clips = [(f"{' '.join(rng.choices(words, k=8))} {n}", f"P{n % 9}", [n % 512] * 20) for n in range(60_000)]
    model = fit(clips, chunk=10_000)
    assert len(model.captions) == lengths.MOST_CAPTIONS
    assert len(json.dumps(model.to_dict(), indent=1)) < 7e6
    model.limits("the first question makes the index")
    started = time.perf_counter()
    for text, *_ in clips[:20]:
        model.limits(text + " once more")
    assert time.perf_counter() - started < 2  # 0.1 s each would be too slow; a few milliseconds were measured


@pytest.mark.parametrize("count", [1, 5, 300, 3000])
def test_the_index_finds_what_comparing_all_finds(count):
    rng = random.Random(count)
    words = "a person walks runs jumps slowly quickly left right forward twice then and waves é 𝄞".split()
    captions = list(dict.fromkeys(" ".join(rng.choices(words, k=rng.randrange(1, 9))) for _ in range(count)))
    index = CaptionIndex(captions)
    for limit, least in ((1, 0.0), (5, 60.0), (5, 85.0), (400, 60.0)):
        for _ in range(10):
            query = " ".join(rng.choices([*words, "spin", "xyz"], k=rng.randrange(1, 9)))
            expected = process.extract(query, captions, scorer=fuzz.token_sort_ratio, limit=limit, score_cutoff=least)
            assert index.nearest(query, limit, least) == [(caption, score) for caption, score, _ in expected]
