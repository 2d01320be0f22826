"""From a sentence to motion: `MotionGenerator` decodes a trained model so that every answer is valid.

Valid means: only codes of the codebook, at least one, and as many as the length limits of the caption allow. The model
is trained under a softmax over the codes and <MOT_END> alone, so it must be decoded under the same restriction.
"""

import contextlib
import logging
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from data import caption_key, raise_on_errors, read_rows
from lengths import LengthLimits, LengthModel
from model import MotionLanguageModel, load, start_unsloth
from model_folder import read_motion_config
from templates import MotionVocabulary

log = logging.getLogger(__name__)

MOST_END_SHIFT = 10.0  # logits; beyond it an end is as good as forced or forbidden
MOST_TEXT_TOKENS = 64  # of a caption
LEAST_TEMPERATURE = 0.01  # below it the scores divided by it overflow, and the likeliest code is certain anyway


class GenerationError(ValueError):
    """A request that cannot be answered; the text says what was asked and what is possible."""


class LengthAwareMotionLogitsProcessor(LogitsProcessor):
    """Leaves the codes and <MOT_END>, no end before min_tokens, nothing but the end at max_tokens.

    Around soft_target the end's logit is shifted by slope * (tokens so far - soft_target), at most MOST_END_SHIFT
    either way: discouraged before, encouraged after. Slope 0 leaves the model's own distribution.

    limits: one LengthLimits a row. prompt_length: positions before the answer, the same for all rows (padded on the
    left). allowed_codes (B, K) bool: the codes a row may use, at least one each; None for all.
    """

    def __init__(self, vocabulary: MotionVocabulary, limits: Sequence[LengthLimits], prompt_length: int, slope: float,
                 allowed_codes: torch.Tensor | None = None):
        for limit in limits:
            if not 1 <= limit.min_tokens <= limit.max_tokens:
                raise GenerationError(f"length limits {limit.min_tokens} to {limit.max_tokens} tokens: expected "
                                      "1 <= min_tokens <= max_tokens")
        if allowed_codes is not None and not allowed_codes.any(dim=1).all():
            raise GenerationError("a row of allowed_codes allows no code")
        self.vocabulary = vocabulary
        self.prompt_length = prompt_length
        self.slope = slope
        self.allowed_codes = allowed_codes
        self.shortest = torch.tensor([limit.min_tokens for limit in limits])
        self.target = torch.tensor([float(limit.soft_target) for limit in limits])
        self.longest = torch.tensor([limit.max_tokens for limit in limits])

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """input_ids (B, T), scores (B, V) -> scores (B, V). Raises GenerationError for a score that is no number."""
        first, end = self.vocabulary.first_motion_id, self.vocabulary.end_id
        answer = scores[:, first:end + 1].float()  # (B, K + 1)
        if torch.isnan(answer).any():
            row = int(torch.isnan(answer).any(dim=1).nonzero()[0])
            raise GenerationError(f"the model's scores are no numbers (NaN) for row {row} at token "
                                  f"{input_ids.shape[1] - self.prompt_length}: its weights are broken, or DTYPE "
                                  "float16 overflows (try float32)")
        # An infinite score would leave a row without any choice; a huge one means the same and does not.
        largest = torch.finfo(torch.float32).max / 4
        answer = answer.clamp(-largest, largest)
        tokens = input_ids.shape[1] - self.prompt_length
        shift = (self.slope * (tokens - self.target)).clamp(-MOST_END_SHIFT, MOST_END_SHIFT)
        answer[:, -1] += shift.to(answer.device)
        if self.allowed_codes is not None:
            answer[:, :-1].masked_fill_(~self.allowed_codes.to(answer.device), -torch.inf)
        answer[:, -1].masked_fill_((tokens < self.shortest).to(answer.device), -torch.inf)
        at_most = (tokens >= self.longest).to(answer.device)
        answer[:, :-1].masked_fill_(at_most[:, None], -torch.inf)
        restricted = torch.full_like(scores, -torch.inf, dtype=torch.float32)
        restricted[:, first:end + 1] = answer
        return restricted


class PlainTextLogitsProcessor(LogitsProcessor):
    """Text answers are plain words: no added token but the end of the turn, and at least one word."""

    def __init__(self, control_ids: Sequence[int], end_id: int, prompt_length: int):
        self.suppressed = torch.tensor(sorted(set(control_ids) - {end_id}))
        self.end_id = end_id
        self.prompt_length = prompt_length

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        scores = scores.index_fill(1, self.suppressed.to(scores.device), -torch.inf)
        if input_ids.shape[1] == self.prompt_length:
            scores[:, self.end_id] = -torch.inf
        return scores


