"""From a request to a decoding job: its prompt, the tokens of the answer that are fixed, and its length limits."""

import logging
import math
from collections.abc import Mapping
from dataclasses import replace

from motion_llm.dataset.lengths import LengthLimits, LengthModel
from motion_llm.decoding.known_captions import Rewording
from motion_llm.decoding.loop import Job
from motion_llm.decoding.request import (
    MOTIONS,
    WITH_LOST_TOKENS,
    GenerationError,
    MotionRequest,
    Sampling,
    with_fields,
)
from motion_llm.streams import ABSENT, LOST, MASKED, OBJECT, TEXT, StreamError
from templates import MotionTemplate, MotionVocabulary

log = logging.getLogger(__name__)

JOINING, JOINING_SECONDS = 6, 0.8  # tokens, or steps, that may not jump behind the motion before (docs/scenes.md); the
# seconds count where the tokens' rate is known
MOST_TEXT_TOKENS = 64  # of a caption that is generated


class JobMaker:
    """Makes jobs for one model. settings: MAX_SEQ_LEN and TOKENS_PER_SECOND are used. rewording: puts sentences into
    trained words, None for a model that does not know its captions."""

    def __init__(self, template: MotionTemplate, vocabulary: MotionVocabulary, length_model: LengthModel,
                 settings: Mapping, rewording: Rewording | None = None):
        self.template = template
        self.vocabulary = vocabulary
        self.length_model = length_model
        self.settings = settings
        self.rewording = rewording
        self.streams = vocabulary.streams

    def taken_for(self, request: MotionRequest) -> str | None:
        """The training caption that a request's sentence is asked as; None where it is asked as it is written."""
        if self.rewording is None or request.text is None or request.as_written:
            return None
        return self.rewording.of(request.text)

    def resolved(self, request: MotionRequest) -> MotionRequest:
        """The request with its motions as flat codes, of the model's streams. Raises GenerationError."""
        changes = {}
        for name in MOTIONS:
            value = getattr(request, name)
            if value is None or self.streams.form == TEXT and isinstance(value, tuple):
                continue  # with one stream, the request has read its codes already
            try:
                changes[name] = self.streams.read(value, lost=request.task in WITH_LOST_TOKENS)
            except StreamError as error:
                raise GenerationError(str(error)) from None
        if request.streams is not None:
            self._check_streams(request)
        return with_fields(request, **changes)

    def _check_streams(self, request: MotionRequest) -> None:
        if self.streams.form != OBJECT:
            raise GenerationError(f"streams {', '.join(request.streams)} were asked for; the model's motions have no "
                                  "named streams to choose from")
        if unknown := [name for name in request.streams if name not in self.streams.names]:
            raise GenerationError(f"stream {unknown[0][:60]!r} is unknown; there are {', '.join(self.streams.names)}")

    def of(self, request: MotionRequest, sampling: Sampling, key: tuple[int, ...]) -> tuple[Job, LengthLimits | None]:
        """The job, and a motion's length limits with their source (None for m2t). key: the job's random key.

        Raises GenerationError, and ValueError for codes and participants that the model does not know.
        """
        participant_id = None if request.participant_id is None else str(request.participant_id)
        if request.task == "m2t":
            return self._motion_to_text(request, participant_id, sampling, key)
        if request.task == "t2m" or request.task == "continue" and request.text is not None:
            return self._text_to_motion(request, participant_id, sampling, key)
        return self._filling_in(request, participant_id, sampling, key)

    def _prompt(self, request: MotionRequest, text: str) -> list[int]:
        """The prompt of text to motion, with the codes before the answer."""
        participant_id = None if request.participant_id is None else str(request.participant_id)
        return self.template.render("t2m", text=text, before=request.before or (), participant_id=participant_id,
                                    answer=False).ids

    def _joining(self, request: MotionRequest) -> int:
        """The first tokens, or steps, that may not jump; 0 for a model that does not know motion without a caption."""
        if not request.before or not self.settings.get("CAPTION_DROPOUT"):
            return 0
        rate = self.settings.get("TOKENS_PER_SECOND")
        return JOINING if rate is None else max(1, round(JOINING_SECONDS * rate))

    def room(self, request: MotionRequest) -> int:
        """The most tokens, or steps, that an answer of text to motion can have. Raises GenerationError without any."""
        return self._room(len(self._prompt(request, self.taken_for(request) or request.text)), 1)

    def _room(self, prompt_length: int, least: int) -> int:
        """The tokens that a prompt leaves for an answer. Raises GenerationError where these are fewer than `least`."""
        positions = self.settings["MAX_SEQ_LEN"]
        room = (positions - prompt_length - 1) // self.streams.count
        if room < least:
            raise GenerationError(f"the prompt takes {prompt_length} of the model's {positions} positions "
                                  f"(MAX_SEQ_LEN) and leaves {max(room, 0)} for motion, {least} or more are needed: "
                                  "shorten it")
        return room

    def _text_to_motion(self, request: MotionRequest, participant_id: str | None, sampling, key):
        text = self.taken_for(request) or request.text
        prompt = self._prompt(request, text)
        start, in_step = request.motion or (), self.streams.count
        self.vocabulary.code_ids(start)
        learned = self.length_model.limits(text, participant_id)
        if start:  # at least one token must follow
            low = len(start) // in_step + 1
            learned = LengthLimits(max(learned.min_tokens, low), max(learned.soft_target, low),
                                   max(learned.max_tokens, low), learned.source)
        limits = self._limits(request, learned, len(prompt), len(start) // in_step + 1)
        log.debug("%r: %d to %d tokens, about %g, from %s", text, limits.min_tokens, limits.max_tokens,
                  limits.soft_target, limits.source)
        codes = self._allowed_codes(request, text)
        joining = self._joining(request) * in_step
        unconditional = self._prompt(request, "") if sampling.guidance != 1 or joining else ()
        step = self._rest_of_step(request, start)
        fixed = (*start, *step * (limits.max_tokens - len(start) // in_step)) if any(step) else start
        return Job(prompt, limits.times(in_step), self._in_codes(sampling), fixed, codes, key, unconditional,
                   joining), limits

    def _rest_of_step(self, request: MotionRequest, start: tuple[int, ...]) -> tuple[int, ...]:
        """A step behind the start of an answer: ABSENT for the streams that it does not have; () if it has all."""
        absent = [bool(start) and start[stream] == ABSENT or request.streams is not None and name not in request.streams
                  for stream, name in enumerate(self.streams.names)]
        return tuple(ABSENT if is_absent else MASKED for is_absent in absent) if any(absent) else ()

    def _in_codes(self, sampling: Sampling) -> Sampling:
        """The sampling with the slope of the end a code, where that of a request is a step."""
        return sampling if self.streams.count == 1 else replace(sampling, slope=sampling.slope / self.streams.count)

    def _allowed_codes(self, request: MotionRequest, text: str | None) -> tuple[int, ...] | None:
        """Those that the answer may use; None for all."""
        if not request.per_prompt_vocab or text is None:
            return None
        codes = self._codes_of_caption(text)
        if codes is None:
            log.warning("per_prompt_vocab: %r was never seen in training, or is one of too many captions to keep their "
                        "codes, so all %d codes are allowed", text, self.vocabulary.codebook_size)
        return codes

    def _codes_of_caption(self, text: str) -> tuple[int, ...] | None:
        """The codes that the caption's clips have, all of a stream that they lack; None for an unseen caption."""
        codes = self.length_model.codes(text)
        if codes is None or self.streams.count == 1:
            return codes
        own = (self.streams.codes_of(stream) for stream in range(self.streams.count))
        return tuple(code for stream in own for code in sorted(set(stream) & set(codes)) or stream)

    def _motion_to_text(self, request: MotionRequest, participant_id: str | None, sampling, key):
        prompt = self.template.render("m2t", codes=request.motion, participant_id=participant_id, answer=False).ids
        positions = self.settings["MAX_SEQ_LEN"]
        if len(prompt) + MOST_TEXT_TOKENS > positions:
            raise GenerationError(f"{self._tokens(len(request.motion))} and {MOST_TEXT_TOKENS} for the caption do not "
                                  f"fit the model's {positions} positions (MAX_SEQ_LEN)")
        limits = LengthLimits(1, MOST_TEXT_TOKENS, MOST_TEXT_TOKENS, "text")
        return Job(prompt, limits, sampling, random_key=key), None

    def _filling_in(self, request: MotionRequest, participant_id: str | None, sampling, key):
        """Denoise, edit, inbetween and continue: the length is fixed, and the prompt shows which tokens are lost."""
        in_step = self.streams.count
        length = self._length_of_filling_in(request)
        start, end = request.motion, request.end or ()
        given = (len(start) + len(end)) // in_step
        if given >= length and request.task not in WITH_LOST_TOKENS:
            raise GenerationError(f"{given} tokens are given and the answer has {length}: nothing is left to fill in")
        noisy = (*start, *(self._rest_of_step(request, start) or (MASKED,) * in_step) * (length - given), *end)
        text = request.text and (self.taken_for(request) or request.text)
        if text is not None and MASKED not in noisy:
            raise GenerationError(f"{request.task} was given no lost token: write {LOST} for those that the sentence "
                                  "is about, or give their seconds (--span)")

        def prompt_of(text: str | None) -> list[int]:
            return self.template.render("denoise", text=text, noisy=noisy, participant_id=participant_id,
                                        answer=False).ids

        prompt, unconditional = prompt_of(text), prompt_of(None) if sampling.guidance != 1 else ()
        positions = len(prompt) + len(noisy) + 1
        if positions > self.settings["MAX_SEQ_LEN"]:
            raise GenerationError(f"{self._tokens(len(noisy))}, in the prompt and in the answer, take {positions} "
                                  f"positions, the model has {self.settings['MAX_SEQ_LEN']} (MAX_SEQ_LEN)")
        limits = LengthLimits(length, length, length, "the question")
        fixed = noisy if request.keep_given or request.task != "denoise" else tuple(
            ABSENT if code == ABSENT else MASKED for code in noisy) if ABSENT in noisy else ()
        return Job(prompt, limits.times(in_step), self._in_codes(sampling), fixed, self._allowed_codes(request, text),
                   key, unconditional), limits

    def _tokens(self, codes: int) -> str:
        if self.streams.count == 1:
            return f"{codes} motion tokens"
        return f"{codes // self.streams.count} steps of {self.streams.count} motion tokens"

    def _length_of_filling_in(self, request: MotionRequest) -> int:
        if request.task in WITH_LOST_TOKENS:
            return len(request.motion) // self.streams.count
        exact = self._exact_length(request)
        if exact is not None:
            return exact
        # The prompt shows how many tokens are lost, so one length has to be chosen.
        length = max(round(self.length_model.overall.median), len(request.motion) // self.streams.count + 1,
                     request.min_tokens or 1)
        most = min(request.max_tokens or math.inf, request.max_new_tokens or math.inf)
        return int(min(length, most))

    def _exact_length(self, request: MotionRequest) -> int | None:
        if request.seconds is None:
            return request.tokens
        rate = self.settings.get("TOKENS_PER_SECOND")
        if rate is None:
            raise GenerationError("seconds was given, but the model does not know its tokens' rate: set "
                                  "TOKENS_PER_SECOND in config.py and start the training command again, or give tokens")
        return max(1, round(request.seconds * rate))

    def _limits(self, request: MotionRequest, learned: LengthLimits, prompt_length: int, least: int) -> LengthLimits:
        """The requested limits exactly, else the learned ones. least: the fewest tokens that the answer can have."""
        positions, room = self.settings["MAX_SEQ_LEN"], self._room(prompt_length, least)
        exact = self._exact_length(request)
        requested = [value for value in (exact, request.min_tokens, request.max_tokens) if value is not None]
        if requested and max(requested) > room:
            raise GenerationError(f"{max(requested)} motion tokens were asked for; the prompt takes {prompt_length} of "
                                  f"the model's {positions} positions (MAX_SEQ_LEN) and leaves {room}")
        if requested and (exact or request.max_tokens or least) < least:
            raise GenerationError(f"{exact or request.max_tokens} motion tokens were asked for, {least} or more are "
                                  "needed: the given tokens are part of the answer")
        if exact is not None:
            source = f"{exact} tokens, as asked"
            if request.seconds is not None:
                source = f"{request.seconds:g} s at {self.settings['TOKENS_PER_SECOND']:g} tokens a second"
            return LengthLimits(exact, exact, exact, source)
        cap = request.max_new_tokens
        if cap is not None and cap > room:
            log.warning("max_new_tokens %d lowered to %d: MAX_SEQ_LEN is %d and the prompt takes %d", cap, room,
                        positions, prompt_length)
        if cap is not None and cap < least:
            raise GenerationError(f"max_new_tokens is {cap}, {least} or more are needed: the given tokens are part of "
                                  "the answer")
        longest = request.max_tokens or max(learned.max_tokens, request.min_tokens or 0)
        longest = min(longest, room, room if cap is None else cap)
        if request.min_tokens is not None and request.min_tokens > longest:
            raise GenerationError(f"min_tokens is {request.min_tokens}, more than max_new_tokens, {cap}")
        shortest = request.min_tokens or min(learned.min_tokens, longest)
        target = min(max(learned.soft_target, shortest), longest)
        return LengthLimits(shortest, target, longest, learned.source)
