"""From rows to batches: the task of a row in an epoch, the corruption of motions, padding, batches by length."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import Dataset

from motion_llm.streams import ABSENT, MASKED, Streams
from templates import Example, MotionTemplate, MotionVocabulary

IGNORED = -100  # the label of a position without loss, as in torch and transformers


def row_generator(seed: int, showing: int, index: int) -> np.random.Generator:
    """The generator of everything drawn for a showing of a row, so that a resumed run draws the same."""
    return np.random.default_rng([seed, showing, index])


def corrupt(codes: np.ndarray, rng: np.random.Generator, streams: Streams) -> np.ndarray:
    """The flat codes (T * Q,) in denoising's prompt: half of the time with noise, else with a gap or the start alone.
    Of several streams, one time in three whole streams are lost instead."""
    if streams.count > 1 and rng.random() < 1 / 3:
        return with_lost_streams(codes, rng, streams)
    kind = rng.random()
    if kind < 0.5 or len(codes) < 3 * streams.count:
        return with_noise(codes, rng, streams)
    if kind < 0.75:
        return with_gap(codes, rng, streams.count)
    return with_start_alone(codes, rng, streams.count)


def _random_codes(streams: Streams, stream: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random flat code of each of the streams (N,)."""
    if streams.count == 1:
        return rng.integers(0, streams.size, size=len(stream))
    return rng.integers(streams.starts[stream], streams.starts[stream + 1])


def with_lost_streams(codes: np.ndarray, rng: np.random.Generator, streams: Streams) -> np.ndarray:
    """One or more of the streams that the motion has are masked, but not all; with one alone, its codes get noise."""
    present = np.flatnonzero(codes[:streams.count] != ABSENT)
    if len(present) < 2:
        return with_noise(codes, rng, streams)
    lost = rng.choice(present, size=int(rng.integers(1, len(present))), replace=False)
    return np.where(np.isin(np.arange(len(codes)) % streams.count, lost), MASKED, codes)


def with_noise(codes: np.ndarray, rng: np.random.Generator, streams: Streams) -> np.ndarray:
    """Corrupt 15 to 60 % of the codes (T * Q,), at least one, half of them in one span.

    80 % of these become `MASKED` and 20 % a random code of their stream, so that the model cannot trust what it reads.
    These are the proportions of BERT's masking (Devlin et al. 2019) without its unchanged tenth: that would teach
    copying, which the uncorrupted codes do already.
    """
    length = len(codes)
    corrupted = np.zeros(length, dtype=bool)
    count = max(1, round(rng.uniform(0.15, 0.6) * length))
    span = count // 2
    start = int(rng.integers(0, length - span + 1))
    corrupted[start:start + span] = True
    intact = np.flatnonzero(~corrupted)
    corrupted[rng.choice(intact, size=count - span, replace=False)] = True
    noisy = np.array(codes)
    masked = corrupted & (rng.random(length) < 0.8)
    replaced = corrupted & ~masked
    noisy[replaced] = _random_codes(streams, np.flatnonzero(replaced) % streams.count, rng)
    noisy[masked] = MASKED
    return np.where(np.asarray(codes) == ABSENT, ABSENT, noisy)


def with_gap(codes: np.ndarray, rng: np.random.Generator, in_step: int = 1) -> np.ndarray:
    """In-betweening: 20 to 80 % of at least 3 steps of `in_step` codes are masked in one span, but not the first and
    the last. codes: (T * in_step,)."""
    length = len(codes) // in_step
    count = min(max(1, round(rng.uniform(0.2, 0.8) * length)), length - 2)
    start = int(rng.integers(1, length - count))
    noisy = np.array(codes)
    noisy[start * in_step:(start + count) * in_step] = MASKED
    return np.where(np.asarray(codes) == ABSENT, ABSENT, noisy)


