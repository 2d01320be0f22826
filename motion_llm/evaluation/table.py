"""The evaluation's table: every metric of generated clips, real clips and baselines without a model, with intervals.

A mean over clips has an interval over captions. A metric of a whole set of
clips (FID, divergence, usage, ...) has one over the samples: the first clips of all rows are a set, and so on
(intervals.py). Where there is one sample, that of FID, KID, Diversity and divergences is over captions too
(set_intervals.py). n counts clips of the data, not samples.

Of motions of several streams, lengths count steps, and runs of codes are of one stream's codes, counted together.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

import metrics
from motion_llm.dataset.rows import caption_key
from motion_llm.evaluation import embedding_metrics as embedding
from motion_llm.evaluation.clips import EvaluationRow, Training
from motion_llm.evaluation.evaluator import Evaluator
from motion_llm.evaluation.intervals import NOT_AVAILABLE, Estimate, mean_over_captions, over_repeats
from motion_llm.evaluation.joint_judge import JointJudge
from motion_llm.evaluation.metric_names import (
    ANOTHER,
    FROM_CAPTIONS,
    FROM_REFERENCES,
    METRICS,
    MODEL,
    NEAREST,
    OF_PAIRED_SETS,
    RANDOM,
    REAL,
    SHUFFLED,
    SPLITS,
    Table,
    blank,
)
from motion_llm.evaluation.progress import progress_bar
from motion_llm.evaluation.recogniser import EDGE, ActionRecogniser
from motion_llm.evaluation.set_intervals import around, clip_weights, divergences, diversities, fids, kids
from motion_llm.evaluation.stream_clips import all_columns, columns, decodable, in_a_row
from motion_llm.streams import Streams


class Judge:
    """What clips are scored against. codebook: the streams, or the codes of one. evaluator, training, joints: None if
    not available; metrics that need them are then left out. sets: row of the table -> the sets of clips that score_all
    scored."""

    def __init__(self, rows: Sequence[EvaluationRow], codebook: Streams | int, evaluator: Evaluator | None,
                 training: Training | None, seed: int, joints: JointJudge | None = None):
        self.streams = Streams.one(codebook) if isinstance(codebook, int) else codebook
        self.rows, self.codebook_size, self.seed = rows, self.streams.size, seed
        self.evaluator, self.training, self.joints = evaluator, training, joints
        self.by_caption, self.references = _by_caption(rows)
        pool = dict.fromkeys(row.key for row in rows)
        if training is not None and len(pool) < embedding.POOL:  # filled up with training captions
            others = [key for key in dict.fromkeys(training.keys) if key not in pool]
            picked = np.random.default_rng(seed).permutation(len(others))[:embedding.POOL - len(pool)]
            pool |= dict.fromkeys(others[i] for i in np.sort(picked))
        self.captions = list(pool)
        places = {key: place for place, key in enumerate(self.captions)}
        self.own_caption = np.array([places[row.key] for row in rows])
        self.other_captions = [[places[key] for key in _keys(row) if key in places and key != row.key] for row in rows]
        if evaluator is not None:
            self.caption_embeddings = evaluator.embed_captions(self.captions)
            self.real_embeddings = evaluator.embed_motions([row.codes for row in rows])
        self.recogniser = self._participants()
        self.sets: dict[str, list[ClipSet]] = {}
        self._novelty: dict[tuple[int, ...], float] = {}
        self.scored: Callable[[], object] = lambda: None  # called after each clip, for a bar

    def _participants(self) -> ActionRecogniser | None:
        """A classifier of participants, fitted on real training clips; None for fewer than two participants."""
        if self.training is None:
            return None
        places = [i for i in self.training.distinct if self.training.people[i] is not None][:5000]
        people = [self.training.people[i] for i in places]
        if len(set(people)) < 2:
            return None
        return ActionRecogniser().fit(self.for_recogniser([self.training.clips[i] for i in places]), people)

    def for_recogniser(self, clips: Sequence[Sequence[int]]) -> list[Sequence[int]]:
        return [in_a_row(clip, self.streams.count, EDGE) for clip in clips]

    def novelty(self, clips: Sequence[Sequence[int]]) -> list[float | None]:
        if self.training is None:
            return [None] * len(clips)
        keys = [tuple(clip) for clip in clips]
        new = list(dict.fromkeys(key for key in keys if key not in self._novelty))
        self._novelty |= dict(zip(new, metrics.novelty(new, self.training.clips) if new else [], strict=True))
        return [self._novelty[key] for key in keys]


def _keys(row: EvaluationRow) -> list[str]:
    """The keys of all captions of a row's clip, its own first."""
    return list(dict.fromkeys([row.key, *map(caption_key, row.captions)]))


