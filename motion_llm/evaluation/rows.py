"""What an evaluation reads: the clips to score, and those that the run was trained on.

Rows of a file with the same motion (tokens and participant) are one clip with several captions. A clip is scored once,
under one of its captions, as in HumanML3D's protocol (Guo et al. 2022): figures count clips, whatever the number of
their captions, and a clip with many costs no more to generate. The seed draws the caption; another seed, another one.
"""

import logging
from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from data import read_rows
from motion_llm.dataset.prepared import PreparedChunks, damaged_table, prepared_info, streams_of
from motion_llm.dataset.report import Report, raise_on_errors
from motion_llm.dataset.rows import SPLITS, Row, Rows, caption_key
from motion_llm.dataset.splits import split_rows
from motion_llm.evaluation.clips import EvaluationError, EvaluationRow, Training, digest_of
from motion_llm.evaluation.stream_clips import streams_of_model
from motion_llm.motion.codec import CodecError, codec_streams
from motion_llm.streams import TEXT, Streams

log = logging.getLogger(__name__)

PREPARED = "prepared_data"
NO_LIMIT = 1_000_000  # positions, without a model that limits them
MOST_TOKENS = 10_000  # of a clip that is scored; a model's answer has at most MAX_SEQ_LEN. Pairs take their product


@dataclass
class EvaluationInputs:
    """rows: the clips to score. trained_on: how many of the file's rows the run was trained on. training: None if its
    clips are not available. facts: about the data, for the report. notes: sentences that a reader of the figures
    needs."""

    rows: list[EvaluationRow]
    trained_on: int
    training: Training | None
    streams: Streams
    facts: dict
    notes: list[str]

    @property
    def codebook_size(self) -> int:
        """Codes of all streams."""
        return self.streams.size


def clips_and_captions(facts: Mapping) -> str:
    """How much is scored: "98 clips with 245 captions"."""
    def counted(name: str) -> str:
        return f"{facts[name]:,} {name}" if facts[name] != 1 else f"1 {name[:-1]}"

    return f"{counted('clips')} with {counted('captions')}"


@dataclass
class _Source:
    """Rows of a file or of the run's own test set. streams: of a file without a model those of its largest codes.
    facts: about it."""

    rows: Sequence[Row]
    streams: Streams
    facts: dict


def gather(data: str | None, train_data: str | None, model_path: Path | None, motion_config: Mapping | None,
           max_prompts: int | None, include_train: bool, seed: int, split: str | None = None,
           has_clip: Callable[[str, str | None], bool] | None = None, codec: Path | None = None,
           tell_streams: Callable[[Streams], None] | None = None) -> EvaluationInputs:
    """Everything that an evaluation reads, except the generated clips.

    data: the file to score, None for the run's own test set. train_data: training clips, None for those beside the
    model. motion_config: the model's, None without a model. split: which rows of data, see _rows_of_split. has_clip:
    of a caption key and participant, whether a generated clip is at hand; a clip's caption is drawn from those.
    codec: of the tokens, None for the model's. tell_streams: is called before has_clip. Raises DataError,
    EvaluationError, CodecError.
    """
    streams = streams_of_model(motion_config)
    positions = motion_config["settings"]["MAX_SEQ_LEN"] if motion_config else NO_LIMIT
    notes: list[str] = []
    prepared = _prepared_folder(model_path, motion_config, notes)
    if data is None and split is not None:
        raise EvaluationError(f"--split {split} is for the rows of --data FILE, and there is no --data")
    source = (_own_test_set(prepared, model_path, notes) if data is None
              else _file_rows(data, _report_of(data, train_data, codec, positions, streams), split, notes))
    if tell_streams is not None:
        tell_streams(source.streams)
    if streams is None and source.streams.form != TEXT:
        streams = source.streams
    keys = {caption_key(row.text_query) for row in source.rows}
    if train_data is not None:
        training = _from_file(train_data, positions, streams, motion_config, keys, seed)
    elif prepared is not None:
        training = _from_prepared(prepared, keys, seed)
    elif motion_config and motion_config.get("data_fingerprint") == source.facts["fingerprint"]:
        training = _from_file(data, positions, streams, motion_config, keys, seed)
    else:
        training = None
        notes.append("no training clips: which rows were trained on is not known, and metrics that need training clips "
                     "are not available; give --train_data FILE")
    trained = [training is not None and training.holds(row) for row in source.rows]
    chosen = _choose(source, trained, max_prompts, include_train, seed, notes, has_clip)
    if training is not None:
        notes += _validation_clips(training, chosen)
    trained_keys = None
    if training:
        trained_keys = training.all_keys
    elif motion_config:
        trained_keys = set(motion_config["length_model"]["captions"])
    rows = _evaluation_rows(chosen, _captions_by_motion(source.rows, chosen), trained_keys)
    if streams is None:
        streams = Streams.one(max(source.streams.size, *(max(row.codes) + 1 for row in rows)))
    facts = source.facts | {"clips": len(rows), "captions": sum(len(row.captions) for row in rows)}
    return EvaluationInputs(rows, sum(trained), training, streams, facts, notes)


