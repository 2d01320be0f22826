"""Two processes under torchrun train as one process with twice the batch does."""

import json
import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from safetensors.torch import load_file

ROOT = Path(__file__).parents[2]
STAGES = ["stage1_mlm", "stage2_multitask", "stage3_t2m_sft"]


def torchrun(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
               str(ROOT / "train_pipeline.py"), *arguments]
    environment = os.environ | {"UNSLOTH_FORCE_CPU": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)


@pytest.fixture(scope="module")
def two_processes(tiny_arguments, tmp_path_factory):
    folder = tmp_path_factory.mktemp("two") / "output"
    done = torchrun(*tiny_arguments, "--batch_train", "2", "--work_dir", str(folder))
    assert done.returncode == 0, done.stderr[-3000:]
    return folder, done


def history(folder: Path, stage: str) -> dict:
    return json.loads((folder / stage / "motion_config.json").read_text())["history"]


@pytest.mark.parametrize("stage", STAGES)
def test_losses_are_those_of_one_process_with_twice_the_batch(two_processes, tiny_run, stage):
    together, alone = history(two_processes[0], stage), history(tiny_run, stage)  # batches of 2 + 2, and of 4
    assert [step for step, _ in together["losses"]] == [step for step, _ in alone["losses"]]
    assert [loss for _, loss in together["losses"]] == pytest.approx([loss for _, loss in alone["losses"]], rel=2e-3)
    for a, b in zip(together["nll"], alone["nll"], strict=True):
        assert a["mean"] == pytest.approx(b["mean"], rel=2e-3)


def test_the_models_are_the_same_but_for_rounding(two_processes, tiny_run):
    together, alone = (load_file(run / STAGES[2] / "adapter_model.safetensors") for run in (two_processes[0], tiny_run))
    difference = sum((together[name] - alone[name]).abs().sum() for name in together)
    assert difference < 0.02 * sum(value.abs().sum() for value in together.values())


def test_one_process_goes_on_with_twice_the_batch_and_no_other(two_processes, tiny_run, tiny_arguments, tmp_path):
    folder = shutil.copytree(two_processes[0], tmp_path / "out")
    shutil.rmtree(folder / STAGES[2])
    command = [sys.executable, str(ROOT / "train_pipeline.py"), *tiny_arguments, "--work_dir", str(folder)]
    environment = os.environ | {"UNSLOTH_FORCE_CPU": "1", "OMP_NUM_THREADS": "1"}
    go_on = partial(subprocess.run, capture_output=True, text=True, env=environment, timeout=300)
    refused = go_on([*command, "--batch_train", "2"])
    assert refused.returncode == 1 and not (folder / STAGES[2]).exists()
    assert ("the examples of a batch: 2 x 2 before (processes x BATCH_TRAIN), 1 x 2 now; go on by torchrun "
            "--nproc_per_node 2, or give --batch_train 4") in refused.stderr
    done = go_on([*command, "--batch_train", "4"])
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stderr.count("is finished: ") == 2  # stages 1 and 2 are not trained again
    losses = [[loss for _, loss in history(run, STAGES[2])["losses"]] for run in (folder, tiny_run)]
    assert losses[0] == pytest.approx(losses[1], rel=2e-3)


def test_only_the_first_process_prints(two_processes):
    folder, done = two_processes
    assert done.stdout.count("is finished after") == 1 and done.stdout.count("Three generated clips") == 1
    assert done.stderr.count("prepared 60 rows") == 1
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        [*STAGES, "checkpoints", "metrics.json", "prepared_data", "settings.json"])


def test_a_limit_in_minutes_ends_both_processes_at_the_same_update(tiny_arguments, tmp_path):
    done = torchrun(*tiny_arguments, "--batch_train", "2", "--max_minutes", "0.15", "--work_dir", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr[-3000:]
    used = [history(tmp_path / "out", stage)["seconds"] for stage in STAGES]
    assert 6 < sum(used) < 15


def test_bad_data_is_reported_once_and_ends_both(tiny_arguments, tmp_path):
    (tmp_path / "bad.json").write_text('[{"text_query": "a dance", "motion_tokens": "1 x"}]')
    bad, out = str(tmp_path / "bad.json"), str(tmp_path / "out")
    done = torchrun(*tiny_arguments, "--data_json_path", bad, "--work_dir", out)
    assert done.returncode != 0
    assert done.stderr.count("'x' at place 1") == 1
    assert not (tmp_path / "out").exists()
