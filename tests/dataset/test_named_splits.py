"""The field `split`: read, used in training and evaluation, and how incomplete and leaking splits are handled."""

import json
import random
from collections import defaultdict

import numpy as np
import pytest
from conftest import run_script, tiny_rows
from test_data import GOOD, only, read
from test_splits import MADE_WITH, SHAPES, several_captions_a_clip

import data
import import_tokens
import train_pipeline
from motion_llm.dataset import prepared, splits
from motion_llm.dataset.rows import SPLITS, Row, Rows
from motion_llm.evaluation import rows as evaluation_data
from motion_llm.network.folder import read_motion_config


def named(specs, *order):
    """Rows from (caption, code, clip_id, split); order: places in specs, by default all in turn."""
    return Rows.of([Row(index, text, np.array([code], np.int32), None, clip, split)
                    for index, (text, code, clip, split) in enumerate([specs[i] for i in order] if order else specs)])


def parts_of(split) -> dict[str, list[int]]:
    return {part: getattr(split, part) for part in splits.PARTS}


# ---------------------------------------------------------------- reading


@pytest.mark.parametrize("broken", [False, True])  # the whole chunk at once, and one by one
def test_the_usual_names_are_read_in_any_case(tmp_path, broken):
    names = ["train", "Training", "val", "VALID", "validation", "dev", "test", "Test", None]
    records = [GOOD | {"motion_tokens": [n], "split": name} for n, name in enumerate(names)] + [GOOD]
    report = read(tmp_path, records + [GOOD | {"text_query": ""}] * broken)
    assert [row.split for row in report.rows] == ["train"] * 2 + ["val"] * 4 + ["test"] * 2 + [None] * 2
    assert report.ignored_fields == {} and len(report.errors) == broken


def test_a_split_that_is_none_is_an_error_with_row_and_what_was_found(tmp_path):
    records = [GOOD | {"split": "test"}, *(GOOD | {"split": bad} for bad in ("tets", "", 1, True, ["train"], " val"))]
    message = only(read(tmp_path, records).errors, "split")
    assert ("toy.json: a split that is none of train (training), val (valid, validation, dev) and test, in 6 rows: "
            "row 1 ('tets'), row 2 (''), row 3 (1), row 4 (true), row 5 (a list of 1), row 6 (' val')") in message


def test_the_split_is_part_of_the_content_but_its_spelling_is_not(tmp_path):
    prints = [read(tmp_path, [GOOD | extra]).fingerprint for extra in (
        {}, {"split": None}, {"split": "val"}, {"split": "Validation"}, {"split": "test"})]
    assert prints[0] == prints[1] and prints[2] == prints[3] and len(set(prints)) == 3


def test_rows_without_a_split_among_others_are_named_and_trained(tmp_path):
    report = read(tmp_path, [GOOD | {"motion_tokens": [n], "text_query": f"c{n}"}
                             | ({"split": "test"} if n < 2 else {}) for n in range(4)])
    assert "among others that have one (it counts as train), in 2 rows: row 2 ('c2'), row 3 ('c3')" in only(
        report.warnings, "no-split")
    split = splits.split_rows(report.rows, 0, 0.0, 100)
    assert (split.train, split.test) == ([2, 3], [0, 1])
    assert "  split          as the file says: train 0, val 0, test 2, none (train) 2\n    training     2\n" in (
        data.format_report(report, split))


# ---------------------------------------------------------------- the split


def test_the_files_split_is_used_and_reported(tmp_path):
    # walk is trained; sit is not; the clip "c" has captions of both kinds
    records = [("walk", 1, None, "train"), ("walk", 2, None, "val"), ("sit", 3, "c", "val"), ("Walk.", 4, "c", "val"),
               ("walk", 5, None, "test"), ("sit", 6, None, "test"), ("bow", 7, None, "test"), ("run", 8, None, "train")]
    report = read(tmp_path, [{"text_query": text, "motion_tokens": [code], "clip_id": clip, "split": split}
                             for text, code, clip, split in records])
    split = splits.split_rows(report.rows, 0, 0.05, 100)
    assert parts_of(split) == {"train": [0, 7], "seen": [1, 3], "unseen": [2], "test": [4, 5, 6], "unused": []}
    assert split.kinds == {1: "seen", 3: "seen", 2: "unseen", 4: "seen", 5: "unseen", 6: "unseen"} and not split.notes
    text = data.format_report(report, split)
    assert ("  split          as the file says: train 2, val 3, test 3\n    training     2\n"
            "    validation   seen 2, unseen 1\n    test         seen 1, unseen 2\n") in text


