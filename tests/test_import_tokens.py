"""import_tokens.py: other projects' layouts are read with every skipped entry named, and written so that they read
back the same."""

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import run_script

import import_tokens
from data import read_rows
from import_tokens import LayoutError, export_t2m_gpt, import_qiqi, import_t2m_gpt
from motion_llm.dataset.report import DataError


def layout(root: Path, tokens: str = "VQVAE") -> Path:
    """Four clips of 20 tokens in three splits; one without tokens, one without texts, one in no split."""
    (root / "texts").mkdir(parents=True)
    (root / tokens).mkdir()
    texts = {
        "000001": "a person walks#a/DET person/NOUN walks/VERB#0.0#0.0\nhe strolls#he/X strolls/X#nan#nan\n",
        "M000001": "a person walks left#a/X#0.0#0.0\n",
        "000002": "starts late#starts/X late/X#1.0#2.5\nthe end#the/X end/X#3.9#9.0\n",
        "000003": "no tokens here#no/X#0.0#0.0\n",
        "000009": "of no split#of/X#0.0#0.0\n",
    }
    for name, text in texts.items():
        (root / "texts" / f"{name}.txt").write_text(text, encoding="utf-8")
    for place, name in enumerate(("000001", "M000001", "000002", "000009")):
        np.save(root / tokens / f"{name}.npy", np.arange(20)[None] + 100 * place)
    (root / "train.txt").write_text("000001\nM000001\n000003\n")
    (root / "val.txt").write_text("000002\n")
    (root / "test.txt").write_text("000007\n")
    return root


def codes(row: dict) -> list[int]:
    return [int(code) for code in row["motion_tokens"].split()]


def test_every_caption_becomes_a_row_with_its_id_and_split(tmp_path):
    imported = import_t2m_gpt(layout(tmp_path / "set"))
    assert [(row["text_query"], row["clip_id"], row["split"]) for row in imported.rows] == [
        ("a person walks", "000001", "train"), ("he strolls", "000001", "train"),
        ("a person walks left", "M000001", "train"), ("starts late", "000002", "val"), ("the end", "000002", "val")]
    assert codes(imported.rows[0]) == codes(imported.rows[1]) == list(range(20))
    assert codes(imported.rows[3]) == list(range(205, 212))  # 1.0 * 20 / 4 = 5, 2.5 * 20 / 4 = 12.5
    assert codes(imported.rows[4]) == [219]  # from 19 to the end of the clip


def test_what_is_skipped_is_counted_and_named(tmp_path):
    imported = import_t2m_gpt(layout(tmp_path / "set"))
    assert dict(imported.skipped) == {"no tokens file": ["000003 (train)"], "no texts file": ["000007 (test)"],
                                      "texts that no split file names": ["000009"]}
    summary = imported.summary()
    assert "5 rows of 3 clips read" in summary and "train 3, val 2, test 0" in summary
    assert "skipped, no tokens file: 1 (000003 (train))" in summary


def test_frames_a_second_and_a_token_are_as_given(tmp_path):
    imported = import_t2m_gpt(layout(tmp_path / "set"), fps=30, unit=10)
    assert codes(imported.rows[3]) == list(range(203, 207))  # 3 to 7.5
    # T2M-GPT's order of the arithmetic: 4.6 * 25 / 5 is a little less than 23, 4.6 * (25 / 5) is not.
    (tmp_path / "set" / "texts" / "000002.txt").write_text("a#a/X#4.6#6.0\n")
    np.save(tmp_path / "set" / "VQVAE" / "000002.npy", np.arange(40)[None])
    assert codes(import_t2m_gpt(tmp_path / "set", fps=25, unit=5).rows[3]) == list(range(22, 30))


