"""Features of a motion, which codecs quantise, and back. They do not depend on position and heading."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from motion_llm.motion.kinematics import ancestors, body_centre, forward_kinematics
from motion_llm.motion.names import all_paired, joint_keys, listed, sides_of
from motion_llm.motion.skeleton import Motion, MotionError, Skeleton

APART = 1e-3  # metres; joints nearer than this to each other give no direction
NO_SIDES = "left and right cannot be told: no two names differ by their side alone, as LeftArm and RightArm do"
NEAREST = 100  # joints to the root, of which two give a heading where names tell no sides
TRAVEL = 0.02  # metres
ROOT = 3  # features before those of the joints: velocity to the left, velocity ahead, rate of turning


@dataclass(frozen=True)
class Layout:
    """The features of a skeleton. skeleton: J joints. centre: the joint that the body hangs on. body: the B joints of
    the body, the centre first. across: two joints of the body; the line from the second to the first points left, if
    the names tell the sides. None: there is no heading, and nothing is rotated. mirror: for each joint of the body the
    index in body of its counterpart on the other side, of itself in the middle; None: the names do not tell the sides.
    root: whether the rates are those of a figure on the floor; not so for a part such as a hand, whose rates are 0."""

    skeleton: Skeleton
    centre: int
    body: tuple[int, ...] = field(repr=False)
    across: tuple[int, int] | None
    mirror: tuple[int, ...] | None = field(repr=False)
    root: bool = True

    @property
    def width(self) -> int:
        """Number of features of a frame."""
        return ROOT + 3 * len(self.body)

    @staticmethod
    def of(skeleton: Skeleton, centre: int | None = None) -> "Layout":
        """centre: see travelling_centre; None for the first joint with several children."""
        centre = body_centre(skeleton.parents) if centre is None else centre
        body = _body(skeleton, centre)
        sides, mirror = sides_of([skeleton.names[joint] for joint in body])
        if mirror[0] != 0 or mirror == list(range(len(body))):
            return Layout(skeleton, centre, body, _across_floor(skeleton, body), None)
        pairs = [(body[i], body[mirror[i]]) for i, side in enumerate(sides) if side == 0]
        return Layout(skeleton, centre, body, _across(skeleton, pairs, [0, 1, 2]), tuple(mirror))

    @staticmethod
    def stored(skeleton: Skeleton, choices: dict | None) -> "Layout":
        """The layout of a codec that was saved with its choices, centre and across. None: of a folder that was written
        before they were kept, when names that do not all pair up gave no sides. Raises MotionError."""
        if choices is None:
            layout = Layout.of(skeleton)
            paired = all_paired([skeleton.names[joint] for joint in layout.body])
            across = layout.across if paired else _across_floor(skeleton, layout.body)
            return Layout(skeleton, layout.centre, layout.body, across, layout.mirror)
        layout = Layout.of(skeleton, choices["centre"])
        across = None if choices["across"] is None else tuple(choices["across"])
        if across is not None and not (len(across) == 2 and set(across) <= set(layout.body)):
            raise MotionError(f"across is {across}, expected two joints of the body")
        return Layout(skeleton, layout.centre, layout.body, across, layout.mirror)

    @property
    def choices(self) -> dict:
        """What `stored` takes."""
        return {"centre": self.centre, "across": self.across}


def _body(skeleton: Skeleton, centre: int) -> tuple[int, ...]:
    """The centre and all joints below it, a parent before its children."""
    body = [centre]
    for joint, parent in enumerate(skeleton.parents):
        if parent in body:
            body.append(joint)
    return tuple(body)


def travelling_centre(parents: Sequence[int], still: np.ndarray, travels: np.ndarray) -> int:
    """The joint that the body hangs on, told from how it moves: body_centre, unless it stands still in some clip while
    a joint below it travels, as under Blender's dummy root and Unreal's root with helpers for inverse kinematics.

    still, travels (N, J) bool: whether a joint stays in its place in a clip, or leaves it (see staying).
    """
    subtree = [1] * len(parents)  # joints of it
    for joint in range(len(parents) - 1, 0, -1):
        subtree[parents[joint]] += subtree[joint]
    centre = body_centre(tuple(parents))
    while True:
        below = [joint for joint, parent in enumerate(parents)
                 if parent == centre and (still[:, centre] & travels[:, joint]).any()]
        if not below:
            return centre
        centre = max(below, key=lambda joint: subtree[joint])
        while list(parents).count(centre) == 1:  # down to the first with several children
            centre = list(parents).index(centre)


def staying(joints: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """still, travels, each (J,) bool, of joints (T, J, 3): moved less than a millimetre, farther than two centimetres.
    """
    way = np.ptp(joints, axis=0).max(-1)
    return way < APART, way > TRAVEL


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


def _across_floor(skeleton: Skeleton, body: Sequence[int]) -> tuple[int, int] | None:
    """Any two joints that are apart on the floor: they give a heading, though not the one in which the body faces."""
    if len(body) > NEAREST:
        body = sorted(body, key=lambda joint: len(ancestors(joint, skeleton.parents)))[:NEAREST]
    return _across(skeleton, [(a, b) for i, a in enumerate(body) for b in body[i + 1:]], [0, 2])


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
    joints = motion.joints[:, joint_order(motion, layout)].astype(float)
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
    """Indices of the layout's joints in a motion, whose joints may be in another order and have another namespace, and
    which may have tips (see Skeleton) that the layout does not have. Raises MotionError for another figure."""
    names, actual = joint_keys(layout.skeleton.names), joint_keys(motion.skeleton.names)
    unknown = {joint for joint in motion.skeleton.ends if actual[joint] not in names}

    def bones(names: list[str], parents: Sequence[int]) -> list[tuple[str, str]]:
        return [(name, "" if parent < 0 else names[parent]) for name, parent in zip(names, parents, strict=True)]

    found = [bone for joint, bone in enumerate(bones(actual, motion.skeleton.parents)) if joint not in unknown]
    if sorted(bones(names, layout.skeleton.parents)) != sorted(found):
        there = {name for name, _ in found}
        missing, extra = sorted({*names} - there), sorted(there - {*names})
        differences = [f"has no {listed(missing)}"] * bool(missing) + [f"has {listed(extra)} besides"] * bool(extra)
        tips = {names[joint] for joint in layout.skeleton.ends}
        hint = " (is its End Site of no length?)" if missing and {*missing} <= tips else ""
        raise MotionError(f"another figure: it {' and '.join(differences) or 'has the same joints on other parents'}"
                          f"{hint}; expected the {len(names)} joints {listed(names)}")
    return [actual.index(name) for name in names]


def joints_from_features(features: np.ndarray, fps: float, layout: Layout) -> np.ndarray:
    """Joints (T, J, 3) from features (T, 3 + 3 B). The first frame is above the origin and faces z. Joints that are not
    of the body stay in the rest pose."""
    heading = _path(features[:, 2] / fps)
    steps = np.stack([features[:, 0], np.zeros(len(features)), features[:, 1]], -1) / fps
    centre = _path(turned(steps, heading))
    joints = np.zeros((len(features), len(layout.skeleton.names), 3))
    rest = np.broadcast_to(np.eye(3), (1, len(layout.skeleton.names), 3, 3))
    joints[:] = forward_kinematics(rest, layout.skeleton.offsets[None], layout.skeleton.parents)
    local = features[:, ROOT:].reshape(len(features), len(layout.body), 3)
    joints[:, layout.body] = turned(local, heading) + centre[:, None]
    return joints


def joint_errors(original: np.ndarray, decoded: np.ndarray, layout: Layout) -> np.ndarray:
    """(T,) mean distance in metres of the body's joints of (T, J, 3) in the layout's order, relative to the floor under
    the body's centre and to its heading: neither the way nor the turn counts, the height does."""
    return joint_distances(original, decoded, layout).mean(1)


