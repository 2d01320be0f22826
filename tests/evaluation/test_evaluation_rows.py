"""evaluation/rows.py: which rows are scored, and which clips were trained on."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from motion_llm.dataset.report import DataError
from motion_llm.dataset.rows import Row
from motion_llm.evaluation.clips import EvaluationError, EvaluationRow, Training, evaluator_material
from motion_llm.evaluation.rows import clips_and_captions, gather


def write(path: Path, rows: list[dict]) -> str:
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return str(path)


def row(text: str, codes, person=None, clip=None) -> dict:
    return {"text_query": text, "motion_tokens": codes} | (
        {"participant_id": person} if person else {}) | ({"clip_id": clip} if clip else {})


TRAINED = [row("walks", [1, 2, 3], "A", "c1"), row("walks", [1, 2], "B"), row("Jumps.", [7, 7], "A")]
ROWS = [row("walks", [1, 2, 3], "A"), row("strolls", [1, 2], "C"), row("walks", [9, 9], "A", "c1"),
        row("Walks", [1, 3], "A"), row("jumps", [7], "B"), row("sits", [5, 4], "B")]


def gather_rows(tmp_path, max_prompts=None, include_train=False, trained=TRAINED, seed=0):
    return gather(write(tmp_path / "data.jsonl", ROWS), write(tmp_path / "train.jsonl", trained) if trained else None,
                  None, None, max_prompts, include_train, seed)


def test_rows_with_trained_tokens_or_a_trained_clip_id_are_counted_named_and_left_out(tmp_path):
    inputs = gather_rows(tmp_path)
    assert [(row.index, row.key, row.kind, row.codes) for row in inputs.rows] == [
        (3, "walks", "seen", [1, 3]), (4, "jumps", "seen", [7]), (5, "sits", "unseen", [5, 4])]
    assert inputs.trained_on == 3 and inputs.notes == ["the run was trained on 3 of 6 rows, which are left out"]
    assert inputs.codebook_size == 10 and inputs.training.count == 3
    assert (inputs.facts["rows"], inputs.facts["path"]) == (6, str(tmp_path / "data.jsonl"))


def test_they_are_scored_where_that_is_asked_for(tmp_path):
    inputs = gather_rows(tmp_path, include_train=True)
    assert len(inputs.rows) == 6 and "scored too" in inputs.notes[0]
    assert [row.kind for row in inputs.rows] == ["seen", "unseen", "seen", "seen", "seen", "unseen"]


def test_a_row_knows_all_captions_of_its_motion_whichever_rows_are_drawn(tmp_path):
    """A motion is its tokens: another part of the same clip is another motion. Captions are compared by their words."""
    rows = [row("walks", [1, 2], clip="c"), row("Strolls.", [1, 2], clip="c"), row("Walks", [1, 2]),
            row("sits", [3], clip="c")]
    path, drawn = write(tmp_path / "data.jsonl", rows), set()
    for seed in range(8):
        walk, sit = gather(path, None, None, None, None, False, seed).rows
        assert walk.captions == {"walks": ("walks", "Strolls."), "Strolls.": ("Strolls.", "walks")}[walk.text_query]
        assert sit.captions == ("sits",)
        (alone,) = gather(path, None, None, None, 1, False, seed).rows
        assert alone in (walk, sit)
        drawn.add(walk.text_query)
    assert drawn == {"walks", "Strolls."}


def test_a_clip_with_several_captions_is_scored_once_and_both_are_counted(tmp_path):
    rows = [row(f"caption {i} of {clip}", [clip, 5], person) for clip in range(4) for person in ("A", "B")
            for i in range(3)]
    inputs = gather(write(tmp_path / "data.jsonl", rows), None, None, None, None, False, 0)
    assert [(r.codes[0], r.participant_id) for r in inputs.rows] == [(clip, person) for clip in range(4)
                                                                      for person in "AB"]
    assert clips_and_captions(inputs.facts) == "8 clips with 24 captions"
    assert inputs.facts["rows"] == 24
    assert clips_and_captions({"clips": 1, "captions": 1}) == "1 clip with 1 caption"
    few = gather(str(tmp_path / "data.jsonl"), None, None, None, 3, False, 0)
    assert len(few.rows) == 3 and "3 of 8 clips, drawn by the seed" in few.notes[-1]


def test_the_caption_is_drawn_from_those_with_a_generated_clip(tmp_path):
    path = write(tmp_path / "data.jsonl", [row(f"caption {i}", [1, 2]) for i in range(5)] + [row("sits", [3])])
    for seed in range(4):
        walk, sit = gather(path, None, None, None, None, False, seed, None,
                           lambda key, person: key == "caption 3" and person is None).rows
        assert walk.text_query == "caption 3" and sit.text_query == "sits"


def test_random_training_clips_are_drawn_by_clip(tmp_path):
    trained = training([("walks", [1]), ("strolls", [1]), ("sits", [2]), ("ambles", [1])])
    assert trained.distinct == [0, 2]


def test_some_rows_are_drawn_by_the_seed(tmp_path):
    drawn = [[row.index for row in gather_rows(tmp_path, 3, True, seed=seed).rows] for seed in range(8)]
    assert all(len(set(places)) == 3 and places == sorted(places) for places in drawn)
    assert len(set(map(tuple, drawn))) > 3
    assert drawn[0] == [row.index for row in gather_rows(tmp_path, 3, True, seed=0).rows]


def test_without_training_clips_nothing_is_left_out_and_a_note_says_so(tmp_path):
    inputs = gather_rows(tmp_path, trained=None)
    assert len(inputs.rows) == 6 and inputs.training is None and {row.kind for row in inputs.rows} == {None}
    assert "not known" in inputs.notes[0] and "--train_data" in inputs.notes[0]


def test_nothing_left_to_score_is_refused_with_the_count(tmp_path):
    with pytest.raises(EvaluationError, match="trained on all 6 rows"):
        gather_rows(tmp_path, trained=ROWS)


def test_data_with_errors_are_refused_as_in_training(tmp_path):
    path = write(tmp_path / "bad.jsonl", [row("walks", [-1])])
    with pytest.raises(DataError, match="negative"):
        gather(path, None, None, None, None, False, 0)


def test_a_clip_that_is_too_long_to_be_scored_is_named(tmp_path):
    path = write(tmp_path / "long.jsonl", [*ROWS, row("strolls", [4, 5] * 6000)])
    for data, train in ((path, None), (write(tmp_path / "data.jsonl", ROWS), path)):
        with pytest.raises(EvaluationError, match="long.jsonl: line 7 has 12,000 motion tokens, expected at most"):
            gather(data, train, None, None, None, False, 0)


def test_a_damaged_table_of_prepared_data_is_named(tiny_run, tmp_path):
    from motion_llm.network.folder import read_motion_config

    shutil.copytree(tiny_run, tmp_path / "run")
    folder, table = tmp_path / "run" / "stage3_t2m_sft", tmp_path / "run" / "prepared_data" / "rows.arrow"
    table.write_bytes(table.read_bytes().replace(b"jumps", b"dumps"))
    with pytest.raises(EvaluationError, match="prepared_data/rows.arrow is not the table .* makes it anew"):
        gather(None, None, folder, read_motion_config(folder), None, False, 0)


def test_the_runs_own_test_set_and_training_clips(tiny_run, tiny_dataset):
    from motion_llm.dataset.prepared import load_prepared
    from motion_llm.network.folder import read_motion_config

    folder = tiny_run / "stage3_t2m_sft"
    motion_config = read_motion_config(folder)
    inputs = gather(None, None, folder, motion_config, None, False, 0)
    test = load_prepared(tiny_run / "prepared_data", "test").to_list()
    scored = [(row.text_query, tuple(row.codes), row.participant_id, row.kind) for row in inputs.rows]
    in_test = [(row["text_query"], tuple(row["codes"]), row["participant_id"], row["kind"]) for row in test]
    assert set(scored) <= set(in_test) and scored == sorted(scored, key=in_test.index)
    clips = [row[1:3] for row in scored]
    assert len(set(clips)) == len(clips) and set(clips) == {row[1:3] for row in in_test}
    sizes = json.loads((tiny_run / "prepared_data" / "fingerprint.json").read_text())["sizes"]
    assert inputs.training.count == len(inputs.training.clips) == sizes["train"]
    assert len(inputs.training.held_clips) == sizes["seen"] + sizes["unseen"]
    assert inputs.codebook_size == 128 and inputs.trained_on == 0
    # The whole dataset: its training clips are left out, by the prepared folder or by splitting the file again.
    again = gather(tiny_dataset, None, folder, motion_config, None, False, 0)
    trained = {tuple(codes) for codes in again.training.clips}
    clips = {(row["motion_tokens"], row["participant_id"]) for row in json.loads(Path(tiny_dataset).read_text())
             if tuple(map(int, row["motion_tokens"].split())) not in trained}
    assert again.trained_on == sizes["train"] and len(again.rows) == len(clips) and again.facts["rows"] == 60
    assert f"{sizes['seen'] + sizes['unseen']} clips are the run's validation clips" in again.notes[1]
    split = gather(tiny_dataset, tiny_dataset, folder, motion_config, None, False, 0)
    assert split.training.clips == again.training.clips and split.rows == again.rows


def test_a_model_that_was_moved_knows_its_dataset_by_content(tiny_run, tiny_dataset, tmp_path):
    from motion_llm.network.folder import read_motion_config

    motion_config = read_motion_config(tiny_run / "stage3_t2m_sft")
    inputs = gather(tiny_dataset, None, tmp_path / "moved", motion_config, None, False, 0)
    assert inputs.training.source == tiny_dataset and inputs.trained_on == inputs.training.count > 30
    with pytest.raises(EvaluationError, match="no prepared_data of this run beside .*moved.*--data FILE"):
        gather(None, None, tmp_path / "moved", motion_config, None, False, 0)


def test_prepared_data_of_another_run_are_not_taken_for_its_own(tiny_run, tmp_path):
    from motion_llm.network.folder import read_motion_config

    motion_config = read_motion_config(tiny_run / "stage3_t2m_sft") | {"data_fingerprint": "other"}
    path = write(tmp_path / "data.jsonl", ROWS)
    inputs = gather(path, None, tiny_run / "stage3_t2m_sft", motion_config, None, False, 0)
    assert inputs.training is None and "is of other data" in inputs.notes[0]


# Training clips


def training(rows: list[tuple[str, list[int]]], seed=0, caption_keys=()) -> Training:
    training_rows = [Row(i, text, np.array(codes, np.int32)) for i, (text, codes) in enumerate(rows)]
    return Training("print", "somewhere").fill(training_rows, len(rows), caption_keys, seed)


def row_of(text: str, codes: list[int]) -> EvaluationRow:
    return EvaluationRow(0, text, text, codes, None, None)


def test_of_many_training_clips_a_sample_is_kept_but_all_are_known(monkeypatch):
    monkeypatch.setattr("motion_llm.evaluation.clips.MOST_CLIPS", 100)
    sample = training([(f"caption {i % 300}", [i, i]) for i in range(2000)], caption_keys={"caption 7"})
    assert 70 < len(sample.clips) < 130 and len(sample.by_key["caption 7"]) == 7 and sample.count == 2000
    assert len(sample.all_keys) == 300
    assert all(sample.holds(Row(0, "x", np.array([i, i], np.int32))) for i in range(2000))
    assert not sample.holds(Row(0, "x", np.array([3], np.int32)))


def test_an_evaluator_gets_held_out_clips_by_caption_and_by_clip():
    all_clips = training([(f"caption {i % 40}", [i]) for i in range(400)])
    clips, texts, held, held_texts = evaluator_material(all_clips, 0)
    assert len(clips) == len(texts) == 360 and len(held) == len(held_texts) == 40
    assert {tuple(clip) for clip in clips} | {tuple(clip) for clip in held} == {(i,) for i in range(400)}
    held_captions = set(held_texts) - set(texts)
    assert len(held_captions) == 2  # ten clips each: half of what is held out
    with pytest.raises(EvaluationError, match="5 training clips, expected 20 or more"):
        evaluator_material(training([("a", [i]) for i in range(5)]), 0)


def test_the_most_similar_caption_is_the_caption_itself_where_it_was_trained():
    trained = training([("sits then bows", [1]), ("bows then sits", [2]), ("walks", [3])])
    assert [trained.of_nearest_caption(row_of(key, [9])) for key in ("bows then sits", "sits then bows", "walks far")
            ] == [[1], [0], [2]]


def test_a_clip_that_was_trained_is_not_the_nearest_to_itself():
    trained = training([("sits", [1]), ("sits", [2]), ("sits down", [3]), ("walks far", [4]), ("walks far", [4])])
    assert trained.of_nearest_caption(row_of("sits", [1])) == [1]
    assert trained.of_nearest_caption(row_of("sits down", [3])) == [0, 1]
    assert trained.of_nearest_caption(row_of("walks far", [4])) == [2]
    assert training([("walks", [4])]).of_nearest_caption(row_of("walks", [4])) == [0]
