"""Sentences that people wrote for actions and styles, and how well a model's answers to them are recognised.

They are in a JSON file, in sets by name: {"a set": [{"text": ..., "action": ..., "style": ...}, ...]}; the labels are
those of the wordings file (wording_sets.py), "neutral" is the style of a sentence that names none.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from motion_llm.benchmarks.wording_sets import NEUTRAL, WordingError, Wordings
from motion_llm.decoding.request import MotionResult
from motion_llm.evaluation.recogniser import ActionRecogniser
from motion_llm.json_files import parse_json, read_text

FREQUENT = 10  # real clips of an action in a style; of a single one recognisers know too little (docs/log.md)


@dataclass(frozen=True)
class Sentence:
    text: str
    action: str
    style: str

    @property
    def meaning(self) -> tuple[str, str]:
        return self.action, self.style


@dataclass(frozen=True)
class Recognisers:
    """styles: None where the captions name none. on_real: (action, style) -> whether both are recognised in each of its
    real clips, by recognisers that were fitted without the clip."""

    actions: ActionRecogniser
    styles: ActionRecogniser | None
    on_real: Mapping[tuple[str, str], Sequence[tuple[bool, bool]]]


def read_sentences(path: str | Path, wordings: Wordings) -> dict[str, list[Sentence]]:
    """The sets by name. Raises WordingError naming the file and the entry, OSError where it cannot be read."""
    content = parse_json(read_text(path, WordingError), str(path), WordingError)
    if not isinstance(content, dict) or not content or not all(isinstance(e, list) and e for e in content.values()):
        raise WordingError(f"{path}: expected an object of lists, each a set of sentences")
    return {name: [_sentence(path, f"{name!r}, entry {i}", entry, wordings) for i, entry in enumerate(entries)]
            for name, entries in content.items()}


def _sentence(path: str | Path, place: str, entry: object, wordings: Wordings) -> Sentence:
    if not isinstance(entry, dict) or set(entry) != {"text", "action", "style"} or not all(
            isinstance(value, str) and value.strip() for value in entry.values()):
        raise WordingError(f"{path}: {place} is {entry!r}, expected an object with text, action and style")
    for name, labels in (("action", wordings.actions), ("style", {*wordings.styles, NEUTRAL})):
        if entry[name] not in labels:
            raise WordingError(f"{path}: {place} has the {name} {entry[name]!r}, expected one of {wordings.path}: "
                               f"{', '.join(sorted(labels))}")
    return Sentence(**entry)


def score_sentences(name: str, sentences: Sequence[Sentence], results: Sequence[MotionResult],
                    recognisers: Recognisers, wordings: Wordings) -> dict[str, dict]:
    """Figures of a set, and of its sentences whose meaning has FREQUENT real clips or more, which recognisers know.

    results: the same number for each sentence, one after another.

    recognised, style_recognised: shares of the clips whose recognised action and style are the sentence's, the style
    where it names one. real_recognised, real_style_recognised: what real clips of the same meanings get. taken: the
    share that was asked as a training caption; taken_action, taken_style: how often that caption has the sentence's
    action and style. None where there is nothing to count.
    """
    samples = len(results) // len(sentences)
    asked = [sentence for sentence in sentences for _ in range(samples)]
    clips = [result.codes for result in results]
    actions = recognisers.actions.predict(clips)
    styles = [None] * len(clips) if recognisers.styles is None else recognisers.styles.predict(clips)
    answers = [*zip(asked, results, actions, styles, strict=True)]
    frequent = [answer for answer in answers if len(recognisers.on_real.get(answer[0].meaning, ())) >= FREQUENT]
    return {title: {"sentences": len(some) // samples} | _score(some, recognisers, wordings)
            for title, some in ((name, answers), (f"{name}: frequent", frequent)) if some}


def _score(answers: Sequence[tuple[Sentence, MotionResult, str, str | None]], recognisers: Recognisers,
           wordings: Wordings) -> dict:
    taken = [(sentence, wordings.parse(result.taken_for)) for sentence, result, *_ in answers
             if result.taken_for is not None]
    real = [(sentence, [mean(right) for right in zip(*recognisers.on_real[sentence.meaning], strict=True)])
            for sentence, *_ in answers if sentence.meaning in recognisers.on_real]
    judges_styles = recognisers.styles is not None
    return {
        "clips": len(answers),
        "recognised": mean(action == sentence.action for sentence, _, action, _ in answers),
        "style_recognised": mean(style == sentence.style for sentence, _, _, style in answers
                                 if judges_styles and sentence.style != NEUTRAL),
        "real_recognised": mean(action for _, (action, _) in real),
        "real_style_recognised": mean(style for sentence, (_, style) in real
                                      if judges_styles and sentence.style != NEUTRAL),
        "taken": len(taken) / len(answers),
        "taken_action": mean(caption.action == sentence.action for sentence, caption in taken),
        "taken_style": mean(caption.style == sentence.style for sentence, caption in taken
                            if sentence.style != NEUTRAL),
    }


def mean(values: Iterable[float]) -> float | None:
    """None of none. The mean of what is True or False is the share of what is true."""
    values = list(values)
    return sum(values) / len(values) if values else None


def format_sentences(sets: Mapping[str, Mapping]) -> list[str]:
    """A table of the sets' scores, in lines."""
    head = (f"{'sentences':<32}{'rows':>6}{'action':>8}{'on real':>9}{'style':>8}{'on real':>9}"
            f"{'asked as another':>18}{'its action':>12}{'its style':>11}")

    def percent(value: float | None, width: int) -> str:
        return f"{'' if value is None else f'{value:.1%}':>{width}}"

    return [head, "-" * len(head), *(
        f"{name:<32}{score['sentences']:>6}{percent(score['recognised'], 8)}{percent(score['real_recognised'], 9)}"
        f"{percent(score['style_recognised'], 8)}{percent(score['real_style_recognised'], 9)}"
        f"{percent(score['taken'], 18)}{percent(score['taken_action'], 12)}{percent(score['taken_style'], 11)}"
        for name, score in sets.items())]
