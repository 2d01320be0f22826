"""How good motions are, told from their joints: arrays in, numbers out.

Two figures of the field: how far a clip's poses are from those of its real clip when both are played at the speeds that
fit best, and what a set of clips can be told from another set by without anything trained.
"""

import numpy as np


def frame_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(T, S): mean over the joints of the Euclidean distance of each pose of a (T, J, 3) to each of b (S, J, 3).
    Raises ValueError for other shapes."""
    if a.ndim != 3 or b.ndim != 3 or a.shape[1:] != b.shape[1:] or a.shape[2] != 3 or not a.size or not b.size:
        raise ValueError(f"joints {a.shape} and {b.shape}, expected (T, J, 3) and (S, J, 3), a frame or more each")
    total = np.zeros((len(a), len(b)))
    for joint in range(a.shape[1]):  # (T, S) at a time, for a long clip's (T, S, J, 3) does not fit the memory
        squares = sum(np.subtract.outer(a[:, joint, axis], b[:, joint, axis]) ** 2 for axis in range(3))
        total += np.sqrt(squares)
    return total / a.shape[1]


def warped_mean(costs: np.ndarray) -> float:
    """Mean of costs (T, S) along the path from the first corner to the last whose sum is least, by steps of one down,
    right or both (dynamic time warping, Sakoe and Chiba 1978); of paths with that sum the shortest."""
    costs = costs if len(costs) <= costs.shape[1] else costs.T
    rows, columns = costs.shape
    # A complex number is the sum and the steps of a path; numpy orders them by the first, then by the second.
    skewed = np.full((rows + columns - 1, rows), np.inf, complex)  # an anti-diagonal in each row
    place = np.arange(rows)[:, None]
    skewed[place + np.arange(columns), place] = costs + 1j
    before, last = (np.full(rows + 1, np.inf, complex) for _ in range(2))  # one place more, for outside
    before[0] = 0
    for diagonal in skewed:
        here = np.full(rows + 1, np.inf, complex)
        here[1:] = diagonal + np.minimum(np.minimum(last[1:], last[:-1]), before[:-1])
        before, last = last, here
    return float(last[-1].real / last[-1].imag)


def dtw_joint_error(a: np.ndarray, b: np.ndarray) -> float:
    """Mean joint error of poses a (T, J, 3) and b (S, J, 3) along their best alignment in time, in their unit.

    DTW-JPE of "Signs as Tokens" (Zuo et al. 2024), where poses are taken relative to a root joint; there it is the sum
    along the path, which grows with a clip's length and its frame rate, here the mean. Raises ValueError.
    """
    return warped_mean(frame_distances(a, b))


def kinetic_features(joints: np.ndarray, fps: float) -> np.ndarray:
    """(3 J,): of each joint of (T, J, 3) metres the mean square of its speed on the floor and of its speed upwards, and
    its mean acceleration, as ln(1 + x); 0 where there are too few frames.

    The kinetic energies of Onuma et al. 2008 (FMDistance) with the energy expenditure, as in the FID_k of AIST++ (Li et
    al. 2021). They do not depend on where a figure is, which way it faces, or how long the clip is. The logarithm, one
    of the variations of Onuma et al., keeps a few fast clips from deciding.
    """
    velocity = np.diff(joints, axis=0) * fps
    acceleration = np.diff(velocity, axis=0) * fps
    across, up = (velocity[..., [0, 2]] ** 2).sum(-1), velocity[..., 1] ** 2
    found = [values.mean(0) if len(values) else np.zeros(joints.shape[1])
             for values in (across, up, np.linalg.norm(acceleration, axis=-1))]
    return np.log1p(np.concatenate(found))


def standardised(features: np.ndarray, real: np.ndarray) -> np.ndarray:
    """Features (N, d) by the mean and the deviation that real clips' (M, d) have; one that does not vary there is left
    in its unit. So that no joint decides by being faster than others."""
    spread = real.std(0)
    return (features - real.mean(0)) / np.where(spread > 1e-9, spread, 1)
