"""Datasets in other projects' layouts: `python import_tokens.py --layout t2m_gpt --root DIR --output my.json`.

Layouts: t2m_gpt (HumanML3D with the tokens of T2M-GPT or MotionGPT), qiqi (qiqiApink's MotionGPT), json (a dataset of
this project, --data), whose codes --drop_codes and --subtract edit. motion_llm/dataset/layouts.py reads them. And back:
`--export t2m_gpt --data my.json --output DIR` writes the first layout. `--streams body=DIR left_hand=DIR` takes a
folder of tokens for each part of the body.
"""

import argparse
import json
import re
import shlex
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data import read_rows
from motion_llm.command_line import Parser, exit_status, keep_inputs, printable, start_log
from motion_llm.dataset.layouts import (
    HUMANML3D_FPS,
    HUMANML3D_UNIT,
    NOTHING_LEFT,
    Imported,
    import_qiqi,
    import_t2m_gpt,
    written,
)
from motion_llm.dataset.report import raise_on_errors
from motion_llm.dataset.rows import SPLITS, Row
from motion_llm.dataset.token_files import ALL, Edits, LayoutError
from motion_llm.json_files import write_text
from motion_llm.saving import saving_folder
from motion_llm.streams import ABSENT, OBJECT, STEPS, TEXT, Streams, name_problem

LAYOUTS = ("t2m_gpt", "qiqi", "json")
MOST_FPS = 1e6
LONGEST_NAME = 200  # bytes of a file's name, without its suffix
NO_LIMIT = 1_000_000  # positions: what fits a model is not known here


def import_json(data: str | Path, edits: Edits) -> Imported:
    """The rows of a dataset of this project with edited codes; unknown fields are not kept. Raises DataError,
    LayoutError."""
    report, imported = read_rows(data, NO_LIMIT, denoise=False), Imported()
    raise_on_errors(report)
    streams = report.streams
    for row in report.rows:
        def name(row: Row = row) -> str:
            return f"{data}: {report.name_of(row.index)}"

        codes = edits.apply(row.codes.tolist(), name) if streams.form == TEXT else edits.apply_steps(
            streams.steps(row.codes), streams.names, name)
        if not len(codes):
            imported.skipped[NOTHING_LEFT].append(report.name_of(row.index))
            continue
        optional = {"participant_id": row.participant_id, "clip_id": row.clip_id, "split": row.split}
        motion = written(codes, streams.names if streams.form == OBJECT else None)
        imported.rows.append({"text_query": row.text_query, "motion_tokens": motion}
                             | {name: value for name, value in optional.items() if value is not None})
    imported.facts += edits.facts()
    if report.ignored_fields:
        imported.facts.append(f"unknown fields, not kept: {', '.join(report.ignored_fields)}")
    return imported


# ---------------------------------------------------------------- export


def export_t2m_gpt(data: str | Path, root: str | Path) -> str:
    """Write a dataset in T2M-GPT's layout: VQVAE/ID.npy (1, T), texts/ID.txt, train.txt, val.txt, test.txt, all.txt.

    Levels are arrays (T, levels); of named streams each has a folder, VQVAE_NAME, without the clips that lack it. A
    clip's captions share a file. Its id is the clip_id where that names one motion and can be a file's name, else a
    number. Rows without a split go to train. The folder appears whole or not at all. Returns the summary. Raises
    DataError, LayoutError.
    """
    root = Path(root)
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise LayoutError(f"{root} is not empty, expected a new folder")
    report = read_rows(data, NO_LIMIT, denoise=False)
    raise_on_errors(report)
    _check_levels(data, report.streams, report.rows.lengths)
    clips: dict[tuple, list[Row]] = defaultdict(list)  # clip_id and tokens -> its rows
    for row in report.rows:
        clips[row.clip_id, row.codes.tobytes()].append(row)
    ids: dict[str, list[str]] = {split: [] for split in SPLITS}
    names = _names([clip_id for clip_id, _ in clips])
    for name, rows in zip(names, clips.values(), strict=True):
        splits = sorted({row.split or SPLITS[0] for row in rows})
        if len(splits) > 1:
            raise LayoutError(f"{data}: {report.name_of(rows[0].index)}: its clip is in the splits "
                              f"{' and '.join(splits)}, expected one")
        ids[splits[0]].append(name)
    with saving_folder(root) as temporary:
        _write_layout(temporary, dict(zip(names, clips.values(), strict=True)), ids, report.streams)
    participant_rows = sum(row.participant_id is not None for row in report.rows)
    lines = [f"{len(report.rows)} rows of {len(names)} clips written to {root}",
             "  " + ", ".join(f"{split} {len(split_ids)} clips" for split, split_ids in ids.items())]
    if report.streams.form == OBJECT:
        parts = map("=".join, zip(report.streams.names, _token_folders(report.streams), strict=True))
        lines.append(f"  a folder for each stream, which --streams {shlex.join(parts)} reads again")
    if participant_rows:
        lines.append(f"  not kept, for the layout has none: the participant of {participant_rows} rows")
    return "\n".join(lines)


