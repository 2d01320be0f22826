"""bench.py decode, tasks, requests and scenes: figures of the tiny model."""

import argparse
import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import run_script

import bench
from motion_llm.benchmarks import decode as bench_decode
from motion_llm.benchmarks import requests as bench_requests
from motion_llm.benchmarks import scenes as bench_scenes
from motion_llm.benchmarks import train as bench_train
from motion_llm.decoding.request import MotionRequest, MotionResult
from motion_llm.motion.skeleton import Motion, Skeleton


def test_both_ways_of_decoding_are_measured(tiny_run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(bench_decode, "READ_BYTES", 2**22)
    monkeypatch.setattr(bench_train, "PRODUCTS", (512,))
    # vLLM is measured in its own environment; this stand-in writes figures as `bench.py vllm` does.
    stand_in = tmp_path / "python"
    speed = {"tokens_per_second": 1.0, "seconds_to_first_token": 2.0}
    vllm_figures = {"version": "0.0", "batches": {"1": speed, "3": speed}}
    (tmp_path / "vllm.json").write_text(json.dumps({"figures": vllm_figures}))
    stand_in.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/arguments\n'
                        f'for last; do :; done  # --output\ncp {tmp_path}/vllm.json "$last"\n')
    stand_in.chmod(0o755)
    monkeypatch.setattr(bench_decode, "VLLM_PYTHON", stand_in)
    out = tmp_path / "figures.json"
    assert run_script(bench, "decode", "--model_path", str(tiny_run / "stage3_t2m_sft"), "--clip_tokens", "8",
                      "--batches", "1", "3", "--rounds", "2", "--mixed", "5", "--output", str(out)) == 0
    printed = capsys.readouterr().out
    assert "model.generate" in printed and "first token after" in printed and "5 clips of mixed lengths" in printed
    assert "vLLM 0.0, batch 1: 1 tokens/s, ours " in printed and "first token after 2000 ms" in printed
    arguments = (tmp_path / "arguments").read_text()
    for part in ("bench.py vllm --folder", "--batch 1 3 --tokens 8 --repeats 2", "--output"):
        assert part in arguments
    figures = json.loads(out.read_text())["figures"]
    for count, batch in figures["batches"].items():
        for name in ("ours", "model.generate"):
            assert len(batch[name]["rounds"]) == 2 and batch[name]["tokens_per_second"] > int(count)
            assert 0 < batch[name]["share_of_bandwidth"] < 1 and 0 < batch[name]["share_of_peak"] < 1
        assert 0 < batch["constraints_share"] < 1
    assert all(seconds > 0 for seconds in figures["first_token"].values())


def test_a_steps_weights_are_those_that_are_multiplied(tiny_run):
    from generate import MotionGenerator  # imports transformers, which must follow Unsloth's start (tiny_run)
    from model import load  # imports torch, which takes seconds

    generator = MotionGenerator(tiny_run / "stage3_t2m_sft")
    network = load(tiny_run / "stage3_t2m_sft").merged()
    matrices = sum(p.numel() for name, p in network.get_decoder().layers.named_parameters() if p.dim() == 2)
    answers = (generator.vocabulary.codebook_size + 1) * 32
    assert bench_decode._size(generator) == {"values": matrices + answers, "bytes": 4 * (matrices + answers)}


def test_an_untrained_model_of_a_published_shape_is_measured(monkeypatch, tmp_path):
    monkeypatch.setattr(bench_decode, "READ_BYTES", 2**22)
    out = tmp_path / "figures.json"
    assert run_script(bench, "decode", "--random_init", "tiny", "--clip_tokens", "8", "--batches", "1", "--rounds", "1",
                      "--mixed", "0", "--output", str(out)) == 0
    figures = json.loads(out.read_text())["figures"]
    assert figures["model"] == "tiny" and figures["batches"]["1"]["ours"]["tokens_per_second"] > 0
    assert "vllm" not in figures
    assert run_script(bench, "decode", "--random_init", "tiny", "--model_path", str(tmp_path)) == 1


@pytest.mark.parametrize("stage", ["stage2_multitask", "stage3_t2m_sft"])
def test_random_requests_are_all_answered_as_asked(tiny_run, capsys, stage):
    assert run_script(bench, "requests", "--model_path", str(tiny_run / stage), "--count", "300") == 0
    printed = capsys.readouterr().out
    assert printed.startswith("300 requests") and "every answer is valid" in printed
    assert ("denoise" in printed) == (stage == "stage2_multitask")


