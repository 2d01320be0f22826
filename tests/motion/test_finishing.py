"""finishing.py, feet.py, legs.py: feet that stay where they stand, still ends cut, motions on the spot, seams of loops,
and the flags that offer the first three."""

import json
import math
from argparse import ArgumentParser
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hands import FIGURE
from rig import RIG, moving
from walker import NAMES, WALKER, walk, walks

from codec import main
from motion_llm.motion.bvh import read_bvh, write_bvh
from motion_llm.motion.codec import MotionCodec
from motion_llm.motion.feet import WEIGHTED, contacts_of, foot_sliding, held, limited, scale_of, with_clean_feet
from motion_llm.motion.finishing import add_finishing_flags, closing_jerk, finished, in_place, seam_of, trimmed
from motion_llm.motion.kinematics import forward_kinematics, local_positions, matrices_of
from motion_llm.motion.legs import legs_of, with_feet_at
from motion_llm.motion.skeleton import Motion, MotionError, Skeleton

ROOT = Path(__file__).parents[2]
REAL = ROOT.parent / "shared" / "data" / "real" / "bvh" / "dataset-2_walk-turn-right_active_012.bvh"
FPS = 30
LEGS = [RIG.names.index(f"{side}{name}") for side in ("Left", "Right") for name in ("UpLeg", "Leg", "Foot", "Toe")]


def posed(way: np.ndarray, **angles: np.ndarray) -> Motion:
    """RIG with its hips moved by way (T, 3), and joints turned about x by angles (T,) in degrees."""
    turns = np.zeros((len(way), len(RIG.names), 3))
    for name, values in angles.items():
        turns[:, RIG.names.index(name), 0] = values
    places = np.broadcast_to(RIG.offsets, (len(way), *RIG.offsets.shape)).copy()
    places[:, RIG.names.index("Hips")] += way
    rotations = matrices_of(turns, "XYZ")
    return Motion(forward_kinematics(rotations, places, RIG.parents), FPS, RIG, rotations)


def swaying(frames: int = 90, bend: float = 30) -> Motion:
    """Stands with bent knees and glides to and fro with both feet on the floor, which lift once, one after the other.
    """
    times = np.arange(frames) / FPS
    way = np.stack([0.04 * np.sin(3 * times), 0 * times, 0.03 * np.sin(2 * times)], -1)
    lift = 25 * np.exp(-((times[:, None] - (1.2, 1.8)) / 0.1) ** 2)
    return posed(way, LeftUpLeg=-bend - lift[:, 0], LeftLeg=2 * bend + 2 * lift[:, 0], LeftFoot=-bend - lift[:, 0],
                 RightUpLeg=-bend - lift[:, 1], RightLeg=2 * bend + 2 * lift[:, 1], RightFoot=-bend - lift[:, 1])


def joints_again(motion: Motion) -> np.ndarray:
    """Joints (T, J, 3) from the rotations and the rest offsets, and the position of the hips."""
    places = np.broadcast_to(motion.skeleton.offsets, motion.joints.shape).copy()
    places[:, :2] = local_positions(motion)[0][:, :2]
    return forward_kinematics(motion.rotations, places, motion.skeleton.parents)


def lengths(motion: Motion) -> np.ndarray:
    parents = list(motion.skeleton.parents)
    return np.linalg.norm(motion.joints[:, 1:] - motion.joints[:, parents[1:]], axis=-1)


@pytest.mark.parametrize("names", [
    ("Hips", "LeftUpLeg", "LeftLeg", "LeftFoot", "LeftToeBase", "RightUpLeg", "RightLeg", "RightFoot", "RightToeBase",
     "LeftArm", "LeftHand", "RightArm", "RightHand"),
    ("pelvis", "left_hip", "left_knee", "left_ankle", "left_foot", "right_hip", "right_knee", "right_ankle",
     "right_foot", "left_shoulder", "left_wrist", "right_shoulder", "right_wrist"),
    ("root", "thigh_l", "calf_l", "foot_l", "ball_l", "thigh_r", "calf_r", "foot_r", "ball_r", "upperarm_l", "hand_l",
     "upperarm_r", "hand_r"),
    ("mixamorig:Hips", "L_Thigh", "L_Calf", "L_Foot", "L_Toe", "R_Thigh", "R_Calf", "R_Foot", "R_Toe", "L_Arm",
     "L_Hand", "R_Arm", "R_Hand"),
    ("hip", "lfemur", "ltibia", "lfoot", "ltoes", "rfemur", "rtibia", "rfoot", "rtoes", "lhumerus", "lhand",
     "rhumerus", "rhand")])
