"""From rows to batches: which task a row is given in an epoch, how a motion is corrupted, how examples are padded."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from templates import MASKED, Example, MotionTemplate

IGNORED = -100  # the label of a position without loss, as torch and transformers spell it


def row_generator(seed: int, epoch: int, index: int) -> np.random.Generator:
    """All that is drawn for a row in an epoch comes from here, so that a resumed run draws the same."""
    return np.random.default_rng([seed, epoch, index])


def draw_task(rng: np.random.Generator, task_mix: Mapping[str, float]) -> str:
    tasks = list(task_mix)
    return tasks[int(rng.choice(len(tasks), p=np.array([task_mix[task] for task in tasks])))]


def corrupt(codes: np.ndarray, rng: np.random.Generator, codebook_size: int) -> np.ndarray:
    """Denoising's question: a share of 15 to 60 % of the codes (T,) lost, half of it in one span; at least one.

    Of the lost codes 80 % read `MASKED` and 20 % are replaced by a random code, so that the model must doubt
    what it sees (the proportions of BERT's masking, Devlin et al. 2019, without its kept tenth: what is kept
    teaches copying, which the untouched codes do already).
    """
    length = len(codes)
    lost = np.zeros(length, dtype=bool)
    count = max(1, round(rng.uniform(0.15, 0.6) * length))
    span = count // 2
    start = int(rng.integers(0, length - span + 1))
    lost[start:start + span] = True
    rest = np.flatnonzero(~lost)
    lost[rng.choice(rest, size=count - span, replace=False)] = True
    noisy = np.array(codes)
    masked = lost & (rng.random(length) < 0.8)
    replaced = lost & ~masked
    noisy[replaced] = rng.integers(0, codebook_size, size=int(replaced.sum()))
    noisy[masked] = MASKED
    return noisy


@dataclass(frozen=True)
class ExampleDrawer:
    """Draws the example that a row is in an epoch: its task, its noise, and whether its participant is named.

    task_mix: {"t2m": 0.5, ...}, shares that sum to 1. participant_dropout: the share of examples that are given
    <PID_NULL> instead of their participant, so that decoding without one works.
    """

    template: MotionTemplate
    task_mix: Mapping[str, float]
    participant_dropout: float
    seed: int

    def task(self, epoch: int, index: int) -> str:
        return draw_task(row_generator(self.seed, epoch, index), self.task_mix)

    def __call__(self, epoch: int, index: int, row: Mapping) -> Example:
        """row: text_query, codes (T,), participant_id or None."""
        rng = row_generator(self.seed, epoch, index)
        task = draw_task(rng, self.task_mix)
        participant_id = row["participant_id"] if rng.random() >= self.participant_dropout else None
        codes = np.asarray(row["codes"])
        noisy = corrupt(codes, rng, self.template.vocabulary.codebook_size) if task == "denoise" else None
        return self.template.render(task, text=row["text_query"], codes=codes, noisy=noisy,
                                    participant_id=participant_id)


def collate(examples: Sequence[Example], pad_id: int) -> dict[str, torch.Tensor]:
    """Examples to input_ids, attention_mask and labels, each (B, T), padded on the right to the longest.

    Padding is known by the mask alone: a base's pad id may be its end-of-turn id.
    """
    width = max(len(example.ids) for example in examples)
    input_ids = torch.full((len(examples), width), pad_id, dtype=torch.long)
    attention_mask = torch.zeros((len(examples), width), dtype=torch.long)
    labels = torch.full((len(examples), width), IGNORED, dtype=torch.long)
    for i, example in enumerate(examples):
        ids = torch.tensor(example.ids)
        mask = torch.tensor(example.loss_mask)
        input_ids[i, :len(ids)] = ids
        attention_mask[i, :len(ids)] = 1
        labels[i, :len(ids)][mask] = ids[mask]
    return {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}


def length_sorted_batches(lengths: Sequence[int], batch_size: int, rng: np.random.Generator,
                          pool: int = 32) -> list[list[int]]:
    """Batches of row positions with little padding: rows are shuffled, sorted by length inside pools of
    `pool` batches, cut, and the batches shuffled. Every position is in exactly one batch; one may be smaller.
    """
    lengths = np.asarray(lengths)
    order = rng.permutation(len(lengths))
    batches = []
    for start in range(0, len(order), pool * batch_size):
        part = order[start:start + pool * batch_size]
        part = part[np.argsort(lengths[part], kind="stable")]
        batches += [part[i:i + batch_size].tolist() for i in range(0, len(part), batch_size)]
    return [batches[i] for i in rng.permutation(len(batches))]