def with_start_alone(codes: np.ndarray, rng: np.random.Generator, in_step: int = 1) -> np.ndarray:
    """Continuation: the last 20 to 90 % of at least 2 steps of `in_step` codes are masked, but never the first. codes:
    (T * in_step,)."""
    noisy, length = np.array(codes), len(codes) // in_step
    noisy[max(1, round((1 - rng.uniform(0.2, 0.9)) * length)) * in_step:] = MASKED
    noisy[-in_step:] = MASKED
    return np.where(np.asarray(codes) == ABSENT, ABSENT, noisy)


def with_noisy_history(example: Example, rng: np.random.Generator, rate: float,
                       vocabulary: MotionVocabulary) -> Example:
    """Replace a share `rate` of the answer's codes by random ones of their streams in the network's input; the labels
    stay.

    A model that always reads a correct history continues the last few codes and hardly uses the caption. With errors
    in the history, as in decoding, where it reads its own output, it has to use the caption (T2M-GPT's corrupted
    sequences, Zhang et al. 2023).
    """
    ids, codes = np.array(example.ids), range(vocabulary.first_motion_id, vocabulary.end_id)
    is_code = np.array(example.loss_mask) & (ids >= codes.start) & (ids < codes.stop)
    replaced = is_code & (rng.random(len(ids)) < rate)
    streams = vocabulary.streams
    stream = np.searchsorted(streams.starts, ids[replaced] - codes.start, "right") - 1
    ids[replaced] = codes.start + _random_codes(streams, stream, rng)
    return Example(example.ids, example.loss_mask, ids.tolist())


@dataclass(frozen=True)
class ExampleDrawer:
    """Draws the example of a row each time that it is shown: its task, its noise, and whether its participant is named.

    task_mix: {"t2m": 0.5, ...}, shares that sum to 1. participant_dropout: the share of examples with <PID_NULL>
    instead of their participant, so that decoding without one works. history_noise: called for each example, returns
    the mean share of an answer's codes that are random in the input (LM and T2M only); each example's share is drawn
    from 0 to twice that. caption_dropout: the share of T2M examples with an empty caption, which guidance needs.
    edit_captions: the share of denoising examples with their caption, where that fits `positions`.
    """

    template: MotionTemplate
    task_mix: Mapping[str, float]
    participant_dropout: float
    seed: int
    history_noise: Callable[[], float] = lambda: 0.0
    caption_dropout: float = 0.0
    edit_captions: float = 0.0
    positions: int | None = None

    def tasks(self, epoch: int, count: int) -> np.ndarray:
        """The task of each of `count` rows in an epoch, (count,) names."""
        rng = np.random.default_rng([self.seed, epoch])
        return rng.choice(list(self.task_mix), size=count, p=list(self.task_mix.values()))

    def __call__(self, task: str, showing: int, index: int, row: Mapping) -> Example:
        """showing: how often the row's motion was shown before. row: text_query, codes (T * Q,) flat, participant_id
        or None."""
        rng = row_generator(self.seed, showing, index)
        participant_id = row["participant_id"] if rng.random() >= self.participant_dropout else None
        codes = np.asarray(row["codes"])
        noisy = corrupt(codes, rng, self.template.vocabulary.streams) if task == "denoise" else None
        text = row["text_query"]
        if task == "t2m" and self.caption_dropout and rng.random() < self.caption_dropout:
            text = ""
        if task == "denoise" and not (rng.random() < self.edit_captions and self._fits_edit(text, codes)):
            text = None
        example = self.template.render(task, text=text, codes=codes, noisy=noisy,
                                       participant_id=participant_id)
        noise = self.history_noise()
        if not noise or task not in ("lm", "t2m"):
            return example
        rate = min(1.0, 2 * noise * rng.random())
        return with_noisy_history(example, rng, rate, self.template.vocabulary)

    def _fits_edit(self, text: str, codes: np.ndarray) -> bool:
        length = self.template.length("edit", len(self.template.encode_text(text)), len(codes))
        return self.positions is None or length <= self.positions


