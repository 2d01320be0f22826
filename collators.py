"""From rows to batches: which task a row is given in an epoch, how a motion is corrupted, how examples are padded."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import Dataset

from templates import MASKED, Example, MotionTemplate, MotionVocabulary

IGNORED = -100  # the label of a position without loss, as torch and transformers spell it


def row_generator(seed: int, epoch: int, index: int) -> np.random.Generator:
    """All that is drawn for a row in an epoch comes from here, so that a resumed run draws the same."""
    return np.random.default_rng([seed, epoch, index])


def corrupt(codes: np.ndarray, rng: np.random.Generator, codebook_size: int) -> np.ndarray:
    """Denoising's question, (T,): half of the time noise, a quarter each a gap to go over and a rest to go on with."""
    kind = rng.random()
    if kind < 0.5 or len(codes) < 3:
        return with_noise(codes, rng, codebook_size)
    return with_gap(codes, rng) if kind < 0.75 else with_start_alone(codes, rng)


def with_noise(codes: np.ndarray, rng: np.random.Generator, codebook_size: int) -> np.ndarray:
    """A share of 15 to 60 % of the codes (T,) lost, half of it in one span; at least one.

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


def with_gap(codes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """In-betweening: 20 to 80 % of at least 3 codes (T,) are lost in one span, with something left on either side."""
    length = len(codes)
    count = min(max(1, round(rng.uniform(0.2, 0.8) * length)), length - 2)
    start = int(rng.integers(1, length - count))
    noisy = np.array(codes)
    noisy[start:start + count] = MASKED
    return noisy


def with_start_alone(codes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Continuation: the last 20 to 90 % of the codes (T,) are lost, the first is not."""
    noisy = np.array(codes)
    noisy[max(1, round((1 - rng.uniform(0.2, 0.9)) * len(codes))):] = MASKED
    noisy[-1] = MASKED
    return noisy


def with_noisy_history(example: Example, rng: np.random.Generator, rate: float,
                       vocabulary: MotionVocabulary) -> Example:
    """A share `rate` of the answer's codes read as random ones; what is to be learned stays.

    A model that always reads a faultless past goes on from the last few codes and hardly needs the caption; one whose
    past may be wrong has to ask what was wanted, as it has to when it reads its own (T2M-GPT's corrupted sequences,
    Zhang et al. 2023).
    """
    ids, codes = np.array(example.ids), range(vocabulary.first_motion_id, vocabulary.end_id)
    hit = np.array(example.loss_mask) & (ids >= codes.start) & (ids < codes.stop) & (rng.random(len(ids)) < rate)
    ids[hit] = rng.integers(codes.start, codes.stop, size=int(hit.sum()))
    return Example(example.ids, example.loss_mask, ids.tolist())


@dataclass(frozen=True)
class ExampleDrawer:
    """Draws the example that a row is in an epoch: its task, its noise, and whether its participant is named.

    task_mix: {"t2m": 0.5, ...}, shares that sum to 1. participant_dropout: the share of examples that are given
    <PID_NULL> instead of their participant, so that decoding without one works. history_noise: gives the mean share of
    an answer's codes that are read as random ones while the next is learned (LM and T2M), as it is when the example is
    drawn; each example's own is drawn from 0 to twice that. caption_dropout: the share of T2M examples without their
    caption, so that guidance knows motion without one.
    """

    template: MotionTemplate
    task_mix: Mapping[str, float]
    participant_dropout: float
    seed: int
    history_noise: Callable[[], float] = lambda: 0.0
    caption_dropout: float = 0.0

    def tasks(self, epoch: int, count: int) -> np.ndarray:
        """The task of each of `count` rows in an epoch, (count,) names."""
        rng = np.random.default_rng([self.seed, epoch])
        return rng.choice(list(self.task_mix), size=count, p=list(self.task_mix.values()))

    def __call__(self, task: str, epoch: int, index: int, row: Mapping) -> Example:
        """row: text_query, codes (T,), participant_id or None."""
        rng = row_generator(self.seed, epoch, index)
        participant_id = row["participant_id"] if rng.random() >= self.participant_dropout else None
        codes = np.asarray(row["codes"])
        noisy = corrupt(codes, rng, self.template.vocabulary.codebook_size) if task == "denoise" else None
        text = row["text_query"]
        if task == "t2m" and self.caption_dropout and rng.random() < self.caption_dropout:
            text = ""
        example = self.template.render(task, text=text, codes=codes, noisy=noisy,
                                       participant_id=participant_id)
        noise = self.history_noise()
        if not noise or task not in ("lm", "t2m"):
            return example
        rate = min(1.0, 2 * noise * rng.random())
        return with_noisy_history(example, rng, rate, self.template.vocabulary)


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
        input_ids[i, :len(ids)] = ids if example.shown is None else torch.tensor(example.shown)
        attention_mask[i, :len(ids)] = 1
        labels[i, :len(ids)][mask] = ids[mask]
    return {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}


