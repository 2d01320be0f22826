"""retarget.py: to itself nothing changes, to a figure twice as large everything doubles, and another rest pose leaves
the directions of the bones; what does not correspond is named."""

from dataclasses import replace

import numpy as np
import pytest
from rig import RIG, moving
from walker import WALKER, walk

from motion_llm.motion.kinematics import forward_kinematics, matrices_of
from motion_llm.motion.rest_pose import reposed
from motion_llm.motion.retarget import correspondences, read_map, retargeted
from motion_llm.motion.skeleton import Motion, MotionError, Skeleton


def bone_directions(motion: Motion) -> np.ndarray:
    """(T, J - 1, 3), of all bones but that to the body's root."""
    parents = np.array(motion.skeleton.parents)
    bones = motion.joints[:, 1:] - motion.joints[:, parents[1:]]
    return bones / np.maximum(np.linalg.norm(bones, axis=-1, keepdims=True), 1e-9)


def with_arms(skeleton: Skeleton, turns: dict[str, float]) -> Skeleton:
    """The rest pose with joints, and what is below them, turned by degrees about z."""
    local = np.broadcast_to(np.eye(3), (1, len(skeleton.names), 3, 3)).copy()
    for name, degrees in turns.items():
        local[:, skeleton.names.index(name)] = matrices_of(np.array([degrees]), "Z")
    pose = forward_kinematics(local, skeleton.offsets[None], skeleton.parents)[0]
    return replace(skeleton, offsets=pose - pose[np.maximum(skeleton.parents, 0)])


@pytest.mark.parametrize("motion", [moving(RIG), walk(), Motion(walk().joints, 30, WALKER)],
                         ids=["rig", "walker", "without rotations"])
def test_to_itself_nothing_changes(motion):
    again = retargeted(motion, motion.skeleton)
    np.testing.assert_allclose(again.joints, motion.joints, atol=1e-6)
    if motion.rotations is not None:
        np.testing.assert_allclose(again.rotations, motion.rotations, atol=1e-6)


@pytest.mark.parametrize("motion", [moving(RIG), walk()], ids=["rig", "walker"])
def test_a_figure_twice_as_large_goes_twice_as_far(motion):
    large = retargeted(motion, replace(motion.skeleton, offsets=2 * motion.skeleton.offsets))
    np.testing.assert_allclose(large.joints, 2 * motion.joints, atol=1e-6)


def test_longer_legs_take_longer_steps_whatever_the_arms():
    offsets = RIG.offsets.copy()
    for name in ("Leg", "Foot"):
        for side in ("Left", "Right"):
            offsets[RIG.names.index(side + name)] *= 1.5
    motion = moving(RIG)
    tall = retargeted(motion, replace(RIG, offsets=offsets))
    np.testing.assert_allclose(tall.joints[:, 1], 1.5 * motion.joints[:, 1], atol=1e-9)
    lengths = np.linalg.norm(tall.joints[:, 1:] - tall.joints[:, list(RIG.parents[1:])], axis=-1)
    np.testing.assert_allclose(lengths[:, 1:], np.linalg.norm(offsets[2:], axis=1)[None].repeat(20, 0), atol=1e-9)


def test_another_rest_pose_leaves_the_directions_of_the_bones():
    """The rig's arms hang aslant; the other figure is in a T-pose, and has other proportions."""
    turns = {"LeftArm": 45, "RightArm": -45, "LeftUpLeg": -14, "RightUpLeg": 14}
    posed = with_arms(RIG, turns)
    assert np.abs(posed.offsets - RIG.offsets).max() > 0.1
    scales = np.linspace(0.7, 1.3, len(RIG.names))  # of the bones, other ones on each joint's only child
    single = [RIG.parents.count(parent) == 1 for parent in RIG.parents]
    posed = replace(posed, offsets=posed.offsets * np.where(single, scales, 1)[:, None])
    motion = moving(RIG)
    moved = retargeted(motion, posed)
    np.testing.assert_allclose(bone_directions(moved)[:, 1:], bone_directions(motion)[:, 1:], atol=1e-5)
    assert moved.skeleton is posed


def test_a_clip_whose_rest_pose_lies_on_its_side_moves_the_figure_alike():
    motion = moving(RIG)
    quarter = matrices_of(np.array([90.0, 20, 10]), "YXZ")
    odd = reposed(motion, np.broadcast_to(quarter, (len(RIG.names), 3, 3)))
    np.testing.assert_allclose(retargeted(odd, RIG).joints[:, 1:] - retargeted(odd, RIG).joints[:, 1:2],
                               motion.joints[:, 1:] - motion.joints[:, 1:2], atol=1e-6)


