"""What the motions of a folder have in common, and what is unlikely about them, before a codec is fitted to them."""

import logging
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from motion_llm.motion.features import NO_SIDES, Layout, joint_order, staying, travelling_centre
from motion_llm.motion.kinematics import SAME_RATE, ancestors, body_size, same_rate
from motion_llm.motion.names import listed, sides_of
from motion_llm.motion.skeleton import END, Motion, MotionError, Skeleton

log = logging.getLogger(__name__)
LIKELY_HEIGHTS = 0.3, 3.0  # metres
RATES = 20.0, 30.0  # frames a second of a codec, where the motions have more
LIKELY_RATES = 10.0, 480.0  # frames a second of captured motion
OTHER_SIZE, OTHER_UNIT = 1.25, 2.0  # times as large: people of several sizes; another unit of length
FASTEST = 20.0  # metres a second; the fastest people run 12
BENT = 1e-3  # of a bone's length; a mean offset that is shorter by more is of rest poses that differ
SAMPLED = 200  # frames of a clip that its bone lengths and its extents are measured on


@dataclass(frozen=True)
class Measures:
    """Of a motion. size: about the standing height of its figure in metres, from its bones. extents (3,): of the body
    along x, y and z in most frames, metres. head_up: how much higher head and neck are than feet in most frames, as a
    share of the size; None if no names tell them. fastest: metres a second of the body's centre, and the frame.
    still, travels (J,) bool: see staying. All are told without tips, as not every file of a figure has them."""

    size: float
    extents: np.ndarray
    head_up: float | None
    fastest: tuple[float, int]
    still: np.ndarray
    travels: np.ndarray

    @staticmethod
    def of(motion: Motion, layout: Layout) -> "Measures":
        """The joints' order is the layout's. Raises MotionError for another figure."""
        joints = motion.joints[:, joint_order(motion, layout)]
        few = joints[::max(1, len(joints) // SAMPLED)].astype(float)
        parents = np.array(layout.skeleton.parents)
        bones = np.median(np.linalg.norm(few - few[:, np.maximum(parents, 0)], axis=-1), axis=0)
        ends = layout.skeleton.ends
        body = [joint for joint in layout.body if joint not in ends]
        bones[[joint for joint in range(len(parents)) if joint not in body[1:]]] = 0
        size = body_size(bones, layout.skeleton.parents)
        heads, feet = ([i for i in body if re.search(words, layout.skeleton.names[i], re.IGNORECASE)]
                       for words in (r"head|neck", r"foot|ankle|toe"))
        head_up = None
        if heads and feet:
            head_up = float(np.median(few[:, heads, 1].mean(1) - few[:, feet, 1].mean(1))) / size
        steps = np.linalg.norm(np.diff(joints[:, layout.centre].astype(float), axis=0), axis=-1) * motion.fps
        frame = int(steps.argmax()) if len(steps) else 0
        return Measures(size, np.median(np.ptp(few[:, body], axis=1), axis=0), head_up,
                        (float(steps[frame]) if len(steps) else 0.0, frame + 1), *staying(joints))


@dataclass(frozen=True)
class Survey:
    """layout: of the mean skeleton. fps: frames a second of most motions. rates, lengths: frames a second and frames of
    each. bones (N, B): lengths of the bones of the body in each, metres, without tips."""

    layout: Layout
    fps: float
    rates: tuple[float, ...]
    lengths: tuple[int, ...]
    bones: np.ndarray


def codec_rate(rate: float) -> float:
    """Frames a second for a codec of motions at a rate."""
    # 20 to 30 a second hold what people do, and codes of 4 frames then last 0.13 to 0.2 s. A rate divided by a whole
    # number takes recorded frames and mixes none: the highest whole rate, else the highest. Slower ones stay.
    if rate <= RATES[1]:
        return rate
    rates = [rate / n for n in range(2, int(rate / RATES[0] + SAME_RATE) + 1) if same_rate(RATES[1], rate / n)
             or rate / n < RATES[1]]
    return max(rates, key=lambda fps: (same_rate(round(fps), fps), fps), default=RATES[1])


def survey(motions: Iterable[Motion], names: Sequence[str], fps: float | None = None) -> Survey:
    """What motions of one figure have in common. names: of the motions, for messages. fps: frames a second of the
    codec, if they are told.

    Logs what is unlikely: sizes, rates, figures that lie. Raises MotionError for another figure than the first one, and
    for figures whose unit of length is another. Tips are taken where all motions have them, and on both sides.
    """
    layout, offsets, tips, rates, lengths, measures = None, [], [], [], [], []
    for motion, name in zip(motions, names, strict=True):
        skeleton = motion.skeleton
        layout = layout or Layout.of(skeleton.without_ends())
        try:
            measures.append(Measures.of(motion, layout))
        except MotionError as error:
            raise MotionError(f"{name}: {error}, as in {names[0]}") from None
        order = joint_order(motion, layout)
        offsets.append(skeleton.offsets[order])
        tips.append({order.index(skeleton.parents[joint]): skeleton.offsets[joint] for joint in skeleton.ends})
        rates.append(motion.fps)
        lengths.append(len(motion))
    check_sizes([measure.size for measure in measures], names)
    check_upright(measures, names)
    check_jumps(measures, names)
    usual = Counter(rates).most_common(1)[0][0]
    check_rates(rates, usual, names, fps or codec_rate(usual))
    first = layout.skeleton
    centre = travelling_centre(first.parents, np.array([measure.still for measure in measures]),
                               np.array([measure.travels for measure in measures]))
    if centre != layout.centre:
        log.info("the body hangs on %s: %s stays in its place while it travels", first.names[centre],
                 first.names[layout.centre])
    mean = _mean_bones(np.array(offsets))
    # A file's rest pose often stands where the clip begins.
    mean[[*ancestors(centre, first.parents), centre]] *= (0, 1, 0)
    mean_skeleton = _with_tips(Skeleton(first.names, first.parents, mean), tips)
    layout = Layout.of(mean_skeleton, centre)
    if layout.mirror is None:
        log.info("no mirror images are learned: %s", NO_SIDES)
    body = [joint for joint in layout.body[1:] if joint < len(first.names)]
    return Survey(layout, usual, tuple(rates), tuple(lengths), np.linalg.norm(np.array(offsets)[:, body], axis=-1))


def _mean_bones(offsets: np.ndarray) -> np.ndarray:
    """(J, 3) of offsets (N, J, 3): their mean directions, as long as they are in the mean. Rest poses may differ."""
    mean, lengths = np.mean(offsets, 0), np.linalg.norm(offsets, axis=-1).mean(0)
    shortened = np.linalg.norm(mean, axis=-1)
    bent = (shortened < (1 - BENT) * lengths) & (shortened > BENT * lengths)
    mean[bent] *= (lengths[bent] / shortened[bent])[:, None]
    return mean


def _with_tips(skeleton: Skeleton, tips: Sequence[dict[int, np.ndarray]]) -> Skeleton:
    """The skeleton with the tips that all motions have, behind the other joints. tips: of each motion, joint -> offset
    of its tip. Of a pair of joints, both have one or none, as mirror images are learned."""
    common, some = set.intersection(*map(set, tips)), set.union(*map(set, tips))
    partners = sides_of(skeleton.names)[1]
    kept = [joint for joint in sorted(common) if partners[joint] in common]
    if left := [skeleton.names[joint] for joint in sorted(some - set(kept))]:
        log.info("the End Sites of %s are left out: not all clips have one there, on both sides", listed(left))
    return Skeleton((*skeleton.names, *(skeleton.names[joint] + END for joint in kept)), (*skeleton.parents, *kept),
                    np.concatenate([skeleton.offsets, *(_mean_bones(np.array([[of[joint]] for of in tips]))
                                                        for joint in kept)]))


def check_sizes(sizes: Sequence[float], names: Sequence[str], expected: float | None = None) -> None:
    """sizes: of figures, metres. expected: a codec's; by default the median of the likely ones. Raises MotionError for
    a figure in another unit of length, and logs a warning for others that differ, and for an unlikely size."""
    low, high = LIKELY_HEIGHTS
    likely = [size for size in sizes if low <= size <= high]
    usual = expected or float(np.median(likely or sizes))
    ratios = np.array(sizes) / usual
    odd = [i for i, ratio in enumerate(ratios) if not 1 / OTHER_UNIT <= ratio <= OTHER_UNIT]
    if odd:
        factor = 10 ** round(float(np.log10(1 / ratios[odd[0]])))
        cure = f"{factor:g} times --scale?" if _has_scale(names[odd[0]]) else f"multiply its values by {factor:g}?"
        unit = f"in another unit ({cure})" if factor != 1 else "another figure, or of a child"
        where = "the codec's figure is" if expected else "the others are"
        raise MotionError(f"{listed([names[i] for i in odd])[:200]}: the figure is about {_metres(sizes[odd[0]])} m "
                          f"high, {where} {_metres(usual)} m: {unit}; keep such files in a folder of their own")
    other = [i for i, ratio in enumerate(ratios) if not 1 / OTHER_SIZE <= ratio <= OTHER_SIZE]
    if other:
        log.warning("%d of %d figures are of another size than %s m, such as %s with %s m: all are decoded to one size",
                    len(other), len(sizes), _metres(usual), names[other[0]], _metres(sizes[other[0]]))
    if not low <= usual <= high:
        cure = ("is --scale right?" if _has_scale(names[0]) else
                "are its values in metres? --scale is for BVH files alone")
        log.warning("%s: the figure is about %s m high: %s", names[0], _metres(usual), cure)


def check_upright(measures: Sequence[Measures], names: Sequence[str]) -> None:
    """Logs a warning for figures that lie or stand on their heads in most frames: those of a file in which another axis
    points up do."""
    inverted = [i for i, measure in enumerate(measures) if measure.head_up is not None and measure.head_up < -0.3]
    if inverted:
        log.warning("%d of %d figures stand on their heads, such as that of %s. If y points down in these files, read "
                    "them with --up=-y", len(inverted), len(measures), names[inverted[0]])
    # A figure on four legs is long as well, but its head is not as high as its feet.
    lying = [i for i, measure in enumerate(measures)
             if measure.extents[2] > max(1.3 * measure.extents[1], measure.size / 2)
             and (measure.head_up is None or abs(measure.head_up) < 0.25)]
    if lying:
        _, height, depth = measures[lying[0]].extents
        other = "y" if names[lying[0]].lower().endswith(".npz") else "z"
        log.warning("%d of %d figures lie along z, such as that of %s: %s m along z, %s m along y. If they should "
                    "stand, read them with --up %s", len(lying), len(measures), names[lying[0]], _metres(depth),
                    _metres(height), other)


def check_jumps(measures: Sequence[Measures], names: Sequence[str]) -> None:
    """Logs a warning for bodies that move faster than any: a frame at the origin before the recording, lost markers,
    another unit."""
    jumping = [i for i, measure in enumerate(measures) if measure.fastest[0] > FASTEST]
    if jumping:
        speed, frame = measures[jumping[0]].fastest
        log.warning("%d of %d figures jump, such as that of %s: %s m/s before frame %d (from 0). A code would learn "
                    "the jump: cut such frames off", len(jumping), len(measures), names[jumping[0]], _metres(speed),
                    frame)


def check_rates(rates: Sequence[float], usual: float, names: Sequence[str], fps: float | None = None) -> None:
    """Logs a warning for files at another rate than usual, and for rates that no capture has. fps: frames a second to
    which all are resampled, by default the usual."""
    other: dict[float, list[str]] = defaultdict(list)
    for rate, name in zip(rates, names, strict=True):
        if not same_rate(rate, usual):
            other[rate].append(name)
    if other:
        usual_count = len(rates) - sum(map(len, other.values()))
        parts = [f"{len(files)} at {rate:g} ({listed(files)[:100]})" for rate, files in list(other.items())[:3]]
        most = [f"{usual_count} files at {usual:g}"] * (usual_count > 0)
        log.warning("%s frames a second: all are resampled to %g", ", ".join(most + parts), fps or usual)
    unlikely = [i for i, rate in enumerate(rates) if not LIKELY_RATES[0] <= rate <= LIKELY_RATES[1]]
    if unlikely:
        log.warning("%d files say %g frames a second, such as %s: is that right?", len(unlikely), rates[unlikely[0]],
                    names[unlikely[0]])


def _has_scale(name: str) -> bool:
    return not name.lower().endswith((".npy", ".npz", ".pose"))


def _metres(value: float) -> str:
    return np.format_float_positional(float(value), precision=2, fractional=False, trim="-")
