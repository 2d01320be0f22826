"""kinematics.py: angles and back in every order, rotations from joints, another frame rate."""

import itertools
import re

import numpy as np
import pytest

from motion_llm.motion.kinematics import (
    angles_of,
    best_rotation,
    body_centre,
    forward_kinematics,
    matrices_of,
    quaternions_of,
    resampled,
    rotations_from_joints,
    slerp,
    smallest_rotation,
    with_rotations,
)
from motion_llm.motion.skeleton import Motion, MotionError, Skeleton

ORDERS = ["".join(order) for order in itertools.permutations("XYZ")]

# A root on the floor, hips on it with a spine and two legs; a leg is a chain.
FIGURE = Skeleton(("floor", "hips", "spine", "left hip", "left knee", "left foot", "right hip", "right knee"),
                  (-1, 0, 1, 1, 3, 4, 1, 6),
                  np.array([(0, 0, 0), (0, 0.9, 0), (0, 0.3, 0), (0.1, 0, 0), (0, -0.4, 0), (0, -0.4, 0.1),
                            (-0.1, 0, 0), (0, -0.4, 0)]))


def moved(frames: int = 5, seed: int = 0) -> Motion:
    """The figure with random rotations and random positions of the hips."""
    rng = np.random.default_rng(seed)
    rotations = matrices_of(rng.uniform(-70, 70, (frames, 8, 3)), "YXZ")
    rotations[:, 0] = np.eye(3)
    translations = np.broadcast_to(FIGURE.offsets, (frames, 8, 3)).copy()
    translations[:, 1] += rng.normal(size=(frames, 3))
    return Motion(forward_kinematics(rotations, translations, FIGURE.parents), 30, FIGURE, rotations)


@pytest.mark.parametrize("order", ORDERS)
def test_angles_give_their_matrices_back_also_where_two_of_them_are_one(order):
    angles = np.random.default_rng(0).uniform((-179, -89, -179), (179, 89, 179), (50, 3))
    np.testing.assert_allclose(angles_of(matrices_of(angles, order), order), angles, atol=1e-9)
    for locked in (90.0, -90.0):
        angles[:, 1] = locked
        matrices = matrices_of(angles, order)
        result = angles_of(matrices, order)
        np.testing.assert_allclose(matrices_of(result, order), matrices, atol=1e-7)
        assert (result[:, 2] == 0).all()


def test_quaternions_of_turns_of_any_size():
    half = np.radians(30)
    for angle, axis, expected in ((60, "X", (np.cos(half), np.sin(half), 0, 0)), (180, "Y", (0, 0, 1, 0)),
                                  (180, "Z", (0, 0, 0, 1)), (0, "Z", (1, 0, 0, 0))):
        np.testing.assert_allclose(quaternions_of(matrices_of(np.array([float(angle)]), axis)), expected, atol=1e-12)


def test_slerp_goes_the_shorter_way_at_an_even_pace():
    start, end = (matrices_of(np.array([angle]), "Y") for angle in (170.0, -160.0))  # 30 degrees by way of 180
    result = slerp(np.stack([start] * 3), np.stack([end] * 3), np.array([0, 1 / 3, 1]))
    np.testing.assert_allclose(result, matrices_of(np.array([[170.0], [180.0], [200.0]]), "Y"), atol=1e-9)
    # A rotation has two quaternions; here those of start and end have opposite signs.
    start, end = (matrices_of(np.array([angle]), "Y") for angle in (-80.0, -100.0))
    np.testing.assert_allclose(slerp(start, end, np.array(0.5)), matrices_of(np.array([-90.0]), "Y"), atol=1e-9)


def test_the_centre_is_where_the_body_forks():
    assert body_centre(FIGURE.parents) == 1 and body_centre((-1, 0, 0)) == 0 and body_centre((-1, 0, 1)) == 0


def test_turns_from_joints_put_every_joint_back():
    motion = moved(50)
    result = with_rotations(Motion(motion.joints, 30, FIGURE))
    np.testing.assert_allclose(result.joints, motion.joints, atol=1e-6)
    assert not np.allclose(result.joints[:, 7], FIGURE.offsets[7], atol=0.1)  # it did move
    np.testing.assert_allclose(result.rotations[:, 1], motion.rotations[:, 1], atol=1e-6)  # three children determine it


