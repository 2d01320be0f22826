"""How many passes fit, whether they are enough, and what more would need."""

import pytest

from motion_llm.training.forecast import StageAhead, advice, foretell, passes_made, passes_needed, round_up, still_falls


def test_few_clips_need_more_passes_and_many_need_two():
    assert passes_needed(100) == 40 and passes_needed(800) == 5
    assert passes_needed(15_000) == passes_needed(2_500) == 2


def test_minutes_that_are_too_few_are_told_with_those_that_would_do():
    # 100 clips of 50 positions, 5,000 positions a second: one pass a second; a third of the time has none of the task.
    ahead = [StageAhead(1, 5_000, 0.0), StageAhead(2, 5_000, 1.0)]
    short = foretell(100, 0.0, 0.0, ahead, 5_000.0, 0.5, (3, 2))
    assert short.passes == pytest.approx(20) and short.needed == 40
    assert short.more == "--max_minutes 1"
    enough = foretell(100, 0.0, 0.0, ahead, 5_000.0, 1, (3, 2))
    assert enough.passes == pytest.approx(40) and enough.more is None
    slow = foretell(100, 0.0, 0.0, ahead, 50.0, 30, (3, 2))
    assert slow.more == "--max_minutes 100" and foretell(100, 0.0, 0.0, ahead, 50.0, 100, (3, 2)).more is None


def test_what_earlier_stages_made_and_took_counts():
    ahead = [StageAhead(6, 5_000, 1.0)]
    forecast = foretell(100, 10.0, 30.0, ahead, 5_000.0, 1, (3, 6))
    assert forecast.passes == pytest.approx(40) and forecast.more is None


def test_epochs_that_are_too_few_are_told_with_those_that_would_do():
    ahead = [StageAhead(3, 8_000, 0.5), StageAhead(6, 5_000, 1.0)]
    forecast = foretell(400, 0.0, 60.0, ahead, 100.0, None, (3, 6))
    assert forecast.passes == 7.5 and forecast.needed == 10 and forecast.more == "--epochs_s3 9"
    assert forecast.minutes == pytest.approx(1 + (3 * 80 + 6 * 50) / 60)
    assert foretell(400, 0.0, 60.0, [ahead[0], StageAhead(9, 5_000, 1.0)], 100.0, None, (3, 9)).more is None


def test_the_sentence_says_what_fits_what_is_needed_and_what_to_give():
    ahead = [StageAhead(6, 5_000, 1.0)]
    short = foretell(100, 0.0, 0.0, ahead, 50.0, 10, (3, 6)).sentence(100, 1.0)
    assert short == ("1 clips a second: about 6 passes of text to motion over 100 clips in 10 minutes, but about 40 "
                     "are usually needed before a model follows its captions: --max_minutes 70 would do")
    assert foretell(5000, 0.0, 0.0, ahead, 50.0, 10, (3, 6)).sentence(5000, 1.0).endswith("(2 are usually enough)")


def history(passes: float, seconds: float, means: list[float], clips: int = 1_000) -> dict:
    nll = [{"epoch": passes * (i + 1) / len(means), "mean": mean} for i, mean in enumerate(means)]
    return {"passes": passes, "clips": clips, "seconds": seconds, "nll": nll}


def test_after_training_the_missing_passes_are_told_in_minutes_or_epochs():
    stages = [(history(1, 60, [3.0]), 0.5), (history(1.5, 300, [2.0]), 1.0)]
    assert advice(stages, 6, (3, 6)) == (2.0, "--max_minutes 15")  # 4 needed: 2 more of 200 seconds after 360
    assert advice(stages, None, (3, 6)) == (2.0, "--epochs_s3 8")


def test_the_minutes_that_are_advised_are_more_than_those_that_the_run_had():
    stages = [(history(3.99, 590, [2.0, 1.99]), 1.0)]  # a hundredth of a pass is missing
    assert advice(stages, 10, (3, 6)) == (3.99, "--max_minutes 15")


def test_with_enough_passes_only_a_loss_that_still_falls_asks_for_more():
    flat, falling = history(6, 600, [1.2, 1.19]), history(6, 600, [1.4, 1.0])
    assert advice([(flat, 1.0)], None, (3, 6)) == (6.0, None)
    assert advice([(falling, 1.0)], None, (3, 6)) == (6.0, "--epochs_s3 9")
    assert not still_falls([]) and not still_falls(history(2, 1, [1.0, 1.2])["nll"])


def test_a_stage_without_text_to_motion_has_no_advice():
    assert advice([(history(1, 60, [3.0]), 0.0)], 5, (1, 1)) == (0.0, None)


def test_a_run_of_more_than_ten_minutes_is_told_at_its_start_how_to_end_in_ten():
    ahead = [StageAhead(1, 1_000, 0.0), StageAhead(3, 2_000, 1.0)]  # 7,000 positions
    long = foretell(400, 0.0, 0.0, ahead, 5.0, None, (3, 3))
    assert long.minutes == pytest.approx(7_000 / 5 / 60) and long.in_less == pytest.approx(600 * 0.75 * 5 / 2_000)
    assert long.sentence(400, 0.1).endswith("; --max_minutes 10 ends in that time, with 1.1 passes")
    for used, speed, minutes in ((0.0, 12.0, None), (60.0, 5.0, None), (0.0, 5.0, 30)):
        assert "ends in that time" not in foretell(400, 0.0, used, ahead, speed, minutes, (3, 3)).sentence(400, 0.1)


def test_folders_of_before_count_by_their_last_evaluation():
    assert passes_made({"nll": [{"epoch": 1.0}, {"epoch": 2.5}]}) == 2.5 and passes_made({"nll": []}) == 0


@pytest.mark.parametrize(("minutes", "rounded"), [(0.2, 1), (9.5, 10), (10.0, 10), (11, 15), (120.0, 120), (121, 150)])
def test_minutes_are_rounded_up_to_what_people_would_choose(minutes, rounded):
    assert round_up(minutes) == rounded
