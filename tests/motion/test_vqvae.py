"""vqvae.py: the loss sees sliding feet and wrong paths, clips are sped up correctly, codes follow their latents."""

import numpy as np
import pytest
import torch
from walker import walk

from motion_llm.motion.features import Layout, features_of, turned
from motion_llm.motion.vqvae import _padded, _parts, _Training, _untrained, _velocities, loss_of


def test_the_loss_knows_sliding_feet_and_mirror_turns():
    features = features_of(walk(), Layout.of(walk().skeleton))
    true = torch.from_numpy(features.T[None].copy())
    loss, distance = loss_of(true, true, 30.0, [])
    assert loss < 2e-3 and distance < 2e-3
    for rate in range(3):  # the joints are right and the path is wrong: only the loss's other terms see it
        wrong = true.clone()
        wrong[:, rate] += 1
        loss, distance = loss_of(wrong, true, 30.0, [])
        assert distance < 2e-3 and loss > 0.05
    still = true[:, :, :1].expand_as(true).clone()
    still[:, :3] = 0
    wrong = still.clone()
    wrong[:, 1] += 0.5  # feet that should stand move ahead with the body
    without = loss_of(wrong, still, 30.0, [])[0].item()
    assert loss_of(wrong, still, 30.0, [7, 9])[0].item() == pytest.approx(without + 0.05, abs=2e-3)
    assert loss_of(still, wrong, 30.0, [7, 9])[0].item() == pytest.approx(without, abs=2e-3)


def test_the_loss_cares_most_for_what_is_far_off():
    """With the distance alone, the middle is a good prediction for a motion to the left and its mirror image."""
    true = torch.zeros(1, 6, 8)

    def loss(error: float) -> float:
        wrong = true.clone()
        wrong[:, 3] = error
        return loss_of(wrong, true, 30.0, [])[0].item() - loss_of(true, true, 30.0, [])[0].item()

    assert loss(0.3) > 20 * loss(0.03)
    one_right = loss(0.6) + loss(0.0)  # of two motions one is predicted exactly
    assert 2 * loss(0.3) < 0.6 * one_right


def training(codes: int = 4):
    motion = walk(200, turning=0, speed=1.0)
    layout = Layout.of(motion.skeleton)
    network = _untrained(layout.width, codes, 4, 8, 0)
    return _Training(network, [features_of(motion, layout)], [7, 9], 30.0, 100, 16, 0)


def test_clips_are_learned_faster_and_slower_with_rates_that_fit():
    batch = training().batch().double().numpy()  # (B, F, CROP)
    ahead = batch[:, 1].mean(1)
    assert 0.89 < ahead.min() < 0.97 and 1.03 < ahead.max() < 1.11
    foot = batch[:, 3 + 3 * 7 + 2]  # position ahead of the hips; it swings at 5 radians a second
    swings = np.abs(np.diff(foot, axis=1)).max(1) * 30 / (0.9 * np.radians(30) * 5)
    np.testing.assert_allclose(swings, ahead, rtol=0.03)


def test_a_clip_shorter_than_what_is_learned_at_once_ends_standing_still():
    clip = features_of(walk(10), Layout.of(walk().skeleton))
    padded = _padded(clip, 20)
    np.testing.assert_array_equal(padded[:10], clip)
    assert (padded[10:, :3] == 0).all() and (padded[10:, 3:] == clip[-1, 3:]).all()
    assert len(_padded(clip, 5)) == 10


def test_codes_follow_what_they_stand_for_and_unused_ones_begin_anew():
    fit = training()
    codebook = torch.zeros_like(fit.network.codebook)
    codebook[:, 0] = torch.tensor([0.0, 10.0, 20.0, 30.0])
    fit.network.codebook.copy_(codebook)
    fit.counts, fit.sums = torch.ones(4), codebook.clone()
    points = torch.zeros(40, codebook.shape[1])
    points[:, 0] = torch.tensor([1.0, 11.0]).repeat(20)
    for step in range(60):
        fit.update_codebook(points, torch.tensor([0, 1]).repeat(20), step)
    assert fit.network.codebook[:2, 0].tolist() == pytest.approx([1, 11], abs=0.1)
    assert fit.network.codebook[2:, 0].tolist() == pytest.approx([20, 30])  # rarely used, but not reset yet
    for step in range(60, 79):
        fit.counts[2:] = 0.01
        fit.update_codebook(points, torch.tensor([0, 1]).repeat(20), step)
    assert set(fit.network.codebook[2:, 0].tolist()) <= {1.0, 11.0}


def test_velocities_over_the_ground_are_those_of_the_world():
    motion = walk(turning=1.5, speed=1.0)
    layout = Layout.of(motion.skeleton)
    features = torch.from_numpy(features_of(motion, layout).T[None].copy())
    velocities = _velocities(*_parts(features), 30.0)[0].permute(2, 0, 1).numpy()  # (T - 1, B, 3)
    heading = 1.5 * np.arange(59) / 30
    expected = turned(np.diff(motion.joints[:, layout.body], axis=0) * 30, -heading)
    np.testing.assert_allclose(velocities, expected, atol=0.1)
    assert np.abs(expected).max() > 1
