"""What the captions of a dataset mean (action and style), which of them are held out, and other words for them.

All of it is in a JSON file beside the dataset (data/sample_wordings.json): `patterns` and `subjects` of captions;
for each action and style its `phrases` in the dataset and `rewordings` that the dataset does not have; phrases that
say an action and a style at once (`combined`); `heldout_combinations` of action and style and `heldout_phrases`.
"""

import itertools
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from motion_llm.dataset.rows import Row, caption_key
from motion_llm.json_files import parse_json, read_text

NEUTRAL = "neutral"  # the style of a caption that names none
LEAST_REWORDINGS = {"actions": 3, "styles": 2}
FIELDS = {"patterns": list, "subjects": list, "actions": dict, "styles": dict, "combined": list,
          "heldout_combinations": list, "heldout_phrases": list}
REWORDINGS = ("action", "style", "both")  # what a rewording says in other words
SHOWN = 5


class WordingError(ValueError):
    """A wordings file that is wrong, or a caption that it does not explain; the text names both."""


@dataclass(frozen=True)
class Meaning:
    """What a caption says, and in which words. phrases: those of the file that it is made of."""

    subject: str
    action: str
    style: str
    phrases: tuple[str, ...]
    pattern: str

    @property
    def combination(self) -> tuple[str, str]:
        return self.action, self.style


@dataclass(frozen=True)
class WordingSplit:
    """Rows of a dataset. trained: the rows that a model may be trained with. dropped: rows whose caption could be
    trained, but whose motion is a held-out row's."""

    trained: list[Row]
    combinations: list[Row]
    phrases: list[Row]
    dropped: list[Row]