def _checked(name: str, value: float, low: float, high: float, whole: bool = False) -> float:
    """The value, if it is a number from low to high. Raises GenerationError naming it."""
    kinds = (int,) if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not low <= value <= high:
        kind = "an integer" if whole else "a number"
        raise GenerationError(f"{name} is {value!r}, expected {kind} from {low:g} to {high:g}")
    return value


@dataclass(frozen=True)
class Sampling:
    """temperature 0 (and less than LEAST_TEMPERATURE) is greedy; top_p 1 and top_k 0 are off; slope as in the logits
    processor. Raises GenerationError for a value out of its range."""

    temperature: float
    top_p: float
    top_k: int
    slope: float

    def __post_init__(self):
        _checked("temperature", self.temperature, 0, 100)
        _checked("top_p", self.top_p, 1e-9, 1)
        _checked("top_k", self.top_k, 0, 1_000_000, whole=True)
        _checked("end_logit_slope", self.slope, 0, 1_000)

    def config(self, max_new_tokens: int, end_id: int, pad_id: int) -> GenerationConfig:
        common = dict(max_new_tokens=max_new_tokens, eos_token_id=end_id, pad_token_id=pad_id, use_cache=True)
        if self.temperature < LEAST_TEMPERATURE:
            return GenerationConfig(do_sample=False, **common)
        return GenerationConfig(do_sample=True, temperature=float(self.temperature), top_p=float(self.top_p),
                                top_k=self.top_k, **common)


@dataclass(frozen=True)
class _Request:
    """One clip to be made."""

    prompt_ids: list[int]
    limits: LengthLimits
    codes: tuple[int, ...] | None  # those allowed; None for all


