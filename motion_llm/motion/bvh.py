"""Reads and writes BVH files: any skeleton, any channels, any rotation order. Errors in a file name its line.

    motion = read_bvh("clip.bvh")            # metres; the file is in centimetres unless scale says otherwise
    write_bvh("same.bvh", motion)
    Bvh.read("clip.bvh").write("same.bvh")   # keeps the units, channels, end sites and frame time
"""

import math
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from motion_llm.motion.kinematics import angles_of, forward_kinematics, global_rotations, matrices_of, with_rotations
from motion_llm.motion.skeleton import Motion, MotionError, Skeleton

SCALE = 0.01  # metres a unit: BVH files are in centimetres
CHANNELS = tuple(f"{axis}{kind}" for kind in ("position", "rotation") for axis in "XYZ")
SPELLED = {name.lower(): name for name in CHANNELS}
RESERVED = {"offset", "channels", "joint", "{", "}"}  # no joint names: these follow a name whose brace is missing
NEAR_RATE = 1e-4  # relative; frame times are written with few digits: 0.0333333 means 30 frames a second
SHORTEST = 1e-6  # seconds; the shortest frame time that is accepted
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
        return _Reader(Path(path)).read()

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


class _Reader:
    """Parser of one file. words: (word, line number) pairs of everything before MOTION."""

    def __init__(self, path: Path):
        self.path = path
        content = path.read_bytes()
        if not content.strip():
            raise MotionError(f"{path}: the file is empty, expected HIERARCHY")
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            self.fail(_line_of(content[:error.start]), f"byte {content[error.start]:#04x}, expected text in UTF-8")
        if "\0" in text:
            self.fail(_line_of(content[:content.index(b"\0")]), "a zero byte, expected text: this is no BVH file")
        self.lines = re.split(r"\r\n|\r|\n", text)
        self.words = []
        self.data_line = None  # index in lines of the first line after MOTION
        for number, line in enumerate(self.lines, 1):
            words = re.findall(r"[{}]|[^\s{}]+", line)
            if words and words[-1].lower() == "motion" and set(words[:-1]) <= {"}"}:
                self.words += [(word, number) for word in words[:-1]]
                self.motion_line, self.data_line = number, number
                break
            self.words += [(word, number) for word in words]
        self.place = 0  # index in words of the next word

    def fail(self, line: int, text: str):
        raise MotionError(f"{self.path}, line {line}: {text}")

    def next(self, expected: str) -> tuple[str, int]:
        """The next word and its line."""
        if self.place == len(self.words):
            if self.data_line is None:
                self.fail(len(self.lines), f"the file ends, expected {expected}")
            self.fail(self.motion_line, f"found MOTION, expected {expected}")
        self.place += 1
        return self.words[self.place - 1]

    def expect(self, expected: str) -> None:
        word, line = self.next(expected)
        if word.lower() != expected.lower():
            self.fail(line, f"found {word!r}, expected {expected}")

    def number(self, name: str) -> float:
        word, line = self.next(name)
        value = _number(word)
        if value is None:
            self.fail(line, f"{name} is {word!r}, expected a number")
        return value

    def read(self) -> Bvh:
        self.names, self.parents, self.offsets, self.channels, self.ends = [], [], [], [], {}
        self.expect("HIERARCHY")
        self.expect("ROOT")
        self.hierarchy()
        if self.place < len(self.words):
            word, line = self.words[self.place]
            second_root = word.lower() == "root"
            self.fail(line, f"found {word!r} after the figure's last brace, expected MOTION"
                      + ("; files of several figures are not read" if second_root else ""))
        if self.data_line is None:
            self.fail(len(self.lines), "the file ends without MOTION, expected it after the figure")
        if not sum(map(len, self.channels)):
            self.fail(self.motion_line, "the figure has no channels, so nothing can move")
        values, frame_time = self.frames(sum(map(len, self.channels)))
        return Bvh(tuple(self.names), tuple(self.parents), np.array(self.offsets), tuple(self.channels), self.ends,
                   values, frame_time)

    def joint(self, keyword: str, parent: int) -> None:
        """Reads a joint's name and opening brace; offset and channels follow inside the braces."""
        name = []
        while True:
            word, line = self.next(f"{{ after {keyword} {' '.join(name)}".rstrip())
            if word == "{" and name:
                break
            if word.lower() in RESERVED:
                self.fail(line, f"found {word!r}, expected " + (f"{{ after {keyword} {' '.join(name)}" if name else
                                                               f"a name after {keyword}"))
            name.append(word)
        self.names.append(" ".join(name))
        self.parents.append(parent)
        self.offsets.append(None)
        self.channels.append(None)

    def hierarchy(self) -> None:
        self.joint("ROOT", -1)
        stack = [0]
        while stack:
            joint = stack[-1]
            word, line = self.next(f"}} of {self.names[joint]}")
            keyword = word.lower()
            if keyword == "offset" and self.offsets[joint] is None:
                self.offsets[joint] = [self.number(f"OFFSET {axis} of {self.names[joint]}") for axis in "x y z".split()]
            elif keyword == "channels" and self.channels[joint] is None:
                self.channels[joint] = self.channel_names(self.names[joint])
            elif keyword == "joint":
                self.joint("JOINT", joint)
                stack.append(len(self.names) - 1)
            elif keyword == "end" and joint not in self.ends:
                self.expect("Site")
                self.expect("{")
                self.expect("OFFSET")
                self.ends[joint] = np.array([self.number(f"OFFSET {axis} of an end site") for axis in "x y z".split()])
                self.expect("}")
            elif keyword == "}":
                for values, name in ((self.offsets, "OFFSET"), (self.channels, "CHANNELS")):
                    if values[joint] is None:
                        self.fail(line, f"joint {self.names[joint]} ends without {name}, expected it before the brace")
                stack.pop()
            else:
                again = " a second time" if keyword in ("offset", "channels", "end") else ""
                self.fail(line, f"found {word!r} in joint {self.names[joint]}{again}, expected OFFSET, CHANNELS, "
                          "JOINT, End Site or }")

    def channel_names(self, joint: str) -> tuple[str, ...]:
        word, line = self.next("the number of channels")
        if not re.fullmatch(r"[0-6]", word):
            self.fail(line, f"{word!r} channels of {joint}, expected a number from 0 to 6")
        names = []
        for i in range(int(word)):
            name, line = self.next(f"channel {i + 1} of {word} of {joint}")
            if name.lower() not in SPELLED:
                self.fail(line, f"found {name!r} as channel {i + 1} of {word} of {joint}, expected one of "
                          f"{', '.join(CHANNELS)}")
            if SPELLED[name.lower()] in names:
                self.fail(line, f"channel {name} of {joint} a second time")
            names.append(SPELLED[name.lower()])
        if self.place < len(self.words) and self.words[self.place][0].lower() in SPELLED:
            extra, line = self.words[self.place]
            self.fail(line, f"channel {extra!r} of {joint} after the {word} that were announced")
        return tuple(names)

    def header(self, place: int, pattern: str, expected: str) -> tuple[int, re.Match]:
        """Matches the first line from index `place` on that is not blank. Returns the index after it, and the match."""
        while place < len(self.lines) and not self.lines[place].strip():
            place += 1
        if place == len(self.lines):
            self.fail(place, f"the file ends, expected {expected}")
        match = re.fullmatch(pattern, self.lines[place].strip(), re.IGNORECASE)
        if not match:
            self.fail(place + 1, f"found {self.lines[place].strip()[:60]!r}, expected {expected}")
        return place + 1, match

    def frames(self, width: int) -> tuple[np.ndarray, float]:
        """Values (T, width) and the frame time. A frame may span several lines, and a line may hold several frames."""
        place, match = self.header(self.data_line, r"Frames\s*:\s*(\S+)", '"Frames: " and their number')
        count, count_line = match[1], place
        if not re.fullmatch(r"[0-9]{1,9}", count) or not int(count):
            self.fail(place, f"Frames: {count}, expected a whole number from 1 on")
        place, match = self.header(place, r"Frame\s+Time\s*:\s*(\S+)", '"Frame Time: " and seconds')
        frame_time = _number(match[1])
        if frame_time is None or frame_time < SHORTEST:
            self.fail(place, f"Frame Time: {match[1]}, expected seconds, more than 0")
        rows = [(number, words) for number, line in enumerate(self.lines[place:], place + 1) if (words := line.split())]
        total, uneven = 0, next((row for row in rows if len(row[1]) != width), None)
        for _, words in rows:
            in_one_frame = total // width == (total + len(words) - 1) // width
            if not in_one_frame and (total % width or len(words) % width):
                self.fail(uneven[0], f"{len(uneven[1])} values, expected {width}, one a channel")
            total += len(words)
        if total % width:
            last = (uneven or rows[-1]) if len(rows) > 1 else rows[-1]
            self.fail(last[0], f"{len(last[1])} values, expected {width}, one a channel")
        if total != width * int(count):
            last = rows[-1][0] if rows else place
            self.fail(last, f"the file ends after {total // width} frames, expected the {count} of line {count_line}")
        return np.array([self.row(*row) for row in rows] if uneven is None else
                        [value for row in rows for value in self.row(*row)]).reshape(-1, width), frame_time

    def row(self, line: int, words: list[str]) -> list[float]:
        values = [_number(word) for word in words]
        if None in values:
            self.fail(line, f"value {values.index(None) + 1} is {words[values.index(None)]!r}, expected a number")
        return values


def _number(word: str) -> float | None:
    """A finite number, or None; unlike float(), not "nan", "inf" or "1_0"."""
    if not re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", word, re.ASCII):
        return None
    value = float(word)
    return value if math.isfinite(value) else None


def _line_of(before: bytes) -> int:
    """Number of the line that follows these bytes."""
    return len(re.findall(rb"\r\n|\r|\n", before)) + 1
