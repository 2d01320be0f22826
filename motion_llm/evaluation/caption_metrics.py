"""Metrics of captions of motions, 0 to 100: captions and their references in, numbers out.

BLEU and ROUGE-L use lower-case words of sacrebleu's tokenizer 13a (mteval-v13a, usual for European languages). chrF
needs no words, so it suits captions in scripts without spaces. A caption may have several references: BLEU counts
n-grams of all of them, chrF and ROUGE-L take the nearest one.
"""

from collections.abc import Hashable, Sequence

import numpy as np
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU, CHRF
from sacrebleu.metrics.base import Metric

from motion_llm.evaluation.intervals import NOT_AVAILABLE, Estimate, bootstrap, mean_over_captions

# effective_order: captions of fewer than four words are scored by the shorter n-grams that they have.
_BLEU = {"tokenize": "13a", "lowercase": True, "smooth_method": "exp", "effective_order": True}
OF_A_CORPUS: dict[str, Metric] = {
    "bleu_1": BLEU(max_ngram_order=1, **_BLEU),
    "bleu_4": BLEU(max_ngram_order=4, **_BLEU),
    "chrf": CHRF(lowercase=True),
}
NAMES = ("bleu_1", "bleu_4", "rouge_l", "chrf")


def statistics(name: str, captions: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
    """(N, S): the counts of a metric of OF_A_CORPUS for each caption; a corpus is scored by their sums over captions.

    references: one or more for each caption. Raises ValueError for a caption without any.
    """
    if without := [i for i, texts in enumerate(references) if not texts]:
        raise ValueError(f"{len(without)} captions have no reference, the first is caption {without[0]}")
    longest = max(map(len, references), default=0)
    streams = [[texts[k] if k < len(texts) else None for texts in references] for k in range(longest)]
    return np.array(OF_A_CORPUS[name]._extract_corpus_statistics(captions, streams))


def score(name: str, totals: np.ndarray) -> float:
    """The metric, 0 to 100, of the statistics (S,) summed over a corpus.

    bleu_1, bleu_4: BLEU up to 1 and 4 words (Papineni et al. 2002) with the brevity penalty, smoothed as in
    mteval-v13a where no run of a length is found. chrf: character 1- to 6-grams without spaces, F2 (Popovic 2015).
    """
    return OF_A_CORPUS[name]._compute_score_from_stats(totals.tolist()).score


class _Words:
    """A tokenizer for ROUGE-L that returns the words of BLEU."""

    def tokenize(self, text: str) -> list[str]:
        return OF_A_CORPUS["bleu_4"]._preprocess_segment(text).split()


_ROUGE = RougeScorer(["rougeL"], tokenizer=_Words())


def rouge_l(caption: str, references: Sequence[str]) -> float:
    """The F1 of the longest common subsequence of words with the nearest reference (Lin 2004), 0 to 100."""
    return 100 * _ROUGE.score_multi(references, caption)["rougeL"].fmeasure


def chrf(caption: str, references: Sequence[str]) -> float:
    """chrF of a single caption, 0 to 100."""
    return score("chrf", statistics("chrf", [caption], [references])[0])


def score_captions(captions: Sequence[str], references: Sequence[Sequence[str]], groups: Sequence[Hashable],
                   rng: np.random.Generator) -> dict[str, Estimate]:
    """Name of each metric in NAMES -> the score of the corpus (for ROUGE-L the mean over captions) with its interval.

    groups: of each caption; captions of one group are resampled together, such as those of one sentence's clips, as
    they are not independent.
    """
    if not captions:
        return dict.fromkeys(NAMES, NOT_AVAILABLE)
    members: dict[Hashable, list[int]] = {}
    for i, group in enumerate(groups):
        members.setdefault(group, []).append(i)
    estimates = {}
    for name in NAMES:
        if name == "rouge_l":
            estimates[name] = mean_over_captions(list(map(rouge_l, captions, references)), groups, rng)
            continue
        counts = statistics(name, captions, references)
        sums = np.array([counts[places].sum(axis=0) for places in members.values()])  # (groups, S)
        estimates[name] = Estimate(*bootstrap(sums, lambda rows, name=name: score(name, rows.sum(axis=0)), rng),
                                   len(captions))
    return estimates
