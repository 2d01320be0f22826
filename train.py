"""`train_stage` trains any of the stages: transformers' Trainer with this project's batches, checkpoints, held-out
evaluation and progress bar.

A stage in training has a work folder: checkpoint-N folders, each complete (written under another name, synced to disk,
then renamed), and the best values so far. When the stage is finished, train_pipeline.py writes its model folder and
removes the work folder.
"""

import contextlib
import logging
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from transformers import ProgressCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from collators import DrawnExamples, EpochBatches, ExampleDrawer, collate, shares_of_motions
from model import MotionLanguageModel, read_weights, shapes_of
from motion_llm.dataset.rows import row_captions, row_lengths, row_motions
from motion_llm.training.batch_size import examples_of_update
from motion_llm.training.checkpoints import BEST, TrainingError, begun_with, whole_checkpoints
from motion_llm.training.forecast import StageAhead, foretell, passes_made
from motion_llm.training.memory import make_room
from motion_llm.training.processes import process_count
from motion_llm.training.rates import LORA, NEW_ROWS, rate_factor
from motion_llm.training.schedule import Clock, noise_left, rates_of_stage, share_of_minutes
from motion_llm.training.stage_trainer import StageCallback, StageTrainer, StepOptions

log = logging.getLogger(__name__)

EVALUATIONS = 8  # in all stages of a run that is bounded by minutes
MANY_EPOCHS = 1_000_000  # for a run that is bounded by minutes; its time is over long before


@dataclass(frozen=True)
class Stage:
    """number: 1 to 3. task_mix: task -> share. heldout_task: the task of the held-out NLL."""

    number: int
    folder: str
    title: str
    task_mix: Mapping[str, float]
    heldout_task: str
    epochs: int

    @property
    def t2m(self) -> float:
        """The share of text to motion."""
        return self.task_mix.get("t2m", 0.0)


TASK_NAMES = {"t2m": "text to motion", "m2t": "motion to text", "denoise": "denoising"}


def stages(epochs: Sequence[int], stage2_mix: Mapping[str, float], stage3_mix: Mapping[str, float]) -> list[Stage]:
    """The three stages, without those of 0 epochs."""
    all_stages = [
        Stage(1, "stage1_mlm", "motion-only LM", {"lm": 1.0}, "lm", epochs[0]),
        _stage_of_tasks(2, "stage2_multitask", stage2_mix, epochs[1]),
        _stage_of_tasks(3, "stage3_t2m_sft", stage3_mix, epochs[2]),
    ]
    return [stage for stage in all_stages if stage.epochs > 0]


def _stage_of_tasks(number: int, folder: str, mix: Mapping[str, float], epochs: int) -> Stage:
    tasks = {task: share for task, share in mix.items() if share > 0}
    return Stage(number, folder, ", ".join(TASK_NAMES[task] for task in tasks), tasks, "t2m", epochs)


@dataclass(frozen=True)
class TrainingOptions:
    """batch_size in examples, None: see batch_size.py; grad_accum in batches an update; lr, lr_new_rows: peaks, None:
    see rates.py; save_steps in updates; max_seq_len in positions; history_noise: at the start (see noise_left).

    minutes: wall time that the stages share in proportion to their epochs, which then are no limit themselves; None:
    the epochs are the limit.
    """

    batch_size: int | None
    grad_accum: int
    lr: float | None
    lr_new_rows: float | None
    participant_dropout: float
    history_noise: float
    seed: int
    save_steps: int
    eval_batch: int | None
    max_seq_len: int
    minutes: float | None = None
    report_to: str = "none"
    caption_dropout: float = 0.0
    edit_captions: float = 0.0