def _own_test_set(prepared: Path | None, model_path: Path | None, notes: Sequence[str]) -> _Source:
    if prepared is None:
        reason = notes[0] if notes else f"there is no {PREPARED} of this run beside {model_path}"
        raise EvaluationError(f"{reason}: no test set of its own; give --data FILE")
    info = prepared_info(prepared)
    rows = list(_rows_in(prepared, "test"))
    if not rows:
        raise EvaluationError(f"{prepared}: the run has no test rows (HELDOUT_SHARE or HELDOUT_MAX is 0): give other "
                              f"clips with --data FILE, or --data {info['path']} --include_train to score those that "
                              "it was trained on")
    return _Source(rows, streams_of(info), {"path": info["path"], "part": "the run's own test set",
                                            "fingerprint": info["fingerprint"], "rows": len(rows)})


def _file_rows(path: str, report: Report, split: str | None, notes: list[str]) -> _Source:
    rows, part = _rows_of_split(report.rows, path, split, notes)
    return _Source(rows, report.streams, {"path": str(path), "fingerprint": report.fingerprint,
                                          "rows": len(rows)} | part)


def _report_of(path: str, train_data: str | None, codec: Path | None, positions: int, streams: Streams | None
               ) -> Report:
    """The report on the file to score. streams: the model's. Without a model, flat codes of several streams need
    codebooks that hold the codes of all files: the codec's, or else the largest codes'."""
    report = _read(path, positions, streams)
    if streams is not None or report.streams.form == TEXT:
        return report
    if codec is not None:
        whole = codec_streams(codec)
        if whole.names != report.streams.names:
            raise CodecError(f"the codec in {codec} has the streams {', '.join(whole.names)}, but {path} has "
                             f"{', '.join(report.streams.names)}: they do not belong together")
        whole = Streams(whole.names, whole.sizes, report.streams.form)
    elif train_data is not None:
        other = _read(train_data, positions, None).streams
        if {*other.names} != {*report.streams.names}:
            raise EvaluationError(f"{train_data} has the streams {', '.join(other.names)}, but {path} has "
                                  f"{', '.join(report.streams.names)}")
        of_other = dict(zip(other.names, other.sizes, strict=True))
        whole = Streams(report.streams.names, tuple(
            max(size, of_other[name]) for name, size in zip(report.streams.names, report.streams.sizes, strict=True)),
            report.streams.form)
    else:
        return report
    return report if whole == report.streams else _read(path, positions, whole)


