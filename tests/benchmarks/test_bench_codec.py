"""benchmarks/codec.py: metrics of unchanged, moved, shaken and sliding motions match values computed by hand."""

import argparse
from dataclasses import replace

import numpy as np
import pytest
from walker import NAMES, walk, walks

from motion_llm.benchmarks import codec as bench_codec
from motion_llm.benchmarks.codec import compared, format_figures, ground, run, stands
from motion_llm.motion.bvh import write_bvh
from motion_llm.motion.codec import MotionCodec


@pytest.fixture(scope="module")
def codec() -> MotionCodec:
    return MotionCodec.fit(walks(), codes=64, kind="kmeans")


def test_a_motion_laid_elsewhere_is_the_same_motion(codec):
    metrics = compared([(walk().joints, walk(start=(2.0, -1.0, 1.0)).joints)], codec)
    assert max(metrics[name] for name in ("local_mm", "world_mm", "drift_mm_s")) < 1e-6
    assert metrics["step_at_border"] == pytest.approx(1, abs=0.1)


def test_a_slower_walk_drifts_and_is_no_other_posture(codec):
    metrics = compared([(walk(turning=0, speed=1.0).joints, walk(turning=0, speed=0.7).joints)], codec)
    assert metrics["drift_mm_s"] == pytest.approx(300, rel=0.03) and metrics["local_mm"] < 1e-6
    assert metrics["world_mm"] == pytest.approx(0.3 * 59 / 30 / 2 * 1000, rel=0.03)


def test_a_hand_off_its_place_counts_by_its_share(codec):
    joints = walk().joints.copy()
    joints[:, NAMES.index("left_hand"), 1] += 0.1
    metrics = compared([(walk().joints, joints)], codec)
    assert metrics["local_mm"] == pytest.approx(metrics["world_mm"]) == pytest.approx(10)  # 100 mm, one of ten joints
    metrics = compared([(walk().joints, walk().joints)] * 9 + [(walk().joints, joints)], codec)
    assert metrics["local_mm"] == pytest.approx(1) and metrics["worst_mm"] == pytest.approx(10)  # the tenth clip's


def test_seams_are_seen_where_windows_meet(codec):
    joints = walk().joints + (np.arange(60) // 4 % 2 * 0.1)[:, None, None] * (0, 1, 0)
    metrics = compared([(walk().joints, joints)], codec)
    assert metrics["step_at_border"] > 2 and metrics["velocity_at_border"] > 1.5
    late = walk().joints + ((np.arange(60) + 2) // 4 % 2 * 0.1)[:, None, None] * (0, 1, 0)  # steps inside windows
    assert compared([(walk().joints, late)], codec)["step_at_border"] < 1
    assert metrics["jerk"] > 5 * compared([(walk().joints,) * 2], codec)["jerk"]


def test_feet_that_slide_are_seen_while_they_should_stand(codec):
    still = walk(turning=0, speed=0).joints.copy()
    still[:] = still[:1]
    assert stands(still[:, NAMES.index("left_foot")], 30).all()
    moving = still + np.arange(60)[:, None, None] / 30 * np.array([0, 0, 0.5])
    assert not stands(moving[:, NAMES.index("left_foot")], 30).any()
    assert compared([(still, moving)], codec)["sliding_cm_s"] == pytest.approx(50)
    assert compared([(moving, still)], codec)["sliding_cm_s"] is None  # no foot stands in the original


def test_a_motion_is_held_against_what_the_codec_saw_of_it(codec):
    assert ground(walk(123, fps=60), codec).shape == (62, 11, 3)
    assert ground(walk(123, fps=60), replace(codec, pads=False)).shape == (60, 11, 3)  # in whole windows


def test_the_command_holds_every_fifth_clip_out(tmp_path, monkeypatch):
    for i, motion in enumerate(walks(6)):
        write_bvh(tmp_path / f"{i}.bvh", motion)
    monkeypatch.setattr(bench_codec, "QUANTISERS", ("kmeans",))  # the network's fit takes minutes
    args = argparse.Namespace(motions=str(tmp_path), codes=64, window=4, scale=0.01)
    figures = run(args, {})
    assert (figures["clips"], figures["held_out"]) == (4, 2) and figures["codecs"]["kmeans"]["local_mm"] > 0
    assert figures["originals"]["local_mm"] == 0
    table = format_figures(figures)
    assert "2 held-out clips; codecs of 64 codes of 4 frames from 4 others" in table and "kmeans" in table