def test_of_a_clip_in_two_splits_only_the_rows_of_the_later_one_count(tmp_path):
    records = [("a", 1, "x", "train"), ("b", 1, "y", "test"),      # the same tokens
               ("c", 2, "z", "train"), ("d", 3, "z", "val"),       # the same clip_id
               ("e", 4, "w", "val"), ("f", 4, "w", "test"),
               ("g", 5, None, None), ("g", 5, None, "val"),        # without a split it is train
               ("h", 6, None, "train"), ("h", 6, None, "train"), ("i", 7, "x", "val")]
    report = read(tmp_path, "\n".join(json.dumps({"text_query": text, "motion_tokens": [code], "clip_id": clip,
                                                  "split": split}) for text, code, clip, split in records))
    split = splits.split_rows(report.rows, 0, 0.05, 100)
    assert parts_of(split) == {"train": [8, 9], "seen": [], "unseen": [3, 7, 10], "test": [1, 5],
                               "unused": [0, 2, 4, 6]}
    assert not set(split.kinds) & {0, 2, 4, 6}
    message = next(problem.message for problem in report.warnings if problem.kind == "split-leak")
    assert ("in 4 lines: line 1 (train, as line 2, test), line 3 (train, as line 4, val), line 5 (val, as line 6, "
            "test), line 7 (train, as line 8, val)") in message
    text = data.format_report(report, split)
    assert "    left out     4, whose clip is in a later split too" in text and report.errors == []


@pytest.mark.parametrize("names", [SPLITS, ("train", "test"), ("train", "val"), ("train", None)], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.__name__)
def test_the_guarantees_of_a_named_split(shape, names):
    draw = random.Random(3)
    specs = [(*spec, draw.choices(names, [6, 1, 1][:len(names)])[0]) for spec in shape()]
    rows = named(specs)
    split = splits.split_rows(rows, 0, 0.05, 100)
    parts = parts_of(split)
    assert sorted(sum(parts.values(), [])) == list(range(len(rows)))

    name = [row.split or "train" for row in rows]
    splits_of = defaultdict(set)  # the splits of each motion and each clip_id
    for row in rows:
        for clip in {("motion", row.codes.tobytes()), ("clip", row.clip_id)} - {("clip", None)}:
            splits_of[clip].add(SPLITS.index(row.split or "train"))
    leaks = [row.index for row in rows if any(
        max(splits_of.get(clip, {0})) > SPLITS.index(row.split or "train")
        for clip in (("motion", row.codes.tobytes()), ("clip", row.clip_id)))]
    assert parts["unused"] == leaks
    used = sorted(set(range(len(rows))) - set(leaks))
    for split_name, places in (("val", parts["seen"] + parts["unseen"]), ("test", parts["test"])):
        if split_name in name:
            assert sorted(places) == [place for place in used if name[place] == split_name]
        assert all(name[place] in ("train", split_name) for place in places)
    assert all(name[place] == "train" for place in parts["train"])

    sides_of = defaultdict(set)
    for side, places in (("train", parts["train"]), ("val", parts["seen"] + parts["unseen"]), ("test", parts["test"])):
        for place in places:
            sides_of["motion", rows[place].codes.tobytes()].add(side)
            if rows[place].clip_id is not None:
                sides_of["clip", rows[place].clip_id].add(side)
    assert all(len(sides) == 1 for sides in sides_of.values())
    trained = {data.caption_key(rows[place].text_query) for place in parts["train"]}
    assert all((kind == "seen") == (data.caption_key(rows[place].text_query) in trained)
               for place, kind in split.kinds.items())
    assert all(split.kinds[place] == part for part in ("seen", "unseen") for place in parts[part])


