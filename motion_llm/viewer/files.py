"""Writes clips to files, in the format of the path's suffix, and reads joints from files."""

import json
from pathlib import Path

import numpy as np

from motion_llm.motion.bvh import write_bvh
from motion_llm.motion.humanml3d import NAMES, PARENTS
from motion_llm.motion.skeleton import Motion, MotionError, Skeleton
from motion_llm.viewer.figure import Clip
from motion_llm.viewer.page import write_page
from motion_llm.viewer.video import write_gif, write_mp4


def write_joints(path: str | Path, clips: list[Clip]) -> None:
    """The joints of one clip as .npy: (T, J, 3), float32, metres. Raises MotionError for several clips."""
    motion = _only(path, clips)
    with Path(path).open("wb") as file:
        np.save(file, motion.joints.astype(np.float32), allow_pickle=False)


def write_figure(path: str | Path, clips: list[Clip]) -> None:
    """One clip as a BVH file, in centimetres. Raises MotionError for several clips."""
    write_bvh(path, _only(path, clips))


def _only(path: str | Path, clips: list[Clip]) -> Motion:
    if len(clips) != 1:
        raise MotionError(f"{path}: a {Path(path).suffix} file holds one clip, there are {len(clips)}")
    return clips[0].motion


def read_joints(path: str | Path, fps: float, skeleton_path: str | Path | None = None) -> Motion:
    """Reads a .npy file of joints (T, J, 3) in metres, y up. Raises MotionError for anything else."""
    try:
        joints = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise MotionError(f"{path}: no .npy file of numbers ({error})") from error
    if not isinstance(joints, np.ndarray):
        raise MotionError(f"{path}: an archive of several arrays, expected one .npy array")
    if joints.dtype.kind not in "fiu" or joints.ndim != 3 or joints.shape[2] != 3 or not len(joints):
        raise MotionError(f"{path}: {joints.dtype} {joints.shape}, expected numbers (T, J, 3), metres with y up")
    names, parents = read_skeleton(skeleton_path) if skeleton_path else (NAMES, PARENTS)
    if joints.shape[1] != len(names):
        source = skeleton_path or "HumanML3D's skeleton; --skeleton gives another"
        raise MotionError(f"{path}: {joints.shape[1]} joints, expected the {len(names)} of {source}")
    joints = joints.astype(np.float32)
    try:
        Skeleton(tuple(names), tuple(parents), joints[0])  # refuses parents that are no joints
        offsets = joints[0] - joints[0, np.maximum(parents, 0)]
        return Motion(joints, fps, Skeleton(tuple(names), tuple(parents), offsets))
    except MotionError as error:
        raise MotionError(f"{path}: {error}") from error


def read_skeleton(path: str | Path) -> tuple[list[str], list[int]]:
    """Names and parents of a JSON file such as {"names": ["hips", "spine"], "parents": [-1, 0]}."""
    try:
        skeleton = json.loads(Path(path).read_text(encoding="utf-8"))
        names, parents = skeleton["names"], skeleton["parents"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise MotionError(f'{path}: {error!r}, expected JSON such as {{"names": ["hips"], "parents": [-1]}}') from error
    if not (isinstance(names, list) and isinstance(parents, list) and len(names) == len(parents)
            and all(isinstance(name, str) for name in names) and all(type(parent) is int for parent in parents)):
        raise MotionError(f"{path}: expected as many names (text) as parents (whole numbers, -1 for the root)")
    return names, parents


WRITERS = {".html": write_page, ".gif": write_gif, ".mp4": write_mp4, ".bvh": write_figure, ".npy": write_joints}


def write(path: str | Path, clips: list[Clip]) -> None:
    """Write the clips by the path's suffix, one of WRITERS. Raises MotionError for any other."""
    suffix = Path(path).suffix.lower()
    if suffix not in WRITERS:
        raise MotionError(f"{path}: expected a name that ends with {', '.join(WRITERS)}")
    WRITERS[suffix](path, clips)
