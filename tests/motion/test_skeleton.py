"""skeleton.py: skeletons and motions with wrong shapes or values are refused."""

import re

import numpy as np
import pytest

from motion_llm.motion.skeleton import Motion, MotionError, Skeleton

SKELETON = Skeleton(("hips", "spine", "head"), (-1, 0, 1), np.zeros((3, 3)))


def test_a_motion_knows_its_frames_and_seconds():
    motion = Motion(np.zeros((60, 3, 3)), 30.0, SKELETON, np.zeros((60, 3, 3, 3)))
    assert (len(motion), motion.seconds) == (60, 2.0)


@pytest.mark.parametrize(("names", "parents", "offsets", "message"), [
    ((), (), np.zeros((0, 3)), "a skeleton of 0 names"),
    (("a", "b"), (-1,), np.zeros((2, 3)), "2 names, 1 parents"),
    (("a", "b"), (-1, 0), np.zeros((3, 3)), "offsets (3, 3)"),
    (("a", "b"), (-1, -1), np.zeros((2, 3)), "parents: joint 1 (b) has the parent -1, expected -1 for the first joint"),
    (("a", "b", "c"), (-1, 2, 0), np.zeros((3, 3)), "a parent before its children"),
])
def test_a_skeleton_that_is_none_is_refused(names, parents, offsets, message):
    with pytest.raises(MotionError, match=re.escape(message)):
        Skeleton(names, parents, offsets)


def broken(value):
    joints = np.zeros((5, 3, 3))
    joints[3, 1, 0] = value
    return joints


@pytest.mark.parametrize(("joints", "fps", "rotations", "message"), [
    (np.zeros((0, 3, 3)), 30, None, "joints (0, 3, 3)"),
    (np.zeros((5, 2, 3)), 30, None, "expected (T, 3, 3)"),
    (np.zeros((5, 3, 3)), 0, None, "0 frames a second"),
    (np.zeros((5, 3, 3)), float("nan"), None, "nan frames a second"),
    (np.zeros((5, 3, 3)), 30, np.zeros((4, 3, 3, 3)), "rotations (4, 3, 3, 3)"),
    (broken(np.nan), 30, None, "joints of frame 3"),
    (broken(np.inf), 30, None, "joints of frame 3"),
])
def test_a_motion_that_does_not_fit_is_refused(joints, fps, rotations, message):
    with pytest.raises(MotionError, match=re.escape(message)):
        Motion(joints, fps, SKELETON, rotations)