@pytest.mark.parametrize("names", [SPLITS, ("train", "test"), ("train", "val")], ids=str)
def test_the_order_of_the_file_does_not_matter(names):
    draw = random.Random(4)
    specs = [(*spec, draw.choices(names, [6, 1, 1][:len(names)])[0]) for spec in several_captions_a_clip()]
    order = draw.sample(range(len(specs)), len(specs))
    plain, shuffled = (splits.split_rows(rows, 0, 0.05, 100) for rows in (named(specs), named(specs, *order)))
    assert parts_of(plain) == {part: sorted(order[place] for place in places)
                               for part, places in parts_of(shuffled).items()}
    assert plain.notes == shuffled.notes


@pytest.mark.parametrize(("present", "missing", "parts"), [
    ("test", "val", ["seen", "unseen"]), ("val", "test", ["test"])])
def test_a_split_that_the_file_lacks_is_held_out_from_its_training_rows(present, missing, parts):
    specs = [(f"caption {n // 6}", n, None, present if n % 6 == 0 else "train") for n in range(600)]
    split = splits.split_rows(named(specs), 0, 0.05, 100)
    sizes = split.sizes()
    assert all(20 <= sizes[part] <= 50 for part in parts) and sizes["train"] > 400
    assert f"the file names no {missing} rows, so some of train are held out" in split.notes
    assert splits.split_rows(named(specs), 0, 0.0, 100).sizes()["train"] == 500  # HELDOUT_SHARE 0 holds none out


def test_nothing_to_train_is_an_error_with_the_splits_of_the_file(tmp_path, capsys):
    path = tmp_path / "toy.json"
    path.write_text(json.dumps([GOOD | {"split": "test"}, GOOD, GOOD | {"motion_tokens": "7", "split": "val"}]))
    assert run_script(train_pipeline, "--data_json_path", str(path), "--check") == 1
    output = " ".join(capsys.readouterr().out.split())
    assert ("no row is left for training, expected some; the split is train 0, val 1, test 1, none (train) 1, "
            "1 of them left out") in output


# ---------------------------------------------------------------- what a run measures on


def test_a_run_measures_on_each_clip_once_whatever_its_captions(tmp_path):
    rows = [{"text_query": f"{word} {clip}", "motion_tokens": [clip, 1, 2], "split": split}
            for clip, split in enumerate(["train"] * 20 + ["test"] * 30) for word in ("walks", "strolls", "goes")]
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(rows))
    report = data.read_rows(path, 512)
    prepared.prepare(report, splits.split_rows(report.rows, 0, 0.05, 100), tmp_path / "prepared", {})
    measured = prepared.load_measured(tmp_path / "prepared", "test", 100, 0)
    assert sorted(row["codes"][0] for row in measured) == list(range(20, 50))
    words = [row["text_query"].split()[0] for row in measured]
    assert min(words.count(word) for word in ("walks", "strolls", "goes")) > 2  # not always the first
    assert len(prepared.load_measured(tmp_path / "prepared", "test", 7, 0)) == 7


