"""A model's other tasks, on the clips that are scored: captions for them, and lost tokens filled in.

A task that the model's stage was not trained for is done by the latest earlier stage of the same run that was. Every
figure names the stage that answered, as it may be another one than the model whose clips are scored.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

import numpy as np

from metrics import nearest_clips
from model import start_unsloth
from motion_llm.decoding.jobs import MOST_TEXT_TOKENS
from motion_llm.decoding.request import MotionRequest
from motion_llm.evaluation import lost_tokens
from motion_llm.evaluation.caption_metrics import NAMES, chrf, score_captions
from motion_llm.evaluation.clips import EvaluationRow, Training
from motion_llm.evaluation.intervals import Estimate, mean_over_captions
from motion_llm.evaluation.metric_names import METRICS, MODEL, NEAREST_TOLD, RANDOM_TOLD, SPLITS, Table, blank
from motion_llm.evaluation.progress import with_bar
from motion_llm.evaluation.rows import EvaluationInputs
from motion_llm.evaluation.stream_clips import ONE_STREAM, written
from motion_llm.network.folder import stages_beside
from motion_llm.streams import Streams

log = logging.getLogger(__name__)

MOST_CAPTIONED, MOST_FILLED = 256, 128  # clips; a clip is filled in three times, each as slow as a caption
METRIC_OF = {metric.task: name for name, metric in METRICS.items() if metric.task in lost_tokens.TASKS}


@dataclass
class TaskScores:
    """table: row -> split -> metric -> Estimate, for the metrics of these tasks alone. by_stream: name -> the same of
    each of several streams, for lost tokens. by: metric -> name of the stage
    that answered. captions: each captioned clip with the model's caption, worst chrF first. missing: metrics that are
    not available, and why. notes, verdict: sentences."""

    table: Table = field(default_factory=dict)
    by_stream: dict[str, Table] = field(default_factory=dict)
    by: dict[str, str] = field(default_factory=dict)
    captions: list[dict] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    verdict: list[str] = field(default_factory=list)

    def put(self, row: str, split: str, estimates: Mapping[str, Estimate]) -> None:
        self.table.setdefault(row, {}).setdefault(split, {}).update(estimates)

    def lack(self, tasks: Sequence[str], reason: str) -> None:
        names = [name for name, metric in METRICS.items() if metric.task in tasks]
        self.missing.append(f"not available: {', '.join(names)} ({reason})")

    def add_to(self, table: Table) -> None:
        for row, splits in self.table.items():
            whole = table.setdefault(row, blank(METRICS))
            for split, estimates in splits.items():
                whole[split] |= estimates


def without_model() -> TaskScores:
    scores = TaskScores()
    scores.lack(("m2t", *lost_tokens.TASKS), "they need a model that answers, not clips from a file")
    return scores


def score_tasks(inputs: EvaluationInputs, model_path: Path, motion_config: Mapping, device: str | None, seed: int
                ) -> TaskScores:
    """Score every task, each by the stage that stage_for names. Raises ModelError, GenerationError."""
    start_unsloth(device)
    from generate import MotionGenerator  # imports transformers, so only after start_unsloth

    scores, tasks_of = TaskScores(), {}  # tasks_of: stage folder -> tasks
    for task in ("m2t", *lost_tokens.TASKS):
        tasks_of.setdefault(stage_for(task, model_path, motion_config), []).append(task)
    if impossible := tasks_of.pop(None, []):
        scores.lack(impossible, f"no stage of this run was trained for {', '.join(impossible)}")
    for folder, tasks in tasks_of.items():
        log.info("%s: by %s", ", ".join(tasks), folder)
        generator = MotionGenerator(folder, device=device)
        for task in tasks:
            rows = _clips(generator, inputs.rows, task, seed, inputs.streams.count)
            if not rows:
                scores.lack([task], "no clip is long enough and fits MAX_SEQ_LEN")
                continue
            scores.by |= {name: folder.name for name, metric in METRICS.items() if metric.task == task}
            if task == "m2t":
                _captions(generator, inputs.training, rows, seed, scores, inputs.streams)
            else:
                _lost_tokens(generator, rows, task, seed, scores, inputs.streams)
        if folder != model_path.resolve():
            scores.notes.append(f"{', '.join(tasks)}: answered by {folder.name}, the latest stage that was trained for "
                                f"that; {model_path.name} was not")
    return scores


def stage_for(task: str, model_path: Path, motion_config: Mapping) -> Path | None:
    """The model's folder if it was trained for the task, else that of the latest earlier stage of the same run that
    was; None if none was."""
    own_folder = model_path.resolve()
    if task in motion_config["tasks"]:
        return own_folder
    earlier = [folder for folder, content in stages_beside(own_folder, motion_config)
               if folder.name < own_folder.name and task in content["tasks"]]
    return earlier[-1] if earlier else None


def _clips(generator, rows: Sequence[EvaluationRow], task: str, seed: int, in_step: int = 1) -> list[EvaluationRow]:
    """The first row of each motion that is long enough for the task and fits the model; a sample if there are many."""
    template, positions = generator.template, generator.settings["MAX_SEQ_LEN"]
    min_tokens, lengths, max_clips = (1, ("m2t", MOST_TEXT_TOKENS), MOST_CAPTIONED) if task == "m2t" else (
        lost_tokens.FEWEST_TOKENS, ("denoise", 0), MOST_FILLED)  # every prompt with lost tokens is a denoising prompt
    distinct = {tuple(row.codes): row for row in reversed(rows)}
    usable = [row for row in rows if distinct[tuple(row.codes)] is row and len(row.codes) >= min_tokens * in_step
              and template.length(*lengths, len(row.codes)) <= positions]
    return [usable[i] for i in np.sort(np.random.default_rng(seed).permutation(len(usable))[:max_clips])]


def _participant(generator, row: EvaluationRow) -> str | None:
    return row.participant_id if row.participant_id in generator.vocabulary.participants else None


def _places(rows: Sequence[EvaluationRow], split: str) -> list[int]:
    return [i for i, row in enumerate(rows) if split in ("all", row.kind)]


def _captions(generator, training: Training | None, rows: Sequence[EvaluationRow], seed: int, scores: TaskScores,
              streams: Streams = ONE_STREAM) -> None:
    """Score the model's greedy caption of each clip, beside that of the nearest training clip and a random one."""
    results = generator.answers([MotionRequest("m2t", motion=written(row.codes, streams), temperature=0,
                                               participant_id=_participant(generator, row)) for row in rows], seed=seed)
    by_row = {MODEL: [result.text for result in with_bar(results, len(rows), "captions of motions")]}
    if training is not None:
        texts, rng = training.texts, np.random.default_rng(seed)
        near = nearest_clips([row.codes for row in rows], training.clips, others=True)
        by_row |= {NEAREST_TOLD: [texts[place] for place, _ in near],
                   RANDOM_TOLD: [texts[i] for i in rng.integers(len(texts), size=len(rows))]}
    references = [row.captions or (row.text_query,) for row in rows]
    for name, captions in by_row.items():  # a row of the table
        for split in SPLITS:
            places = _places(rows, split)
            scores.put(name, split, score_captions([captions[i] for i in places], [references[i] for i in places],
                                                   [rows[i].key for i in places], np.random.default_rng(seed)))
    entries = [
        {"row": row.index, "kind": row.kind, "motion": written(row.codes, streams), "said": text,
         "captions": list(real), "chrf": chrf(text, real)}
        for row, text, real in zip(rows, by_row[MODEL], references, strict=True)]
    scores.captions = sorted(entries, key=lambda entry: entry["chrf"])
    values = {name: scores.table[name]["all"]["chrf"].value for name in by_row}
    baselines = (f"; the caption of the nearest training clip has {values[NEAREST_TOLD]:.1f}, any training caption "
                 f"{values[RANDOM_TOLD]:.1f}" if len(values) > 1 else "")
    scores.verdict.append(f"{scores.by[NAMES[0]]} says {len(set(by_row[MODEL]))} different captions of {len(rows)} "
                          f"clips, with a chrF of {values[MODEL]:.1f} of 100 to those of the data{baselines}.")


