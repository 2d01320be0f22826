"""The demo's questions and answers on a tiny model, without Gradio: answers as alone, files, texts, escapes."""

import html
import re
import shutil

import pytest

from motion_llm.decoding.request import GenerationError, MotionRequest


@pytest.fixture(scope="module")
def models(run_with_codec):
    from motion_llm.demo.models import Models  # imports transformers, which must follow Unsloth's start

    return Models(run_with_codec / "stage3_t2m_sft")


@pytest.fixture(scope="module")
def questions(models):
    from motion_llm.demo import questions

    return questions


def decoded(parts) -> dict:
    from motion_llm.demo.models import decode

    return {place: result for place, result in decode(parts) if result is not None}


def test_answers_of_one_round_are_those_of_each_question_alone(models):
    other = models.generator_for("m2t")
    asked = [(models.main, MotionRequest(text="a person bows", num_samples=3, temperature=1.2), 7),
             (other, MotionRequest("m2t", motion="1 2 3 4", temperature=0), 0),
             (models.main, MotionRequest(text="a person kicks", tokens=9), 11),
             (other, MotionRequest("denoise", motion="5 ? ? 7 7"), 3),
             (other, MotionRequest("continue", motion="5 6", tokens=8), 2**40)]
    parts = [part for generator, request, seed in asked for part in generator.parts(request, seed)]
    results = decoded(parts)
    alone = [result for generator, request, seed in asked for result in generator.answer([request], seed)]
    assert [results[place].motion_tokens for place in range(len(parts))] == [one.motion_tokens for one in alone]
    assert [results[place].text for place in range(len(parts))] == [one.text for one in alone]
    assert results[0].log_probability == pytest.approx(alone[0].log_probability, abs=1e-4)
    assert len({results[place].motion_tokens for place in range(3)}) > 1  # samples of their own


def test_every_token_is_told(models):
    from motion_llm.demo.models import decode

    parts = models.main.parts(MotionRequest(text="a person runs", tokens=6, num_samples=2), 0)
    assert [place for place, result in decode(parts) if result is None].count(1) == 6


def test_a_scene_is_that_of_compose_and_a_caption_that_of_caption(models, questions):
    question = questions.scene_of_lines(models, "a person bows\n\n 2 s: a person kicks\n", "9", participant_id="P001")
    other = questions.question_of(models, "t2m", "x", "1", text="a person runs", tokens=5)
    said = questions.question_of(models, "m2t", "x", "0", motion="1 2 3 4", temperature=0)
    results = decoded([*question.parts, *other.parts, *said.parts])
    assert results[0] == models.main.compose(question.timeline, seed=9, participant_id="P001")
    assert [segment.seconds for segment in question.timeline] == [None, 2.0]
    assert results[1].motion_tokens == models.main.answer([other.request], 1)[0].motion_tokens
    assert results[2].text == models.generator_for("m2t").caption("1 2 3 4").text
    answer = questions.Answer.of(question, [results[0]], 1)
    assert answer.scene == results[0] and answer.captions == ("a person bows, then a person kicks",)


@pytest.mark.parametrize("lines, message", [
    ("", "write what happens, a sentence a line"), ("\n \n", "write what happens"),
    ("a person bows\n3:", "line 2: the prompt is '', expected a sentence"),
    ("0: a person bows", "line 1: seconds is 0"), ("a person bows\n" * 25, "25 clips were asked for")])
