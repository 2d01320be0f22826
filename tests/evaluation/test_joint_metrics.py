"""joint_metrics.py: each metric of joints on cases worked out by hand and against brute force."""

import time
from collections.abc import Iterator

import numpy as np
import pytest

from motion_llm.evaluation import joint_metrics
from motion_llm.evaluation.joint_metrics import (
    aligned_distances,
    dtw_joint_error,
    dtw_pa_joint_error,
    frame_distances,
    kinetic_features,
    mean_speed,
    standardised,
    temporal_spread,
    warped_mean,
)


def rng(seed=0):
    return np.random.default_rng(seed)


def paths(rows: int, columns: int) -> Iterator[list[tuple[int, int]]]:
    """All monotone paths between opposite corners."""
    if rows == columns == 1:
        yield [(0, 0)]
        return
    for down, right in ((1, 0), (0, 1), (1, 1)):
        if rows > down and columns > right:
            for path in paths(rows - down, columns - right):
                yield [*path, (rows - 1, columns - 1)]


def brute_force(costs: np.ndarray) -> float:
    total, steps = min((sum(costs[cell] for cell in path), len(path)) for path in paths(*costs.shape))
    return total / steps


def test_the_best_path_by_hand():
    costs = np.array([[1.0, 8, 8], [1, 9, 8], [2, 1, 1]])
    assert warped_mean(costs) == (1 + 1 + 1 + 1) / 4  # down, down and right, right
    costs[2, 1] = 9
    assert warped_mean(costs) == (1 + 9 + 1) / 3  # the diagonal
    costs[1, 1] = 11.5
    assert warped_mean(costs) == (1 + 1 + 9 + 1) / 4
    assert warped_mean(np.array([[1.0, 3, 5]])) == 3 and warped_mean(np.array([[7.0]])) == 7


@pytest.mark.parametrize("shape", [(3, 3), (1, 4), (4, 1), (2, 5), (5, 3), (4, 4), (6, 6)])
def test_the_best_path_is_that_of_brute_force(shape):
    for seed in range(20):
        costs = rng(seed).exponential(size=shape)
        assert warped_mean(costs) == pytest.approx(brute_force(costs))


def test_of_paths_of_one_sum_the_shortest_counts():
    assert warped_mean(np.array([[1.0, 1], [1, 2]])) == brute_force(np.array([[1.0, 1], [1, 2]])) == 3 / 2
    for seed in range(20):
        costs = rng(seed).integers(0, 3, (4, 5)).astype(float)  # many ties
        assert warped_mean(costs) == pytest.approx(brute_force(costs))


def test_a_clip_has_no_error_to_itself_at_any_speed():
    clip = rng().normal(size=(20, 22, 3))
    assert dtw_joint_error(clip, clip) == 0
    assert dtw_joint_error(np.repeat(clip, 2, 0), clip) == 0 == dtw_joint_error(clip, np.repeat(clip, 2, 0))
    still = clip[[0] * 5 + list(range(20)) + [19] * 9]  # begins late and stays at the end
    assert dtw_joint_error(still, clip) == 0


def test_smooth_motion_at_half_speed_is_as_near_as_its_frames_are():
    def swing(frames: int) -> np.ndarray:
        angle = np.linspace(0, 3, frames)
        return np.stack([np.sin(angle), np.cos(angle), 0 * angle], -1)[:, None]  # 1 metre, (T, 1, 3)

    assert 0 < dtw_joint_error(swing(121), swing(61)) < 3 / 60 / 2  # less than half a step apart
    assert np.abs(swing(121)[:61] - swing(61)).max() > 1  # compared frame by frame they are far apart


def test_a_joint_out_of_place_counts_by_its_share():
    clip = np.cumsum(rng().normal(size=(15, 8, 3)), 0) * 10  # no pose is near another
    moved = clip.copy()
    moved[:, 3] += np.array([0.3, 0, -0.4])  # 0.5 away
    assert dtw_joint_error(moved, clip) == pytest.approx(0.5 / 8)
    moved[:, 4, 1] += 0.25
    assert dtw_joint_error(moved, clip) == pytest.approx(0.75 / 8)


def test_distances_of_poses_by_hand():
    a = np.array([[[0.0, 0, 0], [0, 0, 0]]])
    b = np.array([[[3.0, 4, 0], [0, 0, 1]], [[0, 0, 0], [1, 2, 2]]])
    assert frame_distances(a, b).tolist() == [[(5 + 1) / 2, (0 + 3) / 2]]


@pytest.mark.parametrize("shape", [(4, 5, 3), (4, 6, 2), (0, 6, 3), (6, 3)])
def test_joints_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"^joints \(4, 6, 3\) and .*, expected \(T, J, 3\) and \(S, J, 3\)"):
        dtw_joint_error(np.zeros((4, 6, 3)), np.zeros(shape))


def test_three_hundred_pairs_take_seconds():
    clips = rng().normal(size=(10, 60, 22, 3))
    start = time.process_time()
    for _ in range(30):
        dtw_joint_error(clips[0], clips[1])
    assert time.process_time() - start < 1  # 0.05 here; 10 times as many in seconds


# Kinetic features


def moving(frames: int, places) -> np.ndarray:
    """(T, J, 3) from functions of seconds, at 10 frames a second."""
    times = np.arange(frames) / 10
    return np.stack([np.stack(np.broadcast_arrays(*place(times)), -1) for place in places], 1).astype(float)


