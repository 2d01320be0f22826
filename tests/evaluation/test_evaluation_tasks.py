"""evaluation_tasks.py: who answers, what is asked, and figures of answers whose quality is known."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from motion_llm.dataset.rows import Row
from motion_llm.evaluation import tasks as evaluation_tasks
from motion_llm.evaluation.intervals import NOT_AVAILABLE
from motion_llm.evaluation.rows import Asked, AskedRow, Training
from motion_llm.evaluation.table import COPYING, METRICS, MODEL, NEAREST_TOLD, RANDOM_TOLD, REPEATING, SPLITS
from motion_llm.evaluation.tasks import TaskScores, _captions, _clips, _lost_tokens, stage_for, without_model

TOLD = {"bleu_1", "bleu_4", "rouge_l", "chrf"}


class Generator:
    """Answers as it is told; its template takes a position for every token, and one for every token lost."""

    def __init__(self, answers=(), positions=80, tasks=None):
        self.answers, self.settings, self.asked = answers, {"MAX_SEQ_LEN": positions}, []
        self.vocabulary = SimpleNamespace(participants=("A",))
        self.template = SimpleNamespace(length=lambda task, text, motion: text + motion * (1 + (task == "denoise")))

    def answer(self, requests, seed):
        self.asked += requests
        return [SimpleNamespace(text=answer, codes=answer) for answer in self.answers]


def row(index, text, codes, captions=(), kind="seen", person="A") -> AskedRow:
    return AskedRow(index, text, text, codes, person, kind, captions)


def asked(rows, training=None) -> Asked:
    return Asked(rows, 0, training, 16, {}, [])


def scores(by) -> TaskScores:
    return TaskScores(by=dict.fromkeys(by, "stage"))


def stages(folder, **contents) -> None:
    """Folders of finished stages. contents: name -> tasks and fingerprint."""
    for name, (tasks, fingerprint) in contents.items():
        (folder / name).mkdir()
        (folder / name / "motion_config.json").write_text(json.dumps({
            "stage": name, "tasks": tasks, "data_fingerprint": fingerprint, "model": {}, "vocabulary": {},
            "settings": {}, "length_model": {}, "history": {}}))


def test_the_latest_stage_before_it_that_was_trained_for_a_task_does_it(tmp_path):
    stages(tmp_path, stage1=(["m2t"], "x"), stage2=(["m2t", "denoise"], "x"), stage3=(["denoise"], "other data"),
           stage4=(["t2m"], "x"), stage5=(["inbetween"], "x"))
    kept = {"tasks": ["t2m"], "data_fingerprint": "x"}
    found = {task: stage_for(task, tmp_path / "stage4", kept) for task in ("t2m", "m2t", "denoise", "inbetween")}
    assert found == {"t2m": tmp_path / "stage4", "m2t": tmp_path / "stage2", "denoise": tmp_path / "stage2",
                     "inbetween": None}


def test_a_motion_is_asked_about_once_where_it_is_long_enough_and_fits():
    rows = [row(0, "a", [1] * 6), row(1, "b", [1] * 6), row(2, "c", [2] * 5), row(3, "d", [3] * 16),
            row(4, "e", [4] * 17)]
    assert [one.index for one in _clips(Generator(), rows, "m2t", 0)] == [0, 2, 3]  # 64 positions are the caption's
    assert [one.index for one in _clips(Generator(positions=32), rows, "continue", 0)] == [0, 3]


def test_of_many_clips_some_are_drawn_by_the_seed(monkeypatch):
    monkeypatch.setattr(evaluation_tasks, "MOST_CAPTIONED", 3)
    rows = [row(i, "a", [i, i]) for i in range(20)]
    drawn = [[one.index for one in _clips(Generator(), rows, "m2t", seed)] for seed in (0, 0, 1, 2)]
    assert all(len(own) == 3 and own == sorted(own) for own in drawn)
    assert drawn[0] == drawn[1] and len({tuple(own) for own in drawn}) > 1


def test_any_caption_of_the_motion_is_right_and_others_are_not():
    """One clip gets its second caption, one other words; the training clips' captions are scored likewise."""
    rows = [row(0, "walks ahead slowly now", [1, 2], ("walks ahead slowly now", "he is on his way")),
            row(1, "jumps", [3, 4], ("jumps",), "unseen", "stranger")]
    training = Training("print", "somewhere").fill(
        [Row(i, text, np.array(codes, np.int32)) for i, (text, codes) in enumerate(
            [("walks ahead slowly now", [1, 2, 2]), ("jumps", [3, 4])])], 2, (), 0)
    generator, found = Generator(["He is on his way", "zzz"]), scores(TOLD)
    _captions(generator, asked(rows, training), rows, "m2t", 0, found)
    for name in TOLD:
        figure = {split: found.table[MODEL][split][name] for split in SPLITS}
        assert figure["seen"].value == pytest.approx(100) and figure["unseen"].value == 0
        assert 0 < figure["all"].value < 100 and (figure["all"].low, figure["all"].n) == (0, 2)
        assert found.table[NEAREST_TOLD]["all"][name].value == pytest.approx(100)
    assert set(found.table) == {MODEL, NEAREST_TOLD, RANDOM_TOLD}
    assert [(one["row"], one["said"]) for one in found.captions] == [(1, "zzz"), (0, "He is on his way")]
    assert [(one.motion, one.participant_id, one.temperature) for one in generator.asked] == [
        ((1, 2), "A", 0), ((3, 4), None, 0)]
    assert "stage says 2 different captions of 2 clips" in found.verdict[0]


def test_without_training_clips_captions_have_no_baselines():
    rows, found = [row(0, "jumps", [3, 4], ("jumps",))], scores(TOLD)
    _captions(Generator(["jumps"]), asked(rows), rows, "m2t", 0, found)
    assert set(found.table) == {MODEL} and found.verdict[0].endswith("of 100 to those of the data.")


def test_tokens_put_right_are_counted_by_clip():
    """The end of both clips is lost: the model puts 1 of 2 and 2 of 2 right, repeating 0 and 2, copying 2 and 2."""
    rows = [row(0, "a", [1, 2, 1, 2, 1, 2]), row(1, "b", [5] * 6, kind="unseen")]
    found = scores({"denoising_accuracy_end"})
    _lost_tokens(Generator([(1, 2, 1, 2, 1, 9), (5,) * 6]), asked(rows), rows, "continue", 0, found)
    shares = {way: [found.table[way][split]["denoising_accuracy_end"].value for split in SPLITS]
              for way in (MODEL, REPEATING, COPYING)}
    assert shares == {MODEL: [0.5, 1, 0.75], REPEATING: [0.5, 1, 0.75], COPYING: [1, 1, 1]}


def test_figures_come_into_the_table_beside_what_is_there():
    found = TaskScores()
    rows = [row(0, "jumps", [3, 4], ("jumps",))]
    found.by = dict.fromkeys(TOLD, "stage")
    _captions(Generator(["jumps"]), asked(rows), rows, "m2t", 0, found)
    table = {MODEL: {split: dict.fromkeys(METRICS, NOT_AVAILABLE) | {"fid": "kept"} for split in SPLITS}}
    found.add_to(table)
    assert table[MODEL]["all"]["chrf"].value == pytest.approx(100) and table[MODEL]["all"]["fid"] == "kept"
    assert all(list(own) == list(METRICS) for splits in table.values() for own in splits.values())


def test_clips_from_a_file_have_none_of_these_figures():
    (line,) = without_model().missing
    assert all(name in line for name, metric in METRICS.items() if metric.task != "t2m") and "fid" not in line
