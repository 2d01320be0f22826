"""What a model does beside text to motion, on the clips that are scored: captions for them, and lost tokens put back.

A stage that was not trained for a task leaves it to the latest stage before it in the same run that was. What answers
is named with every figure, for it is not the model whose clips are scored.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from metrics import nearest_clips
from motion_llm.decoding.jobs import MOST_TEXT_TOKENS
from motion_llm.decoding.request import MotionRequest
from motion_llm.evaluation import lost_tokens
from motion_llm.evaluation.caption_metrics import NAMES, chrf, score_captions
from motion_llm.evaluation.intervals import NOT_AVAILABLE, Estimate, mean_over_captions
from motion_llm.evaluation.rows import Asked, AskedRow
from motion_llm.evaluation.table import METRICS, MODEL, NEAREST_TOLD, RANDOM_TOLD, SPLITS, Table
from motion_llm.network.folder import MOTION_CONFIG, read_motion_config

log = logging.getLogger(__name__)

MOST_CAPTIONED, MOST_FILLED = 256, 128  # clips; a filled one is asked about three times, and costs as much as a caption
METRIC_OF = {metric.task: name for name, metric in METRICS.items() if metric.task in lost_tokens.TASKS}


@dataclass
class TaskScores:
    """table: row -> split -> metric -> Estimate, for the metrics of these tasks alone. by: metric -> the folder that
    answered. captions: each captioned clip with what was said of it, worst chrF first. missing: metrics that there are
    not, and why. notes, verdict: sentences."""

    table: Table = field(default_factory=dict)
    by: dict[str, str] = field(default_factory=dict)
    captions: list[dict] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    verdict: list[str] = field(default_factory=list)

    def put(self, row: str, split: str, found: Mapping[str, Estimate]) -> None:
        self.table.setdefault(row, {}).setdefault(split, {}).update(found)

    def lack(self, tasks: Sequence[str], reason: str) -> None:
        names = [name for name, metric in METRICS.items() if metric.task in tasks]
        self.missing.append(f"not available: {', '.join(names)} ({reason})")

    def add_to(self, table: Table) -> None:
        for row, splits in self.table.items():
            whole = table.setdefault(row, {split: dict.fromkeys(METRICS, NOT_AVAILABLE) for split in SPLITS})
            for split, found in splits.items():
                whole[split] |= found


def without_model() -> TaskScores:
    scores = TaskScores()
    scores.lack(("m2t", *lost_tokens.TASKS), "they need a model that answers, not clips from a file")
    return scores


def score_tasks(asked: Asked, model_path: Path, kept: Mapping, device: str | None, seed: int) -> TaskScores:
    """kept: the model's motion_config.json. Raises ModelError, GenerationError."""
    from model import start_unsloth

    start_unsloth(device)
    from generate import MotionGenerator

    scores, able = TaskScores(), {}
    for task in ("m2t", *lost_tokens.TASKS):
        able.setdefault(stage_for(task, model_path, kept), []).append(task)
    if nobody := able.pop(None, []):
        scores.lack(nobody, f"no stage of this run was trained for {', '.join(nobody)}")
    for folder, tasks in able.items():
        log.info("%s: by %s", ", ".join(tasks), folder)
        generator = MotionGenerator(folder, device=device)
        for task in tasks:
            rows = _clips(generator, asked.rows, task, seed)
            if not rows:
                scores.lack([task], "no clip is long enough and fits MAX_SEQ_LEN")
                continue
            scores.by |= {name: folder.name for name, metric in METRICS.items() if metric.task == task}
            (_captions if task == "m2t" else _lost_tokens)(generator, asked, rows, task, seed, scores)
        if folder != model_path.resolve():
            scores.notes.append(f"{', '.join(tasks)}: answered by {folder.name}, the latest stage that was trained for "
                                f"that; {model_path.name} was not")
    return scores


def stage_for(task: str, model_path: Path, kept: Mapping) -> Path | None:
    """The model's folder if it was trained for the task, else that of the latest stage before it in the same run that
    was; None if there is none."""
    own = model_path.resolve()
    if task in kept["tasks"]:
        return own
    for path in sorted(own.parent.glob(f"*/{MOTION_CONFIG}"), reverse=True):
        content = read_motion_config(path.parent) if path.parent.name < own.name else {"tasks": ()}
        if task in content["tasks"] and content.get("data_fingerprint") == kept.get("data_fingerprint"):
            return path.parent
    return None


