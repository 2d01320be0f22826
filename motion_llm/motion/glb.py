"""Writes GLB files (glTF 2.0 in one binary file): a skeleton, a simple mesh on it, and an animation for each motion.

Metres, y up, as glTF has them; a figure that faces z faces ahead in glTF too. A node is a joint, in its rest pose
without rotation. The mesh, an octahedron for each bone, is there because some viewers show nothing without one.
"""

import json
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from motion_llm.motion.features import rest_pose
from motion_llm.motion.kinematics import (
    ancestors,
    body_centre,
    local_positions,
    quaternions_of,
    smallest_rotation,
    with_rotations,
)
from motion_llm.motion.skeleton import Motion, MotionError, Skeleton
from motion_llm.saving import saving

SAME = 1e-6  # metres; offsets of one figure, read from two files
WIDTH, BULGE = 0.1, 0.15  # of an octahedron: its radius and where that is, as shares of the bone's length
END_RADIUS = 0.01, 0.03  # metres, at least and at most, of the octahedron at an end joint
COLOUR = (0.32, 0.47, 0.72, 1.0)
FLOAT, BYTE, SHORT = 5126, 5121, 5123  # glTF's codes of component types
KINDS = {1: "SCALAR", 3: "VEC3", 4: "VEC4", 16: "MAT4"}
VERTICES = 34962  # glTF's code of a buffer of vertex attributes


def write_glb(path: str | Path, motions: Sequence[Motion], names: Sequence[str]) -> None:
    """One animation for each motion, with its name; motions without rotations get them from their joints. Raises
    MotionError for motions of several figures, OSError."""
    motions = [motion if motion.rotations is not None else with_rotations(motion) for motion in motions]
    skeleton = motions[0].skeleton
    for motion, name in zip(motions, names, strict=True):
        other = motion.skeleton
        if (other.names, other.parents) != (skeleton.names, skeleton.parents) or np.abs(
                other.offsets - skeleton.offsets).max() > SAME:
            raise MotionError(f"{path}: a .glb file holds clips of one figure; the joints or the bone lengths of "
                              f"{name[:60]!r} are others than those of {names[0][:60]!r}: write a file for each")
    moving = np.any([local_positions(motion)[1] for motion in motions], 0)
    file = _File()
    count = len(skeleton.names)
    nodes = [{"name": name, "translation": offset} for name, offset in
             zip(skeleton.names, skeleton.offsets.tolist(), strict=True)]
    for joint, parent in enumerate(skeleton.parents):
        if parent >= 0:
            nodes[parent].setdefault("children", []).append(joint)
    inverse = np.broadcast_to(np.eye(4), (count, 4, 4)).copy()
    inverse[:, 3, :3] = -rest_pose(skeleton)  # glTF has matrices column by column
    skin = {"joints": list(range(count)), "skeleton": 0, "inverseBindMatrices": file.add(inverse.reshape(count, 16))}
    animations = [_animation(file, motion, name) for motion, name in
                  zip(motions, _different(names), strict=True)]
    content = {
        "asset": {"version": "2.0", "generator": "Motion LLM"},
        "scene": 0,
        "scenes": [{"nodes": [0, count]}],
        "nodes": [*nodes, {"name": "figure", "mesh": 0, "skin": 0}],
        "meshes": [{"primitives": [_mesh(file, skeleton, moving)]}],
        "materials": [{"pbrMetallicRoughness": {"baseColorFactor": COLOUR, "metallicFactor": 0.0,
                                                "roughnessFactor": 0.8}}],
        "skins": [skin],
        "animations": animations,
        "accessors": file.accessors,
        "bufferViews": file.views,
        "buffers": [{"byteLength": len(file.content)}],
    }
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    chunks = struct.pack("<I4s", len(text), b"JSON") + text
    chunks += struct.pack("<I4s", len(file.content), b"BIN\0") + file.content
    with saving(path) as temporary:
        temporary.write_bytes(struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks)


