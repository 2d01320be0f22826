"""One function trains every stage: `train_stage`. Inside is transformers' Trainer, with batches, checkpoints,
held-out measure and progress of our own.

A stage's work lies in a folder beside its result: checkpoint-N folders, each whole (written aside, synced to disk,
then renamed), and the best values so far. When the stage is finished its model folder is written and the work removed.
"""

import logging
import math
import os
import re
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm
from transformers import ProgressCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from collators import ExampleDrawer, collate, length_sorted_batches
from model import MotionLanguageModel, mean_nll, read_weights
from rows import token_counts

log = logging.getLogger(__name__)

WEIGHTS = "trainable.safetensors"
TURNED_UP = 1.01  # a held-out NLL this many times the best one so far is worth a warning


class TrainingError(ValueError):
    """Training that cannot go on as set; the text says at which step, what was found and what to change."""


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
    """batch_size in examples; grad_accum in batches an update; save_steps in updates."""

    batch_size: int
    grad_accum: int
    lr: float
    lr_new_rows: float
    participant_dropout: float
    seed: int
    save_steps: int
    eval_batch: int
    report_to: str = "none"


@dataclass
class StageResult:
    """losses: (update, training loss). nll: for each epoch {"epoch", "step", "seen", "unseen", "mean"}, nats a motion
    token. best: that entry whose values were kept. seconds: of this run, without what was done before a resume."""

    losses: list[tuple[int, float]] = field(default_factory=list)
    nll: list[dict] = field(default_factory=list)
    best: dict = field(default_factory=dict)
    seconds: float = 0.0

    def to_dict(self) -> dict:
        return {"losses": self.losses, "nll": self.nll, "best": self.best, "seconds": round(self.seconds, 1)}


class DrawnExamples(Dataset):
    """Examples by (epoch, position): what a row becomes in an epoch does not depend on who asks, or when."""

    def __init__(self, rows, drawer: ExampleDrawer):
        self.rows = rows
        self.drawer = drawer

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: tuple[int, int]):
        epoch, position = place
        return self.drawer(epoch, position, self.rows[position])


class EpochBatches:
    """Batch sampler: lists of (epoch, position), another order in every epoch, rows of like length together."""

    def __init__(self, lengths: Sequence[int], drawer: ExampleDrawer, batch_size: int):
        self.lengths = lengths
        self.drawer = drawer
        self.batch_size = batch_size
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return math.ceil(len(self.lengths) / self.batch_size)

    def __iter__(self):
        # Denoising shows a motion twice, so it counts as twice as long.
        factor = [2 if self.drawer.task(self.epoch, i) == "denoise" else 1 for i in range(len(self.lengths))]
        lengths = np.multiply(self.lengths, factor)
        rng = np.random.default_rng([self.drawer.seed, self.epoch])
        for batch in length_sorted_batches(lengths, self.batch_size, rng):
            yield [(self.epoch, position) for position in batch]