def _read(path: str, positions: int, streams: Streams | None) -> Report:
    """Raises DataError, and EvaluationError for a clip that is too long to be scored."""
    report = read_rows(path, positions, streams, denoise=False)
    raise_on_errors(report)
    lengths = report.rows.lengths
    if positions == NO_LIMIT and lengths.max(initial=0) > MOST_TOKENS:
        place = int(np.argmax(lengths > MOST_TOKENS))
        raise EvaluationError(f"{path}: {report.name_of(report.rows[place].index)} has {lengths[place]:,} motion "
                              f"tokens, expected at most {MOST_TOKENS:,}: split it into clips")
    return report


def _choose(source: _Source, trained: Sequence[bool], max_prompts: int | None, include_train: bool, seed: int,
            notes: list[str], has_clip: Callable[[str, str | None], bool] | None) -> list[Row]:
    """One row of each clip to score: of those that were not trained on, at most `max_prompts`; notes say what was left
    out."""
    chosen = [row for row, was_trained in zip(source.rows, trained, strict=True) if include_train or not was_trained]
    if not chosen:
        raise EvaluationError(f"{source.facts['path']}: the run was trained on all {len(trained)} rows, so nothing is "
                              "left to score: give other data, or --include_train")
    if sum(trained):
        notes.append(f"the run was trained on {sum(trained)} of {len(trained)} rows, "
                     + ("which are scored too (--include_train)" if include_train else "which are left out"))
    chosen = _one_of_each_clip(chosen, seed, has_clip)
    if max_prompts is not None and max_prompts < len(chosen):
        places = np.sort(np.random.default_rng(seed).permutation(len(chosen))[:max_prompts])
        notes.append(f"{max_prompts} of {len(chosen)} clips, drawn by the seed (--max_prompts)")
        chosen = [chosen[i] for i in places]
    return chosen


def _one_of_each_clip(rows: Sequence[Row], seed: int, has_clip: Callable[[str, str | None], bool] | None) -> list[Row]:
    """A row of each clip, in the order of the rows, drawn from its rows with different captions; from those with a
    generated clip where there are any."""
    clips: dict[tuple, dict[str, int]] = defaultdict(dict)
    for place, row in enumerate(rows):
        clips[digest_of(row.codes), row.participant_id].setdefault(caption_key(row.text_query), place)
    rng, drawn = np.random.default_rng([seed, 1]), []
    for (_, person), by_key in clips.items():
        usable = [place for key, place in by_key.items() if has_clip is None or has_clip(key, person)]
        usable = usable or list(by_key.values())
        drawn.append(usable[rng.integers(len(usable))])
    return [rows[place] for place in sorted(drawn)]


def _validation_clips(training: Training, chosen: Sequence[Row]) -> list[str]:
    count = len({tuple(clip) for clip in training.held_clips} & {tuple(row.codes.tolist()) for row in chosen})
    return [f"{count} clips are the run's validation clips: nothing was trained on them, but they chose the epoch of "
            "the model and the step of the evaluator"] if count else []


def _captions_by_motion(rows: Iterable[Row], chosen: Sequence[Row]) -> dict[bytes, list[str]]:
    """Digest of each chosen motion -> its captions among all rows. A motion is identified by its tokens, as clip_id is
    the same for other parts of a clip, which have other captions."""
    captions: dict[bytes, list[str]] = {digest_of(row.codes): [] for row in chosen}
    for row in rows:
        if (texts := captions.get(digest_of(row.codes))) is not None:
            texts.append(row.text_query)
    return captions


def _evaluation_rows(chosen: Sequence[Row], by_motion: Mapping[bytes, Sequence[str]], trained: Container[str] | None
                     ) -> list[EvaluationRow]:
    """by_motion: captions by the digest of their motion. trained: keys of the trained captions, None if unknown."""
    rows = []
    for row in chosen:
        key = caption_key(row.text_query)
        captions = {key: row.text_query}
        for text in by_motion[digest_of(row.codes)]:
            captions.setdefault(caption_key(text), text)
        kind = None if trained is None else "seen" if key in trained else "unseen"
        rows.append(EvaluationRow(row.index, row.text_query, key, row.codes.tolist(), row.participant_id, kind,
                                  tuple(captions.values())))
    return rows