class _File:
    """Grows the binary part of a file. content: its bytes; accessors, views: glTF's description of the arrays there."""

    def __init__(self):
        self.content, self.accessors, self.views = bytearray(), [], []

    def add(self, values: np.ndarray, kind: int = FLOAT, limits: bool = False, **view) -> int:
        """The index of an accessor of values (n, k), as numbers of this kind. limits: with its minimum and maximum."""
        values = np.ascontiguousarray(values, {FLOAT: "<f4", BYTE: "u1", SHORT: "<u2"}[kind])
        self.views.append({"buffer": 0, "byteOffset": len(self.content), "byteLength": values.nbytes, **view})
        self.content += values.tobytes() + bytes(-values.nbytes % 4)
        bounds = {"min": values.min(0).tolist(), "max": values.max(0).tolist()} if limits else {}
        self.accessors.append({"bufferView": len(self.views) - 1, "componentType": kind, "count": len(values),
                               "type": KINDS[values.shape[1]], **bounds})
        return len(self.accessors) - 1


def _animation(file: _File, motion: Motion, name: str) -> dict:
    """Rotations of all joints, translations of the root and of the joints that leave their rest offset."""
    times = file.add(np.arange(len(motion))[:, None] / motion.fps, limits=True)
    quaternions = quaternions_of(motion.rotations.astype(float))
    places, moving = local_positions(motion)
    turning_back = (quaternions[1:] * quaternions[:-1]).sum(-1) < 0  # q and -q are one rotation; viewers interpolate
    quaternions[1:] *= np.cumprod(np.where(turning_back, -1, 1), 0)[..., None]
    samplers, channels = [], []
    for joint in range(len(motion.skeleton.names)):
        paths = {"rotation": quaternions[:, joint, [1, 2, 3, 0]]}
        if moving[joint]:
            paths["translation"] = places[:, joint]
        for path, values in paths.items():
            channels.append({"sampler": len(samplers), "target": {"node": joint, "path": path}})
            samplers.append({"input": times, "output": file.add(values), "interpolation": "LINEAR"})
    return {"name": name, "samplers": samplers, "channels": channels}


def _different(names: Sequence[str]) -> list[str]:
    """The names, numbered where they are equal: programs find animations by name."""
    names = [name or "clip" for name in names]
    return [name if names.count(name) == 1 else f"{name} {names[:i + 1].count(name)}" for i, name in enumerate(names)]


def _mesh(file: _File, skeleton: Skeleton, moving: np.ndarray) -> dict:
    """Octahedra in the rest pose: along each bone, moving with its upper joint, and at each end joint. Joints that move
    by themselves hang on no bone."""
    joints, parents = rest_pose(skeleton), skeleton.parents
    above = ancestors(body_centre(parents), parents)
    parts, owners = [], []
    for joint, parent in enumerate(parents):
        bone = skeleton.offsets[joint]
        length = float(np.linalg.norm(bone))
        if not moving[joint] and parent not in above and length > 1e-3:
            turn = smallest_rotation(np.array([[0.0, 0, 1]]), bone[None])[0]
            parts.append(joints[parent] + _octahedron(WIDTH * length, BULGE * length, length) @ turn.T)
            owners.append(parent)
        if joint not in parents:
            radius = float(np.clip(2 * WIDTH * length, *END_RADIUS))
            parts.append(joints[joint] + _octahedron(radius, radius, 2 * radius) - (0, 0, radius))
            owners.append(joint)
    triangles = np.concatenate(parts)  # (n, 3, 3)
    normals = np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    vertices = triangles.reshape(-1, 3)
    bound = np.zeros((len(vertices), 4), int)
    bound[:, 0] = np.repeat(owners, 24)  # vertices of an octahedron
    weights = np.broadcast_to((1.0, 0, 0, 0), bound.shape)
    attributes = {"POSITION": file.add(vertices, limits=True, target=VERTICES),
                  "NORMAL": file.add(np.repeat(normals, 3, 0), target=VERTICES),
                  "JOINTS_0": file.add(bound, BYTE if len(parents) <= 256 else SHORT, target=VERTICES),
                  "WEIGHTS_0": file.add(weights, target=VERTICES)}
    return {"attributes": attributes, "material": 0}


def _octahedron(radius: float, middle: float, length: float) -> np.ndarray:
    """Triangles (8, 3, 3), seen from outside against the clock: from the origin to (0, 0, length), the widest at
    `middle`."""
    low, high = np.zeros(3), np.array([0, 0, length])
    ring = [np.array([x * radius, y * radius, middle]) for x, y in ((1, 0), (0, 1), (-1, 0), (0, -1))]
    sides = list(zip(ring, ring[1:] + ring[:1], strict=True))
    return np.array([(low, b, a) for a, b in sides] + [(high, a, b) for a, b in sides])
