"""A motion on another figure, whose joints correspond by name or by a map of names.

Each joint of the other figure turns in the world as its counterpart does, after a constant turn that points the bones
of its rest pose along those of the counterpart's. The pelvis travels by the ratio of the legs' lengths.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from motion_llm.json_files import parse_json, read_text
from motion_llm.motion.features import rest_pose
from motion_llm.motion.kinematics import (
    ancestors,
    best_rotation,
    body_centre,
    body_size,
    forward_kinematics,
    global_rotations,
    smallest_rotation,
    with_rotations,
)
from motion_llm.motion.names import sides_of
from motion_llm.motion.rest_pose import SHORT, Limbs
from motion_llm.motion.skeleton import Motion, MotionError, Skeleton

IGNORED = str.maketrans("", "", " _-.")  # in the names of joints
LISTED = 60  # characters of names in a message


def read_map(path: str | Path) -> dict[str, str]:
    """Names of a clip's joints -> names of the other figure's, from a JSON object. Raises MotionError, OSError."""
    expected = 'JSON such as {"pelvis": "Hips"}, names of the clip\'s joints to names of the other figure\'s'
    names = parse_json(read_text(path, MotionError), str(path), MotionError, expected)
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise MotionError(f"{path}: expected {expected}")
    return names


def correspondences(source: Skeleton, target: Skeleton, names: Mapping[str, str]) -> dict[int, int]:
    """Joint of the target -> joint of the source: those that `names` (of the source -> of the target) gives, then those
    of one name, without the namespace before ":", whatever the case, spaces and "_-.". Tips have none by their name:
    each program lays them elsewhere. Raises MotionError."""
    pairs: dict[int, int] = {}
    for source_name, target_name in names.items():
        joint, counterpart = _joint(target_name, target, "the other figure"), _joint(source_name, source, "the clip")
        if joint in pairs or counterpart in pairs.values():
            raise MotionError(f"the map names {target.names[joint]!r} or {source.names[counterpart]!r} twice")
        pairs[joint] = counterpart
    target_ends, source_ends = set(target.ends), set(source.ends)
    for key in (str, _key):  # equal names first
        for name in dict.fromkeys(map(key, target.names)):
            joints = [i for i, other in enumerate(target.names)
                      if key(other) == name and i not in pairs and i not in target_ends]
            equal = [i for i, other in enumerate(source.names)
                     if key(other) == name and i not in pairs.values() and i not in source_ends]
            if joints and equal and len(joints) + len(equal) > 2:
                raise MotionError(f"several joints of a figure are called {name!r}: name the pairs in --map")
            pairs |= dict(zip(joints, equal, strict=False))
    return dict(sorted(pairs.items()))


def retargeted(motion: Motion, target: Skeleton, names: Mapping[str, str] | None = None) -> Motion:
    """The motion on the figure `target`, whose bones keep their lengths. Joints without a counterpart keep their rest
    pose, relative to their parent. names: joints of the motion -> joints of the target, beside those of equal names.
    Raises MotionError where too few joints correspond."""
    if motion.rotations is None:
        motion = with_rotations(motion)
    source, parents = motion.skeleton, target.parents
    pairs = correspondences(source, target, names or {})
    pelvis, scale = _pelvis(target), _scale(source, target)
    _check_enough(pairs, source, target, pelvis)
    above = ancestors(pelvis, parents)
    turns = _turns(source, target, pairs, above)
    moving = global_rotations(motion.rotations, source.parents)
    world = np.broadcast_to(np.eye(3), (len(motion), len(parents), 3, 3)).copy()
    for joint, parent in enumerate(parents):
        if joint in pairs:
            world[:, joint] = moving[:, pairs[joint]] @ turns[joint]
        elif parent >= 0:
            world[:, joint] = world[:, parent]
    local = world.copy()
    local[:, 1:] = np.swapaxes(world[:, parents[1:]], 2, 3) @ world[:, 1:]
    translations = np.broadcast_to(target.offsets, (len(motion), len(parents), 3)).copy()
    place = np.zeros((len(motion), 3))  # of the parent
    for joint in [*above, pelvis]:
        outer = world[:, parents[joint]] if joint else np.broadcast_to(np.eye(3), (len(motion), 3, 3))
        if joint in pairs:
            step = scale * motion.joints[:, pairs[joint]] - place
            translations[:, joint] = (np.swapaxes(outer, 1, 2) @ step[..., None])[..., 0]
        place = place + (outer @ translations[:, joint, :, None])[..., 0]
    return Motion(forward_kinematics(local, translations, parents), motion.fps, target, local)


def _turns(source: Skeleton, target: Skeleton, pairs: dict[int, int], above: list[int]) -> dict[int, np.ndarray]:
    """Of each joint with a counterpart: the turn (3, 3) in the world from the target's rest pose to the source's."""
    ours, theirs = rest_pose(target), rest_pose(source)
    nearest = {joint: next((i for i in reversed(ancestors(joint, target.parents)) if i in pairs), -1)
               for joint in pairs}
    sides, _ = sides_of(target.names)
    turns, branching = {-1: np.eye(3)}, {-1: np.eye(3)}  # branching: of the nearest joint with several bones
    for joint in pairs:
        if joint in above:  # no part of the body: the line from it to the pelvis is no bone
            turns[joint] = branching[joint] = np.eye(3)
            continue
        outer = turns[nearest[joint]]
        branching[joint] = branching[nearest[joint]]
        bones = [(ours[child] - ours[joint], theirs[pairs[child]] - theirs[pairs[joint]])
                 for child in pairs if nearest[child] == joint]
        bones = [(start, end) for start, end in bones if min(np.linalg.norm([start, end], axis=1)) > SHORT]
        starts, ends = np.array(bones).reshape(-1, 2, 3).swapaxes(0, 1)
        starts = starts @ outer.T  # the smallest turn from that of the parent, so that the twist follows it
        if len(bones) == 1:
            turns[joint] = smallest_rotation(starts, ends)[0] @ outer
        elif bones:
            starts, ends = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (starts, ends))
            turns[joint] = branching[joint] = best_rotation(starts, ends[None])[0] @ outer
        else:  # a hand follows its arm; a head does not follow its neck, whose slope is that of joints, not of a pose
            turns[joint] = outer if sides[joint] is not None else branching[joint]
    return turns


def _pelvis(skeleton: Skeleton) -> int:
    try:
        return Limbs.of(skeleton).pelvis
    except MotionError:
        return body_centre(skeleton.parents)


def _scale(source: Skeleton, target: Skeleton) -> float:
    """How much longer the target's legs are, or its body where the limbs of one cannot be told."""
    try:
        lengths = [Limbs.of(skeleton).leg_length(skeleton) for skeleton in (target, source)]
    except MotionError:
        lengths = []
        for skeleton in (target, source):
            bones, centre = np.linalg.norm(skeleton.offsets, axis=1), body_centre(skeleton.parents)
            bones[[*ancestors(centre, skeleton.parents), centre, *skeleton.ends]] = 0
            lengths.append(body_size(bones, skeleton.parents))
    return lengths[0] / lengths[1] if min(lengths) > SHORT else 1.0


