"""Metrics of clips decoded to joints: the joint error to the real clip, and the Frechet distance of a set."""

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from motion_llm.evaluation.embedding_metrics import fid
from motion_llm.evaluation.joint_metrics import dtw_joint_error, kinetic_features, standardised
from motion_llm.evaluation.progress import with_bar
from motion_llm.evaluation.stream_clips import decodable
from motion_llm.motion.codec import MotionCodec
from motion_llm.motion.features import heading_of, turned

CACHED_CLIPS = 2000  # whose poses stay in memory, about 70 KB each
MOST_FRAMES = 2000  # of a clip that are aligned, as time and memory grow with the product of two clips' frames


class JointJudge:
    """codec: of the tokens. real: the real clip of each row, flat codes of that codec. Raises CodecError for other
    codes."""

    def __init__(self, codec: MotionCodec, real: Sequence[Sequence[int]]):
        self.codec, self.real = codec, [tuple(clip) for clip in real]
        self._poses = lru_cache(CACHED_CLIPS)(self._decoded)
        self.thinned: set[tuple[int, ...]] = set()  # clips of more than MOST_FRAMES
        self._features: dict[tuple[int, ...], np.ndarray] = {}
        self._errors: dict[tuple[tuple[int, ...], int], float] = {}
        clips = with_bar(self.real, len(self.real), "joints of real clips")
        self.real_features = np.array([self.features(clip) for clip in clips])  # (rows, 3 B)

    def _decoded(self, codes: tuple[int, ...]) -> np.ndarray:
        """(T, B, 3) metres: the body's joints relative to its centre, every frame turned to face ahead; every second,
        third, ... frame of a clip of more than MOST_FRAMES. Also stores the clip's features."""
        motion, layout = self.codec.decode(codes), self.codec.layout
        body = motion.joints[:, layout.body]
        self._features[codes] = kinetic_features(body, motion.fps)
        step = math.ceil(len(body) / MOST_FRAMES)
        if step > 1:
            self.thinned.add(codes)
        relative = body - motion.joints[:, [layout.centre]]
        return turned(relative, -heading_of(motion.joints, layout))[::step].astype(np.float32)

    def features(self, codes: Sequence[int]) -> np.ndarray:
        """(3 B,) kinetic features of a clip. Raises CodecError for codes that the codec does not have."""
        codes = tuple(codes)
        if codes not in self._features:
            self._poses(codes)
        return self._features[codes]

    def error(self, clip: Sequence[int], place: int) -> float | None:
        """DTW joint error, in millimetres, of a clip to the real clip of a row; None if it cannot be decoded.

        The error is to that clip alone, as in the literature, not to the nearest real clip of the caption.
        """
        key = tuple(clip), place
        if not self.decodes(clip):
            return None
        if key not in self._errors:
            self._errors[key] = 1000 * dtw_joint_error(self._poses(key[0]), self._poses(self.real[place]))
        return self._errors[key]

    def fid(self, clips: Sequence[Sequence[int]], places: Sequence[int]) -> float | None:
        """Frechet distance of the kinetic features of clips to those of the real clips of rows, standardised by all
        rows' real clips; None for fewer than two clips that can be decoded."""
        clips = [clip for clip in clips if self.decodes(clip)]
        return None if min(len(clips), len(places)) < 2 else fid(*self.standardised(clips, places))

    def standardised(self, clips: Sequence[Sequence[int]], places: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """(N, 3 B) and (rows, 3 B): kinetic features of clips that can be decoded and of the real clips of rows."""
        real, features = self.real_features, np.array([self.features(clip) for clip in clips])
        return standardised(features, real), standardised(real[list(places)], real)

    def decodes(self, clip: Sequence[int]) -> bool:
        return decodable(clip, self.codec.streams)

    def poses(self, codes: Sequence[int]) -> np.ndarray:
        """(T, B, 3) of a clip, as they are compared; see `_decoded`. Raises CodecError."""
        return self._poses(tuple(codes))

    def rate(self, codes: Sequence[int]) -> float:
        """Frames a second of `poses`."""
        frames = len(codes) // self.codec.streams.count * self.codec.window
        return self.codec.fps / math.ceil(frames / MOST_FRAMES)
