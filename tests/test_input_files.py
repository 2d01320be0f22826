"""input_files.py: what is no regular file is refused by every reader before a byte is read, or waited for."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from data import read_rows
from motion_llm.arrays import Archive, load_npy, load_weights
from motion_llm.dataset.report import raise_on_errors
from motion_llm.input_files import check_regular, is_below
from motion_llm.json_files import read_json, read_text
from motion_llm.motion.bvh import Bvh, read_bvh
from motion_llm.motion.codec import MotionCodec
from motion_llm.motion.files import read_motion
from motion_llm.motion.humanml3d_codec import HumanML3DCodec
from motion_llm.motion.joints_file import read_skeleton


class Refused(ValueError):
    pass


def codec_of(path: Path):
    (path.parent / "codec").mkdir()
    (path.parent / "codec" / "codec.json").symlink_to(path)
    return MotionCodec.load(path.parent / "codec")


READERS = {
    "text": read_text, "json": read_json, "npy": lambda path: load_npy(path, Refused),
    "npz": lambda path: Archive(path, Refused), "weights": lambda path: load_weights(path, Refused),
    "dataset": lambda path: raise_on_errors(read_rows(path, 128)), "bvh": read_bvh, "bvh as it is": Bvh.read,
    "skeleton": read_skeleton, "checkpoint": lambda path: HumanML3DCodec.load(path, path, path), "codec": codec_of}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("kind", ["device", "pipe"])
def test_what_has_no_end_is_refused_by_name(tmp_path, reader, kind):
    path = tmp_path / "clip.bvh"
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")
    with pytest.raises(ValueError, match=rf"{tmp_path}.* no (regular file|codec\.json)"):
        READERS[reader](path)


@pytest.mark.parametrize("suffix", [".bvh", ".npy", ".npz"])
def test_a_folder_that_is_named_like_a_motion_is_none(tmp_path, suffix):
    (tmp_path / f"a{suffix}").mkdir()
    with pytest.raises(ValueError, match="is no regular file, but a folder"):
        read_motion(tmp_path / f"a{suffix}")


def test_a_pipe_of_the_shell_is_read_and_another_one_not(tmp_path):
    os.mkfifo(tmp_path / "prompts")
    code = "from motion_llm.json_files import read_text; print(repr(read_text('/dev/stdin')))"
    done = subprocess.run([sys.executable, "-c", code], input="a person walks\n", capture_output=True, text=True,
                          cwd=Path(__file__).parent.parent, timeout=60)
    assert done.stdout == "'a person walks\\n'\n", done.stderr
    with pytest.raises(Refused, match="prompts is no regular file, but a pipe"):
        check_regular(tmp_path / "prompts", Refused, pipe=True)
    with pytest.raises(Refused, match="/dev/null is no regular file, but a device"):
        check_regular("/dev/null", Refused, pipe=True)
    with pytest.raises(FileNotFoundError):
        check_regular(tmp_path / "nowhere", Refused)


def test_a_dataset_may_come_from_a_pipe(tmp_path):
    reading, writing = os.pipe()
    os.write(writing, b'{"text_query": "a walk", "motion_tokens": "1 2"}\n{"text_query": "a run", "motion_tokens": 3}')
    os.close(writing)
    report = read_rows(f"/dev/fd/{reading}", 128)
    os.close(reading)
    assert [row.text_query for row in report.rows] == ["a walk"] and "line 2" in report.errors[0].message


def test_the_size_of_text_has_a_bound_also_in_a_pipe(tmp_path, monkeypatch):
    monkeypatch.setattr("motion_llm.json_files.MOST_BYTES", 5)
    (tmp_path / "a.txt").write_text("123456")
    reading, writing = os.pipe()
    os.write(writing, b"1234567890")
    os.close(writing)
    for path in (tmp_path / "a.txt", f"/dev/fd/{reading}"):
        with pytest.raises(Refused, match="has 6 bytes, expected at most 5"):
            read_text(path, Refused)
    os.close(reading)


@pytest.mark.parametrize(("name", "below"), [
    ("000001", True), ("walks/a b", True), ("..a/b..", True), ("歩く/1", True), ("", True), ("../a", False),
    ("a/../../b", False), ("/etc/passwd", False), ("..", False), ("a\0b", False), ("a" * 1001, False)])
def test_names_below_a_folder(name, below):
    assert is_below(name) == below


def test_a_token_folder_with_a_pipe_in_it_is_read(tmp_path):
    from import_tokens import import_t2m_gpt

    for folder in ("texts", "VQVAE"):
        (tmp_path / folder).mkdir()
    (tmp_path / "train.txt").write_text("a\nb\n")
    for name in "ab":
        (tmp_path / "texts" / f"{name}.txt").write_text("a walk#a/X#0.0#0.0\n")
    os.mkfifo(tmp_path / "VQVAE" / "a.txt")
    np.save(tmp_path / "VQVAE" / "b.npy", np.arange(5))
    imported = import_t2m_gpt(tmp_path)
    assert [row["clip_id"] for row in imported.rows] == ["b"]
    assert imported.skipped["no tokens file"] == ["a (train)"]
