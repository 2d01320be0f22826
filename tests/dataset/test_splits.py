"""splits.py and prepared.py: the guarantees of the split, and the prepared table."""

import os
import random
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from test_data import GOOD, content, read

import data
from motion_llm.dataset import prepared, splits
from motion_llm.dataset.rows import Row, Rows

ROOT = Path(data.__file__).parent


def rows_of(specs):
    """Rows from (caption, code seed, clip_id)."""
    return Rows.of([Row(index, text, np.array([motion, motion // 7], dtype=np.int32), None, clip)
                    for index, (text, motion, clip) in enumerate(specs)])


def few_captions():
    return [(f"caption {n % 12}", n, None) for n in range(600)]


def unique_captions():
    return [(f"caption {n}", n, None) for n in range(300)]


def several_captions_a_clip():  # as in HumanML3D: some captions are shared, most are not
    draw = random.Random(1)
    return [(f"common {draw.randrange(60)}" if draw.random() < 0.5 else f"rare {clip} {n}", clip, None)
            for clip in range(300) for n in range(draw.choice([3, 4]))]


def labels_and_a_sentence():  # every clip has two captions that many clips share and one that no other clip has
    return [(text, clip, None) for clip in range(300)
            for text in (f"label {clip % 10}", f"style {clip % 7}", f"sentence {clip}")]


def windows_of_recordings():  # one clip_id, several motions; captions differ by their spelling
    return [(["walks {}", "Walks {}.", "walks  {}"][n % 3].format(n % 39), n, f"recording {n // 4}")
            for n in range(800)]


def spellings():  # 40 captions, each in three spellings
    return [(["walks {}", "Walks {}.", "walks  {}"][n % 3].format(n % 40), n, None) for n in range(400)]


def three_captions():  # each caption has a third of the rows
    return [(f"caption {n % 3}", n, None) for n in range(120)]


def idle_motion():  # one motion under many captions
    return [(f"caption {n % 50}", 9999 if n % 20 == 0 else n, None) for n in range(500)]


def tiny():
    return [(f"caption {n % 2}", n, None) for n in range(4)]


def one_row():
    return [("a", 1, None)]


SHAPES = [few_captions, unique_captions, several_captions_a_clip, labels_and_a_sentence, windows_of_recordings,
          spellings, three_captions, idle_motion, tiny, one_row]
SETTINGS = [(0, 0.05, 100), (1, 0.05, 100), (2, 0.125, 20), (3, 0.125, 1000), (4, 0.02, 7)]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.__name__)
def test_the_guarantees_of_the_split(shape, settings):
    rows = rows_of(shape())
    split = splits.split_rows(rows, *settings)
    parts = {part: getattr(split, part) for part in splits.PARTS}
    assert sorted(sum(parts.values(), [])) == list(range(len(rows)))  # each row in one part

    parts_of = defaultdict(set)
    for part, places in parts.items():
        assert places == sorted(places)
        for place in places:
            parts_of["motion", rows[place].codes.tobytes()].add(part)
            if rows[place].clip_id is not None:
                parts_of["clip", rows[place].clip_id].add(part)
    # No motion and no clip_id is in two parts; a clip with captions of both kinds is in both halves of validation, if
    # there are no other clips to take.
    tied = [clip_parts for clip_parts in parts_of.values() if len(clip_parts) > 1]
    assert all(clip_parts == {"seen", "unseen"} for clip_parts in tied)
    assert not tied or shape is labels_and_a_sentence

    keys = [data.caption_key(row.text_query) for row in rows]
    trained = {keys[place] for place in split.train}
    assert set(split.kinds) == set(split.seen + split.unseen + split.test)
    assert all((kind == "seen") == (keys[place] in trained) for place, kind in split.kinds.items())
    assert {split.kinds[place] for place in split.seen} <= {"seen"}
    assert {split.kinds[place] for place in split.unseen} <= {"unseen"}
    test_unseen = {keys[place] for place in split.test if split.kinds[place] == "unseen"}
    assert not test_unseen & {keys[place] for place in split.seen + split.unseen}

    sizes = split.sizes()
    assert all(sizes[part] <= settings[2] for part in ("seen", "unseen", "test seen", "test unseen"))
    assert 2 * len(split.train) >= len(rows) and split.train


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.__name__)
def test_the_choice_follows_from_content_and_seed_alone(shape):
    specs = shape()
    shuffled = random.Random(5).sample(range(len(specs)), len(specs))

    def chosen(order, seed=0):
        rows = rows_of([specs[place] for place in order])
        split = splits.split_rows(rows, seed, 0.05, 100)
        return [sorted(order[place] for place in getattr(split, part)) for part in splits.PARTS], split.notes

    plain = list(range(len(specs)))
    assert chosen(plain) == chosen(plain) == chosen(shuffled)
    if len(specs) > 100:
        assert chosen(plain, seed=1)[0] != chosen(plain)[0]


def test_the_choice_is_the_same_in_another_process():
    code = ("import sys; sys.path[:0] = ['tests/dataset', 'tests', '.']; "
            "import test_splits; from motion_llm.dataset import splits; "
            "print([splits.split_rows(test_splits.rows_of(make()), 0, 0.05, 100).test for make in test_splits.SHAPES])")
    outputs = {subprocess.run([sys.executable, "-c", code], cwd=ROOT, text=True, check=True, capture_output=True,
                              env={"PYTHONHASHSEED": seed}).stdout for seed in ("1", "2")}
    assert len(outputs) == 1


@pytest.mark.parametrize(("shape", "seen", "unseen", "test_seen", "test_unseen"), [
    (few_captions, 30, 50, 30, 50),      # whole captions of 50 rows; the target is 30
    (unique_captions, 0, 15, 0, 15),
    (several_captions_a_clip, 20, 25, 20, 25),
    (labels_and_a_sentence, 30, 15, 40, 20),  # every clip has captions of both kinds: two shared, one of its own
    (windows_of_recordings, 40, 0, 40, 0),   # recordings connect all captions
])
def test_each_part_gets_about_its_target(shape, seen, unseen, test_seen, test_unseen):
    rows = rows_of(shape())
    sizes = splits.split_rows(rows, 0, 0.05, 100).sizes()
    targets = {"seen": seen, "unseen": unseen, "test seen": test_seen, "test unseen": test_unseen}
    assert all(target <= sizes[part] <= max(target, len(rows) // 20 + 3) if target else sizes[part] == 0
               for part, target in targets.items()), sizes


def test_a_clip_whose_captions_are_partly_shared_is_held_out_with_all_of_them():
    """As people caption: 14 captions a clip, two of them in use for many other clips."""
    rows = rows_of([(text, clip, None) for clip in range(60) for text in
                    [f"label {clip % 3}", f"label {3 + clip % 2}", *(f"sentence {clip} {i}" for i in range(12))]])
    split = splits.split_rows(rows, 0, 0.1, 100)
    assert len(split.seen) == 12 and len(split.unseen) == 72  # six clips, of 84 rows aimed at
    assert {len(split.test), len(split.test) % 14} == {len(split.test), 0} and len(split.test) >= 70
    assert any(note.startswith("val: captions tie the clips together, so 6 clips are held out with all their captions: "
                               "12 that are trained with other clips too, 72 that are not") for note in split.notes)


def test_of_three_clips_with_many_captions_one_is_held_out():
    rows = rows_of([(text, clip, None) for clip in range(3) for text in ["walks", *(f"{clip} {i}" for i in range(9))]])
    split = splits.split_rows(rows, 0, 0.05, 100)
    assert len(split.train) == 20 and len(split.kinds) == 10


def test_two_clips_stay_in_training_where_captions_have_enough():
    rows = rows_of([(f"caption {n // 3}", n, None) for n in range(300)])
    split = splits.split_rows(rows, 0, 0.05, 100)
    trained_clips = defaultdict(int)
    for place in split.train:
        trained_clips[rows[place].text_query] += 1
    seen = {rows[place].text_query for place, kind in split.kinds.items() if kind == "seen"}
    assert len(split.seen) == 15 and {trained_clips[text] for text in seen} == {2}


def test_one_of_two_clips_is_held_out_where_no_caption_has_more():
    rows = rows_of([(f"caption {n // 2}", n, None) for n in range(300)])
    assert len(splits.split_rows(rows, 0, 0.05, 100).seen) == 15


def test_a_caption_with_too_many_clips_for_the_cap_is_not_unseen():
    rows = rows_of([(f"caption {n % 4}", n, None) for n in range(400)])
    split = splits.split_rows(rows, 0, 0.05, 50)
    assert split.unseen == [] and len(split.seen) == 20
    assert any(note.startswith("unseen: 0 rows of 20 aimed at") and "100 rows or more, and HELDOUT_MAX is 50" in note
               for note in split.notes)


@pytest.mark.parametrize(("specs", "settings", "note"), [
    (tiny(), (0, 0.05, 100),
     f"nothing is held out: 0.05 (HELDOUT_SHARE) of {len(tiny())} rows is less than half a row"),
    (few_captions(), (0, 0.0, 100), "nothing is held out: HELDOUT_SHARE is 0"),
    (few_captions(), (0, 0.05, 0), "nothing is held out: HELDOUT_MAX is 0"),
    (unique_captions(), (0, 0.05, 100), "seen: 0 rows of 15 aimed at: no caption has two clips"),
])
def test_notes_say_what_is_missing(specs, settings, note):
    split = splits.split_rows(rows_of(specs), *settings)
    assert any(note in text for text in split.notes)
    if "nothing" in note:
        assert len(split.train) == len(specs) and split.kinds == {}


def test_full_parts_need_no_note():
    assert splits.split_rows(rows_of([(f"c {n // 5}", n, None) for n in range(1000)]), 0, 0.05, 100).notes == []


MADE_WITH = {"seed": 3, "share": 0.05, "cap": 50, "codebook_size": None, "max_seq_len": 512, "denoise": True}


@pytest.fixture
def prepared_data(tmp_path):
    records = [{"text_query": f"caption {n // 5}", "motion_tokens": [n, n // 9], "participant_id": n % 3}
               | ({"clip_id": f"c{n}"} if n % 2 else {}) for n in range(100)]
    report = read(tmp_path, records)
    split = splits.split_rows(report.rows, 3, 0.05, 50)
    folder = tmp_path / "deep" / "prepared"
    prepared.prepare(report, split, folder, MADE_WITH, "what is in it")
    return report, split, folder


def test_what_is_prepared_is_loaded_memory_mapped(prepared_data):
    report, split, folder = prepared_data
    table = prepared.load_prepared(folder)
    names = ("index", "text_query", "codes", "participant_id", "clip_id")
    assert sorted(tuple(row[name] for name in names) for row in table) == list(map(content, report.rows))
    assert table.features["codes"].feature.dtype == "int32" and table.cache_files
    for part in splits.PARTS:
        assert prepared.load_prepared(folder, part)["index"][:] == getattr(split, part)
        chunks = prepared.PreparedChunks(folder, part)
        assert [int(place) for chunk in chunks for place in chunk.index] == getattr(split, part)
    assert {row["index"]: row["kind"] for row in table if row["split"] != "train"} == split.kinds
    unseen = prepared.load_prepared(folder, "test", "unseen")["index"][:]
    assert unseen == [place for place in split.test if split.kinds[place] == "unseen"] and unseen
    assert sorted(path.name for path in folder.parent.iterdir()) == ["prepared"]


def test_parts_without_rows_are_loaded_as_empty_tables(tmp_path):
    report = read(tmp_path, [GOOD] * 5)
    prepared.prepare(report, splits.split_rows(report.rows, 0, 0.0, 100), tmp_path / "prepared", MADE_WITH)
    assert [len(prepared.load_prepared(tmp_path / "prepared", part)) for part in splits.PARTS[:4]] == [5, 0, 0, 0]


def test_prepared_data_matches_only_its_file_and_settings(prepared_data, tmp_path):
    report, _, folder = prepared_data
    path = Path(report.path)
    assert prepared.prepared_matches(folder, path, MADE_WITH)
    for name, value in (("seed", 4), ("share", 0.1), ("cap", 51), ("codebook_size", 512), ("max_seq_len", 511),
                        ("denoise", False)):
        assert not prepared.prepared_matches(folder, path, MADE_WITH | {name: value}), name
    assert not prepared.prepared_matches(tmp_path / "nowhere", path, MADE_WITH)
    assert not prepared.prepared_matches(folder, tmp_path / "other.json", MADE_WITH)
    assert prepared.prepared_info(folder)["sizes"]["train"] == len(prepared.load_prepared(folder, "train"))


def test_a_changed_byte_is_noticed_also_with_the_old_size_and_time(prepared_data):
    report, _, folder = prepared_data
    path = Path(report.path)
    content, times = path.read_bytes(), path.stat()
    path.write_bytes(content.replace(b"caption 7", b"caption 8", 1))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert path.stat().st_size == times.st_size and not prepared.prepared_matches(folder, path, MADE_WITH)
    path.write_bytes(content)
    assert prepared.prepared_matches(folder, path, MADE_WITH)


@pytest.mark.parametrize("damage", [lambda folder: (folder / "fingerprint.json").write_text("[1"),
                                    lambda folder: (folder / "fingerprint.json").write_text("[]"),
                                    lambda folder: (folder / "rows.arrow").unlink(),
                                    lambda folder: (folder / "rows.arrow").write_bytes(b"cut"),
                                    lambda folder: changed(folder / "rows.arrow", b"0", b"1")])
def test_damaged_prepared_data_is_not_used(prepared_data, damage):
    report, _, folder = prepared_data
    damage(folder)
    assert not prepared.prepared_matches(folder, report.path, MADE_WITH)


def changed(path: Path, old: bytes, new: bytes) -> None:
    """One byte of a file is another; its size is the same."""
    content = path.read_bytes()
    place = content.rindex(old)
    path.write_bytes(content[:place] + new + content[place + 1:])


def test_the_report_of_prepared_data_is_that_of_reading_the_file(prepared_data):
    report, split, folder = prepared_data
    again = prepared.prepared_report(folder)
    assert sorted(map(content, again.rows)) == list(map(content, report.rows))
    assert sorted(again.rows.participants) == sorted(report.rows.participants) == ["0", "1", "2"]
    assert data.format_report(again, split) == data.format_report(report, split)
    fields = set(vars(report)) - {"rows"}
    assert {name: getattr(again, name) for name in fields} == {name: getattr(report, name) for name in fields}
    assert prepared.prepared_info(folder)["text"] == "what is in it"


def test_preparing_again_replaces_also_after_a_kill(prepared_data, monkeypatch):
    report, _, folder = prepared_data
    other_split = splits.split_rows(report.rows, 4, 0.05, 50)

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("motion_llm.saving._replace", killed)
    with pytest.raises(KeyboardInterrupt):
        prepared.prepare(report, other_split, folder, MADE_WITH | {"seed": 4})
    monkeypatch.undo()
    assert prepared.prepared_info(folder)["made_with"]["seed"] == 3 and len(prepared.load_prepared(folder)) == 100
    prepared.prepare(report, other_split, folder, MADE_WITH | {"seed": 4})
    assert prepared.prepared_info(folder)["made_with"]["seed"] == 4
    assert prepared.load_prepared(folder, "test")["index"][:] == other_split.test
    assert sorted(path.name for path in folder.parent.iterdir()) == ["prepared"]


def test_what_cannot_be_prepared_or_loaded(prepared_data, tmp_path):
    _, split, folder = prepared_data
    with pytest.raises(data.DataError):
        prepared.prepare(read(tmp_path, [GOOD | {"text_query": ""}]), split, folder, MADE_WITH)
    with pytest.raises(FileNotFoundError):
        prepared.load_prepared(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="part 'val'"):
        prepared.load_prepared(folder, "val")


@pytest.mark.parametrize("count", [1, 2, 50, 30_000])
def test_components_of_a_chain_in_any_order(count):
    """The i-th node of the chain has the links i and i + 1; without every third link, components have three nodes."""
    order = np.random.default_rng(count).permutation(count)
    group = order // 3
    nodes = np.repeat(np.arange(count), 2)
    links = np.stack([order + group, order + group + 1], 1).reshape(-1)
    ids = splits.components(count, nodes, links)
    assert sorted(set(ids.tolist())) == list(range((count + 2) // 3))
    assert len(set(zip(ids.tolist(), group.tolist(), strict=True))) == (count + 2) // 3
    whole = splits.components(count, nodes, np.stack([order, order + 1], 1).reshape(-1))
    assert (whole == 0).all()
