"""The legs of a figure, and inverse kinematics that moves a foot: hip, knee and ankle turn, no bone changes its length.
"""

from dataclasses import dataclass

import numpy as np

from motion_llm.motion.features import turned
from motion_llm.motion.kinematics import ancestors, smallest_rotation
from motion_llm.motion.names import listed
from motion_llm.motion.rest_pose import SHORT, Limbs
from motion_llm.motion.skeleton import Motion, MotionError, Skeleton

SOFT = 0.03  # of a leg's length: where it lacks less than this to be straight, an ankle comes less far than is wanted
STRAIGHT = 0.001  # of a leg's length: one that lacks less bends as if it lacked this, for else it would not bend at all


@dataclass(frozen=True)
class Leg:
    """Indices of joints. toe: the joint or the tip that the ankle carries; None where the figure has none."""

    hip: int
    knee: int
    ankle: int
    toe: int | None

    @property
    def foot(self) -> tuple[int, ...]:
        """Ankle and toe, or the ankle alone."""
        return (self.ankle,) if self.toe is None else (self.ankle, self.toe)


def legs_of(skeleton: Skeleton) -> tuple[Leg, Leg]:
    """The left and the right leg; thigh and shin are the two bones in a row that are the longest together. Raises
    MotionError where they cannot be told."""
    try:
        limbs = Limbs.of(skeleton)
    except MotionError as error:
        raise MotionError(f"the feet are not found: {error}") from None
    thigh, shin = limbs.leg_bones(skeleton)
    legs = []
    for side, leg in zip(("left", "right"), limbs.legs, strict=True):
        if len(leg) <= shin or np.linalg.norm(skeleton.offsets[list(leg[thigh:shin + 1])], axis=1).min() < SHORT:
            raise MotionError(f"the feet are not found: expected hip, knee and ankle in the {side} leg, such as "
                              "LeftUpLeg, LeftLeg, LeftFoot or left_hip, left_knee, left_ankle; found "
                              f"{listed([skeleton.names[joint] for joint in leg])} of {listed(skeleton.names)}")
        tips = [tip for tip in skeleton.ends if skeleton.parents[tip] == leg[shin]]
        toe = next(iter((*leg[shin + 1:shin + 2], *tips)), None)
        legs.append(Leg(*leg[thigh - 1:shin + 1], toe))
    return legs[0], legs[1]


def with_feet_at(motion: Motion, legs: tuple[Leg, Leg], moves: np.ndarray, yaws: np.ndarray) -> Motion:
    """The motion with each foot moved over the ground by moves (2, T, 2), metres along x and z, and turned to the left
    about its ankle by yaws (2, T) in radians. The foot keeps its slope, and its height if the leg reaches it; the knee
    keeps the plane in which it bends. Where a leg is nearly straight, the distance from hip to ankle changes less
    than is wanted, so that the knee does not pop."""
    joints = motion.joints.copy()
    rotations = None if motion.rotations is None else motion.rotations.copy()
    across = joints[:, legs[0].hip].astype(float) - joints[:, legs[1].hip]
    for leg, move, yaw in zip(legs, moves, yaws, strict=True):
        bones = np.diff(joints[:, [leg.hip, leg.knee, leg.ankle]].astype(float), axis=1)
        shortest = np.minimum(np.linalg.norm(bones, axis=-1).min(1), np.linalg.norm(bones.sum(1), axis=-1))
        frames = np.flatnonzero((move.any(1) | (yaw != 0)) & (shortest > SHORT))
        turns = _turns(bones[frames], np.insert(move[frames], 1, 0, axis=1), yaw[frames], across[frames])
        _turn_joints(joints, frames, leg, turns, motion.skeleton.parents)
        if rotations is not None:
            _turn_rotations(rotations, frames, leg, turns, motion.skeleton.parents)
    return Motion(joints, motion.fps, motion.skeleton, rotations)


