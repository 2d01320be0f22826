"""How an example becomes ids: the motion vocabulary, and the one template that training and decoding share.

    T2M      <user> <T2M> <PID_x> caption <assistant> <MOT_BEGIN> | codes <MOT_END>
    M2T      <user> <M2T> <PID_x> <MOT_BEGIN> codes <MOT_END> <assistant> | caption <end of turn>
    denoise  <user> <DENOISE> <PID_x> caption <MOT_BEGIN> noisy <MOT_END> <assistant> <MOT_BEGIN> | codes <MOT_END>
    lm       <user> <MOTION_LM> <PID_x> <assistant> <MOT_BEGIN> | codes <MOT_END>

Right of the bar is the answer; only its tokens have a loss. <user>, <assistant> and <end of turn> are the base
model's own turn markers; a base without a chat template gets its bos and a line break. Of several streams, codes go
step by step, one of each stream in a step (motion_llm/streams.py). Denoising has a caption or none; with one it is an
edit by words. Text to motion may go on from codes, which then stand left of the bar.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from motion_llm.streams import ABSENT, MASKED, Streams

TASK_TOKENS = {"lm": "<MOTION_LM>", "t2m": "<T2M>", "m2t": "<M2T>", "denoise": "<DENOISE>"}
MOT_BEGIN, MOT_END, MOTION_MASK = "<MOT_BEGIN>", "<MOT_END>", "<MOTION_MASK>"
NO_PARTICIPANT = "NULL"  # as in <PID_NULL>; no participant_id in the data may be this
MAX_CACHED_CAPTIONS = 100_000  # captions whose ids are cached


def participant_token(participant_id: str) -> str:
    return f"<PID_{participant_id}>"


def new_tokens(streams: Streams, participants: Sequence[str]) -> list[str]:
    """The spellings of all new tokens, in the order of their ids.

    The codes come first, stream after stream, and <MOT_END> right behind them, so that a motion's tokens are one slice
    of the head.
    """
    if NO_PARTICIPANT in participants:
        raise ValueError(f"participant_id {NO_PARTICIPANT!r} is reserved for clips without one: rename it")
    return [
        *streams.tokens(), MOT_END, MOT_BEGIN, MOTION_MASK,
        *TASK_TOKENS.values(),
        participant_token(NO_PARTICIPANT), *(participant_token(p) for p in participants),
    ]


@dataclass(frozen=True)
class MotionVocabulary:
    """The ids of the new tokens, all computed from `first_motion_id`. codebook_size: codes of all streams together.
    streams: None for one stream."""

    first_motion_id: int
    codebook_size: int
    participants: tuple[str, ...] = ()
    streams: Streams = None

    def __post_init__(self):
        if self.streams is None:
            object.__setattr__(self, "streams", Streams.one(self.codebook_size))
        if self.streams.size != self.codebook_size:
            raise ValueError(f"streams of {self.streams.size} codes in a vocabulary of {self.codebook_size}")

    def __len__(self) -> int:
        return len(new_tokens(self.streams, self.participants))

    @property
    def new_ids(self) -> range:
        return range(self.first_motion_id, self.first_motion_id + len(self))

    @property
    def end_id(self) -> int:
        return self.first_motion_id + self.codebook_size

    @property
    def begin_id(self) -> int:
        return self.end_id + 1

    @property
    def mask_id(self) -> int:
        return self.end_id + 2

    def task_id(self, task: str) -> int:
        if task not in TASK_TOKENS:
            raise ValueError(f"task {task!r} is unknown; there are {', '.join(TASK_TOKENS)}")
        return self.end_id + 3 + list(TASK_TOKENS).index(task)

    def participant_token_id(self, participant_id: str | None) -> int:
        """Raises ValueError, naming those that exist, for a participant that was not in the training clips."""
        null_id = self.end_id + 3 + len(TASK_TOKENS)
        if participant_id is None:
            return null_id
        if participant_id not in self.participants:
            participants = ", ".join(self.participants) or "none (the training data names no participants)"
            raise ValueError(f"participant {participant_id!r} is unknown; there are {participants}")
        return null_id + 1 + self.participants.index(participant_id)

    def code_ids(self, codes: Sequence[int], masked: bool = False) -> list[int]:
        """Flat codes (T * Q,) to ids (T * Q,). A code of an absent stream becomes <MOTION_MASK>, and so does a lost one
        with `masked`. Raises ValueError for any other code that is not of its stream."""
        special = [ABSENT] * (self.streams.count > 1) + [MASKED] * masked
        if problem := self.streams.problem(codes, special):
            raise ValueError(problem)
        return [self.mask_id if code < 0 else self.first_motion_id + int(code) for code in codes]

    def to_dict(self) -> dict:
        fields = {"first_motion_id": self.first_motion_id, "codebook_size": self.codebook_size,
                  "participants": list(self.participants)}
        return fields if self.streams == Streams.one(self.codebook_size) else fields | {
            "streams": self.streams.to_dict()}

    @classmethod
    def from_dict(cls, fields: dict) -> "MotionVocabulary":
        streams = Streams.from_dict(fields["streams"]) if "streams" in fields else None
        return cls(fields["first_motion_id"], fields["codebook_size"], tuple(fields["participants"]), streams)


@dataclass(frozen=True)
class TurnMarkers:
    """The base model's turn markers as ids: before the user's turn, between it and the answer, after a text answer."""

    user: tuple[int, ...]
    assistant: tuple[int, ...]
    text_end: int


def turn_markers(tokenizer) -> TurnMarkers:
    """The markers in the tokenizer's chat template; a base without one gets bos and a line break.

    They are taken from a second user turn, because a default system prompt comes before the first. Raises ValueError
    for a base with neither an end-of-turn nor an end-of-text token, and for a chat template whose dialogues the markers
    do not make again.
    """
    def ids(text: str) -> tuple[int, ...]:
        return tuple(tokenizer.encode(text, add_special_tokens=False))

    bos = tokenizer.bos_token or ""
    if tokenizer.chat_template is None:
        user, assistant, close = bos if _adds_bos(tokenizer) else "", "\n", tokenizer.eos_token or ""
    else:
        user, assistant, close, before = _turns_of_chat(tokenizer)
        if bos and before.startswith(bos) and not user.startswith(bos):
            user = bos + user
    end_ids = ids(close) or ids(tokenizer.eos_token or "")
    if not end_ids:
        raise ValueError("the base model has neither an end-of-turn nor an end-of-text token: change MODEL_NAME")
    return TurnMarkers(ids(user), ids(assistant), end_ids[0])


def _turns_of_chat(tokenizer) -> tuple[str, str, str, str]:
    """As text: what opens a user's turn, what leads from it to the reply, what closes the reply, and all that stands
    before the first user's text."""
    first, reply, second, other = "firstquestion", "firstreply", "secondquestion", "secondreply"
    turns = [{"role": role, "content": text} for role, text in (
        ("user", first), ("assistant", reply), ("user", second), ("assistant", other), ("user", first))]
    text = _chat(tokenizer, turns, add_generation_prompt=True)
    before, assistant = text.split(first)[0], text.split(first)[1].split(reply)[0]
    between = text.split(reply)[1].split(second)[0]
    end = close = _chat(tokenizer, turns[:2]).split(reply)[1]
    if not between.startswith(end):
        # The template goes on after a last reply, asked or not (Llama 3: the next reply's header; Phi 3: the end of the
        # text). A turn opens as the first one does, and what is left of the text between two turns closes the reply.
        pieces, opening = (_pieces(tokenizer, part) for part in (between, before))
        common = 0
        while common < min(len(pieces), len(opening)) and pieces[-1 - common] == opening[-1 - common]:
            common += 1
        close = "".join(pieces[:len(pieces) - common])
    user = between.removeprefix(close)
    dialogue = f"{user}{second}{assistant}{other}{close}{user}{first}{assistant}"
    if end and not close or not before.endswith(user) or not text.endswith(dialogue):
        raise ValueError(f"the chat template of the base model cannot be taken apart: a dialogue ends in "
                         f"{text.partition(reply)[2]!r}, and of its markers {user!r}, {assistant!r} and {close!r} it "
                         "would not: change MODEL_NAME")
    return user, assistant, close, before


