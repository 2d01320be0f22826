"""The results in words, and by caption, participant and length: where a model fails."""

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

import metrics
from motion_llm.evaluation import embedding_metrics as embedding
from motion_llm.evaluation.following import Following, is_weak
from motion_llm.evaluation.intervals import Estimate
from motion_llm.evaluation.joint_judge import MOST_FRAMES
from motion_llm.evaluation.metric_names import (
    ANOTHER,
    FROM_CAPTIONS,
    FROM_EMBEDDINGS,
    FROM_JOINTS,
    FROM_REFERENCES,
    GROUPS,
    MODEL,
    NEAREST,
    RANDOM,
    REAL,
    SHORT,
    SHUFFLED,
    SPLITS,
    TITLES,
    TOLD,
    Block,
    Table,
    group_metrics,
    group_rows,
)
from motion_llm.evaluation.stream_clips import written
from motion_llm.evaluation.table import ClipSet, Judge, clip_values

ARROWS = {"up": "higher", "down": "lower", "real": "as real"}
CLOSE = 1.1  # as far from real clips as these are from each other, or a tenth more, is as close


def percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def first_sentences(table: Table, follows: Following, parts: Mapping[str, Sequence[Mapping]]) -> list[str]:
    """Three sentences for someone who does not know the field: does it follow its captions, how close are its motions
    to real ones, and their lengths with what it does worst. parts: of `breakdown`."""
    return [follows.sentence, _closeness(table), _lengths_and_worst(table, parts)]


def _closeness(table: Table) -> str:
    name, unit = "dtw_joint_error", " mm"
    if table[MODEL]["all"][name].value is None:
        name, unit = "normalised_edit_distance", " %"
    scale = 1 if unit == " mm" else 100
    own, real, random = (table[row]["all"][name].value if row in table else None for row in (MODEL, ANOTHER, RANDOM))
    shown = {row: f"{scale * value:.0f}{unit}" for row, value in (("own", own), ("real", real), ("random", random))
             if value is not None}
    measured = (f"its joints are {shown['own']} away from those of the real clip" if unit == " mm" else
                f"{shown['own']} of their tokens differ from the nearest real clip of the caption")
    others = [*([f"{shown['real']} between two real clips of a caption"] if real is not None else []),
              *([f"{shown['random']} for any training clip"] if random is not None else [])]
    if real is not None and own <= CLOSE * real:
        told = "Its motions are as close to real ones as real ones are to each other"
    elif real is None or random is None or random <= real:
        told = "Of its motions"
    else:
        place = (own - real) / (random - real)  # 0: as another real clip, 1: as any clip
        told = ("Its motions are close to real ones" if place < 1 / 3 else "Its motions are some way from real ones"
                if place < 0.9 else "Its motions are no closer to the right real ones than any clip would be")
    return f"{told}: {measured}" + (f" ({', '.join(others)})." if others else ".")


def _lengths_and_worst(table: Table, parts: Mapping[str, Sequence[Mapping]]) -> str:
    share, other = (table[row]["all"]["length_accuracy"].value for row in (MODEL, ANOTHER))
    against = f" (of other real clips {percent(other)})" if other is not None else ""
    text = f"{percent(share)} of its clips are as long as a real one of their caption, within 10 %{against}"
    captions = parts["captions"]
    if len(captions) > 1:
        worst = captions[0]["name"]
        text += f"; it does worst at \u201c{worst if len(worst) <= 80 else worst[:80] + '...'}\u201d"
    return text + "."


def verdict(table: Table, captions: int) -> list[str]:
    """More sentences on the table: the model first, then how far the evaluator is to be trusted."""
    lines = []
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
    return [*lines, *_on_the_evaluator(table, captions)]


def _on_the_evaluator(table: Table, captions: int) -> list[str]:
    lines = []
    for split in SPLITS:
        real = table[REAL][split]["r_precision_top3"]
        if real.value is None:
            continue
        if is_weak(table, split):
            lines.append(f"The evaluator judges badly on {split} captions: real clips find theirs among the first 3 of "
                         f"{min(embedding.POOL, captions)} in {percent(real.value)} (guessing: "
                         f"{percent(embedding.chance(captions)[2])}). Do not trust R-Precision, MM-Dist, FID, KID, "
                         "Diversity and MModality there.")
            continue
        near = table[NEAREST][split]["r_precision_top3"] if split == "unseen" and NEAREST in table else None
        if near is not None and near.value is not None and near.value >= real.value:
            lines.append("On unseen captions the evaluator rates training clips of the most similar caption "
                         f"({percent(near.value)} found among 3) as high as real ones ({percent(real.value)}): there "
                         "R-Precision and MM-Dist show only whether a clip is roughly right. FID and the edit distance "
                         "show more.")
    return [*lines, *_above_real(table)]


