"""A codec that is fitted to clips of one figure, from motions to codes and back: the class, and its folder on disk."""

import hashlib
import json
import logging
import shutil
import zipfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from motion_llm.json_files import read_json, write_json
from motion_llm.motion.bvh import SCALE, read_bvh
from motion_llm.motion.features import (
    Layout,
    features_of,
    joint_order,
    joints_from_features,
    mirror_features,
    rest_pose,
)
from motion_llm.motion.kinematics import ancestors, resampled, with_rotations
from motion_llm.motion.kmeans import KMeans
from motion_llm.motion.skeleton import Motion, MotionError, Skeleton

log = logging.getLogger(__name__)
CONFIG_FILE, CODEBOOK_FILE, WEIGHTS_FILE = "codec.json", "codebook.npz", "weights.safetensors"
FILES = (CONFIG_FILE, CODEBOOK_FILE, WEIGHTS_FILE)
CODES, WINDOW, SEED = 512, 4, 0
LIKELY_HEIGHTS = 0.3, 3.0  # metres, from the lowest to the highest joint of a figure
QUANTISERS = ("vqvae", "kmeans")  # the first is the default: its measured error is lower (docs/log.md)


class CodecError(ValueError):
    """An invalid codec, codec folder or code; the text says what was found and what was expected."""


def quantiser_of(kind: str) -> type:
    """The quantiser class of a kind. Raises CodecError for an unknown kind."""
    if kind == "kmeans":
        return KMeans
    if kind == "vqvae":
        from motion_llm.motion.vqvae import VqVae  # imports torch, which takes seconds

        return VqVae
    raise CodecError(f"kind of codec {kind!r}, expected one of {', '.join(QUANTISERS)}")


