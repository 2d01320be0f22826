"""The parser of BVH files. It takes what programs in the field write; errors name the line and say what to do."""

import logging
import re
import unicodedata
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from motion_llm.input_files import check_regular
from motion_llm.motion.bvh_numbers import IN_NUMBERS, breaks_in, counts_of, number_of
from motion_llm.motion.skeleton import MotionError

log = logging.getLogger(__name__)

CHANNELS = tuple(f"{axis}{kind}" for kind in ("position", "rotation") for axis in "XYZ")
SPELLED = {name.lower(): name for name in CHANNELS}
RESERVED = {"offset", "channels", "joint", "{", "}"}  # words of the format that may follow a joint's name
SHORTEST, LONGEST = 1e-6, 1.0  # seconds; longer frame times are frames a second, or milliseconds
BLOCK = 1 << 20  # bytes of values that are parsed at once
# No figure and no recording comes near these; without them a small file takes hours, or all memory.
MOST_BYTES, MOST_JOINTS, LONGEST_NAME = 1 << 23, 5000, 1000  # before MOTION; of a figure; characters
LONGEST_LINE = 1 << 26  # bytes
MOST_POSES, POSES = 1 << 26, 1 << 18  # frames times joints: of a file, 3 GB; whose matrices are made at once
MOTION = re.compile(r"^[^\S\n}]*(?:}[^\S\n}]*)*(motion)[^\S\n]*(?=$|frames\s*:)", re.IGNORECASE | re.MULTILINE)
AHEAD = 20  # words behind MOTION that are read with what stands before it: more than its announcements have


