"""From requests to results: a job for each answer, decoding, and what is made of the tokens.

`Answerer` is the part of `MotionGenerator` that asks the network; generate.py has the ways to ask.
"""

import logging
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path

import torch

from model import ModelConfig
from motion_llm.dataset.lengths import LengthLimits, LengthModel
from motion_llm.decoding.alphabet import Alphabet
from motion_llm.decoding.jobs import JobMaker
from motion_llm.decoding.known_captions import KnownCaptions, Rewording
from motion_llm.decoding.loop import Answer, Decoder, Job
from motion_llm.decoding.request import (
    SAMPLING_SETTINGS,
    TASKS,
    GenerationError,
    MotionRequest,
    MotionResult,
    Sampling,
    check_size,
    checked_number,
)
from motion_llm.decoding.scoring import Scorer
from motion_llm.decoding.untrained_base import UntrainedBase
from motion_llm.network.cached import decoding_network, rows_at_once
from motion_llm.network.folder import read_motion_config
from motion_llm.network.known_bases import UnknownToFastLoading
from motion_llm.streams import ABSENT, MASKED
from templates import text_start

log = logging.getLogger(__name__)

SAMPLES_AT_ONCE = 4_096  # bounds the memory of a call with many


class Answerer:
    """Answers requests with a model.

    model_path: its folder. content: of its motion_config.json. model: what reads it (model.load_for_decoding), or, with
    own=False, the engine that decodes instead of the network. The one that compares captions is `judge`.
    """

    judge: "Answerer"

    def __init__(self, model_path: Path, content: Mapping, model, length_model: LengthModel, own: bool):
        self.model_path, self.tasks, self.settings = model_path, content["tasks"], content["settings"]
        self.template, self.tokenizer, self.vocabulary = model.template, model.tokenizer, model.vocabulary
        self.length_model = length_model
        known = KnownCaptions.load(model_path)
        rewording = None if known is None else Rewording(known, partial(self._base, content["model"]),
                                                         length_model.new_words)
        self._jobs = JobMaker(self.template, self.vocabulary, length_model, self.settings, rewording)
        self.decoder, self.vllm = None, None if own else model
        if own:
            self._make_decoder(model)

    def _base(self, model: Mapping) -> UntrainedBase | None:
        """The untrained base. model: its settings in motion_config.json."""
        try:
            return UntrainedBase(ModelConfig(**model), self.template.encode_text, text_start(self.tokenizer))
        except UnknownToFastLoading as reason:
            log.info("sentences in new words are asked as they are written, because of %s", reason)
            return None

    def _make_decoder(self, model) -> None:
        network = model.merged()
        self.motion_alphabet, self.text_alphabet = self._alphabets(network)
        decoding = decoding_network(network, self.settings["MAX_SEQ_LEN"])
        self.decoder = Decoder(decoding, self.settings["EVAL_BATCH"] or rows_at_once(decoding))
        self._scorer = Scorer(self.decoder, self.template, self.vocabulary, self.motion_alphabet, self.text_alphabet,
                              self.length_model, self.settings["MAX_SEQ_LEN"])

    def _alphabets(self, network) -> tuple[Alphabet, Alphabet]:
        """Of motions: the codes and <MOT_END>. Of texts: tokens that were not added, and the end of a turn."""
        head = network.get_output_embeddings()
        control = torch.tensor(sorted(self.tokenizer.added_tokens_decoder))
        plain = torch.ones(head.weight.shape[0], dtype=torch.bool)
        plain[control] = False
        plain[len(self.tokenizer):] = False  # the base's padding rows
        end = self.template.markers.text_end
        plain[end] = False
        text = torch.cat([plain.nonzero()[:, 0], torch.tensor([end])]).to(network.device)
        return Alphabet.of_motion(network, self.vocabulary), Alphabet.of_head(network, text)

    # ---- answers

    def answer(self, requests: MotionRequest | Sequence[MotionRequest], seed: int | None = None) -> list[MotionResult]:
        """A result for each sample of each request, in their order.

        The same seed gives the same answers to the same requests; without a seed a new one is drawn and logged. Raises
        GenerationError or ValueError for a request that cannot be answered, before anything is decoded.
        """
        return list(self.answers(requests, seed))

    def answers(self, requests: MotionRequest | Sequence[MotionRequest], seed: int | None = None
                ) -> Iterator[MotionResult]:
        """As `answer`, but each result comes as soon as it and those before it are decoded, and few are in memory at
        once. Raises as `answer`, before the first result is asked for."""
        requests = [requests] if isinstance(requests, MotionRequest) else requests
        return self._answers_to([self._jobs.resolved(request) for request in requests], self._seed(seed))

    def _answers_to(self, requests: Sequence[MotionRequest], seed: int) -> Iterator[MotionResult]:
        """requests: resolved."""
        jobs = [self._job(request, (seed, index, 0)) for index, request in enumerate(requests)]
        check_size(requests, [job.limits.max_tokens for job, _ in jobs])
        samples = ((index, sample) for index, request in enumerate(requests) for sample in range(request.num_samples))
        return self._answers(requests, jobs, samples, seed)

    def _answers(self, requests, jobs: list[tuple[Job, LengthLimits | None]], samples: Iterator[tuple[int, int]],
                 seed: int) -> Iterator[MotionResult]:
        """jobs: of each request. samples: (request, sample) in the order of the results; motions are decoded best_of
        times each."""
        while part := list(islice(samples, SAMPLES_AT_ONCE)):
            tries = [(index, replace(jobs[index][0], random_key=(seed, index, sample * requests[index].tries + i)))
                     for index, sample in part for i in range(requests[index].tries)]
            decoded = self._decode(requests, jobs, tries, seed)
            finished: dict[int, MotionResult] = {}
            start = 0
            for index, _ in part:
                places = range(start, start := start + requests[index].tries)
                while not all(place in finished for place in places):
                    finished.update([next(decoded)])
                yield self._best([finished.pop(place) for place in places], requests[index])

    def _decode(self, requests, jobs, tries: list[tuple[int, Job]], seed: int) -> Iterator[tuple[int, MotionResult]]:
        """(place in tries, its result), in the order in which they end. tries: (request, job)."""
        for is_text in (False, True):
            places = [place for place, (index, _) in enumerate(tries) if (requests[index].task == "m2t") == is_text]
            members = [tries[place][1] for place in places]
            if self.vllm is not None:
                codes = self.vllm.decode(members, [job.sampling for job in members], seed)
                answers = ((i, Answer(answer, None)) for i, answer in enumerate(codes))
            else:
                answers = self.decoder.answers(members, self.text_alphabet if is_text else self.motion_alphabet)
            for i, answer in answers:
                index = tries[places[i]][0]
                request, limits = requests[index], jobs[index][1]
                yield places[i], (self._as_text(request, answer) if is_text else
                                  self._as_motion(request, answer, limits))

    # ---- from a request to a job

    @staticmethod
    def _seed(seed: int | None) -> int:
        if seed is None:
            seed = secrets.randbits(32)
            log.info("seed %d", seed)
        return checked_number("seed", seed, 0, 2**63 - 1, whole=True)

    def _sampling(self, request: MotionRequest) -> Sampling:
        values = {name: getattr(request, name) for name in SAMPLING_SETTINGS}
        if request.task == "m2t":
            values["end_logit_slope"] = 0.0  # the slope is for the lengths of motions
        if request.text is None:
            values["guidance"] = 1.0
        settings = {"GEN_GUIDANCE": 1.0} | self.settings  # folders from before guidance lack it
        sampling = Sampling(*(settings[SAMPLING_SETTINGS[name]] if value is None else value
                              for name, value in values.items()))
        if sampling.guidance != 1:
            self._require_decoder("guidance")
            edits = request.task not in ("t2m", "continue")
            if settings["EDIT_CAPTIONS"] == 1 if edits else not settings.get("CAPTION_DROPOUT"):
                advice = "EDIT_CAPTIONS 0.5" if edits else "CAPTION_DROPOUT 0.1"
                raise GenerationError(f"guidance is {sampling.guidance:g}, but {self.model_path} was trained with "
                                      f"every caption and does not know motion without one: train with {advice}, or "
                                      "leave guidance at 1")
        return sampling

    def _require_decoder(self, feature: str) -> None:
        if self.decoder is None:
            raise GenerationError(f"vLLM answers text to motion alone, not {feature}: use a stage's folder, without "
                                  "engine=\"vllm\"")

    def _require_task(self, task: str) -> None:
        if task in self.tasks:
            return
        folders = []
        for path in sorted(self.model_path.resolve().parent.glob("*/motion_config.json")):
            if task in read_motion_config(path.parent)["tasks"]:
                folders.append(str(self.model_path.parent / path.parent.name))
        advice = f"use {' or '.join(folders)}" if folders else "no folder beside it was"
        raise GenerationError(f"{self.model_path} was trained for {', '.join(self.tasks)}, not for {TASKS[task]} "
                              f"({task}); {advice}")

    def _job(self, request: MotionRequest, key: tuple[int, ...]) -> tuple[Job, LengthLimits | None]:
        task = request.task
        if request.text is not None:  # to continue with a caption is text to motion
            task = "t2m" if task in ("t2m", "continue") else "edit"
        if request.task != "t2m" or request.best_of > 1:
            self._require_decoder(request.task if request.task != "t2m" else "best_of")
        if request.before is not None:
            self._require_decoder("going on from a motion")
        if request.streams is not None:
            self._require_decoder("a part of the streams")
        self._require_task(task)
        return self._jobs.of(request, self._sampling(request), key)

    # ---- from an answer to a result

    def _as_motion(self, request: MotionRequest, answer: Answer, limits: LengthLimits) -> MotionResult:
        codes = tuple(answer.indices)
        fixed = [] if request.task == "denoise" and not request.keep_given else [
            *enumerate(request.motion or ()), *enumerate(request.end or (), len(codes) - len(request.end or ()))]
        streams = self.vocabulary.streams
        if not (limits.min_tokens * streams.count <= len(codes) <= limits.max_tokens * streams.count
                and streams.problem(codes, [ABSENT] * (streams.count > 1)) is None
                and all(code in (MASKED, codes[position]) for position, code in fixed)):
            raise RuntimeError(f"decoding broke its own limits ({limits}): {codes}")
        return MotionResult(streams.written(codes), request.text, limits, answer.log_probability,
                            taken_for=self._jobs.taken_for(request), codes=codes)

    def _as_text(self, request: MotionRequest, answer: Answer) -> MotionResult:
        text = self.tokenizer.decode(self.text_alphabet.ids[answer.indices].tolist()).strip()
        codes = tuple(request.motion)
        return MotionResult(self.vocabulary.streams.written(codes), text, None, answer.log_probability, codes=codes)

    def _best(self, results: Sequence[MotionResult], request: MotionRequest) -> MotionResult:
        """The best of best_of results, by `caption_scores`, or by `Scorer.ranked_captions`."""
        if request.best_of == 1:
            return results[0]
        if request.task == "m2t":
            person = None if request.participant_id is None else str(request.participant_id)
            (said,) = results
            (text, share), *others = self._scorer.ranked_captions(said.codes, said.text, request.best_of, person,
                                                                  self.judge._scorer)
            return replace(said, text=text, log_probability=said.log_probability if text == said.text else None,
                           score=share, others=tuple(others))
        scores = self.caption_scores(results, request.participant_id)
        return max((replace(result, score=score) for result, score in zip(results, scores, strict=True)),
                   key=lambda result: result.score)

    # ---- scoring

    def caption_scores(self, results: Sequence[MotionResult], participant_id: str | int | None = None) -> list[float]:
        """How well each result's motion fits its caption, in nats; see scoring.py."""
        return self._scorer.caption_scores(results, None if participant_id is None else str(participant_id))

    def motion_log_probabilities(self, rows: Sequence[Mapping]) -> list[float]:
        """The log-probability of each row's motion given its caption, in nats, <MOT_END> included.

        rows: {"text_query", "codes" (flat), "participant_id"} each. Raises ValueError for a code outside the codebook.
        """
        self._require_decoder("likelihoods")
        return self._scorer.motions(rows)

    def motion_nll(self, rows: Sequence[Mapping]) -> tuple[float, int]:
        """The mean negative log-likelihood of the rows' motions per token, in nats, and the number of tokens."""
        tokens = sum(len(row["codes"]) + 1 for row in rows)
        return -sum(self.motion_log_probabilities(rows)) / tokens, tokens
