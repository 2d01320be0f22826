"""train.py: gradient accumulation, best values, and a killed run that ends as an uninterrupted one does.

Most project modules are imported inside the tests: they import transformers, which must follow Unsloth's start.
"""

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

import collators

ROOT = Path(__file__).parent.parent
STAGES = ["stage1_mlm", "stage2_multitask", "stage3_t2m_sft"]


def rows(count: int) -> list[dict]:
    rng = np.random.default_rng(0)
    return [{"text_query": f"a person {['walks', 'jumps'][i % 2]}", "codes": rng.integers(0, 8, 3 + i % 4).tolist(),
             "participant_id": None} for i in range(count)]


def trained(tiny_base, tmp_path, data, heldout, **changes):
    """A freshly built tiny model after one T2M stage, and its StageResult."""
    from datasets import Dataset

    from model import ModelConfig, build
    from train import Stage, TrainingOptions, train_stage

    model = build(ModelConfig(tiny_base(), 128, 4, 8, "float32"), 8, [])
    epochs, task = changes.pop("epochs", 2), changes.pop("task", "t2m")
    options = dict(batch_size=8, grad_accum=1, lr=1e-3, lr_new_rows=1e-2, participant_dropout=0.0, history_noise=0.0,
                   seed=0, save_steps=100, eval_batch=4, max_seq_len=128) | changes
    stage = Stage(3, "stage3_t2m_sft", "text to motion", {task: 1.0}, task, epochs)
    return model, train_stage(model, [stage], 0, Dataset.from_list(data), heldout, tmp_path, TrainingOptions(**options))


def test_a_batch_of_eight_trains_as_four_accumulated_batches_of_two_do(tiny_base, tmp_path, monkeypatch):
    # Plain gradient descent: Adam would turn a rounding error in a gradient of nearly zero into a full step.
    monkeypatch.setattr(torch.optim, "AdamW", lambda groups, **_: torch.optim.SGD(groups))
    data = rows(8)
    rates = dict(lr=20.0, lr_new_rows=20.0)  # of which the only update has a twentieth, as it is the first
    whole, _ = trained(tiny_base, tmp_path / "whole", data, {}, batch_size=8, grad_accum=1, **rates)
    parts, _ = trained(tiny_base, tmp_path / "parts", data, {}, batch_size=2, grad_accum=4, **rates)
    start, _ = trained(tiny_base, tmp_path / "start", data, {}, lr=0.0, lr_new_rows=0.0)
    moved = {name: value - start.trainable_state()[name] for name, value in whole.trainable_state().items()}
    assert max(value.abs().max() for value in moved.values()) > 0.01
    for name, value in whole.trainable_state().items():
        torch.testing.assert_close(parts.trainable_state()[name], value, atol=1e-5, rtol=1e-4)


def test_micro_batches_train_as_whole_batches_do(tiny_base, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.optim, "AdamW", lambda groups, **_: torch.optim.SGD(groups))
    from motion_llm.training import memory

    data = rows(8)
    whole, first = trained(tiny_base, tmp_path / "whole", data, {}, lr=1.0, lr_new_rows=1.0, max_seq_len=256)
    sizes, forward = [], type(whole).forward
    monkeypatch.setattr(type(whole), "forward", lambda self, input_ids, *args, **kwargs: (
        sizes.append(input_ids.numel()), forward(self, input_ids, *args, **kwargs))[1])
    monkeypatch.setattr(memory, "ENOUGH_ON_CPU", 40)
    parts, second = trained(tiny_base, tmp_path / "parts", data, {}, lr=1.0, lr_new_rows=1.0, max_seq_len=40)
    assert len(sizes) > 4 and max(sizes[2:]) <= 40  # the first two measure memory
    for name, value in whole.trainable_state().items():
        torch.testing.assert_close(parts.trainable_state()[name], value, atol=1e-5, rtol=1e-4)
    assert [loss for _, loss in second.losses] == pytest.approx([loss for _, loss in first.losses], rel=1e-5)


