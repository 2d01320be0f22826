"""Reads motions from files, in the format of the path's suffix."""

from collections.abc import Callable
from pathlib import Path

from motion_llm.motion.bvh import SCALE, read_bvh
from motion_llm.motion.skeleton import Motion, MotionError


def _bvh(path: Path, scale: float) -> Motion:
    return read_bvh(path, scale)


# Suffix -> a function (path, scale) -> Motion. scale: metres a unit, for formats that do not name their unit.
READERS: dict[str, Callable[[Path, float], Motion]] = {".bvh": _bvh}


def read_motion(path: str | Path, scale: float = SCALE) -> Motion:
    """The motion of a file, in metres, y up. Raises MotionError naming the file; OSError."""
    path = Path(path)
    if path.suffix.lower() not in READERS:
        raise MotionError(f"{path}: expected a name that ends with {', '.join(READERS)}")
    return READERS[path.suffix.lower()](path, scale)
