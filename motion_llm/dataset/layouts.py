"""Datasets in the layouts of other projects, read as rows of this one; nothing is skipped without being counted.

t2m_gpt: HumanML3D's texts and split files with the token folder of T2M-GPT (Zhang et al. 2023) or MotionGPT (Jiang et
al. 2023). qiqi: the JSON files of qiqiApink's MotionGPT (Zhang et al. 2024).
"""

import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, combinations
from pathlib import Path

import numpy as np

from motion_llm.dataset.report import count_of
from motion_llm.dataset.rows import SPLITS
from motion_llm.dataset.token_files import (
    ARCHIVE,
    MACOS,
    SUFFIXES,
    Edits,
    LayoutError,
    find_file,
    find_tokens,
    macos_files,
    read_motions,
    read_parts,
)
from motion_llm.input_files import is_below
from motion_llm.json_files import parse_json, read_text
from motion_llm.streams import ABSENT, ONE

MOST_SECONDS = 1e9  # that a caption may name
SHOWN = 3  # examples of each reason
NOTHING_LEFT = "motions of nothing but codes to drop"
HUMANML3D_FPS, HUMANML3D_UNIT = 20.0, 4  # frames a second; frames a token of T2M-GPT's codec


@dataclass
class Imported:
    """rows: in the project's format, with split where there is one, and clip_id where a clip has a name. skipped:
    reason -> names of what was skipped. facts: other lines of the summary."""

    rows: list[dict] = field(default_factory=list)
    skipped: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    facts: list[str] = field(default_factory=list)

    def summary(self) -> str:
        counts = {split: sum(row.get("split") == split for row in self.rows) for split in SPLITS}
        clips = len({row["clip_id"] for row in self.rows if "clip_id" in row})
        unnamed = sum("clip_id" not in row for row in self.rows) if clips else 0
        lines = [f"{len(self.rows)} rows" + f" of {clips} clips" * (clips > 0) + " read"
                 + f", {unnamed} of the rows without a clip_id" * (unnamed > 0)]
        if any(counts.values()):
            lines.append("  " + ", ".join(f"{split} {count}" for split, count in counts.items()))
        lines += [f"  {fact}" for fact in self.facts]
        for reason, names in self.skipped.items():
            lines.append(f"  skipped, {reason}: {_counted(names)}")
        return "\n".join(lines if self.skipped else [*lines, "  nothing skipped"])


def _counted(names: Sequence[str]) -> str:
    more = f", and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{len(names)} ({', '.join(names[:SHOWN])}{more})"


def written(motion: Sequence[int] | np.ndarray, names: Sequence[str] | None = None) -> str | list | dict:
    """A motion as motion_tokens: text; of several streams, (T, Q), a list of steps, or an object where they have names.
    """
    if not isinstance(motion, np.ndarray):
        return " ".join(map(str, motion))
    if names is None:
        return motion.tolist()
    return {name: None if column[0] == ABSENT else " ".join(map(str, column.tolist()))
            for name, column in zip(names, motion.T, strict=True)}


# ---------------------------------------------------------------- T2M-GPT


@dataclass(frozen=True)
class _Clip:
    """texts: its file of captions. tokens: its file of tokens, or that of each stream."""

    name: str
    split: str
    texts: Path
    tokens: Path | dict[str, Path]


def import_t2m_gpt(root: str | Path, tokens_dir: str | Path | None = None, fps: float = HUMANML3D_FPS,
                   unit: int = HUMANML3D_UNIT, edits: Edits | None = None,
                   streams: Mapping[str, str | Path] | None = None) -> Imported:
    """Every caption of every id that a split file names becomes a row, with the id as clip_id.

    A caption with times gets the tokens from int(start * fps / unit) up to, not including, int(end * fps / unit), as
    T2M-GPT cuts them. tokens_dir: the folder of ID.npy, ID.txt or ID.npz, None searches below root. fps: frames a
    second. unit: frames a token. edits: to the codes of whole motions, before the cut. streams: name -> the folder of
    ID.npy or ID.txt, below root, with that stream of each clip, instead of one folder. Raises LayoutError.
    """
    root, imported, edits = Path(root), Imported(), edits or Edits()
    splits = _split_files(root, imported)
    texts = root / "texts"
    if not texts.is_dir():
        raise LayoutError(f"{texts}: there is no such folder, expected ID.txt with the captions of each clip")
    folders = _token_folders(root, tokens_dir, streams, splits)
    of = ", ".join(f"of {name} from {folder}" if streams else f"from {folder}" for name, folder in folders.items())
    imported.facts.append(f"tokens {of}; {fps:g} frames a second, {unit} a token")
    clips = _find_clips(imported, texts, folders if streams else folders[ONE], splits)
    motions, names = _read_clips(imported, clips, tuple(streams or ()), edits)
    imported.facts += edits.facts()
    for clip in clips:
        if clip.name in motions:
            _add_captions(imported, clip, motions[clip.name], names, fps, unit)
    _add_left_over(imported, texts, folders.values(), splits)
    return imported


