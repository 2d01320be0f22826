"""How well a model answers words and combinations that it was never trained with: `python bench.py wordings`.

A model is trained without some combinations of action and style and without some phrases (wording_sets.py). It then
generates clips for four kinds of captions: captions of the dataset, the same in other words, captions with held-out
phrases, and captions of held-out combinations. For each set the NLL of the real clips is measured, and how often the
caption's action and style are recognised in the generated and in the real clips (evaluation/recogniser.py, trained on
real clips that are in no set). Sentences of other people can be asked beside them (sentences.py).
"""

import json
import logging
import random
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from data import read_rows
from motion_llm.benchmarks.sentences import Recognisers, format_sentences, mean, read_sentences, score_sentences
from motion_llm.benchmarks.wording_sets import NEUTRAL, REWORDINGS, Wordings, WordingSplit, read_wordings
from motion_llm.dataset.prepared import load_prepared
from motion_llm.dataset.report import raise_on_errors
from motion_llm.dataset.rows import Row
from motion_llm.decoding.request import MotionRequest, MotionResult
from motion_llm.evaluation.recogniser import ActionRecogniser, cross_validate
from motion_llm.network.folder import read_motion_config

log = logging.getLogger(__name__)

ROOT = Path(__file__).parents[2]
TRAINING_FILE = "wordings_training.json"  # in WORK_DIR: the dataset without the held-out rows
PREPARED_FOLDER = "prepared_data"  # beside a run's stages: its rows, and which of them it was trained with
TRAINED, REWORDED, PHRASES, COMBINATIONS = "trained captions", "other words", "held-out phrases", "combinations"
MISTAKES = 10  # the most frequent ones of a set that are printed


@dataclass(frozen=True)
class CaptionSet:
    """Captions to generate for, each with a real clip. rows: {"text_query", "codes", "participant_id"} each;
    actions, styles: those of each; groups: the group of each, by which figures are also reported."""

    name: str
    rows: list[dict]
    actions: list[str]
    styles: list[str]
    groups: list[str]


def add_arguments(parser) -> None:
    parser.add_argument("--wordings_json", default="data/sample_wordings.json", metavar="FILE",
                        help="what the dataset's captions mean, and what is held out. Default: the sample's file")
    parser.add_argument("--sentences_json", metavar="FILE",
                        help="also ask these sentences: sets of {text, action, style} by name")
    parser.add_argument("--model_path", metavar="FOLDER",
                        help="measure this trained stage's folder, which stays in its run's folder; train nothing")
    parser.add_argument("--fresh", action="store_true", help="start anew: remove what an earlier run left in WORK_DIR")
    parser.add_argument("--samples", type=int, default=1, metavar="N", help="clips for each caption. Default: 1")
    parser.add_argument("--best_of", type=int, default=1, metavar="N",
                        help="for each, generate N clips and keep the best. Default: 1")
    parser.add_argument("--as_written", action="store_true",
                        help="ask captions with new words as they are, not as the nearest training caption")


def run(args, settings: Mapping) -> dict:
    """Figures by set. Raises ValueError (its subclasses included) and OSError for what cannot be measured."""
    if args.fresh and args.model_path is not None:
        raise ValueError("--fresh is for training, and --model_path trains nothing: give one of them")
    for name in ("samples", "best_of"):
        if getattr(args, name) < 1:
            raise ValueError(f"--{name} is {getattr(args, name)}, expected 1 or more")
    wordings = read_wordings(args.wordings_json)
    sentences = {} if args.sentences_json is None else read_sentences(args.sentences_json, wordings)
    report = read_rows(settings["DATA_JSON_PATH"], settings["MAX_SEQ_LEN"], settings["CODEBOOK_SIZE"], denoise=False)
    raise_on_errors(report)
    split = wordings.split(report.rows)
    log.info("%d rows to train with; held out: %d with %d combinations, %d with %d phrases, %d of the same motions",
             len(split.trained), len(split.combinations), len(wordings.heldout_combinations), len(split.phrases),
             len(wordings.heldout_phrases), len(split.dropped))
    if args.model_path is None:
        _train(settings, split, report.streams.setting(), args.fresh)
        model_path = _final_stage(settings)
    else:
        model_path = Path(args.model_path)
    trained, seen = _rows_of_run(model_path, report.rows)
    sets = caption_sets(wordings, split, seen, settings["SEED"], settings["HELDOUT_MAX"])
    return _measure(model_path, sets, sentences, wordings, report.rows, trained, settings, args)


# ---------------------------------------------------------------- training


