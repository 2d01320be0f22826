"""What an evaluation is about: rows to score, and what the run was trained on."""

import hashlib
import logging
from collections import defaultdict
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import numpy as np

from data import read_rows
from motion_llm.dataset.caption_index import CaptionIndex
from motion_llm.dataset.prepared import PreparedChunks, prepared_info
from motion_llm.dataset.report import raise_on_errors
from motion_llm.dataset.rows import SPLITS, Row, Rows, caption_key
from motion_llm.dataset.splits import split_rows

log = logging.getLogger(__name__)

MOST_CLIPS = 50_000  # training clips that are kept, beside all of the captions that are asked for
PREPARED = "prepared_data"
NO_LIMIT = 1_000_000  # positions, where no model says how many
HELD_SHARE, HELD_MOST = 0.1, 500  # of training clips that no run has split: to stop the evaluator by


class EvaluationError(ValueError):
    """An evaluation that cannot be done as asked; the text says what was found and what is expected."""


@dataclass(frozen=True)
class AskedRow:
    """A row to score. key: what captions are compared by. kind: "seen" if the caption was trained, "unseen" if not,
    None if that is not known. captions: all that the data has of this motion, the row's own first."""

    index: int
    text_query: str
    key: str
    codes: list[int]
    participant_id: str | None
    kind: str | None
    captions: tuple[str, ...] = ()