def test_legs_are_found_in_figures_of_several_programs(names):
    down, ahead, aside = (0, -0.4, 0), (0, 0, 0.15), (0.3, 0, 0)
    leg, arm = [(0.1, 0, 0), down, down, ahead], [(0.2, 0, 0), aside]
    skeleton = Skeleton((*names[:1], "spine", *names[1:]), (-1, 0, 0, 2, 3, 4, 0, 6, 7, 8, 1, 10, 1, 12),
                        np.array([(0, 0.9, 0), (0, 0.4, 0), *leg, *leg, *arm, *arm], float))
    left, right = legs_of(skeleton)
    assert [skeleton.names[joint] for joint in (left.hip, left.knee, *left.foot)] == list(names[1:5])
    assert [skeleton.names[joint] for joint in (right.hip, right.knee, *right.foot)] == list(names[5:9])


def test_the_tip_of_a_foot_is_its_toe_and_a_foot_may_have_none():
    assert [leg.toe for leg in legs_of(FIGURE)] == [None, None]
    foot = FIGURE.names.index("LeftFoot")
    tipped = Skeleton((*FIGURE.names, "LeftFoot_End"), (*FIGURE.parents, foot),
                      np.concatenate([FIGURE.offsets, [(0, -0.05, 0.15)]]))
    assert legs_of(tipped)[0].foot == (foot, len(FIGURE.names)) and legs_of(tipped)[1].toe is None


def test_a_figure_without_knees_or_legs_is_refused_with_its_joints():
    with pytest.raises(MotionError, match="the feet are not found: expected hip, knee and ankle in the left leg, such "
                                          "as LeftUpLeg.*found left_leg, left_foot of root, hips, spine"):
        with_clean_feet(walk(20))
    hand = Skeleton(("Wrist", "Thumb", "Index"), (-1, 0, 0), np.ones((3, 3)))
    with pytest.raises(MotionError, match="the feet are not found: .* expected legs, and arms .* of Wrist, Thumb, Ind"):
        foot_sliding(Motion(np.zeros((2, 3, 3)), FPS, hand))


def test_sliding_is_the_weighted_mean_speed_of_feet_in_centimetres_a_second():
    times = np.arange(20) / FPS
    glide = np.stack([0.3 * times, 0 * times, 0.4 * times], -1)
    assert foot_sliding(posed(glide)) == pytest.approx(50)
    assert foot_sliding(posed(0 * glide)) == 0 and foot_sliding(posed(glide[:1])) == 0
    half, low = posed(glide), WEIGHTED * scale_of(RIG) / 2  # in the second half of the clip one foot is still, half up
    foot = [RIG.names.index(name) for name in ("LeftFoot", "LeftToe")]
    half.joints[10:, foot] = half.joints[10, foot] + (0, low, 0)
    up = 2 - 2**0.5
    assert foot_sliding(half) == pytest.approx((19 + 9) * 50 / (19 + 9 + 10 * up) + np.linalg.norm(
        half.joints[10, foot[0], [0, 2]] - half.joints[9, foot[0], [0, 2]]) * FPS * 100 * up / (28 + 10 * up))


