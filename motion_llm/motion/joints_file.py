"""Reads .npy files of joints or of HumanML3D's features, and JSON files of skeletons."""

from pathlib import Path

import numpy as np

from motion_llm.arrays import load_npy
from motion_llm.json_files import check_form, read_json
from motion_llm.motion import humanml3d
from motion_llm.motion.kinematics import turned_up
from motion_llm.motion.skeleton import Motion, MotionError, Skeleton

SKELETON_FILE = "skeleton.json"  # beside the clips, or in a folder above them
OTHER_BONES = 0.5  # of HumanML3D's bone lengths, which all its clips share; those of normalised features differ by more
MOST_JOINTS = 5000
NO_LENGTH = 1e-6  # metres; a shorter bone has no direction


def read_joints(path: str | Path, fps: float = humanml3d.FPS, skeleton_path: str | Path | None = None,
                up: str = "y") -> Motion:
    """Reads a .npy file: joints (T, J, 3) in metres, or HumanML3D's features (T, 263); the shape tells which.

    fps: frames a second, which no such file names. skeleton_path: a JSON file of the joints' names and parents; by
    default the nearest skeleton.json in the file's folder or above; without one, HumanML3D's 22 joints. up: the axis of
    the joints that points up. A rest pose is not in the file: the bones get their mean lengths, and the directions of
    HumanML3D's rest pose or, for another figure, of the first frame. Raises MotionError naming the file.
    """
    path = Path(path)
    numbers = _numbers(path)
    if numbers.ndim == 2 and numbers.shape[1] == humanml3d.FEATURES:
        if up != "y":
            raise MotionError(f"{path}: HumanML3D's features, whose y points up: --up {up} does not fit")
        joints, names, parents = _joints_of_features(path, numbers), humanml3d.NAMES, humanml3d.PARENTS
    elif numbers.ndim == 3 and numbers.shape[2] == 3:
        names, parents = _figure_of(path, numbers.shape[1], skeleton_path)
        joints, _ = turned_up(numbers, None, up)
    else:
        raise MotionError(f"{path}: numbers {numbers.shape}, expected numbers (T, J, 3), metres with y up, or "
                          f"HumanML3D's features (T, {humanml3d.FEATURES})")
    try:
        return Motion(joints, fps, _skeleton_of(joints, names, parents))
    except MotionError as error:
        raise MotionError(f"{path}: {error}") from error


def read_skeleton(path: str | Path) -> tuple[list[str], list[int]]:
    """Names and parents of a JSON file such as {"names": ["hips", "spine"], "parents": [-1, 0]}."""
    try:
        skeleton = read_json(Path(path), MotionError)
        check_form(skeleton, {"names": [str], "parents": [range(-1, MOST_JOINTS)]}, f"{path}:", MotionError)
    except (OSError, MotionError) as error:
        found = str(error).removeprefix(str(path)).lstrip(" :")
        raise MotionError(f'{path}: {found}; expected JSON such as {{"names": ["hips"], "parents": [-1]}}') from None
    names, parents = skeleton["names"], skeleton["parents"]
    if len(names) != len(parents):
        raise MotionError(f"{path}: {len(names)} names and {len(parents)} parents, expected as many")
    return names, parents


def _numbers(path: Path) -> np.ndarray:
    """The array of a .npy file, as float64."""
    numbers = load_npy(path, MotionError)
    if numbers.dtype.kind not in "fiu" or not numbers.size:
        raise MotionError(f"{path}: {numbers.dtype} {numbers.shape}, expected numbers (T, J, 3), metres with y up")
    return numbers.astype(float)


def _figure_of(path: Path, count: int, skeleton_path: str | Path | None) -> tuple[list[str], list[int]]:
    """Names and parents of a file's `count` joints. Raises MotionError."""
    if skeleton_path is None:
        beside = (folder / SKELETON_FILE for folder in path.absolute().parents)
        skeleton_path = next((candidate for candidate in beside if candidate.is_file()), None)
    names, parents = read_skeleton(skeleton_path) if skeleton_path else (humanml3d.NAMES, humanml3d.PARENTS)
    if len(names) != count:
        source = skeleton_path or (f"HumanML3D's skeleton; --skeleton, or a {SKELETON_FILE} beside the files, names "
                                   "others")
        raise MotionError(f"{path}: {count} joints, expected the {len(names)} of {source}")
    return names, parents


def _joints_of_features(path: Path, features: np.ndarray) -> np.ndarray:
    """Joints (T, 22, 3) of features (T, 263) in the dataset's own scale. Raises MotionError for normalised ones."""
    joints = humanml3d.joints_from_features(features)
    expected = np.linalg.norm(humanml3d.OFFSETS[1:], axis=1)
    difference = np.abs(humanml3d.bone_lengths(joints) - expected).mean() / expected.mean()
    if difference > OTHER_BONES:
        raise MotionError(f"{path}: features whose bones differ from HumanML3D's by {difference:.0%} in the mean, with "
                          f"the pelvis {features[:, 3].mean():.2f} m high: normalised? Expected metres, as in "
                          "new_joint_vecs: multiply by the deviation (Std.npy) and add the mean (Mean.npy)")
    return joints


def _skeleton_of(joints: np.ndarray, names: list[str], parents: list[int]) -> Skeleton:
    """The skeleton with bones of their mean lengths in joints (T, J, 3). Raises MotionError for parents that are no
    joints."""
    if tuple(names) == humanml3d.NAMES and tuple(parents) == humanml3d.PARENTS:
        return humanml3d.skeleton_of(joints)
    Skeleton(tuple(names), tuple(parents), joints[0])  # refuses parents that are no joints, before they are indices
    bones = joints - joints[:, np.maximum(parents, 0)]  # (T, J, 3); of the root 0
    lengths = np.linalg.norm(bones, axis=-1)
    first = (lengths > NO_LENGTH).argmax(0)  # the first frame in which the bone has a direction
    joint = np.arange(len(parents))
    directions = bones[first, joint] / np.maximum(lengths[first, joint], NO_LENGTH)[:, None]
    return Skeleton(tuple(names), tuple(parents), directions * lengths.mean(0)[:, None])