def _captions_that_fit(generator, rows: Sequence[EvaluationRow]) -> list[str] | None:
    """The clips' captions, if each fits the model beside each of the clips: clips are also asked with others'."""
    template, captions = generator.template, [row.text_query for row in rows]
    text_tokens = max(len(template.encode_text(caption)) for caption in captions)
    longest = template.length("edit", text_tokens, max(len(row.codes) for row in rows))
    return captions if longest <= generator.settings["MAX_SEQ_LEN"] else None


def _lost_tokens(generator, rows: Sequence[EvaluationRow], task: str, seed: int, scores: TaskScores,
                 streams: Streams = ONE_STREAM) -> None:
    """Score the share of a clip's lost tokens, a third of them, that are filled in correctly; a mean over clips."""
    captions = None
    if task == "inbetween" and "edit" in generator.tasks:  # a gap is what people edit by words
        captions = _captions_that_fit(generator, rows)
        if captions is None:
            scores.notes.append("gaps were not filled in by words: a clip and its caption do not fit MAX_SEQ_LEN")
    filled = lost_tokens.fill_in(generator, [row.codes for row in rows], [_participant(generator, row) for row in rows],
                                 task, seed, streams, captions)
    name = METRIC_OF[task]
    # Of all streams, and of each: (name, stream, codes of a step).
    parts = [(None, 0, 1), *((own, stream, streams.count) for stream, own in enumerate(streams.names))]
    for method, split in product(filled[0].filled, SPLITS):
        places = _places(rows, split)
        for own, stream, in_step in parts[:None if streams.count > 1 else 1]:
            estimate = mean_over_captions([filled[i].accuracy(method, stream, in_step) for i in places],
                                          [rows[i].key for i in places], np.random.default_rng(seed))
            table = scores.table if own is None else scores.by_stream.setdefault(own, {})
            table.setdefault(method, {}).setdefault(split, {})[name] = estimate
    if task == "denoise":
        shares = {method: f"{100 * scores.table[method]['all'][name].value:.0f} %" for method in lost_tokens.METHODS}
        scores.verdict.append(f"Of tokens lost anywhere {scores.by[name]} puts {shares[MODEL]} right; repeating the "
                              f"one before would {shares[lost_tokens.REPEATING]}.")