def _clips(generator, rows: Sequence[AskedRow], task: str, seed: int) -> list[AskedRow]:
    """The first row of each motion that the task can be asked about, as many as are asked, drawn by the seed."""
    template, positions = generator.template, generator.settings["MAX_SEQ_LEN"]
    least, taken, most = (1, ("m2t", MOST_TEXT_TOKENS), MOST_CAPTIONED) if task == "m2t" else (
        lost_tokens.LEAST, ("denoise", 0), MOST_FILLED)  # every question about lost tokens is denoising's
    distinct = {tuple(row.codes): row for row in reversed(rows)}
    able = [row for row in rows if distinct[tuple(row.codes)] is row and len(row.codes) >= least
            and template.length(*taken, len(row.codes)) <= positions]
    return [able[i] for i in np.sort(np.random.default_rng(seed).permutation(len(able))[:most])]


def _person(generator, row: AskedRow) -> str | None:
    return row.participant_id if row.participant_id in generator.vocabulary.participants else None


def _places(rows: Sequence[AskedRow], split: str) -> list[int]:
    return [i for i, row in enumerate(rows) if split in ("all", row.kind)]


def _captions(generator, asked: Asked, rows: Sequence[AskedRow], task: str, seed: int, scores: TaskScores) -> None:
    """The model's likeliest caption of each clip, beside that of the nearest training clip and any training caption."""
    results = generator.answer([MotionRequest(task, motion=row.codes, participant_id=_person(generator, row),
                                              temperature=0) for row in rows], seed=seed)
    said = {MODEL: [result.text for result in results]}
    if asked.training is not None:
        texts, rng = asked.training.texts, np.random.default_rng(seed)
        near = nearest_clips([row.codes for row in rows], asked.training.clips)
        said |= {NEAREST_TOLD: [texts[place] for place, _ in near],
                 RANDOM_TOLD: [texts[i] for i in rng.integers(len(texts), size=len(rows))]}
    references = [row.captions or (row.text_query,) for row in rows]
    for way, captions in said.items():
        for split in SPLITS:
            own = _places(rows, split)
            scores.put(way, split, score_captions([captions[i] for i in own], [references[i] for i in own],
                                                  [rows[i].key for i in own], np.random.default_rng(seed)))
    scores.captions = sorted((
        {"row": row.index, "kind": row.kind, "motion": " ".join(map(str, row.codes)), "said": text,
         "captions": list(own), "chrf": chrf(text, own)}
        for row, text, own in zip(rows, said[MODEL], references, strict=True)), key=lambda one: one["chrf"])
    figure = {way: scores.table[way]["all"]["chrf"].value for way in said}
    others = (f"; the caption of the nearest training clip has {figure[NEAREST_TOLD]:.1f}, any training caption "
              f"{figure[RANDOM_TOLD]:.1f}" if len(figure) > 1 else "")
    scores.verdict.append(f"{scores.by[NAMES[0]]} says {len(set(said[MODEL]))} different captions of {len(rows)} "
                          f"clips, with a chrF of {figure[MODEL]:.1f} of 100 to those of the data{others}.")


def _lost_tokens(generator, asked: Asked, rows: Sequence[AskedRow], task: str, seed: int, scores: TaskScores) -> None:
    """A third of each clip's tokens lost, and the share of them put right, a mean over clips."""
    filled = lost_tokens.fill_in(generator, [row.codes for row in rows], [_person(generator, row) for row in rows],
                                 task, seed)
    name = METRIC_OF[task]
    for way in lost_tokens.WAYS:
        for split in SPLITS:
            own = _places(rows, split)
            scores.put(way, split, {name: mean_over_captions(
                [filled[i].right(way) for i in own], [rows[i].key for i in own], np.random.default_rng(seed))})
    if task == "denoise":
        found = {way: f"{100 * scores.table[way]['all'][name].value:.0f} %" for way in lost_tokens.WAYS}
        scores.verdict.append(f"Of tokens lost anywhere {scores.by[name]} puts {found[MODEL]} right; repeating the one "
                              f"before would {found[lost_tokens.REPEATING]}.")
