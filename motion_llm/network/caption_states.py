"""What the untrained base makes of a sentence, to find sentences that mean about the same.

Training teaches the base the words of the training captions, and it loses much of what it knew of others: an untrained
base finds the nearest training caption of a rewording far more often than the trained one acts on it (docs/log.md). Two
states of it are kept: the mean over the sentence's tokens of an early layer, where the words are; and the last state of
a late layer behind a question for the meaning in one word (PromptEOL, Jiang et al. 2023), where the sense is.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from motion_llm.network.base import ModelConfig
from motion_llm.network.cached import CachedNetwork
from motion_llm.network.merged import base_folder, untrained_network

EARLY, LATE = 8 / 30, 28 / 30  # of the layers; measured on SmolLM2-135M, which has 30
QUESTION = ('This sentence: "', '" means in one word: "')
AT_ONCE = 16  # sentences
LONGEST = 512  # tokens of a question


class CaptionStates:
    """The base of a model as it comes. encode: a text to its ids. Raises UnknownToFastLoading for a base that only
    transformers can read, ModelError for a broken one."""

    def __init__(self, config: ModelConfig, encode: Callable[[str], Sequence[int]]):
        self.network = CachedNetwork(untrained_network(config, base_folder(config.model_name)), LONGEST)
        self.encode = encode
        count = len(self.network.layers)
        self.layers = [max(1, round(share * count)) for share in (EARLY, LATE)]

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """(N, 2, D) float32: of each text the early and the late state."""
        states = []
        for start in range(0, len(texts), AT_ONCE):
            part = texts[start:start + AT_ONCE]
            early = self._states([self.encode(text) for text in part], self.layers[0])
            late = self._states([self.encode(text.join(QUESTION)) for text in part], self.layers[1])
            states += [torch.stack([words.mean(0), meaning[-1]]) for words, meaning in zip(early, late, strict=True)]
        return torch.stack(states).float().numpy()

    def _states(self, sequences: Sequence[Sequence[int]], layer: int) -> list[torch.Tensor]:
        """The states (T, D) of each sequence of ids after so many layers."""
        sequences = [sequence[-LONGEST:] for sequence in sequences]
        ids = torch.zeros(len(sequences), max(map(len, sequences)), dtype=torch.long)
        for row, sequence in enumerate(sequences):
            ids[row, :len(sequence)] = torch.tensor(sequence)
        (states,) = self.network.states(ids, [layer])
        return [rows[:len(sequence)] for rows, sequence in zip(states, sequences, strict=True)]
