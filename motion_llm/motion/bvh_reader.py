"""The parser of BVH files. It takes what programs in the field write; errors name the line and say what to do."""

import math
import re
from pathlib import Path

import numpy as np

from motion_llm.motion.skeleton import MotionError

CHANNELS = tuple(f"{axis}{kind}" for kind in ("position", "rotation") for axis in "XYZ")
SPELLED = {name.lower(): name for name in CHANNELS}
RESERVED = {"offset", "channels", "joint", "{", "}"}  # no joint names: these follow a name whose brace is missing
SHORTEST = 1e-6  # seconds; the shortest frame time that is accepted


class BvhReader:
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

    def read(self) -> dict:
        """The fields of a Bvh."""
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
        return {"names": tuple(self.names), "parents": tuple(self.parents), "offsets": np.array(self.offsets),
                "channels": tuple(self.channels), "end_sites": self.ends, "values": values, "frame_time": frame_time}

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