@dataclass
class StageResult:
    """losses: (update, training loss). nll: for each evaluation {"epoch", "step", "seconds", "seen", "unseen", "mean"},
    the last three in nats a motion token. best: the entry with the lowest mean, whose values the model ends with.
    seconds: wall time of the stage, without the time between a kill and a resume. passes: over the clips; clips: how
    many different ones. parts: 1, and 1 more each time that the stage went on after it was finished."""

    losses: list[tuple[int, float]] = field(default_factory=list)
    nll: list[dict] = field(default_factory=list)
    best: dict = field(default_factory=dict)
    seconds: float = 0.0
    passes: float = 0.0
    clips: int = 0
    parts: int = 1

    def to_dict(self) -> dict:
        return asdict(self) | {"seconds": round(self.seconds, 1), "passes": round(self.passes, 3)}

    def after(self, earlier: Mapping) -> "StageResult":
        """This result as that of a stage that went on from a finished one with that history."""
        updates = max([step for step, _ in earlier["losses"]] + [check["step"] for check in earlier["nll"]], default=0)
        passes = passes_made(earlier)
        nll = [check | {"epoch": round(passes + check["epoch"], 2), "step": updates + check["step"],
                        "seconds": round(earlier["seconds"] + check["seconds"], 1)} for check in self.nll]
        return StageResult(
            [*map(tuple, earlier["losses"]), *((updates + step, loss) for step, loss in self.losses)],
            [*earlier["nll"], *nll], min([earlier["best"], *nll] if earlier["best"] else nll,
                                         key=lambda check: check["mean"], default={}),
            earlier["seconds"] + self.seconds, passes + self.passes, self.clips, earlier.get("parts", 1) + 1)


def _arguments(stage: Stage, work: Path, options: TrainingOptions, model: MotionLanguageModel) -> TrainingArguments:
    on_gpu = model.device.type != "cpu"
    frozen = next(p for p in model.network.parameters() if not p.requires_grad)
    return TrainingArguments(
        output_dir=str(work), num_train_epochs=stage.epochs if options.minutes is None else MANY_EPOCHS,
        per_device_train_batch_size=options.batch_size, gradient_accumulation_steps=options.grad_accum,
        max_grad_norm=1.0, logging_steps=5, logging_nan_inf_filter=False, logging_strategy="steps",
        eval_strategy="no", save_strategy="no", report_to=options.report_to, run_name=stage.folder,
        remove_unused_columns=False, label_names=["labels"], use_cpu=not on_gpu,
        fp16=frozen.dtype == torch.float16 and on_gpu, seed=options.seed, data_seed=options.seed, disable_tqdm=True,
        ddp_find_unused_parameters=not model.tied)  # a batch of captions alone has no gradient for an untied head


def train_stage(model: MotionLanguageModel, planned: Sequence[Stage], place: int, rows,
                heldout: Mapping[str, Sequence], work: Path, options: TrainingOptions,
                finished: Mapping[str, Mapping] | None = None) -> StageResult:
    """Train `model` in place on `rows` in the stage at `place` of `planned`; it ends with the values that were best on
    held-out clips.

    rows and each set of heldout: sequences of {"text_query", "codes", "participant_id"}. work: the folder for
    checkpoints; if it has some, training resumes from the last. finished: stage folder -> history of the stages before;
    if that of this stage is among them, it goes on from there, for the epochs of `planned` or the minutes that are
    left: the result is that of both parts, and where its best is the earlier one the model has other values than that.
    Raises TrainingError.
    """
    stage, finished = planned[place], finished or {}
    options = _with_rates(_with_batch_size(options, stage, model, rows, work), model)
    used = sum(history["seconds"] for history in finished.values())
    seconds = share_of_minutes(options.minutes, used, [stage.epochs for stage in planned[place:]])
    clock = Clock(seconds, _share_made(finished.get(stage.folder), stage.epochs, seconds))
    with _out_of_memory_explained(stage, options):
        tokens = make_room(model, options.max_seq_len).tokens
        trainer = _trainer(model, planned, place, rows, heldout, work, options, clock, tokens, finished)
        work.mkdir(parents=True, exist_ok=True)
        checkpoint = _resume_point(work, trainer.args.should_save)
        trainer.accelerator.wait_for_everyone()
        try:
            trainer.train(resume_from_checkpoint=checkpoint)
        except RuntimeError as error:
            if "PytorchStreamReader" not in str(error):
                raise
            raise TrainingError(f"{checkpoint} is damaged ({error}): remove it, and the same command goes on without "
                                "it") from error
        finally:
            trainer.stage_callback.close()
    result = _result(trainer.state.log_history)
    trainer.accelerator.wait_for_everyone()
    earlier = finished.get(stage.folder)
    if result.best and result.best["mean"] < best_mean(earlier):
        _load_best(model, work, result.best["step"])
    result.seconds, result.passes, result.clips = clock.used(), trainer.state.epoch or 0.0, trainer.batches.count
    return result.after(earlier) if earlier else result