def test_the_loss_falls_and_the_best_epoch_is_kept(tiny_base, tmp_path):
    from model import sum_nll

    data = rows(24)
    model, result = trained(tiny_base, tmp_path, data, {"seen": data[:6], "unseen": data[6:9]}, epochs=4, batch_size=4,
                            lr_new_rows=0.05)
    assert result.losses[-1][1] < result.losses[0][1]
    assert [entry["epoch"] for entry in result.nll] == [1, 2, 3, 4]
    assert result.best["mean"] == min(entry["mean"] for entry in result.nll)
    total, count = sum_nll(model, data[:9], "t2m", 4)
    assert total / count == pytest.approx(result.best["mean"], abs=1e-5)


def test_a_rising_held_out_loss_gives_a_warning(tiny_base, tmp_path, caplog):
    data = rows(8)
    reversed_codes = [{**row, "codes": [7 - code for code in row["codes"]]} for row in data]
    model, result = trained(tiny_base, tmp_path, data, {"seen": reversed_codes}, epochs=12, batch_size=2, lr=1e-2,
                            lr_new_rows=0.05)
    assert "held-out NLL turned up" in caplog.text
    assert result.best["epoch"] < 12


def test_a_held_out_loss_that_rises_in_the_first_pass_is_no_turn(tiny_base, tmp_path, caplog):
    data = rows(8)
    reversed_codes = [{**row, "codes": [7 - code for code in row["codes"]]} for row in data]
    trained(tiny_base, tmp_path / "a", data, {"seen": reversed_codes}, epochs=30, batch_size=1, lr=0.1, lr_new_rows=0.5,
            minutes=0.1, grad_accum=8)
    assert "turned up" in caplog.text  # the same data and rates do turn up later
    caplog.clear()
    from motion_llm.training import stage_trainer

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage_trainer, "FIRST_PASSES", 1_000)
        trained(tiny_base, tmp_path / "b", data, {"seen": reversed_codes}, epochs=12, batch_size=2, lr=1e-2,
                lr_new_rows=0.05)
    assert "turned up" not in caplog.text


def test_a_short_stage_warms_up_by_updates_and_a_long_one_by_its_share():
    from motion_llm.training.schedule import WARMUP_UPDATES, learning_rate_factor

    assert learning_rate_factor(0, 0.0, 0.0, (1.0, 0.0)) == pytest.approx(1 / WARMUP_UPDATES)  # at the start
    assert learning_rate_factor(0, 1 / 3, 1 / 3, (1.0, 0.4)) == pytest.approx(0.8 / WARMUP_UPDATES)  # 1 of 3
    assert learning_rate_factor(WARMUP_UPDATES - 1, 0.5, 0.5, (1.0, 0.3)) == pytest.approx(0.65)
    assert learning_rate_factor(100, 0.015, 0.015, (1.0, 0.0)) == pytest.approx(0.5 * 0.985)
    assert learning_rate_factor(10_000, 1.0, 1.0, (0.6, 0.3)) == pytest.approx(0.3)


def test_the_stages_with_text_share_one_fall_of_the_learning_rates():
    from motion_llm.training.schedule import LR_BETWEEN, rates_of_stage

    assert [rates_of_stage([1, 3, 6], place, 1) for place in range(3)] == [
        (1.0, LR_BETWEEN), pytest.approx((1.0, 2 / 3)), pytest.approx((2 / 3, 0.0))]
    assert rates_of_stage([1], 0, 1) == (1.0, 0.0)  # motion alone, and nothing after it
    assert rates_of_stage([6], 0, 0) == (1.0, 0.0)
    assert rates_of_stage([3, 6], 1, 0) == pytest.approx((2 / 3, 0.0))


def test_the_first_updates_foretell_what_the_run_will_come_to(tiny_base, tmp_path, caplog):
    with caplog.at_level("INFO"):
        trained(tiny_base, tmp_path, rows(24), {}, epochs=6, batch_size=2)
    (line,) = [record for record in caplog.records if "passes of text to motion" in record.getMessage()]
    motions = len({tuple(row["codes"]) for row in rows(24)})
    assert f"about 6 passes of text to motion over {motions} clips in 1 minutes, but about" in line.getMessage()
    assert line.levelname == "WARNING" and "--epochs_s3 " in line.getMessage()


def test_a_loss_that_is_no_number_stops_with_what_to_change(tiny_base, tmp_path):
    from train import TrainingError

    with pytest.raises(TrainingError, match="the loss is .* lower LR and LR_NEW_ROWS .0.001 and 3e.38 here"):
        trained(tiny_base, tmp_path, rows(40), {}, epochs=10, batch_size=4, lr_new_rows=3e38)


