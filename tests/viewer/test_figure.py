"""figure.py: sides, parts, floor and heading from the joint names and bones of many skeletons."""

import numpy as np
import pytest

from motion_llm.motion.skeleton import Motion, MotionError, Skeleton
from motion_llm.viewer.figure import SIDES, Clip, Span, figure_of, figures_of, part_of, place, side_of, smoothed


@pytest.mark.parametrize(("name", "side", "part"), [
    ("left_knee", "left", "knee"), ("right_collar", "right", "collar"), ("pelvis", "", "pelvis"),  # SMPL
    ("left_index1", "left", "finger"), ("left_eye_smplhf", "left", "face"), ("jaw", "", "face"),
    ("LeftUpLeg", "left", "hip"), ("RightForeArm", "right", "elbow"), ("LeftArm", "left", "shoulder"),  # BVH
    ("Hips", "", "pelvis"), ("LeftToeBase", "left", "toe"), ("RightHandRing2", "right", "finger"),
    ("mixamorig:LeftHandThumb1", "left", "finger"), ("LHipJoint", "left", "hip"), ("LThumb", "left", "finger"),
    ("UpperLeg_L", "left", "hip"), ("Hand_R", "right", "hand"), ("Foot.L", "left", "foot"), ("joint_L", "left", ""),
    ("Bip01 R Calf", "right", "knee"), ("J_Bip_L_UpperArm", "left", "shoulder"), ("l_hand", "left", "hand"),
    ("lfemur", "left", "hip"), ("rradius", "right", "elbow"), ("LUArm", "left", "shoulder"),
    ("RFArm", "right", "elbow"),
    ("LowerBack", "", "trunk"), ("lowerneck", "", "neck"), ("root", "", "pelvis"), ("Head_End", "", "head"),
    ("ringFinger1", "", "finger"), ("leg", "", "knee"), ("rib", "", "trunk"), ("Armature", "", ""), ("", "", ""),
])
def test_a_name_tells_side_and_part(name, side, part):
    assert (side_of(name), part_of(name)) == (side, part)


BVH = [  # name, parent, offset from it
    ("Reference", -1, (0, 0, 0)), ("Hips", 0, (0, 0.95, 0)), ("Spine", 1, (0, 0.2, 0)), ("Chest", 2, (0, 0.2, 0)),
    ("Neck", 3, (0, 0.2, 0)), ("Head", 4, (0, 0.08, 0)), ("Head_End", 5, (0, 0.2, 0)),
    ("LeftShoulder", 3, (0.05, 0.15, 0)), ("LeftArm", 7, (0.13, 0, 0)), ("LeftForeArm", 8, (0.28, 0, 0)),
    ("LeftHand", 9, (0.26, 0, 0)), ("Thumb1", 10, (0.03, 0, 0.03)), ("LeftHandIndex1", 10, (0.09, 0, 0)),
    ("RightShoulder", 3, (-0.05, 0.15, 0)), ("RightArm", 13, (-0.13, 0, 0)), ("RightForeArm", 14, (-0.28, 0, 0)),
    ("RightHand", 15, (-0.26, 0, 0)),
    ("LeftUpLeg", 1, (0.09, 0, 0)), ("LeftLeg", 17, (0, -0.43, 0)), ("LeftFoot", 18, (0, -0.42, 0)),
    ("LeftToeBase", 19, (0, -0.06, 0.14)),
    ("RightUpLeg", 1, (-0.09, 0, 0)), ("RightLeg", 21, (0, -0.43, 0)), ("RightFoot", 22, (0, -0.42, 0)),
    ("RightToeBase", 23, (0, -0.06, 0.14)),
]


def standing(rows=BVH, size: float = 1.0, turn: float = 0.0, frames: int = 3) -> Motion:
    names, parents, offsets = zip(*rows, strict=True)
    joints = np.zeros((len(rows), 3))
    for i, (parent, offset) in enumerate(zip(parents, offsets, strict=True)):
        joints[i] = (joints[parent] if i else 0) + np.array(offset) * size
    c, s = np.cos(turn), np.sin(turn)
    joints = joints @ np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]]).T
    return Motion(np.repeat(joints[None], frames, 0), 30.0, Skeleton(names, parents, np.array(offsets) * size))


