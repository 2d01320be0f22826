"""From a JSON of captions and motion tokens to a model that answers a sentence: `python train_pipeline.py`.

The settings are in config.py; any of them can be given as a flag (`--data_json_path my.json --epochs_s1 2`). After a
kill at any moment, the same command resumes the run.
"""

import argparse
import importlib.util
import logging
import shlex
import shutil
import sys
import time
from collections.abc import Mapping
from itertools import chain, islice
from pathlib import Path

import config
from data import read_rows
from motion_llm.command_line import Parser, exit_status, printable, start_log
from motion_llm.dataset.prepared import (
    PreparedChunks,
    load_measured,
    load_prepared,
    prepare,
    prepared_info,
    prepared_matches,
    prepared_report,
)
from motion_llm.dataset.report import DataError, check_split, format_report, raise_on_errors
from motion_llm.dataset.rows import caption_key
from motion_llm.dataset.sequence_lengths import find_unfit
from motion_llm.dataset.splits import split_rows
from motion_llm.evaluation.request import DETAILS, PAGE, Request
from motion_llm.evaluation.run import evaluate_model
from motion_llm.json_files import read_json, write_json
from motion_llm.motion.codec import codec_facts, codec_streams
from motion_llm.network.folder import check_model_name, stage_history, update_settings
from motion_llm.serving.quoting import shell_word
from motion_llm.streams import in_a_line
from motion_llm.training.processes import is_first_process, wait_for_all
from motion_llm.training.stage_folders import complete_stage, new_model, part_to_train, save_stage
from motion_llm.training.work_folder import (
    DATA_FOLDER,
    EVALUATION_FOLDER,
    GALLERY_FILE,
    METRICS_FILE,
    WORK_FOLDER,
    PipelineError,
    Run,
    check_work_folder,
    claim_work_folder,
    working_in,
)
from templates import MotionTemplate

log = logging.getLogger("train_pipeline")

SHOWN_CLIPS = 3
MOST_TRAINED = 100  # clips that are judged and shown where none are held out


def _parser() -> Parser:
    parser = Parser(description="Train a language model to answer sentences with motion tokens.")
    parser.add_argument("--check", action="store_true", help="read the data, print what is in it, train nothing")
    parser.add_argument("--fresh", action="store_true", help="start anew: remove what an earlier run left in WORK_DIR")
    config.add_arguments(parser)
    return parser


def main() -> int:
    args = _parser().parse_args()
    start_log(logging.INFO if is_first_process() else logging.ERROR)
    without_fresh = " without --fresh" if args.fresh else ""
    return exit_status("train_pipeline.py", lambda: run_pipeline(args), usage_error=config.SettingError,
                       stopped=f"stopped; the same command{without_fresh} goes on from the last checkpoint")


def run_pipeline(args: argparse.Namespace) -> int:
    """Everything that the command does; the status to exit with. Raises ValueError (subclasses included) and OSError
    for what the user can mend."""
    flags = config.given(args)
    settings = config.resolve(flags)
    if config.CODEC_PATH and settings["CODEC_PATH"] is None and "CODEC_PATH" not in flags:
        log.info("no --codec_path is given, so the model will answer with tokens alone, without figures\n")
    settings = _with_codec(settings)
    if not is_first_process():
        return 0 if args.check else _train_with_first_process(settings)
    run = _read(settings, reuse=not (args.check or args.fresh))
    if args.check:
        print(printable(run.text))
        return 1 if run.report.errors else 0
    raise_on_errors(run.report)
    check_work_folder(run, args.fresh, config.differences)
    with working_in(run.folder):
        train_and_evaluate(run, args.fresh)
    return 0


def _with_codec(settings: Mapping) -> dict:
    """The settings, with CODEBOOK_SIZE and TOKENS_PER_SECOND of the codec in CODEC_PATH, if there is one. Raises
    PipelineError where a setting contradicts the codec, CodecError."""
    if settings["CODEC_PATH"] is None:
        return dict(settings)
    codec, streams = codec_facts(settings["CODEC_PATH"]), codec_streams(settings["CODEC_PATH"])
    of_codec = {"CODEBOOK_SIZE": streams.setting(), "TOKENS_PER_SECOND": codec["fps"] / codec["window"]}
    for name, value in of_codec.items():
        if settings[name] not in (None, value):
            asked, has = (f"{number:g}" if isinstance(number, (int, float)) else config.spell(number)
                          for number in (settings[name], value))
            raise PipelineError(f"{name} is {asked}, but the codec in CODEC_PATH, {settings['CODEC_PATH']}, has {has}: "
                                f"leave {name} out, or CODEC_PATH")
    return dict(settings) | of_codec


