"""table.py, findings.py: the table on clips of known quality."""

import json
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from test_evaluator import SMALL, sample_clips

from motion_llm.dataset.rows import Row, caption_key
from motion_llm.evaluation.clips import EvaluationRow, Training
from motion_llm.evaluation.embedding_metrics import chance
from motion_llm.evaluation.evaluator import train_evaluator
from motion_llm.evaluation.findings import (
    breakdown,
    deviations,
    examples,
    first_sentences,
    format_scores,
    not_available,
    verdict,
)
from motion_llm.evaluation.following import following
from motion_llm.evaluation.intervals import NOT_AVAILABLE, Estimate
from motion_llm.evaluation.metric_names import (
    ANOTHER,
    FROM_CAPTIONS,
    FROM_EMBEDDINGS,
    FROM_JOINTS,
    FROM_REFERENCES,
    METRICS,
    MODEL,
    NEAREST,
    RANDOM,
    RANDOM_TOLD,
    REAL,
    SHUFFLED,
    SPLITS,
)
from motion_llm.evaluation.table import ClipSet, Judge, _another, _shuffled, score_all


def rows_of(clips, captions, people=None, kinds=None) -> list[EvaluationRow]:
    return [EvaluationRow(i, text, caption_key(text), clip, people[i] if people else None,
                     kinds[i] if kinds else "seen") for i, (clip, text) in enumerate(zip(clips, captions, strict=True))]


@pytest.fixture(scope="module")
def judge() -> Judge:
    """240 real clips of 30 captions with an evaluator that was trained on these captions. Captions that begin with a
    walk are not in the training clips, so they are unseen for the baselines."""
    clips, captions = sample_clips(400, 0)
    evaluator = train_evaluator(clips, captions, *sample_clips(60, 1), SMALL)
    chosen = [i for i, text in enumerate(captions) if not text.startswith("a person walks")]
    training = Training("print", "somewhere").fill(
        [Row(i, captions[i], np.array(clips[i], np.int32), "AB"[clips[i][0] % 2]) for i in chosen], len(chosen), (), 0)
    clips, captions = sample_clips(240, 5)
    kinds = ["seen" if text in set(training.texts) else "unseen" for text in captions]
    return Judge(rows_of(clips, captions, ["AB"[clip[0] % 2] for clip in clips], kinds), 32, evaluator, training, 0)


def figures(table, name: str, split: str = "all") -> dict[str, float]:
    return {metric: estimate.value for metric, estimate in table[name][split].items()}


@pytest.fixture(scope="module")
def of_real_clips(judge):
    """The real clips scored as generated ones, one sample a row."""
    return score_all(judge, [[row.codes] for row in judge.rows], {row.key: (6.0, 4) for row in judge.rows})


def test_real_clips_given_as_generated_score_as_real(of_real_clips):
    model, real = figures(of_real_clips, MODEL), figures(of_real_clips, REAL)
    for name in METRICS:
        if name not in (*FROM_REFERENCES, "nll_per_token"):
            assert model[name] == pytest.approx(real[name]), name
    assert all(figures(of_real_clips, MODEL, split)["fid"] < 1e-5 for split in SPLITS)  # each with its own real clips
    assert model["unigram_jsd"] == model["bigram_jsd"] == 0
    assert model["normalised_edit_distance"] == 0 and model["length_accuracy"] == model["length_ratio"] == 1
    assert model["r_precision_top1"] > 0.8 and model["valid_share"] == 1
    assert all(real[name] is None for name in FROM_REFERENCES)  # each is its own reference