def test_memory_that_runs_out_is_reported_with_the_settings_to_change(tiny_base, tmp_path, monkeypatch):
    import model
    from train import TrainingError

    def full(*args, **kwargs):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(model.MotionLanguageModel, "forward", full)
    with pytest.raises(TrainingError, match=r"memory ran out: .* BATCH_TRAIN \(now 8\)"):
        trained(tiny_base, tmp_path, rows(8), {})


def test_a_full_disk_is_reported_before_anything_is_half_written(tiny_base, tmp_path, monkeypatch):
    import shutil

    from train import TrainingError

    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1))
    with pytest.raises(TrainingError, match="0 MB are free on the disk, a checkpoint takes"):
        trained(tiny_base, tmp_path, rows(8), {})
    assert not list(tmp_path.glob("checkpoint-*"))


def test_a_damaged_checkpoint_is_named(tiny_base, tmp_path, monkeypatch):
    import train

    monkeypatch.setattr(train.StageCallback, "on_train_end", lambda *args, **kwargs: None)
    trained(tiny_base, tmp_path, rows(8), {})
    (checkpoint,) = train.whole_checkpoints(tmp_path)
    whole = {path.name: path.read_bytes() for path in checkpoint.iterdir()}
    for name, content, message in (
            ("optimizer.pt", whole["optimizer.pt"][:1000], "optimizer.pt is not the file that was saved there"),
            ("scheduler.pt", b"", "scheduler.pt is missing or empty"),
            ("trainable.safetensors", flipped(whole["trainable.safetensors"]), "trainable.safetensors is not the file"),
            ("optimizer.pt", None, "optimizer.pt is missing or empty")):
        (checkpoint / name).unlink()
        if content is not None:
            (checkpoint / name).write_bytes(content)
        with pytest.raises(train.TrainingError, match=f"{checkpoint.name} is damaged: {message}"):
            trained(tiny_base, tmp_path, rows(8), {})
        (checkpoint / name).write_bytes(whole[name])
    # Without digests, as before they were kept, a file that is gone is still noticed.
    (checkpoint / "files.json").unlink()
    (checkpoint / "scheduler.pt").unlink()
    with pytest.raises(train.TrainingError, match="scheduler.pt is missing or empty"):
        trained(tiny_base, tmp_path, rows(8), {})


def test_values_of_a_checkpoint_that_are_no_numbers_are_named_without_digests_too(tiny_base, tmp_path, monkeypatch,
                                                                                 capsys):
    from safetensors.torch import load_file, save_file

    import train
    from model import ModelError

    monkeypatch.setattr(train.StageCallback, "on_train_end", lambda *args, **kwargs: None)
    trained(tiny_base, tmp_path, rows(8), {})
    (checkpoint,) = train.whole_checkpoints(tmp_path)
    (checkpoint / "files.json").unlink()
    values = load_file(checkpoint / "trainable.safetensors")
    name = next(name for name in values if "lora_B" in name)
    for wrong, message in ((torch.full_like(values[name], torch.inf), "NaN or infinite"),
                           (values[name][:-1].clone(), f"{name} is .* expected")):
        save_file(values | {name: wrong}, checkpoint / "trainable.safetensors")
        with pytest.raises(ModelError, match=f"{checkpoint.name}/trainable.safetensors: .*{message}"):
            trained(tiny_base, tmp_path, rows(8), {})
    (checkpoint / "time_used.json").write_text('{"seconds": 1, "loss": "a lot"}')
    save_file(values, checkpoint / "trainable.safetensors")
    with pytest.raises(train.TrainingError, match="time_used.json loss is 'a lot', expected a number"):
        trained(tiny_base, tmp_path, rows(8), {})


@pytest.mark.parametrize("at", [2, 4, 7])
def test_the_loss_that_is_logged_after_a_resume_is_that_of_an_uninterrupted_stage(tiny_base, tmp_path, monkeypatch, at):
    from motion_llm.training import stage_trainer

    data, options = rows(40), dict(batch_size=4, epochs=2, save_steps=at)
    _, whole = trained(tiny_base, tmp_path / "whole", data, {}, **options)
    saved = stage_trainer.StageTrainer._save_checkpoint
    with monkeypatch.context() as patch:
        def killed(self, *args):
            saved(self, *args)
            raise KeyboardInterrupt

        patch.setattr(stage_trainer.StageTrainer, "_save_checkpoint", killed)
        with pytest.raises(KeyboardInterrupt):
            trained(tiny_base, tmp_path / "killed", data, {}, **options)
    _, resumed = trained(tiny_base, tmp_path / "killed", data, {}, **options)
    assert [step for step, _ in whole.losses] == [5, 10, 15, 20]
    assert resumed.losses == whole.losses


