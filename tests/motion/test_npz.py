"""npz.py: AMASS files that are read back as the same motion; other figures are refused."""

import numpy as np
import pytest
from rig import RIG, moving

from motion_llm.motion import humanml3d
from motion_llm.motion.amass import read_amass
from motion_llm.motion.bvh import read_bvh, write_bvh
from motion_llm.motion.kinematics import matrices_of
from motion_llm.motion.npz import axis_angles_of, write_amass
from motion_llm.motion.skeleton import MotionError, Skeleton

SMPL = Skeleton(humanml3d.NAMES, humanml3d.PARENTS, humanml3d.OFFSETS)


def test_a_motion_of_the_mean_body_comes_back(tmp_path):
    motion = moving(SMPL, most=170)
    write_amass(tmp_path / "clip.npz", motion)
    again = read_amass(tmp_path / "clip.npz")
    assert again.fps == 30 and again.skeleton.names == SMPL.names
    np.testing.assert_allclose(again.joints, motion.joints, atol=1e-6)
    np.testing.assert_allclose(again.rotations, motion.rotations, atol=1e-6)


def test_the_file_is_as_amass_has_it(tmp_path):
    motion = moving(SMPL, frames=3)
    motion.joints[:] += (1, 2, 3)
    write_amass(tmp_path / "clip.npz", motion)
    with np.load(tmp_path / "clip.npz", allow_pickle=False) as file:
        content = {name: file[name] for name in file.files}
    assert {name: (array.shape, array.dtype.kind) for name, array in content.items()} == {
        "poses": ((3, 156), "f"), "trans": ((3, 3), "f"), "betas": ((16,), "f"), "gender": ((), "U"),
        "mocap_framerate": ((), "f"), "mocap_frame_rate": ((), "f")}
    assert not content["poses"][:, 66:].any() and not content["betas"].any() and content["gender"] == "neutral"
    assert content["mocap_framerate"] == content["mocap_frame_rate"] == 30
    left, up, ahead = motion.joints[:, 0].T  # z up: ahead is -y; SMPL-H's pelvis is at (0, -0.24, 0.03) without trans
    np.testing.assert_allclose(content["trans"], np.stack([left, 0.24 - ahead, up - 0.03], 1), atol=1e-9)


def test_an_upright_figure_is_a_quarter_turn_about_x(tmp_path):
    write_amass(tmp_path / "clip.npz", moving(SMPL, most=0))
    with np.load(tmp_path / "clip.npz") as file:
        np.testing.assert_allclose(file["poses"][:, :66], [[np.pi / 2] + [0] * 65] * 20, atol=1e-6)


def test_joints_in_another_order_and_larger_come_back_in_the_mean_bodys_size(tmp_path):
    motion = moving(Skeleton(SMPL.names, SMPL.parents, 1.2 * SMPL.offsets))
    write_bvh(tmp_path / "clip.bvh", motion)  # depth first
    again = read_bvh(tmp_path / "clip.bvh")
    assert again.skeleton.names != SMPL.names
    write_amass(tmp_path / "clip.npz", again)
    np.testing.assert_allclose(read_amass(tmp_path / "clip.npz").joints, motion.joints / 1.2, atol=2e-6)


@pytest.mark.parametrize(("skeleton", "wrong"), [
    (RIG, "pelvis, left_hip, .* and 46 more"),
    (Skeleton((*SMPL.names[:-1], "right_hand"), SMPL.parents, SMPL.offsets), "right_wrist, right_hand"),
    (Skeleton(SMPL.names, (*SMPL.parents[:-1], 9), SMPL.offsets), "right_wrist"),
])
def test_other_figures_are_refused(skeleton, wrong, tmp_path):
    with pytest.raises(MotionError, match=f"clip.npz: an AMASS file holds SMPL's body, .* besides them: {wrong}$") as e:
        write_amass(tmp_path / "clip.npz", moving(skeleton))
    assert not (tmp_path / "clip.npz").exists() and len(str(e.value)) <= 400


def test_axis_angles():
    angles = np.array([[0, 0, 0], [1e-7, 0, 0], [90, 0, 0], [0, 180, 0], [0, 0, -179.9], [0, -120, 0]], float)
    np.testing.assert_allclose(np.degrees(axis_angles_of(matrices_of(angles, "XYZ"))), angles, atol=1e-6)
