"""Requests to a model and its results: `MotionRequest` in, `MotionResult` out, on any engine."""

import copy
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from motion_llm.dataset.caption_rules import caption_problem
from motion_llm.dataset.lengths import LengthLimits
from motion_llm.streams import LOST, StreamError, Value, read_codes

TASKS = {  # task -> its name in messages
    "t2m": "text to motion",
    "m2t": "motion to text",
    "denoise": "filling in lost tokens",
    "edit": "making a part of a motion anew, by a sentence",
    "inbetween": "going from one motion to another",
    "continue": "going on from a motion",
}
# Task -> the fields of a request that it needs, and those that it may have.
TAKES = {"t2m": ({"text"}, {"before"}), "m2t": ({"motion"}, set()), "denoise": ({"motion"}, {"text"}),
         "edit": ({"motion", "text"}, set()), "inbetween": ({"motion", "end"}, {"text"}),
         "continue": ({"motion"}, {"text"})}
WITH_LOST_TOKENS = ("denoise", "edit")  # tasks; the answer is as long as the question
# Field of a request -> the setting that is used where the field is None.
SAMPLING_SETTINGS = {"temperature": "GEN_TEMPERATURE", "top_p": "GEN_TOP_P", "top_k": "GEN_TOP_K",
                     "end_logit_slope": "GEN_END_LOGIT_SLOPE", "guidance": "GEN_GUIDANCE"}
# Field of a request -> what messages call it, for those who type flags and for those who write Python.
FLAGS = {"text": "text (--prompt)", "motion": "motion (--motion_tokens)", "end": "end (--end_tokens)",
         "before": "before"}
MOTIONS = ("motion", "end", "before")  # fields of a request that are motions
LEAST_TEMPERATURE = 0.01  # below it the scores divided by it overflow, and the likeliest code is certain anyway
CANDIDATES = 16  # captions that motion to text chooses among, its own and those of training clips
MOST_TOKENS = 1_000_000
MOST_CALL_TOKENS = 20_000_000  # of all answers together; hours on a CPU


class GenerationError(ValueError):
    """A request that cannot be answered; the message says what was requested and what is possible."""


def checked_number(name: str, value: float, low: float, high: float, whole: bool = False) -> float:
    """The value, if it is a number from low to high. Raises GenerationError with the name."""
    kinds = (int,) if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not low <= value <= high:
        kind = "an integer" if whole else "a number"
        huge = isinstance(value, int) and abs(value) > 10**30  # Python writes no integer of more than 4,300 digits
        raise GenerationError(f"{name} is {'huge' if huge else repr(value)[:60]}, expected {kind} from {low:g} to "
                              f"{high:g}")
    return value


@dataclass(frozen=True)
class Sampling:
    """temperature 0 (and less than LEAST_TEMPERATURE) is greedy; top_p 1 and top_k 0 are off; slope as in
    constraints.py; guidance 1 is off, see `guided` in loop.py. Raises GenerationError for a value out of its range."""

    temperature: float
    top_p: float
    top_k: int
    slope: float
    guidance: float = 1.0

    def __post_init__(self):
        checked_number("temperature", self.temperature, 0, 100)
        checked_number("top_p", self.top_p, 1e-9, 1)
        checked_number("top_k", self.top_k, 0, 1_000_000, whole=True)
        checked_number("end_logit_slope", self.slope, 0, 1_000)
        checked_number("guidance", self.guidance, 0, 100)

    @property
    def greedy(self) -> bool:
        return self.temperature < LEAST_TEMPERATURE


def parse_codes(motion_tokens: str | Sequence, lost: bool = False) -> tuple[int, ...]:
    """"42 18 ?" or [42, 18, "?"] to codes; a lost token becomes MASKED if `lost` allows it. Raises GenerationError."""
    try:
        return tuple(read_codes(motion_tokens, lost))
    except StreamError as error:
        raise GenerationError(str(error)) from None


def _of_streams(value: object) -> bool:
    """Whether a motion is written as several streams: an object of them, or a list of steps."""
    return isinstance(value, Mapping) or isinstance(value, Sequence) and not isinstance(value, str) and any(
        isinstance(step, Sequence) and not isinstance(step, str) for step in value)