def _train_with_first_process(settings: Mapping) -> int:
    """What the other processes of `torchrun` do: only train. The first process also reads, prepares and evaluates."""
    from model import start_unsloth  # imports torch, which takes seconds

    start_unsloth()
    wait_for_all()  # until the data is prepared
    run = _read(settings, reuse=True)
    if run.split is not None:
        raise PipelineError(f"{run.folder / DATA_FOLDER} is not what the first process has just prepared")
    train_stages(run, _planned(settings), _prepared(run))
    return 0


def _read(settings: Mapping, reuse: bool) -> Run:
    """Check the settings, then read, check and split the data. reuse: take prepared data of the same file and settings
    instead. Raises PipelineError, ModelError; errors in the data are in the run's report."""
    check_model_name(settings["MODEL_NAME"])
    if not settings["EPOCHS_S1"] + settings["EPOCHS_S2"] + settings["EPOCHS_S3"]:
        raise PipelineError("EPOCHS_S1, EPOCHS_S2 and EPOCHS_S3 are all 0: nothing to train")
    if settings["GEN_GUIDANCE"] != 1 and not settings["CAPTION_DROPOUT"]:
        raise PipelineError(f"GEN_GUIDANCE is {settings['GEN_GUIDANCE']:g} and CAPTION_DROPOUT 0: a model that is "
                            "trained with every caption cannot be guided; set CAPTION_DROPOUT to 0.1, or GEN_GUIDANCE "
                            "to 1")
    if settings["CODEBOOK_PATH"] and not Path(settings["CODEBOOK_PATH"]).is_file():
        raise PipelineError(f"CODEBOOK_PATH {settings['CODEBOOK_PATH']}: there is no such file")
    reporter = settings["REPORT_TO"]
    if reporter != "none" and importlib.util.find_spec(reporter) is None:
        raise PipelineError(f"REPORT_TO is {reporter!r}, but that package is not installed: pip install {reporter}")
    folder, path, made_with = Path(settings["WORK_DIR"]), settings["DATA_JSON_PATH"], _made_with(settings)
    if reuse and prepared_matches(folder / DATA_FOLDER, path, made_with):
        text = (f"{prepared_info(folder / DATA_FOLDER)['text']}\n  {path} has not changed since it was checked: the "
                f"prepared data in {folder / DATA_FOLDER} is used again")
        return Run(settings, prepared_report(folder / DATA_FOLDER), None, folder, text)
    report = read_rows(path, made_with["max_seq_len"], made_with["codebook_size"], made_with["denoise"])
    # With errors the report lacks rows, so there is nothing to split.
    split = None if report.errors else split_rows(
        report.rows, made_with["seed"], made_with["share"], made_with["cap"])
    if split is not None:
        check_split(report, split)
    return Run(settings, report, split, folder, format_report(report, split))


def _made_with(settings: Mapping) -> dict:
    """The settings that the prepared data depends on."""
    return {"max_seq_len": settings["MAX_SEQ_LEN"], "codebook_size": settings["CODEBOOK_SIZE"],
            "denoise": any(settings[f"EPOCHS_S{stage}"] > 0 and settings[f"STAGE{stage}_MIX"]["denoise"] > 0
                           for stage in (2, 3)), "seed": settings["SEED"],
            "share": settings["HELDOUT_SHARE"], "cap": settings["HELDOUT_MAX"]}


def train_and_evaluate(run: Run, fresh: bool) -> None:
    """The whole run: check against the tokenizer, prepare, train the stages, measure on held-out clips, report."""
    started = time.monotonic()
    log.info("%s\n", run.text)
    from model import start_unsloth  # imports torch, which takes seconds

    start_unsloth()
    planned = _planned(run.settings)
    _check_fit(run, {task for stage in planned for task in stage.task_mix})
    claim_work_folder(run, fresh)
    sets = _prepared(run)
    wait_for_all()
    results = train_stages(run, planned, sets)
    from motion_llm.training.baselines import format_stages  # imports transformers, which must follow Unsloth's start

    print("\n" + format_stages(results))
    final = run.folder / planned[-1].folder
    generates = "t2m" in planned[-1].task_mix
    scores = _evaluate(run, final, sets) if generates else {}
    write_json(run.folder / METRICS_FILE, {"heldout": scores, "stages": results})
    following = f"That was not judged: REPORT_PAGE is off.{_made(results[final.name])}"
    if generates and run.settings["REPORT_PAGE"]:
        if sets["test"]:
            following = _write_report(_report_of(final, len(sets["test"])))
        else:
            following = (f"{_write_report(_report_of_trained(run, final))} (Judged by clips that it was trained on, as "
                         "none are held out.)")
        print(f"\nThe report, to open in a browser: {run.folder / EVALUATION_FOLDER / PAGE}")
    print(f"\n{final} is finished after {(time.monotonic() - started) / 60:.1f} minutes.")
    if generates:
        print(f"Does it follow its captions? {following}")
        print(f"Ask it for motion:\n  python inference.py --model_path {shlex.quote(str(final))} "
              f"--prompt {shell_word(run.report.rows[0].text_query)}")


