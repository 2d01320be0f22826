"""How a skeleton of any kind is drawn: which joints make up a limb, how thick it is, which side it belongs to, where
the floor is and where the camera looks. Most of this comes from joint names, the rest from bone lengths.

A joint is a point of the body, as in SMPL (left_elbow) and in BVH files (LeftForeArm). Its name gives the radius of the
body there, and a bone tapers from one joint to the next.
"""

import re
from dataclasses import dataclass, field, replace

import numpy as np

from motion_llm.motion.kinematics import body_size
from motion_llm.motion.skeleton import END, Motion, MotionError

STANDARD_SIZE = 1.7  # metres: height of the person to whom the radii below belong
SMOOTHING = 0.4  # seconds: standard deviation of the Gaussian that smooths the camera's path

# Part of the body -> the pattern of its joints' names (lower case, without separators) and the radius there in metres,
# or None if it comes from the bones. The first match counts, so special patterns stand before general ones:
# LeftHandThumb1 is a finger, LeftForeArm is no upper arm, LeftUpLeg is no knee.
PARTS = {
    "finger": (r"thumb|finger|pinky|carpal|(left|right|hand|^[lr]?)(index|middle|ring|little)\d*", 0.010),
    "face": (r"eye|jaw|nose|mouth|tongue|teeth", None),
    "toe": (r"toe|ball|foot(end|tip)", 0.026),
    "foot": (r"foot|ankle|heel", 0.038),
    "head": (r"head|skull", 0.050),
    "neck": (r"neck", 0.050),
    "hand": (r"hand|wrist|palm", 0.029),
    "elbow": (r"elbow|forearm|lowerarm|radius|ulna|^[lr]farm", 0.038),
    "collar": (r"collar|clavicle|scapula", 0.078),
    "shoulder": (r"shoulder|arm(?!ature)|humerus", 0.050),
    "hip": (r"up(per)?leg|thigh|femur|hip(?!s)", 0.076),
    "knee": (r"knee|leg|shin|calf|tibia", 0.050),
    "pelvis": (r"hips|pelvis|root|waist", 0.092),
    "trunk": (r"spine|chest|torso|abdomen|back|thorax|rib|belly|sternum", 0.104),
}
HEAD_RADIUS, HAND_LENGTH = 0.095, 0.085  # metres
INSIDE = 0.82  # the trunk ends a little inside the limbs' first joints, since two coinciding surfaces would flicker
SIDES = ("", "left", "right")  # a capsule's side is an index of this
SHORT_SIDE = (r"[lr](?=hip|femur|tibia|thigh|shin|calf|leg|knee|ankle|foot|toe|clavicle|collar|shoulder|humerus|arm|"
              r"elbow|radius|wrist|hand|finger|thumb|index|middle|ring|little|pinky|up|low|fore|u$|f$)")


def words_of(name: str) -> list[str]:
    """Lower-case words of a joint's name: mixamorig:LeftHandThumb1 -> mixamorig left hand thumb 1."""
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", name)]


def part_of(name: str) -> str:
    """A key of PARTS, or "" for a name that matches none."""
    joined = "".join(words_of(name))
    return next((part for part, (pattern, _) in PARTS.items() if re.search(pattern, joined)), "")


def side_of(name: str) -> str:
    """"left", "right", or "" for the middle of the body: left_knee, LeftLeg, Bip01 L Calf, Foot.R, LThumb, and the
    shorter lfemur and LUArm."""
    words = words_of(name)
    for side in ("left", "right"):
        if side[0] in words or any(word.startswith(side) for word in words):
            return side
    short = re.match(SHORT_SIDE, words[0]) if words else None
    return {"l": "left", "r": "right"}[short[0]] if short else ""


@dataclass(frozen=True)
class Span:
    """A sentence of a clip, which holds from `start` to before `end`, in seconds."""

    start: float
    end: float
    text: str


@dataclass(frozen=True)
class Clip:
    """A motion to show. caption: what it shows; note: a second line of text, such as "17 tokens, 3.4 s"; spans: the
    sentences of a scene in their order, with or without time between them. Raises MotionError for spans that do not
    lie one after the other inside the motion; the last may end a frame after it."""

    motion: Motion
    caption: str = ""
    note: str = ""
    spans: tuple[Span, ...] = ()

    def __post_init__(self):
        before, end = 0.0, self.motion.seconds + 1.001 / self.motion.fps
        for number, span in enumerate(self.spans, 1):
            where = f"sentence {number} ({span.text[:40]!r}) of a clip of {self.motion.seconds:g} s"
            if not span.text.strip():
                raise MotionError(f"{where} has no text: expected a sentence, or free time between two")
            if not before - 1e-6 <= span.start < span.end <= end or span.start >= self.motion.seconds:
                raise MotionError(f"{where} is from {span.start:g} to {span.end:g} s, expected a start from "
                                  f"{before:g} s and a later end inside the clip")
            before = span.end

    @property
    def title(self) -> str:
        """What is shown above the sentences: the caption, unless it only repeats them."""
        return "" if self.spans and all(span.text in self.caption for span in self.spans) else self.caption

    def span_at(self, seconds: float) -> Span | None:
        """The sentence that holds at this time."""
        return next((span for span in self.spans if span.start <= seconds < span.end), None)


