"""A finished run that gets more epochs or minutes: the same command trains further."""

import json
import shutil

import pytest
import torch
from conftest import run_script
from safetensors.numpy import load_file

import train_pipeline
from motion_llm.training.going_on import epochs_to_come
from motion_llm.training.rates import LORA, rate_factor

LAST = "stage3_t2m_sft"


def limits(epochs=6, minutes=None) -> dict:
    return {"EPOCHS_S3": epochs, "MAX_MINUTES": minutes}


@pytest.mark.parametrize(("before", "now", "passes", "used", "expected"), [
    (limits(6), limits(6), 6, 900, None),
    (limits(6), limits(10), 6, 900, 4),
    (limits(6), limits(4), 6, 900, None),
    (limits(6), limits(6, 20), 6, 900, 6),  # five minutes are left; the epochs are shares then
    (limits(6), limits(6, 10), 6, 900, None),
    (limits(6, 10), limits(6, 10), 2.4, 598, None),
    (limits(6, 10), limits(6, 30), 2.4, 598, 6),
    (limits(6, 10), limits(6), 2.4, 598, 4),
    (limits(2, 10), limits(2), 2.0, 598, None),
    (limits(6, 10), limits(9, 10), 2.4, 598, None),
])
def test_what_is_left_to_train_of_a_finished_stage(before, now, passes, used, expected):
    assert epochs_to_come(before, now, 3, {"passes": passes, "nll": []}, used) == expected


def test_a_stage_that_goes_on_comes_back_to_the_rate_of_a_stage_as_long_as_both_parts():
    from motion_llm.training.schedule import Clock, learning_rate_factor, noise_left
    from train import _share_made

    assert _share_made(None, 6, None) == 0
    made = _share_made({"passes": 6, "nll": [], "seconds": 100.0}, 2, None)
    assert made == 0.75 and _share_made({"passes": 6, "nll": [], "seconds": 100.0}, 2, 300.0) == 0.25
    clock = Clock(None, made)
    assert [learning_rate_factor(100, part, clock.of_whole(part), (1.0, 0.0)) for part in (0.1, 0.5, 1.0)
            ] == pytest.approx([0.225, 0.125, 0.0])
    assert noise_left(True, clock.of_whole(0.0)) == pytest.approx(noise_left(True, 0.75))
    assert Clock(None).of_whole(0.3) == 0.3


def stage(folder, name=LAST) -> dict:
    return json.loads((folder / name / "motion_config.json").read_text())


@pytest.fixture
def finished(tiny_run, tmp_path):
    return shutil.copytree(tiny_run, tmp_path / "output")


def test_more_epochs_train_the_last_stage_further(finished, tiny_arguments, caplog, monkeypatch):
    rates = []
    plain = torch.optim.AdamW.step
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda self, *args, **more: (
        rates.append(self.param_groups[0]["lr"]), plain(self, *args, **more))[1])
    before = stage(finished)["history"]
    first = load_file(finished / LAST / "adapter_model.safetensors")
    with caplog.at_level("INFO"):
        assert run_script(train_pipeline, *tiny_arguments, "--work_dir", str(finished), "--epochs_s3", "5") == 0
    assert "Stage 2 is finished" in caplog.text
    assert f"Stage 3 goes on from {finished / LAST}: 3 more passes after 2" in caplog.text
    after = stage(finished)
    history = after["history"]
    assert history["t2m_passes"] == 5.5 and history["more"].startswith("--epochs_s3 ")  # half of one in stage 2
    assert after["settings"]["EPOCHS_S3"] == 5 and history["parts"] == 2 and history["passes"] == 5
    assert history["losses"][:len(before["losses"])] == before["losses"]
    assert [check["epoch"] for check in history["nll"]] == [1, 2, 3, 4, 5]
    steps = [check["step"] for check in history["nll"]]
    assert steps == [steps[0] * k for k in (1, 2, 3, 4, 5)]
    assert history["seconds"] > before["seconds"]
    peak = LORA * rate_factor(width=32, examples=4)
    assert 0.15 * peak < max(rates) < 0.3 * peak  # two passes of five were made; 27 updates, 20 to warm up
    second = load_file(finished / LAST / "adapter_model.safetensors")
    assert any((first[name] != second[name]).any() for name in first)
    assert not list((finished / "checkpoints").iterdir())
    caplog.clear()
    with caplog.at_level("INFO"):  # and the same command again trains nothing
        assert run_script(train_pipeline, *tiny_arguments, "--work_dir", str(finished), "--epochs_s3", "5") == 0
    assert "Stage 3 is finished" in caplog.text and "goes on" not in caplog.text


def test_more_minutes_go_to_the_last_stage(finished, tiny_arguments, caplog):
    used = sum(stage(finished, name)["history"]["seconds"] for name in ("stage1_mlm", "stage2_multitask", LAST))
    minutes = used / 60 + 0.05
    with caplog.at_level("INFO"):
        assert run_script(train_pipeline, *tiny_arguments, "--work_dir", str(finished), "--max_minutes",
                          str(minutes)) == 0
    assert "0.1 more minutes after" in caplog.text or "0.0 more minutes after" in caplog.text
    history = stage(finished)["history"]
    assert history["parts"] == 2 and history["passes"] > 2
    total = sum(stage(finished, name)["history"]["seconds"] for name in ("stage1_mlm", "stage2_multitask", LAST))
    assert used + 2 < total < used + 8


def test_values_that_get_no_better_are_not_kept(finished, tiny_arguments, caplog, monkeypatch):
    content = stage(finished)
    content["history"]["best"]["mean"] = 0.001
    (finished / LAST / "motion_config.json").write_text(json.dumps(content))
    first = (finished / LAST / "adapter_model.safetensors").read_bytes()
    with caplog.at_level("INFO"):
        assert run_script(train_pipeline, *tiny_arguments, "--work_dir", str(finished), "--epochs_s3", "3") == 0
    assert "did not get lower than 0.001: the values of before stay" in caplog.text
    assert (finished / LAST / "adapter_model.safetensors").read_bytes() == first
    assert stage(finished)["history"]["passes"] == 3 and stage(finished)["settings"]["EPOCHS_S3"] == 3


@pytest.mark.parametrize("flags", [
    ["--epochs_s2", "9"],  # stage 3 goes on from stage 2
    ["--epochs_s3", "1"],
    ["--max_minutes", "0.001"],  # less than it took
    ["--epochs_s3", "5", "--lr", "0.1"],
])
def test_what_cannot_be_continued_is_refused_with_the_difference(tiny_run, tiny_arguments, flags, capsys):
    assert run_script(train_pipeline, *tiny_arguments, "--work_dir", str(tiny_run), *flags) == 1
    told = capsys.readouterr().err
    assert f"{flags[-2].removeprefix('--').upper()}: " in told
    assert "A run trains further with a higher MAX_MINUTES" in told


def test_a_run_without_its_last_stage_takes_other_epochs_for_it(finished, tiny_arguments, caplog):
    shutil.rmtree(finished / LAST)
    with caplog.at_level("INFO"):
        assert run_script(train_pipeline, *tiny_arguments, "--work_dir", str(finished), "--epochs_s3", "1") == 0
    assert stage(finished)["history"]["passes"] == 1
