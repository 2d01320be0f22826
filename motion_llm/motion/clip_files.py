"""The motions of a folder: its files, read one at a time, and what they have in common."""

import logging
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from motion_llm.motion.features import NO_SIDES, Layout, joint_order, staying, travelling_centre
from motion_llm.motion.files import READERS, is_motion_file, read_motion
from motion_llm.motion.kinematics import SAME_RATE, ancestors, body_size
from motion_llm.motion.names import listed
from motion_llm.motion.skeleton import Motion, MotionError, Skeleton

log = logging.getLogger(__name__)
SPEAKING = [logging.getLogger(f"motion_llm.motion.{name}") for name in ("bvh_reader", "amass", "pose_file")]
LIKELY_HEIGHTS = 0.3, 3.0  # metres
LIKELY_RATES = 10.0, 480.0  # frames a second of captured motion
OTHER_SIZE, OTHER_UNIT = 1.25, 2.0  # times as large: people of several sizes; another unit of length
FEW = 3  # messages of one kind on a folder's files
SAMPLED = 200  # frames of a clip that its bone lengths and its extents are measured on


class MotionFiles(Sequence[Motion]):
    """The motions of a folder and the folders in it, sorted by path. Each is read when it is taken, not kept.

    ids: the paths without the suffix, with "/" between folders, in one Unicode spelling. options: those of read_motion.
    Raises MotionError if there are none, or if two have one id; taking a motion raises those of read_motion.
    """

    def __init__(self, folder: str | Path, **options):
        self.folder, self.options, self._once = Path(folder), options, _Once()
        if not self.folder.is_dir():
            raise MotionError(f"{folder} is no folder, expected one with {', '.join(READERS)} files")
        paths = sorted(path for path in self.folder.rglob("*") if is_motion_file(path) and path.is_file())
        hidden = [path for path in paths if any(part.startswith(".") for part in path.relative_to(self.folder).parts)]
        self.paths = [path for path in paths if path not in set(hidden)]
        if hidden:
            log.warning("%s: %d files whose names start with a dot are left out (%s)", folder, len(hidden),
                        listed([path.name for path in hidden]))
        if not self.paths:
            raise MotionError(f"{folder} has no motions: no file in it or in its folders ends with "
                              f"{', '.join(READERS)}")
        self.ids = [clip_id_of(path.relative_to(self.folder)) for path in self.paths]
        for clip_id, count in Counter(self.ids).items():
            if count > 1:
                names = [path.name for path, other in zip(self.paths, self.ids, strict=True) if other == clip_id]
                raise MotionError(f"{folder}: {' and '.join(names)} are one clip, {clip_id}: give each its own name, "
                                  "or keep one of them")

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> Motion:
        for reader in SPEAKING:
            reader.addFilter(self._once)
        try:
            return read_motion(self.paths[i], **self.options)
        finally:
            for reader in SPEAKING:
                reader.removeFilter(self._once)

    def find(self, name: str) -> Path | None:
        """The file of a name below the folder, whose Unicode spelling may be another; None if there is none."""
        if (self.folder / name).is_file():
            return self.folder / name
        spelled = unicodedata.normalize("NFC", name)
        return next((path for path in self.paths
                     if unicodedata.normalize("NFC", path.relative_to(self.folder).as_posix()) == spelled), None)


def clip_id_of(path: Path) -> str:
    """S01/walk_0 for S01/walk_0.bvh: files of one name in several folders are several clips."""
    return unicodedata.normalize("NFC", path.with_suffix("").as_posix())


class _Once(logging.Filter):
    """Lets each message through once, and of one kind a few: a folder is read twice, and its files are alike."""

    def __init__(self):
        super().__init__()
        self.messages: set[str] = set()
        self.kinds: Counter = Counter()

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        if message in self.messages:
            return False
        self.messages.add(message)
        self.kinds[record.msg] += 1
        if self.kinds[record.msg] == FEW:
            record.msg, record.args = message + " (the same of other files is not said)", ()
        return self.kinds[record.msg] <= FEW