def micro_batches(batch: Mapping[str, torch.Tensor], most_tokens: int) -> list[dict[str, torch.Tensor]]:
    """A batch of (B, T) tensors in parts of at most `most_tokens` positions, as few as filling them up makes, about
    equally large, each cut to its own longest example.

    Examples of like length share a part. One that is longer than `most_tokens` is a part by itself.
    """
    lengths = batch["attention_mask"].sum(dim=1)  # (B,)
    order = torch.argsort(lengths, descending=True, stable=True)
    sizes = _even_sizes(lengths[order].tolist(), most_tokens)
    parts, start = [], 0
    for size in sizes:
        rows = order[start:start + size]
        width = int(lengths[rows[0]])
        parts.append({name: tensor[rows, :width] for name, tensor in batch.items()})
        start += size
    return parts


def _greedy_sizes(lengths: Sequence[int], most_tokens: int) -> list[int]:
    """How many of the examples, longest first, share each part where every part is filled up."""
    sizes, start = [], 0
    while start < len(lengths):
        sizes.append(min(max(1, most_tokens // lengths[start]), len(lengths) - start))
        start += sizes[-1]
    return sizes


def _even_sizes(lengths: Sequence[int], most_tokens: int) -> list[int]:
    """As many parts, filled up to the least that still makes no more of them: a small rest costs nearly a full part."""
    parts = len(_greedy_sizes(lengths, most_tokens))
    low, high = 0, most_tokens  # high makes that many parts, low more
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if len(_greedy_sizes(lengths, middle)) == parts else (middle, high)
    return _greedy_sizes(lengths, high)


def length_sorted_batches(lengths: Sequence[int], batch_size: int, rng: np.random.Generator,
                          pool: int = 64, least: int = 1) -> list[list[int]]:
    """Batches of row positions with little padding: rows are shuffled, sorted by length inside pools of
    `pool` batches, cut, and the batches shuffled. Every position is in exactly one batch; one may be smaller, or,
    where it would have fewer than `least` rows, larger.
    """
    lengths = np.asarray(lengths)
    order = rng.permutation(len(lengths))
    batches = []
    for start in range(0, len(order), pool * batch_size):
        part = order[start:start + pool * batch_size]
        part = part[np.argsort(lengths[part], kind="stable")]
        batches += [part[i:i + batch_size].tolist() for i in range(0, len(part), batch_size)]
    if len(batches) > 1 and len(batches[-1]) < least:
        batches[-2:] = [batches[-2] + batches[-1]]
    return [batches[i] for i in rng.permutation(len(batches))]


class DrawnExamples(Dataset):
    """Examples by (task, epoch, position): what a row becomes does not depend on who asks, or when."""

    def __init__(self, rows, drawer: ExampleDrawer):
        self.rows = rows
        self.drawer = drawer

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: tuple[str, int, int]) -> Example:
        task, epoch, position = place
        return self.drawer(task, epoch, position, self.rows[position])


class EpochBatches:
    """Batch sampler: lists of (task, epoch, position), another order in every epoch, rows of like length together.

    motion_tokens, text_tokens (N,): of each row; about is enough. batch_size: rows of a process. Of `processes` that
    train together, number `process` is given every `processes`-th row of batches of processes * batch_size, so that
    together they see what one process with such batches would.
    """

    def __init__(self, motion_tokens: Sequence[int], text_tokens: Sequence[int], drawer: ExampleDrawer, batch_size: int,
                 processes: int = 1, process: int = 0):
        if len(motion_tokens) < processes:
            raise ValueError(f"{len(motion_tokens)} training rows for {processes} processes: start fewer")
        self.motion_tokens, self.text_tokens = np.asarray(motion_tokens), np.asarray(text_tokens)
        self.drawer = drawer
        self.batch_size = batch_size
        self.processes = processes
        self.process = process
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        whole, rest = divmod(len(self.motion_tokens), self.processes * self.batch_size)
        return max(1, whole + (rest >= self.processes))

    def __iter__(self):
        count = len(self.motion_tokens)
        tasks, lengths = self.drawer.tasks(self.epoch, count), np.empty(count, np.int64)
        for task in np.unique(tasks):
            rows = tasks == task
            lengths[rows] = self.drawer.template.length(str(task), self.text_tokens[rows], self.motion_tokens[rows])
        rng = np.random.default_rng([self.drawer.seed, self.epoch, count])
        for batch in length_sorted_batches(lengths, self.processes * self.batch_size, rng, least=self.processes):
            yield [(str(tasks[i]), self.epoch, i) for i in batch[self.process::self.processes]]
