"""Which rows are held out from training: those that the file names, and of what it names none, a choice of ours."""

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
    """part: int8, (N,), the place in PARTS of each row's part. kind: int8, (N,), its place in KINDS, -1 in training and
    of unused rows.

    seen: other clips of captions that are trained; unseen: captions that are never trained; test: both; unused: rows
    whose clip is in a later split of the file. notes: what could not be had, and why. named: the rows of each split as
    the file names them, None where it names none.
    """

    part: np.ndarray
    kind: np.ndarray
    notes: list[str]
    seed: int
    share: float
    cap: int
    named: dict[str, int] | None = None

    def _places(self, part: str) -> list[int]:
        return np.flatnonzero(self.part == PARTS.index(part)).tolist()

    # Positions in the list of rows, ascending; together the parts hold every row once.
    train, seen, unseen, test, unused = (property(lambda self, part=part: self._places(part)) for part in PARTS)

    @property
    def kinds(self) -> dict[int, str]:
        """"seen" or "unseen" for the position of each held-out row."""
        return {int(place): KINDS[self.kind[place]] for place in np.flatnonzero(self.kind >= 0)}

    def sizes(self) -> dict[str, int]:
        """Rows in each part, the test part also by kind."""
        sizes = dict(zip(PARTS, np.bincount(self.part, minlength=len(PARTS)).tolist(), strict=True))
        test = self.kind[self.part == PARTS.index("test")]
        return sizes | {f"test {kind}": int((test == place).sum()) for place, kind in enumerate(KINDS)}


@dataclass(frozen=True)
class Lists:
    """Lists of integers of different lengths: list i is items[ends[i]:ends[i + 1]]."""

    items: np.ndarray
    ends: np.ndarray

    @classmethod
    def by(cls, owners: np.ndarray, items: np.ndarray, count: int) -> "Lists":
        """Items by their owner, 0 to count - 1; those of an owner keep their order."""
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

    def reduce(self, how: np.ufunc, values: np.ndarray) -> np.ndarray:
        """For each list, the values of its items summed (np.add) or their least (np.minimum); no list is empty."""
        return how.reduceat(values[self.items], self.ends[:-1])


def components(count: int, things: np.ndarray, links: np.ndarray) -> np.ndarray:
    """Groups of `count` things that share a link, directly or through others: (count,), numbers from 0.

    things, links: (M,) each; thing things[i] has the link links[i]. Every thing points to a thing of its group that
    comes before it, or to itself. In turn, what a thing points to is made to point to the least that any thing with the
    same link points to, and every thing to what that points to, until nothing changes (FastSV: Zhang and others, 2020).
    """
    least = np.arange(count)
    while True:
        before = least
        of_link = np.full(links.max(initial=-1) + 1, count)
        np.minimum.at(of_link, links, least[things])
        least = least.copy()
        np.minimum.at(least, before[things], of_link[links])
        np.minimum.at(least, things, of_link[links])
        least = least[least]
        if (least == before).all():
            return np.unique(least, return_inverse=True)[1]


def _sorted_by_bytes(hashes: np.ndarray, *before: np.ndarray) -> np.ndarray:
    """The order of (N, 32) uint8 as bytes are compared, below the keys in `before`, the first of which counts most."""
    words = hashes.reshape(-1, 4, 8).view(">u8")[..., 0].astype(np.uint64)  # (N, 4)
    return np.lexsort((*words.T[::-1], *before[::-1]))


def _numbered(ids: np.ndarray) -> np.ndarray:
    """The ids with the numbers that do not occur left out, so that they go from 0 without gaps; the order is kept."""
    return (np.cumsum(np.bincount(ids) > 0) - 1)[ids]


def _clips(rows: Rows, places: np.ndarray) -> np.ndarray:
    """(n,): the clip of each row in places, from 0; rows with the same tokens or the same clip_id are one."""
    motions, clips = _numbered(rows.motions.ids[places]), rows.clips.ids[places]
    named = np.flatnonzero(clips >= 0)
    if not len(named):
        return motions
    return components(len(places), np.concatenate([np.arange(len(places)), named]),
                      np.concatenate([motions, motions.max() + 1 + clips[named]]))


