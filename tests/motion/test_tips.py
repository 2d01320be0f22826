"""End sites are tips of the figure: read, kept by codecs and the viewer, written again, and in nobody's way."""

import re
from pathlib import Path

import numpy as np
import pytest
from rig import RIG, moving
from walker import NAMES, OFFSETS, PARENTS, WALKER, walk, walks

from motion_llm.motion import humanml3d
from motion_llm.motion.bvh import Bvh, read_bvh, write_bvh
from motion_llm.motion.codec import MotionCodec
from motion_llm.motion.features import Layout, features_of, feet_of, joint_order
from motion_llm.motion.npz import write_amass
from motion_llm.motion.rest_pose import in_t_pose
from motion_llm.motion.retarget import retargeted
from motion_llm.motion.skeleton import Motion, MotionError, Skeleton
from motion_llm.motion.survey import Measures, survey
from motion_llm.viewer.figure import figure_of

TOES = {"left_foot": (0, 0, 0.2), "right_foot": (0, 0, 0.2)}
TIPS = TOES | {"left_hand": (0.0, -0.15, 0), "right_hand": (0.0, -0.15, 0)}


def with_tips(motion: Motion, tips: dict = TIPS, path: Path | None = None) -> Motion:
    """The motion as a file with end sites would give it; written there, if a path is given."""
    bvh = Bvh.of(motion)
    ends = bvh.end_sites | {bvh.names.index(joint): np.array(offset) * 100 for joint, offset in tips.items()}
    bvh = Bvh(bvh.names, bvh.parents, bvh.offsets, bvh.channels, ends, bvh.values, bvh.frame_time)
    if path:
        bvh.write(path)
    return bvh.motion()


def tipped(**options) -> list[Motion]:
    return [with_tips(motion) for motion in walks(**options)]


@pytest.fixture(scope="module")
def codec() -> MotionCodec:
    return MotionCodec.fit(tipped(), 64, kind="kmeans")


def test_end_sites_of_some_length_are_tips_behind_the_joints_and_come_back(tmp_path):
    first = with_tips(walk(), TOES, tmp_path / "first.bvh")
    motion = read_bvh(tmp_path / "first.bvh")
    assert motion.skeleton.names == (*NAMES, "left_foot_End", "right_foot_End") and motion.skeleton.ends == [11, 12]
    toes = motion.joints[:, 11] - motion.joints[:, NAMES.index("left_foot")]
    np.testing.assert_allclose(np.linalg.norm(toes, axis=-1), 0.2, atol=1e-6)
    write_bvh(tmp_path / "again.bvh", motion)
    bvh, again = Bvh.read(tmp_path / "again.bvh"), read_bvh(tmp_path / "again.bvh")
    assert set(bvh.names) == set(NAMES) and not any("JOINT left_foot_End" in line for line in
                                                    (tmp_path / "again.bvh").read_text().splitlines())
    sites = {bvh.names[joint]: list(offset) for joint, offset in bvh.end_sites.items()}
    assert sites == {"left_foot": [0, 0, 20], "right_foot": [0, 0, 20], "left_hand": [0, 0, 0], "right_hand": [0, 0, 0]}
    assert again.skeleton.names == motion.skeleton.names
    np.testing.assert_allclose(again.joints, motion.joints, atol=1e-5)
    np.testing.assert_allclose(again.joints, first.joints, atol=1e-5)


def test_a_tip_that_turns_or_moves_is_written_as_a_joint(tmp_path):
    """As a file's own joint of such a name may."""
    motion = with_tips(walk(), TOES)
    turns, joints = motion.rotations.copy(), motion.joints.copy()
    turns[3, 11] = ((0, -1, 0), (1, 0, 0), (0, 0, 1))
    joints[:, 12] += np.linspace(0, 0.1, len(joints))[:, None]
    write_bvh(tmp_path / "clip.bvh", Motion(joints, 30, motion.skeleton, turns))
    assert {"left_foot_End", "right_foot_End"} < set(Bvh.read(tmp_path / "clip.bvh").names)
    again = read_bvh(tmp_path / "clip.bvh")
    order = [again.skeleton.names.index(name) for name in motion.skeleton.names]
    np.testing.assert_allclose(again.joints[:, order], joints, atol=1e-5)


