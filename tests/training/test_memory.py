"""memory.py: the free memory decides how many positions go through the network at once, and what is refused.

Most project modules are imported inside the tests: they import transformers, which must follow Unsloth's start.
"""

import pytest
import torch

from collators import collate
from motion_llm.network.folder import ModelError


@pytest.fixture(scope="module")
def model(tiny_base):
    from model import ModelConfig, build

    return build(ModelConfig(tiny_base(), 512, 4, 8, "float32"), 16, [])


def test_free_memory_is_at_most_that_of_the_machine(model):
    import psutil

    from motion_llm.training.memory import free_memory

    assert 0 < free_memory(torch.device("cpu")) <= psutil.virtual_memory().total


def test_a_containers_limit_counts(model, monkeypatch):
    from motion_llm.training import memory

    files = {"/sys/fs/cgroup/memory.max": "3000000", "/sys/fs/cgroup/memory.current": "1000000"}

    def read(path, *args, **kwargs):
        if str(path) not in files:
            raise FileNotFoundError(path)
        return files[str(path)]

    monkeypatch.setattr(memory.Path, "read_text", read)
    assert memory.free_memory(torch.device("cpu")) == 2_000_000
    files["/sys/fs/cgroup/memory.max"] = "max\n"
    assert memory.free_memory(torch.device("cpu")) > 2_000_000


def test_growth_predicts_the_bytes_kept_for_other_lengths(model):
    from motion_llm.training.memory import _Growth, saved_bytes

    growth = _Growth.of(model)
    for length in (32, 100, 200):
        assert growth.bytes(length) == pytest.approx(saved_bytes(model, length), rel=0.05)


def test_plenty_of_memory_means_large_parts_without_checkpointing(model):
    from motion_llm.training.memory import ENOUGH_ON_CPU, make_room

    room = make_room(model, 128, free=10**12)
    assert room.tokens == ENOUGH_ON_CPU and not room.checkpointing


def test_less_memory_means_fewer_positions_then_checkpointing_then_a_refusal(model):
    from motion_llm.training.memory import ENOUGH_ON_CPU, _Growth, make_room

    trainable = sum(p.numel() for p in model.network.parameters() if p.requires_grad)
    example = _Growth.of(model).bytes(128)

    def free(needed: float) -> int:  # such that `needed` bytes are usable
        return int((needed + 12 * trainable) / 0.6) + 10

    assert make_room(model, 128, free(4 * example)).tokens == ENOUGH_ON_CPU // 2 < 4 * 128
    assert make_room(model, 128, free(1.1 * example)).tokens == 128
    assert not model.network.is_gradient_checkpointing
    room = make_room(model, 128, free(0.9 * example))
    assert 128 <= room.tokens < ENOUGH_ON_CPU // 2 and room.checkpointing and room.needed <= 0.9 * example
    assert model.network.is_gradient_checkpointing
    model.train()
    assert make_room(model, 128, free(0.9 * example)) == room  # as for the next stage of the same model
    with pytest.raises(ModelError, match=r"MAX_SEQ_LEN 128 needs about .* GB .*: set MAX_SEQ_LEN to \d+ or less"):
        make_room(model, 128, free(0.2 * example))
    model.network.gradient_checkpointing_disable()


def test_checkpointing_gives_the_same_gradient(model):
    batch = collate([model.template.render("t2m", text="a person walks", codes=[1, 2, 3] * n) for n in (1, 4)], 0)
    gradients = []
    model.train()
    for checkpointing in (False, True):
        if checkpointing:
            model.network.gradient_checkpointing_enable({"use_reentrant": False})
        model(**batch)["loss"].backward()
        gradients.append({name: p.grad.clone() for name, p in model.network.named_parameters() if p.requires_grad})
        model.zero_grad()
    model.network.gradient_checkpointing_disable()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-5, atol=1e-8)
