"""A model with a codec in its folder writes motion: BVH files, pages, joints."""

import json
import re
import shutil
import sys

import numpy as np
import pytest
from conftest import run_script
from walker import walks

import inference
import train_pipeline
from motion_llm.dataset.prepared import load_prepared
from motion_llm.motion.bvh import read_bvh
from motion_llm.motion.codec import MotionCodec, codec_fingerprint, copy_codec
from motion_llm.viewer.figure import Clip, figure_of
from motion_llm.viewer.page import page_data


def test_a_finished_run_takes_the_codec_along_and_its_rate(run_with_codec):
    for stage in ("stage1_mlm", "stage2_multitask", "stage3_t2m_sft"):
        names = sorted(path.name for path in (run_with_codec / stage / "codec").iterdir())
        assert names == ["codebook.npz", "codec.json"]
        settings = json.loads((run_with_codec / stage / "motion_config.json").read_text())["settings"]
        assert settings["TOKENS_PER_SECOND"] == 7.5  # 30 frames a second, 4 a token


def test_a_run_ends_with_a_gallery_of_six_captions_each_beside_its_real_clip(run_with_codec):
    page = (run_with_codec / "gallery.html").read_text(encoding="utf-8")
    (data,) = re.findall(r'<script type="application/json" id="clips">(.*?)</script>', page, re.DOTALL)
    clips = json.loads(data)
    assert len(clips) == 12 and 'data-group="2"' in page
    for generated, real in zip(clips[::2], clips[1::2], strict=True):
        assert generated["caption"] == real["caption"]
        assert generated["note"].startswith("generated")
        assert real["note"].startswith("real, through the codec\u00a0\u00b7 ")
    assert len({clip["caption"] for clip in clips}) == 6


def test_a_gallerys_real_clips_are_held_out_clips(run_with_codec, codec_folder):
    page = (run_with_codec / "gallery.html").read_text(encoding="utf-8")
    (data,) = re.findall(r'<script type="application/json" id="clips">(.*?)</script>', page, re.DOTALL)
    codec, heldout = MotionCodec.load(codec_folder), set()
    for part in ("test", "seen", "unseen"):
        for row in load_prepared(run_with_codec / "prepared_data", part):
            motion = codec.decode(row["codes"])
            heldout.add((row["text_query"], page_data(Clip(motion), figure_of(motion))["joints"]))
    assert all((clip["caption"], clip["joints"]) in heldout for clip in json.loads(data)[1::2])


@pytest.mark.parametrize(("clips", "expected"), [
    ({"a walk": [1], "A  walk": [2], "a jump": [3]}, ["a walk", "a jump"]),  # one caption in two spellings
    ({"walks ahead": [1], "walks ahead slowly": [2], "sits down": [3]}, ["walks ahead", "sits down",
                                                                        "walks ahead slowly"]),
    ({"goes": [1, 1, 2], "strolls": [1, 1, 4], "waves": [5, 6, 7]}, ["goes", "waves", "strolls"])])  # by the motion
def test_the_gallerys_captions_differ_as_much_as_they_can(clips, expected):
    from motion_llm.training.gallery import most_different  # imports transformers, which must follow Unsloth's start

    rows = [{"text_query": caption, "codes": codes} for caption, codes in clips.items()]
    assert [row["text_query"] for row in most_different(rows, 6)] == expected
    assert most_different([], 6) == [] and len(most_different(rows, 1)) == 1


