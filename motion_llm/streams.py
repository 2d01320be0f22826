"""Streams of motion tokens: the parts of a body, or the levels of a quantiser, that make a motion step by step.

A step has one code of each of Q streams, each from a codebook of its own. Inside, a motion is one flat sequence of T *
Q codes, step after step in the streams' order, and the codebooks stand one behind the other in one: code c of stream s
is c + the codes of all streams before s. A motion of one stream is its own flat sequence. In a file a motion has one of
three forms:

    text     "42 18 91"                                             one stream; a list [42, 18, 91] reads the same
    object   {"body": "42 18 91", "left_hand": "3 3 7", "face": null}   named streams; null for one that is absent
    steps    [[42, 3, 5], [18, 3, 1]]                               streams without names, called q0, q1, ...
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

TEXT, OBJECT, STEPS = FORMS = ("text", "object", "steps")
ONE = "motion"  # the name of the only stream of the form "text"
LOST = "?"  # a lost code in a request, and a lost stream
MASKED = -1  # a lost code, inside
ABSENT = -2  # a code of a stream that the motion does not have, inside
LONGEST_NAME = 32  # characters
MOST_STREAMS = 32

Value = str | Sequence | Mapping  # of motion_tokens


class StreamError(ValueError):
    """A motion that does not have the form or the streams that it should."""


def name_problem(name: str) -> str | None:
    """Why a stream cannot have this name; None if it can. Its codes become tokens such as <left_hand_12>."""
    if not name.strip() or len(name) > LONGEST_NAME:
        return f"expected 1 to {LONGEST_NAME} characters"
    if not all(char.isprintable() and not char.isspace() and char not in "<>" for char in name):
        return "expected no spaces, no < and no >"
    return "the name is reserved for participants" if name == "PID" else None


def level_names(count: int) -> tuple[str, ...]:
    return tuple(f"q{level}" for level in range(count))


@dataclass(frozen=True)
class Streams:
    """The streams of a dataset or a model. names (Q,); sizes (Q,): codes of each stream; form: one of FORMS.

    Raises StreamError for streams that cannot be.
    """

    names: tuple[str, ...]
    sizes: tuple[int, ...]
    form: str = OBJECT

    def __post_init__(self):
        if not 1 <= len(self.names) <= MOST_STREAMS or len(self.names) != len(self.sizes):
            raise StreamError(f"{len(self.names)} streams with {len(self.sizes)} codebooks, expected 1 to "
                              f"{MOST_STREAMS} streams with a codebook each")
        for name in self.names:
            if problem := name_problem(name):
                raise StreamError(f"a stream is called {name[:60]!r}, {problem}")
        if len(set(self.names)) < len(self.names):
            raise StreamError(f"streams are called {', '.join(self.names)}, expected each name once")
        if self.form not in FORMS or self.form == TEXT and self.names != (ONE,):
            raise StreamError(f"streams {', '.join(self.names)} of the form {self.form!r}, expected one of "
                              f"{', '.join(FORMS)}, and one stream for {TEXT}")

    @classmethod
    def one(cls, size: int) -> "Streams":
        return cls((ONE,), (size,), TEXT)

    @property
    def count(self) -> int:
        """Q, codes of a step."""
        return len(self.names)

    @property
    def size(self) -> int:
        """Codes of all streams together."""
        return sum(self.sizes)

    def setting(self) -> int | dict[str, int] | list[int]:
        """The codebooks as the setting CODEBOOK_SIZE writes them: a number, or one a stream."""
        if self.form == TEXT:
            return self.size
        return dict(zip(self.names, self.sizes, strict=True)) if self.form == OBJECT else list(self.sizes)

    @cached_property
    def starts(self) -> np.ndarray:
        """int64, (Q + 1,): stream s has the flat codes from starts[s] up to, not including, starts[s + 1]."""
        return np.concatenate([[0], np.cumsum(self.sizes, dtype=np.int64)])

    def codes_of(self, stream: int) -> range:
        """The flat codes of a stream."""
        return range(int(self.starts[stream]), int(self.starts[stream + 1]))

    def tokens(self) -> list[str]:
        """The spellings of all flat codes, in their order."""
        return [f"<{name}_{code}>" for name, size in zip(self.names, self.sizes, strict=True) for code in range(size)]

    def may_follow(self) -> np.ndarray:
        """bool, (Q, K + 1): which flat codes, and in the last place the end, may stand where a stream's code is due."""
        allowed = np.zeros((self.count, self.size + 1), bool)
        for stream in range(self.count):
            allowed[stream, self.starts[stream]:self.starts[stream + 1]] = True
        allowed[0, -1] = True  # a motion ends between steps
        return allowed

    # ---- flat codes and steps

    def flat(self, steps: np.ndarray) -> np.ndarray:
        """The streams' own codes, (T, Q), MASKED and ABSENT among them, to flat codes, int32 (T * Q,)."""
        steps = np.asarray(steps)
        return np.where(steps < 0, steps, steps + self.starts[:-1]).astype(np.int32).ravel()

    def steps(self, flat: Sequence[int]) -> np.ndarray:
        """Flat codes (T * Q,) to the streams' own codes, int32 (T, Q). Raises StreamError for part of a step."""
        codes = np.asarray(flat, np.int32)
        if len(codes) % self.count:
            raise StreamError(f"{len(codes)} codes are no whole number of steps of {self.count}")
        steps = codes.reshape(-1, self.count)
        return np.where(steps < 0, steps, steps - self.starts[:-1]).astype(np.int32)

    def problem(self, flat: Sequence[int], special: Sequence[int] = ()) -> str | None:
        """What is wrong with flat codes of which some may be `special` (MASKED, ABSENT); None if nothing is."""
        codes = np.asarray(flat, np.int64)
        stream = np.arange(len(codes)) % self.count
        wrong = (codes < self.starts[stream]) | (codes >= self.starts[stream + 1])
        wrong &= ~np.isin(codes, list(special))
        if wrong.any():
            place = int(np.flatnonzero(wrong)[0])
            own = int(codes[place]) - int(self.starts[stream[place]]) * (codes[place] >= 0)
            step, of = divmod(place, self.count)
            where = f"position {place}" if self.count == 1 else f"step {step} of {self.names[of]}"
            return f"code {own} at {where} is outside the codebook (0 to {self.sizes[of] - 1})"
        if len(codes) % self.count:
            return f"{len(codes)} codes are no whole number of steps of {self.count}"
        return None

    # ---- the forms of a file

    def written(self, flat: Sequence[int]) -> str | dict | list:
        """Flat codes in the dataset's form: text, an object of texts, or a list of steps. A code that is MASKED is
        written as LOST; a stream that is all ABSENT as null."""
        steps = self.steps(flat)
        if self.form == STEPS:
            return [[LOST if code == MASKED else None if code == ABSENT else code for code in step]
                    for step in steps.tolist()]
        texts = {name: None if len(column) and (column == ABSENT).all() else
                 " ".join(LOST if code == MASKED else str(code) for code in column.tolist())
                 for name, column in zip(self.names, steps.T, strict=True)}
        return texts if self.form == OBJECT else texts[ONE]

    def read(self, value: Value, lost: bool = False) -> tuple[int, ...]:
        """motion_tokens of a request to flat codes; with `lost`, LOST for a code and for a whole stream is MASKED.

        Streams without names may be given to a model of named ones, in its order. Raises StreamError with what was
        found and what was expected.
        """
        columns = self._columns(value, lost)
        lengths = {name: len(column) for name, column in zip(self.names, columns, strict=True)
                   if column is not None and column != LOST}
        if len(set(lengths.values())) > 1:
            raise StreamError("motion_tokens has " + ", ".join(f"{count} codes of {name}"
                                                               for name, count in lengths.items())
                              + ", expected as many of each stream")
        length = next(iter(lengths.values()), 0)
        if not length:
            raise StreamError(f"motion_tokens is {_shown(value)}, expected {self._example(lost)}")
        steps = np.empty((length, self.count), np.int64)
        for stream, column in enumerate(columns):
            steps[:, stream] = ABSENT if column is None else MASKED if column == LOST else column
        flat = self.flat(steps)
        if problem := self.problem(flat, (MASKED, ABSENT)):
            raise StreamError(problem)
        return tuple(flat.tolist())

    def _columns(self, value: Value, lost: bool) -> list[list[int] | str | None]:
        """The codes of each stream; None for one that is absent, LOST for one that is lost."""
        wrong = f"motion_tokens is {_shown(value)}, expected {self._example(lost)}"
        if self.form == TEXT:
            return [self._codes(value, ONE, lost)]
        if isinstance(value, Mapping):
            if set(value) != set(self.names):
                raise StreamError(f"motion_tokens has the streams {', '.join(map(str, value)) or 'none'}, expected "
                                  f"{', '.join(self.names)}")
            return [None if value[name] is None else LOST if lost and value[name] == LOST else
                    self._codes(value[name], name, lost) for name in self.names]
        if isinstance(value, str) or not isinstance(value, Sequence) or not value or not all(
                isinstance(step, Sequence) and not isinstance(step, str) and len(step) == self.count for step in value):
            raise StreamError(wrong)
        return [self._codes(list(column), name, lost) for name, column in zip(self.names, zip(*value, strict=True),
                                                                              strict=True)]

    def _codes(self, value: Value, name: str, lost: bool) -> list[int]:
        return read_codes(value, lost, "" if self.form == TEXT else f" of {name}")

    def _example(self, lost: bool) -> str:
        if self.form == TEXT:
            return _example(lost)
        one = f", {LOST} for a lost one" if lost else ""
        if self.form == STEPS:
            return f"steps of {self.count} codes, such as [{list(range(3, 3 + self.count))}, ...]{one}"
        texts = ", ".join(f'"{name}": "{3 + place} 18 7"' for place, name in enumerate(self.names))
        return f"an object of {self.count} streams, such as {{{texts}}}{one}" + (
            f', "{LOST}" for a lost stream' if lost else "")

    # ---- JSON

    def to_dict(self) -> dict:
        return {"names": list(self.names), "sizes": list(self.sizes), "form": self.form}

    @classmethod
    def from_dict(cls, fields: dict) -> "Streams":
        return cls(tuple(fields["names"]), tuple(fields["sizes"]), fields["form"])


def read_codes(value: Value, lost: bool, of: str = "") -> list[int]:
    """"42 18 ?" or [42, 18, "?"] to codes; LOST becomes MASKED if `lost` allows it. of: names the stream in an error.
    Raises StreamError."""
    tokens = value.split() if isinstance(value, str) else value
    if not isinstance(tokens, Sequence) or not len(tokens):
        raise StreamError(f"motion_tokens{of} is {_shown(value)}, expected {_example(lost)}")
    codes = []
    for position, token in enumerate(tokens):
        text = str(token)
        if lost and text == LOST:
            codes.append(MASKED)
        elif isinstance(token, bool) or not (text.isascii() and text.isdecimal() and len(text) <= 9):
            raise StreamError(f"motion_tokens{of}: {_shown(token)} at position {position}, expected {_example(lost)}")
        else:
            codes.append(int(text))
    return codes


def _example(lost: bool) -> str:
    return f'codes such as "42 18 91"{f", {LOST} for a lost one" if lost else ""}'


def in_a_line(value: Value) -> str:
    """A motion in the dataset's form as one line: text as it is, else JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:56] + " ..."
