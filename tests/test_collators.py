"""collators.py: collated tensors entry by entry, how motions are corrupted, what is drawn for a row, batches by length.

The drawer is given a template that only notes what it is asked for: transformers is not needed here.
"""

import math
from collections import Counter
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from collators import ExampleDrawer, collate, corrupt, draw_task, length_sorted_batches, row_generator
from templates import MASKED, Example

MIX = {"t2m": 0.5, "m2t": 0.3, "denoise": 0.2}
ROW = {"text_query": "a dance", "codes": [3, 1, 4, 1, 5, 9, 2, 6], "participant_id": "ana"}


@dataclass
class NotingTemplate:
    """Renders to the arguments themselves."""

    vocabulary: SimpleNamespace = field(default_factory=lambda: SimpleNamespace(codebook_size=10))

    def render(self, task, **asked):
        return {"task": task} | {name: value.tolist() if isinstance(value, np.ndarray) else value
                                 for name, value in asked.items()}


def drawer(mix=MIX, dropout=0.25, seed=7) -> ExampleDrawer:
    return ExampleDrawer(NotingTemplate(), mix, dropout, seed)


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


FEW = range(0, 300)
MANY_CODES = 10**6  # so many that a random code is never the one it replaces


@pytest.mark.parametrize("length", [1, 2, 3, 7, 20, 100])
def test_a_share_of_15_to_60_per_cent_is_lost_and_at_least_one_code(length):
    codes = np.arange(length)
    lost = [int((corrupt(codes, np.random.default_rng(seed), MANY_CODES) != codes).sum()) for seed in FEW]
    assert min(lost) >= max(1, round(0.15 * length)) and max(lost) <= max(1, round(0.6 * length))
    if length == 100:  # and the whole range is drawn
        assert min(lost) < 18 and max(lost) > 57


def test_half_of_the_lost_codes_lie_in_one_span():
    for seed in FEW:
        lost = corrupt(np.arange(60), np.random.default_rng(seed), MANY_CODES) != np.arange(60)
        longest = max(len(run) for run in "".join("01"[value] for value in lost.astype(int)).split("0"))
        assert longest >= lost.sum() // 2


@pytest.mark.parametrize("codebook_size", [1, 2, 10])
def test_a_corrupted_motion_holds_codes_of_the_codebook_and_masks_alone(codebook_size):
    for seed in FEW:
        noisy = corrupt(np.zeros(12, dtype=np.int32), np.random.default_rng(seed), codebook_size)
        assert noisy.shape == (12,) and set(noisy.tolist()) <= {MASKED, *range(codebook_size)}


def test_of_the_lost_codes_four_in_five_are_masked_and_the_others_replaced():
    masked = replaced = 0
    for seed in FEW:
        noisy = corrupt(np.arange(50), np.random.default_rng(seed), MANY_CODES)
        masked += int((noisy == MASKED).sum())
        replaced += int(((noisy != np.arange(50)) & (noisy != MASKED)).sum())
    assert replaced > 0 and masked / (masked + replaced) == pytest.approx(0.8, abs=0.02)


def test_corruption_comes_from_the_generator_alone_and_spares_its_input():
    codes = np.arange(30, dtype=np.int32)
    first, again, other = (corrupt(codes, np.random.default_rng(seed), 100).tolist() for seed in (1, 1, 2))
    assert first == again != other
    assert codes.tolist() == list(range(30))


# What a row is in an epoch


def test_a_row_is_drawn_from_seed_epoch_and_index_alone():
    forth = {(epoch, index): drawer()(epoch, index, ROW) for epoch in range(3) for index in range(40)}
    back = {(epoch, index): drawer()(epoch, index, ROW) for epoch in (2, 1, 0) for index in reversed(range(40))}
    assert forth == back  # the order of drawing, and so a resumed run, changes nothing
    by_epoch = [[forth[epoch, index] for index in range(40)] for epoch in range(3)]
    assert by_epoch[0] != by_epoch[1] != by_epoch[2] != by_epoch[0]
    assert by_epoch[0] != [drawer(seed=8)(0, index, ROW) for index in range(40)]
    assert len({str(example) for example in by_epoch[0]}) > 3  # rows do not all draw alike


