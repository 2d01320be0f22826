"""features.py: features do not depend on position and heading, lead back to the motion, and know left from right."""

import numpy as np
import pytest
from walker import NAMES, OFFSETS, PARENTS, WALKER, walk

from motion_llm.motion.features import (
    Layout,
    features_of,
    feet_of,
    heading_of,
    joint_order,
    joints_from_features,
    mirror_features,
    staying,
    travelling_centre,
    turned,
)
from motion_llm.motion.kinematics import matrices_of
from motion_llm.motion.skeleton import Motion, MotionError, Skeleton

LAYOUT = Layout.of(WALKER)


def test_features_do_not_depend_on_place_and_heading():
    motion, moved = walk(), walk(start=(3.0, -5.0, 2.5))
    np.testing.assert_allclose(features_of(motion, LAYOUT), features_of(moved, LAYOUT), atol=1e-9)
    assert np.abs(motion.joints - moved.joints).max() > 3


def test_a_walk_ahead_turning_left_is_told_so():
    features = features_of(walk(turning=0.6, speed=1.5), LAYOUT)
    np.testing.assert_allclose(features[:, 0], 0, atol=0.04)
    np.testing.assert_allclose(features[:, 1], 1.5, atol=0.02)
    np.testing.assert_allclose(features[:, 2], 0.6, atol=1e-9)
    np.testing.assert_allclose(features[0, 3:6], (0, 0.9, 0), atol=1e-9)  # the hips, above the floor
    np.testing.assert_allclose(features[0, 3 + 3 * 6], 0.1, atol=1e-9)  # the left leg is to the left: x


def test_a_walk_to_the_left_is_told_so():
    motion = walk(turning=0, speed=0, start=(0, 0, 2.0))
    left = np.array([np.cos(2), 0, -np.sin(2)])
    shifted = Motion(motion.joints + np.arange(60)[:, None, None] / 30 * left, 30, WALKER)
    np.testing.assert_allclose(features_of(shifted, LAYOUT)[:, :3], np.broadcast_to((1, 0, 0), (60, 3)), atol=1e-9)


@pytest.mark.parametrize("fps", [30, 24])
def test_features_lead_back_to_the_motion_from_the_origin_on(fps):
    motion = walk(fps=fps, turning=3.0)  # more than one turn around
    np.testing.assert_allclose(joints_from_features(features_of(motion, LAYOUT), fps, LAYOUT), motion.joints, atol=1e-9)
    moved = walk(fps=fps, turning=3.0, start=(1, 2, 1.0))
    np.testing.assert_allclose(joints_from_features(features_of(moved, LAYOUT), fps, LAYOUT), motion.joints, atol=1e-9)


def test_feet_are_the_lowest_ends():
    feet = feet_of(features_of(walk(), LAYOUT), LAYOUT)
    assert [NAMES[LAYOUT.body[i]] for i in feet] == ["left_foot", "right_foot"]


def test_the_heading_does_not_jump():
    assert np.abs(np.diff(heading_of(walk(200, turning=3.0).joints, LAYOUT))).max() < 0.11


def test_the_mirror_image_of_a_left_turn_is_a_right_turn():
    left_turn = mirror_features(features_of(walk(turning=0.6, phase=0), LAYOUT), LAYOUT)
    # the legs swing against each other, so exchanged legs are half a cycle on; the arm goes to the other side
    right_turn = features_of(walk(turning=-0.6, phase=np.pi), LAYOUT)
    np.testing.assert_allclose(left_turn[:, :3], right_turn[:, :3], atol=1e-9)
    joints, expected = (features[:, 3:].reshape(60, -1, 3) for features in (left_turn, right_turn))
    legs = [LAYOUT.body.index(NAMES.index(name)) for name in NAMES if name.endswith(("leg", "foot"))]
    np.testing.assert_allclose(joints[:, legs], expected[:, legs], atol=1e-9)
    left, right = (LAYOUT.body.index(NAMES.index(f"{side}_hand")) for side in ("left", "right"))
    assert joints[:, right, 2].max() > 0.4 and np.abs(joints[:, left, 2]).max() < 0.01
    np.testing.assert_allclose(mirror_features(left_turn, LAYOUT), features_of(walk(turning=0.6), LAYOUT), atol=1e-12)


@pytest.mark.parametrize("sides", [("Left", "Right"), ("L_", "R_"), ("left ", "right "), ("mixamorig:Left",
                                                                                       "mixamorig:Right")])
def test_sides_are_told_however_they_are_spelled(sides):
    for form in ("{side}{name}", "{name}_{side}"):
        names = tuple(form.format(side=sides[name.startswith("right")], name=name.split("_")[1].capitalize())
                      if "_" in name else name for name in NAMES)
        layout = Layout.of(Skeleton(names, PARENTS, OFFSETS))
        assert layout.mirror == LAYOUT.mirror and layout.across == (7, 9)


def test_hip_joints_that_lie_in_the_centre_give_no_heading_and_the_next_ones_do():
    offsets = OFFSETS.copy()
    offsets[[7, 9]] = 0
    offsets[[8, 10]] = (0.1, -0.9, 0), (-0.1, -0.9, 0)
    assert Layout.of(Skeleton(NAMES, PARENTS, offsets)).across == (3, 5)  # the arms: as deep as the feet, but wider
    offsets[[3, 5]] = 0
    assert Layout.of(Skeleton(NAMES, PARENTS, offsets)).across == (8, 10)