def _by_caption(rows: Sequence[EvaluationRow]) -> tuple[dict[str, list[int]], dict[str, list[int]]]:
    """Caption key -> the rows that are scored under it; and of the same captions all rows whose clip has them."""
    scored, references = defaultdict(list), defaultdict(list)
    for place, row in enumerate(rows):
        scored[row.key].append(place)
        for key in _keys(row):
            references[key].append(place)
    return dict(scored), {key: references[key] for key in scored}


@dataclass(frozen=True)
class ClipSet:
    """One set of clips for the rows of a judge: clips[i] for row places[i]. captions: index in judge.captions of the
    caption that each clip is scored against. also: those of other captions of the same real clip. references: real
    clips of the row's caption. real: the row whose real clip
    each clip is compared with frame by frame, its own unless captions are replaced; None if no row has the caption."""

    clips: list[Sequence[int]]
    places: list[int]
    captions: np.ndarray
    also: list[list[int]]
    references: list[list[Sequence[int]]]
    real: list[int | None]

    @classmethod
    def of(cls, judge: Judge, clips: Sequence[Sequence[int] | None], excluded: Sequence[int | None] | None = None,
           captions: np.ndarray | None = None) -> "ClipSet":
        """clips: one for each row, or None. excluded: for each row the row of a real clip that is no reference, as it
        is the clip itself. captions: scored against these instead of the rows' own."""
        places = [i for i, clip in enumerate(clips) if clip is not None]
        references = [[judge.rows[k].codes for k in judge.references[judge.rows[i].key]
                       if excluded is None or k != excluded[i]] for i in places]
        if captions is None:
            return cls([clips[i] for i in places], places, judge.own_caption[places],
                       [judge.other_captions[i] for i in places], references, places)
        fitting = [judge.references.get(judge.captions[captions[i]], []) for i in places]
        real = [rows[i % len(rows)] if rows else None for i, rows in zip(places, fitting, strict=True)]
        return cls([clips[i] for i in places], places, captions[places], [[] for _ in places], references, real)


def clip_values(judge: Judge, clip_set: ClipSet) -> dict[str, list[float | None]]:
    """metric -> a value for each clip, for the metrics that are means over clips; None where a clip has none."""
    values: dict[str, list] = defaultdict(list)
    in_step = judge.streams.count
    for clip, references in zip(clip_set.clips, clip_set.references, strict=True):
        scores = metrics.score_motions([clip], [references], in_step) if references else None
        for name in FROM_REFERENCES:
            values[name].append(None if scores is None else getattr(scores, name))
        values["repetition_rate"].append(_repetition_rate(clip, in_step))
        values["valid_share"].append(float(decodable(clip, judge.streams)))
    values["novelty"] = judge.novelty(clip_set.clips)
    for clip, place in zip(clip_set.clips, clip_set.real, strict=True):
        if judge.joints is not None:
            values["dtw_joint_error"].append(None if place is None else judge.joints.error(clip, place))
        judge.scored()
    people = [judge.rows[i].participant_id for i in clip_set.places]
    if judge.recogniser is not None:
        recognised = judge.recogniser.predict(judge.for_recogniser(clip_set.clips))
        values["participant_accuracy"] = [
            float(name == person) if person in judge.recogniser.labels else None
            for name, person in zip(recognised, people, strict=True)]
    if judge.evaluator is not None and clip_set.clips and len(judge.captions) > 1:
        motions = judge.evaluator.embed_motions(clip_set.clips)
        hits = embedding.retrieval_hits(motions, judge.caption_embeddings, clip_set.captions,
                                        np.random.default_rng(judge.seed), also=clip_set.also)
        for top, column in zip(embedding.TOPS, hits.T, strict=True):
            values[f"r_precision_top{top}"] = column.astype(float).tolist()
        values["mm_dist"] = embedding.caption_distances(
            motions, judge.caption_embeddings, clip_set.captions).tolist()
    return values


def _repetition_rate(clip: Sequence[int], in_step: int) -> float | None:
    rates = [rate for column in columns(clip, in_step) if (rate := metrics.repetition_rate(column)) is not None]
    return sum(rates) / len(rates) if rates else None


