"""The rest pose of a figure: what its limbs are, and the same motion told from another rest pose, such as a T-pose."""

from dataclasses import dataclass, replace
from itertools import takewhile

import numpy as np

from motion_llm.motion.features import rest_pose
from motion_llm.motion.kinematics import ancestors, global_rotations, smallest_rotation, with_rotations
from motion_llm.motion.names import listed, sides_of
from motion_llm.motion.skeleton import Motion, MotionError, Skeleton

REST_POSES = ("given", "t")
LEFT, UP, AHEAD = np.eye(3)
LIMB = 0.3  # of the longest limb's length: shorter pairs, such as eyes, are no limbs
FLAT = 0.5  # a line from the right to the left tells the heading if it is this long on the floor, as a share
SHORT, APART = 1e-6, 1e-3  # metres; shorter bones have no direction, nearer joints no line from one to the other


@dataclass(frozen=True)
class Limbs:
    """Joints of a figure. pelvis, chest: those that legs and arms hang on. legs, arms: of the left and of the right,
    the joints from the first that has a side to the end of the longest path. head: the joints from above the chest up.
    """

    pelvis: int
    chest: int
    legs: tuple[tuple[int, ...], tuple[int, ...]]
    arms: tuple[tuple[int, ...], tuple[int, ...]]
    head: tuple[int, ...]

    @staticmethod
    def of(skeleton: Skeleton) -> "Limbs":
        """Raises MotionError where they cannot be told: the names must tell the sides. The two longest pairs of limbs
        are the arms and the legs, and the legs hang nearer to the root."""
        names, parents = skeleton.names, skeleton.parents
        sides, partners = sides_of(names)
        pairs = [(joint, partners[joint]) for joint, parent in enumerate(parents) if joint and sides[joint] == 0
                 and sides[parent] is None and parent == parents[partners[joint]]]
        lengths = {pair: _length(longest_path(pair[0], skeleton), skeleton) for pair in pairs}
        longest = max(lengths.values(), default=0)
        pairs = sorted((pair for pair in pairs if lengths[pair] > max(LIMB * longest, SHORT)), key=lengths.get)[-2:]
        depths = [len(ancestors(left, parents)) for left, _ in pairs]
        if len(pairs) < 2 or depths[0] == depths[1]:
            raise MotionError("the figure's limbs cannot be told: expected legs, and arms that hang higher in the tree "
                              "of joints, with names that pair up (LeftArm and RightArm, arm_l and arm_r); found "
                              f"{listed([names[left] for left, _ in pairs]) or 'none'} of {listed(names)}")
        legs, arms = (tuple(longest_path(joint, skeleton) for joint in pair)
                      for _, pair in sorted(zip(depths, pairs, strict=True)))
        chest = parents[arms[0][0]]
        middle = [joint for joint, parent in enumerate(parents) if parent == chest and sides[joint] is None]
        heads = [tuple(takewhile(lambda joint: sides[joint] is None, longest_path(joint, skeleton)))
                 for joint in middle]
        return Limbs(parents[legs[0][0]], chest, legs, arms,
                     max(heads, key=lambda path: _length(path, skeleton), default=()))

    def leg_bones(self, skeleton: Skeleton) -> tuple[int, int]:
        """Where thigh and shin end: indices in a leg of their last joints. They are the two bones in a row that are the
        longest together; what is before them belongs to the hip, what follows to the foot."""
        bones = [np.linalg.norm(skeleton.offsets[list(leg[1:])], axis=1) for leg in self.legs]
        bones = np.append(np.mean(bones, 0) if len(bones[0]) == len(bones[1]) else bones[0], 0)
        first = int(np.argmax(bones[:-1] + bones[1:])) if len(bones) > 1 else 0
        return first + 1, first + 2

    def leg_length(self, skeleton: Skeleton) -> float:
        """Thigh and shin in metres, the mean of left and right."""
        thigh, shin = self.leg_bones(skeleton)
        return float(np.mean([_length(leg[:1] + leg[thigh:shin + 1], skeleton) for leg in self.legs]))


def longest_path(joint: int, skeleton: Skeleton) -> tuple[int, ...]:
    """The joints from one to the end that is the farthest over bones, without the skeleton's tips."""
    ends, paths = set(skeleton.ends), {i: (i,) for i in range(joint, len(skeleton.names))}
    lengths = dict.fromkeys(paths, 0.0)
    for child in range(len(skeleton.names) - 1, joint, -1):
        if child in ends:  # where a hand or a head ends says little of the way in which it points
            continue
        parent, length = skeleton.parents[child], lengths[child] + np.linalg.norm(skeleton.offsets[child])
        if parent >= joint and (length > lengths[parent] or len(paths[parent]) == 1):
            lengths[parent], paths[parent] = length, (parent, *paths[child])
    return paths[joint]


def _length(path: tuple[int, ...], skeleton: Skeleton) -> float:
    return float(np.linalg.norm(skeleton.offsets[list(path[1:])], axis=1).sum())


