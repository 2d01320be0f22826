"""wordings.py and its two files: captions mean what they say, what is held out is out, other words are other words."""

import copy
import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from data import read_rows
from motion_llm.benchmarks.wording_sets import NEUTRAL, REWORDINGS, WordingError, Wordings, read_wordings
from motion_llm.dataset.rows import Row, caption_key

DATA = Path(__file__).parents[2] / "data"
CONTENT = {
    "patterns": ["{subject} {action}", "{subject} {action} {style}", "{style} {subject} {action}"],
    "subjects": ["a person", "someone"],
    "actions": {"walk": {"phrases": ["walks", "goes"], "rewordings": ["strolls", "moves on foot", "strides"]},
                "jump": {"phrases": ["jumps"], "rewordings": ["leaps", "hops", "springs up"]}},
    "styles": {"fast": {"phrases": ["fast", "at speed"], "rewordings": ["in a hurry", "rapidly"]},
               "slow": {"phrases": ["slowly"], "rewordings": ["without haste", "lazily"]}},
    "combined": [{"action": "jump", "style": "slow", "phrases": ["floats up"]}],
    "heldout_combinations": [["walk", "fast"]],
    "heldout_phrases": ["goes", "at speed"],
}


def rows_of(*captions: str, codes: list | None = None) -> list[Row]:
    return [Row(i, text, np.array(codes[i] if codes else [i, 99], dtype=np.int32)) for i, text in enumerate(captions)]


EVERYTHING = ("a person walks", "someone goes", "a person walks fast", "someone jumps fast", "at speed someone jumps",
              "slowly a person walks", "someone floats up", "a person goes at speed")


@pytest.fixture
def wordings() -> Wordings:
    return Wordings("w.json", copy.deepcopy(CONTENT))


@pytest.mark.parametrize("caption, combination", [
    ("A person walks.", ("walk", NEUTRAL)), ("someone goes slowly", ("walk", "slow")),
    ("at speed  someone jumps", ("jump", "fast")), ("someone floats up", ("jump", "slow"))])
def test_a_caption_means_its_action_and_style(wordings, caption, combination):
    assert wordings.parse(caption).combination == combination


def test_a_caption_without_meaning_is_named(wordings):
    with pytest.raises(WordingError, match="w.json does not explain the caption 'a person dances'"):
        wordings.parse("a person dances")
    with pytest.raises(WordingError, match="2 of 3 captions: 'nobody walks', 'a person'"):
        wordings.split(rows_of("a person walks", "nobody walks", "a person", "nobody walks"))


def test_the_split_keeps_everything_held_out_from_training(wordings):
    split = wordings.split(rows_of(*EVERYTHING))
    assert [row.index for row in split.trained] == [0, 3, 5, 6]
    assert [row.index for row in split.combinations] == [2, 7]  # a combination by any phrase
    assert [row.index for row in split.phrases] == [1, 4] and split.dropped == []


def test_the_motion_of_a_held_out_row_is_not_trained_under_another_caption(wordings):
    rows = rows_of(*EVERYTHING, "someone jumps", codes=[[i] for i in range(8)] + [[2]])
    split = wordings.split(rows)
    assert [row.index for row in split.dropped] == [8] and rows[8] not in split.trained


@pytest.mark.parametrize("captions, message", [
    (EVERYTHING[:2], "holds out .*'walk', 'fast'.*found in no caption"),
    ((*EVERYTHING[:3], *EVERYTHING[4:]), "nothing with 'fast' is left for training")])
def test_what_cannot_be_held_out_is_refused(wordings, captions, message):
    with pytest.raises(WordingError, match=message):
        wordings.split(rows_of(*captions))


def test_a_rewording_changes_what_it_should_and_nothing_else(wordings):
    walks, fast = CONTENT["actions"]["walk"]["rewordings"], CONTENT["styles"]["slow"]["rewordings"]
    caption = "slowly a person walks"
    assert wordings.reword(caption, "action", 0) in {f"slowly a person {words}" for words in walks}
    assert wordings.reword(caption, "style", 0) in {f"{words} a person walks" for words in fast}
    assert wordings.reword(caption, "both", 0) in {f"{s} a person {a}" for a, s in itertools.product(walks, fast)}
    assert wordings.reword("someone floats up", "style", 0) in {f"someone jumps {words}" for words in fast}
    assert wordings.reword("a person walks", "style", 0) is wordings.reword("a person walks", "both", 0) is None