def set_values(judge: Judge, clips: Sequence[Sequence[int]], real: Sequence[int]) -> dict[str, float | None]:
    """metric -> value, for the metrics of a whole set. real: the rows whose real clips it is compared with."""
    in_step = judge.streams.count
    parts, real_parts = all_columns(clips, in_step), all_columns([judge.rows[i].codes for i in real], in_step)
    values = {
        "unigram_jsd": metrics.ngram_jsd(parts, real_parts, 1),
        "bigram_jsd": metrics.ngram_jsd(parts, real_parts, 2),
        "codebook_usage": metrics.codebook_usage(parts, judge.codebook_size),
        "codebook_perplexity": metrics.codebook_perplexity(parts),
        "distinct_1": metrics.distinct_n(parts, 1),
        "distinct_2": metrics.distinct_n(parts, 2),
    }
    if judge.evaluator is not None and min(len(clips), len(real)) > 1:
        motions, real_motions = judge.evaluator.embed_motions(clips), judge.real_embeddings[real]
        values |= {"fid": embedding.fid(motions, real_motions), "kid": embedding.kid(motions, real_motions),
                   "diversity": embedding.diversity(motions)}
    if judge.joints is not None:
        values["fid_joints"] = judge.joints.fid(clips, real)
    return values


def _set_estimate(judge: Judge, clips: Sequence[Sequence[int]], real: Sequence[int]) -> dict[str, Estimate]:
    """metric -> Estimate for a set that was generated once; see set_intervals.py."""
    values, real_clips, n = set_values(judge, clips, real), [judge.rows[i].codes for i in real], len(clips)
    estimates = {name: over_repeats([value], n) for name, value in values.items()}
    weights = clip_weights([judge.rows[i].key for i in real], np.random.default_rng(judge.seed))
    in_step = judge.streams.count
    parts = all_columns(clips, in_step), all_columns(real_clips, in_step)
    of_parts = weights if in_step == 1 else np.repeat(weights, in_step, axis=1)
    resampled = {"unigram_jsd": divergences(*parts, 1, of_parts), "bigram_jsd": divergences(*parts, 2, of_parts)}
    if values.get("fid") is not None:
        motions, real_motions = judge.evaluator.embed_motions(clips), judge.real_embeddings[real]
        resampled |= {"fid": fids(motions, real_motions, weights), "kid": kids(motions, real_motions, weights),
                      "diversity": diversities(motions, weights)}
    if values.get("fid_joints") is not None and all(map(judge.joints.decodes, clips)):
        resampled["fid_joints"] = fids(*judge.joints.standardised(clips, real), weights)
    itself = list(map(list, clips)) == list(map(list, real_clips))  # nothing to estimate where a set meets itself
    for name, numbers in resampled.items():
        if values[name] is not None and not (itself and name in OF_PAIRED_SETS):
            estimates[name] = around(values[name], numbers, n, -np.inf if name == "kid" else 0.0)
    return estimates


def score_row(judge: Judge, sets: Sequence[ClipSet], skip: Sequence[str] = ()) -> dict[str, dict[str, Estimate]]:
    """split -> metric -> Estimate for some sets of clips, each with at most one clip for each row.

    skip: metrics that mean nothing for these clips. Every split has every metric, NOT_AVAILABLE if it has no value.
    """
    by_clip = [clip_values(judge, clip_set) for clip_set in sets]
    scores = blank(METRICS)
    for split in SPLITS:
        inside = [[k for k, i in enumerate(clip_set.places) if split in ("all", judge.rows[i].kind)]
                  for clip_set in sets]
        if not any(inside):
            continue
        places = [clip_set.places[k] for clip_set, members in zip(sets, inside, strict=True) for k in members]
        keys = [judge.rows[place].key for place in places]
        rng = np.random.default_rng(judge.seed)
        for name in by_clip[0]:
            of_clips = [values[name][k] for values, members in zip(by_clip, inside, strict=True) for k in members]
            scores[split][name] = mean_over_captions(of_clips, keys, rng, clips=places)
        parts = [([clip_set.clips[k] for k in members], [clip_set.places[k] for k in members])
                 for clip_set, members in zip(sets, inside, strict=True)]
        if len(parts) == 1:
            scores[split] |= _set_estimate(judge, *parts[0])
        else:
            of_sets = [set_values(judge, *part) for part in parts]
            scores[split] |= {name: over_repeats([values[name] for values in of_sets], len(inside[0]))
                              for name in of_sets[0]}
        if judge.evaluator is not None:
            clips = [clip for part, _ in parts for clip in part]
            scores[split]["multimodality"] = _multimodality(judge.evaluator, clips, keys, rng)
        for name in skip:
            scores[split][name] = NOT_AVAILABLE
    return scores


def _multimodality(evaluator: Evaluator, clips: Sequence[Sequence[int]], keys: Sequence[str],
                   rng: np.random.Generator) -> Estimate:
    """Over the captions with two clips or more, of any participant; n: the number of those captions."""
    embeddings = evaluator.embed_motions(clips)
    by_key = defaultdict(list)
    for place, key in enumerate(keys):
        by_key[key].append(place)
    several = {key: places for key, places in by_key.items() if len(places) > 1}
    spread = [float(embedding.sample_distances(embeddings[places][None])[0]) for places in several.values()]
    return mean_over_captions(spread, list(several), rng)