def _with_batch_size(options: TrainingOptions, stage: Stage, model: MotionLanguageModel, rows, work: Path
                     ) -> TrainingOptions:
    """The options with a batch size; a stage goes on with the one that it was begun with, also on another machine.
    Raises TrainingError."""
    if options.batch_size is not None:
        return options
    processes, begun = process_count(), begun_with(work)
    examples = begun or examples_of_update(len(set(row_motions(rows))), _positions(model, stage, row_lengths(rows)),
                                           processes if model.device.type != "cpu" else 0)
    if begun and begun % processes:
        raise TrainingError(f"{work} was begun with {begun} examples an update, which {processes} processes "
                            "cannot share: start another number of them")
    return replace(options, batch_size=max(1, examples // processes))


def _with_rates(options: TrainingOptions, model: MotionLanguageModel) -> TrainingOptions:
    """The options with peak learning rates; numbers stay as they are."""
    examples, width = options.batch_size * options.grad_accum * process_count(), model.width
    factor = rate_factor(width, examples)
    lr, lr_new_rows = (usual * factor if peak is None else peak
                       for peak, usual in ((options.lr, LORA), (options.lr_new_rows, NEW_ROWS)))
    chosen = replace(options, lr=lr, lr_new_rows=lr_new_rows)
    if factor != 1 and chosen != options:
        log.info("  learning rates %.2g (LR) and %.2g (LR_NEW_ROWS), for %d examples an update and a base of width %d",
                 chosen.lr, chosen.lr_new_rows, examples, width)
    return chosen


def _share_made(earlier: Mapping | None, epochs: int, seconds: float | None) -> float:
    """The share of the whole that a stage's earlier part is, where it goes on for so many epochs or seconds."""
    if earlier is None:
        return 0.0
    made, more = (passes_made(earlier), epochs) if seconds is None else (earlier["seconds"], seconds)
    return made / (made + more)


def best_mean(history: Mapping | None) -> float:
    """The lowest held-out NLL of a stage, infinite where there is none."""
    return history["best"].get("mean", math.inf) if history else math.inf


@contextlib.contextmanager
def _out_of_memory_explained(stage: Stage, options: TrainingOptions):
    """Turn torch's out-of-memory errors into a TrainingError that names the settings to change."""
    try:
        yield
    except RuntimeError as error:
        if not (isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)):
            raise
        raise TrainingError(f"{stage.folder}: memory ran out: lower MAX_SEQ_LEN (now {options.max_seq_len}), or "
                            f"BATCH_TRAIN (now {options.batch_size}) and raise GRAD_ACCUM (now {options.grad_accum}) "
                            "by the same factor, or take a smaller MODEL_NAME") from error


def _trainer(model, planned: Sequence[Stage], place: int, rows, heldout, work: Path, options: TrainingOptions,
             clock: Clock, tokens: int, finished: Mapping[str, Mapping]) -> StageTrainer:
    stage, last = planned[place], place == len(planned) - 1
    arguments = _arguments(stage, work, options, model)
    drawer = ExampleDrawer(
        model.template, stage.task_mix, options.participant_dropout, 10 * options.seed + stage.number,
        lambda: options.history_noise * noise_left(last, clock.of_whole(clock.share)), options.caption_dropout,
        options.edit_captions, options.max_seq_len)
    earlier, lengths, motions = finished.get(stage.folder), row_lengths(rows), row_motions(rows)
    shares = None if stage.heldout_task == "lm" else shares_of_motions(motions, row_captions(rows))
    batches = EpochBatches(*lengths, drawer, options.batch_size, arguments.world_size, arguments.process_index,
                           motions, math.ceil(passes_made(earlier)) if earlier else 0, shares)
    made = passes_made(earlier) if earlier and options.minutes is None else 0  # with minutes the epochs are but shares
    passes = [one.epochs + made * (one is stage) for one in planned]
    rates = rates_of_stage(passes, place, sum(one.number == 1 for one in planned))
    steps = StepOptions(options.lr, options.lr_new_rows, rates, options.eval_batch, tokens,
                        arguments.world_size * options.batch_size, best_mean(earlier))
    evaluations = 1 if clock.seconds is None else max(1, round(EVALUATIONS * clock.seconds / 60 / options.minutes))
    ahead = [StageAhead(stage.epochs, batches.count * _positions(model, stage, lengths), stage.t2m)
             for stage in planned[place:]]
    callback = StageCallback(f"Stage {stage.number} of 3, {stage.title}", clock, options.save_steps,
                             math.ceil(len(batches) / options.grad_accum), evaluations,
                             partial(_foretell, planned, ahead, batches.count, finished, options.minutes, clock))
    trainer = StageTrainer(
        model=model, args=arguments, train_dataset=DrawnExamples(rows, drawer),
        data_collator=partial(collate, pad_id=model.pad_id), batches=batches, options=steps, clock=clock,
        heldout=heldout, heldout_task=stage.heldout_task, callback=callback)
    for default in (ProgressCallback, PrinterCallback):
        trainer.remove_callback(default)
    return trainer


def _positions(model: MotionLanguageModel, stage: Stage, lengths: tuple) -> float:
    """The mean length of an example in the stage. lengths: as row_lengths() gives them."""
    motion_tokens, text_tokens = lengths
    return sum(share * float(model.template.length(task, text_tokens, motion_tokens).mean())
               for task, share in stage.task_mix.items())


def _foretell(planned: Sequence[Stage], ahead: Sequence[StageAhead], clips: int, finished: Mapping[str, Mapping],
              minutes: float | None, clock: Clock, speed: float) -> None:
    """Log what the run will come to. speed: passes of the present stage in a second."""
    made = sum(passes_made(finished[stage.folder]) * stage.t2m for stage in planned if stage.folder in finished)
    used = sum(history["seconds"] for history in finished.values())
    last = planned[-1]
    epochs = last.epochs + (passes_made(finished[last.folder]) if last.folder in finished else 0)
    forecast = foretell(clips, made, used, ahead, speed * ahead[0].positions, minutes, (last.number, epochs))
    log.log(logging.WARNING if forecast.more else logging.INFO, "  %s", forecast.sentence(clips, speed * clips))


def _resume_point(work: Path, clean: bool) -> str | None:
    """The last complete checkpoint, if there is one. clean: remove an incomplete one."""
    if clean and (work / "saving").is_dir():
        log.info("  an incomplete checkpoint in %s is ignored", work / "saving")
        shutil.rmtree(work / "saving")
    checkpoints = whole_checkpoints(work)
    if not checkpoints:
        return None
    log.info("  going on from %s", checkpoints[-1])
    return str(checkpoints[-1])


def _result(history: list[dict]) -> StageResult:
    losses = [(entry["step"], entry["loss"]) for entry in history if "loss" in entry]
    nll = [{"epoch": round(entry["epoch"], 2), "step": entry["step"], "seconds": round(entry["eval_seconds"], 1),
            **{name: entry[f"eval_{name}"] for name in ("seen", "unseen", "mean") if f"eval_{name}" in entry}}
           for entry in history if "eval_mean" in entry]
    return StageResult(losses, nll, min(nll, key=lambda entry: entry["mean"], default={}))


def _load_best(model: MotionLanguageModel, work: Path, step: int) -> None:
    path = work / BEST.format(step)
    if not path.is_file():
        raise TrainingError(f"{path} is missing, with the values of the best update: start anew with --fresh")
    model.load_trainable_state(read_weights(path, shapes_of(model.trainable_state())))

