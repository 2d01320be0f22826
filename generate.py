"""`MotionGenerator` answers requests with a trained model; every answer is valid.

Valid means: only codes of the codebook, at least one, and as many as the length limits of the request allow. The model
is trained under a softmax over the codes and <MOT_END> alone, so it is decoded under the same restriction.
"""

import logging
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from data import read_rows
from model import load_for_decoding
from motion_llm.dataset.lengths import LengthModel
from motion_llm.dataset.report import raise_on_errors
from motion_llm.dataset.rows import caption_key
from motion_llm.decoding.answerer import Answerer
from motion_llm.decoding.constraints import LengthAwareMotionLogitsProcessor
from motion_llm.decoding.request import (
    CANDIDATES,
    Caption,
    GenerationError,
    MotionRequest,
    MotionResult,
    Sampling,
)
from motion_llm.decoding.scene import Scene, Segment
from motion_llm.decoding.scene_plan import Plan, going_on, part_after_part, planned, scene_of, seed_of
from motion_llm.network.folder import CODEC_FOLDER, read_motion_config, stages_beside
from motion_llm.serving.vllm_engine import VllmEngine
from motion_llm.streams import ABSENT, Streams
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


class MotionGenerator(Answerer, CodecFigures):
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
        content, own = read_motion_config(model_path), engine == "own"
        if own and "turns" in content:
            raise GenerationError(f"{model_path} was exported for serving engines: use engine=\"vllm\", or the stage's "
                                  "folder that it was made from")
        model = load_for_decoding(model_path, device) if own else VllmEngine(model_path)
        lengths = LengthModel.from_dict(content["length_model"], caption_key) if dataset_path is None else (
            _lengths_of(dataset_path, content["settings"]["MAX_SEQ_LEN"], model.vocabulary.streams))
        self._device = device
        Answerer.__init__(self, Path(model_path), content, model, lengths, own)
        CodecFigures.__init__(self, self.model_path / CODEC_FOLDER)

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


def _lengths_of(dataset_path: str | Path, positions: int, streams: Streams) -> LengthModel:
    report = read_rows(dataset_path, positions, streams, denoise=False)
    raise_on_errors(report)
    return LengthModel.fit(report.rows.chunks, caption_key, streams.count)
