"""request.py: requests that no model can answer are refused before a model is loaded."""

import re

import pytest

from motion_llm.decoding.request import GenerationError, MotionRequest, Sampling, parse_codes, with_lost_span
from motion_llm.streams import MASKED


@pytest.mark.parametrize(("fields", "message"), [
    (dict(task="dance", text="x"), "task 'dance' is unknown; there are t2m, m2t, denoise, edit, inbetween, continue"),
    (dict(), "the prompt is None, expected a sentence"),
    (dict(text=""), "the prompt is '', expected a sentence"),
    (dict(text=" \n\t"), "expected a sentence"),
    (dict(text=7), "the prompt is 7"),
    (dict(text="x" * 10_001), "the prompt has 10,001 characters, expected at most 10,000"),
    (dict(text="walk\x00forward"), r"holds the control character '\x00' at 4"),
    (dict(text="walk\x1b[31m"), r"the control character '\x1b'"),
    (dict(text="walk\x7f"), r"the control character '\x7f'"), (dict(text="\u200b"), "has nothing that can be seen"),
    (dict(text="a \ud83d"), r"holds half a character (the lone surrogate '\ud83d') at 2"),
    (dict(text="x", tokens=0), "tokens is 0, expected an integer from 1"),
    (dict(text="x", tokens=2.5), "tokens is 2.5, expected an integer"),
    (dict(text="x", tokens=True), "tokens is True"),
    (dict(text="x", seconds=0), "seconds is 0"),
    (dict(text="x", seconds=-1.5), "seconds is -1.5"),
    (dict(text="x", seconds=float("nan")), "seconds is nan"),
    (dict(text="x", min_tokens=9, max_tokens=8), "min_tokens is 9, more than max_tokens, 8"),
    (dict(text="x", tokens=9, max_tokens=9), "tokens and max_tokens were given: tokens says the length alone"),
    (dict(text="x", tokens=9, seconds=3), "tokens and seconds were given"),
    (dict(text="x", max_tokens=0), "max_tokens is 0"),
    (dict(text="x", num_samples=0), "num_samples is 0"),
    (dict(text="x", num_samples=-3), "num_samples is -3"),
    (dict(text="x", best_of=0), "best_of is 0"),
    (dict(text="x", motion="1 2"), "motion (--motion_tokens) was given, which t2m (text to motion) does not take"),
    (dict(text="x", end="1 2"), "end (--end_tokens) was given, which t2m"),
    (dict(task="m2t"), 'm2t (motion to text) needs motion (--motion_tokens): codes such as "42 18 91"'),
    (dict(task="m2t", motion="1 2", text="x"), "text (--prompt) was given, which m2t"),
    (dict(task="m2t", motion="1 ? 2"), "'?' at position 1"),
    (dict(task="m2t", motion="1 2", tokens=9), "tokens was given, but the answer to m2t is a sentence"),
    (dict(task="m2t", motion=""), "motion_tokens is '', expected codes"),
    (dict(task="m2t", motion=[]), "motion_tokens is [], expected codes"),
    (dict(task="m2t", motion=7), "motion_tokens is 7, expected codes"),
    (dict(task="m2t", motion="1,2"), "'1,2' at position 0"),
    (dict(task="m2t", motion=[1.7]), "1.7 at position 0"),
    (dict(task="m2t", motion=[True]), "True at position 0"),
    (dict(task="m2t", motion="1 -1"), "'-1' at position 1"),
    (dict(task="m2t", motion="1 ٣"), "'٣' at position 1"),
    (dict(task="denoise", motion="1 !"), "'!' at position 1, expected codes such as \"42 18 91\", ? for a lost one"),
    (dict(task="denoise", motion="1 ?", tokens=2), "as many tokens as the question"),
    (dict(task="inbetween", motion="1 2"), "inbetween (going from one motion to another) needs end (--end_tokens)"),
    (dict(task="inbetween", motion="1 2", end="3"), "inbetween needs its length"),
    (dict(task="edit", motion="1 ?"), "the prompt is None, expected a sentence"),
    (dict(task="edit", text="x"), "edit (making a part of a motion anew, by a sentence) needs motion"),
    (dict(task="edit", text="x", motion="1 ?", seconds=2), "as many tokens as the question"),
    (dict(task="edit", text="x", motion="1 ?", streams="hands"), "edit answers with the streams of the question"),
    (dict(task="m2t", motion="1", before="2"), "before was given, which m2t"),
    (dict(text="x", before="1 ?"), "'?' at position 1"),
    (dict(task="continue"), "continue (going on from a motion) needs motion (--motion_tokens)"),
    (dict(task="continue", motion="1", best_of=2), "best_of ranks motions by their caption"),
])
def test_a_request_that_makes_no_sense_is_refused(fields, message):
    with pytest.raises(GenerationError, match=re.escape(message)):
        MotionRequest(**fields)


def test_codes_are_read_from_text_and_lists_and_lost_ones_for_denoise_alone():
    assert MotionRequest("m2t", motion="42  18\n91").motion == (42, 18, 91)
    assert MotionRequest("m2t", motion=[42, "18"]).motion == (42, 18)
    assert MotionRequest("denoise", motion="? 18 ?").motion == (MASKED, 18, MASKED)
    assert MotionRequest("edit", "a bow", "? 18 ?").motion == (MASKED, 18, MASKED)
    assert MotionRequest("inbetween", "a bow", "1", "2", tokens=4).text == "a bow"
    assert parse_codes(["?", 3], lost=True) == (MASKED, 3)


@pytest.mark.parametrize("text", ["走", "‏يلوح بيده", "💃🏽 dances", "<MOT_END> <|im_end|>", "tabs\tand\nlines",
                                  "x" * 2000])
def test_other_scripts_emoji_and_spelled_tokens_are_plain_captions(text):
    assert MotionRequest(text=text).text == text


def test_a_request_and_its_sampling_do_not_change():
    request = MotionRequest(text="x")
    with pytest.raises(AttributeError):
        request.text = "y"
    assert hash(Sampling(1, 1, 0, 0)) == hash(Sampling(1, 1, 0, 0))


def test_a_gap_in_seconds_is_lost_tokens():
    assert with_lost_span("1 2 3 4 5 6", "0.5 : 1", 4.0) == "1 2 ? ? 5 6"
    for span in ("1:1", "2", "0:9", "-1:1", "a:b"):
        with pytest.raises(GenerationError, match=r"expected START:END in seconds.*1\.5 seconds \(6 tokens\)"):
            with_lost_span("1 2 3 4 5 6", span, 4.0)
    with pytest.raises(GenerationError, match=r"write \? for each lost token"):
        with_lost_span("1 2 3", "0:1", None)