def _above_real(table: Table) -> list[str]:
    """A sentence where other clips have a higher R-Precision than real ones."""
    name, above = "r_precision_top1", []
    for split in SPLITS:
        real = table[REAL][split][name]
        values = {row: table[row][split][name] for row in (MODEL, ANOTHER, NEAREST) if row in table}
        higher = [f"{TITLES[row]} {value_text(estimate, name)}" for row, estimate in values.items()
                  if estimate.value is not None and real.value is not None and estimate.value > real.value]
        if higher:
            above.append(f"on {split} captions ({value_text(real, name)}) below {', '.join(higher)}")
    return [f"The R-Precision of real clips is a yardstick, no upper limit. Its top 1 lies {'; '.join(above)}: the "
            "evaluator prefers clips that are typical of a caption, and held-out ones vary."] if above else []


def breakdown(judge: Judge, generated: Sequence[Sequence[Sequence[int]]]) -> dict[str, list[dict]]:
    """Means over the clips of each caption, each participant and each quarter of the real lengths.

    Captions and participants are sorted worst first by normalised edit distance. Entries have "name", "n",
    "expected_length", "length" and the metrics; a caption also its "kind" and its worst "clip" with the nearest "real".
    """
    samples, streams, in_step = len(generated[0]), judge.streams, judge.streams.count
    sets = [ClipSet.of(judge, [clips[k] for clips in generated]) for k in range(samples)]
    values = [clip_values(judge, clip_set) for clip_set in sets]
    names = [name for name in (*FROM_REFERENCES, *FROM_CAPTIONS, "novelty", "participant_accuracy",
                              "dtw_joint_error")
             if name in values[0] and any(value is not None for value in values[0][name])]

    def means(name: str, places: Sequence[int]) -> dict:
        entry = {"name": name, "n": len(places),
                 "expected_length": statistics.median(len(judge.rows[i].codes) // in_step for i in places),
                 "length": statistics.median(len(generated[i][k]) // in_step for i in places for k in range(samples))}
        for metric in names:
            numbers = [of_set[metric][i] for of_set in values for i in places if of_set[metric][i] is not None]
            entry[metric] = sum(numbers) / len(numbers) if numbers else None
        return entry

    captions = []
    for key, places in judge.by_caption.items():
        row = judge.rows[places[0]]
        worst, k = max(((i, k) for i in places for k in range(samples)),
                       key=lambda pair: values[pair[1]]["normalised_edit_distance"][pair[0]])
        clip = generated[worst][k]
        nearest = min((judge.rows[i].codes for i in judge.references[key]),
                      key=lambda codes: metrics.normalised_edit_distance(clip, codes))
        captions.append(means(row.text_query, places) | {
            "kind": row.kind, "clip": written(clip, streams), "real": written(nearest, streams)})
    people = defaultdict(list)
    for place, row in enumerate(judge.rows):
        people[row.participant_id].append(place)
    sizes = np.array([len(row.codes) // in_step for row in judge.rows])
    # Clips of one length are all in one quarter.
    quarter = np.searchsorted(np.quantile(sizes, [0.25, 0.5, 0.75], method="lower"), sizes)
    quarters = [np.flatnonzero(quarter == part) for part in np.unique(quarter)]

    def worst_first(entries: list[dict]) -> list[dict]:
        return sorted(entries, key=lambda entry: (-entry["normalised_edit_distance"], entry["name"]))

    return {"captions": worst_first(captions),
            "participants": worst_first([means(name, places) for name, places in people.items() if name is not None]),
            "lengths": [means(f"{sizes[part].min()} to {sizes[part].max()} {'tokens' if in_step == 1 else 'steps'}",
                              part.tolist())
                        for part in quarters]}


def examples(judge: Judge, generated: Sequence[Sequence[Sequence[int]]]) -> list[dict]:
    """A good, a typical and the worst clip, of different captions: by the distance of the first sample of each row to
    its real clip, in joints where there is a codec. Each with "label", "caption", "clip", "real" and "shown"."""
    found = clip_values(judge, ClipSet.of(judge, [clips[0] for clips in generated]))
    joints = judge.joints is not None
    distances = found["dtw_joint_error" if joints else "normalised_edit_distance"]
    order = [i for i in sorted(range(len(distances)), key=lambda i: (distances[i] is None, distances[i] or 0, i))
             if distances[i] is not None]
    aims = {"Good": len(order) // 10, "Typical": len(order) // 2, "Worst": len(order) - 1}
    chosen: dict[str, int] = {}
    for label in ("Worst", "Good", "Typical"):
        free = [place for place, i in enumerate(order)
                if judge.rows[i].key not in {judge.rows[k].key for k in chosen.values()}]
        if free:
            chosen[label] = order[min(free, key=lambda place: abs(place - aims[label]))]
    return [{"label": label, "caption": judge.rows[i].text_query,
             "clip": written(generated[i][0], judge.streams), "real": written(judge.rows[i].codes, judge.streams),
             "shown": f"{distances[i]:.0f} mm away" if joints else f"{100 * distances[i]:.0f} % differs"}
            for label in aims if (i := chosen.get(label)) is not None]


def deviations(judge: Judge, generated: Sequence[Sequence[Sequence[int]]]) -> list[str]:
    """Sentences that say which figures are not measured as they are defined."""
    notes, pool, names = [], len(judge.captions), judge.streams.names
    if len(names) > 1:
        notes.append(f"a step has {len(names)} tokens ({', '.join(names)}): lengths count steps, edit distances "
                     "tokens, pairs of codes are of one stream, and a stream that one of two clips lacks is different")
    if judge.joints is not None:
        broken = sum(not judge.joints.decodes(clip) for clips in generated for clip in clips)
        if broken:
            notes.append(f"{broken} clips cannot be decoded; DTW joint error and FID of joints leave them out")
        if judge.joints.thinned:
            notes.append(f"{len(judge.joints.thinned)} clips have more than {MOST_FRAMES:,} frames; their DTW joint "
                         f"error is from every second, third, ... frame, at most {MOST_FRAMES:,}")
    if judge.evaluator is None:
        return notes
    clips = int(statistics.median(len(generated[0]) * len(places) for places in judge.by_caption.values()))
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


def over_what(samples: int) -> str:
    """What the intervals of a set's metrics cover. samples: how often each clip was generated."""
    if samples > 1:
        return f"over the {samples} samples, so how much generating varies, not the choice of captions"
    return "bootstrap over captions with their clips, so the choice of captions, not how much generating varies"


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
    return "-" if estimate.value is None else f"{estimate.value:.{TOLD[name].digits}f}"


def interval_text(estimate: Estimate, name: str) -> str:
    """The interval of a value as text, "" if there is none."""
    if estimate.low is None:
        return ""
    digits = TOLD[name].digits
    return f"{estimate.low:.{digits}f} to {estimate.high:.{digits}f}"


def format_scores(table: Table, lines: Sequence[str], notes: Sequence[str], blocks: Sequence[Block] = ()) -> str:
    """The verdict, a table for each group of metrics and each split, the blocks, and the notes, as text."""
    texts = [*lines, ""]
    for group in GROUPS:
        for split in SPLITS:
            texts += _format_split(table, group, split)
    for block in blocks:
        texts += _format_block(block)
    texts.append("clips: different ones of the data, each of which may be generated several times; of MModality: "
                 "captions")
    texts.append("columns: " + "; ".join(f"{SHORT[name]}: {TITLES[name]}" for name in table if name != MODEL))
    if table[REAL]["all"]["unigram_jsd"].value is not None:
        texts.append("note: the real clips' FID, KID and divergences compare a set with itself; the column another "
                     "has those of another set of real clips")
    return "\n".join([*texts, *(f"note: {note}" for note in notes)])


def _format_split(table: Table, group: str, split: str) -> list[str]:
    """Lines of a table whose rows are metrics and whose columns are the rows of `table`; none if the model has no
    value."""
    rows, model = group_rows(table, group), table[MODEL]
    if not any(model[split][name].n for name in group_metrics(group)):
        return []
    head = _head(f"{split} captions" if group == "text to motion" else f"{group}, {split} captions", rows)
    lines = [head, "-" * len(head)]
    for name in group_metrics(group):
        if all(table[row][split][name].value is None for row in (MODEL, *rows)):
            continue
        lines.append(_figures(table, rows, split, name))
    return [*lines, ""]


def _format_block(block: Block) -> list[str]:
    """Lines of tables whose rows are the metrics of each part, for all captions."""
    lines = []
    for rows, metrics_of in block.parts():
        head = _head(f"{block.title}, all captions", rows)
        lines += [head, "-" * len(head)]
        for part, names in metrics_of.items():
            lines += [part, *(_figures(block.tables[part], rows, "all", name, " ") for name in names)]
        lines.append("")
    return lines


def _head(title: str, rows: Sequence[str]) -> str:
    others = "".join(f"{SHORT[row]:>10}" for row in rows)
    return f"{title:<33}{'better':<9}{'model':>8}  {'95 % interval':<18}{others}{'clips':>7}"


def _figures(table: Table, rows: Sequence[str], split: str, name: str, indent: str = "") -> str:
    """A line of a table: a metric of the model's clips and of other rows."""
    metric, estimate = TOLD[name], table[MODEL][split][name]
    others = "".join(f"{value_text(table[row][split][name], name) if row in table else '-':>10}" for row in rows)
    return (f"{indent + metric.title:<33}{ARROWS[metric.better]:<9}{value_text(estimate, name):>8}  "
            f"{interval_text(estimate, name):<18}{others}{estimate.n or '':>7}")