@pytest.mark.parametrize("codes", [(1, 2, 3, 4), (1, 2, 3, 999), (), (1, 2)])
def test_a_wrong_answer_does_not_pass_the_check(tiny_run, codes):
    from generate import MotionGenerator  # imports transformers, which must follow Unsloth's start (tiny_run)

    generator = MotionGenerator(tiny_run / "stage3_t2m_sft")
    result = MotionResult(" ".join(map(str, codes)), codes=codes)
    with pytest.raises(AssertionError):
        bench_requests._check(MotionRequest(text="x", tokens=4 if 999 in codes else 3), result, generator)


def test_filling_in_is_measured_beside_repeating_and_copying(tiny_run, capsys):
    assert run_script(bench, "tasks", "--model_path", str(tiny_run / "stage2_multitask")) == 0
    printed = capsys.readouterr().out
    for text in ("denoise: anywhere", "inbetween: a gap", "continue: the end", "repeating", "copying", "m2t:"):
        assert text in printed


# Scenes


def test_scenes_are_measured_and_checked(run_with_codec, capsys):
    figures = bench_scenes.run(argparse.Namespace(model_path=str(run_with_codec / "stage3_t2m_sft"), count=3,
                                                  segments=4), {"SEED": 0})
    assert figures["scenes"] == 3 and len(figures["shown"]) == 4 and all(0 <= share <= 1 for share in figures["shown"])
    assert set(figures["seams"]) == {"jerk", "speed", "jerk_95", "drift_jerk", "drift_speed"}
    assert all(value > 0 for value in figures["seams"].values())
    text = bench_scenes.format_figures(figures)
    assert "3 scenes of 4 segments" in text and "at seams, over real clips: jerk" in text
    assert "in the second half of the segments, over the first: jerk" in text


def test_a_jump_is_a_peak_within_reach_and_not_beyond():
    """Two seconds at rest; at frame 30 of 60 the figure is elsewhere."""
    joints = np.zeros((60, 2, 3), np.float32)
    joints[30:, :, 0] = 1.0
    motion = Motion(joints, 30.0, Skeleton(("a", "b"), (-1, 0), np.zeros((2, 3))))
    jerk, speed = bench_scenes.peaks(motion, [30, 40, 44, 5])
    assert (jerk > 0).tolist() == [True, True, False, False] and speed.tolist() == pytest.approx([30, 30, 0, 0])
    assert bench_scenes.peaks(motion, []).shape == (2, 0)


def test_a_figure_that_speeds_up_drifts():
    """A second at 30 frames a second, a frame a code; its place is the cube of the time, so its jerk never changes."""
    joints = np.zeros((30, 1, 3))
    joints[:, 0, 0] = (np.arange(30) / 30) ** 3
    generator = SimpleNamespace(motion=lambda _: Motion(joints, 30.0, Skeleton(("a",), (-1,), np.zeros((1, 3)))),
                                vocabulary=SimpleNamespace(streams=SimpleNamespace(count=1)),
                                codec=SimpleNamespace(window=1))
    spans = [SimpleNamespace(start=0, end=10), SimpleNamespace(start=10, end=30)]
    scene = SimpleNamespace(codes=range(30), spans=spans)
    figures = bench_scenes.seams_over_real(generator, [scene], [range(30)])
    assert figures["drift_jerk"] == pytest.approx(1)
    assert figures["drift_speed"] == pytest.approx((29 / 17) ** 2, rel=0.1)


@pytest.mark.parametrize("broken, changes", [
    ("a gap", {"start": 7}), ("another length", {"end": 9}), ("another sentence", {"text": "bows"})])
def test_a_scene_that_is_not_exact_is_noticed(tiny_run, broken, changes):
    from generate import MotionGenerator, Segment

    generator = MotionGenerator(tiny_run / "stage3_t2m_sft")
    timeline = [Segment("a person jumps", tokens=6), Segment("a person bows", tokens=4)]
    scene = generator.compose(timeline, seed=0)
    bench_scenes.check(timeline, scene, generator)
    spans = (scene.spans[0], dataclasses.replace(scene.spans[1], **changes))
    with pytest.raises(AssertionError):
        bench_scenes.check(timeline, dataclasses.replace(scene, spans=spans), generator)
