"""amass.py: files of AMASS and SMPL-X become joints as a body model computes them; nothing pickled is read."""

import re

import numpy as np
import pytest

from motion_llm.motion import amass
from motion_llm.motion.amass import MODELS, PARTS, read_amass
from motion_llm.motion.humanml3d import NAMES, OFFSETS, PARENTS
from motion_llm.motion.kinematics import forward_kinematics
from motion_llm.motion.skeleton import MotionError

RNG = np.random.default_rng(0)



def motion_file(path, width: int = 156, frames: int = 5, **changes):
    """A file as AMASS has them; None as a change removes an array."""
    arrays = {"poses": 0.5 * RNG.normal(size=(frames, width)), "trans": RNG.normal(size=(frames, 3)),
              "betas": RNG.normal(size=16), "mocap_framerate": np.array(120.0), "gender": np.array("female"),
              "dmpls": np.zeros((frames, 8))} | changes
    np.savez(path, **{name: values for name, values in arrays.items() if values is not None})
    return path


def body_model(path, kind: str = "SMPL-H", **changes):
    """A body model of 40 points with random numbers; parts that only pickles hold are in it too."""
    count = len(MODELS[kind])
    parents = [*PARENTS, *range(21, count - 1)]
    arrays = {"v_template": RNG.normal(size=(40, 3)), "shapedirs": RNG.normal(size=(40, 3, 16)),
              "J_regressor": RNG.uniform(size=(count, 40)) / 20,
              "kintree_table": np.array([parents, range(count)], dtype=np.int64).astype(np.uint32),
              "names": np.array([{"a": 1}], dtype=object)} | changes
    np.savez(path, **arrays)
    return path


def axis_angle(vector: np.ndarray) -> np.ndarray:
    """The matrix of an axis times an angle as a power series of its cross product."""
    x, y, z = vector
    cross = np.array([(0, -z, y), (z, 0, -x), (-y, x, 0)])
    result, term = np.eye(3), np.eye(3)
    for n in range(1, 40):
        term = term @ cross / n
        result = result + term
    return result


def by_hand(file, offsets, parents, start, order) -> np.ndarray:
    """Joints (T, J, 3) in the recording's axes, by matrices of 4 by 4 as SMPL's authors write it. order: the place of
    each joint's rotation in the file's poses; -1 for none."""
    joints = np.empty((len(file["poses"]), len(parents), 3))
    for t, pose in enumerate(file["poses"]):
        world = []
        for joint, parent in enumerate(parents):
            local = np.eye(4)
            if order[joint] >= 0:
                local[:3, :3] = axis_angle(pose[3 * order[joint]:3 * order[joint] + 3])
            local[:3, 3] = offsets[joint] if parent >= 0 else start
            world.append(local if parent < 0 else world[parent] @ local)
        joints[t] = np.array(world)[:, :3, 3] + file["trans"][t]
    return joints


def y_up(points: np.ndarray) -> np.ndarray:
    x, y, z = np.moveaxis(points, -1, 0)
    return np.stack([x, z, -y], -1)


@pytest.mark.parametrize("width", [66, 72, 156, 165])
def test_the_body_moves_as_its_rotations_say(tmp_path, width):
    path = motion_file(tmp_path / "walk_poses.npz", width)
    motion = read_amass(path)
    assert (motion.skeleton.names, motion.skeleton.parents, motion.fps) == (NAMES, PARENTS, 120)
    start = amass.PELVIS["SMPL-X" if width == 165 else "SMPL-H"]
    expected = by_hand(np.load(path), OFFSETS, PARENTS, np.array(start), range(22))
    np.testing.assert_allclose(motion.joints, y_up(expected), atol=2e-6)
    translations = np.broadcast_to(OFFSETS, motion.joints.shape).copy()
    translations[:, 0] = motion.joints[:, 0]
    np.testing.assert_allclose(forward_kinematics(motion.rotations, translations, PARENTS), motion.joints, atol=2e-6)
    np.testing.assert_allclose(read_amass(path, up="y").joints, expected, atol=2e-6)


def test_a_standing_figure_stands_upright_with_its_left_to_the_left(tmp_path):
    """In AMASS a person who stands and looks along -y is turned by a quarter about x from the T pose."""
    poses = np.zeros((2, 156))
    poses[:, 0] = np.pi / 2
    trans = np.broadcast_to((0, 0, 0.95), (2, 3))
    joints = read_amass(motion_file(tmp_path / "a.npz", poses=poses, trans=trans)).joints[0]
    place = {name: joints[i] for i, name in enumerate(NAMES)}
    assert 1.4 < np.ptp(joints[:, 1]) < 1.6 and place["head"][1] > place["neck"][1] > place["left_foot"][1]
    assert 0 < place["left_foot"][1] < 0.1
    assert place["left_wrist"][0] > 0.6 and place["right_wrist"][0] < -0.6  # a T pose
    assert place["left_foot"][2] > place["left_ankle"][2]  # looks along z