class Wordings:
    """A checked wordings file; `read_wordings` makes one."""

    def __init__(self, path: str, content: Mapping):
        self.path = path
        self.patterns, self.subjects = content["patterns"], content["subjects"]
        self.actions, self.styles = content["actions"], content["styles"]
        self.combined = content["combined"]
        self.heldout_combinations = {tuple(pair) for pair in content["heldout_combinations"]}
        self.heldout_phrases = set(content["heldout_phrases"])
        self.plain = next(pattern for pattern in self.patterns if "{style}" not in pattern)
        self.styled = next((pattern for pattern in self.patterns if "{style}" in pattern), None)
        self._meanings: dict[str, Meaning] = {}
        for meaning in self._all_meanings():
            first = self._meanings.setdefault(caption_key(self.caption(meaning)), meaning)
            if first.combination != meaning.combination:
                raise WordingError(f"{path}: {self.caption(meaning)!r} means both {first.combination} and "
                                   f"{meaning.combination}: expected one action and style for a caption")

    def _all_meanings(self) -> Iterable[Meaning]:
        """Every caption that the dataset's phrases can form."""
        for subject, (action, entry) in itertools.product(self.subjects, self.actions.items()):
            for phrase in entry["phrases"]:
                yield Meaning(subject, action, NEUTRAL, (phrase,), self.plain)
                for pattern in self.patterns if self.styles else ():
                    if "{style}" in pattern:
                        for style, words in self.styles.items():
                            for adverb in words["phrases"]:
                                yield Meaning(subject, action, style, (phrase, adverb), pattern)
        for subject, entry in itertools.product(self.subjects, self.combined):
            for phrase in entry["phrases"]:
                yield Meaning(subject, entry["action"], entry["style"], (phrase,), self.plain)

    def caption(self, meaning: Meaning) -> str:
        action, style = (*meaning.phrases, "")[:2]
        return meaning.pattern.format(subject=meaning.subject, action=action, style=style)

    def parse(self, caption: str) -> Meaning:
        """Raises WordingError for a caption that no phrases explain."""
        meaning = self._meanings.get(caption_key(caption))
        if meaning is None:
            raise WordingError(f"{self.path} does not explain the caption {caption!r}: expected "
                               f"{' or '.join(self.patterns)} of its phrases")
        return meaning

    def parse_all(self, captions: Iterable[str]) -> dict[str, Meaning]:
        """caption -> Meaning. Raises WordingError naming the captions that no phrases explain."""
        captions = list(dict.fromkeys(captions))
        unknown = [caption for caption in captions if caption_key(caption) not in self._meanings]
        if unknown:
            more = f" and {len(unknown) - SHOWN} more" if len(unknown) > SHOWN else ""
            raise WordingError(f"{self.path} does not explain {len(unknown)} of {len(captions)} captions: "
                               f"{', '.join(map(repr, unknown[:SHOWN]))}{more}; expected {' or '.join(self.patterns)} "
                               "of its phrases")
        return {caption: self.parse(caption) for caption in captions}

    def reword(self, caption: str, kind: str, seed: int, salt: str = "") -> str | None:
        """The caption with its action, its style or both in words that the dataset does not have.

        The choice of words depends on seed, caption and salt (which tells clips of one caption apart). None for a
        rewording of the style where the caption names none. kind: one of REWORDINGS.
        """
        if kind not in REWORDINGS:
            raise ValueError(f"kind {kind!r}, expected one of {', '.join(REWORDINGS)}")
        meaning = self.parse(caption)
        if meaning.style == NEUTRAL and kind != "action":
            return None
        rng = random.Random(f"{seed} {kind} {caption_key(caption)} {salt}")
        whole = len(meaning.phrases) == 1 and meaning.style != NEUTRAL  # says action and style at once
        action = self._trained(self.actions[meaning.action]) if whole else meaning.phrases[0]
        words = [action if kind == "style" else rng.choice(self.actions[meaning.action]["rewordings"])]
        if meaning.style != NEUTRAL:
            style = self._trained(self.styles[meaning.style]) if whole else meaning.phrases[1]
            words.append(style if kind == "action" else rng.choice(self.styles[meaning.style]["rewordings"]))
        pattern = self.styled if whole else meaning.pattern
        text = self.caption(Meaning(meaning.subject, *meaning.combination, tuple(words), pattern))
        if caption_key(text) in self._meanings:
            raise WordingError(f"{self.path}: the rewording {text!r} is made of the dataset's phrases, expected "
                               "new words")
        return text

    def _trained(self, entry: Mapping) -> str:
        return next(phrase for phrase in entry["phrases"] if phrase not in self.heldout_phrases)

    def says_heldout_phrase(self, meaning: Meaning) -> bool:
        return not self.heldout_phrases.isdisjoint(meaning.phrases)

    def split(self, rows: Sequence[Row]) -> WordingSplit:
        """Rows with held-out combinations, rows with held-out phrases only, and the rest, in their order.

        Raises WordingError for a caption that no phrases explain, for a held-out combination or phrase that does not
        occur, and for an action or style without a clip left for training.
        """
        meanings = self.parse_all(row.text_query for row in rows)
        parts = WordingSplit([], [], [], [])
        for row in rows:
            meaning = meanings[row.text_query]
            (parts.combinations if meaning.combination in self.heldout_combinations else
             parts.phrases if self.says_heldout_phrase(meaning) else parts.trained).append(row)
        held = {key for row in parts.combinations + parts.phrases for key in _motion(row)}
        parts.dropped.extend(row for row in parts.trained if not held.isdisjoint(_motion(row)))
        parts.trained[:] = [row for row in parts.trained if held.isdisjoint(_motion(row))]
        self._check_split(meanings, parts)
        return parts

    def _check_split(self, meanings: Mapping[str, Meaning], parts: WordingSplit) -> None:
        missing = self.heldout_combinations - {meaning.combination for meaning in meanings.values()}
        missing |= self.heldout_phrases - {phrase for meaning in meanings.values() for phrase in meaning.phrases}
        if missing:
            raise WordingError(f"{self.path} holds out {', '.join(sorted(map(str, missing)))}, found in no caption of "
                               "the dataset")
        trained = {label for row in parts.trained for label in meanings[row.text_query].combination}
        for row in parts.combinations + parts.phrases:
            for label in meanings[row.text_query].combination:
                if label not in trained:
                    raise WordingError(f"{self.path}: nothing with {label!r} is left for training (held out, for one: "
                                       f"{row.text_query!r}), expected other clips of it")


def _motion(row: Row) -> set:
    """Marks that rows of the same clip share."""
    return {row.codes.tobytes()} | ({row.clip_id} if row.clip_id is not None else set())


