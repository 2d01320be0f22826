"""files.py and joints_file.py: a file of any format becomes a motion; the formats of one figure go together."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from test_humanml3d import features_by_hand

from motion_llm.motion.bvh import write_bvh
from motion_llm.motion.codec import MotionCodec
from motion_llm.motion.features import Layout, features_of
from motion_llm.motion.files import READERS, is_motion_file, read_motion
from motion_llm.motion.humanml3d import NAMES, OFFSETS, PARENTS, bone_lengths
from motion_llm.motion.joints_file import read_joints, read_skeleton
from motion_llm.motion.kinematics import forward_kinematics, matrices_of, with_rotations
from motion_llm.motion.skeleton import Motion, MotionError, Skeleton


def turns_of_a_person(frames: int = 60, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Local rotations (T, 22, 3, 3), positions of the pelvis (T, 3), the heading (T,) of one who walks in a circle."""
    rng = np.random.default_rng(seed)
    heading = 0.03 * np.arange(frames)
    angles = np.cumsum(rng.normal(scale=1.0, size=(frames, 22, 3)), 0)
    angles[:, 0] = np.stack([np.degrees(heading), 0 * heading, 0 * heading], -1)
    pelvis = np.stack([np.sin(heading), 0.93 + 0.02 * np.sin(5 * heading), np.cos(heading) - 1], -1)
    return matrices_of(angles, "YXZ"), pelvis, heading


def person(frames: int = 60, seed: int = 0) -> Motion:
    rotations, pelvis, _ = turns_of_a_person(frames, seed)
    translations = np.broadcast_to(OFFSETS, (frames, 22, 3)).copy()
    translations[:, 0] = pelvis
    joints = forward_kinematics(rotations, translations, PARENTS)
    return Motion(joints, 20.0, Skeleton(NAMES, PARENTS, OFFSETS), rotations)


def axis_angles(matrices: np.ndarray) -> np.ndarray:
    """Axes times angles (..., 3) of matrices (..., 3, 3) that turn by less than half a circle."""
    angle = np.arccos(np.clip((np.trace(matrices, axis1=-2, axis2=-1) - 1) / 2, -1, 1))
    axis = np.stack([matrices[..., 2, 1] - matrices[..., 1, 2], matrices[..., 0, 2] - matrices[..., 2, 0],
                     matrices[..., 1, 0] - matrices[..., 0, 1]], -1)
    length = np.linalg.norm(axis, axis=-1, keepdims=True)
    return axis / np.maximum(length, 1e-12) * angle[..., None]


def write_formats(folder, motion: Motion, heading: np.ndarray) -> None:
    """The same motion in all formats that have HumanML3D's figure."""
    np.save(folder / "joints.npy", motion.joints.astype(np.float32))
    np.save(folder / "features.npy", features_by_hand(motion.joints, heading).astype(np.float32))
    write_bvh(folder / "figure.bvh", motion)
    z_up = np.array([(1, 0, 0), (0, 0, -1), (0, 1, 0)])  # (x, y, z) -> (x, -z, y)
    rotations = motion.rotations.copy()
    rotations[:, 0] = z_up @ rotations[:, 0]
    trans = motion.joints[:, 0] @ z_up.T - (0, -0.24, 0.03)
    np.savez(folder / "amass.npz", poses=axis_angles(rotations).reshape(len(rotations), -1), trans=trans,
             mocap_framerate=np.array(20.0))


FORMATS = ["joints.npy", "features.npy", "figure.bvh", "amass.npz"]


def test_one_motion_is_the_same_from_every_format_of_its_figure(tmp_path):
    motion = person()
    write_formats(tmp_path, motion, turns_of_a_person()[2])
    layout = Layout.of(motion.skeleton)
    for name in FORMATS:
        again = read_motion(tmp_path / name)
        assert again.fps == 20 and sorted(again.skeleton.names) == sorted(NAMES), name
        order = [again.skeleton.names.index(joint) for joint in NAMES]
        np.testing.assert_allclose(again.joints[:, order], motion.joints, atol=2e-6, err_msg=name)
        np.testing.assert_allclose(again.skeleton.offsets[order][1:], OFFSETS[1:], atol=1e-5, err_msg=name)
        np.testing.assert_allclose(features_of(again, layout), features_of(motion, layout), atol=1e-4, err_msg=name)


def test_a_codec_is_fitted_to_all_formats_at_once(tmp_path):
    motions = []
    for seed in range(2):
        folder = tmp_path / str(seed)
        folder.mkdir()
        write_formats(folder, person(seed=seed), turns_of_a_person()[2])
        motions += [read_motion(folder / name) for name in FORMATS]
    codec = MotionCodec.fit(motions, codes=8, kind="kmeans")
    assert len({tuple(codec.encode(motion)) for motion in motions}) == 2