def test_the_rest_pose_has_no_turns():
    rest = with_rotations(Motion(np.cumsum([0 * FIGURE.offsets], 0) + _rest(), 30, FIGURE))
    np.testing.assert_allclose(rest.rotations, np.broadcast_to(np.eye(3), (1, 8, 3, 3)), atol=1e-9)


def _rest() -> np.ndarray:
    return forward_kinematics(np.broadcast_to(np.eye(3), (1, 8, 3, 3)), FIGURE.offsets[None], FIGURE.parents)


def test_a_chain_is_turned_least():
    joints = _rest()
    joints[0, 4] = joints[0, 3] + (0, 0, 0.4)  # the thigh is lifted straight ahead: a quarter turn about -x, no twist
    joints[0, 5] = joints[0, 4] + (0, -0.4, 0.1)
    rotations = rotations_from_joints(joints, FIGURE)
    np.testing.assert_allclose(rotations[0, 3], matrices_of(np.array([-90.0]), "X"), atol=1e-9)
    np.testing.assert_allclose(rotations[0, 5], np.eye(3))  # an end joint has no child to point to


def test_bones_keep_the_skeletons_length_whatever_the_joints_say():
    joints = moved().joints * (1, 1.3, 1) + np.random.default_rng(1).normal(scale=0.02, size=(5, 8, 3))
    result = with_rotations(Motion(joints, 30, FIGURE)).joints
    lengths = np.linalg.norm(result[:, 2:] - result[:, list(FIGURE.parents[2:])], axis=-1)
    np.testing.assert_allclose(lengths, np.broadcast_to(np.linalg.norm(FIGURE.offsets[2:], axis=-1), (5, 6)), atol=1e-9)
    np.testing.assert_allclose(result[:, 1], joints[:, 1])


def test_half_turns_points_on_a_line_and_mirror_images():
    up = np.array([[0, 1.0, 0]])
    turn = smallest_rotation(up, -2 * up)[0]
    np.testing.assert_allclose(turn @ up[0], -up[0], atol=1e-12)
    assert np.linalg.det(turn) == pytest.approx(1)
    line = np.array([(1.0, 0, 0), (2, 0, 0)])
    np.testing.assert_allclose(best_rotation(line, line[None])[0], np.eye(3), atol=1e-6)  # no twist
    solid = np.array([(1.0, 0, 0), (0, 1, 0), (0, 0, 1)])
    assert np.linalg.det(best_rotation(solid, -solid[None])[0]) == pytest.approx(1)


def test_bones_without_length_point_nowhere():
    joints = np.zeros((2, 8, 3))
    np.testing.assert_allclose(rotations_from_joints(joints, FIGURE), np.broadcast_to(np.eye(3), (2, 8, 3, 3)))
    with pytest.raises(MotionError, match=re.escape("joints (2, 7, 3)")):
        rotations_from_joints(joints[:, :7], FIGURE)


def test_another_frame_rate():
    stick = Skeleton(("a", "b"), (-1, 0), np.array([(0, 0, 0), (0, 1.0, 0)]))
    angles = np.array([[0.0], [40.0], [80.0], [80.0]])
    joints = np.arange(4.0)[:, None, None] * np.ones((4, 2, 3))
    motion = Motion(joints, 30, stick, np.stack([matrices_of(angles, "Z"), matrices_of(0 * angles, "Z")], 1))
    slower = resampled(motion, 20)
    assert (len(slower), slower.fps) == (3, 20)
    np.testing.assert_allclose(slower.joints[:, 0, 0], [0, 1.5, 3])
    np.testing.assert_allclose(slower.rotations[:, 0], matrices_of(np.array([[0.0], [60.0], [80.0]]), "Z"), atol=1e-9)
    assert len(resampled(motion, 60)) == 7 and resampled(motion, 30.00001) is motion
    assert len(resampled(Motion(joints[:1], 30, stick), 120)) == 1
    for fps in (0, -1, float("nan"), float("inf")):
        with pytest.raises(MotionError, match="frames a second"):
            resampled(motion, fps)
