"""What an evaluation is about: rows to score, what the run was trained on, clips that someone else generated."""

import hashlib
import json
import logging
from collections import defaultdict
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import numpy as np

from caption_index import CaptionIndex
from data import Row, Rows, caption_key, raise_on_errors, read_rows
from prepared import PreparedChunks, prepared_info
from rows import SPLITS
from splits import split_rows

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
    None if that is not known."""

    index: int
    text_query: str
    key: str
    codes: list[int]
    participant_id: str | None
    kind: str | None


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
    if data is None:
        if split is not None:
            raise EvaluationError(f"--split {split} is for the rows of --data FILE, and none is given")
        if beside is None:
            raise EvaluationError(f"there is no {PREPARED} of this run beside {model_path}, so no test set of its own: "
                                  "give --data FILE")
        info = prepared_info(beside)
        rows = list(_rows_in(beside, "test"))
        if not rows:
            raise EvaluationError(f"{beside}: the run has no test rows (HELDOUT_SHARE or HELDOUT_MAX is 0): give "
                                  "--data FILE")
        facts = {"path": info["path"], "part": "the run's own test set", "fingerprint": info["fingerprint"]}
        largest = info["codebook_size"]
    else:
        report = read_rows(data, positions, size, denoise=False)
        raise_on_errors(report)
        rows, part = _asked_split(report.rows, data, split, notes)
        largest = report.codebook_size
        facts = {"path": str(data), "fingerprint": report.fingerprint} | part
    keys = {caption_key(row.text_query) for row in rows}
    if train_data is not None:
        training = _from_file(train_data, positions, size, kept, keys, seed)
    elif beside is not None:
        training = _from_prepared(beside, keys, seed)
    elif kept and kept.get("data_fingerprint") == facts["fingerprint"]:
        training = _from_file(data, positions, size, kept, keys, seed)
    else:
        training = None
        notes.append("no training clips: which rows were trained on is not known, and what needs training clips is "
                     "not available; give --train_data FILE")
    facts["rows"] = len(rows)
    trained = [training is not None and training.holds(row) for row in rows]
    chosen = [row for row, there in zip(rows, trained, strict=True) if include_train or not there]
    if not chosen:
        raise EvaluationError(f"{facts['path']}: the run was trained on all {len(rows)} rows, so nothing is left to "
                              "score: give other data, or --include_train")
    if max_prompts is not None and max_prompts < len(chosen):
        places = np.sort(np.random.default_rng(seed).permutation(len(chosen))[:max_prompts])
        notes.append(f"{max_prompts} of {len(chosen)} rows, drawn by the seed (--max_prompts)")
        chosen = [chosen[i] for i in places]
    if sum(trained):
        notes.insert(0, f"the run was trained on {sum(trained)} of {len(rows)} rows, "
                     + ("which are scored too (--include_train)" if include_train else "which are left out"))
    chose = 0 if training is None else len({tuple(clip) for clip in training.held_clips} & {
        tuple(row.codes.tolist()) for row in chosen})
    if chose:
        notes.append(f"{chose} clips are the run's validation clips: nothing was trained on them, but they chose the "
                     "epoch that was kept, and the evaluator")
    known = training.all_keys if training else set(kept["length_model"]["captions"]) if kept else None
    asked = [AskedRow(row.index, row.text_query, key, row.codes.tolist(), row.participant_id,
                      None if known is None else "seen" if key in known else "unseen")
             for row in chosen for key in [caption_key(row.text_query)]]
    most = max(max(row.codes) for row in asked) + 1
    return Asked(asked, sum(trained), training, size or max(largest, most), facts, notes)


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


# ---------------------------------------------------------------- clips that someone generated


@dataclass(frozen=True)
class Generated:
    """Clips from a file, by caption key and participant."""

    path: str
    clips: dict[tuple[str, str | None], list[list[int]]]
    lines: int


def read_generated(path: str | Path) -> Generated:
    """JSON Lines of text_query and motion_tokens ("42 18 91" or a list), and participant_id where one was asked for.

    Codes out of the codebook and empty clips are taken as they are, for they are what valid_share counts.
    Raises EvaluationError naming file and line for anything else.
    """
    clips: dict[tuple[str, str | None], list[list[int]]] = defaultdict(list)
    count = 0
    with open(path, encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            where = f"{path}: line {number}"
            try:
                content = json.loads(line)
            except json.JSONDecodeError as error:
                raise EvaluationError(f"{where} is not JSON ({error.msg} at column {error.colno})") from None
            if not isinstance(content, dict) or not isinstance(content.get("text_query"), str):
                raise EvaluationError(f"{where}: {line.strip()[:80]!r}, expected an object with text_query (text) and "
                                      "motion_tokens")
            person = content.get("participant_id")
            if person is not None and (isinstance(person, bool) or not isinstance(person, str | int)):
                raise EvaluationError(f"{where}: participant_id is {person!r}, expected text or an integer")
            codes = _codes(content.get("motion_tokens"), where)
            clips[caption_key(content["text_query"]), None if person is None else str(person)].append(codes)
            count += 1
    if not count:
        raise EvaluationError(f"{path} is empty, expected JSON Lines of text_query and motion_tokens")
    return Generated(str(path), dict(clips), count)


def _codes(tokens: object, where: str) -> list[int]:
    if isinstance(tokens, str):
        try:
            return [int(token) for token in tokens.split()]
        except ValueError:
            raise EvaluationError(f"{where}: motion_tokens is {tokens[:60]!r}, expected integers with spaces between"
                                  ) from None
    if isinstance(tokens, list) and all(isinstance(token, int) and not isinstance(token, bool) for token in tokens):
        return tokens
    raise EvaluationError(f"{where}: motion_tokens is {str(tokens)[:60]!r}, expected "
                          "\"42 18 91\" or a list of integers")


def match(generated: Generated, rows: Sequence[AskedRow], most: int) -> tuple[list[list[list[int]]], list[str]]:
    """Clips for each row, as many for all, at most `most`; and notes.

    A row takes the clips of its caption and participant; where none name the participant, those of the caption
    without one. The rows of one caption and participant share its clips out in their order, and use them again where
    there are fewer clips than rows. Raises EvaluationError naming the rows for which there is no clip.
    """
    places: dict[tuple, list[int]] = defaultdict(list)
    missing = []
    for i, row in enumerate(rows):
        key = next((key for key in ((row.key, row.participant_id), (row.key, None)) if key in generated.clips), None)
        if key is None:
            missing.append(row)
        else:
            places[key].append(i)
    if missing:
        row = missing[0]
        raise EvaluationError(f"{generated.path}: no clip for {len(missing)} of {len(rows)} rows, the first is row "
                              f"{row.index}: {row.text_query!r}, participant {row.participant_id!r}")
    samples = min(most, *(max(1, len(generated.clips[key]) // len(own)) for key, own in places.items()))
    found: list[list[list[int]]] = [[] for _ in rows]
    notes, again, used = [], 0, 0
    for key, own in places.items():
        clips = generated.clips[key]
        again += len(own) > len(clips)
        used += min(len(clips), len(own) * samples)
        for turn, i in enumerate(own):
            found[i] = [clips[(turn + k * len(own)) % len(clips)] for k in range(samples)]
    if again:
        notes.append(f"{generated.path} has fewer clips than there are rows for {again} captions with participant; "
                     "their clips are used again")
    if used < generated.lines:
        notes.append(f"{generated.path}: {used} of {generated.lines} clips are scored, the others are not asked for, "
                     f"or more than {samples} a row")
    return found, notes