def test_the_tokens_folder_is_found_by_its_ids_and_integers(tmp_path):
    root = layout(tmp_path / "set", "VQVAE_codebook_512")
    (root / "new_joint_vecs").mkdir()
    np.save(root / "new_joint_vecs" / "000001.npy", np.zeros((80, 263), np.float32))  # HumanML3D's own
    imported = import_t2m_gpt(root)
    assert len(imported.rows) == 5 and "VQVAE_codebook_512" in imported.facts[0]
    (root / "other").mkdir()
    np.save(root / "other" / "000001.npy", np.arange(5)[None])
    with pytest.raises(LayoutError, match="VQVAE_codebook_512, .*other; name the one with --tokens_dir"):
        import_t2m_gpt(root)
    assert {row["clip_id"] for row in import_t2m_gpt(root, root / "other").rows} == {"000001"}


def test_motions_of_both_shapes_and_several_in_a_file(tmp_path):
    root = layout(tmp_path / "set")
    np.save(root / "VQVAE" / "000001.npy", np.array([4, 5, 6]))
    np.save(root / "VQVAE" / "M000001.npy", np.array([[1, 2], [3, 4]]))
    assert [codes(row) for row in import_t2m_gpt(root).rows[:4]] == [[4, 5, 6], [4, 5, 6], [1, 2], [3, 4]]


def test_lines_that_cannot_be_used_are_named(tmp_path):
    root = layout(tmp_path / "set")
    (root / "texts" / "000002.txt").write_text(
        "good#good/X#0.0#0.0\nno times\n\n#a/X#0.0#0.0\nlate#late/X#50.0#60.0\nbad#bad/X#x#1.0\n")
    imported = import_t2m_gpt(root)
    assert [row["text_query"] for row in imported.rows][3:] == ["good"]
    assert imported.skipped["lines that are not caption#word/POS ...#start#end"] == [
        "000002.txt line 2", "000002.txt line 6"]
    assert imported.skipped["captions without text"] == ["000002.txt line 4"]
    assert imported.skipped["times that leave no tokens"] == ["000002.txt line 5: 50 to 60 s"]


def test_without_split_files_all_txt_names_the_clips(tmp_path):
    root = layout(tmp_path / "set")
    for name in ("train", "val", "test"):
        (root / f"{name}.txt").unlink()
    with pytest.raises(LayoutError, match="none of train.txt"):
        import_t2m_gpt(root)
    (root / "all.txt").write_text("000001\n000002\n")
    rows = import_t2m_gpt(root).rows
    assert len(rows) == 4 and not any("split" in row for row in rows)


def test_what_is_no_layout_is_refused_by_name(tmp_path):
    root = layout(tmp_path / "set")
    (root / "val.txt").write_text("000001\n")
    with pytest.raises(LayoutError, match="000001 is in train.txt and in val.txt"):
        import_t2m_gpt(root)
    (root / "val.txt").write_text("")
    for content, message in ((np.array([[1.5]]), "float64 of shape \\(1, 1\\)"), (np.array([-1]), "token -1"),
                             (np.array([], int), "shape \\(0,\\)")):
        np.save(root / "VQVAE" / "M000001.npy", content)
        with pytest.raises(LayoutError, match=f"M000001.npy .*{message}"):
            import_t2m_gpt(root)


def test_pickles_are_not_opened(tmp_path):
    root = layout(tmp_path / "set")
    np.save(root / "VQVAE" / "M000001.npy", np.array([{"a": 1}], dtype=object))
    with pytest.raises(LayoutError, match="M000001.npy cannot be read as an array without pickled objects"):
        import_t2m_gpt(root)


def qiqi(root: Path) -> Path:
    root.mkdir()
    t2m = {"instruction": "Generate a sequence of motion tokens matching the following human motion description."}
    rows = [t2m | {"input": "a person bows", "output": "81,81,207", "motion": "000004", "length": 12},
            t2m | {"input": "bows<Motion Token>81</Motion Token>", "output": "81,207", "motion": "04"},
            t2m | {"input": "jumps", "output": "81,x", "motion": "000005"}]
    (root / "train.json").write_text(json.dumps(rows))
    (root / "val.json").write_text(json.dumps(rows[:1]))
    return root