def test_the_floor_is_chance_and_the_rows_between_stand_in_order(of_real_clips):
    table = of_real_clips
    floor = [table[SHUFFLED]["all"][name].value for name in FROM_CAPTIONS[:3]]
    assert floor == pytest.approx(chance(30), abs=0.06)
    assert all(estimate == NOT_AVAILABLE for name, estimate in table[SHUFFLED]["all"].items()
               if name not in FROM_CAPTIONS)
    real, another, near, random = (figures(table, name, "seen") for name in (REAL, ANOTHER, NEAREST, RANDOM))
    assert random["r_precision_top3"] < 0.25 < 0.8 < another["r_precision_top3"]
    assert real["mm_dist"] < random["mm_dist"]
    # Both are draws from the training clips of the caption.
    assert another["normalised_edit_distance"] == pytest.approx(near["normalised_edit_distance"], abs=0.05)
    assert near["normalised_edit_distance"] < 0.7 * random["normalised_edit_distance"]
    assert near["novelty"] == random["novelty"] == 0 < real["novelty"]
    unseen = figures(table, ANOTHER, "unseen"), figures(table, NEAREST, "unseen")
    assert unseen[0]["r_precision_top1"] > unseen[1]["r_precision_top1"] + 0.3


def test_real_clips_given_under_other_captions_are_found_by_chance(judge, of_real_clips):
    """Each caption gets the clips of the next one: as a set they are real clips, but none fits its caption."""
    keys = list(judge.references)
    after = dict(zip(keys, keys[1:] + keys[:1], strict=True))
    clips = []
    for place, row in enumerate(judge.rows):
        others = judge.references[after[row.key]]
        clips.append([judge.rows[others[place % len(others)]].codes])
    model, real = figures(score_all(judge, clips, None), MODEL), figures(of_real_clips, REAL)
    for name, by_chance in zip(FROM_CAPTIONS, chance(30), strict=False):
        assert model[name] < by_chance + 0.1 < 0.5 < real[name], name
    assert model["normalised_edit_distance"] > 0.5 and model["mm_dist"] > 1.5 * real["mm_dist"]
    assert model["diversity"] == pytest.approx(real["diversity"], rel=0.1) and model["unigram_jsd"] < 0.05


def test_every_split_has_every_metric_with_its_interval_and_n(of_real_clips, judge):
    counts = Counter(row.kind for row in judge.rows) + Counter({"all": len(judge.rows)})
    for splits in of_real_clips.values():
        assert tuple(splits) == SPLITS
        for metrics in splits.values():
            assert list(metrics) == list(METRICS)
            for estimate in metrics.values():
                assert (estimate.value is None) == (estimate.n == 0)
                assert estimate.low is None or estimate.low - 1e-9 <= estimate.value <= estimate.high + 1e-9
    for split in SPLITS:
        assert of_real_clips[MODEL][split]["fid"].n == of_real_clips[MODEL][split]["mm_dist"].n == counts[split]
        assert of_real_clips[MODEL][split]["multimodality"].n == len(
            {row.key for row in judge.rows if split in ("all", row.kind)})
    assert of_real_clips[MODEL]["all"]["nll_per_token"].value == 1.5
    assert of_real_clips[MODEL]["all"]["nll_per_token"].n == len(judge.rows)


def test_constant_clips_are_caught(judge, of_real_clips):
    table = score_all(judge, [[[4] * 12] * 2 for _ in judge.rows], None)
    model, real = figures(table, MODEL), figures(table, REAL)
    assert model["diversity"] < 1e-3 < 1 < real["diversity"] and model["multimodality"] < 1e-3
    assert model["fid"] > 0.5 and model["kid"] > 0.01 and model["unigram_jsd"] > 0.7 and model["bigram_jsd"] > 0.9
    assert model["codebook_usage"] == 1 / 32 and model["codebook_perplexity"] == 1 and model["repetition_rate"] == 1
    assert model["r_precision_top1"] < 0.1 and model["nll_per_token"] is None
    assert table[MODEL]["all"]["r_precision_top1"].n == len(judge.rows)  # clips, not samples


def test_copies_of_training_clips_have_no_novelty(judge):
    copies = [judge.training.clips[i] for i in range(len(judge.rows))]
    assert figures(score_all(judge, [[clip] for clip in copies], None), MODEL)["novelty"] == 0