def test_an_error_starts_on_a_line_of_its_own_below_the_progress_bar(tiny_base, tmp_path, monkeypatch, capsys):
    from motion_llm.training import stage_trainer

    def full(self, *args):
        raise stage_trainer.TrainingError("the disk is full")

    monkeypatch.setattr(stage_trainer.StageTrainer, "_save_checkpoint", full)
    with pytest.raises(stage_trainer.TrainingError, match="the disk is full"):
        trained(tiny_base, tmp_path, rows(8), {})
    shown = capsys.readouterr().err
    assert "Stage 3 of 3" in shown and shown.endswith("\n")


def test_an_older_checkpoint_is_resumed_with_a_line(tiny_base, tmp_path, monkeypatch, caplog):
    import train

    with monkeypatch.context() as patch:
        patch.setattr(train.StageCallback, "on_train_end", lambda *args, **kwargs: None)
        trained(tiny_base, tmp_path, rows(8), {})
    (checkpoint,) = train.whole_checkpoints(tmp_path)
    (checkpoint / "files.json").unlink()
    (checkpoint / "time_used.json").write_text('{"seconds": 1.5}')
    with caplog.at_level("INFO"):
        trained(tiny_base, tmp_path, rows(8), {}, epochs=3)
    assert f"{checkpoint} was saved before folders kept digests of their files" in caplog.text


def test_the_best_values_of_before_stay_until_a_checkpoint_knows_of_better_ones(tiny_base, tmp_path, monkeypatch):
    """Killed between an evaluation that is the best so far and the checkpoint after it, a run goes on from the
    checkpoint before, whose best values must still be there."""
    from motion_llm.training import stage_trainer

    data = rows(16)
    with monkeypatch.context() as patch:
        def killed(self, *args):
            if self.state.global_step > 2:
                raise KeyboardInterrupt
            return whole(self, *args)

        whole = stage_trainer.StageTrainer._save_checkpoint
        patch.setattr(stage_trainer.StageTrainer, "_save_checkpoint", killed)
        with pytest.raises(KeyboardInterrupt):
            trained(tiny_base, tmp_path, data, {"seen": data[:6]}, epochs=3)
    assert {path.name for path in tmp_path.glob("best-*")} == {"best-2.safetensors", "best-4.safetensors"}
    _, result = trained(tiny_base, tmp_path, data, {"seen": data[:6]}, epochs=3)
    assert [path.name for path in tmp_path.glob("best-*")] == [f"best-{result.best['step']}.safetensors"]


def flipped(content: bytes) -> bytes:
    """The bytes with the highest exponent bit of a value changed."""
    return content[:-1] + bytes([content[-1] ^ 0x40])


@pytest.mark.parametrize(("task", "lone"), [("t2m", 4 * 17 / 5), ("m2t", 4 * 17 / 5), ("lm", 4)])
def test_what_has_a_caption_of_its_own_is_shown_more_often_where_captions_are_read(tiny_base, tmp_path, monkeypatch,
                                                                                   task, lone):
    data = [row | {"text_query": "a person bows" if i == 5 else "a person walks"} for i, row in enumerate(rows(17))]
    shown, plain = [], collators.DrawnExamples.__getitem__
    monkeypatch.setattr(collators.DrawnExamples, "__getitem__",
                        lambda self, key: shown.append(key) or plain(self, key))
    trained(tiny_base, tmp_path, data, {}, epochs=4, task=task)
    times = np.bincount([position for _, _, position in shown])
    assert times.sum() == 4 * 17 and len(set(shown)) == len(shown)
    # 16 clips of a caption have together 4 times the showings of a lone one, so each has a quarter of these.
    assert abs(times[5] - lone) < 2 and abs(np.delete(times, 5) - (4 * 17 - lone) / 16).max() < 2


