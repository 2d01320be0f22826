"""The reconstruction error of codecs: `python bench.py codec --motions clips/`.

Every fifth clip is held out, and codecs are fitted to the others. Each held-out clip is encoded and decoded, and
compared with the original after both are moved to the same position and heading in the first frame.

Then codecs of levels, and of parts where --parts tells them, against one codebook of the same number of tokens a
second, which has the shorter window: how far the joints of each part are off, in the frame's own place and heading.
"""

import logging
import time
from collections.abc import Mapping, Sequence

import numpy as np

from motion_llm.motion.bvh import SCALE
from motion_llm.motion.clip_files import MotionFiles
from motion_llm.motion.codec import QUANTISERS, WINDOW, MotionCodec
from motion_llm.motion.features import Layout, features_of, feet_of, heading_of, joint_errors, joint_order, turned
from motion_llm.motion.kinematics import resampled
from motion_llm.motion.parts import HANDS, joints_of_parts, read_parts
from motion_llm.motion.skeleton import Motion

log = logging.getLogger(__name__)
EVERY = 5  # one of this many clips is held out
STANDING, NEAR_FLOOR = 0.15, 0.03  # a standing foot is slower than this (m/s) and less above its low height (m)
WORST = 0.1  # share of the clips, those with the largest error: a mean hides motions that a codec cannot encode
LOW = 0.05  # quantile of a foot's heights that is its low height


def add_arguments(parser) -> None:
    parser.add_argument("--motions", required=True, metavar="FOLDER", help="BVH files of one figure")
    parser.add_argument("--codes", type=int, metavar="K", help="Default: chosen from the seconds of "
                        "motion")
    parser.add_argument("--window", type=int, default=WINDOW, metavar="N", help=f"frames a code. Default: {WINDOW}")
    parser.add_argument("--scale", type=float, default=SCALE, metavar="METRES",
                        help=f"metres a unit of the BVH files. Default: {SCALE}, centimetres")
    parser.add_argument("--kinds", nargs="+", choices=QUANTISERS, default=QUANTISERS[::-1], help="Default: all; the "
                        "network takes many minutes")
    parser.add_argument("--parts", metavar="FILE", help=f"parts of the figure, as of codec.py fit: JSON, or {HANDS}")
    parser.add_argument("--levels", type=int, default=2, metavar="N", help="of the residual quantiser. Default: 2")


def run(args, settings: Mapping) -> dict:
    """Metrics of each kind of codec, and of the original clips. Raises ValueError or a subclass of it, and OSError."""
    motions = list(MotionFiles(args.motions, scale=args.scale))
    held, rest = motions[::EVERY], [motion for i, motion in enumerate(motions) if i % EVERY]
    if not rest:
        raise ValueError(f"{args.motions} holds {len(motions)} clips, expected two or more: one of {EVERY} is held out")
    parts = args.parts if args.parts in (None, HANDS) else read_parts(args.parts)
    figures = {"clips": len(rest), "held_out": len(held), "window": args.window, "codecs": {}}
    codecs = {}
    for kind in args.kinds:
        started = time.monotonic()
        codec = codecs[kind] = MotionCodec.fit(rest, args.codes, args.window, kind)
        seconds = time.monotonic() - started
        figures["codes"] = codec.codes
        figures["codecs"][kind] = measured(codec, held) | {"fit_seconds": seconds}
    figures["originals"] = originals(codec, held)
    figures["streams"] = of_streams(codecs, rest, held, parts, args.levels)
    return figures


