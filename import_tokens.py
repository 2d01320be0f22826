"""Datasets in other projects' layouts: `python import_tokens.py --layout t2m_gpt --root DIR --output my.json`.

t2m_gpt: HumanML3D's texts and split files with the token folder of T2M-GPT (Zhang et al. 2023) or MotionGPT (Jiang et
al. 2023). qiqi: the JSON files of qiqiApink's MotionGPT (Zhang et al. 2024). Nothing is skipped without being counted
and named. And back: `--export t2m_gpt --data my.json --output DIR` writes the first layout.
"""

import argparse
import json
import math
import os
import re
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from data import read_rows
from motion_llm.command_line import exit_status, start_log
from motion_llm.dataset.report import raise_on_errors
from motion_llm.dataset.rows import SPLITS

LAYOUTS = ("t2m_gpt", "qiqi")
SHOWN = 3  # examples of each reason
NO_LIMIT = 1_000_000  # positions: what fits a model is not known here
HUMANML3D_FPS, HUMANML3D_UNIT = 20.0, 4  # frames a second; frames a token of T2M-GPT's codec


class LayoutError(ValueError):
    """A folder or file that is not in the layout; the message names what it holds and what is expected."""


@dataclass
class Imported:
    """rows: in the project's format, with clip_id and split. skipped: reason -> names of what was skipped. facts: other
    lines of the summary."""

    rows: list[dict] = field(default_factory=list)
    skipped: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    facts: list[str] = field(default_factory=list)

    def summary(self) -> str:
        counts = {split: sum(row.get("split") == split for row in self.rows) for split in SPLITS}
        clips = len({row["clip_id"] for row in self.rows})
        lines = [f"{len(self.rows)} rows of {clips} clips read",
                 "  " + ", ".join(f"{split} {count}" for split, count in counts.items())]
        lines += [f"  {fact}" for fact in self.facts]
        for reason, names in self.skipped.items():
            more = f", and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
            lines.append(f"  skipped, {reason}: {len(names)} ({', '.join(names[:SHOWN])}{more})")
        return "\n".join(lines if self.skipped else [*lines, "  nothing skipped"])


# ---------------------------------------------------------------- T2M-GPT


def import_t2m_gpt(root: str | Path, tokens_dir: str | Path | None = None, fps: float = HUMANML3D_FPS,
                   unit: int = HUMANML3D_UNIT) -> Imported:
    """Every caption of every id that a split file names becomes a row, with the id as clip_id.

    A caption with times gets the tokens from int(start * fps / unit) up to, not including, int(end * fps / unit), as
    T2M-GPT cuts them. fps: frames a second. unit: frames a token. tokens_dir: None searches below root.
    Raises LayoutError.
    """
    root, imported = Path(root), Imported()
    splits = _split_files(root)
    texts = root / "texts"
    if not texts.is_dir():
        raise LayoutError(f"{texts}: there is no such folder, expected ID.txt with the captions of each clip")
    tokens = _tokens_dir(root, tokens_dir, [name for names in splits.values() for name in names])
    imported.facts.append(f"tokens from {tokens}; {fps:g} frames a second, {unit} a token")
    named = set()
    for split, names in splits.items():
        for name in names:
            named.add(name)
            if not (texts / f"{name}.txt").is_file():
                imported.skipped["no texts file"].append(f"{name} ({split})")
            elif not (tokens / f"{name}.npy").is_file():
                imported.skipped["no tokens file"].append(f"{name} ({split})")
            else:
                motions = _read_tokens(tokens / f"{name}.npy")
                _add_captions(imported, texts / f"{name}.txt", motions, name, split, fps, unit)
    unnamed = sorted(path.stem for path in texts.glob("*.txt") if path.stem not in named)
    if unnamed:
        imported.skipped["texts that no split file names"] += unnamed
    return imported


