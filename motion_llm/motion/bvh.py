"""Reads and writes BVH files: any skeleton, any channels, any rotation order. Errors in a file name its line.

    motion = read_bvh("clip.bvh")            # metres; the file is in centimetres unless scale says otherwise
    write_bvh("same.bvh", motion)
    Bvh.read("clip.bvh").write("same.bvh")   # keeps the units, channels, end sites and frame time
"""

import logging
import math
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from motion_llm.json_files import write_text
from motion_llm.motion.bvh_reader import CHANNELS, RESERVED, BvhReader
from motion_llm.motion.kinematics import (
    angles_of,
    forward_kinematics,
    local_positions,
    matrices_of,
    turned_up,
    with_rotations,
)
from motion_llm.motion.skeleton import END, Motion, MotionError, Skeleton

log = logging.getLogger(__name__)
SCALE = 0.01  # metres a unit: BVH files are in centimetres
LARGEST = 1e9  # degrees or the file's units; values above it lose their joints in float32
NEAR_RATE = 1e-4  # relative; frame times are written with few digits: 0.0333333 means 30 frames a second
PLACES = 6  # decimals that are written: 10 nm in centimetres, a millionth of a degree
TIME_PLACES, MOST_PLACES = 9, 20  # decimals of the frame time
SHORTEST_END = 1e-3  # of the figure's longest bone; a shorter end site is the rounding of a zero
UNTURNED = 1e-6  # in a rotation's matrix


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
        reader = BvhReader(Path(path))
        values = np.concatenate(list(reader.chunks()))
        return Bvh(reader.names, reader.parents, reader.offsets, reader.channels, reader.end_sites, values,
                   reader.frame_time)

    def motion(self, scale: float = SCALE, up: str = "y") -> Motion:
        """The motion in metres, as read_bvh gives it. Raises MotionError for an invalid scale or axis."""
        return _motion(_Figure.of(self), lambda: [self.values], len(self.values), scale, up)

    @property
    def fps(self) -> float:
        """Frames a second; a whole number where the frame time is its inverse, rounded."""
        return _rate(self.frame_time)

    @staticmethod
    def of(motion: Motion, scale: float = SCALE, order: str = "ZXY") -> "Bvh":
        """The content of a file for a motion, with scale metres a unit and rotations in `order`. A motion without
        rotations gets them from its joints, with bones as long as the skeleton's (`with_rotations`). Position channels
        go to the root and to joints that leave their rest offset. The skeleton's tips that neither turn nor move become
        end sites; other joints without children get one of no length. Raises MotionError."""
        if sorted(order) != ["X", "Y", "Z"]:
            raise MotionError(f"rotation order {order!r}: expected X, Y and Z, each once")
        _check_scale(scale)
        if motion.rotations is None:
            motion = with_rotations(motion)
        parents = motion.skeleton.parents
        positions, moving = local_positions(motion)
        angles = angles_of(motion.rotations.astype(float), order)
        angles = np.unwrap(angles, axis=0, period=360)  # no jumps: programs interpolate
        unturned = np.abs(motion.rotations - np.eye(3)).max((0, 2, 3)) < UNTURNED
        tips = {joint for joint in motion.skeleton.ends if unturned[joint] and not moving[joint]}
        joints = [joint for joint in range(len(parents)) if joint not in tips]
        places = {joint: place for place, joint in enumerate(joints)}
        channels, columns = [], []
        for joint in joints:
            names = tuple(f"{axis}rotation" for axis in order)
            if moving[joint]:
                names = (*CHANNELS[:3], *names)
                columns.append(positions[:, joint] / scale)
            channels.append(names)
            columns.append(angles[:, joint])
        offsets = motion.skeleton.offsets / scale
        ends = {places[joint]: np.zeros(3) for joint in joints if joint not in parents}
        ends |= {places[parents[joint]]: offsets[joint] for joint in tips}
        return Bvh(tuple(motion.skeleton.names[joint] for joint in joints),
                   tuple(places.get(parents[joint], -1) for joint in joints), offsets[joints], tuple(channels), ends,
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
        lines += ["MOTION", f"Frames: {len(self.values)}", f"Frame Time: {self._written_time()}"]
        lines += [_numbers(row) for row in self.values[:, columns]]
        write_text(path, "\n".join(lines) + "\n")

    def _written_time(self) -> str:
        """The frame time in decimals: nine places, and more where the rate that is read back would be another."""
        texts = (f"{self.frame_time:.{places}f}" for places in range(TIME_PLACES, MOST_PLACES))
        return next((text for text in texts if float(text) and replace(self, frame_time=float(text)).fps == self.fps),
                    f"{self.frame_time:.{MOST_PLACES}f}")


def read_bvh(path: str | Path, scale: float = SCALE, up: str = "y") -> Motion:
    """The motion of a file in metres, y up, as float32: 3.6 MB a thousand frames of 75 joints. scale: metres a unit.
    up: the file's axis that points up, "y" or "z". Position channels replace a joint's offset; where the file has no
    offset, the rest pose gets their mean. End sites of some length are joints behind the others, the skeleton's tips.
    Raises MotionError with file and line; OSError."""
    reader = BvhReader(Path(path))
    try:
        return _motion(_Figure.of(reader), reader.chunks, reader.most_frames, scale, up, str(path))
    except MotionError as error:
        raise error if str(error).startswith(str(path)) else MotionError(f"{path}: {error}") from None


@dataclass(frozen=True)
class _Figure:
    """What a motion takes of a file, see Bvh, with its end sites as joints without channels behind the others."""

    names: tuple[str, ...]
    parents: tuple[int, ...]
    offsets: np.ndarray
    channels: tuple[tuple[str, ...], ...]
    frame_time: float

    @staticmethod
    def of(file: Bvh | BvhReader) -> "_Figure":
        ends = _ends(file.names, file.offsets, file.end_sites)
        names = tuple(file.names[joint] + END for joint in ends)
        offsets = np.concatenate([file.offsets, np.reshape(list(ends.values()), (-1, 3))])
        return _Figure((*file.names, *names), (*file.parents, *ends), offsets, (*file.channels, *[()] * len(ends)),
                       file.frame_time)


def _ends(names: Sequence[str], offsets: np.ndarray, end_sites: Mapping[int, np.ndarray]) -> dict[int, np.ndarray]:
    """Joint -> offset of its end site, of those that have a length, and a name of their own."""
    longest = np.linalg.norm(offsets[1:], axis=1).max(initial=0)
    ends = {joint: offset for joint, offset in sorted(end_sites.items())
            if np.linalg.norm(offset) > SHORTEST_END * longest}
    taken = [names[joint] for joint in ends if names[joint] + END in names]
    if taken:
        log.warning("the end site of %s is left out: another joint is called %s", taken[0][:40], taken[0][:40] + END)
    return {joint: offset for joint, offset in ends.items() if names[joint] not in taken}


def _motion(figure: _Figure, chunks: Callable[[], Iterable[np.ndarray]], most_frames: int, scale: float,
            up: str, name: str = "a motion", unplaced: Container[int] = ()) -> Motion:
    """chunks: gives the values (n, C) of the frames, at most most_frames together. unplaced: joints whose position
    channels do not count."""
    _check_scale(scale)
    count, offsets = len(figure.names), figure.offsets * scale
    turning, placed = _columns(figure.channels)
    placed_joints, placed_axes, placed_columns = np.array(
        [place for place in placed if place[0] not in unplaced], dtype=int).reshape(-1, 3).T
    joints = np.empty((most_frames, count, 3), np.float32)
    rotations = np.empty((most_frames, count, 3, 3), np.float32)
    frames, sums, longest = 0, np.zeros((count, 3)), np.zeros(count)  # longest: bone of each joint, in any frame
    for values in chunks():
        local = np.empty((len(values), count, 3, 3))
        for order, members in turning.items():
            columns = np.array([columns for _, columns in members], dtype=int)
            local[:, [joint for joint, _ in members]] = matrices_of(values[:, columns], order)
        translations = np.broadcast_to(offsets, (len(values), count, 3)).copy()
        translations[:, placed_joints, placed_axes] = values[:, placed_columns] * scale
        sums += translations.sum(0)
        longest = np.maximum(longest, np.abs(translations).max((0, 2)))
        end = frames + len(values)
        if np.abs(values).max() > LARGEST:
            frame = frames + int(np.abs(values).max(1).argmax())
            raise MotionError(f"frame {frame} (from 0) holds {np.abs(values).max():g}, expected degrees and units "
                              f"below {LARGEST:g}: lost markers?")
        joints[frames:end], rotations[frames:end] = turned_up(
            forward_kinematics(local, translations, figure.parents), local, up)
        frames = end
    collapsed = [joint for joint in range(1, count) if longest[joint] == 0 and offsets[joint].any()]
    if collapsed:  # programs that mean: added to the offset
        log.warning("%s: %d joints such as %s have an offset, and position channels that are 0 in all frames: the "
                    "offset counts", name, len(collapsed), figure.names[collapsed[0]])
        return _motion(figure, chunks, most_frames, scale, up, name, set(collapsed))
    boneless = (np.arange(count) > 0) & ~offsets.any(1)
    offsets[boneless] = sums[boneless] / frames
    skeleton = Skeleton(figure.names, figure.parents, turned_up(offsets, None, up)[0])
    return Motion(joints[:frames], _rate(figure.frame_time), skeleton, rotations[:frames])


def _columns(channels: Sequence[Sequence[str]]) -> tuple[dict[str, list], list[tuple[int, int, int]]]:
    """Order of axes -> (joint, columns) of the joints that turn in this order; (joint, axis, column) of each position.
    """
    turning: dict[str, list] = {}
    placed, column = [], 0
    for joint, names in enumerate(channels):
        columns = {name: column + i for i, name in enumerate(names)}
        column += len(names)
        turns = [name for name in names if name.endswith("rotation")]
        turning.setdefault("".join(name[0] for name in turns), []).append((joint, [columns[name] for name in turns]))
        placed += [(joint, "XYZ".index(name[0]), columns[name]) for name in names if name.endswith("position")]
    return turning, placed


def _rate(frame_time: float) -> float:
    rate = 1 / frame_time
    return float(round(rate)) if round(rate) and abs(rate - round(rate)) < NEAR_RATE * rate else rate


def write_bvh(path: str | Path, motion: Motion, scale: float = SCALE, order: str = "ZXY") -> None:
    """Writes a motion; without rotations, from its joints alone (see Bvh.of). Raises MotionError, OSError."""
    Bvh.of(motion, scale, order).write(path)


def _check_scale(scale: float) -> None:
    if not (scale > 0 and math.isfinite(scale)):
        raise MotionError(f"scale {scale}: expected metres a unit, more than 0")


def _numbers(values: np.ndarray) -> str:
    """Plain decimals: Unity's and USD's readers refuse 1e-06. Adding 0 makes the -0.0 of rounding a 0.0."""
    return " ".join(f"{value:.{PLACES}f}" for value in np.round(values, PLACES) + 0.0)