class BvhReader:
    """One file. The constructor reads all that stands before the values; `chunks` reads the values.

    names, parents, offsets, channels, end_sites, frame_time: as in Bvh. most_frames: an upper bound of their number.
    Raises MotionError naming file, line, what was found and what was expected; OSError.
    """

    def __init__(self, path: Path):
        self.path = path
        check_regular(path, MotionError)
        header, self.rest = self._header()
        self.lines = enumerate(header.split("\n"), 1)
        self.words = []  # (word, line number) of the lines that were taken; place: the index of the next one
        self.place, self.last_line = 0, header.count("\n") + 1
        self.names, self.name_lines, self.parents, self.end_sites = [], [], [], {}
        offsets, channels = self.hierarchy()
        if self.rest is None:
            self.fail(self.last_line, "the file ends without MOTION, expected it after the figure")
        self.offsets, self.channels = np.array(offsets), tuple(channels)
        self.width = sum(map(len, channels))
        if not self.width:
            self.fail(self.last_line, "the figure has no channels, so nothing can move")
        self.names, self.parents = tuple(self._distinct_names()), tuple(self.parents)
        self._announcements()

    def _text(self, content: bytes, line: int) -> str:
        """Text that starts in a line of the file, with \\n alone for line breaks."""
        try:
            text = content.decode("utf-8-sig" if line == 1 else "utf-8")
        except UnicodeDecodeError as error:
            packed = {b"\x1f\x8b": "a file packed by gzip: unpack it", b"PK": "a zip archive: unpack it",
                      b"\xff\xfe": "it looks like UTF-16: save the file as UTF-8",
                      b"\x93NUMPY": "an array of numpy (.npy), which view.py takes with --joints"}
            cure = next((text for first, text in packed.items() if line == 1 and content.startswith(first)),
                        "save the file as UTF-8, or name the joint in plain letters")
            self.fail(line + breaks_in(content[:error.start]), f"byte {content[error.start]:#04x}, expected text in "
                      f"UTF-8: {cure}")
        if "\0" in text:
            self.fail(line + breaks_in(content[:content.index(b"\0")]), "a zero byte, expected text: this is no BVH "
                      "file")
        return text.replace("\r\n", "\n").replace("\r", "\n")

    def _header(self) -> tuple[str, str | None]:
        """The text before MOTION, and the text behind it as far as it is read; None if the file has no such line."""
        content, motion, searched = b"", None, 0
        with self.path.open("rb") as file:
            while True:
                block = file.read(BLOCK)
                content += block
                # Whole lines only, but for the end of the file: a line or a character may go on in the next block.
                self.text_end = content.rfind(b"\n") + 1 if block else len(content)
                text = self._text(content[:self.text_end], 1)
                motion = motion or MOTION.search(text, searched)
                searched = len(text)
                if motion and (not block or len(text[motion.end():].split(maxsplit=AHEAD)) > AHEAD):
                    return text[:motion.start(1)], text[motion.end():]
                if not block and not content.strip():
                    raise MotionError(f"{self.path}: the file is empty, expected HIERARCHY")
                if not block:
                    return text, None
                if len(content) > (LONGEST_LINE if motion else MOST_BYTES):
                    raise MotionError(f"{self.path}: no {'frame' if motion else 'MOTION'} in the first "
                                      f"{len(content):,} bytes, expected the figure, MOTION, and a frame a line")

    def _distinct_names(self) -> list[str]:
        """The joints' names in one Unicode spelling. Joints of one name get their parent's name behind it. Raises
        MotionError if they still have one name."""
        names = [unicodedata.normalize("NFC", name) for name in self.names]
        counts = Counter(names)
        repeated = [name for name, count in counts.items() if count > 1]
        if not repeated:
            return names
        distinct = [f"{name}_{names[self.parents[i]]}" if counts[name] > 1 and i else name
                    for i, name in enumerate(names)]
        for name, count in Counter(distinct).items():
            if count > 1:
                lines = [self.name_lines[i] for i, other in enumerate(distinct) if other == name]
                shown = names[distinct.index(name)][:60]
                self.fail(lines[1], f"a second joint of the name {shown!r} under the same parent (the first is in line "
                          f"{lines[0]}): give each its own name")
        log.warning("%s: %d joints of the name %s: told apart by their parents, as %s", self.path, counts[repeated[0]],
                    repeated[0][:60], distinct[names.index(repeated[0])][:120])
        return distinct

    def fail(self, line: int, text: str):
        raise MotionError(f"{self.path}, line {line}: {text}")

    def word(self, ahead: int) -> tuple[str, int] | None:
        """A word that is still to come, and its line; None past the last one."""
        while self.place + ahead >= len(self.words):
            number, line = next(self.lines, (0, None))
            if line is None:
                return None
            if line and not line.lstrip().startswith("#"):
                self.words += [(word, number) for word in re.findall(r"[{}]|[^\s{}]+", line)]
        return self.words[self.place + ahead]

    def next(self, expected: str) -> tuple[str, int]:
        """The next word and its line."""
        if self.word(0) is None:
            end = "the file ends" if self.rest is None else "found MOTION"
            self.fail(self.last_line, f"{end}, expected {expected}")
        self.place += 1
        return self.words[self.place - 1]

    def expect(self, expected: str) -> None:
        word, line = self.next(expected)
        if word.lower() != expected.lower():
            self.fail(line, f"found {word[:40]!r}, expected {expected}")

    def number(self, name: str) -> float:
        word, line = self.next(name)
        value = number_of(word)
        if value is None:
            self.fail(line, f"{name} is {word[:40]!r}, expected a number")
        return value

    def peek(self, ahead: int = 0) -> str:
        """A word that is still to come, in lower case; "" past the last one."""
        return (self.word(ahead) or ("",))[0].lower()

    def joint(self, keyword: str, parent: int) -> None:
        """Reads a joint's name and opening brace; offset and channels follow inside the braces."""
        name, length = [], 0
        while True:
            shown = " ".join([keyword, *name[:5]])[:60]
            word, line = self.next(f"{{ after {shown}")
            if word == "{" and name:
                break
            # A joint may be called "joint" or "Offset"; a brace must follow, or these words start what a brace lacks.
            if word in "{}" or word.lower() in RESERVED and (name or self.peek() != "{"):
                self.fail(line, f"found {word[:40]!r}, expected {'{' if name else 'a name'} after {shown}")
            name.append(word)
            name_line = line
            length += len(word) + 1
            if length > LONGEST_NAME:
                self.fail(line, f"{shown} ... has a name of more than {LONGEST_NAME} characters, expected {{ "
                          "before that")
        if len(self.names) == MOST_JOINTS:
            self.fail(line, f"a figure of more than {MOST_JOINTS:,} joints, expected at most that")
        self.names.append(" ".join(name))
        self.name_lines.append(name_line)
        self.parents.append(parent)

    def hierarchy(self) -> tuple[list, list]:
        """Offsets and channels of all joints; reads up to the last brace."""
        self.expect("HIERARCHY")
        self.expect("ROOT")
        self.joint("ROOT", -1)
        offsets, channels, stack = [None], [None], [0]
        while stack:
            joint = stack[-1]
            name = self.names[joint][:60]
            word, line = self.next(f"}} of {name}")
            keyword = word.lower()
            if keyword == "offset" and offsets[joint] is None:
                offsets[joint] = [self.number(f"OFFSET {axis} of {name}") for axis in "xyz"]
            elif keyword == "channels" and channels[joint] is None:
                channels[joint] = self.channel_names(name)
            elif keyword == "joint":
                self.joint("JOINT", joint)
                offsets.append(None)
                channels.append(None)
                stack.append(len(self.names) - 1)
            elif keyword == "end" and joint not in self.end_sites:
                self.end_sites[joint] = self.end_site()
            elif keyword == "}":
                for values, part in ((offsets, "OFFSET"), (channels, "CHANNELS")):
                    if values[joint] is None:
                        self.fail(line, f"joint {name} ends without {part}, expected it before the brace")
                stack.pop()
            else:
                again = " a second time" if keyword in ("offset", "channels", "end") else ""
                self.fail(line, f"found {word[:40]!r} in joint {name}{again}, expected OFFSET, CHANNELS, "
                          "JOINT, End Site or }")
        if left := self.word(0):
            word, line = left
            second_root = word.lower() == "root"
            self.fail(line, f"found {word[:40]!r} after the figure's last brace, expected MOTION"
                      + ("; files of several figures are not read: save each figure in its own" if second_root else ""))
        return offsets, channels

    def end_site(self) -> np.ndarray:
        """The offset of an end site; some programs write a name behind its keyword, which says nothing."""
        self.expect("Site")
        while self.peek() not in ("{", "offset", ""):
            self.next("{")
        self.expect("{")
        self.expect("OFFSET")
        offset = np.array([self.number(f"OFFSET {axis} of an end site") for axis in "xyz"])
        if self.peek() == "channels" and self.peek(1) == "0":  # some programs give it the channels that it has
            self.place += 2
        self.expect("}")
        return offset

    def channel_names(self, joint: str) -> tuple[str, ...]:
        word, line = self.next("the number of channels")
        if not re.fullmatch(r"[0-6]", word):
            self.fail(line, f"{word[:40]!r} channels of {joint}, expected a number from 0 to 6: positions and "
                      "rotations; scales are not read")
        names = []
        for i in range(int(word)):
            name, line = self.next(f"channel {i + 1} of {word} of {joint}")
            if name.lower() not in SPELLED:
                self.fail(line, f"found {name[:40]!r} as channel {i + 1} of {word} of {joint}, expected one of "
                          f"{', '.join(CHANNELS)}")
            if SPELLED[name.lower()] in names:
                self.fail(line, f"channel {name} of {joint} a second time")
            names.append(SPELLED[name.lower()])
        if self.peek() in SPELLED:
            extra, line = self.words[self.place]
            self.fail(line, f"channel {extra[:40]!r} of {joint} after the {word} that were announced")
        return tuple(names)

    # ------------------------------------------------------------ what follows MOTION

    def line(self) -> str | None:
        """The next line of self.rest that is not blank, with self.at its number; None at the end of the file."""
        filled = re.search(r"\S", self.rest)
        start = self.rest.rfind("\n", 0, filled.start() if filled else None) + 1
        self.at += self.rest.count("\n", 0, start) + bool(filled)
        line, _, self.rest = self.rest[start:].partition("\n")
        return line.strip() or None

    def announced(self, pattern: str, expected: str) -> str:
        """What the next line announces, as the pattern's group."""
        line = self.line()
        if line is None:
            self.fail(self.at, f"the file ends, expected {expected}")
        match = re.fullmatch(pattern, line, re.IGNORECASE)
        if not match:
            self.fail(self.at, f"found {line[:60]!r}, expected {expected}")
        return match[1]

    def _announcements(self) -> None:
        self.at = self.last_line - 1  # number of the line that was read last
        count = self.announced(r"Frames\s*:\s*(\S+)", '"Frames: " and their number')
        self.count_line = self.at
        if not re.fullmatch(r"[0-9]{1,9}(\.0*)?", count) or not float(count):
            self.fail(self.at, f"Frames: {count[:40]}, expected a whole number from 1 on")
        self.count = int(float(count))
        word = self.announced(r"Frame\s+Time\s*:\s*(\S+?)(?:\s*s)?", '"Frame Time: " and seconds')
        self.frame_time = number_of(word)
        if self.frame_time is None or self.frame_time < SHORTEST:
            comma = "; decimals are written with a point" if "," in word else ""
            self.fail(self.at, f"Frame Time: {word[:40]}, expected seconds, more than 0{comma}")
        if self.frame_time > LONGEST:
            rates = f"{word[:40]} frames a second are 'Frame Time: {1 / self.frame_time:.9f}'"
            milliseconds = f"{word[:40]} milliseconds 'Frame Time: {self.frame_time / 1000:.9f}'"
            self.fail(self.at, f"Frame Time: {word[:40]}, expected seconds, at most {LONGEST:g}: {rates}, "
                      f"{milliseconds}")
        self.values_line = self.at
        # A value and the space behind it take two bytes.
        self.most_frames = min(self.count + 1, self.path.stat().st_size // (2 * self.width) + 1)
        if self.most_frames * len(self.names) > MOST_POSES:
            self.fail(self.count_line, f"{self.count:,} frames of {len(self.names):,} joints, expected at most "
                      f"{MOST_POSES // len(self.names):,} frames: cut the recording")

    def chunks(self) -> Iterator[np.ndarray]:
        """The values (n, C) of the next frames, until all are read, at most most_frames: degrees and the file's units,
        float64. Each call begins with the first frame.

        A frame may span several lines, and a line may hold several frames. A file with one frame more or fewer than
        announced is read, with a warning.
        """
        self.at = self.values_line
        self.values_read, self.uneven, self.last = 0, None, self.at
        partial = np.empty(0)  # values of a frame that goes on in the next block
        for text in self._texts():
            values = np.concatenate([partial, self._values(text)]) if text.strip() else partial
            self.at += text.count("\n")
            frames = len(values) // self.width
            if frames and self.values_read // self.width <= self.count + 1:  # else too many, which is told at the end
                step = max(1, POSES // len(self.names))
                for first in range(0, frames, step):
                    last = min(first + step, frames)
                    yield values[first * self.width:last * self.width].reshape(last - first, self.width)
            partial = values[frames * self.width:]
        if len(partial):
            line, count = self.uneven or self.last_values
            self.fail(line, f"{count} values, expected {self.width}, one a channel")
        self._check_count(self.values_read // self.width)

    def _texts(self) -> Iterator[str]:
        """The text of the values in whole lines, a block after the other."""
        text, unread = self.rest, b""
        with self.path.open("rb") as file:
            file.seek(self.text_end)
            while True:
                block = file.read(BLOCK)
                content = unread + block
                end = len(content) if not block else max(content.rfind(b"\n"), content.rfind(b"\r")) + 1
                if block and end == len(content) and content.endswith(b"\r"):
                    end = content.rfind(b"\n") + 1  # its other half may follow
                unread = content[end:]
                if len(unread) > LONGEST_LINE:
                    self.fail(self.at + 1 + text.count("\n") + breaks_in(content[:end]), "a line of more than "
                              f"{LONGEST_LINE:,} bytes, expected a frame a line")
                yield text + self._text(content[:end], self.at + 1 + text.count("\n"))
                text = ""
                if not block:
                    return

    def _check_count(self, frames: int) -> None:
        announced = f"the {self.count} of line {self.count_line}"
        if not frames or abs(frames - self.count) > 1:
            self.fail(self.last, f"the file ends after {frames} frames, expected {announced}")
        if frames != self.count:
            log.warning("%s: %d frames, and line %d announces %d: all %d are read", self.path, frames, self.count_line,
                        self.count, frames)

    def _values(self, text: str) -> np.ndarray:
        """All values of lines of text that follow line self.at."""
        text = "\n".join("" if line.lstrip().startswith(("#", "\x1a")) else line for line in text.split("\n")) if (
            "#" in text or "\x1a" in text) else text  # comments, and the mark of the end of a file
        content = text.encode() if text.isascii() else b"?"
        counts = counts_of(content)
        values = np.empty(0)
        if not content.translate(None, IN_NUMBERS):
            with warnings.catch_warnings():  # text that is not numbers to its end gives fewer values than words
                warnings.simplefilter("ignore", DeprecationWarning)
                try:
                    values = np.fromstring(content, sep=" ")
                except ValueError:
                    pass
        if len(values) != counts.sum() or not np.isfinite(values).all():
            values = np.array([value for number, line in enumerate(text.split("\n"), self.at + 1)
                               for value in self._row(number, line.split())])
            counts = np.array([len(line.split()) for line in text.split("\n")])
        self._check_lines(counts)
        return values

    def _check_lines(self, counts: np.ndarray) -> None:
        """Each line holds whole frames, or a part of one frame. counts: values of each line after line self.at."""
        filled = np.flatnonzero(counts)
        if self.uneven is None and self.values_read % self.width == 0 and (counts[filled] == self.width).all():
            self.values_read += int(counts.sum())
        else:
            for i in filled:
                count, line = int(counts[i]), self.at + int(i) + 1
                if self.uneven is None and count != self.width:
                    self.uneven = line, count
                begun = self.values_read % self.width
                if begun + count > self.width and (begun or count % self.width):
                    line, count = self.uneven
                    self.fail(line, f"{count} values, expected {self.width}, one a channel")
                self.values_read += count
        if len(filled):
            self.last, self.last_values = self.at + int(filled[-1]) + 1, (self.at + int(filled[-1]) + 1,
                                                                           int(counts[filled[-1]]))

    def _row(self, line: int, words: list[str]) -> list[float]:
        values = [number_of(word) for word in words]
        if None in values:
            word = words[values.index(None)]
            grown = re.search(r"(?<=[\d.])-", word)  # 0.0-7.5: a space is missing
            separated = f"{word[:grown.start()]} {word[grown.start():]}" if grown else ""
            hint = f"; is a space missing, {separated[:40]!r}?" if grown else (
                "; decimals are written with a point" if "," in word else "")
            count = f"{len(words)} values, expected {self.width}; " if len(words) != self.width else ""
            self.fail(line, f"{count}value {values.index(None) + 1} is {word[:40]!r}, expected a number{hint}")
        return values
