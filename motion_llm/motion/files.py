"""Reads motions from files, in the format of the path's suffix."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from motion_llm.motion.amass import read_amass
from motion_llm.motion.bvh import SCALE, read_bvh
from motion_llm.motion.humanml3d import FPS
from motion_llm.motion.joints_file import read_joints
from motion_llm.motion.pose_file import read_pose
from motion_llm.motion.skeleton import Motion, MotionError


@dataclass(frozen=True)
class Hints:
    """What files may leave open. scale: metres a unit of BVH files; the other formats have a unit. fps: frames a second
    of files that do not say it (.npy, some .npz). skeleton_path: JSON file of names and parents of the joints in .npy.
    body_model: a body model's .npz, for .npz. up: the axis that points up; None: y, but z for .npz."""

    scale: float = SCALE
    fps: float | None = None
    skeleton_path: str | Path | None = None
    body_model: str | Path | None = None
    up: str | None = None


def _pose(path: Path, hints: Hints) -> Motion:
    if hints.up not in (None, "y"):
        raise MotionError(f"{path}: up is {hints.up!r}, but .pose files are images, whose y points down")
    return read_pose(path)


def _npy(path: Path, hints: Hints) -> Motion:
    return read_joints(path, FPS if hints.fps is None else hints.fps, hints.skeleton_path, _up(hints, "y"))


def _up(hints: Hints, usual: str) -> str:
    return usual if hints.up is None else hints.up


# Suffix -> a function that reads such a file. Add a format here; view.py and codec.py then read it.
READERS: dict[str, Callable[[Path, Hints], Motion]] = {
    ".bvh": lambda path, hints: read_bvh(path, hints.scale, _up(hints, "y")),
    ".npy": _npy,
    ".npz": lambda path, hints: read_amass(path, hints.fps, hints.body_model, _up(hints, "z")),
    ".pose": _pose,
}

# Beside motions: the shape of a person (AMASS), the mean and deviation of features (HumanML3D).
NO_MOTIONS = ("shape.npz", "*_stagei.npz", "[Mm]ean.npy", "[Ss]td.npy")


def is_motion_file(path: Path) -> bool:
    """Whether the name is one of a motion that is read."""
    return path.suffix.lower() in READERS and not any(path.match(pattern) for pattern in NO_MOTIONS)


def read_motion(path: str | Path, scale: float = SCALE, fps: float | None = None,
                skeleton_path: str | Path | None = None, body_model: str | Path | None = None,
                up: str | None = None) -> Motion:
    """The motion of a file, in metres, y up. The parameters are those of Hints. Raises MotionError naming the file;
    OSError."""
    path = Path(path)
    if path.suffix.lower() not in READERS:
        raise MotionError(f"{path}: expected a name that ends with {', '.join(READERS)}")
    return READERS[path.suffix.lower()](path, Hints(scale, fps, skeleton_path, body_model, up))
