"""`MotionGenerator` answers requests with a trained model; every answer is valid.

Valid means: only codes of the codebook, at least one, and as many as the length limits of the request allow. The model
is trained under a softmax over the codes and <MOT_END> alone, so it is decoded under the same restriction.
"""

import logging
import secrets
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from itertools import islice
from pathlib import Path

import torch

from data import read_rows
from model import ModelConfig, load_for_decoding
from motion_llm.dataset.lengths import LengthLimits, LengthModel
from motion_llm.dataset.report import raise_on_errors
from motion_llm.dataset.rows import caption_key
from motion_llm.decoding.constraints import LengthAwareMotionLogitsProcessor
from motion_llm.decoding.jobs import JobMaker
from motion_llm.decoding.known_captions import KnownCaptions, Rewording
from motion_llm.decoding.loop import Alphabet, Answer, Decoder, Job
from motion_llm.decoding.request import (
    CANDIDATES,
    SAMPLING_SETTINGS,
    TASKS,
    Caption,
    GenerationError,
    MotionRequest,
    MotionResult,
    Sampling,
    check_size,
    checked_number,
)
from motion_llm.decoding.scene import Scene, Segment
from motion_llm.decoding.scene_plan import Plan, going_on, part_after_part, planned, scene_of, seed_of
from motion_llm.decoding.scoring import Scorer
from motion_llm.network.cached import decoding_network, rows_at_once
from motion_llm.network.caption_states import CaptionStates
from motion_llm.network.folder import CODEC_FOLDER, read_motion_config, stages_beside
from motion_llm.network.known_bases import UnknownToFastLoading
from motion_llm.serving.vllm_engine import VllmEngine
from motion_llm.streams import ABSENT, MASKED
from motion_llm.viewer.codec_figures import CodecFigures
from motion_llm.viewer.figure import Clip
from motion_llm.viewer.figure import Span as ClipSpan
from motion_llm.viewer.page import NotebookView

__all__ = ["GenerationError", "LengthAwareMotionLogitsProcessor", "MotionGenerator", "MotionRequest", "MotionResult",
           "Sampling", "Scene", "Segment"]

log = logging.getLogger(__name__)

ENGINES = ("own", "vllm")
LOOP_TOKENS, LOOP_TRIES = (4, 2, 8), 8  # tokens that close a loop, and how often each number of them is tried
LOOP_CONTEXT = 8  # tokens of each end that these are made from
SAMPLES_AT_ONCE = 4_096  # bounds the memory of a call with many


