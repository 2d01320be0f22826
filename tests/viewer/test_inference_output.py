"""inference.py --output: several answers in one GLB file, and the rest pose."""

import json

import numpy as np
import pytest
from conftest import run_script

import inference
from motion_llm.motion.bvh import read_bvh


def test_samples_are_animations_of_one_figure(run_with_codec, tmp_path):
    path = tmp_path / "clips.glb"
    assert run_script(inference, "--model_path", str(run_with_codec / "stage3_t2m_sft"), "--prompt", "a person jumps",
                      "--num_samples", "2", "--seed", "0", "--output", str(path)) == 0
    content = path.read_bytes()
    scene = json.loads(content[20:20 + int.from_bytes(content[12:16], "little")])
    assert [animation["name"] for animation in scene["animations"]] == ["a person jumps 1", "a person jumps 2"]


def test_the_same_answer_in_a_t_pose(run_with_codec, tmp_path):
    flags = ["--model_path", str(run_with_codec / "stage3_t2m_sft"), "--prompt", "a person jumps", "--seed", "0"]
    assert run_script(inference, *flags, "--output", str(tmp_path / "given.bvh")) == 0
    assert run_script(inference, *flags, "--rest_pose", "t", "--output", str(tmp_path / "t.bvh")) == 0
    given, posed = read_bvh(tmp_path / "given.bvh"), read_bvh(tmp_path / "t.bvh")
    assert np.abs(given.joints - posed.joints).max() < 1e-6
    assert np.abs(given.skeleton.offsets - posed.skeleton.offsets).max() > 0.1


@pytest.mark.parametrize("output", [["--output", "clip.html"], ["--output", "clip.txt"], []])
def test_a_t_pose_of_what_has_none_is_refused_before_anything_is_loaded(output, run_with_codec, capsys, monkeypatch):
    monkeypatch.setattr(inference, "_generator", lambda *args: pytest.fail("the model is loaded"))
    assert run_script(inference, "--model_path", str(run_with_codec / "stage3_t2m_sft"), "--prompt", "a person jumps",
                      "--rest_pose", "t", *output) == 1
    assert "--rest_pose t is for .bvh and .glb" in capsys.readouterr().err
