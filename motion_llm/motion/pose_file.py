"""Reads .pose files, in which the sign-language community keeps the points that MediaPipe, OpenPose and others see.

They are points of an image, partly with an estimate of the depth. The figure is the upper body and both hands, and the
legs where they are seen.
"""

import logging
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from motion_llm.input_files import check_regular
from motion_llm.motion.skeleton import Motion, MotionError, Skeleton

log = logging.getLogger(__name__)
SHOULDERS = 0.36  # metres from shoulder to shoulder: an adult's; the image says nothing of metres
CHEST_HEIGHT = 1.4  # metres, of the chest in its median position
LONGEST_GAP = 0.25  # seconds; longer gaps of a needed point are refused, since what happened in them is unknown
MOST_BYTES = 2**31  # hours of all points
LIKELY_SEEN = 0.5  # mean confidence of the legs' points from which the legs are part of the figure
PIXELS, WIDTHS = 10, 10  # MediaPipe's depth is in image widths beside pixels: shoulders over 10, depths below 10
COMPONENTS = (  # of the body, the left and the right hand: MediaPipe Holistic, OpenPose, COCO WholeBody, AlphaPose
    ("POSE_LANDMARKS", "LEFT_HAND_LANDMARKS", "RIGHT_HAND_LANDMARKS"),
    ("pose_keypoints_2d", "hand_left_keypoints_2d", "hand_right_keypoints_2d"),
    ("BODY", "LEFT_HAND", "RIGHT_HAND"),
    ("BODY_133", "LEFT_HAND_133", "RIGHT_HAND_133"))
# Joint -> parent. "chest" is halfway between the shoulders, the others are points.
NEEDED = {"nose": "chest"} | {
    f"{side}_{joint}": parent if parent == "chest" else f"{side}_{parent}" for side in ("left", "right")
    for joint, parent in (("shoulder", "chest"), ("elbow", "shoulder"), ("wrist", "elbow"))}
EYES = {"left_eye": "nose", "right_eye": "nose"}
LEGS = {f"{side}_{joint}": parent if parent == "chest" else f"{side}_{parent}" for side in ("left", "right")
        for joint, parent in (("hip", "chest"), ("knee", "hip"), ("ankle", "knee"))}
HAND = {"hand": "wrist"} | {  # the 21 points in the order that all these programs have
    f"{finger}{i}": f"{finger}{i - 1}" if i > 1 else "hand" for finger in ("thumb", "index", "middle", "ring", "pinky")
    for i in range(1, 5)}
HANDS = {f"{side}_{joint}": f"{side}_{parent}" for side in ("left", "right") for joint, parent in HAND.items()}


def read_pose(path: str | Path, longest_gap: float = LONGEST_GAP) -> Motion:
    """Reads a file with one person, of the package pose-format; its header names the rate and the points.

    A point with confidence 0 is missing. Over gaps up to longest_gap (seconds) it is interpolated linearly; for
    shoulders, elbows, wrists and nose longer ones are refused. Hands and eyes are often hidden: in gaps of any length
    they go with wrist and nose, the way between last and next sight. What was filled in is logged. Points without depth
    lie in the plane z = 0. The figure faces z and is scaled by its shoulders. Raises MotionError naming the file.
    """
    path = Path(path)
    try:
        points = _points(path)
        limit = longest_gap * points.fps
        legs = LEGS if all(name in points.values and _longest_gap(points.seen(name))[1] <= limit
                           and points.confidence[name].mean() >= LIKELY_SEEN for name in LEGS) else {}
        joints, filled_text = _filled(points, NEEDED | EYES | HANDS | legs, longest_gap)
        joints["chest"] = (joints["left_shoulder"] + joints["right_shoulder"]) / 2
        width = float(np.median(np.linalg.norm(joints["left_shoulder"] - joints["right_shoulder"], axis=1)))
        if not width > 0:
            raise MotionError("the shoulders lie on each other, so there is no scale, expected them apart")
        parents = {"chest": None} | NEEDED | EYES | HANDS | legs
        names = tuple(parents)
        placed = np.stack([joints[name] for name in names], 1) * (1, -1, -1)  # y down and z away, to y up and z ahead
        placed = (placed - np.median(placed[:, 0], axis=0)) * (SHOULDERS / width) + (0, CHEST_HEIGHT, 0)
        indices = tuple(-1 if parent is None else names.index(parent) for parent in parents.values())
        motion = Motion(placed, points.fps, _skeleton_of(placed, names, indices))
    except MotionError as error:
        raise MotionError(f"{path}: {error}") from None
    kind = "points with depth" if points.depth else "points without depth, placed in the plane z = 0,"
    log.info("%s: %s scaled by %.3g so that the shoulders are %g m wide%s", path, kind, SHOULDERS / width, SHOULDERS,
             filled_text)
    return motion