def test_the_qiqi_layout_is_read_with_its_splits(tmp_path):
    imported = import_qiqi(qiqi(tmp_path / "set"))
    row = {"text_query": "a person bows", "motion_tokens": "81 81 207", "clip_id": "000004"}
    assert imported.rows == [row | {"split": "train"}, row | {"split": "val"}]
    assert list(imported.skipped.values()) == [["train.json row 1"], ["train.json row 2"]]
    (tmp_path / "set" / "val.json").write_text('[{"input": 3}]')
    with pytest.raises(LayoutError, match="val.json: row 0 is .*expected an object with input"):
        import_qiqi(tmp_path / "set")
    with pytest.raises(LayoutError, match="none of train.json"):
        import_qiqi(tmp_path)


def content(rows) -> list[tuple]:
    return sorted((row["text_query"], row["motion_tokens"], row["split"]) for row in rows)


def test_written_and_read_again_it_is_the_same(tmp_path):
    imported = import_t2m_gpt(layout(tmp_path / "set"))
    path = tmp_path / "my.json"
    path.write_text(json.dumps(imported.rows))
    summary = export_t2m_gpt(path, tmp_path / "back")
    again = import_t2m_gpt(tmp_path / "back")
    assert content(again.rows) == content(imported.rows) and not again.skipped
    # The clip with two captions is still one file; the two parts of 000002 are two, as their tokens differ.
    assert sorted(path.stem for path in (tmp_path / "back" / "VQVAE").iterdir()) == [
        "000000", "000001", "000003", "M000001"]  # no 000002, as that id names two motions
    assert np.load(tmp_path / "back" / "VQVAE" / "M000001.npy").shape == (1, 20)
    assert "5 rows of 4 clips" in summary and "train 2 clips, val 2 clips, test 0 clips" in summary


def test_captions_and_ids_that_the_layout_cannot_hold_are_made_to_fit(tmp_path):
    rows = [{"text_query": "turn #1\nthen stop", "motion_tokens": "1 2", "clip_id": "../evil", "participant_id": "A"},
            {"text_query": "b", "motion_tokens": "3", "clip_id": "x"},
            {"text_query": "c", "motion_tokens": "4", "clip_id": "X"}]
    (tmp_path / "my.json").write_text(json.dumps(rows))
    assert "participant of 1 rows" in export_t2m_gpt(tmp_path / "my.json", tmp_path / "back")
    assert sorted(path.name for path in tmp_path.rglob("*.npy")) == ["000000.npy", "000001.npy", "000002.npy"]
    again = import_t2m_gpt(tmp_path / "back")
    assert content(again.rows) == [("b", "3", "train"), ("c", "4", "train"), ("turn 1 then stop", "1 2", "train")]
    with pytest.raises(LayoutError, match="back is not empty"):
        export_t2m_gpt(tmp_path / "my.json", tmp_path / "back")
    rows[0]["split"] = "other"
    (tmp_path / "my.json").write_text(json.dumps(rows))
    with pytest.raises(DataError, match=r"a split that is none of train .*: row 0 \('other'\)"):
        export_t2m_gpt(tmp_path / "my.json", tmp_path / "new")


def test_the_command_writes_a_good_dataset(tmp_path, capsys):
    root, output = layout(tmp_path / "set"), tmp_path / "out" / "my.json"
    assert run_script(import_tokens, "--layout", "t2m_gpt", "--root", str(root), "--output", str(output)) == 0
    assert "5 rows of 3 clips read" in capsys.readouterr().out
    report = read_rows(output, 512)
    assert len(report.rows) == 5 and not report.errors and report.rows[2].clip_id == "M000001"


@pytest.mark.parametrize("arguments, message", [
    (["--layout", "t2m_gpt"], "--root is missing"), (["--export", "t2m_gpt"], "--data is missing"),
    (["--layout", "t2m_gpt", "--root", ".", "--unit", "0"], "--unit 0, expected"),
    (["--layout", "t2m_gpt", "--root", "nowhere"], "nowhere has none of train.txt")])
def test_what_cannot_be_done_is_refused(tmp_path, capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert run_script(import_tokens, *arguments, "--output", "x.json") == 1
    assert message in capsys.readouterr().err and not (tmp_path / "x.json").exists()