class StageTrainer(Trainer):
    """Trainer with our batches, two learning rates, held-out NLL as evaluation, and whole checkpoints only."""

    def __init__(self, *args, batches: EpochBatches, options: TrainingOptions, heldout: Mapping[str, Sequence],
                 measured: str, **kwargs):
        super().__init__(*args, eval_dataset=heldout, **kwargs)
        self.batches = batches
        self.options = options
        self.heldout = heldout
        self.measured = measured

    def get_train_dataloader(self) -> DataLoader:
        loader = DataLoader(self.train_dataset, batch_sampler=self.batches, collate_fn=self.data_collator)
        return self.accelerator.prepare(loader)

    def create_optimizer(self, model=None):
        """AdamW without weight decay, and a learning rate of its own for the new rows: they start from nothing."""
        if self.optimizer is None:
            named = [(name, p) for name, p in self.model.named_parameters() if p.requires_grad]
            rows = [p for name, p in named if "trainable_tokens_delta" in name]
            lora = [p for name, p in named if "trainable_tokens_delta" not in name]
            self.optimizer = torch.optim.AdamW(
                [{"params": lora, "lr": self.options.lr}, {"params": rows, "lr": self.options.lr_new_rows}],
                weight_decay=0.0, fused=True)
        return self.optimizer

    def evaluate(self, *args, **kwargs) -> dict[str, float]:
        """Held-out NLL per motion token on each set, and over all; keeps the values if they are the best so far."""
        totals = {name: mean_nll(self.model, rows, self.measured, self.options.eval_batch)
                  for name, rows in self.heldout.items() if len(rows)}
        metrics = {f"eval_{name}": nll for name, (nll, _) in totals.items()}
        if totals:
            tokens = sum(count for _, count in totals.values())
            metrics["eval_mean"] = sum(nll * count for nll, count in totals.values()) / tokens
            earlier = [entry["eval_mean"] for entry in self.state.log_history if "eval_mean" in entry]
            if metrics["eval_mean"] < min(earlier, default=math.inf):
                self._keep_best()
            elif metrics["eval_mean"] > TURNED_UP * min(earlier):
                log.warning("held-out NLL turned up: %.3f after a best of %.3f; the best values are kept, and fewer "
                            "epochs would do", metrics["eval_mean"], min(earlier))
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _need_space(self, copies: int) -> None:
        """Raises TrainingError while nothing is half written yet."""
        size = copies * sum(tensor.nbytes for tensor in self.model.trainable_state().values()) + 2**20
        free = shutil.disk_usage(self.args.output_dir).free
        if free < size:
            raise TrainingError(f"{self.args.output_dir}: {free / 1e6:.0f} MB are free on the disk, a checkpoint takes "
                                f"{size / 1e6:.0f}: free some, and the same command goes on")

    def _keep_best(self) -> None:
        self._need_space(copies=1)
        path = Path(self.args.output_dir) / "best.safetensors"
        aside = path.with_suffix(".saving")
        save_file(self.model.trainable_state(), aside, metadata={"step": str(self.state.global_step)})
        _sync(aside)
        aside.replace(path)

    def _get_output_dir(self, trial) -> str:
        return str(Path(self.args.output_dir) / "saving")

    def _save_checkpoint(self, model, trial) -> None:
        folder = Path(self.args.output_dir)
        shutil.rmtree(folder / "saving", ignore_errors=True)
        self._need_space(copies=3)  # the values, and AdamW's two averages of them
        super()._save_checkpoint(model, trial)
        name = f"checkpoint-{self.state.global_step}"
        for path in (folder / "saving" / name).iterdir():
            _sync(path)
        (folder / "saving" / name).rename(folder / name)
        _sync(folder)
        for old in whole_checkpoints(folder)[:-1]:
            # Renamed before it is removed, so that a half-removed one is never taken for a whole one.
            old.rename(folder / "saving" / old.name)
        shutil.rmtree(folder / "saving")

    def _save(self, output_dir=None, state_dict=None) -> None:
        Path(output_dir).mkdir(parents=True, exist_ok=True)
        save_file(self.model.trainable_state(), Path(output_dir) / WEIGHTS)

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None) -> None:
        self.model.load_trainable_state(read_weights(Path(resume_from_checkpoint) / WEIGHTS))


def _sync(path: Path) -> None:
    """Onto the disk, so that a power failure after a rename leaves what was renamed."""
    if path.is_dir() and os.name == "nt":  # Windows cannot sync a folder
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def whole_checkpoints(folder: Path) -> list[Path]:
    """The checkpoint-N folders by N; only whole ones are ever given that name."""
    found = [path for path in folder.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]
    return sorted(found, key=lambda path: int(path.name.split("-")[1]))


class StageCallback(TrainerCallback):
    """When to save, what to show, and stopping at a loss that is no number."""

    def __init__(self, stage: Stage, stage_count: int, save_steps: int, steps_per_epoch: int):
        self.title = f"Stage {stage.number} of {stage_count}, {stage.title}"
        self.save_steps = save_steps
        self.steps_per_epoch = steps_per_epoch
        self.bar = None

    def on_train_begin(self, args, state, control, **kwargs):
        self.bar = tqdm(total=state.max_steps, initial=state.global_step, desc=self.title, unit="step",
                        file=sys.stderr, dynamic_ncols=True, miniters=1,
                        mininterval=0.5 if sys.stderr.isatty() else 30)

    def on_step_end(self, args, state, control, **kwargs):
        self.bar.update(1)
        at_epoch_end = state.global_step % self.steps_per_epoch == 0  # it is saved after its evaluation
        control.should_save = state.global_step % self.save_steps == 0 and not at_epoch_end
        return control

    def on_epoch_end(self, args, state, control, **kwargs):
        control.should_save = True
        return control

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "loss" in logs:
            if not math.isfinite(logs["loss"]):
                raise TrainingError(f"{self.title}: the loss is {logs['loss']} at update {state.global_step}: "
                                    "lower LR and LR_NEW_ROWS, or set DTYPE to float32")
            self.bar.set_postfix_str(f"loss {logs['loss']:.3f}", refresh=False)

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        sets = ", ".join(f"{name} {metrics[f'eval_{name}']:.3f}" for name in ("seen", "unseen")
                         if f"eval_{name}" in metrics)
        losses = [entry["loss"] for entry in state.log_history[-20:] if "loss" in entry]
        shown = f"loss {sum(losses) / len(losses):.3f}, " if losses else ""
        with tqdm.external_write_mode(file=sys.stderr):
            log.info("  epoch %d of %d: %sheld-out NLL per motion token: %s", round(state.epoch),
                     args.num_train_epochs, shown, sets or "nothing is held out")

    def on_train_end(self, args, state, control, **kwargs):
        self.bar.close()