def reposed(motion: Motion, turns: np.ndarray) -> Motion:
    """The same joints, told from another rest pose: that in which each joint is turned by turns (J, 3, 3), in the
    world, from the rest pose that the motion has. A motion without rotations gets them from its joints."""
    if motion.rotations is None:
        motion = with_rotations(motion)
    parents = np.array(motion.skeleton.parents)
    world = global_rotations(motion.rotations, motion.skeleton.parents) @ np.swapaxes(turns, 1, 2)
    local = world.copy()
    local[:, 1:] = np.swapaxes(world[:, parents[1:]], 2, 3) @ world[:, 1:]
    offsets = motion.skeleton.offsets.copy()
    offsets[1:] = (turns[parents[1:]] @ offsets[1:, :, None])[..., 0]
    return Motion(motion.joints, motion.fps, replace(motion.skeleton, offsets=offsets), local)


def in_t_pose(motion: Motion) -> Motion:
    """The same joints, told from a T-pose: arms and hands along the line between the sides, thighs and shins down, feet
    ahead, spine, neck and head up. It keeps the heading of the rest pose that the motion has, where that tells one;
    else it faces z. Raises MotionError for a figure whose limbs cannot be told."""
    return reposed(motion, t_pose_turns(motion.skeleton))


def t_pose_turns(skeleton: Skeleton) -> np.ndarray:
    """Turns (J, 3, 3) in the world from the skeleton's rest pose to a T-pose. Raises MotionError."""
    limbs = Limbs.of(skeleton)
    left = _left_of(skeleton, limbs)
    wanted = _wanted(skeleton, limbs, left)
    offsets, turns = skeleton.offsets, np.broadcast_to(np.eye(3), (len(skeleton.names), 3, 3)).copy()
    for joint, parent in enumerate(skeleton.parents):
        outer = turns[parent] if parent >= 0 else np.eye(3)
        bones = [child for child, above in enumerate(skeleton.parents) if above == joint and child in wanted]
        across = bone = direction = None
        if bones:
            direction = wanted[max(bones, key=lambda child: np.linalg.norm(offsets[child]))]
            bone = sum(offsets[child] for child in bones if np.array_equal(wanted[child], direction))
        for pair, place, sign in ((limbs.legs, limbs.pelvis, -1), (limbs.arms, limbs.chest, 1)):
            if joint == place:
                across = offsets[pair[0][0]] - offsets[pair[1][0]]
                if bone is None or np.linalg.norm(bone) < SHORT:  # limbs hang below the pelvis, and above the chest
                    bone, direction = sign * (offsets[pair[0][0]] + offsets[pair[1][0]]), UP
        turns[joint] = _turn(outer, bone, direction, across, left)
    return turns


def _turn(outer: np.ndarray, bone, direction, across, left: np.ndarray) -> np.ndarray:
    """A turn (3, 3) that takes the bone (3,) along direction (3,) and, if the joint has limbs on both sides, the line
    across (3,) from right to left as near as possible to left (3,); else the one nearest to the turn of its parent."""
    if bone is None or np.linalg.norm(bone) < SHORT:
        if across is None or np.linalg.norm(across) < SHORT:
            return outer
        bone, direction, across = across, left, None
    if across is not None:
        aside = across - bone * (across @ bone) / (bone @ bone)
        if np.linalg.norm(aside) > SHORT:
            return _frame(direction, left) @ _frame(bone, aside).T
    return smallest_rotation((outer @ bone)[None], direction[None])[0] @ outer


def _frame(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Axes (3, 3), in columns, of two perpendicular directions of any length."""
    first, second = first / np.linalg.norm(first), second / np.linalg.norm(second)
    return np.stack([first, second, np.cross(first, second)], 1)


def _left_of(skeleton: Skeleton, limbs: Limbs) -> np.ndarray:
    """The horizontal direction (3,) from the right leg to the left one in the rest pose; x if that pose tells none."""
    joints = rest_pose(skeleton)
    lines = [joints[left] - joints[right] for left, right in zip(*limbs.legs, strict=False)]
    line = next((line for line in lines if np.linalg.norm(line) > APART), UP)
    flat = line * (1, 0, 1)
    return flat / np.linalg.norm(flat) if np.linalg.norm(flat) > FLAT * np.linalg.norm(line) else LEFT


def _wanted(skeleton: Skeleton, limbs: Limbs, left: np.ndarray) -> dict[int, np.ndarray]:
    """Joint -> the direction (3,) of the bone to it in a T-pose, for the joints of limbs, trunk and head."""
    parents, ends = skeleton.parents, set(skeleton.ends)
    to_pelvis, to_chest = ([*ancestors(joint, parents), joint] for joint in (limbs.pelvis, limbs.chest))
    wanted = {joint: -UP for joint in to_pelvis if joint not in to_chest}
    wanted |= {joint: UP for joint in (*to_chest, *limbs.head) if joint not in to_pelvis}
    thigh, shin = limbs.leg_bones(skeleton)
    for side, arm, leg in zip((left, -left), limbs.arms, limbs.legs, strict=True):
        below = {arm[0]}
        for joint, parent in enumerate(parents):
            if parent in below and joint not in ends:  # hands and fingers too
                below.add(joint)
                wanted[joint] = side
        wanted |= {joint: side for joint in leg[1:thigh]}
        wanted |= {joint: -UP for joint in leg[thigh:shin + 1]}
        wanted |= {joint: np.cross(left, UP) for joint in leg[shin + 1:]}
    return wanted