def test_the_asked_participant_is_recognised_where_the_clips_tell(judge, of_real_clips):
    """Here the first code depends on the participant, so clips with the participants swapped are not recognised."""
    assert figures(of_real_clips, MODEL)["participant_accuracy"] > 0.7
    people = ["BA"["AB".index(row.participant_id)] for row in judge.rows]
    rows = rows_of([row.codes for row in judge.rows], [row.text_query for row in judge.rows], people)
    swapped = Judge(rows, 32, None, judge.training, 0)
    table = score_all(swapped, [[row.codes] for row in judge.rows], None)
    assert figures(table, MODEL)["participant_accuracy"] == pytest.approx(
        1 - figures(of_real_clips, MODEL)["participant_accuracy"])


def test_invalid_clips_count_as_invalid_and_score_badly(judge):
    table = score_all(judge, [[[] if i % 2 else [99, -1]] for i in range(len(judge.rows))], None)
    model = figures(table, MODEL)
    assert model["valid_share"] == 0 and model["normalised_edit_distance"] == 1 and model["codebook_usage"] == 0
    assert np.isfinite(model["fid"])


def test_the_same_seed_gives_the_same_table(judge):
    clips = [[row.codes[::-1], row.codes[1:]] for row in judge.rows]
    assert score_all(judge, clips, None) == score_all(judge, clips, None)


def test_without_training_clips_what_needs_them_is_not_available_and_says_why(judge):
    bare = Judge(judge.rows, 32, None, None, 0)
    table = score_all(bare, [[row.codes] for row in judge.rows], None)
    assert set(table) == {MODEL, REAL, ANOTHER, SHUFFLED}
    for name in (*FROM_EMBEDDINGS, "novelty", "nll_per_token"):
        assert table[MODEL]["all"][name] == NOT_AVAILABLE
    assert table[MODEL]["all"]["bigram_jsd"].value == 0
    text = " ".join(not_available(table, bare, False))
    assert "fid" in text and "(no training clips)" in text and "nll_per_token (it needs the model" in text
    assert "this model" not in format_scores(table, verdict(table, 30), [])  # and the table can be shown


def test_few_captions_are_filled_up_with_training_captions(judge):
    few = Judge([row for row in judge.rows if row.key == judge.rows[0].key], 32, judge.evaluator, judge.training, 0)
    assert len(few.captions) == len(set(few.captions)) == 25 + (few.rows[0].kind == "unseen")  # 25 trained ones in all


# The text


def test_a_weak_evaluator_is_named_first(judge):
    from motion_llm.evaluation.evaluator import Evaluator

    untrained = Judge(judge.rows, 32, Evaluator(SMALL), judge.training, 0)
    table = score_all(untrained, [[row.codes] for row in judge.rows], None)
    lines = verdict(table, 30)
    assert lines[0].startswith("The model's clips find their caption")  # the model first, its judge last
    assert lines[-1].startswith("The evaluator judges badly on all captions") and "Do not trust" in lines[-1]
    assert sum("badly on seen captions" in line for line in lines) == 1


def test_one_that_takes_similar_captions_for_the_same_is_named(of_real_clips):
    table = {row: {split: dict(metrics) for split, metrics in splits.items()} for row, splits in of_real_clips.items()}
    table[NEAREST]["unseen"]["r_precision_top3"] = Estimate(0.5, 0.4, 0.6, 40)
    assert not any("as high as real" in line for line in verdict(table, 30))
    table[NEAREST]["unseen"]["r_precision_top3"] = Estimate(0.99, 0.9, 1.0, 40)
    table[REAL]["unseen"]["r_precision_top3"] = Estimate(0.75, 0.7, 0.8, 40)
    assert any("(99 % found among 3) as high as real ones (75 %)" in line for line in verdict(table, 30))


def test_a_good_one_is_not(of_real_clips):
    lines = verdict(of_real_clips, 30)
    assert not any("badly" in line for line in lines) and lines[0].startswith("The model's clips find their caption")