def _turns(bones: np.ndarray, move: np.ndarray, yaw: np.ndarray, across: np.ndarray) -> tuple[np.ndarray, ...]:
    """Turns (T, 3, 3) in the world of thigh, shin and foot, so that the ankle moves by move (T, 3). bones (T, 2, 3):
    thigh and shin. across (T, 3): from the right hip to the left one; a straight leg's knee is ahead of it."""
    thigh, shin, line = bones[:, 0], bones[:, 1], bones.sum(1)
    upper, lower, before, wanted = (np.linalg.norm(v, axis=1, keepdims=True) for v in (thigh, shin, line, line + move))
    direction = (line + move) / wanted
    after = _reached(before, wanted, upper + lower, np.abs(upper - lower))
    tilt = smallest_rotation(line, direction)
    thigh, shin = ((tilt @ bone[..., None])[..., 0] for bone in (thigh, shin))
    along = (upper**2 + after**2 - lower**2) / (2 * after)  # of the thigh along the line: law of cosines
    height = np.sqrt(np.maximum(upper**2 - along**2, 0))  # of the knee above the line
    side = thigh - direction * (thigh * direction).sum(1, keepdims=True)
    ahead = np.cross(direction, across)
    ahead /= np.maximum(np.linalg.norm(ahead, axis=1, keepdims=True), SHORT)
    # A straight leg has no plane in which it bends: the less it is bent, the more it will be bent ahead.
    side = side + np.abs(height - np.linalg.norm(side, axis=1, keepdims=True)) * ahead
    side /= np.maximum(np.linalg.norm(side, axis=1, keepdims=True), 1e-12)
    knee = along * direction + height * side
    foot = np.swapaxes(turned(np.broadcast_to(np.eye(3), (len(yaw), 3, 3)), yaw), 1, 2)
    return smallest_rotation(thigh, knee) @ tilt, smallest_rotation(shin, after * direction - knee) @ tilt, foot


def _reached(before: np.ndarray, wanted: np.ndarray, longest: np.ndarray, shortest: np.ndarray) -> np.ndarray:
    """The distance (T, 1) that an ankle gets from its hip, which was `before` and is `wanted`: the same as before if
    that is wanted, and always below `longest`, thigh and shin together, or where it was. It is a smooth function.

    As in the soft inverse kinematics of animation programs: the last part of the leg's length stands for an endless
    one, because the knee turns endlessly fast where the leg becomes straight."""
    soft = SOFT * longest
    start = longest - soft

    def squeezed(length: np.ndarray) -> np.ndarray:
        return np.where(length < start, length, longest - soft * np.exp(np.minimum(start - length, 0) / soft))

    inner = np.minimum(before, (1 - STRAIGHT) * longest)
    unsqueezed = np.where(inner < start, inner, start - soft * np.log((longest - np.maximum(inner, start)) / soft))
    after = squeezed(unsqueezed + wanted - before) + before - squeezed(unsqueezed)
    return np.clip(after, np.minimum(before, shortest + soft), np.maximum(before, longest))


def _turn_joints(joints: np.ndarray, frames: np.ndarray, leg: Leg, turns: tuple[np.ndarray, ...],
                 parents: tuple[int, ...]) -> None:
    """Turns the leg's segments, with all that hangs on them, in joints (T, J, 3)."""
    segment = {leg.hip: 0}  # joint -> the segment that turns with it: thigh, shin or foot
    places = {leg.hip: joints[frames, leg.hip].astype(float)}  # where it gets
    for joint in range(leg.hip + 1, len(parents)):
        parent = parents[joint]
        if parent in segment:
            segment[joint] = {leg.knee: 1, leg.ankle: 2}.get(joint, segment[parent])
            bone = joints[frames, joint].astype(float) - joints[frames, parent]
            places[joint] = places[parent] + (turns[segment[parent]] @ bone[..., None])[..., 0]
    for joint, place in places.items():
        joints[frames, joint] = place


def _turn_rotations(rotations: np.ndarray, frames: np.ndarray, leg: Leg, turns: tuple[np.ndarray, ...],
                    parents: tuple[int, ...]) -> None:
    """The same in local rotations (T, J, 3, 3), of which those of hip, knee and ankle change."""
    above = np.broadcast_to(np.eye(3), (len(frames), 3, 3))  # the parent's rotation in the world, before the turns
    for joint in ancestors(leg.hip, parents):
        above = above @ rotations[frames, joint]
    outer = np.eye(3)  # the turn of the parent
    for joint, turn in zip((leg.hip, leg.knee, leg.ankle), turns, strict=True):
        local = rotations[frames, joint].astype(float)
        rotations[frames, joint] = np.swapaxes(above, 1, 2) @ np.swapaxes(outer, -1, -2) @ turn @ above @ local
        above, outer = above @ local, turn