@dataclass(frozen=True)
class Measures:
    """Of a motion. size: about the standing height of its figure in metres, from its bones. extents (3,): of the body
    along x, y and z in most frames, metres. still, travels (J,) bool: see staying."""

    size: float
    extents: np.ndarray
    still: np.ndarray
    travels: np.ndarray

    @staticmethod
    def of(motion: Motion, layout: Layout) -> "Measures":
        """The joints' order is the layout's. Raises MotionError for another figure."""
        joints = motion.joints[:, joint_order(motion, layout)]
        few = joints[::max(1, len(joints) // SAMPLED)].astype(float)
        parents = np.array(layout.skeleton.parents)
        bones = np.median(np.linalg.norm(few - few[:, np.maximum(parents, 0)], axis=-1), axis=0)
        body = list(layout.body)
        bones[[joint for joint in range(len(parents)) if joint not in body[1:]]] = 0
        return Measures(body_size(bones, layout.skeleton.parents), np.median(np.ptp(few[:, body], axis=1), axis=0),
                        *staying(joints))


@dataclass(frozen=True)
class Survey:
    """layout: of the mean skeleton. fps: frames a second of most motions. frames: of all together, at that rate."""

    layout: Layout
    fps: float
    frames: int


def survey(motions: Iterable[Motion], names: Sequence[str]) -> Survey:
    """What motions of one figure have in common. names: of the motions, for messages.

    Logs what is unlikely: sizes, rates, figures that lie. Raises MotionError for another figure than the first one,
    and for figures whose unit of length is another.
    """
    layout, offsets, rates, measures = None, [], [], []
    for motion, name in zip(motions, names, strict=True):
        layout = layout or Layout.of(motion.skeleton)
        try:
            measures.append(Measures.of(motion, layout))
        except MotionError as error:
            raise MotionError(f"{name}: {error}, as in {names[0]}") from None
        offsets.append(motion.skeleton.offsets[joint_order(motion, layout)])
        rates.append((motion.fps, len(motion)))
    check_sizes([measure.size for measure in measures], names)
    check_upright(measures, names)
    fps = Counter(rate for rate, _ in rates).most_common(1)[0][0]
    check_rates([rate for rate, _ in rates], fps, names)
    first = layout.skeleton
    centre = travelling_centre(first.parents, np.array([measure.still for measure in measures]),
                               np.array([measure.travels for measure in measures]))
    if centre != layout.centre:
        log.info("the body hangs on %s: %s stays in its place while it travels", first.names[centre],
                 first.names[layout.centre])
    mean = np.mean(offsets, 0)
    # A file's rest pose often stands where the clip begins.
    mean[[*ancestors(centre, first.parents), centre]] *= (0, 1, 0)
    layout = Layout.of(Skeleton(first.names, first.parents, mean), centre)
    if layout.mirror is None:
        log.info("no mirror images are learned: %s", NO_SIDES)
    return Survey(layout, fps, sum(round(count * fps / rate) for rate, count in rates))


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
        unit = f"in another unit ({factor:g} times --scale?)" if factor != 1 else "another figure, or of a child"
        where = "the codec's figure is" if expected else "the others are"
        raise MotionError(f"{listed([names[i] for i in odd])[:200]}: the figure is about {_metres(sizes[odd[0]])} m "
                          f"high, {where} {_metres(usual)} m: {unit}; keep such files in a folder of their own")
    other = [i for i, ratio in enumerate(ratios) if not 1 / OTHER_SIZE <= ratio <= OTHER_SIZE]
    if other:
        log.warning("%d of %d figures are of another size than %s m, such as %s with %s m: all are decoded to one size",
                    len(other), len(sizes), _metres(usual), names[other[0]], _metres(sizes[other[0]]))
    if not low <= usual <= high:
        log.warning("the figure is about %s m high: is --scale right?", _metres(usual))


def check_upright(measures: Sequence[Measures], names: Sequence[str]) -> None:
    """Logs a warning for figures that lie in most frames: those of a file whose z points up do."""
    lying = [i for i, measure in enumerate(measures)
             if measure.extents[2] > max(1.3 * measure.extents[1], measure.size / 2)]
    if lying:
        _, height, depth = measures[lying[0]].extents
        log.warning("%d of %d figures lie along z, such as that of %s: %s m along z, %s m along y. If z points up in "
                    "these files, read them with --up z", len(lying), len(measures), names[lying[0]], _metres(depth),
                    _metres(height))


def check_rates(rates: Sequence[float], usual: float, names: Sequence[str]) -> None:
    """Logs a warning for files at another rate than usual, and for rates that no capture has."""
    other: dict[float, list[str]] = defaultdict(list)
    for rate, name in zip(rates, names, strict=True):
        if abs(rate - usual) > SAME_RATE * usual:
            other[rate].append(name)
    if other:
        parts = [f"{len(files)} at {rate:g} ({listed(files)[:100]})" for rate, files in list(other.items())[:3]]
        log.warning("%d files at %g frames a second, %s: all are resampled to one rate",
                    len(rates) - sum(map(len, other.values())), usual, ", ".join(parts))
    unlikely = [i for i, rate in enumerate(rates) if not LIKELY_RATES[0] <= rate <= LIKELY_RATES[1]]
    if unlikely:
        log.warning("%d files say %g frames a second, such as %s: is that right?", len(unlikely), rates[unlikely[0]],
                    names[unlikely[0]])


def _metres(value: float) -> str:
    return np.format_float_positional(float(value), precision=2, fractional=False, trim="-")


def with_bar(motions: Iterable[Motion], count: int, title: str) -> Iterator[Motion]:
    """The motions, with a bar and the time left on stderr where it is a terminal."""
    from tqdm import tqdm  # imported here, as only a long reading shows it

    yield from tqdm(motions, total=count, desc=title, unit="clip", disable=None, leave=False)