def _train(settings: Mapping, split: WordingSplit, codebook_size: int | dict | list, fresh: bool) -> None:
    """Run train_pipeline.py with these settings on the rows that are not held out; it skips finished stages."""
    path = Path(settings["WORK_DIR"]) / TRAINING_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([_record(row) for row in split.trained], ensure_ascii=False), encoding="utf-8")
    # The codebook stays whole, also where only held-out clips use its last codes.
    changed = {**settings, "DATA_JSON_PATH": str(path), "CODEBOOK_SIZE": codebook_size}
    command = [sys.executable, str(ROOT / "train_pipeline.py"), *flags(changed),
               *["--fresh"] * fresh]
    log.info("training: train_pipeline.py on %s, into %s", path, settings["WORK_DIR"])
    status = subprocess.run(command, stdout=2, check=False).returncode  # to stderr: stdout is for the figures
    if status:
        raise ValueError(f"training in {settings['WORK_DIR']} ended with status {status}; the reason is above")


def _record(row: Row) -> dict:
    """A row in the dataset's format."""
    fields = {"text_query": row.text_query, "motion_tokens": row.codes.tolist(), "participant_id": row.participant_id,
              "clip_id": row.clip_id, "split": row.split}
    return {name: value for name, value in fields.items() if value is not None}


def flags(settings: Mapping) -> list[str]:
    """Settings as the command line takes them."""
    def text(value: object) -> str:
        if isinstance(value, Mapping):
            return ",".join(f"{name}={share!r}" for name, share in value.items())
        return "none" if value is None else str(value)

    return [word for name, value in settings.items() for word in (f"--{name.lower()}", text(value))]


def _final_stage(settings: Mapping) -> Path:
    from model import start_unsloth  # imports torch, which takes seconds

    start_unsloth()
    from train import stages  # imports transformers, which must come after Unsloth

    planned = stages([settings["EPOCHS_S1"], settings["EPOCHS_S2"], settings["EPOCHS_S3"]],
                     settings["STAGE2_MIX"], settings["STAGE3_MIX"])
    return Path(settings["WORK_DIR"]) / planned[-1].folder


# ---------------------------------------------------------------- the sets


def _rows_of_run(model_path: Path, rows: Sequence[Row]) -> tuple[list[dict], list[dict]]:
    """The training rows of the run that a stage's folder belongs to, and its held-out rows of trained captions.

    Raises ValueError if the run's rows are gone or are not from this dataset.
    """
    if "t2m" not in (tasks := read_motion_config(model_path)["tasks"]):
        raise ValueError(f"{model_path} was trained for {', '.join(tasks)}, expected t2m (text to motion) among them")
    folder = model_path.resolve().parent / PREPARED_FOLDER
    if not folder.is_dir():
        raise ValueError(f"{folder} does not exist, so the training rows of {model_path} are "
                         "unknown: expected the stage's folder where its run left it")
    trained, seen = (load_prepared(folder, part).to_list() for part in ("train", "seen"))
    dataset = {(row.text_query, tuple(row.codes.tolist())) for row in rows}
    foreign = [row["text_query"] for row in trained + seen if (row["text_query"], tuple(row["codes"])) not in dataset]
    if foreign:
        raise ValueError(f"{folder} has {len(foreign)} rows that the dataset lacks (the first: {foreign[0]!r}): "
                         "expected a model that was trained with the dataset of DATA_JSON_PATH, or with a part of it")
    if not seen:
        raise ValueError(f"{folder} holds no clip of a trained caption out: train with a larger HELDOUT_SHARE")
    return trained, seen


def caption_sets(wordings: Wordings, split: WordingSplit, seen: Sequence[Mapping], seed: int,
                 most: int) -> list[CaptionSet]:
    """The sets without the empty ones. seen: held-out rows of trained captions; most: rows of a held-out set."""
    def caption_set(name: str, rows: Sequence[Mapping]) -> CaptionSet:
        meanings = [wordings.parse(row["own_caption"]) for row in rows]
        groups = [" + ".join(m.combination) if name == COMBINATIONS else m.action for m in meanings]
        return CaptionSet(name, list(rows), [m.action for m in meanings], [m.style for m in meanings], groups)

    plain = [_caption_row(row["text_query"], row["codes"], row["participant_id"]) for row in seen]
    sets = [caption_set(TRAINED, plain)]
    for kind in REWORDINGS:
        texts = [wordings.reword(row["own_caption"], kind, seed, str(row["codes"])) for row in plain]
        sets.append(caption_set(f"{REWORDED}: {kind}", [
            row | {"text_query": text} for row, text in zip(plain, texts, strict=True) if text]))
    for name, rows in ((PHRASES, split.phrases), (COMBINATIONS, split.combinations)):
        drawn = random.Random(seed).sample(rows, min(most, len(rows)))
        sets.append(caption_set(name, [_caption_row(row.text_query, row.codes.tolist(), row.participant_id)
                                       for row in drawn]))
    return [captions for captions in sets if captions.rows]