def _write_report(request: Request) -> str:
    """Write the page of `evaluate.py`; returns its verdict on whether the model follows its captions."""
    log.info("Evaluation for the report")
    evaluate_model(request)
    return read_json(Path(request.model_path).parent / EVALUATION_FOLDER / DETAILS)["following"]["sentence"]


def _made(history: Mapping) -> str:
    """How much text to motion a finished run has made, and what to give the same command for more of it."""
    if "t2m_passes" not in history:
        return ""
    advice = f": go on with the same command and {history['more']}" if "more" in history else ""
    return f" It has made {history['t2m_passes']:.2g} passes of text to motion over its training clips{advice}."


def _report_of_trained(run: Run, model_path: Path) -> Request:
    """Of clips that the model was trained on, for a run that holds none out."""
    return Request(str(model_path), data=run.settings["DATA_JSON_PATH"], include_train=True, split="all", fresh=True,
                   max_prompts=run.settings["HELDOUT_MAX"] or MOST_TRAINED)


def _report_of(model_path: Path, measured: int) -> Request:
    """Of the run's own test set. measured: the number of test rows that the run measures on, to which the page is
    limited too."""
    test_rows = prepared_info(model_path.parent / DATA_FOLDER)["sizes"]["test"]
    return Request(str(model_path), fresh=True, max_prompts=measured if measured < test_rows else None)


def _planned(settings: Mapping) -> list:
    from train import stages  # imports transformers, which must follow Unsloth's start

    return stages([settings["EPOCHS_S1"], settings["EPOCHS_S2"], settings["EPOCHS_S3"]],
                  settings["STAGE2_MIX"], settings["STAGE3_MIX"])


def _check_fit(run: Run, tasks: set[str]) -> None:
    """Check that every row fits MAX_SEQ_LEN in each of the tasks, before the weights are loaded. Raises DataError."""
    from model import add_motion_tokens, load_tokenizer  # imports torch, which takes seconds

    tokenizer = load_tokenizer(run.settings["MODEL_NAME"])
    participants = sorted(run.report.rows.participants)
    vocabulary = add_motion_tokens(tokenizer, run.report.streams, participants)
    positions = run.settings["MAX_SEQ_LEN"]
    template = MotionTemplate(tokenizer, vocabulary)
    unfit = find_unfit(run.report.rows.chunks, template, tasks, positions, run.report.name_of)
    if unfit.count:
        more = f" and {unfit.count - len(unfit.first)} more" if unfit.count > len(unfit.first) else ""
        raise DataError(f"{run.report.path}: {unfit.count} rows do not fit MAX_SEQ_LEN {positions}: "
                        f"{'; '.join(unfit.first)}{more}. Set MAX_SEQ_LEN to {unfit.largest} or more, or shorten them.")


def _prepared(run: Run) -> dict:
    """Prepare the data unless it is prepared. Returns "train" -> `datasets` table, memory-mapped; "seen", "unseen" and
    "test" -> the rows that the run measures on."""
    folder = run.folder / DATA_FOLDER
    if run.split is not None:
        prepare(run.report, run.split, folder, _made_with(run.settings), run.text)
        run.report.rows = prepared_report(folder).rows  # memory-mapped, so that training has more memory
    return {"train": load_prepared(folder, "train")} | {
        part: load_measured(folder, part, run.settings["HELDOUT_MAX"], run.settings["SEED"])
        for part in ("seen", "unseen", "test")}


