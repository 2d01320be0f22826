"""bench.py wordings: what is held out is never trained, the figures are of the right clips, a whole tiny run."""

import argparse
import json
import random
from dataclasses import replace

import pytest
from conftest import TINY_SETTINGS, run_script

import bench
import config
from data import read_rows
from motion_llm.benchmarks import wordings as bench_wordings
from motion_llm.benchmarks.wording_sets import REWORDINGS
from motion_llm.benchmarks.wordings import COMBINATIONS, PHRASES, TRAINED, CaptionSet, Recognisers

WORDINGS = {
    "patterns": ["{subject} {action}", "{subject} {action} {style}"],
    "subjects": ["a person", "someone"],
    "actions": {"walk": {"phrases": ["walks", "goes"], "rewordings": ["strolls", "strides", "moves on foot"]},
                "jump": {"phrases": ["jumps"], "rewordings": ["leaps", "hops", "springs up"]},
                "bow": {"phrases": ["bows"], "rewordings": ["stoops", "bends down", "inclines"]}},
    "styles": {"fast": {"phrases": ["fast"], "rewordings": ["in a hurry", "rapidly"]},
               "slow": {"phrases": ["slowly"], "rewordings": ["without haste", "lazily"]}},
    "combined": [],
    "heldout_combinations": [["jump", "slow"]],
    "heldout_phrases": ["goes"],
}
SENTENCES = {"short": [{"text": "he stoops", "action": "bow", "style": "neutral"},
                       {"text": "a frog, quickly", "action": "jump", "style": "fast"}],
             "plain": [{"text": "a walk", "action": "walk", "style": "neutral"}]}
CODES = {"walk": [1, 2, 3], "goes": [1, 2, 3], "jump": [4, 5, 6], "bow": [7, 8, 9]}
ACTION_OF = {"walks": "walk", "goes": "goes", "jumps": "jump", "bows": "bow"}