@dataclass(frozen=True)
class _Points:
    """values: joint -> (T, 3), in the image's units; confidence: joint -> (T,). depth: whether z is known."""

    values: dict[str, np.ndarray]
    confidence: dict[str, np.ndarray]
    fps: float
    depth: bool

    def seen(self, name: str) -> np.ndarray:
        """(T,) of bool."""
        return self.confidence[name] > 0


def _points(path: Path) -> _Points:
    try:
        from pose_format import Pose  # an optional package
    except ModuleNotFoundError as error:
        raise MotionError(f".pose files need the package pose-format (no {error.name} here): pip install pose-format"
                          ) from None
    if (size := check_regular(path, lambda text: MotionError(text.removeprefix(f"{path} ")))) > MOST_BYTES:
        raise MotionError(f"{size:,} bytes, expected at most {MOST_BYTES:,}")
    try:
        pose = Pose.read(path.read_bytes())
    except (struct.error, ValueError, TypeError, IndexError, NotImplementedError, MemoryError) as error:
        raise MotionError(f"no .pose file, or damaged ({str(error)[:100]})") from None
    starts, start = {}, 0
    for component in pose.header.components:
        starts[component.name] = component, start
        start += len(component.points)
    body = next((names for names in COMPONENTS if names[0] in starts), None)
    if body is None or any(name not in starts for name in body):
        raise MotionError(f"components {', '.join(starts)[:120]}, expected {', '.join(COMPONENTS[0])}, or those of "
                          "OpenPose, COCO WholeBody or AlphaPose")
    columns = _columns(*(starts[name] for name in body))
    data = np.asarray(pose.body.data.filled(0), float)  # (T, people, N, D)
    confidence = np.asarray(pose.body.confidence, float)  # (T, people, N)
    chosen = list(columns.values())
    persons = np.flatnonzero((confidence[:, :, chosen] > 0).any((0, 2)))
    if len(persons) != 1:
        raise MotionError(f"{len(persons)} people are seen, expected one")
    values, confidence = data[:, persons[0], chosen], confidence[:, persons[0], chosen]  # (T, n, D), (T, n)
    confidence = np.where(np.isfinite(values).all(2), confidence, 0)
    depth = starts[body[0]][0].format.startswith("XYZ") and bool((values[confidence > 0][:, 2] != 0).any())
    flat = np.zeros((*values.shape[:2], 3))
    flat[..., :2 + depth] = values[..., :2 + depth]
    points = _Points({name: flat[:, i] for i, name in enumerate(columns)},
                     {name: confidence[:, i] for i, name in enumerate(columns)}, float(pose.body.fps), depth)
    if depth:
        _in_one_depth(points, pose.header.dimensions.width)
    return points


