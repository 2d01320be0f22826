"""A figure as rigs of games have it, with fingers, eyes and hip joints, and random motions of any figure."""

import numpy as np

from motion_llm.motion.kinematics import forward_kinematics, matrices_of
from motion_llm.motion.skeleton import Motion, Skeleton

BODY = (  # name, parent, offset in metres of a rest pose with arms aslant; as rigs of games have it
    ("root", -1, (0, 0, 0)), ("Hips", 0, (0, 0.95, 0)), ("Spine", 1, (0, 0.2, -0.03)), ("Chest", 2, (0, 0.2, 0.01)),
    ("Neck", 3, (0, 0.15, 0)), ("Head", 4, (0, 0.08, 0.03)), ("LeftEye", 5, (0.03, 0.05, 0.08)),
    ("RightEye", 5, (-0.03, 0.05, 0.08)),
    ("LeftShoulder", 3, (0.05, 0.1, 0)), ("LeftArm", 8, (0.12, 0.01, 0)), ("LeftForeArm", 9, (0.2, -0.2, 0)),
    ("LeftHand", 10, (0.18, -0.18, 0.02)), ("LeftIndex", 11, (0.06, -0.06, 0)), ("LeftThumb", 11, (0.02, -0.03, 0.03)),
    ("RightShoulder", 3, (-0.05, 0.1, 0)), ("RightArm", 14, (-0.12, 0.01, 0)), ("RightForeArm", 15, (-0.2, -0.2, 0)),
    ("RightHand", 16, (-0.18, -0.18, 0.02)), ("RightIndex", 17, (-0.06, -0.06, 0)),
    ("RightThumb", 17, (-0.02, -0.03, 0.03)),
    ("LHipJoint", 1, (0.01, 0, 0)), ("LeftUpLeg", 20, (0.09, -0.05, 0)), ("LeftLeg", 21, (0.1, -0.4, 0)),
    ("LeftFoot", 22, (0.08, -0.4, -0.02)), ("LeftToe", 23, (0, -0.07, 0.14)),
    ("RHipJoint", 1, (-0.01, 0, 0)), ("RightUpLeg", 25, (-0.09, -0.05, 0)), ("RightLeg", 26, (-0.1, -0.4, 0)),
    ("RightFoot", 27, (-0.08, -0.4, -0.02)), ("RightToe", 28, (0, -0.07, 0.14)))
RIG = Skeleton(tuple(name for name, _, _ in BODY), tuple(parent for _, parent, _ in BODY),
               np.array([offset for _, _, offset in BODY], float))


def moving(skeleton: Skeleton, frames: int = 20, seed: int = 0, most: float = 60) -> Motion:
    """A motion of random turns of up to `most` degrees."""
    rng = np.random.default_rng(seed)
    rotations = matrices_of(rng.uniform(-most, most, (frames, len(skeleton.names), 3)), "ZXY")
    translations = np.broadcast_to(skeleton.offsets, (frames, len(skeleton.names), 3)).copy()
    translations[:, 0] += rng.uniform(-1, 1, (frames, 3))
    return Motion(forward_kinematics(rotations, translations, skeleton.parents), 30, skeleton, rotations)
