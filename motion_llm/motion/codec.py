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
from motion_llm.digests import check_digests, digest_of_json, digests_of
from motion_llm.json_files import check_form, read_json, write_json
from motion_llm.motion.clip_files import with_bar
from motion_llm.motion.features import (
    ROOT,
    Layout,
    features_of,
    joint_errors,
    joint_order,
    joints_from_features,
    mirror_features,
)
from motion_llm.motion.kinematics import frames_at, resampled, with_rotations
from motion_llm.motion.kmeans import KMeans
from motion_llm.motion.look_ahead import MOST_CODES, MOST_WINDOW, CodecError, Plan, check_told
from motion_llm.motion.skeleton import Motion, MotionError, Skeleton
from motion_llm.motion.survey import survey
from motion_llm.saving import saving

log = logging.getLogger(__name__)
CONFIG_FILE, CODEBOOK_FILE, WEIGHTS_FILE = "codec.json", "codebook.npz", "weights.safetensors"
FILES = (CONFIG_FILE, CODEBOOK_FILE, WEIGHTS_FILE)
WINDOW, SEED = 4, 0
MEASURED = 100  # clips of those that a codec was fitted to, on which its error is measured too
ERROR = ("mean distance of the body's joints from the original's in each frame, both moved to the same place on the "
         "floor and turned to the same heading")