def read_wordings(path: str | Path) -> Wordings:
    """Raises WordingError naming the file and the entry, OSError where it cannot be read."""
    content = parse_json(read_text(path, WordingError), str(path), WordingError)
    if not isinstance(content, dict) or set(content) != set(FIELDS):
        fields = ", ".join(map(str, content)) if isinstance(content, dict) else type(content).__name__
        raise WordingError(f"{path}: found {fields or 'nothing'}, expected an object with {', '.join(FIELDS)}")
    for name, kind in FIELDS.items():
        if not isinstance(content[name], kind):
            raise _wrong(path, name, content[name], "a list" if kind is list else "an object")
    _check_entries(path, content)
    _check_patterns(path, content)
    _check_heldout(path, content)
    return Wordings(str(path), content)


def _wrong(path: str | Path, entry: str, value: object, expected: str) -> WordingError:
    return WordingError(f"{path}: {entry} is {value!r}, expected {expected}")


def _texts(path: str | Path, entry: str, value: object, least: int = 1) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(text, str) and text.strip() for text in value):
        raise _wrong(path, entry, value, "a list of texts that are not blank")
    if len(value) < least:
        raise _wrong(path, entry, value, f"{least} or more")
    return value


def _check_entries(path: str | Path, content: Mapping) -> None:
    """Labels with their phrases and rewordings; each phrase belongs to one label."""
    _texts(path, "subjects", content["subjects"])
    if NEUTRAL in content["styles"]:
        raise _wrong(path, "styles", NEUTRAL, "other labels: it is the style of captions that name none")
    if both := set(content["actions"]) & set(content["styles"]):
        raise _wrong(path, "styles", sorted(both)[0], "labels that no action has")
    for field, least in LEAST_REWORDINGS.items():
        owner: dict[str, str] = {}
        for label, entry in content[field].items():
            if not isinstance(entry, dict) or set(entry) != {"phrases", "rewordings"}:
                raise _wrong(path, f"{field}, {label}", entry, "an object with phrases and rewordings")
            phrases = _texts(path, f"{field}, {label}, phrases", entry["phrases"])
            for phrase in phrases + _texts(path, f"{field}, {label}, rewordings", entry["rewordings"], least):
                first = owner.setdefault(caption_key(phrase), f"{label}: {phrase}")
                if first != f"{label}: {phrase}" or (phrases + entry["rewordings"]).count(phrase) > 1:
                    raise _wrong(path, f"{field}, {label}", phrase, f"words that are there once (also in {first})")


def _check_patterns(path: str | Path, content: Mapping) -> None:
    for pattern in _texts(path, "patterns", content["patterns"]):
        bare = pattern.replace("{subject}", "", 1).replace("{action}", "", 1).replace("{style}", "", 1)
        if "{action}" not in pattern or "{" in bare or "}" in bare:
            raise _wrong(path, "patterns", pattern, "{action} and perhaps {subject} and {style}, once each")
    if all("{style}" in pattern for pattern in content["patterns"]):
        raise _wrong(path, "patterns", content["patterns"], "one without {style}, for captions that name none")
    if content["styles"] and not any("{style}" in pattern for pattern in content["patterns"]):
        raise _wrong(path, "patterns", content["patterns"], "one with {style}, for the styles")


def _check_heldout(path: str | Path, content: Mapping) -> None:
    actions, styles = content["actions"], content["styles"]
    for i, entry in enumerate(content["combined"]):
        if not isinstance(entry, dict) or set(entry) != {"action", "style", "phrases"}:
            raise _wrong(path, f"combined, entry {i}", entry, "an object with action, style and phrases")
        if entry["action"] not in actions or entry["style"] not in styles:
            raise _wrong(path, f"combined, entry {i}", (entry["action"], entry["style"]),
                         "an action and a style of this file")
        _texts(path, f"combined, entry {i}, phrases", entry["phrases"])
    for pair in content["heldout_combinations"]:
        if not isinstance(pair, list) or len(pair) != 2 or pair[0] not in actions or pair[1] not in {*styles, NEUTRAL}:
            raise _wrong(path, "heldout_combinations", pair, f"[action, style] of this file's labels or {NEUTRAL}")
    held = set(_texts(path, "heldout_phrases", content["heldout_phrases"], 0))
    entries = [*actions.values(), *styles.values()]
    phrases = {phrase for entry in [*entries, *content["combined"]] for phrase in entry["phrases"]}
    if unknown := held - phrases:
        raise _wrong(path, "heldout_phrases", sorted(unknown)[0], "a phrase of an action, a style or a combined entry")
    for entry in entries:
        if held.issuperset(entry["phrases"]):
            raise _wrong(path, "heldout_phrases", entry["phrases"], "one phrase left of each action and style")