def _split_files(root: Path) -> dict[str, list[str]]:
    """split -> its ids; without train.txt, val.txt and test.txt, those of all.txt as the split "". Raises LayoutError
    where there is no such file, and for an id in two splits."""
    names = [name for name in SPLITS if (root / f"{name}.txt").is_file()]
    if not names and not (root / "all.txt").is_file():
        raise LayoutError(f"{root} has none of train.txt, val.txt, test.txt and all.txt, expected an id a line")
    files = {name: root / f"{name}.txt" for name in names} or {"": root / "all.txt"}
    splits = {split: list(dict.fromkeys(path.read_text(encoding="utf-8-sig").split())) for split, path in files.items()}
    split_of: dict[str, str] = {}
    for split, ids in splits.items():
        for name in ids:
            if name in split_of:
                raise LayoutError(f"{root}: {name} is in {split_of[name]}.txt and in {split}.txt, expected one of them")
            split_of[name] = split
    return splits


def _tokens_dir(root: Path, tokens_dir: str | Path | None, ids: Sequence[str]) -> Path:
    """tokens_dir, or where it is None the one folder below root whose .npy files are named by ids and hold integers.

    HumanML3D's own folders of .npy files have the same names, but hold floats. Raises LayoutError.
    """
    if tokens_dir is not None:
        if not Path(tokens_dir).is_dir():
            raise LayoutError(f"--tokens_dir {tokens_dir}: there is no such folder")
        return Path(tokens_dir)
    candidates = []
    for folder, _, files in sorted(os.walk(root)):
        first = next((name for name in ids if f"{name}.npy" in set(files)), None)
        if first is not None and np.issubdtype(_load(Path(folder) / f"{first}.npy").dtype, np.integer):
            candidates.append(Path(folder))
    if len(candidates) != 1:
        listed = ", ".join(map(str, candidates)) or "none"
        raise LayoutError(f"{root}: folders of ID.npy with integers: {listed}; name the one with --tokens_dir")
    return candidates[0]


def _load(path: Path) -> np.ndarray:
    try:
        return np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise LayoutError(f"{path} cannot be read as an array without pickled objects ({error})") from None


def _read_tokens(path: Path) -> list[list[int]]:
    """The motions in a file: (T,) is one, (n, T) are n. Raises LayoutError."""
    tokens = _load(path)
    if not np.issubdtype(tokens.dtype, np.integer) or tokens.ndim not in (1, 2) or not tokens.size:
        raise LayoutError(f"{path} holds {tokens.dtype} of shape {tokens.shape}, expected integers of shape (1, T) or "
                          "(T,)")
    if tokens.min() < 0:
        raise LayoutError(f"{path} has the token {tokens.min()}, expected 0 or more")
    return np.atleast_2d(tokens).tolist()


def _add_captions(imported: Imported, path: Path, motions: Sequence[Sequence[int]], name: str, split: str,
                  fps: float, unit: int) -> None:
    """A row for each caption of a texts file and each motion of the clip."""
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").split("\n"), 1):
        if not line.strip():
            continue
        location = f"{path.name} line {number}"
        parts = line.strip().split("#")
        times = [_seconds(part) for part in parts[2:]]
        if len(parts) != 4 or None in times:
            imported.skipped["lines that are not caption#word/POS ...#start#end"].append(location)
            continue
        if not parts[0].strip():
            imported.skipped["captions without text"].append(location)
            continue
        start, end = times
        for motion in motions:
            tokens = motion if start == end == 0 else motion[int(start * fps / unit):int(end * fps / unit)]
            if not tokens:
                imported.skipped["times that leave no tokens"].append(f"{location}: {start:g} to {end:g} s")
                continue
            row = {"text_query": parts[0].strip(), "motion_tokens": " ".join(map(str, tokens)), "clip_id": name}
            imported.rows.append(row | ({"split": split} if split else {}))


