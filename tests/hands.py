"""A figure with five fingers on each hand, and clips of it, for the tests of codecs of several streams."""

import numpy as np

from motion_llm.motion.kinematics import forward_kinematics, matrices_of
from motion_llm.motion.skeleton import Motion, Skeleton

FINGERS = ("Thumb", "Index", "Middle", "Ring", "Pinky")
BODY = (  # name, parent, offset in metres
    ("Hips", None, (0, 0.95, 0)), ("Spine", "Hips", (0, 0.2, 0)), ("Chest", "Spine", (0, 0.25, 0)),
    ("Head", "Chest", (0, 0.25, 0)),
    ("LeftArm", "Chest", (0.18, 0.05, 0)), ("LeftForeArm", "LeftArm", (0.28, 0, 0)),
    ("LeftHand", "LeftForeArm", (0.25, 0, 0)),
    ("RightArm", "Chest", (-0.18, 0.05, 0)), ("RightForeArm", "RightArm", (-0.28, 0, 0)),
    ("RightHand", "RightForeArm", (-0.25, 0, 0)),
    ("LeftUpLeg", "Hips", (0.1, -0.05, 0)), ("LeftLeg", "LeftUpLeg", (0, -0.42, 0)),
    ("LeftFoot", "LeftLeg", (0, -0.42, 0)),
    ("RightUpLeg", "Hips", (-0.1, -0.05, 0)), ("RightLeg", "RightUpLeg", (0, -0.42, 0)),
    ("RightFoot", "RightLeg", (0, -0.42, 0)))


def _joints() -> list[tuple]:
    """Those of the body and of the fingers, each finger behind its hand, as BVH files have them."""
    joints = []
    for joint in BODY:
        joints.append(joint)
        if (hand := joint[0]) in ("LeftHand", "RightHand"):
            sign = 1 if hand == "LeftHand" else -1
            for i, finger in enumerate(FINGERS):
                joints.append((f"{hand}{finger}1", hand, (sign * 0.09 if i else sign * 0.03, 0, 0.04 - 0.02 * i)))
                joints.append((f"{hand}{finger}2", f"{hand}{finger}1", (sign * 0.04, 0, 0)))
    return joints


JOINTS = _joints()
_NAMES = tuple(name for name, _, _ in JOINTS)
FIGURE = Skeleton(_NAMES, tuple(-1 if parent is None else _NAMES.index(parent) for _, parent, _ in JOINTS),
                  np.array([offset for _, _, offset in JOINTS], float))
LEFT_HAND = [name for name in FIGURE.names if name.startswith("LeftHand") and name != "LeftHand"]
RIGHT_HAND = [name for name in FIGURE.names if name.startswith("RightHand") and name != "RightHand"]
THREE = {"body": [name for name, _, _ in BODY], "left_hand": LEFT_HAND, "right_hand": RIGHT_HAND}
TWO = {"upper": [name for name in FIGURE.names if not name.endswith(("Leg", "Foot", "Hips"))],
       "lower": ["Hips", *(name for name in FIGURE.names if name.endswith(("Leg", "Foot")))]}


def waving(frames: int = 60, fps: float = 30, phase: float = 0.0, arm: float = 40.0, fist: float = 60.0,
           turning: float = 0.4) -> Motion:
    """Walks in a circle, waves the left arm by `arm` degrees and turns the wrist, closes and opens both hands by `fist`
    degrees, each at its own pace."""
    times = np.arange(frames) / fps
    angles = np.zeros((frames, len(JOINTS), 3))  # Y, X, Z
    place = FIGURE.names.index
    heading = turning * times
    angles[:, 0, 0] = np.degrees(heading)
    angles[:, place("LeftUpLeg"), 1] = 25 * np.sin(5 * times + phase)
    angles[:, place("RightUpLeg"), 1] = -25 * np.sin(5 * times + phase)
    angles[:, place("LeftArm"), 2] = arm * np.sin(4 * times + 2 * phase)
    angles[:, place("LeftHand"), 1] = 50 * np.sin(3 * times + phase)
    angles[:, place("RightArm"), 2] = 60
    for side, sign, pace in (("Left", -1, 6), ("Right", 1, 2)):
        for name in FIGURE.names:
            if name.startswith(f"{side}Hand") and name[-1] in "12":
                angles[:, place(name), 2] = sign * fist * (0.5 + 0.5 * np.sin(pace * times + 3 * phase))
    translations = np.broadcast_to(FIGURE.offsets, (frames, *FIGURE.offsets.shape)).copy()
    translations[:, 0, [0, 2]] = np.cumsum(np.stack([np.sin(heading), np.cos(heading)], -1) / fps, 0)
    rotations = matrices_of(angles, "YXZ")
    return Motion(forward_kinematics(rotations, translations, FIGURE.parents), fps, FIGURE, rotations)


def waves(count: int = 6, frames: int = 60) -> list[Motion]:
    return [waving(frames, phase=phase) for phase in np.linspace(0, 6, count)]
