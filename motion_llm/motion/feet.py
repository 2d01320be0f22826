"""Feet on the ground: when they stand, how much they slide, and the same motion with feet that stay where they stand.

After Kovar, Schreiner and Gleicher, "Footskate Cleanup for Motion Capture Editing" (2002): contacts are found, each
foot gets one place for the time of a contact, and the ways there and back are blended. Other than there, no bone is
stretched and the hips stay where they are.
"""

from collections.abc import Iterator

import numpy as np

from motion_llm.motion.features import turned
from motion_llm.motion.kinematics import ancestors, body_centre, body_size
from motion_llm.motion.legs import Leg, legs_of, with_feet_at
from motion_llm.motion.skeleton import Motion, Skeleton

PERSON = 1.7  # metres: height of the person to whom the lengths and speeds below belong
FLOOR = 0.05  # quantile of the heights of the lower one of both ankles, or toes: the height in which they stand
LOW, LIFTED = 0.03, 0.05  # metres above that: in a contact a joint comes below the first, and stays below the second
SLOW, FAST = 0.5, 1.0  # of the hips' speed over the ground: it comes below the first, and stays below the second
SLOWEST, FASTEST = (0.13, 0.4), (0.2, 1.0)  # metres a second: bounds of the first, and of the second
SMOOTH, SMOOTH_HIPS = 0.06, 0.25  # seconds: deviation of the Gaussian that smooths a path before its speed is taken
SHORTEST = 0.1  # seconds of a contact
RAMP = 0.08  # seconds in which a foot comes to rest when a contact begins, and gets loose when it ends
BLEND = 0.2  # seconds in which it comes back from its place in a contact to its own path
FARTHEST, MOST_YAW = 0.12, 0.5  # metres, radians: a foot is not moved and turned by more; what would be more slides
WEIGHTED = 0.025  # metres: see foot_sliding


def scale_of(skeleton: Skeleton) -> float:
    """The figure's size: 1 for a person."""
    bones, centre = np.linalg.norm(skeleton.offsets, axis=1), body_centre(skeleton.parents)
    bones[[*ancestors(centre, skeleton.parents), centre, *skeleton.ends]] = 0
    return body_size(bones, skeleton.parents) / PERSON


def foot_sliding(motion: Motion) -> float:
    """How fast the feet move over the ground while they are on it, in centimetres a second; 0 for one frame.

    The mean of the horizontal speed v of ankles and toes from each frame to the next, weighted by 2 - 2**(h / H): 1 at
    the height in which they stand (FLOOR), 0 at H above it and higher. It is the foot skating of Zhang et al., "Mode-
    Adaptive Neural Networks for Quadruped Motion Control" (2018), v (2 - 2**(h / H)) with H = 2.5 cm, divided by the
    weights' sum. h is the height above, the larger of the two frames', and H grows with the figure. There is no limit
    of speed, so that fast slides count; so does a foot that comes down, and real motion has more than 0. Raises
    MotionError for a figure without legs."""
    legs, reach = legs_of(motion.skeleton), WEIGHTED * scale_of(motion.skeleton)
    way = weights = 0.0
    for points, heights in _kinds(motion, legs):
        speed = np.linalg.norm(np.diff(points[..., [0, 2]], axis=0), axis=-1) * motion.fps
        weight = 2 - 2 ** np.clip(np.maximum(heights[1:], heights[:-1]) / reach, 0, 1)
        way, weights = way + float((speed * weight).sum()), weights + float(weight.sum())
    return 100 * way / weights if weights else 0.0


