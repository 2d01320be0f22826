"""A model that keeps its codec answers with figures that move: BVH, pages, joints."""

import json
import shutil

import numpy as np
import pytest
from conftest import run_script
from walker import walks

import inference
import train_pipeline


@pytest.fixture(scope="module")
def codec_folder(tmp_path_factory):
    """A codec of as many codes as the tiny dataset has."""
    from codec import MotionCodec

    folder = tmp_path_factory.mktemp("codec")
    MotionCodec.fit(walks(), codes=128, kind="kmeans").save(folder)
    (folder / "notes.txt").write_text("not the codec's")
    return folder


@pytest.fixture(scope="module")
def run_folder(tiny_run, tiny_arguments, codec_folder, tmp_path_factory):
    """A finished run that is told its codec afterwards."""
    folder = tmp_path_factory.mktemp("with_codec") / "output"
    shutil.copytree(tiny_run, folder)
    assert run_script(train_pipeline, *tiny_arguments, "--work_dir", str(folder), "--codec_path",
                      str(codec_folder)) == 0
    return folder


def test_a_finished_run_takes_the_codec_along_and_its_rate(run_folder):
    for stage in ("stage1_mlm", "stage2_multitask", "stage3_t2m_sft"):
        kept = sorted(path.name for path in (run_folder / stage / "codec").iterdir())
        assert kept == ["codebook.npz", "codec.json"]
        settings = json.loads((run_folder / stage / "motion_config.json").read_text())["settings"]
        assert settings["TOKENS_PER_SECOND"] == 7.5  # 30 frames a second, 4 a token


@pytest.mark.parametrize("name", ["clip.bvh", "clip.npy", "clip.html"])
def test_inference_writes_what_the_files_name_says(run_folder, tmp_path, capsys, name):
    from bvh import read_bvh

    path = tmp_path / "made" / name
    assert run_script(inference, "--model_path", str(run_folder / "stage3_t2m_sft"), "--prompt", "a person jumps",
                      "--seconds", "2", "--seed", "0", "--output", str(path)) == 0
    codes = capsys.readouterr().out.split()
    assert len(codes) == 15
    if name == "clip.bvh":
        motion = read_bvh(path)
        assert len(motion) == 60 and motion.fps == 30 and motion.skeleton.names[1] == "hips"
    elif name == "clip.npy":
        assert np.load(path).shape == (60, 11, 3)
    else:
        page = path.read_text(encoding="utf-8")
        assert "a person jumps" in page and "15 tokens, 2.0 s" in page


def test_samples_stand_side_by_side_in_a_page_and_not_in_a_bvh(run_folder, tmp_path, capsys):
    asked = ["--model_path", str(run_folder / "stage3_t2m_sft"), "--prompt", "a person jumps", "--num_samples", "3"]
    assert run_script(inference, *asked, "--output", str(tmp_path / "clips.html")) == 0
    assert (tmp_path / "clips.html").read_text(encoding="utf-8").count('"caption": "a person jumps"') == 3
    assert run_script(inference, *asked, "--output", str(tmp_path / "clips.bvh")) == 1
    assert "a .bvh file holds one clip, there are 3" in capsys.readouterr().err


def test_a_notebook_shows_an_answer(run_folder):
    pytest.importorskip("IPython")
    from generate import MotionGenerator

    shown = MotionGenerator(run_folder / "stage3_t2m_sft").show("a person jumps", seed=0)
    assert "<iframe" in shown.data and "a person jumps" in shown.data


def test_without_a_codec_that_is_said_before_anything_is_loaded(tiny_run, tmp_path, capsys):
    assert run_script(inference, "--model_path", str(tiny_run / "stage3_t2m_sft"), "--prompt", "a person jumps",
                      "--output", str(tmp_path / "clip.bvh")) == 1
    assert "does not know the codec of its tokens: set CODEC_PATH" in capsys.readouterr().err


@pytest.mark.parametrize(("arguments", "said"), [
    (["--codec_path", "nowhere"], "nowhere has no codec.json"),
    (["--codec_path", "CODEC", "--codebook_size", "200"], "CODEBOOK_SIZE is 200, but the codec in CODEC_PATH"),
    (["--codec_path", "CODEC", "--tokens_per_second", "5"], "TOKENS_PER_SECOND is 5, but the codec in CODEC_PATH"),
])
def test_a_codec_that_does_not_fit_is_refused(tiny_arguments, codec_folder, tmp_path, capsys, arguments, said):
    arguments = [str(codec_folder) if word == "CODEC" else word for word in arguments]
    assert run_script(train_pipeline, *tiny_arguments, "--work_dir", str(tmp_path / "o"), *arguments) == 1
    assert said in capsys.readouterr().err


def test_codes_beyond_the_codec_are_bad_data(tiny_arguments, tmp_path, capsys):
    from codec import MotionCodec

    MotionCodec.fit(walks(), codes=16, kind="kmeans").save(tmp_path / "small")
    assert run_script(train_pipeline, *tiny_arguments, "--work_dir", str(tmp_path / "o"), "--check", "--codec_path",
                      str(tmp_path / "small")) == 1
    assert "127" in capsys.readouterr().out
