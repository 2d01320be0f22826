"""collators.py: collated tensors entry by entry, corruption of motions, examples drawn for a row, batches by length.

The drawer's template only returns the arguments that it is called with: transformers is not needed here.
"""

import math
from collections import Counter
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import collators
from collators import (
    Captions,
    DrawnExamples,
    EpochBatches,
    ExampleDrawer,
    collate,
    corrupt,
    length_sorted_batches,
    micro_batches,
    row_generator,
    shares_of_motions,
    with_gap,
    with_noise,
    with_noisy_history,
    with_start_alone,
)
from motion_llm.streams import MASKED, Streams
from templates import Example, MotionVocabulary

MIX = {"t2m": 0.5, "m2t": 0.3, "denoise": 0.2}
ROW = {"text_query": "a dance", "codes": [3, 1, 4, 1, 5, 9, 2, 6], "participant_id": "ana"}


@dataclass
class RecordingTemplate:
    """`render` returns its arguments."""

    vocabulary: SimpleNamespace = field(default_factory=lambda: SimpleNamespace(streams=Streams.one(10)))

    def render(self, task, **arguments):
        return {"task": task} | {name: value.tolist() if isinstance(value, np.ndarray) else value
                                 for name, value in arguments.items()}

    def length(self, task, text_tokens, motion_tokens):
        return 2 * motion_tokens if task == "denoise" else motion_tokens + text_tokens


class TokenTemplate(RecordingTemplate):
    """Its length is that of the motion and of the caption's words."""

    def length(self, task, text_tokens, motion_tokens):
        assert task == "edit"
        return motion_tokens + text_tokens

    @staticmethod
    def encode_text(text):
        return text.split()


def drawer(mix=MIX, dropout=0.25, seed=7) -> ExampleDrawer:
    return ExampleDrawer(RecordingTemplate(), mix, dropout, seed)


# Padding