@pytest.mark.parametrize("name", ["clip.bvh", "clip.npy", "clip.html"])
def test_inference_writes_what_the_files_name_says(run_with_codec, tmp_path, capsys, name):
    path = tmp_path / "new" / name
    assert run_script(inference, "--model_path", str(run_with_codec / "stage3_t2m_sft"), "--prompt", "a person jumps",
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


def test_samples_stand_side_by_side_in_a_page_and_are_numbered_bvh_files(run_with_codec, tmp_path, capsys, caplog):
    flags = ["--model_path", str(run_with_codec / "stage3_t2m_sft"), "--prompt", "a person jumps", "--num_samples", "3"]
    assert run_script(inference, *flags, "--output", str(tmp_path / "clips.html")) == 0
    assert (tmp_path / "clips.html").read_text(encoding="utf-8").count('"caption": "a person jumps"') == 3
    capsys.readouterr()
    with caplog.at_level("INFO"):
        assert run_script(inference, *flags, "--output", str(tmp_path / "clips.bvh")) == 0
    lengths = [len(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert [len(read_bvh(tmp_path / f"clips_{i}.bvh")) for i in range(3)] == [4 * length for length in lengths]
    assert "clips_0.bvh" in caplog.text and not (tmp_path / "clips.bvh").exists()


def test_a_notebook_shows_an_answer(run_with_codec):
    from generate import MotionGenerator  # imports transformers, which must follow Unsloth's start

    html = MotionGenerator(run_with_codec / "stage3_t2m_sft").show("a person jumps", seed=0)._repr_html_()
    assert html.startswith("<iframe") and "a person jumps" in html


def test_without_a_codec_that_is_said_before_anything_is_loaded(tiny_run, tmp_path, capsys):
    assert run_script(inference, "--model_path", str(tiny_run / "stage3_t2m_sft"), "--prompt", "a person jumps",
                      "--output", str(tmp_path / "clip.bvh")) == 1
    assert "does not know the codec of its tokens: set CODEC_PATH" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "missing", "message"), [
    ("clip.gif", "PIL", "pip install pillow"), ("clip.mp4", "PIL", "pip install pillow imageio-ffmpeg"),
    ("clip.MP4", "imageio_ffmpeg", "pip install pillow imageio-ffmpeg")])
def test_a_video_without_its_packages_is_refused_in_a_line_before_anything_is_loaded(
        run_with_codec, tmp_path, capsys, monkeypatch, name, missing, message):
    monkeypatch.setitem(sys.modules, missing, None)
    monkeypatch.setattr(inference, "_generator", lambda *args: pytest.fail("the model is loaded"))
    assert run_script(inference, "--model_path", str(run_with_codec / "stage3_t2m_sft"), "--prompt", "a person jumps",
                      "--output", str(tmp_path / name)) == 1
    last_line = capsys.readouterr().err.splitlines()[-1]
    assert re.fullmatch(rf"inference.py: .* files need more packages: {message}", last_line)
    assert not (tmp_path / name).exists()


@pytest.fixture(scope="module")
def other_codec(tmp_path_factory):
    """Another codec with as many codes."""
    folder = tmp_path_factory.mktemp("other") / "codec"
    MotionCodec.fit(walks(), codes=128, kind="kmeans", seed=5).save(folder)
    return folder


# missing: the run is of an older version; null: it went on without a codec since
@pytest.mark.parametrize("fingerprint", ["in settings.json", "missing", "null"])
def test_a_run_refuses_another_codec_than_it_had(
        run_with_codec, tiny_arguments, codec_folder, other_codec, tmp_path, capsys, fingerprint):
    copy = tmp_path / "output"
    shutil.copytree(run_with_codec, copy)
    settings = json.loads((copy / "settings.json").read_text(encoding="utf-8"))
    assert settings["codec_fingerprint"] == codec_fingerprint(codec_folder) != codec_fingerprint(other_codec)
    before = str(codec_folder)
    if fingerprint != "in settings.json":
        before = str(copy / "stage3_t2m_sft" / "codec")
        settings.pop("codec_fingerprint")
        settings |= {"codec_fingerprint": None} if fingerprint == "null" else {}
        (copy / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
    assert run_script(train_pipeline, *tiny_arguments, "--work_dir", str(copy), "--codec_path", str(other_codec)) == 1
    assert f"the codec: {before} before, {other_codec} of other content now" in capsys.readouterr().err
    assert codec_fingerprint(copy / "stage3_t2m_sft" / "codec") == codec_fingerprint(codec_folder)


def test_a_run_goes_on_with_its_codec_from_elsewhere_and_without_one(
        run_with_codec, tiny_arguments, codec_folder, tmp_path):
    copy, moved = tmp_path / "output", tmp_path / "moved"
    shutil.copytree(run_with_codec, copy)
    shutil.copytree(codec_folder, moved)
    arguments = [*tiny_arguments, "--work_dir", str(copy)]
    for codec in ([], ["--codec_path", str(moved)], ["--codec_path", str(copy / "stage3_t2m_sft" / "codec")]):
        assert run_script(train_pipeline, *arguments, *codec) == 0
        assert codec_fingerprint(copy / "stage3_t2m_sft" / "codec") == codec_fingerprint(codec_folder)


def test_a_copied_codec_leaves_no_file_of_another_kind(codec_folder, tmp_path):
    (tmp_path / "weights.safetensors").write_bytes(b"of a network")
    copy_codec(codec_folder, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["codebook.npz", "codec.json"]


@pytest.mark.parametrize(("arguments", "message"), [
    (["--codec_path", "nowhere"], "nowhere has no codec.json"),
    (["--codec_path", "CODEC", "--codebook_size", "200"], "CODEBOOK_SIZE is 200, but the codec in CODEC_PATH"),
    (["--codec_path", "CODEC", "--tokens_per_second", "5"], "TOKENS_PER_SECOND is 5, but the codec in CODEC_PATH"),
])
def test_a_codec_that_does_not_fit_is_refused(tiny_arguments, codec_folder, tmp_path, capsys, arguments, message):
    arguments = [str(codec_folder) if word == "CODEC" else word for word in arguments]
    assert run_script(train_pipeline, *tiny_arguments, "--work_dir", str(tmp_path / "o"), *arguments) == 1
    assert message in capsys.readouterr().err


def test_codes_beyond_the_codec_are_bad_data(tiny_arguments, tmp_path, capsys):
    MotionCodec.fit(walks(), codes=16, kind="kmeans").save(tmp_path / "small")
    assert run_script(train_pipeline, *tiny_arguments, "--work_dir", str(tmp_path / "o"), "--check", "--codec_path",
                      str(tmp_path / "small")) == 1
    assert "127" in capsys.readouterr().out
