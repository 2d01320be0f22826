"""Features of each part of a figure in its own frame, and the whole figure's again.

The part with the body's centre is told as the whole body is (features.py). What is short, as a hand on its wrist, is
told in the frame of the joint on which it hangs: a fist is the same wherever the arm is. What is long, as an arm or the
upper body, is told relative to the place of that joint and to the heading, as an error in how the joint is turned would
move its far end (on real clips arms are off by 52 mm then, by 56 in the frame of the chest). How a wrist is turned is
told by the places of the joints that hang on it, so its part tells these too (`Piece.seen`). All are places in metres,
which files without rotations have too, and which do not pass on errors from bone to bone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from motion_llm.motion.features import ROOT, Layout, heading_of, rest_pose, turned
from motion_llm.motion.kinematics import ancestors, body_size, global_rotations, rotations_from_joints
from motion_llm.motion.skeleton import Skeleton

SHORT = 0.2  # of the body's size, from the joint on which a piece hangs to its far end: a hand has 0.1, an arm 0.4


@dataclass(frozen=True)
class Piece:
    """Joints of a part that hang together, indices into the layout's body. joints: a parent before its children.
    anchor: the joint of another part on which the first one hangs, -1 for the piece with the body's centre. turned:
    told in the anchor's frame, not relative to the heading. seen: the first joints of turned pieces that hang on it.
    depth: how many turned pieces stand between it and the centre, itself included."""

    joints: tuple[int, ...]
    anchor: int
    turned: bool
    seen: tuple[int, ...]
    depth: int

    @property
    def columns(self) -> list[int]:
        return [*self.joints, *self.seen]


@dataclass(frozen=True)
class PartFeatures:
    """layout: of the whole figure. joints: of each part, indices into layout.body (see joints_of_parts)."""

    layout: Layout
    joints: Mapping[str, tuple[int, ...]]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.joints)

    @cached_property
    def body(self) -> Skeleton:
        """The skeleton of the body alone; its root is the centre."""
        skeleton, body = self.layout.skeleton, self.layout.body
        place = {joint: i for i, joint in enumerate(body)}
        parents = tuple(place[skeleton.parents[joint]] if i else -1 for i, joint in enumerate(body))
        return Skeleton(tuple(skeleton.names[joint] for joint in body), parents, skeleton.offsets[list(body)])

    @cached_property
    def pieces(self) -> dict[str, tuple[Piece, ...]]:
        """Of each part."""
        parents = self.body.parents
        part_of = {joint: part for part, joints in self.joints.items() for joint in joints}
        firsts = [joint for joint, parent in enumerate(parents) if parent < 0 or part_of[parent] != part_of[joint]]

        def first_of(joint: int) -> int:
            return next(j for j in (joint, *ancestors(joint, parents)[::-1]) if j in firsts)

        joints = {first: tuple(j for j in range(len(parents)) if first_of(j) == first) for first in firsts}
        short = {first for first in firsts[1:] if self._reach(joints[first]) < SHORT}
        pieces = {first: Piece(joints[first], parents[first], first in short,
                               tuple(other for other in firsts if other in short and first_of(parents[other]) == first),
                               len(short & {first, *ancestors(first, parents)})) for first in firsts}
        return {part: tuple(pieces[first] for first in firsts if part_of[first] == part) for part in self.joints}

    def _reach(self, joints: Sequence[int]) -> float:
        """The longest way over bones from the joint on which a piece hangs, as a share of the body's size."""
        bones = np.linalg.norm(self.body.offsets, axis=-1) * (np.arange(len(self.body.names)) > 0)
        way = np.zeros(len(bones))
        for joint in joints:
            parent = self.body.parents[joint]
            way[joint] = bones[joint] + (way[parent] if parent in joints else 0)
        return float(way.max()) / body_size(bones, self.body.parents)

    @cached_property
    def layouts(self) -> tuple[Layout, ...]:
        """Of each part, for its quantiser: its joints in the order of its features."""
        found = []
        for pieces in self.pieces.values():
            body = tuple(self.layout.body[i] for piece in pieces for i in piece.columns)
            found.append(Layout(self.layout.skeleton, body[0], body, None, None, any(p.anchor < 0 for p in pieces)))
        return tuple(found)

    @cached_property
    def slices(self) -> tuple[slice, ...]:
        """The columns of each part in what `split` makes."""
        ends = np.cumsum([layout.width for layout in self.layouts]).tolist()
        return tuple(slice(start, end) for start, end in zip([0, *ends[:-1]], ends, strict=True))

    def split(self, features: np.ndarray) -> np.ndarray:
        """Features (T, 3 + 3 B) of the whole figure to those of all parts side by side (T, sum of widths): of each its
        rates, which are 0 but for the part with the centre, and its places."""
        places = features[:, ROOT:].reshape(len(features), -1, 3).astype(float)
        world = self._turns(places)
        columns = []
        for pieces in self.pieces.values():
            has_root = any(piece.anchor < 0 for piece in pieces)
            columns.append(features[:, :ROOT] * has_root)
            for piece in pieces:
                points = places[:, piece.columns]
                if piece.anchor >= 0:
                    points = points - places[:, [piece.anchor]]
                if piece.turned:
                    points = points @ world[:, piece.anchor]  # row vectors: the inverse rotation
                columns.append(points.reshape(len(points), -1))
        return np.concatenate(columns, 1)

    def joined(self, parts: Sequence[np.ndarray]) -> np.ndarray:
        """Features (T, 3 + 3 B) of the whole figure from those of each part (T, width)."""
        count = len(parts[0])
        rates, places = np.zeros((count, ROOT)), np.zeros((count, len(self.layout.body), 3))
        told = []  # (piece, its places)
        for features, pieces in zip(parts, self.pieces.values(), strict=True):
            start = ROOT
            for piece in pieces:
                end = start + 3 * len(piece.columns)
                told.append((piece, features[:, start:end].reshape(count, -1, 3)))
                start = end
                if piece.anchor < 0:
                    rates = features[:, :ROOT]
        told.sort(key=lambda pair: pair[0].joints[0])  # the centre's piece first
        for depth in range(1 + max(piece.depth for piece, _ in told)):
            # By now all joints above those of this depth have their places, and so have the joints that hang on them.
            world = self._turns(places) if depth else None
            for piece, points in told:
                if piece.depth == depth:
                    if piece.turned:
                        points = points @ np.swapaxes(world[:, piece.anchor], 1, 2)
                    if piece.anchor >= 0:
                        points = points + places[:, [piece.anchor]]
                    places[:, piece.columns] = points
        return np.concatenate([rates, places.reshape(count, -1)], 1)

    def _turns(self, places: np.ndarray) -> np.ndarray | None:
        """World rotations (T, B, 3, 3) of the body's joints at places (T, B, 3); None where no part needs them."""
        if not any(piece.turned for pieces in self.pieces.values() for piece in pieces):
            return None
        return global_rotations(rotations_from_joints(places, self.body, 0), self.body.parents)

    @cached_property
    def rest(self) -> np.ndarray:
        """(sum of widths,): what `split` makes of the figure that stands in its rest pose."""
        joints = rest_pose(self.layout.skeleton)[None]
        body = joints[:, self.layout.body]
        body = turned(body - body[:, :1] * (1, 0, 1), -heading_of(joints, self.layout))
        body[:, :, 1] -= body[:, :, 1].min()  # a file's rest pose may hang around the origin
        return self.split(np.concatenate([np.zeros((1, ROOT)), body.reshape(1, -1)], 1))[0]
