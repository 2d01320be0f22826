"""Reads and writes BVH files: any skeleton, any channels, any rotation order. Errors in a file name its line.

    motion = read_bvh("clip.bvh")            # metres; the file is in centimetres unless scale says otherwise
    write_bvh("same.bvh", motion)
    Bvh.read("clip.bvh").write("same.bvh")   # keeps the units, channels, end sites and frame time
"""

import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from motion_llm.motion.bvh_reader import CHANNELS, RESERVED, BvhReader
from motion_llm.motion.kinematics import angles_of, forward_kinematics, global_rotations, matrices_of, with_rotations
from motion_llm.motion.skeleton import Motion, MotionError, Skeleton

SCALE = 0.01  # metres a unit: BVH files are in centimetres
NEAR_RATE = 1e-4  # relative; frame times are written with few digits: 0.0333333 means 30 frames a second
STILL = 1e-6  # metres; a joint that stays this close to its rest offset needs no position channels


@dataclass(frozen=True)
class Bvh:
    """The content of a file. names, parents: J joints as in Skeleton. offsets: (J, 3) in the file's units. channels: of
    each joint, in the file's order. end_sites: joint -> offset (3,) of its end site. values: (T, C), one column a
    channel, joint by joint; degrees and the file's units. frame_time: seconds."""

    names: tuple[str, ...]
    parents: tuple[int, ...]
    offsets: np.ndarray = field(repr=False)
    channels: tuple[tuple[str, ...], ...]
    end_sites: dict[int, np.ndarray] = field(repr=False)
    values: np.ndarray = field(repr=False)
    frame_time: float

    @staticmethod
    def read(path: str | Path) -> "Bvh":
        """Raises MotionError with file, line, what was found and what was expected; OSError."""
        return Bvh(**BvhReader(Path(path)).read())

    def motion(self, scale: float = SCALE) -> Motion:
        """The motion in metres, with scale metres a unit. Position channels replace a joint's offset. Raises
        MotionError for an invalid scale."""
        _check_scale(scale)
        shape = (len(self.values), len(self.names))
        rotations = np.broadcast_to(np.eye(3), (*shape, 3, 3)).copy()
        translations = np.broadcast_to(self.offsets * scale, (*shape, 3)).copy()
        column = 0
        for joint, channels in enumerate(self.channels):
            values = self.values[:, column:column + len(channels)]
            column += len(channels)
            angles = [i for i, name in enumerate(channels) if name.endswith("rotation")]
            if angles:
                rotations[:, joint] = matrices_of(values[:, angles], "".join(channels[i][0] for i in angles))
            for i, name in enumerate(channels):
                if name.endswith("position"):
                    translations[:, joint, "XYZ".index(name[0])] = values[:, i] * scale
        skeleton = Skeleton(self.names, self.parents, self.offsets * scale)
        return Motion(forward_kinematics(rotations, translations, self.parents), self.fps, skeleton, rotations)

    @property
    def fps(self) -> float:
        """Frames a second; a whole number where the frame time is its inverse, rounded."""
        rate = 1 / self.frame_time
        return float(round(rate)) if round(rate) and abs(rate - round(rate)) < NEAR_RATE * rate else rate

    @staticmethod
    def of(motion: Motion, scale: float = SCALE, order: str = "ZXY") -> "Bvh":
        """The content of a file for a motion, with scale metres a unit and rotations in `order`. A motion without
        rotations gets them from its joints, with bones as long as the skeleton's (`with_rotations`). Position channels
        go to the root and to joints that leave their rest offset. Raises MotionError."""
        if sorted(order) != ["X", "Y", "Z"]:
            raise MotionError(f"rotation order {order!r}: expected X, Y and Z, each once")
        _check_scale(scale)
        if motion.rotations is None:
            motion = with_rotations(motion)
        parents, joints = motion.skeleton.parents, motion.joints
        rotations = global_rotations(motion.rotations, parents)
        angles = np.unwrap(angles_of(motion.rotations, order), axis=0, period=360)  # no jumps: programs interpolate
        channels, columns = [], []
        for joint, parent in enumerate(parents):
            position = joints[:, joint]
            if parent >= 0:
                position = (np.swapaxes(rotations[:, parent], 1, 2) @ (position - joints[:, parent])[..., None])[..., 0]
            names = tuple(f"{axis}rotation" for axis in order)
            if parent < 0 or np.abs(position - motion.skeleton.offsets[joint]).max() > STILL:
                names = (*CHANNELS[:3], *names)
                columns.append(position / scale)
            channels.append(names)
            columns.append(angles[:, joint])
        ends = {joint: np.zeros(3) for joint in range(len(parents)) if joint not in parents}
        return Bvh(motion.skeleton.names, parents, motion.skeleton.offsets / scale, tuple(channels), ends,
                   np.concatenate(columns, 1), 1 / motion.fps)

    def write(self, path: str | Path) -> None:
        """Joints are written depth first, as the format requires, so they are read back in that order. Raises
        MotionError for a name that the format cannot hold (only spaces, braces, keywords), OSError."""
        for name in self.names:
            if not name.split() or {"{", "}"} & set(name) or RESERVED & set(name.lower().split()):
                raise MotionError(f"{path}: a joint's name {name!r}, which a BVH file cannot hold")
        children: list[list[int]] = [[] for _ in self.parents]
        for joint, parent in enumerate(self.parents[1:], 1):
            children[parent].append(joint)
        lines, order, stack = ["HIERARCHY"], [], [(0, 0, False)]
        while stack:  # depth first; the columns of values follow this order
            joint, depth, closing = stack.pop()
            if closing:
                lines.append("\t" * depth + "}")
                continue
            order.append(joint)
            lines += ["\t" * depth + line for line in (
                f"{'JOINT' if depth else 'ROOT'} {' '.join(self.names[joint].split())}", "{",
                f"\tOFFSET {_numbers(self.offsets[joint])}",
                f"\tCHANNELS {len(self.channels[joint])} {' '.join(self.channels[joint])}".rstrip())]
            stack.append((joint, depth, True))
            stack += [(child, depth + 1, False) for child in reversed(children[joint])]
            if joint in self.end_sites:
                lines += ["\t" * (depth + 1) + line for line in (
                    "End Site", "{", f"\tOFFSET {_numbers(self.end_sites[joint])}", "}")]
        starts = np.cumsum([0, *(len(channels) for channels in self.channels)])
        columns = np.concatenate([np.arange(starts[joint], starts[joint + 1]) for joint in order])
        lines += ["MOTION", f"Frames: {len(self.values)}", f"Frame Time: {self.frame_time:.9g}"]
        lines += [_numbers(row) for row in self.values[:, columns]]
        Path(path).write_text("\n".join(lines) + "\n", encoding="utf-8")


def read_bvh(path: str | Path, scale: float = SCALE) -> Motion:
    """The motion of a file, with scale metres a unit. Raises MotionError with file and line; OSError."""
    return Bvh.read(path).motion(scale)


def write_bvh(path: str | Path, motion: Motion, scale: float = SCALE, order: str = "ZXY") -> None:
    """Writes a motion; without rotations, from its joints alone (see Bvh.of). Raises MotionError, OSError."""
    Bvh.of(motion, scale, order).write(path)


def _check_scale(scale: float) -> None:
    if not (scale > 0 and math.isfinite(scale)):
        raise MotionError(f"scale {scale}: expected metres a unit, more than 0")


def _numbers(values: np.ndarray) -> str:
    return " ".join(f"{value:.9g}" for value in values)