def test_a_scene_that_cannot_be_is_refused_by_line(models, questions, lines, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        questions.scene_of_lines(models, lines).parts  # noqa: B018


def test_another_folder_answers_what_the_model_was_not_trained_for(models, run_with_codec, tmp_path):
    from motion_llm.demo.models import Models

    assert models.folder_for("t2m") == run_with_codec / "stage3_t2m_sft"
    assert models.folder_for("m2t") == run_with_codec / "stage2_multitask"
    assert models.generator_for("m2t") is models.generator_for("denoise") is not models.main
    shutil.copytree(run_with_codec / "stage3_t2m_sft", tmp_path / "alone")
    alone = Models(tmp_path / "alone")
    assert alone.folder_for("m2t") is None and alone.generator_for("m2t") is alone.main
    with pytest.raises(GenerationError, match="not for motion to text"):
        alone.main.parts(MotionRequest("m2t", motion="1 2"), 0)


@pytest.mark.parametrize(("fields", "text"), [
    ({"text": " "}, "expected a sentence"), ({"text": "a bow", "participant_id": "P9"}, "P9"),
    ({"text": "a bow", "temperature": -1}, "temperature is -1"), ({"text": "a bow", "num_samples": 10**9}, "1 to 24"),
    ({"text": "a bow", "num_samples": 2.5}, "2.5 clips"), ({"text": "a bow", "seconds": 9e5}, "positions"),
    ({"text": "a bow", "seed": "-3"}, "seed is '-3'"), ({"text": "a bow", "seed": "9" * 19}, "seed is 9999")])
def test_what_cannot_be_answered_is_refused_in_the_words_of_the_command_line(models, questions, fields, text):
    with pytest.raises(ValueError, match=re.escape(text)):
        assert questions.question_of(models, "t2m", "title", **fields).parts


def test_a_seed_is_taken_or_drawn(questions):
    assert questions.seed_of(" 0 ") == 0 and questions.seed_of("123") == 123
    assert len({questions.seed_of(""), questions.seed_of(None), questions.seed_of("  ")}) == 3


def test_a_file_becomes_tokens_and_is_named_without_its_place(models, questions, tmp_path):
    motion = models.main.motion("1 2 3 4 5")
    content = questions.file_of(models.main, "bow.bvh", "1 2 3 4 5", "a bow")
    (tmp_path / "bow.bvh").write_bytes(content)
    assert questions.tokens_or_file(models, "  ", tmp_path / "bow.bvh") == models.main.encode(motion)
    assert questions.tokens_or_file(models, " 7 8 ", None) == "7 8"
    assert questions.tokens_or_file(models, "", None) is None
    with pytest.raises(GenerationError, match="the same thing"):
        questions.tokens_or_file(models, "1", tmp_path / "bow.bvh")
    (tmp_path / "torn.bvh").write_bytes(content[:200])
    with pytest.raises(ValueError, match="torn.bvh") as told:
        questions.tokens_or_file(models, None, tmp_path / "torn.bvh")
    assert str(tmp_path) not in str(told.value)


def test_files_are_made_from_the_link(models, questions):
    assert questions.file_of(models.main, "a.bvh", "1 2", "").startswith(b"HIERARCHY")
    assert questions.file_of(models.main, "a.glb", "1 2", "").startswith(b"glTF")
    for name, tokens, text in (("a.py", "1", "expected a name"), ("a.bvh", "1 x", "position 1"),
                               ("a.bvh", "999", "999")):
        with pytest.raises(ValueError, match=text):
            questions.file_of(models.main, name, tokens, "")


EVIL = 'a ${1+1} {{value}} <b>"bow"</b> </script><script>alert(1)</script>'


def test_a_caption_is_text_everywhere(models, questions):
    clips = [models.main.clip((1, 2, 3), EVIL), models.main.clip((3, 4), EVIL)]
    frame = questions.figures_html(clips, 1.5)
    assert frame.count("<") == 4  # the frame and what holds it; the page inside it is an attribute's value
    inside = html.unescape(re.search(r'srcdoc="([^"]*)"', frame)[1])
    assert "alert(1)</script>" not in inside and "setTime(1.50)" in inside
    assert '"note": "2: 2 tokens' in inside
    answer = questions.Answer(1, EVIL, ((1, 2, 3), (3, 4)), ("1 2 3", "3 4"), (EVIL, EVIL), False, 5)
    links = questions.links_html(answer, 1, figures=True)
    assert "<b>" not in links and "<script>" not in links
    assert 'download="a_1_1_value_b_bow_b_script_script_alert_2.bvh"' in links and "tokens=3+4" in links
    assert questions.links_html(answer, 0, figures=False) == ""
    assert "<b>" not in questions.status_html(EVIL) and "<b>" not in questions.error_html(ValueError(EVIL))


def test_a_defect_is_called_one(questions):
    assert "defect" in questions.error_html(ZeroDivisionError("a hole"))
    assert questions.error_html(OSError("no room")) == '<p class="alert" role="alert">no room</p>'


def test_a_model_without_a_codec_shows_tokens(questions):
    answer = questions.Answer(1, "a bow", ((1, 2, 3), (3, 4)), ("1 2 3", "3 4"), ("a bow", "a bow"), False, 5)
    shown = questions.tokens_html(answer)
    assert "<code>1 2 3</code>" in shown and "<code>3 4</code>" in shown and "CODEC_PATH" in shown


def test_examples_are_short_and_from_everywhere(questions):
    captions = [f"a person {number:02}" for number in range(40)] + ["long " * 20]
    assert questions.examples_of(captions) == ["a person 00", "a person 10", "a person 20", "a person 30"]
    assert questions.examples_of(["long " * 20]) == []
