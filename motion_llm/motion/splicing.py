"""A part of a motion made anew: the frames that new codes change come from the codec, the others stay as recorded."""

from collections.abc import Sequence

import numpy as np

from motion_llm.motion.codec import MotionCodec
from motion_llm.motion.features import features_of, heading_of, joint_order, joints_from_features, turned
from motion_llm.motion.kinematics import resampled, with_rotations
from motion_llm.motion.skeleton import Motion, MotionError

FADE = 0.2  # seconds at both ends of the new part, in which it grows out of what was recorded and back into it


def spliced(motion: Motion, codes: Sequence[int], codec: MotionCodec) -> Motion:
    """The motion, at the codec's rate, as the codes have it from the first step that differs from its own codes to the
    last one. Before that it is where it was; what follows goes on from the place and the heading that the new part
    leads to. codes: flat, as many as the motion has. Raises MotionError for another number and for another figure.

    Features do not depend on place and heading (features.py), so theirs are put together. Rotations are computed from
    the joints, as those of decoded codes are."""
    own, streams, window = codec.encode(motion), codec.streams.count, codec.window
    if len(codes) != len(own):
        raise MotionError(f"{len(codes):,} codes for a motion of {len(own):,}")
    recorded = resampled(motion, codec.fps)
    features = features_of(recorded, codec.layout)
    differ = np.flatnonzero(np.not_equal(own, codes)) // streams
    if len(differ):
        decoded = codec.quantiser.decode(np.array(codes))[:len(features)]
        start, end = differ[0] * window, min((differ[-1] + 1) * window, len(decoded))
        share = _share(start, end, len(features), FADE * codec.fps)[:end, None]
        features[:end] += share * (decoded[:end] - features[:end])
    joints = joints_from_features(features, codec.fps, codec.layout)
    first = recorded.joints[:1, joint_order(recorded, codec.layout)].astype(float)
    turn = heading_of(first, codec.layout) - heading_of(joints[:1], codec.layout)
    place = first[0, codec.layout.centre] * (1, 0, 1)
    body = list(codec.layout.body)  # the others stay in their rest pose, as those of decoded codes do
    joints[:, body] = turned(joints[:, body], np.repeat(turn, len(joints))) + place
    return with_rotations(Motion(joints, codec.fps, codec.layout.skeleton), codec.layout.centre)


def _share(start: int, end: int, count: int, fade: float) -> np.ndarray:
    """(count,): how much of each frame is new. 0 outside of start to end; inside it rises and falls over `fade` frames,
    at most a third of the part, but not at the motion's own ends."""
    frames, fade = np.arange(count), max(1.0, min(fade, (end - start) / 3))
    rising = np.ones(count) if start == 0 else (frames - start + 1) / (fade + 1)
    falling = np.ones(count) if end == count else (end - frames) / (fade + 1)
    return np.clip(np.minimum(rising, falling), 0, 1) * ((frames >= start) & (frames < end))