def _hashes(salt: bytes, digests: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """digests: (M, 32); for each list of them between two ends, a hash: (lists, 32)."""
    content, ends = digests.tobytes(), (32 * ends).tolist()
    found = (hashlib.sha256(salt + content[start:end]).digest()
             for start, end in zip(ends[:-1], ends[1:], strict=True))
    return np.frombuffer(b"".join(found), np.uint8).reshape(-1, 32)


def drawn(digests: np.ndarray, most: int, seed: int) -> np.ndarray:
    """At most `most` of N rows by their digests, (N, 32): places, ascending. Neither their order nor other rows decide
    which of two is drawn before the other."""
    hashes = _hashes(f"drawn {seed} ".encode(), digests, np.arange(len(digests) + 1))
    return np.sort(_sorted_by_bytes(hashes)[:most])


class _Splitter:
    """Moves whole clips out of training. A clip here is all rows with the same tokens or the same clip_id.

    Choices go by hashes of seed and content, so that neither the order of the file nor other rows matter. Only the rows
    at places, (n,), are looked at, and known by their place in it. keys: (n,), the caption of each, from 0; example: a
    row of each caption. members: the rows of each clip; captions: its captions; clips_of: the clips of each caption.
    """

    def __init__(self, rows: Rows, places: np.ndarray, seed: int, share: float, cap: int) -> None:
        self.count, self.cap, self.target = len(places), cap, min(cap, int(share * len(places) + 0.5))
        self.salt = f"{seed} ".encode()
        self.rows, self.places, self.keys = rows, places, _numbered(rows.keys.ids[places])
        clip = _clips(rows, places)
        count, keys = int(clip.max()) + 1, int(self.keys.max()) + 1
        self.example = np.empty(keys, np.int64)
        self.example[self.keys] = places
        digests = rows.digests[places]
        order = _sorted_by_bytes(digests, clip)
        ends = offsets(np.bincount(clip))
        hashes = _hashes(self.salt, digests[order], ends)
        by_hash = _sorted_by_bytes(hashes)
        self.order = hashes[by_hash]  # (clips, 32); a clip is its position here
        self.clip = np.argsort(by_hash)[clip]  # (N,)
        self.members = Lists.by(self.clip, np.arange(self.count), count)
        pairs = distinct(self.clip * keys + self.keys)
        self.captions = Lists.by(pairs // keys, pairs % keys, count)
        self.clips_of = Lists.by(pairs % keys, pairs // keys, keys)
        self.trained = np.bincount(pairs % keys)  # clips left in training, of each caption
        self.sizes = np.diff(self.members.ends)  # rows of each clip
        self.part = np.zeros(count, np.int8)
        self.held = 0  # rows

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
        """Hold out groups of clips, in their order, up to target rows; gives the number of rows.

        leaves: clips that stay in training for each caption of a single clip (0: whole captions go), tried in
        turn. If the part stays empty, as one caption of few can be large, the smallest group goes, where it
        fits the cap and at most a third of all rows is then held out. Training always keeps half.
        """
        sizes = groups.reduce(np.add, self.sizes)

        def fitting(limit: int, most_held: float, leave: int) -> np.ndarray:
            """Places of the groups that fit now; what does not fit now never will, for the bounds only come nearer."""
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

        All clips of such a caption go, with all their rows; the rows of each kind stay within target.
        """
        test = Counter(self.keys[place] for place in self.rows_in("test"))
        row_count = sum(test.values())
        unseen = sum(count for key, count in test.items() if not self.trained[key])
        caption_rows = self.clips_of.reduce(np.add, self.sizes)
        for key in sorted(np.flatnonzero(caption_rows <= 2 * self.target).tolist(), key=self._caption_hash):
            group = self.clips_of[key]
            if self.part[group].any():
                continue
            going = Counter(key for clip in group for key in self.captions[clip])
            gone = {key for key, clips in going.items() if self.trained[key] == clips}
            new = Counter(self.keys[place] for clip in group for place in self.members[clip])
            new_unseen = unseen + sum(test[key] + new[key] for key in gone)
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
        """Fill the parts of these splits (val, test), the unseen ones first, as they need whole captions. Gives the
        notes."""
        if not self.target:
            what = "nothing" if len(splits) > 1 else f"no {splits[0]} row"
            return [f"{what} is held out: HELDOUT_SHARE of {self.count:,} rows is less than half a row, "
                    "or HELDOUT_MAX is 0"]
        closed, got = self._closed_groups(), {}
        if "val" in splits:
            got["unseen"] = self.take(closed, "unseen", self.target)
        if "test" in splits and 2 * self.take(closed, "test", self.target) < self.target:
            self.take_mixed()
        clips = np.arange(len(self.members))
        singles = Lists(clips, np.append(clips, len(clips)))
        for part in ["seen"] * ("val" in splits) + ["test"] * ("test" in splits):
            there = Counter(map(self.kind, self.rows_in(part)))
            # 1 left only where the captions with more clips do not give enough
            there["seen"] += self.take(singles, part, self.target - there["seen"], leaves=(2, 1))
            got |= {"seen": there["seen"]} if part == "seen" else {
                "test seen": there["seen"], "test unseen": there["unseen"]}
        return [f"{name}: {count} rows of {self.target} aimed at: {self.reason(name, closed)}"
                for name, count in sorted(got.items()) if 2 * count < self.target]

    def _closed_groups(self) -> Lists:
        """Groups of clips none of whose captions has a clip in another group, ordered by hash."""
        clips = np.arange(len(self.captions))
        group = components(len(clips), np.repeat(clips, np.diff(self.captions.ends)), self.captions.items)
        groups = Lists.by(group, clips, int(group.max()) + 1)
        return groups.reorder(_sorted_by_bytes(_hashes(self.salt, self.order[groups.items], groups.ends)))

    def reason(self, name: str, closed: Lists) -> str:
        """Why a part has few rows."""
        if name.endswith("unseen"):
            least = int(closed.reduce(np.add, self.sizes).min())
            return ("a caption can only be held out with all its clips and their captions; that is "
                    f"{least:,} rows or more, " + (f"and HELDOUT_MAX is {self.cap:,}" if least > self.cap else
                                                   f"too much of {self.count:,}"))
        if np.diff(self.clips_of.ends).max() == 1:
            return "no caption has two clips"
        return "few clips have only captions that other clips keep in training"


def split_rows(rows: Rows, seed: int, share: float, cap: int) -> Split:
    """The split that the file names; of val and test, what it does not name is held out from its training rows.

    Held out are share * training rows, at most cap, of each of seen and unseen (val), test seen and test unseen (test);
    the choice follows from seed and content, whatever the order of the rows. Training, validation and test have no
    motion in common (same tokens or same clip_id): of a clip that the file names in two of them, the rows of the later
    one count and the others are unused. seen holds only rows of kind seen and unseen only of kind unseen; a clip with
    captions of both kinds can only be chosen for test, and is in both where the file names it val.
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
    if "val" not in missing:
        validation = np.flatnonzero(part == PARTS.index("seen"))
        part[validation] += kind[validation]  # unseen comes behind seen
    kind[(part == 0) | (part == PARTS.index("unused"))] = -1
    split = Split(part, kind.astype(np.int8), notes, seed, share, cap, named)
    many = [f"{name} ({size:,})" for name, size in split.sizes().items()
            if name in ("seen", "unseen", "test seen", "test unseen") and size > cap]
    if many:
        notes.append(f"a run measures on {cap:,} rows (HELDOUT_MAX) of {', '.join(many)}; evaluate.py scores all test "
                     "rows")
    return split


def _named(rows: Rows) -> tuple[np.ndarray, dict[str, int] | None]:
    """part: int8, (N,), as the file names them, with all val rows in seen; and the rows of each split, see Split."""
    part = np.array([PARTS.index(name) for name in ("train", "seen", "test", "train")], np.int8)[rows.splits]
    counts = np.bincount(rows.splits + 1, minlength=len(SPLITS) + 1).tolist()
    if counts[0] == len(rows):
        return part, None
    part[rows.later_copy >= 0] = PARTS.index("unused")
    named = dict(zip(SPLITS, counts[1:], strict=True))
    return part, named | ({"none (train)": counts[0]} if counts[0] else {})