QUANTISERS = ("vqvae", "kmeans")  # the first is the default: its measured error is lower (docs/log.md)
FORM = {  # of codec.json
    "skeleton": {"names": [str], "parents": [range(-1, 100_000)], "offsets": [[slice(-1e6, 1e6)]]},
    "kind": re.compile("|".join(QUANTISERS)), "codes": range(2, MOST_CODES + 1), "window": range(1, MOST_WINDOW + 1),
    "fps": slice(1e-6, 1e6), "pads?": bool, "files?": {str: re.compile("[0-9a-f]{64}")},
    "digest?": str}


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
    """layout: the skeleton and its features; fps: frames a second; quantiser: of class quantiser_of(kind). pads:
    whether a last window that is not full is encoded; codecs of earlier versions drop it, and go on doing so, as their
    codes are in datasets."""

    layout: Layout
    fps: float
    kind: str
    quantiser: object
    pads: bool = True

    @property
    def codes(self) -> int:
        """K, the size of the codebook."""
        return len(self.quantiser.codebook)

    @property
    def window(self) -> int:
        """Frames a code."""
        return self.quantiser.window

    @staticmethod
    def fit(motions: Sequence[Motion], codes: int | None = None, window: int = WINDOW, kind: str = QUANTISERS[0],
            fps: float | None = None, seed: int = SEED, names: Sequence[str] | None = None, heldout: float = 0.0,
            max_seq_len: int | None = None, **options) -> "MotionCodec":
        """Fits a codec to motions of one figure, which are taken twice, one at a time (see MotionFiles). codes, fps: by
        default chosen, see codes_for and codec_rate. names: of the motions, for messages. heldout: share of the motions
        that it is not fitted to; the error on them is logged. max_seq_len: tokens of a model's row, for the log. Where
        the joints' names tell left from right, mirror images are learned too. options: those of the quantiser's fit.
        Raises CodecError, and MotionError for a motion of another figure or in another unit."""
        if not motions:
            raise CodecError("no motions to fit a codec to")
        check_told(codes, window, fps, heldout)
        quantiser_of(kind).check_window(window)
        names = names or [f"motion {i}" for i in range(len(motions))]
        common = survey(with_bar(motions, len(motions), "looking at the clips"), names, fps)
        plan, layout = Plan.of(common, codes, window, fps, heldout, seed), common.layout
        for line in plan.lines(names, max_seq_len):
            log.info("%s", line)
        clips = []
        for i in with_bar(plan.fitted, len(plan.fitted), "features"):
            clips.append(features_of(resampled(motions[i], plan.fps), layout).astype(np.float32))
        if layout.mirror:
            clips += [mirror_features(clip, layout).astype(np.float32) for clip in clips]
        log.info("fitting %d codes of %d frames (%s) to %d motions, %.0f seconds at %g frames a second%s", plan.codes,
                 window, kind, len(plan.fitted), sum(plan.lengths[i] for i in plan.fitted) / plan.fps, plan.fps,
                 ", and their mirror images" if layout.mirror else "")
        quantiser = quantiser_of(kind).fit(clips, plan.codes, window, seed, layout, plan.fps, **options)
        codec = MotionCodec(layout, plan.fps, kind, quantiser)
        if heldout:
            log.info("%s", codec.errors(motions, plan.held_out, plan.fitted, seed))
        return codec

    def errors(self, motions: Sequence[Motion], held_out: Sequence[int], fitted: Sequence[int], seed: int) -> str:
        """A line of the errors on held-out motions and on MEASURED of those that the codec was fitted to. Motions of
        one frame have no codes and are left out."""
        drawn = sorted(np.random.default_rng(seed).permutation(fitted)[:MEASURED].tolist())
        parts = []
        for kind, indices in (("held-out clips", held_out), ("clips that it was fitted to", drawn)):
            errors = [self.error(motions[i]) for i in with_bar(indices, len(indices), "measuring")
                      if self.frames_of(motions[i]) > 1]
            if errors:
                parts.append(f"{1000 * np.concatenate(errors).mean():.1f} mm on {len(errors)} {kind}")
        few = "" if held_out else f"; {len(motions)} clips are too few to hold some out"
        return f"joints off by {', '.join(parts)} ({ERROR}){few}"

    def error(self, motion: Motion) -> np.ndarray:
        """(T,) metres: how far the joints of a motion's codes are off in each frame, see ERROR. Raises MotionError."""
        original = resampled(motion, self.fps)
        decoded = self.decode(self.encode(motion))
        frames = min(len(decoded), len(original))
        joints = original.joints[:frames, joint_order(original, self.layout)]
        return joint_errors(joints, decoded.joints[:frames], self.layout)

    def frames_of(self, motion: Motion) -> int:
        """Frames of the motion at the codec's rate: those to decode of its codes."""
        return frames_at(self.fps, len(motion), motion.fps)

    def encode(self, motion: Motion) -> list[int]:
        """A code for each window of the motion at the codec's frame rate. A last window that is not full goes on as
        the motion does (see padded), unless `pads` is off, when it is dropped. Raises MotionError for another figure,
        and for a motion that is too short: less than two frames or, without `pads`, than a window."""
        motion = resampled(motion, self.fps)
        least = 2 if self.pads else self.window
        if len(motion) < least:
            raise MotionError(f"{len(motion)} frames at {self.fps:g} a second, expected at least {least}")
        features = features_of(motion, self.layout)
        if self.pads:
            features = padded(features, self.window)
        return self.quantiser.encode(features[:len(features) // self.window * self.window]).tolist()

    def decode(self, codes: Sequence[int], frames: int | None = None) -> Motion:
        """The motion, which begins above the origin and faces z, with rotations, and with bones as long as the
        skeleton's. frames: how many of the len(codes) * window frames to keep, by default all. Raises CodecError for
        no codes, an invalid code, or more frames than the codes have."""
        codes = list(codes)
        if not codes:
            raise CodecError("no tokens to decode")
        for place, code in enumerate(codes):
            if isinstance(code, bool) or not isinstance(code, int | np.integer) or not 0 <= code < self.codes:
                raise CodecError(f"code {place + 1} is {code!r}, expected an integer from 0 to {self.codes - 1}")
        most = len(codes) * self.window
        if frames is not None and not 1 <= frames <= most:
            raise CodecError(f"{frames} frames ({frames / self.fps:.4g} s) of {len(codes)} codes, expected 1 to {most} "
                             f"({most / self.fps:.4g} s)")
        features = self.quantiser.decode(np.array(codes))[:frames]
        joints = joints_from_features(features, self.fps, self.layout)
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
        config = {
            "kind": self.kind, "codes": self.codes, "window": self.window, "fps": self.fps, "pads": self.pads,
            "skeleton": {"names": skeleton.names, "parents": skeleton.parents, "offsets": skeleton.offsets.tolist()},
            "layout": self.layout.choices,
            "files": digests_of(folder, [CODEBOOK_FILE, *([WEIGHTS_FILE] if tensors else [])])}
        write_json(folder / CONFIG_FILE, config | {"digest": digest_of_json(config)})

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
        return MotionCodec(layout, config["fps"], config["kind"], quantiser, config["pads"])


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
    written = content
    content = {"files": {}, "layout": None, "pads": False} | content  # folders of earlier versions lack them
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
    if "digest" in written and written.pop("digest") != digest_of_json(written):
        raise CodecError(f"{place} a value was changed since it was saved. Put the file back, or fit the codec anew")
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


def padded(features: np.ndarray, window: int) -> np.ndarray:
    """Features (T, F), two frames or more, with what fills the last window."""
    # Of six ways this gave the lowest error in the clip's last frames (docs/motion.md): the body's frames mirrored in
    # time about the last one, so that its movement goes on as it came, and rates as they were last.
    missing = -len(features) % window
    after = np.pad(features, ((0, missing), (0, 0)), mode="reflect", reflect_type="odd")
    after[len(features):, :ROOT] = features[-1, :ROOT]
    return after


def tokens_of(text: str) -> list[int]:
    """Codes from text, separated by spaces. Raises CodecError for anything else."""
    words = text.split()
    for place, word in enumerate(words):
        if not (word.isascii() and word.isdigit() and len(word) < 10):
            raise CodecError(f"token {place + 1} is {word!r}, expected a code, an integer from 0 on")
    return [int(word) for word in words]