def capsule_between(figure, rows, start: str, end: str):
    names = [row[0] for row in rows]
    (capsule,) = [c for c in figure.capsules if (names[c.start], names[c.end]) == (start, end) and c.far == 1]
    return capsule


def test_a_bvh_skeleton_is_drawn_with_its_sides_and_measures():
    figure = figure_of(standing())
    upper_arm, finger = (capsule_between(figure, BVH, *pair) for pair in
                         [("LeftArm", "LeftForeArm"), ("LeftHand", "LeftHandIndex1")])
    assert SIDES[upper_arm.side] == SIDES[finger.side] == "left"
    assert SIDES[capsule_between(figure, BVH, "LeftHand", "Thumb1").side] == "left"  # as its parent, the hand
    assert SIDES[capsule_between(figure, BVH, "RightLeg", "RightFoot").side] == "right"
    assert SIDES[capsule_between(figure, BVH, "Hips", "LeftUpLeg").side] == ""  # the pelvis belongs to both
    assert finger.far_radius < 0.015 < 0.04 < upper_arm.near_radius < 0.06
    assert figure.root == 1 and not any(c.start == 0 for c in figure.capsules)  # none from the floor to the hips
    assert 1.5 < figure.size < 2.0
    assert abs(figure.floor - (0.95 - 0.43 - 0.42 - 0.06 - 0.026)) < 0.02


def test_the_skull_reaches_from_its_joint_to_its_end_and_no_bone_is_drawn_in_it():
    motion = standing()
    figure = figure_of(motion)
    heads = [c for c in figure.capsules if c.end == 6]
    assert len(heads) == 1
    low, high = place(heads[0], motion.joints[0])
    assert low[1] < high[1] and abs(high[1] + heads[0].far_radius - motion.joints[0, 6, 1]) < 0.01


def test_a_hand_and_a_head_that_end_early_are_completed():
    rows = [row for row in BVH if row[0] != "Head_End"]
    rows = [(name, parent - (parent > 6), offset) for name, parent, offset in rows]
    motion = standing(rows)
    figure, names = figure_of(motion), [row[0] for row in rows]
    beyond = {names[c.end]: place(c, motion.joints[0]) for c in figure.capsules if c.far > 1}
    assert set(beyond) == {"Head", "RightHand"}  # the left hand has fingers
    assert beyond["RightHand"][1][0] < motion.joints[0, names.index("RightHand"), 0] - 0.05


@pytest.mark.parametrize("hips", ["Hips", "joint1"])
def test_a_point_on_the_floor_that_the_body_leaves_is_no_bone_of_it(hips):
    still = standing([(hips if name == "Hips" else name, *rest) for name, *rest in BVH], frames=40)
    joints = still.joints.copy()
    joints[:, 1:, 2] += np.arange(40)[:, None] * 0.2  # the body runs away, Reference stays
    running = figure_of(Motion(joints, 30.0, still.skeleton))
    expected = figure_of(standing())
    assert running.root == 1 and running.size == pytest.approx(expected.size)
    assert (running.reach, running.height) == pytest.approx((expected.reach, expected.height), rel=0.1)


def test_a_hand_alone_has_fingers_that_can_be_seen():
    rows = [("left_wrist", -1, (0, 0, 0))]
    for i, finger in enumerate(("thumb", "index", "middle", "ring", "pinky")):
        rows += [(f"left_{finger}{k}", 0 if k == 1 else len(rows) + k - 2, (0.08 if k == 1 else 0.03, 0, 0.02 * i))
                 for k in (1, 2, 3)]
    figure = figure_of(standing(rows))
    assert len(figure.capsules) == 15 and {c.side for c in figure.capsules} == {1}
    assert all(0.003 < c.far_radius < 0.02 for c in figure.capsules)


def test_measures_grow_with_the_body():
    small, large = figure_of(standing()), figure_of(standing(size=3))
    for name in ("size", "reach", "height", "floor"):
        assert getattr(large, name) == pytest.approx(3 * getattr(small, name), rel=1e-6)
    assert [c.near_radius * 3 for c in small.capsules] == pytest.approx([c.near_radius for c in large.capsules])


