"""inference.py --output: several answers in one GLB file, and the rest pose."""

import json

import numpy as np
import pytest
from conftest import run_script

import inference
from motion_llm.decoding.request import MotionRequest
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


# Finished motions, and scenes


def test_a_motion_is_finished_as_the_flags_tell(run_with_codec, tmp_path):
    flags = ["--model_path", str(run_with_codec / "stage3_t2m_sft"), "--prompt", "a person walks forward",
             "--seed", "0"]
    assert run_script(inference, *flags, "--output", str(tmp_path / "given.bvh")) == 0
    assert run_script(inference, *flags, "--in_place", "--output", str(tmp_path / "here.bvh")) == 0
    given, here = read_bvh(tmp_path / "given.bvh"), read_bvh(tmp_path / "here.bvh")
    root = here.joints[:, 0, [0, 2]]
    assert len(here) == len(given) and np.ptp(root, axis=0).max() < 1e-4
    assert np.allclose(here.joints[:, 0, 1], given.joints[:, 0, 1], atol=1e-4)


@pytest.mark.parametrize("flags, message", [
    (["--in_place"], "--in_place is about the motion that --output shows"),
    (["--clean_feet", "--output", "tokens.txt"], "--clean_feet is about the motion that --output shows"),
    (["--then", "a person jumps", "--trim", "--output", "x.bvh"], "--trim would move the times of a scene"),
])
def test_finishing_without_a_motion_is_refused_before_anything_is_loaded(flags, message, run_with_codec, capsys,
                                                                         monkeypatch):
    monkeypatch.setattr(inference, "_generator", lambda *args: pytest.fail("the model is loaded"))
    assert run_script(inference, "--model_path", str(run_with_codec / "stage3_t2m_sft"), "--prompt", "a person jumps",
                      *flags) == 1
    assert message in capsys.readouterr().err


def test_a_loop_goes_back_to_its_start_and_its_seam_is_told(run_with_codec, tmp_path, capsys, caplog):
    caplog.set_level("INFO")
    flags = ["--model_path", str(run_with_codec / "stage2_multitask"), "--prompt", "a person jumps", "--tokens", "9",
             "--seed", "0"]
    assert run_script(inference, *flags) == 0
    given = capsys.readouterr().out.split()
    assert run_script(inference, *flags, "--loop", "--output", str(tmp_path / "loop.bvh")) == 0
    looped = capsys.readouterr().out.split()
    assert looped[:9] == given and len(looped) - 9 in (0, 2, 4, 8)
    assert "where the end meets the start, the joints move at" in caplog.text


def test_of_all_ways_back_and_none_the_smoothest_is_taken(run_with_codec, caplog, monkeypatch):
    from generate import MotionGenerator

    caplog.set_level("INFO")
    generator = MotionGenerator(run_with_codec / "stage2_multitask")
    given = generator.answer(MotionRequest("continue", motion="1 2 3 4 5 6 7 8 9", tokens=12), 0)[0]
    tried = []

    def jerk(codes, start: int) -> float:
        assert start == 12 and codes[:12] == given.codes
        tried.append(codes)
        return wanted(len(codes))

    monkeypatch.setattr(generator, "closing_jerk", jerk)
    wanted = {12: 5.0, 14: 3.0, 16: 4.0, 20: 2.0}.get
    longest = generator.looped(given, 0)
    assert len(longest.codes) == 20 and longest.motion_tokens == " ".join(map(str, longest.codes))
    assert sorted(map(len, tried)) == [12] + [14] * 8 + [16] * 8 + [20] * 8 and len(set(tried)) > 4
    assert generator.looped(given, 0) == longest and "better than behind every way back" not in caplog.text
    monkeypatch.setattr(generator, "closing_jerk", lambda codes, start: 1.0 + (codes != given.codes))
    assert generator.looped(given, 0).codes == given.codes and "better than behind every way back" in caplog.text
    monkeypatch.setattr(generator, "codec_folder", run_with_codec / "none")
    assert len(generator.looped(given, 0).codes) == 16


@pytest.mark.parametrize("stage, flags, message", [
    ("stage3_t2m_sft", [], "--loop needs a model that goes from one motion to another"),
    ("stage2_multitask", ["--then", "a person bows"], "--loop is for one motion at a time"),
    ("stage2_multitask", ["--trim", "--output", "x.bvh"], "a loop's ends meet, and --trim cuts them off")])
def test_a_loop_that_cannot_be_is_refused(stage, flags, message, run_with_codec, capsys, monkeypatch):
    monkeypatch.setattr(inference, "_generator", lambda *args: pytest.fail("the model is loaded"))
    assert run_script(inference, "--model_path", str(run_with_codec / stage), "--prompt", "a person jumps", "--loop",
                      *flags) == 1
    assert message in capsys.readouterr().err


def test_a_scene_is_shown_with_its_sentences_in_time(run_with_codec, tmp_path, capsys):
    path = tmp_path / "scene.html"
    assert run_script(inference, "--model_path", str(run_with_codec / "stage3_t2m_sft"), "--prompt", "a person jumps",
                      "--then", "a person bows", "--seed", "0", "--output", str(path)) == 0
    segments = json.loads(capsys.readouterr().out)["segments"]
    data = path.read_text().split('id="clips">')[1].split("</script>")[0]
    (clip,) = json.loads(data)
    assert [text for _, _, text in clip["spans"]] == ["a person jumps", "a person bows"]
    shown = np.array([[start, end] for start, end, _ in clip["spans"]])
    assert np.allclose(shown, [segment["seconds"] for segment in segments], atol=2e-3)
