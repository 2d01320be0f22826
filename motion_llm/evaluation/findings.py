"""The results in words, and by caption, participant and length: where a model fails."""

import statistics
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

import metrics
from motion_llm.evaluation import embedding_metrics as embedding
from motion_llm.evaluation.intervals import Estimate
from motion_llm.evaluation.joint_judge import MOST_FRAMES
from motion_llm.evaluation.table import (
    FROM_CAPTIONS,
    FROM_EMBEDDINGS,
    FROM_JOINTS,
    FROM_REFERENCES,
    GROUPS,
    METRICS,
    MODEL,
    NEAREST,
    REAL,
    SHORT,
    SHUFFLED,
    SPLITS,
    TITLES,
    ClipSet,
    Judge,
    Table,
    clip_values,
    group_metrics,
    group_rows,
)

LEAST_TOP3 = 0.5  # R-Precision top 3 of real clips; below it an evaluator is too weak to be trusted


def percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def verdict(table: Table, captions: int) -> list[str]:
    """A summary of the table, in sentences; the first ones say where the evaluator is too weak to be trusted."""
    lines = []
    for split in ("seen", "unseen"):
        real = table[REAL][split]["r_precision_top3"]
        if real.value is not None and real.value < LEAST_TOP3:
            lines.append(f"The evaluator judges badly on {split} captions: real clips find theirs among the first 3 of "
                         f"{min(embedding.POOL, captions)} in {percent(real.value)} (guessing: "
                         f"{percent(embedding.chance(captions)[2])}). Do not trust R-Precision, MM-Dist, FID, KID, "
                         "Diversity and MModality there.")
        near = table[NEAREST][split]["r_precision_top3"] if split == "unseen" and NEAREST in table else None
        if near is not None and near.value is not None and near.value >= real.value:
            lines.append("On unseen captions the evaluator rates training clips of the most similar caption "
                         f"({percent(near.value)} found among 3) as high as real ones ({percent(real.value)}): there "
                         "R-Precision and MM-Dist show only whether a clip is roughly right. FID and the edit distance "
                         "show more.")
    model, real = table[MODEL]["all"], table[REAL]["all"]
    if model["r_precision_top3"].value is not None:
        lines.append(f"The model's clips find their caption among the first 3 of {min(embedding.POOL, captions)} in "
                     f"{percent(model['r_precision_top3'].value)}; real clips in "
                     f"{percent(real['r_precision_top3'].value)}, with captions shuffled in "
                     f"{percent(table[SHUFFLED]['all']['r_precision_top3'].value)}.")
    near, edit = table.get(NEAREST), "normalised_edit_distance"
    if near is not None and near["all"][edit].value is not None:
        lines.append(f"Its edit distance to the nearest real clip of the caption is {model[edit].value:.2f} of the "
                     f"length; a training clip of the most similar caption has {near['all'][edit].value:.2f}.")
    for split in ("seen", "unseen"):
        part = table[MODEL][split]
        if part["length_accuracy"].value is not None:
            lines.append(f"On {split} captions {percent(part['length_accuracy'].value)} of its clips are within 10 % "
                         "of a real clip's length.")
    return lines


def breakdown(judge: Judge, generated: Sequence[Sequence[Sequence[int]]]) -> dict[str, list[dict]]:
    """Means over the clips of each caption, each participant and each quarter of the real lengths.

    Captions and participants are sorted worst first by normalised edit distance. Entries have "name", "n",
    "expected_length", "length" and the metrics; a caption also its "kind" and its worst "clip" with the nearest "real".
    """
    samples = len(generated[0])
    sets = [ClipSet.of(judge, [clips[k] for clips in generated]) for k in range(samples)]
    values = [clip_values(judge, clip_set) for clip_set in sets]
    names = [name for name in (*FROM_REFERENCES, *FROM_CAPTIONS, "novelty", "participant_accuracy",
                              "dtw_joint_error")
             if name in values[0] and any(value is not None for value in values[0][name])]

    def means(name: str, places: Sequence[int]) -> dict:
        entry = {"name": name, "n": len(places) * samples,
                 "expected_length": statistics.median(len(judge.rows[i].codes) for i in places),
                 "length": statistics.median(len(generated[i][k]) for i in places for k in range(samples))}
        for metric in names:
            numbers = [of_set[metric][i] for of_set in values for i in places if of_set[metric][i] is not None]
            entry[metric] = sum(numbers) / len(numbers) if numbers else None
        return entry

    captions = []
    for places in judge.references.values():
        row = judge.rows[places[0]]
        worst, k = max(((i, k) for i in places for k in range(samples)),
                       key=lambda pair: values[pair[1]]["normalised_edit_distance"][pair[0]])
        clip = generated[worst][k]
        nearest = min((judge.rows[i].codes for i in places),
                      key=lambda codes: metrics.normalised_edit_distance(clip, codes))
        captions.append(means(row.text_query, places) | {
            "kind": row.kind, "clip": " ".join(map(str, clip)), "real": " ".join(map(str, nearest))})
    people = defaultdict(list)
    for place, row in enumerate(judge.rows):
        people[row.participant_id].append(place)
    sizes = np.array([len(row.codes) for row in judge.rows])
    # Clips of one length are all in one quarter.
    quarter = np.searchsorted(np.quantile(sizes, [0.25, 0.5, 0.75], method="lower"), sizes)
    quarters = [np.flatnonzero(quarter == part) for part in np.unique(quarter)]

    def worst_first(entries: list[dict]) -> list[dict]:
        return sorted(entries, key=lambda entry: (-entry["normalised_edit_distance"], entry["name"]))

    return {"captions": worst_first(captions),
            "participants": worst_first([means(name, places) for name, places in people.items() if name is not None]),
            "lengths": [means(f"{sizes[part].min()} to {sizes[part].max()} tokens", part.tolist())
                        for part in quarters]}