def test_standing_feet_stay_and_nothing_but_the_legs_moves():
    motion = swaying()
    clean = with_clean_feet(motion)
    assert foot_sliding(motion) > 6 and foot_sliding(clean) < 0.1 * foot_sliding(motion)
    others = [joint for joint in range(len(RIG.names)) if joint not in LEGS]
    np.testing.assert_array_equal(clean.joints[:, others], motion.joints[:, others])
    np.testing.assert_allclose(lengths(clean), lengths(motion), atol=1e-9)
    np.testing.assert_allclose(clean.joints[..., 1][:, LEGS[2::4] + LEGS[3::4]],
                               motion.joints[..., 1][:, LEGS[2::4] + LEGS[3::4]], atol=2e-3)
    standing = contacts_of(motion, legs_of(RIG))[:, 0].all(1)
    first = clean.joints[:int(np.argmin(standing)) - 5, LEGS[3]]  # the left toe, until shortly before its step
    assert len(first) > 20 and np.ptp(first, axis=0).max() < 1e-3 < 0.03 < np.ptp(motion.joints[:, LEGS[3]], axis=0)[0]


def test_clean_feet_add_no_jerk():
    motion = swaying()
    jerk = [np.linalg.norm(np.diff(m.joints[:, LEGS], 3, axis=0), axis=-1) * FPS**3
            for m in (motion, with_clean_feet(motion))]
    assert jerk[1].mean() < 1.05 * jerk[0].mean() and jerk[1].max() < 1.1 * jerk[0].max()


def test_rotations_and_files_show_the_same_figure_as_the_joints(tmp_path):
    clean = with_clean_feet(swaying())
    np.testing.assert_allclose(joints_again(clean), clean.joints, atol=1e-9)
    write_bvh(tmp_path / "clean.bvh", clean)
    np.testing.assert_allclose(read_bvh(tmp_path / "clean.bvh").joints, clean.joints, atol=1e-5)
    without = with_clean_feet(replace(swaying(), rotations=None))
    assert without.rotations is None
    np.testing.assert_array_equal(without.joints, clean.joints)


def test_feet_that_turn_while_they_stand_keep_their_direction():
    motion = swaying()
    turn = matrices_of(4 * np.sin(3 * np.arange(len(motion)) / FPS)[:, None], "Y")
    rotations = motion.rotations.copy()
    rotations[:, 0] = turn  # the whole figure, about the point below its hips
    turning = Motion(forward_kinematics(rotations, local_positions(motion)[0], RIG.parents), FPS, RIG, rotations)
    foot = [RIG.names.index(name) for name in ("RightFoot", "RightToe")]
    before, after = (m.joints[:20, foot] for m in (turning, with_clean_feet(turning)))
    assert np.ptp(np.diff(before, axis=1), axis=0).max() > 9e-3 and np.ptp(after, axis=0).max() < 1e-3


@pytest.mark.parametrize("bend", [0, 2, 30])
def test_legs_are_never_stretched_and_straight_knees_bend_ahead_without_a_pop(bend):
    motion = posed(np.zeros((41, 3)), LeftUpLeg=np.full(41, -bend), LeftLeg=np.full(41, 2 * bend))
    left = legs_of(RIG)[0]
    moves, yaws = np.zeros((2, 41, 2)), np.zeros((2, 41))
    moves[0, :, 1] = np.linspace(-0.4, 0.4, 41)
    bent = with_feet_at(motion, legs_of(RIG), moves, yaws)
    np.testing.assert_allclose(lengths(bent), lengths(motion), atol=1e-9)
    np.testing.assert_array_equal(bent.joints[20], motion.joints[20])  # no move, no change
    hip, knee, ankle = (bent.joints[:, joint] for joint in (left.hip, left.knee, left.ankle))
    middle = hip + (ankle - hip) * np.linalg.norm(knee - hip, axis=-1, keepdims=True) / lengths(bent)[0, [
        left.knee - 1, left.ankle - 1]].sum()
    assert (knee - middle)[:, 2].min() > -0.03  # RIG's own knees point 1 cm back where they are straight
    assert np.abs(np.diff(knee, 2, axis=0)).max() < 0.02
    reached = np.linalg.norm(ankle - hip, axis=-1)
    assert reached.max() <= lengths(motion)[0, [left.knee - 1, left.ankle - 1]].sum() + 1e-9


def test_a_foot_is_not_moved_farther_than_the_limit():
    slide = np.array([(0.01, 0), (0.2, 0), (0, 5.0)])
    np.testing.assert_allclose(limited(slide, 0.12), [(0.01, 0), (0.1167, 0), (0, 0.12)], atol=1e-3)


