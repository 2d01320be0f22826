"""joint_judge.py, table.py and findings.py: metrics of joints on clips of known quality."""

from dataclasses import replace

import numpy as np
import pytest
from walker import walk

from motion_llm.dataset.rows import caption_key
from motion_llm.evaluation.clips import EvaluationRow
from motion_llm.evaluation.findings import breakdown, deviations, not_available
from motion_llm.evaluation.joint_judge import JointJudge
from motion_llm.evaluation.metric_names import ANOTHER, FROM_JOINTS, MODEL, REAL, SHUFFLED, SPLITS
from motion_llm.evaluation.table import Judge, score_all
from motion_llm.motion.codec import CodecError, MotionCodec
from motion_llm.motion.features import heading_of

ARMS, SPEEDS = (0, 40, 80, 120, 160), (0.4, 1.6)


def clips_of(seed: int, each: int = 5) -> list[tuple[str, object]]:
    """Captions that name the height of an arm and the walking speed, with motions that fit."""
    rng = np.random.default_rng(seed)
    return [(f"walks at {speed} with the arm at {arm}",
             walk(int(rng.integers(40, 80)), turning=rng.uniform(-1, 1), speed=speed, phase=rng.uniform(0, 6), arm=arm))
            for arm in ARMS for speed in SPEEDS for _ in range(each)]


@pytest.fixture(scope="module")
def codec() -> MotionCodec:
    codec = MotionCodec.fit([motion for _, motion in clips_of(0)], codes=96, kind="kmeans")
    return replace(codec, pads=False)  # whole windows, on which the limits below were set


@pytest.fixture(scope="module")
def judge(codec) -> Judge:
    rows = [EvaluationRow(i, text, caption_key(text), codec.encode(motion), None, "unseen" if "1.6" in text else "seen")
            for i, (text, motion) in enumerate(clips_of(1))]
    return Judge(rows, codec.codes, None, None, 0, JointJudge(codec, [row.codes for row in rows]))


def figures(judge: Judge, clips, row: str = MODEL, split: str = "all") -> tuple[float | None, ...]:
    table = score_all(judge, [[clip] for clip in clips], None)
    return tuple(table[row][split][name].value for name in FROM_JOINTS)


def test_real_clips_given_as_generated_score_as_real(judge):
    real = [row.codes for row in judge.rows]
    for split in SPLITS:  # each with its own real clips
        error, fid = figures(judge, real, split=split)
        assert error == 0 and fid < 1e-6
    assert figures(judge, real, REAL) == (None, pytest.approx(0, abs=1e-6))  # each is its own reference


