"""Features of a motion, which codecs quantise, and back. They do not depend on position and heading."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from motion_llm.motion.kinematics import ancestors, body_centre, forward_kinematics
from motion_llm.motion.skeleton import Motion, MotionError, Skeleton

SIDES = (("left", "right"), ("l", "r"))
APART = 1e-3  # metres; joints nearer than this to each other give no direction
ROOT = 3  # features before those of the joints: velocity to the left, velocity ahead, rate of turning


@dataclass(frozen=True)
class Layout:
    """The features of a skeleton. skeleton: J joints. centre: the joint that the body hangs on. body: the B joints of
    the body, the centre first. across: two joints of the body; the line from the second to the first points left, if
    the names tell the sides. None: there is no heading, and nothing is rotated. mirror: for each joint of the body the
    index in body of its counterpart on the other side, of itself in the middle; None: the names do not tell the sides.
    """

    skeleton: Skeleton
    centre: int
    body: tuple[int, ...] = field(repr=False)
    across: tuple[int, int] | None
    mirror: tuple[int, ...] | None = field(repr=False)

    @property
    def width(self) -> int:
        """Number of features of a frame."""
        return ROOT + 3 * len(self.body)

    @staticmethod
    def of(skeleton: Skeleton) -> "Layout":
        parents = skeleton.parents
        centre = body_centre(parents)
        body = [centre]
        for joint, parent in enumerate(parents):
            if parent in body:
                body.append(joint)
        mirror = _counterparts([skeleton.names[joint] for joint in body])
        if mirror:
            pairs = [(joint, body[mirror[i]]) for i, joint in enumerate(body)
                     if _side(skeleton.names[joint])[1] == 0]
            return Layout(skeleton, centre, tuple(body), _across(skeleton, pairs, [0, 1, 2]), mirror)
        # Any two that are apart on the floor: they give a heading, though not the one in which the body faces.
        pairs = [(a, b) for i, a in enumerate(body) for b in body[i + 1:]]
        return Layout(skeleton, centre, tuple(body), _across(skeleton, pairs, [0, 2]), None)


def rest_pose(skeleton: Skeleton) -> np.ndarray:
    """Joints (J, 3) in metres."""
    joints = np.zeros_like(skeleton.offsets)
    for joint, parent in enumerate(skeleton.parents):
        joints[joint] = skeleton.offsets[joint] + (joints[parent] if parent >= 0 else 0)
    return joints


def _across(skeleton: Skeleton, pairs: Sequence[tuple[int, int]], axes: list[int]) -> tuple[int, int] | None:
    """The pair that is nearest to the root in the tree, as the hips are, and of several such pairs the widest. Only
    pairs that are apart along the axes in the rest pose count."""
    joints = rest_pose(skeleton)
    width = {pair: np.linalg.norm(np.subtract(*joints[list(pair)])[axes]) for pair in pairs}
    depth = {pair: max(len(ancestors(joint, skeleton.parents)) for joint in pair) for pair in pairs}
    return min((pair for pair in pairs if width[pair] > APART), key=lambda pair: (depth[pair], -width[pair]),
               default=None)


def _side(name: str) -> tuple[str, int | None]:
    """A joint's name without its side, and 0 for left, 1 for right, None for neither ("LeftArm", "Arm_L", "l_arm")."""
    words = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+|[^A-Za-z\d]+", name)
    for i, word in enumerate(words):
        for sides in SIDES:
            if word.lower() in sides:
                return "*".join([*words[:i], "", *words[i + 1:]]).lower(), sides.index(word.lower())
    return name.lower(), None


def _counterparts(names: Sequence[str]) -> tuple[int, ...] | None:
    """For each name the index of its counterpart. None if no names pair up, or if a name of one side has none."""
    index = {_side(name): i for i, name in enumerate(names)}
    if len(index) < len(names):
        return None
    counterparts = []
    for name in names:
        stem, side = _side(name)
        counterparts.append(index.get((stem, side if side is None else 1 - side)))
    return None if None in counterparts or counterparts == list(range(len(names))) else tuple(counterparts)


def heading_of(joints: np.ndarray, layout: Layout) -> np.ndarray:
    """Heading (T,) of joints (T, J, 3), in radians to the left from z, without jumps from pi to -pi."""
    if layout.across is None:
        return np.zeros(len(joints))
    line = joints[:, layout.across[0]] - joints[:, layout.across[1]]
    return np.unwrap(np.arctan2(-line[:, 2], line[:, 0]))


