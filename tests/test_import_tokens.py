"""import_tokens.py: other projects' layouts are read with every skipped entry named, and written so that they read
back the same."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import run_script

import import_tokens
from data import read_rows
from import_tokens import LayoutError, export_t2m_gpt, import_qiqi, import_t2m_gpt
from motion_llm.dataset.report import DataError
from motion_llm.dataset.token_files import Edits


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
    assert import_t2m_gpt(root).summary().startswith("4 rows of 2 clips read\n  tokens from ")


def test_what_is_no_layout_is_refused_by_name(tmp_path):
    root = layout(tmp_path / "set")
    (root / "val.txt").write_text("000001\n000003\n")
    (root / "test.txt").write_text("000005\n000003\n")
    with pytest.raises(LayoutError, match="set: 000001 is in train.txt and in val.txt, expected one of them; in all "
                       "2 ids in train.txt and val.txt, 1 id in train.txt and test.txt, 1 id in val.txt and test.txt"):
        import_t2m_gpt(root)
    (root / "test.txt").write_text("")
    (root / "val.txt").write_text("")
    for content, message in ((np.array([[1.5, 2]]), "float64 of shape \\(1, 2\\)"), (np.array([-1]), "token -1"),
                             (np.array([], int), "shape \\(0,\\)")):
        np.save(root / "VQVAE" / "M000001.npy", content)
        with pytest.raises(LayoutError, match=f"M000001.npy .*{message}"):
            import_t2m_gpt(root)


def test_ids_with_folders_and_spaces_and_in_another_unicode_form(tmp_path):
    root, ids = layout(tmp_path / "set"), ["GRAB/s1/airplane fly 1", "GRAB/s2/airplane fly 1", "caf\u00e9"]
    for place, name in enumerate([*ids[:2], "cafe\u0301"]):  # macOS writes names of files in NFD
        for path in (root / "texts" / f"{name}.txt", root / "VQVAE" / f"{name}.npy"):
            path.parent.mkdir(parents=True, exist_ok=True)
        (root / "texts" / f"{name}.txt").write_text(f"caption {place}#a/X#0.0#0.0\n")
        np.save(root / "VQVAE" / f"{name}.npy", np.array([[place, 7]]))
    (root / "texts" / "GRAB" / "s1" / "unnamed.txt").write_text("a#a/X#0.0#0.0\n")
    (root / "val.txt").write_text("\n".join(ids))
    imported = import_t2m_gpt(root)
    assert [(row["text_query"], row["motion_tokens"], row["clip_id"]) for row in imported.rows if row["split"] == "val"
            ] == [("caption 0", "0 7", ids[0]), ("caption 1", "1 7", ids[1]), ("caption 2", "2 7", ids[2])]
    assert imported.facts[0].startswith(f"tokens from {root / 'VQVAE'};")
    assert imported.skipped["texts that no split file names"] == ["000002", "000009", "GRAB/s1/unnamed"]


def test_files_of_macos_are_left_out_and_counted(tmp_path):
    root = layout(tmp_path / "set")
    for name in ("texts/._000001.txt", "VQVAE/._000001.npy", "._train.txt", "._VQVAE.txt"):
        (root / name).write_bytes(b"\x00\x05\x16\x07\xff")
    with open(root / "train.txt", "a") as file:
        file.write("._000001\n000001\n")
    imported = import_t2m_gpt(root)
    assert len(imported.rows) == 5
    assert imported.skipped["files of macOS, ._..."] == [
        "._000001 (train.txt)", str(root / "texts/._000001.txt"), str(root / "VQVAE/._000001.npy")]
    assert imported.skipped["ids given again in the same file"] == ["000001 (train.txt)"]


def test_byte_order_marks_are_no_part_of_ids_and_captions(tmp_path):
    root = layout(tmp_path / "set")
    for path in (root / "train.txt", root / "texts" / "000001.txt"):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    imported = import_t2m_gpt(root)
    assert imported.rows[0]["text_query"] == "a person walks" and len(imported.rows) == 5
    source = qiqi(tmp_path / "other")
    (source / "val.json").write_bytes(b"\xef\xbb\xbf" + (source / "val.json").read_bytes())
    assert len(import_qiqi(source).rows) == 2


@pytest.mark.parametrize(("name", "content", "message"), [
    ("train.txt", b"000001\n\xe9\n", "set/train.txt: not UTF-8: byte 0xe9 at byte offset 7, line 2; in Latin-1"),
    ("texts/000001.txt", "a".encode("utf-16"), "texts/000001.txt: not UTF-8: byte 0xff .*; it looks like UTF-16"),
])
def test_texts_that_are_not_utf8_are_refused_by_file_line_and_byte(tmp_path, name, content, message):
    root = layout(tmp_path / "set")
    (root / name).write_bytes(content)
    with pytest.raises(LayoutError, match=message):
        import_t2m_gpt(root)


def test_tokens_may_be_texts_beside_arrays(tmp_path):
    root = layout(tmp_path / "set", "TOKENS")
    (root / "TOKENS" / "000001.npy").unlink()
    (root / "TOKENS" / "000001.txt").write_text("4 5 6\n")
    assert codes(import_t2m_gpt(root).rows[0]) == [4, 5, 6]
    for path in list((root / "TOKENS").glob("*.npy")):
        path.with_suffix(".txt").write_text("\n".join(map(str, np.load(path)[0])))
        path.unlink()
    imported = import_t2m_gpt(root)  # the folder is found by texts alone, and texts/ is not taken for it
    assert len(imported.rows) == 5 and codes(imported.rows[3]) == list(range(205, 212))


def test_a_level_is_taken_and_markers_go_before_a_caption_is_cut_by_time(tmp_path):
    root = layout(tmp_path / "set")
    for place, name in enumerate(("000001", "M000001", "000002", "000009")):
        base = np.concatenate([[512], np.arange(20) + 100 * place, [513]])
        np.save(root / "VQVAE" / f"{name}.npy", np.stack([base, base + 1000, base + 2000], 1))
    with pytest.raises(LayoutError, match=r"000001.npy: step 0 is q0 512, q1 1512, q2 2512: .* out of step"):
        import_t2m_gpt(root, edits=Edits(drop=frozenset({512, 513})))
    imported = import_t2m_gpt(root, edits=Edits(0, frozenset({512, 513})))
    assert [codes(row) for row in imported.rows] == [codes(row) for row in import_t2m_gpt(layout(tmp_path / "b")).rows]
    assert imported.facts[1:] == [
        "level 0 of 3 taken, the others left: arrays (T, levels) such as 000001.npy (22, 3)",
        "taken out: code 512 from 3 motions, code 513 from 3 motions"]


def test_levels_become_steps_and_times_cut_steps(tmp_path):
    root = layout(tmp_path / "set")
    for place, name in enumerate(("000001", "M000001", "000002", "000009")):
        base = np.concatenate([[512], np.arange(20) + 100 * place, [513]])
        np.save(root / "VQVAE" / f"{name}.npy", np.stack([base, base + 1000], 1))
    imported = import_t2m_gpt(root, edits=Edits(drop=frozenset({512, 513, 1512, 1513})))
    assert imported.rows[0]["motion_tokens"] == [[n, n + 1000] for n in range(20)]
    assert imported.rows[3]["motion_tokens"] == [[n, n + 1000] for n in range(205, 212)]
    assert imported.rows[4]["motion_tokens"] == [[219, 1219]]
    assert imported.facts[1] == ("arrays (T, levels) taken as steps of 2 codes, q0 to q1: 3 files such as "
                                 "000001.npy (22, 2)")
    (root / "texts" / "000002.txt").write_text("late#late/X#50.0#60.0\n")
    assert import_t2m_gpt(root).skipped["times that leave no tokens"] == ["000002.txt line 1: 50 to 60 s"]


def parts_layout(root: Path) -> Path:
    """layout(), as a face of the codes there and feet of those + 1; M000001 has no face, 000009 no feet and a face that
    no split names, 000003 parts of 3 and 4 codes."""
    layout(root, "FACE")
    (root / "feet").mkdir()
    for name in ("000001", "M000001", "000002"):
        np.save(root / "feet" / f"{name}.npy", np.load(root / "FACE" / f"{name}.npy")[0] + 1)
    (root / "FACE" / "M000001.npy").unlink()
    (root / "FACE" / "000003.txt").write_text("1 2 3")
    (root / "feet" / "000003.txt").write_text("1 2 3 4")
    return root


def test_a_folder_a_part_becomes_named_streams(tmp_path, capsys):
    root, output = parts_layout(tmp_path / "set"), tmp_path / "my.json"
    (root / "feet" / "._000001.npy").write_bytes(b"\x00\x05")
    assert run_script(import_tokens, "--layout", "t2m_gpt", "--root", str(root), "--output", str(output), "--streams",
                      f"feet={root / 'feet'}", "face=FACE") == 0
    rows = json.loads(output.read_text())
    assert [(row["clip_id"], list(row["motion_tokens"])) for row in rows] == [
        (name, ["feet", "face"]) for name in ("000001", "000001", "M000001", "000002", "000002")]
    assert rows[3]["motion_tokens"] == {"feet": " ".join(map(str, range(206, 213))),
                                        "face": " ".join(map(str, range(205, 212)))}
    assert rows[2]["motion_tokens"] == {"feet": " ".join(map(str, range(101, 121))), "face": None}
    summary = capsys.readouterr().out
    assert f"tokens of feet from {root / 'feet'}, of face from {root / 'FACE'}; 20 frames" in summary
    assert "face is null where it has no tokens: 1 (M000001)" in summary
    assert "skipped, streams of different lengths: 1 (000003: feet 4, face 3)" in summary
    assert "skipped, no texts file: 1 (000007 (test))" in summary and "files of macOS, ._...: 1" in summary
    report = read_rows(output, 512)
    assert not report.errors and report.streams.names == ("feet", "face") and report.streams.sizes == (221, 220)


def test_archives_become_named_streams_where_there_are_no_other_files(tmp_path):
    root = layout(tmp_path / "set")
    (root / "smplx").mkdir()
    np.savez(root / "smplx" / "000001.npz", poses=np.zeros((9, 4)), gender="neutral")  # AMASS's
    np.savez(root / "000001.npz", frames=[3, 4])  # integers that are no tokens, beside a folder of tokens
    assert len(import_t2m_gpt(root).rows) == 5
    (root / "000001.npz").unlink()
    for path in list((root / "VQVAE").iterdir()):
        tokens = np.load(path)
        np.savez(path.with_suffix(".npz"), feet=tokens, **({} if path.stem == "000002" else {"face": tokens[0] + 3}))
        path.unlink()
    imported = import_t2m_gpt(root)
    assert len(imported.rows) == 5 and imported.facts[0].startswith(f"tokens from {root / 'VQVAE'};")
    assert imported.rows[1]["motion_tokens"] == {"feet": " ".join(map(str, range(20))),
                                                 "face": " ".join(map(str, range(3, 23)))}
    assert imported.rows[4]["motion_tokens"] == {"feet": "219", "face": None}
    assert imported.facts[1] == "face is null where it has no tokens: 1 (000002)"
    np.save(root / "VQVAE" / "000003.npy", np.arange(4))
    with pytest.raises(LayoutError, match=r"0000\d\d.npz has named streams, .*000003.npy has none, expected the same"):
        import_t2m_gpt(root, root / "VQVAE")


def test_a_clip_of_parts_that_is_nothing_but_markers_is_counted(tmp_path):
    root = parts_layout(tmp_path / "set")
    np.save(root / "feet" / "M000001.npy", np.array([900, 901]))
    imported = import_t2m_gpt(root, edits=Edits(drop=frozenset({900, 901})), streams={"face": "FACE", "feet": "feet"})
    assert len(imported.rows) == 4 and imported.skipped["motions of nothing but codes to drop"] == ["M000001"]


def test_several_folders_of_tokens_may_be_streams(tmp_path):
    root = parts_layout(tmp_path / "set")
    with pytest.raises(LayoutError, match="FACE, .*feet; name the one with --tokens_dir; or take each as a stream, "
                       "with --streams NAME=FOLDER"):
        import_t2m_gpt(root)


def test_a_motion_of_nothing_but_dropped_codes_is_counted(tmp_path):
    root = layout(tmp_path / "set")
    np.save(root / "VQVAE" / "M000001.npy", np.array([512, 513]))
    imported = import_t2m_gpt(root, edits=Edits(drop=frozenset({512, 513})))
    assert len(imported.rows) == 4 and imported.skipped["motions of nothing but codes to drop"] == ["M000001.npy"]


def test_pickles_are_not_opened(tmp_path):
    root = layout(tmp_path / "set")
    np.save(root / "VQVAE" / "M000001.npy", np.array([{"a": 1}], dtype=object))
    with pytest.raises(LayoutError, match="M000001.npy: a damaged .npy file, or one of objects, which are not read"):
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


def test_qiqi_rows_without_a_motion_share_no_clip(tmp_path):
    root = qiqi(tmp_path / "set")
    rows = [{"input": f"walk {place}", "output": f"{place},1", "motion": motion}
            for place, motion in enumerate([None, None, " ", 7, "8"])] + [{"input": "run", "output": "9"}]
    (root / "train.json").write_text(json.dumps(rows))
    (root / "val.json").write_text("[]")
    imported = import_qiqi(root)
    assert [row.get("clip_id") for row in imported.rows] == [None, None, None, "7", "8", None]
    assert "6 rows of 2 clips read, 4 of the rows without a clip_id" in imported.summary()


def test_qiqi_codes_are_edited_too(tmp_path):
    imported = import_qiqi(qiqi(tmp_path / "set"), Edits(drop=frozenset({207}), subtract=80))
    assert [row["motion_tokens"] for row in imported.rows] == ["1 1", "1 1"]
    assert imported.facts == ["taken out: code 207 from 2 motions", "80 subtracted from every code: now 1 to 1"]
    with pytest.raises(LayoutError, match="train.json row 0 has the code 81, expected 100 or more"):
        import_qiqi(tmp_path / "set", Edits(subtract=100))


def marked(path: Path, lowest: int = 0) -> list[dict]:
    """A dataset in JSON Lines with a blank line, the codes 900 and 901 around every motion, and all optional fields."""
    rows = [{"text_query": f"c{n}", "motion_tokens": [900, lowest + n, lowest + 7 * n % 20, 901], "participant_id": "A",
             "clip_id": f"k{n}", "split": "val" if n else "train", "fps": 20} for n in range(20)]
    path.write_text("\n\n".join(map(json.dumps, rows)))
    return rows


def test_the_command_of_the_warning_takes_the_markers_out(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = marked(tmp_path / "my.jsonl")
    (warning,) = [w.message for w in read_rows("my.jsonl", 512).warnings if w.kind == "markers"]
    arguments = warning.split("import_tokens.py ")[1].split()
    assert run_script(import_tokens, *arguments) == 0
    assert "code 900 from 20 motions, code 901 from 20 motions" in (summary := capsys.readouterr().out)
    assert "unknown fields, not kept: fps" in summary
    report = read_rows("new.json", 512)
    assert report.warnings == report.errors == [] and [
        {"text_query": row.text_query, "motion_tokens": [900, *row.codes.tolist(), 901], "clip_id": row.clip_id,
         "participant_id": row.participant_id, "split": row.split, "fps": 20} for row in report.rows] == rows


def test_the_command_of_the_warning_subtracts(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    marked(tmp_path / "my.jsonl", lowest=40_000)
    (warning,) = [w.message for w in read_rows("my.jsonl", 512).warnings if w.kind == "vocabulary-ids"]
    arguments = warning.split("import_tokens.py ")[1].split()
    assert run_script(import_tokens, *arguments) == 1  # the markers are less than what is subtracted
    assert "my.jsonl: line 1 has the code 900, expected 40000 or more" in capsys.readouterr().err
    assert not (tmp_path / "new.json").exists()
    assert run_script(import_tokens, *arguments, "--drop_codes", "900,901") == 0
    assert "40000 subtracted from every code: now 0 to 19" in capsys.readouterr().out
    assert read_rows("new.json", 512).codebook_size == 20


def test_an_error_names_the_line_of_json_lines(tmp_path):
    rows = marked(tmp_path / "my.jsonl")
    for row in rows:
        row["motion_tokens"] = [900]
    rows[9]["motion_tokens"] = [3]
    (tmp_path / "my.jsonl").write_text("\n\n".join(map(json.dumps, rows)))
    with pytest.raises(LayoutError, match="my.jsonl: line 19 has the code 3, expected 4 or more"):
        import_tokens.import_json(tmp_path / "my.jsonl", Edits(subtract=4))
    rows[11] |= {"clip_id": "k10", "split": "test"}
    (tmp_path / "my.jsonl").write_text("\n\n".join(map(json.dumps, rows)))
    with pytest.raises(LayoutError, match="my.jsonl: line 21: its clip is in the splits test and val"):
        export_t2m_gpt(tmp_path / "my.jsonl", tmp_path / "back")


def streams_data(path: Path, form: str) -> list[dict]:
    """Rows of two streams, the markers 70 and 90 around every motion; of named ones, every third has no feet."""
    rows = []
    for n in range(9):
        face, feet = [70, 10 + n, 10, 70], [90, 30, 31 + n, 90]
        motion = [[70, 90], *([10 + n, 30], [10, 31 + n]) * 2, [70, 90]] if form == "steps" else {
            "face": " ".join(map(str, face)), "feet": None if n % 3 == 0 else feet}
        rows.append({"text_query": f"c{n}", "motion_tokens": motion, "clip_id": f"k{n}",
                     "split": ("train", "val", "test")[n % 3]})
    path.write_text(json.dumps(rows))
    return rows


@pytest.mark.parametrize("form", ["steps", "object"])
def test_a_dataset_of_streams_is_edited_stream_by_stream(tmp_path, capsys, form):
    streams_data(tmp_path / "my.json", form)
    names = ("q0", "q1") if form == "steps" else ("face", "feet")
    edit = ["--layout", "json", "--data", str(tmp_path / "my.json"), "--output", str(tmp_path / "new.json")]
    assert run_script(import_tokens, *edit, "--drop_codes", "70,90", "--subtract", f"{names[1]}=30") == 0
    rows = [row["motion_tokens"] for row in json.loads((tmp_path / "new.json").read_text())]
    assert rows[4] == ([[14, 0], [10, 5]] * 2 if form == "steps" else {"face": "14 10", "feet": "0 5"})
    assert rows[3] == ([[13, 0], [10, 4]] * 2 if form == "steps" else {"face": "13 10", "feet": None})
    assert f"30 subtracted from every code of {names[1]}: now 0 to 9" in capsys.readouterr().out
    assert run_script(import_tokens, *edit, "--subtract", "10") == 0
    assert f"10 subtracted from every code of {names[0]}: now 0 to 60" in (summary := capsys.readouterr().out)
    assert f"10 subtracted from every code of {names[1]}: now 20 to 80" in summary
    first = 0 if form == "steps" else 1  # that has both
    for options, message in (
            (["--drop_codes", f"{names[0]}=70"], f"my.json: row {first}: step 0 is {names[0]} 70, {names[1]} 90: to "
             "take out a part"), (["--subtract", "hands=3"], "names hands, "),
            (["--subtract", "11"], f"row 0 has the code 10 of {names[0]}, expected 11"),
            (["--subtract", "3", f"{names[0]}=3"], "--subtract: expected one value, or NAME=VALUE once")):
        assert run_script(import_tokens, *edit, *options) == 1
        assert message in capsys.readouterr().err


@pytest.mark.parametrize("form", ["steps", "object"])
def test_streams_written_and_read_again_are_the_same(tmp_path, capsys, form):
    streams_data(tmp_path / "my.json", form)
    edits, back = Edits(), tmp_path / "back"
    rows = import_tokens.import_json(tmp_path / "my.json", edits).rows
    assert run_script(import_tokens, "--export", "t2m_gpt", "--data", str(tmp_path / "my.json"), "--output",
                      str(back)) == 0
    summary = capsys.readouterr().out
    options = []
    if form == "steps":
        assert np.load(back / "VQVAE" / "k4.npy").shape == (6, 2) and "--streams" not in summary
    else:
        assert np.load(back / "VQVAE_feet" / "k4.npy").shape == (1, 4) and not (back / "VQVAE_feet/k3.npy").exists()
        options = summary.split("which ")[1].split(" reads again")[0].split()
        assert options == ["--streams", "face=VQVAE_face", "feet=VQVAE_feet"]
    assert run_script(import_tokens, "--layout", "t2m_gpt", "--root", str(back), "--output", str(tmp_path / "new.json"),
                      *options) == 0
    again = json.loads((tmp_path / "new.json").read_text())
    assert sorted(again, key=lambda row: row["clip_id"]) == rows and "skipped" not in summary


def test_an_export_that_could_not_be_read_again_is_refused(tmp_path):
    rows = [{"text_query": f"c{n}", "motion_tokens": [[n, 2, 3]] * 3} for n in range(3)]
    (tmp_path / "my.json").write_text(json.dumps(rows))
    with pytest.raises(LayoutError, match="my.json: the longest motion has 3 steps of 3 codes: arrays of such shapes"):
        export_t2m_gpt(tmp_path / "my.json", tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_names_of_streams_that_are_no_folders_become_numbers(tmp_path):
    rows = [{"text_query": "c", "motion_tokens": {"../x": "1 2", "a": "3 4", "A": "5 6"}}]
    (tmp_path / "my.json").write_text(json.dumps(rows))
    summary = export_t2m_gpt(tmp_path / "my.json", tmp_path / "back")
    assert "--streams ../x=VQVAE_000000 a=VQVAE_000001 A=VQVAE_000002 reads again" in summary
    assert sorted(path.parent.name for path in tmp_path.rglob("*.npy")) == [f"VQVAE_00000{n}" for n in range(3)]


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


def test_a_refused_or_broken_export_leaves_nothing_and_can_be_repeated(tmp_path, monkeypatch):
    rows = [{"text_query": f"c{n}", "motion_tokens": [n // 2], "split": ["train", "train", "train", "test"][n]}
            for n in range(4)]
    (tmp_path / "my.json").write_text(json.dumps(rows))
    with pytest.raises(LayoutError, match="row 2: its clip is in the splits test and train, expected one"):
        export_t2m_gpt(tmp_path / "my.json", tmp_path / "back")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["my.json"]
    rows[3]["split"] = "train"
    (tmp_path / "my.json").write_text(json.dumps(rows))
    (tmp_path / "back").mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(import_tokens, "_text_line", lambda row: 1 / 0)  # as if killed in the middle
        with pytest.raises(ZeroDivisionError):
            export_t2m_gpt(tmp_path / "my.json", tmp_path / "back")
    assert list((tmp_path / "back").iterdir()) == []
    export_t2m_gpt(tmp_path / "my.json", tmp_path / "back")
    assert len(import_t2m_gpt(tmp_path / "back").rows) == 4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["back", "my.json"]


def test_naming_many_clips_takes_no_quadratic_time():
    class Id(str):
        folded = 0

        def casefold(self):
            Id.folded += 1
            return super().casefold()

    assert import_tokens._names([Id(f"clip{n}") for n in range(100)]) == [f"clip{n}" for n in range(100)]
    assert Id.folded <= 300


def test_the_command_writes_a_good_dataset(tmp_path, capsys):
    root, output = layout(tmp_path / "set"), tmp_path / "out" / "my.json"
    assert run_script(import_tokens, "--layout", "t2m_gpt", "--root", str(root), "--output", str(output)) == 0
    assert "5 rows of 3 clips read" in capsys.readouterr().out
    report = read_rows(output, 512)
    assert len(report.rows) == 5 and not report.errors and report.rows[2].clip_id == "M000001"


@pytest.mark.parametrize("arguments, message", [
    (["--layout", "t2m_gpt"], "--root is missing"), (["--export", "t2m_gpt"], "--data is missing"),
    (["--layout", "t2m_gpt", "--root", ".", "--unit", "0"], "--unit 0, expected"),
    (["--layout", "t2m_gpt", "--root", "nowhere"], "nowhere has none of train.txt"),
    (["--layout", "json", "--root", "nowhere"], "--data is missing"),
    (["--layout", "json", "--data", "nowhere", "--level", "0"], "--level is for --layout t2m_gpt"),
    (["--layout", "qiqi", "--root", ".", "--subtract", "-1"], "expected 0 or more"),
    (["--export", "t2m_gpt", "--data", "nowhere", "--subtract", "1"], "--subtract are for --layout"),
    (["--layout", "qiqi", "--root", ".", "--streams", "a=b"], "--streams is for --layout t2m_gpt"),
    (["--layout", "t2m_gpt", "--root", ".", "--streams", "a=b", "--tokens_dir", "."], "without --tokens_dir"),
    (["--layout", "t2m_gpt", "--root", ".", "--streams", "a=b", "--level", "all"], "and --level all: each stream"),
    (["--layout", "t2m_gpt", "--root", ".", "--streams", "body"], "'body', expected NAME=FOLDER"),
    (["--layout", "t2m_gpt", "--root", ".", "--streams", "body="], "'body=', expected NAME=FOLDER"),
    (["--layout", "t2m_gpt", "--root", ".", "--streams", "PID=x"], "the name is reserved"),
    (["--layout", "t2m_gpt", "--root", ".", "--streams", "a=x", "a=y"], "expected each name once"),
    (["--layout", "t2m_gpt", "--root", ".", "--drop_codes", "1", "2"], "--drop_codes: expected one value, or NAME")])
def test_what_cannot_be_done_is_refused(tmp_path, capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert run_script(import_tokens, *arguments, "--output", "x.json") == 1
    assert message in capsys.readouterr().err and not (tmp_path / "x.json").exists()


@pytest.mark.parametrize("text", ["", "512 513", "512,", "-1", "a"])
def test_codes_to_drop_are_integers_between_commas(tmp_path, capsys, text):
    assert run_script(import_tokens, "--layout", "json", "--data", "a", "--output", "b", f"--drop_codes={text}") == 2
    assert "expected codes such as 512,513" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["../outside/000001", "/etc/hostname", "a/../../000001", "..", "0" * 1001])
def test_an_id_that_leads_out_of_the_folder_is_refused_by_file_and_line(tmp_path, name):
    root = layout(tmp_path / "set")
    layout(tmp_path / "outside")
    (root / "test.txt").write_text(f"000007\n\n{name}\n")
    with pytest.raises(LayoutError, match=r"test\.txt: line 3 is '.*', expected the name of a clip below .*set"):
        import_t2m_gpt(root)


def test_links_to_elsewhere_are_the_users_own(tmp_path):
    root = layout(tmp_path / "set")
    (root / "VQVAE").rename(tmp_path / "tokens")
    (root / "VQVAE").symlink_to(tmp_path / "tokens")
    assert len(import_t2m_gpt(root, root / "VQVAE").rows) == 5


def test_times_of_absurd_sizes_are_no_times(tmp_path):
    root = layout(tmp_path / "set")
    (root / "texts" / "000002.txt").write_text("starts late#starts/X#1.0#1e308\nends#ends/X#1e300#nan\n")
    imported = import_t2m_gpt(root)
    assert imported.skipped["lines that are not caption#word/POS ...#start#end"] == ["000002.txt line 1",
                                                                                       "000002.txt line 2"]


def test_codes_with_many_spaces_behind_them_take_no_quadratic_time(tmp_path):
    import time

    output = "81, 207" + " " * 200_000
    (tmp_path / "train.json").write_text(json.dumps([{"input": "a walk", "output": output + "x", "motion": "1"},
                                                     {"input": "a walk", "output": output + ", ", "motion": "1"}]))
    started = time.perf_counter()
    imported = import_qiqi(tmp_path)
    assert time.perf_counter() - started < 10 and [codes(row) for row in imported.rows] == [[81, 207]]


@pytest.mark.parametrize("content", ["[" * 50_000, '[{"input": NaN}]', '[{"input": 1e999}]', "{"])
def test_a_json_file_that_cannot_be_read_is_named(tmp_path, content):
    (tmp_path / "val.json").write_text(content)
    with pytest.raises(LayoutError, match=r"val\.json is broken: "):
        import_qiqi(tmp_path)


def test_an_id_that_is_too_long_for_a_file_becomes_a_number(tmp_path):
    rows = [{"text_query": "a walk", "motion_tokens": "1 2", "clip_id": "歩" * 90},
            {"text_query": "a run", "motion_tokens": "3", "clip_id": "歩" * 60}]
    (tmp_path / "my.json").write_text(json.dumps(rows))
    export_t2m_gpt(tmp_path / "my.json", tmp_path / "set")
    assert sorted(path.stem for path in (tmp_path / "set" / "VQVAE").iterdir()) == ["000000", "歩" * 60]


def test_a_killed_export_goes_on(tmp_path):
    """Killed while it writes: nothing is at the name, and the next one clears what lies beside it."""
    (tmp_path / "my.json").write_text(json.dumps([{"text_query": "a walk", "motion_tokens": "1 2"}]))
    code = ("import os, import_tokens\nfrom pathlib import Path\nPath.write_text = lambda *a, **b: os._exit(9)\n"
            f"import_tokens.export_t2m_gpt({str(tmp_path / 'my.json')!r}, {str(tmp_path / 'set')!r})")
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent.parent).returncode == 9
    assert not (tmp_path / "set").exists() and list(tmp_path.glob(".set*"))
    export_t2m_gpt(tmp_path / "my.json", tmp_path / "set")
    assert len(import_t2m_gpt(tmp_path / "set").rows) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["my.json", "set"]


def test_a_folder_of_a_stream_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(LayoutError, match=r"--streams feet=.*set/nowhere: there is no such folder"):
        import_t2m_gpt(parts_layout(tmp_path / "set"), streams={"face": "FACE", "feet": "nowhere"})


def test_a_level_is_a_number_or_all(tmp_path, capsys):
    assert run_script(import_tokens, "--layout", "t2m_gpt", "--root", "a", "--output", "b", "--level", "base") == 2
    assert "'base', expected a number from 0 or all" in capsys.readouterr().err


def test_folders_of_streams_without_any_clip_give_the_counts(tmp_path, capsys):
    root = parts_layout(tmp_path / "set")
    (root / "a").mkdir()
    assert run_script(import_tokens, "--layout", "t2m_gpt", "--root", str(root), "--output", str(tmp_path / "x.json"),
                      "--streams", "face=a", "feet=a") == 1
    message = capsys.readouterr().err
    assert "no row could be read" in message and "skipped, no tokens file: 4 (000001 (train), " in message
