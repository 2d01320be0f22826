"""Rotations: angles, matrices, quaternions; joints from rotations and rotations from joints; another frame rate."""

import math
from collections.abc import Sequence

import numpy as np

from motion_llm.motion.skeleton import Motion, MotionError, Skeleton

AXES = "XYZ"
PRIOR = 1e-7  # weight of no rotation where a joint's children leave a twist open; too small to change anything else
STILL, ROUNDED = 1e-6, 4e-7  # metres, and what float32 makes of each: a joint this near to its rest offset is there
UP = ("y", "z", "-y")  # axes that point up in files
SAME_RATE = 1e-3  # relative; frame rates that differ by less count as equal


def matrices_of(degrees: np.ndarray, order: str) -> np.ndarray:
    """Angles (..., n) in degrees about the n axes of `order` ("ZXY") to matrices (..., 3, 3) for column vectors. The
    first axis is the outermost rotation, as the channels of a BVH joint are read."""
    matrices = np.zeros((*degrees.shape[:-1], 3, 3))
    matrices[..., range(3), range(3)] = 1
    for i, axis in enumerate(order):
        a = AXES.index(axis)
        b, c = (a + 1) % 3, (a + 2) % 3
        cos, sin = (turn(np.radians(degrees[..., i]))[..., None] for turn in (np.cos, np.sin))
        second, third = matrices[..., b], matrices[..., c]  # a turn about an axis mixes the columns of the other two
        matrices[..., b], matrices[..., c] = cos * second + sin * third, cos * third - sin * second
    return matrices


def angles_of(matrices: np.ndarray, order: str) -> np.ndarray:
    """Matrices (..., 3, 3) to angles (..., 3) in degrees about the three different axes of `order`; the second is from
    -90 to 90 degrees. At -90 and 90 (gimbal lock) the third is 0."""
    i, j, k = (AXES.index(axis) for axis in order)
    sign = 1 if (j - i) % 3 == 1 else -1
    # Not by arcsin, which near 90 degrees turns the rounding of a float32 into hundredths of a degree.
    cosine = np.hypot(matrices[..., j, k], matrices[..., k, k])  # of the second angle
    locked = cosine < 1e-12
    first = np.where(locked, np.arctan2(sign * matrices[..., k, j], matrices[..., j, j]),
                     np.arctan2(-sign * matrices[..., j, k], matrices[..., k, k]))
    second = np.arctan2(sign * matrices[..., i, k], cosine)
    # From what the first leaves of the matrix: near 90 degrees, float32 knows the first and the third only together.
    row = np.cos(first)[..., None] * matrices[..., j, :] + sign * np.sin(first)[..., None] * matrices[..., k, :]
    third = np.where(locked, 0.0, np.arctan2(sign * row[..., i], row[..., j]))
    return np.degrees(np.stack([first, second, third], -1))


def quaternions_of(matrices: np.ndarray) -> np.ndarray:
    """Matrices (..., 3, 3) to unit quaternions (..., 4), w first: the best conditioned row of 4 q q^T."""
    m = matrices
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = ([m[..., a, b] for b in range(3)] for a in range(3))
    outer = np.stack([
        np.stack([1 + xx + yy + zz, zy - yz, xz - zx, yx - xy], -1),
        np.stack([zy - yz, 1 + xx - yy - zz, xy + yx, xz + zx], -1),
        np.stack([xz - zx, xy + yx, 1 - xx + yy - zz, yz + zy], -1),
        np.stack([yx - xy, xz + zx, yz + zy, 1 - xx - yy + zz], -1)], -2)  # (..., 4, 4)
    best = np.einsum("...ii->...i", outer).argmax(-1)
    row = np.take_along_axis(outer, best[..., None, None], -2)[..., 0, :]
    return row / np.linalg.norm(row, axis=-1, keepdims=True)


def matrices_of_quaternions(quaternions: np.ndarray) -> np.ndarray:
    """Unit quaternions (..., 4), w first, to matrices (..., 3, 3)."""
    w, x, y, z = np.moveaxis(quaternions, -1, 0)
    return np.stack([
        np.stack([1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)], -1),
        np.stack([2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)], -1),
        np.stack([2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)], -1)], -2)