def _rows_of_split(rows: Rows, path: str, split: str | None, notes: list[str]) -> tuple[Sequence[Row], dict]:
    """The rows of a file in a split, and facts about them; a note if other rows are left out.

    split: one of SPLITS, or "all"; None for the file's test rows if it has any, else for all. A row without a
    split among others that have one counts as train. Raises EvaluationError for a split without rows.
    """
    splits = np.maximum(rows.splits, 0) if (rows.splits >= 0).any() else rows.splits
    counts = {name: int((splits == number).sum()) for number, name in enumerate(SPLITS)}
    split = split or ("test" if counts["test"] else "all")
    if split == "all":
        return rows, {}
    if not counts[split]:
        counted = ", ".join(f"{name} {count:,}" for name, count in counts.items())
        raise EvaluationError(f"{path}: the field split names {counted} rows, expected some of {split} (--split)")
    chosen = [rows[place] for place in np.flatnonzero(splits == SPLITS.index(split)).tolist()]
    if len(chosen) < len(rows):
        notes.append(f"{len(chosen):,} of {len(rows):,} rows: those whose split is {split} (--split)")
    return chosen, {"part": f"its {split} rows"}


def _prepared_folder(model_path: Path | None, motion_config: Mapping | None, notes: list[str]) -> Path | None:
    """The folder of prepared data beside the model, None if it is missing or of other data than the model's."""
    if model_path is None or motion_config is None:
        return None
    folder = Path(model_path).resolve().parent / PREPARED
    if not (folder / "fingerprint.json").is_file():
        return None
    info = prepared_info(folder)
    fingerprint, expected = info["fingerprint"], motion_config.get("data_fingerprint")
    if fingerprint != expected:
        notes.append(f"{folder / 'fingerprint.json'} is of other data ({fingerprint[:12]}) than the model was trained "
                     f"on ({str(expected)[:12]}), so it is not used")
        return None
    if damage := damaged_table(folder, info):
        raise EvaluationError(f"{damage}: it is damaged. The run's train_pipeline.py command makes it anew; to do "
                              f"without it, remove {folder}")
    return folder


def _rows_in(folder: Path, part: str) -> Iterator[Row]:
    return (chunk.row(place) for chunk in PreparedChunks(folder, part) for place in range(len(chunk)))


def _from_prepared(folder: Path, caption_keys: Container[str], seed: int) -> Training:
    info = prepared_info(folder)
    training = Training(info["fingerprint"], str(folder))
    training.add_held(chain(_rows_in(folder, "seen"), _rows_in(folder, "unseen")))
    return training.fill(_rows_in(folder, "train"), info["sizes"]["train"], caption_keys, seed)


def _from_file(path: str, positions: int, streams: Streams | None, motion_config: Mapping | None,
               caption_keys: Container[str], seed: int) -> Training:
    """The training clips in a file: those of the run's split if the run was trained on the same data, else the rows
    whose split is train if the file has splits, else all rows. Raises EvaluationError if no row is in train."""
    report = _read(path, positions, streams)
    rows = report.rows
    training = Training(report.fingerprint, str(path))
    same_data = motion_config and motion_config.get("data_fingerprint") == report.fingerprint
    if same_data or (rows.splits >= 0).any():
        settings = motion_config["settings"] if same_data else {"SEED": seed, "HELDOUT_SHARE": 0.0, "HELDOUT_MAX": 0}
        split = split_rows(rows, settings["SEED"], settings["HELDOUT_SHARE"], settings["HELDOUT_MAX"])
        if not split.train:
            raise EvaluationError(f"{path}: no row is in the split train, expected the training clips")
        training.add_held(rows[i] for i in (*split.seen, *split.unseen))
        return training.fill((rows[i] for i in split.train), len(split.train), caption_keys, seed)
    return training.fill(rows, len(rows), caption_keys, seed)
