"""data.py: the message of every error and warning, one content in three forms, the report."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import data
from motion_llm.dataset import reader, splits

ROOT = Path(data.__file__).parent
GOOD = {"text_query": "a person walks", "motion_tokens": "1 2 3"}


def write(folder, content, name="toy.json"):
    path = folder / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def read(folder, content, max_seq_len=512, **options):
    return data.read_rows(write(folder, content), max_seq_len, **options)


def only(problems, kind):
    """The message of the one problem, which has to be of this kind."""
    assert [problem.kind for problem in problems] == [kind], problems
    return problems[0].message


def content(row):
    return row.index, row.text_query, row.codes.tolist(), row.participant_id, row.clip_id


# ---------------------------------------------------------------- good files

RECORDS = [
    {"text_query": "a person walks", "motion_tokens": "42 18 91", "participant_id": 7, "clip_id": "c0"},
    {"text_query": "sép\u2028aré par une ligne", "motion_tokens": " 0\t5\n5 ", "participant_id": None},
    {"text_query": "a person sits down.", "motion_tokens": [7], "clip_id": "12"},
]
ROWS = [(0, "a person walks", [42, 18, 91], "7", "c0"), (1, "sép\u2028aré par une ligne", [0, 5, 5], None, None),
        (2, "a person sits down.", [7], None, "12")]


def test_three_forms_of_one_content_give_equal_rows_and_fingerprints(tmp_path):
    motions = [42, 18, 91], [0, 5, 5], [7]
    lists = [record | {"motion_tokens": codes} for record, codes in zip(RECORDS, motions, strict=True)]
    as_text = [record | {"motion_tokens": " ".join(map(str, record["motion_tokens"]))} for record in lists]
    forms = {
        "list of texts": (json.dumps(as_text, indent=3), "JSON list"),
        "list of lists": (json.dumps(lists, ensure_ascii=False), "JSON list"),
        "lines": ("\r\n\n".join(json.dumps(record, ensure_ascii=False) for record in as_text) + "\n",
                  "JSON Lines"),
        "byte order mark": ("\ufeff" + json.dumps(lists), "JSON list"),
        "lines, byte order mark": ("\ufeff" + "\n".join(map(json.dumps, lists)), "JSON Lines"),
        "keys reordered": (json.dumps([dict(reversed(record.items())) for record in lists]), "JSON list"),
    }
    reports = {}
    for name, (text, form) in forms.items():
        report = data.read_rows(write(tmp_path, text, f"{len(reports)}.json"), 512)
        assert report.errors == [] and report.warnings == [], name
        assert report.form == form, name
        assert list(map(content, report.rows)) == ROWS, name
        reports[name] = report
    assert len({report.fingerprint for report in reports.values()}) == 1
    assert reports["lines"].codebook_size == 92


@pytest.mark.parametrize("change", [
    {"text_query": "a person walks."}, {"motion_tokens": "42 18 92"}, {"participant_id": 8}, {"participant_id": None},
    {"clip_id": "c1"}])
def test_any_change_of_content_or_order_changes_the_fingerprint(tmp_path, change):
    records = [RECORDS[0], GOOD]
    prints = {read(tmp_path, version).fingerprint
              for version in (records, [records[0] | change, records[1]], records[::-1])}
    assert len(prints) == 3 and all(len(fingerprint) == 64 for fingerprint in prints)


@pytest.mark.parametrize("block", [1, 3, 50, 1000])
@pytest.mark.parametrize("lines", [False, True])
def test_a_file_in_many_blocks_reads_as_in_one(tmp_path, monkeypatch, block, lines):
    unusual = [5, GOOD | {"motion_tokens": "1 x"}, GOOD | {"text_query": "a\tb"}, GOOD | {"motion_tokens": [0, 7]},
           GOOD | {"participant_id": 7, "fps": 20}, GOOD | {"participant_id": "7"}, {"text_query": "é\U0001f600"}]
    records = RECORDS + [GOOD | {"motion_tokens": f"{n} 5"} for n in range(40)] + unusual + [GOOD] * 20 + unusual
    texts = [json.dumps(record, ensure_ascii=False) for record in records]
    broken = ["[1,"] * 12
    text = "\n".join(texts + broken) if lines else "\ufeff[\n" + ",\n ".join(texts) + "\n]"
    whole = read(tmp_path, text)
    monkeypatch.setattr(reader, "BLOCK", block)
    parts = read(tmp_path, text)
    assert len(parts.rows.chunks) > 1 or block == 1000
    assert list(map(content, parts.rows)) == list(map(content, whole.rows))
    names = set(vars(whole)) - {"rows"}
    assert {name: getattr(parts, name) for name in names} == {name: getattr(whole, name) for name in names}
    assert data.format_report(parts) == data.format_report(whole)


@pytest.mark.parametrize("text", [
    '[{"text_query": "a", "motion_tokens": "1"} {"a": 1}]', '[{"text_query": "a"},\n {"b" 1}]', '[\n{"a": 1},\n\n]',
    '[{"a": "b\n"}]', '[{"a": 1}] x', '[{"a": 1}', '[{"a": 1},', '[1, 2', '["\\u12"]', '[tru]', '{"a": 1} x',
    '[{"a": 1}\n\n}]', '{"a": 1,\n "b" 2}', '[[[', '{"text_query": "a\n"}'])
@pytest.mark.parametrize("block", [1, 5, 1000])
def test_broken_json_gives_the_error_of_pythons_parser_for_the_whole_text(tmp_path, monkeypatch, text, block):
    monkeypatch.setattr(reader, "BLOCK", block)
    with pytest.raises(json.JSONDecodeError) as error:
        json.loads(text)
    message = only(read(tmp_path, text).errors, "json")
    assert f"broken JSON at line {error.value.lineno}, column {error.value.colno}: {error.value.msg} (" in message


def test_one_row_on_one_line_is_json_lines(tmp_path):
    assert read(tmp_path, GOOD).form == "JSON Lines"


def test_rows_cannot_be_changed(tmp_path):
    row = read(tmp_path, [GOOD]).rows[0]
    assert row.codes.dtype == np.int32
    with pytest.raises(ValueError):
        row.codes[0] = 5
    with pytest.raises(AttributeError):
        row.text_query = "x"


def test_codebook_size_is_the_setting_or_the_largest_code_and_one(tmp_path):
    assert read(tmp_path, [GOOD]).codebook_size == 4
    assert read(tmp_path, [GOOD], codebook_size=512).codebook_size == 512


@pytest.mark.parametrize("tokens", ["007 0 1000000", [7, 0, 1000000], "0000000007 00 01000000"])
def test_odd_but_plain_integers_are_read(tmp_path, tokens):
    assert read(tmp_path, [GOOD | {"motion_tokens": tokens}]).rows[0].codes.tolist() == [7, 0, 1_000_000]


# ---------------------------------------------------------------- errors of the whole file


@pytest.mark.parametrize(("text", "kind", "expected"), [
    (b"", "empty-file", ["the file is empty (0 bytes)"]),
    (b"\xef\xbb\xbf \n", "empty-file", ["the file is empty (5 bytes)"]),
    (b'[\n{"text_query": "caf\xe9"}]', "encoding", ["not UTF-8", "byte 0xe9 at byte offset 21, line 2"]),
    (b'\xef\xbb\xbf["\xff"]', "encoding", ["byte 0xff at byte offset 5, line 1"]),
    ('[{"a": 1}]'.encode("utf-16"), "encoding", ["it looks like UTF-16"]),
    ('[\n {"text_query": "a",\n  "motion_tokens": 1 2}]', "json",
     ["broken JSON at line 3, column 22: Expecting ',' delimiter", "found '2}]'"]),
    ('[{"text_query": "a"}', "json", ["broken JSON at line 1, column 21", "found the end"]),
    ("walk, 1 2 3", "json", ["broken JSON at line 1, column 1", "found 'walk, 1 2 3'"]),
    ('{"a": 1,\n "b": }', "json", ["broken JSON at line 2, column 7"]),
    ("[" * 100_000, "json", ["broken JSON at line 1 or after it"]),
    ("[" + "1" * 5000 + "]", "json", ["broken JSON at line 1 or after it", "4300 digits"]),
    ('{"train": [], "test": []}', "structure",
     ["expected a list of objects", "found an object with keys train, test"]),
    ('{\n "text_query": "a",\n "motion_tokens": "1"\n}', "structure",
     ["found an object with keys text_query, motion_tokens"]),
    ("{}", "structure", ["found an object without keys"]),
    ("[]", "structure", ["found an empty list"]),
    ('"walk"', "structure", ["found 'walk'"]),
    ("3.5", "structure", ["found 3.5"]),
    ("null", "structure", ["found null"]),
])
def test_files_that_cannot_be_read(tmp_path, text, kind, expected):
    report = read(tmp_path, text)
    message = only(report.errors, kind)
    assert message.startswith(str(tmp_path / "toy.json") + ": ")
    assert [part for part in expected if part not in message] == [], message
    assert list(report.rows) == [] and report.fingerprint == ""
    with pytest.raises(data.DataError):
        data.raise_on_errors(report)


def test_a_missing_file_and_a_folder(tmp_path):
    assert "no such file" in only(data.read_rows(tmp_path / "no.json", 512).errors, "file")
    assert "this is a folder, expected a JSON file" in only(data.read_rows(tmp_path, 512).errors, "file")


def test_json_lines_name_each_broken_line_and_the_lines_of_bad_rows(tmp_path):
    good, bad = json.dumps(GOOD), json.dumps(GOOD | {"motion_tokens": "1 -2"})
    report = read(tmp_path, "\n".join([good, "", '{"text_query": "b", }', bad, "[1, 2", good]))
    errors = [(problem.kind, problem.message.split("toy.json: ")[1]) for problem in report.errors]
    assert errors[0][0] == errors[1][0] == "json" and len(errors) == 3
    assert errors[0][1].startswith("broken JSON at line 3, column 2")
    assert errors[1][1].startswith("broken JSON at line 5, column 6")
    assert errors[2] == ("negative-code", "a negative motion token, in 1 line: line 4 ('-2' at place 1)")


def test_many_broken_lines_are_cut_short(tmp_path):
    report = read(tmp_path, "\n".join([json.dumps(GOOD)] + ['{"a'] * 13))
    assert len(report.errors) == 11 and "and 3 more broken lines" in report.errors[-1].message


def test_json_lines_with_a_broken_first_line(tmp_path):
    message = only(read(tmp_path, '{"text_query": "a"\n' + json.dumps(GOOD)).errors, "json")
    assert "broken JSON at line 1, column 19" in message


# ---------------------------------------------------------------- errors of rows


@pytest.mark.parametrize(("change", "kind", "expected"), [
    ({"text_query": ""}, "text", "row 1 ('')"),
    ({"text_query": " \n"}, "text", r"row 1 (' \n')"),
    ({"text_query": 5}, "text", "row 1 (5)"),
    ({"text_query": None}, "text", "row 1 (null)"),
    ({"text_query": ["a"]}, "text", "row 1 (a list of 1)"),
    ({"text_query": "a \ud83d b"}, "text", "row 1 ('a \\ud83d b' holds half a character"),
    ({"motion_tokens": ""}, "no-codes", "row 1 ('')"),
    ({"motion_tokens": "  "}, "no-codes", "row 1 ('  ')"),
    ({"motion_tokens": []}, "no-codes", "row 1 (a list of 0)"),
    ({"motion_tokens": 5}, "codes-type", "row 1 (5)"),
    ({"motion_tokens": None}, "codes-type", "row 1 (null)"),
    ({"motion_tokens": {"a": 1}}, "mixed-forms", "row 1 (streams a, where rows before it have one stream)"),
    ({"motion_tokens": {"a b": 1}}, "codes-type", "row 1 (an object with keys a b)"),
    ({"motion_tokens": "1 -2 3"}, "negative-code", "row 1 ('-2' at place 1)"),
    ({"motion_tokens": [1, 2, -3]}, "negative-code", "row 1 (-3 at place 2)"),
    ({"motion_tokens": "1 3.5"}, "non-integer-code", "row 1 ('3.5' at place 1)"),
    ({"motion_tokens": "abc 1"}, "non-integer-code", "row 1 ('abc' at place 0)"),
    ({"motion_tokens": "1,2,3"}, "non-integer-code", "row 1 ('1,2,3' at place 0; separate tokens by spaces)"),
    ({"motion_tokens": "1 \u0662"}, "non-integer-code", "row 1 ('\u0662' at place 1)"),
    ({"motion_tokens": "1 1e3"}, "non-integer-code", "row 1 ('1e3' at place 1)"),
    ({"motion_tokens": "1_0"}, "non-integer-code", "row 1 ('1_0' at place 0)"),
    ({"motion_tokens": "+1"}, "non-integer-code", "row 1 ('+1' at place 0)"),
    ({"motion_tokens": [1, True]}, "non-integer-code", "row 1 (true at place 1)"),
    ({"motion_tokens": [3.0]}, "non-integer-code", "row 1 (3.0 at place 0)"),
    ({"motion_tokens": ["3"]}, "non-integer-code", "row 1 ('3' at place 0)"),
    ({"motion_tokens": [[3]]}, "mixed-forms", "row 1 (steps of 1 codes, where rows before it have one stream)"),
    ({"motion_tokens": [3, [3]]}, "non-integer-code", "row 1 (a list of 1 at place 1)"),
    ({"motion_tokens": [1, None]}, "non-integer-code", "row 1 (null at place 1)"),
    ({"motion_tokens": "1000001"}, "code-too-large", "at most 1,000,000 is allowed), in 1 row: row 1 ('1000001'"),
    ({"motion_tokens": [10**30]}, "code-too-large", "row 1 (1000000000000000000000000000000 at place 0)"),
    ({"motion_tokens": "1 " + "9" * 5000}, "code-too-large", "at place 1"),
    ({"participant_id": True}, "participant", "row 1 (true; expected text or an integer)"),
    ({"participant_id": 1.0}, "participant", "row 1 (1.0; expected"),
    ({"participant_id": ["a"]}, "participant", "row 1 (a list of 1; expected"),
    ({"participant_id": ""}, "participant", "row 1 (''; leave the field out where there is none)"),
    ({"participant_id": "a>b"}, "participant", "row 1 ('a>b' holds '>')"),
    ({"participant_id": "<a"}, "participant", "row 1 ('<a' holds '<')"),
    ({"participant_id": "a\tb"}, "participant", r"row 1 ('a\tb' holds '\t')"),
    ({"participant_id": "a "}, "participant", "row 1 ('a ' has spaces at its ends)"),
    ({"participant_id": "a" * 65}, "participant", "65 characters, at most 64 are allowed"),
    ({"clip_id": False}, "clip-id", "row 1 (false; expected text or an integer)"),
    ({"clip_id": " "}, "clip-id", "row 1 (' '; leave the field out"),
])
def test_each_error_names_kind_row_and_what_was_found(tmp_path, change, kind, expected):
    report = read(tmp_path, [GOOD, GOOD | change])
    message = only(report.errors, kind)
    assert "in 1 row: row 1 (" in message and expected in message, message
    assert report.fingerprint == "" and [row.index for row in report.rows] == [0]


def test_rows_that_are_no_objects_and_missing_fields(tmp_path):
    report = read(tmp_path, [GOOD, 5, "a", {"caption": "a", "tokens": "1"}, {}])
    assert [problem.kind for problem in report.errors] == ["not-an-object", "missing-field"]
    assert "not an object, in 2 rows: row 1 (5), row 2 ('a')" in report.errors[0].message
    assert ("a missing field, in 2 rows: row 3 (text_query; it has caption, tokens), row 3 (motion_tokens; it has "
            "caption, tokens), row 4 (text_query; it has no fields)") in report.errors[1].message


def test_a_key_given_twice(tmp_path):
    report = read(tmp_path, '[{"text_query": "a", "text_query": "b", "motion_tokens": "1"}]')
    assert "a key given twice, in 1 row: row 0 (text_query)" in only(report.errors, "duplicate-key")


@pytest.mark.parametrize("record", [
    '{"text_query": NaN, "motion_tokens": "1"}', '{"text_query": "a", "motion_tokens": [1, -Infinity]}',
    '{"text_query": "a", "motion_tokens": "1", "length": {"s": [NaN]}}'])
def test_nan_and_infinity_are_refused(tmp_path, record):
    message = only(read(tmp_path, f"[{json.dumps(GOOD)}, {record}]").errors, "json-constant")
    assert "NaN or Infinity, which JSON does not have, in 1 row: row 1 (" in message


def test_a_caption_may_say_nan(tmp_path):
    assert read(tmp_path, [GOOD | {"text_query": "NaN Infinity"}]).errors == []


def test_participants_of_two_types_are_counted(tmp_path):
    records = [GOOD | {"participant_id": pid} for pid in ("A", 7, "B", None, "7")] + [GOOD]
    message = only(read(tmp_path, records).errors, "participant-types")
    assert ("participant_id is text in 3 rows (first: row 0, 'A') and an integer in 1 row (first: row 1, 7); "
            "make them all one type") in message


def test_clip_ids_of_two_types(tmp_path):
    records = [GOOD | {"clip_id": "1"}, GOOD | {"clip_id": 1}]
    assert "clip_id is text in 1 row (first: row 0, '1')" in only(read(tmp_path, records).errors, "clip-types")


def test_codes_past_a_given_codebook(tmp_path):
    message = only(read(tmp_path, [GOOD, GOOD | {"motion_tokens": "1 512"}], codebook_size=512).errors,
                   "code-too-large")
    assert "at most 511 is allowed, CODEBOOK_SIZE is 512), in 1 row: row 1 (512 at place 1)" in message
    assert read(tmp_path, [GOOD | {"motion_tokens": "511"}], codebook_size=512).errors == []


def test_all_errors_come_together_and_long_lists_are_cut(tmp_path):
    records = [GOOD] + [GOOD | {"text_query": ""}] * 13 + [GOOD | {"motion_tokens": "x", "participant_id": ""}]
    report = read(tmp_path, records)
    assert [problem.kind for problem in report.errors] == ["text", "non-integer-code", "participant"]
    text = report.errors[0].message
    assert "in 13 rows: row 1 ('')" in text and "row 10 ('')" in text and "row 11" not in text
    assert text.endswith(", and 3 more")
    with pytest.raises(data.DataError) as caught:
        data.raise_on_errors(report)
    assert str(caught.value).startswith(f"{report.path}: 3 kinds of error; rows count from 0\n")
    assert all(problem.message in str(caught.value) for problem in report.errors)


def test_no_error_raises_nothing(tmp_path):
    data.raise_on_errors(read(tmp_path, [GOOD]))


# ---------------------------------------------------------------- what fits


@pytest.mark.parametrize(("codes", "words", "denoise", "limit", "kinds"), [
    (50, 3, False, 57, ("too-long", None)),   # 50 + 3 + 4 = 57 positions at least
    (50, 3, False, 56, ("too-long", "57 or more")),
    (50, 3, True, 106, ("too-long", None)),   # 2 * 50 + 6
    (50, 3, True, 105, ("too-long", "106 or more")),
    (50, 3, False, 95, ("may-not-fit", None)),  # 50 + 5 bytes + 40
    (50, 3, False, 94, ("may-not-fit", "57 to 95")),
    (50, 3, True, 140, ("may-not-fit", None)),  # 2 * 50 + 40
    (50, 3, True, 139, ("may-not-fit", "106 to 140")),
    (2, 30, True, 36, ("too-long", None)),    # the caption is what counts: 2 + 30 + 4
    (2, 30, True, 35, ("too-long", "36 or more")),
])
def test_the_bounds_of_what_fits(tmp_path, codes, words, denoise, limit, kinds):
    record = {"text_query": " ".join("a" * words), "motion_tokens": [1] * codes}
    report = read(tmp_path, [record], limit, denoise=denoise)
    problems = {problem.kind: problem.message for problem in report.errors + report.warnings}
    kind, needs = kinds
    assert (kind in problems) == (needs is not None)
    if needs:
        assert f"MAX_SEQ_LEN ({limit})" in problems[kind]
        assert f"row 0 (needs {needs} positions: {codes} codes, {words} words)" in problems[kind]
    if kind == "too-long":
        assert bool(report.errors) == (needs is not None)
    else:
        assert report.errors == []


# ---------------------------------------------------------------- warnings


def test_duplicates_and_similar_captions(tmp_path):
    report = read(tmp_path, [
        GOOD, GOOD | {"motion_tokens": [1, 2, 3]}, GOOD | {"participant_id": "A"},
        GOOD | {"text_query": "someone strolls"}, GOOD | {"text_query": "A  person walks.", "motion_tokens": "4"}])
    assert report.errors == [] and len(report.rows) == 5
    messages = {problem.kind: problem.message for problem in report.warnings}
    assert set(messages) == {"duplicate", "similar-captions"}  # several captions of a motion are how datasets are
    assert "an exact duplicate of an earlier row, in 1 row: row 1 (as row 0)" in messages["duplicate"]
    assert "in 1 row: row 4 ('A  person walks.', as row 0, 'a person walks')" in messages["similar-captions"]


def test_several_captions_of_a_motion_are_told_as_a_fact(tmp_path):
    report = read(tmp_path, [GOOD, GOOD | {"text_query": "someone strolls"}, GOOD | {"text_query": "walking"},
                             GOOD | {"motion_tokens": "4"}])
    assert "2 distinct; captions for each: min 1, median 2, mean 2.0, max 3 (each time that" in " ".join(
        data.format_report(report).split())
    assert "captions for each" not in data.format_report(read(tmp_path, [GOOD, GOOD | {"motion_tokens": "4"}]))


def test_warnings_are_cut_short_too(tmp_path):
    message = only(read(tmp_path, [GOOD] * 14).warnings, "duplicate")
    assert "in 13 rows: row 1 (as row 0)" in message and message.endswith(", and 3 more")


def test_unknown_fields_are_named_with_their_counts(tmp_path):
    report = read(tmp_path, [GOOD | {"fps": 20, "motion_tokens": [n]} for n in range(3)]
                  + [GOOD | {"Clip_ID": "x"}])
    assert "unknown fields, ignored: Clip_ID (1 row), fps (3 rows)" in only(report.warnings, "ignored-field")
    assert report.ignored_fields == {"Clip_ID": 1, "fps": 3} and len(report.rows) == 4


@pytest.mark.parametrize(("first", "second", "same"), [
    ("A Person walks", "a person walks", True), ("a  person\twalks ", "a person walks", True),
    ("a person walks.", "a person walks", True), ("caf\u00e9", "cafe\u0301", True), ("STRASSE", "straße", True),
    ("CAFE\u0301", "caf\u00e9", True), ("a person walks .", "a person walks", True),
    ("a person walks!", "a person walks", False), ("1.5 steps", "15 steps", False), (".", "a", False)])
def test_caption_keys(first, second, same):
    assert (data.caption_key(first) == data.caption_key(second)) == same
    assert data.caption_key(data.caption_key(first)) == data.caption_key(first) != ""


# ---------------------------------------------------------------- the report


def test_the_report_tells_what_is_in_the_file(tmp_path):
    records = [{"text_query": f"caption {n % 3}", "motion_tokens": [n] * (n + 1), "participant_id": "AB"[n % 2]}
               for n in range(9)] + [{"text_query": "Caption 0.", "motion_tokens": "11 11", "clip_id": "z"}]
    report = read(tmp_path, records, codebook_size=16)
    text = data.format_report(report, splits.split_rows(report.rows, 0, 0.1, 100))
    for line in ("form           JSON list; rows count from 0", "rows           10", "motions        10 distinct",
                 "motion tokens  min 1, median 4, mean 4.7, max 9 a row",
                 "codebook       16 codes (CODEBOOK_SIZE): 10 used, 6 never used",
                 "captions       3 distinct; motions for each: min 3, median 3, mean 3.3, max 4",
                 "participants   2 (rows: A 5, B 4, without one 1)", "clip_id        1 distinct, in 1 row",
                 "split          train ", "warning: ", "no errors, 1 kind of warning"):
        assert f"  {line}" in text, line
    assert max(map(len, text.splitlines())) <= 120


@pytest.mark.parametrize(("rows", "share", "named", "size"), [
    (30, 0.1, False, "6 clips"), (90, 0.1, False, "18 clips"), (100, 0.1, False, None), (30, 0, False, None),
    (30, 0, True, "1 clip")])
def test_the_report_warns_of_a_validation_set_too_small_to_choose_by(tmp_path, rows, share, named, size):
    records = [{"text_query": f"caption {n // 3}", "motion_tokens": [n]} for n in range(rows)]
    if named:
        records[0] |= {"split": "val"}
    report = read(tmp_path, records)
    text = " ".join(data.format_report(report, splits.split_rows(report.rows, 0, share, 100)).split())
    note = f"note: validation has {size}: too few to choose an epoch by, or to say how good the model is"
    assert (note in text) == (size is not None) == ("too few" in text)
    # Rows that the file names as val are held out whatever the share.
    assert ("--heldout_share 0 trains on everything to the end" in text) == (size is not None and not named)


def test_where_clips_have_several_captions_the_split_counts_both(tmp_path):
    records = [{"text_query": f"caption {n} of {clip}", "motion_tokens": [clip]}
               for clip in range(40) for n in range(14)]
    report = read(tmp_path, records)
    split = splits.split_rows(report.rows, 0, 0.05, 100)
    text = data.format_report(report, split)
    assert split.sizes()["unseen"] == 28
    assert "split          train 504 rows of 36 motions\n" in text
    assert "validation   seen 0 rows of 0 motions, unseen 28 rows of 2 motions\n" in text
    assert "test         seen 0 rows of 0 motions, unseen 28 rows of 2 motions\n" in text
    assert "validation has 2 clips: too few" in " ".join(text.split())


@pytest.mark.parametrize(("text", "names"), [
    ("[{0},\n{0}]", ["row 0", "row 1"]), ("\ufeff\n{0}\r \n \n\n{1}\r\n{0}", ["line 2", "line 5", "line 6"])])
def test_a_row_is_named_by_its_number_or_its_line(tmp_path, text, names):
    report = read(tmp_path, text.replace("{0}", json.dumps(GOOD)).replace(
        "{1}", json.dumps(GOOD | {"text_query": "a\u2028b"}, ensure_ascii=False)))
    assert [report.name_of(row.index) for row in report.rows] == names


def test_the_report_of_a_bad_file_lists_its_errors(tmp_path):
    text = data.format_report(read(tmp_path, [GOOD | {"text_query": ""}]))
    assert "ERROR: " in text and "row 0 ('')" in text and "1 kind of error, no warnings" in text
    assert "no such file" in data.format_report(data.read_rows("nowhere.json", 512))


def test_checking_needs_no_heavy_import(tmp_path):
    path = write(tmp_path, [GOOD] * 5)
    code = (f"import sys, data; from motion_llm.dataset import splits; report = data.read_rows({str(path)!r}, 512); "
            "data.format_report(report, splits.split_rows(report.rows, 0, 0.05, 100)); print(*sys.modules)")
    modules = subprocess.run([sys.executable, "-c", code], cwd=ROOT, text=True, check=True,
                             capture_output=True).stdout.split()
    assert "numpy" in modules
    assert not {"torch", "transformers", "datasets", "pyarrow", "pandas", "unsloth"} & set(modules)


@pytest.mark.parametrize(("record", "expected"), [
    (GOOD | {"text_query": "\u200b\ufeff"}, "has nothing that can be seen"),
    (GOOD | {"text_query": "walk\x1b[31m"}, "holds the control character '\\x1b' at 4"),
    (GOOD | {"text_query": "x" * 10_001}, "has 10,001 characters, expected at most 10,000"),
    (GOOD | {"clip_id": "\ud83d"}, "half a character"),
    (GOOD | {"participant_id": 10**4000}, "participant_id that cannot be used"),
    (GOOD | {"participant_id": "NULL"}, "reserved"),
])
def test_what_cannot_be_seen_stored_or_named_is_refused(tmp_path, record, expected):
    assert expected in read(tmp_path, [record]).errors[0].message


@pytest.mark.parametrize("caption", [
    "it\x92s a walk", "a\u00a0walk", "\u0645\u0634\u064a", "walk\tforward\n", "x" * 10_000, "walk\x00", "\x1b[31m",
    "x" * 10_001, "\u200b", "a \ud83d", "\x7f walk"])
def test_what_the_check_accepts_can_be_asked_for_and_what_it_refuses_cannot(tmp_path, caption):
    from motion_llm.decoding.request import GenerationError, MotionRequest

    report = read(tmp_path, [GOOD | {"text_query": caption}], max_seq_len=30_000)
    if report.errors:
        with pytest.raises(GenerationError):
            MotionRequest(text=caption)
    else:
        assert MotionRequest(text=caption).text == caption
    refused = ("walk\x00", "\x1b[31m", "x" * 10_001, "\u200b", "a \ud83d", "\x7f walk")
    assert bool(report.errors) == (caption in refused)
    assert any(problem.kind == "mistaken-character" for problem in report.warnings) == (caption == "it\x92s a walk")


# ---------------------------------------------------------------- rows without an end


@pytest.mark.parametrize(("content", "row"), [
    ('[{GOOD}, {GOOD}, {"text_query": "x", "motion_tokens": [{LONG}]}, {GOOD}]', "row 2"),
    ('[{GOOD},{"text_query": "x", "motion_tokens": "{LONG}"}]', "row 1"), ("[[{LONG}]]", "row 0"),
    ('{GOOD}\n\n{"text_query": "x", "motion_tokens": [{LONG}]}\n{GOOD}', "line 3"),
    ('{GOOD}\n{"text_query": "x", "motion_tokens": [{LONG}]}', "line 2"),
    ('\n{"text_query": "x", "motion_tokens": [{LONG}]}\n{GOOD}', "line 2"),
    ('{"data":\n[{LONG}]}', "line 2"), ('{\n\n"data":[\n{LINES}]}', "what begins in line 1"),
    ("[{GOOD}, {GOOD}{SPACES}, {GOOD}]", "row 1"),
])
def test_a_row_that_is_too_long_is_refused_by_name(tmp_path, monkeypatch, content, row):
    monkeypatch.setattr(reader, "BLOCK", 300)
    monkeypatch.setattr(reader, "LONGEST_ROW", 1000)
    for length in (1200, 50_000):  # whole in the window, and not
        text = content.replace("{GOOD}", json.dumps(GOOD)).replace("{SPACES}", 5 * length * " ")
        text = text.replace("{LONG}", ",".join("1" * (length // 2)))
        report = read(tmp_path, text.replace("{LINES}", "1,\n" * length))
        assert f"{row} is longer than 1,000 characters" in only(report.errors, "long-row")


def test_a_row_of_the_longest_size_is_read_at_any_place_of_the_window(tmp_path, monkeypatch):
    monkeypatch.setattr(reader, "BLOCK", 300)
    monkeypatch.setattr(reader, "LONGEST_ROW", 1000)
    longest = json.dumps(GOOD | {"clip_id": "c"})
    longest = longest.replace('"c"', json.dumps("c" * (1000 - len(longest) + 1)))
    assert len(longest) == 1000
    for before in range(0, 400, 7):
        rows = [json.dumps(GOOD | {"clip_id": "b" * (before + 1)}), longest, json.dumps(GOOD)]
        assert len(read(tmp_path, f"[{', '.join(rows)}]").rows) == len(read(tmp_path, "\n".join(rows)).rows) == 3


def test_white_space_takes_no_memory_and_counts_as_lines(tmp_path, monkeypatch):
    monkeypatch.setattr(reader, "BLOCK", 300)
    monkeypatch.setattr(reader, "LONGEST_ROW", 1000)
    assert len(read(tmp_path, " \n" * 5000 + json.dumps([GOOD])).rows) == 1
    assert "broken JSON at line 5001, column 3" in only(read(tmp_path, " \n" * 5000 + "3 x").errors, "json")
    assert "line 5002" in only(read(tmp_path, "\n" * 5000 + json.dumps(GOOD) + '\n{"a"').errors, "json")


@pytest.mark.parametrize(("codes", "kind"), [
    ("[1, 1000000000000000000000000000000]", "code-too-large"), ("[1e308]", "non-integer-code"),
    ("[1e999]", "non-integer-code"), ("[NaN]", "json-constant"), ("[-Infinity]", "json-constant"),
    ('"1e308"', "non-integer-code"), (f'"{10**30}"', "code-too-large"), (f'"{"9" * 5000}"', "code-too-large"),
    (f"[{'9' * 5000}]", "json"), ("[" * 100_000 + "]" * 100_000, "json"),
])
def test_numbers_and_depths_that_no_code_has(tmp_path, codes, kind):
    only(read(tmp_path, f'[{{"text_query": "x", "motion_tokens": {codes}}}]').errors, kind)
