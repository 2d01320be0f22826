"""What the untrained base makes of a sentence, to find the training caption that means the same.

Training teaches the base the words of the training captions, and it loses much of what it knew of others: an untrained
base finds the nearest training caption of a rewording far more often than the trained one acts on it (docs/log.md).
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from motion_llm.decoding.alphabet import Alphabet
from motion_llm.decoding.loop import Decoder
from motion_llm.network.base import ModelConfig
from motion_llm.network.cached import CachedNetwork
from motion_llm.network.merged import base_folder, untrained_network

EARLY, LATE = 8 / 30, 28 / 30  # of the layers; measured on SmolLM2-135M, which has 30
ONE_WORD = ('This sentence: "', '" means in one word: "')
MEANS = ('This sentence: "', '" means: "')
PREMISE = 'This sentence means: "'  # MEANS without a sentence
CLOSED = '"'
AT_ONCE = 16  # sentences
LONGEST = 512  # tokens of a question


class UntrainedBase:
    """The base of a model as it comes. encode: a text to its ids; start: those before a text, see text_start(). Raises
    UnknownToFastLoading for a base that only transformers can read, ModelError for a broken one."""

    def __init__(self, config: ModelConfig, encode: Callable[[str], Sequence[int]], start: Sequence[int]):
        network = untrained_network(config, base_folder(config.model_name))
        rows = network.get_output_embeddings().weight.shape[0]
        self.alphabet = Alphabet.of_head(network, torch.arange(rows))
        self.network = CachedNetwork(network, LONGEST)
        self.decoder = Decoder(self.network, AT_ONCE)
        self.encode, self.start = encode, start
        count = len(self.network.layers)
        self.layers = [max(1, round(share * count)) for share in (EARLY, LATE)]
        self._anyway: dict[str, float] = {}  # caption -> its log-probability as the meaning of any sentence

    def states(self, texts: Sequence[str]) -> np.ndarray:
        """(N, 2, D) float32, of each text: the mean over its tokens of an early layer, where the words are; and the
        last state of a late layer behind a question for the meaning in one word (PromptEOL, Jiang et al. 2023), where
        the sense is."""
        states = []
        for start in range(0, len(texts), AT_ONCE):
            part = texts[start:start + AT_ONCE]
            early = self._states([self.encode(text) for text in part], self.layers[0])
            late = self._states([self.encode(text.join(ONE_WORD)) for text in part], self.layers[1])
            states += [torch.stack([words.mean(0), meaning[-1]]) for words, meaning in zip(early, late, strict=True)]
        return torch.stack(states).float().numpy()

    def _states(self, sequences: Sequence[Sequence[int]], layer: int) -> list[torch.Tensor]:
        """The states (T, D) of each sequence of ids after so many layers."""
        first = len(self.start)
        sequences = [[*self.start, *sequence[first - LONGEST:]] for sequence in sequences]
        ids = torch.zeros(len(sequences), max(map(len, sequences)), dtype=torch.long)
        for row, sequence in enumerate(sequences):
            ids[row, :len(sequence)] = torch.tensor(sequence)
        with self.network.borrow(*ids.shape) as network:  # another thread may ask at the same time
            (states,) = network.states(ids, [layer])
        return [rows[first:len(sequence)] for rows, sequence in zip(states, sequences, strict=True)]

    def information(self, text: str, captions: Sequence[str]) -> np.ndarray:
        """(N,) in nats: how much a text and each caption say about each other, their pointwise mutual information among
        sentences and meanings (Holtzman et al. 2021), so captions that are likely anyway win nothing. It is the mean of
        two estimates: how much likelier the caption becomes as a meaning where the text is the sentence, and the text
        as a meaning where the caption is the sentence."""
        if new := [caption for caption in captions if caption not in self._anyway]:
            self._anyway |= zip(new, self._said([PREMISE] * len(new), new), strict=True)
        of_captions = self._said([text.join(MEANS)] * len(captions), captions)
        of_text = self._said([*(caption.join(MEANS) for caption in captions), PREMISE], [text] * (len(captions) + 1))
        return (of_captions - [self._anyway[caption] for caption in captions] + of_text[:-1] - of_text[-1]) / 2

    def _said(self, prompts: Sequence[str], meanings: Sequence[str]) -> np.ndarray:
        """The log-probability of each meaning, with the quotation mark that closes it, behind its prompt, in nats."""
        answers = [self.encode(meaning + CLOSED)[:LONGEST // 2] for meaning in meanings]
        room = LONGEST // 2 - len(self.start)
        starts = [(*self.start, *self.encode(prompt)[-room:]) for prompt in prompts]
        return np.array([values.sum(dtype="float64")
                         for values in self.decoder.log_probabilities(starts, answers, self.alphabet)])