def test_seed_epoch_and_index_do_not_stand_in_for_each_other():
    drawn = {(s, e, i): row_generator(s, e, i).random() for s in range(3) for e in range(3) for i in range(3)}
    assert len(set(drawn.values())) == 27


def test_noise_differs_between_epochs():
    draw = drawer({"denoise": 1.0})
    assert draw(0, 0, ROW)["noisy"] != draw(1, 0, ROW)["noisy"]


def test_tasks_come_in_the_shares_of_the_mix():
    counts = Counter(drawer().task(0, index) for index in range(4000))
    assert {task: counts[task] / 4000 for task in counts} == pytest.approx(MIX, abs=0.03)


def test_a_task_of_share_zero_is_never_drawn():
    rng = np.random.default_rng(0)
    assert {draw_task(rng, {"t2m": 0.0, "lm": 1.0, "m2t": 0.0}) for _ in range(200)} == {"lm"}


def test_the_task_that_is_told_is_the_task_that_is_rendered():
    draw = drawer()
    assert all(draw.task(epoch, index) == draw(epoch, index, ROW)["task"] for epoch in (0, 1) for index in range(60))


def test_what_a_row_hands_to_the_template():
    examples = {example["task"]: example for example in (drawer(dropout=0.0)(0, index, ROW) for index in range(60))}
    assert set(examples) == set(MIX)
    for task, example in examples.items():
        assert (example["text"], example["codes"], example["participant_id"]) == ("a dance", ROW["codes"], "ana")
        assert (example["noisy"] is None) == (task != "denoise")
    noisy = examples["denoise"]["noisy"]
    assert noisy != ROW["codes"] and len(noisy) == 8 and set(noisy) <= {MASKED, *range(10)}


@pytest.mark.parametrize("dropout, low, high", [(0.0, 0.0, 0.0), (0.25, 0.22, 0.28), (1.0, 1.0, 1.0)])
def test_the_participant_is_dropped_in_its_share(dropout, low, high):
    named = [drawer(dropout=dropout)(0, index, ROW)["participant_id"] for index in range(2000)]
    assert set(named) <= {"ana", None} and low <= named.count(None) / 2000 <= high


def test_the_share_of_dropped_participants_is_that_of_every_task():
    draw, dropped = drawer(dropout=0.5), Counter()
    for index in range(3000):
        example = draw(0, index, ROW)
        dropped[example["task"], example["participant_id"]] += 1
    for task in MIX:
        assert dropped[task, None] / (dropped[task, None] + dropped[task, "ana"]) == pytest.approx(0.5, abs=0.07)


def test_a_row_without_a_participant_stays_without():
    assert {drawer(dropout=0.0)(0, i, ROW | {"participant_id": None})["participant_id"] for i in range(20)} == {None}


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
    at_random = [order[i:i + 8] for i in range(0, 512, 8)]
    assert padding(lengths, length_sorted_batches(lengths, 8, np.random.default_rng(0))) < (
        0.15 * padding(lengths, at_random))


def test_batches_come_from_the_generator_and_not_in_the_order_of_their_lengths():
    lengths = some_lengths(200)
    first, again, other = (length_sorted_batches(lengths, 8, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert first == again != other
    longest = [max(lengths[i] for i in batch) for batch in first]
    assert longest != sorted(longest)
    # Sorting is inside pools only: the same rows do not meet in every epoch.
    assert {frozenset(b) for b in length_sorted_batches(lengths, 8, np.random.default_rng(1), pool=4)} != {
        frozenset(b) for b in length_sorted_batches(lengths, 8, np.random.default_rng(2), pool=4)}