def test_real_clips_below_others_are_told_of(of_real_clips):
    table = {row: {split: dict(metrics) for split, metrics in splits.items()} for row, splits in of_real_clips.items()}
    for split in SPLITS:
        for row in (MODEL, ANOTHER, NEAREST, REAL):
            table[row][split]["r_precision_top1"] = Estimate(0.8, 0.7, 0.9, 40)
    assert not any("no upper limit" in line for line in verdict(table, 30))
    table[MODEL]["seen"]["r_precision_top1"] = Estimate(0.85, 0.8, 0.9, 40)
    (line,) = (line for line in verdict(table, 30) if "no upper limit" in line)
    assert "Its top 1 lies on seen captions (0.800) below this model 0.850:" in line


def test_three_sentences_for_people_verdict_closeness_lengths_and_the_worst(of_real_clips, judge):
    follows = following(of_real_clips, {"seen": 25, "unseen": 5})
    parts = {"captions": [{"name": "a person bows"}, {"name": "b"}]}
    first, close, lengths = first_sentences(of_real_clips, follows, parts)
    assert first == follows.sentence
    assert close.startswith("Its motions are as close to real ones as real ones are to each other: 0 % of their tokens")
    assert lengths.startswith("100 % of its clips are as long as a real one") and "\u201ca person bows\u201d" in lengths
    table = {row: {split: dict(metrics) for split, metrics in splits.items()} for row, splits in of_real_clips.items()}
    random = table[RANDOM]["all"]["normalised_edit_distance"].value
    for value, told in ((random + 0.01, "no closer"), (0.4 * random, "close to real ones"), (0.9 * random, "some way")):
        table[MODEL]["all"]["normalised_edit_distance"] = Estimate(value, None, None, 40)
        assert told in first_sentences(table, follows, parts)[1], value


def test_good_typical_and_worst_clips_are_of_different_captions(judge):
    clips = [[row.codes] for row in judge.rows]
    clips[7] = [[31] * 9]
    chosen = examples(judge, clips)
    assert [example["label"] for example in chosen] == ["Good", "Typical", "Worst"]
    assert len({caption_key(example["caption"]) for example in chosen}) == 3
    assert chosen[2]["clip"] == "31 31 31 31 31 31 31 31 31" and chosen[2]["caption"] == judge.rows[7].text_query
    assert chosen[0]["clip"] == chosen[0]["real"] and chosen[0]["shown"] == "0 % differs"


def test_other_captions_of_a_clip_are_references_and_no_rivals():
    """Two clips, each with the two captions walks and strolls; a third that sits."""
    rows = [EvaluationRow(0, "walks", "walks", [1, 2], None, "seen", ("walks", "strolls")),
            EvaluationRow(1, "strolls", "strolls", [3, 4, 5], None, "seen", ("strolls", "walks")),
            EvaluationRow(2, "sits", "sits", [6], None, "seen", ("sits",))]
    judge = Judge(rows, 8, None, None, 0)
    of_all = ClipSet.of(judge, [row.codes for row in rows])
    assert of_all.references == [[[1, 2], [3, 4, 5]], [[1, 2], [3, 4, 5]], [[6]]]
    assert of_all.also == [[1], [0], []] and judge.by_caption == {"walks": [0], "strolls": [1], "sits": [2]}
    for seed in range(5):
        assert _shuffled(judge, np.random.default_rng(seed)).tolist()[:2] == [2, 2]


def test_a_set_without_repeats_has_intervals_and_one_with_itself_none(judge):
    clips = [judge.rows[i - 1].codes[:-1] for i in range(len(judge.rows))]
    table = score_all(judge, [[clip] for clip in clips], None)
    for name in ("fid", "kid", "diversity", "unigram_jsd", "bigram_jsd"):
        estimate = table[MODEL]["all"][name]
        assert estimate.low < estimate.value < estimate.high, name
        assert (table[REAL]["all"][name].low is None) == (name != "diversity")
    assert table[MODEL]["all"]["codebook_usage"].low is None
    twice = score_all(judge, [[clip, clip] for clip in clips], None)[MODEL]["all"]
    assert twice["fid"].low == twice["fid"].high  # over the samples, which are the same


