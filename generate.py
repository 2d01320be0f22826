"""From a request to motion: `MotionGenerator` decodes a trained model so that every answer is valid.

Valid means: only codes of the codebook, at least one, and as many as the length limits of the request allow. The model
is trained under a softmax over the codes and <MOT_END> alone, so it is decoded under the same restriction.
"""

import logging
import secrets
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from data import read_rows
from model import load
from motion_llm.dataset.lengths import LengthLimits, LengthModel
from motion_llm.dataset.report import raise_on_errors
from motion_llm.dataset.rows import caption_key
from motion_llm.decoding.constraints import LengthAwareMotionLogitsProcessor
from motion_llm.decoding.jobs import JobMaker
from motion_llm.decoding.loop import Alphabet, Answer, Decoder, Job
from motion_llm.decoding.request import (
    TASKS,
    GenerationError,
    MotionRequest,
    MotionResult,
    Sampling,
    checked_number,
    parse_codes,
)
from motion_llm.motion.codec import MotionCodec
from motion_llm.network.cached import decoding_network
from motion_llm.network.folder import CODEC_FOLDER, read_motion_config
from motion_llm.serving.vllm_engine import VllmEngine
from motion_llm.viewer.figure import Clip
from motion_llm.viewer.page import NotebookView
from templates import MASKED

__all__ = ["GenerationError", "LengthAwareMotionLogitsProcessor", "MotionGenerator", "MotionRequest", "MotionResult",
           "Sampling"]

log = logging.getLogger(__name__)

SAMPLING = {"temperature": "GEN_TEMPERATURE", "top_p": "GEN_TOP_P", "top_k": "GEN_TOP_K",
            "end_logit_slope": "GEN_END_LOGIT_SLOPE", "guidance": "GEN_GUIDANCE"}
ENGINES = ("own", "vllm")
RIVALS = 12  # captions that a motion is not to tell


