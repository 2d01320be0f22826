"""transformers' Trainer as a stage needs it: batches split to fit the memory, two learning rates, a schedule by updates
or by minutes, held-out NLL as evaluation, and checkpoints that are never half written."""

import logging
import math
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import Trainer, TrainerCallback

from collators import EpochBatches, micro_batches
from model import read_weights, shapes_of, sum_nll
from motion_llm.digests import digests_of
from motion_llm.json_files import check_form, read_json, write_json
from motion_llm.saving import naming, saving
from motion_llm.training.checkpoints import (
    BEST,
    DIGESTS,
    TIME_FORM,
    TIME_USED,
    WEIGHTS,
    TrainingError,
    check_checkpoint,
    sync,
    whole_checkpoints,
)
from motion_llm.training.forecast import FIRST_SECONDS, FIRST_UPDATES
from motion_llm.training.schedule import Clock, learning_rate_factor

log = logging.getLogger(__name__)

EVAL_BATCH = {"cpu": 32, "cuda": 64}  # examples at once, where the setting does not say
TURNED_UP = 1.01  # a held-out NLL above this many times the best one so far gives a warning
FIRST_PASSES = 2  # before so many are made, a held-out NLL that rises says nothing


@dataclass(frozen=True)
class StepOptions:
    """lr, lr_new_rows: peaks. rates: both learning rates over their peaks at the start and the end of the stage.
    eval_batch in examples, None: EVAL_BATCH below. micro_tokens: positions (padding included) that go through the
    network at once in training. examples: of a batch of all processes. best_before: the best held-out NLL of the
    finished stage that goes on."""

    lr: float
    lr_new_rows: float
    rates: tuple[float, float]
    eval_batch: int | None
    micro_tokens: int
    examples: int
    best_before: float = math.inf


