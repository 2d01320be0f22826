"""The soft target of a clip's length for vLLM, which a grammar cannot say: a plugin for its logits processors.

    PYTHONPATH=served/plugin vllm serve served --logits-processors end_shift:EndShift ...

A request asks for it by `vllm_xargs` (in Python `extra_args`): end_id, soft_target (tokens) and end_logit_slope. The
end's logit is then shifted by end_logit_slope * (tokens so far - soft_target), at most MOST_END_SHIFT either way, as
constraints.py does it: before the temperature, and beside the grammar, whose forbidden tokens stay forbidden. A request
without end_logit_slope, or with 0, is not changed.

vLLM has two interfaces, for its first and its second model runner, and chooses a runner by the machine; the class has
both. Nothing of this project is imported, because an export holds a copy of this file alone on the server's path.
"""

import math

import torch
from vllm.v1.sample.logits_processor import LogitsProcessor, process_dict_updates
from vllm.v1.worker.gpu.sample.logits_processor import LogitsProcessor as SecondLogitsProcessor

MOST_END_SHIFT = 10.0  # logits, as in constraints.py
STEEPEST = 1_000.0  # logits per token
ARGUMENTS = ("end_id", "soft_target", "end_logit_slope")


def shift_arguments(params) -> tuple[int, float, float] | None:
    """end_id, soft_target and end_logit_slope of a request's SamplingParams; None for a request without a shift.

    Raises ValueError with the name of an argument that is missing or out of its range.
    """
    arguments = params.extra_args or {}
    if not set(ARGUMENTS) & set(arguments):
        return None
    for name in ARGUMENTS:
        value = arguments.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
            raise ValueError(f"vllm_xargs: {name} is {value!r}, expected a number from 0")
    end_id, soft_target, slope = (arguments[name] for name in ARGUMENTS)
    if end_id != int(end_id):
        raise ValueError(f"vllm_xargs: end_id is {end_id!r}, expected a token id")
    if slope > STEEPEST:
        raise ValueError(f"vllm_xargs: end_logit_slope is {slope!r}, expected at most {STEEPEST:g}")
    return (int(end_id), float(soft_target), float(slope)) if slope else None


def shifts(tokens, targets, slopes):
    """The shifts of the ends' logits, (N,). tokens (N,): codes so far."""
    return (slopes * (tokens - targets)).clamp(-MOST_END_SHIFT, MOST_END_SHIFT)


class EndShift(LogitsProcessor, SecondLogitsProcessor):
    """Constructed by vLLM: as (config, device, is_pin_memory) by its first model runner, then driven by `update_state`
    and `apply(logits)`; as (config, states of the requests) by the second, then by `add_request` and
    `apply(logits, step)`."""

    def __init__(self, vllm_config, device_or_states, is_pin_memory: bool = False):
        self.rows: dict[int, tuple] = {}  # first runner: row -> (*shift_arguments, the answer's ids so far)
        if isinstance(device_or_states, torch.device):
            return
        self.states = states = device_or_states  # second runner: by slot; a request keeps its slot while rows move
        self.shifted = [False] * states.max_num_reqs
        self.ends = torch.zeros(states.max_num_reqs, dtype=torch.int64, device=states.device)
        self.targets = torch.zeros(states.max_num_reqs, device=states.device)
        self.slopes = torch.zeros(states.max_num_reqs, device=states.device)

    @classmethod
    def validate_params(cls, sampling_params) -> None:
        shift_arguments(sampling_params)

    def is_argmax_invariant(self) -> bool:
        return False  # so that it runs for greedy requests too, and before the temperature

    def update_state(self, batch_update) -> None:
        def state(params, prompt_ids, answer_ids):  # answer_ids grows as the answer does
            arguments = shift_arguments(params)
            return None if arguments is None else (*arguments, answer_ids)

        process_dict_updates(self.rows, batch_update, state)

    def add_request(self, req_idx: int, sampling_params) -> bool:
        arguments = shift_arguments(sampling_params)
        self.shifted[req_idx] = arguments is not None
        self.ends[req_idx], self.targets[req_idx], self.slopes[req_idx] = arguments or (0, 0.0, 0.0)
        return arguments is not None

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
        if any(self.shifted[slot] for slot in step.idx_mapping_np.tolist()):
            slots = step.expanded_idx_mapping.long()
            tokens = step.pos + 1 - self.states.prompt_len.gpu[slots]  # pos: of the last token read
            added = shifts(tokens, self.targets[slots], self.slopes[slots])  # 0 for requests without a shift
            logits[torch.arange(len(slots), device=logits.device), self.ends[slots]] += added
        return logits
