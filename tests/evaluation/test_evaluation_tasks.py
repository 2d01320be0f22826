"""evaluation/tasks.py: which stage answers, which clips are drawn, and scores of answers of known quality."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from motion_llm.dataset.rows import Row
from motion_llm.evaluation import tasks as evaluation_tasks
from motion_llm.evaluation.clips import EvaluationRow, Training
from motion_llm.evaluation.intervals import NOT_AVAILABLE
from motion_llm.evaluation.lost_tokens import COPYING, REPEATING
from motion_llm.evaluation.metric_names import METRICS, MODEL, NEAREST_TOLD, RANDOM_TOLD, SPLITS
from motion_llm.evaluation.tasks import TaskScores, _captions, _clips, _lost_tokens, stage_for, without_model

CAPTION_METRICS = {"bleu_1", "bleu_4", "rouge_l", "chrf"}


class Generator:
    """Returns fixed answers. Its template needs one position a token, two a token in a denoising prompt."""

    def __init__(self, answers=(), positions=80, tasks=None):
        self.fixed, self.settings, self.requests = answers, {"MAX_SEQ_LEN": positions}, []
        self.vocabulary, self.tasks = SimpleNamespace(participants=("A",)), tasks or ("denoise", "inbetween")
        self.template = SimpleNamespace(length=lambda task, text, motion: text + motion * (1 + (task == "denoise")))

    def answers(self, requests, seed):
        self.requests += requests
        return [SimpleNamespace(text=answer, codes=answer) for answer in self.fixed]


def row(index, text, codes, captions=(), kind="seen", person="A") -> EvaluationRow:
    return EvaluationRow(index, text, text, codes, person, kind, captions)


def scores_by(by) -> TaskScores:
    return TaskScores(by=dict.fromkeys(by, "stage"))


def stages(folder, **contents) -> None:
    """Folders of finished stages. contents: name -> tasks and fingerprint."""
    for name, (tasks, fingerprint) in contents.items():
        (folder / name).mkdir()
        (folder / name / "motion_config.json").write_text(json.dumps({
            "stage": name, "tasks": tasks, "data_fingerprint": fingerprint,
            "settings": {"MAX_SEQ_LEN": 64, "EVAL_BATCH": 4, "DATA_JSON_PATH": "x"},
            "model": {"model_name": "x", "max_seq_len": 64, "lora_r": 4, "lora_alpha": 8, "dtype": "auto"},
            "vocabulary": {"first_motion_id": 9, "codebook_size": 8, "participants": []}, "length_model": {},
            "history": {}}))


def test_the_latest_stage_before_it_that_was_trained_for_a_task_does_it(tmp_path):
    stages(tmp_path, stage1=(["m2t"], "x"), stage2=(["m2t", "denoise"], "x"), stage3=(["denoise"], "other data"),
           stage4=(["t2m"], "x"), stage5=(["inbetween"], "x"))
    motion_config = {"tasks": ["t2m"], "data_fingerprint": "x"}
    expected = {"t2m": tmp_path / "stage4", "m2t": tmp_path / "stage2", "denoise": tmp_path / "stage2",
                "inbetween": None}
    assert {task: stage_for(task, tmp_path / "stage4", motion_config) for task in expected} == expected


def test_a_motion_is_asked_about_once_where_it_is_long_enough_and_fits():
    rows = [row(0, "a", [1] * 6), row(1, "b", [1] * 6), row(2, "c", [2] * 5), row(3, "d", [3] * 16),
            row(4, "e", [4] * 17)]
    assert [clip.index for clip in _clips(Generator(), rows, "m2t", 0)] == [0, 2, 3]  # 64 positions are the caption's
    assert [clip.index for clip in _clips(Generator(positions=32), rows, "continue", 0)] == [0, 3]


def test_of_many_clips_some_are_drawn_by_the_seed(monkeypatch):
    monkeypatch.setattr(evaluation_tasks, "MOST_CAPTIONED", 3)
    rows = [row(i, "a", [i, i]) for i in range(20)]
    drawn = [[clip.index for clip in _clips(Generator(), rows, "m2t", seed)] for seed in (0, 0, 1, 2)]
    assert all(len(places) == 3 and places == sorted(places) for places in drawn)
    assert drawn[0] == drawn[1] and len({tuple(places) for places in drawn}) > 1


def test_any_caption_of_the_motion_is_right_and_others_are_not():
    """One clip gets its second caption, the other one wrong words; training captions are scored in the same way."""
    rows = [row(0, "walks ahead slowly now", [1, 2], ("walks ahead slowly now", "he is on his way")),
            row(1, "jumps", [3, 4], ("jumps",), "unseen", "stranger")]
    training = Training("print", "somewhere").fill(
        [Row(i, text, np.array(codes, np.int32)) for i, (text, codes) in enumerate(
            [("walks ahead slowly now", [1, 2, 2]), ("jumps", [3, 4, 4]), ("its own words", [3, 4])])], 3, (), 0)
    generator, scores = Generator(["He is on his way", "zzz"]), scores_by(CAPTION_METRICS)
    _captions(generator, training, rows, 0, scores)
    for name in CAPTION_METRICS:
        estimates = {split: scores.table[MODEL][split][name] for split in SPLITS}
        assert estimates["seen"].value == pytest.approx(100) and estimates["unseen"].value == 0
        assert 0 < estimates["all"].value < 100 and (estimates["all"].low, estimates["all"].n) == (0, 2)
        assert scores.table[NEAREST_TOLD]["all"][name].value == pytest.approx(100)
    assert set(scores.table) == {MODEL, NEAREST_TOLD, RANDOM_TOLD}
    assert [(entry["row"], entry["said"]) for entry in scores.captions] == [(1, "zzz"), (0, "He is on his way")]
    assert [(entry.motion, entry.participant_id, entry.temperature) for entry in generator.requests] == [
        ((1, 2), "A", 0), ((3, 4), None, 0)]
    assert "stage says 2 different captions of 2 clips" in scores.verdict[0]


def test_without_training_clips_captions_have_no_baselines():
    rows, scores = [row(0, "jumps", [3, 4], ("jumps",))], scores_by(CAPTION_METRICS)
    _captions(Generator(["jumps"]), None, rows, 0, scores)
    assert set(scores.table) == {MODEL} and scores.verdict[0].endswith("of 100 to those of the data.")


def test_tokens_put_right_are_counted_by_clip():
    """The last 2 tokens of both clips are lost. Right: the model 1 and 2, repeating 1 and 2, copying 2 and 2."""
    rows = [row(0, "a", [1, 2, 1, 2, 1, 2]), row(1, "b", [5] * 6, kind="unseen")]
    scores = scores_by({"denoising_accuracy_end"})
    _lost_tokens(Generator([(1, 2, 1, 2, 1, 9), (5,) * 6]), rows, "continue", 0, scores)
    shares = {way: [scores.table[way][split]["denoising_accuracy_end"].value for split in SPLITS]
              for way in (MODEL, REPEATING, COPYING)}
    assert shares == {MODEL: [0.5, 1, 0.75], REPEATING: [0.5, 1, 0.75], COPYING: [1, 1, 1]}


@pytest.mark.parametrize("positions, told", [(16, True), (15, False)])
def test_gaps_are_filled_by_words_where_every_clip_and_caption_fit(positions, told):
    """The longest caption has 4 words, the longest clip 6 tokens that stand twice in an edit."""
    rows = [row(0, "walks ahead slowly now", [1] * 6), row(1, "bows", [2, 3] * 3)]
    generator = Generator([(1,) * 6] * (6 if told else 2), positions, ("denoise", "inbetween", "edit"))
    generator.template = SimpleNamespace(length=lambda task, text, motion: text + 2 * motion, encode_text=str.split)
    scores = scores_by({"denoising_accuracy_gap"})
    _lost_tokens(generator, rows, "inbetween", 0, scores)
    assert [request.text for request in generator.requests] == [None, None] + told * [
        "walks ahead slowly now", "bows", "bows", "walks ahead slowly now"]
    assert bool(scores.notes) != told and ("model_with_caption" in scores.table) == told


def test_figures_come_into_the_table_beside_what_is_there():
    scores = TaskScores()
    rows = [row(0, "jumps", [3, 4], ("jumps",))]
    scores.by = dict.fromkeys(CAPTION_METRICS, "stage")
    _captions(Generator(["jumps"]), None, rows, 0, scores)
    table = {MODEL: {split: dict.fromkeys(METRICS, NOT_AVAILABLE) | {"fid": "kept"} for split in SPLITS}}
    scores.add_to(table)
    assert table[MODEL]["all"]["chrf"].value == pytest.approx(100) and table[MODEL]["all"]["fid"] == "kept"
    assert all(list(metrics) == list(METRICS) for splits in table.values() for metrics in splits.values())


def test_clips_from_a_file_have_none_of_these_figures():
    (line,) = without_model().missing
    assert all(name in line for name, metric in METRICS.items() if metric.task != "t2m") and "fid" not in line