def _chat(tokenizer, turns: list[dict], **options) -> str:
    """Raises ValueError where the chat template is broken, or refuses a plain dialogue."""
    from jinja2 import TemplateError  # here, as bases without a chat template do not need it

    try:
        return tokenizer.apply_chat_template(turns, tokenize=False, **options)
    except TemplateError as error:
        raise ValueError(f"the chat template of the base model cannot be rendered ({error}): change MODEL_NAME"
                         ) from error


def _pieces(tokenizer, text: str) -> list[str]:
    """The text, cut before and behind each added token."""
    added = sorted((token.content for token in tokenizer.added_tokens_decoder.values()), key=len, reverse=True)
    return [piece for piece in re.split(f"({'|'.join(map(re.escape, added))})", text) if piece]


def _adds_bos(tokenizer) -> bool:
    return tokenizer.bos_token_id is not None and tokenizer.bos_token_id in tokenizer("a")["input_ids"]


def text_start(tokenizer) -> tuple[int, ...]:
    """The ids that a tokenizer puts before a text of its own accord (Gemma, Llama 3), as the base was trained."""
    return (tokenizer.bos_token_id,) if _adds_bos(tokenizer) else ()


class PlainTextEncoder:
    """Caption to ids without control ids: "<MOT_END>" or "<|im_end|>" in a caption is encoded as plain characters.

    The tokenizer's own `split_special_tokens` handles only tokens that were added as special ones, so another tokenizer
    of the same model, without any added tokens, does it instead.
    """

    def __init__(self, tokenizer):
        from tokenizers import Tokenizer

        if not getattr(tokenizer, "is_fast", False):
            raise ValueError(f"{type(tokenizer).__name__} has no `tokenizers` backend: choose a base model with a "
                             "tokenizer.json")
        whole = tokenizer.backend_tokenizer
        self._tokenizer = Tokenizer(whole.model)  # shared, not copied
        for step in ("normalizer", "pre_tokenizer"):
            if (value := getattr(whole, step)) is not None:
                setattr(self._tokenizer, step, value)
        # Special ones only: Gemma lists pieces of plain text ("\n", double spaces) among its added tokens.
        self._control_ids = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
        self._cache: dict[str, tuple[int, ...]] = {}

    def __call__(self, text: str) -> tuple[int, ...]:
        ids = self._cache.get(text)
        if ids is None:
            if len(self._cache) >= MAX_CACHED_CAPTIONS:
                self._cache.clear()
            ids = self._cache[text] = self._checked(text, self._tokenizer.encode(text, add_special_tokens=False).ids)
        return ids

    def counts(self, texts: Sequence[str]) -> list[int]:
        """The number of ids of each text; all at once is several times faster than one by one."""
        encodings = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [len(self._checked(text, encoding.ids)) for text, encoding in zip(texts, encodings, strict=True)]

    def _checked(self, text: str, ids: list[int]) -> tuple[int, ...]:
        if control := sorted(self._control_ids.intersection(ids)):
            raise ValueError(f"caption {text!r} cannot be written without the control ids {control}: reword it")
        return tuple(ids)