def _caption_row(caption: str, codes: list[int], participant_id: str | None) -> dict:
    """own_caption: the clip's caption in the dataset, which stays when text_query is reworded."""
    return {"text_query": caption, "own_caption": caption, "codes": codes, "participant_id": participant_id}


# ---------------------------------------------------------------- the figures


def _measure(model_path: Path, sets: Sequence[CaptionSet], sentences: Mapping, wordings: Wordings, rows: Sequence[Row],
             trained: Sequence[Mapping], settings: Mapping, args) -> dict:
    meanings = [wordings.parse(row["text_query"]) for row in trained]
    recognisers, judged = _recognisers(sets, wordings, rows, settings["SEED"])
    figures = {
        "model_path": str(model_path), "samples": args.samples, "best_of": args.best_of, "as_written": args.as_written,
        "seed": settings["SEED"], "recogniser": judged, "trained_rows": len(trained),
        "trained_rows_with_heldout_combinations": sum(m.combination in wordings.heldout_combinations for m in meanings),
        "trained_rows_with_heldout_phrases": sum(map(wordings.says_heldout_phrase, meanings)),
        "sets": {}, "sentences": {},
    }
    generator = _generator(model_path, settings)
    trained_clips = {tuple(row["codes"]) for row in trained}
    for captions in sets:
        log.info("%s: %d captions", captions.name, len(captions.rows))
        results = _generated(generator, [(row["text_query"], row["participant_id"]) for row in captions.rows],
                             settings, args)
        nll, tokens = generator.motion_nll(captions.rows)
        figures["sets"][captions.name] = score_set(captions, [result.codes for result in results], recognisers) | {
            "rows_trained_with": sum(tuple(row["codes"]) in trained_clips for row in captions.rows),
            "nll_per_token": nll, "nll_tokens": tokens}
    for name, members in sentences.items():
        log.info("%s: %d sentences", name, len(members))
        results = _generated(generator, [(sentence.text, None) for sentence in members], settings, args)
        figures["sentences"] |= score_sentences(name, members, results, recognisers, wordings)
    reworded = [scores for name, scores in figures["sets"].items() if name.startswith(REWORDED)]
    return figures | {"other_words_together": pooled(reworded)}


def _recognisers(sets: Sequence[CaptionSet], wordings: Wordings, rows: Sequence[Row], seed: int
                 ) -> tuple[Recognisers, dict]:
    """Fitted on the clips of no set, and how good they are on all clips: figures by name."""
    evaluated = {tuple(row["codes"]) for captions in sets for row in captions.rows}
    clips = [tuple(row.codes.tolist()) for row in rows]
    meanings = [wordings.parse(row.text_query) for row in rows]
    unused = [i for i, clip in enumerate(clips) if clip not in evaluated]

    def fitted(labels: Sequence[str]) -> tuple[ActionRecogniser, list[bool]]:
        right = [*map(str.__eq__, cross_validate(clips, labels, seed=seed), labels)]
        return ActionRecogniser().fit([clips[i] for i in unused], [labels[i] for i in unused]), right

    actions, right = fitted([meaning.action for meaning in meanings])
    styles, style_right = fitted([meaning.style for meaning in meanings]) if wordings.styles else (None, [])
    on_real = defaultdict(list)
    for meaning, *both in zip(meanings, right, style_right or right, strict=True):
        on_real[meaning.combination].append(tuple(both))
    return Recognisers(actions, styles, on_real), {
        "clips": len(unused), "actions": len(actions.labels), "cross_validated_clips": len(clips),
        "cross_validated_accuracy": mean(right), "cross_validated_style_accuracy": mean(style_right)}


def _generator(model_path: Path, settings: Mapping):
    from model import start_unsloth  # imports torch, which takes seconds

    start_unsloth()
    from generate import MotionGenerator  # imports transformers, which must come after Unsloth

    generator = MotionGenerator(model_path)
    generator.decoder.slots = settings["EVAL_BATCH"] or generator.decoder.slots
    return generator


def _generated(generator, asked: Sequence[tuple[str, str | None]], settings: Mapping, args) -> list[MotionResult]:
    """Clips for captions with their participants, the samples of a caption one after another."""
    return generator.answer([
        MotionRequest(text=text, participant_id=participant_id, num_samples=args.samples, best_of=args.best_of,
                      as_written=args.as_written, temperature=settings["GEN_TEMPERATURE"], top_p=settings["GEN_TOP_P"],
                      top_k=settings["GEN_TOP_K"], end_logit_slope=settings["GEN_END_LOGIT_SLOPE"],
                      guidance=settings["GEN_GUIDANCE"]) for text, participant_id in asked], settings["SEED"])