@pytest.mark.parametrize("offset", [(0, 0, 0), (1e-6, 0, 0)])
def test_end_sites_of_no_length_leave_a_figure_as_it_is(offset):
    assert with_tips(walk(), {"left_foot": offset}).skeleton.names == NAMES


def test_an_end_site_whose_name_is_taken_is_left_out_with_a_word(caplog):
    names = (*NAMES[:-2], "right_leg", "left_hand_End")
    named = Skeleton(names, PARENTS, OFFSETS)
    motion = with_tips(Motion(walk().joints, 30, named, walk().rotations), {"left_hand": (0, 0.1, 0)})
    assert motion.skeleton.names == names
    assert "the end site of left_hand is left out: another joint is called left_hand_End" in caplog.text


def test_a_codec_keeps_the_tips(codec, tmp_path):
    codec.save(tmp_path / "codec")
    codec = MotionCodec.load(tmp_path / "codec")
    motion = tipped()[2]
    decoded = codec.decode(codec.encode(motion))
    assert decoded.skeleton.names == motion.skeleton.names and len(decoded.skeleton.ends) == 4
    write_bvh(tmp_path / "clip.bvh", decoded)
    sites = Bvh.read(tmp_path / "clip.bvh").end_sites.values()
    assert sorted(map(list, sites)) == [[0, -15, 0], [0, -15, 0], [0, 0, 20], [0, 0, 20]]
    a, b = (features_of(m, codec.layout)[:len(decoded), 3:].reshape(len(decoded), -1, 3) for m in (motion, decoded))
    assert np.linalg.norm(a - b, axis=-1)[:, -4:].mean() < 0.05
    assert [codec.layout.skeleton.names[codec.layout.body[i]] for i in feet_of(features_of(motion, codec.layout),
                                                                             codec.layout)] != []


def test_tips_have_their_mirror_images(codec):
    layout = codec.layout
    names = [layout.skeleton.names[joint] for joint in layout.body]
    assert names[layout.mirror[names.index("left_foot_End")]] == "right_foot_End"


def test_a_codec_without_tips_drops_those_of_a_motion():
    plain = MotionCodec.fit(walks(), 64, kind="kmeans")
    assert plain.layout.skeleton.ends == []
    for motion, same in zip(tipped(), walks(), strict=True):
        assert plain.encode(motion) == plain.encode(same)


def test_a_motion_without_the_codecs_tips_is_refused_with_the_likely_reason(codec):
    with pytest.raises(MotionError, match=re.escape("has no left_foot_End, left_hand_End, right_foot_End, "
                                                    "right_hand_End (is its End Site of no length?)")):
        codec.encode(walk())


def test_tips_that_not_all_clips_have_or_that_one_side_has_are_left_out(caplog):
    motions = [with_tips(walks()[0]), with_tips(walks()[1], TOES), with_tips(walks()[2], TOES)]
    layout = survey(motions, list("abc")).layout
    assert layout.skeleton.names[11:] == ("left_foot_End", "right_foot_End")
    assert survey([*motions, walk()], list("abcd")).layout.skeleton.names == NAMES
    one_side = [with_tips(motion, {"left_foot": (0, 0, 0.2), "spine": (0, 0.3, 0)}) for motion in walks(2)]
    assert survey(one_side, list("ab")).layout.skeleton.names == (*NAMES, "spine_End")
    np.testing.assert_allclose(survey(one_side, list("ab")).layout.skeleton.offsets[-1], (0, 0.3, 0), atol=1e-9)