def test_tasks_are_drawn_afresh_each_epoch_whatever_the_order(tiny_base):
    from model import ModelConfig, build

    model = build(ModelConfig(tiny_base(), 128, 4, 8, "float32"), 8, [])
    drawer = collators.ExampleDrawer(model.template, {"t2m": 0.5, "m2t": 0.3, "denoise": 0.2}, 0.2, 1)
    batches = collators.EpochBatches([5] * 30, [3] * 30, drawer, 4)
    orders = []
    for epoch in (0, 1):
        batches.set_epoch(epoch)
        drawn = list(batches)
        assert len(drawn) == len(batches) == 8
        assert sorted(key[1:] for batch in drawn for key in batch) == [(epoch, i) for i in range(30)]
        orders.append([i for batch in drawn for _, _, i in batch])
        assert {(i, task) for batch in drawn for task, _, i in batch} == set(enumerate(drawer.tasks(epoch, 30)))
    assert orders[0] != orders[1]
    assert drawer.tasks(0, 30).tolist() != drawer.tasks(1, 30).tolist()


# Runs the pipeline once for each line of stdin, (arguments, kill), in a child of this process, as imports take seconds.
# kill: "" or killing(...), which ends the child as a power failure would, at the nth call of the wrapped function in a
# stage; a stage is in progress when the stages before it are finished. Writes each child's status and its outputs.
RUNS = """
import json, logging, os, signal, sys, tempfile
logging.basicConfig(level=logging.INFO, format="%(message)s")  # before Unsloth, whose import sets a handler
sys.path.insert(0, {root!r})
import train_pipeline
from motion_llm.training import work_folder
from model import start_unsloth
start_unsloth("cpu")
import train, model, generate
from motion_llm.training import stage_trainer
from motion_llm.evaluation import run
calls = 0
def killing(owner, name, stage, at):
    original = getattr(owner, name)
    def wrapped(*args, **kwargs):
        global calls
        finished = [s for s in work_folder.STAGE_FOLDERS if os.path.isdir(os.path.join(sys.argv[-1], s))]
        calls += len(finished) == stage - 1
        if calls == at:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **kwargs)
    setattr(owner, name, wrapped)
for line in sys.stdin:
    arguments, kill = json.loads(line)
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        child = os.fork()
        if child == 0:
            os.dup2(out.fileno(), 1), os.dup2(err.fileno(), 2)
            sys.argv = ["train_pipeline.py", *arguments]
            exec(kill)
            sys.exit(train_pipeline.main())
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        texts = [file.seek(0) or file.read() for file in (out, err)]
    finished = [stage for stage in work_folder.STAGE_FOLDERS if os.path.isdir(os.path.join(arguments[-1], stage))]
    print(json.dumps([status, *texts, finished]), flush=True)
"""
KILLS = [  # what is wrapped, the stage, the call
    ("train.StageCallback, 'on_step_end'", 1, 8),
    ("stage_trainer, 'sync'", 2, 3),  # between the files of a save
    ("train.StageTrainer, '_save_rng_state'", 2, 2),  # before a save is renamed
    ("train.StageCallback, 'on_step_end'", 3, 12),
    ("model.MotionLanguageModel, 'save'", 3, 1),
]


@dataclass
class PipelineRun:
    status: int
    stdout: str
    stderr: str
    stages: list[str]


def pipeline_runs(*runs: tuple[list[str], str]) -> list[PipelineRun]:
    done = subprocess.run([sys.executable, "-c", RUNS.format(root=str(ROOT))], capture_output=True, text=True,
                          input="".join(json.dumps(run) + "\n" for run in runs))
    assert done.returncode == 0, done.stderr
    return [PipelineRun(*json.loads(line)) for line in done.stdout.splitlines()]


def without_times(content):
    """metrics.json without the seconds that its parts took."""
    if isinstance(content, dict):
        return {name: without_times(value) for name, value in content.items() if name != "seconds"}
    return [without_times(value) for value in content] if isinstance(content, list) else content


