"""code_vectors.py: codes that are used alike start with similar rows."""

import numpy as np
import pytest
import torch

from model import ModelConfig, build, start_rows
from motion_llm.network.code_vectors import as_rows, codebook_vectors, cooccurrence_vectors, joined
from motion_llm.sample.build import CODEC_PATH, NUM_CODES


def clips() -> list[list[int]]:
    """Two dances that share no code; in each, codes 1 and 2 (5 and 6) are used in the same places."""
    rng = np.random.default_rng(0)
    return [[0, int(rng.integers(1, 3)), 3] * 5 if i % 2 else [4, int(rng.integers(5, 7)), 7] * 5 for i in range(200)]


def similarity(vectors, a: int, b: int) -> float:
    return torch.cosine_similarity(vectors[a], vectors[b], dim=0).item()


def test_codes_with_the_same_neighbours_lie_together():
    vectors = cooccurrence_vectors(clips(), 10, seed=0)
    assert vectors.shape == (10, 10)
    assert similarity(vectors, 1, 2) > 0.6 and similarity(vectors, 5, 6) > 0.6
    assert similarity(vectors, 1, 5) < 0.3 and similarity(vectors, 0, 1) < 0.3


def test_vectors_have_mean_square_length_one_and_unused_codes_none():
    vectors = cooccurrence_vectors(clips(), 10, seed=0)
    assert vectors[:8].square().sum(1).mean().item() == pytest.approx(1, rel=1e-5)
    assert vectors[8:].abs().max() == 0


def test_the_same_clips_give_the_same_vectors_and_leave_torchs_random_state_alone():
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    assert torch.equal(cooccurrence_vectors(clips(), 10, 3), cooccurrence_vectors(clips(), 10, 3))
    assert torch.equal(torch.random.get_rng_state(), state)


def test_clips_of_a_single_code_give_finite_vectors():
    vectors = cooccurrence_vectors([[2], [1]], 4, seed=0)
    assert vectors.shape == (4, 4) and torch.isfinite(vectors).all()


def test_rows_keep_the_angles_and_have_the_spread_of_random_ones():
    vectors = cooccurrence_vectors(clips(), 10, seed=0)
    rows = as_rows(vectors, 64, seed=0)
    assert rows.shape == (10, 64)
    for a, b in ((1, 2), (1, 5), (0, 3)):
        assert similarity(rows, a, b) == pytest.approx(similarity(vectors, a, b), abs=1e-4)
    assert rows[:8].square().mean().item() == pytest.approx(1, rel=1e-4)
    assert 0.5 < rows[8:].square().mean().item() < 1.6  # random


def test_new_rows_lie_around_the_old_ones_mean_with_their_spread():
    weight = 3 + torch.randn(3000, 16, generator=torch.Generator().manual_seed(0)) * torch.linspace(0.1, 2, 16)
    old = weight[:1000].clone()
    start_rows(weight, range(1000, 3000), seed=0)
    assert torch.equal(weight[:1000], old)
    assert weight[1000:].mean(0).tolist() == pytest.approx(old.mean(0).tolist(), abs=0.1)
    assert (weight[1000:].std(0) / old.std(0)).tolist() == pytest.approx([1] * 16, rel=0.1)


def test_a_model_starts_its_codes_with_their_vectors_and_random_rows_without(tiny_base):
    vectors = cooccurrence_vectors(clips(), 10, seed=0)
    config = ModelConfig(tiny_base(), 128, 4, 8, "float32")
    rows = build(config, 10, [], code_vectors=vectors).answer_rows()
    centred = rows[:8] - rows[:8].mean(0)
    assert similarity(centred, 1, 2) > 0.6 > 0.3 > similarity(centred, 1, 5)
    random_rows = build(config, 10, []).answer_rows()
    assert similarity(random_rows - random_rows.mean(0), 1, 2) < 0.6


# The codec's own vectors


def test_codebook_vectors_keep_the_codecs_distances(tmp_path):
    centers = np.random.default_rng(0).normal(3, 2, (12, 5))
    np.savez(tmp_path / "codebook.npz", centers=centers, mean=np.zeros((20, 5)), names=np.array(["hip"]))
    vectors = codebook_vectors(tmp_path / "codebook.npz", 10)
    assert vectors.shape == (10, 5)
    scale = (vectors[0] - vectors[1]).norm().item() / np.linalg.norm(centers[0] - centers[1])
    assert (vectors[2] - vectors[9]).norm().item() == pytest.approx(scale * np.linalg.norm(centers[2] - centers[9]))
    np.save(tmp_path / "codebook.npy", centers[:10])
    assert torch.equal(codebook_vectors(tmp_path / "codebook.npy", 10), vectors)


def test_the_codebook_of_the_bundled_sample_is_read():
    assert len(codebook_vectors(CODEC_PATH / "codebook.npz", NUM_CODES)) == NUM_CODES


@pytest.mark.parametrize("arrays, message", [
    ({"centers": np.zeros((5, 3))}, r"holds centers \(5, 3\): expected one array of 10 rows"),
    ({"a": np.zeros((10, 3)), "b": np.zeros((10, 3))}, r"holds a \(10, 3\), b \(10, 3\)"),
    ({"a": np.full((10, 3), np.nan)}, "not finite"),
    ({"a": np.array([["x"]] * 10)}, r"holds a \(10, 1\)"),
    ({"a": np.array([[{}]] * 10)}, "it is no .npy or .npz file of numbers"),  # a pickle
])
def test_other_files_are_refused_by_name(tmp_path, arrays, message):
    np.savez(tmp_path / "book.npz", **arrays)
    with pytest.raises(ValueError, match="book.npz.*" + message):
        codebook_vectors(tmp_path / "book.npz", 10)


def test_no_file_and_no_archive_are_refused(tmp_path):
    (tmp_path / "text.npz").write_text("hello")
    for name, message in (("none.npz", "there is no such file"), ("text.npz", "it is no .npy or .npz file")):
        with pytest.raises(ValueError, match=f"{name}.*{message}"):
            codebook_vectors(tmp_path / name, 10)


def test_joined_vectors_have_equal_weights():
    first, second = torch.eye(3), torch.tensor([[1.0], [1.0], [-1.0]])
    vectors = joined(first, second)
    assert vectors.shape == (3, 4)
    assert (vectors[0] - vectors[1]).square().sum().item() == pytest.approx(1.0)
    assert (vectors[0] - vectors[2]).square().sum().item() == pytest.approx(3.0)