class StageTrainer(Trainer):
    """heldout: set -> rows. heldout_task: the task whose NLL is computed on them."""

    def __init__(self, *args, batches: EpochBatches, options: StepOptions, clock: Clock,
                 heldout: Mapping[str, Sequence], heldout_task: str, callback: "StageCallback", **kwargs):
        super().__init__(*args, eval_dataset=heldout, callbacks=[callback], **kwargs)
        callback.trainer, self.stage_callback = self, callback
        self.batches = batches
        self.options = options
        self.clock = clock
        self.heldout = heldout
        self.heldout_task = heldout_task
        self.progress: dict = {}  # of time_used.json, from the checkpoint that training goes on from or is saving

    def get_train_dataloader(self) -> DataLoader:
        # Not prepared by accelerate: EpochBatches already gives each process its part of every batch.
        return EpochLoader(self.train_dataset, batch_sampler=self.batches, collate_fn=self.data_collator)

    def training_step(self, model, inputs, num_items_in_batch=None):
        """Forward and backward pass in parts of at most micro_tokens positions: same gradient, bounded memory."""
        model.train()
        parts = micro_batches(inputs, self.options.micro_tokens)
        total = torch.zeros((), device=self.args.device)
        for i, part in enumerate(parts):
            part = self._prepare_inputs(part)
            if i < len(parts) - 1:
                with self.accelerator.no_sync(model):
                    total += self._backward(model, part, num_items_in_batch)
            else:
                total += self._backward(model, part, num_items_in_batch)
        return total

    def _backward(self, model, part, num_items_in_batch):
        loss = self.compute_loss(model, part, num_items_in_batch=num_items_in_batch)
        self.accelerator.backward(loss)
        return loss.detach()

    def create_optimizer(self, model=None):
        """AdamW without weight decay, with a separate learning rate for the new rows, which are not pretrained."""
        if self.optimizer is None:
            named = [(name, p) for name, p in self.model.named_parameters() if p.requires_grad]
            rows = [p for name, p in named if "trainable_tokens_delta" in name]
            lora = [p for name, p in named if "trainable_tokens_delta" not in name]
            self.optimizer = torch.optim.AdamW(
                [{"params": lora, "lr": self.options.lr}, {"params": rows, "lr": self.options.lr_new_rows}],
                weight_decay=0.0, fused=True)
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer=None):
        """The learning rates as a function of the number of updates, or of the clock in a stage of minutes."""
        def factor(step: int) -> float:
            share = (step + 1) / num_training_steps if self.clock.seconds is None else self.clock.share
            return learning_rate_factor(step, share, self.clock.of_whole(share), self.options.rates)

        self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer or self.optimizer, factor)
        return self.lr_scheduler

    def evaluate(self, *args, **kwargs) -> dict[str, float]:
        """Held-out NLL per motion token on each set and over all; saves the values if they are the best so far."""
        started = time.monotonic()
        sums = {name: self._sum_nll(rows) for name, rows in self.heldout.items() if len(rows)}
        metrics = {f"eval_{name}": nll / tokens for name, (nll, tokens) in sums.items()}
        if sums:
            metrics["eval_mean"] = sum(nll for nll, _ in sums.values()) / sum(tokens for _, tokens in sums.values())
            earlier = [entry["eval_mean"] for entry in self.state.log_history if "eval_mean" in entry]
            best = min(earlier, default=math.inf)
            if metrics["eval_mean"] < min(best, self.options.best_before):
                self._save_best()
            elif metrics["eval_mean"] > TURNED_UP * best and self.state.epoch >= FIRST_PASSES:
                with tqdm.external_write_mode(file=sys.stderr):
                    log.warning("held-out NLL turned up: %.3f after a best of %.3f; the best values are kept, and "
                                "fewer epochs would do", metrics["eval_mean"], best)
            metrics["eval_seconds"] = self.clock.used()
        self.clock.reserve = time.monotonic() - started
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _sum_nll(self, rows) -> tuple[float, int]:
        """The summed NLL of the rows and their motion tokens. Each process measures its share of the rows."""
        share = rows[self.args.process_index::self.args.world_size]
        at_once = self.options.eval_batch or EVAL_BATCH[self.args.device.type]
        nll, tokens = sum_nll(self.model, share, self.heldout_task, at_once) if len(share) else (0.0, 0)
        sums = self.accelerator.reduce(torch.tensor([nll, tokens], dtype=torch.float64, device=self.args.device), "sum")
        return sums[0].item(), int(sums[1].item())

    def _need_space(self, copies: int) -> None:
        """Raise TrainingError if the disk has no space for `copies` of the trainable values, before anything is
        written."""
        size = copies * sum(tensor.nbytes for tensor in self.model.trainable_state().values()) + 2**20
        free = shutil.disk_usage(self.args.output_dir).free
        if free < size:
            raise TrainingError(f"{self.args.output_dir}: {free / 1e6:.0f} MB are free on the disk, a checkpoint takes "
                                f"{size / 1e6:.0f}: free some, and the same command goes on")

    def _save_best(self) -> None:
        if not self.args.should_save:
            return
        self._need_space(copies=1)
        # The best of before stays until a checkpoint knows of this one: a killed run goes on from the one before.
        with saving(Path(self.args.output_dir) / BEST.format(self.state.global_step)) as temporary:
            save_file(self.model.trainable_state(), temporary)
            sync(temporary)

    def _get_output_dir(self, trial) -> str:
        return str(Path(self.args.output_dir) / "saving")

    def _save_checkpoint(self, model, trial) -> None:
        """Every process writes its random state; the first one writes the rest, then renames the finished folder."""
        folder = Path(self.args.output_dir)
        if self.args.should_save:
            shutil.rmtree(folder / "saving", ignore_errors=True)
            self._need_space(copies=3)  # the values, and AdamW's two averages of them
        self.accelerator.wait_for_everyone()
        self.progress = {"loss": self.accelerator.reduce(self._tr_loss.clone(), "mean").item(),
                         "logged_at": self._globalstep_last_logged}
        with naming(folder):
            super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            self._name_checkpoint(folder)
        self.accelerator.wait_for_everyone()

    def _name_checkpoint(self, folder: Path) -> None:
        name = f"checkpoint-{self.state.global_step}"
        write_json(folder / "saving" / name / DIGESTS, digests_of(folder / "saving" / name))
        for path in (folder / "saving" / name).iterdir():
            sync(path)
        (folder / "saving" / name).rename(folder / name)
        sync(folder)
        for old in whole_checkpoints(folder)[:-1]:
            # Renamed before it is removed, so that a half-removed one is never taken for a complete one.
            old.rename(folder / "saving" / old.name)
        shutil.rmtree(folder / "saving")
        evaluations = [entry for entry in self.state.log_history if "eval_mean" in entry]
        best = min(evaluations, key=lambda entry: entry["eval_mean"], default={"step": None})["step"]
        for path in folder.glob(BEST.format("*")):
            if path.name != BEST.format(best):
                path.unlink()

    def _save(self, output_dir=None, state_dict=None) -> None:
        Path(output_dir).mkdir(parents=True, exist_ok=True)
        save_file(self.model.trainable_state(), Path(output_dir) / WEIGHTS)
        write_json(Path(output_dir) / TIME_USED, {
            "seconds": self.clock.used(), "examples": self.options.examples} | self.progress)

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None) -> None:
        folder = Path(resume_from_checkpoint)
        check_checkpoint(folder)
        self.model.load_trainable_state(read_weights(folder / WEIGHTS, shapes_of(self.model.trainable_state())))
        self.progress = read_json(folder / TIME_USED, TrainingError)
        check_form(self.progress, TIME_FORM, str(folder / TIME_USED), TrainingError)
        self.clock.resume(self.progress["seconds"])

    def resume_loss(self) -> None:
        """The loss that is logged next is the mean since the one before the checkpoint; Trainer forgets what was before
        it. Checkpoints of earlier versions forgot it too."""
        self._tr_loss += self.progress.get("loss", 0.0)
        self._globalstep_last_logged = self.progress.get("logged_at", self.state.global_step)


