"""generated_clips.py: files that are read, and which row gets which clip."""

import json
from pathlib import Path

import pytest

from motion_llm.evaluation.clips import EvaluationError, EvaluationRow
from motion_llm.evaluation.generated_clips import Generated, match, read_generated
from motion_llm.evaluation.stream_clips import INVALID
from motion_llm.streams import ABSENT, STEPS, Streams


def write(path: Path, rows: list[dict]) -> str:
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return str(path)


def row(text: str, codes, person=None) -> dict:
    return {"text_query": text, "motion_tokens": codes} | ({"participant_id": person} if person else {})


def rows_of(*pairs) -> list[EvaluationRow]:
    return [EvaluationRow(i, key, key, [1], person, "seen") for i, (key, person) in enumerate(pairs)]


def test_lines_are_read_whatever_their_order_with_what_is_invalid_kept(tmp_path):
    path = write(tmp_path / "clips.jsonl", [row("Walks.", "3 4", "A"), row("jumps", [9, -1]), row("walks", "", "A"),
                                            {"text_query": "walks", "motion_tokens": "5", "participant_id": 7}])
    assert read_generated(path) == Generated(path, {
        ("walks", "A"): [[3, 4], []], ("jumps", None): [[9, -1]], ("walks", "7"): [[5]]}, 4)


@pytest.mark.parametrize("line, message", [
    ("{broken", "line 2 is not JSON"),
    ("[1, 2]", "line 2: '\\[1, 2\\]', expected an object"),
    ('{"motion_tokens": "1"}', "line 2: .* expected an object with text_query"),
    ('{"text_query": "a", "motion_tokens": "1 b"}', "line 2: motion_tokens is '1 b', expected integers"),
    ('{"text_query": "a", "motion_tokens": [1.5]}', "line 2: motion_tokens is '\\[1.5\\]'"),
    ('{"text_query": "a"}', "line 2: motion_tokens is 'None'"),
    ('{"text_query": "a", "motion_tokens": "1", "participant_id": [1]}', "line 2: participant_id is \\[1\\]"),
    ('{"text_query": "a", "motion_tokens": "3 4294967296"}', "line 2: motion_tokens is '3 4294967296', expected"),
    ('{"text_query": "a", "motion_tokens": [1' + "0" * 30 + "]}", "line 2: motion_tokens is '\\[10+\\]', expected"),
    ('{"text_query": "a", "motion_tokens": [' + "9" * 5000 + "]}", "line 2 cannot be read: Exceeds the limit"),
    ("[" * 100_000, "line 2 cannot be read: maximum recursion"),
    ('{"text_query": "a", "motion_tokens": "' + "7 " * 50_000 + '"}', "line 2: motion_tokens has 50,000 codes"),
    (" " * 5_000_000 + "x", "line 2 has more than 4,194,304 bytes"),
])
def test_a_line_that_cannot_be_read_is_named(tmp_path, line, message):
    path = tmp_path / "clips.jsonl"
    path.write_text('{"text_query": "a", "motion_tokens": "1"}\n' + line, encoding="utf-8")
    with pytest.raises(EvaluationError, match=f"clips.jsonl: {message}"):
        read_generated(path)
    path.write_text("\n", encoding="utf-8")
    with pytest.raises(EvaluationError, match="is empty"):
        read_generated(path)


def test_clips_go_to_the_rows_of_their_caption_and_participant():
    rows = rows_of(("walks", "A"), ("walks", "B"), ("walks", "A"), ("jumps", None))
    clips = Generated("f", {("walks", "A"): [[1], [2], [3], [4]], ("walks", "B"): [[5], [6]],
                            ("jumps", None): [[7], [8], [9]]}, 9)
    assert match(clips, rows, 5) == ([[[1], [3]], [[5], [6]], [[2], [4]], [[7], [8]]], [
        "f: 8 of 9 clips are scored; the others belong to no row, or are more than 2 a row"])
    assert match(clips, rows, 1)[0] == [[[1]], [[5]], [[2]], [[7]]]


