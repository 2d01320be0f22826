"""Does a model follow its captions? The evaluator's retrieval figures as one word and one sentence for people.

The measure is where the model's clips lie between real clips under wrong captions (0) and real clips (1) in
R-Precision: share = (model - shuffled) / (real - shuffled). The words are conservative: the lower end of the interval
has to reach a threshold, and where the interval spans all words there is no verdict.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from motion_llm.evaluation.embedding_metrics import POOL
from motion_llm.evaluation.intervals import Estimate
from motion_llm.evaluation.metric_names import MODEL, NEAREST, REAL, SHUFFLED, Table

FOLLOWS, HALF, NOT_YET, UNKNOWN = "follows", "half follows", "does not yet follow", "cannot be judged"
# Ends of the share's interval. Real clips of one caption differ, so a model that follows has 0.9 to 1.0; with about 25
# captions the interval reaches 0.15 below that. A model that gets the action but not its manner has about 0.3.
FOLLOWS_FROM, HALF_FROM = 0.7, 0.35
LEAST_REAL, LEAST_GAP = 0.5, 0.3  # top 3 of real clips, and less that of wrong captions: below, the evaluator is weak
LEAST_CAPTIONS = 5  # different captions; with fewer even all hits say little
TOP1, TOP3 = "r_precision_top1", "r_precision_top3"


@dataclass(frozen=True)
class Part:
    """The verdict on some captions. share, low, high: None without one, whose reason is then why."""

    word: str
    share: float | None = None
    low: float | None = None
    high: float | None = None
    why: str = ""


@dataclass(frozen=True)
class Following:
    """word, share, low, high: of the captions that the verdict depends on, the worse ones of seen and unseen. parts:
    "seen", "unseen" or "all" -> the verdict on those captions. sentence: for people."""

    word: str
    share: float | None
    low: float | None
    high: float | None
    sentence: str
    parts: Mapping[str, Part] = field(default_factory=dict)

    def to_dict(self) -> dict:
        return asdict(self)


def following(table: Table, captions: Mapping[str, int], pool: int = POOL, passes: float | None = None,
              advice: str | None = None) -> Following:
    """The verdict from the table's R-Precision top 3, with top 1 as a veto.

    captions: split -> how many different captions were scored. pool: captions that a clip's own one is ranked among.
    passes: of text to motion over the training clips. advice: flags that train the model further, such as
    "--max_minutes 30"; both are told unless the model follows.
    """
    kinds = [kind for kind in ("seen", "unseen") if captions.get(kind)] or ["all"]
    parts = {kind: _part(table, kind, captions.get(kind, 0)) for kind in kinds}
    judged = [part for part in parts.values() if part.word != UNKNOWN]
    words = {part.word for part in judged}
    worst = min(judged, key=lambda part: part.low) if judged else next(iter(parts.values()))
    # Captions that are too few to judge are no reason to call the whole good where they look worse than the others.
    doubtful = any(part.word == UNKNOWN and part.share is not None and part.share < FOLLOWS_FROM
                   for part in parts.values())
    word = HALF if words == {FOLLOWS, NOT_YET} or words == {FOLLOWS} and doubtful else next(
        (word for word in (NOT_YET, HALF, FOLLOWS) if word in words), UNKNOWN)
    sentence = _sentence(table, parts, word, min(pool, POOL))
    if word != FOLLOWS:
        sentence += _hint(passes, advice)
    return Following(word, worst.share, worst.low, worst.high, sentence, parts)


def _hint(passes: float | None, advice: str | None) -> str:
    if passes is None:
        return ""
    made = f" It has made {passes:.2g} passes of text to motion over its training clips"
    return f"{made}: go on with the same command and {advice}." if advice else f"{made}."


def _part(table: Table, kind: str, captions: int) -> Part:
    model, real, shuffled = (table[row][kind][TOP3] if row in table else None for row in (MODEL, REAL, SHUFFLED))
    if any(estimate is None or estimate.value is None for estimate in (model, real, shuffled)):
        return Part(UNKNOWN, why="there is no evaluator of its clips")
    if is_weak(table, kind):
        return Part(UNKNOWN, why=f"the evaluator finds the caption of real clips in only {_percent(real)}, of real "
                                 f"clips with wrong captions in {_percent(shuffled)}")
    if captions < LEAST_CAPTIONS:
        return Part(UNKNOWN, why=f"only {captions} different captions were scored, {LEAST_CAPTIONS} or more are needed")
    share, low, high = share_of(model, real, shuffled, captions)
    if low < FOLLOWS_FROM <= high and share_of(real, real, shuffled, captions)[1] < FOLLOWS_FROM:
        return Part(UNKNOWN, share, low, high, f"with {captions} of them even real clips would not pass for good")
    if low < HALF_FROM and high >= FOLLOWS_FROM:
        return Part(UNKNOWN, share, low, high, f"with {captions} captions the interval is too wide")
    word = FOLLOWS if low >= FOLLOWS_FROM else HALF if low >= HALF_FROM else NOT_YET
    if word == FOLLOWS and _vetoed(table, kind, captions):
        word = HALF
    return Part(word, share, low, high)


def is_weak(table: Table, kind: str) -> bool:
    """Whether the evaluator is too weak on the captions of this kind for its figures to be trusted."""
    real = table[REAL][kind][TOP3].value
    shuffled = table[SHUFFLED][kind][TOP3].value if SHUFFLED in table else None
    return real is not None and (real < LEAST_REAL or shuffled is not None and real - shuffled < LEAST_GAP)


def _vetoed(table: Table, kind: str, captions: int) -> bool:
    """Whether top 1 tells that a model whose top 3 is as of real clips follows only roughly: below the threshold, as
    top 3 forgives that one clip in two shows another action (docs/log.md); or the evaluator takes clips of the most
    similar training caption for the right ones."""
    model, real, shuffled = (table[row][kind][TOP1] for row in (MODEL, REAL, SHUFFLED))
    if real.value - shuffled.value >= LEAST_GAP and share_of(model, real, shuffled, captions)[0] < FOLLOWS_FROM:
        return True
    near = table[NEAREST][kind] if kind == "unseen" and NEAREST in table else None
    return near is not None and near[TOP3].value is not None and all(
        near[top].value >= table[REAL][kind][top].value for top in (TOP1, TOP3))


def share_of(model: Estimate, real: Estimate, shuffled: Estimate, captions: int) -> tuple[float, float, float]:
    """(model - shuffled) / (real - shuffled) with its interval: share, low, high.

    The intervals of the three are combined as if they were independent, each end by itself (MOVER, Zou and Donner
    2008); they have the captions in common, so the result is rather too wide. An interval is never narrower than
    Wilson's for as many clips as there are captions: a bootstrap of hits alone has no width.
    """
    gap = real.value - shuffled.value
    share = (model.value - shuffled.value) / gap
    ends = {name: _ends(estimate, captions) for name, estimate in
            (("model", model), ("real", real), ("shuffled", shuffled))}

    def margin(model_end: float, real_end: float, shuffled_end: float) -> float:
        return math.sqrt((model.value - model_end) ** 2 + (share * (real.value - real_end)) ** 2
                         + ((1 - share) * (shuffled.value - shuffled_end)) ** 2) / gap

    low = share - margin(ends["model"][0], ends["real"][1], ends["shuffled"][share < 1])
    return share, low, share + margin(ends["model"][1], ends["real"][0], ends["shuffled"][share > 1])


def _ends(estimate: Estimate, captions: int) -> tuple[float, float]:
    z2 = 1.96 ** 2
    centre = (captions * estimate.value + z2 / 2) / (captions + z2)
    half = math.sqrt(z2 * (captions * estimate.value * (1 - estimate.value) + z2 / 4)) / (captions + z2)
    low, high = (estimate.value if end is None else end for end in (estimate.low, estimate.high))
    return min(low, centre - half), max(high, centre + half)


def _percent(estimate: Estimate) -> str:
    return f"{100 * estimate.value:.0f} %"


ABOUT = {"seen": "captions that were trained", "unseen": "captions that are new", "all": "its captions"}
SHORTLY = {FOLLOWS: "follows", HALF: "half follows", NOT_YET: "does not yet follow"}


def _sentence(table: Table, parts: Mapping[str, Part], word: str, pool: int) -> str:
    judged = {kind: part for kind, part in parts.items() if part.word != UNKNOWN}
    unknown = [f"{ABOUT[kind]} cannot be judged: {part.why}" for kind, part in parts.items() if part.word == UNKNOWN]
    if not judged:
        reasons = list(dict.fromkeys(part.why for part in parts.values()))
        return f"Whether it follows its captions cannot be judged: {'; '.join(reasons)}."
    if len({part.word for part in judged.values()}) > 1:
        told = "It " + ", and ".join(f"{SHORTLY[part.word]} {ABOUT[kind]}" for kind, part in judged.items())
    else:
        whose = "its captions" if len(judged) == len(parts) else ABOUT[next(iter(judged))]
        own = next(iter(judged.values())).word
        yes_or_no = {FOLLOWS: "Yes, it " if word == FOLLOWS else "It ", HALF: "It ", NOT_YET: "No, it "}[own]
        told = f"{yes_or_no}{SHORTLY[own]} {whose}"
    figures = " and ".join(f"{_percent(table[MODEL][kind][TOP3])}{_of(kind, judged)}" for kind in judged)
    real = " and ".join(_percent(table[REAL][kind][TOP3]) for kind in judged)
    wrong = " and ".join(_percent(table[SHUFFLED][kind][TOP3]) for kind in judged)
    text = (f"{told}: an automatic judge finds the caption (in 3 guesses of {pool}) for {figures} of its clips, {real} "
            f"of real ones, {wrong} of real ones with wrong captions.")
    return " ".join([text, *(f"{reason[:1].upper()}{reason[1:]}." for reason in unknown)])


def _of(kind: str, judged: Mapping) -> str:
    return f" ({'trained' if kind == 'seen' else 'new'} captions)" if len(judged) > 1 else ""
