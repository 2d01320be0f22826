"""Which rows are held out from training, and the rows with their part kept as a table on disk."""

import hashlib
import itertools
import json
import logging
import os
import shutil
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data import Report, Row, canonical, caption_key, raise_on_errors

if TYPE_CHECKING:
    from datasets import Dataset

log = logging.getLogger(__name__)

PARTS = ("train", "seen", "unseen", "test")
_TABLE_VERSION = 1  # raise it when the table or the split changes, so that older prepared data is replaced


@dataclass(frozen=True)
class Split:
    """Positions in the list of rows, ascending; together the four parts hold every row once.

    seen: other clips of captions that are trained; unseen: captions that are never trained; test: both.
    kinds: "seen" or "unseen" for each held-out row. notes: what could not be had, and why.
    """

    train: list[int]
    seen: list[int]
    unseen: list[int]
    test: list[int]
    kinds: dict[int, str]
    notes: list[str]
    seed: int
    share: float
    cap: int

    def sizes(self) -> dict[str, int]:
        """Rows in each part, the test part also by kind."""
        of_kind = Counter(self.kinds[place] for place in self.test)
        return {"train": len(self.train), "seen": len(self.seen), "unseen": len(self.unseen),
                "test": len(self.test), "test seen": of_kind["seen"], "test unseen": of_kind["unseen"]}


def _components(keys: Sequence[Iterable[Hashable]]) -> list[list[int]]:
    """Groups of items that share a key, directly or through others (union-find); item i has keys[i]."""
    parent = list(range(len(keys)))

    def root(item: int) -> int:
        while parent[item] != item:
            parent[item] = item = parent[parent[item]]
        return item

    owner: dict[Hashable, int] = {}
    for item, its_keys in enumerate(keys):
        for key in its_keys:
            parent[root(item)] = root(owner.setdefault(key, item))
    groups: dict[int, list[int]] = defaultdict(list)
    for item in range(len(keys)):
        groups[root(item)].append(item)
    return list(groups.values())


