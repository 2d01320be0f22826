"""What finishes a motion for use elsewhere: its still ends cut, its way taken out, feet that do not slide, and how well
its end meets its start. Commands offer the first three by `add_finishing_flags`.
"""

import math
from argparse import ArgumentParser, Namespace
from dataclasses import dataclass

import numpy as np

from motion_llm.motion.features import Layout, heading_of, staying, travelling_centre, turned
from motion_llm.motion.feet import scale_of, smoothed, with_clean_feet
from motion_llm.motion.kinematics import ancestors
from motion_llm.motion.legs import legs_of
from motion_llm.motion.skeleton import Motion, MotionError, Skeleton

# The fastest joint of a recorded person who stands moves by 0.02 to 0.1 m/s, as people sway and breathe, and already a
# slow bow moves the head by 0.2 m/s.
STILL = 0.1  # metres a second, for a person's size
SMOOTH = 0.1  # seconds: deviation of the Gaussian that smooths the paths before speeds are taken
MARGIN = 0.2  # seconds that stay before and after movement, which begins and ends slowly
FINISHING = ("clean_feet", "trim", "in_place")  # the flags
LEAST = 0.5  # seconds of a motion without movement that stay


def trimmed(motion: Motion) -> Motion:
    """The motion from MARGIN before the first movement to MARGIN after the last one: frames are cut at both ends while
    no joint is faster than STILL. A motion without movement keeps its first LEAST seconds."""
    if len(motion) < 2:
        return motion
    paths = smoothed(motion.joints.astype(float), SMOOTH * motion.fps)
    fastest = np.linalg.norm(np.gradient(paths, axis=0), axis=-1).max(1) * motion.fps
    moving = np.flatnonzero(fastest > STILL * scale_of(motion.skeleton))
    if not len(moving):
        return _part(motion, 0, max(round(LEAST * motion.fps), 1))
    margin = round(MARGIN * motion.fps)
    return _part(motion, max(moving[0] - margin, 0), moving[-1] + margin + 1)


def _part(motion: Motion, start: int, end: int) -> Motion:
    rotations = None if motion.rotations is None else motion.rotations[start:end]
    return Motion(motion.joints[start:end], motion.fps, motion.skeleton, rotations)


def in_place(motion: Motion) -> Motion:
    """The motion on the spot: the joint that the body hangs on stays above the point of the ground where it begins, as
    do the joints above it. Heights and turns stay, so that a figure that walks a circle turns on the spot."""
    still, travels = staying(motion.joints)
    centre = travelling_centre(motion.skeleton.parents, still[None], travels[None])
    way = (motion.joints - motion.joints[:1]) * np.array((1, 0, 1), motion.joints.dtype)
    joints = motion.joints - np.where(still[:, None], 0, way[:, [centre]])  # helpers that stand still go on doing so
    above = ancestors(centre, motion.skeleton.parents)
    joints[:, above] = motion.joints[:, above] - way[:, above]
    return Motion(joints.astype(motion.joints.dtype), motion.fps, motion.skeleton, motion.rotations)


@dataclass(frozen=True)
class Seam:
    """Means over the body's joints where the first frame follows the last one, and in the motion: speed in metres a
    second, jerk in metres a second cubed."""

    speed: float
    own_speed: float
    jerk: float
    own_jerk: float


def seam_of(motion: Motion) -> Seam:
    """How well a motion meets its start when it is played again and again, where it goes on from the place and in the
    direction that it has reached: by a last step that is the mean of the last one and the first one, over the ground
    and in turning. speed: of the step from the last frame to the first; jerk: of the three third differences that cross
    the seam. A loop without a visible seam has the motion's own. Raises MotionError for less than four frames."""
    if len(motion) < 4:
        raise MotionError(f"{len(motion)} frames: expected four or more for a seam")
    joints, layout = motion.joints.astype(float), _layout(motion)
    heading, centre = heading_of(joints, layout), joints[:, layout.centre] * (1, 0, 1)
    turn = (heading[1] - heading[0] + heading[-1] - heading[-2]) / 2
    steps = turned(np.diff(centre, axis=0)[[0, -1]], -heading[[0, -2]])  # as seen from the frames where they begin
    place = centre[-1] + turned(steps.mean(0)[None], heading[-1:])[0]
    again = turned(joints[:3] - centre[0], np.full(3, heading[-1] + turn - heading[0])) + place
    joined = np.concatenate([joints[-3:], again])[:, layout.body]
    speed, jerk = (np.linalg.norm(np.diff(joined, n, axis=0), axis=-1).mean(1) for n in (1, 3))
    own_speed, own_jerk = (np.linalg.norm(np.diff(joints[:, layout.body], n, axis=0), axis=-1).mean() for n in (1, 3))
    rate = motion.fps
    return Seam(float(speed[2] * rate), float(own_speed * rate), float(jerk.mean() * rate**3),
                float(own_jerk * rate**3))


def closing_jerk(motion: Motion, frame: int) -> float:
    """How roughly a loop is closed that goes back to its start from `frame` on: the mean jerk, in metres a second
    cubed, of the seam, or of the third differences that cross `frame`, if that is more. Infinite for less than four
    frames."""
    if len(motion) < 4:
        return math.inf
    around = motion.joints[max(0, frame - 3):frame + 3, _layout(motion).body].astype(float)
    begun = np.linalg.norm(np.diff(around, 3, axis=0), axis=-1).mean() if frame < len(motion) else 0
    return max(seam_of(motion).jerk, float(begun) * motion.fps**3)


def _layout(motion: Motion) -> Layout:
    still, travels = staying(motion.joints.astype(float))
    return Layout.of(motion.skeleton, travelling_centre(motion.skeleton.parents, still[None], travels[None]))


def add_finishing_flags(parser: ArgumentParser) -> None:
    """--clean_feet, --trim and --in_place, which `check_finishing` and `finished` take."""
    parser.add_argument("--clean_feet", action="store_true", help="hold the feet in their places while they stand")
    parser.add_argument("--trim", action="store_true", help="cut the start and the end where the figure stands still")
    parser.add_argument("--in_place", action="store_true", help="on the spot: without the way over the ground")


def check_finishing(args: Namespace, skeleton: Skeleton) -> None:
    """Raises MotionError where a flag cannot work on this figure, before there is a motion."""
    if args.clean_feet:
        try:
            legs_of(skeleton)
        except MotionError as error:
            raise MotionError(f"--clean_feet: {error}") from None


def finished(motion: Motion, args: Namespace) -> Motion:
    """The motion as the flags tell. Feet come first, while they are above the ground that they stand on and the still
    ends tell where that is. Raises MotionError."""
    if args.clean_feet:
        motion = with_clean_feet(motion)
    if args.trim:
        motion = trimmed(motion)
    return in_place(motion) if args.in_place else motion