def test_a_straight_leg_whose_foot_comes_nearer_bends_ahead():
    turns = np.zeros((9, len(FIGURE.names), 3))
    turns[:, FIGURE.names.index("LeftUpLeg"), 0] = -40
    places = np.broadcast_to(FIGURE.offsets, (9, *FIGURE.offsets.shape))
    motion = Motion(forward_kinematics(matrices_of(turns, "XYZ"), places, FIGURE.parents), FPS, FIGURE)
    moves = np.zeros((2, 9, 2))
    moves[0, :, 1] = np.linspace(0, -0.5, 9)
    bent, knee = with_feet_at(motion, legs_of(FIGURE), moves, np.zeros((2, 9))), legs_of(FIGURE)[0].knee
    np.testing.assert_allclose(lengths(bent), lengths(motion), atol=1e-9)
    way = bent.joints[:, knee + 1, 2] - motion.joints[:, knee + 1, 2]
    assert (np.diff(way) < 0).all() and way[-1] < -0.1  # the foot comes, though less far than it was to
    assert (bent.joints[1:, knee, 2] - bent.joints[1:, [knee - 1, knee + 1], 2].mean(1)).min() > 0.005


def test_low_feet_stand_while_they_are_slow_for_the_speed_of_the_body():
    def contacts(feet: np.ndarray, hips: float) -> np.ndarray:
        """Whether a foot stands, frame by frame, that moves at speeds feet (60,) below hips that move at one."""
        joints = np.tile(posed(np.zeros((1, 3))).joints, (60, 1, 1))
        joints[:, :, 2] += hips * np.arange(60)[:, None] / FPS
        toe = [RIG.names.index(name) for name in ("LeftFoot", "LeftToe")]
        joints[:, toe, 2] = joints[:1, toe, 2] + np.cumsum(feet)[:, None] / FPS
        return contacts_of(Motion(joints, FPS, RIG), legs_of(RIG))[:, 0].all(1)

    one = np.ones(60)
    assert contacts(0.3 * one, 1.2).all() and not contacts(0.9 * one, 1.2).any() and not contacts(0.3 * one, 0.1).any()
    assert contacts(0.1 * one, 0).all()  # people who stand move their feet a little
    step = contacts(np.where(np.arange(60) < 30, 0.2, np.where(np.arange(60) < 45, 0.7, 3)), 1.2)
    assert step[:42].all() and not step[46:].any()  # once it stands, it may be faster


def test_a_foot_is_held_around_its_mean_place_and_comes_and_goes_without_a_jolt():
    steps = np.full((99, 1), 0.01)
    values = held(steps, [(20, 40), (46, 60)], FPS)[:, 0]
    for start, end in ((20, 40), (46, 60)):
        assert abs(values[start:end].mean()) < 1e-12
        np.testing.assert_allclose(np.diff(values)[start + 3:end - 4], 0.01)
    assert not values[:14].any() and not values[67:].any()
    assert (np.diff(values[39:47]) < 0).all()  # straight to the next place, as it is near
    assert np.abs(np.diff(values, 2)[[19, 38, 45, 58]]).max() < 0.005  # where runs begin and end
    np.testing.assert_allclose(np.diff(held(steps, [(0, 100)], FPS)[:, 0]), 0.01)  # the motion's own ends are no change


def test_feet_of_the_samples_codec_slide_less():
    codec, rows = MotionCodec.load(ROOT / "data" / "sample_codec"), (ROOT / "data" / "sample_motion.json").read_text()
    motion = codec.decode(codec.read(json.loads(rows)[1]["motion_tokens"]))
    clean = with_clean_feet(motion)
    assert foot_sliding(clean) < 0.4 * foot_sliding(motion)
    assert 1000 * np.linalg.norm(clean.joints - motion.joints, axis=-1).mean() < 3


@pytest.mark.skipif(not REAL.exists(), reason="the real clips are not here")
def test_feet_of_a_real_clip_stay_within_three_millimetres_of_it():
    motion = read_bvh(REAL)
    clean = with_clean_feet(motion)
    assert foot_sliding(clean) < 0.95 * foot_sliding(motion) and clean.joints.dtype == motion.joints.dtype
    assert 0 < 1000 * np.linalg.norm(clean.joints - motion.joints, axis=-1).mean() < 3
    np.testing.assert_allclose(lengths(clean), lengths(motion), atol=1e-5)