def _check_levels(data: str | Path, streams: Streams, lengths: np.ndarray) -> None:
    """Raises LayoutError where arrays (T, levels) would be read as motions, as no clip has more steps than levels."""
    if streams.form == STEPS and lengths.max() // streams.count <= streams.count:
        raise LayoutError(f"{data}: the longest motion has {lengths.max() // streams.count} steps of {streams.count} "
                          "codes: arrays of such shapes could not be told from several motions, expected one that has "
                          "more steps than codes in a step")


def _token_folders(streams: Streams) -> list[str]:
    """The folder of each named stream, or the one of all others."""
    return [f"VQVAE_{name}" for name in _names(streams.names)] if streams.form == OBJECT else ["VQVAE"]


def _arrays(codes: np.ndarray, streams: Streams) -> list[np.ndarray | None]:
    """A motion as the array in each folder; None for a stream that it does not have. codes: flat, (T * Q,)."""
    if streams.form == TEXT:
        return [codes[None]]
    steps = streams.steps(codes)
    return [steps] if streams.form == STEPS else [None if column[0] == ABSENT else column[None] for column in steps.T]


def _write_layout(root: Path, clips: dict[str, list[Row]], ids: dict[str, list[str]], streams: Streams) -> None:
    """clips: id -> the rows of the clip; ids: split -> its ids."""
    folders = _token_folders(streams)
    for folder in (*folders, "texts"):
        (root / folder).mkdir(parents=True)
    for name, rows in clips.items():
        for folder, array in zip(folders, _arrays(rows[0].codes, streams), strict=True):
            if array is not None:
                np.save(root / folder / f"{name}.npy", array.astype(np.int64), allow_pickle=False)
        (root / "texts" / f"{name}.txt").write_text("".join(map(_text_line, rows)), encoding="utf-8")
    for split, split_ids in (*ids.items(), ("all", clips)):
        (root / f"{split}.txt").write_text("".join(f"{name}\n" for name in split_ids), encoding="utf-8")


def _names(clip_ids: Sequence[str | None]) -> list[str]:
    """A file name for each clip, all different even on a file system that ignores case."""
    counts, names, number = Counter(clip_id.casefold() for clip_id in clip_ids if clip_id), [], 0
    for clip_id in clip_ids:
        is_file_name = clip_id and re.fullmatch(r"[\w-]+", clip_id) and len(clip_id.encode()) <= LONGEST_NAME
        if is_file_name and counts[clip_id.casefold()] == 1:
            names.append(clip_id)
            continue
        while f"{number:06d}" in counts:
            number += 1
        names.append(f"{number:06d}")
        number += 1
    return names


def _text_line(row: Row) -> str:
    """caption#word/POS ...#0.0#0.0; the part of speech is unknown and written as X. A # or a line break in the caption
    would end it and becomes a space."""
    text = " ".join(row.text_query.replace("#", " ").split())
    return f"{text}#{' '.join(f'{word}/X' for word in text.split())}#0.0#0.0\n"


def _parser() -> Parser:
    parser = Parser(description="Datasets in other projects' layouts, and back.")
    mode = parser.add_mutually_exclusive_group(required=True)
    mode.add_argument("--layout", choices=LAYOUTS, help="read this layout from --root (json: from --data), write "
                      "--output (JSON)")
    mode.add_argument("--export", choices=LAYOUTS[:1], help="read --data (JSON), write this layout to --output")
    parser.add_argument("--root", help="the folder of the layout")
    parser.add_argument("--data", help="a dataset of this project")
    parser.add_argument("--output", required=True, help="the JSON file, or the folder, to write")
    parser.add_argument("--tokens_dir", help="the folder of ID.npy, ID.txt or ID.npz. Default: found below --root")
    parser.add_argument("--streams", nargs="+", metavar="NAME=FOLDER", help="of tokens for each part of the body, the "
                        "folder of each, below --root or with its whole path, such as body=VQ_BODY left_hand=VQ_LH")
    parser.add_argument("--fps", type=float, default=HUMANML3D_FPS, help="frames a second. Default: 20 (HumanML3D)")
    parser.add_argument("--unit", type=int, default=HUMANML3D_UNIT, help="frames a token. Default: 4 (T2M-GPT)")
    parser.add_argument("--level", type=_level, metavar="N", help="of arrays (T, levels) of a residual quantisation, "
                        "take column N alone; 0 is the base level. all: every level, also of arrays (levels, T). "
                        "Default: all of (T, levels), and (n, T) is n motions")
    parser.add_argument("--drop_codes", nargs="+", type=_of_stream(_codes), metavar="512,513", help="take these codes "
                        "out of every motion, such as start and end markers; of one stream: body=512,513")
    parser.add_argument("--subtract", nargs="+", type=_of_stream(int), metavar="N", help="subtract N from every code "
                        "that is left, such as the id of code 0 in a language model's vocabulary; of one stream: "
                        "body=N")
    return parser