class MotionGenerator:
    """A trained model, ready to answer.

    model_path: a stage's folder. dataset_path: a dataset whose lengths and per-prompt codes are used instead of the
    training clips'. device: "cpu", "cuda" or None for what there is. engine: what decodes; with "vllm" model_path is an
    exported folder (export.py), and text to motion is all there is. Raises ModelError, DataError, GenerationError.
    """

    def __init__(self, model_path: str | Path, dataset_path: str | Path | None = None, device: str | None = None,
                 engine: str = "own"):
        if engine not in ENGINES:
            raise GenerationError(f"engine {engine!r} is unknown; there are {', '.join(ENGINES)}")
        content = read_motion_config(model_path)
        self.tasks = content["tasks"]
        self.model_path = Path(model_path)
        self.settings = content["settings"]
        self.decoder = self.vllm = self._codec = None
        if engine == "vllm":
            source = self.vllm = VllmEngine(model_path)
        elif "turns" in content:
            raise GenerationError(f"{model_path} was exported for serving engines: use engine=\"vllm\", or the stage's "
                                  "folder that it was made from")
        else:
            source = load(model_path, device)
        self.template, self.tokenizer, self.vocabulary = source.template, source.tokenizer, source.vocabulary
        if dataset_path is None:
            self.length_model = LengthModel.from_dict(content["length_model"], caption_key)
        else:
            self.length_model = self._lengths_of(dataset_path)
        self._jobs = JobMaker(self.template, self.vocabulary, self.length_model, self.settings)
        if engine == "own":
            self._make_decoder(source)

    def _make_decoder(self, model) -> None:
        network = model.merged().eval()
        self.motion, self.text = self._alphabets(network)
        self.decoder = Decoder(decoding_network(network, self.settings["MAX_SEQ_LEN"]), self.settings["EVAL_BATCH"])

    def _lengths_of(self, dataset_path: str | Path) -> LengthModel:
        report = read_rows(dataset_path, self.settings["MAX_SEQ_LEN"], self.vocabulary.codebook_size, denoise=False)
        raise_on_errors(report)
        return LengthModel.fit(report.rows.chunks, caption_key)

    def _alphabets(self, network) -> tuple[Alphabet, Alphabet]:
        """Motion: the codes and <MOT_END>. Text: plain words and the end of the turn, no other added token."""
        head, device = network.get_output_embeddings(), network.device
        motion = torch.arange(self.vocabulary.first_motion_id, self.vocabulary.end_id + 1, device=device)
        control = torch.tensor(sorted(self.tokenizer.added_tokens_decoder))
        plain = torch.ones(head.weight.shape[0], dtype=torch.bool)
        plain[control] = False
        plain[len(self.tokenizer):] = False  # rows that a base is padded with
        end = self.template.markers.text_end
        plain[end] = False
        text = torch.cat([plain.nonzero()[:, 0], torch.tensor([end])]).to(device)
        return Alphabet.of_rows(network, motion), Alphabet.of_head(network, text)

    # ---- asking

    def generate(self, prompt: str, participant_id: str | int | None = None, max_new_tokens: int | None = None,
                 temperature: float | None = None, per_prompt_vocab: bool = False, top_p: float | None = None,
                 top_k: int | None = None, end_logit_slope: float | None = None, seed: int | None = None,
                 **asked) -> str:
        """A motion for a caption, as codes in the dataset's format: "42 18 91 ...".

        What is None comes from the model's folder. asked: more fields of MotionRequest (tokens, seconds, ...).
        """
        request = MotionRequest(
            text=prompt, participant_id=participant_id, max_new_tokens=max_new_tokens, temperature=temperature,
            per_prompt_vocab=per_prompt_vocab, top_p=top_p, top_k=top_k, end_logit_slope=end_logit_slope, **asked)
        return self.answer([request], seed)[0].motion_tokens

    def generate_batch(self, prompts: Sequence[str], participant_ids: Sequence[str | int | None] | None = None,
                       max_new_tokens: int | None = None, temperature: float | None = None,
                       per_prompt_vocab: bool = False, top_p: float | None = None, top_k: int | None = None,
                       end_logit_slope: float | None = None, seed: int | None = None, num_samples: int = 1,
                       **asked) -> list[str]:
        """Motions for captions, decoded together; in their order, the samples of a caption one after another.

        participant_ids: one for each prompt (None: nobody's manner). max_new_tokens: a cap on a clip's length, in
        motion tokens, lowered to what fits the model. per_prompt_vocab: only codes seen in training with that
        caption; all codes, with a warning, for a caption that was never seen. asked: more fields of MotionRequest.
        Raises GenerationError or ValueError for a request that cannot be answered.
        """
        if isinstance(prompts, str):
            raise GenerationError("prompts is one text, expected a list of them: use generate() for one")
        if participant_ids is None:
            participant_ids = [None] * len(prompts)
        if len(participant_ids) != len(prompts):
            raise GenerationError(f"{len(prompts)} prompts but {len(participant_ids)} participants")
        requests = [MotionRequest(
            text=prompt, participant_id=participant_id, max_new_tokens=max_new_tokens, temperature=temperature,
            per_prompt_vocab=per_prompt_vocab, top_p=top_p, top_k=top_k, end_logit_slope=end_logit_slope,
            num_samples=num_samples, **asked) for prompt, participant_id in zip(prompts, participant_ids, strict=True)]
        return [result.motion_tokens for result in self.answer(requests, seed)]

    def caption(self, motion_tokens: str | Sequence[int], participant_id: str | int | None = None) -> str:
        """A caption for a motion, the likeliest words one after another."""
        request = MotionRequest("m2t", motion=motion_tokens, participant_id=participant_id, temperature=0)
        return self.answer([request])[0].text

    def denoise(self, motion_tokens: str | Sequence, participant_id: str | int | None = None, seed: int | None = None,
                **asked) -> str:
        """The motion with its lost tokens ("?") filled in; with keep_given=False the model may doubt others as well."""
        return self.answer([MotionRequest("denoise", motion=motion_tokens, participant_id=participant_id, **asked)],
                           seed)[0].motion_tokens

    def inbetween(self, start: str | Sequence[int], end: str | Sequence[int], length: int | None = None,
                  participant_id: str | int | None = None, seed: int | None = None, **asked) -> str:
        """A motion of `length` tokens in all that begins with `start` and leads to `end`."""
        request = MotionRequest("inbetween", motion=start, end=end, tokens=length, participant_id=participant_id,
                                **asked)
        return self.answer([request], seed)[0].motion_tokens

    def continue_motion(self, start: str | Sequence[int], text: str | None = None,
                        participant_id: str | int | None = None, seed: int | None = None, **asked) -> str:
        """A motion that begins with `start` and goes on, with `text` as that caption says."""
        request = MotionRequest("continue", text=text, motion=start, participant_id=participant_id, **asked)
        return self.answer([request], seed)[0].motion_tokens

    def stream(self, request: MotionRequest | str, seed: int | None = None) -> Iterator[int]:
        """The codes of one answer, each as soon as it is known. Raises GenerationError at once, before the first."""
        if isinstance(request, str):
            request = MotionRequest(text=request)
        if request.num_samples * request.best_of != 1 or request.task == "m2t":
            raise GenerationError("stream gives the tokens of one motion: no samples, no best_of, no caption")
        self._require_decoder("stream")
        job, _ = self._job(request, (self._seed(seed), 0, 0))
        steps = self.decoder.steps([job], self.motion)
        return (place for _, place, _ in steps if place is not None)

    def answer(self, requests: MotionRequest | Sequence[MotionRequest], seed: int | None = None) -> list[MotionResult]:
        """A result for each sample of each request, in their order.

        The same seed gives the same answers to the same requests; without one a new one is drawn and logged. Raises
        GenerationError or ValueError for a request that cannot be answered, before any is.
        """
        requests = [requests] if isinstance(requests, MotionRequest) else list(requests)
        seed = self._seed(seed)
        wanted = []  # (request, its job, where its limits come from)
        for place, request in enumerate(requests):
            for sample in range(request.num_samples * request.best_of):
                wanted.append((request, *self._job(request, (seed, place, sample))))
        results: list[MotionResult] = [None] * len(wanted)  # all are filled in below
        for is_text in (False, True):
            members = [i for i, (request, _, _) in enumerate(wanted) if (request.task == "m2t") == is_text]
            for i, answer in zip(members, self._decode([wanted[i][1] for i in members], is_text, seed),
                                 strict=True):
                request, _, limits = wanted[i]
                results[i] = self._as_text(request, answer) if is_text else self._as_motion(request, answer, limits)
        return self._best(results, requests)

    def _decode(self, jobs: Sequence[Job], is_text: bool, seed: int) -> list[Answer]:
        if self.vllm is not None:
            return [Answer(codes, None) for codes in self.vllm.decode(jobs, [job.sampling for job in jobs], seed)]
        return self.decoder.decode(jobs, self.text if is_text else self.motion)

    # ---- looking at answers

    def clips(self, results: Sequence[MotionResult]) -> list[Clip]:
        """The answers as figures that move, by the codec that the model's folder keeps; what `view.write` writes.

        Raises GenerationError for a folder without one, CodecError for a damaged one.
        """
        return [self.clip(result.codes, result.text or "") for result in results]

    def clip(self, codes: Sequence[int], caption: str = "", note: str = "") -> Clip:
        """Any codes as a figure that moves; its note is what is given, the tokens and the seconds. Raises as `clips`.
        """
        folder = self.model_path / CODEC_FOLDER
        if not folder.is_dir():
            raise GenerationError(f"{self.model_path} does not know the codec of its tokens: set CODEC_PATH in "
                                  "config.py and start the training command again, which then only adds it")
        if self._codec is None:
            self._codec = MotionCodec.load(folder)
        motion = self._codec.decode(codes)
        return Clip(motion, caption, f"{note}{len(codes)} tokens, {motion.seconds:.1f} s")

    def show(self, requests: str | MotionRequest | Sequence[MotionRequest], seed: int | None = None,
             height: int = 480) -> NotebookView:
        """In a notebook: the answers, side by side, to turn and play."""
        requests = MotionRequest(text=requests) if isinstance(requests, str) else requests
        return NotebookView(self.clips(self.answer(requests, seed)), height)

    # ---- from a request to what is decoded

    @staticmethod
    def _seed(seed: int | None) -> int:
        if seed is None:
            seed = secrets.randbits(32)
            log.info("seed %d", seed)
        return checked_number("seed", seed, 0, 2**63 - 1, whole=True)

    def _sampling(self, request: MotionRequest) -> Sampling:
        given = {name: getattr(request, name) for name in SAMPLING}
        if request.task == "m2t":
            given["end_logit_slope"] = 0.0  # the slope is about motions' lengths
        if request.text is None:
            given["guidance"] = 1.0
        kept = {"GEN_GUIDANCE": 1.0} | self.settings  # folders from before guidance do not name it
        sampling = Sampling(*(kept[SAMPLING[name]] if value is None else value for name, value in given.items()))
        if sampling.guidance != 1:
            self._require_decoder("guidance")
            if not kept.get("CAPTION_DROPOUT"):
                raise GenerationError(f"guidance is {sampling.guidance:g}, but {self.model_path} was trained with "
                                      "every caption and does not know motion without one: train with "
                                      "CAPTION_DROPOUT 0.1, or leave guidance at 1")
        return sampling

    def _require_decoder(self, what: str) -> None:
        if self.decoder is None:
            raise GenerationError(f"vLLM answers text to motion alone, not {what}: use a stage's folder, without "
                                  "engine=\"vllm\"")

    def _require(self, task: str) -> None:
        if task in self.tasks:
            return
        able = []
        for path in sorted(self.model_path.resolve().parent.glob("*/motion_config.json")):
            if task in read_motion_config(path.parent)["tasks"]:
                able.append(str(self.model_path.parent / path.parent.name))
        there = f"use {' or '.join(able)}" if able else "no folder beside it was"
        raise GenerationError(f"{self.model_path} was trained for {', '.join(self.tasks)}, not for {TASKS[task]} "
                              f"({task}); {there}")

    def _job(self, request: MotionRequest, key: tuple[int, ...]) -> tuple[Job, LengthLimits | None]:
        told = request.task == "t2m" or request.text is not None  # going on with a caption is text to motion
        if request.task != "t2m" or request.best_of > 1:
            self._require_decoder(request.task if request.task != "t2m" else "best_of")
        self._require("t2m" if told else request.task)
        return self._jobs.of(request, self._sampling(request), key)

    # ---- from what was decoded to a result

    def _as_motion(self, request: MotionRequest, answer: Answer, limits: LengthLimits) -> MotionResult:
        codes = tuple(answer.places)
        given = [] if request.task == "denoise" and not request.keep_given else [
            *enumerate(request.motion or ()), *enumerate(request.end or (), len(codes) - len(request.end or ()))]
        if not (limits.min_tokens <= len(codes) <= limits.max_tokens
                and all(0 <= code < self.vocabulary.codebook_size for code in codes)
                and all(code in (MASKED, codes[place]) for place, code in given)):
            raise RuntimeError(f"decoding broke its own limits ({limits}): {codes}")
        return MotionResult(" ".join(map(str, codes)), request.text, limits, answer.log_probability, codes=codes)

    def _as_text(self, request: MotionRequest, answer: Answer) -> MotionResult:
        text = self.tokenizer.decode(self.text.ids[answer.places].tolist()).strip()
        codes = tuple(request.motion)
        return MotionResult(" ".join(map(str, codes)), text, None, answer.log_probability, codes=codes)

    def _best(self, results: list[MotionResult], requests: Sequence[MotionRequest]) -> list[MotionResult]:
        """The best of each best_of results, by how well their motions tell the caption."""
        if all(request.best_of == 1 for request in requests):
            return results
        kept, start = [], 0
        for request in requests:
            own = results[start:start + request.num_samples * request.best_of]
            start += len(own)
            if request.best_of > 1:
                own = [replace(result, score=score) for result, score in
                       zip(own, self.caption_scores(own, request.participant_id), strict=True)]
                own = [max(own[i:i + request.best_of], key=lambda result: result.score)
                       for i in range(0, len(own), request.best_of)]
            kept += own
        return kept

    # ---- judging

    def caption_scores(self, results: Sequence[MotionResult], participant_id: str | int | None = None) -> list[float]:
        """How well each result's motion tells its caption: the log-probability, in nats, of the caption given the
        motion, among itself and RIVALS captions of the training data. By Bayes' rule with equal priors that is the
        motion's likelihood given the caption over the sum of its likelihoods given each of them.

        This is motion to text by text to motion, which is what the last stage is trained for; what m2t itself says of
        a caption ranked clips no better than chance (docs/log.md).
        """
        person = None if participant_id is None else str(participant_id)
        asked = [[result.text, *self._rivals(result)] for result in results]
        rows = [{"text_query": text, "codes": result.codes, "participant_id": person}
                for result, texts in zip(results, asked, strict=True) for text in texts]
        likelihoods = np.split(np.array(self.motion_log_probabilities(rows)), np.cumsum([len(t) for t in asked])[:-1])
        return [float(own[0] - np.logaddexp.reduce(own)) for own in likelihoods]

    def _rivals(self, result: MotionResult) -> list[str]:
        """Training captions other than the result's own, the same for all motions of a caption."""
        captions, own = list(self.length_model.captions), caption_key(result.text)
        room = self.settings["MAX_SEQ_LEN"] - len(result.codes)
        order = np.random.default_rng(zlib.crc32(own.encode())).permutation(len(captions))[:4 * RIVALS]
        fitting = [captions[i] for i in order if captions[i] != own
                   and self.template.length("t2m", len(self.template.encode_text(captions[i])), 0) <= room]
        return fitting[:RIVALS]

    def motion_log_probabilities(self, rows: Sequence[Mapping]) -> list[float]:
        """The log-probability of each row's motion given its caption, in nats, <MOT_END> included.

        rows: {"text_query", "codes", "participant_id"} each.
        """
        self._require_decoder("likelihoods")
        prompts = [self.template.render("t2m", text=row["text_query"], participant_id=row["participant_id"],
                                        answer=False).ids for row in rows]
        answers = [[*parse_codes(list(row["codes"])), self.vocabulary.codebook_size] for row in rows]
        return [float(values.sum(dtype="float64"))
                for values in self.decoder.log_probabilities(prompts, answers, self.motion)]

    def motion_nll(self, rows: Sequence[Mapping]) -> tuple[float, int]:
        """The mean negative log-likelihood of the rows' motions a token, and the number of tokens."""
        tokens = sum(len(row["codes"]) + 1 for row in rows)
        return -sum(self.motion_log_probabilities(rows)) / tokens, tokens