def _check_enough(pairs: dict[int, int], source: Skeleton, target: Skeleton, pelvis: int) -> None:
    least = (min(len(skeleton.names) - len(skeleton.ends) for skeleton in (source, target)) + 1) // 2
    if len(pairs) >= least and pelvis in pairs:
        return
    alone, left = (_listed([name for joint, name in enumerate(skeleton.names) if joint not in {*paired, *ends}])
                   for skeleton, paired, ends in ((target, pairs, target.ends), (source, pairs.values(), source.ends)))
    raise MotionError(f"{len(pairs)} joints have a counterpart, expected {least} or more, with "
                      f"{target.names[pelvis][:40]!r} among them. Without one: {alone}; in the clip: {left}. Name "
                      "pairs in --map")


def _listed(names: list[str]) -> str:
    text = ", ".join(names) or "none"
    return text if len(text) <= LISTED else f"{text[:LISTED].rpartition(',')[0] or text[:LISTED]}, ..."


def _key(name: str) -> str:
    return name.rpartition(":")[2].lower().translate(IGNORED)


def _named(name: str, skeleton: Skeleton) -> list[int]:
    """The joints of this very name or, if there is none, those whose names differ from it in namespace, case and
    separators."""
    if name in skeleton.names:
        return [joint for joint, other in enumerate(skeleton.names) if other == name]
    return [joint for joint, other in enumerate(skeleton.names) if _key(other) == _key(name)]


def _joint(name: str, skeleton: Skeleton, figure: str) -> int:
    joints = _named(name, skeleton)
    if len(joints) != 1:
        raise MotionError(f"the map names {name[:60]!r}, {'no joint' if not joints else 'several joints'} of {figure}, "
                          f"which has {_listed(list(skeleton.names))}")
    return joints[0]