def waving(still: int, frames: int) -> Motion:
    """Stands, raises an arm and lowers it, and stands again."""
    angle = np.concatenate([np.zeros(still), 60 * np.sin(np.linspace(0, np.pi, frames)) ** 2, np.zeros(2 * still)])
    return posed(np.zeros((len(angle), 3)), LeftArm=angle)


def test_the_still_ends_are_cut_with_a_margin():
    motion = waving(40, 30)
    cut = trimmed(motion)
    start = next(i for i in range(len(motion)) if np.array_equal(motion.joints[i:i + len(cut)], cut.joints)
                 and np.array_equal(motion.rotations[i:i + len(cut)], cut.rotations))
    first = 40 - start
    assert 3 <= first <= 10 and 3 <= len(cut) - first - 30 <= 10
    np.testing.assert_array_equal(trimmed(cut).joints, cut.joints)


def test_a_clip_that_stands_still_keeps_half_a_second_and_one_that_moves_all_of_itself():
    still = waving(40, 0)
    assert len(trimmed(still)) == 15 and len(trimmed(posed(np.zeros((4, 3))))) == 4 == len(trimmed(walk(4)))
    assert trimmed(posed(np.zeros((1, 3)))).joints.shape == (1, len(RIG.names), 3)
    motion = walk(60)
    np.testing.assert_array_equal(trimmed(motion).joints, motion.joints)


def test_on_the_spot_the_hips_keep_their_place_and_heights_and_turns_stay():
    motion = walk(60, turning=1.0, start=(3.0, -2.0, 0.5))
    spot = in_place(motion)
    hips = NAMES.index("hips")
    np.testing.assert_allclose(spot.joints[:, hips] * (1, 0, 1), np.tile((3.0, 0, -2.0), (60, 1)), atol=1e-9)
    np.testing.assert_array_equal(spot.joints[:, 0], motion.joints[:, 0])  # a root that stays at the origin stays there
    relative = [m.joints[:, hips:] - m.joints[:, [hips]] for m in (spot, motion)]
    np.testing.assert_allclose(relative[0], relative[1], atol=1e-9)
    np.testing.assert_array_equal(spot.joints[..., 1], motion.joints[..., 1])
    np.testing.assert_array_equal(spot.rotations, motion.rotations)
    np.testing.assert_allclose(joints_of_root(spot), spot.joints, atol=1e-9)


def joints_of_root(motion: Motion) -> np.ndarray:
    return forward_kinematics(motion.rotations, local_positions(motion)[0], motion.skeleton.parents)


def test_on_the_spot_a_root_that_carries_the_way_stays_too():
    motion = walk(30)
    joints = motion.joints.copy()
    joints[:, 0] = motion.joints[:, 1] * (0, 0, 1)  # without the hips' way aside
    before = joints.copy()
    spot = in_place(Motion(joints, FPS, WALKER))
    np.testing.assert_array_equal(joints, before)
    assert np.ptp(joints[:, 1, 0]) > 0.1 and np.ptp(spot.joints[:, :2], axis=0).max() < 1e-9


def test_on_the_spot_what_stands_still_beside_the_body_goes_on_doing_so():
    motion = walk(30)
    figure = Skeleton((*NAMES, "prop"), (*WALKER.parents, 0), np.insert(WALKER.offsets, len(NAMES), 0.5, axis=0))
    spot = in_place(Motion(np.insert(motion.joints, len(NAMES), (0.5, 0, 0.5), axis=1), FPS, figure))
    assert np.ptp(motion.joints[:, 1], axis=0).max() > 0.5 and np.ptp(spot.joints[:, [0, 1, -1]], axis=0).max() < 1e-9


