"""benchmarks/codec.py: metrics of unchanged, moved, shaken and sliding motions match values computed by hand."""

import argparse
import json
from dataclasses import replace

import numpy as np
import pytest
from hands import TWO, waves
from walker import NAMES, walk, walks

from motion_llm.benchmarks.codec import add_arguments, compared, format_figures, ground, run, stands, window_of
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


def arguments(*flags: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args([*flags, "--kinds", "kmeans"])  # the network's fit takes minutes


def test_the_command_holds_every_fifth_clip_out(tmp_path):
    for i, motion in enumerate(walks(6)):
        write_bvh(tmp_path / f"{i}.bvh", motion)
    figures = run(arguments("--motions", str(tmp_path), "--codes", "64"), {})
    assert (figures["clips"], figures["held_out"]) == (4, 2) and figures["codecs"]["kmeans"]["local_mm"] > 0
    assert figures["originals"]["local_mm"] == 0
    table = format_figures(figures)
    assert "2 held-out clips; codecs of 64 codes of 4 frames from 4 others" in table and "kmeans" in table


def test_parts_and_levels_stand_beside_one_codebook_of_as_many_tokens(tmp_path):
    for i, motion in enumerate(waves(6)):
        write_bvh(tmp_path / f"{i}.bvh", motion)
    (tmp_path / "parts.json").write_text(json.dumps(TWO))
    figures = run(arguments("--motions", str(tmp_path), "--codes", "16", "--levels", "3", "--parts",
                            str(tmp_path / "parts.json")), {})
    rows = figures["streams"]
    assert {name: row["tokens_per_second"] for name, row in rows.items()} == {
        "kmeans, one codebook": 7.5, "kmeans, one codebook, 2 frames": 15, "kmeans, one codebook, 1 frames": 30,
        "kmeans, 2 parts": 15, "kmeans, 3 levels": 22.5}
    for row in rows.values():
        upper, lower = len(TWO["upper"]), len(TWO["lower"])
        for errors in (row["fitted"], row["held_out"]):
            mean = (errors["upper"] * upper + errors["lower"] * lower) / (upper + lower)
            assert errors["all"] == pytest.approx(mean)
    assert rows["kmeans, 3 levels"]["fitted"]["all"] < rows["kmeans, one codebook"]["fitted"]["all"]
    measured = figures["codecs"]["kmeans"]["local_mm"]
    assert rows["kmeans, one codebook"]["held_out"]["all"] == pytest.approx(measured)
    lines = format_figures(figures).splitlines()
    assert lines[-6].split() == ["tokens/s", "all", "upper", "lower"] and lines[-2].startswith("kmeans, 2 parts")


def test_without_parts_there_are_rows_for_levels_alone(tmp_path):
    for i, motion in enumerate(walks(3)):
        write_bvh(tmp_path / f"{i}.bvh", motion)
    rows = run(arguments("--motions", str(tmp_path), "--codes", "8"), {})["streams"]
    assert list(rows) == ["kmeans, one codebook", "kmeans, one codebook, 2 frames", "kmeans, 2 levels"]
    assert list(rows["kmeans, 2 levels"]["fitted"]) == ["all"]


@pytest.mark.parametrize(("kind", "streams", "window"), [("kmeans", 2, 2), ("kmeans", 3, 1), ("kmeans", 9, 1),
                                                         ("vqvae", 2, 2), ("vqvae", 3, 1)])
def test_the_window_at_which_one_codebook_has_as_many_tokens(kind, streams, window):
    assert window_of(kind, 4, streams) == window
    assert window_of("vqvae", 16, 3) == 4 and window_of("kmeans", 16, 3) == 5
