"""The decode loop: many answers are decoded at once, and each starts and ends independently of the others.

A fixed number of slots holds the rows that are being decoded. When a row finishes, the last row moves into its slot,
and new jobs fill the free slots at the end, so the network never computes rows that are finished. A prompt that several
jobs share is computed once. Scores are computed for the tokens of the answer's alphabet alone.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice, takewhile
from os.path import commonprefix

import numpy as np
import torch

from motion_llm.dataset.lengths import LengthLimits
from motion_llm.decoding.alphabet import Alphabet
from motion_llm.decoding.constraints import Bounds, constrained_scores, raise_on_nan
from motion_llm.decoding.request import LEAST_TEMPERATURE, Sampling
from motion_llm.decoding.sampling import Draws, draw, guided, joined
from motion_llm.network.cached import CachedNetwork
from motion_llm.streams import ABSENT, MASKED

WINDOW = 2  # times the slots: jobs that are sorted by length; the order in all of 900 costs the same (docs/log.md)
MOST_POSITIONS = 8_192  # scored at once; bounds the memory of long texts and large vocabularies


@dataclass(frozen=True)
class Job:
    """One answer to decode. fixed: its first tokens by position, as indices in the alphabet, FREE where the model
    decides, and ABSENT; it may be shorter than the answer, and an ABSENT in a step's first place may be its end.
    limits: in codes, of all streams. codes: those that may be used; None for all. random_key: jobs with the same key
    draw the same random numbers. unconditional_ids: with guidance, the same prompt without its caption; they end as
    prompt_ids do. joining: so many first codes must be likely without the caption too, see `joined`."""

    prompt_ids: Sequence[int]
    limits: LengthLimits
    sampling: Sampling
    fixed: Sequence[int] = ()
    codes: Sequence[int] | None = None
    random_key: tuple[int, ...] = (0,)
    unconditional_ids: Sequence[int] = ()
    joining: int = 0


FREE = MASKED  # what is lost in a request is free in its job


@dataclass
class Answer:
    """indices: in the alphabet, or ABSENT, without the end. log_probability: of the tokens that were not fixed, the end
    included, in nats, under the softmax over the alphabet, before temperature, limits and shifts; None if the engine
    has none."""

    indices: list[int] = field(default_factory=list)
    log_probability: float | None = 0.0


class _Slots:
    """The rows that are being decoded, as arrays by slot; the first `live` slots are in use."""

    def __init__(self, jobs: Sequence[Job], count: int, size: int, device):
        longest = max(max(job.limits.max_tokens for job in jobs), max(len(job.fixed) for job in jobs)) + 1
        integers = dict(dtype=torch.long, device=device)
        self.jobs, self.size = jobs, size
        self.live, self.owners, self.prompts = 0, [-1] * count, [()] * count
        # Known without reading from a GPU, which would wait for it: how much each row has cached, whether any is drawn.
        self.lengths: list[list[int]] = [[]] * count
        self.greedy = all(job.sampling.temperature < LEAST_TEMPERATURE for job in jobs)
        self.joins = any(job.joining for job in jobs)
        self.next_ids, self.tokens = (torch.zeros(count, **integers) for _ in range(2))
        # The network's rows for each slot: with guidance a second row, the same answer without the caption.
        self.width = 1 + any(job.unconditional_ids for job in jobs)
        self.past, self.guidance = torch.zeros(count, self.width, **integers), torch.ones(count, device=device)
        self.joining = torch.zeros(count, **integers)
        self.fixed = torch.full((count, longest), FREE, **integers)
        self.uniform = torch.zeros(count, longest, device=device)
        self.temperature, self.top_p = (torch.zeros(count, device=device) for _ in range(2))
        self.top_k = torch.zeros(count, **integers)
        limited = any(job.codes is not None for job in jobs)
        self.bounds = Bounds(torch.zeros(count, **integers), torch.zeros(count, device=device),
                             torch.zeros(count, **integers), torch.zeros(count, device=device),
                             torch.ones(count, size - 1, dtype=torch.bool, device=device) if limited else None)

    def _arrays(self) -> list[torch.Tensor]:
        bounds = self.bounds
        arrays = [self.next_ids, self.past, self.guidance, self.joining, self.tokens, self.fixed, self.uniform,
                  self.temperature, self.top_p, self.top_k, bounds.shortest, bounds.target, bounds.longest,
                  bounds.slope, bounds.codes]
        return [array for array in arrays if array is not None]

    def prompts_of(self, owner: int, start_ids: Sequence[int]) -> tuple[tuple[int, ...], ...]:
        """The prompt of each row of a job's slot, followed by the ids that the answer starts with."""
        job = self.jobs[owner]
        prompts = (job.prompt_ids, job.unconditional_ids or job.prompt_ids)[:self.width]
        return tuple((*ids, *start_ids) for ids in prompts)

    def place(self, slot: int, owner: int, prompts: tuple[tuple[int, ...], ...], tokens: int) -> None:
        """Put a job into a slot. prompts: all ids but the last are cached; tokens: the answer's among them."""
        job = self.jobs[owner]
        self.owners[slot], self.prompts[slot] = owner, prompts
        self.next_ids[slot], self.tokens[slot] = prompts[0][-1], tokens
        self.lengths[slot] = [len(prompt) - 1 for prompt in prompts]
        self.past[slot] = torch.tensor(self.lengths[slot])
        self.guidance[slot] = job.sampling.guidance if job.unconditional_ids else 1.0
        self.joining[slot] = job.joining
        self.fixed[slot] = FREE
        self.fixed[slot, :len(job.fixed)] = torch.as_tensor(job.fixed, dtype=torch.long)
        uniform = np.random.default_rng(job.random_key).random(job.limits.max_tokens + 1, dtype=np.float32)
        self.uniform[slot, :len(uniform)] = torch.from_numpy(uniform)
        limits, bounds, sampling = job.limits, self.bounds, job.sampling
        self.temperature[slot], self.top_p[slot] = sampling.temperature, sampling.top_p
        self.top_k[slot], bounds.slope[slot] = sampling.top_k, sampling.slope
        bounds.shortest[slot], bounds.target[slot] = limits.min_tokens, float(limits.soft_target)
        bounds.longest[slot] = limits.max_tokens
        if bounds.codes is not None:
            bounds.codes[slot] = job.codes is None
            if job.codes is not None:
                bounds.codes[slot, torch.as_tensor(job.codes, dtype=torch.long)] = True

    def free(self, slot: int) -> int:
        """Move the last row into a finished row's slot; returns the slot that it leaves."""
        self.live -= 1
        if slot != self.live:
            for by_slot in (self.owners, self.prompts, self.lengths):
                by_slot[slot] = by_slot[self.live]
            for array in self._arrays():
                array[slot] = array[self.live]
        return self.live

    def span(self) -> tuple[int, int]:
        """The lowest and the highest of past, in the slots that are in use."""
        lengths = self.lengths[:self.live]
        return min(map(min, lengths)), max(map(max, lengths))

    def advance(self, next_ids: torch.Tensor) -> None:
        """One more token in each slot that is in use."""
        self.next_ids[:self.live] = next_ids
        self.past[:self.live] += 1
        self.tokens[:self.live] += 1
        self.lengths[:self.live] = [[length + 1 for length in rows] for rows in self.lengths[:self.live]]

    def live_bounds(self) -> Bounds:
        bounds, live = self.bounds, self.live
        codes = None if bounds.codes is None else bounds.codes[:live]
        return Bounds(bounds.shortest[:live], bounds.target[:live], bounds.longest[:live], bounds.slope[:live], codes)

    def live_draws(self) -> Draws:
        live = self.live
        uniform = self.uniform[:live].gather(1, self.tokens[:live, None])[:, 0]
        return Draws(self.temperature[:live], self.top_p[:live], self.top_k[:live], uniform)