@dataclass(frozen=True)
class Example:
    """ids (T,) and, for each, whether it is part of the answer, and so of the loss. shown (T,): the network's input,
    where it differs from ids."""

    ids: list[int] = field(repr=False)
    loss_mask: list[bool] = field(repr=False)
    shown: list[int] | None = field(default=None, repr=False)


class MotionTemplate:
    """Renders every task, for training and for decoding alike."""

    def __init__(self, tokenizer, vocabulary: MotionVocabulary):
        self.vocabulary = vocabulary
        self.encode_text = PlainTextEncoder(tokenizer)
        self.markers = turn_markers(tokenizer)

    def render(self, task: str, *, text: str | None = None, codes: Sequence[int] | None = None,
               noisy: Sequence[int] | None = None, before: Sequence[int] = (), participant_id: str | None = None,
               answer: bool = True) -> Example:
        """An example of `task`; with `answer=False` only the prompt, which decoding continues.

        text: caption (T2M, M2T's answer, denoising's prompt if not None). before: codes that T2M goes on from. codes
        (T * Q,): the motion, flat (in M2T's prompt, else the answer); those of an absent stream are shown as
        <MOTION_MASK>. noisy (T * Q,): the codes in denoising's prompt, some of them `MASKED`. Raises ValueError for
        codes outside the codebook and unknown participants.
        """
        vocabulary, markers = self.vocabulary, self.markers
        prompt = [*markers.user, vocabulary.task_id(task), vocabulary.participant_token_id(participant_id)]
        if task == "t2m":
            prompt += self.encode_text(text)
        elif task == "m2t":
            prompt += self._motion(codes)
        elif task == "denoise":
            prompt += [*self.encode_text(text or ""), *self._motion(noisy, masked=True)]
        prompt += markers.assistant
        if task != "m2t":
            prompt += [vocabulary.begin_id, *vocabulary.code_ids(before)]
        if not answer:
            return Example(prompt, [False] * len(prompt))
        if task == "m2t":
            target = [*self.encode_text(text), markers.text_end]
        else:
            target = [*vocabulary.code_ids(codes), vocabulary.end_id]
        # Of an absent stream nothing is learned, but that the motion goes on where a step begins.
        in_loss = [token != vocabulary.mask_id or place % vocabulary.streams.count == 0
                   for place, token in enumerate(target)]
        return Example(prompt + target, [False] * len(prompt) + in_loss)

    def length(self, task: str, text_tokens, motion_tokens):
        """The number of ids that `render` gives an example of `task`, whose caption has text_tokens ids and whose
        motion has motion_tokens codes of all streams; works for arrays as well. "denoise" has no caption, "edit" is
        denoising with one."""
        turns = len(self.markers.user) + 2 + len(self.markers.assistant)  # with the task and the participant
        motion = motion_tokens + 2  # from <MOT_BEGIN> to <MOT_END>
        return turns + {"lm": motion, "t2m": text_tokens + motion, "m2t": motion + text_tokens + 1,
                        "denoise": 2 * motion, "edit": text_tokens + 2 * motion}[task]

    def _motion(self, codes: Sequence[int], masked: bool = False) -> list[int]:
        return [self.vocabulary.begin_id, *self.vocabulary.code_ids(codes, masked), self.vocabulary.end_id]