def turned(points: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """Points (T, ..., 3) rotated to the left by angles (T,) in radians about the vertical axis."""
    shape = (-1, *[1] * (points.ndim - 2))
    cos, sin = np.cos(angle).reshape(shape), np.sin(angle).reshape(shape)
    x, y, z = np.moveaxis(points, -1, 0)
    return np.stack([x * cos + z * sin, y, z * cos - x * sin], -1)


def features_of(motion: Motion, layout: Layout) -> np.ndarray:
    """(T, 3 + 3 B): the centre's velocity to the left and ahead (metres a second, relative to the heading) and the rate
    of turning (radians a second), each from this frame to the next; then the positions of the body's joints relative to
    the floor under the centre and to the heading (metres; y is the height). The joints' order is the layout's."""
    joints = motion.joints[:, joint_order(motion, layout)]
    heading = heading_of(joints, layout)
    centre = joints[:, layout.centre] * (1, 0, 1)
    local = turned(joints[:, layout.body] - centre[:, None], -heading)
    rates = np.zeros((len(joints), 3))
    if len(joints) > 1:
        rates[:-1, :2] = turned(np.diff(centre, axis=0), -heading[:-1])[:, [0, 2]] * motion.fps
        rates[:-1, 2] = np.diff(heading) * motion.fps
        rates[-1] = rates[-2]  # the last frame has no next one
    return np.concatenate([rates, local.reshape(len(joints), -1)], 1)


def joint_order(motion: Motion, layout: Layout) -> list[int]:
    """Indices of the layout's joints in a motion, whose joints may be in another order. Raises MotionError for another
    figure."""
    expected, actual = layout.skeleton, motion.skeleton

    def bones(skeleton: Skeleton) -> list[tuple[str, str]]:
        return [(name, "" if parent < 0 else skeleton.names[parent])
                for name, parent in zip(skeleton.names, skeleton.parents, strict=True)]

    if sorted(bones(expected)) != sorted(bones(actual)):
        missing, extra = set(expected.names) - set(actual.names), set(actual.names) - set(expected.names)
        differences = [f"has no {', '.join(sorted(missing))}"] * bool(missing)
        differences += [f"has {', '.join(sorted(extra))} besides"] * bool(extra)
        raise MotionError(f"another figure: it {' and '.join(differences) or 'has the same joints on other parents'}; "
                          f"expected the {len(expected.names)} joints {', '.join(expected.names)}")
    return [actual.names.index(name) for name in expected.names]


def joints_from_features(features: np.ndarray, fps: float, layout: Layout) -> np.ndarray:
    """Joints (T, J, 3) from features (T, 3 + 3 B). The first frame is above the origin and faces z. The ancestors of
    the centre stay in the rest pose."""
    heading = _path(features[:, 2] / fps)
    steps = np.stack([features[:, 0], np.zeros(len(features)), features[:, 1]], -1) / fps
    centre = _path(turned(steps, heading))
    joints = np.zeros((len(features), len(layout.skeleton.names), 3))
    rest = np.broadcast_to(np.eye(3), (1, len(layout.skeleton.names), 3, 3))
    upper = ancestors(layout.centre, layout.skeleton.parents)
    joints[:, upper] = forward_kinematics(rest, layout.skeleton.offsets[None], layout.skeleton.parents)[:, upper]
    local = features[:, ROOT:].reshape(len(features), len(layout.body), 3)
    joints[:, layout.body] = turned(local, heading) + centre[:, None]
    return joints


def _path(steps: np.ndarray) -> np.ndarray:
    """Position (T, ...) at each frame after steps (T, ...) from 0; the last step leads beyond the last frame."""
    return np.concatenate([np.zeros_like(steps[:1]), np.cumsum(steps[:-1], 0)])


def feet_of(features: np.ndarray, layout: Layout) -> list[int]:
    """Indices in layout.body of the two end joints with the lowest mean height in features (T, 3 + 3 B)."""
    heights = features[:, ROOT + 1::3].mean(0)
    ends = [i for i, joint in enumerate(layout.body) if joint not in layout.skeleton.parents]
    return sorted(sorted(ends, key=lambda i: heights[i])[:2])


def mirror_features(features: np.ndarray, layout: Layout) -> np.ndarray:
    """Features (T, 3 + 3 B) of the same motion with left and right exchanged. Raises MotionError if the joints' names
    do not tell the sides."""
    if layout.mirror is None:
        raise MotionError(f"joints {', '.join(layout.skeleton.names)}: left and right cannot be told from these names")
    local = features[:, ROOT:].reshape(len(features), -1, 3)[:, layout.mirror] * (-1, 1, 1)
    return np.concatenate([features[:, :ROOT] * (-1, 1, -1), local.reshape(len(features), -1)], 1)
