"""rest_pose.py: the same joints in every frame, told from a T-pose; figures whose limbs cannot be told are refused."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rig import RIG, moving
from walker import WALKER, walk

from motion_llm.motion.bvh import read_bvh, write_bvh
from motion_llm.motion.features import rest_pose
from motion_llm.motion.kinematics import best_rotation, forward_kinematics, local_positions, matrices_of
from motion_llm.motion.rest_pose import Limbs, in_t_pose, reposed
from motion_llm.motion.skeleton import Motion, MotionError, Skeleton

REAL = Path(__file__).parents[3] / "shared" / "data" / "real" / "bvh"


def directions(skeleton: Skeleton) -> dict[str, np.ndarray]:
    """Joint -> direction of the bone to it in the rest pose."""
    lengths = np.linalg.norm(skeleton.offsets, axis=1, keepdims=True)
    return dict(zip(skeleton.names, skeleton.offsets / np.maximum(lengths, 1e-9), strict=True))


def joints_again(motion: Motion) -> np.ndarray:
    """Joints (T, J, 3) from the rotations and, but for the root and the hips, the rest offsets."""
    places = np.broadcast_to(motion.skeleton.offsets, motion.joints.shape).copy()
    places[:, :2] = local_positions(motion)[0][:, :2]
    return forward_kinematics(motion.rotations, places, motion.skeleton.parents)


def test_a_t_pose_has_arms_aside_legs_down_feet_ahead_and_spine_and_head_up():
    skeleton = in_t_pose(moving(RIG)).skeleton
    expected = {"Spine": (0, 1, 0), "Chest": (0, 1, 0), "Neck": (0, 1, 0), "Head": (0, 1, 0)}
    for side, x in (("Left", 1), ("Right", -1)):
        expected |= {f"{side}{name}": (x, 0, 0) for name in ("Arm", "ForeArm", "Hand", "UpLeg")}
        expected |= {f"{side}Leg": (0, -1, 0), f"{side}Foot": (0, -1, 0), f"{side}Toe": (0, 0, 1)}
    told = directions(skeleton)
    np.testing.assert_allclose([told[name] for name in expected], list(expected.values()), atol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(skeleton.offsets, axis=1), np.linalg.norm(RIG.offsets, axis=1))
    pose = rest_pose(skeleton)
    np.testing.assert_allclose(pose[8:14], pose[14:20] * (-1, 1, 1), atol=1e-9)  # the right side mirrors the left


@pytest.mark.parametrize("motion", [moving(RIG), walk(), Motion(walk().joints, 30, WALKER)],
                         ids=["rig", "walker", "without rotations"])
def test_the_joints_of_every_frame_stay(motion):
    posed = in_t_pose(motion)
    np.testing.assert_allclose(posed.joints, motion.joints, atol=1e-6)
    np.testing.assert_allclose(joints_again(posed), motion.joints, atol=1e-6)


def test_the_t_pose_keeps_the_heading_of_the_rest_pose():
    quarter = matrices_of(np.array([90.0]), "Y")  # z to x: the figure faces x, its left is -z
    skeleton = in_t_pose(moving(Skeleton(RIG.names, RIG.parents, RIG.offsets @ quarter.T))).skeleton
    told = directions(skeleton)
    np.testing.assert_allclose([told["LeftArm"], told["RightHand"], told["LeftToe"]],
                               [(0, 0, -1), (0, 0, 1), (1, 0, 0)], atol=1e-9)


def test_a_rest_pose_that_is_no_pose_becomes_one():
    """Some exporters write each bone along an axis of its own joint: all offsets along x, on the right along -x."""
    turns = np.stack([best_rotation(np.array([(0.0, 1, 0), (1, 0, 0)]), np.array([[(1, 0, 0), (0, -1, 0)]]))[0]
                      if i else np.eye(3) for i in range(len(RIG.names))])
    for joint, name in enumerate(RIG.names):
        if name.startswith("Right") and "Eye" not in name:
            turns[joint] = np.diag((-1.0, -1, 1)) @ turns[joint]
    odd = reposed(moving(RIG), turns)
    assert directions(odd.skeleton)["LeftLeg"][0] < -0.9 and directions(odd.skeleton)["RightLeg"][0] > 0.9
    told = directions(in_t_pose(odd).skeleton)
    np.testing.assert_allclose([told[name] for name in ("Spine", "LeftArm", "RightHand", "LeftLeg", "RightFoot")],
                               [(0, 1, 0), (1, 0, 0), (-1, 0, 0), (0, -1, 0), (0, -1, 0)], atol=1e-9)
    np.testing.assert_allclose(joints_again(in_t_pose(odd)), odd.joints, atol=1e-6)


def test_limbs_are_told_by_sides_and_by_what_is_long():
    limbs = Limbs.of(RIG)
    assert [RIG.names[limbs.pelvis], RIG.names[limbs.chest]] == ["Hips", "Chest"]
    assert [RIG.names[joint] for joint in limbs.legs[1]] == ["RHipJoint", "RightUpLeg", "RightLeg", "RightFoot",
                                                             "RightToe"]
    assert [RIG.names[joint] for joint in (*limbs.arms[0], *limbs.head)] == [
        "LeftShoulder", "LeftArm", "LeftForeArm", "LeftHand", "LeftIndex", "Neck", "Head"]
    thigh, shin = np.hypot(0.1, 0.4), np.sqrt(0.08 ** 2 + 0.4 ** 2 + 0.02 ** 2)
    assert limbs.leg_length(RIG) == pytest.approx(thigh + shin)


@pytest.mark.parametrize("skeleton", [
    replace(RIG, names=tuple(f"Bone{i:03d}" for i in range(len(RIG.names)))),
    Skeleton(RIG.names[:20], RIG.parents[:20], RIG.offsets[:20]),  # no legs; the eyes are no limbs
    Skeleton(("hips", "l_leg", "r_leg", "l_arm", "r_arm"), (-1, 0, 0, 0, 0), np.zeros((5, 3))),
], ids=["numbered", "no legs", "all on one joint"])
def test_a_figure_whose_limbs_cannot_be_told_is_refused(skeleton):
    with pytest.raises(MotionError, match="limbs cannot be told: expected legs, and arms that hang higher") as error:
        in_t_pose(moving(skeleton))
    assert len(str(error.value)) <= 300  # a path comes before it


@pytest.mark.skipif(not REAL.is_dir(), reason="the recordings are not here")
def test_real_clips_keep_their_joints(tmp_path):
    for source in sorted(REAL.glob("*.bvh"))[::8]:
        motion = read_bvh(source)
        posed = in_t_pose(motion)
        told = directions(posed.skeleton)
        np.testing.assert_allclose([told[name] for name in ("UpperArm_L", "Hand_R", "LowerLeg_L", "Toes_R", "Neck")],
                                   [(1, 0, 0), (-1, 0, 0), (0, -1, 0), (0, 0, 1), (0, 1, 0)], atol=1e-6)
        write_bvh(tmp_path / "clip.bvh", posed)
        again = read_bvh(tmp_path / "clip.bvh")
        assert np.abs(again.joints - motion.joints).max() < 2e-6  # of it 0.5e-6 are float32 at 5 m