class MotionGenerator:
    """A trained model, ready to answer.

    model_path: a stage's folder. dataset_path: a dataset whose lengths and per-prompt codes are used instead of the
    training clips'. device: "cpu", "cuda" or None for what there is. Raises ModelError, DataError, GenerationError.
    """

    def __init__(self, model_path: str | Path, dataset_path: str | Path | None = None, device: str | None = None):
        content = read_motion_config(model_path)
        self.tasks = content["tasks"]
        self.model_path = Path(model_path)
        self.settings = content["settings"]
        self.model: MotionLanguageModel = load(model_path, device)
        self.vocabulary = self.model.vocabulary
        if dataset_path is None:
            self.length_model = LengthModel.from_dict(content["length_model"], caption_key)
        else:
            self.length_model = self._lengths_of(dataset_path)
        self.network = start_unsloth().for_inference(self.model.merged())
        # What the base's own configuration would add (penalties, sampling) is not what the settings say.
        self.network.generation_config = GenerationConfig()

    def _lengths_of(self, dataset_path: str | Path) -> LengthModel:
        report = read_rows(dataset_path, self.settings["MAX_SEQ_LEN"], self.vocabulary.codebook_size, denoise=False)
        raise_on_errors(report)
        return LengthModel.fit(report.rows.chunks, caption_key)

    def _require(self, task: str, what: str) -> None:
        if task in self.tasks:
            return
        able = []
        for path in sorted(self.model_path.resolve().parent.glob("*/motion_config.json")):
            if task in read_motion_config(path.parent)["tasks"]:
                able.append(str(self.model_path.parent / path.parent.name))
        there = f"use {' or '.join(able)}" if able else "no folder beside it was"
        raise GenerationError(f"{self.model_path} was trained for {', '.join(self.tasks)}, not for {what} ({task}); "
                              f"{there}")

    def generate(self, prompt: str, participant_id: str | int | None = None, max_new_tokens: int | None = None,
                 temperature: float | None = None, per_prompt_vocab: bool = False, top_p: float | None = None,
                 top_k: int | None = None, end_logit_slope: float | None = None, seed: int | None = None) -> str:
        """A motion for a caption, as codes in the dataset's format: "42 18 91 ...".

        What is None comes from the model's folder; see `generate_batch` for the rest.
        """
        return self.generate_batch([prompt], [participant_id], max_new_tokens, temperature, per_prompt_vocab, top_p,
                                   top_k, end_logit_slope, seed)[0]

    def generate_batch(self, prompts: Sequence[str], participant_ids: Sequence[str | int | None] | None = None,
                       max_new_tokens: int | None = None, temperature: float | None = None,
                       per_prompt_vocab: bool = False, top_p: float | None = None, top_k: int | None = None,
                       end_logit_slope: float | None = None, seed: int | None = None, num_samples: int = 1,
                       ) -> list[str]:
        """Motions for captions, decoded together; in their order, the samples of a caption one after another.

        participant_ids: one for each prompt (None: nobody's manner). max_new_tokens: a cap on a clip's length, in
        motion tokens, lowered to what fits the model. per_prompt_vocab: only codes seen in training with that
        caption; all codes, with a warning, for a caption that was never seen. The same seed gives the same motions;
        without one a new one is drawn and logged.
        Raises GenerationError or ValueError for a request that cannot be answered.
        """
        self._require("t2m", "text to motion")
        _checked("num_samples", num_samples, 1, 1_000_000, whole=True)
        if seed is None:
            seed = secrets.randbits(32)
            log.info("seed %d", seed)
        _checked("seed", seed, 0, 2**63 - 1, whole=True)
        if isinstance(prompts, str):
            raise GenerationError("prompts is one text, expected a list of them: use generate() for one")
        if participant_ids is None:
            participant_ids = [None] * len(prompts)
        if len(participant_ids) != len(prompts):
            raise GenerationError(f"{len(prompts)} prompts but {len(participant_ids)} participants")
        sampling = self._sampling(temperature, top_p, top_k, end_logit_slope)
        requests = []
        for prompt, participant_id in zip(prompts, participant_ids, strict=True):
            requests += [self._request(prompt, participant_id, max_new_tokens, per_prompt_vocab)] * num_samples
        # Clips of like length are decoded together, so that few rows wait for a long one.
        order = sorted(range(len(requests)), key=lambda i: requests[i].limits.soft_target)
        motions: list[str] = [""] * len(requests)
        size = self.settings["EVAL_BATCH"]
        with _seeded(seed):
            for start in range(0, len(order), size):
                part = order[start:start + size]
                for place, codes in zip(part, self._decode([requests[i] for i in part], sampling), strict=True):
                    motions[place] = " ".join(map(str, codes))
        return motions

    def _sampling(self, temperature, top_p, top_k, end_logit_slope) -> Sampling:
        given = {"GEN_TEMPERATURE": temperature, "GEN_TOP_P": top_p, "GEN_TOP_K": top_k,
                 "GEN_END_LOGIT_SLOPE": end_logit_slope}
        return Sampling(*(self.settings[name] if value is None else value for name, value in given.items()))

    def _request(self, prompt: str, participant_id: str | int | None, max_new_tokens: int | None,
                 per_prompt_vocab: bool) -> _Request:
        if not isinstance(prompt, str) or not prompt.strip():
            raise GenerationError(f"the prompt is {prompt!r}, expected a sentence")
        try:
            prompt.encode()
        except UnicodeEncodeError as error:
            raise GenerationError(f"the prompt {prompt!r} holds half a character at {error.start}") from None
        if max_new_tokens is not None:
            _checked("max_new_tokens", max_new_tokens, 1, 1_000_000, whole=True)
        participant_id = None if participant_id is None else str(participant_id)
        prompt_ids = self.model.template.render("t2m", text=prompt, participant_id=participant_id, answer=False).ids
        limits = self.length_model.limits(prompt, participant_id)
        log.debug("%r: %d to %d tokens, about %g, from %s", prompt, limits.min_tokens, limits.max_tokens,
                  limits.soft_target, limits.source)
        codes = self.length_model.codes(prompt) if per_prompt_vocab else None
        if per_prompt_vocab and codes is None:
            log.warning("per_prompt_vocab: %r was never seen in training, or is one of too many captions to keep their "
                        "codes, so all %d codes are allowed", prompt, self.vocabulary.codebook_size)
        return _Request(prompt_ids, self._fit(limits, len(prompt_ids), max_new_tokens), codes)

    def _fit(self, limits: LengthLimits, prompt_length: int, cap: int | None) -> LengthLimits:
        """The limits lowered to the caller's cap and to the positions that the prompt and <MOT_END> leave."""
        positions = self.settings["MAX_SEQ_LEN"]
        room = positions - prompt_length - 1
        if room < 1:
            raise GenerationError(f"the prompt takes {prompt_length} of the model's {positions} positions "
                                  "(MAX_SEQ_LEN) and leaves none for motion: shorten it")
        if cap is not None and cap > room:
            log.warning("max_new_tokens %d lowered to %d: MAX_SEQ_LEN is %d and the prompt takes %d", cap, room,
                     positions, prompt_length)
        longest = min(limits.max_tokens, room, room if cap is None else cap)
        return LengthLimits(min(limits.min_tokens, longest), min(limits.soft_target, longest), longest, limits.source)

    def _decode(self, requests: Sequence[_Request], sampling: Sampling) -> list[list[int]]:
        """Codes for each request, decoded as one batch."""
        input_ids, attention_mask = self._left_padded([request.prompt_ids for request in requests])
        limits = [request.limits for request in requests]
        processor = LengthAwareMotionLogitsProcessor(self.vocabulary, limits, input_ids.shape[1], sampling.slope,
                                                     self._allowed_codes(requests))
        longest = max(limit.max_tokens for limit in limits)
        config = sampling.config(longest + 1, self.vocabulary.end_id, self.model.pad_id)
        answers = self._run(input_ids, attention_mask, config, processor)
        return [self._codes(ids, limit) for ids, limit in zip(answers, limits, strict=True)]

    def _run(self, input_ids, attention_mask, config: GenerationConfig, processor: LogitsProcessor) -> list[list[int]]:
        with torch.no_grad():
            output = self.network.generate(input_ids=input_ids, attention_mask=attention_mask, generation_config=config,
                                           logits_processor=LogitsProcessorList([processor]))
        return output[:, input_ids.shape[1]:].tolist()

    def _codes(self, ids: list[int], limits: LengthLimits) -> list[int]:
        codes = [i - self.vocabulary.first_motion_id for i in ids[:ids.index(self.vocabulary.end_id)]]
        if not (limits.min_tokens <= len(codes) <= limits.max_tokens
                and all(0 <= code < self.vocabulary.codebook_size for code in codes)):
            raise RuntimeError(f"decoding broke its own limits ({limits}): {codes}")
        return codes

    def _left_padded(self, prompts: Sequence[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        width = max(len(ids) for ids in prompts)
        input_ids = torch.full((len(prompts), width), self.model.pad_id)
        attention_mask = torch.zeros_like(input_ids)
        for i, ids in enumerate(prompts):
            input_ids[i, width - len(ids):] = torch.tensor(ids)
            attention_mask[i, width - len(ids):] = 1
        return input_ids.to(self.model.device), attention_mask.to(self.model.device)

    def _allowed_codes(self, requests: Sequence[_Request]) -> torch.Tensor | None:
        if all(request.codes is None for request in requests):
            return None
        allowed = torch.ones(len(requests), self.vocabulary.codebook_size, dtype=torch.bool)
        for i, request in enumerate(requests):
            if request.codes is not None:
                allowed[i] = False
                allowed[i, list(request.codes)] = True
        return allowed

    def caption(self, motion_tokens: str | Sequence[int], participant_id: str | int | None = None) -> str:
        """A caption for a motion, the likeliest words one after another. Raises GenerationError, ValueError."""
        self._require("m2t", "motion to text")
        tokens = motion_tokens.split() if isinstance(motion_tokens, str) else list(motion_tokens)
        if not tokens or not all(str(token).isdecimal() for token in tokens):
            raise GenerationError(f"motion_tokens is {motion_tokens!r}, expected codes such as \"42 18 91\"")
        codes = [int(token) for token in tokens]
        template = self.model.template
        participant_id = None if participant_id is None else str(participant_id)
        prompt = template.render("m2t", codes=codes, participant_id=participant_id, answer=False).ids
        positions = self.settings["MAX_SEQ_LEN"]
        if len(prompt) + MOST_TEXT_TOKENS > positions:
            raise GenerationError(f"{len(codes)} motion tokens and {MOST_TEXT_TOKENS} for the caption do not fit the "
                                  f"model's {positions} positions (MAX_SEQ_LEN)")
        input_ids, attention_mask = self._left_padded([prompt])
        end_id = template.markers.text_end
        config = Sampling(0, 1.0, 0, 0.0).config(MOST_TEXT_TOKENS, end_id, self.model.pad_id)
        processor = PlainTextLogitsProcessor(self.model.tokenizer.added_tokens_decoder, end_id, input_ids.shape[1])
        ids = self._run(input_ids, attention_mask, config, processor)[0]
        return self.model.tokenizer.decode(ids[:ids.index(end_id)] if end_id in ids else ids).strip()


@contextlib.contextmanager
def _seeded(seed: int):
    """Draw from `seed` inside, and leave the caller's random state as it was."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield
