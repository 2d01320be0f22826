"""The captions that a model was trained with, and which of them means what a sentence in other words means.

A model follows the words that it was trained with. A sentence with a word that no training caption has is asked as the
nearest training caption instead, and the answer says so. Near are captions whose states in the untrained base
(network/caption_states.py) are similar: each dimension is standardised over the training captions, then cosine; the
two kinds of states count the same, each similarity standardised over the captions.
"""

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from motion_llm.arrays import Archive
from motion_llm.network.folder import ModelError
from motion_llm.saving import saving

log = logging.getLogger(__name__)

FILE = "captions.npz"  # in a model's folder
MOST = 5_000  # captions
LEAST = 10  # captions; among fewer a sentence can hardly have a near one


@dataclass(frozen=True)
class KnownCaptions:
    """texts: N captions as they were trained. states: (N, 2, D), see CaptionStates."""

    texts: tuple[str, ...]
    states: np.ndarray

    def save(self, folder: Path) -> None:
        """Raises OSError."""
        texts = np.frombuffer(json.dumps(self.texts, ensure_ascii=False).encode(), np.uint8)
        with saving(folder / FILE) as path, open(path, "wb") as file:
            np.savez(file, texts=texts, states=self.states.astype(np.float16))

    @classmethod
    def load(cls, folder: Path) -> "KnownCaptions | None":
        """None where a model's folder has none. Raises ModelError for a damaged file."""
        if not (folder / FILE).is_file():
            return None
        with Archive(folder / FILE, ModelError) as archive:
            content, states = archive["texts"], archive["states"]
            try:
                texts = json.loads(content.tobytes().decode())
            except ValueError:
                texts = None
            if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts) or (
                    states.dtype != np.float16 or states.ndim != 3 or states.shape[:2] != (len(texts), 2)):
                archive.fail(f"holds texts that are no list of captions, or states {states.dtype} {states.shape}, "
                             "expected float16 (captions, 2, width): it is damaged")
        return cls(tuple(texts), states.astype(np.float32))

    def nearest(self, states: np.ndarray) -> list[str]:
        """The nearest caption of each sentence; states: (M, 2, D)."""
        similarities = np.zeros((len(states), len(self.texts)))
        for kind in range(self.states.shape[1]):
            own = self.states[:, kind]
            mean, deviation = own.mean(0), own.std(0) + 1e-6
            known, asked = ((one - mean) / deviation for one in (own, states[:, kind]))
            known, asked = (one / np.linalg.norm(one, axis=1, keepdims=True).clip(1e-9) for one in (known, asked))
            similar = asked @ known.T
            similarities += (similar - similar.mean(1, keepdims=True)) / similar.std(1, keepdims=True).clip(1e-9)
        return [self.texts[place] for place in similarities.argmax(1)]


class Rewording:
    """Puts sentences with new words into the words of training captions. states: makes the reader of the base at the
    first such sentence; None for a base that it cannot read, and sentences are then asked as they are. new_words: those
    of a sentence that no training caption has."""

    def __init__(self, known: KnownCaptions, states: Callable[[], Callable[[Sequence[str]], np.ndarray] | None],
                 new_words: Callable[[str], set[str]]):
        self.known, self._make, self._new_words = known, states, new_words
        self._states: Callable | None = None
        self._answers: dict[str, str] = {}

    def of(self, text: str) -> str | None:
        """The caption that a sentence is taken for; None for one in trained words alone."""
        if len(self.known.texts) < LEAST or not self._new_words(text):
            return None
        if text not in self._answers:
            if self._states is None:
                self._states = self._make()
            if self._states is None:
                self.known = KnownCaptions((), self.known.states[:0])
                return None
            (self._answers[text],) = self.known.nearest(self._states([text]))
        return self._answers[text]