@dataclass(frozen=True)
class MotionCodec:
    """layout: the skeleton and its features; fps: frames a second; quantiser: of class quantiser_of(kind)."""

    layout: Layout
    fps: float
    kind: str
    quantiser: object

    @property
    def codes(self) -> int:
        """K, the size of the codebook."""
        return len(self.quantiser.codebook)

    @property
    def window(self) -> int:
        """Frames a code."""
        return self.quantiser.window

    @staticmethod
    def fit(motions: Sequence[Motion], codes: int = CODES, window: int = WINDOW, kind: str = QUANTISERS[0],
            fps: float | None = None, seed: int = SEED, **options) -> "MotionCodec":
        """Fits a codec to motions of one figure. fps: by default that of most motions. If the joints' names tell left
        from right, mirror images are learned too. options: those of the quantiser's fit. Raises CodecError, and
        MotionError for a motion of another figure."""
        if not motions:
            raise CodecError("no motions to fit a codec to")
        if codes < 2 or window < 1:
            raise CodecError(f"{codes} codes of {window} frames: expected 2 codes or more, of 1 frame or more")
        layout = Layout.of(mean_skeleton(motions))
        if fps is None:
            fps = Counter(motion.fps for motion in motions).most_common(1)[0][0]
        clips = [features_of(resampled(motion, fps), layout) for motion in motions]
        if layout.mirror:
            clips += [mirror_features(clip, layout) for clip in clips]
        windows = sum(max(len(clip) - window + 1, 0) for clip in clips)
        if windows < codes:
            raise CodecError(f"{len(motions)} motions hold {windows} windows of {window} frames, expected at least as "
                             f"many as codes, {codes}")
        log.info("fitting %d codes of %d frames (%s) to %d motions, %.0f seconds at %g frames a second%s", codes,
                 window, kind, len(motions), sum(map(len, clips)) / fps / (2 if layout.mirror else 1), fps,
                 ", and their mirror images" if layout.mirror else "")
        quantiser = quantiser_of(kind).fit(clips, codes, window, seed, layout, fps, **options)
        return MotionCodec(layout, fps, kind, quantiser)

    def encode(self, motion: Motion) -> list[int]:
        """One code for each whole window of the motion at the codec's frame rate; the frames after the last whole
        window are dropped. Raises MotionError for another figure, or a motion shorter than a window."""
        motion = resampled(motion, self.fps)
        if len(motion) < self.window:
            raise MotionError(f"{len(motion)} frames, expected at least the {self.window} of a code")
        features = features_of(motion, self.layout)
        return self.quantiser.encode(features[:len(features) // self.window * self.window]).tolist()

    def decode(self, codes: Sequence[int]) -> Motion:
        """The motion (len(codes) * window frames), which begins above the origin and faces z. It has rotations, and
        bones as long as the skeleton's. Raises CodecError for no codes, or an invalid code."""
        codes = list(codes)
        if not codes:
            raise CodecError("no codes to decode")
        for place, code in enumerate(codes):
            if isinstance(code, bool) or not isinstance(code, int | np.integer) or not 0 <= code < self.codes:
                raise CodecError(f"code {place + 1} is {code!r}, expected an integer from 0 to {self.codes - 1}")
        joints = joints_from_features(self.quantiser.decode(np.array(codes)), self.fps, self.layout)
        return with_rotations(Motion(joints, self.fps, self.layout.skeleton))

    def save(self, folder: str | Path) -> None:
        """Writes codec.json (skeleton, rate), codebook.npz and, for a network, weights.safetensors. Raises OSError."""
        from safetensors.numpy import save

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        np.savez(folder / CODEBOOK_FILE, codebook=self.quantiser.codebook.astype(np.float32))
        tensors = self.quantiser.tensors()
        if tensors:
            (folder / WEIGHTS_FILE).write_bytes(save(tensors))  # save_file() makes it unreadable for others
        skeleton = self.layout.skeleton
        write_json(folder / CONFIG_FILE, {
            "kind": self.kind, "codes": self.codes, "window": self.window, "fps": self.fps,
            "skeleton": {"names": skeleton.names, "parents": skeleton.parents, "offsets": skeleton.offsets.tolist()}})

    @staticmethod
    def load(folder: str | Path) -> "MotionCodec":
        """Raises CodecError, naming the file and what is wrong with it."""
        folder = Path(folder)
        config = _config_of(folder)
        layout = Layout.of(config["skeleton"])
        codebook = _read_codebook(folder / CODEBOOK_FILE, config["codes"])
        kind = quantiser_of(config["kind"])
        tensors = _read_weights(folder / WEIGHTS_FILE) if kind.has_weights else {}
        try:
            quantiser = kind.restore(codebook, tensors, config["window"], layout.width)
        except ValueError as error:
            raise CodecError(f"{folder}: {error}") from None
        return MotionCodec(layout, config["fps"], config["kind"], quantiser)


def codec_facts(folder: str | Path) -> dict:
    """kind, codes, window (frames a code) and fps from a codec's codec.json alone. Raises CodecError."""
    return {name: value for name, value in _config_of(Path(folder)).items() if name != "skeleton"}


def _config_of(folder: Path) -> dict:
    if not (folder / CONFIG_FILE).is_file():
        raise CodecError(f"{folder} has no {CONFIG_FILE}, so it is no codec's folder")
    return _read_config(folder / CONFIG_FILE)


def copy_codec(source: str | Path, target: str | Path) -> None:
    """Copies the codec's files, without other files of the folder; removes those of an earlier codec in target."""
    source, target = Path(source), Path(target)
    if source.resolve() == target.resolve():
        return
    target.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        (target / name).unlink(missing_ok=True)
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)


def codec_fingerprint(folder: str | Path) -> str:
    """sha256 of the names and bytes of a codec's files; it does not depend on the folder's path."""
    digest = hashlib.sha256()
    for name in FILES:
        if (Path(folder) / name).is_file():
            digest.update(f"{name} ".encode() + hashlib.sha256((Path(folder) / name).read_bytes()).digest())
    return digest.hexdigest()


def mean_skeleton(motions: Sequence[Motion]) -> Skeleton:
    """The first motion's skeleton with the mean of all rest poses. The body's centre is moved above the origin, since a
    file's rest pose often stands where the clip begins. Raises MotionError for a motion of another figure."""
    first = motions[0].skeleton
    layout = Layout.of(first)
    offsets = np.mean([motion.skeleton.offsets[joint_order(motion, layout)] for motion in motions], 0)
    offsets[[*ancestors(layout.centre, first.parents), layout.centre]] *= (0, 1, 0)
    return Skeleton(first.names, first.parents, offsets)


def warn_of_size(skeleton: Skeleton) -> None:
    """Logs a warning for a figure of an unlikely height, which a wrong scale makes."""
    height = float(np.ptp(rest_pose(skeleton)[:, 1]))
    if not LIKELY_HEIGHTS[0] <= height <= LIKELY_HEIGHTS[1]:
        metres = np.format_float_positional(height, precision=2, fractional=False, trim="-")
        log.warning("the figure is %s m high: is --scale right?", metres)


def _read_config(path: Path) -> dict:
    content = read_json(path, CodecError)
    try:
        skeleton = content["skeleton"]
        content["skeleton"] = Skeleton(tuple(skeleton["names"]), tuple(skeleton["parents"]),
                                       np.array(skeleton["offsets"], dtype=float))
        if not np.isfinite(content["skeleton"].offsets).all():
            raise CodecError("the skeleton's offsets hold values that are not finite")
        for name, least in (("codes", 2), ("window", 1)):
            if not isinstance(content[name], int) or content[name] < least:
                raise CodecError(f"{name} is {content[name]!r}, expected an integer from {least} on")
        if not isinstance(content["fps"], int | float) or not 0 < content["fps"] < 1e6:
            raise CodecError(f"fps is {content['fps']!r}, expected frames a second")
        if content["kind"] not in QUANTISERS:
            raise CodecError(f"kind is {content['kind']!r}, expected one of {', '.join(QUANTISERS)}")
    except KeyError as error:
        raise CodecError(f"{path} has no {error.args[0]!r}: it is damaged, or no codec's file") from None
    except (ValueError, TypeError) as error:
        raise CodecError(f"{path} is damaged: {error}") from None
    return content


def _read_codebook(path: Path, codes: int) -> np.ndarray:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            codebook = arrays["codebook"]
    except FileNotFoundError:
        raise CodecError(f"{path} is missing: the folder is damaged") from None
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise CodecError(f"{path} is damaged: {error}") from None
    if codebook.ndim != 2 or len(codebook) != codes or codebook.dtype.kind != "f" or not np.isfinite(codebook).all():
        raise CodecError(f"{path} is damaged: {codebook.dtype} {codebook.shape}, expected {codes} rows of numbers")
    return codebook


def _read_weights(path: Path) -> dict[str, np.ndarray]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(path)
    except FileNotFoundError:
        raise CodecError(f"{path} is missing: the folder is damaged") from None
    except (SafetensorError, ValueError, KeyError) as error:
        raise CodecError(f"{path} is damaged: {error}") from None


def read_motions(folder: str | Path, scale: float = SCALE) -> dict[str, Motion]:
    """File name -> motion of the BVH files in a folder, sorted. Raises CodecError if there are none, MotionError for a
    broken file, and for one of another figure than the first file's."""
    paths = sorted(path for path in Path(folder).glob("*") if path.suffix.lower() == ".bvh")
    if not paths:
        raise CodecError(f"{folder} has no BVH files (.bvh)")
    motions = {path.name: read_bvh(path, scale) for path in paths}
    layout = Layout.of(motions[paths[0].name].skeleton)
    for path in paths:
        try:
            joint_order(motions[path.name], layout)
        except MotionError as error:
            raise MotionError(f"{path}: {error}, as in {paths[0].name}") from None
    return motions


def encode_captions(codec: MotionCodec, folder: str | Path, captions: str | Path, scale: float = SCALE) -> list[dict]:
    """Rows of a dataset, in the captions' order. Raises CodecError naming the row, MotionError naming the file."""
    rows, codes = [], {}  # codes: of each file, which may have several captions
    for place, entry in enumerate(_read_captions(Path(captions))):
        path = Path(folder) / entry["file"]
        if not path.is_file():
            raise CodecError(f"{captions}, row {place}: {path} does not exist")
        if entry["file"] not in codes:
            motion = read_bvh(path, scale)
            try:
                codes[entry["file"]] = codec.encode(motion)
            except MotionError as error:
                raise MotionError(f"{path}: {error}") from None
            log.info("%s: %d frames, %d codes", path, len(motion), len(codes[entry["file"]]))
        row = {"text_query": entry["text_query"], "motion_tokens": " ".join(map(str, codes[entry["file"]]))}
        rows.append(row | {key: entry[key] for key in ("participant_id", "split") if key in entry}
                    | {"clip_id": Path(entry["file"]).stem})
    return rows


def _read_captions(path: Path) -> list[dict]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CodecError(f"{path} is broken: {error}") from None
    if not isinstance(rows, list) or not rows:
        raise CodecError(f"{path}: expected a list of objects with file and text_query")
    for place, row in enumerate(rows):
        for name in ("file", "text_query"):
            if not isinstance(row, dict) or not isinstance(row.get(name), str) or not row[name].strip():
                raise CodecError(f"{path}, row {place}: {str(row)[:80]}, expected an object with {name}, a text")
    return rows


def tokens_of(text: str) -> list[int]:
    """Codes from text, separated by spaces. Raises CodecError for anything else."""
    words = text.split()
    for place, word in enumerate(words):
        if not (word.isascii() and word.isdigit() and len(word) < 10):
            raise CodecError(f"token {place + 1} is {word!r}, expected a code, an integer from 0 on")
    return [int(word) for word in words]
