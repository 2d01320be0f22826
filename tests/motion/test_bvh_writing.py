"""What bvh.py writes is what other programs' readers take: plain decimals, a frame time that gives the rate again."""

import re

import numpy as np
import pytest
from walker import WALKER, walk

from motion_llm.motion.bvh import Bvh, read_bvh, write_bvh
from motion_llm.motion.kinematics import matrices_of
from motion_llm.motion.skeleton import Motion, Skeleton


def numbers_in(path) -> list[str]:
    """All numbers of offsets and frames."""
    text = path.read_text()
    frames = text[text.index("Frame Time"):].split("\n", 1)[1]
    return [word for line in re.findall(r"OFFSET (.*)", text) for word in line.split()] + frames.split()


def test_numbers_are_plain_decimals_of_six_places(tmp_path):
    motion = walk()
    joints = motion.joints + np.array([1e-9, -1e-9, -4e-7])  # metres: written as 0 of any sign, or as 1e-07
    tiny = Skeleton(WALKER.names, WALKER.parents, WALKER.offsets + np.array([0, 0, -1e-9]))
    write_bvh(tmp_path / "clip.bvh", Motion(joints, 30, tiny, motion.rotations))
    words = numbers_in(tmp_path / "clip.bvh")
    assert len(words) > 60 * (3 + 3 * 11)
    assert all(re.fullmatch(r"-?\d+\.\d{6}", word) for word in words)
    assert "-0.000000" not in words and "0.000000" in words


def test_the_frames_are_the_motion_to_ten_nanometres(tmp_path):
    motion = walk()
    bvh = Bvh.of(motion)
    bvh.write(tmp_path / "clip.bvh")
    again = Bvh.read(tmp_path / "clip.bvh")
    assert np.abs(again.values - bvh.values).max() <= 0.5e-6 + 1e-12
    assert np.abs(read_bvh(tmp_path / "clip.bvh").joints - motion.joints).max() < 1e-6


@pytest.mark.parametrize(("fps", "text"), [(120, "0.008333333"), (20, "0.050000000"), (30, "0.033333333"),
                                           (24000 / 1001, None), (29.97, None), (7.5, None)])
def test_the_rate_is_read_back_exactly(fps, text, tmp_path):
    motion = walk(3)
    write_bvh(tmp_path / "clip.bvh", Motion(motion.joints, fps, motion.skeleton, motion.rotations))
    (written,) = re.findall("Frame Time: (.*)", (tmp_path / "clip.bvh").read_text())
    assert re.fullmatch(r"\d+\.\d{9,}", written) and written == (text or written)
    assert read_bvh(tmp_path / "clip.bvh").fps == pytest.approx(fps, rel=0 if text else 3e-16)  # 1 / (1 / 29.97)


def test_a_frame_time_of_a_file_is_kept(tmp_path):
    write_bvh(tmp_path / "clip.bvh", walk(3))
    text = (tmp_path / "clip.bvh").read_text()
    (tmp_path / "clip.bvh").write_text(text.replace("Frame Time: 0.033333333", "Frame Time: 0.0416667"))
    Bvh.read(tmp_path / "clip.bvh").write(tmp_path / "again.bvh")
    assert Bvh.read(tmp_path / "again.bvh").frame_time == 0.0416667


def test_a_joint_far_from_the_origin_gets_no_position_channels_from_rounding(tmp_path):
    """Joints that were read are float32: far away, their distances are rounded by more than a micrometre."""
    motion = walk(30)
    far = Motion((motion.joints + [60, 0, -80]).astype(np.float32), 30, WALKER, motion.rotations.astype(np.float32))
    channels = Bvh.of(far).channels
    assert [len(names) for names in channels] == [6, 6] + [3] * 9


def test_angles_of_float32_rotations_at_gimbal_lock_are_the_rotations(tmp_path):
    """At an X angle of almost 90 degrees the two others are known together alone."""
    angles = np.stack([np.linspace(-170, 170, 41), 90 - np.geomspace(1e-5, 1, 41), np.linspace(100, -150, 41)], -1)
    rotations = matrices_of(angles, "ZXY")[:, None].astype(np.float32)
    one = Skeleton(("a",), (-1,), np.zeros((1, 3)))
    write_bvh(tmp_path / "clip.bvh", Motion(np.zeros((41, 1, 3)), 30, one, rotations))
    assert np.abs(read_bvh(tmp_path / "clip.bvh").rotations - rotations).max() < 1e-6
