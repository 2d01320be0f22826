"""bench.py decode, tasks and requests: figures of the tiny model."""

import json

import pytest
from conftest import run_script


@pytest.fixture(scope="module")
def bench(tiny_run):
    import bench

    return bench


def test_both_ways_of_decoding_are_measured(bench, tiny_run, tmp_path, capsys, monkeypatch):
    from motion_llm.benchmarks import decode as bench_decode
    from motion_llm.benchmarks import train as bench_train

    monkeypatch.setattr(bench_decode, "BATCHES", (1, 3))
    monkeypatch.setattr(bench_decode, "READ_BYTES", 2**22)
    monkeypatch.setattr(bench_train, "PRODUCTS", (512,))
    # vLLM is measured in its own environment; here a stand-in that writes what `bench.py vllm` does.
    stand_in = tmp_path / "python"
    told = {"version": "0.0", "batches": {n: {"tokens_per_second": 1.0, "seconds_to_first_token": 2.0} for n in "13"}}
    (tmp_path / "told.json").write_text(json.dumps({"figures": told}))
    stand_in.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/asked\n'
                        f'for last; do :; done  # --output\ncp {tmp_path}/told.json "$last"\n')
    stand_in.chmod(0o755)
    monkeypatch.setattr(bench_decode, "VLLM_PYTHON", stand_in)
    out = tmp_path / "figures.json"
    assert run_script(bench, "decode", "--model_path", str(tiny_run / "stage3_t2m_sft"), "--clip_tokens", "8",
                      "--rounds", "2", "--mixed", "5", "--output", str(out)) == 0
    shown = capsys.readouterr().out
    assert "model.generate" in shown and "first token after" in shown and "5 clips of mixed lengths" in shown
    assert "vLLM 0.0, batch 1: 1 tokens/s, ours " in shown and "first token after 2000 ms" in shown
    asked = (tmp_path / "asked").read_text()
    assert "bench.py vllm --folder" in asked and "--batch 1 3 --tokens 8 --repeats 2" in asked and "--output" in asked
    figures = json.loads(out.read_text())["figures"]
    for count, found in figures["batches"].items():
        for way in ("ours", "model.generate"):
            assert len(found[way]["rounds"]) == 2 and found[way]["tokens_per_second"] > int(count)
            assert 0 < found[way]["share_of_bandwidth"] < 1 and 0 < found[way]["share_of_peak"] < 1
        assert 0 < found["constraints_share"] < 1
    assert all(seconds > 0 for seconds in figures["first_token"].values())


def test_a_steps_weights_are_those_that_are_multiplied(bench, tiny_run):
    from generate import MotionGenerator
    from model import load
    from motion_llm.benchmarks import decode as bench_decode

    generator = MotionGenerator(tiny_run / "stage3_t2m_sft")
    network = load(tiny_run / "stage3_t2m_sft").merged()
    matrices = sum(p.numel() for name, p in network.get_decoder().layers.named_parameters() if p.dim() == 2)
    answers = (generator.vocabulary.codebook_size + 1) * 32
    assert bench_decode._size(generator) == {"values": matrices + answers, "bytes": 4 * (matrices + answers)}


@pytest.mark.parametrize("stage", ["stage2_multitask", "stage3_t2m_sft"])
def test_random_requests_are_all_answered_as_asked(bench, tiny_run, capsys, stage):
    assert run_script(bench, "requests", "--model_path", str(tiny_run / stage), "--count", "300") == 0
    shown = capsys.readouterr().out
    assert shown.startswith("300 requests") and "every answer is valid" in shown
    assert ("denoise" in shown) == (stage == "stage2_multitask")


@pytest.mark.parametrize("wrong", [(1, 2, 3, 4), (1, 2, 3, 999), (), (1, 2)])
def test_a_wrong_answer_does_not_pass_the_check(bench, tiny_run, wrong):
    from generate import MotionGenerator
    from motion_llm.benchmarks import requests as bench_requests
    from motion_llm.decoding.request import MotionRequest, MotionResult

    generator = MotionGenerator(tiny_run / "stage3_t2m_sft")
    result = MotionResult(" ".join(map(str, wrong)), codes=wrong)
    with pytest.raises(AssertionError):
        bench_requests._check(MotionRequest(text="x", tokens=4 if 999 in wrong else 3), result, generator)


def test_filling_in_is_measured_beside_repeating_and_copying(bench, tiny_run, capsys):
    assert run_script(bench, "tasks", "--model_path", str(tiny_run / "stage2_multitask")) == 0
    shown = capsys.readouterr().out
    for text in ("denoise: anywhere", "inbetween: a gap", "continue: the end", "repeating", "copying", "m2t:"):
        assert text in shown
