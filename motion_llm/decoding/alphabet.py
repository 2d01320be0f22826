"""What an answer may consist of: scores for the codes and the end alone, or for the tokens of a text."""

import torch

from model import scale_logits
from motion_llm.network.cached_layers import Product
from motion_llm.streams import ABSENT


class Alphabet:
    """The token ids (A,) that an answer consists of; the last one ends it. may_follow (Q, A) bool: what may stand in
    each place of a step of Q codes; None for texts and motions of one stream, where everything may. absent: the id that
    is read in place of a code of an absent stream."""

    def __init__(self, config, ids: torch.Tensor, product: Product, chosen: torch.Tensor | None,
                 may_follow: torch.Tensor | None = None, absent: int | None = None):
        self.ids, self.product, self._config, self._chosen = ids, product, config, chosen
        self.may_follow, self.absent = may_follow, absent

    @classmethod
    def of_motion(cls, network, vocabulary) -> "Alphabet":
        """The codes and <MOT_END>: multiplies only their rows of the head, in float32."""
        ids = torch.arange(vocabulary.first_motion_id, vocabulary.end_id + 1, device=network.device)
        head = network.get_output_embeddings()
        rows = torch.nn.Linear(head.in_features, len(ids), bias=False, device="meta")
        rows.weight = torch.nn.Parameter(head.weight[ids].float(), requires_grad=False)
        if vocabulary.streams.count == 1:
            return cls(network.config, ids, Product(rows), None)
        may_follow = torch.from_numpy(vocabulary.streams.may_follow()).to(network.device)
        return cls(network.config, ids, Product(rows), None, may_follow, vocabulary.mask_id)

    @classmethod
    def of_head(cls, network, ids: torch.Tensor) -> "Alphabet":
        """For most ids: multiplies the whole head and drops the other ids' scores."""
        return cls(network.config, ids, Product(network.get_output_embeddings(), kept=True), ids)

    def __len__(self) -> int:
        return len(self.ids)

    def scores(self, hidden: torch.Tensor) -> torch.Tensor:
        """hidden (N, D) -> (N, A) float32, as the base scales them."""
        scores = scale_logits(self._config, self.product(hidden)).float()
        return scores if self._chosen is None else scores[:, self._chosen]

    def in_place(self, scores: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Scores (N, A) after so many codes (N,) of an answer, -inf for what may not stand there."""
        if self.may_follow is None:
            return scores
        return scores.masked_fill(~self.may_follow[tokens % len(self.may_follow)], -torch.inf)

    def ids_of(self, indices: torch.Tensor) -> torch.Tensor:
        """Indices, ABSENT among them where the alphabet has streams, to ids, of any shape."""
        if self.absent is None:
            return self.ids[indices]
        return torch.where(indices == ABSENT, self.absent, self.ids[indices.clamp(min=0)])

    def log_probabilities(self, scores: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
        """Of what is chosen (N,), given its scores (N, A) from `in_place`. That of ABSENT is the probability that the
        motion does not end there."""
        scores = scores.log_softmax(dim=1)
        if self.absent is None:
            return scores.gather(1, chosen[:, None])[:, 0]
        of_chosen = scores.gather(1, chosen.clamp(min=0)[:, None])[:, 0]
        return torch.where(chosen == ABSENT, scores[:, :-1].logsumexp(dim=1), of_chosen)