def score_set(captions: CaptionSet, clips: Sequence[Sequence[int]], recognisers: Recognisers) -> dict:
    """clips: generated, the same number for each row, one after another.

    recognised: share of the clips whose recognised action is the caption's; real_recognised: the same for the real
    clips; style_recognised: the same for styles, of captions that name one, None where none does. most_frequent: share
    of the most frequent action, which always answering it would get. mistakes: [expected, recognised, count], the most
    frequent first. by_group: group -> [clips recognised, clips].
    """
    samples = len(clips) // len(captions.rows)
    expected = [action for action in captions.actions for _ in range(samples)]
    groups = [group for group in captions.groups for _ in range(samples)]
    predictions = recognisers.actions.predict(clips)
    styles = [style for style in captions.styles for _ in range(samples)]
    guesses = styles if recognisers.styles is None else recognisers.styles.predict(clips)
    right = [a == b for a, b in zip(predictions, expected, strict=True)]
    mistakes = Counter((a, b) for a, b in zip(expected, predictions, strict=True) if a != b)
    by_group = {group: [sum(ok for ok, name in zip(right, groups, strict=True) if name == group), count]
                for group, count in sorted(Counter(groups).items())}
    return {
        "rows": len(captions.rows), "clips": len(clips), "recognised": sum(right) / len(right),
        "style_recognised": mean(guess == style for guess, style in zip(guesses, styles, strict=True)
                                 if style != NEUTRAL),
        "real_recognised": recognisers.actions.accuracy([row["codes"] for row in captions.rows], captions.actions),
        "most_frequent": max(Counter(expected).values()) / len(expected),
        "mistakes": [[*pair, count] for pair, count in sorted(mistakes.items(), key=lambda item: (-item[1], item[0]))],
        "by_group": by_group,
    }


def pooled(scores: Sequence[Mapping]) -> dict:
    """Figures of several sets together: shares weighted by clips, NLL by tokens."""
    def weighted(name: str, weight: str) -> float:
        return sum(score[name] * score[weight] for score in scores) / sum(score[weight] for score in scores)

    return {"rows": sum(score["rows"] for score in scores), "clips": sum(score["clips"] for score in scores),
            "recognised": weighted("recognised", "clips"), "real_recognised": weighted("real_recognised", "clips"),
            "nll_per_token": weighted("nll_per_token", "nll_tokens")}


def format_figures(figures: Mapping) -> str:
    """The figures as text."""
    judge = figures["recogniser"]
    head = f"{'set':<24}{'rows':>6}{'NLL/':>8}{'action':>12}{'on real':>10}{'most':>10}{'style':>12}"
    lines = [
        f"{figures['model_path']}, {figures['samples']} generated for each row, seed {figures['seed']}",
        f"recogniser of {judge['actions']} actions: {judge['cross_validated_accuracy']:.1%} right on "
        f"{judge['cross_validated_clips']} real clips, 5-fold"
        + (f"; of styles {style:.1%}" if (style := judge["cross_validated_style_accuracy"]) is not None else ""),
        "", head, f"{'':<24}{'':>6}{'token':>8}{'recognised':>12}{'clips':>10}{'frequent':>10}{'recognised':>12}",
        "-" * len(head)]
    table = dict(figures["sets"])
    for name, score in [*table.items(), (f"{REWORDED}: all", figures["other_words_together"])]:
        style = "" if score.get("style_recognised") is None else f"{score['style_recognised']:.1%}"
        frequent = f"{score['most_frequent']:.0%}" if "most_frequent" in score else ""
        lines.append(f"{name:<24}{score['rows']:>6}{score['nll_per_token']:>8.3f}{score['recognised']:>12.1%}"
                     f"{score['real_recognised']:>10.1%}{frequent:>10}{style:>12}")
    if figures["sentences"]:
        lines += ["", *format_sentences(figures["sentences"])]
    for kind in ("combinations", "phrases"):
        if rows := figures[f"trained_rows_with_heldout_{kind}"]:
            lines.append(f"NOT HELD OUT: the model was trained with {rows} rows of held-out {kind}")
    for name, score in table.items():
        if score["mistakes"]:
            mistakes = ", ".join(f"{expected} -> {predicted} {count}"
                                 for expected, predicted, count in score["mistakes"][:MISTAKES])
            lines += ["", f"{name}: expected -> recognised: {mistakes}"]
    if COMBINATIONS in table:
        groups = table[COMBINATIONS]["by_group"].items()
        lines += ["", "combinations recognised: " + ", ".join(f"{name} {ok}/{count}" for name, (ok, count) in groups)]
    return "\n".join(lines)