def test_clips_of_other_captions_are_caught_by_the_error(judge):
    another = figures(judge, [row.codes for row in judge.rows], ANOTHER)
    shuffled = figures(judge, [row.codes for row in judge.rows], SHUFFLED)
    count = len(judge.rows)
    places = [(i + count // 2) % count for i in range(count)]
    error, fid = figures(judge, [judge.rows[i].codes for i in places])
    assert 0 < another[0] < 40 < error and 2 * another[0] < shuffled[0] and shuffled[1] is None
    assert fid < 1e-6  # the same clips as a set


def test_a_constant_clip_is_caught_by_the_distance(judge):
    constant = [[judge.rows[0].codes[3]] * len(row.codes) for row in judge.rows]
    error, fid = figures(judge, constant)
    another = figures(judge, constant, ANOTHER)
    assert fid > 10 * another[1] and error > 2 * another[0]


def test_clips_out_of_time_are_caught_by_the_distance(judge):
    rng = np.random.default_rng(0)
    clips = [rng.permutation(row.codes).tolist() for row in judge.rows]
    assert figures(judge, clips)[1] > 10 * figures(judge, clips, ANOTHER)[1]


def test_each_clip_is_compared_with_the_real_clip_of_its_row(judge):
    """The first two rows have the same caption, but each is compared with its own real clip only."""
    first, second = judge.rows[0], judge.rows[1]
    assert first.key == second.key
    assert judge.joints.error(second.codes, 0) == judge.joints.error(first.codes, 1) > 0
    assert judge.joints.error(second.codes, 1) == 0


def test_poses_have_no_place_and_no_heading(judge, codec):
    layout, codes = codec.layout, judge.rows[0].codes
    motion = codec.decode(codes)
    assert np.ptp(heading_of(motion.joints, layout)) > 0.1  # it turns
    poses = judge.joints._poses(tuple(codes))
    assert poses.shape == (len(motion), len(layout.body), 3)
    assert np.abs(poses[:, layout.body.index(layout.centre)]).max() < 1e-6
    line = poses[:, layout.body.index(layout.across[0])] - poses[:, layout.body.index(layout.across[1])]
    assert np.abs(line[:, 2]).max() < 1e-6 < 0.1 < line[:, 0].min()
    # Distances within a pose stay as they are.
    spread = np.linalg.norm(motion.joints[:, layout.body[3]] - motion.joints[:, layout.body[5]], axis=-1)
    assert np.linalg.norm(poses[:, 3] - poses[:, 5], axis=-1) == pytest.approx(spread, abs=1e-5)


def test_errors_are_in_millimetres(judge, codec):
    """Against distances of the joints by hand, for clips of one code, which is 4 frames."""
    a, b = judge.rows[0].codes[:1], judge.rows[-1].codes[:1]
    joints = JointJudge(codec, [b])
    poses = [joints._poses(tuple(codes)) for codes in (a, b)]
    best = 1000 * np.linalg.norm(poses[0][:, None] - poses[1][None], axis=-1).mean(-1)
    assert best.min() <= joints.error(a, 0) <= best.max() and joints.error(a, 0) > 10


def test_clips_that_cannot_be_decoded_are_left_out_and_counted(judge, codec):
    clips = [[] if i == 0 else [codec.codes] if i == 1 else row.codes for i, row in enumerate(judge.rows)]
    table = score_all(judge, [[clip] for clip in clips], None)
    assert table[MODEL]["all"]["dtw_joint_error"].n == len(judge.rows) - 2
    assert any(note.startswith("2 clips cannot be decoded") for note in deviations(judge, [[clip] for clip in clips]))
    of_empty_clips = score_all(judge, [[[]]] * len(judge.rows), None)[MODEL]["all"]
    assert of_empty_clips["dtw_joint_error"].value is None and of_empty_clips["fid_joints"].value is None
    with pytest.raises(CodecError):
        JointJudge(codec, [[codec.codes]])


def test_a_caption_tells_its_own_error(judge):
    victim = judge.rows[0].key
    clips = [[judge.rows[-1].codes if row.key == victim else row.codes] for row in judge.rows]
    worst = breakdown(judge, clips)["captions"][0]
    assert caption_key(worst["name"]) == victim and worst["dtw_joint_error"] > 40
    assert breakdown(judge, clips)["captions"][-1]["dtw_joint_error"] == 0


def test_without_a_codec_it_is_said_how_to_have_one(judge):
    bare = Judge(judge.rows, 96, None, None, 0)
    table = score_all(bare, [[row.codes] for row in judge.rows], None)
    assert all(table[row]["all"][name].value is None for row in table for name in FROM_JOINTS)
    assert any("dtw_joint_error, fid_joints (no codec of the tokens: CODEC_PATH" in line
               for line in not_available(table, bare, False))


def test_long_clips_are_thinned_before_they_are_aligned_and_a_note_says_so(judge, monkeypatch):
    rows = judge.rows[:4]
    whole = JointJudge(judge.joints.codec, [row.codes for row in rows])
    monkeypatch.setattr("motion_llm.evaluation.joint_judge.MOST_FRAMES", 20)
    thinned = Judge(rows, judge.codebook_size, None, None, 0, JointJudge(whole.codec, [row.codes for row in rows]))
    assert all(len(thinned.joints._poses(tuple(row.codes))) <= 20 < len(whole._poses(tuple(row.codes)))
               for row in rows)
    other = judge.rows[-1].codes
    assert thinned.joints.error(other, 0) == pytest.approx(whole.error(other, 0), rel=0.3)
    assert thinned.joints.error(rows[1].codes, 1) == 0
    assert "clips have more than" in deviations(thinned, [[row.codes] for row in rows])[0]