class EpochLoader(DataLoader):
    """A DataLoader that tells its batch sampler the epoch, which has new batches in every epoch."""

    def set_epoch(self, epoch: int) -> None:
        self.batch_sampler.set_epoch(epoch)


class StageCallback(TrainerCallback):
    """Decides when to evaluate, save and stop, shows progress, and stops at a loss that is not finite.

    title: "Stage 1 of 3, ...". evaluations: how often a stage that is bounded by minutes is evaluated; one that is
    bounded by epochs is evaluated after each epoch. foretell: called once with the passes a second of the first
    updates; logs what will come of them.
    """

    def __init__(self, title: str, clock: Clock, save_steps: int, steps_per_epoch: int, evaluations: int,
                 foretell: Callable[[float], None] = lambda speed: None):
        self.title = title
        self.clock = clock
        self.save_steps = save_steps
        self.steps_per_epoch = steps_per_epoch
        self.evaluations = evaluations
        self.foretell = foretell
        self.timed: tuple[int, float] | None = None  # the first update of this start, and when it was over
        self.foretold = False
        self.evaluated = 0  # evaluations that were due so far, in a stage of minutes
        self.bar = None
        self.trainer: StageTrainer | None = None  # which it is given to

    def on_train_begin(self, args, state, control, **kwargs):
        self.trainer.resume_loss()
        self.clock.tick(state.global_step, state.max_steps)
        self.clock.share = _of_first_process(self.clock.share, args)
        self.evaluated = int(self.clock.share * self.evaluations)
        bar_options = dict(total=state.max_steps, initial=state.global_step, unit="step")
        if self.clock.seconds is not None:
            bar_options = dict(total=100, initial=round(100 * self.clock.share),
                               bar_format="{l_bar}{bar}| {elapsed} of " + _minutes(self.clock.seconds) + "{postfix}")
        self.bar = tqdm(desc=self.title, file=sys.stderr, dynamic_ncols=True, miniters=1,
                        mininterval=0.5 if sys.stderr.isatty() else 30,
                        disable=not state.is_world_process_zero, **bar_options)

    def on_optimizer_step(self, args, state, control, **kwargs):
        self.clock.tick(state.global_step + 1, state.max_steps)
        self.clock.share = _of_first_process(self.clock.share, args)

    def _foretell(self, state) -> None:
        """The first update is left out: it also makes what later ones find ready."""
        if self.timed is None:
            self.timed = state.global_step, time.monotonic()
            return
        updates, seconds = state.global_step - self.timed[0], time.monotonic() - self.timed[1]
        if updates < FIRST_UPDATES and seconds < FIRST_SECONDS:
            return
        self.foretold = True
        with tqdm.external_write_mode(file=sys.stderr):
            self.foretell(updates / seconds / self.steps_per_epoch)

    def on_step_end(self, args, state, control, **kwargs):
        if state.is_world_process_zero and not self.foretold:
            self._foretell(state)
        if self.clock.seconds is None:
            self.bar.update(1)
            at_epoch_end = state.global_step % self.steps_per_epoch == 0  # saved after the evaluation of the epoch
            control.should_save = state.global_step % self.save_steps == 0 and not at_epoch_end
            return control
        self.bar.update(round(100 * self.clock.share) - self.bar.n)
        due = int(self.clock.share * self.evaluations)
        control.should_evaluate, self.evaluated = due > self.evaluated, due
        control.should_training_stop = self.clock.share >= 1
        control.should_save = control.should_evaluate or state.global_step % self.save_steps == 0
        return control

    def on_epoch_end(self, args, state, control, **kwargs):
        if self.clock.seconds is None:
            control.should_evaluate = control.should_save = True
        return control

    def on_log(self, args, state, control, logs=None, optimizer=None, **kwargs):
        if "loss" in logs:
            if not math.isfinite(logs["loss"]):
                peaks = " and ".join(f"{group['initial_lr']:.2g}" for group in optimizer.param_groups)
                raise TrainingError(f"{self.title}: the loss is {logs['loss']} at update {state.global_step}: "
                                    f"lower LR and LR_NEW_ROWS ({peaks} here), or set DTYPE to float32")
            self.bar.set_postfix_str(f"loss {logs['loss']:.3f}", refresh=False)

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        if not state.is_world_process_zero:
            return
        sets = ", ".join(f"{name} {metrics[f'eval_{name}']:.3f}" for name in ("seen", "unseen")
                         if f"eval_{name}" in metrics)
        losses = [entry["loss"] for entry in state.log_history[-20:] if "loss" in entry]
        loss = f"loss {sum(losses) / len(losses):.3f}, " if losses else ""
        progress = f"pass {round(state.epoch)} of {args.num_train_epochs}" if self.clock.seconds is None else (
            f"{_minutes(self.clock.used())} of {_minutes(self.clock.seconds)}, {state.epoch:.1f} passes")
        with tqdm.external_write_mode(file=sys.stderr):
            log.info("  %s: %sheld-out NLL per motion token: %s", progress, loss, sets or "nothing is held out")

    def on_train_end(self, args, state, control, **kwargs):
        self.close()

    def close(self) -> None:
        """End the line of the progress bar, so that a message starts on its own."""
        if self.bar is not None:
            self.bar.close()


def _minutes(seconds: float) -> str:
    return f"{int(seconds) // 60:02}:{int(seconds) % 60:02} min"


def _of_first_process(value: float, args) -> float:
    """The first process's value, in all processes: their clocks differ, but all must stop at the same update."""
    if args.world_size == 1:
        return value
    shared = torch.tensor(value, dtype=torch.float64, device=args.device)
    torch.distributed.broadcast(shared, src=0)
    return shared.item()