def _token_folders(root: Path, tokens_dir: str | Path | None, streams: Mapping[str, str | Path] | None,
                   splits: dict[str, list[str]]) -> dict[str, Path]:
    """Stream -> its folder; ONE for a folder that is not of named streams. Raises LayoutError."""
    if streams:
        folders = {name: root / folder for name, folder in streams.items()}
    elif tokens_dir is not None:
        folders = {ONE: Path(tokens_dir)}
    else:
        return {ONE: find_tokens(root, chain.from_iterable(splits.values()))}
    for name, folder in folders.items():
        if not folder.is_dir():
            flag = f"--streams {name}=" if streams else "--tokens_dir "
            raise LayoutError(f"{flag}{folder}: there is no such folder")
    return folders


def _find_clips(imported: Imported, texts: Path, tokens: Path | dict[str, Path], splits: dict[str, list[str]],
                ) -> list[_Clip]:
    """The clips that have captions and tokens. tokens: the folder, or that of each stream."""
    clips = []
    for split, names in splits.items():
        for name in names:
            text_file = find_file(texts, name, (".txt",))
            files = find_file(tokens, name, (*SUFFIXES, ARCHIVE)) if isinstance(tokens, Path) else {
                stream: path for stream, folder in tokens.items() if (path := find_file(folder, name, SUFFIXES))}
            if text_file is None or not files:
                missing = "no texts file" if text_file is None else "no tokens file"
                imported.skipped[missing].append(f"{name} ({split})" if split else name)
            else:
                clips.append(_Clip(name, split, text_file, files))
    return clips


def _read_clips(imported: Imported, clips: Sequence[_Clip], names: tuple[str, ...], edits: Edits,
                ) -> tuple[dict[str, list], tuple[str, ...] | None]:
    """id -> the motions of the clip, without those that are skipped; and the streams' names, None where they have none.
    names: those that are asked for. Raises LayoutError."""
    one_a_suffix = {} if names else {clip.tokens.suffix == ARCHIVE: clip.tokens for clip in clips}
    if len(one_a_suffix) > 1:
        raise LayoutError(f"{one_a_suffix[True]} has named streams, {one_a_suffix[False]} has none, expected the same "
                          "in every file")
    if names or True in one_a_suffix:
        parts = read_parts({clip.name: clip.tokens for clip in clips}, names, edits)
        motions, names, facts = parts.motions, parts.names, parts.facts
        facts += [f"{stream} is null where it has no tokens: {_counted(ids)}"
                  for stream, ids in parts.missing.items() if ids]
        if parts.unequal:
            imported.skipped["streams of different lengths"] += parts.unequal
    else:
        of_files, facts = read_motions([clip.tokens for clip in clips], edits)
        motions = {clip.name: of_file for clip, of_file in zip(clips, of_files, strict=True)}
    imported.facts += facts
    nothing = [clip for clip in clips if motions.get(clip.name) == []]
    if nothing:
        imported.skipped[NOTHING_LEFT] += [clip.tokens.name if isinstance(clip.tokens, Path) else clip.name
                                           for clip in nothing]
    return motions, names or None


def _split_files(root: Path, imported: Imported) -> dict[str, list[str]]:
    """split -> its ids, one a line, in NFC; without train.txt, val.txt and test.txt, those of all.txt as the split "".
    Raises LayoutError where there is no such file, and for ids in two splits."""
    names = [name for name in SPLITS if (root / f"{name}.txt").is_file()]
    if not names and not (root / "all.txt").is_file():
        raise LayoutError(f"{root} has none of train.txt, val.txt, test.txt and all.txt, expected an id a line")
    splits = {}
    for split, path in ({name: root / f"{name}.txt" for name in names} or {"": root / "all.txt"}).items():
        lines = unicodedata.normalize("NFC", read_text(path, LayoutError)).split("\n")
        for number, line in enumerate(lines, 1):
            if not is_below(line.strip()):
                raise LayoutError(f"{path}: line {number} is {line.strip()[:60]!r}, expected the name of a clip below "
                                  f"{root}")
        counts = Counter(line.strip() for line in lines if line.strip())
        splits[split] = [name for name in counts if not _is_macos(name)]
        for reason, ids in ((f"files of macOS, {MACOS}...", filter(_is_macos, counts)),
                            ("ids given again in the same file", (name for name in counts if counts[name] > 1))):
            listed = [f"{name} ({path.name})" for name in ids]
            if listed:
                imported.skipped[reason] += listed
    shared = {(first, second): [name for name in splits[first] if name in others]
              for first, second in combinations(splits, 2) for others in [set(splits[second])]}
    shared = {pair: ids for pair, ids in shared.items() if ids}
    if shared:
        (first, second), ids = next(iter(shared.items()))
        counts = ", ".join(f"{count_of(len(ids), 'id')} in {a}.txt and {b}.txt" for (a, b), ids in shared.items())
        raise LayoutError(f"{root}: {ids[0]} is in {first}.txt and in {second}.txt, expected one of them; in all "
                          f"{counts}. Take each out of one file")
    return splits