def test_suffixes_are_read_in_any_case_and_others_are_refused(tmp_path):
    assert set(READERS) == {".bvh", ".npy", ".npz", ".pose"}
    np.save(tmp_path / "a.npy", person().joints)
    (tmp_path / "a.npy").rename(tmp_path / "A.NPY")
    assert len(read_motion(tmp_path / "A.NPY")) == 60
    with pytest.raises(MotionError, match=r"clip.fbx: expected a name that ends with .bvh, .npy, .npz, .pose"):
        read_motion(tmp_path / "clip.fbx")


def test_files_of_a_persons_shape_are_no_motions():
    names = ["walk_poses.npz", "walk_stageii.npz", "shape.npz", "female_stagei.npz", "a.BVH", "a.txt", "my_shape.npz"]
    assert [name for name in names if is_motion_file(Path("S1") / name)] == [
        "walk_poses.npz", "walk_stageii.npz", "a.BVH", "my_shape.npz"]


def test_hints_reach_the_reader_that_needs_them(tmp_path):
    motion = person()
    write_formats(tmp_path, motion, turns_of_a_person()[2])
    assert read_motion(tmp_path / "joints.npy", fps=30).fps == read_motion(tmp_path / "features.npy", fps=30).fps == 30
    assert read_motion(tmp_path / "figure.bvh", fps=30).fps == 20  # the file says its own
    np.testing.assert_allclose(read_motion(tmp_path / "figure.bvh", scale=1).joints,
                               100 * read_motion(tmp_path / "figure.bvh").joints, rtol=1e-5, atol=1e-4)
    x, y, z = np.moveaxis(motion.joints, -1, 0)
    np.save(tmp_path / "z_up.npy", np.stack([x, -z, y], -1))
    np.testing.assert_allclose(read_motion(tmp_path / "z_up.npy", up="z").joints, motion.joints, atol=1e-9)
    x, y, z = np.moveaxis(read_motion(tmp_path / "amass.npz").joints, -1, 0)
    np.testing.assert_allclose(read_motion(tmp_path / "amass.npz", up="y").joints, np.stack([x, -z, y], -1), atol=2e-6)
    for name, options, message in (("joints.npy", {"fps": 0}, "joints.npy: 0 frames a second"),
                                   ("joints.npy", {"up": "w"}, "up is 'w', expected y, z, -y"),
                                   ("features.npy", {"up": "z"}, "features.npy: HumanML3D's features, whose y"),
                                   ("clip.pose", {"up": "z"}, "clip.pose: up is 'z', but")):
        with pytest.raises(MotionError, match=re.escape(message)):
            read_motion(tmp_path / name, **options)


def test_the_rest_pose_of_humanml3ds_joints_is_not_a_frame_of_them(tmp_path):
    """A figure that lies on its side in all frames has a rest pose that stands, with the bones' mean lengths."""
    lying = person().joints @ matrices_of(np.array([90.0]), "Z").T
    lying[30:] *= 1.1
    np.save(tmp_path / "a.npy", lying)
    motion = read_joints(tmp_path / "a.npy")
    np.testing.assert_allclose(motion.skeleton.offsets, 1.05 * OFFSETS, atol=1e-6)
    np.testing.assert_allclose(bone_lengths(with_rotations(motion).joints).mean(0), bone_lengths(lying).mean(0))


def other_figure() -> np.ndarray:
    """Three joints in a row along x, then along y; in the first frame the last has no distance from its parent."""
    joints = np.zeros((3, 3, 3))
    joints[:, 1, 0], joints[:, 2, 0] = 1, (1, 3, 1)
    joints[2, 2, 1] = 4
    return joints


SKELETON = {"names": ["Hips", "Spine", "Head"], "parents": [-1, 0, 1]}


def test_another_figure_has_mean_bones_in_the_first_directions(tmp_path):
    np.save(tmp_path / "a.npy", other_figure())
    (tmp_path / "mine.json").write_text(json.dumps(SKELETON))
    motion = read_joints(tmp_path / "a.npy", 30, tmp_path / "mine.json")
    assert motion.skeleton.names == ("Hips", "Spine", "Head") and motion.fps == 30
    np.testing.assert_allclose(motion.skeleton.offsets, [(0, 0, 0), (1, 0, 0), (2, 0, 0)])


