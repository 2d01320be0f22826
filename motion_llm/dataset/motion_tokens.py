"""The field motion_tokens of a row: which form it has, and its codes, checked for a whole chunk or one by one."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from motion_llm.dataset.reader import Invalid, RepeatedKeys, show
from motion_llm.dataset.rows import offsets
from motion_llm.streams import ABSENT, MOST_STREAMS, OBJECT, ONE, STEPS, TEXT, Streams, level_names, name_problem


@dataclass(frozen=True)
class Form:
    """How a file writes its motions: form, one of streams.FORMS, and the names of the streams."""

    form: str
    names: tuple[str, ...]

    @classmethod
    def of(cls, value: Any) -> "Form | None":
        """Of a motion_tokens; None for one that cannot be a motion."""
        if isinstance(value, str) or isinstance(value, list) and not any(isinstance(item, list) for item in value):
            return cls(TEXT, (ONE,))
        if isinstance(value, dict) and value and not any(map(name_problem, value)):
            return cls(OBJECT, tuple(value))
        if isinstance(value, list) and isinstance(value[0], list) and value[0]:
            return cls(STEPS, level_names(len(value[0])))
        return None

    def check_codebook(self, codebook: Any) -> None:
        """Raises Invalid for too many streams, and for a codebook, as read_rows() takes it, that has other ones."""
        if len(self.names) > MOST_STREAMS:
            raise Invalid("streams", f"the motions have {self if self.form == STEPS else len(self.names)}, expected at "
                                     f"most {MOST_STREAMS}")
        if isinstance(codebook, Streams):
            if (codebook.form, set(codebook.names)) != (self.form, set(self.names)):
                raise Invalid("streams", f"the motions have {self}, expected {Form(codebook.form, codebook.names)}, as "
                                         "the model was trained on")
        elif isinstance(codebook, Mapping):
            if set(codebook) != set(self.names) or self.form == TEXT:
                raise Invalid("streams", f"the motions have {self}, and CODEBOOK_SIZE names {', '.join(codebook)}")
        elif isinstance(codebook, Sequence) and len(codebook) != len(self.names):
            raise Invalid("streams", f"the motions have {self}, and CODEBOOK_SIZE {len(codebook)} numbers")

    def sizes(self, codebook: Any) -> tuple[int, ...]:
        """The codes of each stream, as a codebook says that check_codebook() takes."""
        if isinstance(codebook, Streams):
            codebook = dict(zip(codebook.names, codebook.sizes, strict=True))
        if isinstance(codebook, int):
            return (codebook,) * len(self.names)
        return tuple(codebook[name] for name in self.names) if isinstance(codebook, Mapping) else tuple(codebook)

    def streams(self, codebook: Any, used: Sequence[int]) -> Streams:
        """The file's streams; without a codebook, of the sizes `used`. A model's are in the model's order."""
        if isinstance(codebook, Streams):
            return codebook
        return Streams(self.names, tuple(used) if codebook is None else self.sizes(codebook), self.form)

    def __str__(self) -> str:
        return {TEXT: "one stream", OBJECT: f"streams {', '.join(self.names)}",
                STEPS: f"steps of {len(self.names)} codes"}[self.form]


# ---------------------------------------------------------------- one by one


_CODES = re.compile(r"\s*\d{1,6}(?:\s+\d{1,6})*\s*", re.ASCII)


def codes_of_text(value: Any, largest: int) -> np.ndarray:
    """motion_tokens as codes, int32 (T,). The usual forms are read at once; others go to _codes_one_by_one."""
    if isinstance(value, str) and _CODES.fullmatch(value):
        numbers = list(map(int, value.split()))
    elif isinstance(value, list) and set(map(type, value)) == {int}:
        numbers = value
    else:
        numbers = _codes_one_by_one(value, largest)
    if min(numbers) < 0 or max(numbers) > largest:
        _codes_one_by_one(numbers, largest)
    codes = np.array(numbers, dtype=np.int32)
    codes.flags.writeable = False
    return codes


def _codes_one_by_one(value: Any, largest: int) -> list[int]:
    """The codes in a field's value. Raises Invalid for the first wrong one, with its place, counted from 0."""
    if not isinstance(value, str | list):
        raise Invalid("codes-type", show(value))
    tokens = value.split() if isinstance(value, str) else value
    if not tokens:
        raise Invalid("no-codes", show(value))
    numbers = []
    for place, token in enumerate(tokens):
        detail = f"{show(token)} at place {place}"
        is_decimal = isinstance(value, str) and re.fullmatch(r"-?\d+", token, re.ASCII)
        if not is_decimal and type(token) is not int:
            hint = "; separate tokens by spaces" if isinstance(token, str) and "," in token else ""
            raise Invalid("non-integer-code", detail + hint)
        if token.startswith("-") if is_decimal else token < 0:
            raise Invalid("negative-code", detail)
        digits = token.lstrip("0") or "0" if is_decimal else ""
        if len(digits) > 7 or int(digits or token) > largest:  # int() would raise for 4301 digits
            raise Invalid("code-too-large", detail)
        numbers.append(int(digits or token))
    return numbers