@dataclass
class Training:
    """Real training clips. clips, texts, keys, people: of each clip that is kept, a sample of about MOST_CLIPS and all
    clips of the captions asked for. held_clips, held_texts: to stop the evaluator by. count: all clips. fingerprint:
    of the data they come from."""

    fingerprint: str
    source: str
    count: int = 0
    clips: list[list[int]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    people: list[str | None] = field(default_factory=list)
    held_clips: list[list[int]] = field(default_factory=list)
    held_texts: list[str] = field(default_factory=list)
    all_keys: set[str] = field(default_factory=set)
    _motions: set[bytes] = field(default_factory=set)
    _clip_ids: set[str] = field(default_factory=set)

    def __post_init__(self):
        self._nearest: dict[str, str] = {}
        self._index: CaptionIndex | None = None

    def fill(self, rows: Iterable[Row], count: int, wanted: Container[str], seed: int) -> "Training":
        """Take in the training rows, `count` of them; all clips of the captions `wanted` (keys) are kept."""
        rng, share = np.random.default_rng(seed), MOST_CLIPS / max(1, count)
        for row in rows:
            key = caption_key(row.text_query)
            self.count += 1
            self.all_keys.add(key)
            self._motions.add(_digest(row.codes))
            if row.clip_id is not None:
                self._clip_ids.add(row.clip_id)
            if rng.random() < share or key in wanted:
                self.clips.append(row.codes.tolist())
                self.texts.append(row.text_query)
                self.keys.append(key)
                self.people.append(row.participant_id)
        self.by_key: dict[str, list[int]] = defaultdict(list)
        for place, key in enumerate(self.keys):
            self.by_key[key].append(place)
        return self

    def holds(self, row: Row) -> bool:
        """Whether this clip was trained on: the same tokens, or the same clip_id."""
        return _digest(row.codes) in self._motions or (row.clip_id is not None and row.clip_id in self._clip_ids)

    def nearest_caption(self, key: str) -> str:
        """The key of the most similar training caption of which clips are kept: itself, where there are any."""
        if key in self.by_key:
            return key  # the index, which sorts the words, may find one of the same words in another order
        if key not in self._nearest:
            self._index = self._index or CaptionIndex(list(self.by_key))
            self._nearest[key] = self._index.nearest(key, 1)[0][0]
        return self._nearest[key]


def _digest(codes: np.ndarray) -> bytes:
    return hashlib.blake2b(codes.astype("<i4").tobytes(), digest_size=16).digest()


@dataclass
class Asked:
    """rows: those to score. trained_on: how many of the file's rows the run was trained on, and whether they are among
    `rows`. training: None if there is none. facts: of the data, for the report. notes: what a reader has to know."""

    rows: list[AskedRow]
    trained_on: int
    training: Training | None
    codebook_size: int
    facts: dict
    notes: list[str]


@dataclass
class _Read:
    """The rows of a file, or of the run's own test set, as they are; its largest code + 1; and what it is."""

    rows: Sequence[Row]
    codebook_size: int
    facts: dict


def gather(data: str | None, train_data: str | None, model_path: Path | None, kept: Mapping | None,
           max_prompts: int | None, include_train: bool, seed: int, split: str | None = None) -> Asked:
    """Everything that an evaluation reads but the generated clips.

    data: the file to score, None for the run's own test set. train_data: training clips, None for those beside the
    model. kept: the model's motion_config.json, None without a model. split: which rows of data, see _asked_split.
    Raises DataError, EvaluationError.
    """
    size = kept["vocabulary"]["codebook_size"] if kept else None
    positions = kept["settings"]["MAX_SEQ_LEN"] if kept else NO_LIMIT
    notes: list[str] = []
    beside = _beside(model_path, kept, notes)
    if data is None and split is not None:
        raise EvaluationError(f"--split {split} is for the rows of --data FILE, and none is given")
    read = _own_test_set(beside, model_path) if data is None else _file(data, positions, size, split, notes)
    keys = {caption_key(row.text_query) for row in read.rows}
    if train_data is not None:
        training = _from_file(train_data, positions, size, kept, keys, seed)
    elif beside is not None:
        training = _from_prepared(beside, keys, seed)
    elif kept and kept.get("data_fingerprint") == read.facts["fingerprint"]:
        training = _from_file(data, positions, size, kept, keys, seed)
    else:
        training = None
        notes.append("no training clips: which rows were trained on is not known, and what needs training clips is "
                     "not available; give --train_data FILE")
    trained = [training is not None and training.holds(row) for row in read.rows]
    chosen = _choose(read, trained, max_prompts, include_train, seed, notes)
    if training is not None:
        notes += _validation_clips(training, chosen)
    known = training.all_keys if training else set(kept["length_model"]["captions"]) if kept else None
    asked = _as_asked(chosen, _captions_by_motion(read.rows, chosen), known)
    most = max(max(row.codes) for row in asked) + 1
    return Asked(asked, sum(trained), training, size or max(read.codebook_size, most), read.facts, notes)


def _own_test_set(beside: Path | None, model_path: Path | None) -> _Read:
    if beside is None:
        raise EvaluationError(f"there is no {PREPARED} of this run beside {model_path}, so no test set of its own: "
                              "give --data FILE")
    info = prepared_info(beside)
    rows = list(_rows_in(beside, "test"))
    if not rows:
        raise EvaluationError(f"{beside}: the run has no test rows (HELDOUT_SHARE or HELDOUT_MAX is 0): give "
                              "--data FILE")
    return _Read(rows, info["codebook_size"], {"path": info["path"], "part": "the run's own test set",
                                               "fingerprint": info["fingerprint"], "rows": len(rows)})


def _file(path: str, positions: int, size: int | None, split: str | None, notes: list[str]) -> _Read:
    report = read_rows(path, positions, size, denoise=False)
    raise_on_errors(report)
    rows, part = _asked_split(report.rows, path, split, notes)
    return _Read(rows, report.codebook_size, {"path": str(path), "fingerprint": report.fingerprint,
                                              "rows": len(rows)} | part)


def _choose(read: _Read, trained: Sequence[bool], max_prompts: int | None, include_train: bool, seed: int,
            notes: list[str]) -> list[Row]:
    """The rows to score: those that were not trained on, at most `max_prompts`; what was left out goes to `notes`."""
    chosen = [row for row, there in zip(read.rows, trained, strict=True) if include_train or not there]
    if not chosen:
        raise EvaluationError(f"{read.facts['path']}: the run was trained on all {len(trained)} rows, so nothing is "
                              "left to score: give other data, or --include_train")
    if sum(trained):
        notes.append(f"the run was trained on {sum(trained)} of {len(trained)} rows, "
                     + ("which are scored too (--include_train)" if include_train else "which are left out"))
    if max_prompts is not None and max_prompts < len(chosen):
        places = np.sort(np.random.default_rng(seed).permutation(len(chosen))[:max_prompts])
        notes.append(f"{max_prompts} of {len(chosen)} rows, drawn by the seed (--max_prompts)")
        chosen = [chosen[i] for i in places]
    return chosen


def _validation_clips(training: Training, chosen: Sequence[Row]) -> list[str]:
    count = len({tuple(clip) for clip in training.held_clips} & {tuple(row.codes.tolist()) for row in chosen})
    return [f"{count} clips are the run's validation clips: nothing was trained on them, but they chose the epoch that "
            "was kept, and the evaluator"] if count else []


def _captions_by_motion(rows: Iterable[Row], chosen: Sequence[Row]) -> dict[bytes, list[str]]:
    """The captions of each chosen motion among all rows. A motion is its tokens: captions of another part of a clip,
    which has the same clip_id, do not tell of it."""
    found: dict[bytes, list[str]] = {_digest(row.codes): [] for row in chosen}
    for row in rows:
        if (own := found.get(_digest(row.codes))) is not None:
            own.append(row.text_query)
    return found


def _as_asked(chosen: Sequence[Row], captions: Mapping[bytes, Sequence[str]], known: Container[str] | None
              ) -> list[AskedRow]:
    """known: keys of the captions that were trained, None if they are not known."""
    asked = []
    for row in chosen:
        key = caption_key(row.text_query)
        own = {key: row.text_query}
        for text in captions[_digest(row.codes)]:
            own.setdefault(caption_key(text), text)
        asked.append(AskedRow(row.index, row.text_query, key, row.codes.tolist(), row.participant_id,
                              None if known is None else "seen" if key in known else "unseen", tuple(own.values())))
    return asked


def _asked_split(rows: Rows, path: str, split: str | None, notes: list[str]) -> tuple[Sequence[Row], dict]:
    """The rows of a file that are scored, and facts and notes of which they are.

    split: one of SPLITS, or "all"; None for the file's test rows, where it names any, else for all. A row without a
    split among others that have one counts as train. Raises EvaluationError for a split without rows.
    """
    splits = np.maximum(rows.splits, 0) if (rows.splits >= 0).any() else rows.splits
    counts = {name: int((splits == number).sum()) for number, name in enumerate(SPLITS)}
    split = split or ("test" if counts["test"] else "all")
    if split == "all":
        return rows, {}
    if not counts[split]:
        found = ", ".join(f"{name} {count:,}" for name, count in counts.items())
        raise EvaluationError(f"{path}: the field split names {found} rows, expected some of {split} (--split)")
    own = [rows[place] for place in np.flatnonzero(splits == SPLITS.index(split)).tolist()]
    if len(own) < len(rows):
        notes.append(f"{len(own):,} of {len(rows):,} rows: those whose split is {split} (--split)")
    return own, {"part": f"its {split} rows"}


def _beside(model_path: Path | None, kept: Mapping | None, notes: list[str]) -> Path | None:
    """The prepared data of the run that made the model, if it lies beside it."""
    if model_path is None or kept is None:
        return None
    folder = Path(model_path).resolve().parent / PREPARED
    if not (folder / "fingerprint.json").is_file():
        return None
    found, expected = prepared_info(folder)["fingerprint"], kept.get("data_fingerprint")
    if found != expected:
        notes.append(f"{folder} is of other data ({found[:12]}) than the model was trained on ({str(expected)[:12]}), "
                     "so it is not used")
        return None
    return folder


def _rows_in(folder: Path, part: str) -> Iterator[Row]:
    return (chunk.row(place) for chunk in PreparedChunks(folder, part) for place in range(len(chunk)))


def _from_prepared(folder: Path, wanted: Container[str], seed: int) -> Training:
    info = prepared_info(folder)
    training = Training(info["fingerprint"], str(folder))
    _hold(training, chain(_rows_in(folder, "seen"), _rows_in(folder, "unseen")))
    return training.fill(_rows_in(folder, "train"), info["sizes"]["train"], wanted, seed)


def _from_file(path: str, positions: int, size: int | None, kept: Mapping | None, wanted: Container[str],
               seed: int) -> Training:
    """The training clips in a file: those of the run's split if the run was trained on this very data, else those that
    the file names, else all. Raises EvaluationError where it names none."""
    report = read_rows(path, positions, size, denoise=False)
    raise_on_errors(report)
    rows = report.rows
    training = Training(report.fingerprint, str(path))
    own = kept and kept.get("data_fingerprint") == report.fingerprint
    if own or (rows.splits >= 0).any():
        settings = kept["settings"] if own else {"SEED": seed, "HELDOUT_SHARE": 0.0, "HELDOUT_MAX": 0}
        split = split_rows(rows, settings["SEED"], settings["HELDOUT_SHARE"], settings["HELDOUT_MAX"])
        if not split.train:
            raise EvaluationError(f"{path}: no row is in the split train, expected the training clips")
        _hold(training, (rows[i] for i in (*split.seen, *split.unseen)))
        return training.fill((rows[i] for i in split.train), len(split.train), wanted, seed)
    return training.fill(rows, len(rows), wanted, seed)


def _hold(training: Training, rows: Iterable[Row]) -> None:
    for row in rows:
        training.held_clips.append(row.codes.tolist())
        training.held_texts.append(row.text_query)


def evaluator_material(training: Training, seed: int) -> tuple[list, list, list, list]:
    """clips, captions, held-out clips, held-out captions to train an evaluator with.

    Where no run has held anything out, a share of the clips is held out for it, by whole captions and by single clips
    alike, as runs do. Raises EvaluationError for too few clips.
    """
    if training.held_clips:
        return training.clips, training.texts, training.held_clips, training.held_texts
    count = min(HELD_MOST, int(HELD_SHARE * len(training.clips)))
    if count < 2:
        raise EvaluationError(f"{training.source}: {len(training.clips)} training clips, expected 20 or more to train "
                              "an evaluator")
    rng = np.random.default_rng(seed)
    held: set[int] = set()
    for key in rng.permutation(sorted(training.by_key)).tolist():
        if len(held) + len(training.by_key[key]) <= count // 2:
            held.update(training.by_key[key])
    rest = [i for i in range(len(training.clips)) if i not in held]
    held.update(rng.permutation(rest)[:count - len(held)].tolist())
    rest = [i for i in rest if i not in held]
    return ([training.clips[i] for i in rest], [training.texts[i] for i in rest],
            [training.clips[i] for i in sorted(held)], [training.texts[i] for i in sorted(held)])