def score_all(judge: Judge, generated: Sequence[Sequence[Sequence[int]]],
              nll: Mapping[str, tuple[float, int]] | None) -> Table:
    """The whole table. generated: for each row its clips, equally many. nll: caption key -> the model's NLL of its
    real clips, as the sum over their tokens and the number of tokens; None without a model."""
    sets = (3 if judge.training is None else 5) * len(generated[0]) + 1
    with progress_bar(sets * len(judge.rows), "scoring this model, real clips and baselines") as bar:
        judge.scored = bar.update
        return _score_all(judge, generated, nll)


def _score_all(judge: Judge, generated: Sequence[Sequence[Sequence[int]]],
               nll: Mapping[str, tuple[float, int]] | None) -> Table:
    samples = len(generated[0])
    rows, rng = judge.rows, np.random.default_rng(judge.seed)
    real = [row.codes for row in rows]
    table: Table = {}

    def score(row: str, sets: list[ClipSet], skip: Sequence[str] = ()) -> None:
        judge.sets[row], table[row] = sets, score_row(judge, sets, skip)

    score(MODEL, [ClipSet.of(judge, [clips[k] for clips in generated]) for k in range(samples)])
    for split in SPLITS:
        table[MODEL][split]["nll_per_token"] = _nll(nll, rows, split, rng)
    # A real clip is among its own references, so its distance to them means nothing.
    score(REAL, [ClipSet.of(judge, real)], (*FROM_REFERENCES, "dtw_joint_error"))
    score(ANOTHER, [ClipSet.of(judge, *_another(judge, rng)) for _ in range(samples)])
    if judge.training is not None:
        clips, near = judge.training.clips, [judge.training.of_nearest_caption(row) for row in rows]
        drawn = [[clips[places[rng.integers(len(places))]] for places in near] for _ in range(samples)]
        score(NEAREST, [ClipSet.of(judge, chosen) for chosen in drawn])
        once = judge.training.distinct
        drawn = [[clips[once[i]] for i in rng.integers(len(once), size=len(rows))] for _ in range(samples)]
        score(RANDOM, [ClipSet.of(judge, chosen) for chosen in drawn])
    others = [name for name in METRICS if name not in (*FROM_CAPTIONS, "dtw_joint_error")]
    score(SHUFFLED, [ClipSet.of(judge, real, captions=_shuffled(judge, rng)) for _ in range(samples)], others)
    return table


def _shuffled(judge: Judge, rng: np.random.Generator) -> np.ndarray:
    """(rows,): for each row the index of a caption that its clip does not have; its own if it has all."""
    count = len(judge.captions)
    drawn = (judge.own_caption + rng.integers(1, max(2, count), size=len(judge.own_caption))) % count
    for place, others in enumerate(judge.other_captions):
        right = {int(judge.own_caption[place]), *others}
        drawn[place] = next(((drawn[place] + k) % count for k in range(count)
                             if (drawn[place] + k) % count not in right), drawn[place])
    return drawn


def _another(judge: Judge, rng: np.random.Generator) -> tuple[list, list]:
    """For each row another real clip of its caption, or None; and the row that it is from, which then is no reference,
    None for a training clip. A row that was trained on is not compared with itself."""
    by_key = judge.training.by_key if judge.training is not None else {}
    clips, excluded = [], []
    for place, row in enumerate(judge.rows):
        trained = [i for i in by_key.get(row.key, ()) if judge.training.clips[i] != row.codes]
        held = [i for i in judge.references[row.key] if i != place]
        if trained:
            clips.append(judge.training.clips[trained[rng.integers(len(trained))]])
            excluded.append(None)
        else:
            excluded.append(held[rng.integers(len(held))] if held else None)
            clips.append(judge.rows[excluded[-1]].codes if held else None)
    return clips, excluded


def nll_estimates(nll: Mapping[str, tuple[float, int]] | None, rows: Sequence[EvaluationRow], seed: int
                  ) -> dict[str, Estimate]:
    """split -> the NLL a token of the rows whose captions have one; see score_all."""
    rows = [row for row in rows if nll is not None and row.key in nll]
    return {split: _nll(nll, rows, split, np.random.default_rng(seed)) for split in SPLITS}


def _nll(nll: Mapping[str, tuple[float, int]] | None, rows: Sequence[EvaluationRow], split: str,
         rng: np.random.Generator) -> Estimate:
    members = [row for row in rows if split in ("all", row.kind)]
    keys = list(dict.fromkeys(row.key for row in members))
    if nll is None or not keys:
        return NOT_AVAILABLE
    estimate = mean_over_captions([nll[key][0] / nll[key][1] for key in keys], keys, rng,
                                  weights=[nll[key][1] for key in keys])
    return replace(estimate, n=len(members))