@dataclass(frozen=True)
class Capsule:
    """A round cone along the line from joint `start` to joint `end`: from the share `near` of its length to the share
    `far` (above 1: past the end joint), with radii in metres there. side: an index of SIDES."""

    start: int
    end: int
    near: float
    far: float
    near_radius: float
    far_radius: float
    side: int


@dataclass(frozen=True)
class Figure:
    """What is drawn of a motion, in metres: capsules; root, the joint that leaves the trail; size, about the standing
    height of the body; floor, the height of the ground; target (T, 2), x and z of the smooth path that the camera
    follows; reach, the largest horizontal distance of a joint from it; height, from the floor to the highest point;
    heading, where the body faces in the first frame (radians about y, 0 along z)."""

    capsules: tuple[Capsule, ...]
    root: int
    size: float
    floor: float
    target: np.ndarray = field(repr=False)
    reach: float
    height: float
    heading: float


def figure_of(motion: Motion) -> Figure:
    joints, skeleton = motion.joints, motion.skeleton
    parents = np.array(skeleton.parents)
    lengths = np.linalg.norm(joints - joints[:, np.maximum(parents, 0)], axis=-1)
    root, bones = body_root(skeleton.names, skeleton.parents, lengths), np.median(lengths, 0)  # (J,) metres
    bones[root] = 0
    sized = bones.copy()
    sized[skeleton.ends] = 0  # a height is told from joints alone, in files with end sites as in those without
    scale = body_size(sized, parents) / STANDARD_SIZE
    radii = radii_of(skeleton.names, bones, parents, scale)
    capsules = capsules_of(skeleton.names, skeleton.parents, bones, radii, scale, root)
    drawn = sorted({capsule.start for capsule in capsules} | {capsule.end for capsule in capsules}) or [root]
    body = joints[:, drawn]
    floor = float(np.percentile((body[..., 1] - radii[drawn]).min(1), 2))
    target = smoothed(joints[:, root][:, [0, 2]], SMOOTHING * motion.fps)
    reach = float(np.linalg.norm(body[..., [0, 2]] - target[:, None], axis=-1).max() + 0.05 * scale)
    height = float(body[..., 1].max() + HEAD_RADIUS * scale - floor)
    heading = heading_of(joints[0], skeleton.names)
    return Figure(capsules, root, scale * STANDARD_SIZE, floor, target, reach, height, heading)


def radii_of(names, bones, parents, scale: float) -> np.ndarray:
    """Radii (J,) in metres: by the part that the name gives, limited by the length of the bones there. A seventh of the
    longest bone there if the name gives no part, or if there is no trunk, as in a file of a hand alone."""
    longest = bones.copy()
    np.maximum.at(longest, parents[1:], bones[1:])
    radii, parts = np.clip(longest / 7, 0.008 * scale, 0.06 * scale), [part_of(name) for name in names]
    if not {"pelvis", "trunk", "shoulder"} & set(parts):
        return radii
    for joint, part in enumerate(parts):
        if part and PARTS[part][1] is not None:
            radii[joint] = PARTS[part][1] * scale
            if part not in ("pelvis", "trunk", "hip", "collar"):  # these may be thicker than short bones inside them
                radii[joint] = min(radii[joint], max(0.4 * longest[joint], 0.004 * scale))
    return radii


def body_root(names, parents, lengths) -> int:
    """The first joint, or the hips below it if the file has a point on the floor as their parent. The hips are known by
    their name, or because the distance from that point, in lengths (T, J), is no bone's length: it changes, or is more
    than twice any other."""
    children = [joint for joint, parent in enumerate(parents) if parent == 0]
    if len(children) != 1:
        return 0
    distances, others = lengths[:, children[0]], np.median(lengths, 0)[[0, *range(children[0] + 1, len(names))]]
    no_bone = np.ptp(distances) > 0.2 * np.median(distances) or np.median(distances) > 2 * others.max()
    return children[0] if part_of(names[children[0]]) == "pelvis" or (len(names) > 2 and no_bone) else 0