def _columns(body: tuple, *hands: tuple) -> dict[str, int]:
    """Joint -> index of its point. body, hands: (component, index of its first point)."""
    component, start = body
    places = {name.lower(): start + i for i, name in enumerate(component.points)}
    columns = {}
    for joint in NEEDED | EYES | LEGS:
        side, _, part = joint.rpartition("_")
        place = places.get(joint, places.get(side[:1] + part))  # LEFT_WRIST or LWrist
        if place is not None:
            columns[joint] = place
        elif joint not in LEGS:
            raise MotionError(f"{component.name} has no point for {joint}, but {', '.join(component.points)[:120]}")
    for side, (component, start) in zip(("left", "right"), hands, strict=True):
        if len(component.points) != len(HAND):
            raise MotionError(f"{component.name} has {len(component.points)} points, expected {len(HAND)}")
        columns |= {f"{side}_{joint}": start + i for i, joint in enumerate(HAND)}
    return columns


def _in_one_depth(points: _Points, image_width: int) -> None:
    """Brings the depths to the unit of x, and those of a hand, which count from its own wrist, to the body's wrist."""
    depths = np.concatenate([values[points.seen(name), 2] for name, values in points.values.items()])
    shoulders = np.abs(points.values["left_shoulder"] - points.values["right_shoulder"])[:, 0]
    unit = image_width if np.median(shoulders) > PIXELS and np.abs(depths).max() < WIDTHS else 1
    for values in points.values.values():
        values[:, 2] *= unit
    for side in ("left", "right"):
        body, hand = (_interpolated(points.values[name][:, 2:], points.seen(name)) if points.seen(name).any() else 0
                      for name in (f"{side}_wrist", f"{side}_hand"))
        for joint in HAND:
            points.values[f"{side}_{joint}"][:, 2:] += body - hand


def _filled(points: _Points, parents: dict[str, str], longest_gap: float) -> tuple[dict[str, np.ndarray], str]:
    """Joint -> (T, 3), without gaps, and what was filled in, as text for the log. Raises MotionError."""
    joints, hidden, missing = {}, {}, 0
    for name, parent in parents.items():
        values, seen = points.values[name], points.seen(name)
        first, length = _longest_gap(seen)
        if length == len(seen):
            raise MotionError(f"{name} is seen in no frame, expected it in one or more: leave the clip out")
        if length <= longest_gap * points.fps:
            joints[name] = _interpolated(values, seen)
        elif name in NEEDED:
            raise MotionError(f"{name} is missing in {length} frames from frame {first} on "
                              f"({length / points.fps:.2f} s), expected gaps up to {longest_gap:g} s: leave the clip "
                              "out, or cut it there")
        else:  # it goes with its parent
            joints[name] = joints[parent] + _interpolated(values - joints[parent], seen)
            part = name if name in EYES else f"{name.partition('_')[0]} hand"
            hidden[part] = max(hidden.get(part, 0), int((~seen).sum()))
        missing += int((~seen).sum())
    text = f"; {missing:,} of {len(seen) * len(parents):,} points were missing and are interpolated" if missing else ""
    return joints, text + "".join(f"; {part} hidden in {count:,} of {len(seen):,} frames"
                                  for part, count in hidden.items())


def _longest_gap(seen: np.ndarray) -> tuple[int, int]:
    """First frame and number of frames of the longest gap in seen (T,); 0 frames where there is none."""
    edges = np.concatenate([[-1], np.flatnonzero(seen), [len(seen)]])
    gaps = np.diff(edges) - 1
    return int(edges[gaps.argmax()]) + 1, int(gaps.max())


def _interpolated(values: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Values (T, n), linear between the frames that are seen (T,), and constant before the first and after the last."""
    frames = np.flatnonzero(seen)
    return np.stack([np.interp(np.arange(len(seen)), frames, column[frames]) for column in values.T], 1)


def _skeleton_of(joints: np.ndarray, names: tuple[str, ...], parents: tuple[int, ...]) -> Skeleton:
    """Bones of their mean lengths in joints (T, J, 3), in their mean directions."""
    bones = joints - joints[:, np.maximum(parents, 0)]
    mean = bones.mean(0)
    lengths = np.linalg.norm(bones, axis=-1).mean(0)
    return Skeleton(names, parents, mean * (lengths / np.maximum(np.linalg.norm(mean, axis=-1), 1e-9))[:, None])
