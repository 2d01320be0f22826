"""The generators behind the page, and a round of clips decoded token by token."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from generate import MotionGenerator
from motion_llm.dataset.lengths import LengthLimits
from motion_llm.decoding.loop import Answer, Job
from motion_llm.decoding.request import MotionRequest, MotionResult, check_size
from motion_llm.decoding.scene import Scene, Segment
from motion_llm.network.folder import read_motion_config, stages_beside


@dataclass(frozen=True)
class Part:
    """One clip (or sentence) to decode. limits: None for a sentence."""

    generator: "SteppedGenerator"
    request: MotionRequest
    job: Job
    limits: LengthLimits | None


@dataclass(frozen=True)
class Whole:
    """What is decoded by itself and not beside other parts. run: yields None now and then, and the result at its end.
    """

    run: Callable[[], Iterator[MotionResult | Scene | None]]


class SteppedGenerator(MotionGenerator):
    """A generator whose answers are decoded beside those of other questions, each the same as alone."""

    def parts(self, request: MotionRequest, seed: int) -> list[Part]:
        """One part for each sample; the answers are those of `answer([request], seed)`. best_of is not looked at.
        Raises GenerationError or ValueError for a request that cannot be answered."""
        request = self._jobs.resolved(request)
        made = [self._job(request, (seed, 0, sample)) for sample in range(request.num_samples)]
        check_size([request], [job.limits.max_tokens for job, _ in made[:1]])
        return [Part(self, request, job, limits) for job, limits in made]

    def scene(self, timeline: Sequence[Segment], seed: int, **fields) -> Whole:
        """The scene of `compose`, a segment after the other. Raises GenerationError."""
        plan = self._plan(timeline, fields)

        def run() -> Iterator[Scene | None]:
            for (results,) in self._part_after_part([plan], seed):
                yield from [None] * len(results[-1].codes)
            yield self._scene(plan, results)

        return Whole(run)

    def described(self, request: MotionRequest, seed: int) -> Whole:
        """A caption that is chosen among several (best_of). Raises GenerationError for a request that cannot be
        answered."""
        results = self.answers(request, seed)
        return Whole(lambda: results)

    def steps(self, parts: Sequence[Part]) -> Iterator[tuple[int, MotionResult | None]]:
        """(place in parts, None) for each token, and (place, result) once for each part. All of one kind: motions, or
        sentences."""
        is_text = parts[0].request.task == "m2t"
        unfinished = [Answer() for _ in parts]
        alphabet = self.text_alphabet if is_text else self.motion_alphabet
        with closing(self.decoder.steps([part.job for part in parts], alphabet)) as steps:
            for place, index, log_probability in steps:
                answer, part = unfinished[place], parts[place]
                answer.log_probability += log_probability
                if index is not None:
                    answer.indices.append(index)
                    yield place, None
                else:
                    yield place, (self._as_text(part.request, answer) if is_text else
                                  self._as_motion(part.request, answer, part.limits))


def decode(parts: Sequence[Part | Whole]) -> Iterator[tuple[int, MotionResult | Scene | None]]:
    """As `SteppedGenerator.steps`, for parts of several generators and all kinds."""
    groups: dict[tuple[int, bool], list[int]] = {}
    for place, part in enumerate(parts):
        if isinstance(part, Whole):
            yield from ((place, result) for result in part.run())
            continue
        groups.setdefault((id(part.generator), part.request.task == "m2t"), []).append(place)
    for places in groups.values():
        with closing(parts[places[0]].generator.steps([parts[place] for place in places])) as steps:
            for index, result in steps:
                yield places[index], result


class Models:
    """The model, and another stage's folder beside it for the tasks that it was not trained for, which is loaded when
    it is asked for the first time. Raises ModelError, and what MotionGenerator raises."""

    def __init__(self, model_path: str | Path, device: str | None = None):
        self.device = device
        self.main = SteppedGenerator(model_path, device=device)
        self._loaded = {self.main.model_path: self.main}
        self._lock = threading.Lock()

    def folder_for(self, task: str) -> Path | None:
        """The model's own folder if it was trained for the task, else the first one beside it that was, else None."""
        own = self.main.model_path
        if task in self.main.tasks:
            return own
        beside = stages_beside(own, read_motion_config(own))
        return next((folder for folder, content in beside if task in content["tasks"]), None)

    def generator_for(self, task: str) -> SteppedGenerator:
        """The generator that answers a task; the model's own, which refuses it in the words of the command line, where
        no folder was trained for it."""
        folder = self.folder_for(task) or self.main.model_path
        with self._lock:
            if folder not in self._loaded:
                made = self._loaded[folder] = SteppedGenerator(folder, device=self.device)
                if "t2m" in self.main.tasks and folder.name < self.main.model_path.resolve().name:
                    made.judge = self.main  # the last stage, which is in memory already
            return self._loaded[folder]