def test_joints_without_counterpart_keep_their_rest_pose():
    motion = moving(RIG)
    names = tuple("Bone" if "Thumb" in name or name == "Spine" else name for name in RIG.names)
    moved = retargeted(motion, replace(RIG, names=names))
    alone = [joint for joint, name in enumerate(names) if name == "Bone"]
    np.testing.assert_allclose(moved.rotations[:, alone], np.broadcast_to(np.eye(3), (20, 3, 3, 3)), atol=1e-9)
    arm = RIG.names.index("LeftForeArm")
    np.testing.assert_allclose(bone_directions(moved)[:, arm - 1], bone_directions(motion)[:, arm - 1], atol=1e-6)


def test_a_head_does_not_nod_because_its_neck_slopes_and_a_hand_follows_its_arm():
    end = RIG.names.index("LeftEye")
    body = Skeleton(RIG.names[:end], RIG.parents[:end], RIG.offsets[:end])
    rest = np.broadcast_to(np.eye(3), (1, end, 3, 3))
    sloping = body.offsets.copy()
    sloping[-1] = (0, 0.06, 0.06)  # from neck to head
    still = Motion(forward_kinematics(rest, body.offsets[None], body.parents), 30, body, rest)
    moved = retargeted(still, replace(body, offsets=sloping))
    world = moved.rotations[0, 0]
    for joint in range(1, end):
        world = world @ moved.rotations[0, joint]
    np.testing.assert_allclose(world, np.eye(3), atol=1e-6)
    np.testing.assert_allclose(moved.joints[0, -1] - moved.joints[0, -2],
                               np.linalg.norm(sloping[-1]) * body.offsets[-1] / np.linalg.norm(body.offsets[-1]))


def test_a_point_on_the_floor_above_the_hips_may_be_there_or_not():
    motion = walk()
    without = Skeleton(WALKER.names[1:], tuple(max(parent - 1, -1) for parent in WALKER.parents[1:]),
                       WALKER.offsets[1:])
    moved = retargeted(motion, without)
    np.testing.assert_allclose(moved.joints, motion.joints[:, 1:], atol=1e-9)
    np.testing.assert_allclose(retargeted(moved, WALKER).joints[:, 1:], motion.joints[:, 1:], atol=1e-9)


def test_names_are_compared_without_namespace_case_and_separators():
    def named(*names: str) -> Skeleton:
        return Skeleton(names, (-1, 0, 1)[:len(names)], np.ones((len(names), 3)))

    source = named("mixamorig1:Hips", "left_Up-leg", "Left.Foot")
    assert correspondences(source, named("hips", "Left Up Leg", "scene:rig:LEFTFOOT"), {}) == {0: 0, 1: 1, 2: 2}
    assert correspondences(source, named("Hips", "Thigh", "Toe"), {"Left.Foot": "Thigh"}) == {0: 0, 1: 2}
    assert correspondences(source, named("LeftFoot", "Hips"), {"left_up_leg": "left foot"}) == {0: 1, 1: 0}
    with pytest.raises(MotionError, match="several joints of a figure are called 'hips'.*--map"):
        correspondences(named("Hips", "hips", "c"), named("HIPS", "b"), {})
    assert correspondences(named("Hips", "hips", "c"), named("hips", "b"), {}) == {0: 1}  # an equal name is the one
    for names, message in (({"Knee": "Hips"}, "'Knee', no joint of the clip, which has mixamorig1:Hips, left_Up-leg"),
                           ({"left_Up-leg": "Shin"}, "'Shin', no joint of the other figure, which has Hips, Thigh"),
                           ({"left_Up-leg": "Toe", "Left.Foot": "Toe"}, "'Toe' or 'Left.Foot' twice")):
        with pytest.raises(MotionError, match=message):
            correspondences(source, named("Hips", "Thigh", "Toe"), names)


def test_too_few_correspondences_are_refused_with_the_names():
    other = replace(RIG, names=tuple(f"Bone_of_the_other_figure_{i}" for i in range(len(RIG.names))))
    with pytest.raises(MotionError, match=r"0 joints have a counterpart, expected 15 or more, with "
                       r"'Bone_of_the_other_figure_1' among them. Without one: Bone_of_the_other_figure_0, .*\.\.\.; "
                       r"in the clip: root, Hips, .*\.\.\.. Name pairs in --map") as error:
        retargeted(moving(RIG), other)
    assert len(str(error.value)) <= 310  # a caption and a path come before it
    pairs = dict(zip(RIG.names, other.names, strict=True))
    np.testing.assert_allclose(retargeted(moving(RIG), other, pairs).joints, moving(RIG).joints, atol=1e-6)
    del pairs["Hips"]
    with pytest.raises(MotionError, match="29 joints have a counterpart, expected 15 or more, with 'Bone_of_the_other"):
        retargeted(moving(RIG), other, pairs)


def test_a_map_is_a_json_object_of_text(tmp_path):
    path = tmp_path / "map.json"
    path.write_text('{"pelvis": "Hips"}')
    assert read_map(path) == {"pelvis": "Hips"}
    for text in ("[" * 100_000, "{", '["pelvis"]', '{"pelvis": 3}'):
        path.write_text(text)
        with pytest.raises(MotionError, match="map.json.*expected JSON such as"):
            read_map(path)