def test_clips_without_a_participant_serve_all_and_too_few_are_used_again():
    rows = rows_of(("walks", "A"), ("walks", "B"), ("walks", "C"))
    clips, notes = match(Generated("f", {("walks", None): [[1], [2]]}, 2), rows, 3)
    assert clips == [[[1]], [[2]], [[1]]] and len(notes) == 1 and "used again" in notes[0]


def test_rows_without_a_clip_are_named():
    rows = rows_of(("walks", "A"), ("jumps", "A"), ("bows", None))
    message = "f: no clip for 2 of 3 rows, the first is row 1: 'jumps', participant 'A'"
    with pytest.raises(EvaluationError, match=message):
        match(Generated("f", {("walks", "A"): [[1]], ("jumps", "B"): [[1]]}, 2), rows, 3)


def test_a_clip_of_the_stated_largest_size_is_read(tmp_path):
    path = write(tmp_path / "clips.jsonl", [row("walks", [5] * 300)])
    assert read_generated(path, 300).clips["walks", None] == [[5] * 300]
    with pytest.raises(EvaluationError, match="line 1: motion_tokens has 300 codes, expected at most 299"):
        read_generated(path, 299)


def test_a_file_that_is_not_utf8_is_named_with_its_line(tmp_path):
    (tmp_path / "clips.jsonl").write_bytes(b'{"text_query": "a", "motion_tokens": "1"}\n{"text_query": "\xe9"}')
    with pytest.raises(EvaluationError, match="clips.jsonl: line 2 is not UTF-8 .byte 0xe9 at place 16"):
        read_generated(tmp_path / "clips.jsonl")


# Several streams


HANDS, LEVELS = Streams(("left", "right"), (4, 3)), Streams(("q0", "q1"), (4, 3), STEPS)


@pytest.mark.parametrize("streams, tokens, codes", [
    (HANDS, {"left": "0 3", "right": [2, 1]}, [0, 6, 3, 5]), (HANDS, {"right": None, "left": "1 0"},
                                                             [1, ABSENT, 0, ABSENT]),
    (HANDS, {"left": "4 -1", "right": "2 3"}, [INVALID, 6, INVALID, INVALID]), (HANDS, {"left": "", "right": ""}, []),
    (HANDS, [[0, 2], [3, 1]], [0, 6, 3, 5]), (LEVELS, [[0, 2], [3, 1]], [0, 6, 3, 5]), (LEVELS, [], [])])
def test_clips_of_streams_become_flat_codes(tmp_path, streams, tokens, codes):
    path = write(tmp_path / "clips.jsonl", [row("walks", tokens)])
    assert read_generated(path, streams=streams).clips["walks", None] == [codes]


@pytest.mark.parametrize("streams, tokens, message", [
    (HANDS, "0 3", "motion_tokens is '0 3', expected an object of left, right"),
    (HANDS, {"left": "0"}, "expected an object of left, right"),
    (HANDS, {"left": "0 1", "right": "2"}, "motion_tokens has 2 codes of left, 1 codes of right, expected as many"),
    (HANDS, {"left": None, "right": None}, "motion_tokens has null for every stream"),
    (HANDS, {"left": "0 x", "right": "2 2"}, "line 1: left: motion_tokens is '0 x'"),
    (LEVELS, [[0, 2], [3]], "expected a list of steps of 2 codes"),
    (LEVELS, [[0, 2], [3, None]], "line 1: q1: motion_tokens is '\\[2, None\\]'")])
def test_clips_of_other_streams_are_named_with_their_line(tmp_path, streams, tokens, message):
    path = write(tmp_path / "clips.jsonl", [row("walks", tokens)])
    with pytest.raises(EvaluationError, match=f"line 1: .*{message}|{message}"):
        read_generated(path, streams=streams)


def test_the_largest_size_counts_the_codes_of_all_streams(tmp_path):
    path = write(tmp_path / "clips.jsonl", [row("walks", [[0, 0]] * 5)])
    assert len(read_generated(path, 10, HANDS).clips["walks", None][0]) == 10
    with pytest.raises(EvaluationError, match="has 10 codes, expected at most 9"):
        read_generated(path, 9, HANDS)