def _seconds(text: str) -> float | None:
    """A time, 0 or more; nan, which stands for the whole clip, gives 0. None for anything else."""
    try:
        value = float(text)
    except ValueError:
        return None
    if math.isnan(value):
        return 0.0
    return value if 0 <= value < math.inf else None


# ---------------------------------------------------------------- qiqiApink's MotionGPT


def import_qiqi(root: str | Path) -> Imported:
    """Every object of train.json, val.json and test.json that asks for the motion of a caption becomes a row.

    {instruction, input: the caption, output: "81,81,207", motion: the clip's id, length: frames}. Objects whose input
    has tokens are of another task and skipped. Raises LayoutError.
    """
    root, imported = Path(root), Imported()
    files = {split: root / f"{split}.json" for split in SPLITS if (root / f"{split}.json").is_file()}
    if not files:
        raise LayoutError(f"{root} has none of train.json, val.json and test.json")
    for split, path in files.items():
        try:
            content = json.loads(path.read_text(encoding="utf-8-sig"))
        except json.JSONDecodeError as error:
            raise LayoutError(f"{path} is not JSON ({error})") from None
        if not isinstance(content, list):
            raise LayoutError(f"{path} holds a {type(content).__name__}, expected a list of objects")
        for number, entry in enumerate(content):
            location = f"{path.name} row {number}"
            if not isinstance(entry, dict) or not all(isinstance(entry.get(k), str) for k in ("input", "output")):
                raise LayoutError(f"{path}: row {number} is {str(entry)[:80]!r}, expected an object with input, output "
                                  "and motion")
            if re.search(r"</?\s*motion", entry["input"], re.IGNORECASE):
                imported.skipped["objects that give tokens beside the caption, or ask for a caption"].append(location)
            elif not entry["input"].strip():
                imported.skipped["captions without text"].append(location)
            elif not re.fullmatch(r"\s*\d+(\s*,\s*\d+)*\s*,?\s*", entry["output"]):
                imported.skipped['outputs that are not "81,81,207"'].append(location)
            else:
                imported.rows.append({"text_query": entry["input"].strip(),
                                      "motion_tokens": " ".join(re.findall(r"\d+", entry["output"])),
                                      "clip_id": str(entry.get("motion", f"{split} {number}")), "split": split})
    return imported


# ---------------------------------------------------------------- export


def export_t2m_gpt(data: str | Path, root: str | Path) -> str:
    """Write a dataset in T2M-GPT's layout: VQVAE/ID.npy (1, T), texts/ID.txt, train.txt, val.txt, test.txt, all.txt.

    A clip's captions share a file. Its id is the clip_id where that names one motion and can be a file's name, else a
    number. Rows without a split go to train. Returns the summary. Raises DataError, LayoutError.
    """
    root = Path(root)
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise LayoutError(f"{root} is not empty, expected a new folder")
    report = read_rows(data, NO_LIMIT, denoise=False)
    raise_on_errors(report)
    splits = [row.split or SPLITS[0] for row in report.rows]
    clips: dict[tuple, list[int]] = defaultdict(list)  # clip_id and tokens -> its rows
    for place, row in enumerate(report.rows):
        clips[row.clip_id, row.codes.tobytes()].append(place)
    names = _names([clip_id for clip_id, _ in clips])
    (root / "VQVAE").mkdir(parents=True)
    (root / "texts").mkdir()
    ids: dict[str, list[str]] = {split: [] for split in SPLITS}
    for name, places in zip(names, clips.values(), strict=True):
        clip_splits = sorted({splits[place] for place in places})
        if len(clip_splits) > 1:
            raise LayoutError(f"{data}: row {report.rows[places[0]].index}: its clip is in the splits "
                              f"{' and '.join(clip_splits)}, expected one")
        rows = [report.rows[place] for place in places]
        np.save(root / "VQVAE" / f"{name}.npy", rows[0].codes[None].astype(np.int64), allow_pickle=False)
        (root / "texts" / f"{name}.txt").write_text("".join(map(_text_line, rows)), encoding="utf-8")
        ids[clip_splits[0]].append(name)
    for split, split_ids in (*ids.items(), ("all", names)):
        (root / f"{split}.txt").write_text("".join(f"{name}\n" for name in split_ids), encoding="utf-8")
    participant_rows = sum(row.participant_id is not None for row in report.rows)
    lines = [f"{len(report.rows)} rows of {len(names)} clips written to {root}",
             "  " + ", ".join(f"{split} {len(split_ids)} clips" for split, split_ids in ids.items())]
    if participant_rows:
        lines.append(f"  not kept, for the layout has none: the participant of {participant_rows} rows")
    return "\n".join(lines)


