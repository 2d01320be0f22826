"""bvh_reader.py: what programs in the field write beside the plain format, and large files in blocks."""

import re
import time
from pathlib import Path

import numpy as np
import pytest

from motion_llm.motion import bvh_reader
from motion_llm.motion.bvh import Bvh, read_bvh
from motion_llm.motion.skeleton import MotionError

PAIR = """HIERARCHY
ROOT Hips
{
  OFFSET 0 90 0
  CHANNELS 6 Xposition Yposition Zposition Zrotation Xrotation Yrotation
  JOINT LeftArm
  {
    OFFSET 20 0 0
    CHANNELS 3 Zrotation Xrotation Yrotation
    JOINT Hand
    {
      OFFSET 30 0 0
      CHANNELS 3 Zrotation Xrotation Yrotation
      End Site
      {
        OFFSET 8 0 0
      }
    }
  }
  JOINT RightArm
  {
    OFFSET -20 0 0
    CHANNELS 3 Zrotation Xrotation Yrotation
    JOINT Palm
    {
      OFFSET -30 0 0
      CHANNELS 3 Zrotation Xrotation Yrotation
    }
  }
}
MOTION
Frames: 3
Frame Time: 0.05
0 90 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0
1 90 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17
2 90 4 6 8 10 12 14 16 18 20 22 24 26 28 30 32 34
"""


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "clip.bvh"
    path.write_bytes(text.encode())
    return path


def joints_of(tmp_path: Path, text: str) -> np.ndarray:
    return read_bvh(written(tmp_path, text)).joints


@pytest.mark.parametrize(("old", "new"), [
    ("End Site\n", "End Site LeftHand_end\n"),
    ("End Site\n      {", "End Site Tip of it {"),
    ("JOINT Palm", "JOINT joint"), ("JOINT Palm", "JOINT Offset"), ("JOINT Palm", "JOINT Channels"),
    ("MOTION\nFrames: 3", "MOTION Frames: 3"),
    ("}\nMOTION\n", "} MOTION\n"),
    ("Frame Time: 0.05\n", "Frame Time: 0.05\n\n\n"),
    ("\n", "\r"),
])
def test_what_other_programs_write_is_read(tmp_path, old, new):
    assert old in PAIR
    assert np.array_equal(joints_of(tmp_path, PAIR.replace(old, new)), joints_of(tmp_path, PAIR))


@pytest.mark.parametrize("announced", [2, 4])
def test_one_frame_more_or_fewer_than_announced_is_a_warning(tmp_path, caplog, announced):
    assert len(joints_of(tmp_path, PAIR.replace("Frames: 3", f"Frames: {announced}"))) == 3
    assert f"3 frames, and line 32 announces {announced}" in caplog.text


@pytest.mark.parametrize(("announced", "frames"), [(1, 3), (1, 40), (2, 40)])
def test_many_more_frames_than_announced_are_refused_with_both_numbers(tmp_path, announced, frames):
    row = PAIR.rstrip().split("\n")[-1] + "\n"
    path = written(tmp_path, PAIR.replace("Frames: 3", f"Frames: {announced}") + row * (frames - 3))
    with pytest.raises(MotionError, match=f"line {33 + frames}: the file ends after {frames} frames, expected the "
                                          f"{announced} of line 32"):
        read_bvh(path)


@pytest.mark.parametrize(("old", "new", "line", "message"), [
    ("Frame Time: 0.05", "Frame Time: 30", 33, "30 frames a second are 'Frame Time: 0.033333333'"),
    ("Frame Time: 0.05", "Frame Time: 8.333", 33, "8.333 milliseconds 'Frame Time: 0.008333000'"),
    ("1 90 2 3", "1 90 2-3", 35,
     "17 values, expected 18; value 3 is '2-3', expected a number; is a space missing, '2 -3'"),
    ("1 90 2 3", "1,5 90 2 3", 35, "decimals are written with a point"),
    ("JOINT Palm", "JOINT LeftArm\n{ OFFSET 0 0 0 CHANNELS 0 }\nJOINT LeftArm", 26,
     "a second joint of the name 'LeftArm' under the same parent (the first is in line 24)"),
    ("JOINT Palm\n    {", "JOINT Offset\n", 24, "found 'Offset', expected a name after JOINT"),
])
def test_a_refusal_says_what_was_probably_meant(tmp_path, old, new, line, message):
    assert old in PAIR
    path = written(tmp_path, PAIR.replace(old, new, 1))
    with pytest.raises(MotionError, match=re.escape(f"{path}, line {line}: ") + ".*" + re.escape(message)) as error:
        read_bvh(path)
    assert len(str(error.value)) - len(str(path)) < 400