def capsules_of(names, parents, bones, radii, scale: float, root: int) -> tuple[Capsule, ...]:
    """One capsule for each bone, one across the hips, one across the collars, and the skull and the hands if the
    skeleton has no joints there. Bones of the face and a bone above the hips are not drawn."""
    sides, parts = [], [part_of(name) for name in names]
    for name, parent in zip(names, parents, strict=True):  # Thumb1, a child of LeftHand, is on the left
        side = side_of(name)
        sides.append(SIDES.index(side) if side or parent < 0 else sides[parent])
    heads = {joint for joint, part in enumerate(parts) if part == "head" and parts[parents[joint]] != "head"}
    capsules = []
    for joint, parent in enumerate(parents):
        if joint == root or parent < 0 or bones[joint] < 1e-3 * scale or parts[joint] == "face" or parent in heads:
            continue
        in_trunk = parts[joint] in ("hip", "collar", "shoulder")
        side = sides[parent] or (0 if in_trunk else sides[joint])
        thick = min(radii[parent], 1.5 * radii[joint]) if parts[joint] == "neck" else radii[parent]  # no wide cone
        inner = INSIDE * radii[joint] if side == 0 and sides[joint] else radii[joint]
        capsules.append(Capsule(parent, joint, 0.0, 1.0, thick, inner, side))
        if in_trunk and side == 0 and sides[joint] == 1:
            opposite = [right for right in range(len(parents)) if parents[right] == parent
                        and sides[right] == 2 and parts[right] == parts[joint]]
            capsules += [Capsule(joint, right, 0.0, 1.0, inner, INSIDE * radii[right], 0) for right in opposite]
        if joint in heads:
            capsules.append(head_of(joint, parents, bones, parts, scale))
        elif parts[joint] == "hand" and joint not in parents and (
                names[joint] != names[parent] + END or bones[joint] < HAND_LENGTH * scale / 2):  # else its tip is known
            past = 1 + HAND_LENGTH * scale / bones[joint]
            capsules.append(Capsule(parent, joint, 1.0, past, radii[joint], 0.7 * radii[joint], sides[joint]))
    return tuple(capsules)


def head_of(head: int, parents, bones, parts, scale: float) -> Capsule:
    """The skull: from the head's joint to that of its top or, without one, in the direction of the neck."""
    tops = [joint for joint, parent in enumerate(parents) if parent == head and parts[joint] in ("head", "")]
    radius = HEAD_RADIUS * scale
    if tops and bones[tops[0]] > 0.6 * radius:
        top = tops[0]
        inset = min(0.5, radius / bones[top])
        return Capsule(head, top, 0.7 * inset, 1 - inset, 0.86 * radius, radius, 0)
    ahead = scale / bones[head]
    return Capsule(parents[head], head, 1 + 0.005 * ahead, 1 + 0.06 * ahead, 0.86 * radius, radius, 0)


def smoothed(path: np.ndarray, frames: float) -> np.ndarray:
    """path (T, 2), smoothed by a Gaussian of `frames` standard deviation; mirrored ends keep it from jumping."""
    half = min(int(3 * frames), len(path) - 1)
    weights = np.exp(-0.5 * (np.arange(-half, half + 1) / max(frames, 1e-6)) ** 2)
    padded = np.pad(path, ((half, half), (0, 0)), mode="reflect", reflect_type="odd")
    return np.stack([np.convolve(column, weights / weights.sum(), "valid") for column in padded.T], -1)


def heading_of(pose: np.ndarray, names) -> float:
    """Heading of a pose (J, 3) in radians about y, 0 along z: perpendicular to the line from the right hip and shoulder
    to the left ones; 0 if names tell no sides."""
    for parts in (("hip", "shoulder"), PARTS):
        left, right = ([joint for joint, name in enumerate(names) if side_of(name) == side and part_of(name) in parts]
                       for side in SIDES[1:])
        if left and right:
            across = pose[left].mean(0) - pose[right].mean(0)
            return float(np.arctan2(-across[2], across[0]))
    return 0.0


def place(capsule: Capsule, joints: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The capsule's two end points (..., 3) for joints (..., J, 3)."""
    start, end = joints[..., capsule.start, :], joints[..., capsule.end, :]
    return start + capsule.near * (end - start), start + capsule.far * (end - start)


def figures_of(clips: list[Clip]) -> list[Figure]:
    """Figures of clips that are shown side by side. They get the largest reach and height of all, so that the camera
    has the same distance, unless their sizes differ too much. Raises MotionError for no clips."""
    if not clips:
        raise MotionError("no clips to look at: expected at least one")
    figures = [figure_of(clip.motion) for clip in clips]
    sizes = [figure.size for figure in figures]
    if max(sizes) > 1.5 * min(sizes):
        return figures
    reach, height = max(figure.reach for figure in figures), max(figure.height for figure in figures)
    return [replace(figure, reach=reach, height=height) for figure in figures]