def rows() -> list[dict]:
    """Six clips of each caption, an action's own codes with noise; only a held-out clip has the last code, 63."""
    rng, clips = random.Random(0), []
    for verb, action in ACTION_OF.items():
        for style in ("", " fast", " slowly"):
            for clip in range(6):
                codes = [rng.randrange(20, 30), *CODES[action] * (2 + clip % 2), rng.randrange(20, 30)]
                clips.append({"text_query": f"{('a person', 'someone')[clip % 2]} {verb}{style}",
                              "motion_tokens": codes, "participant_id": f"P{clip % 2}"})
    next(row for row in clips if row["text_query"].endswith("jumps slowly"))["motion_tokens"].append(63)
    return clips


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wordings")
    (folder / "wordings.json").write_text(json.dumps(WORDINGS), encoding="utf-8")
    (folder / "sentences.json").write_text(json.dumps(SENTENCES), encoding="utf-8")
    (folder / "data.json").write_text(json.dumps(rows()), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def measured(files, tiny_base):
    """The figures of a whole run."""
    arguments = ["--data_json_path", str(files / "data.json"), "--wordings_json", str(files / "wordings.json"),
                 "--sentences_json", str(files / "sentences.json"), "--model_name", tiny_base("llama"), *TINY_SETTINGS,
                 "--work_dir", str(files / "run"), "--samples", "2",
                 "--output", str(files / "figures.json")]
    assert run_script(bench, "wordings", *arguments) == 0
    return json.loads((files / "figures.json").read_text(encoding="utf-8"))["figures"]


def test_nothing_held_out_is_trained(measured, files):
    trained = json.loads((files / "run" / "wordings_training.json").read_text(encoding="utf-8"))
    captions = {row["text_query"] for row in trained}
    assert captions == {row["text_query"] for row in rows() if "goes" not in row["text_query"]} - {
        "a person jumps slowly", "someone jumps slowly"}
    assert measured["trained_rows_with_heldout_combinations"] == measured["trained_rows_with_heldout_phrases"] == 0
    assert {score["rows_trained_with"] for score in measured["sets"].values()} == {0}


def test_the_codebook_stays_whole(measured, files):
    settings = json.loads((files / "run" / "settings.json").read_text(encoding="utf-8"))
    assert settings["codebook_size"] == 64


def test_every_set_is_measured(measured):
    sets = measured["sets"]
    assert list(sets) == [TRAINED, "other words: action", "other words: style", "other words: both", PHRASES,
                          COMBINATIONS]
    assert sets[COMBINATIONS]["rows"] == 6 and sets[COMBINATIONS]["by_group"].keys() == {"jump + slow"}
    assert sets[PHRASES]["rows"] == 18 and sets[PHRASES]["clips"] == 36
    assert sets["other words: action"]["rows"] == sets[TRAINED]["rows"] == 4
    assert measured["other_words_together"]["rows"] == sum(sets[f"other words: {kind}"]["rows"] for kind in REWORDINGS)
    for score in sets.values():
        assert score["real_recognised"] == 1  # the actions' codes are their own
        assert 0 <= score["recognised"] <= 1 and score["nll_per_token"] > 0
        assert score["style_recognised"] is None or 0 <= score["style_recognised"] <= 1
        assert sum(count for *_, count in score["mistakes"]) == round((1 - score["recognised"]) * score["clips"])


def test_sentences_of_others_are_asked_and_judged(measured):
    short, plain = measured["sentences"]["short"], measured["sentences"]["plain"]
    assert (short["sentences"], short["clips"]) == (2, 4) and (plain["sentences"], plain["clips"]) == (1, 2)
    assert 0 <= short["recognised"] <= 1 and short["style_recognised"] is not None is plain["style_recognised"]
    assert short["real_recognised"] == plain["real_recognised"] == 1 and plain["real_style_recognised"] is None


def test_a_trained_folder_is_measured_without_training_and_says_what_it_knows(measured, files, capsys):
    wordings = WORDINGS | {"heldout_combinations": [["jump", "fast"]], "heldout_phrases": []}
    (files / "other.json").write_text(json.dumps(wordings), encoding="utf-8")
    before = sorted((files / "run").rglob("*"))
    (model,) = (files / "run").glob("stage3*")
    status = run_script(bench, "wordings", "--data_json_path", str(files / "data.json"), "--wordings_json",
                        str(files / "other.json"), "--model_path", str(model), "--output", str(files / "again.json"))
    figures = json.loads((files / "again.json").read_text(encoding="utf-8"))["figures"]
    assert status == 0 and sorted((files / "run").rglob("*")) == before
    assert figures["trained_rows_with_heldout_combinations"] > 0 == figures["trained_rows_with_heldout_phrases"]
    assert figures["sets"][COMBINATIONS]["rows_trained_with"] > 0 == figures["sets"][TRAINED]["rows_trained_with"]
    assert "NOT HELD OUT: the model was trained with" in capsys.readouterr().out
    same = measured["sets"][TRAINED]  # the same clips as in the run's own measurement
    assert figures["sets"][TRAINED]["nll_per_token"] == pytest.approx(same["nll_per_token"], abs=1e-6)


@pytest.mark.parametrize("as_written", [False, True])
def test_captions_with_new_words_are_asked_as_they_are_if_asked_so(measured, files, monkeypatch, as_written):
    from generate import MotionGenerator

    asked, answer = [], MotionGenerator.answer
    monkeypatch.setattr(MotionGenerator, "answer",
                        lambda self, requests, seed: asked.extend(requests) or answer(self, requests, seed))
    (model,) = (files / "run").glob("stage3*")
    assert run_script(bench, "wordings", "--data_json_path", str(files / "data.json"), "--wordings_json",
                      str(files / "wordings.json"), "--model_path", str(model), "--output", str(files / "again.json"),
                      *["--as_written"] * as_written) == 0
    assert len(asked) > 10 and {request.as_written for request in asked} == {as_written}
    assert json.loads((files / "again.json").read_text(encoding="utf-8"))["figures"]["as_written"] == as_written
    assert json.loads((files / "again.json").read_text(encoding="utf-8"))["figures"]["sentences"] == {}


def test_a_model_of_other_data_is_refused(measured, files, tiny_run, capsys):
    status = run_script(bench, "wordings", "--data_json_path", str(files / "data.json"), "--wordings_json",
                        str(files / "wordings.json"), "--model_path", str(tiny_run / "stage3_t2m_sft"))
    assert status == 1 and "rows that the dataset lacks" in capsys.readouterr().err


def test_training_that_fails_is_told(files, capfd):
    status = run_script(bench, "wordings", "--data_json_path", str(files / "data.json"), "--wordings_json",
                        str(files / "wordings.json"), "--model_name", "/nowhere", "--work_dir", str(files / "no"))
    printed = capfd.readouterr()
    assert status == 1 and printed.out == ""
    assert "'/nowhere'" in printed.err and "ended with status 1; the reason is above" in printed.err


@pytest.mark.parametrize("arguments, message", [
    (["--samples", "0"], "--samples is 0, expected 1 or more"), (["--fresh", "--model_path", "x"], "give one of them")])
def test_what_makes_no_sense_is_refused_at_once(arguments, message, capsys):
    assert run_script(bench, "wordings", *arguments) == 1 and message in capsys.readouterr().err


def test_settings_survive_the_command_line():
    settings = config.resolve({"LR": 1.2345678e-5, "CODEBOOK_SIZE": None, "WORK_DIR": "a folder",
                               "STAGE2_MIX": {"t2m": 1 / 3, "m2t": 1 / 3, "denoise": 1 / 3}})
    parser = argparse.ArgumentParser(allow_abbrev=False)
    config.add_arguments(parser)
    assert config.resolve(config.given(parser.parse_args(bench_wordings.flags(settings)))) == settings


def test_a_set_is_scored_by_what_is_recognised():
    captions = CaptionSet("a set", [{"codes": [code]} for code in (1, 1, 9)], ["left", "left", "right"],
                          ["neutral", "fast", "fast"], ["a", "b", "a"])
    judges = Recognisers(Judge({1: "left", 2: "right", 9: "other"}), Judge({1: "fast", 2: "slow"}), {})
    score = bench_wordings.score_set(captions, [[1], [2], [2], [2], [2], [1]], judges)
    assert score == {"rows": 3, "clips": 6, "recognised": 2 / 6, "style_recognised": 1 / 4, "real_recognised": 2 / 3,
                     "most_frequent": 4 / 6, "mistakes": [["left", "right", 3], ["right", "left", 1]],
                     "by_group": {"a": [2, 4], "b": [0, 2]}}
    assert bench_wordings.score_set(replace(captions, styles=["neutral"] * 3), [[1], [2], [2]],
                                    Recognisers(judges.actions, None, {}))["style_recognised"] is None


class Judge:
    """Recognises a clip by its first code."""

    def __init__(self, names):
        self.names = names

    def predict(self, clips):
        return [self.names[clip[0]] for clip in clips]

    def accuracy(self, clips, labels):
        return sum(self.names[c[0]] == a for c, a in zip(clips, labels, strict=True)) / len(clips)


def test_pooled_figures_weigh_by_clips_and_tokens():
    names = ("rows", "clips", "recognised", "real_recognised", "nll_per_token", "nll_tokens")
    scores = [(1, 2, 1.0, 1.0, 1.0, 30), (3, 6, 0.5, 0.0, 2.0, 10)]
    assert bench_wordings.pooled([dict(zip(names, score, strict=True)) for score in scores]) == {
        "rows": 4, "clips": 8, "recognised": 0.625, "real_recognised": 0.25, "nll_per_token": 1.25}


def test_sets_hold_what_they_are_named_for_and_go_by_the_seed(files):
    wordings = bench_wordings.read_wordings(files / "wordings.json")
    split = wordings.split(read_rows(files / "data.json", 128).rows)
    seen = [{"text_query": "a person walks", "codes": [1], "participant_id": None}]

    def sets(seed: int) -> dict[str, CaptionSet]:
        return {each.name: each for each in bench_wordings.caption_sets(wordings, split, seen, seed, 5)}

    assert list(sets(0)) == [TRAINED, "other words: action", PHRASES, COMBINATIONS]  # no style, no words for it
    assert sets(0)[TRAINED].rows[0]["text_query"] == "a person walks"
    (reworded,) = sets(0)["other words: action"].rows
    assert reworded["text_query"] in {"a person strolls", "a person strides", "a person moves on foot"}
    assert reworded["codes"] == [1] and sets(0)["other words: action"].actions == ["walk"]
    assert len(sets(0)[PHRASES].rows) == 5 and sets(0) == sets(0)
    assert sets(0)[PHRASES].rows != sets(1)[PHRASES].rows
    assert set(sets(0)[COMBINATIONS].groups) == {"jump + slow"}
