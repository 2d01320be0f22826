"""Writes clips to files, in the format of the path's suffix."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from motion_llm.motion.bvh import write_bvh
from motion_llm.motion.glb import write_glb
from motion_llm.motion.npz import write_amass
from motion_llm.motion.rest_pose import REST_POSES, in_t_pose
from motion_llm.motion.skeleton import MotionError
from motion_llm.saving import saving
from motion_llm.viewer.figure import Clip
from motion_llm.viewer.page import write_page
from motion_llm.viewer.video import write_gif, write_mp4, write_png


def write_joints(path: str | Path, clips: list[Clip]) -> None:
    """The joints of one clip as .npy: (T, J, 3), float32, metres. Raises MotionError for several clips."""
    motion = _only(path, clips).motion
    with saving(path) as temporary, temporary.open("wb") as file:
        np.save(file, motion.joints.astype(np.float32), allow_pickle=False)


def write_figure(path: str | Path, clips: list[Clip]) -> None:
    """One clip as a BVH file, in centimetres. Raises MotionError for several clips."""
    write_bvh(path, _only(path, clips).motion)


def write_scene(path: str | Path, clips: list[Clip]) -> None:
    """The clips as animations of one figure in a GLB file. Raises MotionError for clips of several figures."""
    write_glb(path, [clip.motion for clip in clips], [clip.caption for clip in clips])


def write_poses(path: str | Path, clips: list[Clip]) -> None:
    """One clip as AMASS has it, if its figure has HumanML3D's 22 joints. Raises MotionError."""
    write_amass(path, _only(path, clips).motion)


def write_moments(path: str | Path, clips: list[Clip]) -> None:
    """Moments of one clip as a PNG: one of every sentence. Raises MotionError for several clips, VideoError."""
    write_png(path, _only(path, clips))


def _only(path: str | Path, clips: list[Clip]) -> Clip:
    if len(clips) != 1:
        raise MotionError(f"{path}: a {Path(path).suffix} file holds one clip, there are {len(clips)}")
    return clips[0]


WRITERS = {".html": write_page, ".gif": write_gif, ".mp4": write_mp4, ".bvh": write_figure, ".glb": write_scene,
           ".npz": write_poses, ".npy": write_joints, ".png": write_moments}
WITH_REST_POSE = (".bvh", ".glb")  # of WRITERS
OF_ONE_CLIP = (".bvh", ".npz", ".npy", ".png")  # of WRITERS


def check_rest_pose(path: str | Path, rest_pose: str) -> None:
    """Raises MotionError for a rest pose that is none of REST_POSES, and for one that the path's format does not have.
    """
    if rest_pose not in REST_POSES:
        raise MotionError(f"rest pose {rest_pose!r}, expected one of {', '.join(REST_POSES)}")
    if rest_pose != REST_POSES[0] and Path(path).suffix.lower() not in WITH_REST_POSE:
        raise MotionError(f"{path}: --rest_pose {rest_pose} is for {' and '.join(WITH_REST_POSE)}: other files have no "
                          "rest pose, or their own")


def paths_of(path: str | Path, count: int) -> list[Path]:
    """The files that `write` writes `count` clips to: one, or run_0.bvh, run_1.bvh, ... for several of a format that
    holds one clip."""
    path = Path(path)
    if count == 1 or path.suffix.lower() not in OF_ONE_CLIP:
        return [path]
    digits = len(str(count - 1))
    return [path.with_name(f"{path.stem}_{i:0{digits}}{path.suffix}") for i in range(count)]


def named(paths: list[Path]) -> str:
    """The files that `write` wrote, in a few words."""
    return str(paths[0]) if len(paths) == 1 else f"{paths[0]} to {paths[-1].name}"


def write(path: str | Path, clips: list[Clip], rest_pose: str = REST_POSES[0]) -> list[Path]:
    """Write the clips by the path's suffix, one of WRITERS, and return the files. rest_pose: of .bvh and .glb, one of
    REST_POSES. Raises MotionError for anything else."""
    suffix = Path(path).suffix.lower()
    if suffix not in WRITERS:
        raise MotionError(f"{path}: expected a name that ends with {', '.join(WRITERS)}")
    check_rest_pose(path, rest_pose)
    if rest_pose == "t":
        try:
            clips = [replace(clip, motion=in_t_pose(clip.motion)) for clip in clips]
        except MotionError as error:
            raise MotionError(f"{path}: no T-pose: {error}") from None
    paths = paths_of(path, len(clips))
    for i, one in enumerate(paths):
        WRITERS[suffix](one, clips if len(paths) == 1 else [clips[i]])
    return paths