def test_killed_again_and_again_it_ends_as_an_uninterrupted_run(tiny_arguments, tmp_path):
    arguments = [*tiny_arguments, "--work_dir", str(tmp_path / "killed")]
    kills = [(arguments, f"killing({wrapped}, {stage}, {call})") for wrapped, stage, call in KILLS]
    whole, *killed, last = pipeline_runs(
        ([*tiny_arguments, "--work_dir", str(tmp_path / "whole")], ""), *kills, (arguments, ""))
    assert whole.status == 0, whole.stderr
    for (wrapped, stage, _), run in zip(KILLS, killed, strict=True):
        assert run.status == -9, wrapped
        assert run.stages == STAGES[:stage - 1], wrapped
    assert last.status == 0, last.stderr
    assert "Stage 1 is finished" in last.stderr and "going on from" in last.stderr
    for stage in STAGES:
        expected, resumed = (tmp_path / run / stage / "adapter_model.safetensors" for run in ("whole", "killed"))
        assert resumed.read_bytes() == expected.read_bytes(), stage
    for stage in STAGES:  # written alike by every process
        expected, resumed = (tmp_path / run / stage / "adapter_config.json" for run in ("whole", "killed"))
        assert resumed.read_bytes() == expected.read_bytes()
        modules = json.loads(expected.read_text())["target_modules"]
        assert modules == sorted(modules)
    whole_metrics, resumed_metrics = (without_times(json.loads((tmp_path / run / "metrics.json").read_text()))
                                      for run in ("whole", "killed"))
    assert resumed_metrics == whole_metrics
    expected, resumed = (run.stdout.split("edit  norm.")[1].split("is finished after")[0] for run in (whole, last))
    assert resumed == expected.replace("whole", "killed") and "Three generated clips" in resumed


def test_a_finished_run_that_goes_on_is_killed_and_ends_as_an_uninterrupted_one(tiny_arguments, tmp_path):
    def run(name: str, epochs: int) -> list[str]:
        return [*tiny_arguments, "--epochs_s1", "0", "--epochs_s3", str(epochs), "--work_dir", str(tmp_path / name)]

    kill = "killing(train.StageCallback, 'on_step_end', 3, 12)"  # two stages are finished, the third goes on
    first, second, _, dead, last = pipeline_runs(
        (run("whole", 2), ""), (run("whole", 4), ""), (run("killed", 2), ""), (run("killed", 4), kill),
        (run("killed", 4), ""))
    assert (first.status, second.status, last.status) == (0, 0, 0), last.stderr
    assert dead.status == -9 and dead.stages == STAGES[1:]
    assert "goes on from" in last.stderr and "going on from" in last.stderr
    expected, resumed = (tmp_path / name / STAGES[2] / "adapter_model.safetensors" for name in ("whole", "killed"))
    assert resumed.read_bytes() == expected.read_bytes()
    histories = [json.loads((tmp_path / name / STAGES[2] / "motion_config.json").read_text())["history"]
                 for name in ("whole", "killed")]
    assert without_times(histories[1]["nll"]) == without_times(histories[0]["nll"])


# Minutes instead of epochs


def planned(*epochs: int) -> list:
    from train import stages

    return stages(epochs, {"t2m": 0.5, "m2t": 0.3, "denoise": 0.2}, {"t2m": 1.0, "m2t": 0.0, "denoise": 0.0})


def test_minutes_are_shared_by_epochs_among_the_stages_still_to_come():
    from motion_llm.training.schedule import share_of_minutes

    assert share_of_minutes(10, 0, [1, 3, 6]) == 60
    assert share_of_minutes(10, 60, [3, 6]) == 180
    assert share_of_minutes(10, 300, [6]) == 300  # all that is left, whatever the earlier stages took
    assert share_of_minutes(10, 700, [6]) == 1  # late, but every stage is trained
    assert share_of_minutes(10, 0, [1, 1]) == 300
    assert share_of_minutes(None, 0, [1, 3, 6]) is None


def test_a_stage_of_minutes_ends_in_time_with_its_learning_rate_at_zero(tiny_base, tmp_path, monkeypatch):
    from motion_llm.training import stage_trainer

    rates = []
    monkeypatch.setattr(stage_trainer, "learning_rate_factor",
                        lambda step, share, *_: rates.append(share) or 1 - share)
    data = rows(24)
    model, result = trained(tiny_base, tmp_path, data, {"seen": data[:6]}, minutes=0.1, epochs=1)
    assert 5 < result.seconds < 9
    assert rates == sorted(rates) and rates[-1] == 1 and rates[0] < 0.2
    assert result.nll[-1]["step"] == result.losses[-1][0] // 5 * 5 or result.nll[-1]["step"] >= result.losses[-1][0]
    assert len(result.nll) > 4 and result.nll[-1]["epoch"] > 1  # evaluated during the stage, and not ended by epochs
    assert [entry["seconds"] for entry in result.nll] == sorted(entry["seconds"] for entry in result.nll)