class Decoder:
    """Decodes jobs on a cached network, `slots` rows at a time."""

    def __init__(self, network: CachedNetwork, slots: int):
        self.network = network
        self.slots = slots

    def decode(self, jobs: Sequence[Job], alphabet: Alphabet) -> list[Answer]:
        """An answer for each job, in their order. Raises GenerationError for scores that are NaN."""
        answers = dict(self.answers(jobs, alphabet))
        return [answers[owner] for owner in range(len(jobs))]

    def answers(self, jobs: Sequence[Job], alphabet: Alphabet) -> Iterator[tuple[int, Answer]]:
        """(job, its answer), each when it has ended. Those of a window of jobs come before all of the one after the
        next."""
        unfinished: dict[int, Answer] = {}
        for owner, index, log_probability in self.steps(jobs, alphabet):
            answer = unfinished.setdefault(owner, Answer())
            answer.log_probability += log_probability
            if index is None:
                yield owner, unfinished.pop(owner)
            else:
                answer.indices.append(index)

    @torch.no_grad()
    def steps(self, jobs: Sequence[Job], alphabet: Alphabet) -> Iterator[tuple[int, int | None, float]]:
        """(job, index in the alphabet or None for the end, its log-probability or 0 if it is fixed), as they come."""
        if not jobs:
            return
        slots = _Slots(jobs, min(self.slots, len(jobs)), len(alphabet), self.network.device)
        longest = max(max(len(job.prompt_ids), len(job.unconditional_ids)) + max(job.limits.max_tokens, len(job.fixed))
                      for job in jobs)
        with self.network.borrow(len(slots.owners) * slots.width, longest) as network:
            yield from Decoder(network, self.slots)._run(slots, self._order(jobs), alphabet)

    def _order(self, jobs: Sequence[Job]) -> Iterator[int]:
        """The jobs, a window after the other, so that the first answers come soon. In a window those of similar length
        stand together, so that rows read about as many positions, and so do those of one prompt. Every second window
        runs from long to short, so that lengths do not jump."""
        size = WINDOW * self.slots
        for window, start in enumerate(range(0, len(jobs), size)):
            yield from sorted(range(start, min(start + size, len(jobs))), reverse=window % 2 == 1,
                              key=lambda i: (jobs[i].limits.soft_target, tuple(jobs[i].prompt_ids), i))

    def _run(self, slots: _Slots, waiting: Iterator[int], alphabet: Alphabet
             ) -> Iterator[tuple[int, int | None, float]]:
        """Decode the waiting jobs, on a network that is borrowed for them."""
        while True:
            free = len(slots.owners) - slots.live
            # To admit a few jobs costs as much as to admit many.
            if not slots.live or 4 * free >= len(slots.owners):
                if arriving := list(islice(waiting, free)):
                    for i in arriving:
                        yield from ((i, index, 0.0) for index in self._fixed_start(slots.jobs[i]))
                    self._admit(slots, arriving, alphabet)
            if not slots.live:
                return
            yield from self._step(slots, alphabet)

    @staticmethod
    def _fixed_start(job: Job) -> list[int]:
        """The fixed tokens before the first one that is free or absent."""
        return list(takewhile(lambda index: index >= 0, job.fixed))

    def _admit(self, slots: _Slots, arriving: Sequence[int], alphabet: Alphabet) -> None:
        """Put jobs into free slots: the prompts of a live slot are copied from it, others are computed once each."""
        prompts = {owner: slots.prompts_of(owner, alphabet.ids[torch.as_tensor(
            self._fixed_start(slots.jobs[owner]), dtype=torch.long)].tolist()) for owner in arriving}
        source = {rows: slot for slot, rows in reversed(list(enumerate(slots.prompts[:slots.live])))}
        fresh: dict[tuple[tuple[int, ...], ...], int] = {}  # prompts that no slot has -> their first job
        for owner in arriving:
            if prompts[owner] not in source:
                fresh.setdefault(prompts[owner], owner)
        first = slots.live
        order = [*fresh.values(), *(owner for owner in arriving if fresh.get(prompts[owner]) != owner)]
        self._fill([prompt for rows in fresh for prompt in rows], slots.width * first)
        for slot, owner in enumerate(order, first):
            rows = prompts[owner]
            if rows in source:
                self._copy(slots, source[rows], slot, [len(prompt) - 1 for prompt in rows])
            else:
                source[rows] = slot
            slots.place(slot, owner, rows, len(self._fixed_start(slots.jobs[owner])))
        slots.live += len(order)

    def _copy(self, slots: _Slots, source: int, target: int, positions: Sequence[int]) -> None:
        """Copy the first `positions` of the cache from one slot's rows to another's."""
        for row, count in enumerate(positions):
            self.network.copy_row(slots.width * source + row, slots.width * target + row, count)

    def _fill(self, prompts: Sequence[tuple[int, ...]], first: int) -> None:
        """Cache all ids of each prompt but the last, which the next step reads."""
        width = max((len(prompt) - 1 for prompt in prompts), default=0)
        if not width:
            return
        ids = torch.zeros(len(prompts), width, dtype=torch.long)
        for row, prompt in enumerate(prompts):
            ids[row, :len(prompt) - 1] = torch.tensor(prompt[:-1])
        past = torch.zeros(len(prompts), dtype=torch.long, device=self.network.device)
        self.network(ids.to(self.network.device), past, first, (0, 0))

    def _step(self, slots: _Slots, alphabet: Alphabet) -> Iterator[tuple[int, int | None, float]]:
        live = slots.live
        ids = slots.next_ids[:live].repeat_interleave(slots.width)  # the rows of a slot are adjacent
        hidden = self.network(ids[:, None], slots.past[:live].reshape(-1), span=slots.span())[:, 0]
        scores, *without = alphabet.scores(hidden).view(live, slots.width, -1).unbind(1)  # (B, A) each
        tokens, end = slots.tokens[:live], len(alphabet) - 1
        changed = guided(scores, without[0], slots.guidance[:live, None]) if without else scores.clone()
        is_nan = torch.isnan(changed).any(dim=1)
        changed = alphabet.in_place(constrained_scores(changed, tokens, slots.live_bounds()), tokens)
        if without and slots.joins:
            changed = joined(changed, without[0], tokens < slots.joining[:live])
        drawn = changed.argmax(dim=1) if slots.greedy else draw(changed, slots.live_draws())
        fixed = slots.fixed[:live].gather(1, tokens[:, None])[:, 0]
        free = fixed == FREE
        if alphabet.absent is not None:  # a motion without its first stream ends where its code would stand
            free |= (fixed == ABSENT) & (drawn == end)
        chosen = torch.where(free, drawn, fixed)
        log_probabilities = torch.where(free, alphabet.log_probabilities(alphabet.in_place(scores, tokens), chosen),
                                        0.0)
        slots.advance(alphabet.ids_of(chosen))
        # The only wait for a GPU in a step. Float64 holds all of them exactly.
        broken, indices, values = torch.stack([is_nan.double(), chosen.double(), log_probabilities.double()]).tolist()
        if any(broken):
            raise_on_nan(broken, (tokens - 1).tolist())
        owners, indices = list(slots.owners), [int(index) for index in indices]
        for slot, (index, log_probability) in enumerate(zip(indices, values, strict=True)):
            yield owners[slot], None if index == end else index, log_probability
        for slot in reversed(range(live)):  # from the last on, so that the row that moves in is not a finished one
            if indices[slot] == end:
                last = slots.free(slot)
                if last != slot:
                    self._copy(slots, last, slot, slots.lengths[slot])

    @torch.no_grad()
    def log_probabilities(self, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]],
                          alphabet: Alphabet) -> list[np.ndarray]:
        """For each prompt the log-probabilities (T,) of its answer's tokens, in nats; answers: indices in the alphabet,
        the end included."""
        results: list = [None] * len(prompts)
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]) + len(answers[i]))
        while order:
            batch: list[int] = []
            for i in order[:self.slots]:  # rows of similar length, as many as MOST_POSITIONS allows
                widest = len(prompts[i]) + len(answers[i])
                if batch and widest * (len(batch) + 1) > MOST_POSITIONS:
                    break
                batch.append(i)
            order = order[len(batch):]
            scored = self._score([prompts[i] for i in batch], [answers[i] for i in batch], alphabet)
            for i, values in zip(batch, scored, strict=True):
                results[i] = values
        return results

    def _score(self, prompts, answers, alphabet: Alphabet) -> list[np.ndarray]:
        device = self.network.device
        sequences = [[*prompt, *alphabet.ids_of(torch.as_tensor(answer[:-1], dtype=torch.long)).tolist()]
                     for prompt, answer in zip(prompts, answers, strict=True)]
        ids = torch.zeros(len(prompts), max(map(len, sequences)), dtype=torch.long, device=device)
        for row, sequence in enumerate(sequences):
            ids[row, :len(sequence)] = torch.tensor(sequence)
        # What all prompts begin with is computed once: of the captions of one motion it is nearly everything.
        shared = min(len(commonprefix(prompts)), min(map(len, prompts)) - 1) if len(prompts) > 1 else 0
        with self.network.borrow(len(prompts), ids.shape[1]) as network:
            if shared:
                network(ids[:1, :shared], torch.zeros(1, dtype=torch.long, device=device), span=(0, 0))
                for row in range(1, len(prompts)):
                    network.copy_row(0, row, shared)
            hidden = network(ids[:, shared:], torch.full((len(prompts),), shared, device=device), span=(shared, shared))
        ends = [len(prompt) - 1 - shared for prompt in prompts]
        answer_hidden = [hidden[row, end:end + len(answer)]
                         for row, (end, answer) in enumerate(zip(ends, answers, strict=True))]
        targets = torch.tensor([index for answer in answers for index in answer], device=device)
        places = torch.cat([torch.arange(len(answer), device=device) for answer in answers])
        scores = alphabet.in_place(alphabet.scores(torch.cat(answer_hidden)), places)
        values = alphabet.log_probabilities(scores, targets).cpu().numpy()
        return np.split(values, np.cumsum([len(answer) for answer in answers])[:-1])