def test_what_is_not_measured_as_it_is_defined_is_named(judge):
    clips = [[row.codes] * 2 for row in judge.rows]
    notes = deviations(judge, clips)
    assert "about 14 clips a caption; it is defined with 30" in notes[0] and "among 30 captions" in notes[1]
    assert len(deviations(judge, [samples * 3 for samples in clips])) == 1
    few = Judge(judge.rows[:10], 32, judge.evaluator, None, 0)
    assert "FID is from 10 clips in 16 dimensions" in deviations(few, clips[:10])[-1]


def test_worst_captions_and_participants_come_first(judge):
    victim = judge.rows[0].key
    clips = [[[31] * 5 if row.key == victim else row.codes] for row in judge.rows]
    lists = breakdown(judge, clips)
    worst = lists["captions"][0]
    assert caption_key(worst["name"]) == victim and worst["normalised_edit_distance"] > 0.9
    assert worst["clip"] == "31 31 31 31 31" and worst["length"] == 5
    lengths = sorted(len(row.codes) for row in judge.rows if row.key == victim)
    assert worst["expected_length"] == np.median(lengths) and worst["n"] == len(lengths)
    assert worst["real"] in {" ".join(map(str, row.codes)) for row in judge.rows if row.key == victim}
    assert lists["captions"][-1]["normalised_edit_distance"] == 0
    assert [entry["name"] for entry in lists["participants"]] == [judge.rows[0].participant_id] + [
        person for person in "AB" if person != judge.rows[0].participant_id]
    assert sum(entry["n"] for entry in lists["lengths"]) == len(judge.rows) and len(lists["lengths"]) == 4
    json.dumps(lists)


def test_the_text_has_a_line_for_each_metric_and_a_table_for_each_split(of_real_clips):
    text = format_scores(of_real_clips, ["It is good."], ["something to know"])
    assert text.startswith("It is good.\n") and text.endswith("note: something to know")
    starts = Counter(line[:33].strip() for line in text.split("\n"))
    assert all(starts[f"{split} captions"] == 1 for split in SPLITS)
    expected = {name: 3 if metric.task == "t2m" and name not in FROM_JOINTS else 0 for name, metric in METRICS.items()}
    assert {name: starts[metric.title] for name, metric in METRICS.items()} == expected  # there is no codec


def test_figures_of_another_task_stand_under_its_name_with_its_own_columns(of_real_clips):
    table = {row: {split: dict(metrics) for split, metrics in splits.items()} for row, splits in of_real_clips.items()}
    table[MODEL]["all"]["chrf"] = Estimate(12.34, 11.0, 13.0, 5)
    table[RANDOM_TOLD] = {split: dict.fromkeys(METRICS, NOT_AVAILABLE) for split in SPLITS}
    table[RANDOM_TOLD]["all"]["chrf"] = Estimate(7.0, None, None, 5)
    lines = format_scores(table, [], []).split("\n")
    place = lines.index(next(line for line in lines if line.startswith("motion to text, all captions")))
    assert lines[place].split()[6:] == ["model", "95", "%", "interval", "any", "clip", "clips"]
    assert lines[place + 2].split() == ["chrF", "higher", "12.3", "11.0", "to", "13.0", "7.0", "5"]
    assert lines[place + 3] == "" and not any(line.startswith("lost tokens") for line in lines)


def test_a_clip_that_was_trained_on_is_not_another_clip_of_its_own_caption():
    clips, captions = [[1, 2, 3], [4, 5], [6, 7]], ["a bow", "a bow", "a jump"]
    training = Training("print", "somewhere").fill(
        [Row(i, text, np.array(clip, np.int32)) for i, (clip, text) in enumerate(zip(clips, captions, strict=True))],
        3, (), 0)
    rows = rows_of(clips, captions)
    judge = SimpleNamespace(rows=rows, training=training, references={"a bow": [0, 1], "a jump": [2]})
    for seed in range(20):
        assert _another(judge, np.random.default_rng(seed)) == ([[4, 5], [1, 2, 3], None], [None, None, None])
