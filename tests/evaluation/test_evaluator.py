"""evaluator.py: it learns which clips fit which captions, knows order, is deterministic, saves and loads."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from motion_llm.evaluation.embedding_metrics import chance, r_precision
from motion_llm.evaluation.evaluator import (
    INFO,
    WEIGHTS,
    Evaluator,
    EvaluatorConfig,
    _loss,
    _Ranks,
    text_features,
    train_evaluator,
)
from motion_llm.network.folder import ModelError

ACTIONS = ("walks", "jumps", "waves", "turns", "bows", "kicks")
CRC = (817584971, 3085232005, 443534397, 3371795465, 3849156598, 1786229510)
SMALL = EvaluatorConfig(codebook_size=32, dimensions=16, width=32, batch=32, steps=300, checks=6)


def sample_clips(count: int, seed: int) -> tuple[list[list[int]], list[str]]:
    """Clips of two actions in a row, each action a pair of codes repeated, with some noise."""
    rng = np.random.default_rng(seed)
    clips, captions = [], []
    for _ in range(count):
        first, second = rng.choice(6, 2, replace=False)
        codes = [2 * first, 2 * first + 1] * rng.integers(2, 5) + [2 * second, 2 * second + 1] * rng.integers(2, 5)
        clips.append([int(code) if rng.random() > 0.1 else int(rng.integers(32)) for code in codes])
        captions.append(f"a person {ACTIONS[first]} then {ACTIONS[second]}")
    return clips, captions


@pytest.fixture(scope="module")
def trained() -> Evaluator:
    return train_evaluator(*sample_clips(400, 0), *sample_clips(60, 1), SMALL)


def precision(evaluator: Evaluator, clips, captions) -> np.ndarray:
    texts = sorted(set(captions))
    caption_index = np.array([texts.index(text) for text in captions])
    return r_precision(evaluator.embed_motions(clips), evaluator.embed_captions(texts), caption_index,
                       np.random.default_rng(0))


def test_it_retrieves_clips_it_never_saw_and_shuffled_ones_by_chance(trained):
    clips, captions = sample_clips(400, 2)
    assert len(set(captions)) == 30  # both orders of every pair, so what is told apart includes the order
    assert precision(trained, clips, captions)[0] > 0.8
    shuffled = np.random.default_rng(0).permutation(captions).tolist()
    assert precision(trained, clips, shuffled) == pytest.approx(chance(30), abs=0.05)


def test_order_matters(trained):
    clip, texts = [0, 1] * 4 + [4, 5] * 4, ["a person walks then waves", "a person waves then walks"]
    first, second = trained.embed_motions([clip, clip[8:] + clip[:8]]) @ trained.embed_captions(texts).T
    assert first[0] > first[1] + 0.1 and second[1] > second[0] + 0.1


def test_embeddings_are_of_unit_length_and_a_clips_own_whatever_stands_beside_it(trained):
    clips = [[1, 2, 3], [5] * 40, [7]]
    together = trained.embed_motions(clips)
    alone = np.concatenate([trained.embed_motions([clip]) for clip in clips])
    assert together == pytest.approx(alone, abs=1e-5)
    assert np.linalg.norm(together, axis=1) == pytest.approx([1, 1, 1], abs=1e-5)
    texts = ["walks", "a person walks then bows slowly"]
    both = trained.embed_captions(texts)
    assert both == pytest.approx(np.concatenate([trained.embed_captions([text]) for text in texts]), abs=1e-5)
    assert trained.embed_captions(["Walks ."]) == pytest.approx(both[:1], abs=1e-6)


def test_what_is_no_code_or_no_clip_is_unknown_but_embedded(trained):
    embeddings = trained.embed_motions([[], [32], [-5], [10**9], np.array([40], np.int32)])
    assert np.isfinite(embeddings).all() and (embeddings == embeddings[0]).all()
    assert trained.embed_motions([]).shape == (0, 16) == trained.embed_captions([]).shape


def test_captions_of_one_key_are_the_same_right_answer():
    """Two clips of one caption in a batch: neither counts as wrong for the caption, and each is half of the target."""
    evaluator = Evaluator(EvaluatorConfig(codebook_size=8, dimensions=4, width=8, buckets=64, lost=0.0))
    evaluator.motion.eval()
    evaluator.text.eval()
    clips, parts = [[1, 2], [2, 1], [5]], evaluator._parts(["walks", "bows"])
    loss = _loss(evaluator, clips, torch.tensor([0, 0, 1]), parts).item()
    scores = evaluator.embed_motions(clips) @ evaluator.embed_captions(["walks", "bows"]).T / 0.1
    by_clip = scores - np.log(np.exp(scores).sum(1, keepdims=True))
    by_caption = scores - np.log(np.exp(scores).sum(0))
    from_clips = -(by_clip[0, 0] + by_clip[1, 0] + by_clip[2, 1]) / 3
    from_captions = -((by_caption[0, 0] + by_caption[1, 0]) / 2 + by_caption[2, 1]) / 2
    assert loss == pytest.approx((from_clips + from_captions) / 2, rel=1e-4)


def test_the_same_seed_gives_the_same_evaluator_and_leaves_the_callers_random_state():
    few = EvaluatorConfig(codebook_size=32, dimensions=8, width=16, batch=16, steps=6, checks=2)
    data = *sample_clips(40, 0), *sample_clips(10, 1)
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first = train_evaluator(*data, few)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(6)
    again = train_evaluator(*data, few)
    other_seed = train_evaluator(*data, EvaluatorConfig(**{**few.__dict__, "seed": 1}))
    clips = sample_clips(10, 3)[0]
    assert (first.embed_motions(clips) == again.embed_motions(clips)).all() and first.history == again.history
    assert (first.embed_motions(clips) != other_seed.embed_motions(clips)).any()


def test_it_keeps_what_retrieved_held_out_clips_best_and_stops_when_nothing_gets_better():
    clips, captions = sample_clips(60, 0)
    held, held_captions = sample_clips(40, 1)
    wrong = held_captions[20:] + held_captions[:20]  # nothing can be learned about these
    config = EvaluatorConfig(codebook_size=32, dimensions=16, width=32, batch=32, steps=400, checks=40, patience=3)
    evaluator = train_evaluator(clips, captions, held, wrong, config)
    ranks = [check["reciprocal_rank"] for check in evaluator.history]
    assert len(ranks) < 40 and ranks.index(max(ranks)) == len(ranks) - 4
    assert _Ranks(held, wrong, captions, np.random.default_rng(0))(evaluator) == pytest.approx(max(ranks), abs=1e-6)


def test_it_is_kept_and_loaded_whole(trained, tmp_path):
    trained.facts = {"trained_on": "abc"}
    trained.save(tmp_path / "run" / "evaluator")
    again = Evaluator.load(tmp_path / "run" / "evaluator")
    clips, captions = sample_clips(20, 4)
    assert (again.embed_motions(clips) == trained.embed_motions(clips)).all()
    assert (again.embed_captions(captions) == trained.embed_captions(captions)).all()
    assert (again.facts, again.history, again.config) == ({"trained_on": "abc"}, trained.history, SMALL)


def test_a_damaged_or_older_one_is_refused_by_name(trained, tmp_path):
    with pytest.raises(ModelError, match=f"{tmp_path} has no {INFO}"):
        Evaluator.load(tmp_path)
    trained.save(tmp_path)
    content = json.loads((tmp_path / INFO).read_text())
    (tmp_path / INFO).write_text(json.dumps(content | {"version": 0}))
    with pytest.raises(ModelError, match="is of version 0, expected 2"):
        Evaluator.load(tmp_path)
    (tmp_path / INFO).write_text(json.dumps(content | {"config": content["config"] | {"width": 16}}))
    with pytest.raises(ModelError, match=f"{WEIGHTS}: motion.codes.weight is .* expected"):
        Evaluator.load(tmp_path)
    (tmp_path / WEIGHTS).write_bytes(b"broken")
    with pytest.raises(ModelError, match=WEIGHTS):
        Evaluator.load(tmp_path)


def test_parts_of_captions_are_the_same_on_every_machine_and_know_the_order():
    assert text_features("Walks", 4096) == text_features(" walks.", 4096)
    words, pairs, letters = text_features("left right", 4096)
    words_back, pairs_back, letters_back = text_features("right left", 4096)
    assert set(words) == set(words_back) and set(letters) == set(letters_back) and set(pairs) != set(pairs_back)
    assert len(set(text_features("walk", 4096)[2]) & set(text_features("walking", 4096)[2])) >= 3  # <wa, wal, alk
    # zlib.crc32 of "w ab"; of "p ^ ab" and "p ab $"; of "l <ab", "l ab>" and "l <ab>"
    assert text_features("ab", 4096) == ([1 + CRC[0] % 4095], [1 + n % 4095 for n in CRC[1:3]],
                                         [1 + n % 4095 for n in CRC[3:]])


@pytest.mark.parametrize("change, message", [
    (dict(captions=["walks"] * 4), "4 clips with 1 different captions of 4"),
    (dict(captions=["walks", "bows"]), "4 clips with 2 different captions of 2"),
    (dict(held_clips=[], held_captions=[]), "0 held-out clips"),
    (dict(held_captions=["walks"] * 2), "1 held-out clips with 2 captions"),
])
def test_what_cannot_be_learned_from_is_refused(change, message):
    arguments = dict(clips=[[1]] * 4, captions=["walks", "bows"] * 2, held_clips=[[1]], held_captions=["walks"])
    with pytest.raises(ValueError, match=message):
        train_evaluator(**arguments | change, config=SMALL)


def test_a_clip_with_several_captions_comes_once_a_pass_under_each_in_turn():
    from motion_llm.evaluation.evaluator import _batches, _clips_of

    groups = _clips_of(np.arange(6), [[1], [2], [1], [3], [1], [2]])
    assert groups == [[0, 2, 4], [1, 5], [3]]
    config = replace(SMALL, batch=3, steps=6)
    passes = list(_batches(groups, config, np.random.default_rng(0)))
    assert all(sorted({0: 0, 2: 0, 4: 0, 1: 1, 5: 1, 3: 3}[place] for place in batch) == [0, 1, 3] for batch in passes)
    for members in groups:
        turns = [next(place for place in batch if place in members) for batch in passes]
        assert set(turns[:len(members)]) == set(members)


# Several streams


def test_an_evaluator_of_streams_reads_whole_steps_and_keeps_their_number(tmp_path):
    config = EvaluatorConfig(codebook_size=12, dimensions=4, width=8, buckets=64, in_step=2)
    evaluator = Evaluator(config)
    codes, lengths = evaluator._batch([[0, 8, 1, 9], [3, -2], []])
    assert codes.tolist() == [[[0, 8], [1, 9]], [[3, 12], [13, 13]], [[12, 12], [13, 13]]]  # 12 unknown, 13 none
    assert lengths.tolist() == [2, 1, 1]
    (whole, other, absent) = evaluator.embed_motions([[0, 8, 1, 9], [0, 9, 1, 8], [0, -2, 1, -2]])
    assert np.abs(whole - other).max() > 1e-4 < np.abs(whole - absent).max()  # each code in its step
    evaluator.history = [{"step": 1, "loss": 1.0, "reciprocal_rank": 0.5}]
    evaluator.save(tmp_path / "saved")
    assert Evaluator.load(tmp_path / "saved").config == config
    assert EvaluatorConfig(12, in_step=2).to_dict()["in_step"] == 2 and "in_step" not in EvaluatorConfig(12).to_dict()
