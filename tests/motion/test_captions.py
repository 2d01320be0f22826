"""captions.py: each caption gets the codes of its clip or of the part it names; what does not fit is said."""

import json
import re

import pytest
from walker import OFFSETS, WALKER, walk, walks

import data
from motion_llm.motion.bvh import write_bvh
from motion_llm.motion.captions import encode_captions, encode_files
from motion_llm.motion.codec import CodecError, MotionCodec
from motion_llm.motion.skeleton import Motion, MotionError, Skeleton


@pytest.fixture(scope="module")
def codec() -> MotionCodec:
    return MotionCodec.fit(walks(3), codes=16, kind="kmeans")  # 30 frames a second, 4 frames a code


def rows_of(codec, tmp_path, *entries, **options):
    (tmp_path / "captions.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(list(entries)).encode())  # with a mark
    return encode_captions(codec, tmp_path, tmp_path / "captions.json", **options)


def entry(file: str = "take.bvh", **fields) -> dict:
    return {"file": file, "text_query": "walk"} | fields


@pytest.fixture
def folder(tmp_path):
    write_bvh(tmp_path / "take.bvh", walk(120, fps=60))  # 2 s, 15 codes
    return tmp_path


@pytest.mark.parametrize(("times", "first", "last"), [
    ({}, 0, 15), ({"start": 0, "end": 0}, 0, 15), ({"start": 0.5, "end": 1.5}, 3, 11), ({"start": 1.0}, 7, 15),
    ({"end": 1}, 0, 7), ({"start_frame": 30, "end_frame": 90}, 3, 11), ({"start": None, "end": None}, 0, 15),
    ({"start": 1, "end": 60}, 7, 15),
])
def test_a_caption_of_a_part_gets_the_codes_of_that_part(codec, folder, times, first, last):
    whole, part = rows_of(codec, folder, entry(), entry(**times))
    assert part["motion_tokens"].split() == whole["motion_tokens"].split()[first:last]
    assert part["clip_id"] == whole["clip_id"] == "take"


@pytest.mark.parametrize(("times", "first", "last", "seconds"), [
    ({}, 0, 16, 2.0667), ({"start": 0.5, "end": 1.5}, 3, 11, 1.0667), ({"start": 1.0}, 7, 16, 1.1333),
    ({"end": 2.05}, 0, 15, 2.0), ({"end": 2.2}, 0, 16, 2.0667)])
def test_the_end_of_a_clip_is_kept_and_its_length_is_known_again(codec, tmp_path, times, first, last, seconds):
    """62 frames at the codec's rate, of which 2 are in the last of 16 codes."""
    write_bvh(tmp_path / "take.bvh", walk(124, fps=60))
    whole, part = rows_of(codec, tmp_path, entry(), entry(**times))
    assert part["motion_tokens"].split() == whole["motion_tokens"].split()[first:last] != []
    assert part["seconds"] == seconds
    codes = [int(code) for code in part["motion_tokens"].split()]
    assert len(codec.decode(codes, round(seconds * codec.fps))) == round(seconds * 30) > 4 * (len(codes) - 1)


def test_rows_are_a_dataset_that_is_taken_without_a_word(codec, folder):
    (folder / "data.json").write_text(json.dumps(rows_of(codec, folder, entry())))
    report = data.read_rows(folder / "data.json", 16)
    assert [problem.kind for problem in report.warnings if problem.kind == "ignored-field"] == []


def test_files_without_captions_become_codes_by_path(codec, tmp_path):
    for name, frames in (("b/walk.bvh", 60), ("a.bvh", 63), ("b/short.bvh", 2)):
        write_bvh(tmp_path / name, walk(frames))
    rows = encode_files(codec, tmp_path)
    assert [(row["file"], len(row["motion_tokens"].split()), row["seconds"]) for row in rows] == [
        ("a.bvh", 16, 2.1), ("b/short.bvh", 1, 0.0667), ("b/walk.bvh", 15, 2.0)]
    assert rows[2]["motion_tokens"] == " ".join(map(str, codec.encode(walk(60)))) and set(rows[0]) == {
        "file", "motion_tokens", "seconds"}
    write_bvh(tmp_path / "one.bvh", walk(1))
    with pytest.raises(MotionError, match=r"one\.bvh: 1 frames at 30 a second, expected at least 2"):
        encode_files(codec, tmp_path)


def test_rates_that_the_codecs_divides_are_not_remarked(codec, folder, caplog):
    rows_of(codec, folder, entry())  # 60 frames a second, every other of which the codec takes
    assert "frames a second" not in caplog.text
    write_bvh(folder / "odd.bvh", walk(100, fps=50))
    rows_of(codec, folder, entry(), entry("odd.bvh"))
    assert "1 at 50 (odd.bvh) frames a second: all are resampled to 30" in caplog.text


@pytest.mark.parametrize(("times", "message"), [
    ({"start": 1.5, "end": 0.5}, "it goes from 1.5 to 0.5 s, and the clip has 2.0 s"),
    ({"start": 3, "end": 4}, "it goes from 3 to 4 s, and the clip has 2.0 s"),
    ({"start": "1"}, "start is '1', expected a number from 0 on"),
    ({"end": float("nan")}, "end is nan, expected a number"),
    ({"start": 0.01, "end": 0.05}, "0.01 to 0.05 s hold no whole code of 0.13 s"),
    ({"start": 1, "end_frame": 90}, "it has start and end_frame, expected start and end in seconds, or"),
])
def test_times_that_do_not_fit_are_refused_by_row(codec, folder, times, message):
    with pytest.raises(CodecError, match=r"captions\.json, row 1 \(take\.bvh\): " + re.escape(message)):
        rows_of(codec, folder, entry(), entry(**times))


def test_files_of_one_name_in_two_folders_are_two_clips(codec, tmp_path):
    for person, turning in (("S01", 0.2), ("S02", -0.9)):
        (tmp_path / person).mkdir()
        write_bvh(tmp_path / person / "walk.bvh", walk(turning=turning))
    rows = rows_of(codec, tmp_path, entry("S01/walk.bvh"), entry("S02/walk.bvh"))
    assert [row["clip_id"] for row in rows] == ["S01/walk", "S02/walk"]


def test_fields_that_are_not_used_are_said(codec, folder, caplog):
    rows_of(codec, folder, entry(speaker="P1"), entry(Start=1))
    assert "fields that are not used: speaker, Start; expected file, text_query" in caplog.text


def test_a_long_clip_under_one_caption_is_said(codec, tmp_path, caplog):
    write_bvh(tmp_path / "long.bvh", walk(930))
    rows_of(codec, tmp_path, entry("long.bvh", start=1, end=3))
    assert "without start and end" not in caplog.text
    rows_of(codec, tmp_path, entry("long.bvh"))
    assert "1 captions without start and end are of clips longer than 30 s, such as long.bvh" in caplog.text


def test_a_clip_in_another_unit_than_the_codec_is_refused(codec, tmp_path):
    tall = Skeleton(WALKER.names, WALKER.parents, OFFSETS / 100)
    write_bvh(tmp_path / "m.bvh", Motion(walk().joints / 100, 30, tall, walk().rotations))
    with pytest.raises(MotionError, match=r"m\.bvh: the figure is about 0\.017 m high, the codec's figure is 1\.7 m"):
        rows_of(codec, tmp_path, entry("m.bvh"))
    assert rows_of(codec, tmp_path, entry("m.bvh"), scale=1.0)[0]["clip_id"] == "m"


def test_captions_may_be_json_lines(codec, folder):
    rows = [entry(), entry(start=1)]
    (folder / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert encode_captions(codec, folder, folder / "captions.jsonl") == rows_of(codec, folder, *rows)
    (folder / "captions.csv").write_text("file,text_query\ntake.bvh,a walk\n")
    with pytest.raises(CodecError, match=r"captions\.csv is broken: .*expected JSON, a list of objects such as"):
        encode_captions(codec, folder, folder / "captions.csv")


def test_an_end_after_the_clip_is_said(codec, folder, caplog):
    rows_of(codec, folder, entry(start=0, end=2))
    assert "end after their clips" not in caplog.text
    rows_of(codec, folder, entry(start=0, end=60))
    assert "row 0: 60 s of take.bvh, which has 2.0 s" in caplog.text and "start_frame" in caplog.text


def test_a_participant_that_is_no_name_is_refused_by_row(codec, folder):
    with pytest.raises(CodecError, match=r"row 1: participant_id is \{'id': 1\}, expected text or an integer"):
        rows_of(codec, folder, entry(), entry(participant_id={"id": 1}))


@pytest.mark.parametrize("times", [{"end": 1e308}, {"end": 10**400}, {"start": 1e12}, {"end_frame": 10**30}])
def test_times_of_absurd_sizes_are_refused_by_row(codec, folder, times):
    with pytest.raises(CodecError, match=r"captions\.json, row 1 \(take\.bvh\): \w+ is 1\S*, expected a number"):
        rows_of(codec, folder, entry(), entry(**times))


def test_a_broken_line_of_captions_is_named(codec, folder):
    for line in ('{"file": "take.bvh"', '{"file": ' + "[" * 50_000):
        (folder / "captions.json").write_text(json.dumps(entry()) + "\n\n" + line)
        with pytest.raises(CodecError, match=r"captions\.json: line 3 is broken: "):
            encode_captions(codec, folder, folder / "captions.json")
