"""How an index is drawn from scores: temperature, top-k, top-p, guidance, and what may follow a motion."""

import math
from dataclasses import dataclass

import torch

from motion_llm.decoding.request import LEAST_TEMPERATURE

LEAST_LIKELY = 0.05  # of the likeliest code, see `joined`


@dataclass
class Draws:
    """How B rows are sampled: temperature, top_p and top_k (B,), as in Sampling; uniform (B,): random, in [0, 1)."""

    temperature: torch.Tensor
    top_p: torch.Tensor
    top_k: torch.Tensor
    uniform: torch.Tensor


def draw(scores: torch.Tensor, draws: Draws) -> torch.Tensor:
    """An index (B,) for each row of scores (B, A); -inf for what may not be drawn.

    Temperature, then top-k, then top-p (nucleus sampling, Holtzman et al. 2020), then the inverse of the cumulative
    distribution: what multinomial sampling does, with random numbers that belong to the row.
    """
    greedy = draws.temperature < LEAST_TEMPERATURE
    likeliest = scores.argmax(dim=1)
    scores = scores / draws.temperature.clamp(min=LEAST_TEMPERATURE)[:, None]
    # All rows are sorted, also those that need no order: what a row draws must not depend on the rows beside it.
    scores, indices = scores.sort(dim=1, descending=True, stable=True)
    # As in transformers, scores that tie with the k-th stay in.
    size = scores.shape[1]
    last = torch.where(draws.top_k > 0, draws.top_k.clamp(max=size), size) - 1
    scores = scores.masked_fill(scores < scores.gather(1, last[:, None]), -torch.inf)
    shares = torch.softmax(scores, dim=1)
    shares = shares.masked_fill(shares.cumsum(dim=1) - shares >= draws.top_p[:, None], 0.0)
    cumulative = shares.cumsum(dim=1)
    drawn = torch.searchsorted(cumulative, (draws.uniform * cumulative[:, -1])[:, None], right=True)
    # Rounding may lead past the last index with a share.
    drawn = torch.minimum(drawn, (shares > 0).sum(dim=1, keepdim=True) - 1)
    return torch.where(greedy, likeliest, indices.gather(1, drawn)[:, 0])


def guided(scores: torch.Tensor, without: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Classifier-free guidance (Ho and Salimans 2022): scores (B, A) moved away from `without`, those that the same
    answer has without its caption, by a weight for each row (B, 1); 1 leaves a row as it is."""
    return torch.where(weight == 1, scores, without + weight * (scores - without))


def joined(scores: torch.Tensor, without: torch.Tensor, joining: torch.Tensor) -> torch.Tensor:
    """Scores (B, A) without the codes that would be a jump, in the rows that are `joining` (B,) bool: those that are
    less than LEAST_LIKELY times as likely as the likeliest one without the caption (`without`, (B, A)). That is min-p
    sampling (Nguyen et al. 2024) by the motion so far: among what goes on from it, the caption chooses. The likeliest
    of the codes that are allowed always stays."""
    codes = without[:, :-1].masked_fill(scores[:, :-1] == -torch.inf, -torch.inf)
    jumps = codes < codes.max(dim=1, keepdim=True).values + math.log(LEAST_LIKELY)
    return torch.cat([scores[:, :-1].masked_fill(jumps & joining[:, None], -torch.inf), scores[:, -1:]], dim=1)
