"""Names in two Unicode forms count as one; names that differ by capital letters or spaces are pointed out."""

import pytest
from test_data import GOOD, only, read

from motion_llm.dataset import reader
from motion_llm.dataset.spellings import name_key

NFC, NFD = "Zo\u00eb", "Zoe\u0308"


def records(field: str, names: list[str]) -> list[dict]:
    return [GOOD | {"motion_tokens": [n], "text_query": f"c{n}", field: name} for n, name in enumerate(names)]


@pytest.mark.parametrize("block", [1, 1 << 22])  # the spellings in several chunks, or in one
@pytest.mark.parametrize("field", ["participant_id", "clip_id"])
def test_two_unicode_forms_count_as_one_and_are_named(tmp_path, monkeypatch, field, block):
    monkeypatch.setattr(reader, "BLOCK", block)
    report = read(tmp_path, records(field, [NFC, NFD, "Al", NFD]))
    assert [getattr(row, field) for row in report.rows] == [NFC, NFC, "Al", NFC]
    assert len(report.rows.participants if field == "participant_id" else report.rows.clips.first) == 2
    message = only(report.warnings, "spellings")
    assert f"{field} is spelt in several Unicode forms, which count as one: '{NFC}' (NFC in 1 row, NFD in 2 rows)" in (
        message)
    assert report.fingerprint == read(tmp_path, records(field, [NFC, NFC, "Al", NFC])).fingerprint


def test_both_fields_may_have_two_forms(tmp_path):
    rows = [row | {"clip_id": f"{name} 1"} for row, name in zip(records("participant_id", [NFC, NFD]), [NFC, NFD],
                                                                strict=True)]
    report = read(tmp_path, rows)
    assert [(row.participant_id, row.clip_id) for row in report.rows] == [(NFC, f"{NFC} 1")] * 2
    assert [problem.kind for problem in report.warnings] == ["spellings"] * 2


def test_a_name_with_one_form_stays_as_it_is(tmp_path):
    report = read(tmp_path, records("participant_id", [NFD, "Al", NFD]))
    assert [row.participant_id for row in report.rows] == [NFD, "Al", NFD] and report.warnings == []


def test_names_that_differ_by_capitals_or_spaces_are_named_with_their_rows(tmp_path):
    names = ["Take 1", "take 1", "take  1", "Take 2", "Take 11", "Take 1 1", " walk", "walk", "Walk", "b", "B"]
    message = only(read(tmp_path, records("clip_id", names)).warnings, "spellings")
    assert ("clip_id differs only in capital letters or spaces, and counts as different: 'Take 1' (1 row) and 'take 1' "
            "(1 row); ' walk' (1 row) and 'walk' (1 row); and 1 more. Spell them alike if they are one") in message
    assert len(message) <= 400


def test_participants_that_differ_by_capitals_or_inner_spaces(tmp_path):
    report = read(tmp_path, records("participant_id", ["P001", "P001", "p001", "P 001", "P002"]))
    message = only(report.warnings, "spellings")
    assert "participant_id differs only" in message and "'P001' (2 rows) and 'p001' (1 row)" in message
    assert report.rows.participants == ["P001", "p001", "P 001", "P002"]


def test_different_names_give_no_warning(tmp_path):
    assert read(tmp_path, records("clip_id", ["take 1 11", "take 11 1", "take 111", "walk", "walks"])).warnings == []


@pytest.mark.parametrize(("first", "second", "same"), [
    ("P001", "p001", True), (NFC, NFD.upper(), True), ("a b", "ab", True), (" a\t1 ", "A1", True),
    ("1 11", "11 1", False), ("a_b", "a b", False)])
def test_keys(first, second, same):
    assert (name_key(first) == name_key(second)) == same
