"""The soft target of a clip's length for vLLM, which a grammar cannot say: a plugin for its logits processors.

    PYTHONPATH=served/plugin vllm serve served --logits-processors end_shift:EndShift ...

A request asks for it by `vllm_xargs` (in Python `extra_args`): end_id, soft_target (tokens) and end_logit_slope. The
end's logit is then shifted by end_logit_slope * (tokens so far - soft_target), at most MOST_END_SHIFT either way, as
constraints.py does it: before the temperature, and beside the grammar, whose forbidden tokens stay forbidden. A request
without end_logit_slope, or with 0, is left alone.

vLLM has two interfaces, of its first and second model runner, and chooses a runner by what the machine can do; the
class serves both. Nothing of this project is imported, for the file goes into an export alone.
"""

import math

import torch
from vllm.v1.sample.logits_processor import LogitsProcessor, process_dict_updates
from vllm.v1.worker.gpu.sample.logits_processor import LogitsProcessor as SecondLogitsProcessor

MOST_END_SHIFT = 10.0  # logits, as in constraints.py
STEEPEST = 1_000.0  # logits a token
ARGUMENTS = ("end_id", "soft_target", "end_logit_slope")


def asked(params) -> tuple[int, float, float] | None:
    """end_id, soft_target and end_logit_slope of a request's SamplingParams; None where it asks for no shift.

    Raises ValueError naming the argument that is missing or out of its range.
    """
    given = params.extra_args or {}
    if not set(ARGUMENTS) & set(given):
        return None
    for name in ARGUMENTS:
        value = given.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
            raise ValueError(f"vllm_xargs: {name} is {value!r}, expected a number from 0")
    end_id, soft_target, slope = (given[name] for name in ARGUMENTS)
    if end_id != int(end_id):
        raise ValueError(f"vllm_xargs: end_id is {end_id!r}, expected a token id")
    if slope > STEEPEST:
        raise ValueError(f"vllm_xargs: end_logit_slope is {slope!r}, expected at most {STEEPEST:g}")
    return (int(end_id), float(soft_target), float(slope)) if slope else None


def shifts(tokens, targets, slopes):
    """What is added to the ends' logits, (N,). tokens (N,): codes so far."""
    return (slopes * (tokens - targets)).clamp(-MOST_END_SHIFT, MOST_END_SHIFT)


class EndShift(LogitsProcessor, SecondLogitsProcessor):
    """Constructed by vLLM: as (config, device, is_pin_memory) by its first model runner, then driven by `update_state`
    and `apply(logits)`; as (config, states of the requests) by the second, then by `add_request` and
    `apply(logits, step)`."""

    def __init__(self, vllm_config, where, is_pin_memory: bool = False):
        self.rows: dict[int, tuple] = {}  # first runner: row -> (what is asked, the answer's ids so far)
        if isinstance(where, torch.device):
            return
        self.states = where  # second runner: by slot, for a slot keeps its place while rows change theirs
        self.asks = [False] * where.max_num_reqs
        self.ends = torch.zeros(where.max_num_reqs, dtype=torch.int64, device=where.device)
        self.targets = torch.zeros(where.max_num_reqs, device=where.device)
        self.slopes = torch.zeros(where.max_num_reqs, device=where.device)

    @classmethod
    def validate_params(cls, sampling_params) -> None:
        asked(sampling_params)

    def is_argmax_invariant(self) -> bool:
        return False  # so that it runs for greedy requests too, and before the temperature

    def update_state(self, batch_update) -> None:
        def state(params, prompt_ids, answer_ids):  # answer_ids grows as the answer does
            asks = asked(params)
            return None if asks is None else (*asks, answer_ids)

        process_dict_updates(self.rows, batch_update, state)

    def add_request(self, req_idx: int, sampling_params) -> bool:
        asks = asked(sampling_params)
        self.asks[req_idx] = asks is not None
        self.ends[req_idx], self.targets[req_idx], self.slopes[req_idx] = asks or (0, 0.0, 0.0)
        return asks is not None

    def apply(self, logits, step=None):
        """logits (rows, V), in place."""
        return self._apply_first(logits) if step is None else self._apply_second(logits, step)

    def _apply_first(self, logits):
        if self.rows:
            rows = torch.tensor(list(self.rows), device=logits.device)
            ends, targets, slopes, answers = zip(*self.rows.values(), strict=True)
            added = shifts(torch.tensor([float(len(answer)) for answer in answers]), torch.tensor(targets),
                           torch.tensor(slopes))
            logits[rows, torch.tensor(ends, device=logits.device)] += added.to(logits.device)
        return logits

    def _apply_second(self, logits, step):
        if any(self.asks[slot] for slot in step.idx_mapping_np.tolist()):
            slots = step.expanded_idx_mapping.long()
            tokens = step.pos + 1 - self.states.prompt_len.gpu[slots]  # pos: of the last token that was read
            added = shifts(tokens, self.targets[slots], self.slopes[slots])  # 0 where nothing is asked
            logits[torch.arange(len(slots), device=logits.device), self.ends[slots]] += added
        return logits