def test_two_joints_of_one_name_are_told_apart_by_their_parents(tmp_path, caplog):
    path = written(tmp_path, PAIR.replace("JOINT Palm", "JOINT Hand"))
    assert read_bvh(path).skeleton.names == ("Hips", "LeftArm", "Hand_LeftArm", "RightArm", "Hand_RightArm",
                                             "Hand_LeftArm_End")
    assert "2 joints of the name Hand" in caplog.text


def test_names_are_in_one_unicode_spelling(tmp_path):
    names = [read_bvh(written(tmp_path, PAIR.replace("Palm", spelling))).skeleton.names
             for spelling in ("Fu\u00df\u00e9", "Fu\u00dfe\u0301")]
    assert names[0] == names[1]


def test_bones_that_stand_in_the_position_channels_alone_make_the_rest_pose(tmp_path):
    """As some converters write them: all offsets are 0."""
    text = re.sub(r"OFFSET .*", "OFFSET 0 0 0", PAIR).replace(
        "CHANNELS 3 Z", "CHANNELS 6 Xposition Yposition Zposition Z")
    lines = text.rstrip().split("\n")
    bones = [(20, 0, 0), (30, 0, 0), (-20, 0, 0), (-30, 0, 0)]
    for i in (-3, -2, -1):
        values = lines[i].split()
        parts = [values[:6], *(list(map(str, bone)) + values[6 + 3 * j:9 + 3 * j] for j, bone in enumerate(bones))]
        lines[i] = " ".join(sum(parts, []))
    motion = read_bvh(written(tmp_path, "\n".join(lines)))
    assert motion.skeleton.offsets[1:] == pytest.approx(np.array(bones) / 100)  # that of the end site too is 0 there
    assert motion.joints == pytest.approx(joints_of(tmp_path, PAIR)[:, :-1], abs=1e-6)


def test_a_file_with_z_up_is_turned(tmp_path):
    text = PAIR.replace("OFFSET 0 90 0", "OFFSET 0 0 90")
    for y in ("0 90 0 0", "1 90 2 3", "2 90 4 6"):
        x, height, z, *rest = y.split()
        text = text.replace(y, " ".join([x, f"-{z}", height, *rest]))
    path = written(tmp_path, text)
    motion, original = read_bvh(path, up="z"), read_bvh(path)
    assert motion.joints[:, 0] == pytest.approx(joints_of(tmp_path, PAIR)[:, 0])
    path = written(tmp_path, text)
    assert motion.joints == pytest.approx(original.joints[..., [0, 2, 1]] * (1, 1, -1))
    # The rest pose turns too: its offsets and the rotations lead to the same joints.
    parents = motion.skeleton.parents
    for joint in range(1, 5):
        above = original.joints[:, parents[joint]]
        assert np.linalg.norm(original.joints[:, joint] - above, axis=-1) == pytest.approx(
            np.linalg.norm(motion.skeleton.offsets[joint]), abs=1e-6)
    with pytest.raises(MotionError, match="up is 'w', expected y, z, -y"):
        read_bvh(path, up="w")