def _names(clip_ids: Sequence[str | None]) -> list[str]:
    """A file name for each clip, all different even on a file system that ignores case."""
    names, taken = [], {clip_id.casefold() for clip_id in clip_ids if clip_id}
    counts = {key: sum((clip_id or "").casefold() == key for clip_id in clip_ids) for key in taken}
    number = 0
    for clip_id in clip_ids:
        if clip_id and re.fullmatch(r"[\w-]{1,100}", clip_id) and counts[clip_id.casefold()] == 1:
            names.append(clip_id)
            continue
        while f"{number:06d}" in taken:
            number += 1
        names.append(f"{number:06d}")
        number += 1
    return names


def _text_line(row) -> str:
    """caption#word/POS ...#0.0#0.0; the part of speech is unknown and written as X. A # or a line break in the caption
    would end it and becomes a space."""
    text = " ".join(row.text_query.replace("#", " ").split())
    return f"{text}#{' '.join(f'{word}/X' for word in text.split())}#0.0#0.0\n"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Datasets in other projects' layouts, and back.", allow_abbrev=False)
    mode = parser.add_mutually_exclusive_group(required=True)
    mode.add_argument("--layout", choices=LAYOUTS, help="read this layout from --root, write --output (JSON)")
    mode.add_argument("--export", choices=LAYOUTS[:1], help="read --data (JSON), write this layout to --output")
    parser.add_argument("--root", help="the folder of the layout")
    parser.add_argument("--data", help="a dataset of this project")
    parser.add_argument("--output", required=True, help="the JSON file, or the folder, to write")
    parser.add_argument("--tokens_dir", help="the folder of ID.npy. Default: found below --root")
    parser.add_argument("--fps", type=float, default=HUMANML3D_FPS, help="frames a second. Default: 20 (HumanML3D)")
    parser.add_argument("--unit", type=int, default=HUMANML3D_UNIT, help="frames a token. Default: 4 (T2M-GPT)")
    return parser


def run(args: argparse.Namespace) -> str:
    """The summary to print. Raises ValueError (its subclasses included) and OSError for what cannot be done."""
    required = "root" if args.layout else "data"
    if getattr(args, required) is None:
        raise LayoutError(f"--{required} is missing")
    if not (args.fps > 0 and math.isfinite(args.fps)) or args.unit < 1:
        raise LayoutError(f"--fps {args.fps:g} and --unit {args.unit}, expected more than 0, and 1 or more")
    if args.export:
        return export_t2m_gpt(args.data, args.output)
    if args.layout == "t2m_gpt":
        imported = import_t2m_gpt(args.root, args.tokens_dir, args.fps, args.unit)
    else:
        imported = import_qiqi(args.root)
    if not imported.rows:
        raise LayoutError(f"{args.root}: no row could be read\n{imported.summary()}")
    output = Path(args.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    text = "[\n" + ",\n".join(json.dumps(row, ensure_ascii=False) for row in imported.rows) + "\n]\n"
    output.write_text(text, encoding="utf-8")
    return f"{args.output}: {imported.summary()}"


def main() -> int:
    args = _parser().parse_args()
    start_log()
    return exit_status("import_tokens.py", lambda: print(run(args)))


if __name__ == "__main__":
    sys.exit(main())