def test_hips_give_the_heading_whatever_way_the_rest_pose_lies():
    for matrix in (matrices_of(np.array([90.0]), axis) for axis in "XYZ"):  # a capture's rest pose may lie on its side
        assert Layout.of(Skeleton(NAMES, PARENTS, OFFSETS @ matrix.T)).across == (7, 9)


def test_a_figure_without_sides_has_a_heading_and_no_mirror_image():
    layout = Layout.of(Skeleton(tuple("abcdefghijk"), PARENTS, OFFSETS))
    assert layout.mirror is None and layout.across == (7, 9)
    motion = Motion(walk().joints, 30, layout.skeleton)
    moved = Motion(walk(start=(3.0, -5.0, 2.5)).joints, 30, layout.skeleton)
    np.testing.assert_allclose(features_of(motion, layout), features_of(moved, layout), atol=1e-9)
    with pytest.raises(MotionError, match="left and right cannot be told"):
        mirror_features(features_of(motion, layout), layout)
    one_sided = ("Root", "Hips", "Spine", "LeftArm", *"efghijk")
    assert Layout.of(Skeleton(one_sided, PARENTS, OFFSETS)).mirror is None
    stick = Skeleton(("a", "b"), (-1, 0), np.array([(0, 0, 0), (0, 1.0, 0)]))
    assert Layout.of(stick).across is None


def test_joints_in_another_order_are_the_same_figure_and_others_are_not():
    order = [0, 1, 2, 5, 6, 3, 4, 9, 10, 7, 8]
    names, parents = tuple(NAMES[i] for i in order), tuple(order.index(PARENTS[i]) if i else -1 for i in order)
    motion = walk()
    reordered = Motion(motion.joints[:, order], 30, Skeleton(names, parents, OFFSETS[order]))
    np.testing.assert_array_equal(features_of(reordered, LAYOUT), features_of(motion, LAYOUT))
    wrong = Skeleton((*NAMES[:-1], "tail"), PARENTS, OFFSETS)
    with pytest.raises(MotionError, match="another figure: it has no right_foot and has tail besides; expected the 11"):
        joint_order(Motion(motion.joints, 30, wrong), LAYOUT)
    wrong = Skeleton(NAMES, (*PARENTS[:-1], 7), OFFSETS)
    with pytest.raises(MotionError, match="the same joints on other parents"):
        joint_order(Motion(motion.joints, 30, wrong), LAYOUT)


def test_a_figure_mirrors_what_has_a_partner():
    """L5 is a vertebra, and the prop is on one hand: the rest is mirrored, these are in the middle."""
    names = tuple({"spine": "L5"}.get(name, name) for name in NAMES) + ("right_prop",)
    layout = Layout.of(Skeleton(names, (*PARENTS, 6), np.vstack([OFFSETS, (0, -0.1, 0)])))
    partners = {names[joint]: names[layout.body[i]] for joint, i in zip(layout.body, layout.mirror, strict=True)}
    assert partners["L5"] == "L5" and partners["right_prop"] == "right_prop"
    assert partners["left_hand"] == "right_hand" and layout.across == (7, 9)


def test_travel_is_that_of_the_hips_under_a_root_that_stays():
    """Unreal's root: it stays at the origin, with helpers beside the hips."""
    names = (*NAMES, "ik_foot_root", "ik_foot_l", "ik_foot_r")
    skeleton = Skeleton(names, (*PARENTS, 0, 11, 11), np.vstack([OFFSETS, np.zeros((3, 3))]))
    joints = walk().joints
    joints = np.concatenate([joints, np.zeros((len(joints), 3, 3))], 1)
    still, travels = staying(joints)
    assert still[0] and travels[1]
    assert Layout.of(skeleton).centre == 0  # by the figure alone
    centre = travelling_centre(skeleton.parents, still[None], travels[None])
    layout = Layout.of(skeleton, centre)
    assert names[centre] == "hips" and {"ik_foot_l", "root"} & {names[joint] for joint in layout.body} == set()
    here, there = (features_of(Motion(joints + shift, 30, skeleton), layout) for shift in (0, (3.0, 0, -2.0)))
    assert here == pytest.approx(there) and np.hypot(here[:, 0], here[:, 1]).mean() == pytest.approx(1, rel=0.05)
    again = joints_from_features(here, 30, layout)
    assert np.abs(np.diff(again[:, 1], axis=0)).sum() == pytest.approx(np.abs(np.diff(turned(
        joints[:, 1], np.full(60, 0.0)), axis=0)).sum(), rel=0.05)
    assert again[:, 11:] == pytest.approx(0)  # the helpers stay in the rest pose


def test_a_root_that_stays_with_everything_else_is_the_centre():
    joints = np.broadcast_to(walk().joints[:1], (60, len(NAMES), 3))
    assert travelling_centre(PARENTS, *(part[None] for part in staying(joints))) == 1


def test_a_layout_of_before_keeps_its_heading():
    """A folder without choices was written when names that do not all pair up gave no sides."""
    names = tuple(name.replace("left_arm", "left_wing") for name in NAMES)
    skeleton = Skeleton(names, PARENTS, OFFSETS * (1, 1, 1) + [(0, 0, 0.3 * i) for i in range(len(NAMES))])
    assert Layout.stored(skeleton, None).across != Layout.of(skeleton).across == (7, 9)
    assert Layout.stored(WALKER, None) == Layout.stored(WALKER, Layout.of(WALKER).choices)
    with pytest.raises(MotionError, match=r"across is \(0, 7\), expected two joints of the body"):
        Layout.stored(WALKER, {"centre": 1, "across": [0, 7]})
