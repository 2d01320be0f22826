"""The constraints on an answer: codes and <MOT_END> alone, within its length limits, and an end near its target length.

In decoding the alphabet of loop.py leaves no scores but those of the codes and <MOT_END>, and `constrained_scores`
keeps the limits. The logits processor below does both for `model.generate`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from motion_llm.dataset.lengths import LengthLimits
from motion_llm.decoding.request import GenerationError
from templates import MotionVocabulary

MOST_END_SHIFT = 10.0  # logits; beyond it an end is as good as forced or forbidden
LARGEST = torch.finfo(torch.float32).max / 4  # for infinity: infinite scores would leave nothing to draw from


@dataclass
class Bounds:
    """Length limits of B rows, in tokens, each (B,): no end before shortest, nothing but the end at longest, and around
    target the end's logit shifted by slope (B,) a token. codes (B, K) bool: what a row may use; None for all."""

    shortest: torch.Tensor
    target: torch.Tensor
    longest: torch.Tensor
    slope: torch.Tensor
    codes: torch.Tensor | None = None

    @classmethod
    def of(cls, limits: Sequence[LengthLimits], slope: float, codes: torch.Tensor | None = None,
           device="cpu") -> "Bounds":
        """Raises GenerationError for limits that no answer can keep."""
        for limit in limits:
            if not 1 <= limit.min_tokens <= limit.max_tokens:
                raise GenerationError(f"length limits {limit.min_tokens} to {limit.max_tokens} tokens: expected "
                                      "1 <= min_tokens <= max_tokens")
        if codes is not None and not codes.any(dim=1).all():
            raise GenerationError("a row of allowed codes allows no code")
        return cls(torch.tensor([limit.min_tokens for limit in limits], device=device),
                   torch.tensor([float(limit.soft_target) for limit in limits], device=device),
                   torch.tensor([limit.max_tokens for limit in limits], device=device),
                   torch.full((len(limits),), float(slope), device=device),
                   None if codes is None else codes.to(device))


def constrained_scores(scores: torch.Tensor, tokens: torch.Tensor, bounds: Bounds) -> torch.Tensor:
    """Scores of the codes and <MOT_END>, (B, K + 1) float32, changed in place and returned: what is not allowed becomes
    -inf, and the end's logit is shifted by slope * (tokens - target), at most MOST_END_SHIFT either way: ends are
    discouraged before the target and encouraged after it. Slope 0 leaves the model's own distribution.

    tokens (B,): codes that each row has so far. A score that is NaN becomes 0, so that something can be drawn; see
    raise_on_nan().
    """
    scores.nan_to_num_(nan=0.0, posinf=LARGEST, neginf=-LARGEST).clamp_(-LARGEST, LARGEST)
    scores[:, -1] += ((tokens - bounds.target) * bounds.slope).clamp_(-MOST_END_SHIFT, MOST_END_SHIFT)
    if bounds.codes is not None:
        scores[:, :-1].masked_fill_(~bounds.codes, -torch.inf)
    scores[:, -1].masked_fill_(tokens < bounds.shortest, -torch.inf)
    scores[:, :-1].masked_fill_((tokens >= bounds.longest)[:, None], -torch.inf)
    return scores


def raise_on_nan(broken: Sequence[bool], tokens: Sequence[int]) -> None:
    """broken, tokens (B,): whether a row's scores are NaN, and the codes that it has so far. Raises GenerationError."""
    for row, (is_broken, count) in enumerate(zip(broken, tokens, strict=True)):
        if is_broken:
            raise GenerationError(f"the model's scores are no numbers (NaN) for row {row} at token {int(count)}: its "
                                  "weights are broken, or DTYPE float16 overflows (try float32)")


class LengthAwareMotionLogitsProcessor:
    """`constrained_scores` for `model.generate`, which asks for no base class; importing theirs would take seconds.

    limits: one LengthLimits a row, in steps. slope: per step. prompt_length: positions before the answer, the same for
    all rows (padded on the left). allowed_codes (B, K) bool: the codes a row may use, at least one each; None for all.
    """

    def __init__(self, vocabulary: MotionVocabulary, limits: Sequence[LengthLimits], prompt_length: int, slope: float,
                 allowed_codes: torch.Tensor | None = None):
        self.vocabulary = vocabulary
        self.prompt_length = prompt_length
        in_step = vocabulary.streams.count
        self.bounds = Bounds.of([limit.times(in_step) for limit in limits], slope / in_step, allowed_codes)
        self.may_follow = torch.from_numpy(vocabulary.streams.may_follow()) if in_step > 1 else None

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """input_ids (B, T), scores (B, V) -> scores (B, V). Raises GenerationError for a score that is NaN."""
        first, end, bounds = self.vocabulary.first_motion_id, self.vocabulary.end_id, self.bounds
        if bounds.shortest.device != scores.device:
            tensors = (bounds.shortest, bounds.target, bounds.longest, bounds.slope)
            codes = None if bounds.codes is None else bounds.codes.to(scores.device)
            self.bounds = bounds = Bounds(*(tensor.to(scores.device) for tensor in tensors), codes)
        codes_so_far = input_ids.shape[1] - self.prompt_length
        tokens = torch.full((len(scores),), codes_so_far, device=scores.device)
        answer = scores[:, first:end + 1].to(torch.float32, copy=True)  # (B, K + 1)
        if torch.isnan(answer).any():
            raise_on_nan(torch.isnan(answer).any(dim=1).tolist(), tokens.tolist())
        restricted = torch.full_like(scores, -torch.inf, dtype=torch.float32)
        answer = constrained_scores(answer, tokens, bounds)
        if self.may_follow is not None:
            allowed = self.may_follow[codes_so_far % len(self.may_follow)].to(scores.device)
            answer.masked_fill_(~allowed, -torch.inf)
        restricted[:, first:end + 1] = answer
        return restricted
