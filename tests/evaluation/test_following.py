"""following.py: the verdict in words, and that no bad model is called good."""

import pytest

from motion_llm.evaluation.following import (
    FOLLOWS,
    FOLLOWS_FROM,
    HALF,
    NOT_YET,
    UNKNOWN,
    following,
    share_of,
)
from motion_llm.evaluation.intervals import NOT_AVAILABLE, Estimate
from motion_llm.evaluation.metric_names import MODEL, NEAREST, REAL, SHUFFLED

MANY = {"seen": 60, "unseen": 60, "all": 120}


def near(value: float, margin: float = 0.05) -> Estimate:
    return Estimate(value, max(0.0, value - margin), min(1.0, value + margin), 100)


def table_of(model, real=0.95, shuffled=0.1, top1=None, **more) -> dict:
    """model, real, shuffled: R-Precision top 3, one for both kinds of captions or {"seen": .., "unseen": ..}."""
    def row(value, first=None):
        of_kind = value if isinstance(value, dict) else dict.fromkeys(("seen", "unseen", "all"), value)
        return {kind: {"r_precision_top3": near(top3), "r_precision_top1": near(0.7 * top3 if first is None else first)}
                for kind, top3 in of_kind.items()}

    return {MODEL: row(model, top1), REAL: row(real), SHUFFLED: row(shuffled)} | {
        name: row(value) for name, value in more.items()}


@pytest.mark.parametrize("top3, word", [(0.95, FOLLOWS), (0.90, FOLLOWS), (0.60, HALF), (0.30, NOT_YET),
                                        (0.1, NOT_YET)])
def test_the_word_goes_with_the_share(top3, word):
    verdict = following(table_of(top3), MANY)
    assert verdict.word == word and verdict.low < verdict.share < verdict.high
    assert verdict.share == pytest.approx((top3 - 0.1) / 0.85)


def test_the_lower_end_decides_not_the_share():
    wide = table_of(0.8)
    wide[MODEL]["seen"]["r_precision_top3"] = Estimate(0.8, 0.55, 0.95, 40)
    verdict = following(wide, MANY)
    assert verdict.parts["seen"].share > FOLLOWS_FROM > verdict.parts["seen"].low and verdict.word == HALF


def test_an_interval_over_all_words_is_no_verdict():
    wide = table_of(0.6)
    wide[MODEL]["all"]["r_precision_top3"] = Estimate(0.6, 0.2, 0.95, 40)
    verdict = following(wide, {"all": 40})
    assert verdict.word == UNKNOWN and "the interval is too wide" in verdict.sentence
    assert (verdict.share, verdict.low) != (None, None)


def test_hits_alone_are_no_certainty_with_few_captions():
    sure = Estimate(1.0, 1.0, 1.0, 30), Estimate(1.0, 1.0, 1.0, 30), Estimate(0.0, 0.0, 0.0, 30)
    shares = [share_of(*sure, captions) for captions in (5, 10, 100)]
    assert [share for share, _, _ in shares] == [1, 1, 1]
    assert shares[0][1] < 0.6 < FOLLOWS_FROM < shares[1][1] < 0.75 < 0.9 < shares[2][1]
    assert following(table_of(1.0, 1.0, 0.0), {"all": 4}).word == UNKNOWN


@pytest.mark.parametrize("real, shuffled", [(0.45, 0.05), (0.6, 0.35)])
def test_a_weak_evaluator_judges_nothing(real, shuffled):
    verdict = following(table_of(0.9, real, shuffled), MANY)
    assert verdict.word == UNKNOWN and verdict.share is None
    assert f"in only {100 * real:.0f} %" in verdict.sentence


def test_without_an_evaluator_there_is_no_verdict():
    missing = {row: {"all": dict.fromkeys(("r_precision_top1", "r_precision_top3"), NOT_AVAILABLE)}
               for row in (MODEL, REAL, SHUFFLED)}
    assert following(missing, {"all": 50}).word == UNKNOWN


def test_seen_and_unseen_captions_are_told_apart_and_the_worse_ones_count():
    verdict = following(table_of({"seen": 0.95, "unseen": 0.6}), MANY)
    assert verdict.word == HALF and verdict.share == verdict.parts["unseen"].share
    assert verdict.sentence.startswith("It follows captions that were trained, and half follows captions that are new:")
    assert "95 % (trained captions) and 60 % (new captions) of its clips" in verdict.sentence
    assert following(table_of({"seen": 0.95, "unseen": 0.2}), MANY).word == HALF
    assert following(table_of({"seen": 0.5, "unseen": 0.2}), MANY).word == NOT_YET


def test_what_cannot_be_judged_is_said_beside_what_can():
    verdict = following(table_of(0.95), {"seen": 60, "unseen": 3})
    assert verdict.word == FOLLOWS and verdict.sentence.startswith("Yes, it follows captions that were trained: ")
    assert "Captions that are new cannot be judged: only 3 different captions" in verdict.sentence


def test_a_look_up_of_trained_captions_is_not_called_good():
    """It finds the trained ones; the interval of the few new ones spans everything."""
    table = table_of({"seen": 0.95, "unseen": 0.65})
    verdict = following(table, {"seen": 40, "unseen": 7})
    assert verdict.parts["unseen"].word == UNKNOWN and verdict.word == HALF
    assert verdict.sentence.startswith("It follows captions that were trained: ")


def test_few_new_captions_do_not_lower_the_word_where_even_real_clips_would_not_pass():
    table = table_of({"seen": 0.95, "unseen": 0.95})
    for kind in ("model", "real"):
        table[kind]["unseen"]["r_precision_top3"] = Estimate(0.95, 0.7, 1.0, 7)
    verdict = following(table, {"seen": 60, "unseen": 7})
    assert verdict.word == FOLLOWS and verdict.parts["unseen"].word == UNKNOWN
    assert "Captions that are new cannot be judged: with 7 of them even real clips would not pass" in verdict.sentence
    table["model"]["unseen"]["r_precision_top3"] = Estimate(0.1, 0.0, 0.3, 7)  # bad ones are seen all the same
    assert following(table, {"seen": 60, "unseen": 7}).parts["unseen"].word == NOT_YET


def test_top_1_can_veto():
    assert following(table_of(0.95, top1=0.3), MANY).word == HALF
    doubtful = table_of(0.95, top1=0.45)  # 0.64 of the way from 0.07 to 0.665, with an interval up to 0.72
    assert following(doubtful, MANY).word == HALF
    assert following(table_of(0.95, top1=0.5), MANY).word == FOLLOWS
    assert following(table_of(0.95, 0.95, nearest_caption_clip=0.96), MANY).parts["unseen"].word == HALF
    assert NEAREST == "nearest_caption_clip"


def test_passes_and_advice_follow_unless_it_follows():
    advice = "--max_minutes 30"
    assert following(table_of(0.2), MANY, passes=0.613, advice=advice).sentence.endswith(
        " It has made 0.61 passes of text to motion over its training clips: go on with the same command and "
        "--max_minutes 30.")
    assert "passes" not in following(table_of(0.95), MANY, passes=20.0, advice=advice).sentence
    assert "passes" not in following(table_of(0.2), MANY).sentence


@pytest.mark.parametrize("top3", [0.0, 0.1, 0.3, 0.5, 0.7])
@pytest.mark.parametrize("captions", [5, 10, 30, 300])
def test_a_bad_model_is_never_called_good(top3, captions):
    """Less than 0.8 of the way, as seen with any number of captions."""
    assert following(table_of(top3), {"all": captions}).word != FOLLOWS