def step_codes(value: Any, form: Form, largest: dict[str, int]) -> np.ndarray:
    """motion_tokens of a file with several streams as their own codes step by step, int32 (T * Q,)."""
    found = Form.of(value)
    if found is None:
        if isinstance(value, dict):
            _check_names(value)
        raise Invalid("codes-type", show(value))
    if found.form != form.form:
        raise Invalid("mixed-forms", f"{found}, where rows before it have {form}")
    if found.form == STEPS:
        columns = _columns_of_steps(value, form)
    elif isinstance(value, RepeatedKeys):
        raise Invalid("duplicate-key", f"{', '.join(value.repeated)} of motion_tokens")
    elif set(found.names) != set(form.names):
        raise Invalid("streams", f"{', '.join(found.names)}, where rows before it have {', '.join(form.names)}")
    else:
        columns = {name: value[name] for name in form.names}
    codes = {}
    for name, column in columns.items():
        try:
            codes[name] = None if column is None and form.form == OBJECT else codes_of_text(column, largest[name])
        except Invalid as error:
            raise Invalid(error.kind, f"{name}: {error.detail}") from None
    lengths = {name: len(column) for name, column in codes.items() if column is not None}
    if not lengths:
        raise Invalid("no-codes", "every stream is null")
    if len(set(lengths.values())) > 1:
        raise Invalid("stream-lengths", ", ".join(f"{name} {length}" for name, length in lengths.items()))
    count = next(iter(lengths.values()))
    absent = np.full(count, ABSENT, np.int32)
    steps = np.stack([absent if column is None else column for column in codes.values()], axis=1).ravel()
    steps.flags.writeable = False
    return steps


def _check_names(value: dict) -> None:
    """Raises Invalid for names that no stream can have, or an object without streams."""
    if not value:
        raise Invalid("no-codes", "an object without streams")
    for name in value:
        if problem := name_problem(name):
            raise Invalid("stream-name", f"{show(name)}: {problem}")


def _columns_of_steps(value: list, form: Form) -> dict[str, list]:
    for place, step in enumerate(value):
        if not isinstance(step, list):
            raise Invalid("mixed-forms", f"{show(step)} at place {place}, where other places have steps of "
                                         f"{len(form.names)} codes")
        if len(step) != len(form.names):
            raise Invalid("streams", f"{len(step)} codes in step {place}, where steps before it have "
                                     f"{len(form.names)}")
    return dict(zip(form.names, map(list, zip(*value, strict=True)), strict=True))


# ---------------------------------------------------------------- a whole chunk at once


def parse(tokens: list, form: Form, largest: dict[str, int]) -> tuple[np.ndarray, np.ndarray] | None:
    """All codes of the motions and the number of codes in each; None where any of them may have an error."""
    if form.form != TEXT:
        return _stream_columns(tokens, form, largest)
    parse = {frozenset({str}): _code_texts, frozenset({list}): _code_lists}.get(frozenset(map(type, tokens)))
    parsed = parse(tokens) if parse else None
    if parsed is None or not len(parsed[0]) or parsed[0].min() < 0 or parsed[0].max() > largest[ONE]:
        return None
    return parsed


def _stream_columns(tokens: list, form: Form, largest: dict[str, int]) -> tuple[np.ndarray, np.ndarray] | None:
    """Motions of several streams to their own codes, step by step, and the number of codes in each motion; None where
    any of them may have an error."""
    if form.form == STEPS:
        steps = list(chain.from_iterable(tokens)) if set(map(type, tokens)) == {list} else [None]
        parsed = _code_lists(steps) if set(map(type, steps)) == {list} else None
        if parsed is None or set(parsed[1].tolist()) != {len(form.names)}:
            return None
        columns = parsed[0].reshape(-1, len(form.names))
        counts = np.fromiter(map(len, tokens), np.int64, len(tokens))
    else:
        if set(map(type, tokens)) != {dict} or {tuple(value) for value in tokens} != {form.names}:
            return None
        parts = [[value[name] for value in tokens] for name in form.names]
        if set(map(type, chain.from_iterable(parts))) != {str}:
            return None
        parsed = list(map(_code_texts, parts))
        if any(part is None or (part[1] != parsed[0][1]).any() for part in parsed):
            return None
        columns, counts = np.stack([codes for codes, _ in parsed], axis=1), parsed[0][1]
    if (columns.min(initial=0) < 0) or (columns > [largest[name] for name in form.names]).any():
        return None
    return columns.ravel(), counts * len(form.names)


def _code_texts(tokens: list[str]) -> tuple[np.ndarray, np.ndarray] | None:
    """Texts of codes to all their codes and the number of codes in each; None unless all are digits and spaces."""
    joined = "\n".join(["", *tokens, ""])  # line breaks at both ends, so that every number has a start and an end
    if not joined.isascii():
        return None
    data = np.frombuffer(joined.encode(), np.uint8)
    is_digit = data - np.uint8(ord("0")) < 10  # uint8 wraps around: a byte below "0" becomes large
    separators = data[~is_digit]
    if not ((separators == ord(" ")) | (separators - np.uint8(9) < 5)).all():  # 9 to 13: tab, line breaks
        return None
    changes = np.flatnonzero(is_digit[1:] != is_digit[:-1]) + 1
    starts, ends = changes[::2], changes[1::2]
    sizes = ends - starts
    if not len(sizes) or sizes.max() > 9:  # more digits may still be a small number, with leading zeros
        return None
    codes = np.zeros(len(starts), np.int32)
    for place in range(sizes.max()):
        longer = slice(None) if place < sizes.min() else np.flatnonzero(sizes > place)
        codes[longer] = 10 * codes[longer] + (data[starts[longer] + place] - np.uint8(ord("0")))
    bounds = 1 + offsets(np.fromiter(map(len, tokens), np.int64, len(tokens)) + 1)
    return codes, np.diff(np.searchsorted(starts, bounds))


def _code_lists(tokens: list[list]) -> tuple[np.ndarray, np.ndarray] | None:
    """Lists of codes to all their codes and the number of codes in each; None unless all are 64-bit integers."""
    if set(map(type, chain.from_iterable(tokens))) != {int}:
        return None
    counts = np.fromiter(map(len, tokens), np.int64, len(tokens))
    try:
        return np.fromiter(chain.from_iterable(tokens), np.int64, counts.sum()), counts
    except OverflowError:
        return None
