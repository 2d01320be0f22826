"""baselines.py: which training clips the baselines are drawn from."""

import numpy as np
import pytest

from motion_llm.dataset.rows import Columns, Row


def chunks_of(captions: list[str]) -> list[Columns]:
    rows = [Row(i, text, np.array([i % 5, i // 5], np.int32)) for i, text in enumerate(captions)]
    return [Columns.of(rows[i:i + 40]) for i in range(0, len(rows), 40)]


@pytest.fixture
def clips_of(unsloth):
    from motion_llm.training.baselines import TrainingClips  # imports transformers, which must follow Unsloth's start

    return TrainingClips


def test_a_small_dataset_is_kept_whole(clips_of):
    clips = clips_of(chunks_of(["Walks.", "walks", "turns"] * 30))
    assert clips.clips == [[i % 5, i // 5] for i in range(90)]
    assert len(clips.by_caption["walks"]) == 60 and list(clips.by_caption) == ["walks", "turns"]
    assert clips.nearest_caption("walk") == "walks"


def test_of_a_large_dataset_a_sample_and_all_clips_of_the_named_captions_are_kept(clips_of, monkeypatch):
    from motion_llm.training import baselines  # see clips_of

    monkeypatch.setattr(baselines, "MOST_CLIPS", 100)
    chunks = chunks_of([f"caption {i % 300}" for i in range(2000)])
    clips = clips_of(chunks, {"caption 7"}, seed=1)
    assert 70 < len(clips.clips) < 130 and len(clips.by_caption) < 130
    assert len(clips.by_caption["caption 7"]) == 7  # of rows 7, 307, ... 1807
    assert clips.clips == clips_of(chunks, {"caption 7"}, seed=1).clips != clips_of(chunks, {"caption 7"}, seed=2).clips
