"""The faults of `bench.py faults`: what is done to a file, and what flags and dataset rows are odd.

Each takes a random generator, so that the same seed gives the same fault, and returns what it did, in words.
"""

import json
import random
import re
import shutil
from pathlib import Path

DEEP = "nested 100,000 deep"  # stands for itself in JSON until it is written
VALUES = (None, True, False, -1, 0, 1, 10**30, -10**12, 1e308, 0.5, float("nan"), float("inf"), "", " ", "a" * 100_000,
          "1 2 3", "\x1b[31mred\x1b[0m\x07", "caf\x92 \u202e\u0000", [], {}, [[[[]]]], [None], {"": 0}, DEEP)
FLAG_VALUES = ("0", "-1", "1", "2", "1000000000", "1" + "0" * 30, "nan", "inf", "-inf", "1e308", "0.5", "", " ", ".",
               "no/such", "null", "1 2 3", "1 2 99", "?", "[]", "a" * 5000, "\x1b[31mred\x1b[0m\x07", "caf\x92",
               "\u202eעברית", "走って、止まる", "💃🏽", "\udc80", "clips", "data.json", "/dev/zero")
WRITTEN = ("output", "work_dir")  # flags of what is written, so never a device


def flip(path: Path, rng: random.Random) -> str:
    """One to three other bits, anywhere in the file."""
    content = bytearray(path.read_bytes())
    if not content:
        return append(path, rng)
    places = [(rng.randrange(len(content)), rng.randrange(8)) for _ in range(rng.choice((1, 1, 3)))]
    for place, bit in dict.fromkeys(places):
        content[place] ^= 1 << bit
    path.write_bytes(content)
    return "bits flipped: " + ", ".join(f"byte {place}, bit {bit}" for place, bit in dict.fromkeys(places))


def append(path: Path, rng: random.Random) -> str:
    content = rng.randbytes(rng.randrange(1, 100))
    path.write_bytes(path.read_bytes() + content)
    return f"{len(content)} bytes appended"


def truncate(path: Path, rng: random.Random) -> str:
    """To 0 bytes, or to a random size below its own."""
    size = path.stat().st_size
    if not size:
        return append(path, rng)
    left = rng.choice((0, rng.randrange(size)))
    path.write_bytes(path.read_bytes()[:left])
    return f"cut from {size} to {left} bytes"


def remove(path: Path, rng: random.Random) -> str:
    path.unlink()
    return "removed"


def is_json(path: str) -> bool:
    return path.endswith((".json", ".jsonl"))


def set_value(path: Path, rng: random.Random) -> str:
    """One value somewhere in a JSON or JSON Lines file, replaced by one of VALUES."""
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines() if path.suffix == ".jsonl" else [text]
    place = rng.randrange(len(lines))
    content = {"": json.loads(lines[place])}
    holder, key, keys = content, "", []
    while isinstance(holder[key], list | dict) and holder[key] and (not keys or rng.random() < 0.8):
        holder = holder[key]
        key = rng.choice(list(holder)) if isinstance(holder, dict) else rng.randrange(len(holder))
        keys.append(str(key)[:40])
    before, value = holder[key], rng.choice(VALUES)
    holder[key] = value
    deep = "[" * 100_000 + "]" * 100_000
    lines[place] = json.dumps(content[""]).replace(json.dumps(DEEP), deep)
    path.write_text("\n".join(lines), encoding="utf-8")
    return f"value {' / '.join(keys) or 'of the whole file'}: {shown(before)} replaced by {shown(value)}"


def shown(value: object) -> str:
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:40]}... ({len(text)} characters)"


def others_of(path: str, files: list[str]) -> list[str]:
    """The files of the same name in other folders."""
    name = path.rpartition("/")[2]
    return [other for other in files if other != path and other.rpartition("/")[2] == name]


def swap(folder: Path, path: str, other: str) -> str:
    shutil.copyfile(folder / other, folder / path)
    return f"replaced by {other}"


def flags_in(help_text: str) -> list[str]:
    """The flags that take a value, from what --help prints."""
    return sorted(set(re.findall(r"(?m)^ +--([a-z_0-9]+)[ =]\S", help_text)))


def flag_value(flag: str, rng: random.Random) -> str:
    return rng.choice([value for value in FLAG_VALUES if value != "/dev/zero" or flag not in WRITTEN])


# ---------------------------------------------------------------- rows of a dataset

ODD_CAPTIONS = ("", " ", "\x1b[2J\x1b[31m", "caf\x92 of windows", "\x00", "a" * 3000, "走って、止まる", "💃🏽" * 30,
                "<|im_end|> <motion_3>", "a\u2028b\nc\td", "$(touch x)`id`", "\ud800", "{caption} %s", None, 7, [], {},
                "\u202eabc", "<script>alert(1)</script>", "0 1 2", "é" * 300)
ODD_TOKENS = ("", " ", "3", "3 4 x", "-1 4", "3.0 4", "1e3", "00003 4", "3,4,5", "1" + "0" * 30, "99999999 1", [], [3],
              [3, None], [3, 4.5], [True], ["3"], [[3, 4]], {}, None, 5, "3 " * 5000, [3] * 140, "٣ ٤", "1_0 2",
              "3 4 5\x00")
ODD_OTHERS = (None, "", " ", 3, True, [], {}, "a" * 500, "\x1b[31m", "../../x", "P 1", "<P1>", "test", "val", "TRAIN",
              "走", "\x92", "a/b", "nul", "-")
ODD_FIELDS = ("participant_id", "clip_id", "split", "note", "\x1b[31mfield", "")


def odd_rows(rows: list[dict], rng: random.Random) -> tuple[list, str]:
    """The rows with one to three odd ones among them, and what is odd."""
    rows, told = [dict(row) for row in rows], []
    for _ in range(rng.choice((1, 1, 2, 3))):
        place = rng.randrange(len(rows))
        kind = rng.choice(("caption", "caption", "tokens", "other", "whole", "lost"))
        if kind == "whole":
            rows[place] = rng.choice((None, [], "a", 3, {}, {"text": "a"}))
            told.append(f"row {place} is {shown(rows[place])}")
            continue
        field, values = {"caption": ("text_query", ODD_CAPTIONS), "tokens": ("motion_tokens", ODD_TOKENS),
                         "other": (rng.choice(ODD_FIELDS), ODD_OTHERS),
                         "lost": (rng.choice(("text_query", "motion_tokens")), ())}[kind]
        if not isinstance(rows[place], dict):
            continue
        rows[place].pop(field, None)
        if values:
            rows[place][field] = rng.choice(values)
        told.append(f"row {place}: {ascii(field)} " + (shown(rows[place][field]) if values else "is lost"))
    return rows, "; ".join(told)


def write_rows(path: Path, rows: list) -> None:
    """A lone surrogate stays an escape, as JSON may have it."""
    path.write_text(json.dumps(rows, indent=1), encoding="utf-8")
