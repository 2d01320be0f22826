"""Metrics of motions as joints: arrays in, numbers out.

The error of a clip's poses to those of its real clip after the best alignment in time, and features by which two sets
of clips are compared without a trained network.
"""

import numpy as np


def frame_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(T, S): mean over the joints of the Euclidean distance of each pose of a (T, J, 3) to each of b (S, J, 3).
    Raises ValueError for other shapes."""
    if a.ndim != 3 or b.ndim != 3 or a.shape[1:] != b.shape[1:] or a.shape[2] != 3 or not a.size or not b.size:
        raise ValueError(f"joints {a.shape} and {b.shape}, expected (T, J, 3) and (S, J, 3), a frame or more each")
    total = np.zeros((len(a), len(b)))
    for joint in range(a.shape[1]):  # one (T, S) at a time: (T, S, J, 3) of a long clip does not fit in memory
        squares = sum(np.subtract.outer(a[:, joint, axis], b[:, joint, axis]) ** 2 for axis in range(3))
        total += np.sqrt(squares)
    return total / a.shape[1]


def warped_mean(costs: np.ndarray) -> float:
    """Mean of costs (T, S) along the path of least sum from the first corner to the last, in steps of one down, right
    or both (dynamic time warping, Sakoe and Chiba 1978); of paths with that sum the shortest."""
    costs = costs if len(costs) <= costs.shape[1] else costs.T
    rows, columns = costs.shape
    # A complex number holds the sum and the number of steps of a path; numpy compares by the first, then the second.
    skewed = np.full((rows + columns - 1, rows), np.inf, complex)  # an anti-diagonal in each row
    place = np.arange(rows)[:, None]
    skewed[place + np.arange(columns), place] = costs + 1j
    before_last, last = (np.full(rows + 1, np.inf, complex) for _ in range(2))  # one more, for outside
    before_last[0] = 0
    for diagonal in skewed:
        current = np.full(rows + 1, np.inf, complex)
        current[1:] = diagonal + np.minimum(np.minimum(last[1:], last[:-1]), before_last[:-1])
        before_last, last = last, current
    return float(last[-1].real / last[-1].imag)


def dtw_joint_error(a: np.ndarray, b: np.ndarray) -> float:
    """Mean joint error of poses a (T, J, 3) and b (S, J, 3) along their best alignment in time, in their unit.

    DTW-JPE of "Signs as Tokens" (Zuo et al. 2024), where poses are relative to a root joint. There it is the sum along
    the path, which grows with the length and the frame rate of a clip; here it is the mean. Raises ValueError.
    """
    return warped_mean(frame_distances(a, b))


def kinetic_features(joints: np.ndarray, fps: float) -> np.ndarray:
    """(3 J,) of joints (T, J, 3) in metres: each joint's mean squared horizontal speed, mean squared vertical speed and
    mean acceleration, as ln(1 + x); 0 for too few frames.

    The kinetic energies of Onuma et al. 2008 (FMDistance) with the energy expenditure, as in the FID_k of AIST++ (Li et
    al. 2021). They do not depend on position, heading or length of the clip. The logarithm, one of the variations of
    Onuma et al., keeps a few fast clips from dominating.
    """
    velocity = np.diff(joints, axis=0) * fps
    acceleration = np.diff(velocity, axis=0) * fps
    across, up = (velocity[..., [0, 2]] ** 2).sum(-1), velocity[..., 1] ** 2
    means = [values.mean(0) if len(values) else np.zeros(joints.shape[1])
             for values in (across, up, np.linalg.norm(acceleration, axis=-1))]
    return np.log1p(np.concatenate(means))


def standardised(features: np.ndarray, real: np.ndarray) -> np.ndarray:
    """Features (N, d) minus the mean of real clips' (M, d), over their standard deviation, or over 1 if they do not
    vary. Thus no joint dominates by being faster than others."""
    spread = real.std(0)
    return (features - real.mean(0)) / np.where(spread > 1e-9, spread, 1)
