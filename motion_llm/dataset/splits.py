"""The split: the held-out rows that the file names; for a split that it does not name, rows chosen here."""

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from motion_llm.dataset.rows import SPLITS, Rows, caption_key, distinct, offsets

PARTS = ("train", "seen", "unseen", "test", "unused")
KINDS = ("seen", "unseen")


@dataclass(frozen=True, eq=False)
class Split:
    """part: int8, (N,), the place in PARTS of each row's part. kind: int8, (N,), its place in KINDS, -1 for training
    and unused rows.

    seen: other clips of captions that are trained; unseen: captions that are never trained; test: both; unused: rows
    whose clip is in a later split of the file. notes: the parts that are smaller than their target, and why. named: the
    number of rows of each split as the file names them, None where it names none.
    """

    part: np.ndarray
    kind: np.ndarray
    notes: list[str]
    seed: int
    share: float
    cap: int
    named: dict[str, int] | None = None

    def places(self, part: str) -> list[int]:
        """Those of a part's rows, ascending; "test seen" and "test unseen" are parts of the test part."""
        name, _, kind = part.partition(" ")
        inside = self.part == PARTS.index(name)
        return np.flatnonzero(inside & (self.kind == KINDS.index(kind)) if kind else inside).tolist()

    # Places in the list of rows, ascending; together the parts hold every row once.
    train, seen, unseen, test, unused = (property(lambda self, part=part: self.places(part)) for part in PARTS)

    @property
    def kinds(self) -> dict[int, str]:
        """"seen" or "unseen" for the place of each held-out row."""
        return {int(place): KINDS[self.kind[place]] for place in np.flatnonzero(self.kind >= 0)}

    def sizes(self) -> dict[str, int]:
        """Rows in each part, the test part also by kind."""
        return {part: len(self.places(part)) for part in (*PARTS, *(f"test {kind}" for kind in KINDS))}


@dataclass(frozen=True)
class Lists:
    """Lists of integers of different lengths: list i is items[ends[i]:ends[i + 1]]."""

    items: np.ndarray
    ends: np.ndarray

    @classmethod
    def by(cls, owners: np.ndarray, items: np.ndarray, count: int) -> "Lists":
        """One list of items for each owner, 0 to count - 1; the items of an owner keep their order."""
        order = np.argsort(owners, kind="stable")
        return cls(items[order], offsets(np.bincount(owners, minlength=count)))

    def __len__(self) -> int:
        return len(self.ends) - 1

    def __getitem__(self, place: int) -> list[int]:
        return self.items[self.ends[place]:self.ends[place + 1]].tolist()

    def __iter__(self) -> Iterator[list[int]]:
        return (self[place] for place in range(len(self)))

    def reorder(self, order: np.ndarray) -> "Lists":
        sizes = np.diff(self.ends)[order]
        ends = offsets(sizes)
        within = np.arange(ends[-1]) - np.repeat(ends[:-1], sizes)
        return Lists(self.items[np.repeat(self.ends[:-1][order], sizes) + within], ends)

    def reduce(self, ufunc: np.ufunc, values: np.ndarray) -> np.ndarray:
        """For each list, the sum (np.add) or the minimum (np.minimum) of the values of its items; no list is empty."""
        return ufunc.reduceat(values[self.items], self.ends[:-1])


def components(count: int, nodes: np.ndarray, links: np.ndarray) -> np.ndarray:
    """Connected components of `count` nodes that share links: (count,), the component of each node, from 0.

    nodes, links: (M,) each; node nodes[i] has the link links[i]. Every node has a parent in its component, itself or a
    lower one. Each round lowers the parents of a node and of its parent to the minimum over all nodes with the same
    link, then replaces each parent by its own parent, until nothing changes (FastSV: Zhang et al. 2020).
    """
    parent = np.arange(count)
    while True:
        before = parent
        of_link = np.full(links.max(initial=-1) + 1, count)
        np.minimum.at(of_link, links, parent[nodes])
        parent = parent.copy()
        np.minimum.at(parent, before[nodes], of_link[links])
        np.minimum.at(parent, nodes, of_link[links])
        parent = parent[parent]
        if (parent == before).all():
            return np.unique(parent, return_inverse=True)[1]


def _byte_order(hashes: np.ndarray, *keys: np.ndarray) -> np.ndarray:
    """The indices that sort (N, 32) uint8 by `keys`, each (N,), the first of which counts most, then by the bytes."""
    words = hashes.reshape(-1, 4, 8).view(">u8")[..., 0].astype(np.uint64)  # (N, 4)
    return np.lexsort((*words.T[::-1], *keys[::-1]))


