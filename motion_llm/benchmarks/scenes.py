"""`python bench.py scenes`: scenes of trained captions, each checked, and how they join.

Whether a segment shows its caption is judged by a classifier of the training clips (evaluation/recogniser.py), for
captions with several clips. Where the model's folder has a codec, the joints at each seam are compared with those of
real clips: the largest jerk and speed within REACH of a seam, over the same within REACH of a place in a training clip;
and those in the middle of the segments of a scene's two halves, which differ where a long scene drifts.
"""

import random
import resource
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from motion_llm.dataset.prepared import load_prepared
from motion_llm.dataset.rows import caption_key
from motion_llm.evaluation.recogniser import LEAST_CLIPS, ActionRecogniser
from motion_llm.motion.skeleton import Motion

REACH = 0.4  # seconds on both sides of a seam, in which a transition may be
MOST_REAL = 200  # training clips that seams are compared with


def add_arguments(parser) -> None:
    parser.add_argument("--model_path", help="a trained stage's folder. Default: WORK_DIR/stage3_t2m_sft")
    parser.add_argument("--count", type=int, default=100, metavar="N", help="number of scenes. Default: 100")
    parser.add_argument("--segments", type=int, default=10, metavar="N", help="segments of a scene. Default: 10")


def run(args, settings: Mapping) -> dict:
    """Raises AssertionError for a scene that is not valid, ModelError, ValueError."""
    if args.count < 1 or args.segments < 1:
        raise ValueError(f"--count {args.count} --segments {args.segments}, expected 1 or more")
    from model import start_unsloth  # imports torch, which takes seconds

    start_unsloth()
    from generate import MotionGenerator, Segment  # imports transformers, which must follow Unsloth's start

    path = Path(args.model_path or Path(settings["WORK_DIR"]) / "stage3_t2m_sft")
    generator, rng = MotionGenerator(path), random.Random(settings["SEED"])
    rows = load_prepared(path.resolve().parent / "prepared_data", "train").to_list()
    recogniser, captions = recogniser_of(rows)
    timelines = []
    for _ in range(args.count):
        texts = rng.choices(captions, k=args.segments)
        limits = [generator.length_model.limits(text) for text in texts]
        timelines.append([Segment(text, tokens=rng.choice([None, rng.randint(limit.min_tokens, limit.max_tokens)]))
                          for text, limit in zip(texts, limits, strict=True)])
    started = time.perf_counter()
    scenes = list(generator.scenes(timelines, settings["SEED"]))
    seconds = time.perf_counter() - started
    for timeline, scene in zip(timelines, scenes, strict=True):
        check(timeline, scene, generator)
    figures = {"model": str(path), "scenes": args.count, "segments": args.segments, "seconds": seconds,
               "tokens": sum(scene.spans[-1].end for scene in scenes),
               "memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}
    in_step = generator.vocabulary.streams.count
    clips = [[scene.codes[span.start * in_step:span.end * in_step] for span in scene.spans] for scene in scenes]
    figures["shown"] = [recogniser.accuracy([clip[place] for clip in clips], [
        caption_key(scene.spans[place].text) for scene in scenes]) for place in range(args.segments)]
    if generator.codec_folder.is_dir() and args.segments > 1:
        figures["seams"] = seams_over_real(generator, scenes, [row["codes"] for row in rows[:MOST_REAL]])
    return figures


def recogniser_of(rows: Sequence[Mapping]) -> tuple[ActionRecogniser, list[str]]:
    """A classifier of captions, and those that it knows. Raises ValueError for data without two captions of several
    clips."""
    by_caption: dict[str, dict[tuple, str]] = {}
    for row in rows:
        by_caption.setdefault(caption_key(row["text_query"]), {})[tuple(row["codes"])] = row["text_query"]
    known = {key: clips for key, clips in by_caption.items() if len(clips) >= LEAST_CLIPS}
    labelled = [(clip, key) for key, clips in known.items() for clip in clips]
    recogniser = ActionRecogniser().fit([clip for clip, _ in labelled], [key for _, key in labelled])
    return recogniser, [next(iter(clips.values())) for clips in known.values()]


def check(timeline: Sequence, scene, generator) -> None:
    """Raises AssertionError: codes of the codebook alone, spans without gaps, each as long as it was asked."""
    streams = generator.vocabulary.streams
    assert streams.problem(scene.codes) is None and scene.spans[-1].end * streams.count == len(scene.codes), timeline
    assert [span.text for span in scene.spans] == [segment.text for segment in timeline], timeline
    starts = [0, *(span.end for span in scene.spans[:-1])]
    for segment, span, start in zip(timeline, scene.spans, starts, strict=True):
        assert span.start == start, timeline
        limits = generator.length_model.limits(segment.text)
        low, high = (limits.min_tokens, limits.max_tokens) if segment.tokens is None else (segment.tokens,) * 2
        assert low <= span.end - span.start <= high, timeline


def seams_over_real(generator, scenes: Sequence, real: Sequence) -> dict[str, float]:
    """jerk, speed: the mean at seams over the mean in real clips; jerk_95: the same of the 95th percentiles.
    drift_jerk, drift_speed: the mean in the middle of the segments of the second half over that of the first half."""
    in_step, window = generator.vocabulary.streams.count, generator.codec.window
    motions = [generator.motion(scene.codes) for scene in scenes]
    seams = [peaks(motion, [span.start * window for span in scene.spans[1:]])
             for motion, scene in zip(motions, scenes, strict=True)]
    places = [peaks(generator.motion(codes), range(window, len(codes) // in_step * window, 2 * window))
              for codes in real]
    (jerk, speed), (real_jerk, real_speed) = (np.concatenate(both, axis=1) for both in (seams, places))
    middles = np.mean([peaks(motion, [(span.start + span.end) * window // 2 for span in scene.spans])
                       for motion, scene in zip(motions, scenes, strict=True)], axis=0)  # (2, segments)
    half = middles.shape[1] // 2
    drift = middles[:, -half:].mean(1) / middles[:, :half].mean(1)
    return {"jerk": float(jerk.mean() / real_jerk.mean()), "speed": float(speed.mean() / real_speed.mean()),
            "jerk_95": float(np.quantile(jerk, 0.95) / np.quantile(real_jerk, 0.95)),
            "drift_jerk": float(drift[0]), "drift_speed": float(drift[1])}


def peaks(motion: Motion, frames: Sequence[int]) -> np.ndarray:
    """(2, N): the largest jerk (m/s^3) and speed (m/s), means over the joints, within REACH of each of N frames."""
    reach = round(REACH * motion.fps)
    jerk, speed = (np.linalg.norm(np.diff(motion.joints.astype(float), n, axis=0), axis=-1).mean(1) * motion.fps**n
                   for n in (3, 1))
    return np.array([[values[max(0, frame - reach):frame + reach].max(initial=0) for frame in frames]
                     for values in (jerk, speed)]).reshape(2, len(frames))


def format_figures(figures: Mapping) -> str:
    lines = [f"{figures['scenes']} scenes of {figures['segments']} segments by {figures['model']}: all valid, their "
             f"spans exact; {figures['tokens']} tokens in {figures['seconds']:.0f} s, "
             f"{figures['memory_mb']:.0f} MB at most",
             "segments that show their caption, by their place: "
             + ", ".join(f"{share:.0%}" for share in figures["shown"])]
    if "seams" in figures:
        seams = figures["seams"]
        lines.append(f"at seams, over real clips: jerk {seams['jerk']:.2f} (95th percentile {seams['jerk_95']:.2f}), "
                     f"speed {seams['speed']:.2f}")
        lines.append(f"in the second half of the segments, over the first: jerk {seams['drift_jerk']:.2f}, speed "
                     f"{seams['drift_speed']:.2f}")
    return "\n".join(lines)