def _kinds(motion: Motion, legs: tuple[Leg, Leg]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Of the ankles, and of the toes where there are any: points (T, 2, 3) of left and right, and their heights (T, 2)
    above the one in which they stand."""
    for left, right in zip(legs[0].foot, legs[1].foot, strict=False):
        points = motion.joints[:, [left, right]].astype(float)
        yield points, points[..., 1] - np.quantile(points[..., 1].min(1), FLOOR)


def contacts_of(motion: Motion, legs: tuple[Leg, Leg]) -> np.ndarray:
    """(T, 2, 2) bool: whether ankle and toe of the left foot and of the right one stand: low, and slow for a body that
    moves as fast as this one, with hysteresis for both. Without a toe: False."""
    scale, fps = scale_of(motion.skeleton), motion.fps
    contacts = np.zeros((len(motion), 2, 2), bool)
    if len(motion) < 2:
        return contacts
    hips = motion.joints[:, [leg.hip for leg in legs]].astype(float).mean(1, keepdims=True)
    pace = _speed(hips, SMOOTH_HIPS, fps)  # (T, 1)
    slow, fast = (np.clip(share * pace, *(scale * np.array(bounds)))
                  for share, bounds in ((SLOW, SLOWEST), (FAST, FASTEST)))
    for kind, (points, heights) in enumerate(_kinds(motion, legs)):
        speed = _speed(points, SMOOTH, fps)  # smoothed, as decoded motions jump from code to code
        surely = (heights < LOW * scale) & (speed < slow)
        maybe = (heights < LIFTED * scale) & (speed < fast)
        for side in range(2):
            for start, end in runs_of(maybe[:, side]):
                contacts[start:end, side, kind] = surely[start:end, side].any() and end - start >= SHORTEST * fps
    return contacts


def _speed(points: np.ndarray, seconds: float, fps: float) -> np.ndarray:
    """Speed (T, n) of points (T, n, 3) over the ground in metres a second, on paths that are smoothed."""
    return np.linalg.norm(np.gradient(smoothed(points[..., [0, 2]], seconds * fps), axis=0), axis=-1) * fps


def smoothed(path: np.ndarray, frames: float) -> np.ndarray:
    """A path (T, ...), smoothed over time by a Gaussian with a standard deviation of so many frames."""
    half = int(np.ceil(3 * frames))
    weights = np.exp(-0.5 * (np.arange(-half, half + 1) / frames) ** 2)
    padded = np.pad(path, ((half, half), *[(0, 0)] * (path.ndim - 1)), mode="edge")
    return sum(weight * padded[i:i + len(path)] for i, weight in enumerate(weights / weights.sum()))


def runs_of(mask: np.ndarray) -> list[tuple[int, int]]:
    """(start, end) of the runs of True in mask (T,)."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]])))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def with_clean_feet(motion: Motion) -> Motion:
    """The motion with feet that stay in one place on the ground, and in one direction, while they stand. All heights,
    bone lengths and joints other than those of the legs stay. Raises MotionError for a figure without legs."""
    legs, scale = legs_of(motion.skeleton), scale_of(motion.skeleton)
    contacts = contacts_of(motion, legs)
    moves, yaws = np.zeros((2, len(motion), 2)), np.zeros((2, len(motion)))
    for side, leg in enumerate(legs):
        standing = contacts[:, side, :len(leg.foot)]
        runs, fps = runs_of(standing.any(1)), motion.fps
        points = motion.joints[:, leg.foot].astype(float)  # (T, 1 or 2, 3)
        if leg.toe is not None:
            line = points[:, 1] - points[:, 0]
            turn = np.diff(np.arctan2(line[:, 0], line[:, 2]))
            flat = (standing[1:] & standing[:-1]).all(1)
            turn = np.where(flat, (turn + np.pi) % (2 * np.pi) - np.pi, 0)
            yaws[side] = limited(held(-turn[:, None], runs, fps), MOST_YAW)[:, 0]
            points[:, 1] = points[:, 0] + turned(line, yaws[side])
        # The foot is held by what stands from one frame to the next: the heel first, both, and then the toe.
        holds = standing[1:] & standing[:-1]
        holds = np.where(holds.any(1, keepdims=True), holds, standing[1:])[..., None]
        slide = (np.diff(points[..., [0, 2]], axis=0) * holds).sum(1) / np.maximum(holds.sum(1), 1)
        moves[side] = limited(held(-slide, runs, fps), FARTHEST * scale)
    return with_feet_at(motion, legs, moves, yaws)


def held(steps: np.ndarray, runs: list[tuple[int, int]], fps: float) -> np.ndarray:
    """(T, n) of what changes by steps (T - 1, n) inside runs, with a mean of 0 in each. Outside it goes to 0, or to the
    next run where that is near. At the ends of a run that are not the motion's, the steps grow from 0 and go back to
    0, so that there is no sudden change of speed."""
    frames = len(steps) + 1
    values, blend = np.zeros((frames, steps.shape[1])), max(BLEND * fps, 1)
    for start, end in runs:
        from_start = np.arange(end - start - 1) + (0.5 if start else np.inf)
        to_end = np.arange(end - start - 1)[::-1] + (0.5 if end < frames else np.inf)
        share = eased(np.minimum(from_start, to_end) / max(RAMP * fps, 1))
        values[start + 1:end] = np.cumsum(share[:, None] * steps[start:end - 1], 0)
        values[start:end] -= values[start:end].mean(0)
    for (_, start), (end, _) in zip([(0, 0), *runs], [*runs, (frames, frames)], strict=True):
        gap, length = np.arange(start, end), end - start + 1  # length: from the last frame of a run to the next run
        near = start > 0 and end < frames and length <= 2 * blend
        if start > 0:
            values[gap] += (1 - eased((gap - start + 1) / (length if near else blend)))[:, None] * values[start - 1]
        if end < frames:
            values[gap] += (1 - eased((end - gap) / (length if near else blend)))[:, None] * values[end]
    return values


def eased(share: np.ndarray) -> np.ndarray:
    """From 0 to 1 for shares from 0 to 1, without a jump in speed or acceleration (Perlin 2002)."""
    share = np.clip(share, 0, 1)
    return share**3 * (10 - 15 * share + 6 * share**2)


def limited(values: np.ndarray, most: float) -> np.ndarray:
    """Values (T, n) with lengths below `most`; those of less than half of it hardly change."""
    return values / (1 + (np.linalg.norm(values, axis=-1, keepdims=True) / most) ** 4) ** 0.25