class _Splitter:
    """Moves whole clips out of training. A clip here is all rows with the same tokens or the same clip_id.

    Choices go by hashes of seed and content, so that neither the order of the file nor other rows matter.
    """

    def __init__(self, rows: Sequence[Row], seed: int, share: float, cap: int) -> None:
        self.count, self.cap, self.target = len(rows), cap, min(cap, int(share * len(rows) + 0.5))
        self.salt = f"{seed} ".encode()
        keys = {text: caption_key(text) for text in {row.text_query for row in rows}}
        self.keys = [keys[row.text_query] for row in rows]
        links = [[row.codes.tobytes()] + [row.clip_id] * (row.clip_id is not None) for row in rows]
        digests = list(map(canonical, rows))
        clips = {self.hash(*sorted(digests[place] for place in clip)): clip for clip in _components(links)}
        self.order = sorted(clips)  # (clips,) hashes; a clip is its position here
        self.clips = [clips[name] for name in self.order]
        self.captions = [{self.keys[place] for place in clip} for clip in self.clips]
        self.clips_of: dict[str, list[int]] = defaultdict(list)
        for clip, captions in enumerate(self.captions):
            for key in captions:
                self.clips_of[key].append(clip)
        self.trained = {key: len(clips) for key, clips in self.clips_of.items()}  # clips left in training
        self.sizes = list(map(len, self.clips))  # rows
        self.part = ["train"] * len(self.clips)
        self.held = 0  # rows

    def hash(self, *content: bytes) -> bytes:
        return hashlib.sha256(self.salt + b"".join(content)).digest()

    def size(self, group: list[int]) -> int:
        return sum(self.sizes[clip] for clip in group)

    def rows_in(self, part: str) -> list[int]:
        clips = (clip for clip, name in enumerate(self.part) if name == part)
        return sorted(place for clip in clips for place in self.clips[clip])

    def kind(self, place: int) -> str:
        return "seen" if self.trained[self.keys[place]] else "unseen"

    def hold(self, group: list[int], part: str) -> None:
        for clip in group:
            self.part[clip] = part
            self.held += self.sizes[clip]
            for key in self.captions[clip]:
                self.trained[key] -= 1

    def take(self, groups: list[list[int]], part: str, target: int, leaves: tuple[int, ...] = (0,)) -> int:
        """Hold out groups of clips, in their order, up to target rows; gives the number of rows.

        leaves: clips that stay in training for each caption of a single clip (0: whole captions go), tried in
        turn. If the part stays empty, as one caption of few can be large, the smallest group goes, where it
        fits the cap and at most a third of all rows is then held out. Training always keeps half.
        """
        def fits(group: list[int], limit: int, most_held: float, leave: int) -> bool:
            size = self.size(group)
            return (self.part[group[0]] == "train" and size <= limit and self.held + size <= most_held
                    and not (leave and any(self.trained[key] <= leave for key in self.captions[group[0]])))

        before = self.held
        for leave in leaves:
            for group in groups:
                if fits(group, target - (self.held - before), self.count // 2, leave):
                    self.hold(group, part)
        for leave in leaves:
            if self.held == before and target == self.target:
                large = [group for group in groups if fits(group, self.cap, self.count / 3, leave)]
                self.hold(min(large, key=self.size, default=[]), part)
        return self.held - before

    def take_mixed(self) -> None:
        """Fill the test part with captions whose clips also have captions that stay in training.

        All clips of such a caption go, with all their rows; the rows of each kind stay within target.
        """
        rows = self.rows_in("test")
        for key in sorted(self.clips_of, key=lambda key: self.hash(key.encode())):
            group = self.clips_of[key]
            if any(self.part[clip] != "train" for clip in group):
                continue
            going = Counter(itertools.chain.from_iterable(self.captions[clip] for clip in group))
            tried = rows + [place for clip in group for place in self.clips[clip]]
            unseen = sum(self.trained[self.keys[place]] == going[self.keys[place]] for place in tried)
            most_held = self.held + len(tried) - len(rows)
            if max(unseen, len(tried) - unseen) <= self.target and most_held <= self.count // 2:
                self.hold(group, "test")
                rows = tried
            if len(rows) == 2 * self.target:
                return

    def run(self) -> list[str]:
        """Fill the parts, the unseen ones first, as they need whole captions. Gives the notes."""
        if not self.target:
            return [f"nothing is held out: HELDOUT_SHARE of {self.count:,} rows is less than half a row, "
                    "or HELDOUT_MAX is 0"]
        closed = _components(self.captions)  # clips none of whose captions has a clip in another group
        closed.sort(key=lambda group: self.hash(*(self.order[clip] for clip in group)))
        got = {"unseen": self.take(closed, "unseen", self.target)}
        if 2 * self.take(closed, "test", self.target) < self.target:
            self.take_mixed()
        singles = [[clip] for clip in range(len(self.clips))]
        for part in ("seen", "test"):
            there = Counter(map(self.kind, self.rows_in(part)))
            # 1 left only where the captions with more clips do not give enough
            there["seen"] += self.take(singles, part, self.target - there["seen"], leaves=(2, 1))
            got |= {"seen": there["seen"]} if part == "seen" else {
                "test seen": there["seen"], "test unseen": there["unseen"]}
        return [f"{name}: {count} rows of {self.target} aimed at: {self.reason(name, closed)}"
                for name, count in sorted(got.items()) if 2 * count < self.target]

    def reason(self, name: str, closed: list[list[int]]) -> str:
        """Why a part has few rows."""
        if name.endswith("unseen"):
            least = min(self.size(group) for group in closed)
            return ("a caption can only be held out with all its clips and their captions; that is "
                    f"{least:,} rows or more, " + (f"and HELDOUT_MAX is {self.cap:,}" if least > self.cap else
                                                   f"too much of {self.count:,}"))
        if max(map(len, self.clips_of.values())) == 1:
            return "no caption has two clips"
        return "few clips have only captions that other clips keep in training"


def split_rows(rows: Sequence[Row], seed: int, share: float, cap: int) -> Split:
    """Hold rows out: share * len(rows), at most cap, of each of seen, unseen, test seen and test unseen.

    Training and the three held-out parts have no motion in common (same tokens or same clip_id). seen holds
    only rows of kind seen and unseen only of kind unseen; a clip with captions of both kinds can only go to
    test. The choice follows from seed and content, whatever the order of the rows.
    """
    splitter = _Splitter(rows, seed, share, cap)
    notes = splitter.run()
    places = {part: splitter.rows_in(part) for part in PARTS}
    kinds = {place: splitter.kind(place) for part in PARTS[1:] for place in places[part]}
    return Split(**places, kinds=kinds, notes=notes, seed=seed, share=share, cap=cap)


def prepare(report: Report, split: Split, folder: str | Path) -> None:
    """Write rows and split as a `datasets` table, with fingerprint.json in the same folder.

    Columns: index, text_query, codes (list of int32), participant_id, clip_id, split (train, seen, unseen,
    test) and kind (seen, unseen; null in training); a record for each row, in file order. The folder appears
    whole or not at all; an earlier one is replaced. Raises DataError if the report has errors.
    """
    from datasets import Dataset, Features, List, Value, disable_progress_bars  # slow to import

    raise_on_errors(report)
    disable_progress_bars()
    parts = {place: part for part in PARTS for place in getattr(split, part)}
    rows = report.rows
    table = Dataset.from_dict({
        "index": [row.index for row in rows], "text_query": [row.text_query for row in rows],
        "codes": [row.codes for row in rows], "participant_id": [row.participant_id for row in rows],
        "clip_id": [row.clip_id for row in rows], "split": [parts[place] for place in range(len(rows))],
        "kind": [split.kinds.get(place) for place in range(len(rows))],
    }, features=Features({"index": Value("int64"), "codes": List(Value("int32"))} | {
        name: Value("string") for name in ("text_query", "participant_id", "clip_id", "split", "kind")}))
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial_folder, old_folder = (folder.with_name(folder.name + end) for end in (".partial", ".old"))
    for leftover in (partial_folder, old_folder):  # of a run that was killed
        if leftover.exists():
            shutil.rmtree(leftover)
    table.save_to_disk(partial_folder)
    info = _settings(report.fingerprint, split.seed, split.share, split.cap, report.codebook_size)
    info["sizes"] = split.sizes()
    (partial_folder / "fingerprint.json").write_text(json.dumps(info, indent=1), encoding="utf-8")
    if folder.exists():
        os.replace(folder, old_folder)  # a folder that is not empty cannot be replaced in one step
    os.replace(partial_folder, folder)
    if old_folder.exists():
        shutil.rmtree(old_folder)
    log.info("prepared %d rows in %s", len(rows), folder)


def _settings(fingerprint: str, seed: int, share: float, cap: int, codebook_size: int) -> dict[str, Any]:
    return {"version": _TABLE_VERSION, "fingerprint": fingerprint, "seed": seed, "share": share, "cap": cap,
            "codebook_size": codebook_size}


def prepared_info(folder: str | Path) -> dict[str, Any]:
    """fingerprint.json: version, fingerprint, seed, share, cap, codebook_size, sizes (as Split.sizes() gives
    them). Raises FileNotFoundError if the folder is not prepared."""
    return json.loads((Path(folder) / "fingerprint.json").read_text("utf-8"))


def prepared_matches(folder: str | Path, fingerprint: str, seed: int, share: float, cap: int,
                     codebook_size: int) -> bool:
    """Whether the folder holds a table of just this content, split in just this way."""
    try:
        info = prepared_info(folder)
    except (FileNotFoundError, json.JSONDecodeError):  # none, or damaged: it can be prepared again
        return False
    return isinstance(info, dict) and info.items() >= _settings(fingerprint, seed, share, cap, codebook_size).items()


def load_prepared(folder: str | Path, part: str | None = None, kind: str | None = None) -> "Dataset":
    """The table that prepare() wrote, memory-mapped; only one part ("train", ...) or kind if given.

    Raises FileNotFoundError if the folder is not prepared, ValueError for an unknown part or kind.
    """
    from datasets import disable_progress_bars, load_from_disk

    if part not in (None, *PARTS) or kind not in (None, "seen", "unseen"):
        raise ValueError(f"part {part!r}, kind {kind!r}: expected one of {PARTS} and seen or unseen, or None")
    prepared_info(folder)
    disable_progress_bars()
    table = load_from_disk(str(folder))
    if part is None and kind is None:
        return table
    of = zip(*(table.data.column(name).to_pylist() for name in ("split", "kind")), strict=True)
    return table.select([place for place, found in enumerate(of) if part in (None, found[0])
                         and kind in (None, found[1])])
