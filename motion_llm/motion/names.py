"""What the names of a figure's joints tell: which of two files' joints are the same, and which are left and right."""

import re
import unicodedata
from collections.abc import Sequence

SIDES = (("left", "right"), ("l", "r"), ("左", "右"))
READINGS = 8  # at most of one name; a name of many words that are sides would take quadratic time
SHOWN = 6  # names at most in a message


def joint_keys(names: Sequence[str]) -> list[str]:
    """The names by which joints of two files are compared: in one Unicode spelling, and without a namespace
    (mixamorig:Hips, mixamorig1:Hips, or Character1_ before all of them) if they are still different names without it.
    """
    spelled = [unicodedata.normalize("NFC", name) for name in names]
    bare = [name.rpartition(":")[2].strip() for name in spelled]
    first = bare[0].split("_")[0]
    is_side = any(first.lower() in sides for sides in SIDES)  # a figure of one hand is not that of the other
    if len(bare) > 1 and not is_side and all(name.startswith(first + "_") for name in bare):
        bare = [name.removeprefix(first + "_") for name in bare]
    return bare if all(bare) and len(set(bare)) == len(set(spelled)) else spelled


def listed(names: Sequence[str]) -> str:
    """Names for a message: the first ones, and how many more there are."""
    shown = names[:SHOWN if sum(map(len, names[:SHOWN])) <= 90 else 2]
    more = f" and {len(names) - len(shown)} more" if len(names) > len(shown) else ""
    return ", ".join(name[:40] for name in shown) + more


def _words(name: str) -> list[str]:
    return re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+|[^A-Za-z\d]", name)


def _readings(name: str, whole_words: bool) -> list[tuple[str, int]]:
    """The (name without its side, 0 for left or 1 for right) that a name may mean: "LeftArm", "Arm_L", "l_arm", and,
    unless whole_words, "leftarm" and "lfemur"."""
    words, readings = _words(name), []
    for i, word in enumerate(words):
        if len(readings) >= READINGS:
            break
        for sides in SIDES:
            for side, spelling in enumerate(sides):
                starts = word.lower().startswith(spelling) and not whole_words and i == 0
                if word.lower() == spelling or starts:
                    rest = ["*", word[len(spelling):]] if word.lower() != spelling else ["*"]
                    readings.append(("".join([*words[:i], *rest, *words[i + 1:]]).lower(), side))
    return readings


def sides_of(names: Sequence[str], whole_words: bool = False) -> tuple[list[int | None], list[int]]:
    """For each joint 0 if it is left, 1 if right, None if neither; and the index of its partner on the other side, its
    own if it has none. A side is told from pairs: L5, a vertebra, has no R5, so it is in the middle."""
    sides: list[int | None] = [None] * len(names)
    partners = list(range(len(names)))
    readings = [_readings(name, whole_words) for name in names]
    places: dict[tuple[str, int], int] = {}
    for i, of_name in enumerate(readings):
        for reading in of_name:
            places.setdefault(reading, i)
    for i, of_name in enumerate(readings):
        for stem, side in of_name:
            partner = places.get((stem, 1 - side))
            if partner is not None and partner != i and partners[i] == i and partners[partner] == partner:
                sides[i], sides[partner] = side, 1 - side
                partners[i], partners[partner] = partner, i
    return sides, partners


def all_paired(names: Sequence[str]) -> bool:
    """Whether some names pair up by a whole word for their side, and every name with such a word has a partner."""
    partners = sides_of(names, whole_words=True)[1]
    alone = [name for i, name in enumerate(names) if partners[i] == i]
    return len(alone) < len(names) and not any(_readings(name, whole_words=True) for name in alone)
