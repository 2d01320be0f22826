"""names.py: sides are told from pairs, and joints of two files are compared without what programs put before a name."""

import pytest

from motion_llm.motion.names import all_paired, joint_keys, listed, sides_of


@pytest.mark.parametrize("names", [
    ("Hips", "LeftArm", "RightArm"), ("root", "lfemur", "rfemur"), ("Bip01", "Bip01 L Calf", "Bip01 R Calf"),
    ("c", "Foot.L", "Foot.R"), ("pelvis", "leftarm", "rightarm"), ("センター", "左腕", "右腕"),
    ("hip", "LThumb", "RThumb"),
])
def test_a_pair_is_left_and_right(names):
    assert sides_of(names) == ([None, 0, 1], [0, 2, 1])


def test_a_name_that_only_looks_like_a_side_is_in_the_middle():
    """A vertebra; a prop on one hand; a joint called like a side, alone."""
    names = ["L5", "LeftArm", "RightArm", "L3", "RightProp", "rib"]
    assert sides_of(names) == ([None, 0, 1, None, None, None], [0, 2, 1, 3, 4, 5])
    assert not all_paired(names) and not all_paired(["Hips", "lowerback"])
    assert all_paired(["Hips", "LeftArm", "RightArm"])


def test_namespaces_and_spellings_do_not_tell_joints_apart():
    assert joint_keys(["mixamorig:Hips", "mixamorig:Spine"]) == joint_keys(["mixamorig7:Hips", "mixamorig7:Spine"])
    assert joint_keys(["e\u0301paule"]) == joint_keys(["\u00e9paule"])
    two_figures = ["A:Hips", "B:Hips"]
    assert joint_keys(two_figures) == two_figures  # without the namespace they would be one


def test_a_prefix_of_all_names_is_a_namespace():
    assert joint_keys(["Character1_Hips", "Character1_Spine"]) == joint_keys(["mixamorig:Hips", "mixamorig:Spine"])
    assert joint_keys(["left_thumb", "left_index"]) == ["left_thumb", "left_index"]  # not the other hand's


def test_a_message_lists_a_few_names():
    assert listed([f"joint{i}" for i in range(500)]) == (
        "joint0, joint1, joint2, joint3, joint4, joint5 and 494 more")


def test_a_name_of_many_sides_takes_no_quadratic_time():
    import time

    started = time.perf_counter()
    sides_of([f"{i} " + "l " * 20_000 for i in range(20)])
    assert time.perf_counter() - started < 5