def deviations(judge: Judge, generated: Sequence[Sequence[Sequence[int]]]) -> list[str]:
    """Sentences that say which figures are not measured as they are defined."""
    notes, pool = [], len(judge.captions)
    if judge.joints is not None:
        broken = sum(not judge.joints.decodes(clip) for clips in generated for clip in clips)
        if broken:
            notes.append(f"{broken} clips cannot be decoded; DTW joint error and FID of joints leave them out")
        if judge.joints.thinned:
            notes.append(f"{len(judge.joints.thinned)} clips have more than {MOST_FRAMES:,} frames; their DTW joint "
                         f"error is from every second, third, ... frame, at most {MOST_FRAMES:,}")
    if judge.evaluator is None:
        return notes
    clips = int(statistics.median(len(generated[0]) * len(places) for places in judge.references.values()))
    if clips < embedding.DEFINED_SAMPLES:
        notes.append(f"MModality is from all pairs of about {clips} clips a caption; it is defined with "
                     f"{embedding.DEFINED_SAMPLES} (--num_samples)")
    if pool < embedding.POOL:
        notes.append(f"R-Precision is among {pool} captions, as there are no more; it is defined with "
                     f"{embedding.POOL}")
    if len(judge.rows) <= judge.evaluator.config.dimensions:
        notes.append(f"FID is from {len(judge.rows)} clips in {judge.evaluator.config.dimensions} dimensions: too few "
                     "to tell how they spread")
    return notes


def not_available(table: Table, judge: Judge, with_nll: bool) -> list[str]:
    """Sentences that say which metrics of the model's clips are missing, and why."""
    missing = [name for name in group_metrics("text to motion") if table[MODEL]["all"][name].value is None]
    reasons = defaultdict(list)
    for name in missing:
        if name == "nll_per_token" and not with_nll:
            reasons["it needs the model that generated, not its clips"].append(name)
        elif name in (*FROM_EMBEDDINGS, "novelty") and judge.training is None:
            reasons["no training clips"].append(name)
        elif name in FROM_EMBEDDINGS and judge.evaluator is None:
            reasons["no evaluator"].append(name)
        elif name in FROM_JOINTS and judge.joints is None:
            reasons["no codec of the tokens: CODEC_PATH when training, or --codec"].append(name)
        elif name == "participant_accuracy":
            reasons["the training clips do not have two participants, or the rows none of them"].append(name)
        else:
            reasons["too few clips"].append(name)
    return [f"not available: {', '.join(names)} ({reason})" for reason, names in reasons.items()]


def value_text(estimate: Estimate, name: str) -> str:
    """A value as text, "-" if there is none."""
    return "-" if estimate.value is None else f"{estimate.value:.{METRICS[name].digits}f}"


def interval_text(estimate: Estimate, name: str) -> str:
    """The interval of a value as text, "" if there is none."""
    if estimate.low is None:
        return ""
    digits = METRICS[name].digits
    return f"{estimate.low:.{digits}f} to {estimate.high:.{digits}f}"


def format_scores(table: Table, lines: Sequence[str], notes: Sequence[str]) -> str:
    """The verdict, a table for each group of metrics and each split, and the notes, as text."""
    texts = [*lines, ""]
    for group in GROUPS:
        for split in SPLITS:
            texts += _format_split(table, group, split)
    texts.append("columns: " + "; ".join(f"{SHORT[name]}: {TITLES[name]}" for name in table if name != MODEL))
    if table[REAL]["all"]["unigram_jsd"].value is not None:
        texts.append("note: the real clips' FID, KID and divergences compare a set with itself; the column another "
                     "has those of another set of real clips")
    return "\n".join([*texts, *(f"note: {note}" for note in notes)])


def _format_split(table: Table, group: str, split: str) -> list[str]:
    """Lines of a table whose rows are metrics and whose columns are the rows of `table`; none if the model has no
    value."""
    arrows, rows, model = {"up": "higher", "down": "lower", "real": "as real"}, group_rows(table, group), table[MODEL]
    if not any(model[split][name].n for name in group_metrics(group)):
        return []
    title = f"{split} captions" if group == "text to motion" else f"{group}, {split} captions"
    head = f"{title:<33}{'better':<9}{'model':>8}  {'95 % interval':<18}" + "".join(
        f"{SHORT[row]:>10}" for row in rows) + f"{'n':>7}"
    lines = [head, "-" * len(head)]
    for name in group_metrics(group):
        if all(table[row][split][name].value is None for row in (MODEL, *rows)):
            continue
        estimate = model[split][name]
        others = "".join(f"{value_text(table[row][split][name], name):>10}" for row in rows)
        lines.append(f"{METRICS[name].title:<33}{arrows[METRICS[name].better]:<9}{value_text(estimate, name):>8}  "
                     f"{interval_text(estimate, name):<18}{others}{estimate.n or '':>7}")
    return [*lines, ""]
