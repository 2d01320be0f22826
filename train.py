"""One function trains every stage: `train_stage`. Inside is transformers' Trainer, with batches, checkpoints,
held-out measure and progress of our own.

A stage's work lies in a folder beside its result: checkpoint-N folders, each whole (written aside, synced to disk,
then renamed), and the best values so far. When the stage is finished its model folder is written and the work removed.
"""

import contextlib
import logging
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from safetensors import safe_open
from transformers import ProgressCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from collators import DrawnExamples, EpochBatches, ExampleDrawer, collate
from model import MotionLanguageModel, read_weights
from motion_llm.dataset.rows import row_lengths
from motion_llm.training.memory import make_room
from motion_llm.training.stage_trainer import (
    Clock,
    StageCallback,
    StageTrainer,
    StepOptions,
    TrainingError,
    whole_checkpoints,
)

log = logging.getLogger(__name__)

EVALUATIONS = 8  # of a run that is bounded by minutes, shared by its stages
LR_BETWEEN = 0.3  # of the peak: where the learning rates end in a stage that another follows
NOISE_LEFT = 1 / 6  # of HISTORY_NOISE, when training ends
MANY_EPOCHS = 1_000_000  # for such a run, which ends before


@dataclass(frozen=True)
class Stage:
    """number: 1 to 3. task_mix: task -> share. measured: the task whose held-out NLL is followed."""

    number: int
    folder: str
    title: str
    task_mix: Mapping[str, float]
    measured: str
    epochs: int


def stages(epochs: Sequence[int], stage2_mix: Mapping[str, float]) -> list[Stage]:
    """The three stages; one with 0 epochs is left out."""
    tasks = {task: share for task, share in stage2_mix.items() if share > 0}
    everything = [
        Stage(1, "stage1_mlm", "motion-only LM", {"lm": 1.0}, "lm", epochs[0]),
        Stage(2, "stage2_multitask", "text to motion, motion to text, denoising", tasks, "t2m", epochs[1]),
        Stage(3, "stage3_t2m_sft", "text to motion", {"t2m": 1.0}, "t2m", epochs[2]),
    ]
    return [stage for stage in everything if stage.epochs > 0]


@dataclass(frozen=True)
class TrainingOptions:
    """batch_size in examples; grad_accum in batches an update; save_steps in updates; max_seq_len in positions;
    history_noise: where it starts (see noise_left).

    minutes: wall time that all stages share, each by its epochs, which then are no bound themselves; None: epochs.
    """

    batch_size: int
    grad_accum: int
    lr: float
    lr_new_rows: float
    participant_dropout: float
    history_noise: float
    seed: int
    save_steps: int
    eval_batch: int
    max_seq_len: int
    minutes: float | None = None
    report_to: str = "none"
    caption_dropout: float = 0.0


@dataclass
class StageResult:
    """losses: (update, training loss). nll: for each evaluation {"epoch", "step", "seconds", "seen", "unseen", "mean"},
    the last three in nats a motion token. best: that entry whose values were kept. seconds: wall time of the stage,
    without what passed between a kill and a resume."""

    losses: list[tuple[int, float]] = field(default_factory=list)
    nll: list[dict] = field(default_factory=list)
    best: dict = field(default_factory=dict)
    seconds: float = 0.0

    def to_dict(self) -> dict:
        return {"losses": self.losses, "nll": self.nll, "best": self.best, "seconds": round(self.seconds, 1)}


def share_of_minutes(minutes: float | None, used: float, planned: Sequence[Stage], place: int) -> float | None:
    """Seconds for the stage at `place` of `planned`: of what the stages before have left (used: seconds), its part by
    epochs among those still to come. At least one second, so that every stage makes an update."""
    if minutes is None:
        return None
    part = planned[place].epochs / sum(stage.epochs for stage in planned[place:])
    return max((60 * minutes - used) * part, 1.0)


def noise_left(last: bool, share: float) -> float:
    """The part of the history's noise when `share` of a stage is over: all of it, and in the last stage evenly less,
    down to NOISE_LEFT. The noise teaches to follow the caption, its end to trust the history again; without any at the
    end, new combinations of action and style are followed less (docs/log.md)."""
    return 1 + (NOISE_LEFT - 1) * share if last else 1.0


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
        ddp_find_unused_parameters=not model.tied)  # an untied head has no part in a batch of captions alone


