"""Markers among the codes, and ids of a language model's vocabulary: named where they are, and no false alarm."""

import random
from pathlib import Path

import pytest
from test_data import read

import data

ROOT = Path(data.__file__).parent
REAL = ROOT.parent / "shared/data/real/train.json"


def motions(count: int, lowest: int = 0, size: int = 64) -> list[list[int]]:
    """Motions of 5 to 12 codes, lowest to lowest + size - 1, all of which occur."""
    rng = random.Random(7)
    return [[lowest + (i * 7 + place * rng.randint(1, 9)) % size for place in range(rng.randint(5, 12))]
            for i in range(count)]


def warned(folder, rows: list[list[int]]) -> dict[str, str]:
    """Kind of warning -> its message without the path."""
    report = read(folder, [{"text_query": f"c{i % 5}", "motion_tokens": codes} for i, codes in enumerate(rows)])
    messages = {problem.kind: problem.message.split("toy.json: ")[1] for problem in report.warnings
                if problem.kind in ("markers", "vocabulary-ids")}
    assert not report.errors and all(len(message) < 330 for message in messages.values())
    return messages


def padded(codes: list[int], end: list[int], padding: int, length: int = 13) -> list[int]:
    return codes + end + [padding] * (length - len(codes) - len(end))


@pytest.mark.parametrize(("mark", "text", "option"), [
    (lambda codes: [64, *codes, 65], "60 of 60 motions begin with 64 and end with 65, codes that", "64,65"),
    (lambda codes: [0, *(code + 1 for code in codes)], "begin with 0, a code that occurs nowhere else", "0"),
    (lambda codes: [*codes, 777], "end with 777, a code", "777"),
    (lambda codes: [64, *codes, 64], "begin with 64 and end with 64, a code", "64"),
    (lambda codes: padded(codes, [90], 80), "end with 90 and are filled up with 80, codes", "80,90"),
    (lambda codes: padded(codes, [], 80), "are filled up with 80, a code", "80"),
    (lambda codes: [70, 71, *codes, 72, 73], "begin with 70, 71 and end with 72, 73, codes", "70,71,72,73"),
])
def test_markers_are_named_with_the_command_that_takes_them_out(tmp_path, mark, text, option):
    message = warned(tmp_path, [mark(codes) for codes in motions(60)])["markers"]
    assert text in message
    assert message.endswith(f"--layout json --data toy.json --output new.json --drop_codes {option}")


def test_a_few_motions_without_a_marker_and_one_with_nothing_else_change_nothing(tmp_path):
    rows = [[64, *codes, 65] for codes in motions(60)]
    rows[3], rows[7] = rows[3][1:-1], [64, 65]
    assert "59 of 60 motions begin with 64 and end with 65" in warned(tmp_path, rows)["markers"]


def test_a_motion_of_one_marker_alone_counts_it_once(tmp_path):
    rows = [[64, *codes, 64] for codes in motions(60)]
    rows[7] = [64]
    assert "60 of 60 motions begin with 64 and end with 64" in warned(tmp_path, rows)["markers"]


@pytest.mark.parametrize("change", [
    lambda codes, i: codes,
    lambda codes, i: [64, *codes] if i % 3 else codes,  # two motions in three
    lambda codes, i: [*codes, 64] if i % 3 else codes,
    lambda codes, i: [64, *codes[:3], 64, *codes[3:]],  # it occurs elsewhere
    lambda codes, i: [64] * (1 + i % 3) + codes + [64] * (1 + i % 4),  # a pose in which all clips begin and end
    lambda codes, i: codes + [64] * (i % 5) if i % 4 == 0 else codes,  # a pose in which some end
])
def test_codes_of_motion_are_no_markers(tmp_path, change):
    assert warned(tmp_path, [change(codes, i) for i, codes in enumerate(motions(60))]) == {}


def test_what_few_motions_have_in_common_may_be_chance(tmp_path):
    few = [[64, *codes] for codes in motions(12)]
    assert warned(tmp_path, few[:9] * 3) == {} and "markers" in warned(tmp_path, few)


@pytest.mark.parametrize(("lowest", "rows"), [(49_408, 60), (151_700, 60), (128_256, 3), (512, 60)])
def test_ids_of_a_vocabulary_are_named_with_the_number_to_subtract(tmp_path, lowest, rows):
    codes = motions(rows, lowest)
    smallest, largest = min(map(min, codes)), max(map(max, codes))
    message = warned(tmp_path, codes)["vocabulary-ids"]
    assert f"the smallest code is {smallest:,}, the largest {largest:,}, and" in message
    assert f"no codebook of {largest + 1:,}" in message and message.endswith(f"--subtract {smallest}")


def test_ids_of_a_vocabulary_between_its_own_markers(tmp_path):
    messages = warned(tmp_path, [[1, *codes, 2] for codes in motions(60, 32_000)])
    assert messages["markers"].endswith("--drop_codes 1,2") and messages["vocabulary-ids"].endswith("--subtract 32000")


@pytest.mark.parametrize("rows", [
    motions(60, 3),  # the first ids are special
    motions(60, 40, size=500),  # more codes occur than are missing below the smallest
    [[900 + i, 990 + i % 3] for i in range(5)],  # few motions, which may well use only high codes
    [[4000 * i + 3000, 4000 * i + 4000] for i in range(20)],  # few codes of a large codebook, all over it
])
def test_a_small_offset_and_rare_codes_are_no_vocabulary(tmp_path, rows):
    assert warned(tmp_path, rows) == {}


@pytest.mark.parametrize("path", [ROOT / "data/sample_motion.json", REAL])
def test_good_data_gives_no_warning(path):
    if not path.exists():
        pytest.skip(f"{path} is not part of the project")
    assert data.read_rows(path, 2048).warnings == []
