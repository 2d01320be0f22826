"""code_vectors.py: codes that are used alike start alike."""

import numpy as np
import pytest
import torch

from code_vectors import as_rows, cooccurrence_vectors


def clips() -> list[list[int]]:
    """Two dances that share no code; in each, codes 1 and 2 (5 and 6) are used in the same places."""
    rng = np.random.default_rng(0)
    return [[0, int(rng.integers(1, 3)), 3] * 5 if i % 2 else [4, int(rng.integers(5, 7)), 7] * 5 for i in range(200)]


def likeness(vectors, a: int, b: int) -> float:
    return torch.cosine_similarity(vectors[a], vectors[b], dim=0).item()


def test_codes_with_the_same_neighbours_lie_together():
    vectors = cooccurrence_vectors(clips(), 10, seed=0)
    assert vectors.shape == (10, 10)
    assert likeness(vectors, 1, 2) > 0.6 and likeness(vectors, 5, 6) > 0.6
    assert likeness(vectors, 1, 5) < 0.3 and likeness(vectors, 0, 1) < 0.3


def test_vectors_have_mean_square_length_one_and_unused_codes_none():
    vectors = cooccurrence_vectors(clips(), 10, seed=0)
    assert vectors[:8].square().sum(1).mean().item() == pytest.approx(1, rel=1e-5)
    assert vectors[8:].abs().max() == 0


def test_the_same_clips_give_the_same_vectors_and_draw_from_no_one():
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    assert torch.equal(cooccurrence_vectors(clips(), 10, 3), cooccurrence_vectors(clips(), 10, 3))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_clips_of_one_code_are_no_trouble():
    vectors = cooccurrence_vectors([[2], [1]], 4, seed=0)
    assert vectors.shape == (4, 4) and torch.isfinite(vectors).all()


def test_rows_keep_the_angles_and_have_the_spread_of_drawn_ones():
    vectors = cooccurrence_vectors(clips(), 10, seed=0)
    rows = as_rows(vectors, 64, seed=0)
    assert rows.shape == (10, 64)
    for a, b in ((1, 2), (1, 5), (0, 3)):
        assert likeness(rows, a, b) == pytest.approx(likeness(vectors, a, b), abs=1e-4)
    assert rows[:8].square().mean().item() == pytest.approx(1, rel=1e-4)
    assert 0.5 < rows[8:].square().mean().item() < 1.6  # drawn


def test_a_model_starts_its_codes_so_and_its_other_rows_anywhere(tiny_base):
    from model import ModelConfig, build

    vectors = cooccurrence_vectors(clips(), 10, seed=0)
    config = ModelConfig(tiny_base(), 128, 4, 8, "float32")
    rows = build(config, 10, [], code_vectors=vectors).answer_rows()
    middle = rows[:8].mean(0)
    assert likeness(rows[:8] - middle, 1, 2) > 0.6 > 0.3 > likeness(rows[:8] - middle, 1, 5)
    drawn = build(config, 10, []).answer_rows()
    assert likeness(drawn - drawn.mean(0), 1, 2) < 0.6