def test_parts_of_the_rotations_are_the_same_as_all_of_them(tmp_path):
    poses = RNG.normal(size=(4, 165))
    trans = RNG.normal(size=(4, 3))
    whole = motion_file(tmp_path / "whole.npz", poses=poses, trans=trans)
    parts = {"root_orient": poses[:, :3], "pose_body": poses[:, 3:66], "pose_jaw": poses[:, 66:69],
             "pose_eye": poses[:, 69:75], "pose_hand": poses[:, 75:]}
    assert set(parts) == set(PARTS)
    split = motion_file(tmp_path / "split.npz", poses=None, trans=trans, mocap_framerate=None,
                        mocap_frame_rate=np.array(30), **parts)
    body = body_model(tmp_path / "smplx.npz", "SMPL-X")
    for model in (None, body):
        one, other = read_amass(whole, body_model=model), read_amass(split, body_model=model)
        np.testing.assert_array_equal(one.rotations, other.rotations)
    assert other.fps == 30 and one.fps == 120
    only_body = motion_file(tmp_path / "body.npz", poses=None, trans=trans, root_orient=poses[:, :3],
                            pose_body=poses[:, 3:66])
    np.testing.assert_array_equal(read_amass(only_body).rotations, read_amass(whole).rotations)


@pytest.mark.parametrize(("kind", "width"), [("SMPL", 72), ("SMPL-H", 156), ("SMPL-X", 165), ("SMPL-X", 66)])
def test_a_body_model_gives_its_joints_and_the_persons_shape(tmp_path, kind, width):
    path, model = motion_file(tmp_path / "a.npz", width), body_model(tmp_path / "model.npz", kind)
    motion = read_amass(path, body_model=model)
    file, body = np.load(path), np.load(model)
    positions = body["J_regressor"] @ (body["v_template"] + np.einsum("vcn,n->vc", body["shapedirs"], file["betas"]))
    parents = [-1, *body["kintree_table"][0][1:].tolist()]
    offsets = positions - positions[parents]
    order = [i if i < width // 3 else -1 for i in range(len(parents))]
    expected = by_hand(file, offsets, parents, positions[0], order)
    np.testing.assert_allclose(motion.joints, y_up(expected), atol=2e-5)
    assert motion.skeleton.names == MODELS[kind] and motion.skeleton.names[:22] == NAMES


@pytest.mark.parametrize("gender", [np.array("male"), np.array(b"male"), np.array(["MALE"])])
def test_the_gender_chooses_the_body_model(tmp_path, gender):
    path = motion_file(tmp_path / "a.npz", gender=gender)
    (tmp_path / "male").mkdir()
    body = body_model(tmp_path / "male" / "SMPLH_MALE.npz")
    chosen = read_amass(path, body_model=tmp_path / "{gender}" / "SMPLH_{GENDER}.npz")
    np.testing.assert_array_equal(chosen.joints, read_amass(path, body_model=body).joints)


def test_pickled_arrays_are_left_alone(tmp_path):
    objects = np.array([None], dtype=object)
    path = motion_file(tmp_path / "a.npz", gender=objects, labels=objects)
    assert len(read_amass(path, body_model=body_model(tmp_path / "model.npz"))) == 5
    with pytest.raises(MotionError, match="a.npz: gender is pickled, which is not read"):
        read_amass(path, body_model=tmp_path / "{gender}.npz")
    with pytest.raises(MotionError, match="b.npz: poses is pickled"):
        read_amass(motion_file(tmp_path / "b.npz", poses=objects))


def test_a_rate_is_given_only_to_a_file_without_one(tmp_path):
    path = motion_file(tmp_path / "a.npz", mocap_framerate=None)
    assert read_amass(path, fps=25).fps == 25
    assert read_amass(motion_file(tmp_path / "b.npz"), fps=25).fps == 120
    with pytest.raises(MotionError, match="a.npz: without mocap_framerate or mocap_frame_rate: the frames"):
        read_amass(path)


def test_more_betas_than_the_model_knows_are_said(tmp_path, caplog):
    amass._say_once.cache_clear()
    path = motion_file(tmp_path / "a.npz", betas=np.ones(20))
    with caplog.at_level("INFO"):
        read_amass(path, body_model=body_model(tmp_path / "model.npz"))
    assert "model.npz has 16 shape directions, fewer than" in caplog.text


def test_left_out_hands_are_said_once(tmp_path, caplog):
    amass._say_once.cache_clear()
    with caplog.at_level("INFO"):
        read_amass(motion_file(tmp_path / "a.npz"))
        read_amass(motion_file(tmp_path / "b.npz"))
    assert caplog.text.count("hands and shape are left out") == 1


@pytest.mark.parametrize(("changes", "message"), [
    ({"poses": np.zeros((5, 100))}, "poses (5, 100), expected (T, 66, 72, 156, 165)"),
    ({"poses": None}, "no poses, and no root_orient and pose_body, but betas"),
    ({"poses": None, "root_orient": np.zeros((5, 3)), "pose_body": np.zeros((4, 63))},
     "pose_body is float64 (4, 63), expected numbers (5, 63)"),
    ({"trans": np.zeros((4, 3))}, "trans is float64 (4, 3), expected numbers (5, 3)"),
    ({"trans": None}, "no trans among betas"),
    ({"trans": np.full((5, 3), np.nan)}, "trans holds values that are not finite, the first in row 0"),
    ({"poses": np.array([["a"] * 156])}, "poses is <U1 (1, 156), expected numbers"),
    ({"mocap_framerate": np.array(0.0)}, "0.0 frames a second: expected more than 0"),
])
def test_what_is_no_such_motion_is_refused(tmp_path, changes, message):
    with pytest.raises(MotionError, match=re.escape(f"a.npz: {message}")) as caught:
        read_amass(motion_file(tmp_path / "a.npz", **changes))
    assert len(str(caught.value)) <= 400


@pytest.mark.parametrize(("kind", "changes", "message"), [
    ("SMPL", {}, "a.npz: rotations of 52 joints (SMPL-H), but"),
    ("SMPL-H", {"J_regressor": np.array([None])}, "model.npz: J_regressor is pickled"),
    ("SMPL-H", {"kintree_table": np.zeros((2, 30))}, "kintree_table is float64 (2, 30), expected numbers (2, 52)"),
    ("SMPL-H", {"J_regressor": np.ones((16, 40)), "kintree_table": np.zeros((2, 16))}, "model.npz: 16 joints"),
    ("SMPL-H", {"kintree_table": np.full((2, 52), 9)}, "model.npz: kintree_table [-1  9  9"),
])
def test_a_body_model_that_does_not_fit_is_refused(tmp_path, kind, changes, message):
    model = body_model(tmp_path / "model.npz", kind, **changes)
    with pytest.raises(MotionError, match=re.escape(message)):
        read_amass(motion_file(tmp_path / "a.npz"), body_model=model)


def test_a_file_that_is_no_archive_is_refused(tmp_path):
    (tmp_path / "text.npz").write_text("no archive")
    np.save(tmp_path / "array.npy", np.zeros(3))
    (tmp_path / "array.npy").rename(tmp_path / "array.npz")
    (tmp_path / "half.npz").write_bytes(motion_file(tmp_path / "a.npz").read_bytes()[:-300])
    for name, message in (("text.npz", "no .npz file"), ("array.npz", "no .npz file"), ("half.npz", "no .npz file")):
        with pytest.raises(MotionError, match=f"{name}: {message}"):
            read_amass(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        read_amass(tmp_path / "none.npz")


def test_other_packages_names_and_forms_of_the_same_arrays(tmp_path):
    poses, trans = 0.5 * RNG.normal(size=(5, 66)), RNG.normal(size=(5, 3))
    expected = read_amass(motion_file(tmp_path / "a.npz", poses=poses, trans=trans)).joints
    without = {"poses": None, "trans": None, "mocap_framerate": None}
    for changes in ({"poses": poses.reshape(5, 22, 3), "trans": trans, "fps": np.array(120)},
                    {"smpl_poses": poses, "smpl_trans": trans, "mocap_framerate": np.array("120")},
                    {"global_orient": poses[:, :3], "body_pose": poses[:, 3:], "transl": trans,
                     "fps": np.array(b"120")}):
        motion = read_amass(motion_file(tmp_path / "b.npz", **without | changes))
        assert motion.fps == 120 and np.array_equal(motion.joints, expected)
    with pytest.raises(MotionError, match="b.npz: fps is 'fast', expected frames a second"):
        read_amass(motion_file(tmp_path / "b.npz", mocap_framerate=None, fps=np.array("fast")))


def test_rotations_in_degrees_are_refused(tmp_path):
    poses = np.degrees(0.5 * RNG.normal(size=(5, 66)))
    with pytest.raises(MotionError, match=r"a\.npz: a rotation by .* in radians: are these degrees"):
        read_amass(motion_file(tmp_path / "a.npz", poses=poses))


@pytest.mark.parametrize("rate", [np.array("inf"), np.array("nan"), np.array(1e300), np.array("-5")])
def test_a_rate_that_no_recording_has_is_refused(tmp_path, rate):
    with pytest.raises(MotionError, match=r"a\.npz: \S+ frames a second: expected more than 0, and less than 100,000"):
        read_amass(motion_file(tmp_path / "a.npz", mocap_framerate=rate))
