"""sequence_lengths.py: the same rows do not fit as by rendering every row in every task."""

import random

import numpy as np
import pytest
from tiny import tiny_tokenizer

import model
from motion_llm.dataset.rows import Columns, Row, distinct_motions, row_captions, row_lengths, row_motions
from motion_llm.dataset.sequence_lengths import SHOWN, find_unfit
from templates import MotionTemplate


@pytest.fixture(scope="module")
def template(unsloth):
    tokenizer = tiny_tokenizer("chatml")
    return MotionTemplate(tokenizer, model.add_motion_tokens(tokenizer, 8, ["ana"]))


def some_rows(count: int) -> list[Row]:
    rng = random.Random(0)
    words = "a person walks forward pneumonoultra <MOT_END> <|im_end|> café \U0001f600 \n (twice)".split(" ")
    return [Row(i, " ".join(rng.choices(words, k=rng.randrange(1, 12))),
                np.full(rng.randrange(1, 30), 7, np.int32), rng.choice(["ana", None])) for i in range(count)]


@pytest.mark.parametrize("tasks", [{"t2m"}, {"lm", "m2t"}, {"t2m", "m2t", "denoise"}],
                         ids=lambda tasks: "+".join(sorted(tasks)))
@pytest.mark.parametrize("positions", [10, 40, 70, 400])
def test_the_rows_that_do_not_fit_are_those_that_render_too_long(template, tasks, positions):
    rows = some_rows(300)
    needed = [max((len(template.render(task, text=None if task == "denoise" else row.text_query,
                                      codes=row.codes, noisy=row.codes).ids), task)
                  for task in tasks) for row in rows]
    unfit = find_unfit([Columns.of(rows[:170]), Columns.of(rows[170:])], template, tasks, positions)
    too_long = [(row, *need) for row, need in zip(rows, needed, strict=True) if need[0] > positions]
    assert unfit.count == len(too_long)
    assert unfit.largest == max((need for _, need, _ in too_long), default=0)
    assert [text.split(" (")[0] for text in unfit.first] == [
        f"row {row.index} needs {need} in {task}" for row, need, task in too_long[:SHOWN]]


def test_rows_are_named_as_the_caller_says(template):
    chunk = Columns.of([Row(4, "a", np.full(9, 7, np.int32))])
    unfit = find_unfit([chunk], template, {"t2m"}, 5, lambda index: f"line {index + 3}")
    assert unfit.first[0].startswith("line 7 needs")


def test_captions_that_surely_fit_are_not_encoded(template, monkeypatch):
    encoded = []
    counts = template.encode_text.counts
    monkeypatch.setattr(type(template.encode_text), "counts",
                        lambda self, texts: encoded.extend(texts) or counts(texts))
    texts = ["a person walks forward", "a café", "a <|im_end|>", "long " * 50]
    rows = [Row(i, text, np.array([1, 2], np.int32)) for i, text in enumerate(texts)]
    assert find_unfit([Columns.of(rows)], template, {"t2m"}, 400).count == 0
    assert set(encoded) == set(texts[1:])


def test_counts_of_many_texts_are_those_of_each(template):
    texts = [row.text_query for row in some_rows(50)]
    assert template.encode_text.counts(texts) == [len(template.encode_text(text)) for text in texts]
    assert template.encode_text.counts([]) == []


def test_a_caption_that_needs_control_ids_is_refused_before_training(template):
    encoder = template.encode_text
    control, encoder._control_ids = encoder._control_ids, set(encoder("<x>"))
    try:
        with pytest.raises(ValueError, match="cannot be written without the control ids"):
            find_unfit([Columns.of([Row(0, "a <x>", np.array([1], np.int32))])], template, {"t2m"}, 400)
    finally:
        encoder._control_ids = control


def test_lengths_of_rows_are_their_codes_and_a_token_for_four_bytes_of_their_captions():
    from datasets import Dataset

    table = Dataset.from_dict({"text_query": ["a walk", "", "größer als ein Haus"], "codes": [[1, 2, 3], [4], [5, 6]]})
    motion, text = row_lengths(table.select([2, 0, 1]))
    assert (motion.tolist(), text.tolist()) == ([2, 3, 1], [5, 1, 0])


def test_rows_of_the_same_codes_are_one_motion():
    from datasets import Dataset

    codes = [[1, 2, 3], [4], [1, 2], [3, 4], [1, 2, 3], [1, 2, 3, 4], [4]]
    table = Dataset.from_dict({"text_query": ["a"] * 7, "codes": codes})
    assert row_motions(table).tolist() == [0, 1, 2, 3, 0, 4, 1]
    assert row_motions(table.select([6, 4, 3, 1, 0])).tolist() == [0, 1, 2, 0, 1]
    assert row_motions(table.select(range(3, 7))).tolist() == [0, 1, 2, 3]


def test_captions_are_numbered_and_those_that_count_as_one_have_one_number():
    from datasets import Dataset

    table = Dataset.from_dict({"text_query": ["a bow", "A  bow.", "two bows", "ein Gruß"], "codes": [[1]] * 4})
    assert row_captions(table).tolist() == [0, 0, 1, 2]
    assert row_captions(table.select([3, 1, 0])).tolist() == [0, 1, 1]


def test_a_motion_with_several_captions_is_read_once():
    chunks = [Columns.of([Row(i, "a", np.array(codes, np.int32)) for i, codes in enumerate(rows)])
              for rows in ([[1, 2], [3], [1, 2]], [[3], [1, 2, 3]])]
    assert [codes.tolist() for codes in distinct_motions(chunks)] == [[1, 2], [3], [1, 2, 3]]