def test_sizes_and_postures_are_told_as_without_tips():
    plain, motion = walk(), with_tips(walk())
    a, b = (Measures.of(m, Layout.of(m.skeleton)) for m in (plain, motion))
    assert a.size == pytest.approx(b.size, abs=1e-6) and a.extents == pytest.approx(b.extents, abs=1e-5)
    assert figure_of(motion).size == pytest.approx(figure_of(plain).size, abs=1e-6)


def test_the_viewer_draws_feet_and_no_second_hand_behind_a_tip():
    figure, plain = figure_of(with_tips(walk())), figure_of(walk())
    drawn = {(capsule.start, capsule.end) for capsule in figure.capsules}
    foot, hand = NAMES.index("left_foot"), NAMES.index("left_hand")
    assert (foot, 13) in drawn and (hand, 11) in drawn
    past = [capsule for capsule in figure.capsules if capsule.far > 1 and capsule.end in (hand, 11)]
    assert not past and any(capsule.far > 1 and capsule.end == hand for capsule in plain.capsules)


def rig_with_tips(motion: Motion) -> Motion:
    return with_tips(motion, {"LeftToe": (0, -0.05, 0.0), "RightToe": (0, -0.05, 0), "Head": (0.05, 0.2, 0),
                              "LeftIndex": (0.0, 0.05, 0.05), "RightIndex": (0.0, 0.05, 0.05)})


def test_retargeting_and_t_poses_are_as_without_tips():
    plain = moving(RIG)
    motion = rig_with_tips(plain)
    joints = [motion.skeleton.names.index(name) for name in RIG.names]
    posed, same = in_t_pose(motion), in_t_pose(plain)
    np.testing.assert_allclose(posed.rotations[:, joints], same.rotations, atol=1e-5)
    np.testing.assert_allclose(posed.joints, motion.joints, atol=1e-6)
    np.testing.assert_allclose(retargeted(motion, RIG).joints, retargeted(plain, RIG).joints, atol=1e-5)
    np.testing.assert_allclose(retargeted(plain, motion.skeleton).joints[:, joints], plain.joints, atol=1e-5)
    other = with_tips(plain, {"LeftToe": (0, 0.1, 0.1), "Head": (0, 0, 0.2), "LeftIndex": (0, -0.1, 0)}).skeleton
    np.testing.assert_allclose(retargeted(motion, other).rotations[:, joints], plain.rotations, atol=1e-5)
    tips = retargeted(plain, motion.skeleton).joints[:, motion.skeleton.ends]
    np.testing.assert_allclose(tips, motion.joints[:, motion.skeleton.ends], atol=1e-5)


def test_an_amass_file_leaves_tips_out(tmp_path):
    smpl = moving(Skeleton(humanml3d.NAMES, humanml3d.PARENTS, humanml3d.OFFSETS))
    motion = with_tips(smpl, {"left_foot": (0, 0, 0.1), "head": (0, 0.2, 0)})
    for name, of in (("tips.npz", motion), ("plain.npz", smpl)):
        write_amass(tmp_path / name, of)
    tips, plain = np.load(tmp_path / "tips.npz"), np.load(tmp_path / "plain.npz")
    np.testing.assert_allclose(tips["poses"], plain["poses"], atol=1e-4)


def test_files_with_tips_in_another_namespace_are_one_figure():
    named = Skeleton(tuple(f"mixamorig1:{name}" for name in NAMES), PARENTS, OFFSETS)
    other = Motion(walk().joints, 30, named, walk().rotations)
    motion = with_tips(other, {f"mixamorig1:{joint}": offset for joint, offset in TIPS.items()})
    layout = Layout.of(with_tips(walk()).skeleton)
    assert [motion.skeleton.names[i].rpartition(":")[2] for i in joint_order(motion, layout)] == list(
        layout.skeleton.names)
    assert WALKER.ends == [] and len(motion.skeleton.ends) == 4