def test_collated_tensors_where_the_pad_id_is_the_end_id():
    long = Example([5, 6, 7, 2], [False, False, True, True])
    short = Example([8, 2], [False, True])
    batch = collate([long, short], pad_id=2)
    assert sorted(batch) == ["attention_mask", "input_ids", "labels"]
    assert batch["input_ids"].tolist() == [[5, 6, 7, 2], [8, 2, 2, 2]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    assert batch["labels"].tolist() == [[-100, -100, 7, 2], [-100, 2, -100, -100]]
    assert {tensor.dtype for tensor in batch.values()} == {torch.long}


def test_a_pad_id_inside_an_example_is_attended_to():
    batch = collate([Example([0, 5, 0, 6], [False, True, True, True]), Example([9], [False])], pad_id=0)
    assert batch["input_ids"].tolist() == [[0, 5, 0, 6], [9, 0, 0, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 0, 0, 0]]
    assert batch["labels"].tolist() == [[-100, 5, 0, 6], [-100] * 4]


# Corruption


SEEDS = range(0, 300)
MANY_CODES = Streams.one(10**6)  # so many that a random code never equals the one it replaces


@pytest.mark.parametrize("length", [1, 2, 3, 7, 20, 100])
def test_a_share_of_15_to_60_per_cent_is_lost_and_at_least_one_code(length):
    codes = np.arange(length)
    lost = [int((with_noise(codes, np.random.default_rng(seed), MANY_CODES) != codes).sum()) for seed in SEEDS]
    assert min(lost) >= max(1, round(0.15 * length)) and max(lost) <= max(1, round(0.6 * length))
    if length == 100:  # all of the range is drawn
        assert min(lost) < 18 and max(lost) > 57


def test_half_of_the_lost_codes_lie_in_one_span():
    for seed in SEEDS:
        lost = with_noise(np.arange(60), np.random.default_rng(seed), MANY_CODES) != np.arange(60)
        longest = max(len(run) for run in "".join("01"[value] for value in lost.astype(int)).split("0"))
        assert longest >= lost.sum() // 2


@pytest.mark.parametrize("codebook_size", [1, 2, 10])
def test_a_corrupted_motion_holds_codes_of_the_codebook_and_masks_alone(codebook_size):
    for seed in SEEDS:
        noisy = with_noise(np.zeros(12, dtype=np.int32), np.random.default_rng(seed), Streams.one(codebook_size))
        assert noisy.shape == (12,) and set(noisy.tolist()) <= {MASKED, *range(codebook_size)}


def test_of_the_lost_codes_four_in_five_are_masked_and_the_others_replaced():
    masked = replaced = 0
    for seed in SEEDS:
        noisy = with_noise(np.arange(50), np.random.default_rng(seed), MANY_CODES)
        masked += int((noisy == MASKED).sum())
        replaced += int(((noisy != np.arange(50)) & (noisy != MASKED)).sum())
    assert replaced > 0 and masked / (masked + replaced) == pytest.approx(0.8, abs=0.02)


def runs(noisy: np.ndarray) -> list[tuple[int, int]]:
    """(start, stop) of each run of masked codes."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], noisy == MASKED, [0]])))
    return [(int(start), int(stop)) for start, stop in edges.reshape(-1, 2)]


@pytest.mark.parametrize("length", [3, 4, 7, 60])
def test_a_gap_is_one_run_with_codes_on_either_side(length):
    codes, gaps = np.arange(length), []
    for seed in SEEDS:
        noisy = with_gap(codes, np.random.default_rng(seed))
        (start, stop), = runs(noisy)
        assert 1 <= start < stop <= length - 1
        assert (noisy == np.where(noisy == MASKED, MASKED, codes)).all()
        gaps.append((start, stop - start))
    if length == 60:  # anywhere, and of 20 to 80 %
        assert min(start for start, _ in gaps) == 1 and max(start for start, _ in gaps) > 40
        assert 12 <= min(count for _, count in gaps) < 15 and 45 < max(count for _, count in gaps) <= 48


@pytest.mark.parametrize("length", [3, 4, 60])
def test_after_a_start_alone_all_codes_are_masked(length):
    codes, starts = np.arange(length), []
    for seed in SEEDS:
        noisy = with_start_alone(codes, np.random.default_rng(seed))
        (start, stop), = runs(noisy)
        assert 1 <= start and stop == length and (noisy[:start] == codes[:start]).all()
        starts.append(start)
    if length == 60:
        assert min(starts) < 10 and max(starts) == 48


def test_half_of_the_corruptions_are_noise_and_a_quarter_each_a_gap_and_a_start():
    kinds = {"noise": 0, "gap": 0, "start": 0}
    for seed in range(2000):
        noisy = corrupt(np.arange(40), np.random.default_rng(seed), MANY_CODES)
        spans = runs(noisy)
        is_span = len(spans) == 1 and (noisy == np.where(noisy == MASKED, MASKED, np.arange(40))).all()
        kinds["start" if is_span and spans[0][1] == 40 else "gap" if is_span else "noise"] += 1
    assert kinds["noise"] == pytest.approx(1000, abs=90) and kinds["gap"] == pytest.approx(500, abs=80)


@pytest.mark.parametrize("length", [1, 2])
def test_a_motion_too_short_for_a_gap_still_loses_a_code(length):
    for seed in SEEDS:
        noisy = corrupt(np.arange(length), np.random.default_rng(seed), MANY_CODES)
        assert 1 <= int((noisy != np.arange(length)).sum()) <= length


def test_corruption_comes_from_the_generator_alone_and_spares_its_input():
    codes = np.arange(30, dtype=np.int32)
    first, same, different = (corrupt(codes, np.random.default_rng(seed), Streams.one(100)).tolist()
                              for seed in (1, 1, 2))
    assert first == same != different
    assert codes.tolist() == list(range(30))


# Examples of a row in an epoch


def drawn(draw: ExampleDrawer, epoch: int, count: int) -> list[dict]:
    """The examples of `count` rows in an epoch, all of the row ROW."""
    return [draw(task, epoch, index, ROW) for index, task in enumerate(draw.tasks(epoch, count))]


def test_a_row_is_drawn_from_seed_epoch_and_index_alone():
    examples = DrawnExamples([ROW] * 40, drawer())
    keys = [(task, epoch, i) for epoch in range(3) for i, task in enumerate(drawer().tasks(epoch, 40))]
    forward = {key: examples[key] for key in keys}
    backward = {key: examples[key] for key in reversed(keys)}
    assert forward == backward  # the order of drawing, and so a resumed run, changes nothing
    by_epoch = [drawn(drawer(), epoch, 40) for epoch in range(3)]
    assert list(forward.values()) == sum(by_epoch, [])
    assert by_epoch[0] != by_epoch[1] != by_epoch[2] != by_epoch[0]
    assert by_epoch[0] != drawn(drawer(seed=8), 0, 40)
    assert len({str(example) for example in by_epoch[0]}) > 3  # not all rows get the same example


def test_seed_epoch_and_index_are_not_interchangeable():
    numbers = {(s, e, i): row_generator(s, e, i).random() for s in range(3) for e in range(3) for i in range(3)}
    assert len(set(numbers.values())) == 27


def test_noise_differs_between_epochs():
    draw = drawer({"denoise": 1.0})
    assert draw("denoise", 0, 0, ROW)["noisy"] != draw("denoise", 1, 0, ROW)["noisy"]


def test_tasks_come_in_the_shares_of_the_mix():
    counts = Counter(drawer().tasks(0, 4000).tolist())
    assert {task: counts[task] / 4000 for task in counts} == pytest.approx(MIX, abs=0.03)


def test_a_task_of_share_zero_is_never_drawn():
    assert set(drawer({"t2m": 0.0, "lm": 1.0, "m2t": 0.0}).tasks(0, 200)) == {"lm"}


def test_the_template_gets_the_values_of_the_row():
    examples = {example["task"]: example for example in drawn(drawer(dropout=0.0), 0, 60)}
    assert set(examples) == set(MIX)
    for task, example in examples.items():
        text = None if task == "denoise" else "a dance"  # see edit_captions
        assert (example["text"], example["codes"], example["participant_id"]) == (text, ROW["codes"], "ana")
        assert (example["noisy"] is None) == (task != "denoise")
    noisy = examples["denoise"]["noisy"]
    assert noisy != ROW["codes"] and len(noisy) == 8 and set(noisy) <= {MASKED, *range(10)}


@pytest.mark.parametrize("dropout, low, high", [(0.0, 0.0, 0.0), (0.25, 0.22, 0.28), (1.0, 1.0, 1.0)])
def test_the_participant_is_dropped_in_its_share(dropout, low, high):
    participants = [example["participant_id"] for example in drawn(drawer(dropout=dropout), 0, 2000)]
    assert set(participants) <= {"ana", None} and low <= participants.count(None) / 2000 <= high


def test_the_share_of_dropped_participants_is_that_of_every_task():
    dropped = Counter((example["task"], example["participant_id"]) for example in drawn(drawer(dropout=0.5), 0, 3000))
    for task in MIX:
        assert dropped[task, None] / (dropped[task, None] + dropped[task, "ana"]) == pytest.approx(0.5, abs=0.07)


def test_a_row_without_a_participant_stays_without():
    row = ROW | {"participant_id": None}
    assert {drawer(dropout=0.0)("t2m", 0, i, row)["participant_id"] for i in range(20)} == {None}


# Batches by length


def padding(lengths, batches) -> int:
    return sum(max(lengths[i] for i in batch) - lengths[j] for batch in batches for j in batch)


def some_lengths(n: int) -> list[int]:
    return np.random.default_rng(n).integers(10, 200, size=n).tolist()


@pytest.mark.parametrize("n, batch_size", [(1, 1), (7, 8), (8, 8), (9, 8), (100, 1), (500, 8), (1000, 3), (0, 4)])
def test_every_row_is_in_exactly_one_of_as_few_batches_as_can_be(n, batch_size):
    batches = length_sorted_batches(some_lengths(n), batch_size, np.random.default_rng(0), pool=4)
    assert sorted(i for batch in batches for i in batch) == list(range(n))
    assert len(batches) == math.ceil(n / batch_size)
    small = [len(batch) for batch in batches if len(batch) != batch_size]
    assert small == ([n % batch_size] if n % batch_size else [])


def test_rows_of_like_length_share_a_batch():
    batches = length_sorted_batches([30, 1, 20, 2, 40, 3], 2, np.random.default_rng(0))
    assert sorted(sorted(batch) for batch in batches) == [[0, 4], [1, 3], [2, 5]]


def test_batches_by_length_have_a_fraction_of_the_padding_of_random_ones():
    lengths = some_lengths(512)
    order = np.random.default_rng(0).permutation(512).tolist()
    random_batches = [order[i:i + 8] for i in range(0, 512, 8)]
    assert padding(lengths, length_sorted_batches(lengths, 8, np.random.default_rng(0))) < (
        0.15 * padding(lengths, random_batches))


def test_batches_come_from_the_generator_and_not_in_the_order_of_their_lengths():
    lengths = some_lengths(200)
    first, same, different = (length_sorted_batches(lengths, 8, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert first == same != different
    longest = [max(lengths[i] for i in batch) for batch in first]
    assert longest != sorted(longest)
    # Sorting is inside pools only: the same rows do not meet in every epoch.
    assert {frozenset(b) for b in length_sorted_batches(lengths, 8, np.random.default_rng(1), pool=4)} != {
        frozenset(b) for b in length_sorted_batches(lengths, 8, np.random.default_rng(2), pool=4)}


def test_one_small_batch_too_few_for_all_processes_joins_another():
    batches = length_sorted_batches([5] * 9, 4, np.random.default_rng(0), least=2)
    assert sorted(map(len, batches)) == [4, 5]
    assert sorted(sum(batches, [])) == list(range(9))


@pytest.mark.parametrize("rows", [8, 9, 11, 12, 3])
def test_processes_share_the_batches_that_one_process_would_have(rows):
    lengths = some_lengths(rows), [5] * rows
    single = EpochBatches(*lengths, drawer(), 4)
    shared = [EpochBatches(*lengths, drawer(), 2, processes=2, process=process) for process in (0, 1)]
    for epoch in (0, 1):
        for batches in (single, *shared):
            batches.set_epoch(epoch)
        whole, first, second = list(single), list(shared[0]), list(shared[1])
        assert len(first) == len(second) == len(shared[0])
        if rows != 9:  # with 9 rows, the last batch of one row could not be shared
            assert [sorted(a + b) for a, b in zip(first, second, strict=True)] == [sorted(batch) for batch in whole]
        assert sorted(sum(first + second, [])) == sorted(sum(whole, []))
        assert all(first) and all(second)


def test_fewer_rows_than_processes_are_refused():
    with pytest.raises(ValueError, match="1 training clips for 2 processes"):
        EpochBatches([4], [5], drawer(), 2, processes=2)


def test_a_pass_shows_each_motion_once_and_in_turn_under_each_of_its_captions():
    motions = [0, 1, 0, 2, 0, 2, 3]  # three captions, one, two, one
    batches = EpochBatches([5] * 7, [5] * 7, drawer(), 2, motions=motions)
    passes = []
    for epoch in range(6):
        batches.set_epoch(epoch)
        passes.append(sorted(row for batch in batches for _, _, row in batch))
        assert sorted(motions[row] for row in passes[-1]) == [0, 1, 2, 3] and len(batches) == len(list(batches)) == 2
    for rows in ({0, 2, 4}, {1}, {3, 5}, {6}):
        shown = [row for one in passes for row in one if row in rows]
        assert {shown.count(row) for row in rows} == {6 // len(rows)}
        assert set(shown[:len(rows)]) == rows  # before any of them comes again


def test_motions_do_not_all_begin_with_their_first_caption():
    motions = np.repeat(np.arange(200), 3)
    rows, _ = Captions(motions, 0).rows(0)
    assert np.bincount(rows % 3).min() > 40 and (Captions(motions, 1).rows(0)[0] != rows).any()


def test_the_clips_of_a_caption_are_shown_by_the_root_of_their_number():
    captions = [0] * 100 + [1] * 25 + [2] * 4 + [3]  # a clip each
    of_caption = np.bincount(captions, shares_of_motions(range(130), captions))
    np.testing.assert_allclose(of_caption / of_caption[3], [10, 5, 2, 1])
    assert of_caption.sum() == pytest.approx(130)


def test_without_common_captions_every_motion_is_shown_once_in_a_pass():
    np.testing.assert_allclose(shares_of_motions([0, 1, 2, 0, 3], [0, 1, 2, 3, 4]), np.ones(4))


def test_a_motion_of_several_captions_is_shown_as_often_as_these_ask_in_the_mean():
    motions, captions = [0, 0, 1, 2, 3], [0, 1, 0, 0, 0]  # caption 0 has four clips, of which one has caption 1 too
    shares = shares_of_motions(motions, captions)
    np.testing.assert_allclose(shares / shares[1], [(0.5 + 1) / 2 / 0.5, 1, 1, 1])


def test_passes_keep_to_the_shares_of_motions_and_to_their_own_size():
    shares = np.array([2.5] * 20 + [0.4] * 50)  # 70 in all
    captions = Captions(range(70), 0, shares)
    shown = np.array([captions.showings(epoch) for epoch in range(50)])
    assert (shown.sum(1) == 70).all() and set(np.unique(shown[:, :20])) == {2, 3}
    for passes in (3, 10, 50):
        assert np.abs(shown[:passes].sum(0) - passes * shares).max() < 2


def test_a_clip_that_comes_again_is_another_example():
    """Its caption is the next one, and nothing drawn for it is drawn again: noise, participant, an empty caption."""
    motions, shares = [0, 0, 0, 1, 2, 3], np.array([2.5, 0.5, 0.5, 0.5])
    batches = EpochBatches([5] * 6, [5] * 6, drawer(), 2, motions=motions, shares=shares)
    shown = []
    for epoch in range(12):
        batches.set_epoch(epoch)
        shown.append(sorted((showing, row) for batch in batches for _, showing, row in batch))
        assert len(shown[-1]) == 4
    for motion, rows in enumerate(({0, 1, 2}, {3}, {4}, {5})):
        keys = [key for one in shown for key in one if key[1] in rows]
        assert [showing for showing, _ in keys] == list(range(len(keys)))
        assert abs(len(keys) - 12 * shares[motion]) < 2
        assert {row for _, row in keys[:len(rows)]} == rows
    batches.set_epoch(7)
    assert sorted((showing, row) for batch in batches for _, showing, row in batch) == shown[7]  # as when resumed


def test_rows_share_a_batch_by_what_their_task_makes_of_motion_and_caption():
    motion, text = np.array([10, 20, 30, 40] * 50), np.array([60, 1, 20, 5] * 50)
    batches = EpochBatches(motion, text, drawer({"t2m": 0.5, "denoise": 0.5}), 8)
    lengths = [[2 * motion[i] if task == "denoise" else motion[i] + text[i] for task, _, i in batch]
               for batch in batches]
    assert len({length for batch in lengths for length in batch}) == 8
    assert sum(len(set(batch)) > 1 for batch in lengths) <= 7  # at most one batch between two neighbouring lengths


def test_micro_batches_hold_every_example_once_and_keep_to_the_bound():
    lengths = [3, 9, 4, 2, 9, 1]
    ids = torch.zeros(6, 9, dtype=torch.long)
    for i, n in enumerate(lengths):
        ids[i, :n] = i + 1
    batch = {"input_ids": ids, "attention_mask": (ids > 0).long(), "labels": ids}
    parts = micro_batches(batch, 10)
    assert [tuple(part["input_ids"].shape) for part in parts] == [(1, 9), (1, 9), (2, 4), (2, 2)]
    for part in parts:
        assert torch.equal(part["attention_mask"], (part["input_ids"] > 0).long())
    rows = sorted(row[row > 0].tolist() for part in parts for row in part["input_ids"])
    assert rows == sorted([i + 1] * n for i, n in enumerate(lengths))


def test_micro_batches_are_about_equally_large():
    ids = torch.ones(8, 9, dtype=torch.long)
    parts = micro_batches({"input_ids": ids, "attention_mask": ids}, 70)
    assert [tuple(part["input_ids"].shape) for part in parts] == [(4, 9), (4, 9)]  # not 7 and 1


def test_an_example_longer_than_the_bound_is_a_part_by_itself():
    ids = torch.ones(2, 9, dtype=torch.long)
    parts = micro_batches({"input_ids": ids, "attention_mask": ids}, 4)
    assert [tuple(part["input_ids"].shape) for part in parts] == [(1, 9), (1, 9)]


# History noise


def motion_example(length: int = 400) -> Example:
    """Prompt ids 1 and 2, codes 100 to 109 in turn, the end 110."""
    codes = [100 + i % 10 for i in range(length)]
    return Example([1, 2, *codes, 110], [False] * 2 + [True] * (length + 1))


VOCABULARY = MotionVocabulary(100, 10)


def test_noise_changes_the_input_and_not_the_labels():
    example = motion_example()
    noisy = with_noisy_history(example, np.random.default_rng(0), 0.5, VOCABULARY)
    assert (noisy.ids, noisy.loss_mask) == (example.ids, example.loss_mask)
    assert noisy.shown[:2] == [1, 2] and noisy.shown[-1] == 110  # the prompt and the end stay
    assert set(noisy.shown[2:-1]) <= set(range(100, 110))
    changed = sum(a != b for a, b in zip(noisy.shown, noisy.ids, strict=True)) / 400
    assert 0.37 < changed < 0.53  # half are replaced, a tenth of those by the same code
    batch = collate([noisy], pad_id=0)
    assert batch["input_ids"][0].tolist() == noisy.shown
    assert batch["labels"][0, 2:].tolist() == example.ids[2:]


def test_without_noise_the_input_is_the_ids():
    example = motion_example(9)
    assert with_noisy_history(example, np.random.default_rng(0), 0.0, VOCABULARY).shown == example.ids


def test_noise_is_drawn_for_motion_and_text_to_motion_alone(monkeypatch):
    rates = []
    monkeypatch.setattr(collators, "with_noisy_history", lambda example, rng, rate, vocabulary: rates.append(rate))
    draw = ExampleDrawer(RecordingTemplate(), MIX, 0.0, 7, history_noise=lambda: 0.2)
    for index in range(200):
        for task in ("m2t", "denoise"):
            draw(task, 0, index, ROW)
    assert rates == []
    for index in range(200):
        for task in ("lm", "t2m"):
            draw(task, 0, index, ROW)
    assert len(rates) == 400 and min(rates) >= 0 and max(rates) <= 0.4
    assert sum(rates) / 400 == pytest.approx(0.2, abs=0.02)


def test_captions_are_left_out_of_their_share_of_text_to_motion_alone():
    def texts(share: float, task: str = "t2m") -> list[str]:
        draw = ExampleDrawer(RecordingTemplate(), MIX, 0.5, 7, caption_dropout=share)
        return [draw(task, 0, i, ROW)["text"] for i in range(400)]

    assert set(texts(0.0)) == {"a dance"} and set(texts(1.0)) == {""} and set(texts(1.0, "m2t")) == {"a dance"}
    assert 0.05 < texts(0.1).count("") / 400 < 0.16


def test_captions_are_shown_in_their_share_of_denoising_where_they_fit():
    def texts(share: float, positions: int | None = None) -> list[str | None]:
        draw = ExampleDrawer(TokenTemplate(), MIX, 0.5, 7, edit_captions=share, positions=positions)
        return [draw("denoise", 0, i, ROW)["text"] for i in range(400)]

    assert set(texts(0.0)) == {None} and set(texts(1.0)) == {"a dance"}
    assert 0.4 < texts(0.5).count("a dance") / 400 < 0.6
    length = len(ROW["codes"]) + 2  # as TokenTemplate counts
    assert set(texts(1.0, length)) == {"a dance"} and set(texts(1.0, length - 1)) == {None}


def test_without_caption_dropout_all_else_is_drawn_as_before():
    with_setting, without = (ExampleDrawer(RecordingTemplate(), MIX, 0.5, 7, **settings) for settings in (
        {"caption_dropout": 0.0}, {}))
    assert [with_setting("denoise", 1, i, ROW) for i in range(20)] == [without("denoise", 1, i, ROW) for i in range(20)]
