"""bvh.py: joints match hand-computed ones for every rotation order, files round-trip, errors name the line."""

import re
from pathlib import Path

import numpy as np
import pytest

from motion_llm.motion.bvh import Bvh, read_bvh, write_bvh
from motion_llm.motion.skeleton import Motion, MotionError, Skeleton

REAL = Path(__file__).parents[3] / "shared" / "data" / "real" / "bvh"

# Images of x, y and z under a quarter turn about each axis; computed by hand, the last letter is applied first.
QUARTER_TURNS = {
    "XYZ": ((0, 0, 1), (0, -1, 0), (1, 0, 0)), "XZY": ((0, 1, 0), (-1, 0, 0), (0, 0, 1)),
    "YXZ": ((1, 0, 0), (0, 0, 1), (0, -1, 0)), "YZX": ((0, 1, 0), (1, 0, 0), (0, 0, -1)),
    "ZXY": ((-1, 0, 0), (0, 0, 1), (0, 1, 0)), "ZYX": ((0, 0, -1), (0, 1, 0), (1, 0, 0)),
}

CROSS = """HIERARCHY
ROOT Hips
{
  OFFSET 0 0 0
  CHANNELS 6 Xposition Yposition Zposition ORDER
  JOINT Right
  {
    OFFSET 10 0 0
    CHANNELS 0
    End Site
    {
      OFFSET 1 0 0
    }
  }
  JOINT Up
  {
    OFFSET 0 10 0
    CHANNELS 0
  }
  JOINT Ahead
  {
    OFFSET 0 0 10
    CHANNELS 0
  }
}
MOTION
Frames: 1
Frame Time: 0.0333333
100 200 300 90 90 90
"""

ARM = """HIERARCHY
ROOT Base
{
  OFFSET 5 0 0
  CHANNELS 1 Zrotation
  JOINT Elbow
  {
    OFFSET 10 0 0
    CHANNELS 3 Zrotation Yposition Xrotation
    JOINT Hand
    {
      OFFSET 0 10 0
      CHANNELS 0
      End Site
      {
        OFFSET 0 2 0
      }
    }
  }
}
MOTION
Frames: 2
Frame Time: 0.05
0 0 0 0
90 90 4 90
"""