def test_energies_by_hand():
    joints = moving(21, [lambda t: (3 * t, 1 + 2 * t, 4 * t),  # 5 metres a second on the floor, 2 upwards
                         lambda t: (0, 0.5, 3 * t ** 2)])  # 6 metres a second squared
    floor, up, acceleration = np.expm1(kinetic_features(joints, 10)).reshape(3, 2)
    assert floor[0] == pytest.approx(25) and up.tolist() == [pytest.approx(4), 0]
    assert acceleration == pytest.approx([0, 6], abs=1e-9)
    assert floor[1] == pytest.approx(np.mean((np.arange(20) * 0.6 + 0.3) ** 2))


def test_place_heading_and_a_second_round_do_not_matter():
    circle = moving(63, [lambda t: (np.cos(t), 1 + np.sin(t) / 2, np.sin(t))])  # a round of 6.2 seconds
    turn = np.array([[0.6, 0, 0.8], [0, 1, 0], [-0.8, 0, 0.6]])
    assert kinetic_features(circle @ turn.T + [5, 0, -3], 10) == pytest.approx(kinetic_features(circle, 10))
    twice = moving(126, [lambda t: (np.cos(t), 1 + np.sin(t) / 2, np.sin(t))])
    assert kinetic_features(twice, 10) == pytest.approx(kinetic_features(circle, 10), abs=0.01)
    assert kinetic_features(circle, 5)[0] < kinetic_features(circle, 10)[0]  # half as fast


@pytest.mark.parametrize("frames, moves", [(1, [False, False]), (2, [True, False]), (3, [True, True])])
def test_few_frames_have_no_speed_or_no_acceleration(frames, moves):
    features = kinetic_features(moving(frames, [lambda t: (t ** 2, 0, 0)]), 10)
    assert (features[[0, 2]] > 0).tolist() == moves and len(features) == 3


def test_features_are_counted_in_deviations_of_real_clips():
    real = np.array([[1.0, 10, 4], [3, 30, 4]])  # deviations 1, 10 and none
    assert standardised(np.array([[4.0, 0, 6]]), real).tolist() == [[2, -2, 2]]


# Procrustes alignment, speed and spread


def turn(seed: int) -> np.ndarray:
    q = np.linalg.qr(rng(seed).normal(size=(3, 3)))[0]
    return q * np.sign(np.linalg.det(q))


def test_a_clip_moved_turned_and_scaled_frame_by_frame_has_no_aligned_error():
    clip = rng().normal(size=(9, 6, 3))
    moved = np.stack([(1 + frame) * pose @ turn(frame) + [frame, 2, -1] for frame, pose in enumerate(clip)])
    assert dtw_pa_joint_error(moved, clip) < 1e-8 and dtw_joint_error(moved, clip) > 1
    assert dtw_pa_joint_error(np.repeat(moved, 2, 0), clip) == pytest.approx(0, abs=1e-8)  # in time as well


def test_a_mirror_image_is_no_turned_one():
    clip = rng().normal(size=(5, 6, 3))
    assert dtw_pa_joint_error(clip * [-1, 1, 1], clip) > 0.3


def by_svd(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a - a.mean(0), b - b.mean(0)
    u, values, vt = np.linalg.svd(a.T @ b)
    signs = np.array([1, 1, np.sign(np.linalg.det(u @ vt))])
    scale = (values * signs).sum() / max((a * a).sum(), 1e-30)
    return float(np.linalg.norm(scale * a @ (u * signs) @ vt - b, axis=1).mean())


@pytest.mark.parametrize("shape", ["any", "mirror", "line", "plane", "point"])
def test_the_alignment_is_that_of_singular_values(shape, monkeypatch):
    a, b = rng(1).normal(size=(7, 5, 3)), rng(2).normal(size=(4, 5, 3))
    if shape == "mirror":
        b = a[:4] * [1, -1, 1]
    elif shape == "line":
        a, b[:2] = a[:, :, :1] * [1, 2, 3], b[:2, :, :1] * [0, 1, 0]
    elif shape == "plane":
        a[..., 2] = 0
    elif shape == "point":
        a[:] = 1
    expected = [[by_svd(x, y) for y in b] for x in a]
    assert aligned_distances(a, b) == pytest.approx(np.array(expected), abs=1e-7)
    monkeypatch.setattr(joint_metrics, "ALIGNED_AT_ONCE", 9)  # in several blocks
    assert aligned_distances(a, b) == pytest.approx(np.array(expected), abs=1e-7)


@pytest.mark.parametrize("joints", [1, 2])
def test_one_or_two_joints_have_no_aligned_error(joints):
    a, b = rng().normal(size=(2, 4, joints, 3))
    assert dtw_pa_joint_error(a, b) == pytest.approx(0, abs=1e-8)


def test_speed_and_spread_by_hand():
    joints = moving(21, [lambda t: (3 * t, 4 * t, 0), lambda t: (0 * t, 1, 1)])  # 5 metres a second, and none
    assert mean_speed(joints, 10) == pytest.approx(2.5) and mean_speed(joints, 5) == pytest.approx(1.25)
    assert mean_speed(joints[:1], 10) is None and temporal_spread(joints[:1]) == 0
    assert temporal_spread(joints) == pytest.approx(5 * np.std(np.arange(21) / 10) / 2)
    assert temporal_spread(joints + [9, 0, 0]) == pytest.approx(temporal_spread(joints))