def test_at_the_seam_of_a_loop_that_closes_the_motion_goes_on_as_it_would_have():
    rate = 20 * 5 / (2 * np.pi)  # frames a second that give a cycle of the walker's legs 20 frames
    seam, twice = seam_of(walk(20, fps=rate)), walk(40, fps=rate).joints[:, 1:]
    speed, jerk = (np.linalg.norm(np.diff(twice, n, axis=0), axis=-1).mean(1) * rate**n for n in (1, 3))
    assert seam.speed == pytest.approx(speed[19]) and seam.jerk == pytest.approx(jerk[17:20].mean())
    assert seam.own_speed == pytest.approx(speed[:19].mean()) and seam.own_jerk == pytest.approx(jerk[:17].mean())
    torn = seam_of(walk(29, fps=rate))
    assert torn.speed > 1.5 * torn.own_speed and torn.jerk > 10 * torn.own_jerk


def test_the_step_at_a_seam_is_the_mean_of_the_last_and_the_first():
    way = np.zeros((7, 3))
    way[:, 0] = np.cumsum([0, 0.01, 0.02, 0.05, 0.05, 0.05, 0.04])
    assert seam_of(posed(way)).speed == pytest.approx(0.025 * FPS)


def test_a_seam_does_not_depend_on_place_and_heading_and_needs_four_frames():
    seams = [seam_of(walk(50, start=start)) for start in ((0, 0, 0), (4, -3, 2.5))]
    assert list(vars(seams[0]).values()) == pytest.approx(list(vars(seams[1]).values()))
    assert seam_of(posed(np.zeros((4, 3)))) == pytest.approx(seam_of(posed(np.zeros((9, 3)))))
    with pytest.raises(MotionError, match="3 frames: expected four or more for a seam"):
        seam_of(walk(3))


def test_a_loop_is_closed_as_roughly_as_at_the_worse_of_its_two_places():
    """A figure that stands, with a jump of 0.1 m, that is a jerk of 0.1 and -0.2 and 0.1 m over three frames."""
    jump, jerk = np.zeros((12, 3)), 0.4 / 3 * FPS**3
    jump[5:, 1] = 0.1
    seam = seam_of(posed(jump)).jerk
    assert seam == pytest.approx(jerk) and closing_jerk(posed(jump), 12) == pytest.approx(seam)
    there_and_back = np.zeros((12, 3))
    there_and_back[5:9, 1] = 0.1
    assert [closing_jerk(posed(there_and_back), frame) for frame in (2, 5, 12)] == pytest.approx([0, jerk, 0])
    assert closing_jerk(walk(3), 2) == math.inf


def options(*flags: str):
    parser = ArgumentParser()
    add_finishing_flags(parser)
    return parser.parse_args(flags)


def test_feet_are_held_on_the_ground_before_the_way_is_taken_out():
    motion = swaying()
    done = finished(motion, options("--clean_feet", "--in_place"))
    np.testing.assert_array_equal(done.joints, in_place(with_clean_feet(motion)).joints)
    assert finished(motion, options()) is motion
    np.testing.assert_array_equal(finished(waving(40, 30), options("--trim")).joints, trimmed(waving(40, 30)).joints)


def test_decoding_takes_the_flags_and_refuses_early_what_cannot_be(tmp_path, capsys, monkeypatch):
    codec = MotionCodec.fit(walks(), codes=16, kind="kmeans")
    codec.save(tmp_path / "codec")
    command = ["decode", "--codec", str(tmp_path / "codec"), "--tokens", "1 2 3", "--output", str(tmp_path / "a.npy")]
    assert main([*command, "--in_place", "--trim"]) == 0
    joints = np.load(tmp_path / "a.npy")
    assert np.ptp(joints[:, NAMES.index("hips"), [0, 2]], axis=0).max() < 1e-6
    assert np.ptp(joints[:, NAMES.index("left_foot")], axis=0).max() > 0.05
    monkeypatch.setattr(MotionCodec, "decode", None)
    assert main([*command, "--clean_feet"]) == 1
    assert "--clean_feet: the feet are not found: expected hip, knee and ankle" in capsys.readouterr().err


def test_random_poses_and_short_motions_pass():
    for frames in (1, 2, 3, 30):
        motion = moving(RIG, frames)
        clean = with_clean_feet(motion)
        np.testing.assert_allclose(lengths(clean), lengths(motion), atol=1e-9)