def train_stage(model: MotionLanguageModel, planned: Sequence[Stage], place: int, rows,
                heldout: Mapping[str, Sequence], work: Path, options: TrainingOptions,
                used: float = 0.0) -> StageResult:
    """Train `model` in place on `rows` in the stage at `place` of `planned`; it ends with the values that were best on
    held-out clips.

    rows and each set of heldout: sequences of {"text_query", "codes", "participant_id"}. work: the folder for
    checkpoints; if it holds some, training goes on from the last. used: seconds that the stages before took. Raises
    TrainingError.
    """
    stage = planned[place]
    clock = Clock(share_of_minutes(options.minutes, used, planned, place))
    with _explaining_memory(stage, options):
        tokens = make_room(model, options.max_seq_len).tokens
        trainer = _trainer(model, planned, place, rows, heldout, work, options, clock, tokens)
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
    result = _result(trainer.state.log_history)
    trainer.accelerator.wait_for_everyone()
    if result.best:
        _load_best(model, work, result.best["step"])
    result.seconds = clock.used()
    return result


@contextlib.contextmanager
def _explaining_memory(stage: Stage, options: TrainingOptions):
    try:
        yield
    except RuntimeError as error:
        if not (isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)):
            raise
        raise TrainingError(f"{stage.folder}: memory ran out: lower MAX_SEQ_LEN (now {options.max_seq_len}), or "
                            f"BATCH_TRAIN (now {options.batch_size}) and raise GRAD_ACCUM (now {options.grad_accum}) "
                            "by the same factor, or take a smaller MODEL_NAME") from error


def _trainer(model, planned: Sequence[Stage], place: int, rows, heldout, work: Path, options: TrainingOptions,
             clock: Clock, tokens: int) -> StageTrainer:
    stage, last = planned[place], place == len(planned) - 1
    arguments = _arguments(stage, work, options, model)
    drawer = ExampleDrawer(
        model.template, stage.task_mix, options.participant_dropout, 10 * options.seed + stage.number,
        lambda: options.history_noise * noise_left(last, clock.share), options.caption_dropout)
    batches = EpochBatches(*row_lengths(rows), drawer, options.batch_size,
                           arguments.world_size, arguments.process_index)
    steps = StepOptions(options.lr, options.lr_new_rows, 0.0 if last else LR_BETWEEN, options.eval_batch, tokens)
    evaluations = 1 if clock.seconds is None else max(1, round(EVALUATIONS * clock.seconds / 60 / options.minutes))
    callback = StageCallback(f"Stage {stage.number} of 3, {stage.title}", clock, options.save_steps,
                             math.ceil(len(batches) / options.grad_accum), evaluations)
    trainer = StageTrainer(
        model=model, args=arguments, train_dataset=DrawnExamples(rows, drawer),
        data_collator=partial(collate, pad_id=model.pad_id), batches=batches, options=steps, clock=clock,
        heldout=heldout, measured=stage.measured, callbacks=[callback])
    for shown in (ProgressCallback, PrinterCallback):
        trainer.remove_callback(shown)
    return trainer


def _resume_point(work: Path, clean: bool) -> str | None:
    if clean and (work / "saving").is_dir():
        log.info("  an incomplete checkpoint in %s is ignored", work / "saving")
        shutil.rmtree(work / "saving")
    found = whole_checkpoints(work)
    if found:
        log.info("  going on from %s", found[-1])
    return str(found[-1]) if found else None


def _result(history: list[dict]) -> StageResult:
    losses = [(entry["step"], entry["loss"]) for entry in history if "loss" in entry]
    nll = [{"epoch": round(entry["epoch"], 2), "step": entry["step"], "seconds": round(entry["eval_seconds"], 1),
            **{name: entry[f"eval_{name}"] for name in ("seen", "unseen", "mean") if f"eval_{name}" in entry}}
           for entry in history if "eval_mean" in entry]
    return StageResult(losses, nll, min(nll, key=lambda entry: entry["mean"], default={}))


def _load_best(model: MotionLanguageModel, work: Path, step: int) -> None:
    path = work / "best.safetensors"
    with safe_open(path, framework="pt") as file:
        kept = int(file.metadata()["step"])
    if kept != step:
        raise TrainingError(f"{path} holds the values of update {kept}, the best were those of {step}: "
                            "start anew with --fresh")
    model.load_trainable_state(read_weights(path))

