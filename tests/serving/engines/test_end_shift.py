"""end_shift.py against generate.py's processor, called as vLLM's two model runners call it; no model is loaded."""

from types import SimpleNamespace

import pytest
import torch
from vllm import SamplingParams
from vllm.v1.sample.logits_processor import BatchUpdate, MoveDirectionality

from motion_llm.dataset.lengths import LengthLimits
from motion_llm.decoding import constraints
from motion_llm.serving.end_shift import MOST_END_SHIFT, EndShift
from motion_llm.serving.vllm_engine import PLUGIN
from templates import MotionVocabulary

VOCABULARY = MotionVocabulary(20, 9)  # the end's id is 29
SIZE = 40


def params(target=None, slope=None) -> SamplingParams:
    if target is None:
        return SamplingParams()
    return SamplingParams(extra_args={"end_id": 29, "soft_target": target, "end_logit_slope": slope})


def expected(scores: torch.Tensor, tokens: int, target: float, slope: float) -> torch.Tensor:
    """The scores with the end's score as generate.py's processor shifts it."""
    processor = constraints.LengthAwareMotionLogitsProcessor(VOCABULARY, [LengthLimits(1, target, 1000, "")], 3, slope)
    changed = scores.clone()
    if tokens:
        changed[29] = processor(torch.zeros(1, 3 + tokens, dtype=torch.long), scores[None])[0, 29]
    else:
        changed[29] += max(-MOST_END_SHIFT, -slope * target)
    return changed


def test_the_bound_is_that_of_generate():
    assert MOST_END_SHIFT == constraints.MOST_END_SHIFT


def test_first_runner_rows_come_go_and_move():
    plugin, scores = EndShift(None, torch.device("cpu"), False), torch.randn(4, SIZE)
    answers = [[21] * 5, [22] * 2, [23] * 7, [24]]
    shifts = [(6.5, 0.5), None, (3.0, 1000.0), (9.0, 0.0)]
    added = [(row, params(*(shift or ())), [1, 2], answer)
             for row, (shift, answer) in enumerate(zip(shifts, answers, strict=True))]
    plugin.update_state(BatchUpdate(4, (), added, ()))
    shifted = plugin.apply(scores.clone())
    for row, (shift, answer) in enumerate(zip(shifts, answers, strict=True)):
        row_scores = expected(scores[row], len(answer), *shift) if shift else scores[row]
        torch.testing.assert_close(shifted[row], row_scores, atol=0, rtol=0)
    answers[0].append(25)  # vLLM appends to the same list
    plugin.update_state(None)
    torch.testing.assert_close(plugin.apply(scores.clone())[0], expected(scores[0], 6, 6.5, 0.5), atol=0, rtol=0)
    plugin.update_state(BatchUpdate(3, [2], (), [(0, 1, MoveDirectionality.SWAP)]))
    shifted = plugin.apply(scores.clone())
    torch.testing.assert_close(shifted[1], expected(scores[1], 6, 6.5, 0.5), atol=0, rtol=0)
    assert torch.equal(shifted[[0, 2, 3]], scores[[0, 2, 3]])


def test_second_runner_keeps_slots():
    prompts = torch.tensor([7, 0, 4, 5])
    states = SimpleNamespace(device=torch.device("cpu"), max_num_reqs=4, vocab_size=SIZE,
                             prompt_len=SimpleNamespace(gpu=prompts, np=prompts.numpy()))
    plugin, scores = EndShift(None, states), torch.randn(3, SIZE)
    assert plugin.add_request(2, params(6.5, 0.5)) and plugin.add_request(0, params(3.0, 1000.0))
    assert not plugin.add_request(3, params())
    slots, tokens = torch.tensor([3, 2, 0], dtype=torch.int32), torch.tensor([8, 5, 0])
    step = SimpleNamespace(expanded_idx_mapping=slots, idx_mapping_np=slots.numpy(), pos=prompts[slots] + tokens - 1)
    shifted = plugin.apply(scores.clone(), step)
    assert torch.equal(shifted[0], scores[0])
    torch.testing.assert_close(shifted[1], expected(scores[1], 5, 6.5, 0.5), atol=0, rtol=0)
    torch.testing.assert_close(shifted[2], expected(scores[2], 0, 3.0, 1000.0), atol=0, rtol=0)
    assert not plugin.add_request(2, params())  # the slot's next request has no shift
    assert torch.equal(plugin.apply(scores.clone(), step)[1], scores[1])


def test_both_runners_take_the_class():
    from vllm.v1.sample.logits_processor import _load_logitsprocs_by_fqcns
    from vllm.v1.worker.gpu.sample.logits_processor.loader import _load_v2_logitsprocs_by_fqcns

    assert _load_logitsprocs_by_fqcns([PLUGIN]) == _load_v2_logitsprocs_by_fqcns([PLUGIN]) == [EndShift]


@pytest.mark.parametrize(("arguments", "message"), [
    ({"end_id": 29}, "soft_target is None"), ({"end_id": 29.5, "soft_target": 2, "end_logit_slope": 1}, "a token id"),
    ({"end_id": 29, "soft_target": -1, "end_logit_slope": 1}, "soft_target is -1"),
    ({"end_id": 29, "soft_target": float("nan"), "end_logit_slope": 1}, "soft_target is nan"),
    ({"end_id": 29, "soft_target": 2, "end_logit_slope": 2000}, "at most 1000"),
])
def test_missing_and_invalid_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        EndShift.validate_params(SamplingParams(extra_args=arguments))