@pytest.mark.parametrize("turn", [0, 1.0, -2.5])
def test_the_heading_is_where_the_body_faces(turn):
    assert figure_of(standing(turn=turn)).heading == pytest.approx(turn)


def test_names_that_tell_nothing_are_drawn_all_the_same():
    rows = [(f"joint{i}", parent, offset) for i, (_, parent, offset) in enumerate(BVH)]
    figure = figure_of(standing(rows))
    assert len(figure.capsules) == len(rows) - 2 and figure.heading == 0  # none from the floor to the hips
    assert {c.side for c in figure.capsules} == {0}
    assert all(0 < c.far_radius < 0.07 for c in figure.capsules)


@pytest.mark.parametrize("rows", [BVH[1:2], [("a", -1, (0, 0, 0)), ("b", 0, (0, 0, 0))]])
def test_a_skeleton_without_bones_is_no_error(rows):
    rows = [(name, -1 if i == 0 else parent, offset) for i, (name, parent, offset) in enumerate(rows)]
    figure = figure_of(standing(rows, frames=1))
    assert figure.capsules == () and np.isfinite([figure.floor, figure.reach, figure.height]).all()


def test_figures_of_one_size_share_a_distance_and_others_do_not():
    bowing = Motion(standing().joints * [1, 0.5, 1], 30.0, standing().skeleton)
    first, second = figures_of([Clip(standing()), Clip(bowing)])
    assert (first.reach, first.height) == (second.reach, second.height)
    child, adult = figures_of([Clip(standing(size=0.4)), Clip(standing())])
    assert child.height < 0.5 * adult.height


def test_the_camera_goes_smoothly_where_the_root_goes():
    steps = np.cumsum(np.random.default_rng(0).normal(0.03, 0.05, (200, 2)), 0)
    path = smoothed(steps, 8.0)
    assert path.shape == steps.shape and np.abs(path - steps).max() < 0.4
    assert np.abs(np.diff(path, 2, axis=0)).max() < 0.2 * np.abs(np.diff(steps, 2, axis=0)).max()
    assert np.array_equal(smoothed(steps[:1], 8.0), steps[:1])
    straight = np.outer(np.arange(50), [0.1, -0.2])
    assert np.allclose(smoothed(straight, 8.0), straight)  # at its ends as well


# Sentences of a clip: 45 frames at 30 a second are 1.5 seconds


def test_a_sentence_holds_from_its_start_to_before_its_end():
    waves, bows = Span(0.2, 0.7, "waves"), Span(0.7 - 1e-9, 1.52, "bows")  # rounding, and an end a frame too late
    clip = Clip(standing(frames=45), spans=(waves, bows))
    assert [clip.span_at(seconds) for seconds in (0, 0.2, 0.69, 0.7, 1.49, 2)] == [None, waves, waves, bows, bows, None]
    assert Clip(standing()).span_at(0) is None


@pytest.mark.parametrize(("spans", "message"), [
    ([(0.8, 1.2), (0.1, 0.5)], "sentence 2 ('bows') of a clip of 1.5 s is from 0.1 to 0.5 s"),
    ([(0.0, 0.9), (0.8, 1.2)], "from 0.8 to 1.2 s, expected a start from 0.9 s"),
    ([(0.4, 0.4)], "sentence 1 ('waves') of a clip of 1.5 s is from 0.4 to 0.4 s"),
    ([(-0.1, 0.4)], "from -0.1 to 0.4 s, expected a start from 0 s"), ([(0.0, 1.6)], "from 0 to 1.6 s"),
    ([(0.0, 1.5), (1.5, 1.52)], "sentence 2"), ([(0.0, float("nan"))], "from 0 to nan s"),
])
def test_sentences_out_of_order_or_outside_the_clip_are_refused(spans, message):
    texts = ("waves", "bows")[:len(spans)]
    with pytest.raises(MotionError) as error:
        Clip(standing(frames=45), spans=tuple(Span(*span, text) for span, text in zip(spans, texts, strict=True)))
    assert message in str(error.value) and "later end inside the clip" in str(error.value)


def test_a_sentence_without_text_is_refused():
    with pytest.raises(MotionError, match="sentence 1 .* has no text"):
        Clip(standing(frames=45), spans=(Span(0, 1, " "),))
