"""splicing.py: frames that new codes do not change stay as recorded, and what follows goes on from the new part."""

import numpy as np
import pytest
from walker import walk, walks

from motion_llm.motion.codec import MotionCodec
from motion_llm.motion.features import features_of
from motion_llm.motion.kinematics import resampled, with_rotations
from motion_llm.motion.skeleton import MotionError
from motion_llm.motion.splicing import FADE, spliced


@pytest.fixture(scope="module")
def codec():
    return MotionCodec.fit(walks(), codes=24, kind="kmeans")


@pytest.fixture
def recorded():
    return walk(80, start=(4, 2.5, 0.7))


def test_a_motion_whose_own_codes_are_given_stays_where_and_as_it_was(codec, recorded):
    same = spliced(recorded, codec.encode(recorded), codec)
    expected = with_rotations(resampled(recorded, codec.fps), codec.layout.centre)
    assert same.fps == codec.fps and len(same) == len(expected)
    assert same.joints == pytest.approx(expected.joints, abs=1e-4)


@pytest.mark.parametrize("first, last", [(6, 10), (0, 3), (15, -1), (8, 8)])
def test_only_the_frames_of_changed_codes_are_new(codec, recorded, first, last):
    codes = codec.encode(recorded)
    last = last % len(codes)
    new = list(codes)
    new[first] = (codes[first] + 11) % codec.codes
    new[last] = (codes[last] + 7) % codec.codes
    edited = spliced(recorded, new, codec)
    own, now = (features_of(motion, codec.layout) for motion in (resampled(recorded, codec.fps), edited))
    decoded = codec.quantiser.decode(np.array(new))[:len(now)]
    start, end = first * codec.window, min((last + 1) * codec.window, len(now))
    # The rates of a frame are those of the step to the next one, and the last frame's are the ones before.
    assert now[:max(start - 1, 0)] == pytest.approx(own[:max(start - 1, 0)], abs=2e-3)
    assert now[end:-1] == pytest.approx(own[end:-1], abs=2e-3)
    assert edited.joints[:start] == pytest.approx(resampled(recorded, codec.fps).joints[:start], abs=2e-3)
    middle = (start + end) // 2
    if end - start > 2 * FADE * codec.fps:
        assert now[middle, 3:] == pytest.approx(decoded[middle, 3:], abs=0.02)
    assert abs(now[start:end, 3:] - own[start:end, 3:]).max() > 0.02


def test_the_new_part_grows_out_of_what_was_recorded(codec, recorded):
    """At its borders the pose moves no more than it does within a decoded clip."""
    codes = codec.encode(recorded)
    new = [*codes[:6], *[codes[0]] * 6, *codes[12:]]
    steps = np.linalg.norm(np.diff(spliced(recorded, new, codec).joints, axis=0), axis=-1).mean(1)
    within = np.linalg.norm(np.diff(codec.decode(new).joints, axis=0), axis=-1).mean(1)
    assert max(steps[6 * codec.window - 1], steps[12 * codec.window - 1]) < within.max()


def test_codes_of_another_motion_are_refused(codec, recorded):
    with pytest.raises(MotionError, match="3 codes for a motion of "):
        spliced(recorded, [1, 2, 3], codec)