def test_rewordings_go_by_the_seed_and_use_all_words(wordings):
    def texts(seed: int) -> list[str]:
        return [wordings.reword("a person walks", "action", seed, str(clip)) for clip in range(30)]

    assert texts(0) == texts(0) != texts(1)
    assert len(set(texts(0))) == 3


def changed(path: tuple, value: object) -> dict:
    content = copy.deepcopy(CONTENT)
    target = content
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = value
    return content


@pytest.mark.parametrize("path, value, message", [
    (("styles",), [], "styles is .*expected an object"),
    (("subjects",), [], "subjects is .*1 or more"),
    (("more",), 1, "expected an object with patterns, subjects"),
    (("patterns",), ["{subject} {action} {style}"], r"one without \{style\}"),
    (("patterns",), ["{action} {manner}"], "patterns is '{action} {manner}'"),
    (("actions", "walk", "rewordings"), ["strolls", "strides"], "actions, walk, rewordings is .*3 or more"),
    (("actions", "jump", "rewordings"), ["leaps", "Goes.", "hops"], "actions, jump is 'Goes.'.*walk: goes"),
    (("styles", "fast"), {"phrases": ["fast"]}, "styles, fast is .*phrases and rewordings"),
    (("styles", "walk"), CONTENT["styles"]["slow"], "labels that no action has"),
    (("combined", 0, "style"), "sad", "combined, entry 0 is .*'sad'"),
    (("heldout_combinations", 0), ["walk", "sad"], r"heldout_combinations is \['walk', 'sad'\]"),
    (("heldout_phrases", 0), "runs", "heldout_phrases is 'runs'"),
    (("heldout_phrases", 0), "jumps", "one phrase left of each action"),
    (("combined", 0, "phrases"), ["walks"], "'a person walks' means both")])
def test_a_wrong_file_is_refused_by_file_and_entry(tmp_path, path, value, message):
    file = tmp_path / "wrong.json"
    file.write_text(json.dumps(changed(path, value)), encoding="utf-8")
    with pytest.raises(WordingError, match=message) as caught:
        read_wordings(file)
    assert str(file) in str(caught.value)


def test_a_rewording_in_the_datasets_own_words_is_refused():
    wordings = Wordings("w.json", changed(("actions", "jump", "rewordings"), ["walks", "walks", "walks"]))
    with pytest.raises(WordingError, match="'someone walks' is made of the dataset's phrases"):
        wordings.reword("someone jumps", "action", 0)


# The files


def test_the_sample_means_what_its_motions_are():
    from motion_llm.sample import build as sample_data

    wordings = read_wordings(DATA / "sample_wordings.json")
    combinations = [{wordings.parse(f"someone {words}").combination for words in motion.wordings}
                    for motion in sample_data.all_motions()]
    assert all(len(same) == 1 for same in combinations)  # every wording of a motion means the same
    assert len(set.union(*combinations)) == len(combinations)  # and no two motions do


def test_the_sample_can_be_split_and_reworded():
    wordings = read_wordings(DATA / "sample_wordings.json")
    rows = read_rows(DATA / "sample_motion.json", 512).rows
    split = wordings.split(rows)
    assert len(split.trained) > 800 and len(split.combinations) > 50 and len(split.phrases) > 100
    captions = {caption_key(row.text_query) for row in rows}
    for row, kind in itertools.product(list(rows)[::5], REWORDINGS):
        text = wordings.reword(row.text_query, kind, 0)
        assert text is None or caption_key(text) not in captions


@pytest.mark.parametrize("caption, combination", [
    ("like a young person a figure waves with the right hand", ("wave_right", "young")),
    ("someone walks and turns to the left as if exhausted", ("turn_left", "exhausted")),
    ("the person throws a punch", ("punch", NEUTRAL)), ("like an old person a figure bows", ("bow", "elderly"))])
def test_captions_of_real_motion_capture_mean_what_they_say(caption, combination):
    wordings = read_wordings(DATA / "bandai_wordings.json")
    assert wordings.parse(caption).combination == combination
    assert len(wordings.heldout_combinations) == 8
