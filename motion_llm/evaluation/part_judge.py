"""Joints of each part of a figure apart: how far they are from the real clip's, and whether they move as much."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from motion_llm.evaluation.intervals import Estimate, mean_over_captions
from motion_llm.evaluation.joint_judge import JointJudge
from motion_llm.evaluation.joint_metrics import dtw_joint_error, dtw_pa_joint_error, mean_speed, temporal_spread
from motion_llm.evaluation.metric_names import ANOTHER, MODEL, NEAREST, PART_METRICS, RANDOM, SPLITS, Table, blank
from motion_llm.evaluation.progress import with_bar
from motion_llm.evaluation.stream_clips import present
from motion_llm.evaluation.table import ClipSet, Judge
from motion_llm.motion.codec import MotionCodec
from motion_llm.motion.features import Layout
from motion_llm.motion.kinematics import ancestors
from motion_llm.motion.parts import HANDS, joints_of_parts, read_parts

WHOLE = "all joints"  # beside the parts; a part's name has no space
ROWS = (MODEL, ANOTHER, NEAREST, RANDOM)
MOST_FRAMES = 500  # of a clip that are aligned; a pair of poses costs some microseconds
FEWEST_JOINTS = 3  # the alignment leaves no error of fewer

Ratio = tuple[float, float]  # of the clip, of the real clip


def parts_of(told: str | None, codec: MotionCodec) -> Mapping[str, Sequence[int]]:
    """Part -> its joints, indices into codec.layout.body: those of the codec, or those that are told, "hands" or a file
    of joints' names by part (motion_llm/motion/parts.py). Raises CodecError, OSError."""
    if told is None:
        return codec.parts
    return joints_of_parts(codec.layout, HANDS if told == HANDS else read_parts(told))


def anchor_of(part: Sequence[int], layout: Layout) -> int:
    """The joint, an index into layout.body, that a part's joints are told relative to: the lowest one of another part
    that all of them hang on, as the wrist of a hand; the body's centre (0) where there is none."""
    place = {joint: i for i, joint in enumerate(layout.body)}
    parents = tuple(place[layout.skeleton.parents[joint]] if i else -1 for i, joint in enumerate(layout.body))
    shared = set.intersection(*(set(ancestors(joint, parents)) for joint in part)) - set(part)
    return max(shared, default=0)


class PartJudge:
    """joints: of the whole figure. parts: of parts_of."""

    def __init__(self, joints: JointJudge, parts: Mapping[str, Sequence[int]]):
        layout = joints.codec.layout
        self.joints = joints
        self.parts = {WHOLE: list(range(len(layout.body)))} | {name: list(part) for name, part in parts.items()}
        self._anchors = {name: anchor_of(part, layout) for name, part in self.parts.items()}

    def values(self, name: str, clip: Sequence[int], place: int) -> dict[str, float | Ratio | None]:
        """The PART_METRICS of a part in a clip beside the real clip of a row; ratios as their two numbers. All None for
        a clip that cannot be decoded, and where one of the two lacks the part's stream."""
        real = self.joints.real[place]
        if not self.joints.decodes(clip) or self._lacks(name, clip) or self._lacks(name, real):
            return dict.fromkeys(PART_METRICS)
        own, other = (self._poses(name, codes) for codes in (clip, real))
        pair = [poses[::math.ceil(len(poses) / MOST_FRAMES)] for poses in (own, other)]
        speeds = [mean_speed(poses, self.joints.rate(codes)) for poses, codes in ((own, clip), (other, real))]
        spreads = temporal_spread(own), temporal_spread(other)
        return {"dtw_jpe": 1000 * dtw_joint_error(*pair),
                "dtw_pa_jpe": 1000 * dtw_pa_joint_error(*pair) if len(self.parts[name]) >= FEWEST_JOINTS else None,
                "speed_ratio": None if None in speeds or not speeds[1] else tuple(speeds),
                "spread_ratio": spreads if spreads[1] else None}

    def _poses(self, name: str, codes: Sequence[int]) -> np.ndarray:
        """(T, J, 3): the part's joints relative to its anchor, every frame turned to face ahead."""
        poses = self.joints.poses(codes)
        return poses[:, self.parts[name]] - poses[:, [self._anchors[name]]]

    def _lacks(self, name: str, codes: Sequence[int]) -> bool:
        streams = self.joints.codec.streams
        return name in streams.names and name not in present(codes, streams)


def score_parts(judge: Judge, parts: PartJudge) -> dict[str, Table]:
    """Part -> a table of PART_METRICS for the clips of judge.sets; of baselines their first set alone."""
    sets = {row: judge.sets[row][:None if row == MODEL else 1] for row in ROWS if row in judge.sets}
    jobs = [(name, row, clip_set) for name in parts.parts for row, of_row in sets.items() for clip_set in of_row]
    values: dict[tuple[str, str], list] = {}
    for name, row, clip_set in with_bar(jobs, len(jobs), "joints by part", "set"):
        values.setdefault((name, row), []).append(
            [parts.values(name, clip, place) for clip, place in zip(clip_set.clips, clip_set.places, strict=True)])
    tables: dict[str, Table] = {}
    for (name, row), of_sets in values.items():
        tables.setdefault(name, {})[row] = _estimates(judge, sets[row], of_sets)
    return tables


def _estimates(judge: Judge, sets: Sequence[ClipSet], of_sets: Sequence[Sequence[Mapping]]
               ) -> dict[str, dict[str, Estimate]]:
    """split -> metric -> Estimate. A ratio is that of the means over clips: a clip counts by its real clip's number."""
    pairs = [pair for clip_set, values in zip(sets, of_sets, strict=True)
             for pair in zip(clip_set.places, values, strict=True)]
    estimates = blank(PART_METRICS)
    for split in SPLITS:
        inside = [(place, values) for place, values in pairs if split in ("all", judge.rows[place].kind)]
        rng = np.random.default_rng(judge.seed)
        for name in PART_METRICS:
            there = [(place, values[name]) for place, values in inside if values[name] is not None]
            places = [place for place, _ in there]
            ratios = name.endswith("_ratio")
            estimates[split][name] = mean_over_captions(
                [value[0] / value[1] if ratios else value for _, value in there],
                [judge.rows[place].key for place in places], rng, clips=places,
                weights=[value[1] for _, value in there] if ratios else None)
    return estimates