def with_lost_span(motion: Value, span: str, rate: float | None) -> Value:
    """The motion with a gap for denoise to fill, in all of its streams. span: "START:END" in seconds; rate: tokens a
    second, None if unknown. Raises GenerationError."""
    if rate is None:
        raise GenerationError(f"the span is in seconds, and the model does not know its tokens' rate: write {LOST} for "
                              "each lost token")
    parts = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*:\s*(\d+(?:\.\d+)?)\s*", span, re.ASCII)
    start, end = (round(float(part) * rate) for part in parts.groups()) if parts else (0, 0)

    def lose(tokens: Sequence, lost: object) -> list:
        if not start < end <= len(tokens):
            raise GenerationError(f"the span is {span[:60]!r}, expected START:END in seconds such as 2.0:3.5, at least "
                                  f"a token apart; the motion has {len(tokens) / rate:.1f} seconds ({len(tokens)} "
                                  "tokens)")
        return [*tokens[:start], *[lost] * (end - start), *tokens[end:]]

    if isinstance(motion, Mapping):
        return {name: codes if codes is None or codes == LOST else with_lost_span(codes, span, rate)
                for name, codes in motion.items()}
    if _of_streams(motion):
        return lose(motion, [LOST] * len(motion[0]))
    tokens = motion.split() if isinstance(motion, str) else motion
    return " ".join(map(str, lose(tokens, LOST)))


def motion_of_text(text: str) -> Value:
    """A motion as people type it: "42 18 91" as it is; of several streams JSON, as in the dataset. Raises
    GenerationError."""
    if not text.lstrip().startswith(("{", "[")):
        return text
    try:
        return json.loads(text)
    except ValueError as error:  # json's own, and a number of over 4300 digits
        raise GenerationError(f"motion_tokens {text[:60]!r} is no JSON ({error}), expected the dataset's form, such as "
                              '{"body": "42 18", "left_hand": "3 3"}') from None


def check_size(requests: "Sequence[MotionRequest]", longest: Sequence[int]) -> None:
    """Raises GenerationError for more than a call may ask for. longest: tokens of each request's longest answer."""
    answers = sum(request.num_samples * request.best_of for request in requests)
    tokens = sum(request.num_samples * request.best_of * most for request, most in zip(requests, longest, strict=True))
    if tokens > MOST_CALL_TOKENS:
        raise GenerationError(f"{answers:,} answers (samples x best_of) of up to {max(longest):,} tokens were asked, "
                              f"{tokens:,} tokens in all; at most {MOST_CALL_TOKENS:,} are decoded in one call: ask in "
                              "parts")


def _checked_text(text: object) -> None:
    if not isinstance(text, str) or not text.strip():
        raise GenerationError(f"the prompt is {text!r}, expected a sentence")
    if problem := caption_problem(text):
        raise GenerationError(f"the prompt {problem}")