def test_a_run_measures_on_at_most_heldout_max_rows_of_each_kind_in_any_order(tmp_path):
    specs = [(f"caption {n % 60}", n, None, "train" if n % 60 < 30 and n < 200 else "test") for n in range(600)]

    def measured(name, *order):
        rows = named(specs, *order)
        split = splits.split_rows(rows, 0, 0.0, 40)
        prepared.prepare(data.Report("x", 512, rows=rows), split, tmp_path / name, MADE_WITH)
        assert len(prepared.load_prepared(tmp_path / name, "test")) == split.sizes()["test"] == 490
        return split, [prepared.load_measured(tmp_path / name, "test", 40, seed) for seed in (0, 1)]

    split, (rows, other_seed) = measured("plain")
    assert [sum(row["kind"] == kind for row in rows) for kind in splits.KINDS] == [40, 40]
    assert ["a run measures on 40 rows (HELDOUT_MAX) of test seen (190), test unseen (300); evaluate.py scores all "
            "test rows"] == [note for note in split.notes if "measures" in note]
    assert [row["index"] for row in rows] == sorted(row["index"] for row in rows)
    codes = [{tuple(row["codes"]) for row in sampled} for sampled in (rows, other_seed)]
    assert len(codes[0] & codes[1]) < 40
    _, (shuffled, _) = measured("shuffled", *random.Random(1).sample(range(600), 600))
    assert {tuple(row["codes"]) for row in shuffled} == codes[0]
    assert len(prepared.load_measured(tmp_path / "plain", "test", 1000, 0)) == 490
    assert prepared.load_measured(tmp_path / "plain", "seen", 40, 0) == []


# ---------------------------------------------------------------- training and evaluation


def rows_with_splits() -> list[dict]:
    """Of each caption's six clips four are train, one is val and one test; those of the last caption are all test."""
    names = ["train", "test", "train", "val", "train", "train"]
    return [row | {"split": "test" if place >= 54 else names[place % 6]} for place, row in enumerate(tiny_rows())]


@pytest.fixture(scope="module")
def run_with_splits(tiny_arguments, tmp_path_factory):
    folder = tmp_path_factory.mktemp("named")
    (folder / "data.json").write_text(json.dumps(rows_with_splits()))
    arguments = [*tiny_arguments, "--epochs_s1", "0", "--epochs_s2", "0", "--epochs_s3", "1", "--heldout_max", "6",
                 "--data_json_path", str(folder / "data.json"), "--work_dir", str(folder / "output")]
    assert run_script(train_pipeline, *arguments) == 0
    return folder, arguments


def test_a_run_trains_and_measures_by_the_files_split(run_with_splits):
    folder, _ = run_with_splits
    table = prepared.load_prepared(folder / "output" / "prepared_data")
    names = {"train": "train", "seen": "val", "unseen": "val", "test": "test"}
    assert sorted((row["index"], names[row["split"]]) for row in table) == list(enumerate(
        row["split"] for row in rows_with_splits()))
    assert {row["split"] for row in table} == {"train", "seen", "test"}
    figures = json.loads((folder / "output" / "metrics.json").read_text())["heldout"]
    assert {part: methods["model"]["n"] for part, methods in figures.items()} == {"seen": 6, "test": 12}
    motion_config = json.loads((folder / "output" / "stage3_t2m_sft" / "motion_config.json").read_text())
    captions = motion_config["length_model"]["captions"]
    assert len(captions) == 9 and sum(int(text.split()[0]) for text in captions.values()) == 36


def test_the_page_at_the_end_of_a_run_covers_as_many_test_rows_as_the_run_measures_on(run_with_splits, monkeypatch):
    folder, arguments = run_with_splits
    requests = []
    monkeypatch.setattr(train_pipeline, "_write_report", lambda request: requests.append(request) or "Yes.")
    assert run_script(train_pipeline, *arguments, "--report_page", "true") == 0
    requests.append(train_pipeline._report_of(folder / "output" / "stage3_t2m_sft", 15))
    assert [request.max_prompts for request in requests] == [12, None]  # of 15: six seen and six unseen; all


def test_a_run_continues_with_the_prepared_data_and_refuses_another_split(run_with_splits, capsys, caplog):
    folder, arguments = run_with_splits
    with caplog.at_level("INFO"):
        assert run_script(train_pipeline, *arguments) == 0
    assert "as the file says: train 36, val 9, test 15" in caplog.text and "has not changed since" in caplog.text
    rows = rows_with_splits()
    rows[0]["split"] = "test"
    other = folder / "other.json"
    other.write_text(json.dumps(rows))
    assert run_script(train_pipeline, *arguments, "--data_json_path", str(other)) == 1
    assert "rows of other content now" in capsys.readouterr().err


