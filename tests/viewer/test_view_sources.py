"""view.py's command line: its sources (tokens, BVH, joints) and output formats."""

import numpy as np
import pytest
from conftest import run_script
from walker import walk, walks

import view
from motion_llm.motion.bvh import read_bvh, write_bvh
from motion_llm.motion.codec import MotionCodec


@pytest.fixture(scope="module")
def codec_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("codec")
    MotionCodec.fit(walks(), codes=64, kind="kmeans").save(folder)
    return str(folder)


def test_tokens_bvh_and_joints_stand_in_one_page_with_their_captions(codec_folder, tmp_path, capsys):
    write_bvh(tmp_path / "stroll.bvh", walk(30))
    np.save(tmp_path / "plain.npy", np.zeros((10, 22, 3), np.float32) + np.arange(22)[:, None] / 10)
    page = tmp_path / "clips.html"
    assert run_script(view, "--tokens", "1 2 3", "--tokens", "5 5", "--codec", codec_folder, "--bvh",
                      str(tmp_path / "stroll.bvh"), "--joints", str(tmp_path / "plain.npy"), "--caption", "first",
                      "--output", str(page)) == 0
    text = page.read_text(encoding="utf-8")
    assert text.index('"first"') < text.index('"5 5"') < text.index('"stroll"') < text.index('"plain"')
    assert "3 tokens, 0.4 s" in text and "4 clips" in capsys.readouterr().out


def test_tokens_become_a_bvh_file(codec_folder, tmp_path):
    path = tmp_path / "clip.bvh"
    assert run_script(view, "--tokens", "1 2 3", "--codec", codec_folder, "--output", str(path)) == 0
    assert len(read_bvh(path)) == 12


@pytest.mark.parametrize(("arguments", "message"), [
    ([], "nothing to look at: give --tokens, --bvh, --joints or --motion"),
    (["--tokens", "1 2"], "--tokens needs --codec"),
    (["--tokens", "1 999", "--codec", "CODEC"], "999"),
    (["--tokens", "1 x", "--codec", "CODEC"], "x"),
    (["--tokens", "1", "--codec", "nowhere"], "nowhere has no codec.json"),
    (["--bvh", "nowhere.bvh"], "nowhere.bvh"),
    (["--tokens", "1", "--codec", "CODEC", "--caption", "a", "--caption", "b"], "2 captions for 1 clips"),
])
def test_what_cannot_be_shown_is_refused(codec_folder, tmp_path, capsys, arguments, message):
    arguments = [codec_folder if word == "CODEC" else word for word in arguments]
    assert run_script(view, *arguments, "--output", str(tmp_path / "x.html")) == 1
    error = capsys.readouterr().err
    assert error.startswith("view.py: ") and message in error
