"""A codec that is fitted to clips of one figure, from motions to codes and back: the class, and its folder on disk."""

import hashlib
import logging
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from motion_llm.arrays import Archive, load_weights
from motion_llm.digests import check_digests, digests_of
from motion_llm.json_files import check_form, read_json, write_json
from motion_llm.motion.clip_files import with_bar
from motion_llm.motion.features import Layout, features_of, joints_from_features, mirror_features
from motion_llm.motion.kinematics import resampled, with_rotations
from motion_llm.motion.kmeans import KMeans
from motion_llm.motion.skeleton import Motion, MotionError, Skeleton
from motion_llm.motion.survey import Survey, survey
from motion_llm.saving import saving

log = logging.getLogger(__name__)
CONFIG_FILE, CODEBOOK_FILE, WEIGHTS_FILE = "codec.json", "codebook.npz", "weights.safetensors"
FILES = (CONFIG_FILE, CODEBOOK_FILE, WEIGHTS_FILE)
CODES, WINDOW, SEED = 512, 4, 0
FEATURE_MEMORY = 0.4  # of the free memory, for the features that a codec is fitted to
MOST_CODES, MOST_WINDOW = 1_000_000, 1024
QUANTISERS = ("vqvae", "kmeans")  # the first is the default: its measured error is lower (docs/log.md)
FORM = {  # of codec.json
    "skeleton": {"names": [str], "parents": [range(-1, 100_000)], "offsets": [[slice(-1e6, 1e6)]]},
    "kind": re.compile("|".join(QUANTISERS)), "codes": range(2, MOST_CODES + 1), "window": range(1, MOST_WINDOW + 1),
    "fps": slice(1e-6, 1e6), "files?": {str: re.compile("[0-9a-f]{64}")}}


class CodecError(ValueError):
    """An invalid codec, codec folder or code; the text says what was found and what was expected."""


