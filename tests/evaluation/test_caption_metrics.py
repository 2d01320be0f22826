"""caption_metrics.py: BLEU, ROUGE-L and chrF by hand, at their limits, and against sacrebleu's corpus scores."""

import math

import numpy as np
import pytest

from motion_llm.evaluation import caption_metrics
from motion_llm.evaluation.caption_metrics import NAMES, OF_A_CORPUS, chrf, rouge_l, score, score_captions, statistics


def corpus(name, captions, references):
    return score(name, statistics(name, captions, references).sum(axis=0))


def estimates(captions, references, groups=None):
    groups = range(len(captions)) if groups is None else groups
    return score_captions(captions, references, list(groups), np.random.default_rng(0))


def test_bleu_by_hand():
    """Of "a person walks fast now" the reference has 4 of 5 words, 3 of 4 pairs, 2 of 3 triples and 1 of 2 runs of
    four. Two captions are counted together. 5 words against 6 have a brevity penalty."""
    captions, references = ["a person walks fast now"], [["a person walks fast and far"]]
    brevity = math.exp(1 - 6 / 5)
    assert corpus("bleu_1", captions, references) == pytest.approx(100 * brevity * 4 / 5)
    shares = 4 / 5 * 3 / 4 * 2 / 3 * 1 / 2
    assert corpus("bleu_4", captions, references) == pytest.approx(100 * brevity * shares ** 0.25)
    captions, references = [*captions, "no"], [*references, ["no"]]
    assert corpus("bleu_1", captions, references) == pytest.approx(100 * math.exp(1 - 7 / 6) * 5 / 6)


def test_bleu_takes_words_of_all_references_and_the_nearest_length():
    references = [["a person jumps", "someone leaps up high today"]]
    assert corpus("bleu_1", ["a person leaps"], references) == pytest.approx(100)


def test_a_run_of_four_that_is_never_found_is_smoothed():
    """3 of 4 words, 2 of 3 pairs, 1 of 2 triples, and 0 runs of four, which count as half of one as in mteval-v13a."""
    bleu = corpus("bleu_4", ["a person walks forward"], [["a person walks back"]])
    assert bleu == pytest.approx(100 * (3 / 4 * 2 / 3 * 1 / 2 * 0.5 / 1) ** 0.25)


def test_rouge_l_by_hand():
    """"the man walks to left" and "the man to the left": the man to left, 4 of 5 words each way."""
    assert rouge_l("the man walks to left", ["the man to the left"]) == pytest.approx(80)
    assert rouge_l("walks", ["a man runs", "a man walks"]) == pytest.approx(100 * 2 * 1 * (1 / 3) / (1 + 1 / 3))


def test_chrf_by_hand():
    """abc and abd: 2 of 3 letters, 1 of 2 pairs, 0 of 1 triples each way; precision and recall are their mean."""
    assert chrf("abc", ["abd"]) == pytest.approx(100 * (2 / 3 + 1 / 2 + 0) / 3)
    assert chrf("abc", ["xyz", "abc"]) == pytest.approx(100)


@pytest.mark.parametrize("name", NAMES)
def test_the_reference_itself_has_100_and_other_words_0(name):
    references = [["a person walks forward", "someone goes ahead"], ["he jumps"], ["a b"]]
    assert estimates([texts[-1].upper() for texts in references], references)[name].value == pytest.approx(100)
    assert estimates(["zzz qqq"] * 3, references)[name].value == 0
    assert estimates([""] * 3, references)[name].value == 0


@pytest.mark.parametrize("name", NAMES)
def test_words_with_letters_beyond_ascii_are_words(name):
    assert estimates(["человек идёт"], [["человек идёт"]])[name].value == pytest.approx(100)


@pytest.mark.parametrize("name", OF_A_CORPUS)
def test_a_corpus_is_scored_as_sacrebleu_does(name):
    captions = ["a person walks", "someone is clapping, slowly", "he jumps up and down"]
    references = [["a person walks forward", "someone walks"], ["someone claps"], ["he jumps", "a man jumps up", "up"]]
    streams = [[texts[k] if k < len(texts) else None for texts in references] for k in range(3)]
    expected = OF_A_CORPUS[name].corpus_score(captions, streams).score
    assert estimates(captions, references)[name].value == pytest.approx(expected)


def test_intervals_hold_the_value_and_draw_groups():
    captions = ["a person walks", "a person walks", "he jumps", "he jumps"]
    references = [["a person walks"], ["a person walks"], ["she sits"], ["she sits"]]
    for name, estimate in estimates(captions, references, [0, 0, 1, 1]).items():
        assert estimate.low < estimate.value < estimate.high and estimate.n == 4, name
    for estimate in estimates(captions, references, [0, 0, 0, 0]).values():
        assert estimate.low == estimate.value == estimate.high


def test_no_captions_and_no_references():
    assert all(estimate.value is None for estimate in estimates([], []).values())
    with pytest.raises(ValueError, match="1 captions have no reference, the first is caption 1"):
        caption_metrics.statistics("chrf", ["a", "b"], [["a"], []])
