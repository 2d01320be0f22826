"""constraints.py: whatever the scores are, an answer is never empty and never outside the codebook or its limits."""

import pytest
import torch

from motion_llm.dataset.lengths import LengthLimits
from templates import MotionVocabulary


@pytest.fixture(scope="module")
def constraints(unsloth):
    from motion_llm.decoding import constraints  # imports transformers, which must follow Unsloth's start

    return constraints


FIRST, CODES, VOCABULARY = 50, 6, 60  # ids 50 to 55 are codes, 56 is the end, the rest are text and other tokens


def adversarial_scores(kind: str, generator: torch.Generator, size: int) -> torch.Tensor:
    scores = torch.randn(size, VOCABULARY, generator=generator)
    end = FIRST + CODES
    if kind == "all mass on text":
        scores[:, :FIRST] += 1e4
    elif kind == "all mass on the end":
        scores[:, end] += 1e6
    elif kind == "the end impossible":
        scores[:, end] = -torch.inf
    elif kind == "codes impossible":
        scores[:, FIRST:end] = -torch.inf
    elif kind == "everything impossible":
        scores[:] = -torch.inf
    elif kind == "infinite":
        scores[:, ::2] = torch.inf
    elif kind == "one code forever":
        scores[:, FIRST + 1] += 1e30
    return scores


@pytest.mark.parametrize("slope", [0.0, 0.5, 1000.0])
@pytest.mark.parametrize("kind", ["random", "all mass on text", "all mass on the end", "the end impossible",
                                  "codes impossible", "everything impossible", "infinite", "one code forever"])
def test_every_answer_is_valid_under_adversarial_scores(constraints, kind, slope):
    generator = torch.Generator().manual_seed(0)
    vocabulary = MotionVocabulary(FIRST, CODES)
    limits = [LengthLimits(1, 1, 1, ""), LengthLimits(2, 3.5, 7, ""), LengthLimits(5, 5, 5, ""),
              LengthLimits(1, 12, 12, "")]
    allowed = torch.ones(len(limits), CODES, dtype=torch.bool)
    allowed[1, 2:] = False
    for _ in range(5):
        processor = constraints.LengthAwareMotionLogitsProcessor(vocabulary, limits, 3, slope, allowed)
        ids = torch.zeros(len(limits), 3, dtype=torch.long)
        while ids.shape[1] < 3 + 13:
            shares = torch.softmax(processor(ids, adversarial_scores(kind, generator, len(limits))), dim=-1)
            ids = torch.cat([ids, torch.multinomial(shares, 1, generator=generator)], dim=1)
        for row, (answer, limit) in enumerate(zip(ids[:, 3:].tolist(), limits, strict=True)):
            codes = answer[:answer.index(vocabulary.end_id)]
            assert limit.min_tokens <= len(codes) <= limit.max_tokens
            assert all(FIRST <= code < FIRST + CODES and allowed[row, code - FIRST] for code in codes)


def test_a_score_that_is_no_number_is_an_error(constraints):
    processor = constraints.LengthAwareMotionLogitsProcessor(
        MotionVocabulary(FIRST, CODES), [LengthLimits(1, 2, 3, "")] * 2, 3, 0.5)
    scores = torch.zeros(2, VOCABULARY)
    scores[1, FIRST + 2] = torch.nan
    with pytest.raises(constraints.GenerationError, match=r"NaN\) for row 1 at token 1"):
        processor(torch.zeros(2, 4, dtype=torch.long), scores)


def test_slope_zero_leaves_the_models_own_distribution_and_a_slope_shifts_the_end_alone(constraints):
    vocabulary, limits = MotionVocabulary(FIRST, CODES), [LengthLimits(1, 4, 30, "")]
    scores = torch.randn(1, VOCABULARY)
    answer = slice(FIRST, FIRST + CODES + 1)
    for tokens, shift in ((2, -1.0), (4, 0.0), (7, 1.5), (29, 10.0)):
        ids = torch.zeros(1, 3 + tokens, dtype=torch.long)
        unshifted = constraints.LengthAwareMotionLogitsProcessor(vocabulary, limits, 3, 0.0)(ids, scores)
        torch.testing.assert_close(unshifted[:, answer], scores[:, answer])
        assert torch.isinf(unshifted[:, :FIRST]).all() and torch.isinf(unshifted[:, FIRST + CODES + 1:]).all()
        shifted = constraints.LengthAwareMotionLogitsProcessor(vocabulary, limits, 3, 0.5)(ids, scores)
        expected = scores[:, answer].clone()
        expected[:, -1] += shift
        torch.testing.assert_close(shifted[:, answer], expected)


@pytest.mark.parametrize(("low", "high"), [(0, 3), (4, 3)])
def test_impossible_limits_are_refused(constraints, low, high):
    with pytest.raises(constraints.GenerationError, match="expected 1 <= min_tokens <= max_tokens"):
        constraints.LengthAwareMotionLogitsProcessor(MotionVocabulary(FIRST, CODES),
                                                  [LengthLimits(low, 2, high, "")], 3, 0.5)
