"""The motions of a folder: its files, read one at a time."""

import difflib
import logging
import os
import posixpath
import sys
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path

from motion_llm.input_files import is_below
from motion_llm.motion.files import READERS, is_motion_file, read_motion
from motion_llm.motion.names import listed
from motion_llm.motion.skeleton import Motion, MotionError

log = logging.getLogger(__name__)
SPEAKING = [logging.getLogger(f"motion_llm.motion.{name}") for name in ("bvh", "bvh_reader", "amass", "pose_file")]
UNREAD = (".fbx", ".c3d", ".glb", ".gltf", ".trc", ".amc", ".asf", ".vmd", ".mot", ".pkl", ".bvh.gz", ".usd", ".blend")
FEW = 3  # messages of one kind on a folder's files


class MotionFiles(Sequence[Motion]):
    """The motions of a folder and the folders in it, sorted by path. Each is read when it is taken, not kept.

    ids: the paths without the suffix, with "/" between folders, in one Unicode spelling. options: those of read_motion.
    Raises MotionError if there are none, or if two have one id; taking a motion raises those of read_motion.
    """

    def __init__(self, folder: str | Path, **options):
        self.folder, self.options, self._once = Path(folder), options, _Once()
        if not self.folder.is_dir():
            raise MotionError(f"{folder} is no folder, expected one with {', '.join(READERS)} files")
        files = sorted(_files_below(self.folder))
        hidden = {path for path in files if is_motion_file(path)
                  and any(part.startswith(".") for part in path.relative_to(self.folder).parts)}
        self.paths = [path for path in files if is_motion_file(path) and path not in hidden]
        if hidden:
            log.warning("%s: %d files whose names start with a dot are left out (%s)", folder, len(hidden),
                        listed(sorted(path.name for path in hidden)))
        other = [path.name for path in files if path.name.lower().endswith(UNREAD)]
        if other:
            log.warning("%s: %d files of formats that are not read are left out (%s)", folder, len(other),
                        listed(other))
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

    @cached_property
    def _names(self) -> list[str]:
        """The paths with their suffixes, spelled as the ids are."""
        return [unicodedata.normalize("NFC", path.relative_to(self.folder).as_posix()) for path in self.paths]

    @cached_property
    def _places(self) -> dict[str, int]:
        """Id or name with its suffix -> index."""
        return {name: i for names in (self.ids, self._names) for i, name in enumerate(names)}

    def find(self, name: str) -> int:
        """The index of the file with a name or id below the folder. The name's Unicode spelling may be another, its
        suffix may be missing, and its folders may stand between backslashes. Raises MotionError, with a likely name."""
        wanted = unicodedata.normalize("NFC", posixpath.normpath(name.replace("\\", "/")))
        if wanted in self._places:
            return self._places[wanted]
        if not is_below(wanted):
            raise MotionError(f"{name[:60]} is no motion file in {self.folder} and its folders: it leads out of it, "
                              "expected a name below it")
        names = self._names
        if (self.folder / name).is_file():
            raise MotionError(f"{self.folder / name} is no motion file in {self.folder} and its folders, expected a "
                              f"name that ends with {', '.join(READERS)}")
        close = difflib.get_close_matches(wanted.lower(), [other.lower() for other in names], 1, 0.6)
        likely = [other for other in names if close and other.lower() == close[0]]
        hint = f"; did you mean {likely[0]}?" if likely else f"; there are {listed(names)}"
        raise MotionError(f"{self.folder / name} does not exist{hint}")


def _files_below(folder: Path) -> Iterator[Path]:
    """All files in a folder and the folders in it, also behind links; no folder twice."""
    seen = set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        yield from (Path(parent) / name for name in names)


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


def with_bar(items: Iterable, count: int, title: str, unit: str = "clip"):
    """The same items, with a bar and the time left on stderr where it is a terminal: tqdm's iterator."""
    from tqdm import tqdm  # imported here, as only a long reading shows it

    return tqdm(items, total=count, desc=title, unit=unit, disable=None, leave=False, file=sys.stderr)