def test_a_file_in_many_blocks_is_that_file(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    frames = "".join(" ".join(f"{value:.4f}" for value in row) + "\r\n" for row in rng.normal(size=(50, 18)))
    path = written(tmp_path, PAIR[:PAIR.index("Frames")].replace("\n", "\r\n")
                   + f"Frames: 50\r\nFrame Time: 0.05\r\n{frames}")
    whole = Bvh.read(path).values
    for block in (64, 97, 1000):
        monkeypatch.setattr(bvh_reader, "BLOCK", block)
        assert np.array_equal(Bvh.read(path).values, whole)
        assert np.array_equal(read_bvh(path).joints, Bvh.read(path).motion().joints)
    path.write_bytes(path.read_bytes()[:-3] + b"x\r\n")
    with pytest.raises(MotionError, match=f"line {33 + 50}: value 18 is"):
        Bvh.read(path)


def test_a_frame_over_several_lines_in_many_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(bvh_reader, "BLOCK", 32)
    path = written(tmp_path, re.sub(r"^((?:\S+ ){7})", r"\1\n", PAIR, flags=re.MULTILINE))
    assert np.array_equal(read_bvh(path).joints, joints_of(tmp_path, PAIR))


@pytest.mark.parametrize(("old", "new"), [
    ("        OFFSET 8 0 0\n", "        OFFSET 8 0 0\n        CHANNELS 0\n"), ("Frames: 3", "Frames: 3.0"),
    ("Frame Time: 0.05", "Frame Time: 0.05 s"), ("HIERARCHY", "# exported on a Monday\nHIERARCHY"),
    ("32 34\n", "32 34\n# end\n"), ("32 34\n", "32 34\n\x1a"),
])
def test_harmless_additions_are_read(tmp_path, old, new):
    assert old in PAIR
    assert np.array_equal(joints_of(tmp_path, PAIR.replace(old, new)), joints_of(tmp_path, PAIR))


@pytest.mark.parametrize(("content", "message"), [
    (b"\x1f\x8b\x08\x00", "a file packed by gzip: unpack it"), (b"\xff\xfeH\x00", "it looks like UTF-16"),
    (b"\x93NUMPY", "an array of numpy"),
    (PAIR.replace("1 90 2", "1 1e45 2").encode(), r"frame 1 \(from 0\) holds 1e\+45"),
    (PAIR.replace("CHANNELS 6", "CHANNELS 9").encode(), "scales are not read"),
    (PAIR.replace("0.05", "0,05").encode(), "0,05, expected seconds, more than 0; decimals are written with a point"),
])
def test_what_is_wrong_is_told_with_the_file_and_a_cure(tmp_path, content, message):
    (tmp_path / "clip.bvh").write_bytes(content)
    with pytest.raises(MotionError, match=r"clip\.bvh.*" + message):
        read_bvh(tmp_path / "clip.bvh")


def test_position_channels_that_are_all_0_do_not_collapse_the_figure(tmp_path, caplog):
    """As some programs write what they mean to be added to the offset."""
    text = PAIR.replace("CHANNELS 3 Z", "CHANNELS 6 Xposition Yposition Zposition Z")
    lines = text.rstrip().split("\n")
    for i in (-3, -2, -1):
        values = lines[i].split()
        lines[i] = " ".join(values[:6] + sum((["0", "0", "0"] + values[6 + 3 * j:9 + 3 * j] for j in range(4)), []))
    assert joints_of(tmp_path, "\n".join(lines)) == pytest.approx(joints_of(tmp_path, PAIR), abs=1e-6)
    assert "clip.bvh: 4 joints such as LeftArm have an offset, and position channels that are 0" in caplog.text


# ---------------------------------------------------------------- absurd sizes


def seconds_of(function) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def nested(count: int, name: str = "j{}") -> str:
    joints = "".join(f"{'JOINT' if i else 'ROOT'} {name.format(i)}\n{{\nOFFSET 0 1 0\nCHANNELS 1 Xrotation\n"
                     for i in range(count))
    return f"HIERARCHY\n{joints}" + "}\n" * count + "MOTION\nFrames: 1\nFrame Time: 0.05\n" + "0 " * count


@pytest.mark.parametrize("change", [
    lambda text: text.replace("MOTION", 300_000 * "\n" + "MOTION"), lambda text: 300_000 * "\n" + text,
    lambda text: text.replace("MOTION", 300_000 * "# \n" + "MOTION"), lambda text: text + 300_000 * "\n",
    lambda text: text.replace("Frames", 300_000 * " \n" + "Frames"),
    lambda text: text.replace("Frame Time", 300_000 * "\n" + "Frame Time"), lambda text: text + 300_000 * " "])
def test_blank_lines_take_no_quadratic_time(tmp_path, change):
    path = written(tmp_path, change(PAIR))
    assert seconds_of(lambda: read_bvh(path)) < 10  # a tenth of a second, where quadratic time is a quarter of an hour
    assert len(read_bvh(path)) == 3


@pytest.mark.parametrize(("text", "message"), [
    (nested(100_000), "line 20003: a figure of more than 5,000 joints"),
    (nested(100_000, "same"), "a figure of more than 5,000 joints"),
    (nested(3, "l " * 100_000), "line 2: ROOT l l l l l ... has a name of more than 1000 characters, expected {"),
    (nested(3, "l" * 100_000), "has a name of more than 1000 characters"),
    (nested(3).replace("MOTION", "}" * 1_000_000 + "\nMOTION"), "found '}' after the figure's last brace"),
    (nested(3).replace("MOTION", "\n" * 9_000_000), "no MOTION in the first 9,000,184 bytes"),
    (PAIR.replace("Hips", "x" * 900).replace("OFFSET 20 0 0", "OFFSET 20 0 y" + "z" * 100_000), "expected a number"),
    (nested(3) + "\n" + "x" * 100_000, "is 'xxx"),
])
def test_figures_of_absurd_sizes_are_refused_at_once(tmp_path, text, message):
    path = written(tmp_path, text)
    started = time.perf_counter()
    with pytest.raises(MotionError, match=re.escape(message)) as error:
        read_bvh(path)
    assert time.perf_counter() - started < 10 and len(str(error.value)) < 600


def test_a_figure_of_thousands_of_joints_is_read(tmp_path):
    motion = read_bvh(written(tmp_path, nested(4999)))
    assert len(motion.skeleton.names) == 4999 and motion.joints.shape == (1, 4999, 3)


def test_more_poses_than_memory_holds_are_refused(tmp_path, monkeypatch):
    """A thousand joints without channels: a value stands for a thousand poses."""
    monkeypatch.setattr(bvh_reader, "MOST_POSES", 5000)
    text = nested(1000).replace("CHANNELS 1 Xrotation", "CHANNELS 0").replace("CHANNELS 0", "CHANNELS 1 Xrotation", 1)
    text = text.partition("Frames")[0]
    assert len(read_bvh(written(tmp_path, text + "Frames: 4\nFrame Time: 0.05\n" + "0\n" * 4))) == 4
    with pytest.raises(MotionError, match="9 frames of 1,000 joints, expected at most 5 frames: cut the recording"):
        read_bvh(written(tmp_path, text + "Frames: 9\nFrame Time: 0.05\n" + "0\n" * 9))


def test_frames_come_in_small_parts(tmp_path, monkeypatch):
    expected = joints_of(tmp_path, PAIR)
    monkeypatch.setattr(bvh_reader, "POSES", 10)  # two frames of five joints
    reader = bvh_reader.BvhReader(written(tmp_path, PAIR))
    assert [len(values) for values in reader.chunks()] == [2, 1]
    assert np.array_equal(joints_of(tmp_path, PAIR), expected)


def test_a_line_has_a_longest_size(tmp_path, monkeypatch):
    monkeypatch.setattr(bvh_reader, "BLOCK", 1000)
    monkeypatch.setattr(bvh_reader, "LONGEST_LINE", 3000)
    path = written(tmp_path, PAIR + "0 " * 5000)
    with pytest.raises(MotionError, match=r"line 37: a line of more than 3,000 bytes"):
        read_bvh(path)
    with pytest.raises(MotionError, match=r"no frame in the first \d,\d+ bytes"):
        read_bvh(written(tmp_path, PAIR.partition("0 90 0 0")[0] + "0 " * 5000))