def written(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "clip.bvh"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


@pytest.mark.parametrize("order", QUARTER_TURNS)
def test_turns_are_taken_in_the_order_of_the_channels(tmp_path, order):
    text = CROSS.replace("ORDER", " ".join(f"{axis}rotation" for axis in order))
    motion = read_bvh(written(tmp_path, text))
    assert motion.skeleton.names == ("Hips", "Right", "Up", "Ahead", "Right_End") and motion.fps == 30
    right, *_ = turns = np.array(QUARTER_TURNS[order])
    expected = np.array([1, 2, 3]) + 0.1 * np.array([(0, 0, 0), *turns, 1.1 * right])
    np.testing.assert_allclose(motion.joints[0], expected, atol=1e-12)
    np.testing.assert_allclose(motion.rotations[0, 0], np.array(QUARTER_TURNS[order]).T, atol=1e-12)


def test_any_channels_of_any_joint_in_any_order(tmp_path):
    motion = read_bvh(written(tmp_path, ARM), scale=1)
    assert motion.skeleton.names == ("Base", "Elbow", "Hand", "Hand_End")
    np.testing.assert_allclose(motion.joints[0], [(5, 0, 0), (15, 0, 0), (15, 10, 0), (15, 12, 0)])
    # Base is turned left: the elbow, which its Yposition puts at (10, 4), is at (-4, 10) from (5, 0). The elbow's
    # quarter turns about z, then x, raise the hand out of the plane.
    np.testing.assert_allclose(motion.joints[1], [(5, 0, 0), (1, 10, 0), (1, 10, 10), (1, 10, 12)], atol=1e-12)
    assert motion.fps == 20


@pytest.mark.parametrize("change", [
    lambda text: text.replace("\n", "\r\n"), lambda text: text.replace("\n", "\r"),
    lambda text: text.replace("\n", "\n\n").replace(" ", " \t "), lambda text: "\ufeff" + text.rstrip(),
    lambda text: text.replace("\n{", " {").replace("{\n", "{"), lambda text: text.replace("}\nMOTION", "} MOTION"),
    lambda text: text.replace("90 90 4 90", "90 90\n4\n90"), lambda text: text.replace("0\n90", "0 90"),
    lambda text: text.lower().replace("base", "Base").replace("elbow", "Elbow").replace("hand", "Hand"),
    lambda text: text.replace("90 90 4 90", "+90.0 9e1 4. .9E+2"), lambda text: text.replace("Frames: ", "Frames :\t"),
])
def test_odd_spacing_line_breaks_and_spelling_change_nothing(tmp_path, change):
    plain = read_bvh(written(tmp_path, ARM))
    odd = read_bvh(written(tmp_path, change(ARM)))
    assert odd.skeleton.names == plain.skeleton.names and odd.fps == plain.fps
    np.testing.assert_array_equal(odd.joints, plain.joints)


def test_a_name_of_several_words_and_one_that_is_a_word_of_the_format(tmp_path):
    path = written(tmp_path, ARM.replace("ROOT Base", "ROOT Root").replace("JOINT Hand", "JOINT Left  Hand"))
    assert Bvh.read(path).names == ("Root", "Elbow", "Left Hand")


@pytest.mark.parametrize("text", [ARM, CROSS.replace("ORDER", "Yrotation Xrotation Zrotation")])
def test_a_file_comes_back_as_it_was(tmp_path, text):
    first = Bvh.read(written(tmp_path, text))
    first.write(tmp_path / "again.bvh")
    second = Bvh.read(tmp_path / "again.bvh")
    for name in ("names", "parents", "channels", "frame_time"):
        assert getattr(first, name) == getattr(second, name)
    np.testing.assert_array_equal(first.offsets, second.offsets)
    np.testing.assert_allclose(first.values, second.values, atol=1e-6)
    assert {k: list(v) for k, v in first.end_sites.items()} == {k: list(v) for k, v in second.end_sites.items()}


@pytest.mark.parametrize("order", QUARTER_TURNS)
def test_a_written_motion_is_read_back(tmp_path, order):
    motion = read_bvh(written(tmp_path, ARM))  # the elbow leaves its rest offset: it needs position channels
    write_bvh(tmp_path / "again.bvh", motion, order=order)
    again = read_bvh(tmp_path / "again.bvh")
    np.testing.assert_allclose(again.joints, motion.joints, atol=1e-5)
    np.testing.assert_allclose(again.rotations, motion.rotations, atol=1e-6)
    np.testing.assert_allclose(again.skeleton.offsets, motion.skeleton.offsets)
    channels = Bvh.read(tmp_path / "again.bvh").channels
    assert [len(names) for names in channels] == [6, 6, 3]
    assert [name[0] for name in channels[2]] == list(order)


def test_written_angles_do_not_jump(tmp_path):
    turning = "\n".join(f"{angle} 0 0 0" for angle in range(0, 720, 30))
    motion = read_bvh(written(tmp_path, ARM.replace("0 0 0 0\n90 90 4 90", turning).replace("Frames: 2", "Frames: 24")))
    values = Bvh.of(motion).values
    assert np.abs(np.diff(values[:, 3:], axis=0)).max() < 31


def test_joints_are_written_depth_first_with_their_own_values(tmp_path):
    skeleton = Skeleton(("hips", "left", "right", "left foot", "right foot"), (-1, 0, 0, 1, 2),
                        np.array([(0, 0, 0), (1, 0, 0), (-1, 0, 0), (0, -1, 0), (0, -1, 0.0)]))
    joints = np.array([(0, 2, 0), (1, 2, 0), (-1, 2, 0), (1, 1, 0), (-1, 2, 1.0)])[None]  # the right foot kicks
    write_bvh(tmp_path / "clip.bvh", Motion(joints, 24, skeleton))
    again = read_bvh(tmp_path / "clip.bvh")
    assert again.skeleton.names == ("hips", "left", "left foot", "right", "right foot") and again.fps == 24
    np.testing.assert_allclose(again.joints, joints[:, [0, 1, 3, 2, 4]], atol=1e-6)


@pytest.mark.parametrize(("old", "new", "line", "message"), [
    ("ROOT Base\n{", "ROOT Base\n", 4, "found 'OFFSET', expected { after ROOT Base"),
    ("HIERARCHY\n", "", 1, "found 'ROOT', expected HIERARCHY"),
    ("ROOT Base", "JOINT Base", 2, "found 'JOINT', expected ROOT"),
    ("  OFFSET 5 0 0", "  OFFSET 5 0", 5, "OFFSET z of Base is 'CHANNELS', expected a number"),
    ("  OFFSET 5 0 0\n", "", 19, "Base ends without OFFSET"),
    ("  OFFSET 5 0 0", "  OFFSET 5 0 0 0", 4, "found '0' in joint Base"),
    ("  OFFSET 5 0 0", "  OFFSET 5 nan 0", 4, "OFFSET y of Base is 'nan'"),
    ("  OFFSET 5 0 0", "  OFFSET 5 0 0\n  OFFSET 5 0 0", 5, "found 'OFFSET' in joint Base a second time"),
    ("CHANNELS 1 Z", "CHANNELS 2 Z", 6, "found 'JOINT' as channel 2 of 2 of Base"),
    ("CHANNELS 1 Z", "CHANNELS 0 Z", 5, "channel 'Zrotation' of Base after the 0 that were announced"),
    ("CHANNELS 1 Z", "CHANNELS one Z", 5, "'one' channels of Base"),
    ("CHANNELS 1 Zrotation", "CHANNELS 1 Wrotation", 5, "found 'Wrotation' as channel 1 of 1 of Base"),
    ("CHANNELS 1 Zrotation", "CHANNELS 2 Zrotation zrotation", 5, "channel zrotation of Base a second time"),
    ("        OFFSET 0 2 0\n      }", "        OFFSET 0 2 0\n", 21, "found MOTION, expected } of Base"),
    ("}\nMOTION", "MOTION", 20, "found MOTION, expected } of Base"),
    ("}\nMOTION", "}\n}\nMOTION", 21, "found '}' after the figure's last brace, expected MOTION"),
    ("}\nMOTION", "}\nROOT Two\nMOTION", 21, "files of several figures are not read"),
    ("MOTION\n", "", 21, "found 'Frames:' after the figure's last brace, expected MOTION"),
    ("MOTION\nFrames: 2\nFrame Time: 0.05\n0 0 0 0\n90 90 4 90\n", "", 21, "the file ends without MOTION"),
    ("Frames: 2\n", "", 22, "found 'Frame Time: 0.05', expected \"Frames: \""),
    ("Frames: 2", "Frames: 0", 22, "Frames: 0, expected a whole number from 1 on"),
    ("Frames: 2", "Frames: two", 22, "Frames: two"),
    ("Frames: 2", "Frames: 4", 25, "the file ends after 2 frames, expected the 4 of line 22"),
    ("Frames: 2", "Frames: 900", 25, "the file ends after 2 frames, expected the 900 of line 22"),
    ("0 0 0 0\n90 90 4 90\n", "", 23, "the file ends after 0 frames, expected the 2"),
    ("Frame Time: 0.05", "Frame Time: 0", 23, "Frame Time: 0, expected seconds, more than 0"),
    ("Frame Time: 0.05", "Frame Time: nan", 23, "Frame Time: nan"),
    ("Frame Time: 0.05", "Frame Time: -0.05", 23, "Frame Time: -0.05"),
    ("90 90 4 90", "90 90 4", 25, "3 values, expected 4"),
    ("90 90 4 90", "90 90 4 90 1", 25, "5 values, expected 4"),
    ("0 0 0 0\n90 90 4 90", "0 0 0\n0 90 90 4 90", 24, "3 values, expected 4"),
    ("90 90 4 90", "90 90 4 x1", 25, "value 4 is 'x1', expected a number"),
    ("90 90 4 90", "90 nan 4 90", 25, "value 2 is 'nan'"), ("90 90 4 90", "90 90 1_0 90", 25, "value 3 is '1_0'"),
    ("90 90 4 90", "90 90 4 1e999", 25, "value 4 is '1e999'"), ("90 90 4 90", "90 4,5 4 90", 25, "value 2 is '4,5'"),
])
def test_a_broken_file_is_refused_by_line(tmp_path, old, new, line, message):
    assert ARM.count(old) >= 1
    path = written(tmp_path, ARM.replace(old, new, 1))
    with pytest.raises(MotionError, match=re.escape(f"{path}, line {line}: ") + ".*" + re.escape(message)):
        read_bvh(path)


def test_what_is_no_text_is_refused(tmp_path):
    for content, message in ((b"", "the file is empty"), (b" \n\t", "the file is empty"),
                             (b"HIERARCHY\nROOT \xff", "line 2: byte 0xff"),
                             (b"HIERARCHY\r\n\0", "line 2: a zero byte"),
                             (b"HIERARCHY", "line 1: the file ends, expected ROOT"),
                             (b"<bvh>", "line 1: found '<bvh>', expected HIERARCHY")):
        with pytest.raises(MotionError, match=re.escape(str(tmp_path / "clip.bvh")) + ".*" + re.escape(message)):
            read_bvh(written(tmp_path, content))
    still = re.sub(r"CHANNELS .*", "CHANNELS 0", ARM)
    with pytest.raises(MotionError, match="line 21: the figure has no channels"):
        read_bvh(written(tmp_path, still))


def test_what_cannot_be_written_is_refused(tmp_path):
    motion = read_bvh(written(tmp_path, ARM))
    with pytest.raises(MotionError, match="'ZXZ': expected X, Y and Z"):
        write_bvh(tmp_path / "no.bvh", motion, order="ZXZ")
    with pytest.raises(MotionError, match="scale 0"):
        write_bvh(tmp_path / "no.bvh", motion, scale=0)
    with pytest.raises(MotionError, match="scale nan"):
        read_bvh(tmp_path / "clip.bvh", scale=float("nan"))
    named = Skeleton(("a{", "b", "c", "d"), motion.skeleton.parents, motion.skeleton.offsets)
    with pytest.raises(MotionError, match=re.escape("a joint's name 'a{'")):
        write_bvh(tmp_path / "no.bvh", Motion(motion.joints, 20, named, motion.rotations))
    assert not (tmp_path / "no.bvh").exists()


@pytest.mark.skipif(not REAL.is_dir(), reason="the recordings are not here")
def test_real_clips_survive_writing_with_turns_and_from_joints_alone(tmp_path):
    for source in sorted(REAL.glob("*.bvh"))[::19]:
        motion = read_bvh(source)
        for rotations, limit in ((motion.rotations, 1e-6), (None, 1e-5)):  # metres; these bone lengths are constant
            write_bvh(tmp_path / "clip.bvh", Motion(motion.joints, motion.fps, motion.skeleton, rotations))
            again = read_bvh(tmp_path / "clip.bvh")
            assert np.abs(again.joints - motion.joints).max() < limit
            # six decimals of a centimetre
            np.testing.assert_allclose(again.skeleton.offsets, motion.skeleton.offsets, atol=5.1e-9)


@pytest.mark.skipif(not REAL.is_dir(), reason="the recordings are not here")
def test_joints_lie_where_another_reader_puts_them():
    bvhio = pytest.importorskip("bvhio")
    for path in sorted(REAL.glob("*.bvh"))[::19]:
        motion = read_bvh(path)
        root = bvhio.readAsHierarchy(str(path))
        joints = {joint.Name: joint for joint, _, _ in root.layout()}
        for frame in range(0, len(motion), 25):
            root.loadPose(frame)
            positions = [[*joints[name].PositionWorld] for name in motion.skeleton.names]
            np.testing.assert_allclose(np.array(positions) * 0.01, motion.joints[frame], atol=1e-5)
