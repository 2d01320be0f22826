"""How good captions of motions are, in numbers from 0 to 100: captions and their references in, numbers out.

Words are found by sacrebleu's tokenizer 13a (mteval-v13a, what papers on European languages use) in lower case, for
BLEU and ROUGE-L alike; chrF needs no words, and is the one to read for captions without spaces between words. A caption
may have several references: BLEU counts n-grams of all of them, chrF and ROUGE-L take the nearest one.
"""

from collections.abc import Hashable, Sequence

import numpy as np
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU, CHRF
from sacrebleu.metrics.base import Metric

from motion_llm.evaluation.intervals import NOT_AVAILABLE, Estimate, bootstrap, mean_over_captions

# effective_order: captions too short to have four words in a row are judged by the shorter runs that they have.
_BLEU = {"tokenize": "13a", "lowercase": True, "smooth_method": "exp", "effective_order": True}
OF_A_CORPUS: dict[str, Metric] = {
    "bleu_1": BLEU(max_ngram_order=1, **_BLEU),
    "bleu_4": BLEU(max_ngram_order=4, **_BLEU),
    "chrf": CHRF(lowercase=True),
}
NAMES = ("bleu_1", "bleu_4", "rouge_l", "chrf")


def statistics(name: str, captions: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
    """(N, S): what a metric of OF_A_CORPUS counts in each caption; a corpus is judged by the sums over its captions.

    references: of each caption, one or more. Raises ValueError for a caption without.
    """
    if bare := [i for i, own in enumerate(references) if not own]:
        raise ValueError(f"{len(bare)} captions have no reference, the first is caption {bare[0]}")
    most = max(map(len, references), default=0)
    streams = [[own[k] if k < len(own) else None for own in references] for k in range(most)]
    return np.array(OF_A_CORPUS[name]._extract_corpus_statistics(captions, streams))


def score(name: str, totals: np.ndarray) -> float:
    """The metric, 0 to 100, of the statistics (S,) summed over a corpus.

    bleu_1, bleu_4: BLEU up to 1 and 4 words (Papineni et al. 2002) with the brevity penalty, smoothed as in
    mteval-v13a where no run of a length is found. chrf: character 1- to 6-grams without spaces, F2 (Popovic 2015).
    """
    return OF_A_CORPUS[name]._compute_score_from_stats(totals.tolist()).score


class _Words:
    """BLEU's words, for ROUGE-L."""

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
    """NAMES -> the figure of the whole corpus, for ROUGE-L the mean over captions, with its interval.

    groups: for each caption what is drawn with it when resampling, such as the clips of one sentence, which say less
    than as many independent ones.
    """
    if not captions:
        return dict.fromkeys(NAMES, NOT_AVAILABLE)
    members = {group: [i for i, other in enumerate(groups) if other == group] for group in dict.fromkeys(groups)}
    found = {}
    for name in NAMES:
        if name == "rouge_l":
            found[name] = mean_over_captions(list(map(rouge_l, captions, references)), groups, rng)
            continue
        counts = statistics(name, captions, references)
        sums = np.array([counts[own].sum(axis=0) for own in members.values()])  # (groups, S)
        found[name] = Estimate(*bootstrap(sums, lambda rows, name=name: score(name, rows.sum(axis=0)), rng),
                               len(captions))
    return found
