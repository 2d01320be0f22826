"""sentences.py: sentences of other people are read with their meaning, and answers are judged by it."""

import json
from types import SimpleNamespace

import pytest

from motion_llm.benchmarks.sentences import FREQUENT, Sentence, format_sentences, read_sentences, score_sentences
from motion_llm.benchmarks.wording_sets import WordingError, read_wordings

WORDINGS = "data/bandai_wordings.json"
GOOD = {"text": "he scurries off", "action": "run", "style": "neutral"}


@pytest.fixture
def wordings(monkeypatch, request):
    monkeypatch.chdir(request.config.rootpath)
    return read_wordings(WORDINGS)


def test_sets_are_read_by_name(tmp_path, wordings):
    (tmp_path / "s.json").write_text(json.dumps({"one": [GOOD], "two": [GOOD | {"style": "sad"}] * 2}))
    assert read_sentences(tmp_path / "s.json", wordings) == {
        "one": [Sentence("he scurries off", "run", "neutral")], "two": [Sentence("he scurries off", "run", "sad")] * 2}


@pytest.mark.parametrize("content, message", [
    ([GOOD], "expected an object of lists"), ({}, "expected an object of lists"), ({"a": []}, "an object of lists"),
    ({"a": [GOOD, "run"]}, "'a', entry 1 is 'run', expected an object with text, action and style"),
    ({"a": [GOOD | {"text": " "}]}, "'a', entry 0"), ({"a": [GOOD | {"more": "x"}]}, "'a', entry 0"),
    ({"a": [GOOD | {"action": "fly"}]}, f"'a', entry 0 has the action 'fly', expected one of {WORDINGS}: bow, "),
    ({"a": [GOOD | {"style": "blue"}]}, f"'a', entry 0 has the style 'blue', expected one of {WORDINGS}: angry, "),
])
def test_a_wrong_file_is_refused_by_its_entry(tmp_path, wordings, content, message):
    (tmp_path / "s.json").write_text(json.dumps(content))
    with pytest.raises(WordingError) as caught:
        read_sentences(tmp_path / "s.json", wordings)
    assert str(tmp_path / "s.json") in str(caught.value) and message in str(caught.value)


def test_answers_are_judged_by_the_sentence_and_what_it_was_taken_for(wordings):
    sentences = [Sentence("a", "run", "neutral"), Sentence("b", "bow", "sad")]
    results = [SimpleNamespace(codes=[code], taken_for=taken) for code, taken in (
        (1, "a person runs forward"), (2, None), (2, "a person bows"), (2, "a person kicks sadly"))]
    judge = SimpleNamespace(
        actions=SimpleNamespace(predict=lambda clips: ["run" if clip == [1] else "bow" for clip in clips]),
        styles=SimpleNamespace(predict=lambda clips: ["sad" if clip == [2] else "angry" for clip in clips]),
        on_real={("run", "neutral"): [(True, False)] * FREQUENT, ("bow", "sad"): [(True, True), (False, True)]})
    scores = score_sentences("strangers", sentences, results, judge, wordings)
    assert scores == {
        "strangers": {"sentences": 2, "clips": 4, "recognised": 3 / 4, "style_recognised": 1.0,
                      "real_recognised": 3 / 4, "real_style_recognised": 1.0, "taken": 3 / 4, "taken_action": 2 / 3,
                      "taken_style": 1 / 2},
        "strangers: frequent": {"sentences": 1, "clips": 2, "recognised": 1 / 2, "style_recognised": None,
                                "real_recognised": 1.0, "real_style_recognised": None, "taken": 1 / 2,
                                "taken_action": 1.0, "taken_style": None}}
    judge.styles, judge.on_real = None, {}
    bare = score_sentences("none", sentences[:1], results[1:2], judge, wordings)
    assert bare == {"none": {"sentences": 1, "clips": 1, "recognised": 0.0, "style_recognised": None,
                             "real_recognised": None, "real_style_recognised": None, "taken": 0.0,
                             "taken_action": None, "taken_style": None}}
    table = format_sentences(scores | bare)
    assert [word for word in table[2].split() if "%" in word] == [
        "75.0%", "75.0%", "100.0%", "100.0%", "75.0%", "66.7%", "50.0%"]
    assert table[4].split() == ["none", "1", "0.0%", "0.0%"]
