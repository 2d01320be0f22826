"""clip_files.py: a folder of motions is read a file at a time, and what its files do not have in common is said."""

import json
import re
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from walker import NAMES, PARENTS, WALKER, walk, walks

from motion_llm.motion.bvh import SCALE, write_bvh
from motion_llm.motion.clip_files import MotionFiles
from motion_llm.motion.codec import MotionCodec
from motion_llm.motion.skeleton import Motion, MotionError, Skeleton
from motion_llm.motion.survey import survey


def folder_of(tmp_path: Path, **motions: Motion) -> Path:
    for name, motion in motions.items():
        path = tmp_path / f"{name.replace('__', '/')}.bvh"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bvh(path, motion)
    return tmp_path


def surveyed(tmp_path: Path, **options):
    files = MotionFiles(tmp_path, **options)
    return survey(files, files.ids)


def test_folders_in_a_folder_are_read_and_files_of_one_name_are_several_clips(tmp_path, caplog):
    files = MotionFiles(folder_of(tmp_path, GRAB__s1__lift=walk(10), GRAB__s2__lift=walk(12), idle=walk(8)))
    assert files.ids == ["GRAB/s1/lift", "GRAB/s2/lift", "idle"] and [len(motion) for motion in files] == [10, 12, 8]
    (tmp_path / "GRAB" / "._lift.bvh").write_bytes(b"\0\5\26\7")  # as macOS writes it beside a file
    assert MotionFiles(tmp_path).ids == files.ids
    assert "1 files whose names start with a dot are left out (._lift.bvh)" in caplog.text


def test_two_formats_of_one_clip_are_refused(tmp_path):
    folder_of(tmp_path, a=walk(8))
    np.save(tmp_path / "a.npy", walk(8).joints)
    with pytest.raises(MotionError, match=r"a\.bvh and a\.npy are one clip, a: give each its own name"):
        MotionFiles(tmp_path)


def test_a_folder_without_motions_says_what_it_looked_for(tmp_path):
    (tmp_path / "take.fbx").touch()
    with pytest.raises(MotionError, match=r"no motions: no file in it or in its folders ends with \.bvh"):
        MotionFiles(tmp_path)
    with pytest.raises(MotionError, match="is no folder"):
        MotionFiles(tmp_path / "take.fbx")


def test_a_name_is_found_in_either_unicode_spelling(tmp_path):
    folder_of(tmp_path, **{unicodedata.normalize("NFD", "lächeln"): walk(8)})
    files = MotionFiles(tmp_path)
    assert files.find(unicodedata.normalize("NFC", "lächeln.bvh")) == 0 and files.ids == ["lächeln"]


@pytest.mark.parametrize(("name", "found"), [
    ("S 01/Walk 0.bvh", "S 01/Walk 0"), ("S 01\\Walk 0.bvh", "S 01/Walk 0"), ("S 01/../idle.bvh", "idle"),
    ("idle", "idle"), ("S 01/Walk 0", "S 01/Walk 0"),
    ("S 01/walk 0.bvh", r"walk 0.bvh does not exist; did you mean S 01/Walk 0.bvh\?"),
    ("idel.bvh", "did you mean idle.bvh"), ("zzz.bvh", "does not exist; there are S 01/Walk 0.bvh, idle.bvh"),
    ("notes.txt", "is no motion file in"), ("../outside.bvh", "outside.bvh is no motion file in .* and its folders"),
])
def test_a_name_in_captions_is_found_or_told_what_it_may_be(tmp_path, name, found):
    files = MotionFiles(folder_of(tmp_path / "clips", **{"S 01__Walk 0": walk(8), "idle": walk(8)}))
    (tmp_path / "clips" / "notes.txt").touch()
    write_bvh(tmp_path / "outside.bvh", walk(8))
    if found in files.ids:
        assert files.ids[files.find(name)] == found
    else:
        with pytest.raises(MotionError, match=found):
            files.find(name)


def test_links_are_followed_once_and_other_formats_are_said(tmp_path, caplog):
    folder = folder_of(tmp_path / "clips", near=walk(8))
    folder_of(tmp_path / "elsewhere", deep=walk(8))
    (folder / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "round").symlink_to(folder)
    (folder / "take.fbx").touch()
    assert MotionFiles(folder).ids == ["link/deep", "near"]
    assert "1 files of formats that are not read are left out (take.fbx)" in caplog.text


def larger(motion: Motion, factor: float) -> Motion:
    skeleton = Skeleton(motion.skeleton.names, motion.skeleton.parents, motion.skeleton.offsets * factor)
    return Motion(motion.joints * factor, motion.fps, skeleton, motion.rotations)


@pytest.mark.parametrize("factor", [0.01, 1 / 39.37, 100])
def test_a_file_in_another_unit_is_refused(tmp_path, factor):
    folder_of(tmp_path, a=walk(), b=larger(walk(), factor), c=walk())
    with pytest.raises(MotionError, match=r"^b: the figure is about .* m high, the others are 1\.7 m: in another unit"):
        surveyed(tmp_path)


def test_people_of_several_sizes_are_a_warning(tmp_path, caplog):
    folder_of(tmp_path, a=walk(), b=walk(), child=larger(walk(), 0.7))
    surveyed(tmp_path)
    assert "1 of 3 figures are of another size than 1.7 m, such as child with 1.2 m" in caplog.text


