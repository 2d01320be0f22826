"""Motion and Skeleton: joints in space, which BVH files hold, codecs encode and decode, and the viewer draws."""

from dataclasses import dataclass, field

import numpy as np

END = "_End"  # behind the name of its parent: the name of a tip of the body, which a BVH file keeps as an End Site


class MotionError(ValueError):
    """An invalid motion or skeleton; the text says what was found and what was expected."""


@dataclass(frozen=True)
class Skeleton:
    """names: J joints, a parent before its children. parents: J indices, -1 for the root, which is the first. offsets:
    (J, 3) metres, each joint from its parent in the rest pose. Raises MotionError for anything else.

    A tip of the body, such as that of a foot, is a joint without children whose name is its parent's and END."""

    names: tuple[str, ...]
    parents: tuple[int, ...]
    offsets: np.ndarray = field(repr=False)

    def __post_init__(self):
        count = len(self.names)
        if not count or len(self.parents) != count or self.offsets.shape != (count, 3):
            raise MotionError(f"a skeleton of {count} names, {len(self.parents)} parents and offsets "
                              f"{self.offsets.shape}: expected J of each, and (J, 3)")
        wrong = [i for i, parent in enumerate(self.parents) if parent not in (range(i) if i else (-1,))]
        if wrong:
            raise MotionError(f"parents: joint {wrong[0]} ({self.names[wrong[0]][:40]}) has the parent "
                              f"{self.parents[wrong[0]]}, expected -1 for the first joint alone, and a parent before "
                              "its children")

    @property
    def ends(self) -> list[int]:
        """Indices of the tips."""
        inner = set(self.parents)
        return [joint for joint, parent in enumerate(self.parents) if parent >= 0 and joint not in inner
                and self.names[joint] == self.names[parent] + END]

    def without_ends(self) -> "Skeleton":
        """The skeleton without its tips; the others keep their order."""
        ends = set(self.ends)
        joints = [joint for joint in range(len(self.names)) if joint not in ends]
        place = {joint: i for i, joint in enumerate(joints)} | {-1: -1}
        return Skeleton(tuple(self.names[joint] for joint in joints),
                        tuple(place[self.parents[joint]] for joint in joints), self.offsets[joints])


@dataclass(frozen=True)
class Motion:
    """joints: (T, J, 3) metres, y up. fps: frames a second. rotations, if known: (T, J, 3, 3), of each joint in its
    parent's frame, of the root in the world's. Raises MotionError for shapes that do not fit and for values that are
    not finite."""

    joints: np.ndarray = field(repr=False)
    fps: float
    skeleton: Skeleton
    rotations: np.ndarray | None = field(default=None, repr=False)

    def __post_init__(self):
        count = len(self.skeleton.names)
        if self.joints.ndim != 3 or self.joints.shape[1:] != (count, 3) or not len(self.joints):
            raise MotionError(f"joints {self.joints.shape}: expected (T, {count}, 3), at least one frame")
        if self.rotations is not None and self.rotations.shape != (len(self.joints), count, 3, 3):
            raise MotionError(f"rotations {self.rotations.shape}: expected {(len(self.joints), count, 3, 3)}")
        if not self.fps > 0:
            raise MotionError(f"{self.fps} frames a second: expected more than 0")
        for name in ("joints", "rotations"):
            values = getattr(self, name)
            # Not isfinite(values), which takes a byte for each value of a long recording.
            if values is not None and not np.isfinite([values.min(), values.max()]).all():
                frame = int(np.flatnonzero(~np.isfinite(values.reshape(len(values), -1)).all(1))[0])
                raise MotionError(f"{name} of frame {frame} hold values that are not finite")

    def __len__(self) -> int:
        """Number of frames."""
        return len(self.joints)

    @property
    def seconds(self) -> float:
        return len(self) / self.fps