def of_streams(codecs: Mapping[str, MotionCodec], rest: Sequence[Motion], held: Sequence[Motion],
               parts: str | Mapping | None, levels: int) -> dict:
    """Codec -> tokens_per_second, and "fitted" and "held_out", each part -> millimetres: of the codecs (kind -> codec
    of one codebook), of codecs of parts and levels of their codes and window, and of one codebook at their rates.
    rest, held: the clips that codecs are fitted to, and the others."""
    layout = next(iter(codecs.values())).layout
    joints = {} if parts is None else {name: list(of) for name, of in joints_of_parts(layout, parts).items()}
    rows = {}

    def add(name: str, codec: MotionCodec) -> None:
        log.info("measuring %s", name)
        errors = {kind: 1000 * np.concatenate([codec.distances(motion) for motion in motions])
                  for kind, motions in (("fitted", rest), ("held_out", held))}
        rows[name] = {"tokens_per_second": codec.streams.count * codec.fps / codec.window} | {
            kind: {"all": float(values.mean())} | {part: float(values[:, of].mean()) for part, of in joints.items()}
            for kind, values in errors.items()}

    for kind, codec in codecs.items():
        add(f"{kind}, one codebook", codec)
        several = {f"{len(joints)} parts": {"parts": parts}} if joints else {}
        if kind == "kmeans":
            several[f"{levels} levels"] = {"levels": levels}
        codes = codec.codes
        for window in sorted({window_of(kind, codec.window, len(joints) if "parts" in options else levels)
                              for options in several.values()}, reverse=True):
            add(f"{kind}, one codebook, {window} frames", MotionCodec.fit(rest, codes, window, kind))
        for name, options in several.items():
            add(f"{kind}, {name}", MotionCodec.fit(rest, codes, codec.window, kind, **options))
    return rows