class MotionGenerator(CodecFigures):
    """A trained model that answers requests.

    model_path: a stage's folder. dataset_path: a dataset whose lengths and per-prompt codes are used instead of the
    training clips'. device: "cpu", "cuda" or None for a GPU where there is one. engine: "own" or "vllm"; with "vllm"
    model_path is an exported folder (export.py), and only text to motion is answered. Raises ModelError, DataError,
    GenerationError.
    """

    def __init__(self, model_path: str | Path, dataset_path: str | Path | None = None, device: str | None = None,
                 engine: str = "own"):
        if engine not in ENGINES:
            raise GenerationError(f"engine {engine!r} is unknown; there are {', '.join(ENGINES)}")
        content = read_motion_config(model_path)
        self.tasks = content["tasks"]
        self.model_path, self._device = Path(model_path), device
        super().__init__(self.model_path / CODEC_FOLDER)
        self.settings = content["settings"]
        self.decoder = self.vllm = None
        if engine == "vllm":
            model = self.vllm = VllmEngine(model_path)
        elif "turns" in content:
            raise GenerationError(f"{model_path} was exported for serving engines: use engine=\"vllm\", or the stage's "
                                  "folder that it was made from")
        else:
            model = load_for_decoding(model_path, device)
        self.template, self.tokenizer, self.vocabulary = model.template, model.tokenizer, model.vocabulary
        if dataset_path is None:
            self.length_model = LengthModel.from_dict(content["length_model"], caption_key)
        else:
            self.length_model = self._lengths_of(dataset_path)
        known = KnownCaptions.load(self.model_path)
        rewording = None if known is None else Rewording(known, partial(self._states, content["model"]),
                                                         self.length_model.new_words)
        self._jobs = JobMaker(self.template, self.vocabulary, self.length_model, self.settings, rewording)
        if engine == "own":
            self._make_decoder(model)

    def _states(self, model: Mapping) -> CaptionStates | None:
        """The reader of the untrained base. model: its settings in motion_config.json."""
        try:
            return CaptionStates(ModelConfig(**model), self.template.encode_text)
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

    def _lengths_of(self, dataset_path: str | Path) -> LengthModel:
        report = read_rows(dataset_path, self.settings["MAX_SEQ_LEN"], self.vocabulary.streams, denoise=False)
        raise_on_errors(report)
        return LengthModel.fit(report.rows.chunks, caption_key, self.vocabulary.streams.count)

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

    # ---- requests

    def generate(self, prompt: str, participant_id: str | int | None = None, max_new_tokens: int | None = None,
                 temperature: float | None = None, per_prompt_vocab: bool = False, top_p: float | None = None,
                 top_k: int | None = None, end_logit_slope: float | None = None, seed: int | None = None,
                 **fields) -> str:
        """A motion for a caption, as codes in the dataset's format: "42 18 91 ...".

        Arguments that are None take the settings in the model's folder. fields: more fields of MotionRequest (tokens,
        seconds, ...).
        """
        request = MotionRequest(
            text=prompt, participant_id=participant_id, max_new_tokens=max_new_tokens, temperature=temperature,
            per_prompt_vocab=per_prompt_vocab, top_p=top_p, top_k=top_k, end_logit_slope=end_logit_slope, **fields)
        return self.answer([request], seed)[0].motion_tokens

    def generate_batch(self, prompts: Sequence[str], participant_ids: Sequence[str | int | None] | None = None,
                       max_new_tokens: int | None = None, temperature: float | None = None,
                       per_prompt_vocab: bool = False, top_p: float | None = None, top_k: int | None = None,
                       end_logit_slope: float | None = None, seed: int | None = None, num_samples: int = 1,
                       **fields) -> list[str]:
        """Motions for captions, decoded together, in the order of the captions; the samples of a caption are adjacent.

        participant_ids: one for each prompt (None: no participant). max_new_tokens: a cap on a clip's length, in
        motion tokens, lowered to what fits the model. per_prompt_vocab: only codes seen in training with that
        caption; all codes, with a warning, for a caption that was never seen. fields: more fields of MotionRequest.
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
            num_samples=num_samples, **fields) for prompt, participant_id in zip(prompts, participant_ids, strict=True)]
        return [result.motion_tokens for result in self.answer(requests, seed)]

    def caption(self, motion_tokens: str | Sequence[int], participant_id: str | int | None = None,
                seed: int | None = None, temperature: float = 0, best_of: int | None = None, **fields) -> Caption:
        """A caption for a motion, with how sure it is and the runners-up. best_of: how many captions are compared, the
        one that the model says and those of training clips with similar codes; None for CANDIDATES. With 1 it is what
        the model says."""
        best_of = self.candidates if best_of is None else best_of
        request = MotionRequest("m2t", motion=motion_tokens, participant_id=participant_id, temperature=temperature,
                                best_of=best_of, **fields)
        result = self.answer([request], 0 if seed is None and not temperature else seed)[0]
        return Caption(result.text, result.score, result.others)

    @cached_property
    def judge(self) -> "MotionGenerator":
        """What says how likely a motion is given a caption: the last stage of the run that was trained for text to
        motion, where that lies beside this one, since it knows most about captions."""
        later = [folder for folder, content in stages_beside(self.model_path, read_motion_config(self.model_path))
                 if "t2m" in content["tasks"] and folder.name > self.model_path.resolve().name]
        if not later:
            return self
        log.info("captions are compared by %s", later[-1])
        return MotionGenerator(later[-1], device=self._device)

    @property
    def candidates(self) -> int:
        """The best_of of captions: they are compared by text to motion, for which not every stage was trained."""
        return CANDIDATES if "t2m" in self.tasks else 1

    def denoise(self, motion_tokens: str | Sequence, participant_id: str | int | None = None, seed: int | None = None,
                **fields) -> str:
        """The motion with its lost tokens ("?") filled in; with keep_given=False other tokens may change as well."""
        return self.answer([MotionRequest("denoise", motion=motion_tokens, participant_id=participant_id, **fields)],
                           seed)[0].motion_tokens

    def edit(self, motion_tokens: str | Sequence, text: str, participant_id: str | int | None = None,
             seed: int | None = None, **fields) -> str:
        """The motion with its lost tokens ("?") made anew, following the caption `text`; the others do not change."""
        return self.answer([MotionRequest("edit", text, motion_tokens, participant_id=participant_id, **fields)],
                           seed)[0].motion_tokens

    def inbetween(self, start: str | Sequence[int], end: str | Sequence[int], length: int | None = None,
                  participant_id: str | int | None = None, seed: int | None = None, **fields) -> str:
        """A motion of `length` tokens in all that begins with `start` and leads to `end`."""
        request = MotionRequest("inbetween", motion=start, end=end, tokens=length, participant_id=participant_id,
                                **fields)
        return self.answer([request], seed)[0].motion_tokens

    def looped(self, result: MotionResult, seed: int | None = None, participant_id: str | int | None = None
               ) -> MotionResult:
        """The motion with a few tokens more, or steps, that lead from its end back to its start, so that it can be
        played again and again: the smoothest of LOOP_TRIES in-betweens of each of LOOP_TOKENS, from its last
        LOOP_CONTEXT tokens to its first ones, or none. Without a codec that would show which, the first one."""
        streams, context = self.vocabulary.streams, LOOP_CONTEXT * self.vocabulary.streams.count
        end, start = result.codes[-context:], result.codes[:context]
        requests = [MotionRequest("inbetween", motion=streams.written(end), end=streams.written(start),
                                  tokens=(len(end) + len(start)) // streams.count + tokens, num_samples=LOOP_TRIES,
                                  participant_id=participant_id) for tokens in LOOP_TOKENS]
        codes, *others = [(*result.codes, *way.codes[len(end):-len(start)]) for way in self.answer(requests, seed)]
        if self.codec_folder.is_dir():
            codes = min([result.codes, codes, *others],
                        key=lambda codes: self.closing_jerk(codes, len(result.codes) // streams.count))
            if codes == result.codes:
                log.info("the motion's end meets its start better than behind every way back that was tried")
        return replace(result, motion_tokens=streams.written(codes), codes=codes)

    def continue_motion(self, start: str | Sequence[int], text: str | None = None,
                        participant_id: str | int | None = None, seed: int | None = None, **fields) -> str:
        """A motion that begins with `start` and continues it, following the caption `text` where there is one."""
        request = MotionRequest("continue", text=text, motion=start, participant_id=participant_id, **fields)
        return self.answer([request], seed)[0].motion_tokens

    def stream(self, request: MotionRequest | str | Sequence[Segment | str], seed: int | None = None, **fields
               ) -> Iterator[int | tuple[int | None, ...]]:
        """The codes of one answer, or of a timeline's scene, each as soon as it is decoded; of several streams, a step
        of their own codes at a time, None for those that are absent. fields: more fields of MotionRequest for a
        sentence, or those of `compose` for a timeline. Raises GenerationError before the first one."""
        self._require_decoder("stream")
        if not isinstance(request, str | MotionRequest):
            if fields.get("best_of", 1) != 1:
                raise GenerationError("stream gives the tokens of one scene: no best_of")
            return self._shown(self._scene_codes(self._plan(request, fields), self._seed(seed)))
        if isinstance(request, str):
            request = MotionRequest(text=request, **fields)
        elif fields:
            raise GenerationError(f"{', '.join(fields)} was given beside a request: put it into the request")
        if request.num_samples * request.best_of != 1 or request.task == "m2t":
            raise GenerationError("stream gives the tokens of one motion: no num_samples, best_of or m2t")
        return self._shown(self._codes(self._jobs.resolved(request), self._seed(seed)))

    def _codes(self, request: MotionRequest, seed: int) -> Iterator[int]:
        """The flat codes of one answer to a resolved request. Raises GenerationError before the first one."""
        job, _ = self._job(request, (seed, 0, 0))
        return (code for _, code, _ in self.decoder.steps([job], self.motion_alphabet) if code is not None)

    def _shown(self, codes: Iterator[int]) -> Iterator[int | tuple[int | None, ...]]:
        """Flat codes as `stream` gives them."""
        streams = self.vocabulary.streams
        if streams.count == 1:
            return codes
        steps = (streams.steps(step)[0].tolist() for step in zip(*[codes] * streams.count, strict=True))
        return (tuple(None if code == ABSENT else code for code in step) for step in steps)

    # ---- scenes

    def compose(self, segments: Sequence[Segment | str], seed: int | None = None, **fields) -> Scene:
        """A scene of several sentences: one motion, each segment going on from the end of the one before. fields:
        those of MotionRequest that all segments share (scene.SHARED). Raises as `answer`."""
        return next(self.scenes([segments], seed, **fields))

    def scenes(self, timelines: Sequence[Sequence[Segment | str]], seed: int | None = None, **fields
               ) -> Iterator[Scene]:
        """A scene for each timeline, in their order; they are decoded together. Raises as `answer`, before the first
        one is asked for."""
        plans = [self._plan(timeline, fields) for timeline in timelines]
        return self._scenes(plans, self._seed(seed))

    def _plan(self, timeline: Sequence[Segment | str], fields: Mapping) -> Plan:
        """A timeline whose parts can all be answered. Raises GenerationError."""
        plan = planned(timeline, self._jobs, fields)
        for place, request in zip(plan.places, plan.requests, strict=True):
            try:
                self._job(request, (0,))
            except ValueError as error:
                raise GenerationError(f"segment {place + 1}: {error}") from None
        return plan

    def _scenes(self, plans: Sequence[Plan], seed: int) -> Iterator[Scene]:
        for results in deque(self._part_after_part(plans, seed), maxlen=1):  # the last: all parts
            yield from map(self._scene, plans, results)

    def _part_after_part(self, plans: Sequence[Plan], seed: int) -> Iterator[list[list[MotionResult]]]:
        return part_after_part(plans, self._answers_to, seed, self.vocabulary.streams.count)

    def _scene(self, plan: Plan, results: Sequence[MotionResult]) -> Scene:
        return scene_of(plan, results, self.vocabulary.streams, self.settings.get("TOKENS_PER_SECOND"))

    def _scene_codes(self, plan: Plan, seed: int) -> Iterator[int]:
        """The flat codes of a scene as they are decoded; those of the last part alone are kept."""
        codes: list[int] = []
        for part, request in enumerate(plan.requests):
            request, codes = going_on(request, codes, self.vocabulary.streams.count), []
            for code in self._codes(request, seed_of(seed, part)):
                codes.append(code)
                yield code

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

    # ---- viewing

    def clips(self, results: Sequence[MotionResult]) -> list[Clip]:
        """The answers as moving figures, decoded by the codec in the model's folder; `view.write` writes them.

        Raises MotionError for a folder without a codec, CodecError for a damaged codec.
        """
        return [self.clip(result.codes, result.text or "") for result in results]

    def scene_clips(self, scenes: Sequence[Scene]) -> list[Clip]:
        """Scenes as moving figures, with their sentences in time. Raises as `clips`."""
        clips = []
        for scene in scenes:
            clip = self.clip(scene.codes, scene.text)
            token = clip.motion.seconds / (len(scene.codes) // self.vocabulary.streams.count)
            clips.append(replace(clip, spans=tuple(ClipSpan(span.start * token, span.end * token, span.text)
                                                   for span in scene.spans)))
        return clips

    def show(self, requests: str | MotionRequest | Sequence[MotionRequest], seed: int | None = None,
             height: int = 480) -> NotebookView:
        """For notebooks: the answers side by side, to turn and play."""
        requests = MotionRequest(text=requests) if isinstance(requests, str) else requests
        return NotebookView(self.clips(self.answer(requests, seed)), height)

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
