"""Parts of a figure that a codec quantises apart, such as the body and its two hands: which joints each of them has."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from motion_llm.json_files import check_form, read_json
from motion_llm.motion.features import Layout
from motion_llm.motion.kinematics import ancestors
from motion_llm.motion.look_ahead import CodecError
from motion_llm.motion.names import joint_keys, listed, sides_of
from motion_llm.motion.skeleton import Skeleton
from motion_llm.streams import MOST_STREAMS, name_problem

HANDS = "hands"  # instead of a file: the parts that `hands_of` finds
SIDES = ("left", "right")
FINGERS = ("thumb", "index", "middle", "mid", "ring", "pinky", "pinkie", "little", "finger", "fingers")
WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
LOWER = re.compile(r"foot|feet|toe|ankle|leg", re.IGNORECASE)  # the second toe is an index too
EXAMPLE = '{"upper": ["Spine", "LeftArm"], "lower": ["Hips", "LeftLeg"]}'
IN_A_FILE = f"name the parts' joints in a file, such as {EXAMPLE}"

Told = str | Mapping[str, Sequence[str]]  # HANDS, or the joints' names of each part


def read_parts(path: str | Path) -> dict[str, list[str]]:
    """The parts of a JSON file, such as EXAMPLE. Raises CodecError naming the file; OSError."""
    content = read_json(Path(path), CodecError)
    check_form(content, {str: [str]}, str(path), CodecError)
    return content


def joints_of_parts(layout: Layout, told: Told) -> dict[str, tuple[int, ...]]:
    """Part -> its joints, indices into layout.body in its order. Joints above the body's centre may be told, though no
    code moves them; a tip that is not told (see Skeleton) goes with its parent. Raises CodecError where the joints of
    the body are not each in one part."""
    if told == HANDS:
        return hands_of(layout)
    if isinstance(told, str):
        raise CodecError(f"parts {told[:60]!r}: expected {HANDS!r}, or the names of joints by part, such as {EXAMPLE}")
    if not 2 <= len(told) <= MOST_STREAMS:
        raise CodecError(f"{len(told)} parts: expected 2 to {MOST_STREAMS}, such as {EXAMPLE}")
    for part in told:
        if problem := name_problem(part):
            raise CodecError(f"a part is called {part[:60]!r}, {problem}")
    place = {key: joint for joint, key in enumerate(joint_keys(layout.skeleton.names))}
    spelled = [name for names in told.values() for name in names]
    keys = dict(zip(spelled, joint_keys(spelled), strict=True)) if spelled else {}
    _check_joints(layout.skeleton, layout.body, place, [keys[name] for name in spelled])
    part_of = {place[keys[name]]: part for part, names in told.items() for name in names}
    for tip in layout.skeleton.ends:
        part_of.setdefault(tip, part_of.get(layout.skeleton.parents[tip]))
    joints = {part: tuple(i for i, joint in enumerate(layout.body) if part_of[joint] == part) for part in told}
    if empty := [part for part, indices in joints.items() if not indices]:
        raise CodecError(f"part {empty[0]} has no joint that a code moves, expected one or more of "
                         f"{listed([layout.skeleton.names[joint] for joint in layout.body])}")
    return joints


def _check_joints(skeleton: Skeleton, body: Sequence[int], place: Mapping[str, int], told: Sequence[str]) -> None:
    """Raises CodecError where the parts miss joints, name some twice or others than the figure has."""
    wrong = []
    if unknown := [name for name in dict.fromkeys(told) if name not in place]:
        wrong.append(f"the figure has no {listed(unknown)}")
    if doubled := [name for name, count in Counter(told).items() if count > 1 and name in place]:
        wrong.append(f"{listed(doubled)} {'are' if len(doubled) > 1 else 'is'} named more than once")
    named = {place[name] for name in told if name in place}
    ends = set(skeleton.ends)
    if missing := [skeleton.names[joint] for joint in body if joint not in named and joint not in ends]:
        wrong.append(f"no part has {listed(missing)}")
    if wrong:
        raise CodecError(f"parts: {'; '.join(wrong)}; expected each of the body's {len(body) - len(ends & set(body))} "
                         "joints once")


def hands_of(layout: Layout) -> dict[str, tuple[int, ...]]:
    """body, left_hand and right_hand, told by the names of the fingers' joints: a hand is all below its wrist, which is
    the lowest joint above all fingers of a side and belongs to the body. Raises CodecError where there are none."""
    skeleton = layout.skeleton
    names, parents = [skeleton.names[joint] for joint in layout.body], _parents(layout)
    fingers = [i for i, name in enumerate(names) if is_finger(name) and not any(
        LOWER.search(names[j]) for j in (*ancestors(i, parents), i) if j)]
    sides = sides_of(names)[0]
    hands = {}
    for side, word in enumerate(SIDES):
        own = [i for i in fingers if sides[i] == side]
        if not own:
            found = f"only {listed([names[i] for i in fingers])}" if fingers else "none"
            raise CodecError(f"parts {HANDS}: the figure has no finger joints of a {word} hand, such as "
                             f"{word.capitalize()}HandThumb1 or index_01_{word[0]} ({found} of {listed(names)}): "
                             f"{IN_A_FILE}")
        wrist = _wrist(own, parents)
        hand = tuple(i for i in range(len(names)) if wrist in ancestors(i, parents))
        if strangers := [names[i] for i in (wrist, *hand) if sides[i] == 1 - side or i == wrist and sides[i] != side]:
            raise CodecError(f"parts {HANDS}: {listed([names[i] for i in own])} hang on {names[wrist]} together with "
                             f"{listed(strangers)}, expected on one {word} wrist: {IN_A_FILE}")
        hands[f"{word}_hand"] = hand
    body = tuple(i for i in range(len(names)) if not any(i in hand for hand in hands.values()))
    return {"body": body} | hands


def is_finger(name: str) -> bool:
    """Whether a joint's name says that it is one of a finger: LeftHandThumb1, index_01_l, lPinky2, Bip01 R Finger0."""
    words = [word.lower() for word in WORD.findall(name)]
    without_side = [word.removeprefix(side) for word in words for side in (*SIDES, "l", "r")]
    return bool({*words, *without_side} & {*FINGERS})


def _wrist(fingers: Sequence[int], parents: Sequence[int]) -> int:
    """The lowest joint that is above all these joints."""
    chains = [ancestors(joint, tuple(parents)) for joint in fingers]
    return max(set(chains[0]).intersection(*chains[1:]), default=0)


def _parents(layout: Layout) -> tuple[int, ...]:
    """Of each joint of the body the parent's index in layout.body; -1 for the centre."""
    place = {joint: i for i, joint in enumerate(layout.body)}
    return tuple(place[layout.skeleton.parents[joint]] if i else -1 for i, joint in enumerate(layout.body))
