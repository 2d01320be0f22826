"""Likelihoods: of a motion given its caption, of a caption given its motion, and what they say of which fits which.

`best_of` ranks motions of a caption by them, and motion to text ranks captions of a motion (a noisy channel, as in
Brown et al. 1993: the caption that explains the motion best, among those that the model would say).
"""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from motion_llm.dataset.lengths import LengthModel
from motion_llm.dataset.rows import caption_key
from motion_llm.decoding.alphabet import Alphabet
from motion_llm.decoding.loop import Decoder
from motion_llm.decoding.request import MotionResult
from templates import MotionTemplate, MotionVocabulary

DISTRACTORS = 12  # training captions that a motion's own caption is compared with
PRIOR_WEIGHT = 0.3  # of what motion to text says of a caption, beside what text to motion says of the motion: log.md


@dataclass(frozen=True)
class Scorer:
    """Scores with one model. positions: MAX_SEQ_LEN."""

    decoder: Decoder
    template: MotionTemplate
    vocabulary: MotionVocabulary
    motion_alphabet: Alphabet
    text_alphabet: Alphabet
    length_model: LengthModel
    positions: int

    def motions(self, rows: Sequence[Mapping]) -> list[float]:
        """The log-probability of each row's motion given its caption, in nats, <MOT_END> included. rows:
        {"text_query", "codes" (flat), "participant_id"}. Raises ValueError for a code outside the codebook."""
        prompts = [self.template.render("t2m", text=row["text_query"], participant_id=row["participant_id"],
                                        answer=False).ids for row in rows]
        for row in rows:
            self.vocabulary.code_ids(row["codes"])
        answers = [[*map(int, row["codes"]), self.vocabulary.codebook_size] for row in rows]
        return self._sums(prompts, answers, self.motion_alphabet)

    def texts(self, rows: Sequence[Mapping]) -> list[float]:
        """The log-probability of each row's caption given its motion, in nats, the end of the turn included. Captions
        whose tokens motion to text cannot say have -inf."""
        prompts = [self.template.render("m2t", codes=row["codes"], participant_id=row["participant_id"],
                                        answer=False).ids for row in rows]
        places = [[self._places.get(token) for token in self.template.encode_text(row["text_query"])] for row in rows]
        answers = [[place or 0 for place in line] + [len(self.text_alphabet) - 1] for line in places]
        sums = self._sums(prompts, answers, self.text_alphabet)
        return [-np.inf if None in line else value for line, value in zip(places, sums, strict=True)]

    @cached_property
    def _places(self) -> dict[int, int]:
        """The place in the text alphabet of each token id."""
        return {int(token): place for place, token in enumerate(self.text_alphabet.ids.tolist())}

    def _sums(self, prompts, answers, alphabet: Alphabet) -> list[float]:
        return [float(values.sum(dtype="float64"))
                for values in self.decoder.log_probabilities(prompts, answers, alphabet)]

    # ---- motions of a caption

    def caption_scores(self, results: Sequence[MotionResult], participant_id: str | None) -> list[float]:
        """How well each result's motion fits its caption: the log-probability, in nats, of the caption given the
        motion, among itself and DISTRACTORS captions of the training data. By Bayes' rule with equal priors that is
        the motion's likelihood given the caption over the sum of its likelihoods given each of them."""
        captions = [[result.taken_for or result.text, *self._distractors(result)] for result in results]
        rows = [{"text_query": text, "codes": result.codes, "participant_id": participant_id}
                for result, texts in zip(results, captions, strict=True) for text in texts]
        ends = np.cumsum([len(texts) for texts in captions])
        likelihoods = np.split(np.array(self.motions(rows)), ends[:-1])
        return [float(values[0] - np.logaddexp.reduce(values)) for values in likelihoods]

    def _distractors(self, result: MotionResult) -> list[str]:
        """Training captions other than the result's own; the same ones for all motions of a caption and a length."""
        captions, key = list(self.length_model.captions), caption_key(result.taken_for or result.text)
        order = np.random.default_rng(zlib.crc32(key.encode())).permutation(len(captions))[:4 * DISTRACTORS]
        return [captions[i] for i in order if captions[i] != key and self._fits(captions[i], result.codes)][
            :DISTRACTORS]

    def _fits(self, text: str, codes: Sequence[int], task: str = "t2m") -> bool:
        """Whether there are positions for the caption and the motion in a task; motion to text needs more."""
        return self.template.length(task, len(self.template.encode_text(text)), len(codes)) <= self.positions

    # ---- captions of a motion

    def ranked_captions(self, codes: Sequence[int], said: str, count: int, participant_id: str | None, judge: "Scorer"
                        ) -> list[tuple[str, float]]:
        """(caption, share), the likeliest first; shares sum to 1. At most `count` are compared: what motion to text
        said, and the training captions whose clips use the most similar codes. Each counts by the motion's likelihood
        given it, says the judge, which may be of a stage that knows text to motion better, and, with PRIOR_WEIGHT, by
        its own under motion to text."""
        texts = list(dict.fromkeys(filter(str.strip, [said, *self.near_captions(codes, count - 1)])))
        texts = [text for text in texts if self._fits(text, codes, "m2t")]
        if not texts:  # the motion nearly fills the model, or nothing was said
            return [(said, 1.0)]
        rows = [{"text_query": text, "codes": codes, "participant_id": participant_id} for text in texts]
        scores = np.array(judge.motions(rows)) + PRIOR_WEIGHT * np.array(self.texts(rows))
        shares = np.exp(scores - np.logaddexp.reduce(scores))
        return sorted(zip(texts, shares.tolist(), strict=True), key=lambda pair: -pair[1])

    def near_captions(self, codes: Sequence[int], count: int) -> list[str]:
        """The training captions whose clips have the most similar codes: cosine of the sets of codes, each code
        weighted by its inverse document frequency, log(captions / captions with it)."""
        texts, owners, members, weights = self._code_sets
        if not texts:
            return []
        asked = np.zeros(self.vocabulary.codebook_size)
        present = [code for code in set(map(int, codes)) if code >= 0]
        asked[present] = weights[present]
        shared = np.bincount(owners, asked[members] * weights[members], len(texts))
        sizes = np.sqrt(np.bincount(owners, weights[members] ** 2, len(texts)))
        order = np.argsort(-shared / np.maximum(sizes, 1e-9), kind="stable")[:count]
        return [texts[i] for i in order]

    @cached_property
    def _code_sets(self) -> tuple[list[str], np.ndarray, np.ndarray, np.ndarray]:
        """The captions whose codes are known; (caption, code) pairs as two arrays; the weight of each code (K,)."""
        known = {text: record.codes for text, record in self.length_model.captions.items() if record.codes}
        owners = np.repeat(np.arange(len(known)), [len(codes) for codes in known.values()])
        members = np.array([code for codes in known.values() for code in codes], np.int64)
        with_code = np.bincount(members, minlength=self.vocabulary.codebook_size)
        return list(known), owners, members, np.log((1 + len(known)) / (1 + with_code))
