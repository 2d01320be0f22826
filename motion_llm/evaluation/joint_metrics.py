"""Metrics of motions as joints: arrays in, numbers out.

The error of a clip's poses to those of its real clip after the best alignment in time, and features by which two sets
of clips are compared without a trained network.
"""

import numpy as np

ALIGNED_AT_ONCE = 2**13  # pairs of poses, about 2 KB each
SWEEPS = 4  # of Jacobi rotations; the distances are then exact to 1e-9
FLAT = 1e-9  # of the largest singular value: a second one of less is none


def frame_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(T, S): mean over the joints of the Euclidean distance of each pose of a (T, J, 3) to each of b (S, J, 3).
    Raises ValueError for other shapes."""
    _check_poses(a, b)
    total = np.zeros((len(a), len(b)))
    for joint in range(a.shape[1]):  # one (T, S) at a time: (T, S, J, 3) of a long clip does not fit in memory
        squares = sum(np.subtract.outer(a[:, joint, axis], b[:, joint, axis]) ** 2 for axis in range(3))
        total += np.sqrt(squares)
    return total / a.shape[1]


def _check_poses(a: np.ndarray, b: np.ndarray) -> None:
    if a.ndim != 3 or b.ndim != 3 or a.shape[1:] != b.shape[1:] or a.shape[2] != 3 or not a.size or not b.size:
        raise ValueError(f"joints {a.shape} and {b.shape}, expected (T, J, 3) and (S, J, 3), a frame or more each")


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


# ---------------------------------------------------------------- parts of a figure


def aligned_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(T, S): as frame_distances, of each pose of a (T, J, 3) after its Procrustes alignment to each of b (S, J, 3).

    The alignment is the similarity that brings the joints of the one pose of a nearest to those of the one pose of b:
    the rotation (no reflection), scale and translation of least sum of squared distances (Umeyama 1991), found for
    every pair of poses by itself. It leaves no error of one or two joints. Where few joints are off, the mean distance
    may grow, as the squares are what it minimises. Raises ValueError.
    """
    _check_poses(a, b)
    a, b = (x.astype(np.float64) - x.mean(1, keepdims=True, dtype=np.float64) for x in (a, b))
    rows = max(1, ALIGNED_AT_ONCE // len(b))
    return np.concatenate([_aligned_block(a[start:start + rows], b) for start in range(0, len(a), rows)])


def dtw_pa_joint_error(a: np.ndarray, b: np.ndarray) -> float:
    """DTW-PA-JPE: as dtw_joint_error, with aligned_distances, so that place, direction and size of each pose do not
    count. "Signs as Tokens" (Zuo et al. 2024) aligns each pair of poses likewise and gives the sum along the path;
    here it is the mean. Raises ValueError."""
    return warped_mean(aligned_distances(a, b))


def mean_speed(joints: np.ndarray, fps: float) -> float | None:
    """Mean over joints and frames of the speed of joints (T, J, 3), in their unit a second; None for one frame."""
    return float(np.linalg.norm(np.diff(joints, axis=0), axis=-1).mean() * fps) if len(joints) > 1 else None


def temporal_spread(joints: np.ndarray) -> float:
    """Mean over the joints of the standard deviation over time of each one's place in joints (T, J, 3): the root of the
    mean squared distance to its mean place."""
    return float(np.sqrt(joints.var(0, dtype=np.float64).sum(-1)).mean())


def _aligned_block(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """aligned_distances of centred poses, all pairs at once."""
    products = np.tensordot(a, b, (1, 1)).transpose(1, 3, 0, 2)  # (3, 3, T, S): sums over the joints of a_i b_j
    rotation, overlap = _rotations(products)
    sizes = (a * a).sum((1, 2))[:, None]
    moves = (rotation * (overlap / np.where(sizes > 0, sizes, 1))).transpose(2, 0, 1, 3)  # (T, 3, 3, S)
    moved = (a @ moves.reshape(len(a), 3, -1)).reshape(*a.shape, len(b))  # (T, J, 3, S)
    return np.sqrt(((moved - b.transpose(1, 2, 0)) ** 2).sum(2)).mean(1)


def _rotations(products: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rotations R (3, 3, ...) that maximise the sum of R * products (3, 3, ...), and that sum (...).

    By singular values (Kabsch 1976), found by Jacobi rotations of the columns (Hestenes 1958) for all matrices at once:
    many times faster than numpy's decomposition of one small matrix after another. Also where points lie in a line.
    """
    left = [products[:, column] for column in range(3)]  # the columns of products @ right, (3, ...) each
    right = [np.broadcast_to(np.eye(3)[column].reshape(3, *[1] * (products.ndim - 2)), left[0].shape)
             for column in range(3)]
    for _ in range(SWEEPS):
        for p, q in ((0, 1), (0, 2), (1, 2)):
            cos, sin = _half_angle((left[p] ** 2).sum(0) - (left[q] ** 2).sum(0), 2 * (left[p] * left[q]).sum(0))
            for pair in (left, right):
                pair[p], pair[q] = cos * pair[p] + sin * pair[q], cos * pair[q] - sin * pair[p]
    length = np.sqrt((left[0] ** 2).sum(0))
    first = left[0] / np.where(length > 0, length, 1)
    first[0] += length == 0  # of products that are all 0 any rotation will do
    second = left[1] - (first * left[1]).sum(0) * first
    flat = np.sqrt((second ** 2).sum(0)) <= FLAT * length  # points in a line: any direction across it will do
    across = np.eye(3)[np.abs(first).argmin(0)]
    across = np.moveaxis(across, -1, 0)
    second = np.where(flat, across - (first * across).sum(0) * first, second)
    second = second / np.sqrt((second ** 2).sum(0))
    third = np.cross(first, second, axis=0)
    lefts, rights = (first, second, third), (*right[:2], np.cross(right[0], right[1], axis=0))
    rotation = sum(u[:, None] * v[None] for u, v in zip(lefts, rights, strict=True))
    return rotation, (rotation * products).sum((0, 1))


def _half_angle(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cosine and sine of half the angle of the points (x, y); of a quarter of a turn at most."""
    length = np.hypot(x, y)
    double = x / np.where(length > 0, length, 1) + (length == 0)
    cos = np.sqrt(np.maximum(1 + double, 0) / 2)
    return cos, np.copysign(np.sqrt(np.maximum(1 - double, 0) / 2), y)