def test_the_nearest_skeleton_beside_or_above_is_taken(tmp_path):
    folder = tmp_path / "clips" / "P1"
    folder.mkdir(parents=True)
    np.save(folder / "a.npy", other_figure())
    with pytest.raises(MotionError, match=r"a.npy: 3 joints, expected the 22 of HumanML3D's skeleton; --skeleton, or a "
                                          "skeleton.json"):
        read_motion(folder / "a.npy")
    (tmp_path / "skeleton.json").write_text(json.dumps(SKELETON))
    assert read_motion(folder / "a.npy").skeleton.names[0] == "Hips"
    (tmp_path / "clips" / "skeleton.json").write_text(json.dumps(SKELETON | {"names": ["a", "b", "c"]}))
    assert read_motion(folder / "a.npy").skeleton.names[0] == "a"
    (folder / "skeleton.json").write_text(json.dumps({"names": ["a"], "parents": [-1]}))
    with pytest.raises(MotionError, match=f"3 joints, expected the 1 of {re.escape(str(folder))}/skeleton.json"):
        read_motion(folder / "a.npy")
    (folder / "skeleton.json").write_text("[]")
    with pytest.raises(MotionError, match=r"skeleton.json: .*expected JSON such as"):
        read_motion(folder / "a.npy")
    (folder / "skeleton.json").write_text(json.dumps(SKELETON | {"parents": [-1, 0, 7]}))
    with pytest.raises(MotionError, match=r"a.npy: parents: joint 2 \(Head\) has the parent 7"):
        read_motion(folder / "a.npy")


def test_features_are_read_to_a_thousandth_of_a_millimetre(tmp_path):
    motion, (_, _, heading) = person(200), turns_of_a_person(200)
    np.save(tmp_path / "a.npy", features_by_hand(motion.joints, heading))
    np.testing.assert_allclose(read_motion(tmp_path / "a.npy").joints, motion.joints, atol=1e-9)
    np.save(tmp_path / "b.npy", features_by_hand(motion.joints, heading).astype(np.float32))
    np.testing.assert_allclose(read_motion(tmp_path / "b.npy").joints, motion.joints, atol=1e-5)


def test_normalised_features_are_refused_and_others_of_another_person_are_not(tmp_path):
    features = features_by_hand(person().joints, turns_of_a_person()[2])
    rng = np.random.default_rng(0)
    for normalised in (rng.normal(size=(60, 263)), np.zeros((60, 263)), (features - features.mean(0)) / 0.1,
                       100 * features):
        np.save(tmp_path / "a.npy", normalised)
        with pytest.raises(MotionError, match=r"a.npy: features whose bones differ from HumanML3D's by \d+%") as caught:
            read_motion(tmp_path / "a.npy")
        assert "multiply by the deviation" in str(caught.value) and len(str(caught.value)) <= 400
    other = person().joints
    other[:, 1:] = other[:, :1] + 1.3 * (other[:, 1:] - other[:, :1])
    np.save(tmp_path / "b.npy", features_by_hand(other, turns_of_a_person()[2]))
    assert len(read_motion(tmp_path / "b.npy")) == 60


@pytest.mark.parametrize(("array", "message"), [
    (np.zeros((5, 22)), "numbers (5, 22), expected numbers (T, J, 3), metres with y up, or HumanML3D's features"),
    (np.zeros((5, 251)), "numbers (5, 251), expected"),
    (np.zeros((2, 22, 3, 5)), "numbers (2, 22, 3, 5), expected"),
    (np.zeros((0, 22, 3)), "float64 (0, 22, 3), expected"),
    (np.array([["a"]]), "<U1 (1, 1), expected"),
    (np.array([{"a": 1}]), "a damaged .npy file, or one of objects, which are not read"),
    (np.where(np.arange(5)[:, None, None] == 3, np.nan, np.ones((5, 22, 3))), "joints of frame 3 hold values"),
])
def test_a_file_without_joints_is_refused(tmp_path, array, message):
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(MotionError, match=re.escape(f"a.npy: {message}")):
        read_motion(tmp_path / "a.npy")


@pytest.mark.parametrize("content", [
    '{"names": ' + "[" * 50_000, '{"names": ["a"], "parents": [-2]}', '{"names": ["a"], "parents": [1e9]}',
    '{"names": ["a", "b"], "parents": [-1]}', '{"names": [1], "parents": [-1]}', '{"names": ["a"], "parents": -1}',
    '{"names": ["a"], "parents": [true]}'])
def test_a_skeleton_of_another_form_is_refused(tmp_path, content):
    (tmp_path / "skeleton.json").write_text(content)
    with pytest.raises(MotionError, match=r"skeleton\.json: .*(expected|is broken)"):
        read_skeleton(tmp_path / "skeleton.json")
