"""The same code path on a GPU, through Unsloth's kernels. Skipped where there is none."""

import math

import pytest

pytestmark = pytest.mark.gpu


@pytest.fixture
def on_gpu(tiny_base):
    from model import ModelConfig, build

    return build(ModelConfig(tiny_base("llama"), 128, 4, 8), 16, ["a"])


def test_lora_and_the_new_rows_train_and_nothing_else(on_gpu):
    import torch

    from collators import collate

    assert on_gpu.device.type == "cuda"
    before = {name: p.detach().clone() for name, p in on_gpu.named_parameters()}
    batch = collate([on_gpu.template.render("t2m", text="a person walks", codes=[1, 2, 3] * n) for n in (1, 4)],
                    on_gpu.pad_id)
    batch = {name: tensor.cuda() for name, tensor in batch.items()}
    optimizer = torch.optim.AdamW([p for p in on_gpu.parameters() if p.requires_grad], lr=0.01)
    losses = []
    for _ in range(5):
        loss = on_gpu(**batch)["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0] and all(map(math.isfinite, losses))
    for name, parameter in on_gpu.named_parameters():
        assert torch.equal(parameter, before[name]) == (not parameter.requires_grad), name


def test_room_is_made_from_the_cards_memory(on_gpu):
    from motion_llm.training.memory import ENOUGH_ON_CPU, make_room

    assert make_room(on_gpu, 128).tokens > ENOUGH_ON_CPU


def test_the_whole_pipeline_runs(tiny_arguments, tmp_path, capsys):
    from conftest import run_script

    import train_pipeline

    assert run_script(train_pipeline, *tiny_arguments, "--work_dir", str(tmp_path / "output")) == 0
    assert "Three generated clips" in capsys.readouterr().out


def test_training_is_measured_on_the_card(tiny_arguments, tmp_path):
    import json

    from conftest import run_script

    import bench

    out = tmp_path / "figures.json"
    assert run_script(bench, "train", *tiny_arguments, "--minutes", "0.05", "--output", str(out)) == 0
    assert json.loads(out.read_text())["figures"]["peak"]["device"] == "cuda"