def gathered(data_path, folder, **options):
    return evaluation_data.gather(data_path and str(data_path), None, folder, read_motion_config(folder), None,
                                  options.pop("include_train", False), 0, **options)


def test_evaluation_scores_the_test_rows_of_a_file_with_splits(run_with_splits):
    folder, model = run_with_splits[0], run_with_splits[0] / "output" / "stage3_t2m_sft"
    test = [place for place, row in enumerate(rows_with_splits()) if row["split"] == "test"]
    of_run, of_file = gathered(None, model), gathered(folder / "data.json", model)
    # HELDOUT_MAX is for the run's own measurements only.
    assert [row.index for row in of_run.rows] == [row.index for row in of_file.rows] == test
    assert of_file.trained_on == 0 and of_file.facts["part"] == "its test rows" and of_file.training.count == 36
    assert of_file.notes == ["15 of 60 rows: those whose split is test (--split)"]
    assert [row.kind for row in of_file.rows] == ["seen"] * 9 + ["unseen"] * 6
    assert len(gathered(folder / "data.json", model, split="val").rows) == 9
    assert len(gathered(folder / "data.json", model, split="all").rows) == 24  # training rows are left out
    training = gathered(folder / "data.json", model, split="train", include_train=True)
    assert len(training.rows) == 35 and training.trained_on == 36  # two of the rows are one clip
    with pytest.raises(evaluation_data.EvaluationError, match="--split val is for the rows of --data FILE"):
        gathered(None, model, split="val")


def test_clips_of_others_are_scored_on_the_test_rows_and_judged_by_the_training_rows(tmp_path):
    path = tmp_path / "data.json"
    path.write_text(json.dumps(rows_with_splits()))
    gathered_rows = evaluation_data.gather(str(path), str(path), None, None, None, False, 0)
    assert len(gathered_rows.rows) == 15 and gathered_rows.training.count == 36 and gathered_rows.trained_on == 0
    assert len(gathered_rows.training.held_clips) == 9  # the val rows
    without = tmp_path / "without.json"
    without.write_text(json.dumps(tiny_rows()))
    assert len(evaluation_data.gather(str(without), None, None, None, None, False, 0).rows) == 59  # as there
    with pytest.raises(evaluation_data.EvaluationError,
                       match="without.json: the field split names train 0, val 0, test 0 rows, expected some of val"):
        evaluation_data.gather(str(without), None, None, None, None, False, 0, "val")
    test_only = tmp_path / "test.json"
    test_only.write_text(json.dumps([row | {"split": "test"} for row in tiny_rows()]))
    assert evaluation_data.gather(str(test_only), None, None, None, None, False, 0).notes[0].startswith("no training")
    with pytest.raises(evaluation_data.EvaluationError, match="test.json: no row is in the split train"):
        evaluation_data.gather(str(path), str(test_only), None, None, None, False, 0)


def test_an_imported_dataset_keeps_its_split(tmp_path, capsys):
    root = tmp_path / "set"
    (root / "texts").mkdir(parents=True)
    (root / "VQVAE").mkdir()
    for place, (name, split) in enumerate((("000001", "train"), ("000002", "train"), ("000003", "val"),
                                           ("000004", "test"))):
        (root / "texts" / f"{name}.txt").write_text(f"walks {place}#walks/X#0.0#0.0\n")
        np.save(root / "VQVAE" / f"{name}.npy", np.arange(9)[None] + place)
        with open(root / f"{split}.txt", "a", encoding="utf-8") as file:
            file.write(f"{name}\n")
    path = tmp_path / "my.json"
    assert run_script(import_tokens, "--layout", "t2m_gpt", "--root", str(root), "--output", str(path)) == 0
    assert run_script(train_pipeline, "--data_json_path", str(path), "--check") == 0
    output = capsys.readouterr().out
    assert "split          as the file says: train 2, val 1, test 1" in output and "unknown fields" not in output
    split = splits.split_rows(data.read_rows(path, 512).rows, 0, 0.05, 100)
    assert (split.train, split.unseen, split.test) == ([0, 1], [2], [3])