def slerp(start: np.ndarray, end: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Rotations between matrices (..., 3, 3) at shares (...) of the way, 0 to 1, on the shorter arc (Shoemake 1985)."""
    a, b = quaternions_of(start), quaternions_of(end)
    cos = (a * b).sum(-1, keepdims=True)
    b = np.where(cos < 0, -b, b)
    angle = np.arccos(np.clip(np.abs(cos), 0, 1))
    share = np.asarray(share)[..., None]
    close = angle < 1e-6
    safe = np.sin(np.where(close, 1, angle))
    mixed = np.where(close, (1 - share) * a + share * b,
                     (np.sin((1 - share) * angle) * a + np.sin(share * angle) * b) / safe)
    return matrices_of_quaternions(mixed / np.linalg.norm(mixed, axis=-1, keepdims=True))


def forward_kinematics(rotations: np.ndarray, translations: np.ndarray, parents: tuple[int, ...]) -> np.ndarray:
    """Joints (T, J, 3) from local rotations (T, J, 3, 3) and positions in the parent's frame (T, J, 3)."""
    joints, world = np.empty_like(translations, dtype=float), np.empty_like(rotations, dtype=float)
    for joint, parent in enumerate(parents):
        if parent < 0:
            joints[:, joint], world[:, joint] = translations[:, joint], rotations[:, joint]
        else:
            joints[:, joint] = joints[:, parent] + (world[:, parent] @ translations[:, joint, :, None])[..., 0]
            world[:, joint] = world[:, parent] @ rotations[:, joint]
    return joints


def global_rotations(rotations: np.ndarray, parents: tuple[int, ...]) -> np.ndarray:
    """Rotations in the world (T, J, 3, 3) from local ones, in the parent's frame."""
    world = np.array(rotations, dtype=float)
    for joint, parent in enumerate(parents):
        if parent >= 0:
            world[:, joint] = world[:, parent] @ rotations[:, joint]
    return world


def local_positions(motion: Motion) -> tuple[np.ndarray, np.ndarray]:
    """Positions (T, J, 3) of the joints of a motion with rotations in their parent's frame, of the root in the world's;
    and (J,) bool, whether they are more than the rest offset: of the root, and of joints that leave their offset."""
    parents = np.array(motion.skeleton.parents)
    places = motion.joints.astype(float)
    outer = np.swapaxes(global_rotations(motion.rotations, motion.skeleton.parents)[:, parents[1:]], 2, 3)
    places[:, 1:] = (outer @ (places[:, 1:] - places[:, parents[1:]])[..., None])[..., 0]
    moving = np.abs(places - motion.skeleton.offsets).max((0, 2)) > STILL + ROUNDED * np.abs(motion.joints).max()
    moving[0] = True
    return places, moving


def body_centre(parents: tuple[int, ...]) -> int:
    """The joint that the body hangs on: the first with several children, such as the hips; the root if none has. Its
    ancestors, such as a root that stays at the origin of the floor, are no part of the body."""
    return next((joint for joint in range(len(parents)) if parents.count(joint) > 1), 0)


def ancestors(joint: int, parents: tuple[int, ...]) -> list[int]:
    """The ancestors of a joint, from the root down."""
    chain = []
    while (joint := parents[joint]) >= 0:
        chain.append(joint)
    return chain[::-1]


def body_size(bones: np.ndarray, parents: Sequence[int]) -> float:
    """Of bones (J,) in metres, from each joint to its parent: about the person's standing height in metres, in any
    pose: 0.79 times the longest path over bones from one joint to another, which goes from a hand to a foot and does
    not depend on the root."""
    below, longest = np.zeros(len(bones)), 0.0  # the longest path down from each joint; through any joint
    for joint in range(len(bones) - 1, 0, -1):
        path, parent = below[joint] + bones[joint], parents[joint]
        longest = max(longest, path + below[parent])
        below[parent] = max(below[parent], path)
    return max(0.79 * float(longest), 1e-3)


def turned_up(joints: np.ndarray, rotations: np.ndarray | None, up: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Joints (..., J, 3) and local rotations (..., J, 3, 3) of a recording whose axis `up`, one of UP, points up; then
    y does: (x, y, z) -> (x, z, -y) for z, and (x, -y, -z) for -y, as in the coordinates of a camera. All frames turn,
    those of the rest pose too, so offsets turn as joints do."""
    if up == "y":
        return joints, rotations
    if up not in UP:
        raise MotionError(f"up is {up!r}, expected {', '.join(UP)}")
    turn = np.array({"z": [(1, 0, 0), (0, 0, 1), (0, -1, 0)], "-y": [(1, 0, 0), (0, -1, 0), (0, 0, -1)]}[up],
                    dtype=joints.dtype)
    return joints @ turn.T, None if rotations is None else turn @ rotations @ turn.T


def smallest_rotation(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Matrices (T, 3, 3) of the smallest rotation that points directions `start` (T, 3) along `end` (T, 3), of any
    length but 0; for opposite directions, half a turn about a perpendicular axis."""
    a, b = (v / np.linalg.norm(v, axis=-1, keepdims=True) for v in (start, end))
    across = np.eye(3)[np.abs(a).argmin(-1)]
    across = np.cross(a, across)
    across /= np.linalg.norm(across, axis=-1, keepdims=True)
    dot = (a * b).sum(-1, keepdims=True)
    real, imaginary = 1 + dot, np.cross(a, b)
    opposite = real < 1e-9
    quaternion = np.concatenate([np.where(opposite, 0, real), np.where(opposite, across, imaginary)], -1)
    return matrices_of_quaternions(quaternion / np.linalg.norm(quaternion, axis=-1, keepdims=True))


def best_rotation(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Matrices (T, 3, 3) that rotate the points `start` (n, 3) about the origin as near as possible to `end` (T, n, 3)
    (Kabsch 1976). Where the points leave a rotation open, as the twist about a line, it is the smallest."""
    spread = np.einsum("tni,nj->tij", end, start)
    weight = np.linalg.norm(spread, axis=(1, 2))[:, None, None]
    u, _, v = np.linalg.svd(spread + PRIOR * np.where(weight > 0, weight, 1) * np.eye(3))
    u[:, :, 2] *= np.sign(np.linalg.det(u @ v))[:, None]  # no mirror image
    return u @ v


def rotations_from_joints(joints: np.ndarray, skeleton: Skeleton, centre: int | None = None) -> np.ndarray:
    """Local rotations (T, J, 3, 3) that point the bones along the joints (T, J, 3). A joint with several children gets
    the rotation that fits them best, one with a single child the smallest from the rest pose (its twist is unknown).
    End joints and the ancestors of the body's centre get none; centre: None for body_centre. Raises MotionError."""
    parents, offsets = skeleton.parents, skeleton.offsets
    if joints.ndim != 3 or joints.shape[1:] != offsets.shape:
        raise MotionError(f"joints {joints.shape}: expected (T, {len(parents)}, 3), as the skeleton has them")
    children = [[] for _ in parents]
    for joint, parent in enumerate(parents):
        if parent >= 0 and np.linalg.norm(offsets[joint]) > 1e-9:
            children[parent].append(joint)
    unturned = set(ancestors(body_centre(parents) if centre is None else centre, parents))
    world = np.empty((len(joints), len(parents), 3, 3))
    local = np.broadcast_to(np.eye(3), world.shape).copy()
    for joint, parent in enumerate(parents):
        outer = world[:, parent] if parent >= 0 else np.broadcast_to(np.eye(3), (len(joints), 3, 3))
        bones = np.swapaxes(outer, 1, 2) @ np.swapaxes(joints[:, children[joint]] - joints[:, joint, None], 1, 2)
        bones = np.swapaxes(bones, 1, 2)  # (T, n, 3) in the parent's frame
        valid = (np.linalg.norm(bones, axis=-1) > 1e-9).all(1)  # a bone without length has no direction
        if joint not in unturned and children[joint] and valid.any():
            rest = offsets[children[joint]]
            if len(rest) == 1:
                bone = bones[valid, 0]
                local[valid, joint] = smallest_rotation(np.broadcast_to(rest[0], bone.shape), bone)
            else:
                local[valid, joint] = best_rotation(rest, bones[valid])
        world[:, joint] = outer @ local[:, joint]
    return local


def with_rotations(motion: Motion, centre: int | None = None) -> Motion:
    """The motion with rotations computed from its joints, and with joints computed from these rotations and the
    skeleton, so that every bone has its length in the rest pose. The body's centre (None: body_centre) keeps its
    position."""
    centre = body_centre(motion.skeleton.parents) if centre is None else centre
    rotations = rotations_from_joints(motion.joints, motion.skeleton, centre)
    translations = np.broadcast_to(motion.skeleton.offsets, motion.joints.shape).copy()
    for joint in [*ancestors(centre, motion.skeleton.parents), centre]:  # the ancestors have no rotation
        parent = motion.skeleton.parents[joint]
        translations[:, joint] = motion.joints[:, joint] - (motion.joints[:, parent] if parent >= 0 else 0)
    joints = forward_kinematics(rotations, translations, motion.skeleton.parents)
    return Motion(joints, motion.fps, motion.skeleton, rotations)


def same_rate(fps: float, other: float) -> bool:
    return abs(fps - other) <= SAME_RATE * other


def frames_at(fps: float, frames: int, of: float) -> int:
    """How many frames `resampled` makes at fps frames a second of so many frames at `of` a second."""
    return frames if same_rate(fps, of) else int((frames - 1) * fps / of + 1e-6) + 1


def resampled(motion: Motion, fps: float) -> Motion:
    """The motion at another frame rate, from its first frame on and no longer than before. Positions are interpolated
    linearly, rotations by slerp. There is no filter: at a lower rate, movement above half of that rate is aliased.
    Raises MotionError for an invalid rate."""
    if not (fps > 0 and math.isfinite(fps)):
        raise MotionError(f"{fps} frames a second: expected more than 0")
    if same_rate(fps, motion.fps):
        return motion
    count = frames_at(fps, len(motion), motion.fps)
    times = np.arange(count) * motion.fps / fps
    first = np.minimum(times.astype(int), max(len(motion) - 2, 0))
    second = np.minimum(first + 1, len(motion) - 1)
    share = np.clip(times - first, 0, 1)
    joints = motion.joints[first] + share[:, None, None] * (motion.joints[second] - motion.joints[first])
    rotations = motion.rotations
    if rotations is not None:
        rotations = slerp(rotations[first], rotations[second], share[:, None])
    return Motion(joints, fps, motion.skeleton, rotations)
