"""HumanML3D's figure (Guo et al. 2022): the 22 joints of SMPL's body, and its 263 features a frame.

Every format that has this figure (joints, features, AMASS) gives it these names, this order and this rest pose.
"""

import numpy as np

from motion_llm.motion.skeleton import Skeleton

FPS, FEATURES = 20.0, 263  # frames a second, numbers of a frame
BODY = slice(4, 4 + 21 * 3)  # positions of all joints but the pelvis, relative to the floor under it and the heading
JOINTS = (  # name, index of the parent, offset from it in metres: x left, y up, z ahead. The rest pose is SMPL's T; its
    # lengths are round numbers of our own, of a figure 1.7 m high, 1.52 m from the feet to the joint of the head
    ("pelvis", -1, (0, 0, 0)), ("left_hip", 0, (0.06, -0.09, -0.01)), ("right_hip", 0, (-0.06, -0.09, -0.01)),
    ("spine1", 0, (0, 0.11, -0.03)), ("left_knee", 1, (0.04, -0.38, 0)), ("right_knee", 2, (-0.04, -0.38, 0)),
    ("spine2", 3, (0, 0.13, 0)), ("left_ankle", 4, (-0.01, -0.4, -0.04)), ("right_ankle", 5, (0.01, -0.4, -0.04)),
    ("spine3", 6, (0, 0.06, 0.02)), ("left_foot", 7, (0.03, -0.06, 0.12)), ("right_foot", 8, (-0.03, -0.06, 0.12)),
    ("neck", 9, (0, 0.21, -0.03)), ("left_collar", 9, (0.08, 0.12, -0.02)), ("right_collar", 9, (-0.08, 0.12, -0.02)),
    ("head", 12, (0, 0.08, 0.05)), ("left_shoulder", 13, (0.1, 0.03, -0.01)),
    ("right_shoulder", 14, (-0.1, 0.03, -0.01)), ("left_elbow", 16, (0.26, -0.01, -0.02)),
    ("right_elbow", 17, (-0.26, -0.01, -0.02)), ("left_wrist", 18, (0.25, 0.01, 0)),
    ("right_wrist", 19, (-0.25, 0.01, 0)))
NAMES, PARENTS = tuple(name for name, _, _ in JOINTS), tuple(parent for _, parent, _ in JOINTS)
OFFSETS = np.array([offset for _, _, offset in JOINTS], dtype=float)  # (22, 3)


def joints_from_features(features: np.ndarray) -> np.ndarray:
    """Joints (T, 22, 3), metres, from features (T, 263): half the angle that the root turns right until the next frame;
    its step (x, z) to the next frame, relative to that frame's heading; the pelvis's height; the positions of the other
    joints, relative to the frame's heading. The remaining features (rotations, velocities, contacts) are not needed."""
    before = np.concatenate([np.zeros_like(features[:1]), features[:-1]])
    angle = -2 * np.cumsum(before[:, 0])  # to the left
    cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]

    def turned(points: np.ndarray) -> np.ndarray:  # (T, n, 3)
        x, y, z = np.moveaxis(points, -1, 0)
        return np.stack([x * cos + z * sin, y, z * cos - x * sin], -1)

    steps = np.stack([before[:, 1], np.zeros(len(features)), before[:, 2]], -1)[:, None]
    root = np.cumsum(turned(steps), 0)  # (T, 1, 3)
    body = turned(features[:, BODY].reshape(len(features), 21, 3)) + root
    root[:, 0, 1] = features[:, 3]
    return np.concatenate([root, body], 1)


def skeleton_of(joints: np.ndarray) -> Skeleton:
    """The rest pose, with each bone as long as its mean length in joints (T, 22, 3)."""
    offsets = OFFSETS.copy()
    offsets[1:] *= (bone_lengths(joints).mean(0) / np.linalg.norm(offsets[1:], axis=1))[:, None]
    return Skeleton(NAMES, PARENTS, offsets)


def bone_lengths(joints: np.ndarray) -> np.ndarray:
    """Lengths (T, 21) of the bones of joints (T, 22, 3)."""
    return np.linalg.norm(joints[:, 1:] - joints[:, PARENTS[1:]], axis=-1)
