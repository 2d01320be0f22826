"""The captions that a model was trained with, and which of them means what a sentence in other words means.

A model follows the words that it was trained with. A sentence with a word that no training caption has is asked as the
nearest training caption instead, and the answer says so. The untrained base (untrained_base.py) says which is near:
first by its states, where each dimension is standardised over the training captions, then cosine, and the two kinds of
states count the same, each similarity standardised over the captions; then, of the few nearest, also by how likely it
says one where it has read the other. Weights and counts are measured in docs/log.md.
"""

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from motion_llm.arrays import Archive
from motion_llm.network.folder import ModelError
from motion_llm.saving import saving

if TYPE_CHECKING:
    from motion_llm.decoding.untrained_base import UntrainedBase  # imports torch, which takes seconds

log = logging.getLogger(__name__)

FILE = "captions.npz"  # in a model's folder
MOST = 5_000  # captions
LEAST = 10  # captions; among fewer a sentence can hardly have a near one
CANDIDATES = 8  # captions that are near by their states
INFORMATION_WEIGHT = 0.2  # of a nat of information, beside the sum of the two standardised similarities


@dataclass(frozen=True)
class KnownCaptions:
    """texts: N captions as they were trained. states: (N, 2, D), see UntrainedBase.states."""

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

    def similarities(self, states: np.ndarray) -> np.ndarray:
        """(M, N): of each sentence to each caption; states: (M, 2, D)."""
        similarities = np.zeros((len(states), len(self.texts)))
        for kind in range(self.states.shape[1]):
            own = self.states[:, kind]
            mean, deviation = own.mean(0), own.std(0) + 1e-6
            known, asked = ((one - mean) / deviation for one in (own, states[:, kind]))
            known, asked = (one / np.linalg.norm(one, axis=1, keepdims=True).clip(1e-9) for one in (known, asked))
            similar = asked @ known.T
            similarities += (similar - similar.mean(1, keepdims=True)) / similar.std(1, keepdims=True).clip(1e-9)
        return similarities


class Rewording:
    """Puts sentences with new words into the words of training captions. base: loads the untrained base at the first
    such sentence; None for one that it cannot read, and sentences are then asked as they are. new_words: those of a
    sentence that no training caption has."""

    def __init__(self, known: KnownCaptions, base: "Callable[[], UntrainedBase | None]",
                 new_words: Callable[[str], set[str]]):
        self.known, self._load, self._new_words = known, base, new_words
        self._base: UntrainedBase | None = None
        self._answers: dict[str, str] = {}

    def of(self, text: str) -> str | None:
        """The caption that a sentence is taken for; None for one in trained words alone."""
        if len(self.known.texts) < LEAST or not self._new_words(text):
            return None
        if text not in self._answers:
            if self._base is None:
                self._base = self._load()
            if self._base is None:
                self.known = KnownCaptions((), self.known.states[:0])
                return None
            self._answers[text] = self._nearest(text, self._base)
        return self._answers[text]

    def _nearest(self, text: str, base: "UntrainedBase") -> str:
        (similarities,) = self.known.similarities(base.states([text]))
        near = np.argsort(-similarities, kind="stable")[:CANDIDATES]
        captions = [self.known.texts[place] for place in near]
        return captions[(similarities[near] + INFORMATION_WEIGHT * base.information(text, captions)).argmax()]