def _is_macos(name: str) -> bool:
    return name.rpartition("/")[2].startswith(MACOS)


def _add_left_over(imported: Imported, texts: Path, folders: Iterable[Path], splits: dict[str, list[str]]) -> None:
    """Add the texts that no split names, and the files of macOS."""
    named = set(chain.from_iterable(splits.values()))
    ids = (path.relative_to(texts).as_posix().removesuffix(".txt") for path in texts.rglob("*.txt"))
    unnamed = sorted(name for name in ids if not _is_macos(name) and unicodedata.normalize("NFC", name) not in named)
    for reason, names in (("texts that no split file names", unnamed),
                          (f"files of macOS, {MACOS}...", macos_files(texts, *folders))):
        if names:
            imported.skipped[reason] += names


def _add_captions(imported: Imported, clip: _Clip, motions: Sequence, names: tuple[str, ...] | None, fps: float,
                  unit: int) -> None:
    """A row for each caption of a clip and each of its motions. names: of the streams, None where they have none."""
    for number, line in enumerate(read_text(clip.texts, LayoutError).split("\n"), 1):
        if not line.strip():
            continue
        location = f"{clip.texts.name} line {number}"
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
            if not len(tokens):
                imported.skipped["times that leave no tokens"].append(f"{location}: {start:g} to {end:g} s")
                continue
            row = {"text_query": parts[0].strip(), "motion_tokens": written(tokens, names), "clip_id": clip.name}
            imported.rows.append(row | ({"split": clip.split} if clip.split else {}))


def _seconds(text: str) -> float | None:
    """A time, 0 or more; nan, which stands for the whole clip, gives 0. None for anything else."""
    try:
        value = float(text)
    except ValueError:
        return None
    if math.isnan(value):
        return 0.0
    return value if 0 <= value < MOST_SECONDS else None


# ---------------------------------------------------------------- qiqiApink's MotionGPT


def import_qiqi(root: str | Path, edits: Edits | None = None) -> Imported:
    """Every object of train.json, val.json and test.json that asks for the motion of a caption becomes a row.

    {instruction, input: the caption, output: "81,81,207", motion: the clip's id, length: frames}. Objects whose input
    has tokens are of another task and skipped. A row whose motion is missing, null or blank gets no clip_id. edits: to
    the codes. Raises LayoutError.
    """
    root, imported, edits = Path(root), Imported(), edits or Edits()
    files = {split: root / f"{split}.json" for split in SPLITS if (root / f"{split}.json").is_file()}
    if not files:
        raise LayoutError(f"{root} has none of train.json, val.json and test.json")
    for split, path in files.items():
        content = parse_json(read_text(path, LayoutError), str(path), LayoutError)
        if not isinstance(content, list):
            raise LayoutError(f"{path} holds a {type(content).__name__}, expected a list of objects")
        for number, entry in enumerate(content):
            if not isinstance(entry, dict) or not all(isinstance(entry.get(k), str) for k in ("input", "output")):
                raise LayoutError(f"{path}: row {number} is {str(entry)[:80]!r}, expected an object with input, output "
                                  "and motion")
            _add_entry(imported, entry, f"{path.name} row {number}", split, edits)
    imported.facts += edits.facts()
    return imported


def _add_entry(imported: Imported, entry: dict, location: str, split: str, edits: Edits) -> None:
    if re.search(r"</?\s*motion", entry["input"], re.IGNORECASE):
        imported.skipped["objects that give tokens beside the caption, or ask for a caption"].append(location)
    elif not entry["input"].strip():
        imported.skipped["captions without text"].append(location)
    elif not re.fullmatch(r"\s*\d{1,9}(\s*,\s*\d{1,9})*(\s*,)?\s*", entry["output"], re.ASCII):
        imported.skipped['outputs that are not "81,81,207"'].append(location)
    else:
        codes = edits.apply([int(code) for code in re.findall(r"\d+", entry["output"])], lambda: location)
        if not codes:
            imported.skipped[NOTHING_LEFT].append(location)
            return
        row = {"text_query": entry["input"].strip(), "motion_tokens": written(codes)}
        clip_id = entry.get("motion")
        if isinstance(clip_id, str | int) and str(clip_id).strip():
            row["clip_id"] = str(clip_id)
        imported.rows.append(row | {"split": split})