def train_stages(run: Run, planned: list, sets: Mapping) -> dict:
    """Train each stage from the one before; skip a finished one (its folder exists), unless it is the last and is to
    train further. Returns stage folder -> history."""
    from model import load  # imports torch, which takes seconds
    from train import train_stage  # imports transformers, which must follow Unsloth's start

    settings, results, model, previous = run.settings, {}, None, None
    heldout = {part: sets[part] for part in ("seen", "unseen")}
    for place, stage in enumerate(planned):
        folder, work = run.folder / stage.folder, run.folder / WORK_FOLDER / stage.folder
        part = part_to_train(run, planned, place, results)
        if part is None:
            log.info("Stage %d is finished: %s", stage.number, folder)
            if is_first_process():
                changeable = {name: value for name, value in settings.items() if name not in config.TRAINING}
                update_settings(folder, changeable)
                complete_stage(run, planned, place)
        else:
            stages, finished = part
            if model is None:
                source = folder if stage.folder in finished else previous
                model = load(source) if source else new_model(run)
            # Of another name than the first part's, so that no checkpoint of that is taken for one of this.
            part_work = work.with_name(f"{work.name}-on") if stage.folder in finished else work
            result = train_stage(model, stages, place, sets["train"], heldout, part_work, _options(settings), finished)
            if is_first_process():
                save_stage(run, planned, place, model, result, results, finished.get(stage.folder))
        if is_first_process():
            for left in (work, work.with_name(f"{work.name}-on")):  # a finished stage needs no checkpoints
                shutil.rmtree(left, ignore_errors=True)
        wait_for_all()
        # Read in every process, as their clocks differ, and the next stage's time has to be the same in all.
        results[stage.folder] = stage_history(folder)
        previous = folder
    return results


def _options(settings: Mapping):
    from train import TrainingOptions  # imports transformers, which must follow Unsloth's start

    return TrainingOptions(
        batch_size=settings["BATCH_TRAIN"], grad_accum=settings["GRAD_ACCUM"], lr=settings["LR"],
        lr_new_rows=settings["LR_NEW_ROWS"], participant_dropout=settings["PID_DROPOUT"],
        caption_dropout=settings["CAPTION_DROPOUT"], edit_captions=settings["EDIT_CAPTIONS"],
        history_noise=settings["HISTORY_NOISE"], seed=settings["SEED"],
        save_steps=settings["SAVE_STEPS"], eval_batch=settings["EVAL_BATCH"],
        max_seq_len=settings["MAX_SEQ_LEN"], minutes=settings["MAX_MINUTES"], report_to=settings["REPORT_TO"])


def _evaluate(run: Run, folder: Path, sets: Mapping) -> dict:
    """Print the held-out table and a few generated clips, write the gallery of a run with a codec. Returns the scores.
    """
    # These import transformers, which must follow Unsloth's start.
    from generate import MotionGenerator
    from motion_llm.training.baselines import TrainingClips, evaluate, format_table
    from motion_llm.training.gallery import write_gallery

    log.info("Held-out figures")
    generator = MotionGenerator(folder)
    chunks = PreparedChunks(run.folder / DATA_FOLDER, "train")
    parts = {part: sets[part] for part in ("seen", "unseen", "test")}
    heldout_keys = {caption_key(row["text_query"]) for rows in parts.values() for row in rows}
    clips = TrainingClips(chunks, heldout_keys, run.settings["SEED"])
    scores = evaluate(generator, parts, clips, run.settings["SEED"])
    print("\n" + (format_table(scores) if scores else "No rows were held out, so nothing was measured."))
    captions = chain((row["text_query"] for part in ("unseen", "seen") for row in parts[part]),
                     (text for chunk in chunks for text in chunk.texts.to_list()))
    print("\nThree generated clips:")
    prompts = []
    while len(prompts) < SHOWN_CLIPS and (caption := next((c for c in captions if c not in prompts), None)):
        prompts.append(caption)
    for caption, motion in zip(prompts, generator.generate_batch(prompts, seed=run.settings["SEED"]), strict=True):
        print(printable(f"  {caption}\n    {in_a_line(motion)}"))
    shown = [row for part in ("test", "seen", "unseen") for row in parts[part]]
    if run.settings["CODEC_PATH"]:
        if not shown:
            shown = [row | {"kind": "seen"} for row in islice(sets["train"], MOST_TRAINED)]
        write_gallery(run.folder / GALLERY_FILE, generator, shown, run.settings["SEED"])
        print(f"\nGenerated clips beside real ones, to open in a browser: {run.folder / GALLERY_FILE}")
    return scores


if __name__ == "__main__":
    sys.exit(main())