@dataclass(frozen=True)
class MotionRequest:
    """One request. Sampling and lengths that are None come from the model's folder.

    task: one of TASKS. text: the caption (for t2m and edit; optional for denoise, inbetween and continue). motion:
    codes; the input of m2t, the input of denoise and edit with LOST for lost tokens, the start of inbetween and
    continue. end: the codes that inbetween leads to.
    before: codes that t2m goes on from, as another clip's last ones; they are no part of the answer and of its length.
    participant_id: move like this participant. tokens: the exact length; or min_tokens and max_tokens, or one of them;
    or seconds. All of them count the whole answer, its given tokens included. max_new_tokens: a cap, lowered to what
    fits the model. guidance: the weight of classifier-free guidance by the caption; 1 is off. keep_given: denoise
    changes lost tokens alone. per_prompt_vocab: only codes seen in training with the caption. num_samples: the number
    of answers. best_of: decode this many for each answer and keep the best; for m2t, compare so many captions, the one
    that is decoded and those of training clips with similar codes. streams: of a model with several, those that the
    answer has; None for all. tokens, and all numbers of tokens, are then steps, and a motion has the form of the
    dataset's motion_tokens. as_written: ask the sentence as it is, also where it has words that no training caption
    has; it is otherwise asked as the nearest training caption.

    Raises GenerationError for a request that no model can answer.
    """

    task: str = "t2m"
    text: str | None = None
    motion: Value | None = None
    end: Value | None = None
    participant_id: str | int | None = None
    tokens: int | None = None
    min_tokens: int | None = None
    max_tokens: int | None = None
    seconds: float | None = None
    max_new_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    end_logit_slope: float | None = None
    guidance: float | None = None
    keep_given: bool = True
    per_prompt_vocab: bool = False
    num_samples: int = 1
    best_of: int = 1
    streams: str | Sequence[str] | None = None
    as_written: bool = False
    before: Value | None = None

    def __post_init__(self):
        if self.task not in TASKS:
            raise GenerationError(f"task {self.task!r} is unknown; there are {', '.join(TASKS)}")
        self._check_contents()
        self._check_lengths()
        checked_number("num_samples", self.num_samples, 1, 1_000_000, whole=True)
        checked_number("best_of", self.best_of, 1, 1_000, whole=True)
        if self.guidance is not None and self.text is None:
            raise GenerationError(f"guidance makes a motion follow its caption, and {self.task} was given none")
        if self.best_of > 1 and self.text is None and self.task != "m2t":
            raise GenerationError(f"best_of ranks motions by their caption, and {self.task} was given none")

    @property
    def tries(self) -> int:
        """How often each answer is decoded."""
        return 1 if self.task == "m2t" else self.best_of

    def _check_contents(self) -> None:
        needed, possible = TAKES[self.task]
        for name in ("text", *MOTIONS):
            is_set = getattr(self, name) is not None
            if is_set and name not in needed | possible:
                raise GenerationError(f"{FLAGS[name]} was given, which {self.task} ({TASKS[self.task]}) does not take")
            if not is_set and name in needed and name != "text":
                raise GenerationError(f"{self.task} ({TASKS[self.task]}) needs {FLAGS[name]}: codes such as "
                                      '"42 18 91"')
        if self.text is not None or "text" in needed:
            _checked_text(self.text)
        for name in MOTIONS:
            if getattr(self, name) is not None:
                if not _of_streams(getattr(self, name)):  # those are read when the model's streams are known
                    object.__setattr__(self, name, parse_codes(getattr(self, name), self.task in WITH_LOST_TOKENS))
        if self.streams is not None:
            self._check_streams()

    def _check_streams(self) -> None:
        if isinstance(self.streams, str):
            object.__setattr__(self, "streams", (self.streams,))
        if not self.streams or not all(isinstance(name, str) for name in self.streams):
            raise GenerationError(f"streams is {self.streams!r}, expected names of streams")
        if self.task not in ("t2m", "continue") or self.text is None:
            raise GenerationError(f"streams was given, but {self.task} answers with the streams of the question; a "
                                  f'stream is left out there by null, and filled in by "{LOST}"')

    def _check_lengths(self) -> None:
        lengths = [name for name in ("tokens", "min_tokens", "max_tokens", "seconds", "max_new_tokens")
                   if getattr(self, name) is not None]
        if self.task in ("m2t", *WITH_LOST_TOKENS) and lengths:
            why = "is a sentence" if self.task == "m2t" else "has as many tokens as the question"
            raise GenerationError(f"{', '.join(lengths)} was given, but the answer to {self.task} {why}")
        for name in lengths:
            if name == "seconds":
                checked_number(name, self.seconds, 1e-3, MOST_TOKENS)
            else:
                checked_number(name, getattr(self, name), 1, MOST_TOKENS, whole=True)
        exact = [name for name in lengths if name in ("tokens", "seconds")]
        if exact and len(lengths) > 1:
            raise GenerationError(f"{' and '.join(lengths)} were given: {exact[0]} says the length alone")
        if self.min_tokens is not None and self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise GenerationError(f"min_tokens is {self.min_tokens}, more than max_tokens, {self.max_tokens}")
        if self.task == "inbetween" and not exact:
            raise GenerationError("inbetween needs its length: tokens, or seconds, start and end included")


@dataclass(frozen=True)
class MotionResult:
    """One answer. motion_tokens: the motion in the dataset's form (the input of m2t, the answer of other tasks); codes:
    the same, flat (motion_llm/streams.py). text: the caption (the answer of m2t, the input of other tasks). limits: the
    length limits of the answer with their source; None for a text. log_probability: of the answer, in nats, under the
    model's own softmax (for a motion: over the codes and <MOT_END>), before temperature, limits and shifts; forced
    tokens count; None for a caption that was chosen but not decoded. score: what best_of ranked by, for m2t the
    caption's share of all that were compared; None without best_of. taken_for: the training caption that was asked
    instead of a sentence with new words; None for a sentence that was asked as it is. others: of m2t with best_of, the
    other captions with their shares, the likeliest first.
    """

    motion_tokens: Value
    text: str | None = None
    limits: LengthLimits | None = None
    log_probability: float | None = None
    score: float | None = None
    taken_for: str | None = None
    codes: tuple[int, ...] = field(default=(), repr=False)
    others: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Caption:
    """What a motion shows. share: of this caption among all that were compared, 0 to 1; None without comparison.
    others: the runners-up with their shares, the likeliest first."""

    text: str
    share: float | None = None
    others: tuple[tuple[str, float], ...] = ()

    def __str__(self) -> str:
        return self.text


def with_fields(request: MotionRequest, **fields) -> MotionRequest:
    """A copy with other fields, which are not checked and read again: motions may be flat codes."""
    changed = copy.copy(request)
    for name, value in fields.items():
        object.__setattr__(changed, name, value)
    return changed