def _arguments(stage: Stage, work: Path, options: TrainingOptions, on_gpu: bool, half: bool) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(work), num_train_epochs=stage.epochs, per_device_train_batch_size=options.batch_size,
        gradient_accumulation_steps=options.grad_accum, learning_rate=options.lr, lr_scheduler_type="cosine",
        warmup_steps=0.03, max_grad_norm=1.0, logging_steps=5, logging_nan_inf_filter=False, logging_strategy="steps",
        eval_strategy="epoch", save_strategy="no", report_to=options.report_to, run_name=stage.folder,
        remove_unused_columns=False, label_names=["labels"], use_cpu=not on_gpu, fp16=half and on_gpu,
        seed=options.seed, data_seed=options.seed, disable_tqdm=True, dataloader_pin_memory=on_gpu)


def train_stage(model: MotionLanguageModel, stage: Stage, stage_count: int, rows, heldout: Mapping[str, Sequence],
                work: Path, options: TrainingOptions) -> StageResult:
    """Train `model` in place on `rows`; it ends with the values of the epoch that was best on held-out clips.

    rows and each set of heldout: sequences of {"text_query", "codes", "participant_id"}. work: the folder for
    checkpoints; if it holds some, training goes on from the last. Raises TrainingError.
    """
    started = time.monotonic()
    drawer = ExampleDrawer(model.template, stage.task_mix, options.participant_dropout,
                           seed=10 * options.seed + stage.number)
    batches = EpochBatches(token_counts(rows), drawer, options.batch_size)
    on_gpu = model.device.type != "cpu"
    half = next(p for p in model.network.parameters() if not p.requires_grad).dtype == torch.float16
    trainer = StageTrainer(
        model=model, args=_arguments(stage, work, options, on_gpu, half), train_dataset=DrawnExamples(rows, drawer),
        data_collator=partial(collate, pad_id=model.pad_id), batches=batches, options=options, heldout=heldout,
        measured=stage.measured,
        callbacks=[StageCallback(stage, stage_count, options.save_steps,
                                 math.ceil(len(batches) / options.grad_accum))])
    for callback in (ProgressCallback, PrinterCallback):
        trainer.remove_callback(callback)
    work.mkdir(parents=True, exist_ok=True)
    checkpoint = _resume_point(work)
    try:
        trainer.train(resume_from_checkpoint=checkpoint)
    except RuntimeError as error:
        if "PytorchStreamReader" in str(error):
            raise TrainingError(f"{checkpoint} is damaged ({error}): remove it, and the same command goes on without "
                                "it") from error
        if not (isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)):
            raise
        raise TrainingError(f"{stage.folder}: memory ran out at update {trainer.state.global_step}: lower BATCH_TRAIN "
                            f"(now {options.batch_size}) and raise GRAD_ACCUM (now {options.grad_accum}) by the same "
                            "factor, or take a smaller MODEL_NAME") from error
    result = _result(trainer.state.log_history)
    if result.best:
        _load_best(model, work, result.best["step"])
    result.seconds = time.monotonic() - started
    return result


def _resume_point(work: Path) -> str | None:
    if (work / "saving").is_dir():
        log.info("  an incomplete checkpoint in %s is ignored", work / "saving")
        shutil.rmtree(work / "saving")
    found = whole_checkpoints(work)
    if found:
        log.info("  going on from %s", found[-1])
    return str(found[-1]) if found else None


def _result(history: list[dict]) -> StageResult:
    losses = [(entry["step"], entry["loss"]) for entry in history if "loss" in entry]
    nll = [{"epoch": round(entry["epoch"]), "step": entry["step"],
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

