"""A figure that walks in a circle and swings its legs and its left arm, for the tests of codecs."""

import numpy as np

from motion_llm.motion.kinematics import forward_kinematics, matrices_of
from motion_llm.motion.skeleton import Motion, Skeleton

NAMES = ("root", "hips", "spine", "left_arm", "left_hand", "right_arm", "right_hand", "left_leg", "left_foot",
         "right_leg", "right_foot")
PARENTS = (-1, 0, 1, 2, 3, 2, 5, 1, 7, 1, 9)
OFFSETS = np.array([(0, 0, 0), (0, 0.9, 0), (0, 0.4, 0), (0.2, 0, 0), (0, -0.5, 0), (-0.2, 0, 0), (0, -0.5, 0),
                    (0.1, 0, 0), (0, -0.9, 0), (-0.1, 0, 0), (0, -0.9, 0)])
WALKER = Skeleton(NAMES, PARENTS, OFFSETS)


def walk(frames: int = 60, fps: float = 30, turning: float = 0.6, speed: float = 1.0, phase: float = 0.0,
         start: tuple[float, float, float] = (0.0, 0.0, 0.0), arm: float = 0.0) -> Motion:
    """turning: radians a second to the left; speed: metres a second ahead; start: x, z and heading; arm: degrees by
    which the right arm is raised to the side."""
    times = np.arange(frames) / fps
    heading = start[2] + turning * times
    angles = np.zeros((frames, len(NAMES), 3))  # Y, X, Z
    angles[:, 1, 0] = np.degrees(heading)
    swing = 30 * np.sin(5 * times + phase)
    angles[:, NAMES.index("left_leg"), 1], angles[:, NAMES.index("right_leg"), 1] = swing, -swing
    angles[:, NAMES.index("left_arm"), 1] = -60 + swing
    angles[:, NAMES.index("right_arm"), 2] = -arm
    translations = np.broadcast_to(OFFSETS, (frames, *OFFSETS.shape)).copy()
    path = np.cumsum(speed / fps * np.stack([np.sin(heading), np.cos(heading)], -1), 0)
    translations[:, 1, [0, 2]] = np.array(start[:2]) + path - path[0]
    rotations = matrices_of(angles, "YXZ")
    return Motion(forward_kinematics(rotations, translations, PARENTS), fps, WALKER, rotations)


def walks(count: int = 6, frames: int = 60) -> list[Motion]:
    rng = np.random.default_rng(0)
    return [walk(frames, turning=rng.uniform(-1, 1), speed=rng.uniform(0.5, 1.5), phase=rng.uniform(0, 6))
            for _ in range(count)]
