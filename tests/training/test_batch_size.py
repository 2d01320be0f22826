"""How many examples an update sees where BATCH_TRAIN is None."""

from types import SimpleNamespace

import pytest

from motion_llm.training.batch_size import LEARNS_MOST, examples_of_update


def test_on_a_cpu_an_update_sees_what_learns_most():
    assert examples_of_update(clips=1_000_000, positions=70, gpus=0) == LEARNS_MOST


@pytest.mark.parametrize("clips, positions, gpus, expected", [
    (786, 70, 1, 8),  # the sample: a pass keeps a hundred updates
    (1_648, 80, 1, 16),
    (15_000, 80, 1, 96),  # 8,192 positions
    (15_000, 80, 2, 144),  # a hundred updates
    (1_000_000, 80, 2, 200),
    (1_000_000, 5_000, 1, 8)])
def test_on_a_gpu_an_update_keeps_it_busy_and_a_pass_keeps_its_updates(clips, positions, gpus, expected):
    assert examples_of_update(clips, positions, gpus) == expected


@pytest.fixture
def with_batch_size(unsloth, tmp_path, monkeypatch):
    """The batch size that train.py makes of BATCH_TRAIN None, for 16 examples an update by the rule."""
    import train

    monkeypatch.setattr(train, "row_lengths", lambda rows: None)
    monkeypatch.setattr(train, "row_motions", lambda rows: rows)
    monkeypatch.setattr(train, "_positions", lambda *args: 70)
    monkeypatch.setattr(train, "examples_of_update", lambda clips, positions, gpus: 16)

    def run(batch_size=None):
        options = train.TrainingOptions(batch_size, 1, 0.1, 0.2, 0, 0, 0, 5, None, 128)
        model = SimpleNamespace(device=SimpleNamespace(type="cpu"))
        return train._with_batch_size(options, None, model, [0, 1, 2], tmp_path).batch_size

    return run


def test_the_size_follows_the_rule_or_a_number(with_batch_size):
    assert with_batch_size() == 16 and with_batch_size(5) == 5


def test_a_stage_goes_on_with_the_batch_that_it_was_begun_with(with_batch_size, tmp_path, monkeypatch):
    (tmp_path / "checkpoint-3").mkdir()
    (tmp_path / "checkpoint-3" / "time_used.json").write_text('{"seconds": 1.0, "examples": 32}')
    assert with_batch_size() == 32
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert with_batch_size() == 16
    monkeypatch.setenv("WORLD_SIZE", "3")
    from train import TrainingError

    with pytest.raises(TrainingError, match="32 examples an update, which 3 processes cannot share"):
        with_batch_size()


@pytest.mark.parametrize("content, text", [
    ('{"seconds": 1.0, "examples": "32"}', "examples is '32', expected an integer"),
    ("[]", "a list of 0, expected an object")])
def test_a_damaged_checkpoint_is_named(with_batch_size, tmp_path, content, text):
    from train import TrainingError

    (tmp_path / "checkpoint-3").mkdir()
    assert with_batch_size() == 16  # without the file: `check_checkpoint` names what is missing
    (tmp_path / "checkpoint-3" / "time_used.json").write_text(content)
    with pytest.raises(TrainingError, match=text):
        with_batch_size()