def joint_distances(original: np.ndarray, decoded: np.ndarray, layout: Layout) -> np.ndarray:
    """(T, B) the same of each joint of the body."""
    a, b = (turned(joints - joints[:, [layout.centre]] * (1, 0, 1), -heading_of(joints, layout))[:, layout.body]
            for joints in (original.astype(float), decoded.astype(float)))
    return np.linalg.norm(a - b, axis=-1)


def _path(steps: np.ndarray) -> np.ndarray:
    """Position (T, ...) at each frame after steps (T, ...) from 0; the last step leads beyond the last frame."""
    return np.concatenate([np.zeros_like(steps[:1]), np.cumsum(steps[:-1], 0)])


def feet_of(features: np.ndarray, layout: Layout) -> list[int]:
    """Indices in layout.body of the two end joints with the lowest mean height in features (T, 3 + 3 B); none of a
    part without the root."""
    if not layout.root:
        return []
    heights = features[:, ROOT + 1::3].mean(0)
    ends = [i for i, joint in enumerate(layout.body) if joint not in layout.skeleton.parents]
    return sorted(sorted(ends, key=lambda i: heights[i])[:2])


def mirror_features(features: np.ndarray, layout: Layout) -> np.ndarray:
    """Features (T, 3 + 3 B) of the same motion with left and right exchanged. Raises MotionError if the joints' names
    do not tell the sides."""
    if layout.mirror is None:
        raise MotionError(f"joints {listed(layout.skeleton.names)}: {NO_SIDES}")
    local = features[:, ROOT:].reshape(len(features), -1, 3)[:, layout.mirror] * (-1, 1, 1)
    return np.concatenate([features[:, :ROOT] * (-1, 1, -1), local.reshape(len(features), -1)], 1)
