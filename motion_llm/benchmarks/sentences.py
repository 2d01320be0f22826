"""Sentences that people wrote for actions and styles, and how well a model's answers to them are recognised.

They are in a JSON file, in sets by name: {"a set": [{"text": ..., "action": ..., "style": ...}, ...]}; the labels are
those of the wordings file (wording_sets.py), "neutral" is the style of a sentence that names none.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from motion_llm.benchmarks.wording_sets import NEUTRAL, WordingError, Wordings
from motion_llm.decoding.request import MotionResult
from motion_llm.evaluation.recogniser import ActionRecogniser
from motion_llm.json_files import parse_json, read_text


@dataclass(frozen=True)
class Sentence:
    text: str
    action: str
    style: str


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
    for field, labels in (("action", wordings.actions), ("style", {*wordings.styles, NEUTRAL})):
        if entry[field] not in labels:
            raise WordingError(f"{path}: {place} has the {field} {entry[field]!r}, expected one of {wordings.path}: "
                               f"{', '.join(sorted(labels))}")
    return Sentence(**entry)


def score_sentences(sentences: Sequence[Sentence], results: Sequence[MotionResult], actions: ActionRecogniser,
                    styles: ActionRecogniser | None, wordings: Wordings) -> dict:
    """results: the same number for each sentence, one after another.

    recognised, style_recognised: shares of the clips whose recognised action and style are the sentence's, the style
    where it names one. taken: the share that was asked as a training caption; taken_action, taken_style: how often
    that caption has the sentence's action and style. None where there is nothing to count.
    """
    samples = len(results) // len(sentences)
    asked = [sentence for sentence in sentences for _ in range(samples)]
    clips = [result.codes for result in results]
    taken = [(sentence, wordings.parse(result.taken_for)) for sentence, result in zip(asked, results, strict=True)
             if result.taken_for is not None]
    guesses = {"action": actions.predict(clips)} | ({} if styles is None else {"style": styles.predict(clips)})
    return {
        "sentences": len(sentences), "clips": len(clips),
        "recognised": share(guess == sentence.action
                            for guess, sentence in zip(guesses["action"], asked, strict=True)),
        "style_recognised": share(guess == sentence.style
                                  for guess, sentence in zip(guesses.get("style", asked), asked, strict=True)
                                  if styles is not None and sentence.style != NEUTRAL),
        "taken": len(taken) / len(clips),
        "taken_action": share(caption.action == sentence.action for sentence, caption in taken),
        "taken_style": share(caption.style == sentence.style for sentence, caption in taken
                             if sentence.style != NEUTRAL),
    }


def share(right) -> float | None:
    """Of what is true among some; None of none."""
    right = list(right)
    return sum(right) / len(right) if right else None


def format_sentences(sets: Mapping[str, Mapping]) -> list[str]:
    """A table of the sets' scores, in lines."""
    head = (f"{'sentences':<24}{'rows':>6}{'action':>8}{'style':>8}{'asked as another':>18}{'its action':>12}"
            f"{'its style':>11}")

    def percent(value: float | None, width: int) -> str:
        return f"{'' if value is None else f'{value:.1%}':>{width}}"

    return [head, "-" * len(head), *(
        f"{name:<24}{score['sentences']:>6}{percent(score['recognised'], 8)}{percent(score['style_recognised'], 8)}"
        f"{percent(score['taken'], 18)}{percent(score['taken_action'], 12)}{percent(score['taken_style'], 11)}"
        for name, score in sets.items())]
