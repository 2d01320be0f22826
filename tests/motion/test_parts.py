"""parts.py and part_features.py: which joints a part has, refusals, and each part in its own frame and back."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from hands import FIGURE, FINGERS, LEFT_HAND, RIGHT_HAND, THREE, TWO, waving
from rig import RIG, moving
from walker import WALKER

from motion_llm.motion.features import ROOT, Layout, features_of, mirror_features
from motion_llm.motion.look_ahead import CodecError
from motion_llm.motion.part_features import PartFeatures
from motion_llm.motion.parts import hands_of, is_finger, joints_of_parts, read_parts
from motion_llm.motion.skeleton import Motion, Skeleton

LAYOUT = Layout.of(FIGURE)


def names_of(layout: Layout, told) -> dict[str, set[str]]:
    return {part: {layout.skeleton.names[layout.body[i]] for i in joints}
            for part, joints in joints_of_parts(layout, told).items()}


def renamed(rename) -> Layout:
    return Layout.of(Skeleton(tuple(map(rename, FIGURE.names)), FIGURE.parents, FIGURE.offsets))


# Which joints


def test_hands_are_all_below_the_wrist_which_is_the_bodys():
    assert names_of(LAYOUT, "hands") == {part: set(names) for part, names in THREE.items()}
    assert list(hands_of(LAYOUT)) == ["body", "left_hand", "right_hand"]
    rig = names_of(Layout.of(RIG), "hands")
    assert rig["left_hand"] == {"LeftIndex", "LeftThumb"} and "LeftHand" in rig["body"] and "root" not in rig["body"]


def unreal(name: str) -> str:
    side = {"L": "_l", "R": "_r"}[name[0]] if name.startswith(("Left", "Right")) else ""
    bare = name.removeprefix("Left").removeprefix("Right")
    finger = re.fullmatch(r"Hand([A-Z][a-z]+)(\d)", bare)
    return (f"{finger[1].lower()}_0{finger[2]}" if finger else bare.lower()) + side


def biped(name: str) -> str:
    for number, finger in enumerate(FINGERS):
        name = name.replace(f"Hand{finger}", f"Finger{number}")
    return re.sub("^(Left|Right)", lambda side: f"Bip01 {side[0][0]} ", name)


@pytest.mark.parametrize("rename", [
    unreal, biped, lambda name: f"mixamorig:{name}",
    lambda name: re.sub("^(Left|Right)", lambda side: side[0][0].lower(), name.replace("HandPinky", "Little").replace(
        "Middle", "Mid")),
    lambda name: re.sub("^(Left|Right)", lambda side: f"J_Bip_{side[0][0]}_", name.replace("Pinky", "Little"))])
def test_fingers_are_known_by_the_names_of_several_rigs(rename):
    parts = names_of(renamed(rename), "hands")
    assert parts == {part: set(map(rename, names)) for part, names in THREE.items()}


@pytest.mark.parametrize(("name", "finger"), [
    ("LeftHandThumb1", True), ("index_metacarpal_l", True), ("rPinky2", True), ("f_ring.01.L", True),
    ("lring1", True), ("left_little3", True), ("LeftFingerBase", True), ("LeftHand", False), ("String_L", False),
    ("LeftEarring", False), ("thumbnail", False)])
def test_what_a_finger_is_called(name, finger):
    assert is_finger(name) == finger


def test_toes_are_no_fingers():
    toes = renamed(lambda name: name.replace("Foot", "ToeIndex"))
    assert names_of(toes, "hands")["left_hand"] == set(LEFT_HAND)


def test_figures_without_fingers_or_with_those_of_one_hand_or_on_the_chest_are_refused():
    with pytest.raises(CodecError, match="the figure has no finger joints of a left hand, .*none of hips, spine"):
        hands_of(Layout.of(WALKER))
    one = renamed(lambda name: name if not name.startswith("RightHand") else name.replace("RightHand", "Wing"))
    with pytest.raises(CodecError, match="no finger joints of a (left|right) hand"):
        hands_of(one)
    kept = [joint for joint, name in enumerate(FIGURE.names) if not name.endswith("2") and "Hand" not in name[:-1]]
    place = {joint: i for i, joint in enumerate(kept)} | {-1: -1}
    figure = Skeleton((*(FIGURE.names[joint] for joint in kept), "LeftThumb", "LeftRing", "RightThumb", "RightRing"),
                      (*(place[FIGURE.parents[joint]] for joint in kept), *[2] * 4),
                      np.concatenate([FIGURE.offsets[kept], np.ones((4, 3)) * 0.1]))
    with pytest.raises(CodecError, match="LeftThumb, LeftRing hang on Chest together with .* on one left wrist"):
        hands_of(Layout.of(figure))


@pytest.mark.parametrize(("change", "message"), [
    (lambda parts: parts["lower"].remove("LeftLeg"), "no part has LeftLeg; expected each of the body's 36 joints once"),
    (lambda parts: parts["lower"].append("Chest"), "Chest is named more than once"),
    (lambda parts: parts["lower"].extend(["Tail", "Wing"]), "the figure has no Tail, Wing"),
    (lambda parts: parts.pop("lower"), "1 parts: expected 2 to 32"),
    (lambda parts: parts.update(face=[]), "part face has no joint that a code moves"),
    (lambda parts: parts.update({"two words": ["Hips"]}), "a part is called 'two words', expected no spaces")])
def test_joints_that_are_missing_doubled_or_unknown_are_named(change, message):
    parts = {part: list(names) for part, names in TWO.items()}
    change(parts)
    with pytest.raises(CodecError, match=re.escape(message)):
        joints_of_parts(LAYOUT, parts)


def test_joints_above_the_body_may_be_named_and_tips_go_with_their_parents():
    names = [name for name in RIG.names if name != "root"]
    legs = [name for name in names if re.search("Leg|Foot|Toe|Hip", name)]
    rest = [name for name in names if name not in legs]
    layout = Layout.of(Skeleton((*RIG.names, "LeftToe_End"), (*RIG.parents, RIG.names.index("LeftToe")),
                                np.concatenate([RIG.offsets, [(0, 0, 0.05)]])))
    for lower in (legs, ["root", *legs]):
        assert names_of(layout, {"upper": rest, "lower": lower})["lower"] == {*legs, "LeftToe_End"}
    with pytest.raises(CodecError, match="part above has no joint that a code moves"):
        joints_of_parts(layout, {"upper": names, "above": ["root"]})


def test_names_are_compared_without_their_namespace():
    layout = renamed(lambda name: f"mixamorig:{name}")
    assert names_of(layout, TWO)["lower"] == {f"mixamorig:{name}" for name in TWO["lower"]}


@pytest.mark.parametrize(("content", "message"), [
    ("[1]", "holds a list of 1, expected an object"), ('{"a": "Hips"}', "a is 'Hips', expected a list"),
    ('{"a": [1]}', "a, item 0 is 1, expected text"), ("{", "is broken")])
def test_a_file_of_parts_is_read_or_refused_by_its_name(tmp_path, content, message):
    (tmp_path / "parts.json").write_text(json.dumps(TWO))
    assert read_parts(tmp_path / "parts.json") == TWO
    (tmp_path / "parts.json").write_text(content)
    with pytest.raises(CodecError, match=f"parts.json.*{re.escape(message)}"):
        read_parts(tmp_path / "parts.json")


# Their frames


def parted(told, layout: Layout = LAYOUT) -> PartFeatures:
    return PartFeatures(layout, joints_of_parts(layout, told))


LIMBS = {"arms": [name for name in FIGURE.names if "Arm" in name or name in ("LeftHand", "RightHand")],
         "fingers": [*LEFT_HAND, *RIGHT_HAND], "rest": [*TWO["lower"], "Spine", "Chest", "Head"]}


@pytest.mark.parametrize("told", ["hands", THREE, TWO, LIMBS, {"left_hand": LEFT_HAND, "right_hand": RIGHT_HAND,
                                                               "body": THREE["body"]}])
def test_parts_make_the_whole_figure_again(told):
    parts = parted(told)
    features = features_of(waving(phase=1.0), LAYOUT)
    split = parts.split(features)
    np.testing.assert_allclose(parts.joined([split[:, columns] for columns in parts.slices]), features, atol=1e-9)


def test_parts_of_a_figure_of_random_turns_make_it_again():
    layout = Layout.of(RIG)
    for told in ("hands", {"head": ["Head", "LeftEye", "RightEye"], "rest": [
            name for name in RIG.names if name not in ("Head", "LeftEye", "RightEye")]}):
        parts, features = parted(told, layout), features_of(moving(RIG), layout)
        split = parts.split(features)
        np.testing.assert_allclose(parts.joined([split[:, columns] for columns in parts.slices]), features, atol=1e-6)


def test_a_hand_has_no_root_and_is_the_same_wherever_its_arm_is():
    parts = parted("hands")
    hand = parts.slices[1]
    motions = waving(arm=0, turning=0), waving(arm=80, turning=1)
    a, b = (parts.split(features_of(motion, LAYOUT)) for motion in motions)
    np.testing.assert_allclose(a[:, hand], b[:, hand], atol=1e-9)
    assert not a[:, hand][:, :ROOT].any() and np.abs(a - b)[:, parts.slices[0]].max() > 0.1
    opened = parts.split(features_of(waving(arm=0, turning=0, fist=0), LAYOUT))
    assert np.abs(opened - a)[:, hand].max() > 0.01
    fingers = [i for i, joint in enumerate(parts.layouts[0].body) if FIGURE.names[joint].endswith("2")]
    assert not fingers  # the body is told where fingers begin, which shows how the wrist is turned, and no more of them


def test_a_hand_follows_the_wrist_of_the_body():
    """The body of one clip and the hands of another."""
    parts = parted("hands")
    body, hands = (parts.split(features_of(motion, LAYOUT)) for motion in (waving(arm=70, fist=0), waving(arm=0)))
    mixed = parts.joined([body[:, parts.slices[0]], *(hands[:, columns] for columns in parts.slices[1:])])
    expected = features_of(waving(arm=70), LAYOUT)
    np.testing.assert_allclose(mixed, expected, atol=1e-9)


def test_an_arm_is_told_relative_to_the_heading_as_it_is_long():
    parts = parted(LIMBS)
    assert {name: {piece.turned for piece in pieces} for name, pieces in parts.pieces.items()} == {
        "arms": {False}, "fingers": {True}, "rest": {False}}
    assert [len(pieces) for pieces in parts.pieces.values()] == [2, 10, 1]  # each finger hangs on a wrist


def test_a_mirror_image_has_the_hands_exchanged():
    parts = parted("hands")
    features = features_of(waving(phase=0.5), LAYOUT)
    plain, mirrored = parts.split(features), parts.split(mirror_features(features, LAYOUT))
    left, right = (plain[:, columns][:, ROOT:].reshape(60, -1, 3) for columns in parts.slices[1:])
    np.testing.assert_allclose(mirrored[:, parts.slices[2]][:, ROOT:].reshape(60, -1, 3), left * (-1, 1, 1), atol=1e-9)
    np.testing.assert_allclose(mirrored[:, parts.slices[1]][:, ROOT:].reshape(60, -1, 3), right * (-1, 1, 1), atol=1e-9)


def test_the_rest_pose_stands_on_the_floor_wherever_the_file_hangs_it():
    hanging = FIGURE.offsets * 1.0
    hanging[0] = 0
    for offsets in (FIGURE.offsets, hanging):
        parts = parted("hands", replace(LAYOUT, skeleton=Skeleton(FIGURE.names, FIGURE.parents, offsets)))
        whole = parts.joined([parts.rest[None, columns] for columns in parts.slices])
        places = whole[0, ROOT:].reshape(-1, 3)
        assert places[:, 1].min() == pytest.approx(0) and not whole[0, :ROOT].any()
        np.testing.assert_allclose(places[1] - places[0], (0, 0.2, 0), atol=1e-9)


def test_a_figure_without_rotations_has_parts_too():
    motion = waving()
    plain = Motion(motion.joints, motion.fps, motion.skeleton)
    parts = parted("hands")
    np.testing.assert_array_equal(parts.split(features_of(plain, LAYOUT)), parts.split(features_of(motion, LAYOUT)))