def _that_fit(common: Survey, fps: float, count: int, seed: int) -> list[int]:
    """Indices of the motions whose features fit into memory; a sample where not all do."""
    import psutil  # imported here, as only a fit needs it

    images = 2 if common.layout.mirror else 1
    needed = common.frames * fps / common.fps * common.layout.width * 4 * images  # float32
    free = psutil.virtual_memory().available * FEATURE_MEMORY
    if needed <= free:
        return list(range(count))
    fitting = max(1, int(count * free / needed))
    log.warning("the features of %d clips would take %.1f GB, %.1f GB are free for them: the codec is fitted to %d "
                "clips drawn by the seed. A lower --fps takes more of them", count, needed / 1e9, free / 1e9, fitting)
    return sorted(np.random.default_rng(seed).permutation(count)[:fitting].tolist())


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
            fps: float | None = None, seed: int = SEED, names: Sequence[str] | None = None,
            **options) -> "MotionCodec":
        """Fits a codec to motions of one figure, which are taken twice, one at a time (see MotionFiles). fps: by
        default that of most motions. names: of the motions, for messages. Where the joints' names tell left from right,
        mirror images are learned too. options: those of the quantiser's fit. Raises CodecError, and MotionError for a
        motion of another figure or in another unit."""
        if not motions:
            raise CodecError("no motions to fit a codec to")
        if not (2 <= codes <= MOST_CODES and 1 <= window <= MOST_WINDOW):
            raise CodecError(f"{codes} codes of {window} frames: expected 2 to {MOST_CODES:,} codes, of 1 to "
                             f"{MOST_WINDOW} frames")
        if fps is not None and not 0 < fps < 1e5:
            raise MotionError(f"{fps} frames a second: expected more than 0, and less than 100,000")
        count, names = len(motions), names or [f"motion {i}" for i in range(len(motions))]
        common = survey(with_bar(motions, count, "reading"), names)
        layout, fps = common.layout, common.fps if fps is None else fps
        clips = []
        chosen = _that_fit(common, fps, count, seed)
        for i in with_bar(chosen, len(chosen), "features"):
            clips.append(features_of(resampled(motions[i], fps), layout).astype(np.float32))
        if layout.mirror:
            clips += [mirror_features(clip, layout).astype(np.float32) for clip in clips]
        windows = sum(max(len(clip) - window + 1, 0) for clip in clips)
        if windows < codes:
            raise CodecError(f"{count} motions hold {windows} windows of {window} frames, expected at least as "
                             f"many as codes, {codes}: take more or longer clips, or fewer --codes")
        log.info("fitting %d codes of %d frames (%s) to %d motions, %.0f seconds at %g frames a second%s", codes,
                 window, kind, len(chosen), sum(map(len, clips)) / fps / (2 if layout.mirror else 1), fps,
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
        return with_rotations(Motion(joints, self.fps, self.layout.skeleton), self.layout.centre)

    def save(self, folder: str | Path) -> None:
        """Writes codec.json (skeleton, rate), codebook.npz and, for a network, weights.safetensors. codec.json is
        written last, so that a folder that has it is complete. Raises OSError."""
        from safetensors.numpy import save_file

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for name in map(Path, FILES):  # what a killed fit left
            for path in (folder / name, folder / f".{name.stem}.saving{name.suffix}"):
                path.unlink(missing_ok=True)
        with saving(folder / CODEBOOK_FILE) as path:
            np.savez(path, codebook=self.quantiser.codebook.astype(np.float32))
        tensors = self.quantiser.tensors()
        if tensors:
            with saving(folder / WEIGHTS_FILE) as path:
                save_file(tensors, path)
        skeleton = self.layout.skeleton
        write_json(folder / CONFIG_FILE, {
            "kind": self.kind, "codes": self.codes, "window": self.window, "fps": self.fps,
            "skeleton": {"names": skeleton.names, "parents": skeleton.parents, "offsets": skeleton.offsets.tolist()},
            "layout": self.layout.choices,
            "files": digests_of(folder, [CODEBOOK_FILE, *([WEIGHTS_FILE] if tensors else [])])})

    @staticmethod
    def load(folder: str | Path) -> "MotionCodec":
        """Raises CodecError, naming the file and what is wrong with it."""
        folder = Path(folder)
        config = _config_of(folder)
        try:
            layout = Layout.stored(config["skeleton"], config["layout"])
        except MotionError as error:
            raise CodecError(f"{folder / CONFIG_FILE} is damaged: {error}") from None
        check_digests(folder, config["files"], CodecError)
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
    content = _config_of(Path(folder))
    return {name: content[name] for name in ("kind", "codes", "window", "fps")}


def _config_of(folder: Path) -> dict:
    if not (folder / CONFIG_FILE).is_file():
        raise CodecError(f"{folder} has no {CONFIG_FILE}, so it is no codec's folder")
    return _read_config(folder / CONFIG_FILE)


def copy_codec(source: str | Path, target: str | Path) -> None:
    """Copies the codec's files, without other files of the folder; removes those of an earlier codec in target. As in
    save(), a folder that has codec.json is complete."""
    source, target = Path(source), Path(target)
    if source.resolve() == target.resolve():
        return
    for name in FILES:
        (target / name).unlink(missing_ok=True)
    for name in reversed(FILES):
        if (source / name).is_file():
            with saving(target / name) as path:
                shutil.copyfile(source / name, path)


def codec_fingerprint(folder: str | Path) -> str:
    """sha256 of the names and bytes of a codec's files; it does not depend on the folder's path."""
    digest = hashlib.sha256()
    for name in FILES:
        if (Path(folder) / name).is_file():
            digest.update(f"{name} ".encode() + hashlib.sha256((Path(folder) / name).read_bytes()).digest())
    return digest.hexdigest()


def _read_config(path: Path) -> dict:
    content = read_json(path, CodecError)
    if missing := [name for name in FORM if name[-1] != "?" and name not in content]:
        raise CodecError(f"{path} has no {missing[0]!r}: it is damaged, or no codec's file")
    content = {"files": {}, "layout": None} | content  # folders of earlier versions have neither
    place, layout = f"{path} is damaged:", content["layout"]
    check_form(content, FORM, place, CodecError)
    if unknown := set(content["files"]) - set(FILES):
        raise CodecError(f"{place} files has {min(unknown)[:60]!r}, expected {', '.join(FILES[1:])}")
    skeleton = content["skeleton"]
    if layout is not None:
        joint = range(len(skeleton["names"]))
        check_form(layout, {"centre": joint}, f"{place} layout", CodecError)
        if layout.get("across") is not None:
            check_form(layout, {"across": [joint]}, f"{place} layout", CodecError)
        content["layout"] = {"across": None} | layout
    try:
        content["skeleton"] = Skeleton(tuple(skeleton["names"]), tuple(skeleton["parents"]),
                                       np.array(skeleton["offsets"], dtype=float))
    except ValueError as error:  # of numpy: rows of several lengths
        raise CodecError(f"{place} {error}") from None
    return content


def _read_codebook(path: Path, codes: int) -> np.ndarray:
    try:
        with Archive(path, ValueError) as arrays:
            codebook = arrays["codebook"]
    except FileNotFoundError:
        raise CodecError(f"{path} is missing: the folder is damaged") from None
    except (ValueError, OSError) as error:
        raise CodecError(f"{path} is damaged: {error}") from None
    if codebook.ndim != 2 or len(codebook) != codes or codebook.dtype.kind != "f" or not np.isfinite(codebook).all():
        raise CodecError(f"{path} is damaged: {codebook.dtype} {codebook.shape}, expected {codes} rows of numbers")
    return codebook


def _read_weights(path: Path) -> dict[str, np.ndarray]:
    try:
        return load_weights(path, CodecError)
    except FileNotFoundError:
        raise CodecError(f"{path} is missing: the folder is damaged") from None


def tokens_of(text: str) -> list[int]:
    """Codes from text, separated by spaces. Raises CodecError for anything else."""
    words = text.split()
    for place, word in enumerate(words):
        if not (word.isascii() and word.isdigit() and len(word) < 10):
            raise CodecError(f"token {place + 1} is {word!r}, expected a code, an integer from 0 on")
    return [int(word) for word in words]
