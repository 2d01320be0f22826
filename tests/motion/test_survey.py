"""survey.py: figures that lie or stand on their heads are told from those that only are long or low."""

import numpy as np
import pytest

from motion_llm.motion.features import Layout
from motion_llm.motion.skeleton import Motion, Skeleton
from motion_llm.motion.survey import Measures, check_jumps, check_upright

NAMES = ("Hips", "Chest", "Head", "LeftLeg", "LeftFoot", "RightLeg", "RightFoot")
PARENTS = (-1, 0, 1, 0, 3, 0, 5)
PERSON = np.array([(0, 1.0, 0), (0, 1.4, 0), (0, 1.7, 0), (0.1, 0.5, 0), (0.1, 0, 0), (-0.1, 0.5, 0), (-0.1, 0, 0)])
DOG = np.array([(0, 0.6, 0), (0, 0.6, 0.7), (0, 0.8, 1.1), (0.1, 0.3, -0.1), (0.1, 0, -0.1), (-0.1, 0.3, 0.6),
                (-0.1, 0, 0.6)])


def told(caplog, pose: np.ndarray, names=NAMES, file: str = "clip.bvh") -> str:
    """What is said of a figure that keeps a pose for ten frames."""
    figure = Skeleton(names, PARENTS, np.zeros((7, 3)))
    measures = Measures.of(Motion(np.tile(pose, (10, 1, 1)), 30, figure), Layout.of(figure))
    caplog.clear()
    check_upright([measures], [file])
    check_jumps([measures], [file])
    return caplog.text


@pytest.mark.parametrize("names", [NAMES, tuple("abcdefg")], ids=["named", "without names"])
def test_a_figure_that_stands_is_not_remarked_and_one_that_lies_is(caplog, names):
    assert told(caplog, PERSON, names) == ""
    assert "lie along z" in told(caplog, PERSON[:, [0, 2, 1]], names)


def test_a_figure_on_four_legs_does_not_lie(caplog):
    assert told(caplog, DOG) == ""


def test_the_remedy_is_another_axis_than_the_one_in_use(caplog):
    lying = PERSON[:, [0, 2, 1]]
    assert "--up z" in told(caplog, lying) and "--up y" in told(caplog, lying, file="walk.npz")
    assert "--up=-y" in told(caplog, PERSON * (1, -1, -1))