def test_the_size_does_not_come_from_the_rest_pose(tmp_path, caplog):
    """A rest pose with all bones along one axis, as LAFAN1's files have it."""
    bones = np.linalg.norm(WALKER.offsets, axis=1)
    along_x = Skeleton(NAMES, PARENTS, np.stack([bones, bones * 0, bones * 0], 1) * [1, 0, 0])
    motion = walk()
    write_bvh(tmp_path / "a.bvh", Motion(motion.joints, motion.fps, along_x))
    surveyed(tmp_path)
    assert "high" not in caplog.text and "another size" not in caplog.text


def test_files_at_other_rates_are_said(tmp_path, caplog):
    folder_of(tmp_path, a=walk(), b=walk(), fast=walk(fps=120), slow=walk(fps=2))
    assert surveyed(tmp_path).fps == 30
    assert "2 files at 30, 1 at 120 (fast), 1 at 2 (slow) frames a second: all are resampled to 30" in caplog.text
    assert "1 files say 2 frames a second, such as slow" in caplog.text


def test_figures_that_lie_are_said_and_turned_up(tmp_path, caplog):
    turn = np.array([(1, 0, 0), (0, 0, -1), (0, 1, 0)])  # y up to z up
    motion = walk()
    skeleton = Skeleton(NAMES, PARENTS, WALKER.offsets @ turn.T)
    lying = Motion(motion.joints @ turn.T, 30, skeleton, turn @ motion.rotations @ turn.T)
    folder_of(tmp_path, a=lying)
    surveyed(tmp_path)
    assert "1 of 1 figures lie along z, such as that of a" in caplog.text and "--up z" in caplog.text
    caplog.clear()
    assert surveyed(tmp_path, up="z").layout.skeleton.offsets == pytest.approx(WALKER.offsets, abs=1e-6)
    assert caplog.text == ""


def test_figures_on_their_heads_are_said_and_turned_up(tmp_path, caplog):
    """As from the coordinates of a camera, whose y points down."""
    figure = Skeleton(tuple("head" if name == "spine" else name for name in NAMES), PARENTS, WALKER.offsets)
    down = walk().joints * (1, -1, -1)
    np.save(tmp_path / "clip.npy", down)
    (tmp_path / "skeleton.json").write_text(json.dumps({"names": figure.names, "parents": figure.parents}))
    surveyed(tmp_path)
    assert "1 of 1 figures stand on their heads, such as that of clip" in caplog.text and "--up=-y" in caplog.text
    caplog.clear()
    files = MotionFiles(tmp_path, up="-y")
    survey(files, files.ids)
    assert caplog.text == "" and files[0].joints == pytest.approx(walk().joints, abs=1e-6)


def test_a_body_that_jumps_is_said(tmp_path, caplog):
    """A frame at the origin before the recording, as many programs write it."""
    motion = walk(start=(5.0, 0, 0))
    joints = np.concatenate([motion.joints[:1] - (5, 0, 0), motion.joints])
    rotations = np.concatenate([motion.rotations[:1], motion.rotations])
    folder_of(tmp_path, good=walk(), jump=Motion(joints, 30, WALKER, rotations))
    surveyed(tmp_path)
    assert "1 of 2 figures jump, such as that of jump: 150 m/s before frame 1" in caplog.text


def test_a_codec_of_a_folder_is_that_of_its_motions(tmp_path, caplog):
    motions = walks(3)
    for i, motion in enumerate(motions):
        write_bvh(tmp_path / f"{i}.bvh", motion)
    files = MotionFiles(tmp_path, scale=SCALE)
    with caplog.at_level("INFO"):
        codec = MotionCodec.fit(files, 16, kind="kmeans")
    assert "to 3 motions, 6 seconds at 30 frames a second, and their mirror images" in caplog.text  # all are used
    assert [codec.encode(motion) for motion in files] == [codec.encode(motion) for motion in motions]


def test_where_features_do_not_fit_into_memory_the_codec_is_fitted_to_some(caplog, monkeypatch):
    import psutil

    free = type("Memory", (), {"available": 100_000})  # bytes; the features of one clip take 16,560 with mirror image
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
    codec = MotionCodec.fit(walks(6), 16, kind="kmeans")
    assert codec.codes == 16 and re.search(r"features of 6 clips would take .* fitted to 2 clips", caplog.text)


def test_notes_on_files_that_are_alike_are_said_a_few_times(tmp_path, caplog):
    for i in range(9):
        write_bvh(tmp_path / f"{i}.bvh", walk(20))
        text = (tmp_path / f"{i}.bvh").read_text().replace("Frames: 20", "Frames: 21")
        (tmp_path / f"{i}.bvh").write_text(text)
    files = MotionFiles(tmp_path)
    MotionCodec.fit(files, 8, kind="kmeans")
    assert caplog.text.count("announces 21") == 3 and "the same of other files is not said" in caplog.text


@pytest.mark.parametrize("name", ["../outside.bvh", "../../etc/passwd", "/etc/hostname", "a/../../outside"])
def test_a_name_that_leads_out_of_the_folder_is_refused(tmp_path, name):
    write_bvh(tmp_path / "outside.bvh", walk(8))
    files = MotionFiles(folder_of(tmp_path / "clips", a=walk(8)))
    with pytest.raises(MotionError, match="it leads out of it, expected a name below it"):
        files.find(name)
    assert files.find("b/../a.bvh") == 0


def test_a_link_that_the_user_made_may_lead_out(tmp_path):
    write_bvh(tmp_path / "outside.bvh", walk(8))
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "a.bvh").symlink_to(tmp_path / "outside.bvh")
    assert len(MotionFiles(tmp_path / "clips")[0]) == 8