def _renumbered(ids: np.ndarray) -> np.ndarray:
    """The ids renumbered from 0 without gaps, in the same order."""
    return (np.cumsum(np.bincount(ids) > 0) - 1)[ids]


def _clips(rows: Rows, places: np.ndarray) -> np.ndarray:
    """(n,): the clip of each row in places, from 0; rows with the same tokens or the same clip_id are one clip."""
    motions, clip_ids = _renumbered(rows.motions.ids[places]), rows.clips.ids[places]
    with_id = np.flatnonzero(clip_ids >= 0)
    if not len(with_id):
        return motions
    return components(len(places), np.concatenate([np.arange(len(places)), with_id]),
                      np.concatenate([motions, motions.max() + 1 + clip_ids[with_id]]))


def _hashes(salt: bytes, digests: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """A hash, (lists, 32), of each list of digests, (M, 32), between two consecutive ends, (lists + 1,)."""
    content, ends = digests.tobytes(), (32 * ends).tolist()
    hashes = (hashlib.sha256(salt + content[start:end]).digest()
              for start, end in zip(ends[:-1], ends[1:], strict=True))
    return np.frombuffer(b"".join(hashes), np.uint8).reshape(-1, 32)


def sample(digests: np.ndarray, count: int, seed: int, motions: np.ndarray) -> np.ndarray:
    """A sample of at most `count` of N rows, from their digests, (N, 32): places, ascending; of the rows of a motion,
    motions (N,), only one. Which of two rows is sampled first depends on their content alone, not on the order or on
    other rows."""
    order = _byte_order(_hashes(f"drawn {seed} ".encode(), digests, np.arange(len(digests) + 1)))
    first = np.sort(np.unique(motions[order], return_index=True)[1])  # of each motion, in that order
    return np.sort(order[first][:count])


class _Splitter:
    """Moves whole clips out of training. A clip here is all rows with the same tokens or the same clip_id.

    Choices go by hashes of seed and content, so that neither the order of the file nor other rows matter. Only the rows
    at places, (n,), are split; a row is its index in places. keys: (n,), the caption of each, from 0; example: the
    place of a row of each caption. members: the rows of each clip; captions: its captions; clips_of: the clips of each
    caption. part: the place in PARTS of each clip's part.
    """

    def __init__(self, rows: Rows, places: np.ndarray, seed: int, share: float, cap: int) -> None:
        self.count, self.share, self.cap = len(places), share, cap
        self.target = min(cap, int(share * len(places) + 0.5))
        self.salt = f"{seed} ".encode()
        self.rows, self.keys = rows, _renumbered(rows.keys.ids[places])
        clip = _clips(rows, places)
        count, keys = int(clip.max()) + 1, int(self.keys.max()) + 1
        self.example = np.empty(keys, np.int64)
        self.example[self.keys] = places
        digests = rows.digests[places]
        order = _byte_order(digests, clip)
        ends = offsets(np.bincount(clip))
        hashes = _hashes(self.salt, digests[order], ends)
        by_hash = _byte_order(hashes)
        self.clip_hashes = hashes[by_hash]  # (clips, 32), ascending; a clip is its index here
        self.clip = np.argsort(by_hash)[clip]  # (n,), the clip of each row
        self.members = Lists.by(self.clip, np.arange(self.count), count)
        pairs = distinct(self.clip * keys + self.keys)
        self.captions = Lists.by(pairs // keys, pairs % keys, count)
        self.clips_of = Lists.by(pairs % keys, pairs // keys, keys)
        self.trained = np.bincount(pairs % keys)  # clips of each caption that are still in training
        self.sizes = np.diff(self.members.ends)  # rows of each clip
        self.part = np.zeros(count, np.int8)
        self.held = 0  # rows held out so far

    def rows_in(self, part: str) -> list[int]:
        clips = np.flatnonzero(self.part == PARTS.index(part)).tolist()
        return sorted(place for clip in clips for place in self.members[clip])

    def kind(self, place: int) -> str:
        return "seen" if self.trained[self.keys[place]] else "unseen"

    def hold(self, group: Sequence[int], part: str) -> None:
        for clip in group:
            self.part[clip] = PARTS.index(part)
            self.held += int(self.sizes[clip])
            self.trained[self.captions[clip]] -= 1

    def take(self, groups: Lists, part: str, target: int, leaves: tuple[int, ...] = (0,)) -> int:
        """Hold out groups of clips, in their order, up to target rows; returns the number of rows held out.

        leaves: tried in turn; more than this number of clips of each caption must be in training for one of them to
        be held out (0: whole captions may be held out). Where the part stays empty, because every group exceeds the
        target, the smallest group is held out if it fits the cap and at most a third of all rows is then held out. At
        least half of the rows always stays in training.
        """
        sizes = groups.reduce(np.add, self.sizes)

        def fitting(limit: int, most_held: float, leave: int) -> np.ndarray:
            """Places of the groups that fit now; the others never will, as the limits only shrink."""
            fits = (self.part[groups.items[groups.ends[:-1]]] == 0) & (sizes <= min(limit, most_held - self.held))
            if leave:
                fits &= self.captions.reduce(np.minimum, self.trained)[groups.items] > leave
            return np.flatnonzero(fits)

        before = self.held
        for leave in leaves:
            for place in fitting(target - (self.held - before), self.count // 2, leave).tolist():
                size, group = sizes[place], groups[place]
                if self.held - before >= target:
                    break
                if (size <= target - (self.held - before) and self.held + size <= self.count // 2
                        and not (leave and (self.trained[self.captions[group[0]]] <= leave).any())):
                    self.hold(group, part)
        for leave in leaves:
            if self.held == before and target == self.target:
                large = fitting(self.cap, self.count / 3, leave)
                if len(large):
                    self.hold(groups[large[np.argmin(sizes[large])]], part)
        return self.held - before

    def take_mixed(self) -> None:
        """Fill the test part with captions whose clips also have captions that stay in training.

        All clips of such a caption are held out, with all their rows; the rows of each kind stay within target.
        """
        test = Counter(self.keys[place] for place in self.rows_in("test"))
        row_count = sum(test.values())
        unseen = sum(count for key, count in test.items() if not self.trained[key])
        caption_rows = self.clips_of.reduce(np.add, self.sizes)
        for key in sorted(np.flatnonzero(caption_rows <= 2 * self.target).tolist(), key=self._caption_hash):
            group = self.clips_of[key]
            if self.part[group].any():
                continue
            clip_counts = Counter(key for clip in group for key in self.captions[clip])
            untrained = {key for key, clips in clip_counts.items() if self.trained[key] == clips}
            new = Counter(self.keys[place] for clip in group for place in self.members[clip])
            new_unseen = unseen + sum(test[key] + new[key] for key in untrained)
            new_count = row_count + sum(new.values())
            if (max(new_unseen, new_count - new_unseen) <= self.target
                    and self.held + new_count - row_count <= self.count // 2):
                self.hold(group, "test")
                test, row_count, unseen = test + new, new_count, new_unseen
            if row_count == 2 * self.target:
                return

    def _caption_hash(self, key: int) -> bytes:
        text = caption_key(self.rows[int(self.example[key])].text_query)
        return hashlib.sha256(self.salt + text.encode()).digest()

    def run(self, splits: Sequence[str]) -> list[str]:
        """Fill the parts of these splits (val, test), the unseen ones first, as they need whole captions. Returns the
        notes."""
        if not self.target:
            subject = "nothing" if len(splits) > 1 else f"no {splits[0]} row"
            few = f"{self.share:g} (HELDOUT_SHARE) of {self.count:,} rows is less than half a row"
            why = "HELDOUT_SHARE is 0" if not self.share else "HELDOUT_MAX is 0" if not self.cap else few
            return [f"{subject} is held out: {why}"]
        closed, counts = self._closed_groups(), {}
        if "val" in splits:
            counts["unseen"] = self.take(closed, "unseen", self.target)
        if "test" in splits and 2 * self.take(closed, "test", self.target) < self.target:
            self.take_mixed()
        clips = np.arange(len(self.members))
        singles = Lists(clips, np.append(clips, len(clips)))
        for part in ["seen"] * ("val" in splits) + ["test"] * ("test" in splits):
            kinds = Counter(map(self.kind, self.rows_in(part)))
            # Leave one clip in training only where the captions with more clips do not give enough rows.
            kinds["seen"] += self.take(singles, part, self.target - kinds["seen"], leaves=(2, 1))
            counts |= {"seen": kinds["seen"]} if part == "seen" else {
                "test seen": kinds["seen"], "test unseen": kinds["unseen"]}
        notes = self.take_tied(splits, singles, counts)
        return notes + [f"{name}: {count} rows of {self.target} aimed at: {self.reason(name, closed)}"
                        for name, count in sorted(counts.items()) if 2 * count < self.target]

    def take_tied(self, splits: Sequence[str], singles: Lists, counts: dict[str, int]) -> list[str]:
        """Where captions tie the clips together, so that validation or test has few rows of either kind: hold out clips
        with all their captions, whichever of these are trained with other clips. Counts are brought up to date; returns
        a note for each split that this was done for."""
        notes = []
        for split, parts, names in (("val", ("seen", "unseen"), ("seen", "unseen")),
                                    ("test", ("test",), ("test seen", "test unseen"))):
            have = sum(len(self.rows_in(part)) for part in parts)
            if split not in splits or 2 * have >= self.target or not self.take(singles, parts[0], self.target - have):
                continue
            places = sorted(place for part in parts for place in self.rows_in(part))
            kinds = Counter(map(self.kind, places))
            counts |= dict(zip(names, (kinds["seen"], kinds["unseen"]), strict=True))
            clips = len(set(self.clip[places].tolist()))
            notes.append(f"{split}: captions tie the clips together, so {clips:,} clips are held out with all their "
                         f"captions: {kinds['seen']:,} that are trained with other clips too, {kinds['unseen']:,} that "
                         "are not")
        return notes

    def _closed_groups(self) -> Lists:
        """Groups of clips none of whose captions has a clip in another group, ordered by hash."""
        clips = np.arange(len(self.captions))
        group = components(len(clips), np.repeat(clips, np.diff(self.captions.ends)), self.captions.items)
        groups = Lists.by(group, clips, int(group.max()) + 1)
        return groups.reorder(_byte_order(_hashes(self.salt, self.clip_hashes[groups.items], groups.ends)))

    def reason(self, name: str, closed: Lists) -> str:
        """Why a part has few rows."""
        if name.endswith("unseen"):
            smallest = int(closed.reduce(np.add, self.sizes).min())
            return ("a caption can only be held out with all its clips and their captions; that is "
                    f"{smallest:,} rows or more, " + (f"and HELDOUT_MAX is {self.cap:,}" if smallest > self.cap else
                                                      f"too much of {self.count:,}"))
        if np.diff(self.clips_of.ends).max() == 1:
            return "no caption has two clips"
        return "few clips have only captions that other clips keep in training"


def split_rows(rows: Rows, seed: int, share: float, cap: int) -> Split:
    """The split that the file names; val or test, where it names none, is held out from its training rows.

    The target is share * training rows, at most cap, for each of seen and unseen (val), test seen and test unseen
    (test). The choice depends on seed and content only, not on the order of the rows. Training, validation and test
    have no clip in common (same tokens or same clip_id): where the file names a clip in two of them, the rows of the
    later one count and the others are unused. seen holds only rows of kind seen, and unseen only of kind unseen. A clip
    with captions of both kinds is chosen for test, and for validation where there are too few others or where the file
    names it val; its rows are then in both.
    """
    part, named = _named(rows)
    missing = [split for split in SPLITS[1:] if not (named or {}).get(split)]
    places, notes = np.flatnonzero(part == 0), []
    if missing and len(places):
        splitter = _Splitter(rows, places, seed, share, cap)
        notes = splitter.run(missing)
        part[places] = splitter.part[splitter.clip]
        if named and splitter.held:
            notes.insert(0, f"the file names no {' and no '.join(missing)} rows, so some of train are held out")
    trained = np.zeros(rows.keys.count, bool)
    trained[rows.keys.ids[part == 0]] = True
    kind = np.where(trained[rows.keys.ids], KINDS.index("seen"), KINDS.index("unseen"))
    seen, unseen = PARTS.index("seen"), PARTS.index("unseen")
    validation = np.flatnonzero((part == seen) | (part == unseen))
    part[validation] = np.array([seen, unseen], np.int8)[kind[validation]]
    kind[(part == 0) | (part == PARTS.index("unused"))] = -1
    split = Split(part, kind.astype(np.int8), notes, seed, share, cap, named)
    above_cap = [f"{name} ({size:,})" for name, size in split.sizes().items()
                 if name in ("seen", "unseen", "test seen", "test unseen") and size > cap]
    if above_cap:
        notes.append(f"a run measures on {cap:,} rows (HELDOUT_MAX) of {', '.join(above_cap)}; evaluate.py scores all "
                     "test rows")
    return split


def _named(rows: Rows) -> tuple[np.ndarray, dict[str, int] | None]:
    """part: int8, (N,), as the file names it, with all val rows in seen; named: see Split."""
    part = np.array([PARTS.index(name) for name in ("train", "seen", "test", "train")], np.int8)[rows.splits]
    counts = np.bincount(rows.splits + 1, minlength=len(SPLITS) + 1).tolist()
    if counts[0] == len(rows):
        return part, None
    part[rows.later_copy >= 0] = PARTS.index("unused")
    named = dict(zip(SPLITS, counts[1:], strict=True))
    return part, named | ({"none (train)": counts[0]} if counts[0] else {})
