"""A codec that is fitted to clips of one figure, from motions to codes and back: the class, and its folder on disk."""

import hashlib
import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from motion_llm.digests import check_digests, digest_of_json, digests_of
from motion_llm.json_files import parse_json, write_json
from motion_llm.motion.clip_files import with_bar
from motion_llm.motion.codec_files import (
    CODEBOOK_FILE,
    CONFIG_FILE,
    FILES,
    QUANTISERS,
    WEIGHTS_FILE,
    array_of,
    read_codebooks,
    read_config,
    read_weights,
)
from motion_llm.motion.features import (
    ROOT,
    Layout,
    features_of,
    joint_distances,
    joint_errors,
    joint_order,
    joints_from_features,
    mirror_features,
)
from motion_llm.motion.kinematics import frames_at, resampled, with_rotations
from motion_llm.motion.kmeans import KMeans
from motion_llm.motion.look_ahead import CodecError, Codes, Plan, check_told
from motion_llm.motion.part_features import PartFeatures
from motion_llm.motion.parts import Told, joints_of_parts
from motion_llm.motion.skeleton import Motion, MotionError
from motion_llm.motion.stream_quantisers import LEVELS, LevelQuantiser, PartQuantiser
from motion_llm.motion.survey import survey
from motion_llm.saving import saving
from motion_llm.streams import ABSENT, ONE, StreamError, Streams, Value, level_names

log = logging.getLogger(__name__)
WINDOW, SEED = 4, 0
MEASURED = 100  # clips of those that a codec was fitted to, on which its error is measured too
NAMED = 5  # held-out clips that a message names
ERROR = ("mean distance of the body's joints from the original's in each frame, both moved to the same place on the "
         "floor and turned to the same heading")


def quantiser_of(kind: str) -> type:
    """The quantiser class of a kind. Raises CodecError for an unknown kind."""
    if kind == "kmeans":
        return KMeans
    if kind == "vqvae":
        from motion_llm.motion.vqvae import VqVae  # imports torch, which takes seconds

        return VqVae
    raise CodecError(f"kind of codec {kind!r}, expected one of {', '.join(QUANTISERS)}")


def _check_levels(levels: int, kind: str, parts: Told | None) -> None:
    """Raises CodecError for levels that no codec has."""
    if levels not in LEVELS or levels > 1 and parts is not None:
        raise CodecError(f"{levels} levels{' of parts' * (parts is not None)}: expected 2 to {LEVELS[-1]} levels, or "
                         "parts of one level each")
    if levels > 1:
        LevelQuantiser.check_kind(quantiser_of(kind))


def _fitted(clips: list[np.ndarray], plan: Plan, kind: type, seed: int, parts: PartFeatures | None, **options):
    """A quantiser of the plan's streams from clips (T, F), which are lost."""
    if parts is not None:
        for i, clip in enumerate(clips):  # one at a time, as all may fill the memory
            clips[i] = parts.split(clip).astype(np.float32)
        return PartQuantiser.fit(kind, clips, plan.sizes, plan.window, seed, parts, plan.fps, **options)
    if len(plan.sizes) > 1:
        return LevelQuantiser.fit(clips, plan.sizes, plan.window, seed)
    return kind.fit(clips, plan.codes, plan.window, seed, plan.common.layout, plan.fps, **options)