def _codes(text: str) -> frozenset[int]:
    if not re.fullmatch(r"\d{1,9}(,\d{1,9})*", text, re.ASCII):
        raise argparse.ArgumentTypeError(f"{text!r}, expected codes such as 512,513")
    return frozenset(map(int, text.split(",")))


def _level(text: str) -> int | str:
    if text != ALL and not re.fullmatch(r"-?\d{1,9}", text, re.ASCII):
        raise argparse.ArgumentTypeError(f"{text!r}, expected a number from 0 or {ALL}")
    return ALL if text == ALL else int(text)


def _of_stream(parse: Callable[[str], Any]) -> Callable[[str], tuple[str | None, Any]]:
    """Reads NAME=VALUE as (name, value), and VALUE as (None, value), which is for all streams."""
    def value(text: str) -> tuple[str | None, Any]:
        name, sign, rest = text.rpartition("=")
        return name if sign else None, parse(rest)

    value.__name__ = parse.__name__  # argparse's error says it
    return value


def _by_stream(flag: str, values: list[tuple[str | None, Any]] | None, default: Any) -> Any:
    """What a flag gives for all streams, or stream -> what it gives for each. Raises LayoutError for a mixture."""
    if values is None:
        return default
    if len(values) == 1 and values[0][0] is None:
        return values[0][1]
    if None in dict(values) or len(dict(values)) < len(values):
        raise LayoutError(f"--{flag}: expected one value, or NAME=VALUE once for each stream")
    return dict(values)


def _folders(values: list[str] | None) -> dict[str, str]:
    """Stream -> folder, of --streams. Raises LayoutError."""
    pairs = [value.partition("=")[::2] for value in values or ()]
    for value, (name, folder) in zip(values or (), pairs, strict=True):
        if not folder:
            raise LayoutError(f"--streams {value[:60]!r}, expected NAME=FOLDER such as body=VQ_BODY")
        if problem := name_problem(name):
            raise LayoutError(f"--streams: a stream is called {name[:60]!r}, {problem}")
    if len(dict(pairs)) < len(pairs):
        raise LayoutError(f"--streams {' '.join(values)}: expected each name once")
    return dict(pairs)


def run(args: argparse.Namespace) -> str:
    """The summary to print. Raises ValueError (its subclasses included) and OSError for what cannot be done."""
    required = "data" if args.export or args.layout == "json" else "root"
    if getattr(args, required) is None:
        raise LayoutError(f"--{required} is missing")
    if not 0 < args.fps < MOST_FPS or args.unit < 1:
        raise LayoutError(f"--fps {args.fps:g} and --unit {args.unit}, expected more than 0, and 1 or more")
    if isinstance(args.level, int) and args.level < 0 or any(number < 0 for _, number in args.subtract or ()):
        raise LayoutError("--level and --subtract: expected 0 or more")
    if args.level is not None and args.layout != "t2m_gpt":
        raise LayoutError("--level is for --layout t2m_gpt, the other files have no arrays")
    if args.export and (args.drop_codes or args.subtract):
        raise LayoutError("--drop_codes and --subtract are for --layout; --layout json edits a dataset of this project")
    if args.streams and (args.layout != "t2m_gpt" or args.tokens_dir is not None or args.level == ALL):
        raise LayoutError("--streams is for --layout t2m_gpt, without --tokens_dir and --level all: each stream has a "
                          "folder, with one code a step")
    keep_inputs(args.output, args.data)
    if args.export:
        return export_t2m_gpt(args.data, args.output)
    edits = Edits(args.level, _by_stream("drop_codes", args.drop_codes, frozenset()),
                  _by_stream("subtract", args.subtract, 0))
    if args.layout == "t2m_gpt":
        imported = import_t2m_gpt(args.root, args.tokens_dir, args.fps, args.unit, edits, _folders(args.streams))
    else:
        imported = import_qiqi(args.root, edits) if args.layout == "qiqi" else import_json(args.data, edits)
    if not imported.rows:
        raise LayoutError(f"{args.data or args.root}: no row could be read\n{imported.summary()}")
    rows = ",\n".join(json.dumps(row, ensure_ascii=False) for row in imported.rows)
    write_text(args.output, f"[\n{rows}\n]\n")
    return f"{args.output}: {imported.summary()}"


def main() -> int:
    args = _parser().parse_args()
    start_log()
    return exit_status("import_tokens.py", lambda: print(printable(run(args))))


if __name__ == "__main__":
    sys.exit(main())