def test_a_resumed_stage_has_the_minutes_that_are_left(tiny_base, tmp_path, monkeypatch):
    from motion_llm.training import stage_trainer
    from motion_llm.training.stage_trainer import TIME_USED

    data = rows(24)
    with monkeypatch.context() as patch:
        patch.setattr(stage_trainer.StageCallback, "on_train_end", lambda *args, **kwargs: None)
        trained(tiny_base, tmp_path, data, {"seen": data[:6]}, minutes=0.03, epochs=1, save_steps=2)
    (checkpoint,) = stage_trainer.whole_checkpoints(tmp_path)
    (checkpoint / TIME_USED).write_text('{"seconds": 50}')
    (checkpoint / "files.json").unlink()  # as in a checkpoint of before: what was changed is not noticed
    started = time.monotonic()
    model, result = trained(tiny_base, tmp_path, data, {"seen": data[:6]}, minutes=0.9, epochs=1)
    assert 53 < result.seconds < 60 and time.monotonic() - started < 30  # four of 54 seconds were left


def test_an_incomplete_checkpoint_is_ignored_with_a_line(tiny_base, tmp_path, caplog):
    (tmp_path / "saving" / "checkpoint-3").mkdir(parents=True)
    (tmp_path / "saving" / "checkpoint-3" / "trainer_state.json").write_text("{")
    with caplog.at_level("INFO"):
        trained(tiny_base, tmp_path, rows(8), {})
    assert "incomplete checkpoint" in caplog.text


def test_each_stage_has_its_part_of_the_fall_of_the_learning_rates(tiny_base, tmp_path, monkeypatch):
    from motion_llm.training.stage_trainer import StageTrainer

    rates = {}
    create = StageTrainer.create_scheduler

    def recording(self, *args, **kwargs):
        rates[self.args.run_name] = self.options.rates
        return create(self, *args, **kwargs)

    monkeypatch.setattr(StageTrainer, "create_scheduler", recording)
    from datasets import Dataset

    from model import ModelConfig, build
    from train import TrainingOptions, train_stage

    model = build(ModelConfig(tiny_base(), 128, 4, 8, "float32"), 8, [])
    options = TrainingOptions(4, 1, 1e-3, 1e-2, 0.0, 0.0, 0, 100, 4, 128)
    for place in range(3):
        train_stage(model, planned(1, 1, 1), place, Dataset.from_list(rows(8)), {}, tmp_path / str(place), options)
    assert rates == {"stage1_mlm": (1.0, 0.3), "stage2_multitask": (1.0, 0.5), "stage3_t2m_sft": (0.5, 0.0)}


def test_noise_falls_only_in_the_last_stage():
    from motion_llm.training.schedule import NOISE_LEFT, noise_left

    assert [noise_left(False, share) for share in (0.0, 0.5, 1.0)] == [1, 1, 1]
    falling = [noise_left(True, share) for share in (0.0, 0.5, 1.0)]
    assert falling == pytest.approx([1, (1 + NOISE_LEFT) / 2, NOISE_LEFT])


def test_the_noise_of_a_stage_depends_on_its_progress(tiny_base, tmp_path, monkeypatch):
    rates = []
    plain = collators.with_noisy_history
    monkeypatch.setattr(collators, "with_noisy_history", lambda example, rng, rate, vocabulary: (
        rates.append(rate), plain(example, rng, rate, vocabulary))[1])
    clips = rows(40)
    trained(tiny_base, tmp_path, clips, {}, history_noise=0.5, epochs=4, batch_size=4)
    assert len(rates) == 4 * len({tuple(row["codes"]) for row in clips})  # a pass has as many examples as motions
    # A clip's rate is drawn from 0 to twice the mean rate, which falls from 1/2 to 1/12.
    assert max(rates) > 0.8 and max(rates[-40:]) < 0.4
    assert sum(rates[:40]) > 2 * sum(rates[-40:]) > 0