@dataclass(frozen=True)
class MotionCodec:
    """layout: the skeleton and its features; fps: frames a second; quantiser: of class quantiser_of(kind), or of
    several streams that are each of this class; codes are then flat, see motion_llm/streams.py. pads: whether a last
    window that is not full is encoded; codecs of earlier versions drop it, and go on doing so, as their codes are in
    datasets."""

    layout: Layout
    fps: float
    kind: str
    quantiser: object
    pads: bool = True

    @property
    def codes(self) -> int:
        """K, the size of the codebook; of all streams together."""
        return self.streams.size

    @cached_property
    def streams(self) -> Streams:
        if isinstance(self.quantiser, PartQuantiser | LevelQuantiser):
            return self.quantiser.streams
        return Streams.one(len(self.quantiser.codebook))

    @property
    def parts(self) -> dict[str, list[int]]:
        """Part -> its joints, indices into layout.body; none of a codec without parts."""
        joints = self.quantiser.features.joints if isinstance(self.quantiser, PartQuantiser) else {}
        return {name: list(indices) for name, indices in joints.items()}

    @property
    def window(self) -> int:
        """Frames a code, or a step of codes."""
        return self.quantiser.window

    @staticmethod
    def fit(motions: Sequence[Motion], codes: Codes = None, window: int = WINDOW, kind: str = QUANTISERS[0],
            fps: float | None = None, seed: int = SEED, names: Sequence[str] | None = None, heldout: float = 0.0,
            max_seq_len: int | None = None, parts: Told | None = None, levels: int = 1, **options) -> "MotionCodec":
        """Fits a codec to motions of one figure, which are taken twice, one at a time (see MotionFiles). codes, fps: by
        default chosen, see codes_for and codec_rate. names: of the motions, for messages. heldout: share of the motions
        that it is not fitted to; the error on them is logged. max_seq_len: tokens of a model's row, for the log. Where
        the joints' names tell left from right, mirror images are learned too. parts: a quantiser for each, see
        joints_of_parts. levels: of a residual quantiser, see LEVELS. options: those of the quantiser's fit. Raises
        CodecError, and MotionError for a motion of another figure or in another unit."""
        if not motions:
            raise CodecError("no motions to fit a codec to")
        check_told(codes, window, fps, heldout)
        quantiser_of(kind).check_window(window)
        _check_levels(levels, kind, parts)
        names = names or [f"motion {i}" for i in range(len(motions))]
        common = survey(with_bar(motions, len(motions), "looking at the clips"), names, fps)
        layout = common.layout
        split = None if parts is None else PartFeatures(layout, joints_of_parts(layout, parts))
        streams = split.names if split else level_names(levels) if levels > 1 else (ONE,)
        plan = Plan.of(common, codes, window, fps, heldout, seed, streams)
        for line in plan.lines(names, max_seq_len):
            log.info("%s", line)
        clips = []
        for i in with_bar(plan.fitted, len(plan.fitted), "features"):
            clips.append(features_of(resampled(motions[i], plan.fps), layout).astype(np.float32))
        if layout.mirror:
            clips += [mirror_features(clip, layout).astype(np.float32) for clip in clips]
        log.info("fitting %s codes of %d frames (%s) to %d motions, %.0f seconds at %g frames a second%s",
                 " + ".join(map(str, plan.sizes)), window, kind, len(plan.fitted),
                 sum(plan.lengths[i] for i in plan.fitted) / plan.fps, plan.fps,
                 ", and their mirror images" if layout.mirror else "")
        codec = MotionCodec(layout, plan.fps, kind, _fitted(clips, plan, quantiser_of(kind), seed, split, **options))
        if heldout:
            if plan.held_out:
                named = [names[i] for i in plan.held_out[:NAMED]] + ["..."] * (len(plan.held_out) > NAMED)
                log.info("held out, so not in the codec: %s; --heldout 0 fits it to all clips, without an error on "
                         "clips that it does not know", ", ".join(named))
            log.info("%s", codec.errors(motions, plan.held_out, plan.fitted, seed))
        return codec

    def errors(self, motions: Sequence[Motion], held_out: Sequence[int], fitted: Sequence[int], seed: int) -> str:
        """A line of the errors on held-out motions and on MEASURED of those that the codec was fitted to, of each part
        too. Motions of one frame have no codes and are left out."""
        drawn = sorted(np.random.default_rng(seed).permutation(fitted)[:MEASURED].tolist())
        parts = []
        for kind, indices in (("held-out clips", held_out), ("clips that it was fitted to", drawn)):
            errors = [1000 * self.distances(motions[i]) for i in with_bar(indices, len(indices), "measuring")
                      if self.frames_of(motions[i]) > 1]
            if errors:
                frames = np.concatenate(errors)
                by_part = ", ".join(f"{name} {frames[:, joints].mean():.1f}" for name, joints in self.parts.items())
                parts.append(f"{frames.mean(1).mean():.1f} mm" + f" ({by_part})" * bool(by_part)
                             + f" on {len(errors)} {kind}")
        few = "" if held_out else f"; {len(motions)} clips are too few to hold some out"
        return f"joints off by {', '.join(parts)} ({ERROR}){few}"

    def error(self, motion: Motion) -> np.ndarray:
        """(T,) metres: how far the joints of a motion's codes are off in each frame, see ERROR. Raises MotionError."""
        return joint_errors(*self._original_and_decoded(motion), self.layout)

    def distances(self, motion: Motion) -> np.ndarray:
        """(T, B) the same of each joint of the body."""
        return joint_distances(*self._original_and_decoded(motion), self.layout)

    def _original_and_decoded(self, motion: Motion) -> tuple[np.ndarray, np.ndarray]:
        """Joints (T, J, 3) of a motion and of its codes, in the layout's order."""
        original = resampled(motion, self.fps)
        decoded = self.decode(self.encode(motion))
        frames = min(len(decoded), len(original))
        return original.joints[:frames, joint_order(original, self.layout)], decoded.joints[:frames]

    def frames_of(self, motion: Motion) -> int:
        """Frames of the motion at the codec's rate: those to decode of its codes."""
        return frames_at(self.fps, len(motion), motion.fps)

    def encode(self, motion: Motion) -> list[int]:
        """A code, or a step of codes, for each window of the motion at the codec's rate. A last window that is not full
        goes on as the motion does (see padded), unless `pads` is off, when it is dropped. Raises MotionError for
        another figure, and for a motion that is too short: less than two frames or, without `pads`, than a window."""
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
        skeleton's. codes: flat; where a stream is ABSENT, the part stands in its rest pose, and a level adds nothing.
        frames: how many of the frames to keep, window for each code or step, by default all. Raises CodecError for no
        codes, an invalid code, or more frames than the codes have."""
        codes, streams = list(codes), self.streams
        if not codes:
            raise CodecError("no tokens to decode")
        size, absent = streams.size, (ABSENT,) if streams.count > 1 else ()
        for place, code in enumerate(codes):
            if isinstance(code, bool) or not isinstance(code, int | np.integer) or not (
                    0 <= code < size or code in absent):
                raise CodecError(f"code {place + 1} is {code!r}, expected an integer from 0 to {size - 1}")
        if problem := streams.problem(codes, absent):
            raise CodecError(problem)
        most = len(codes) // streams.count * self.window
        if frames is not None and not 1 <= frames <= most:
            raise CodecError(f"{frames} frames ({frames / self.fps:.4g} s) of {len(codes)} codes, expected 1 to {most} "
                             f"({most / self.fps:.4g} s)")
        features = self.quantiser.decode(np.array(codes))[:frames]
        joints = joints_from_features(features, self.fps, self.layout)
        return with_rotations(Motion(joints, self.fps, self.layout.skeleton), self.layout.centre)

    def read(self, motion_tokens: Value) -> list[int]:
        """Flat codes from a dataset's motion_tokens, or from such text: "42 18 91"; of several streams JSON, such as
        {"body": "42 18", "left_hand": "3 3"} or [[42, 3], [18, 1]]. Raises CodecError."""
        if self.streams.count == 1 and isinstance(motion_tokens, str):
            return tokens_of(motion_tokens)
        if isinstance(motion_tokens, str) and motion_tokens.strip()[:1] in ("{", "["):
            motion_tokens = parse_json(motion_tokens, "motion_tokens", CodecError)
        try:
            return list(self.streams.read(motion_tokens))
        except StreamError as error:
            raise CodecError(str(error)) from None

    def save(self, folder: str | Path) -> None:
        """Writes codec.json (skeleton, rate), codebook.npz and, for a network, weights.safetensors. codec.json is
        written last, so that a folder that has it is complete. Raises OSError."""
        from safetensors.numpy import save_file

        folder, streams = Path(folder), self.streams
        codebooks = [self.quantiser.codebook] if streams.count == 1 else self.quantiser.codebooks.values()
        folder.mkdir(parents=True, exist_ok=True)
        for name in map(Path, FILES):  # what a killed fit left
            for path in (folder / name, folder / f".{name.stem}.saving{name.suffix}"):
                path.unlink(missing_ok=True)
        with saving(folder / CODEBOOK_FILE) as path:
            np.savez(path, **{array_of(streams, stream): codebook.astype(np.float32)
                              for stream, codebook in enumerate(codebooks)})
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
        if streams.count > 1:
            config["streams"] = streams.to_dict()
        if self.parts:
            names = [skeleton.names[joint] for joint in self.layout.body]
            config["parts"] = {part: [names[i] for i in joints] for part, joints in self.parts.items()}
        write_json(folder / CONFIG_FILE, config | {"digest": digest_of_json(config)})

    @staticmethod
    def load(folder: str | Path) -> "MotionCodec":
        """Raises CodecError, naming the file and what is wrong with it."""
        folder = Path(folder)
        config = read_config(folder)
        streams = config["streams"]
        try:
            layout = Layout.stored(config["skeleton"], config["layout"])
            parts = None if "parts" not in config else PartFeatures(layout, joints_of_parts(
                layout, {name: config["parts"][name] for name in streams.names}))
        except (MotionError, CodecError) as error:
            raise CodecError(f"{folder / CONFIG_FILE} is damaged: {error}") from None
        check_digests(folder, config["files"], CodecError)
        codebooks = read_codebooks(folder / CODEBOOK_FILE, streams)
        kind = quantiser_of(config["kind"])
        tensors = read_weights(folder / WEIGHTS_FILE) if kind.has_weights else {}
        try:
            if parts is not None:
                quantiser = PartQuantiser.restore(kind, parts, codebooks, tensors, config["window"])
            elif streams.count > 1:
                quantiser = LevelQuantiser.restore(codebooks, config["window"], layout.width)
            else:
                quantiser = kind.restore(codebooks[ONE], tensors, config["window"], layout.width)
        except ValueError as error:
            raise CodecError(f"{folder}: {error}") from None
        return MotionCodec(layout, config["fps"], config["kind"], quantiser, config["pads"])


def codec_facts(folder: str | Path) -> dict:
    """kind, codes, window (frames a code) and fps from a codec's codec.json alone. Raises CodecError."""
    content = read_config(Path(folder))
    return {name: content[name] for name in ("kind", "codes", "window", "fps")}


def codec_streams(folder: str | Path) -> Streams:
    """The streams of a codec's codes, from its codec.json alone. Raises CodecError."""
    return read_config(Path(folder))["streams"]


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