def window_of(kind: str, window: int, streams: int) -> int:
    """Frames a code at which one codebook of a kind has as many codes a second as several streams, or more."""
    shorter = max(window // streams, 1)
    return shorter if kind == "kmeans" else 1 << (shorter.bit_length() - 1)


def measured(codec: MotionCodec, motions: Sequence[Motion]) -> dict:
    """Metrics of a codec on motions, see `FIGURES`."""
    codes = [codec.encode(motion) for motion in motions]
    pairs = [(ground(motion, codec), codec.decode(clip).joints) for motion, clip in zip(motions, codes, strict=True)]
    pairs = [(original, decoded[:len(original)]) for original, decoded in pairs]
    return compared(pairs, codec) | {"codes_used": len({code for clip in codes for code in clip})}


def originals(codec: MotionCodec, motions: Sequence[Motion]) -> dict:
    """The same metrics of the original motions: they have no error, but some sliding and jerk."""
    return compared([(ground(motion, codec),) * 2 for motion in motions], codec)


def ground(motion: Motion, codec: MotionCodec) -> np.ndarray:
    """Joints (T, J, 3) of the original, as the codec encodes it: at its rate, in its order; without `pads`, in whole
    windows."""
    motion = resampled(motion, codec.fps)
    joints = motion.joints[:, joint_order(motion, codec.layout)]
    return joints if codec.pads else joints[:len(joints) // codec.window * codec.window]


def compared(pairs: Sequence[tuple[np.ndarray, np.ndarray]], codec: MotionCodec) -> dict:
    """Metrics from pairs of original and decoded joints (T, J, 3)."""
    layout, fps, window = codec.layout, codec.fps, codec.window
    all_originals = Motion(np.concatenate([original for original, _ in pairs]), fps, layout.skeleton)
    feet = [layout.body[i] for i in feet_of(features_of(all_originals, layout), layout)]
    metrics: dict[str, list] = {name: [] for name in (  # of each: an array of values for each clip
        "local", "world", "drift", "jerk", "sliding", "border_step", "inner_step", "border_turn", "inner_turn")}
    for original, decoded in pairs:
        a, b = _from_start(original, layout), _from_start(decoded, layout)
        metrics["local"].append(joint_errors(original, decoded, layout))
        metrics["world"].append(_distance(a[:, layout.body], b[:, layout.body]))
        metrics["drift"].append(np.linalg.norm((a - b)[-1, layout.centre, [0, 2]])[None] * fps / len(a))
        body = b[:, layout.body]
        step, change, jerk = (np.linalg.norm(np.diff(body, n, axis=0), axis=-1).mean(1) for n in (1, 2, 3))
        metrics["jerk"].append(jerk * fps**3)
        for name, values, order in (("step", step, 1), ("turn", change, 2)):
            # value i of a difference ends at frame i + order: it crosses a border if that frame begins a window
            border = (np.arange(len(values)) + order) % window == 0
            metrics[f"border_{name}"].append(values[border])
            metrics[f"inner_{name}"].append(values[~border])
        for foot in feet:
            standing = stands(a[:, foot], fps)
            metrics["sliding"].append(_speed(b[:, foot], fps)[standing])
    by_clip = sorted(float(values.mean()) for values in metrics["local"])
    worst = by_clip[-max(1, round(WORST * len(by_clip))):]
    mean = {name: float(np.concatenate(values).mean()) for name, values in metrics.items()
            if sum(map(len, values))}  # windows of one frame have no inside, and feet may never stand
    return {"local_mm": 1000 * mean["local"], "worst_mm": 1000 * sum(worst) / len(worst),
            "world_mm": 1000 * mean["world"], "drift_mm_s": 1000 * mean["drift"], "jerk": mean.get("jerk"),
            "sliding_cm_s": 100 * mean["sliding"] if "sliding" in mean else None,
            "step_at_border": _ratio(mean, "step"), "velocity_at_border": _ratio(mean, "turn")}


def _ratio(mean: Mapping[str, float], name: str) -> float | None:
    border, inner = mean.get(f"border_{name}"), mean.get(f"inner_{name}")
    return border / inner if border is not None and inner else None


def _from_start(joints: np.ndarray, layout: Layout) -> np.ndarray:
    """The joints (T, J, 3), moved and turned so that the first frame is above the origin and faces z."""
    return turned(joints - joints[:1, [layout.centre]] * (1, 0, 1),
                  np.full(len(joints), -heading_of(joints, layout)[0]))


def _distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(T,) mean distance of the joints, metres."""
    return np.linalg.norm(a - b, axis=-1).mean(1)


def _speed(points: np.ndarray, fps: float) -> np.ndarray:
    """Speed (T - 1,) over the ground, metres a second."""
    return np.linalg.norm(np.diff(points[:, [0, 2]], axis=0), axis=-1) * fps


def stands(foot: np.ndarray, fps: float) -> np.ndarray:
    """Whether the foot (T, 3) stands, from each frame to the next (T - 1,)."""
    low = np.quantile(foot[:, 1], LOW) + NEAR_FLOOR
    return (_speed(foot, fps) < STANDING) & (foot[1:, 1] < low) & (foot[:-1, 1] < low)


FIGURES = {  # metric -> heading in the table, number format
    "local_mm": ("joints off, own heading, mm", "{:.1f}"),
    "worst_mm": ("... in the worst tenth of clips", "{:.1f}"),
    "world_mm": ("joints off in the world, mm", "{:.0f}"),
    "drift_mm_s": ("drift, mm/s", "{:.0f}"),
    "jerk": ("jerk, m/s3", "{:.0f}"),
    "step_at_border": ("step at a border / inside", "{:.2f}"),
    "velocity_at_border": ("change of velocity, same", "{:.2f}"),
    "sliding_cm_s": ("sliding of standing feet, cm/s", "{:.1f}"),
    "codes_used": ("codes used", "{:d}"),
    "fit_seconds": ("seconds to fit", "{:.0f}"),
}


def format_figures(figures: Mapping) -> str:
    columns = figures["codecs"] | {"originals": figures["originals"]}
    lines = [f"{figures['held_out']} held-out clips; codecs of {figures['codes']} codes of {figures['window']} frames "
             f"from {figures['clips']} others", "", f"{'':<32}" + "".join(f"{name:>12}" for name in columns)]
    for key, (heading, form) in FIGURES.items():
        cells = [form.format(metrics[key]) if metrics.get(key) is not None else "" for metrics in columns.values()]
        lines.append((f"{heading:<32}" + "".join(f"{cell:>12}" for cell in cells)).rstrip())
    return "\n".join([*lines, "", *_stream_lines(figures["streams"])])


def _stream_lines(rows: Mapping) -> list[str]:
    """A line for each codec: tokens a second, then millimetres of each part on fitted and on held-out clips."""
    parts = list(next(iter(rows.values()))["fitted"])
    lines = ["joints off, own heading, mm: of clips that were fitted / held out",
             f"{'':<36}{'tokens/s':>9}" + "".join(f"{part[:14]:>16}" for part in parts)]
    for name, row in rows.items():
        cells = [f"{row['fitted'][part]:.1f} / {row['held_out'][part]:.1f}" for part in parts]
        lines.append(f"{name:<36}{row['tokens_per_second']:>9.1f}" + "".join(f"{cell:>16}" for cell in cells))
    return lines