def collate(examples: Sequence[Example], pad_id: int) -> dict[str, torch.Tensor]:
    """Examples to input_ids, attention_mask and labels, each (B, T), padded on the right to the longest.

    Only attention_mask tells what is padding: a base's pad id may be its end-of-turn id.
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


def micro_batches(batch: Mapping[str, torch.Tensor], max_positions: int) -> list[dict[str, torch.Tensor]]:
    """Split a batch of (B, T) tensors into parts of at most `max_positions` positions and about the same size.

    There are as few parts as filling each up gives. Examples of similar length share a part, which is cut to its
    longest example. An example longer than `max_positions` is a part by itself.
    """
    lengths = batch["attention_mask"].sum(dim=1)  # (B,)
    order = torch.argsort(lengths, descending=True, stable=True)
    sizes = _even_sizes(lengths[order].tolist(), max_positions)
    parts, start = [], 0
    for size in sizes:
        rows = order[start:start + size]
        width = int(lengths[rows[0]])
        parts.append({name: tensor[rows, :width] for name, tensor in batch.items()})
        start += size
    return parts


def _greedy_sizes(lengths: Sequence[int], max_positions: int) -> list[int]:
    """The number of examples in each part, longest examples first, where every part is filled up."""
    sizes, start = [], 0
    while start < len(lengths):
        sizes.append(min(max(1, max_positions // lengths[start]), len(lengths) - start))
        start += sizes[-1]
    return sizes


def _even_sizes(lengths: Sequence[int], max_positions: int) -> list[int]:
    """As many parts as `_greedy_sizes` gives, with the smallest bound that does not need more: a small last part costs
    nearly as much time as a full one."""
    parts = len(_greedy_sizes(lengths, max_positions))
    low, high = 0, max_positions  # bound `high` gives that many parts, `low` more
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if len(_greedy_sizes(lengths, middle)) == parts else (middle, high)
    return _greedy_sizes(lengths, high)


def length_sorted_batches(lengths: Sequence[int], batch_size: int, rng: np.random.Generator,
                          pool: int = 64, least: int = 1) -> list[list[int]]:
    """Batches of row positions with little padding: rows are shuffled, sorted by length inside pools of `pool`
    batches, cut into batches, and these shuffled. Every position is in exactly one batch. One batch may be smaller; if
    it would have fewer than `least` rows, they join another batch.
    """
    lengths = np.asarray(lengths)
    order = rng.permutation(len(lengths))
    batches = []
    for start in range(0, len(order), pool * batch_size):
        rows = order[start:start + pool * batch_size]
        rows = rows[np.argsort(lengths[rows], kind="stable")]
        batches += [rows[i:i + batch_size].tolist() for i in range(0, len(rows), batch_size)]
    if len(batches) > 1 and len(batches[-1]) < least:
        batches[-2:] = [batches[-2] + batches[-1]]
    return [batches[i] for i in rng.permutation(len(batches))]


class DrawnExamples(Dataset):
    """Examples by (task, showing, position); the order of access and the process change nothing."""

    def __init__(self, rows, drawer: ExampleDrawer):
        self.rows = rows
        self.drawer = drawer

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: tuple[str, int, int]) -> Example:
        task, showing, position = key
        return self.drawer(task, showing, position, self.rows[position])


GOLDEN_RATIO = (5 ** 0.5 - 1) / 2  # its multiples, modulo 1, spread more evenly than random numbers


def shares_of_motions(motions: Sequence[int], captions: Sequence[int]) -> np.ndarray:
    """(M,): how often a pass shows each motion, 1 in the mean, so that rare captions are learned too.

    motions, captions (N,): those of each row, from 0. Together, the clips of a caption are shown in proportion to the
    root of their number, as images of a hashtag in Mahajan et al. 2018: a lone clip more often, each of many less.
    A motion with several captions gets the mean of what each asks for.
    """
    weights = np.bincount(captions)[np.asarray(captions)] ** -0.5  # of n clips these sum to the root of n
    of_motion = np.bincount(motions, weights) / np.bincount(motions)
    return of_motion / of_motion.mean()


class Captions:
    """Which rows an epoch shows, where the rows of a motion are its captions: M rows, as many as there are motions.

    motions (N,): the motion of each row, from 0. shares (M,): how often an epoch shows each motion in the mean of many
    epochs, 1 in the mean of all motions; by default once. The first caption of a motion is drawn, with `seed`; then
    they follow one another, so that k showings are all its k captions.
    """

    def __init__(self, motions: Sequence[int], seed: int, shares: np.ndarray | None = None):
        motions = np.asarray(motions)
        rng = np.random.default_rng([seed, len(motions)])
        self.order = np.argsort(motions, kind="stable")  # the rows of a motion are adjacent
        self.counts = np.bincount(motions)
        self.starts = np.cumsum(self.counts) - self.counts
        self.first = rng.integers(self.counts)
        self.ends = np.cumsum(np.ones(len(self.counts)) if shares is None else shares)
        self.ends[-1] = len(self.counts)  # which their sum is but for rounding
        self.offset = rng.random()

    def showings(self, epoch: int) -> np.ndarray:
        """(M,): how often an epoch shows each motion: systematic sampling, whose offset moves by the golden ratio, so
        that also a few epochs together keep close to the shares."""
        offset = (self.offset + epoch * GOLDEN_RATIO) % 1
        return np.diff(np.floor(self.ends + offset).astype(np.int64), prepend=0)

    def rows(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """(M,) each: the rows of an epoch, those of a motion one after another, and how often their motion was shown
        before."""
        times = self.showings(epoch)
        before = sum((self.showings(earlier) for earlier in range(epoch)), np.zeros_like(times))
        motion = np.repeat(np.arange(len(times)), times)
        showing = np.arange(len(motion)) + np.repeat(before - np.cumsum(times) + times, times)
        return self.order[self.starts[motion] + (self.first[motion] + showing) % self.counts[motion]], showing


class EpochBatches:
    """Batch sampler: lists of (task, showing, position), rows of similar length together, a new order in every epoch.

    motion_tokens, text_tokens (N,): token counts of each row; estimates are enough. motions (N,), shares (M,): see
    Captions; by default every row is a motion of its own, shown once. batch_size: rows of a process. Where `processes`
    train together, number `process` gets every `processes`-th row of batches of processes * batch_size rows: together
    they train on the same batches as a single process with such batches. first_epoch: what epoch 0 draws as, so that a
    stage that goes on draws other examples than before.
    """

    def __init__(self, motion_tokens: Sequence[int], text_tokens: Sequence[int], drawer: ExampleDrawer, batch_size: int,
                 processes: int = 1, process: int = 0, motions: Sequence[int] | None = None, first_epoch: int = 0,
                 shares: np.ndarray | None = None):
        self.captions = Captions(range(len(motion_tokens)) if motions is None else motions, drawer.seed, shares)
        self.count = len(self.captions.counts)
        if self.count < processes:
            raise ValueError(f"{self.count} training clips for {processes} processes: start fewer")
        self.motion_tokens, self.text_tokens = np.asarray(motion_tokens), np.asarray(text_tokens)
        self.drawer = drawer
        self.batch_size = batch_size
        self.processes = processes
        self.process = process
        self.first_epoch = first_epoch
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        self.epoch = self.first_epoch + epoch

    def __len__(self) -> int:
        full, remainder = divmod(self.count, self.processes * self.batch_size)
        return max(1, full + (remainder >= self.processes))

    def __iter__(self):
        (rows, showings), tasks = self.captions.rows(self.epoch), self.drawer.tasks(self.epoch, self.count)
        lengths = np.empty(self.count, np.int64)
        for task in np.unique(tasks):
            of_task = rows[tasks == task]
            lengths[tasks == task] = self.drawer.template.length(
                str(task), self.text_tokens[of_task], self.motion_tokens[of_task])
        rng = np.random.default_rng([self.drawer.seed, self.epoch, self.count])
        for batch in length_sorted_batches(lengths, self.processes * self.batch_size, rng, least=self.processes):
            yield [(str(tasks[i]), int(showings[i]), int(rows[i])) for i in batch[self.process::self.processes]]
